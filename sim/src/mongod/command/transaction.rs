//! Multi-document transactions: `commitTransaction`, `abortTransaction`, and what makes another
//! command a statement of one.
//!
//! A statement enters its session's open transaction (`Storage::enter`) and then runs like any other:
//! what it reads is the snapshot with the transaction's own writes, what it writes is staged. Any error
//! aborts the transaction. The commit writes everything by one oplog entry (several where it takes more
//! than 16 MB), which is when others see it.

use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{document, each_argument, each_field, string};
use super::operation::{Operation, OplogDraft, Outcome, ReadConcernLevel};
use super::request::Request;
use super::spec::{CommandSpec, Gate};
use super::wait::Wait;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{InnerOperation, OpKind, OpSession};
use crate::mongod::optime::OpTime;
use crate::mongod::session::{Begun, Step};
use crate::mongod::storage::text::shell_document;
use crate::mongod::{Mongod, ServerVersion, WAKE_TRANSACTION};

const fn end(names: &'static [&'static str], run: super::spec::Run) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: true,
        run,
    }
}

pub(crate) const COMMANDS: &[CommandSpec] =
    &[end(&["commitTransaction"], commit), end(&["abortTransaction"], abort)];

/// The commands that are statements of transactions.
const STATEMENTS: [&str; 15] = [
    "abortTransaction",
    "aggregate",
    "bulkWrite",
    "commitTransaction",
    "create",
    "createIndexes",
    "delete",
    "distinct",
    "find",
    "findAndModify",
    "getMore",
    "insert",
    "killCursors",
    "killSessions",
    "update",
];

/// The commands that have nothing to do with sessions.
const WITHOUT_SESSION: [&str; 13] = [
    "authenticate",
    "buildInfo",
    "configureFailPoint",
    "connectionStatus",
    "getnonce",
    "hello",
    "isMaster",
    "logout",
    "ping",
    "replSetHeartbeat",
    "saslContinue",
    "saslStart",
    "whatsmyuri",
];

/// What an entry's operations may take before the next entry begins, in bytes.
const MAX_ENTRY_BYTES: usize = 16 << 20;

/// What a statement is to its transaction.
pub(crate) fn step_of(operation: &Operation) -> Option<Step> {
    let session = operation.session.filter(|session| session.in_transaction)?;
    Some(match operation.name.as_str() {
        "commitTransaction" => Step::Commit,
        "abortTransaction" => Step::Abort,
        _ if session.start_transaction => Step::Start,
        _ => Step::Continue,
    })
}

/// Whether a request may be a statement of a transaction, as far as it can be told from itself.
///
/// # Errors
/// 263 OperationNotSupportedInTransaction, 72 InvalidOptions.
pub(crate) fn check_statement(request: &Request) -> Result<(), CommandError> {
    let operation = &request.operation;
    let Some(session) = operation.session.filter(|session| session.in_transaction) else {
        return Ok(());
    };
    let refused =
        |message: String| CommandError::new(error::OPERATION_NOT_SUPPORTED_IN_TRANSACTION, message);
    let name = request.spec.names[0];
    if WITHOUT_SESSION.contains(&name) {
        return Err(refused("This command is not supported in transactions".into()));
    }
    if name == "count" {
        return Err(refused(
            "Cannot run 'count' in a multi-document transaction. Please see \
             http://dochub.mongodb.org/core/transaction-count for a recommended alternative."
                .into(),
        ));
    }
    if !STATEMENTS.contains(&name) {
        return Err(refused(format!("Cannot run '{name}' in a multi-document transaction.")));
    }
    match operation.db.as_str() {
        "config" => {
            return Err(refused(
                "Cannot run command against the config database in a transaction.".into(),
            ));
        }
        "local" => {
            return Err(refused(
                "Cannot run command against the 'local' database in a transaction.".into(),
            ));
        }
        _ => {}
    }
    let ends = matches!(name, "commitTransaction" | "abortTransaction");
    if ends {
        check_fields(name, operation)?;
    }
    if session.start_transaction {
        match name {
            "commitTransaction" => {
                return Err(refused("Cannot start a transaction with a commit".into()));
            }
            "abortTransaction" => {
                return Err(refused("Cannot start a transaction with an abort".into()));
            }
            "killCursors" => {
                return Err(refused(
                    "Cannot run killCursors as the first operation in a multi-document \
                     transaction."
                        .into(),
                ));
            }
            _ => {}
        }
    }
    let invalid = |message: &str| Err(CommandError::new(error::INVALID_OPTIONS, message));
    if request.write_concern.is_some() && !ends {
        return invalid("writeConcern is not allowed within a multi-statement transaction");
    }
    let level = operation.read_concern.level;
    if matches!(level, ReadConcernLevel::Available | ReadConcernLevel::Linearizable) {
        return invalid(
            "The readConcern level must be either 'local' (default), 'majority' or 'snapshot' in \
             order to run in a transaction",
        );
    }
    let given = operation.body.get_document("readConcern").is_ok_and(|given| !given.is_empty());
    if given && !session.start_transaction {
        return invalid("Only the first command in a transaction may specify a readConcern");
    }
    Ok(())
}

