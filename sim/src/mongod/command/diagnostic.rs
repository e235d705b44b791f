//! What people and drivers ask a server about itself.

use bson::{Bson, DateTime, Document, RawBsonRef, RawDocumentBuf, doc, rawdoc};
use stepdown_driver::Instant;

use super::arguments::each_argument;
use super::operation::{Operation, Outcome};
use super::spec::{CommandSpec, Gate};
use crate::mongod::Mongod;
use crate::mongod::error::CommandError;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["buildInfo", "buildinfo"], false, build_info),
    CommandSpec::anywhere(&["getCmdLineOpts"], true, get_cmd_line_opts),
    CommandSpec::anywhere(&["getLog"], true, get_log),
    CommandSpec::anywhere(&["hostInfo"], true, host_info),
    CommandSpec::anywhere(&["listCommands"], false, list_commands),
    CommandSpec::anywhere(&["ping"], false, ping),
    CommandSpec::anywhere(&["whatsmyuri"], false, whats_my_uri),
];

fn ping(_: &mut Mongod, _: Instant, operation: &Operation) -> Result<Outcome, CommandError> {
    each_argument("ping", &operation.body, |_, _| Ok(false))?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn build_info(server: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    Outcome::document(&server.build_information())
}

/// What `buildInfo` says of a release.
pub(crate) fn build_information(release: crate::mongod::ServerVersion) -> Document {
    let version = release.text();
    let mut numbers: Vec<Bson> =
        version.split('.').filter_map(|part| part.parse::<i32>().ok()).map(Bson::Int32).collect();
    numbers.push(Bson::Int32(0));
    doc! {
        "version": version,
        "gitVersion": "stepdown",
        "modules": [],
        "allocator": "system",
        "javascriptEngine": "none",
        "sysInfo": "deprecated",
        "versionArray": numbers,
        "openssl": {},
        "buildEnvironment": {},
        "bits": 64,
        "debug": false,
        "maxBsonObjectSize": super::hello::BSON_OBJECT_SIZE_MAX,
        "storageEngines": ["stepdown"],
    }
}

fn get_cmd_line_opts(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    each_argument("getCmdLineOpts", &operation.body, |_, _| Ok(false))?;
    let host = &server.options.host;
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "27017"));
    let mut argv: Vec<Bson> = vec!["mongod".into()];
    if let Some(option) = &server.options.repl_set {
        argv.extend(["--replSet".into(), replica_set_text(option).into()]);
    }
    argv.extend(["--bind_ip".into(), name.into(), "--port".into(), port.into()]);
    if server.options.auth {
        argv.push("--auth".into());
    }
    argv.extend(["--setParameter".into(), "enableTestCommands=1".into()]);
    Outcome::document(&doc! { "argv": argv, "parsed": server.parsed_options() })
}

/// `--replSet`.
fn replica_set_text(option: &crate::mongod::ReplSetOption) -> String {
    let mut text = option.name.to_string();
    for (index, seed) in option.seeds.iter().enumerate() {
        text.push(if index == 0 { '/' } else { ',' });
        text.push_str(seed);
    }
    text
}

impl Mongod {
    /// The options of the command line, as a configuration file would name them.
    pub(crate) fn parsed_options(&self) -> bson::Document {
        let host = &self.options.host;
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "27017"));
        let mut parsed = doc! {
            "net": { "bindIp": name, "port": port.parse::<i32>().unwrap_or(27_017) },
        };
        if let Some(option) = &self.options.repl_set {
            parsed.insert("replication", doc! { "replSet": replica_set_text(option) });
        }
        if self.options.auth {
            parsed.insert("security", doc! { "authorization": "enabled" });
        }
        parsed.insert("setParameter", doc! { "enableTestCommands": "1" });
        parsed
    }
}

fn get_log(_: &mut Mongod, _: Instant, operation: &Operation) -> Result<Outcome, CommandError> {
    match operation.argument("getLog") {
        Some(RawBsonRef::String("*")) => {
            Outcome::document(&doc! { "names": ["global", "startupWarnings"] })
        }
        Some(RawBsonRef::String("global" | "startupWarnings")) => {
            Outcome::document(&doc! { "totalLinesWritten": 0, "log": [] })
        }
        Some(RawBsonRef::String(other)) => Err(CommandError::new(
            crate::mongod::error::OPERATION_FAILED,
            format!("No log named '{other}'"),
        )),
        other => Err(super::arguments::wrong_type(
            "getLog.getLog",
            other.unwrap_or(RawBsonRef::Null),
            "'string'",
        )),
    }
}

fn host_info(server: &mut Mongod, now: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    Outcome::document(&doc! {
        "system": {
            "currentTime": DateTime::from_millis(server.wall_millis(now)),
            "hostname": &*server.options.host,
            "cpuAddrSize": 64,
            "numCores": 1,
        },
        "os": { "type": "Stepdown", "name": "simulated", "version": env!("CARGO_PKG_VERSION") },
        "extra": {},
    })
}

fn list_commands(_: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    let mut specs: Vec<&CommandSpec> = super::commands().collect();
    specs.sort_by_key(|spec| spec.names[0]);
    let mut commands = Document::new();
    for spec in specs {
        let name = spec.names[0];
        commands.insert(
            name,
            doc! {
                "help": "",
                "requiresAuth": !crate::mongod::auth::needs_nobody(name),
                "secondaryOk": spec.gate == Gate::Always,
                "adminOnly": spec.admin_only,
                "secondaryOverrideOk": spec.gate == Gate::Read,
                "apiVersions": super::stable_api::api_versions(name),
                "deprecatedApiVersions": super::stable_api::deprecated_api_versions(name),
            },
        );
    }
    Outcome::document(&doc! { "commands": commands })
}

fn whats_my_uri(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let remote = server
        .clients
        .get(operation.connection)
        .map_or_else(String::new, |client| client.remote.to_string());
    Ok(Outcome::Reply(rawdoc! { "you": remote }))
}
