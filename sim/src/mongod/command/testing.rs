//! Commands that exist with `enableTestCommands` alone.

use std::time::Duration;

use bson::{Document, RawBsonRef, doc};
use stepdown_driver::Instant;

use super::arguments::safe_i64;
use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::Mongod;
use crate::mongod::error::{CommandError, INVALID_BSON};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["echo"], false, echo),
    CommandSpec::anywhere(&["sleep"], true, sleep),
    CommandSpec::anywhere(&["testDeprecation"], false, api_version),
    CommandSpec::anywhere(&["testDeprecationInVersion2"], false, api_version),
    CommandSpec::anywhere(&["testRemoval"], false, api_version),
    CommandSpec::anywhere(&["testVersion2"], false, api_version),
    CommandSpec::anywhere(&["testVersions1And2"], false, api_version),
];

fn echo(_: &mut Mongod, _: Instant, operation: &Operation) -> Result<Outcome, CommandError> {
    let given = Document::try_from(&**operation.body)
        .map_err(|error| CommandError::new(INVALID_BSON, error.to_string()))?;
    Outcome::document(&doc! { "echo": given })
}

/// Tells what the client declares of the stable API.
fn api_version(_: &mut Mongod, _: Instant, operation: &Operation) -> Result<Outcome, CommandError> {
    let mut reply = Document::new();
    for name in ["apiVersion", "apiStrict", "apiDeprecationErrors"] {
        match operation.argument(name) {
            Some(RawBsonRef::String(text)) => drop(reply.insert(name, text)),
            Some(RawBsonRef::Boolean(flag)) => drop(reply.insert(name, flag)),
            _ => {}
        }
    }
    Outcome::document(&reply)
}

/// Answers after `millis`, or `secs`, or ten seconds.
fn sleep(_: &mut Mongod, now: Instant, operation: &Operation) -> Result<Outcome, CommandError> {
    if operation.waited {
        return Outcome::document(&Document::new());
    }
    let number =
        |name: &str| operation.argument(name).map(|value| safe_i64(name, value)).transpose();
    let millis = match (number("millis")?, number("secs")?, number("seconds")?) {
        (Some(millis), None, None) => millis,
        (millis, Some(seconds), _) | (millis, None, Some(seconds)) => {
            seconds.saturating_mul(1_000).saturating_add(millis.unwrap_or(0))
        }
        (None, None, None) => 10_000,
    };
    let until = now + Duration::from_millis(millis.clamp(0, i64::from(i32::MAX)) as u64);
    Ok(Outcome::Park(super::wait::Wait::Asleep { until }))
}
