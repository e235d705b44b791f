//! From a message to its answer: fail points, gates, read concern, the command, write concern, and
//! the fields that every reply carries.

use bson::{RawBsonRef, RawDocumentBuf, Timestamp, cstr, rawdoc};
use stepdown_driver::Instant;
use stepdown_driver::wire::{Flags, Message};

use super::fail_point::FailCommand;
use super::find_command;
use super::operation::{Operation, Outcome, ReadAt, ReadConcernLevel};
use super::request::{Answer, Origin, Request, command_name};
use super::spec::Gate;
use super::transaction::step_of;
use super::wait::{Then, Wait, max_time_expired};
use super::write_concern::Satisfied;
use crate::mongod::error::{
    CHANGE_STREAM_FATAL_ERROR, CHANGE_STREAM_HISTORY_LOST, CommandError, INTERRUPTED_AT_SHUTDOWN,
    INTERRUPTED_DUE_TO_REPL_STATE_CHANGE, INVALID_OPTIONS, NO_SUCH_TRANSACTION,
    NOT_PRIMARY_NO_SECONDARY_OK, NOT_PRIMARY_OR_SECONDARY, NOT_WRITABLE_PRIMARY,
    NOT_YET_INITIALIZED, PRIMARY_STEPPED_DOWN, SHUTDOWN_IN_PROGRESS, WRITE_CONFLICT, code_name,
};
use crate::mongod::optime::Ts;
use crate::mongod::query::value::check_nesting;
use crate::mongod::repl::LeaderPhase;
use crate::mongod::session::Step;
use crate::mongod::{ConnectionId, Mongod};
use crate::trace::MemberState;

/// `maxAcceptableLogicalClockDriftSecs`.
const CLOCK_DRIFT_SECONDS_MAX: u32 = 31_536_000;

/// The category RetriableError: what gets `RetryableWriteError` on a retryable write.
const RETRIABLE: [i32; 13] =
    [6, 7, 89, 91, 134, 189, 262, 9_001, 10_107, 11_600, 11_602, 13_435, 13_436];

/// What a transaction may be tried again after, as a whole: LockTimeout, WriteConflict,
/// SnapshotTooOld, SnapshotUnavailable, StaleChunkHistory, PreparedTransactionInProgress,
/// MigrationConflict.
const TRANSIENT_IN_TRANSACTION: [i32; 7] = [24, 112, 239, 246, 250, 267, 272];

/// What else a change stream is resumed after: FailedToSatisfyReadPreference, StaleEpoch,
/// StaleShardVersion, ElectionInProgress, RetryChangeStream, StaleConfig.
const RESUMABLE: [i32; 6] = [63, 133, 150, 216, 234, 13_388];

/// Whether a request is a statement of a transaction and not its end: its write concern is the end's.
fn is_inside_transaction(request: &Request) -> bool {
    matches!(step_of(&request.operation), Some(Step::Start | Step::Continue))
}

/// Whether the command takes the level of read concern it was given, or its transaction does.
///
/// # Errors
/// 72, in the words of a real server.
fn supports_read_concern(request: &Request) -> Result<(), CommandError> {
    let operation = &request.operation;
    let level = operation.read_concern.level;
    if level == ReadConcernLevel::Local || step_of(operation).is_some() {
        return Ok(());
    }
    let why = match (request.spec.names[0], level) {
        ("count", ReadConcernLevel::Snapshot) => "read concern snapshot not supported".to_owned(),
        ("aggregate", ReadConcernLevel::Linearizable) => match writing_stage(operation) {
            Some(stage) => {
                format!("{stage} cannot be used with a 'linearizable' read concern level")
            }
            None => return Ok(()),
        },
        // Measured: a batch takes whatever it is given, and is read as its cursor is.
        ("getMore", _) => return Ok(()),
        ("aggregate" | "count" | "dbHash" | "distinct" | "find", _) => return Ok(()),
        _ => "read concern not supported".to_owned(),
    };
    Err(CommandError::new(
        INVALID_OPTIONS,
        format!(
            "Command {} does not support {{ readConcern: {{ level: \"{}\", provenance: \
             \"clientSupplied\" }} }} :: caused by :: {why}",
            request.spec.names[0],
            level.as_str(),
        ),
    ))
}

