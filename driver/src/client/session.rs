//! Explicit sessions and their transactions.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, Timestamp, Uuid, doc};

use super::Client;
use super::terms::{Terms, deadline};
use crate::error::{Error, ErrorKind, Result, labels};
use crate::executor::Scope;
use crate::operation::{Command, abort_transaction, check_write_concern, commit_transaction};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};
use crate::session::{
    SessionSlot, SharedOptions, SharedSession, TransactionOptions, TransactionState,
};
use crate::telemetry::transaction_span;
use crate::time::Instant;

/// How long transactions are tried again where no `timeoutMS` is set.
const RETRY_TIME: Duration = Duration::from_secs(120);
/// The pause before a transaction is run again starts from this.
const BACKOFF_INITIAL: Duration = Duration::from_millis(5);
/// It never grows beyond this.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// MaxTimeMSExpired: the commit had its time.
const MAX_TIME_EXPIRED: i32 = 50;
/// UnsatisfiableWriteConcern and UnknownReplWriteConcern: a commit under them is known to be done.
const KNOWN_OUTCOMES: [i32; 2] = [100, 79];

/// What can be said about a session.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Whether reads and writes see at least what earlier operations of the session did; default true,
    /// but false with `snapshot`.
    pub causal_consistency: Option<bool>,
    /// Whether all reads see the same moment.
    pub snapshot: Option<bool>,
    /// Which moment that is, as another session's [`ClientSession::snapshot_time`] told it.
    pub snapshot_time: Option<Timestamp>,
    /// What transactions use where nothing else is said.
    pub default_transaction_options: Option<TransactionOptions>,
    /// `defaultTimeoutMS`: the `timeoutMS` of commit, abort and `with_transaction`; default: that of
    /// the client.
    pub default_timeout: Option<Duration>,
}

/// A session: operations given it belong together for the server, and, if it is causally consistent,
/// see what its earlier operations did, whichever member answers.
///
/// One task at a time uses it. A transaction that is open when it is dropped is aborted.
pub struct ClientSession {
    client: Client,
    shared: Arc<SharedSession>,
}

/// Starts a transaction: see [`ClientSession::start_transaction`].
#[must_use = "nothing happens until it is awaited"]
pub struct StartTransaction<'a> {
    session: &'a ClientSession,
    options: TransactionOptions,
    timeout: Option<Duration>,
}

impl ClientSession {
    pub(super) fn new(client: Client, options: SessionOptions) -> Result<Self> {
        let snapshot = options.snapshot.unwrap_or(false);
        if snapshot && options.causal_consistency == Some(true) {
            let message = "a session is either causally consistent or reads a snapshot";
            return Err(Error::invalid_argument(message));
        }
        if options.snapshot_time.is_some() && !snapshot {
            let message = "snapshot_time needs snapshot: true";
            return Err(Error::invalid_argument(message));
        }
        let shared = SharedSession::new(
            client.cluster().clone(),
            SharedOptions {
                causal_consistency: options.causal_consistency.unwrap_or(!snapshot),
                snapshot,
                snapshot_time: options.snapshot_time,
                default_transaction_options: options.default_transaction_options,
                default_timeout: options.default_timeout.or(client.options().timeout),
            },
        );
        Ok(ClientSession { client, shared })
    }

    /// The client it belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its `lsid`.
    pub fn id(&self) -> Document {
        doc! { "id": Uuid::from_bytes(self.shared.id().unwrap_or_default()) }
    }

    /// Whether a network error left the server session's state unknown: it goes back to no pool.
    pub fn is_dirty(&self) -> bool {
        self.shared.is_dirty()
    }

    /// When the server said it had done the session's last operation.
    pub fn operation_time(&self) -> Option<Timestamp> {
        self.shared.operation_time()
    }

    /// Lets later operations see at least what was there at `time`, the operation time of another
    /// session.
    pub fn advance_operation_time(&self, time: Timestamp) {
        self.shared.advance_operation_time(time);
    }

