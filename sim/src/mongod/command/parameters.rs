//! Server parameters: `getParameter`, `setParameter`.
//!
//! A parameter of a mechanism that is not simulated keeps what it is set to and has no further effect.

use std::collections::BTreeMap;

use bson::{Bson, Document, RawBsonRef, doc};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::Mongod;
use crate::mongod::error::{
    BAD_VALUE, CommandError, ILLEGAL_OPERATION, INVALID_OPTIONS,
    UNKNOWN_FEATURE_COMPATIBILITY_VERSION,
};
use crate::mongod::query::value::ValueRef;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["getParameter"], true, get_parameter),
    CommandSpec::anywhere(&["setParameter"], true, set_parameter),
];

/// The parameters of one process that were changed.
#[derive(Debug, Default)]
pub(crate) struct Parameters(BTreeMap<&'static str, Value>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Bool(bool),
    Int(i64),
    Double(f64),
}

/// A parameter, its default, and when it may be set.
struct Parameter {
    name: &'static str,
    default: Value,
    at_runtime: bool,
    at_startup: bool,
}

const fn runtime(name: &'static str, default: Value) -> Parameter {
    Parameter { name, default, at_runtime: true, at_startup: true }
}

const fn startup(name: &'static str, default: Value) -> Parameter {
    Parameter { name, default, at_runtime: false, at_startup: true }
}

const fn fixed(name: &'static str, default: Value) -> Parameter {
    Parameter { name, default, at_runtime: false, at_startup: false }
}

/// In the server's order, which is by name; two more are worked out when they are asked for.
const PARAMETERS: &[Parameter] = &[
    startup("KeysRotationIntervalSec", Value::Int(7_776_000)),
    startup("TransactionRecordMinimumLifetimeMinutes", Value::Int(30)),
    startup("acceptApiVersion2", Value::Bool(false)),
    runtime("allowDiskUseByDefault", Value::Bool(true)),
    fixed("authSchemaVersion", Value::Int(5)),
    runtime("clientCursorMonitorFrequencySecs", Value::Int(4)),
    runtime("cursorTimeoutMillis", Value::Int(600_000)),
    startup("disableLogicalSessionCacheRefresh", Value::Bool(false)),
    startup("disableSplitHorizonIPCheck", Value::Bool(false)),
    runtime("enableElectionHandoff", Value::Bool(true)),
    runtime("enableFlowControl", Value::Bool(true)),
    startup("enableLocalhostAuthBypass", Value::Bool(true)),
    startup("enableTestCommands", Value::Bool(true)),
    startup("expiredChangeStreamPreImageRemovalJobSleepSecs", Value::Int(10)),
    runtime("flowControlTargetLagSeconds", Value::Int(10)),
    runtime("initialSyncTransientErrorRetryPeriodSeconds", Value::Int(86_400)),
    runtime("internalInsertMaxBatchSize", Value::Int(500)),
    runtime("internalQueryExecYieldIterations", Value::Int(1_000)),
    runtime("internalQueryMaxBlockingSortMemoryUsageBytes", Value::Int(104_857_600)),
    runtime("journalCommitInterval", Value::Int(100)),
    startup("localLogicalSessionTimeoutMinutes", Value::Int(30)),
    runtime("logLevel", Value::Int(0)),
    startup("logicalSessionRefreshMillis", Value::Int(300_000)),
    startup("maxAcceptableLogicalClockDriftSecs", Value::Int(31_536_000)),
    runtime("maxIndexBuildMemoryUsageMegabytes", Value::Int(200)),
    startup("maxSessions", Value::Int(1_000_000)),
    startup("maxSyncSourceLagSecs", Value::Int(30)),
    runtime("maxTransactionLockRequestTimeoutMillis", Value::Int(5)),
    runtime("minSnapshotHistoryWindowInSeconds", Value::Int(300)),
    runtime("notablescan", Value::Bool(false)),
    runtime("numInitialSyncAttempts", Value::Int(10)),
    startup("oplogFetcherUsesExhaust", Value::Bool(true)),
    startup("periodicNoopIntervalSecs", Value::Int(10)),
    runtime("quiet", Value::Bool(false)),
    runtime("replBatchLimitBytes", Value::Int(104_857_600)),
    runtime("replBatchLimitOperations", Value::Int(5_000)),
    startup("replElectionTimeoutOffsetLimitFraction", Value::Double(0.15)),
    startup("replWriterThreadCount", Value::Int(16)),
    runtime("requireApiVersion", Value::Bool(false)),
    runtime("scramIterationCount", Value::Int(10_000)),
    runtime("scramSHA256IterationCount", Value::Int(15_000)),
    runtime("shutdownTimeoutMillisForSignaledShutdown", Value::Int(15_000)),
    runtime("storeFindAndModifyImagesInSideCollection", Value::Bool(true)),
    runtime("syncdelay", Value::Double(60.0)),
    startup("testingDiagnosticsEnabled", Value::Bool(false)),
    Parameter {
        name: "traceExceptions",
        default: Value::Bool(false),
        at_runtime: true,
        at_startup: false,
    },
    runtime("transactionLifetimeLimitSeconds", Value::Int(60)),
    runtime("ttlMonitorEnabled", Value::Bool(true)),
    runtime("ttlMonitorSleepSecs", Value::Int(60)),
    runtime("waitForSecondaryBeforeNoopWriteMS", Value::Int(10)),
    runtime("writePeriodicNoops", Value::Bool(true)),
];