/// The stage of an aggregation that writes, if it has one.
fn writing_stage(operation: &Operation) -> Option<&'static str> {
    let last = operation.body.get_array("pipeline").ok()?.into_iter().last()?.ok()?;
    let name = last.as_document()?.iter_elements().next()?.ok()?.key().as_str().to_owned();
    ["$out", "$merge"].into_iter().find(|stage| *stage == name)
}

impl Mongod {
    /// Takes up one request.
    pub(crate) fn serve(&mut self, now: Instant, connection: ConnectionId, message: Message) {
        let answer = Answer::to(connection, &message);
        self.counters.requests += 1;
        let Some(name) = command_name(&message).map(str::to_owned) else {
            let error = CommandError::new(crate::mongod::error::BAD_VALUE, "no such command: ''");
            self.answer_error(&answer, &error);
            return;
        };
        let Some(spec) = find_command(&name) else {
            let error = CommandError::new(
                crate::mongod::error::COMMAND_NOT_FOUND,
                format!("no such command: '{name}'"),
            );
            self.answer_error(&answer, &error);
            return;
        };
        let is_hello = spec.names.contains(&"hello");
        if answer.legacy && !is_hello {
            let error = CommandError::new(
                crate::mongod::error::UNSUPPORTED_OP_QUERY_COMMAND,
                format!(
                    "Unsupported OP_QUERY command: {name}. The client driver may require an upgrade."
                ),
            );
            self.answer_error(&answer, &error);
            return;
        }
        let last_op = self.clients.get(connection).expect("it has just sent this").last_op;
        let origin = Origin {
            last_op_before: last_op,
            op_id: self.clients.next_operation(),
            requires_api: self.parameters.is_on("requireApiVersion"),
        };
        let request = check_documents(&message)
            .and_then(|()| Request::read(now, answer, message, name, spec, origin));
        match request {
            Ok(request) => self.begin(now, Box::new(request)),
            Err(error) => self.answer_error(&answer, &error),
        }
    }

    /// Takes up a request: for the first time, or again for the next answer of a stream.
    pub(crate) fn begin(&mut self, now: Instant, request: Box<Request>) {
        if let Some(ts) = request.cluster_time
            && let Err(error) = self.hear_cluster_time(now, ts)
        {
            self.finish(now, request, Err(error), None);
            return;
        }
        self.counters.count(&request);
        if let Err(error) = self.authorize(&request) {
            self.finish(now, request, Err(error), None);
            return;
        }
        self.note_app_name(&request.operation);
        if let Some(request) = self.pass_fail_points(now, request) {
            self.pass_gate(now, request);
        }
    }

    /// Gives the request back unless a fail point has something in mind for it.
    pub(crate) fn pass_fail_points(
        &mut self,
        now: Instant,
        mut request: Box<Request>,
    ) -> Option<Box<Request>> {
        let client = self.clients.get(request.answer.connection)?;
        let fail = self.fail_points.fail_command(
            &request.operation,
            request.spec,
            client,
            &mut self.random,
        );
        let Some(FailCommand { close, error, block, write_concern_error, labels }) = fail else {
            return Some(request);
        };
        request.injected.labels = labels;
        request.injected.write_concern_error = write_concern_error;
        let then = match (close, error) {
            (true, _) => Then::Close,
            (false, Some(error)) => Then::Fail(error),
            (false, None) => Then::GoOn,
        };
        match (block, then) {
            (Some(block), then) => self.park(request, Wait::Blocked { until: now + block, then }),
            (None, Then::Close) => self.close_client(request.answer.connection),
            (None, Then::Fail(error)) => self.finish(now, request, Err(error), None),
            (None, Then::GoOn) => return Some(request),
        }
        None
    }

    /// Whether a fail point makes every limit of time expire at once.
    fn times_out_at_once(&self, request: &Request) -> bool {
        request.operation.max_time.is_some()
            && request.spec.names[0] != "getMore"
            && self.fail_points.is_on("maxTimeAlwaysTimeOut")
    }

