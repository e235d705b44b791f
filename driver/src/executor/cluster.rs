//! What all operations of one client share: the topology, its servers, sessions, the cluster time.
//!
//! The pure [`Topology`] decides under one lock; what it wants done is done in its order, and whoever
//! is to be woken is woken after the lock is released.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bson::oid::ObjectId;

use super::srv::poll_srv;
use super::stats::Counters;
use crate::connection::add_server_api;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{CommandEvent, EventHandler, SdamEvent};
use crate::logging::selection::Search;
use crate::monitor::{MonitorHandle, Pace, watch};
use crate::operation::{BodyWriter, Target};
use crate::options::{ClientOptions, ReadPreferenceMode, SelectionCriteria, ServerMonitoringMode};
use crate::pool::{Deferred, Pool, PoolContext};
use crate::sdam::{
    ApplicationError, Effect, ServerDescription, Topology, TopologyDescription, TopologyOptions,
    TopologyType,
};
use crate::selection::{self, Pick, Request};
use crate::session::{ClusterTime, ServerSession, ServerSessionPool};
use crate::sync::{Either, Signal, lock, select2};
use crate::telemetry::{Tracer, TracingOptions};
use crate::time::Instant;
use crate::transport::Transport;
use crate::uri::ServerAddress;

/// One server as operations see it.
pub(crate) struct Server {
    pub(crate) pool: Arc<Pool>,
    pub(crate) monitor: MonitorHandle,
    pub(crate) counters: Counters,
}

impl Server {
    /// The server's address.
    pub(crate) fn address(&self) -> &ServerAddress {
        self.pool.address()
    }
}

/// The wire version of MongoDB 5.0, the first whose secondaries run aggregations that write.
pub(crate) const OUTPUT_WIRE_VERSION: i32 = 13;

/// The server an operation goes to.
pub(crate) struct Selected {
    pub(crate) server: Arc<Server>,
    /// What was believed when it was selected.
    pub(crate) topology: Arc<TopologyDescription>,
    /// The least round-trip time measured of it; looked up only where there is a time limit.
    pub(crate) min_round_trip_time: Duration,
    /// When a connection must be there: [`Instant::NEVER`] leaves that to `waitQueueTimeoutMS`.
    pub(crate) check_out_by: Instant,
}

type Servers = BTreeMap<ServerAddress, Arc<Server>>;

/// What readers see: replaced whole. What every operation asks is answered when it is made, so that an
/// operation on a large set costs what it costs on a small one.
pub(crate) struct Snapshot {
    pub(crate) description: Arc<TopologyDescription>,
    pub(crate) servers: Servers,
    /// The primary of a set that has one, if the driver speaks with all of its members.
    primary: Option<Arc<Server>>,
    /// How long the deployment keeps an idle session.
    session_timeout: Option<Duration>,
}

impl Snapshot {
    fn new(description: Arc<TopologyDescription>, servers: Servers) -> Self {
        let minutes = description.logical_session_timeout_minutes();
        let primary = description
            .primary()
            .filter(|_| description.topology_type == TopologyType::ReplicaSetWithPrimary)
            .filter(|_| description.compatibility_error().is_none())
            .and_then(|primary| servers.get(&primary.address))
            .cloned();
        Snapshot {
            primary,
            session_timeout: minutes
                .map(|minutes| Duration::from_secs(u64::try_from(minutes).unwrap_or(0) * 60)),
            description,
            servers,
        }
    }
}

/// The shared part of a client.
pub(crate) struct Cluster {
    transport: Arc<dyn Transport>,
    options: ClientOptions,
    pools: Arc<PoolContext>,
    state: Mutex<State>,
    snapshot: RwLock<Arc<Snapshot>>,
    changed: Signal,
    sessions: Mutex<ServerSessionPool>,
    pub(crate) cluster_time: ClusterTime,
    ids: ObjectIds,
    operations: AtomicU64,
    closed: AtomicBool,
    monitors_lost: AtomicBool,
    tracer: Option<Arc<dyn Tracer>>,
}

struct State {
    topology: Topology,
    servers: Servers,
}

