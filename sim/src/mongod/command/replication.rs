//! The replSet* commands, and shutdown.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, cstr, rawdoc};
use stepdown_driver::Instant;

use super::legacy;
use super::operation::{Operation, Outcome};
use super::spec::{CommandSpec, Gate};
use super::wait::Wait;
use crate::mongod::Mongod;
use crate::mongod::error::{
    BAD_VALUE, COMMAND_FAILED, CONFLICTING_OPERATION_IN_PROGRESS, CommandError,
    EXCEEDED_TIME_LIMIT, FAILED_TO_PARSE, HOST_UNREACHABLE, ILLEGAL_OPERATION, INVALID_OPTIONS,
    INVALID_REPLICA_SET_CONFIG, NO_REPLICATION_ENABLED, NODE_NOT_FOUND, NOT_SECONDARY,
    NOT_WRITABLE_PRIMARY, NOT_YET_INITIALIZED, OPERATION_FAILED, STALE_CLUSTER_TIME, TYPE_MISMATCH,
};
use crate::mongod::oplog_entry::OpKind;
use crate::mongod::optime::Ts;
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
    CommandSpec::anywhere(&["replSetResizeOplog"], true, resize_oplog),
    CommandSpec::anywhere(&["replSetStepDown"], true, step_down),
    CommandSpec::anywhere(&["replSetStepUp"], true, step_up),
    CommandSpec::anywhere(&["replSetSyncFrom"], true, sync_from),
    CommandSpec::anywhere(&["replSetTest"], true, test),
    CommandSpec {
        names: &["appendOplogNote"],
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: true,
        run: append_oplog_note,
    },
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
    let Some(given) = document_argument(operation)? else {
        // Measured: an error of its own shape.
        return Ok(Outcome::Reply(rawdoc! { "errmsg": "no configuration specified", "ok": 0.0 }));
    };
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
    if legacy::boolean(&operation.body, "commitmentStatus")? {
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
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    legacy::boolean(&operation.body, "initialSync")?;
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
    let catch_up = legacy::integer(&operation.body, "secondaryCatchUpPeriodSecs")?
        .unwrap_or(if force { 0 } else { 10 });
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
        Some(LeaderPhase::SteppingDown) => {
            // Measured: the attempt that comes to nothing counts as two changes, like any that fails.
            server.bump_topology();
            server.bump_topology();
            Err(CommandError::new(
                CONFLICTING_OPERATION_IN_PROGRESS,
                "This node is already in the process of stepping down",
            ))
        }
        Some(LeaderPhase::CatchUp) => {
            Err(CommandError::new(NOT_WRITABLE_PRIMARY, "not primary so can't step down"))
        }
        Some(LeaderPhase::Writable) => {
            server.begin_step_down(now);
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
    // Measured: each is a change of topology, whether the state changes or not.
    let counter = server.repl.topology_counter;
    server.bump_topology();
    server.state_changed(now, "replSetMaintenance");
    server.repl.topology_counter = counter + 1;
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
            server.repl.election_metrics.catch_ups_aborted += 1;
            server.end_catch_up(now, "catch-up aborted by replSetAbortPrimaryCatchUp");
            done()
        }
        _ => Err(CommandError::new(ILLEGAL_OPERATION, "The node is not in catch-up mode.")),
    }
}

/// `host:port` of a text, as the server reads addresses.
fn address(text: &str) -> Result<String, CommandError> {
    let failed = |message: String| Err(CommandError::new(FAILED_TO_PARSE, message));
    let (host, port) = match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') && !text.starts_with('[') => {
            return failed(format!(
                "More than one ':' detected. If this is an ipv6 address, it needs to be surrounded by '[' and ']'; {text}"
            ));
        }
        Some((host, port)) => (host, port),
        None => (text, "27017"),
    };
    if host.is_empty() {
        return failed(format!("Empty host component parsing HostAndPort from \"{text}\""));
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return failed(format!("Bad digit \"{port}\" while parsing {port}"));
    }
    Ok(format!("{host}:{port}"))
}

fn sync_from(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    server.require_config()?;
    let given = operation.argument("replSetSyncFrom").and_then(|value| value.as_str());
    let target = address(given.unwrap_or_default())?;
    let config = server.repl.config.clone().expect("checked");
    let not_secondary = |message: &str| Err(CommandError::new(NOT_SECONDARY, message));
    let Some(own) = server.repl.own() else {
        return not_secondary("Removed and uninitialized nodes do not sync");
    };
    if own.arbiter_only {
        return not_secondary("arbiters don't sync");
    }
    if server.repl.leader.is_some() {
        return not_secondary("primaries don't sync");
    }
    let Some(index) = config.index_of_host(&target) else {
        return Err(CommandError::new(
            NODE_NOT_FOUND,
            format!("Could not find member \"{target}\" in replica set"),
        ));
    };
    let its = &config.members[index];
    let impossible = if Some(index) == server.repl.self_index {
        Some("I cannot sync from myself".to_owned())
    } else if its.arbiter_only {
        Some(format!("Cannot sync from \"{target}\" because it is an arbiter"))
    } else if own.build_indexes && !its.build_indexes {
        Some(format!("Cannot sync from \"{target}\" because it does not build indexes"))
    } else if own.is_voter() && !its.is_voter() {
        Some(format!("Cannot sync from \"{target}\" because it is not a voter"))
    } else {
        None
    };
    if let Some(message) = impossible {
        return Err(CommandError::new(INVALID_OPTIONS, message));
    }
    if !server.repl.members[index].is_up() {
        return Err(CommandError::new(
            HOST_UNREACHABLE,
            format!("I cannot reach the requested member: {target}"),
        ));
    }
    let mut reply = rawdoc! { "syncFromRequested": target };
    if let Some(source) = server.repl.sync.source() {
        reply.append(cstr!("prevSyncTarget"), &*config.members[source].host);
    }
    if let Some(warning) = server.force_sync_source(now, index) {
        reply.append(cstr!("warning"), warning);
    }
    Ok(Outcome::Reply(reply))
}

