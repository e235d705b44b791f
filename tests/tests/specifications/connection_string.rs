//! Connection strings, URI options, credentials, and what DNS adds to a `mongodb+srv://` string.

use libtest_mimic::Trial;
use serde_json::{Value, json};
use stepdown_driver::options::{Acknowledgment, ClientOptions, Credential, ReadConcern, Tls};
use stepdown_driver::uri::{ConnectionString, DEFAULT_PORT, ServerAddress};

use crate::concern;
use crate::discovery::TestFile;
use crate::dns::Resolver;
use crate::json::{list, same, text};
use crate::report::Report;

/// The cases of a file of connection strings.
pub fn plain(file: TestFile, report: &Report) -> Vec<Trial> {
    each(&file, report, |_, case| Ok(Box::new(move || run_plain(&case))))
}

/// The cases of a file of credentials.
pub fn credentials(file: TestFile, report: &Report) -> Vec<Trial> {
    each(&file, report, |all, case| match contradicted(all, &case) {
        Some(reason) => Err(reason),
        None => Ok(Box::new(move || run_credential(&case))),
    })
}

/// The one case of a file about DNS.
pub fn seedlist(file: TestFile, report: &Report) -> Trial {
    let json = file.json();
    let Some(resolver) = Resolver::near(&file.path) else {
        return crate::ignored(format!(
            "{}::resolution (its DNS records are not listed)",
            file.name
        ));
    };
    crate::case(&file, "resolution", report, move || run_seedlist(&json, &resolver))
}

/// What runs a case.
pub type Run = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// One test for each element of `tests`, ignored where there is a reason instead.
pub fn each(
    file: &TestFile,
    report: &Report,
    make: impl Fn(&[Value], Value) -> Result<Run, &'static str>,
) -> Vec<Trial> {
    let json = file.json();
    let all = list(&json, "tests");
    let trials = all.iter().enumerate().map(|(number, case)| {
        let description = text(case, "description").unwrap_or("");
        let earlier = all[..number].iter();
        let repeated = earlier.filter(|other| text(other, "description") == Some(description));
        let name = match repeated.count() {
            0 if !description.is_empty() => description.to_owned(),
            _ => format!("{description} #{number}"),
        };
        match make(all, case.clone()) {
            Ok(run) => crate::case(file, &name, report, run),
            Err(reason) => crate::ignored(format!("{}::{name} ({reason})", file.name)),
        }
    });
    trials.collect()
}

/// Why a case is not run: since 2025 the authentication specification refuses AWS secrets in a
/// connection string, and has cases that say so; some older cases in the same file still want them
/// accepted. Both cannot hold.
fn contradicted(all: &[Value], case: &Value) -> Option<&'static str> {
    let uri = |case: &Value| text(case, "uri").unwrap_or("").to_owned();
    let with_secrets = |case: &Value| {
        let uri = uri(case);
        uri.contains("MONGODB-AWS") && uri.contains('@')
    };
    let valid = |case: &Value| case.get("valid").and_then(Value::as_bool);
    let newer = |other: &Value| {
        with_secrets(other)
            && valid(other) == Some(false)
            && ConnectionString::parse(&uri(other)).is_ok_and(|parsed| parsed.password().is_some())
    };
    (with_secrets(case) && valid(case) == Some(true) && all.iter().any(newer))
        .then_some("contradicted by a newer case of the same file")
}

fn run_plain(case: &Value) -> Result<(), String> {
    let uri = text(case, "uri").ok_or("no uri")?;
    let parsed = ConnectionString::parse(uri);
    let is_concern = case.get("readConcern").or(case.get("writeConcern")).is_some();
    if case.get("valid").and_then(Value::as_bool) == Some(false) {
        // The tests of concerns leave open whether this is an error or a warning.
        if is_concern && parsed.as_ref().is_ok_and(|parsed| !parsed.warnings().is_empty()) {
            return Ok(());
        }
        // What is wrong may show only when the options are put to use.
        let resolved = match parsed {
            Ok(parsed) if parsed.srv_name().is_none() => parsed.into_options().is_ok(),
            parsed => parsed.is_ok(),
        };
        return if resolved { Err("an error was expected".to_owned()) } else { Ok(()) };
    }
    let parsed = parsed.map_err(|error| error.to_string())?;
    if let Some(expected) = case.get("warning").and_then(Value::as_bool)
        && expected == parsed.warnings().is_empty()
    {
        return Err(format!("warnings: expected {expected}, found {:?}", parsed.warnings()));
    }
    if let Some(expected) = case.get("hosts").and_then(Value::as_array) {
        check_hosts(expected, parsed.hosts())?;
    }
    if let Some(expected) = case.get("auth").filter(|auth| !auth.is_null()) {
        let expected_of = |key: &str| expected.get(key).cloned().unwrap_or_default();
        same("username", &expected_of("username"), &json!(parsed.username()))?;
        same("password", &expected_of("password"), &json!(parsed.password()))?;
        same("db", &expected_of("db"), &json!(parsed.database()))?;
    }
    if let Some(expected) = case.get("readConcern") {
        let found = parsed.options().read_concern.as_ref().map(ReadConcern::to_document);
        same("readConcern", expected, &json!(found.unwrap_or_default()))?;
    }
    if let Some(expected) = case.get("writeConcern") {
        let found = parsed.options().write_concern.clone().unwrap_or_default();
        if concern::write_concern(expected)? != found {
            return Err(format!("writeConcern: expected {expected}, found {found:?}"));
        }
    }
    let options = case.get("options").and_then(Value::as_object).into_iter().flatten();
    for (name, expected) in options {
        check_option(&parsed, name, expected)?;
    }
    Ok(())
}