/// What is done once the lock of [`State`] is released.
#[derive(Default)]
struct After {
    pools: Vec<(Arc<Pool>, Deferred)>,
    closed: Vec<Arc<Pool>>,
    ready: Vec<Arc<Pool>>,
    monitors: Vec<(Arc<Server>, MonitorWord)>,
    changed: bool,
}

enum MonitorWord {
    Start,
    Stop,
    CheckNow,
    Cancel,
}

/// Makes ObjectIds from the transport's clock and random numbers.
struct ObjectIds {
    process: [u8; 5],
    counter: AtomicU32,
}

impl Cluster {
    /// A cluster that has not begun to look at its deployment.
    ///
    /// # Errors
    /// As [`PoolContext::new`].
    pub(crate) fn new(transport: Arc<dyn Transport>, options: ClientOptions) -> Result<Arc<Self>> {
        let pools = Arc::new(PoolContext::new(transport.clone(), &options)?);
        let random = transport.random().to_be_bytes();
        let ids = ObjectIds {
            process: [random[0], random[1], random[2], random[3], random[4]],
            counter: AtomicU32::new(u32::from_be_bytes([0, random[5], random[6], random[7]])),
        };
        let id = ids.next(transport.unix_millis());
        let topology = Topology::new(id, TopologyOptions::from(&options));
        let description = topology.description().clone();
        Ok(Arc::new(Cluster {
            pools,
            state: Mutex::new(State { topology, servers: Servers::new() }),
            snapshot: RwLock::new(Arc::new(Snapshot::new(description, Servers::new()))),
            changed: Signal::default(),
            sessions: Mutex::default(),
            cluster_time: ClusterTime::default(),
            ids,
            operations: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            monitors_lost: AtomicBool::new(false),
            tracer: options.tracing.as_ref().and_then(TracingOptions::tracer),
            options,
            transport,
        }))
    }

    /// Begins to look at the seeds.
    pub(crate) fn open(self: &Arc<Self>) {
        self.learn(|topology, effects| topology.open(effects));
        if let Some(host) = &self.options.srv_host {
            poll_srv(self, host);
        }
    }

    /// Takes a new answer of DNS.
    pub(super) fn on_srv(self: &Arc<Self>, hosts: &[ServerAddress]) {
        self.learn(|topology, effects| topology.on_srv(hosts, effects));
    }

    /// Stops everything. Operations under way fail or end.
    pub(crate) fn close(self: &Arc<Self>) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.learn(|topology, effects| topology.close(effects));
        self.changed.raise();
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub(crate) fn pools(&self) -> &PoolContext {
        &self.pools
    }

    pub(crate) fn now(&self) -> Instant {
        self.transport.now()
    }

    /// How the monitors of this client work.
    pub(crate) fn pace(&self) -> Pace {
        Pace {
            heartbeat: self.options.heartbeat_freq_or_default(),
            connect_timeout: self.options.connect_timeout_or_default(),
            streaming: self.options.server_monitoring_mode != Some(ServerMonitoringMode::Poll),
        }
    }

    /// What is believed now.
    pub(crate) fn description(&self) -> Arc<TopologyDescription> {
        self.snapshot().description.clone()
    }

    /// What is believed now, and the servers that go with it.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts up on every change of what is believed.
    pub(crate) fn changed(&self) -> &Signal {
        &self.changed
    }

    /// A new ObjectId.
    pub(crate) fn new_object_id(&self) -> ObjectId {
        self.ids.next(self.transport.unix_millis())
    }

    /// A number for the events of one operation.
    pub(crate) fn next_operation_id(&self) -> i64 {
        (self.operations.fetch_add(1, Ordering::Relaxed) + 1).cast_signed()
    }

    /// Whether a server API version was declared.
    pub(crate) fn has_server_api(&self) -> bool {
        self.options.server_api.is_some()
    }

    /// Adds the declared server API version to a command.
    pub(crate) fn add_server_api(&self, body: &mut BodyWriter<'_>) {
        add_server_api(body, &self.options);
    }

    /// Tells a topology event.
    pub(crate) fn emit(&self, event: impl FnOnce() -> SdamEvent) {
        if let Some(handler) = &self.options.sdam_event_handler {
            handler.handle(event());
        }
    }

