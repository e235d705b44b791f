//! Fail points: `configureFailPoint`, and what they do to commands.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::client::Client;
use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::Mongod;
use crate::mongod::error::{
    BAD_VALUE, CommandError, DOCUMENT_VALIDATION_FAILURE, DUPLICATE_KEY, FAIL_POINT_SET_FAILED,
    ILLEGAL_OPERATION, INVALID_OPTIONS, MAX_TIME_MS_EXPIRED, TYPE_MISMATCH,
};
use crate::random::RandomStream;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["configureFailPoint"], true, configure_fail_point),
    CommandSpec::anywhere(&["waitForFailPoint"], true, wait_for_fail_point),
];

/// The fail points there are; others are refused as unknown.
const KNOWN: [&str; 8] = [
    "failCommand",
    "failGetMoreAfterCursorCheckout",
    "maxTimeAlwaysTimeOut",
    "maxTimeNeverTimeOut",
    "onPrimaryTransactionalWrite",
    "stopReplProducer",
    "voteNoInElection",
    "voteYesInDryRunButNoInRealElection",
];

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
    /// Each matching entry is hit with so many chances out of 2^32.
    Chance(u64),
}

impl FailPoint {
    /// Somebody comes by: whether it strikes.
    fn hit(&mut self, random: &mut RandomStream) -> bool {
        match &mut self.mode {
            Mode::Off => return false,
            Mode::Skip(0) | Mode::AlwaysOn => {}
            Mode::Skip(left) => {
                *left -= 1;
                return false;
            }
            Mode::Times(left) => {
                *left -= 1;
                // Measured: none at all is one, too.
                if *left <= 0 {
                    self.mode = Mode::Off;
                }
            }
            Mode::Chance(chances) => {
                if random.below(1 << 32) >= *chances {
                    return false;
                }
            }
        }
        self.entered += 1;
        true
    }
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

    /// Passes a fail point that is about no command: its data, if it is hit.
    pub(crate) fn pass(&mut self, name: &str, random: &mut RandomStream) -> Option<&RawDocument> {
        let point = self.0.get_mut(name)?;
        point.hit(random).then_some(&*point.data)
    }

    /// What `failCommand` does to this command, if anything.
    pub(crate) fn fail_command(
        &mut self,
        operation: &Operation,
        spec: &CommandSpec,
        client: &Client,
        random: &mut RandomStream,
    ) -> Option<FailCommand> {
        let point = self.0.get_mut("failCommand")?;
        if point.mode == Mode::Off || operation.name == "configureFailPoint" {
            return None;
        }
        let data = &point.data;
        if !matches_command(data, operation, spec, client) {
            return None;
        }
        if !point.hit(random) {
            return None;
        }
        let data = &point.data;
        let code = integer(data, "errorCode").and_then(|code| i32::try_from(code).ok());
        let mut error = code.map(|code| {
            let error = CommandError::new(code, "Failing command via 'failCommand' failpoint");
            // Measured: only codes that always come with more take more from here.
            let takes_more = matches!(code, DOCUMENT_VALIDATION_FAILURE | DUPLICATE_KEY);
            match data.get_document("errorExtraInfo") {
                Ok(extra) if takes_more => error.with_extra(extra.to_owned()),
                _ => error,
            }
        });
        let mut block = None;
        if is_set(data, "blockConnection") {
            let refused = |message| Some(CommandError::new(INVALID_OPTIONS, message));
            match integer(data, "blockTimeMS") {
                None => {
                    error = refused("must specify 'blockTimeMS' when 'blockConnection' is true");
                }
                Some(millis) if millis < 0 => {
                    error = refused("'blockTimeMS' must be non-negative");
                }
                Some(millis) => block = Some(Duration::from_millis(millis as u64)),
            }
        }
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

fn matches_command(
    data: &RawDocument,
    operation: &Operation,
    spec: &CommandSpec,
    client: &Client,
) -> bool {
    if let Ok(wanted) = data.get_str("appName")
        && client.app_name.as_deref() != Some(wanted)
    {
        return false;
    }
    if let Ok(wanted) = data.get_str("threadName")
        && format!("conn{}", client.number) != wanted
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
        names
            .into_iter()
            .flatten()
            .any(|name| name.as_str().is_some_and(|name| is_called(name, &operation.name, spec)))
    })
}