    /// May the command run here and now? Then it runs, once its read concern lets it.
    pub(crate) fn pass_gate(&mut self, now: Instant, mut request: Box<Request>) {
        if self.times_out_at_once(&request) {
            self.finish(now, request, Err(max_time_expired()), None);
            return;
        }
        if self.fsync_locks > 0 && request.spec.gate == Gate::Write {
            self.park(request, Wait::Unlocked);
            return;
        }
        let gate = self.gate(&request).and_then(|()| supports_read_concern(&request));
        let outcome = match gate.and_then(|()| self.begin_statement(now, &mut request)) {
            Ok(()) => self.read_concern_is_met(now, &request),
            Err(error) => {
                self.wait_for_write_concern(now, request, Err(error));
                return;
            }
        };
        match outcome {
            Ok(true) => self.run(now, request, false),
            Ok(false) if request.max_time_at() > now => self.park(request, Wait::ReadConcern),
            refused => {
                self.abort_after_error(&request);
                let error = refused.err().unwrap_or_else(max_time_expired);
                self.finish(now, request, Err(error), None);
            }
        }
    }

    /// What fails before it runs fails for its transaction as well.
    fn abort_after_error(&mut self, request: &Request) {
        let session = request.operation.session.filter(|_| request.in_transaction);
        if let Some(session) = session {
            self.abort_transaction(session.lsid);
        }
    }

    fn gate(&self, request: &Request) -> Result<(), CommandError> {
        let hello_ok =
            self.clients.get(request.answer.connection).is_some_and(|client| client.hello_ok);
        // A transaction is the primary's, whatever its statements do.
        let in_transaction = request.operation.transaction().is_some();
        if in_transaction && self.repl.set_name.is_some() && !self.repl.is_writable() {
            return Err(CommandError::new(
                NOT_WRITABLE_PRIMARY,
                if hello_ok { "not primary" } else { "not master" },
            ));
        }
        // The `local` database is everybody's own.
        let is_local = request.operation.db == "local";
        match request.spec.gate {
            Gate::Always => Ok(()),
            Gate::Write if self.repl.is_writable() || self.repl.set_name.is_none() => Ok(()),
            Gate::Write if is_local => Ok(()),
            Gate::Write => Err(CommandError::new(
                NOT_WRITABLE_PRIMARY,
                if hello_ok { "not primary" } else { "not master" },
            )),
            Gate::Read if self.repl.set_name.is_none() || self.repl.is_writable() => Ok(()),
            Gate::Read if is_local => {
                let collection = request.operation.body.iter().flatten().next();
                let of_oplog =
                    collection.is_some_and(|(_, value)| value.as_str() == Some("oplog.rs"));
                if of_oplog
                    && matches!(self.repl.state(), MemberState::Startup | MemberState::Rollback)
                {
                    return Err(CommandError::new(
                        NOT_PRIMARY_OR_SECONDARY,
                        "Oplog collection reads are not allowed while in the rollback or startup state.",
                    ));
                }
                Ok(())
            }
            Gate::Read => {
                if let Some(leader) = &self.repl.leader
                    && leader.phase == LeaderPhase::CatchUp
                    && !request.secondary_ok
                {
                    return Err(CommandError::new(
                        NOT_PRIMARY_OR_SECONDARY,
                        "node is in drain mode",
                    ));
                }
                if self.repl.leader.is_some() {
                    Ok(())
                } else if !request.secondary_ok {
                    Err(CommandError::new(
                        NOT_PRIMARY_NO_SECONDARY_OK,
                        if hello_ok {
                            "not primary and secondaryOk=false"
                        } else {
                            "not master and slaveOk=false"
                        },
                    ))
                } else if self.repl.is_readable() {
                    Ok(())
                } else {
                    Err(CommandError::new(
                        NOT_PRIMARY_OR_SECONDARY,
                        match self.repl.state() {
                            MemberState::Recovering => "node is recovering",
                            _ => "node is not in primary or recovering state",
                        },
                    ))
                }
            }
        }
    }

