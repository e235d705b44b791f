//! The state machine: outcomes in, effects out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::oid::ObjectId;

use super::rules::Update;
use super::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use crate::error::Error;
use crate::event::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerOpeningEvent,
    TopologyClosedEvent, TopologyDescriptionChangedEvent, TopologyOpeningEvent,
};
use crate::options::ClientOptions;
use crate::time::Instant;
use crate::uri::ServerAddress;

/// The settings of a client that decide how it looks at its deployment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TopologyOptions {
    /// The servers to begin with.
    pub seeds: Vec<ServerAddress>,
    /// Use the one seed directly, whatever it is.
    pub direct_connection: bool,
    /// The one seed is a load balancer.
    pub load_balanced: bool,
    /// The name the set must have.
    pub repl_set_name: Option<String>,
}

impl From<&ClientOptions> for TopologyOptions {
    fn from(options: &ClientOptions) -> Self {
        let mut seeds = options.hosts.clone();
        if seeds.is_empty() {
            seeds.push(ServerAddress::default());
        }
        TopologyOptions {
            seeds,
            direct_connection: options.direct_connection.unwrap_or(false),
            load_balanced: options.load_balanced.unwrap_or(false),
            repl_set_name: options.repl_set_name.clone(),
        }
    }
}

/// Something the owner of a [`Topology`] does because of what it learned, in the order given and
/// before the next outcome is handed in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Tell a listener.
    Emit(SdamEvent),
    /// Make this the current description and wake whoever waits for one.
    Publish(Arc<TopologyDescription>),
    /// Make a paused pool of generation zero.
    CreatePool(ServerAddress),
    /// Begin to check this server.
    StartMonitor(ServerAddress),
    /// Check this server no more.
    StopMonitor(ServerAddress),
    /// Close the pool of this server; it is part of the deployment no more.
    ClosePool(ServerAddress),
    /// Check this server as soon as the minimum pause between checks allows.
    CheckNow(ServerAddress),
    /// Break off the check of this server that is under way: its connection is as dead as the one
    /// that just failed.
    CancelCheck(ServerAddress),
    /// The pool of this server may be used.
    PoolReady(ServerAddress),
    /// Clear the pool of this server: connections of older generations are closed.
    PoolClear {
        /// The server.
        address: ServerAddress,
        /// The service behind a load balancer whose connections are meant; `None` for all.
        service_id: Option<ObjectId>,
        /// The generation of connections from now on.
        generation: u64,
        /// Whether connections in use are interrupted.
        interrupt: bool,
        /// Why.
        cause: Error,
    },
}

/// An error of an operation, and of which connection.
#[derive(Clone, Copy, Debug)]
pub struct ApplicationError<'a> {
    /// The pool's generation when the connection was made.
    pub generation: u64,
    /// The service behind a load balancer the connection leads to.
    pub service_id: Option<ObjectId>,
    /// Whether the connection had been opened, greeted and authenticated.
    pub handshake_completed: bool,
    /// The error. For a reply, what [`Error::from_reply_for_sdam`] makes of it.
    pub error: &'a Error,
}

/// What one client believes about its deployment, and the generations of its pools.
///
/// Descriptions and generations change together here, so that the owner's one lock is the lock the
/// specification asks for. A server that is removed and comes back gets a new pool; errors of the
/// closed pool's connections are for the owner to drop.
#[derive(Debug)]
pub struct Topology {
    options: TopologyOptions,
    description: Arc<TopologyDescription>,
    pools: BTreeMap<ServerAddress, PoolState>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Open,
    Closed,
}

/// What the topology must know of a pool.
#[derive(Debug)]
struct PoolState {
    generation: u64,
    services: BTreeMap<ObjectId, u64>,
    paused: bool,
}

impl PoolState {
    const fn new() -> Self {
        PoolState { generation: 0, services: BTreeMap::new(), paused: true }
    }
}

impl Topology {
    /// The beliefs of a client that has not begun to look; does nothing until [`Topology::open`].
    pub fn new(id: ObjectId, options: TopologyOptions) -> Self {
        Topology {
            options,
            description: Arc::new(TopologyDescription::empty(id)),
            pools: BTreeMap::new(),
            state: State::New,
        }
    }

