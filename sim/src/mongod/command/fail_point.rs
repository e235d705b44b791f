//! Fail points: `configureFailPoint`, and what they do to commands.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::{CommandSpec, Gate};
use crate::mongod::Mongod;
use crate::mongod::error::{
    BAD_VALUE, CommandError, FAIL_POINT_SET_FAILED, ILLEGAL_OPERATION, TYPE_MISMATCH,
};

pub(crate) const COMMANDS: &[CommandSpec] = &[CommandSpec {
    names: &["configureFailPoint"],
    gate: Gate::Always,
    accepts_write_concern: false,
    retryable_write: false,
    admin_only: true,
    run: configure_fail_point,
}];

/// The fail points there are; others are refused as unknown.
const KNOWN: [&str; 3] = ["failCommand", "voteNoInElection", "voteYesInDryRunButNoInRealElection"];

/// The fail points of one process.
#[derive(Debug, Default)]
pub(crate) struct FailPoints(BTreeMap<String, FailPoint>);

#[derive(Debug, Default)]
struct FailPoint {
    mode: Mode,
    entered: i64,
    data: RawDocumentBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    AlwaysOn,
    #[default]
    Off,
    /// So many more matching entries are let pass, then it is on.
    Skip(i64),
    /// So many more matching entries are hit.
    Times(i64),
}

/// What `failCommand` does to one command.
#[derive(Debug)]
pub(crate) struct FailCommand {
    pub close: bool,
    pub error: Option<CommandError>,
    pub block: Option<Duration>,
    pub write_concern_error: Option<RawDocumentBuf>,
    pub labels: Option<Vec<String>>,
}

impl FailPoints {
    /// Whether a fail point without data is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|point| point.mode != Mode::Off)
    }

    /// What `failCommand` does to this command, if anything.
    pub(crate) fn fail_command(
        &mut self,
        operation: &Operation,
        app_name: Option<&str>,
    ) -> Option<FailCommand> {
        let point = self.0.get_mut("failCommand")?;
        if point.mode == Mode::Off || operation.name == "configureFailPoint" {
            return None;
        }
        let data = &point.data;
        if !matches_command(data, operation, app_name) {
            return None;
        }
        match &mut point.mode {
            Mode::Skip(0) | Mode::AlwaysOn => {}
            Mode::Skip(left) => {
                *left -= 1;
                return None;
            }
            Mode::Times(left) => {
                *left -= 1;
                if *left == 0 {
                    point.mode = Mode::Off;
                }
            }
            Mode::Off => unreachable!("checked above"),
        }
        point.entered += 1;
        let data = &point.data;
        let error = data.get_i32("errorCode").ok().map(|code| {
            let error = CommandError::new(code, "Failing command via 'failCommand' failpoint");
            match data.get_document("errorExtraInfo") {
                Ok(extra) => error.with_extra(extra.to_owned()),
                Err(_) => error,
            }
        });
        let block = is_set(data, "blockConnection").then(|| {
            Duration::from_millis(integer(data, "blockTimeMS").unwrap_or(0).max(0) as u64)
        });
        let labels = data.get_array("errorLabels").ok().map(|labels| {
            labels
                .into_iter()
                .flatten()
                .filter_map(|label| label.as_str().map(str::to_owned))
                .collect()
        });
        Some(FailCommand {
            close: is_set(data, "closeConnection"),
            error,
            block,
            write_concern_error: data.get_document("writeConcernError").ok().map(ToOwned::to_owned),
            labels,
        })
    }
}

fn matches_command(data: &RawDocument, operation: &Operation, app_name: Option<&str>) -> bool {
    if let Ok(wanted) = data.get_str("appName")
        && app_name != Some(wanted)
    {
        return false;
    }
    if let Ok(namespace) = data.get_str("namespace") {
        let collection = operation.body.iter().flatten().next().and_then(|(_, v)| v.as_str());
        if collection.map(|collection| operation.namespace(collection)).as_deref()
            != Some(namespace)
        {
            return false;
        }
    }
    if is_set(data, "failAllCommands") {
        return true;
    }
    data.get_array("failCommands").is_ok_and(|names| {
        names.into_iter().flatten().any(|name| name.as_str() == Some(operation.name.as_str()))
    })
}

fn is_set(data: &RawDocument, name: &str) -> bool {
    data.get_bool(name).unwrap_or(false)
}

fn integer(data: &RawDocument, name: &str) -> Option<i64> {
    match data.get(name).ok()?? {
        RawBsonRef::Int32(number) => Some(i64::from(number)),
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Double(number) => Some(number as i64),
        _ => None,
    }
}

fn configure_fail_point(
    server: &mut Mongod,
    _now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let name =
        operation.argument(&operation.name).and_then(|name| name.as_str()).ok_or_else(|| {
            CommandError::new(TYPE_MISMATCH, "configureFailPoint takes the name of a fail point")
        })?;
    if !KNOWN.contains(&name) {
        return Err(CommandError::new(FAIL_POINT_SET_FAILED, format!("{name} not found")));
    }
    let mode = match operation.argument("mode") {
        Some(RawBsonRef::String("off")) => Mode::Off,
        Some(RawBsonRef::String("alwaysOn")) => Mode::AlwaysOn,
        Some(RawBsonRef::Document(mode)) => {
            let field = |name: &str| integer(mode, name);
            match (field("times"), field("skip")) {
                (Some(times), _) if times > 0 => Mode::Times(times),
                (Some(0), _) => Mode::Off,
                (None, Some(skip)) if skip >= 0 => Mode::Skip(skip),
                (Some(_), _) => {
                    return Err(CommandError::new(
                        BAD_VALUE,
                        "'times' option to 'mode' must be positive",
                    ));
                }
                (None, Some(_)) => {
                    return Err(CommandError::new(
                        BAD_VALUE,
                        "'skip' option to 'mode' must be positive",
                    ));
                }
                (None, None) => {
                    return Err(CommandError::new(
                        BAD_VALUE,
                        "'mode' must be one of 'off', 'alwaysOn', '{times:n}', '{skip:n}' or '{activationProbability:p}'",
                    ));
                }
            }
        }
        None => {
            return Err(CommandError::new(
                ILLEGAL_OPERATION,
                "When setting a failpoint, you must supply a 'mode'",
            ));
        }
        Some(RawBsonRef::String(mode)) => {
            return Err(CommandError::new(BAD_VALUE, format!("unknown mode: {mode}")));
        }
        Some(_) => {
            return Err(CommandError::new(TYPE_MISMATCH, "'mode' must be a string or JSON object"));
        }
    };
    let data = operation.body.get_document("data").map(ToOwned::to_owned).unwrap_or_default();
    let point = server.fail_points.0.entry(name.to_owned()).or_default();
    let count = point.entered;
    *point = FailPoint { mode, entered: count, data };
    Ok(Outcome::Reply(rawdoc! { "count": count as i32 }))
}