impl Value {
    fn to_bson(self) -> Bson {
        match self {
            Value::Bool(value) => Bson::Boolean(value),
            Value::Int(value) => {
                i32::try_from(value).map_or_else(|_| Bson::Int64(value), Bson::Int32)
            }
            Value::Double(value) => Bson::Double(value),
        }
    }

    /// `given` as a value of this one's kind.
    fn coerce(self, name: &str, given: RawBsonRef<'_>) -> Result<Value, CommandError> {
        let number = match given {
            RawBsonRef::Boolean(flag) => Some(f64::from(u8::from(flag))),
            RawBsonRef::Int32(number) => Some(f64::from(number)),
            RawBsonRef::Int64(number) => Some(number as f64),
            RawBsonRef::Double(number) if number.is_finite() => Some(number),
            RawBsonRef::String(text) => text.parse().ok(),
            _ => None,
        };
        let wrong = |kind: &str| {
            let message = format!("Failed validating {name}: Unable to coerce value to {kind}");
            CommandError::new(BAD_VALUE, message)
        };
        match (self, number) {
            (Value::Bool(_), _) => Ok(Value::Bool(ValueRef::from(given).is_truthy())),
            (Value::Int(_), Some(number)) => match given {
                RawBsonRef::Int64(number) => Ok(Value::Int(number)),
                // The cast saturates, as the server's does.
                _ => Ok(Value::Int(number as i64)),
            },
            (Value::Int(_), None) => Err(wrong("integral type")),
            (Value::Double(_), Some(number)) => Ok(Value::Double(number)),
            (Value::Double(_), None) => Err(wrong("correct type")),
        }
    }
}

impl Parameters {
    fn value(&self, parameter: &Parameter) -> Value {
        self.0.get(parameter.name).copied().unwrap_or(parameter.default)
    }

    fn known(&self, name: &str) -> Value {
        let parameter = PARAMETERS.iter().find(|parameter| parameter.name == name);
        self.value(parameter.unwrap_or_else(|| panic!("no parameter is called {name}")))
    }

    /// A parameter that is a number. `name` must be one of the table.
    pub(crate) fn number(&self, name: &str) -> i64 {
        match self.known(name) {
            Value::Int(number) => number,
            other => panic!("{name} is no whole number but {other:?}"),
        }
    }

    /// A parameter that is a switch. `name` must be one of the table.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        match self.known(name) {
            Value::Bool(flag) => flag,
            other => panic!("{name} is no switch but {other:?}"),
        }
    }
}