    /// Whether what the read concern asks for is there. Waiting is over when a command runs.
    fn read_concern_is_met(
        &mut self,
        now: Instant,
        request: &Request,
    ) -> Result<bool, CommandError> {
        let concern = request.operation.read_concern;
        if let Some(after) = concern.after_cluster_time {
            if self.repl.config.is_none() {
                return Err(CommandError::new(
                    NOT_YET_INITIALIZED,
                    "node needs to be a replica set member to use read concern",
                ));
            }
            self.check_cluster_time("afterClusterTime", after)?;
            let reached = match concern.level {
                ReadConcernLevel::Majority | ReadConcernLevel::Snapshot => {
                    self.repl.commit.optime.ts
                }
                _ => self.repl.applied.optime.ts,
            };
            if reached < after
                && !crate::mongod::planted::is(
                    crate::mongod::planted::ServerBug::IgnoresAfterClusterTime,
                )
            {
                // A primary that nobody writes to would keep the reader waiting for its next no-op.
                if self.repl.is_writable() && self.repl.applied.optime.ts < after {
                    self.log_noop(now, "read concern afterClusterTime");
                    self.storage_flush_soon(now);
                    return self.read_concern_is_met(now, request);
                }
                return Ok(false);
            }
        }
        if let Some(at) = concern.at_cluster_time {
            self.check_cluster_time("atClusterTime", at)?;
            if self.repl.commit.optime.ts < at {
                return Ok(false);
            }
        }
        if concern.level == ReadConcernLevel::Linearizable && !self.repl.is_writable() {
            return Err(CommandError::new(
                NOT_WRITABLE_PRIMARY,
                "cannot satisfy linearizable read concern on non-primary node",
            ));
        }
        let wants_snapshot =
            matches!(concern.level, ReadConcernLevel::Majority | ReadConcernLevel::Snapshot);
        if wants_snapshot && self.repl.set_name.is_some() && self.repl.commit.optime.is_null() {
            return Err(CommandError::new(
                crate::mongod::error::READ_CONCERN_MAJORITY_NOT_AVAILABLE_YET,
                "Read concern majority reads are currently not possible.",
            ));
        }
        Ok(true)
    }

    /// A reader cannot wait for a time that nobody has heard of: it may never come.
    fn check_cluster_time(&self, field: &str, wanted: Ts) -> Result<(), CommandError> {
        let current = self.repl.cluster_time;
        if wanted <= current {
            return Ok(());
        }
        Err(CommandError::new(
            INVALID_OPTIONS,
            format!(
                "readConcern {field} value must not be greater than the current clusterTime. Requested clusterTime: {{ ts: Timestamp({}, {}) }}; current clusterTime: {{ ts: Timestamp({}, {}) }}",
                wanted.seconds(),
                wanted.increment(),
                current.seconds(),
                current.increment()
            ),
        ))
    }

    /// Runs the command; then its write concern.
    pub(crate) fn run(&mut self, now: Instant, mut request: Box<Request>, waited: bool) {
        request.operation.waited = waited;
        let step = if request.in_transaction { step_of(&request.operation) } else { None };
        let outcome = match step {
            Some(step) => self.run_statement(now, &request, step),
            None => (request.spec.run)(self, now, &request.operation),
        };
        request.watches |= std::mem::take(&mut self.watching);
        if std::mem::take(&mut self.lose_connection) {
            self.close_client(request.answer.connection);
        }
        if self.clients.get(request.answer.connection).is_none() {
            return;
        }
        match outcome {
            // Somebody's open transaction is in the way: who is in none waits for its end.
            Err(error) if error.code == WRITE_CONFLICT && step.is_none() => {
                if request.max_time_at() <= now {
                    self.unfinished.remove(&request.answer.connection);
                    self.wait_for_write_concern(now, request, Err(max_time_expired()));
                } else {
                    self.park(request, Wait::Conflict);
                }
            }
            Ok(Outcome::AwaitData { until }) => self.park(request, Wait::Data { until }),
            Ok(Outcome::Park(wait)) => self.park(request, wait),
            Ok(Outcome::StepDown { until, period_end, force }) => {
                self.try_step_down(now, request, until, period_end, force);
            }
            Ok(Outcome::Reply(reply)) => {
                if request.operation.max_time.is_some()
                    && request.spec.gate == Gate::Read
                    && let Some(id) = open_cursor(&reply)
                {
                    self.cursors.limit_time(id);
                }
                if request.operation.read_concern.level == ReadConcernLevel::Linearizable
                    && !crate::mongod::planted::is(
                        crate::mongod::planted::ServerBug::AnswersLinearizableAtOnce,
                    )
                    && request.spec.gate == Gate::Read
                {
                    let optime = self.log_noop(now, "linearizable read");
                    self.storage_flush_soon(now);
                    self.park(request, Wait::Linearizable { optime, reply });
                } else {
                    self.wait_for_write_concern(now, request, Ok(reply));
                }
            }
            Err(error) => self.wait_for_write_concern(now, request, Err(error)),
        }
    }

