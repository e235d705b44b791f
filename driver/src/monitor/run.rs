//! The loops that do what [`Monitor`] says: one that checks, one that measures while the first one
//! streams.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bson::RawDocumentBuf;

use super::{Action, Input, Monitor, Pace};
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::event::{
    SdamEvent, ServerHeartbeatFailedEvent, ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
};
use crate::executor::{Cluster, Server};
use crate::operation::{BodyWriter, millis};
use crate::sdam::{ServerDescription, ServerType, TopologyVersion};
use crate::selection::RoundTripTimes;
use crate::sync::{Either, Signal, lock, select2};
use crate::time::Instant;
use crate::uri::ServerAddress;
use crate::wire::{self, Flags};

/// How the rest of the client reaches the monitor of one server.
#[derive(Debug, Default)]
pub(crate) struct MonitorHandle {
    check_now: Signal,
    cancel: Signal,
    stopped: AtomicBool,
    /// Whether a task exists that runs the loop.
    alive: AtomicBool,
    measuring: AtomicBool,
    round_trips: Mutex<RoundTripTimes>,
}

impl MonitorHandle {
    /// The least of the last round-trip times, as fresh as they are measured: the description of the
    /// server has what was known at its last check.
    pub(crate) fn min_round_trip_time(&self) -> std::time::Duration {
        lock(&self.round_trips).min()
    }

    /// Asks for a check as soon as the shortest pause allows.
    pub(crate) fn check_now(&self) {
        self.check_now.raise();
    }

    /// Gives up the check that is under way.
    pub(crate) fn cancel(&self) {
        self.cancel.raise();
    }

    /// Ends the loops.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.cancel.raise();
        self.check_now.raise();
    }

    /// Whether the loop's task vanished although nobody stopped it: its runtime is gone.
    pub(crate) fn is_lost(&self) -> bool {
        !self.alive.load(Ordering::SeqCst) && !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// Notices when the loop's task is dropped.
struct Alive {
    cluster: Arc<Cluster>,
    server: Arc<Server>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let handle = &self.server.monitor;
        handle.alive.store(false, Ordering::SeqCst);
        if !handle.is_stopped() {
            self.cluster.monitor_was_lost();
        }
    }
}

/// Starts the loop that checks `server`, unless it runs already.
pub(crate) fn watch(cluster: &Arc<Cluster>, server: &Arc<Server>) {
    if server.monitor.alive.swap(true, Ordering::SeqCst) {
        return;
    }
    let alive = Alive { cluster: cluster.clone(), server: server.clone() };
    let task = async move {
        Watch { cluster: &alive.cluster, server: &alive.server, connection: None, hello_ok: false }
            .run()
            .await;
    };
    cluster.transport().spawn("monitor", Box::pin(task));
}

struct Watch<'a> {
    cluster: &'a Arc<Cluster>,
    server: &'a Arc<Server>,
    connection: Option<Connection>,
    hello_ok: bool,
}