    /// What is believed now.
    pub fn description(&self) -> &Arc<TopologyDescription> {
        &self.description
    }

    /// The generation new connections to `address` belong to; `None` if it is not part of the
    /// deployment. With a load balancer, that of the service.
    pub fn generation(
        &self,
        address: &ServerAddress,
        service_id: Option<&ObjectId>,
    ) -> Option<u64> {
        let pool = self.pools.get(address)?;
        Some(match service_id {
            Some(service) => pool.services.get(service).copied().unwrap_or(0),
            None => pool.generation,
        })
    }

    /// Begins to look at the seeds.
    pub fn open(&mut self, effects: &mut Vec<Effect>) {
        assert_eq!(self.state, State::New, "a topology is opened once");
        self.state = State::Open;
        let id = self.description.id;
        effects.push(Effect::Emit(SdamEvent::TopologyOpening(TopologyOpeningEvent {
            topology_id: id,
        })));
        let mut next = TopologyDescription::empty(id);
        next.set_name.clone_from(&self.options.repl_set_name);
        next.topology_type = if self.options.load_balanced {
            TopologyType::LoadBalanced
        } else if self.options.direct_connection {
            TopologyType::Single
        } else if self.options.repl_set_name.is_some() {
            TopologyType::ReplicaSetNoPrimary
        } else {
            TopologyType::Unknown
        };
        for seed in &self.options.seeds {
            let server = Arc::new(ServerDescription::unknown(seed.clone()));
            next.servers.insert(seed.clone(), server);
        }
        let added = next.servers.keys().cloned().collect::<Vec<_>>();
        let previous = self.replace(next);
        self.emit_topology_changed(previous, effects);
        for address in added {
            self.add_server(address, effects);
        }
        effects.push(Effect::Publish(Arc::clone(&self.description)));
        if self.options.load_balanced {
            // A load balancer is never checked; it is what it was said to be.
            for address in self.description.servers.keys().cloned().collect::<Vec<_>>() {
                self.apply(ServerDescription::load_balancer(address), effects);
            }
        }
    }

    /// Stops looking; every later outcome is ignored.
    pub fn close(&mut self, effects: &mut Vec<Effect>) {
        if self.state != State::Open {
            self.state = State::Closed;
            return;
        }
        self.state = State::Closed;
        let id = self.description.id;
        for address in self.description.servers.keys().cloned().collect::<Vec<_>>() {
            self.remove_server(address, effects);
        }
        let previous = self.replace(TopologyDescription::empty(id));
        self.emit_topology_changed(previous, effects);
        effects.push(Effect::Publish(Arc::clone(&self.description)));
        effects
            .push(Effect::Emit(SdamEvent::TopologyClosed(TopologyClosedEvent { topology_id: id })));
    }

    /// Takes the outcome of a check that was answered: what [`ServerDescription::from_hello`] made of
    /// the reply. A reply that was refused or unreadable counts as a failed check.
    pub fn on_hello(&mut self, server: ServerDescription, effects: &mut Vec<Effect>) {
        let address = server.address.clone();
        let error = server.error.clone();
        let usable = server.server_type.is_data_bearing()
            || (server.is_available() && self.description.topology_type == TopologyType::Single);
        if !self.apply_ready(server, usable, effects) {
            return;
        }
        if let Some(error) = error {
            self.clear_pool(&address, None, false, &error, effects);
        }
    }

    /// Takes the outcome of a check that failed: the server is unknown now, and its pool is cleared;
    /// connections in use are interrupted if the check timed out, for they hang as well.
    pub fn on_monitor_error(
        &mut self,
        now: Instant,
        address: &ServerAddress,
        error: &Error,
        effects: &mut Vec<Effect>,
    ) {
        let server = ServerDescription::failed(address.clone(), now, error.clone());
        if self.apply(server, effects) {
            let interrupt = error.is_network_timeout();
            self.clear_pool(address, None, interrupt, error, effects);
        }
    }

