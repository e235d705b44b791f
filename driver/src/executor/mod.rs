//! One operation, from selection to reply.
//!
//! [`RetryPolicy`] decides whether there is another attempt; [`execute`] does the attempts: it selects
//! a server, borrows a connection, writes and reads on the caller's own task, passes the cluster time
//! on, and tells the topology what went wrong.

mod cluster;
mod envelope;
mod retry;
mod srv;
mod stats;

use std::sync::Arc;

use bson::RawDocumentBuf;

pub(crate) use self::cluster::{Cluster, Server};
use self::envelope::Envelope;
use self::retry::{RetryPolicy, RetrySettings, Verdict};
use self::stats::InFlight;
pub use self::stats::ServerStats;
use crate::error::{Attempt, Error, Phase, Result, labels};
use crate::event::{
    CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent, ConnectionInfo,
};
use crate::operation::{Command, Retry, Target, no_reply};
use crate::options::DEFAULT_MAX_ADAPTIVE_RETRIES;
use crate::pool::Lease;
use crate::sdam::{TopologyDescription, TopologyType};
use crate::session::SessionSlot;
use crate::time::Instant;
use crate::uri::ServerAddress;
use crate::wire::MAX_MESSAGE_SIZE_BYTES;

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

/// What stays the same over the attempts of one operation.
struct Operation<'a> {
    cluster: &'a Arc<Cluster>,
    command: &'a Command,
    id: i64,
    /// The number of a retryable write, once one was given.
    txn_number: Option<i64>,
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
) -> Result<Reply> {
    let options = cluster.options();
    let topology_type = cluster.description().topology_type;
    let mut policy = RetryPolicy::new(RetrySettings {
        retry: command.retry,
        reads: options.retry_reads.unwrap_or(true),
        writes: options.retry_writes.unwrap_or(true),
        max_adaptive: options.max_adaptive_retries.unwrap_or(DEFAULT_MAX_ADAPTIVE_RETRIES),
        retarget: options.enable_overload_retargeting.unwrap_or(false),
        sharded: topology_type == TopologyType::Sharded,
    });
    let mut operation =
        Operation { cluster, command, id: cluster.next_operation_id(), txn_number: None };
    let mut avoid = Vec::new();
    loop {
        let began = cluster.now();
        let failure = match operation.attempt(session, &avoid, policy.retries() > 0).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        let Failure { server, phase, error, reply } = *failure;
        let jitter = if error.is_overloaded() { cluster.transport().random() } else { 0 };
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

impl Operation<'_> {
    async fn attempt(
        &mut self,
        session: &mut SessionSlot,
        avoid: &[ServerAddress],
        again: bool,
    ) -> std::result::Result<Reply, Box<Failure>> {
        let (cluster, command) = (self.cluster, self.command);
        let selected = cluster.select(&command.target, avoid).await;
        let (server, topology) = selected.map_err(|error| {
            Box::new(Failure { server: None, phase: Phase::Selection, error, reply: None })
        })?;
        // A getMore goes where its cursor is: that was chosen before.
        server.counters.selected(matches!(command.target, Target::Readable(_)));
        if again {
            server.counters.retried();
        }
        let in_flight = InFlight::on(&server);
        let result = self.on_server(session, &server, &topology).await;
        drop(in_flight);
        result.map_err(|(phase, error, reply)| {
            server.counters.failed();
            let error = self.label(phase, error);
            Box::new(Failure { server: Some(server.address().clone()), phase, error, reply })
        })
    }

    async fn on_server(
        &mut self,
        session: &mut SessionSlot,
        server: &Arc<Server>,
        topology: &TopologyDescription,
    ) -> std::result::Result<Reply, (Phase, Error, Option<Reply>)> {
        let generation = server.pool.generation();
        let mut lease = match server.pool.check_out(Instant::NEVER).await {
            Ok(lease) => lease,
            Err(error) => {
                self.cluster.on_application_error(server, generation, false, &error);
                return Err((Phase::CheckOut, error, None));
            }
        };
        let replies = self.command.acknowledged;
        let with_session = replies && lease.traits.sessions;
        if with_session {
            session.ensure(self.cluster);
        }
        if self.command.retry == Retry::Write
            && with_session
            && lease.traits.retryable_writes
            && self.cluster.options().retry_writes.unwrap_or(true)
            && self.txn_number.is_none()
        {
            self.txn_number = session.next_txn_number();
        }
        let request_id = self.cluster.pools().next_request_id();
        Envelope {
            cluster: self.cluster,
            command: self.command,
            session: with_session.then_some(&*session),
            txn_number: self.txn_number.filter(|_| with_session),
            topology,
            traits: lease.traits,
        }
        .encode(request_id, lease.request_buffer());
        let size = lease.request_bytes().len();
        if size > MAX_MESSAGE_SIZE_BYTES {
            let name = &self.command.name;
            let error = Error::invalid_argument(format!(
                "{name} takes {size} bytes; a message has {MAX_MESSAGE_SIZE_BYTES} at most"
            ));
            return Err((Phase::CheckOut, error, None));
        }
        let timeout = self.cluster.options().socket_timeout.filter(|timeout| !timeout.is_zero());
        let began = self.cluster.now();
        lease.set_deadline(timeout.map_or(Instant::NEVER, |timeout| began + timeout));
        let started = self.tell_started(&mut lease, request_id);
        if let Err(error) = lease.compress_request(&self.command.name) {
            return Err((Phase::CheckOut, error, None));
        }
        let exchanged = exchange(&mut lease, request_id, replies).await;
        let body = match exchanged {
            Ok(body) => body,
            Err(error) => {
                session.network_failed();
                self.cluster.on_application_error(server, lease.generation, true, &error);
                self.tell_ended(started, began, Err(&error));
                return Err((Phase::Exchange, error, None));
            }
        };
        if replies {
            if let Ok(time) = body.get_document("$clusterTime") {
                self.cluster.cluster_time.advance(time);
            }
            session.replied(self.cluster.now(), &body);
        }
        if let Some(error) = Error::from_command_reply(&body) {
            let error = error.at(server.address().clone());
            self.tell_ended(started, began, Err(&error));
            self.cluster.on_application_error(server, lease.generation, true, &error);
            return Err((Phase::Reply, error, None));
        }
        self.tell_ended(started, began, Ok(&body));
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

    /// Adds the label that makes a write retryable where the driver itself knows that it is: nothing
    /// was sent, or what was sent had a number by which the server knows it again.
    fn label(&self, phase: Phase, error: Error) -> Error {
        let retryable = self.command.retry == Retry::Write
            && self.cluster.options().retry_writes.unwrap_or(true)
            && (phase == Phase::CheckOut || self.txn_number.is_some())
            && (error.is_network() || error.is_pool_cleared());
        if retryable { error.with_label(labels::RETRYABLE_WRITE_ERROR) } else { error }
    }

    fn tell_started(&self, lease: &mut Lease, request_id: i32) -> Option<CommandStartedEvent> {
        let handler = self.cluster.command_events()?;
        let connection = ConnectionInfo::new(
            u32::try_from(lease.id).unwrap_or(u32::MAX),
            lease.traits.server_connection_id,
            lease.server_address().clone(),
        );
        let document = if is_sensitive(&self.command.name) {
            bson::Document::new()
        } else {
            envelope::as_document(lease.request_bytes())
        };
        let event = CommandStartedEvent::new(
            Arc::new(document),
            self.command.database.clone(),
            self.command.name.to_string(),
            request_id,
            self.id,
            connection,
        );
        handler.handle(CommandEvent::Started(event.clone()));
        Some(event)
    }

    fn tell_ended(
        &self,
        started: Option<CommandStartedEvent>,
        began: Instant,
        result: std::result::Result<&RawDocumentBuf, &Error>,
    ) {
        let (Some(handler), Some(started)) = (self.cluster.command_events(), started) else {
            return;
        };
        let duration = self.cluster.now() - began;
        handler.handle(match result {
            Ok(_) if is_sensitive(&self.command.name) => CommandEvent::Succeeded(
                CommandSucceededEvent::of(&started, duration, Arc::new(RawDocumentBuf::new())),
            ),
            Ok(body) => CommandEvent::Succeeded(CommandSucceededEvent::of(
                &started,
                duration,
                Arc::new(body.clone()),
            )),
            Err(error) => {
                CommandEvent::Failed(CommandFailedEvent::of(&started, duration, error.clone()))
            }
        });
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

/// Commands that carry secrets: listeners see neither them nor their replies.
fn is_sensitive(name: &str) -> bool {
    [
        "authenticate",
        "saslStart",
        "saslContinue",
        "getnonce",
        "createUser",
        "updateUser",
        "copydbgetnonce",
        "copydbsaslstart",
        "copydb",
    ]
    .iter()
    .any(|sensitive| sensitive.eq_ignore_ascii_case(name))
}