impl Watch<'_> {
    async fn run(mut self) {
        let cluster = self.cluster;
        let handle = &self.server.monitor;
        let pace = cluster.pace();
        let mut monitor = Monitor::new(pace);
        let mut checks_asked_for = handle.check_now.version();
        let mut action = monitor.step(cluster.now(), Input::Start);
        while !handle.is_stopped() {
            let input = if let Action::Rest { until, not_before } = action {
                let asked = handle.check_now.passed(checks_asked_for);
                let woken = select2(asked, cluster.transport().sleep_until(until)).await;
                if matches!(woken, Either::Left(_))
                    && cluster.now() < not_before
                    && !handle.is_stopped()
                {
                    cluster.transport().sleep_until(not_before).await;
                }
                Input::Rested
            } else {
                checks_asked_for = handle.check_now.version();
                self.check(action, pace).await
            };
            action = monitor.step(cluster.now(), input);
        }
    }

    /// One check, from asking to telling the topology.
    async fn check(&mut self, action: Action, pace: Pace) -> Input {
        let (cluster, server) = (self.cluster, self.server);
        let handle = &server.monitor;
        let awaited = matches!(action, Action::AskToStream { .. } | Action::ReadMore { .. });
        let cancelled_before = handle.cancel.version();
        let began = cluster.now();
        cluster.emit(|| {
            SdamEvent::ServerHeartbeatStarted(ServerHeartbeatStartedEvent {
                server_address: server.address().clone(),
                driver_connection_id: None,
                awaited,
            })
        });
        let performed =
            select2(handle.cancel.passed(cancelled_before), self.perform(action, began)).await;
        let (result, cancelled) = match performed {
            Either::Right(result) => (result, false),
            Either::Left(_) => {
                let why = "the check was given up because an operation found the network broken";
                let error = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why);
                (Err(Error::from(error).at(server.address().clone())), true)
            }
        };
        let now = cluster.now();
        match result {
            Ok(answer) => {
                if let Some(sample) = answer.round_trip {
                    lock(&handle.round_trips).add(sample);
                }
                let (mean, least) = {
                    let times = lock(&handle.round_trips);
                    (times.mean(), times.min())
                };
                let reply = Arc::new(answer.reply);
                cluster.emit(|| {
                    SdamEvent::ServerHeartbeatSucceeded(ServerHeartbeatSucceededEvent {
                        server_address: server.address().clone(),
                        driver_connection_id: None,
                        server_connection_id: self
                            .connection
                            .as_ref()
                            .and_then(|connection| connection.traits.server_connection_id),
                        awaited,
                        duration: now - began,
                        reply: reply.clone(),
                    })
                });
                let description =
                    ServerDescription::from_hello(server.address().clone(), now, &reply)
                        .with_round_trip_times(mean, least);
                let well = description.error.is_none();
                let topology_version = description.topology_version;
                self.hello_ok |= description.hello_ok;
                cluster.on_hello(description);
                if !well {
                    self.close();
                    return Input::Failed { lost: false };
                }
                server.pool.maintain();
                if pace.streaming && topology_version.is_some() {
                    measure(cluster, server, pace);
                }
                Input::Answered { topology_version, more_to_come: answer.more_to_come }
            }
            Err(error) => {
                self.close();
                cluster.emit(|| {
                    SdamEvent::ServerHeartbeatFailed(ServerHeartbeatFailedEvent {
                        server_address: server.address().clone(),
                        driver_connection_id: None,
                        awaited,
                        duration: now - began,
                        failure: error.clone(),
                    })
                });
                if cancelled {
                    return Input::Cancelled;
                }
                let known = cluster
                    .description()
                    .server(server.address())
                    .is_some_and(|server| server.server_type != ServerType::Unknown);
                let lost = known && error.is_network();
                cluster.on_monitor_error(server.address(), &error);
                Input::Failed { lost }
            }
        }
    }

    fn close(&mut self) {
        self.connection = None;
        self.hello_ok = false;
        lock(&self.server.monitor.round_trips).reset();
    }

    async fn perform(&mut self, action: Action, began: Instant) -> Result<Answer> {
        let cluster = self.cluster;
        match action {
            Action::Rest { .. } => unreachable!("resting is no check"),
            Action::Connect { by } => {
                let (connection, reply, round_trip) =
                    connect(cluster, self.server.address(), by).await?;
                self.connection = Some(connection);
                Ok(Answer { reply, more_to_come: false, round_trip: Some(round_trip) })
            }
            Action::Ask { by } => {
                let connection = present(&mut self.connection)?;
                connection.set_deadline(by);
                send_hello(cluster, connection, self.hello_ok, None).await?;
                let reply = connection.receive().await?.body;
                let round_trip = Some(cluster.now() - began);
                Ok(Answer { reply, more_to_come: false, round_trip })
            }
            Action::AskToStream { version, await_time, by } => {
                let connection = present(&mut self.connection)?;
                connection.set_deadline(by);
                let wait = Some((version, millis(await_time)));
                send_hello(cluster, connection, self.hello_ok, wait).await?;
                streamed(connection).await
            }
            Action::ReadMore { by } => {
                let connection = present(&mut self.connection)?;
                connection.set_deadline(by);
                streamed(connection).await
            }
        }
    }
}

/// What a check brought.
struct Answer {
    reply: RawDocumentBuf,
    more_to_come: bool,
    /// How long the round trip took, if the server answered at once.
    round_trip: Option<std::time::Duration>,
}