    /// Who makes spans.
    pub(crate) fn tracer(&self) -> Option<&Arc<dyn Tracer>> {
        self.tracer.as_ref()
    }

    /// Who hears about commands.
    pub(crate) fn command_events(&self) -> Option<&EventHandler<CommandEvent>> {
        self.options.command_event_handler.as_ref()
    }

    /// Takes the answer to a check.
    pub(crate) fn on_hello(self: &Arc<Self>, description: ServerDescription) {
        self.learn(|topology, effects| topology.on_hello(description, effects));
    }

    /// Takes the failure of a check.
    pub(crate) fn on_monitor_error(self: &Arc<Self>, address: &ServerAddress, error: &Error) {
        let now = self.now();
        self.learn(|topology, effects| topology.on_monitor_error(now, address, error, effects));
    }

    /// Takes the failure of an operation on a connection of `generation` of `server`.
    pub(crate) fn on_application_error(
        self: &Arc<Self>,
        server: &Arc<Server>,
        generation: u64,
        handshake_completed: bool,
        error: &Error,
    ) {
        // A server that was removed and came back has another pool: its generations say nothing.
        let current = self.snapshot().servers.get(server.address()).cloned();
        if !current.is_some_and(|current| Arc::ptr_eq(&current, server)) {
            return;
        }
        let now = self.now();
        let application =
            ApplicationError { generation, service_id: None, handshake_completed, error };
        self.learn(|topology, effects| {
            topology.on_application_error(now, server.address(), application, effects);
        });
    }

    /// A monitor's task vanished: the next operation starts it again.
    pub(crate) fn monitor_was_lost(&self) {
        self.monitors_lost.store(true, Ordering::SeqCst);
    }

    /// Asks all monitors for a check.
    fn check_all_now(&self, servers: &Servers) {
        for server in servers.values() {
            server.monitor.check_now();
        }
    }

    /// Starts monitors again whose runtime is gone, and forgets its sockets.
    fn revive_monitors(self: &Arc<Self>) {
        // Looked at by every operation: it is written to only if there is something to do.
        let lost = self.monitors_lost.load(Ordering::SeqCst)
            && self.monitors_lost.swap(false, Ordering::SeqCst);
        if !lost || self.is_closed() {
            return;
        }
        for server in self.snapshot().servers.values() {
            if server.monitor.is_lost() {
                server.pool.forget_idle();
                watch(self, server);
            }
        }
    }

    /// The server an operation goes to, waited for as long as `serverSelectionTimeoutMS`, and not
    /// beyond `limit` (`timeoutMS`).
    ///
    /// # Errors
    /// `ServerSelection` if none was found in time, `Shutdown` if the client is closed, and what
    /// [`selection::select`] fails with.
    pub(crate) async fn select(
        self: &Arc<Self>,
        target: &Target,
        avoid: &[ServerAddress],
        limit: Option<Instant>,
        search: Option<&Search<'_>>,
    ) -> Result<Selected> {
        let Some(search) = search else {
            return self.search(target, avoid, limit, |_, _| {}).await;
        };
        search.started(&self.description());
        let told = |topology: &TopologyDescription, left| search.waiting(topology, left);
        let result = self.search(target, avoid, limit, told).await;
        match &result {
            Ok(selected) => search.succeeded(&selected.topology, selected.server.address()),
            Err(error) => search.failed(&self.description(), error),
        }
        result
    }