/// Name, value, settable at run time, settable at startup.
fn all(server: &Mongod) -> Vec<(&'static str, Bson, bool, bool)> {
    let mut shown: Vec<_> = PARAMETERS
        .iter()
        .map(|parameter| {
            let value = server.parameters.value(parameter).to_bson();
            (parameter.name, value, parameter.at_runtime, parameter.at_startup)
        })
        .collect();
    let mechanisms = Bson::Array(crate::mongod::auth::MECHANISMS.map(Bson::from).to_vec());
    shown.push(("authenticationMechanisms", mechanisms, false, true));
    let version = doc! { "version": server.options.version.feature_compatibility() };
    shown.push(("featureCompatibilityVersion", Bson::Document(version), false, false));
    shown.sort_by_key(|(name, ..)| *name);
    shown
}

fn get_parameter(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let (mut details, mut everything) = (false, false);
    match operation.argument("getParameter") {
        Some(RawBsonRef::String("*")) => everything = true,
        Some(RawBsonRef::Document(options)) => {
            details = options.get_bool("showDetails").unwrap_or(false);
            everything = options.get_bool("allParameters").unwrap_or(false);
        }
        _ => {}
    }
    let is_new = server.repl.set_name.is_some() && server.repl.config.is_none();
    let mut reply = Document::new();
    for (name, value, runtime, startup) in all(server) {
        if !everything && operation.argument(name).is_none() {
            continue;
        }
        if is_new && name == "featureCompatibilityVersion" {
            if everything {
                continue;
            }
            return Err(CommandError::new(
                UNKNOWN_FEATURE_COMPATIBILITY_VERSION,
                "featureCompatibilityVersion is not yet known.",
            ));
        }
        let shown = match details {
            true => Bson::Document(doc! {
                "value": value,
                "settableAtRuntime": runtime,
                "settableAtStartup": startup,
            }),
            false => value,
        };
        reply.insert(name, shown);
    }
    if reply.is_empty() {
        return Err(CommandError::new(INVALID_OPTIONS, "no option found to get"));
    }
    Outcome::document(&reply)
}

fn set_parameter(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let own = super::arguments::own_arguments(&operation.body);
    let mut changes = Vec::new();
    for (name, given) in own.iter().flatten().skip(1) {
        let name = name.as_str();
        let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) else {
            return Err(CommandError::new(
                INVALID_OPTIONS,
                format!(
                    "attempted to set unrecognized parameter [{name}], use help:true to see options "
                ),
            ));
        };
        if !parameter.at_runtime {
            return Err(CommandError::new(
                ILLEGAL_OPERATION,
                format!("not allowed to change [{name}] at runtime"),
            ));
        }
        changes.push((parameter, parameter.default.coerce(name, given)?));
    }
    let Some((first, _)) = changes.first() else {
        return Err(CommandError::new(
            INVALID_OPTIONS,
            "no option found to set, use help:true to see options ",
        ));
    };
    let was = server.parameters.value(first).to_bson();
    for (parameter, value) in changes {
        server.parameters.0.insert(parameter.name, value);
    }
    Outcome::document(&doc! { "was": was })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_stand_in_order_and_each_has_its_kind() {
        assert!(PARAMETERS.is_sorted_by_key(|parameter| parameter.name));
        let parameters = Parameters::default();
        assert_eq!(parameters.number("cursorTimeoutMillis"), 600_000);
        assert!(!parameters.is_on("requireApiVersion"));
    }

    #[test]
    fn a_number_may_come_as_any_number_or_as_text_that_is_one() {
        let int = Value::Int(1);
        assert_eq!(int.coerce("x", RawBsonRef::Double(2.7)), Ok(Value::Int(2)));
        assert_eq!(int.coerce("x", RawBsonRef::String("12")), Ok(Value::Int(12)));
        assert_eq!(int.coerce("x", RawBsonRef::Int64(i64::MAX)), Ok(Value::Int(i64::MAX)));
        let refused = int.coerce("x", RawBsonRef::String("many")).unwrap_err();
        assert_eq!(refused.message, "Failed validating x: Unable to coerce value to integral type");
        assert_eq!(Value::Bool(false).coerce("x", RawBsonRef::Int32(1)), Ok(Value::Bool(true)));
    }
}