    /// The newest cluster time this session has seen or was told: the value of a `$clusterTime` field.
    pub fn cluster_time(&self) -> Option<RawDocumentBuf> {
        self.shared.cluster_time.current()
    }

    /// Takes note of another session's cluster time, if it is newer.
    pub fn advance_cluster_time(&self, time: &bson::RawDocument) {
        self.shared.cluster_time.advance(time);
    }

    /// The moment the reads of a snapshot session see, once one is fixed.
    pub fn snapshot_time(&self) -> Option<Timestamp> {
        self.shared.snapshot_time()
    }

    /// The number of its transaction, or of its last retryable write.
    pub fn txn_number(&self) -> i64 {
        self.shared.txn_number().unwrap_or(0)
    }

    /// Where its transaction stands.
    pub fn transaction_state(&self) -> TransactionState {
        self.shared.transaction_state()
    }

    /// Whether operations given it belong to a transaction.
    pub fn in_transaction(&self) -> bool {
        self.shared.in_transaction()
    }

    /// Starts a transaction: operations given this session belong to it from now on. The server hears
    /// of it with the first of them.
    ///
    /// ```no_run
    /// # async fn example(session: stepdown_driver::ClientSession) -> stepdown_driver::Result<()> {
    /// let notes = session.client().database("app").collection::<bson::Document>("notes");
    /// session.start_transaction().await?;
    /// notes.insert_one(bson::doc! { "text": "both" }).session(&session).await?;
    /// notes.insert_one(bson::doc! { "text": "or none" }).session(&session).await?;
    /// session.commit_transaction().await
    /// # }
    /// ```
    pub fn start_transaction(&self) -> StartTransaction<'_> {
        StartTransaction { session: self, options: TransactionOptions::default(), timeout: None }
    }

    /// Runs `callback` in a transaction and commits it; runs it again, and commits again, as long as
    /// the errors say that this may help, for 120 seconds or `timeoutMS`.
    ///
    /// The callback may be run several times: it must not do what cannot be done twice. It must hand on
    /// the errors of its operations, since such an error may have ended the transaction on the server.
    /// Where a `timeoutMS` is set it holds for all operations of the callback in this session, and an
    /// operation with a timeout of its own fails there; operations outside of this session are not
    /// limited by it.
    ///
    /// # Errors
    /// What the callback or the commit failed with; `Timeout`, with that as its cause, once time is up.
    pub async fn with_transaction<R, F>(&self, callback: F) -> Result<R>
    where
        F: AsyncFnMut(&ClientSession) -> Result<R>,
    {
        self.start_transaction().and_run(callback).await
    }

    /// [`ClientSession::with_transaction`] under a shorter name.
    ///
    /// # Errors
    /// As [`ClientSession::with_transaction`].
    pub async fn transaction<R, F>(&self, callback: F) -> Result<R>
    where
        F: AsyncFnMut(&ClientSession) -> Result<R>,
    {
        self.with_transaction(callback).await
    }

    /// Commits the transaction. May be called again if its outcome is unknown: the error then has the
    /// label `UnknownTransactionCommitResult`.
    ///
    /// # Errors
    /// `Transaction` if none was started or it was aborted; otherwise what the command fails with,
    /// its write concern error included.
    pub async fn commit_transaction(&self) -> Result<()> {
        self.commit_within(None).await
    }

    /// As [`ClientSession::commit_transaction`], within `timeout` (`timeoutMS`; zero is no limit).
    ///
    /// # Errors
    /// As [`ClientSession::commit_transaction`].
    pub async fn commit_transaction_within(&self, timeout: Duration) -> Result<()> {
        self.commit_within(Some(timeout)).await
    }

    /// Aborts the transaction. What the server says to that is of no interest: it ends the transaction
    /// by itself before long.
    ///
    /// # Errors
    /// `Transaction` if none was started, or it was committed or aborted already.
    pub async fn abort_transaction(&self) -> Result<()> {
        self.abort_within(None).await
    }

    /// As [`ClientSession::abort_transaction`], within `timeout` (`timeoutMS`; zero is no limit).
    ///
    /// # Errors
    /// As [`ClientSession::abort_transaction`].
    pub async fn abort_transaction_within(&self, timeout: Duration) -> Result<()> {
        self.abort_within(Some(timeout)).await
    }

    /// Ends the session: aborts a transaction that is open and gives the server session back. Later
    /// operations in it fail.
    pub async fn end(&self) {
        if self.transaction_state() == TransactionState::InProgress {
            let _ = self.abort_transaction().await;
        }
        self.shared.end_span();
        self.shared.end();
    }

    pub(super) fn shared(&self) -> Arc<SharedSession> {
        self.shared.clone()
    }

    fn now(&self) -> Instant {
        self.client.now()
    }

    /// The terms of commit and abort. With a `with_transaction` under way its limit counts, unless
    /// `afresh`.
    fn terms(&self, timeout: Option<Duration>, afresh: bool) -> Result<Terms> {
        let mut terms =
            Terms { session: Some(self.shared.clone()), timeout, raw_data: None, limit: None };
        if afresh {
            terms.timeout = timeout.or(self.shared.options().default_timeout);
            terms.limit = terms.timeout.map(|timeout| deadline(self.now(), timeout));
        } else {
            terms.begin(&self.client, self.shared.options().default_timeout)?;
        }
        Ok(terms)
    }

    async fn commit_within(&self, timeout: Option<Duration>) -> Result<()> {
        let terms = self.terms(timeout, false)?;
        let Some(mut commit) = self.shared.commit_transaction()? else {
            self.shared.end_span();
            return Ok(());
        };
        if terms.limit.is_some() {
            commit.max_time = None;
            for concern in commit.write_concern.iter_mut().chain([&mut commit.repeated]) {
                concern.w_timeout = None;
            }
        }
        let command = commit_transaction(&commit)?;
        let result = self.run(&command, &terms).await;
        if result.as_ref().err().is_none_or(|error| !error.is_refused_by_overload()) {
            self.shared.commit_was_seen();
        }
        self.shared.end_span();
        result.map_err(label_commit_error)
    }

    async fn abort_within(&self, timeout: Option<Duration>) -> Result<()> {
        self.abort_with(self.terms(timeout, false)?).await
    }

    async fn abort_with(&self, terms: Terms) -> Result<()> {
        let Some(mut options) = self.shared.abort_transaction()? else {
            self.shared.end_span();
            return Ok(());
        };
        if terms.limit.is_some()
            && let Some(concern) = &mut options.write_concern
        {
            concern.w_timeout = None;
        }
        let command = abort_transaction(&options)?;
        // The server ends it by itself if it did not hear of this.
        let _ = self.run(&command, &terms).await;
        self.shared.end_span();
        Ok(())
    }

    async fn run(&self, command: &Command, terms: &Terms) -> Result<()> {
        self.client.run_checked(command, terms, check_write_concern).await.map(|_| ())
    }

    /// The convenient API for transactions: see [`ClientSession::with_transaction`].
    async fn run_transaction<R, F>(
        &self,
        options: TransactionOptions,
        timeout: Option<Duration>,
        callback: &mut F,
    ) -> Result<R>
    where
        F: AsyncFnMut(&ClientSession) -> Result<R>,
    {
        let until = self.now()
            + timeout.filter(|t| !t.is_zero()).unwrap_or(match timeout {
                Some(_) => Duration::MAX,
                None => RETRY_TIME,
            });
        let mut attempt = 0;
        let mut last: Option<Error> = None;
        loop {
            if let Some(last) = last.take() {
                let pause = backoff(attempt, self.client.cluster().transport().random());
                if self.now() + pause >= until {
                    return Err(out_of_time(last));
                }
                self.client.sleep(pause).await;
            }
            self.begin(options.clone())?;
            attempt += 1;
            let result = match callback(self).await {
                Ok(result) => result,
                Err(error) => {
                    if self.in_transaction() {
                        // The time for the abort counts anew.
                        self.abort_with(self.terms(timeout, true)?).await?;
                    }
                    if !error.contains_label(labels::TRANSIENT_TRANSACTION_ERROR) {
                        return Err(error);
                    }
                    if self.now() >= until {
                        return Err(out_of_time(error));
                    }
                    last = Some(error);
                    continue;
                }
            };
            if !self.in_transaction() {
                // The callback ended it by itself.
                return Ok(result);
            }
            match self.commit_until(until).await {
                Ok(()) => return Ok(result),
                Err(error) if error.contains_label(labels::TRANSIENT_TRANSACTION_ERROR) => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Commits again as long as the outcome is unknown and there is time.
    async fn commit_until(&self, until: Instant) -> Result<()> {
        loop {
            let Err(error) = self.commit_transaction().await else { return Ok(()) };
            let unknown = error.contains_label(labels::UNKNOWN_TRANSACTION_COMMIT_RESULT);
            let expired = [Some(&error), error.cause()]
                .into_iter()
                .flatten()
                .any(|error| error.code() == Some(MAX_TIME_EXPIRED));
            if !unknown || expired {
                return Err(error);
            }
            if self.now() >= until {
                return Err(out_of_time(error));
            }
        }
    }

    fn begin(&self, options: TransactionOptions) -> Result<()> {
        let client = self.client.options();
        let options = options.or(self.shared.options().default_transaction_options.as_ref()).or(
            Some(&TransactionOptions {
                read_concern: client.read_concern.clone(),
                write_concern: client.write_concern.clone(),
                selection_criteria: client.selection_criteria.clone(),
                max_commit_time: None,
            }),
        );
        let tracer = self.client.cluster().tracer();
        self.shared.start_transaction(options, || tracer.map(|tracer| transaction_span(&**tracer)))
    }
}

impl<'a> StartTransaction<'a> {
    /// Sets [`TransactionOptions::read_concern`].
    pub fn read_concern(mut self, value: ReadConcern) -> Self {
        self.options.read_concern = Some(value);
        self
    }

    /// Sets [`TransactionOptions::write_concern`].
    pub fn write_concern(mut self, value: WriteConcern) -> Self {
        self.options.write_concern = Some(value);
        self
    }

    /// Sets [`TransactionOptions::selection_criteria`].
    pub fn selection_criteria(mut self, value: impl Into<SelectionCriteria>) -> Self {
        self.options.selection_criteria = Some(value.into());
        self
    }

    /// Sets [`TransactionOptions::max_commit_time`].
    pub fn max_commit_time(mut self, value: Duration) -> Self {
        self.options.max_commit_time = Some(value);
        self
    }

    /// Replaces all options.
    pub fn with_options(mut self, options: impl Into<Option<TransactionOptions>>) -> Self {
        self.options = options.into().unwrap_or_default();
        self
    }

    /// Gives [`StartTransaction::and_run`] this long (`timeoutMS`); zero is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Runs `callback` in the transaction: see [`ClientSession::with_transaction`].
    ///
    /// # Errors
    /// As [`ClientSession::with_transaction`].
    pub async fn and_run<R, F>(self, mut callback: F) -> Result<R>
    where
        F: AsyncFnMut(&ClientSession) -> Result<R>,
    {
        let StartTransaction { session, options, timeout } = self;
        let timeout = timeout.or(session.shared.options().default_timeout);
        // The limit is kept in the session, for the operations of the callback; it goes with this
        // future, however that ends.
        let limit = timeout.map(|timeout| deadline(session.now(), timeout));
        session.shared.set_limit(limit);
        let _guard = LimitGuard(&session.shared);
        session.run_transaction(options, timeout, &mut callback).await
    }

    /// [`StartTransaction::and_run`] under the name it has in the crate `mongodb`.
    ///
    /// # Errors
    /// As [`ClientSession::with_transaction`].
    pub async fn and_run2<R, F>(self, callback: F) -> Result<R>
    where
        F: AsyncFnMut(&ClientSession) -> Result<R>,
    {
        self.and_run(callback).await
    }
}

impl<'a> IntoFuture for StartTransaction<'a> {
    type Output = Result<()>;
    type IntoFuture = std::future::Ready<Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        std::future::ready(self.session.begin(self.options))
    }
}

/// Takes the limit of `with_transaction` off its session.
struct LimitGuard<'a>(&'a SharedSession);