    /// The search itself; `waits` is told once if nobody suits at first.
    async fn search(
        self: &Arc<Self>,
        target: &Target,
        avoid: &[ServerAddress],
        limit: Option<Instant>,
        waits: impl Fn(&TopologyDescription, Duration),
    ) -> Result<Selected> {
        let resolved;
        let target = match target {
            Target::Output(criteria) => {
                let old = self.description().servers.values().any(|server| {
                    server.is_available() && server.max_wire_version < OUTPUT_WIRE_VERSION
                });
                resolved = match old {
                    true => Target::Writable,
                    false => Target::Readable(criteria.clone()),
                };
                &resolved
            }
            other => other,
        };
        let timeout = self.options.server_selection_timeout_or_default();
        // With a limit the time for a connection is a part of the time for selection.
        let mut by = limit.map(|limit| limit.min(self.now() + timeout));
        let mut waited = false;
        loop {
            self.revive_monitors();
            let seen = self.changed.version();
            if self.is_closed() {
                return Err(Error::new(ErrorKind::Shutdown));
            }
            let snapshot = self.snapshot();
            let late = limit.is_some() && by.is_some_and(|by| self.now() >= by);
            if let Some(server) = self.pick(&snapshot, target, avoid)?.filter(|_| !late) {
                let least = limit.map(|_| server.monitor.min_round_trip_time());
                return Ok(Selected {
                    min_round_trip_time: least.unwrap_or_default(),
                    check_out_by: limit.and(by).unwrap_or(Instant::NEVER),
                    server,
                    topology: snapshot.description.clone(),
                });
            }
            let now = self.now();
            let by = *by.get_or_insert_with(|| now + timeout);
            if now >= by {
                return Err(self.selection_timeout(&snapshot.description, target, timeout));
            }
            if !std::mem::replace(&mut waited, true) {
                waits(&snapshot.description, by - now);
            }
            self.check_all_now(&snapshot.servers);
            let changed = self.changed.passed(seen);
            if let Either::Right(()) = select2(changed, self.transport.sleep_until(by)).await {
                let description = self.description();
                return Err(self.selection_timeout(&description, target, timeout));
            }
        }
    }

    /// Whether an operation would find its server without waiting.
    pub(crate) fn can_select(&self, target: &Target) -> bool {
        matches!(self.pick(&self.snapshot(), target, &[]), Ok(Some(_)))
    }

    fn pick(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        avoid: &[ServerAddress],
    ) -> Result<Option<Arc<Server>>> {
        let Snapshot { description, servers, .. } = snapshot;
        if let Target::Server(address) = target {
            let Some(known) = description.server(address) else {
                return Err(Error::server_selection(format!(
                    "the server {address}, which has the cursor, is no longer part of the topology"
                )));
            };
            return Ok(servers.get(address).filter(|_| known.is_available()).cloned());
        }
        // The commonest question has one answer and needs no lists.
        if snapshot.primary.is_some() && avoid.is_empty() && wants_primary(target) {
            return Ok(snapshot.primary.clone());
        }
        let request = self.request(target, avoid);
        let random = match target {
            // Where there is nothing to choose no random number is drawn.
            Target::Readable(criteria) if is_choice(criteria) && servers.len() > 1 => {
                [self.transport.random(), self.transport.random()]
            }
            _ => [0, 0],
        };
        let running =
            |address: &ServerAddress| servers.get(address).map_or(0, |s| s.counters.in_flight());
        match selection::select(description, &request, running, random)? {
            Pick::Server(chosen) => Ok(servers.get(&chosen.address).cloned()),
            Pick::Wait => Ok(None),
        }
    }

    fn request<'a>(&self, target: &'a Target, avoid: &'a [ServerAddress]) -> Request<'a> {
        let request = match target {
            Target::Readable(criteria) => Request::readable(criteria),
            _ => Request::writable(),
        };
        request.avoiding(avoid).with_settings(
            self.options.local_threshold_or_default(),
            self.options.heartbeat_freq_or_default(),
        )
    }

    fn selection_timeout(
        &self,
        description: &TopologyDescription,
        target: &Target,
        timeout: Duration,
    ) -> Error {
        selection::timeout_error(description, &self.request(target, &[]), timeout)
    }

    /// A session for one operation or for [`Client::start_session`](crate::Client::start_session).
    pub(crate) fn take_session(&self) -> ServerSession {
        let now = self.now();
        let timeout = self.session_timeout();
        let pooled = lock(&self.sessions).take(now, timeout);
        pooled.unwrap_or_else(|| {
            ServerSession::new(now, [self.transport.random(), self.transport.random()])
        })
    }

    /// Takes a session back.
    pub(crate) fn give_back_session(&self, session: ServerSession) {
        let (now, timeout) = (self.now(), self.session_timeout());
        lock(&self.sessions).give_back(now, timeout, session);
    }