    /// Takes an error of an operation (SDAM specification, "Error handling").
    ///
    /// Ignored if the connection is older than the pool's generation, or the error's topologyVersion
    /// tells nothing new, or the server is not part of the deployment. A write error must not be
    /// handed in.
    pub fn on_application_error(
        &mut self,
        now: Instant,
        address: &ServerAddress,
        application: ApplicationError<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let ApplicationError { generation, service_id, handshake_completed, error } = application;
        let load_balanced = self.description.topology_type == TopologyType::LoadBalanced;
        let Some(known) = self.description.server(address) else { return };
        if load_balanced && service_id.is_none() {
            // Nobody knows which of the servers behind the load balancer this was.
            return;
        }
        if self.generation(address, service_id.as_ref()).is_none_or(|newest| generation < newest) {
            return;
        }
        if let (Some(told), Some(known)) = (error.topology_version(), known.topology_version)
            && told.is_not_newer_than(known)
        {
            return;
        }
        let unknown = || ServerDescription::failed(address.clone(), now, error.clone());
        if error.is_state_change() {
            if !load_balanced {
                self.apply(unknown(), effects);
            }
            // Since 4.2 a member that only changes its state keeps its connections open.
            if error.is_shutting_down() {
                self.clear_pool(address, service_id, false, error, effects);
            }
            if !load_balanced {
                effects.push(Effect::CheckNow(address.clone()));
            }
            return;
        }
        let lost = if handshake_completed {
            // A slow operation says nothing about its server.
            error.is_network() && !error.is_network_timeout()
        } else {
            // An overloaded server that drops new connections still serves the old ones.
            (error.is_network() && !error.is_overloaded()) || error.is_authentication()
        };
        if lost {
            if !load_balanced {
                self.apply(unknown(), effects);
            }
            self.clear_pool(address, service_id, false, error, effects);
            if !load_balanced {
                effects.push(Effect::CancelCheck(address.clone()));
            }
        }
    }

    /// Takes a new answer of DNS for a `mongodb+srv://` name (SRV polling): servers it no longer names
    /// are dropped, new ones added. Only while the deployment is unknown or sharded; an empty answer
    /// changes nothing.
    pub fn on_srv(&mut self, hosts: &[ServerAddress], effects: &mut Vec<Effect>) {
        let pollable =
            matches!(self.description.topology_type, TopologyType::Unknown | TopologyType::Sharded);
        if self.state != State::Open || !pollable || hosts.is_empty() {
            return;
        }
        let mut next = (*self.description).clone();
        next.servers.retain(|address, _| hosts.contains(address));
        for host in hosts {
            next.servers
                .entry(host.clone())
                .or_insert_with(|| Arc::new(ServerDescription::unknown(host.clone())));
        }
        self.adopt(next, None, None, effects);
    }

    /// Applies news whose server cannot be used before it is checked again.
    fn apply(&mut self, server: ServerDescription, effects: &mut Vec<Effect>) -> bool {
        let usable = server.server_type == ServerType::LoadBalancer;
        self.apply_ready(server, usable, effects)
    }

    /// Applies news; gives back whether they were not too old. Makes the pool ready if `usable`.
    fn apply_ready(
        &mut self,
        server: ServerDescription,
        usable: bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(known) = self.description.server(&server.address) else { return false };
        if self.state != State::Open {
            return false;
        }
        if let (Some(new), Some(old)) = (server.topology_version, known.topology_version)
            && new.is_older_than(old)
        {
            return false;
        }
        let address = server.address.clone();
        let mut next = (*self.description).clone();
        let mut update = Update {
            topology: &mut next,
            seed_count: self.options.seeds.len(),
            check_now: Vec::new(),
        };
        let received = Arc::new(server.clone());
        update.apply(server);
        let check_now = update.check_now;
        // A server that was removed was first believed to be what it said it is.
        let new = next.servers.get(&address).cloned().unwrap_or(received);
        self.adopt(next, Some(new), usable.then_some(&address), effects);
        effects.extend(check_now.into_iter().map(Effect::CheckNow));
        true
    }