impl Drop for LimitGuard<'_> {
    fn drop(&mut self) {
        self.0.set_limit(None);
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        self.shared.end_span();
        if self.transaction_state() != TransactionState::InProgress {
            return;
        }
        let Ok(Some(options)) = self.shared.abort_transaction() else { return };
        let Ok(command) = abort_transaction(&options) else { return };
        let (cluster, shared) = (self.client.cluster().clone(), self.shared.clone());
        if cluster.is_closed() {
            return;
        }
        let limit = shared.options().default_timeout.map(|t| deadline(cluster.now(), t));
        let task = {
            let cluster = cluster.clone();
            async move {
                let scope = Scope::quiet(&cluster, limit);
                let mut slot = SessionSlot::from_option(Some(shared));
                // Nobody waits for it; the server ends it by itself before long.
                let _ = crate::executor::execute(&cluster, &command, &mut slot, &scope).await;
            }
        };
        cluster.transport().spawn("abort a transaction", Box::pin(task));
    }
}

/// Puts `UnknownTransactionCommitResult` on the errors after which a commit may have been done.
fn label_commit_error(error: Error) -> Error {
    let inner = error.cause().filter(|_| matches!(*error.kind, ErrorKind::Timeout { .. }));
    let cause = inner.unwrap_or(&error);
    let concern = match &*cause.kind {
        ErrorKind::Write(crate::error::WriteFailure::WriteConcernError(concern)) => {
            Some(!KNOWN_OUTCOMES.contains(&concern.code))
        }
        _ => None,
    };
    let unknown = concern.unwrap_or_else(|| {
        cause.is_network()
            || cause.is_server_selection()
            || cause.is_pool_cleared()
            || cause.contains_label(labels::RETRYABLE_WRITE_ERROR)
            || cause.code() == Some(MAX_TIME_EXPIRED)
            || matches!(*cause.kind, ErrorKind::Timeout { .. })
    });
    if unknown { error.with_label(labels::UNKNOWN_TRANSACTION_COMMIT_RESULT) } else { error }
}

/// The error of a `with_transaction` that has no time for another attempt.
fn out_of_time(last: Error) -> Error {
    if matches!(*last.kind, ErrorKind::Timeout { .. }) {
        return last;
    }
    let mut error = Error::timed_out(format!("no time to run the transaction again after: {last}"));
    for label in last.labels() {
        error.add_label(label.clone());
    }
    error.with_source(last)
}

/// A random part of a time that grows by half with each attempt, in whole nanoseconds.
fn backoff(attempt: u32, jitter: u64) -> Duration {
    let mut ceiling = BACKOFF_INITIAL;
    for _ in 0..attempt {
        if ceiling >= BACKOFF_MAX {
            break;
        }
        ceiling = ceiling * 3 / 2;
    }
    let nanos = u64::try_from(ceiling.min(BACKOFF_MAX).as_nanos()).unwrap_or(u64::MAX);
    // The upper 64 bits of the product: a fraction of `nanos` below one.
    let part = (u128::from(nanos) * u128::from(jitter)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
}

impl std::fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSession").field("id", &self.id()).finish_non_exhaustive()
    }
}