fn check_hosts(expected: &[Value], found: &[ServerAddress]) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("hosts: expected {expected:?}, found {found:?}"));
    }
    for (expected, found) in expected.iter().zip(found) {
        let kind = text(expected, "type").unwrap_or("hostname");
        let found_kind = match found.host() {
            path if found.port().is_none() && !path.is_empty() => "unix",
            host if host.contains(':') => "ip_literal",
            host if host.parse::<std::net::Ipv4Addr>().is_ok() => "ipv4",
            _ => "hostname",
        };
        let mut host = text(expected, "host").unwrap_or("").to_owned();
        let mut port = expected.get("port").and_then(Value::as_u64);
        if kind != "unix" {
            // Host names are kept in lower case.
            host = host.to_ascii_lowercase();
            port = port.or(Some(u64::from(DEFAULT_PORT)));
        }
        if kind != found_kind || host != found.host() || port != found.port().map(u64::from) {
            return Err(format!("host: expected {expected}, found {found_kind} {found}"));
        }
    }
    Ok(())
}

fn run_credential(case: &Value) -> Result<(), String> {
    let uri = text(case, "uri").ok_or("no uri")?;
    let options = ConnectionString::parse(uri).and_then(ConnectionString::into_options);
    if case.get("valid").and_then(Value::as_bool) == Some(false) {
        return match options {
            Ok(_) => Err("an error was expected".to_owned()),
            Err(_) => Ok(()),
        };
    }
    let options = options.map_err(|error| error.to_string())?;
    match (case.get("credential").filter(|value| !value.is_null()), &options.credential) {
        (None, None) => Ok(()),
        (Some(expected), Some(found)) => check_credential(expected, found),
        (expected, found) => Err(format!("expected {expected:?}, found {found:?}")),
    }
}

fn check_credential(expected: &Value, found: &Credential) -> Result<(), String> {
    for (key, expected) in expected.as_object().ok_or("the credential is no document")? {
        let found = match key.as_str() {
            "username" => json!(found.username),
            "password" => json!(found.password),
            "source" => json!(found.source),
            "mechanism" => json!(found.mechanism.map(|mechanism| mechanism.as_str())),
            "mechanism_properties" => json!(found.mechanism_properties),
            other => return Err(format!("unknown property \"{other}\"")),
        };
        same(key, expected, &found)?;
    }
    Ok(())
}

fn run_seedlist(test: &Value, resolver: &Resolver) -> Result<(), String> {
    let uri = text(test, "uri").ok_or("no uri")?;
    let parsed = ConnectionString::parse(uri).and_then(|parsed| {
        let records = parsed.srv_name().map(|name| resolver.resolve(&name)).unwrap_or_default();
        let resolved = parsed.resolve_with(&records, || 0)?;
        resolved.clone().into_options()?;
        Ok(resolved)
    });
    if test.get("error").and_then(Value::as_bool) == Some(true) {
        return match parsed {
            Ok(_) => Err("an error was expected".to_owned()),
            Err(_) => Ok(()),
        };
    }
    let parsed = parsed.map_err(|error| error.to_string())?;
    if let Some(count) = test.get("numSeeds").and_then(Value::as_u64) {
        same("numSeeds", &json!(count), &json!(parsed.hosts().len()))?;
    }
    if test.get("seeds").is_some() {
        let mut expected: Vec<_> = list(test, "seeds").iter().filter_map(Value::as_str).collect();
        expected.sort_unstable();
        let mut found: Vec<_> = parsed.hosts().iter().map(ToString::to_string).collect();
        found.sort_unstable();
        same("seeds", &json!(expected), &json!(found))?;
    }
    let options = test.get("options").and_then(Value::as_object).into_iter().flatten();
    for (name, expected) in options {
        check_option(&parsed, name, expected)?;
    }
    let options = test.get("parsed_options").and_then(Value::as_object).into_iter().flatten();
    for (name, expected) in options {
        let found = match name.as_str() {
            "user" => json!(parsed.username()),
            "password" => json!(parsed.password()),
            "db" | "auth_database" | "defaultDatabase" => json!(parsed.database()),
            other => return Err(format!("unknown parsed option \"{other}\"")),
        };
        same(name, expected, &found)?;
    }
    Ok(())
}