    /// Makes `next` the description and gives out what follows from the difference.
    fn adopt(
        &mut self,
        next: TopologyDescription,
        news: Option<Arc<ServerDescription>>,
        ready: Option<&ServerAddress>,
        effects: &mut Vec<Effect>,
    ) {
        let previous = self.replace(next);
        let current = Arc::clone(&self.description);
        let others = current
            .servers
            .values()
            .filter(|server| news.as_ref().is_none_or(|news| news.address != server.address));
        for new in news.iter().chain(others) {
            if let Some(old) = previous.servers.get(&new.address)
                && old != new
            {
                let event = ServerDescriptionChangedEvent {
                    topology_id: current.id,
                    address: new.address.clone(),
                    previous_description: Arc::clone(old),
                    new_description: Arc::clone(new),
                };
                effects.push(Effect::Emit(SdamEvent::ServerDescriptionChanged(Box::new(event))));
            }
        }
        for address in previous.servers.keys() {
            if !current.servers.contains_key(address) {
                self.remove_server(address.clone(), effects);
            }
        }
        for address in current.servers.keys() {
            if !previous.servers.contains_key(address) {
                self.add_server(address.clone(), effects);
            }
        }
        self.emit_topology_changed(previous, effects);
        if let Some(address) = ready
            && let Some(pool) = self.pools.get_mut(address)
            && current.servers.get(address).is_some_and(|server| server.is_available())
            && std::mem::replace(&mut pool.paused, false)
        {
            // Before the description is published: whoever it wakes finds the pool ready.
            effects.push(Effect::PoolReady(address.clone()));
        }
        effects.push(Effect::Publish(current));
    }

    fn clear_pool(
        &mut self,
        address: &ServerAddress,
        service_id: Option<ObjectId>,
        interrupt: bool,
        cause: &Error,
        effects: &mut Vec<Effect>,
    ) {
        if crate::planted::is(crate::planted::DriverBug::KeepsFailedPool) {
            return;
        }
        let Some(pool) = self.pools.get_mut(address) else { return };
        let generation = match service_id {
            Some(service) => pool.services.entry(service).or_insert(0),
            None => {
                pool.paused = true;
                &mut pool.generation
            }
        };
        *generation += 1;
        effects.push(Effect::PoolClear {
            address: address.clone(),
            service_id,
            generation: *generation,
            interrupt,
            cause: cause.clone(),
        });
    }

    fn add_server(&mut self, address: ServerAddress, effects: &mut Vec<Effect>) {
        let topology_id = self.description.id;
        let event = ServerOpeningEvent { topology_id, address: address.clone() };
        effects.push(Effect::Emit(SdamEvent::ServerOpening(event)));
        self.pools.insert(address.clone(), PoolState::new());
        effects.push(Effect::CreatePool(address.clone()));
        if self.description.topology_type != TopologyType::LoadBalanced {
            effects.push(Effect::StartMonitor(address));
        }
    }

    fn remove_server(&mut self, address: ServerAddress, effects: &mut Vec<Effect>) {
        let topology_id = self.description.id;
        self.pools.remove(&address);
        effects.push(Effect::StopMonitor(address.clone()));
        effects.push(Effect::ClosePool(address.clone()));
        let event = ServerClosedEvent { topology_id, address };
        effects.push(Effect::Emit(SdamEvent::ServerClosed(event)));
    }

    fn emit_topology_changed(&self, previous: Arc<TopologyDescription>, effects: &mut Vec<Effect>) {
        if previous != self.description {
            let event = TopologyDescriptionChangedEvent {
                topology_id: self.description.id,
                previous_description: previous,
                new_description: Arc::clone(&self.description),
            };
            effects.push(Effect::Emit(SdamEvent::TopologyDescriptionChanged(Box::new(event))));
        }
    }

    fn replace(&mut self, next: TopologyDescription) -> Arc<TopologyDescription> {
        std::mem::replace(&mut self.description, Arc::new(next))
    }
}

#[cfg(test)]
mod tests;
