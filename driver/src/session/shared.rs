//! What an explicit session knows; shared by the session and the operations that use it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{RawDocument, Timestamp};

use super::transaction::{Commit, Transaction, TransactionOptions, TransactionState};
use super::{ClusterTime, ServerSession};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::Cluster;
use crate::operation::{Command, ReadConcernUse, Retry};
use crate::options::{ReadConcern, ReadConcernLevel, SelectionCriteria};
use crate::sync::lock;
use crate::telemetry::Span;
use crate::time::Instant;
use crate::wire::find;

/// What a session is made with.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedOptions {
    /// Reads and writes see at least what earlier operations did.
    pub(crate) causal_consistency: bool,
    /// All reads see the same moment.
    pub(crate) snapshot: bool,
    /// Which moment, if it is known from elsewhere.
    pub(crate) snapshot_time: Option<Timestamp>,
    /// What transactions use where nothing else is said.
    pub(crate) default_transaction_options: Option<TransactionOptions>,
    /// `defaultTimeoutMS`, or the client's `timeoutMS`.
    pub(crate) default_timeout: Option<Duration>,
}

/// What an explicit session knows.
pub(crate) struct SharedSession {
    cluster: Arc<Cluster>,
    options: SharedOptions,
    /// The newest cluster time this session has seen or was told.
    pub(crate) cluster_time: ClusterTime,
    state: Mutex<State>,
}

struct State {
    server: Option<ServerSession>,
    operation_time: Option<Timestamp>,
    snapshot_time: Option<Timestamp>,
    transaction: Transaction,
    /// The transaction's span.
    span: Option<Arc<dyn Span>>,
    /// When the running `with_transaction` must be done, if it has a `timeoutMS`.
    limit: Option<Instant>,
}

/// What a session adds to one command.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SessionFields {
    /// The UUID of the `lsid`.
    pub(crate) id: [u8; 16],
    /// The number of the transaction, if the command belongs to one.
    pub(crate) transaction: Option<i64>,
    /// Whether it is the transaction's first command.
    pub(crate) first: bool,
    /// `readConcern.level`
    pub(crate) level: Option<ReadConcernLevel>,
    /// `readConcern.afterClusterTime`
    pub(crate) after_cluster_time: Option<Timestamp>,
    /// `readConcern.atClusterTime`
    pub(crate) at_cluster_time: Option<Timestamp>,
}

impl SharedSession {
    /// A session that has not been used.
    pub(crate) fn new(cluster: Arc<Cluster>, options: SharedOptions) -> Arc<Self> {
        let state = State {
            server: Some(cluster.take_session()),
            operation_time: None,
            snapshot_time: options.snapshot_time,
            transaction: Transaction::default(),
            span: None,
            limit: None,
        };
        let cluster_time = ClusterTime::default();
        Arc::new(SharedSession { cluster, options, cluster_time, state: Mutex::new(state) })
    }

    /// What it was made with.
    pub(crate) fn options(&self) -> &SharedOptions {
        &self.options
    }

    /// The UUID of its `lsid`; `None` once it has ended.
    pub(crate) fn id(&self) -> Option<[u8; 16]> {
        lock(&self.state).server.as_ref().map(|session| session.id)
    }

    /// The number of its transaction, or of its last retryable write.
    pub(crate) fn txn_number(&self) -> Option<i64> {
        lock(&self.state).server.as_ref().map(|session| session.txn_number)
    }

    /// Whether a network error left its state on the server unknown.
    pub(crate) fn is_dirty(&self) -> bool {
        lock(&self.state).server.as_ref().is_some_and(|session| session.dirty)
    }

    /// When the server said it had done the last operation.
    pub(crate) fn operation_time(&self) -> Option<Timestamp> {
        lock(&self.state).operation_time
    }

    /// The moment its snapshot reads see.
    pub(crate) fn snapshot_time(&self) -> Option<Timestamp> {
        lock(&self.state).snapshot_time
    }

    /// Later operations see at least what was there at `time`.
    pub(crate) fn advance_operation_time(&self, time: Timestamp) {
        lock(&self.state).advance(time);
    }

    /// Whether it belongs to this client.
    pub(crate) fn belongs_to(&self, cluster: &Arc<Cluster>) -> bool {
        Arc::ptr_eq(&self.cluster, cluster)
    }

    /// Where its transaction stands.
    pub(crate) fn transaction_state(&self) -> TransactionState {
        lock(&self.state).transaction.state()
    }

    /// Whether operations of this session belong to a transaction.
    pub(crate) fn in_transaction(&self) -> bool {
        lock(&self.state).transaction.is_open()
    }

    /// Who answers the reads of the open transaction.
    pub(crate) fn transaction_criteria(&self) -> Option<SelectionCriteria> {
        lock(&self.state).transaction.options().selection_criteria.clone()
    }

    /// Starts a transaction under the session's next number.
    pub(crate) fn start_transaction(
        &self,
        options: TransactionOptions,
        span: impl FnOnce() -> Option<Arc<dyn Span>>,
    ) -> Result<()> {
        if self.options.snapshot {
            let message = "Transactions are not supported in snapshot sessions".to_owned();
            return Err(Error::new(ErrorKind::Transaction { message }));
        }
        let mut state = lock(&self.state);
        state.transaction.start(options)?;
        let Some(server) = &mut state.server else { return Err(ended()) };
        server.next_txn_number();
        state.span = span();
        Ok(())
    }