fn present(connection: &mut Option<Connection>) -> Result<&mut Connection> {
    connection.as_mut().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
}

/// Opens a connection; also how long the greeting alone took.
async fn connect(
    cluster: &Cluster,
    address: &ServerAddress,
    by: Instant,
) -> Result<(Connection, RawDocumentBuf, std::time::Duration)> {
    let context = cluster.pools();
    let mut connection = context.greeting.open(cluster.transport(), address, by).await?;
    let asked = cluster.now();
    let reply = context.greeting.exchange(&mut connection, context.next_request_id()).await?;
    Ok((connection, reply, cluster.now() - asked))
}

async fn streamed(connection: &mut Connection) -> Result<Answer> {
    let message = connection.receive().await?;
    let more_to_come = message.flags.contains(Flags::MORE_TO_COME);
    Ok(Answer { reply: message.body, more_to_come, round_trip: None })
}

/// Sends a hello without client metadata; with `wait`, one that is answered on a change and allows
/// more answers.
async fn send_hello(
    cluster: &Cluster,
    connection: &mut Connection,
    hello_ok: bool,
    wait: Option<(TopologyVersion, i64)>,
) -> Result<()> {
    let request_id = cluster.pools().next_request_id();
    let out = connection.request_buffer();
    let start = wire::begin(out, request_id, 0, wire::OP_MSG);
    let flags = if wait.is_some() { Flags::EXHAUST_ALLOWED } else { Flags::NONE };
    out.extend_from_slice(&flags.0.to_le_bytes());
    out.push(0);
    let mut body = BodyWriter::new(out);
    let name = if hello_ok || cluster.has_server_api() { "hello" } else { "isMaster" };
    body.i32(name, 1);
    body.bool("helloOk", true);
    if let Some((version, await_millis)) = wait {
        body.nested("topologyVersion", |document| {
            document.object_id("processId", version.process_id);
            document.i64("counter", version.counter);
        });
        body.i64("maxAwaitTimeMS", await_millis);
    }
    cluster.add_server_api(&mut body);
    body.string("$db", "admin");
    body.finish();
    wire::finish(out, start);
    connection.send(request_id, true).await
}

/// Starts the loop that measures round trips while the checks stream, unless it runs already. Its
/// failures change nothing and are told to nobody (server monitoring specification).
fn measure(cluster: &Arc<Cluster>, server: &Arc<Server>, pace: Pace) {
    if server.monitor.measuring.swap(true, Ordering::SeqCst) {
        return;
    }
    let guard = Measuring(server.clone());
    let watched = cluster.clone();
    let task = async move {
        let cluster = watched;
        let handle = &guard.0.monitor;
        let address = guard.0.address();
        let mut connection = None;
        // The end of this server's monitor is told by the signal that cancels its checks.
        loop {
            let cancelled = handle.cancel.version();
            if handle.is_stopped() {
                break;
            }
            let rest = cluster.transport().sleep_until(cluster.now() + pace.heartbeat);
            if let Either::Left(_) = select2(handle.cancel.passed(cancelled), rest).await {
                connection = None;
                continue;
            }
            let began = cluster.now();
            let by = pace.connect_timeout.map_or(Instant::NEVER, |timeout| began + timeout);
            let sample = match connection.take() {
                None => connect(&cluster, address, by).await.map(|(opened, _, round_trip)| {
                    connection = Some(opened);
                    round_trip
                }),
                Some(mut open) => {
                    open.set_deadline(by);
                    let asked = match send_hello(&cluster, &mut open, false, None).await {
                        Ok(()) => open.receive().await.map(|_| ()),
                        Err(error) => Err(error),
                    };
                    connection = Some(open);
                    asked.map(|()| cluster.now() - began)
                }
            };
            match sample {
                Ok(sample) => lock(&handle.round_trips).add(sample),
                Err(_) => connection = None,
            }
        }
    };
    cluster.transport().spawn("round-trip monitor", Box::pin(task));
}

/// Notices when the measuring loop's task is dropped.
struct Measuring(Arc<Server>);

impl Drop for Measuring {
    fn drop(&mut self) {
        self.0.monitor.measuring.store(false, Ordering::SeqCst);
    }
}
