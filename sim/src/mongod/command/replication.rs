//! The replSet* commands, and shutdown.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use super::wait::Wait;
use crate::mongod::Mongod;
use crate::mongod::error::{
    BAD_VALUE, COMMAND_FAILED, CONFLICTING_OPERATION_IN_PROGRESS, CommandError,
    EXCEEDED_TIME_LIMIT, ILLEGAL_OPERATION, INVALID_REPLICA_SET_CONFIG, NO_REPLICATION_ENABLED,
    NOT_SECONDARY, NOT_WRITABLE_PRIMARY, NOT_YET_INITIALIZED, OPERATION_FAILED, TYPE_MISMATCH,
};
use crate::mongod::repl::{ElectionReason, LeaderPhase};
use crate::trace::MemberState;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["replSetAbortPrimaryCatchUp"], true, abort_primary_catch_up),
    CommandSpec::anywhere(&["replSetFreeze"], true, freeze),
    CommandSpec::anywhere(&["replSetGetConfig"], true, get_config),
    CommandSpec::anywhere(&["replSetGetRBID"], true, get_rbid),
    CommandSpec::anywhere(&["replSetGetStatus"], true, get_status),
    CommandSpec::anywhere(&["replSetInitiate"], true, initiate),
    CommandSpec::anywhere(&["replSetMaintenance"], true, maintenance),
    CommandSpec::anywhere(&["replSetReconfig"], true, reconfig),
    CommandSpec::anywhere(&["replSetStepDown"], true, step_down),
    CommandSpec::anywhere(&["replSetStepUp"], true, step_up),
    CommandSpec::anywhere(&["shutdown"], true, shutdown),
];

