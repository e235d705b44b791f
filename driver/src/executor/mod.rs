//! One operation, from selection to reply.
//!
//! [`RetryPolicy`] decides whether there is another attempt; [`execute`] does the attempts: it selects
//! a server, borrows a connection, writes and reads on the caller's own task, passes the cluster time
//! on, and tells the topology what went wrong.

mod cluster;
mod envelope;
mod retry;
mod scope;
mod srv;
mod stats;
mod tell;

use std::sync::Arc;

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use self::cluster::Selected;
pub(crate) use self::cluster::{Cluster, Server};
use self::envelope::Envelope;
pub(crate) use self::envelope::as_document;
use self::retry::{RetryPolicy, RetrySettings, Verdict};
pub(crate) use self::scope::Scope;
use self::scope::time_for_server;
use self::stats::InFlight;
pub use self::stats::ServerStats;
use self::tell::Told;
use crate::error::{Attempt, Error, ErrorKind, Phase, Result, labels};
use crate::logging::selection::Search;
use crate::operation::{Command, MaxTime, Retry, Target, millis, no_reply};
use crate::options::{DEFAULT_MAX_ADAPTIVE_RETRIES, ReadPreferenceMode};
use crate::pool::Lease;
use crate::sdam::TopologyType;
use crate::session::SessionSlot;
use crate::time::Instant;
use crate::uri::ServerAddress;
use crate::wire::{MAX_MESSAGE_SIZE_BYTES, find};

/// The wire version of MongoDB 5.0, the first with snapshot reads outside of transactions.
const SNAPSHOT_WIRE_VERSION: i32 = 13;

/// A reply, and who gave it.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The document, `ok: 1`.
    pub(crate) body: RawDocumentBuf,
    /// The server.
    pub(crate) server: ServerAddress,
}

/// A failed attempt.
struct Failure {
    server: Option<ServerAddress>,
    phase: Phase,
    error: Error,
    /// The reply, if it went well but for its write concern.
    reply: Option<Reply>,
}

/// What stays the same over the attempts of one command.
struct Operation<'a> {
    cluster: &'a Arc<Cluster>,
    command: &'a Command,
    scope: &'a Scope,
    /// The number of a retryable write, once one was given.
    txn_number: Option<i64>,
    /// Whether an attempt failed after which the command may have been done.
    in_doubt: bool,
}

/// Runs `command` under the rules of retrying, with the session in `session`.
///
/// A reply whose only fault is a write concern error is a reply; the caller looks at it.
///
/// # Errors
/// What the last, or the most telling, attempt failed with.
pub(crate) async fn execute(
    cluster: &Arc<Cluster>,
    command: &Command,
    session: &mut SessionSlot,
    scope: &Scope,
) -> Result<Reply> {
    let options = cluster.options();
    let topology_type = cluster.snapshot().description.topology_type;
    let in_transaction = command.retry != Retry::Ending && session.in_transaction();
    if in_transaction {
        check_in_transaction(command)?;
    }
    let mut policy = RetryPolicy::new(RetrySettings {
        retry: command.retry,
        reads: options.retry_reads.unwrap_or(true),
        writes: options.retry_writes.unwrap_or(true),
        max_adaptive: options.max_adaptive_retries.unwrap_or(DEFAULT_MAX_ADAPTIVE_RETRIES),
        retarget: options.enable_overload_retargeting.unwrap_or(false),
        sharded: topology_type == TopologyType::Sharded,
        in_transaction,
        limit: scope.limit,
    });
    let mut operation = Operation { cluster, command, scope, txn_number: None, in_doubt: false };
    let mut avoid = Vec::new();
    loop {
        let began = cluster.now();
        let again = policy.retries() > 0;
        let failure = match operation.attempt(session, &avoid, again, in_transaction).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        let Failure { server, phase, error, reply } = *failure;
        let jitter = if error.is_overloaded() { cluster.transport().random() } else { 0 };
        operation.in_doubt |= !error.is_refused_by_overload();
        let attempt = Attempt::new(server.clone(), phase, began, cluster.now(), error);
        match policy.failed(attempt, jitter) {
            Verdict::Retry { backoff, avoid: avoid_server } => {
                if let Some(backoff) = backoff {
                    cluster.transport().sleep_until(cluster.now() + backoff).await;
                }
                avoid.extend(server.filter(|_| avoid_server));
            }
            Verdict::Fail { error, newest } => {
                return match reply.filter(|_| newest) {
                    Some(reply) => Ok(reply),
                    None => Err(*error),
                };
            }
        }
    }
}

/// Servers read in a transaction from the primary alone.
fn check_in_transaction(command: &Command) -> Result<()> {
    let Target::Readable(criteria) = &command.target else { return Ok(()) };
    let primary = criteria
        .as_read_preference()
        .is_some_and(|preference| preference.mode() == ReadPreferenceMode::Primary);
    if primary {
        return Ok(());
    }
    let message = "read preference in a transaction must be primary".to_owned();
    Err(Error::new(ErrorKind::Transaction { message }))
}