    fn wait_for_write_concern(
        &mut self,
        now: Instant,
        request: Box<Request>,
        outcome: Result<RawDocumentBuf, CommandError>,
    ) {
        let waits = request.spec.accepts_write_concern
            && !is_inside_transaction(&request)
            && self.repl.config.is_some()
            && self.repl.leader.is_some()
            && request.operation.db != "local";
        if !waits {
            self.finish(now, request, outcome, None);
            return;
        }
        let concern = request.write_concern.clone().unwrap_or_else(|| self.default_write_concern());
        let client = self.clients.get_mut(request.answer.connection).expect("checked by run");
        let wrote = client.last_op > request.last_op_before;
        if !wrote {
            let waits_all_the_same =
                outcome.as_ref().err().is_none_or(|error| found_by_looking(error.code));
            if !waits_all_the_same || request.spec.gate == Gate::Read {
                self.finish(now, request, outcome, None);
                return;
            }
            // A write that changed nothing waits for what it has seen.
            client.last_op = self.repl.applied.optime;
        }
        let optime = client.last_op;
        match self.satisfied(optime, &concern) {
            Satisfied::Yes => self.finish(now, request, outcome, None),
            Satisfied::Never(error) => self.finish(now, request, outcome, Some(error)),
            Satisfied::NotYet => {
                self.storage_flush_soon(now);
                let until = match concern.timeout_millis {
                    0 => Instant::NEVER,
                    millis => now + std::time::Duration::from_millis(millis),
                };
                self.park(request, Wait::WriteConcern { optime, concern, until, outcome });
            }
        }
    }

    // ---- for the command families

    /// The version of the data that `operation` must read, by its read concern (waiting is over when
    /// a command runs).
    pub(crate) fn read_at(&self, operation: &Operation) -> ReadAt {
        let concern = operation.read_concern;
        match concern.level {
            // A transaction's statements all read its snapshot.
            _ if operation.transaction().is_some() => ReadAt::Newest,
            _ if self.repl.set_name.is_none() => ReadAt::Newest,
            ReadConcernLevel::Majority
                if crate::mongod::planted::is(
                    crate::mongod::planted::ServerBug::ReadsUncommitted,
                ) =>
            {
                ReadAt::Newest
            }
            ReadConcernLevel::Majority => ReadAt::Timestamp(self.repl.commit.optime.ts),
            ReadConcernLevel::Snapshot => {
                ReadAt::Timestamp(concern.at_cluster_time.unwrap_or(self.repl.commit.optime.ts))
            }
            _ => ReadAt::Newest,
        }
    }

    /// A client's connection has written: its write concern waits for this, or a later write.
    pub(crate) fn note_client_write(
        &mut self,
        connection: ConnectionId,
        optime: crate::mongod::optime::OpTime,
    ) {
        if let Some(client) = self.clients.get_mut(connection) {
            client.last_op = client.last_op.max(optime);
        }
    }

    // ---- answering