fn check_option(parsed: &ConnectionString, name: &str, expected: &Value) -> Result<(), String> {
    let found = option_json(parsed, &name.to_ascii_lowercase())
        .ok_or_else(|| format!("unknown option \"{name}\""))?;
    same(name, expected, &found)
}

/// The value of an option as the tests write it, taken from the options it became.
fn option_json(parsed: &ConnectionString, name: &str) -> Option<Value> {
    let options: &ClientOptions = parsed.options();
    let millis =
        |duration: Option<std::time::Duration>| json!(duration.map(|d| d.as_millis() as u64));
    let credential = options.credential.as_ref();
    let tls = match &options.tls {
        Some(Tls::Enabled(tls)) => Some(tls.clone()),
        _ => None,
    }
    .unwrap_or_default();
    let preference = options.read_preference();
    let narrowed = preference.options().cloned().unwrap_or_default();
    let write_concern = options.write_concern.clone().unwrap_or_default();
    let proxy = options.proxy.clone().unwrap_or_default();
    Some(match name {
        "appname" => json!(options.app_name),
        "authmechanism" => json!(credential.and_then(|c| c.mechanism).map(|m| m.as_str())),
        "authmechanismproperties" => json!(credential.and_then(|c| c.mechanism_properties.clone())),
        // Without a user there is no credential to hold it.
        "authsource" => match credential {
            Some(credential) => json!(credential.source),
            None => json!(parsed.raw_option("authSource")),
        },
        "compressors" => {
            let names = options.compressors.iter().flatten().map(|compressor| compressor.name());
            json!(names.collect::<Vec<_>>())
        }
        "connecttimeoutms" => millis(options.connect_timeout),
        "directconnection" => json!(options.direct_connection),
        "enableoverloadretargeting" => json!(options.enable_overload_retargeting),
        "heartbeatfrequencyms" => millis(options.heartbeat_freq),
        "journal" => json!(write_concern.journal),
        "loadbalanced" => json!(options.load_balanced),
        "localthresholdms" => millis(options.local_threshold),
        "maxadaptiveretries" => json!(options.max_adaptive_retries),
        "maxconnecting" => json!(options.max_connecting),
        "maxidletimems" => millis(options.max_idle_time),
        "maxpoolsize" => json!(options.max_pool_size),
        "maxstalenessseconds" => json!(narrowed.max_staleness.map(|staleness| staleness.as_secs())),
        "minpoolsize" => json!(options.min_pool_size),
        "proxyhost" => json!(proxy.host),
        "proxyport" => json!(proxy.port),
        "proxyusername" => json!(proxy.username),
        "proxypassword" => json!(proxy.password),
        "readconcernlevel" => json!(options.read_concern.as_ref().map(|c| c.level.as_str())),
        "readpreference" => json!(preference.mode().as_str()),
        "readpreferencetags" => json!(narrowed.tag_sets),
        "replicaset" => json!(options.repl_set_name),
        "retryreads" => json!(options.retry_reads),
        "retrywrites" => json!(options.retry_writes),
        "servermonitoringmode" => {
            json!(options.server_monitoring_mode.map(|mode| mode.to_string()))
        }
        "serverselectiontimeoutms" => millis(options.server_selection_timeout),
        "serverselectiontryonce" => json!(options.server_selection_try_once),
        "sockettimeoutms" => millis(options.socket_timeout),
        "srvmaxhosts" => json!(options.srv_max_hosts),
        "srvservicename" => json!(options.srv_service_name),
        "timeoutms" => millis(options.timeout),
        "tls" | "ssl" => {
            json!(options.tls.as_ref().map(|tls| matches!(tls, Tls::Enabled(_))))
        }
        "tlsallowinvalidcertificates" => json!(tls.allow_invalid_certificates),
        "tlsallowinvalidhostnames" => json!(tls.allow_invalid_hostnames),
        "tlscafile" => json!(tls.ca_file_path),
        "tlscertificatekeyfile" => json!(tls.cert_key_file_path),
        "tlscertificatekeyfilepassword" => json!(tls.tls_certificate_key_file_password),
        "tlsdisablecertificaterevocationcheck" => json!(tls.disable_certificate_revocation_check),
        "tlsdisableocspendpointcheck" => json!(tls.disable_ocsp_endpoint_check),
        "tlsinsecure" => json!(tls.insecure),
        "w" => match write_concern.w {
            Some(Acknowledgment::Nodes(nodes)) => json!(nodes),
            Some(Acknowledgment::Majority) => json!("majority"),
            Some(Acknowledgment::Custom(name)) => json!(name),
            _ => Value::Null,
        },
        "waitqueuetimeoutms" => millis(options.wait_queue_timeout),
        "wtimeoutms" => millis(write_concern.w_timeout),
        "zlibcompressionlevel" => {
            let levels =
                options.compressors.iter().flatten().filter_map(|compressor| match compressor {
                    stepdown_driver::options::Compressor::Zlib { level } => *level,
                    _ => None,
                });
            json!(levels.max())
        }
        _ => return None,
    })
}