impl Operation<'_> {
    async fn attempt(
        &mut self,
        session: &mut SessionSlot,
        avoid: &[ServerAddress],
        again: bool,
        in_transaction: bool,
    ) -> std::result::Result<Reply, Box<Failure>> {
        let (cluster, command) = (self.cluster, self.command);
        let search = cluster
            .options()
            .logging
            .as_ref()
            .filter(|log| log.server_selection.is_some())
            .map(|log| Search { log, command, operation_id: self.scope.id });
        let selected =
            cluster.select(&command.target, avoid, self.scope.limit, search.as_ref()).await;
        let selected = selected.map_err(|error| {
            let error = match in_transaction && error.is_server_selection() {
                true => error.with_label(labels::TRANSIENT_TRANSACTION_ERROR),
                false => error,
            };
            Box::new(Failure { server: None, phase: Phase::Selection, error, reply: None })
        })?;
        let server = selected.server.clone();
        // A getMore goes where its cursor is: that was chosen before.
        server.counters.selected(matches!(command.target, Target::Readable(_)));
        if again {
            server.counters.retried();
        }
        let in_flight = InFlight::on(&server);
        let result = self.on_server(session, &selected, in_transaction).await;
        drop(in_flight);
        result.map_err(|(phase, error, reply)| {
            server.counters.failed();
            let error = self.label(phase, error, in_transaction);
            Box::new(Failure { server: Some(server.address().clone()), phase, error, reply })
        })
    }

    async fn on_server(
        &mut self,
        session: &mut SessionSlot,
        selected: &Selected,
        in_transaction: bool,
    ) -> std::result::Result<Reply, (Phase, Error, Option<Reply>)> {
        let server = &selected.server;
        let generation = server.pool.generation();
        let mut lease = match server.pool.check_out(selected.check_out_by).await {
            Ok(lease) => lease,
            Err(error) => {
                self.cluster.on_application_error(server, generation, false, &error);
                return Err((Phase::CheckOut, error, None));
            }
        };
        let unsent = |error| (Phase::CheckOut, error, None);
        let now = self.cluster.now();
        let max_time = self.max_time(now, selected).map_err(unsent)?;
        let replies = self.command.acknowledged;
        let with_session = replies && lease.traits.sessions;
        if with_session {
            session.ensure(self.cluster);
        }
        let explicit = session.explicit().filter(|_| with_session).cloned();
        if let Some(explicit) = &explicit
            && explicit.options().snapshot
            && lease.traits.max_wire_version < SNAPSHOT_WIRE_VERSION
        {
            let message = "Snapshot reads require MongoDB 5.0 or later";
            return Err(unsent(Error::invalid_argument(message)));
        }
        if self.command.retry == Retry::Write
            && with_session
            && !in_transaction
            && lease.traits.retryable_writes
            && self.cluster.options().retry_writes.unwrap_or(true)
            && (self.txn_number.is_none()
                || crate::planted::is(crate::planted::DriverBug::RetriesUnderNewNumber))
        {
            self.txn_number = session.next_txn_number();
        }
        let fields = match with_session {
            true => session.fields(self.command).map_err(unsent)?,
            false => None,
        };
        let first = fields.as_ref().is_some_and(|fields| fields.first);
        let request_id = self.cluster.pools().next_request_id();
        Envelope {
            cluster: self.cluster,
            command: self.command,
            body: match &self.command.repeated_body {
                Some(repeated) if self.in_doubt => repeated,
                _ => &self.command.body,
            },
            fields: fields.as_ref(),
            session_time: explicit.as_ref().map(|session| &session.cluster_time),
            txn_number: self.txn_number.filter(|_| with_session),
            topology: &selected.topology,
            traits: lease.traits,
            raw_data: self.scope.raw_data,
            max_time,
        }
        .encode(request_id, lease.request_buffer());
        let size = lease.request_bytes().len();
        if size > MAX_MESSAGE_SIZE_BYTES {
            if first {
                session.take_back_first();
            }
            let name = &self.command.name;
            return Err(unsent(Error::invalid_argument(format!(
                "{name} takes {size} bytes; a message has {MAX_MESSAGE_SIZE_BYTES} at most"
            ))));
        }
        let began = now;
        lease.set_deadline(match self.scope.limit {
            Some(limit) => limit,
            None => self
                .cluster
                .options()
                .socket_timeout
                .filter(|t| !t.is_zero())
                .map_or(Instant::NEVER, |timeout| began + timeout),
        });
        if let Err(error) = self.ask_hooks(&lease, request_id) {
            if first {
                session.take_back_first();
            }
            return Err(unsent(error));
        }
        let told = Told::started(self, &lease, request_id, fields.as_ref());
        if let Err(error) = lease.compress_request(&self.command.name) {
            return Err((Phase::CheckOut, error, None));
        }
        let exchanged = exchange(&mut lease, request_id, replies).await;
        let body = match exchanged {
            Ok(body) => body,
            Err(error) => {
                session.network_failed();
                self.cluster.on_application_error(server, lease.generation, true, &error);
                told.ended(self, began, Err(&error));
                self.tell_hooks(&lease, request_id, Err(&error));
                if crate::planted::is(crate::planted::DriverBug::AssumesSuccess)
                    && self.command.retry == Retry::Write
                {
                    let body = bson::rawdoc! { "ok": 1.0, "n": 1_i32, "nModified": 1_i32 };
                    return Ok(Reply { body, server: server.address().clone() });
                }
                return Err((Phase::Exchange, error, None));
            }
        };
        if replies {
            if let Some(RawBsonRef::Document(time)) = find(&body, "$clusterTime") {
                self.cluster.cluster_time.advance(time);
            }
            session.replied(self.cluster.now(), self.command, &body);
        }
        if let Some(error) = Error::from_command_reply(&body) {
            let error = error.at(server.address().clone());
            told.ended(self, began, Err(&error));
            self.tell_hooks(&lease, request_id, Err(&error));
            self.cluster.on_application_error(server, lease.generation, true, &error);
            if first && error.is_refused_by_overload() {
                session.take_back_first();
            }
            return Err((Phase::Reply, error, None));
        }
        told.ended(self, began, Ok(&body));
        self.tell_hooks(&lease, request_id, Ok(&body));
        // A server that steps down while it waits for the write concern says so there.
        let concern = Error::from_write_concern_error(&body);
        let reply = Reply { body, server: server.address().clone() };
        match concern {
            Some(error) if error.is_state_change() || error.is_retryable_write() => {
                let error = error.at(server.address().clone());
                self.cluster.on_application_error(server, lease.generation, true, &error);
                Err((Phase::Reply, error, Some(reply)))
            }
            _ => Ok(reply),
        }
    }

    /// What `maxTimeMS` the executor adds (CSOT, "Command execution").
    fn max_time(&self, now: Instant, selected: &Selected) -> Result<Option<i64>> {
        let limit = self.scope.limit.filter(|limit| *limit != Instant::NEVER);
        let left = match limit {
            Some(limit) => Some(time_for_server(now, limit, selected.min_round_trip_time)?),
            None => None,
        };
        Ok(match self.command.max_time {
            MaxTime::Remaining => left,
            MaxTime::Never => None,
            MaxTime::AtMost(most) => Some(left.unwrap_or(i64::MAX).min(millis(most))),
        })
    }

    /// Adds the labels the driver itself knows of: a write is retryable where nothing was sent, or
    /// what was sent had a number by which the server knows it again; a transaction can be run again
    /// where no answer came.
    fn label(&self, phase: Phase, error: Error, in_transaction: bool) -> Error {
        if !(error.is_network() || error.is_pool_cleared()) {
            return error;
        }
        if in_transaction {
            return error.with_label(labels::TRANSIENT_TRANSACTION_ERROR);
        }
        let retryable = match self.command.retry {
            Retry::Ending => true,
            Retry::Write => {
                self.cluster.options().retry_writes.unwrap_or(true)
                    && (phase == Phase::CheckOut || self.txn_number.is_some())
            }
            _ => false,
        };
        if retryable { error.with_label(labels::RETRYABLE_WRITE_ERROR) } else { error }
    }
}

/// Writes the request and reads the reply on the caller's own task.
async fn exchange(lease: &mut Lease, request_id: i32, replies: bool) -> Result<RawDocumentBuf> {
    lease.send(request_id, replies).await?;
    if !replies {
        return Ok(no_reply());
    }
    Ok(lease.receive().await?.body)
}

/// Whether a command carries secrets: listeners see neither it nor its reply (command logging and
/// monitoring specification, "Security").
fn is_sensitive(command: &Command) -> bool {
    const SENSITIVE: [&str; 9] = [
        "authenticate",
        "saslStart",
        "saslContinue",
        "getnonce",
        "createUser",
        "updateUser",
        "copydbgetnonce",
        "copydbsaslstart",
        "copydb",
    ];
    let is = |name: &&str| name.eq_ignore_ascii_case(&command.name);
    // A hello may authenticate on the way.
    let authenticates = || {
        let body = RawDocument::from_bytes(&command.body);
        body.is_ok_and(|body| matches!(body.get("speculativeAuthenticate"), Ok(Some(_))))
    };
    SENSITIVE.iter().any(is) || (["hello", "isMaster"].iter().any(is) && authenticates())
}