    /// Answers a request and frees its connection.
    pub(crate) fn finish(
        &mut self,
        now: Instant,
        request: Box<Request>,
        outcome: Result<RawDocumentBuf, CommandError>,
        write_concern_error: Option<CommandError>,
    ) {
        let answer = request.answer;
        if self.clients.get(answer.connection).is_none() {
            return;
        }
        let failed_code = outcome.as_ref().err().map(|error| error.code);
        if failed_code.is_some() {
            self.counters.count_failure(request.spec.names[0]);
        }
        if answer.silent {
            // Nobody hears of a failed unacknowledged write on a non-primary but by the closed connection.
            if failed_code.is_some_and(is_not_primary_error) {
                self.close_client(answer.connection);
            } else {
                self.free(now, answer.connection);
            }
            return;
        }
        let mut reply = RawDocumentBuf::new();
        let injected = request.injected.write_concern_error.clone();
        let wc_code = write_concern_error
            .as_ref()
            .map(|error| error.code)
            .or_else(|| injected.as_ref().and_then(|document| document.get_i32("code").ok()));
        let is_hello = request.spec.names.contains(&"hello");
        let with_version = |code: i32| is_not_primary_error(code) || self.is_shutdown_error(code);
        let shows_version = !is_hello && failed_code.or(wc_code).is_some_and(with_version);
        // Measured: on an error labels and version stand before everything else.
        let labels = self.labels(&request, failed_code, wc_code);
        if failed_code.is_some()
            && let Some(labels) = &labels
        {
            reply.append(cstr!("errorLabels"), labels.clone());
        }
        if shows_version && failed_code.is_some() {
            reply.append(cstr!("topologyVersion"), self.topology_version());
        }
        match &outcome {
            Ok(body) => {
                for (key, value) in body.iter().flatten() {
                    reply.append(key, value);
                    // Measured: they stand right behind the count, before what else a write tells.
                    if key == "n" {
                        self.append_write_fields(&mut reply, &request);
                    }
                }
                if let Some(injected) = injected {
                    reply.append(cstr!("writeConcernError"), injected);
                } else if let Some(error) = &write_concern_error {
                    reply.append(cstr!("writeConcernError"), write_concern_error_document(error));
                }
                // Counts and distinct values of views say so themselves, as an integer.
                if body.get("ok").is_ok_and(|ok| ok.is_none()) {
                    reply.append(cstr!("ok"), 1.0);
                }
            }
            Err(error) => {
                if let Some(injected) = injected {
                    reply.append(cstr!("writeConcernError"), injected);
                } else if let Some(error) = &write_concern_error {
                    reply.append(cstr!("writeConcernError"), write_concern_error_document(error));
                }
                append_error(&mut reply, error);
            }
        }
        if failed_code.is_none()
            && let Some(labels) = labels
        {
            reply.append(cstr!("errorLabels"), labels);
        }
        // Where the command itself went well it stands behind that.
        if shows_version && failed_code.is_none() {
            reply.append(cstr!("topologyVersion"), self.topology_version());
        }
        self.append_times(&mut reply, &request, failed_code.is_none());
        let exhausts = answer.exhaust
            && is_hello
            && failed_code.is_none()
            && request.operation.waited_version().is_some();
        let streams = answer.exhaust
            && request.spec.names[0] == "getMore"
            && outcome.as_ref().is_ok_and(|body| open_cursor(body).is_some());
        let flags = if exhausts || streams { Flags::MORE_TO_COME.0 } else { 0 };
        let request_id =
            self.send_reply(answer.connection, answer.response_to, answer.legacy, flags, &reply);
        if exhausts {
            self.go_on_exhausting(now, request, request_id);
        } else if streams {
            self.go_on_streaming(now, request, request_id);
        } else {
            self.free(now, answer.connection);
        }
    }

    fn free(&mut self, now: Instant, connection: ConnectionId) {
        self.client_is_free(connection);
        // A request that was parked is answered from outside `serve_next`: take up what waits.
        self.serve_next(now, connection);
    }

    /// Answers what could not even be read.
    fn answer_error(&mut self, answer: &Answer, error: &CommandError) {
        if !answer.silent {
            let mut reply = RawDocumentBuf::new();
            append_error(&mut reply, error);
            self.append_cluster_time(&mut reply, self.repl.applied.optime.ts);
            self.send_reply(answer.connection, answer.response_to, answer.legacy, 0, &reply);
        }
        self.client_is_free(answer.connection);
    }

    fn append_write_fields(&self, reply: &mut RawDocumentBuf, request: &Request) {
        let shows = matches!(request.spec.names[0], "insert" | "update" | "delete" | "bulkWrite");
        let Some(client) = self.clients.get(request.answer.connection) else { return };
        if !shows || self.repl.config.is_none() || client.last_op.is_null() {
            return;
        }
        if let Some(election_id) = self.repl.current_election_id() {
            reply.append(cstr!("electionId"), election_id);
        }
        reply.append(cstr!("opTime"), client.last_op.to_raw());
    }