/// A command goes by all of its names; but hello and isMaster are two commands.
fn is_called(name: &str, written: &str, spec: &CommandSpec) -> bool {
    name == written || spec.names.contains(&name) && (name == "hello") == (written == "hello")
}

fn is_set(data: &RawDocument, name: &str) -> bool {
    data.get_bool(name).unwrap_or(false)
}

/// So many chances out of 2^32 for a probability.
fn chance(mode: &RawDocument) -> Result<Option<Mode>, CommandError> {
    let probability = match mode.get("activationProbability") {
        Ok(Some(RawBsonRef::Double(probability))) => probability,
        Ok(Some(RawBsonRef::Int32(probability))) => f64::from(probability),
        _ => return Ok(None),
    };
    if !(0.0..=1.0).contains(&probability) {
        return Err(CommandError::new(
            BAD_VALUE,
            format!("activationProbability must be between 0.0 and 1.0; found {probability}"),
        ));
    }
    Ok(Some(Mode::Chance((probability * 4_294_967_296.0) as u64)))
}

fn integer(data: &RawDocument, name: &str) -> Option<i64> {
    match data.get(name).ok()?? {
        RawBsonRef::Int32(number) => Some(i64::from(number)),
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Double(number) => Some(number as i64),
        _ => None,
    }
}

/// Waits until a fail point was entered so often.
fn wait_for_fail_point(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let name = operation.argument("waitForFailPoint").and_then(|name| name.as_str());
    let name = name.filter(|name| KNOWN.contains(name)).ok_or_else(|| {
        let name = name.unwrap_or_default();
        CommandError::new(FAIL_POINT_SET_FAILED, format!("{name} not found"))
    })?;
    let wanted = integer(&operation.body, "timesEntered")
        .ok_or_else(|| super::arguments::missing_field("waitForFailPoint.timesEntered"))?;
    let limit = operation
        .max_time
        .ok_or_else(|| super::arguments::missing_field("waitForFailPoint.maxTimeMS"))?;
    let entered = server.fail_points.0.get(name).map_or(0, |point| point.entered);
    if entered >= wanted {
        return Ok(Outcome::Reply(RawDocumentBuf::new()));
    }
    let until = operation.started + limit;
    if until <= now {
        return Err(CommandError::new(MAX_TIME_MS_EXPIRED, "operation exceeded time limit"));
    }
    let step = Duration::from_millis(1);
    Ok(Outcome::Park(super::wait::Wait::Asleep { until: until.min(now + step) }))
}

fn configure_fail_point(
    server: &mut Mongod,
    _now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let name = operation
        .argument(&operation.name)
        .and_then(|name| name.as_str())
        .ok_or_else(|| CommandError::new(FAIL_POINT_SET_FAILED, " not found"))?;
    if !KNOWN.contains(&name) {
        return Err(CommandError::new(FAIL_POINT_SET_FAILED, format!("{name} not found")));
    }
    let mode = match operation.argument("mode") {
        Some(RawBsonRef::String("off")) => Mode::Off,
        Some(RawBsonRef::String("alwaysOn")) => Mode::AlwaysOn,
        Some(RawBsonRef::Document(mode)) => {
            let field = |name: &str| integer(mode, name);
            match (field("times"), field("skip")) {
                (Some(times), _) if times >= 0 => Mode::Times(times),
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
                (None, None) => match chance(mode)? {
                    Some(mode) => mode,
                    None => {
                        return Err(CommandError::new(
                            BAD_VALUE,
                            "'mode' must be one of 'off', 'alwaysOn', '{times:n}', '{skip:n}' or '{activationProbability:p}'",
                        ));
                    }
                },
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