    /// Takes all idle sessions out.
    pub(crate) fn drain_sessions(&self) -> Vec<ServerSession> {
        lock(&self.sessions).drain()
    }

    fn session_timeout(&self) -> Option<Duration> {
        self.snapshot().session_timeout
    }

    /// Hands an outcome to the topology and does what it wants done.
    fn learn(self: &Arc<Self>, outcome: impl FnOnce(&mut Topology, &mut Vec<Effect>)) {
        let mut after = After::default();
        {
            let mut state = lock(&self.state);
            let mut effects = Vec::new();
            outcome(&mut state.topology, &mut effects);
            for effect in effects {
                self.carry_out(&mut state.servers, effect, &mut after);
            }
        }
        self.finish(after);
    }

    fn carry_out(&self, servers: &mut Servers, effect: Effect, after: &mut After) {
        let mut tell_monitor = |servers: &Servers, address: &ServerAddress, word| {
            after.monitors.extend(servers.get(address).map(|server| (server.clone(), word)));
        };
        match effect {
            Effect::Emit(event) => self.emit(|| event),
            Effect::Publish(description) => {
                let next = Arc::new(Snapshot::new(description, servers.clone()));
                *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = next;
                after.changed = true;
            }
            Effect::CreatePool(address) => {
                let server = Server {
                    pool: Pool::new(address.clone(), self.pools.clone()),
                    monitor: MonitorHandle::default(),
                    counters: Counters::default(),
                };
                servers.insert(address, Arc::new(server));
            }
            Effect::StartMonitor(address) => tell_monitor(servers, &address, MonitorWord::Start),
            Effect::StopMonitor(address) => tell_monitor(servers, &address, MonitorWord::Stop),
            Effect::CheckNow(address) => tell_monitor(servers, &address, MonitorWord::CheckNow),
            Effect::CancelCheck(address) => tell_monitor(servers, &address, MonitorWord::Cancel),
            Effect::ClosePool(address) => {
                if let Some(server) = servers.remove(&address) {
                    after.pools.push((server.pool.clone(), server.pool.close()));
                    after.closed.push(server.pool.clone());
                }
            }
            Effect::PoolReady(address) => {
                if let Some(server) = servers.get(&address) {
                    server.pool.ready();
                    after.ready.push(server.pool.clone());
                }
            }
            Effect::PoolClear { address, generation, interrupt, cause, .. } => {
                if let Some(server) = servers.get(&address) {
                    let deferred = server.pool.clear(cause, generation, interrupt);
                    after.pools.push((server.pool.clone(), deferred));
                }
            }
        }
    }

    /// Wakes and starts whom the topology wanted woken and started. No lock is held.
    fn finish(self: &Arc<Self>, after: After) {
        for (pool, deferred) in after.pools {
            pool.run(deferred);
        }
        for pool in after.closed {
            pool.tell_closed();
        }
        for (server, word) in after.monitors {
            match word {
                MonitorWord::Start => watch(self, &server),
                MonitorWord::Stop => server.monitor.stop(),
                MonitorWord::CheckNow => server.monitor.check_now(),
                MonitorWord::Cancel => server.monitor.cancel(),
            }
        }
        for pool in after.ready {
            pool.maintain();
        }
        if after.changed {
            self.changed.raise();
        }
    }
}

/// Whether the primary alone suits.
fn wants_primary(target: &Target) -> bool {
    match target {
        Target::Writable => true,
        Target::Readable(criteria) => !is_choice(criteria),
        Target::Server(_) | Target::Output(_) => false,
    }
}

/// Whether more than one server may suit the criteria.
fn is_choice(criteria: &SelectionCriteria) -> bool {
    criteria
        .as_read_preference()
        .is_none_or(|preference| preference.mode() != ReadPreferenceMode::Primary)
}

impl ObjectIds {
    fn next(&self, unix_millis: i64) -> ObjectId {
        let seconds = u32::try_from(unix_millis / 1000).unwrap_or(0);
        let counter = self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        ObjectId::from_parts(seconds, self.process, [counter[1], counter[2], counter[3]])
    }
}