fn commit(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let lsid = session_of("commitTransaction", op)?;
    if !server.storage.has_transaction(lsid) {
        // Committed before: wait for it, and whatever came with it, to be replicated.
        let last = server.repl.applied.optime;
        server.note_client_write(op.connection, last);
        return Ok(Outcome::Reply(RawDocumentBuf::new()));
    }
    let operations = match server.storage.end_transaction(lsid) {
        Ok(operations) => operations,
        Err(error) => {
            server.transaction_is_over(lsid);
            return Err(error);
        }
    };
    let session = op.session.and_then(|session| session.txn_number).unwrap_or_default();
    if operations.is_empty() {
        let default = server.default_write_concern();
        let concern = op.write_concern.as_ref().unwrap_or(&default).to_raw();
        let message =
            format!("read-only transaction with writeConcern {}", shell_document(&concern));
        let optime = server.log_message(now, &message);
        server.note_client_write(op.connection, optime);
        server.transactions.committed(lsid, false);
        server.wake(WAKE_TRANSACTION);
        return Ok(Outcome::Reply(RawDocumentBuf::new()));
    }
    let logged = log_commit(server, now, lsid, session, operations);
    let optime = match logged {
        Ok(optime) => optime,
        Err(error) => {
            server.transaction_is_over(lsid);
            return Err(error);
        }
    };
    server.note_client_write(op.connection, optime);
    server.transactions.committed(lsid, true);
    server.wake(WAKE_TRANSACTION);
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// Writes the entries of a commit: the last one makes everything visible.
fn log_commit(
    server: &mut Mongod,
    now: Instant,
    lsid: Uuid,
    txn_number: i64,
    operations: Vec<InnerOperation>,
) -> Result<OpTime, CommandError> {
    let count = operations.len();
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (RawArrayBuf::new(), 0);
    for operation in &operations {
        let shown = operation.to_document();
        let size = shown.as_bytes().len();
        if bytes > 0 && bytes + size > MAX_ENTRY_BYTES {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        chunk.push(shown);
        bytes += size;
    }
    chunks.push(chunk);
    let chained = chunks.len() > 1;
    let last = chunks.len() - 1;
    let mut optime = OpTime::NULL;
    for (number, chunk) in chunks.into_iter().enumerate() {
        let mut object = RawDocumentBuf::new();
        object.append(cstr!("applyOps"), chunk);
        if number < last {
            object.append(cstr!("partialTxn"), true);
        } else if chained {
            object.append(cstr!("count"), count as i64);
        }
        let session = OpSession {
            lsid,
            txn_number,
            statement_ids: Vec::new(),
            previous: OpTime::NULL,
            retry_image: None,
        };
        optime = server.log(
            now,
            OplogDraft {
                kind: OpKind::Command,
                ns: "admin.$cmd".into(),
                collection_uuid: None,
                object: Arc::new(object),
                object2: None,
                upsert: false,
                session: Some(Box::new(session)),
            },
        )?;
    }
    Ok(optime)
}

fn abort(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let lsid = session_of("abortTransaction", op)?;
    server.abort_transaction(lsid);
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// The session of a command that ends a transaction.
fn session_of(command: &str, op: &Operation) -> Result<Uuid, CommandError> {
    match op.session.filter(|session| session.in_transaction) {
        Some(session) => Ok(session.lsid),
        None => Err(CommandError::new(
            error::COMMAND_FAILED,
            format!("{command} must be run within a transaction"),
        )),
    }
}

/// The arguments of a command that ends a transaction.
fn check_fields(command: &str, op: &Operation) -> Result<(), CommandError> {
    each_argument(command, &op.body, |field, value| match field {
        "commitTimestamp" => Ok(true),
        "recoveryToken" => {
            let full = format!("{command}.recoveryToken");
            each_field(&full, document(&full, value)?, |field, value| {
                if field == "recoveryShardId" {
                    string(&format!("{full}.{field}"), value)?;
                }
                Ok(field == "recoveryShardId")
            })?;
            Ok(true)
        }
        _ => Ok(false),
    })
}

impl InnerOperation {
    /// The operation as an `applyOps` entry lists it.
    fn to_document(&self) -> RawDocumentBuf {
        let mut shown = rawdoc! { "op": self.kind.letter(), "ns": &*self.ns };
        if let Some(uuid) = self.collection_uuid {
            shown.append(cstr!("ui"), Binary::from_uuid(uuid));
        }
        shown.append(cstr!("o"), &*self.object);
        if let Some(object2) = &self.object2 {
            shown.append(cstr!("o2"), &**object2);
        }
        if self.upsert {
            shown.append(cstr!("b"), true);
        }
        shown
    }
}

impl Mongod {
    /// A statement's transaction is looked up, or begun; what the session had before is aborted.
    ///
    /// # Errors
    /// As [`crate::mongod::session::Transactions::step`].
    pub(crate) fn begin_statement(
        &mut self,
        now: Instant,
        request: &mut Request,
    ) -> Result<(), CommandError> {
        let Some(session) = request.operation.session else { return Ok(()) };
        let lsid = session.lsid;
        self.logical_sessions.touch(lsid, now);
        for over in self.logical_sessions.look(now) {
            self.cursors.close_session(over);
            self.abort_transaction(over);
        }
        let Some(txn_number) = session.txn_number else { return Ok(()) };
        // It kills sessions, and has none itself.
        if request.spec.names[0] == "killSessions" {
            return Ok(());
        }
        let Some(step) = step_of(&request.operation) else {
            if self.transactions.retryable_write(lsid, txn_number)? {
                self.transaction_is_over(lsid);
            }
            return Ok(());
        };
        if request.in_transaction {
            return Ok(());
        }
        let begun = self.transactions.step(&self.sessions, now, lsid, txn_number, step);
        if step == Step::Start && begun.is_ok() && self.storage.abort_transaction(lsid) {
            self.wake(WAKE_TRANSACTION);
        }
        match begun {
            Ok(Begun::InProgress | Begun::Committed) => {
                request.in_transaction = true;
                if step == Step::Start {
                    self.arm_parked_timer();
                }
                Ok(())
            }
            Err(error) => {
                if step == Step::Commit && error.code == error::NO_SUCH_TRANSACTION {
                    // What the client is told must not be rolled back: it may start anew.
                    let optime = self.log_message(now, "NoSuchTransaction error");
                    self.note_client_write(request.operation.connection, optime);
                }
                Err(error)
            }
        }
    }

    /// Runs a statement within its transaction; any error aborts that.
    pub(crate) fn run_statement(
        &mut self,
        now: Instant,
        request: &Request,
        step: Step,
    ) -> Result<Outcome, CommandError> {
        let operation = &request.operation;
        let lsid = operation.session.expect("a statement has a session").lsid;
        if matches!(step, Step::Commit | Step::Abort) {
            return (request.spec.run)(self, now, operation);
        }
        if !self.storage.has_transaction(lsid) {
            let newest = self.repl.applied.optime.ts;
            let read_at = operation.read_concern.at_cluster_time.unwrap_or(newest);
            if read_at < self.storage.oldest() {
                self.transactions.aborted(lsid);
                return Err(super::cursor::snapshot_too_old(read_at));
            }
            self.storage.open_transaction(lsid, read_at);
        }
        self.storage.enter(lsid);
        let outcome = self
            .lock_collection(request)
            .and_then(|()| (request.spec.run)(self, now, operation))
            .map_err(|error| in_words_of(error, operation));
        self.storage.leave();
        let failed = match &outcome {
            Ok(Outcome::Reply(reply)) => has_write_errors(reply),
            Ok(_) => false,
            Err(_) => true,
        };
        if failed {
            self.abort_transaction(lsid);
        }
        outcome
    }

    /// The collection a statement works on: locked until the transaction ends.
    fn lock_collection(&mut self, request: &Request) -> Result<(), CommandError> {
        let operation = &request.operation;
        let first = operation.body.iter().next().and_then(Result::ok);
        let Some((_, RawBsonRef::String(collection))) = first else {
            return check_pipeline(operation);
        };
        let namespace = operation.namespace(collection);
        if request.spec.names[0] == "aggregate" {
            check_pipeline(operation)?;
        }
        if request.spec.gate == Gate::Write && collection.starts_with("system.") {
            return Err(CommandError::new(
                50_791,
                format!("Cannot write to system collection {namespace} within a transaction."),
            ));
        }
        if !self.storage.has_touched(&namespace) && self.is_wanted_whole(&namespace) {
            return Err(CommandError::new(
                error::LOCK_TIMEOUT,
                format!("Unable to acquire IX lock on '{{Collection, {namespace}}}' within 5ms."),
            ));
        }
        let read_at = self.storage.transaction_read_at();
        if let Some(read_at) = read_at.filter(|_| self.options.version < ServerVersion::V8_0) {
            self.storage.check_minimum(&namespace, read_at)?;
        }
        self.storage.touch(&namespace);
        Ok(())
    }

    /// Whether somebody waits to drop or change a collection: who comes later gets no lock.
    fn is_wanted_whole(&self, namespace: &str) -> bool {
        self.parked.iter().any(|parked| {
            let operation = &parked.request.operation;
            let first = operation.body.iter().next().and_then(Result::ok);
            let is_it = match first {
                Some((_, RawBsonRef::String(name))) => {
                    name == namespace || operation.namespace(name) == namespace
                }
                _ => namespace.starts_with(&format!("{}.", operation.db)),
            };
            is_it && matches!(parked.wait, Wait::Conflict) && changes_catalog(&parked.request)
        })
    }

    /// Ends a session's transaction in progress, if there is one, as if it had never been.
    pub(crate) fn abort_transaction(&mut self, lsid: Uuid) {
        self.transactions.aborted(lsid);
        self.transaction_is_over(lsid);
    }

    /// Lets go of what a transaction held: those who waited for it are looked at.
    fn transaction_is_over(&mut self, lsid: Uuid) {
        self.transactions.aborted(lsid);
        self.storage.abort_transaction(lsid);
        self.wake(WAKE_TRANSACTION);
    }

    /// Aborts every transaction and forgets the numbers of those that left no entry: the member does
    /// not lead any more.
    pub(crate) fn abort_all_transactions(&mut self) {
        self.transactions.clear();
        self.storage.abort_transactions();
        self.wake(WAKE_TRANSACTION);
    }

    /// Aborts the transactions that have been open longer than `transactionLifetimeLimitSeconds`.
    pub(crate) fn abort_expired_transactions(&mut self, now: Instant) {
        for lsid in self.transactions.expired(now) {
            self.abort_transaction(lsid);
        }
    }
}

/// Whether the stages of an aggregation may run in a transaction.
///
/// # Errors
/// 263 OperationNotSupportedInTransaction.
fn check_pipeline(operation: &Operation) -> Result<(), CommandError> {
    let Ok(pipeline) = operation.body.get_array("pipeline") else { return Ok(()) };
    for stage in pipeline.into_iter().flatten() {
        let name = stage.as_document().and_then(|stage| stage.iter().next()?.ok());
        let Some((name, _)) = name else { continue };
        let message = match name.as_str() {
            name @ ("$out" | "$merge") => format!("{name} cannot be used in a transaction"),
            name @ ("$collStats" | "$indexStats" | "$planCacheStats") => {
                format!("Stage not supported inside of a multi-document transaction: {name}")
            }
            name @ ("$changeStream" | "$currentOp" | "$listLocalSessions" | "$listSessions") => {
                format!(
                    "Operation not permitted in transaction :: caused by :: Aggregation stage {name} \
                     cannot run within a multi-document transaction."
                )
            }
            _ => continue,
        };
        return Err(CommandError::new(error::OPERATION_NOT_SUPPORTED_IN_TRANSACTION, message));
    }
    Ok(())
}

/// Whether a command takes a collection, or a database, for itself alone.
fn changes_catalog(request: &Request) -> bool {
    matches!(
        request.spec.names[0],
        "collMod" | "createIndexes" | "drop" | "dropDatabase" | "dropIndexes" | "renameCollection"
    )
}

fn has_write_errors(reply: &RawDocument) -> bool {
    reply.get("writeErrors").is_ok_and(|errors| errors.is_some())
        || reply.get_i32("nErrors").is_ok_and(|errors| errors > 0)
}

/// findAndModify says where its errors come from.
fn in_words_of(error: CommandError, operation: &Operation) -> CommandError {
    let find_and_modify = operation.name.eq_ignore_ascii_case("findAndModify");
    let prefix = "Plan executor error during findAndModify :: caused by :: ";
    if !find_and_modify || error.code != error::WRITE_CONFLICT || error.message.starts_with(prefix)
    {
        return error;
    }
    CommandError { message: format!("{prefix}{}", error.message), ..error }
}