    /// `errorLabels`, if there are any.
    fn labels(
        &self,
        request: &Request,
        code: Option<i32>,
        wc_code: Option<i32>,
    ) -> Option<bson::RawArrayBuf> {
        let mut labels = bson::RawArrayBuf::new();
        let mut any = false;
        if let Some(given) = &request.injected.labels {
            for label in given {
                labels.push(label.as_str());
                any = true;
            }
        } else {
            if let Some(code) = code.filter(|_| request.watches) {
                let lost = [CHANGE_STREAM_FATAL_ERROR, CHANGE_STREAM_HISTORY_LOST];
                if lost.contains(&code) {
                    labels.push("NonResumableChangeStreamError");
                    any = true;
                } else if RETRIABLE.contains(&code) || RESUMABLE.contains(&code) {
                    labels.push("ResumableChangeStreamError");
                    any = true;
                }
            }
            let step = step_of(&request.operation);
            let ends = matches!(step, Some(Step::Commit | Step::Abort));
            let has_number = request.operation.session.is_some_and(|s| s.txn_number.is_some());
            let retryable_write = has_number && step.is_none() && request.spec.retryable_write;
            let retriable = |code: i32| RETRIABLE.contains(&code);
            if step.is_some() {
                let transient = code.is_some_and(|code| match code {
                    NO_SUCH_TRANSACTION => !ends || wc_code.is_none(),
                    code => TRANSIENT_IN_TRANSACTION.contains(&code) || retriable(code) && !ends,
                });
                if transient {
                    labels.push("TransientTransactionError");
                    any = true;
                }
                if ends && (code.is_some_and(retriable) || wc_code.is_some_and(retriable)) {
                    labels.push("RetryableWriteError");
                    any = true;
                }
            }
            if retryable_write && (code.is_some_and(retriable) || wc_code.is_some_and(retriable)) {
                labels.push("RetryableWriteError");
                any = true;
                let wrote = self
                    .clients
                    .get(request.answer.connection)
                    .is_some_and(|client| client.last_op > request.last_op_before);
                // Servers have said so since 6.1.
                let says_so = self.options.version > crate::mongod::ServerVersion::V6_0;
                if code.is_some() && !wrote && says_so {
                    labels.push("NoWritesPerformed");
                }
            }
        }
        any.then_some(labels)
    }

    fn append_times(&self, reply: &mut RawDocumentBuf, request: &Request, succeeded: bool) {
        if succeeded && request.spec.names[0] == "replSetInitiate" {
            // Measured: it is answered while the member is on its way to its first state.
            return;
        }
        let client = self.clients.get(request.answer.connection);
        let wrote = client.is_some_and(|client| client.last_op > request.last_op_before);
        let level = request.operation.read_concern.level;
        let ts = if wrote {
            client.map_or(Ts::NULL, |client| client.last_op.ts)
        } else if matches!(level, ReadConcernLevel::Majority | ReadConcernLevel::Snapshot) {
            self.repl.commit.optime.ts
        } else {
            self.repl.applied.optime.ts
        };
        self.append_cluster_time(reply, ts);
    }