/// The smallest oplog that may be asked for, in megabytes.
const OPLOG_MEGABYTES_MIN: f64 = 990.0;

fn resize_oplog(
    server: &mut Mongod,
    _now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    if server.storage.oplog().is_empty() {
        return Err(CommandError::new(
            crate::mongod::error::NAMESPACE_NOT_FOUND,
            "oplog does not exist",
        ));
    }
    let name = "replSetResizeOplog";
    super::arguments::safe_i64(
        &format!("{name}.{name}"),
        super::arguments::first_value(&operation.body)?,
    )?;
    let at_least = |field: &str, min: f64| -> Result<Option<f64>, CommandError> {
        let Some(value) = operation.argument(field) else { return Ok(None) };
        // Its kind is checked first; a fraction counts.
        super::arguments::safe_i64(&format!("{name}.{field}"), value)?;
        let given = crate::mongod::query::number::as_f64(value.into()).unwrap_or(0.0);
        if given >= min {
            return Ok(Some(given));
        }
        Err(CommandError::new(
            51_024,
            format!("BSON field '{field}' value must be >= {min}, actual value '{given}'"),
        ))
    };
    let size = at_least("size", OPLOG_MEGABYTES_MIN)?;
    // Entries here are kept by size alone: with nobody's disk filling up, hours cost nothing to promise.
    at_least("minRetentionHours", 0.0)?;
    if let Some(megabytes) = size {
        server.storage.set_oplog_size((megabytes * 1024.0 * 1024.0) as usize);
    }
    done()
}

fn append_oplog_note(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let data = legacy::object(&operation.body, "data")?;
    if operation.argument("maxClusterTime").is_some() {
        let wanted = legacy::timestamp(&operation.body, "maxClusterTime")?;
        let last = server.repl.applied.optime.ts;
        if wanted <= last {
            let shown =
                |ts: Ts| format!("{{ ts: Timestamp({}, {}) }}", ts.seconds(), ts.increment());
            return Err(CommandError::new(
                STALE_CLUSTER_TIME,
                format!(
                    "Requested maxClusterTime {} is less or equal to the last primary OpTime: {}",
                    shown(wanted),
                    shown(last)
                ),
            ));
        }
    }
    let draft = super::OplogDraft {
        kind: OpKind::Noop,
        ns: server.empty_namespace.clone(),
        collection_uuid: None,
        object: Arc::new(data.to_owned()),
        object2: None,
        upsert: false,
        session: None,
    };
    let optime = server.log(now, draft)?;
    server.note_client_write(operation.connection, optime);
    done()
}

/// The test command: waits for a state. Its other questions are answered by what always holds here.
fn test(server: &mut Mongod, now: Instant, operation: &Operation) -> Result<Outcome, CommandError> {
    server.require_config()?;
    let Some(wanted) = legacy::integer(&operation.body, "waitForMemberState")? else {
        return done();
    };
    legacy::required(&operation.body, "timeoutMillis")?;
    let timeout = legacy::integer(&operation.body, "timeoutMillis")?.unwrap_or(0);
    let Some(wanted) = i32::try_from(wanted).ok().and_then(MemberState::from_number) else {
        return Err(CommandError::new(BAD_VALUE, format!("there is no member state {wanted}")));
    };
    let state = server.repl.state();
    if state == wanted {
        return done();
    }
    let timeout = Duration::from_millis(u64::try_from(timeout).unwrap_or(0));
    let until = operation.started + timeout;
    if until <= now {
        return Err(CommandError::new(
            EXCEEDED_TIME_LIMIT,
            format!(
                "Timed out waiting for state to become {}. Current state is {}",
                wanted.name(),
                state.name()
            ),
        ));
    }
    Ok(Outcome::Park(Wait::MemberState { until }))
}

fn shutdown(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let (mut force, mut timeout) = (false, 15);
    super::arguments::each_argument("shutdown", &operation.body, |field, value| {
        match field {
            "force" => force = super::arguments::boolean("shutdown.force", value)?,
            "timeoutSecs" => {
                timeout = super::arguments::safe_i64("shutdown.timeoutSecs", value)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let timeout = timeout.max(0);
    server.begin_shutdown(now, Duration::from_secs(timeout as u64), force);
    if !server.exited && !server.repl.shutting_down {
        // A leader that nobody can take over from at once stays.
        return Err(server.no_successor(now));
    }
    // The client hears of it by its connection: the process is gone, or goes soon.
    Ok(Outcome::Park(Wait::Shutdown))
}