fn done() -> Result<Outcome, CommandError> {
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// A number given as any numeric type.
fn number(operation: &Operation, name: &str) -> Result<Option<i64>, CommandError> {
    match operation.argument(name) {
        None => Ok(None),
        Some(bson::RawBsonRef::Int32(number)) => Ok(Some(i64::from(number))),
        Some(bson::RawBsonRef::Int64(number)) => Ok(Some(number)),
        Some(bson::RawBsonRef::Double(number)) => Ok(Some(number as i64)),
        Some(_) => Err(CommandError::new(
            TYPE_MISMATCH,
            format!("Expected field \"{name}\" to have numeric type"),
        )),
    }
}

fn flag(operation: &Operation, name: &str) -> bool {
    match operation.argument(name) {
        Some(bson::RawBsonRef::Boolean(given)) => given,
        Some(bson::RawBsonRef::Int32(given)) => given != 0,
        Some(bson::RawBsonRef::Double(given)) => given != 0.0,
        None | Some(bson::RawBsonRef::Null | bson::RawBsonRef::Undefined) => false,
        // Measured: anything else that is there counts as true.
        Some(_) => true,
    }
}

fn document_argument(operation: &Operation) -> Result<Option<Document>, CommandError> {
    match operation.argument(&operation.name) {
        Some(bson::RawBsonRef::Document(given)) => {
            Document::try_from(given).map(Some).map_err(|error| {
                CommandError::new(crate::mongod::error::INVALID_BSON, error.to_string())
            })
        }
        _ => Ok(None),
    }
}

impl Mongod {
    /// The checks every replSet command begins with.
    fn require_config(&self) -> Result<(), CommandError> {
        if self.repl.set_name.is_none() {
            return Err(CommandError::new(NO_REPLICATION_ENABLED, "not running with --replSet"));
        }
        if self.repl.config.is_none() {
            return Err(CommandError::new(
                NOT_YET_INITIALIZED,
                "no replset config has been received",
            ));
        }
        Ok(())
    }
}

fn initiate(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let given = document_argument(operation)?.filter(|given| !given.is_empty());
    let implicit = given.is_none();
    // Measured: the error of a second initiate carries nothing beyond itself.
    server.begin_initiate(now, given.as_ref())?;
    let mut reply = RawDocumentBuf::new();
    if implicit {
        reply = rawdoc! {
            "info2": "no configuration specified. Using a default configuration for the set",
            "me": &*server.options.host,
        };
    }
    if server.repl.quorum_check.is_some() {
        Ok(Outcome::Park(Wait::Quorum { reply }))
    } else if server.repl.config.is_some() {
        // A set of one asks nobody.
        Ok(Outcome::Reply(reply))
    } else {
        Err(CommandError::new(INVALID_REPLICA_SET_CONFIG, "the quorum check ended at once"))
    }
}

fn reconfig(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    let given = document_argument(operation)?
        .ok_or_else(|| CommandError::new(BAD_VALUE, "no configuration specified"))?;
    if flag(operation, "force") {
        server.force_reconfig(now, &given)?;
        return done();
    }
    if !server.begin_reconfig(now, &given)? {
        return Ok(Outcome::Park(Wait::ConfigCommitted));
    }
    Ok(Outcome::Park(Wait::Quorum { reply: RawDocumentBuf::new() }))
}

fn get_config(
    server: &mut Mongod,
    _now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    let config = server.repl.config.as_ref().expect("checked");
    let mut reply = Document::new();
    reply.insert("config", config.to_document(false));
    if flag(operation, "commitmentStatus") {
        if !server.repl.is_writable() {
            return Err(CommandError::new(
                NOT_WRITABLE_PRIMARY,
                "commitmentStatus is only supported on primary.",
            ));
        }
        reply.insert("commitmentStatus", server.config_is_committed());
    }
    Outcome::document(&reply)
}

fn get_status(
    server: &mut Mongod,
    now: Instant,
    _operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    if server.repl.self_index.is_none() {
        return Err(CommandError::new(
            INVALID_REPLICA_SET_CONFIG,
            "Our replica set config is invalid or we are not a member of it",
        ));
    }
    Outcome::document(&server.status_document(now))
}

fn get_rbid(
    server: &mut Mongod,
    _now: Instant,
    _operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    Ok(Outcome::Reply(rawdoc! { "rbid": server.repl.rbid }))
}

fn step_down(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    let force = flag(operation, "force");
    // Measured: what is no number counts as 0.
    let seconds = match number(operation, "replSetStepDown").ok().flatten() {
        Some(0) | None => 60,
        Some(seconds) => seconds,
    };
    let catch_up =
        number(operation, "secondaryCatchUpPeriodSecs")?.unwrap_or(if force { 0 } else { 10 });
    if seconds < 0 {
        return Err(CommandError::new(BAD_VALUE, "stepdown period must be a positive integer"));
    }
    if catch_up < 0 {
        return Err(CommandError::new(
            BAD_VALUE,
            "secondaryCatchUpPeriodSecs period must be a positive or absent",
        ));
    }
    if seconds < catch_up {
        return Err(CommandError::new(
            BAD_VALUE,
            "stepdown period must be longer than secondaryCatchUpPeriodSecs",
        ));
    }
    match server.repl.leader.as_ref().map(|leader| leader.phase) {
        None => Err(CommandError::new(NOT_WRITABLE_PRIMARY, "not primary so can't step down")),
        Some(LeaderPhase::SteppingDown) => Err(CommandError::new(
            CONFLICTING_OPERATION_IN_PROGRESS,
            "This node is already in the process of stepping down",
        )),
        Some(LeaderPhase::CatchUp) => {
            Err(CommandError::new(NOT_WRITABLE_PRIMARY, "not primary so can't step down"))
        }
        Some(LeaderPhase::Writable) => {
            server.begin_step_down();
            Ok(Outcome::StepDown {
                until: now + Duration::from_secs(catch_up as u64),
                period_end: now + Duration::from_secs(seconds as u64),
                force,
            })
        }
    }
}

fn step_up(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    if server.repl.leader.is_some() {
        // Measured: nothing to do is no failure.
        return done();
    }
    let reason = if flag(operation, "skipDryRun") {
        ElectionReason::StepUpRequestSkipDryRun
    } else {
        ElectionReason::StepUpRequest
    };
    match server.stand(now, reason) {
        Ok(()) if server.repl.leader.is_some() => done(),
        Ok(()) => Ok(Outcome::Park(Wait::Election)),
        // Measured: why stands in the log alone.
        Err(_why) => Err(CommandError::new(COMMAND_FAILED, "Election failed.")),
    }
}

fn freeze(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    // Measured: what is no number counts as 0, and a negative one freezes nothing.
    let seconds = number(operation, "replSetFreeze").ok().flatten().unwrap_or(0);
    if server.repl.leader.is_some() || server.repl.election.is_some() {
        return Err(CommandError::new(
            NOT_SECONDARY,
            "Cannot freeze node when primary or running for election, state: Primary",
        ));
    }
    if seconds == 0 {
        server.repl.stand_not_before = Instant::ZERO;
        server.elect_single_node(now);
        return Ok(Outcome::Reply(rawdoc! { "info": "unfreezing" }));
    }
    let until = now + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    server.repl.stand_not_before = server.repl.stand_not_before.max(until);
    server.timers.set(crate::mongod::timer::Timer::StepDownEnd, server.repl.stand_not_before);
    if seconds == 1 {
        return Ok(Outcome::Reply(rawdoc! {
            "warning": "you really want to freeze for only 1 second?",
        }));
    }
    done()
}

fn maintenance(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    if server.repl.leader.is_some() {
        return Err(CommandError::new(NOT_SECONDARY, "primaries can't modify maintenance mode"));
    }
    if server.repl.election.is_some() {
        return Err(CommandError::new(NOT_SECONDARY, "currently running for election"));
    }
    if flag(operation, "replSetMaintenance") {
        server.repl.maintenance += 1;
    } else if server.repl.maintenance == 0 {
        return Err(CommandError::new(OPERATION_FAILED, "already out of maintenance mode"));
    } else {
        server.repl.maintenance -= 1;
    }
    server.state_changed(now, "replSetMaintenance");
    server.arm_election_timer(now);
    done()
}

fn abort_primary_catch_up(
    server: &mut Mongod,
    now: Instant,
    _operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    match server.repl.leader.as_ref().map(|leader| leader.phase) {
        Some(LeaderPhase::CatchUp) => {
            server.end_catch_up(now, "catch-up aborted by replSetAbortPrimaryCatchUp");
            done()
        }
        _ => Err(CommandError::new(ILLEGAL_OPERATION, "The node is not in catch-up mode.")),
    }
}

fn shutdown(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let force = flag(operation, "force");
    let timeout = number(operation, "timeoutSecs")?.unwrap_or(15);
    let timeout = timeout.max(0);
    let several = server.repl.members.len() > 1;
    let leads = server.repl.state() == MemberState::Primary;
    if leads && several && !force && timeout == 0 && !server.successor_is_ready() {
        return Err(CommandError::new(
            EXCEEDED_TIME_LIMIT,
            "No electable secondaries caught up: use {force: true} to shut down anyway",
        ));
    }
    server.begin_shutdown(now, Duration::from_secs(timeout as u64));
    // The client hears of it by its connection: the process is gone, or goes soon.
    Ok(Outcome::Park(Wait::Shutdown))
}
