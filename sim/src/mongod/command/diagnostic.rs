//! What people and drivers ask a server about itself.

use bson::{Bson, DateTime, Document, RawBsonRef, RawDocumentBuf, doc, rawdoc};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::{CommandSpec, Gate};
use super::write_concern::W;
use crate::mongod::Mongod;
use crate::mongod::error::CommandError;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["buildInfo", "buildinfo"], false, build_info),
    CommandSpec::anywhere(&["getCmdLineOpts"], true, get_cmd_line_opts),
    CommandSpec::anywhere(&["getDefaultRWConcern"], true, get_default_rw_concern),
    CommandSpec::anywhere(&["getLog"], true, get_log),
    CommandSpec::anywhere(&["hostInfo"], true, host_info),
    CommandSpec::anywhere(&["listCommands"], false, list_commands),
    CommandSpec::anywhere(&["ping"], false, ping),
    CommandSpec::anywhere(&["whatsmyuri"], false, whats_my_uri),
];

fn ping(_: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn build_info(server: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    let version = server.options.version.text();
    let mut numbers: Vec<Bson> =
        version.split('.').filter_map(|part| part.parse::<i32>().ok()).map(Bson::Int32).collect();
    numbers.push(Bson::Int32(0));
    Outcome::document(&doc! {
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
    })
}

fn get_cmd_line_opts(
    server: &mut Mongod,
    _: Instant,
    _: &Operation,
) -> Result<Outcome, CommandError> {
    let host = &server.options.host;
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "27017"));
    let mut argv: Vec<Bson> = vec!["mongod".into()];
    let mut parsed = doc! {
        "net": { "bindIp": name, "port": port.parse::<i32>().unwrap_or(27_017) },
    };
    argv.extend(["--bind_ip".into(), name.into(), "--port".into(), port.into()]);
    if let Some(option) = &server.options.repl_set {
        let mut text = option.name.to_string();
        for (index, seed) in option.seeds.iter().enumerate() {
            text.push(if index == 0 { '/' } else { ',' });
            text.push_str(seed);
        }
        argv.extend(["--replSet".into(), Bson::from(text.as_str())]);
        parsed.insert("replication", doc! { "replSet": text });
    }
    if server.options.auth {
        argv.push("--auth".into());
        parsed.insert("security", doc! { "authorization": "enabled" });
    }
    argv.extend(["--setParameter".into(), "enableTestCommands=1".into()]);
    parsed.insert("setParameter", doc! { "enableTestCommands": "1" });
    Outcome::document(&doc! { "argv": argv, "parsed": parsed })
}

fn get_default_rw_concern(
    server: &mut Mongod,
    now: Instant,
    _: &Operation,
) -> Result<Outcome, CommandError> {
    let concern = server.default_write_concern();
    let mut reply = doc! { "defaultReadConcern": { "level": "local" } };
    // Measured: an implicit w: 1 is not shown.
    if concern.w == W::Majority {
        reply.insert("defaultWriteConcern", doc! { "w": "majority", "wtimeout": 0 });
    }
    reply.insert("defaultWriteConcernSource", "implicit");
    reply.insert("defaultReadConcernSource", "implicit");
    reply.insert("localUpdateWallClockTime", DateTime::from_millis(server.wall_millis(now)));
    Outcome::document(&reply)
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
        _ => Err(CommandError::new(
            crate::mongod::error::TYPE_MISMATCH,
            "Argument to getLog must be of type String",
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