    /// `$clusterTime` and `operationTime`, where there is a set and a clock.
    fn append_cluster_time(&self, reply: &mut RawDocumentBuf, operation_time: Ts) {
        // Measured: a member that is neither PRIMARY nor SECONDARY does not tell the time.
        let tells = matches!(self.repl.state(), MemberState::Primary | MemberState::Secondary);
        if !tells || self.repl.cluster_time.is_null() {
            return;
        }
        let hash = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0; 20] };
        reply.append(
            cstr!("$clusterTime"),
            rawdoc! {
                "clusterTime": Timestamp::from(self.repl.cluster_time),
                "signature": { "hash": hash, "keyId": 0_i64 },
            },
        );
        reply.append(cstr!("operationTime"), Timestamp::from(operation_time));
    }

    /// A client knows a later cluster time.
    fn hear_cluster_time(&mut self, now: Instant, ts: Ts) -> Result<(), CommandError> {
        let wall_seconds = (self.wall_millis(now) / 1_000) as u32;
        if ts.seconds() > wall_seconds.saturating_add(CLOCK_DRIFT_SECONDS_MAX) {
            return Err(CommandError::new(
                crate::mongod::error::CLUSTER_TIME_FAILS_RATE_LIMITER,
                format!(
                    "New $clusterTime, {}, is too far from this node's wall clock time, {wall_seconds}.",
                    ts.seconds()
                ),
            ));
        }
        if self.repl.config.is_some() && ts > self.repl.cluster_time {
            self.repl.cluster_time = ts;
        }
        Ok(())
    }

    fn is_shutdown_error(&self, code: i32) -> bool {
        self.repl.quiesce_until.is_some()
            && (code == SHUTDOWN_IN_PROGRESS || code == INTERRUPTED_AT_SHUTDOWN)
    }
}

/// Whatever reads a request's documents may descend by recursion and take them for well-formed.
///
/// # Errors
/// 15 Overflow: nested too deep; 22 InvalidBSON.
fn check_documents(message: &Message) -> Result<(), CommandError> {
    check_nesting(&message.body)?;
    let mut documents = message.sequences.iter().flat_map(|(_, documents)| documents);
    documents.try_for_each(|document| check_nesting(document))
}

/// Whether a write that fails with this had looked at the data before: then, measured, its write concern
/// is waited for as if it had written. What is wrong with a request itself is answered at once.
fn found_by_looking(code: i32) -> bool {
    matches!(
        code,
        crate::mongod::error::NAMESPACE_NOT_FOUND
            | crate::mongod::error::INDEX_NOT_FOUND
            | crate::mongod::error::NAMESPACE_EXISTS
            | crate::mongod::error::INDEX_OPTIONS_CONFLICT
            | crate::mongod::error::INDEX_KEY_SPECS_CONFLICT
    )
}

/// The cursor that a reply leaves open.
fn open_cursor(body: &bson::RawDocument) -> Option<i64> {
    let id = body.get_document("cursor").and_then(|cursor| cursor.get_i64("id")).ok()?;
    (id != 0).then_some(id)
}

/// The category NotPrimaryError.
fn is_not_primary_error(code: i32) -> bool {
    matches!(
        code,
        PRIMARY_STEPPED_DOWN
            | NOT_WRITABLE_PRIMARY
            | INTERRUPTED_DUE_TO_REPL_STATE_CHANGE
            | NOT_PRIMARY_NO_SECONDARY_OK
            | NOT_PRIMARY_OR_SECONDARY
    )
}

pub(crate) fn copy_fields(to: &mut RawDocumentBuf, from: &bson::RawDocument) {
    for (key, value) in from.iter().flatten() {
        to.append(key, value);
    }
}

/// `codeName` of codes without a name of their own.
pub(crate) fn name_of(code: i32) -> String {
    match code_name(code) {
        "" => format!("Location{code}"),
        name => name.to_owned(),
    }
}

fn append_error(reply: &mut RawDocumentBuf, error: &CommandError) {
    reply.append(cstr!("ok"), 0.0);
    reply.append(cstr!("errmsg"), error.message.as_str());
    reply.append(cstr!("code"), error.code);
    reply.append(cstr!("codeName"), name_of(error.code).as_str());
    if let Some(extra) = &error.extra {
        copy_fields(reply, extra);
    }
}

fn write_concern_error_document(error: &CommandError) -> RawDocumentBuf {
    let mut document = rawdoc! {
        "code": error.code,
        "codeName": name_of(error.code),
        "errmsg": error.message.as_str(),
    };
    if let Some(extra) = &error.extra {
        copy_fields(&mut document, extra);
    }
    document
}

impl Operation {
    /// `topologyVersion.counter` of an awaitable hello.
    pub(crate) fn waited_version(&self) -> Option<i64> {
        self.body.get_document("topologyVersion").ok()?.get_i64("counter").ok()
    }

    /// A field of the command document.
    pub(crate) fn argument(&self, name: &str) -> Option<RawBsonRef<'_>> {
        self.body.get(name).ok().flatten()
    }
}