    /// Commits the transaction; `None` if there is nothing to be sent.
    pub(crate) fn commit_transaction(&self) -> Result<Option<Commit>> {
        lock(&self.state).transaction.commit()
    }

    /// A commit may have been seen by the server.
    pub(crate) fn commit_was_seen(&self) {
        lock(&self.state).transaction.commit_was_seen();
    }

    /// Aborts the transaction. Returns the write concern to send it with, if it is to be sent.
    pub(crate) fn abort_transaction(&self) -> Result<Option<TransactionOptions>> {
        let mut state = lock(&self.state);
        let send = state.transaction.abort()?;
        Ok(send.then(|| state.transaction.options().clone()))
    }

    /// The span operations of this session belong to.
    pub(crate) fn span(&self) -> Option<Arc<dyn Span>> {
        lock(&self.state).span.clone()
    }

    /// The transaction is over for those who watch.
    pub(crate) fn end_span(&self) {
        if let Some(span) = lock(&self.state).span.take() {
            span.end();
        }
    }

    /// When the running `with_transaction` must be done.
    pub(crate) fn limit(&self) -> Option<Instant> {
        lock(&self.state).limit
    }

    /// Sets when the running `with_transaction` must be done.
    pub(crate) fn set_limit(&self, limit: Option<Instant>) {
        lock(&self.state).limit = limit;
    }

    /// Gives the server session back; nothing can be run in it any more.
    pub(crate) fn end(&self) {
        let server = lock(&self.state).server.take();
        if let Some(server) = server {
            self.cluster.give_back_session(server);
        }
    }

    /// What this session adds to `command`, which is about to be sent.
    pub(super) fn fields(&self, command: &Command) -> Result<SessionFields> {
        let mut state = lock(&self.state);
        let Some(server) = &state.server else { return Err(ended()) };
        let mut fields = SessionFields { id: server.id, ..SessionFields::default() };
        let number = server.txn_number;
        if command.retry == Retry::Ending {
            fields.transaction = Some(number);
            return Ok(fields);
        }
        if let Some(first) = state.transaction.command() {
            fields.transaction = Some(number);
            fields.first = first;
            if first {
                let concern = state.transaction.options().read_concern.as_ref();
                fields.level = concern.map(|concern| concern.level.clone());
                fields.after_cluster_time = state.operation_time.filter(|_| {
                    self.options.causal_consistency
                        && !crate::planted::is(crate::planted::DriverBug::ForgetsOperationTime)
                });
            }
            return Ok(fields);
        }
        let level = |concern: Option<&ReadConcern>| concern.map(|concern| concern.level.clone());
        if self.options.snapshot && !matches!(&*command.name, "getMore" | "killCursors") {
            // On every command, so that the server refuses those that cannot.
            fields.level = Some(ReadConcernLevel::Snapshot);
            fields.at_cluster_time = state.snapshot_time;
        } else if command.concern != ReadConcernUse::Never {
            fields.level = level(command.read_concern.as_ref());
            fields.after_cluster_time = state.operation_time.filter(|_| {
                self.options.causal_consistency
                    && !crate::planted::is(crate::planted::DriverBug::ForgetsOperationTime)
            });
        }
        Ok(fields)
    }

    /// The first command of a transaction is to be sent as its first again.
    pub(super) fn take_back_first(&self) {
        lock(&self.state).transaction.take_back_first();
    }

    /// Takes what a reply says about times.
    pub(super) fn replied(&self, now: Instant, command: &Command, reply: &RawDocument) {
        let mut state = lock(&self.state);
        if let Some(server) = &mut state.server {
            server.last_use = now;
        }
        if let Some(RawBsonRef::Timestamp(time)) = find(reply, "operationTime") {
            state.advance(time);
        }
        if self.options.snapshot && state.snapshot_time.is_none() {
            let at = match &*command.name {
                "distinct" => reply.get_timestamp("atClusterTime").ok(),
                "find" | "aggregate" => reply
                    .get_document("cursor")
                    .ok()
                    .and_then(|cursor| cursor.get_timestamp("atClusterTime").ok()),
                _ => None,
            };
            state.snapshot_time = at;
        }
        drop(state);
        if let Some(RawBsonRef::Document(time)) = find(reply, "$clusterTime") {
            self.cluster_time.advance(time);
        }
    }

    /// Changes the server session.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut ServerSession) -> R) -> Option<R> {
        lock(&self.state).server.as_mut().map(change)
    }
}

impl State {
    fn advance(&mut self, time: Timestamp) {
        let later = |known: Timestamp| (time.time, time.increment) > (known.time, known.increment);
        if self.operation_time.is_none_or(later) {
            self.operation_time = Some(time);
        }
    }
}

impl Drop for SharedSession {
    fn drop(&mut self) {
        self.end();
    }
}

fn ended() -> Error {
    Error::invalid_argument("the session has ended")
}
