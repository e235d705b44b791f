//! Whether a test file has the shape the unified test format prescribes.
//!
//! The rules are those of the specification's JSON schema, written as tables: a file that breaks one
//! of them is rejected before anything of it is run.

use serde_json::Value;

/// The newest version of the format that is understood.
pub const NEWEST: (u64, u64) = (1, 28);

/// What a value must look like.
enum Shape {
    Any,
    Text,
    Bool,
    True,
    Integer,
    /// A document of any content.
    Document,
    /// `1.2` or `1.2.3`.
    Version,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// An array of at least so many elements of one shape.
    List(usize, &'static Shape),
    /// A document with these fields and no others.
    Record(&'static [Field]),
    /// A document with exactly one of these fields.
    Choice(&'static [Field]),
    /// A document with at least one of these fields, and no others.
    Some(&'static [Field]),
    /// A document of at least one field, of any content.
    NotEmpty,
    /// Whatever is of one of these shapes.
    Either(&'static [Shape]),
    /// A record that a rule of its own looks at as well.
    Ruled(&'static [Field], fn(&Value) -> Result<(), String>),
    /// `kmsProviders`.
    Providers,
}

struct Field {
    name: &'static str,
    required: bool,
    shape: Shape,
}

const fn must(name: &'static str, shape: Shape) -> Field {
    Field { name, required: true, shape }
}

const fn may(name: &'static str, shape: Shape) -> Field {
    Field { name, required: false, shape }
}

/// Checks a whole file.
///
/// # Errors
/// Where and why it is not a test file of a known version.
pub fn check(file: &Value) -> Result<(), String> {
    let version = file.get("schemaVersion").ok_or("schemaVersion is missing")?;
    verify(version, &Shape::Version, "schemaVersion")?;
    let mut numbers = version.as_str().unwrap_or("").split('.').map(|n| n.parse::<u64>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    match (major, minor) {
        (Some(major), Some(minor)) if major == NEWEST.0 && minor <= NEWEST.1 => {}
        _ => return Err(format!("schemaVersion {version} is not supported")),
    }
    verify(file, &FILE, "")
}

fn verify(value: &Value, shape: &Shape, at: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        let place = if at.is_empty() { "the file" } else { at };
        Err(format!("{place} is not {what}"))
    };
    match shape {
        Shape::Any => Ok(()),
        Shape::Text if value.is_string() => Ok(()),
        Shape::Text => wrong("a string"),
        Shape::Bool if value.is_boolean() => Ok(()),
        Shape::Bool => wrong("a boolean"),
        Shape::True if *value == Value::Bool(true) => Ok(()),
        Shape::True => wrong("true"),
        Shape::Integer if crate::json::integer(value).is_some() => Ok(()),
        Shape::Integer => wrong("an integer"),
        Shape::Document if value.is_object() => Ok(()),
        Shape::Document => wrong("a document"),
        Shape::NotEmpty if value.as_object().is_some_and(|object| !object.is_empty()) => Ok(()),
        Shape::NotEmpty => wrong("a document with a field"),
        Shape::Version => {
            let is_number =
                |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
            let parts: Vec<&str> = value.as_str().unwrap_or("").split('.').collect();
            match (2..=3).contains(&parts.len()) && parts.iter().all(|part| is_number(part)) {
                true => Ok(()),
                false => wrong("a version"),
            }
        }
        Shape::OneOf(names) => match value.as_str() {
            Some(name) if names.contains(&name) => Ok(()),
            _ => wrong(&format!("one of {}", names.join(", "))),
        },
        Shape::List(least, shape) => {
            let Some(elements) = value.as_array() else { return wrong("an array") };
            if elements.len() < *least {
                return wrong("an array with an element");
            }
            elements
                .iter()
                .enumerate()
                .try_for_each(|(index, element)| verify(element, shape, &format!("{at}[{index}]")))
        }
        Shape::Record(fields) => record(value, fields, at).map(|_| ()),
        Shape::Choice(fields) => match record(value, fields, at)? {
            1 => Ok(()),
            _ => wrong("a document of one field"),
        },
        Shape::Some(fields) => match record(value, fields, at)? {
            0 => wrong("a document with a field"),
            _ => Ok(()),
        },
        Shape::Ruled(fields, rule) => {
            record(value, fields, at)?;
            rule(value).map_err(|error| format!("{at}: {error}"))
        }
        Shape::Either(shapes) => {
            let mut last = Ok(());
            for shape in *shapes {
                last = verify(value, shape, at);
                if last.is_ok() {
                    break;
                }
            }
            last
        }
        Shape::Providers => providers(value, at),
    }
}

/// Checks a document's fields and returns how many there are.
fn record(value: &Value, fields: &[Field], at: &str) -> Result<usize, String> {
    let Some(object) = value.as_object() else { return Err(format!("{at} is not a document")) };
    for (name, value) in object {
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            return Err(format!("{at}.{name} is not known"));
        };
        let place = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        verify(value, &field.shape, &place)?;
    }
    match fields.iter().find(|field| field.required && !object.contains_key(field.name)) {
        Some(missing) => Err(format!("{at}.{} is missing", missing.name)),
        None => Ok(object.len()),
    }
}

/// Each provider, by its name or by `name:suffix`, has credentials of its own.
fn providers(value: &Value, at: &str) -> Result<(), String> {
    let Some(object) = value.as_object() else { return Err(format!("{at} is not a document")) };
    for (name, provider) in object {
        let (kind, suffix) = name.split_once(':').unwrap_or((name, "x"));
        let word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let shape = match kind {
            "aws" => &AWS,
            "azure" => &AZURE,
            "gcp" => &GCP,
            "kmip" => &KMIP,
            "local" => &LOCAL,
            _ => return Err(format!("{at}.{name} is not known")),
        };
        if !word(suffix) {
            return Err(format!("{at}.{name} is not known"));
        }
        verify(provider, shape, &format!("{at}.{name}"))?;
    }
    Ok(())
}

const PLACEHOLDER: Shape = Shape::Record(&[must("$$placeholder", Shape::Any)]);
const SECRET: Shape = Shape::Either(&[Shape::Text, PLACEHOLDER]);
static AWS: Shape = Shape::Record(&[
    may("accessKeyId", SECRET),
    may("secretAccessKey", SECRET),
    may("sessionToken", SECRET),
]);
static AZURE: Shape = Shape::Either(&[
    Shape::Record(&[must("accessToken", SECRET)]),
    Shape::Record(&[
        may("tenantId", SECRET),
        may("clientId", SECRET),
        may("clientSecret", SECRET),
        may("identityPlatformEndpoint", SECRET),
    ]),
]);
static GCP: Shape = Shape::Either(&[
    Shape::Record(&[must("accessToken", SECRET)]),
    Shape::Record(&[may("email", SECRET), may("privateKey", SECRET), may("endpoint", SECRET)]),
]);
static KMIP: Shape = Shape::Record(&[may("endpoint", SECRET)]);
static LOCAL: Shape = Shape::Record(&[may("key", SECRET)]);

static FILE: Shape = Shape::Record(&[
    must("description", Shape::Text),
    must("schemaVersion", Shape::Version),
    may("runOnRequirements", Shape::List(1, &REQUIREMENT)),
    may("createEntities", Shape::List(1, &ENTITY)),
    may("initialData", Shape::List(1, &COLLECTION_DATA)),
    must("tests", Shape::List(1, &TEST)),
    may("_yamlAnchors", Shape::Document),
]);

static REQUIREMENT: Shape = Shape::Some(&[
    may("maxServerVersion", Shape::Version),
    may("minServerVersion", Shape::Version),
    may("topologies", Shape::List(1, &TOPOLOGY)),
    may("serverless", Shape::OneOf(&["require", "forbid", "allow"])),
    may("serverParameters", Shape::NotEmpty),
    may("auth", Shape::Bool),
    may("authMechanism", Shape::Text),
    may(
        "csfle",
        Shape::Either(&[
            Shape::Bool,
            Shape::Some(&[may("minLibmongocryptVersion", Shape::Version)]),
        ]),
    ),
]);
static TOPOLOGY: Shape =
    Shape::OneOf(&["single", "replicaset", "sharded", "sharded-replicaset", "load-balanced"]);

static ENTITY: Shape = Shape::Choice(&[
    may(
        "client",
        Shape::Record(&[
            must("id", Shape::Text),
            may("uriOptions", Shape::Document),
            may("useMultipleMongoses", Shape::Bool),
            may("observeEvents", Shape::List(1, &OBSERVED)),
            may("ignoreCommandMonitoringEvents", Shape::List(1, &TEXT)),
            may("storeEventsAsEntities", Shape::List(1, &STORED)),
            may("observeLogMessages", Shape::Some(&LOG_LEVELS)),
            may(
                "observeTracingMessages",
                Shape::Record(&[may("enableCommandPayload", Shape::Bool)]),
            ),
            may("serverApi", SERVER_API),
            may("observeSensitiveCommands", Shape::Bool),
            may("autoEncryptOpts", AUTO_ENCRYPTION),
            may("awaitMinPoolSizeMS", Shape::Integer),
        ]),
    ),
    may(
        "clientEncryption",
        Shape::Record(&[
            must("id", Shape::Text),
            must(
                "clientEncryptionOpts",
                Shape::Record(&[
                    must("keyVaultClient", Shape::Text),
                    must("keyVaultNamespace", Shape::Text),
                    must("kmsProviders", Shape::Providers),
                    may("keyExpirationMS", Shape::Integer),
                ]),
            ),
        ]),
    ),
    may(
        "database",
        Shape::Record(&[
            must("id", Shape::Text),
            must("client", Shape::Text),
            must("databaseName", Shape::Text),
            may("databaseOptions", OPTIONS),
        ]),
    ),
    may(
        "collection",
        Shape::Record(&[
            must("id", Shape::Text),
            must("database", Shape::Text),
            must("collectionName", Shape::Text),
            may("collectionOptions", OPTIONS),
        ]),
    ),
    may(
        "session",
        Shape::Record(&[
            must("id", Shape::Text),
            must("client", Shape::Text),
            may("sessionOptions", Shape::Document),
        ]),
    ),
    may(
        "bucket",
        Shape::Record(&[
            must("id", Shape::Text),
            must("database", Shape::Text),
            may("bucketOptions", Shape::Document),
        ]),
    ),
    may("thread", Shape::Record(&[must("id", Shape::Text)])),
]);

static TEXT: Shape = Shape::Text;
static ANY_DOCUMENT: Shape = Shape::Document;
static OBSERVED: Shape = Shape::OneOf(&[
    "commandStartedEvent",
    "commandSucceededEvent",
    "commandFailedEvent",
    "poolCreatedEvent",
    "poolReadyEvent",
    "poolClearedEvent",
    "poolClosedEvent",
    "connectionCreatedEvent",
    "connectionReadyEvent",
    "connectionClosedEvent",
    "connectionCheckOutStartedEvent",
    "connectionCheckOutFailedEvent",
    "connectionCheckedOutEvent",
    "connectionCheckedInEvent",
    "serverDescriptionChangedEvent",
    "topologyDescriptionChangedEvent",
    "topologyOpeningEvent",
    "topologyClosedEvent",
    // The schema's list lacks these; the specification's text and its tests have them.
    "serverHeartbeatStartedEvent",
    "serverHeartbeatSucceededEvent",
    "serverHeartbeatFailedEvent",
]);
static STORED: Shape =
    Shape::Record(&[must("id", Shape::Text), must("events", Shape::List(1, &STORED_EVENT))]);
static STORED_EVENT: Shape = Shape::OneOf(&[
    "PoolCreatedEvent",
    "PoolReadyEvent",
    "PoolClearedEvent",
    "PoolClosedEvent",
    "ConnectionCreatedEvent",
    "ConnectionReadyEvent",
    "ConnectionClosedEvent",
    "ConnectionCheckOutStartedEvent",
    "ConnectionCheckOutFailedEvent",
    "ConnectionCheckedOutEvent",
    "ConnectionCheckedInEvent",
    "CommandStartedEvent",
    "CommandSucceededEvent",
    "CommandFailedEvent",
    "ServerDescriptionChangedEvent",
    "TopologyDescriptionChangedEvent",
]);

const LEVEL: Shape = Shape::OneOf(&[
    "emergency",
    "alert",
    "critical",
    "error",
    "warning",
    "notice",
    "info",
    "debug",
    "trace",
]);
static LOG_LEVELS: [Field; 4] = [
    may("command", LEVEL),
    may("topology", LEVEL),
    may("serverSelection", LEVEL),
    may("connection", LEVEL),
];

const SERVER_API: Shape = Shape::Record(&[
    must("version", Shape::Text),
    may("strict", Shape::Bool),
    may("deprecationErrors", Shape::Bool),
]);
const AUTO_ENCRYPTION: Shape = Shape::Record(&[
    must("keyVaultNamespace", Shape::Text),
    may("bypassAutoEncryption", Shape::Bool),
    must("kmsProviders", Shape::Providers),
    may("schemaMap", Shape::Document),
    may("extraOptions", Shape::Document),
    may("encryptedFieldsMap", Shape::Document),
    may("bypassQueryAnalysis", Shape::Bool),
    may("keyExpirationMS", Shape::Integer),
]);
const OPTIONS: Shape = Shape::Record(&[
    may("readConcern", Shape::Document),
    may("readPreference", Shape::Document),
    may("writeConcern", Shape::Document),
    may("timeoutMS", Shape::Integer),
]);

static COLLECTION_DATA: Shape = Shape::Ruled(
    &[
        must("collectionName", Shape::Text),
        must("databaseName", Shape::Text),
        may("createOptions", Shape::Document),
        must("documents", Shape::List(0, &ANY_DOCUMENT)),
    ],
    |data| match data.get("createOptions").is_some_and(|o| o.get("writeConcern").is_some()) {
        true => Err("createOptions has a writeConcern".to_owned()),
        false => Ok(()),
    },
);

static TEST: Shape = Shape::Record(&[
    must("description", Shape::Text),
    may("runOnRequirements", Shape::List(1, &REQUIREMENT)),
    may("skipReason", Shape::Text),
    must("operations", Shape::List(0, &OPERATION)),
    may("expectEvents", Shape::List(1, &EVENTS)),
    may("expectLogMessages", Shape::List(1, &LOGS)),
    may("expectTracingMessages", Shape::List(1, &SPANS)),
    may("outcome", Shape::List(1, &COLLECTION_DATA)),
]);

static OPERATION: Shape = Shape::Ruled(
    &[
        must("name", Shape::Text),
        must("object", Shape::Text),
        may("arguments", Shape::Document),
        may("ignoreResultAndError", Shape::Bool),
        may("expectError", ERROR),
        may("expectResult", Shape::Any),
        may("saveResultAsEntity", Shape::Text),
    ],
    |operation| {
        let has = |name: &str| operation.get(name).is_some();
        for (one, other) in [
            ("expectError", "expectResult"),
            ("expectError", "saveResultAsEntity"),
            ("ignoreResultAndError", "expectResult"),
            ("ignoreResultAndError", "expectError"),
            ("ignoreResultAndError", "saveResultAsEntity"),
        ] {
            if has(one) && has(other) {
                return Err(format!("{one} and {other} exclude each other"));
            }
        }
        Ok(())
    },
);

const ERROR: Shape = Shape::Some(&[
    may("isError", Shape::True),
    may("isClientError", Shape::Bool),
    may("isTimeoutError", Shape::Bool),
    may("errorContains", Shape::Text),
    may("errorCode", Shape::Integer),
    may("errorCodeName", Shape::Text),
    may("errorLabelsContain", Shape::List(1, &TEXT)),
    may("errorLabelsOmit", Shape::List(1, &TEXT)),
    may("writeErrors", Shape::Document),
    may("writeConcernErrors", Shape::List(0, &ANY_DOCUMENT)),
    may("errorResponse", Shape::Document),
    may("expectResult", Shape::Any),
]);

static EVENTS: Shape = Shape::Ruled(
    &[
        must("client", Shape::Text),
        may("eventType", Shape::OneOf(&["command", "cmap", "sdam"])),
        must("events", Shape::List(0, &Shape::Any)),
        may("ignoreExtraEvents", Shape::Bool),
    ],
    |events| {
        let shape = match events.get("eventType").and_then(Value::as_str) {
            Some("cmap") => &CMAP_EVENT,
            Some("sdam") => &SDAM_EVENT,
            _ => &COMMAND_EVENT,
        };
        let all = crate::json::list(events, "events");
        all.iter().try_for_each(|event| verify(event, shape, "events"))
    },
);

static COMMAND_EVENT: Shape = Shape::Choice(&[
    may(
        "commandStartedEvent",
        Shape::Record(&[
            may("command", Shape::Document),
            may("commandName", Shape::Text),
            may("databaseName", Shape::Text),
            may("hasServiceId", Shape::Bool),
            may("hasServerConnectionId", Shape::Bool),
        ]),
    ),
    may(
        "commandSucceededEvent",
        Shape::Record(&[
            may("reply", Shape::Document),
            may("commandName", Shape::Text),
            may("databaseName", Shape::Text),
            may("hasServiceId", Shape::Bool),
            may("hasServerConnectionId", Shape::Bool),
        ]),
    ),
    may(
        "commandFailedEvent",
        Shape::Record(&[
            may("commandName", Shape::Text),
            may("databaseName", Shape::Text),
            may("hasServiceId", Shape::Bool),
            may("hasServerConnectionId", Shape::Bool),
        ]),
    ),
]);

const EMPTY: Shape = Shape::Record(&[]);
static CMAP_EVENT: Shape = Shape::Choice(&[
    may("poolCreatedEvent", EMPTY),
    may("poolReadyEvent", EMPTY),
    may(
        "poolClearedEvent",
        Shape::Record(&[
            may("hasServiceId", Shape::Bool),
            may("interruptInUseConnections", Shape::Bool),
        ]),
    ),
    may("poolClosedEvent", EMPTY),
    may("connectionCreatedEvent", EMPTY),
    may("connectionReadyEvent", EMPTY),
    may("connectionClosedEvent", Shape::Record(&[may("reason", Shape::Text)])),
    may("connectionCheckOutStartedEvent", EMPTY),
    may("connectionCheckOutFailedEvent", Shape::Record(&[may("reason", Shape::Text)])),
    may("connectionCheckedOutEvent", EMPTY),
    may("connectionCheckedInEvent", EMPTY),
]);

const SERVER: Shape = Shape::Record(&[may(
    "type",
    Shape::OneOf(&[
        "Standalone",
        "Mongos",
        "PossiblePrimary",
        "RSPrimary",
        "RSSecondary",
        "RSOther",
        "RSArbiter",
        "RSGhost",
        "LoadBalancer",
        "Unknown",
    ]),
)]);
const DEPLOYMENT: Shape = Shape::Record(&[may(
    "type",
    Shape::OneOf(&[
        "Single",
        "Unknown",
        "ReplicaSetNoPrimary",
        "ReplicaSetWithPrimary",
        "Sharded",
        "LoadBalanced",
    ]),
)]);
const HEARTBEAT: Shape = Shape::Record(&[may("awaited", Shape::Bool)]);
static SDAM_EVENT: Shape = Shape::Choice(&[
    may(
        "serverDescriptionChangedEvent",
        Shape::Record(&[may("previousDescription", SERVER), may("newDescription", SERVER)]),
    ),
    may(
        "topologyDescriptionChangedEvent",
        Shape::Record(&[may("previousDescription", DEPLOYMENT), may("newDescription", DEPLOYMENT)]),
    ),
    may("serverHeartbeatStartedEvent", HEARTBEAT),
    may("serverHeartbeatSucceededEvent", HEARTBEAT),
    may("serverHeartbeatFailedEvent", HEARTBEAT),
    may("topologyOpeningEvent", EMPTY),
    may("topologyClosedEvent", EMPTY),
]);

static LOGS: Shape = Shape::Record(&[
    must("client", Shape::Text),
    must("messages", Shape::List(0, &LOG)),
    may("ignoreExtraMessages", Shape::Bool),
    may("ignoreMessages", Shape::List(0, &LOG)),
]);
static LOG: Shape = Shape::Record(&[
    must("level", LEVEL),
    must("component", Shape::OneOf(&["command", "topology", "serverSelection", "connection"])),
    must("data", Shape::Document),
    may("failureIsRedacted", Shape::Bool),
]);

static SPANS: Shape = Shape::Record(&[
    must("client", Shape::Text),
    may("ignoreExtraSpans", Shape::Bool),
    must("spans", Shape::List(1, &SPAN)),
]);
static SPAN: Shape = Shape::Record(&[
    must("name", Shape::Text),
    must("attributes", Shape::Document),
    may("nested", Shape::List(1, &SPAN)),
]);
