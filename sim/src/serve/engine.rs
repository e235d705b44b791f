//! The engine: one thread that owns the world, lets its time pass, and carries bytes in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant as RealInstant};

use stepdown_driver::Instant;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::control::{ControlError, Request, Response};
use super::pace::Pace;
use super::sockets::{ConnectionNumber, Door, Lobby, Outgoing};
use super::{Narrator, ServeError, ServeOptions};
use crate::trace::{Event, EventKind, Record};
use crate::world::{ExternalId, ExternalOutput, FaultError, Sim};

/// Virtual time passes in slices of at most so much, so that sockets are not left waiting.
const SLICE: Duration = Duration::from_secs(1);
/// So far may virtual time fall behind before it stops trying to catch up, in real time.
const LAG_MAX: Duration = Duration::from_secs(2);
/// Inputs taken in before time goes on.
const BATCH_MAX: usize = 256;
/// Events kept by the world between two looks at them.
const EVENT_CAP: usize = 100_000;
/// The name of the end of links that all connections from outside share.
const OUTSIDE: &str = "external";

/// What reaches the engine from the sockets and the control port.
pub(crate) enum Input {
    Opened {
        member: usize,
        connection: ConnectionNumber,
        remote: SocketAddr,
        /// The subject of the client's verified certificate.
        certificate: Option<String>,
        outgoing: Outgoing,
    },
    Bytes {
        connection: ConnectionNumber,
        bytes: Vec<u8>,
        /// Given back when the bytes are taken in: the socket is read on.
        credit: OwnedSemaphorePermit,
    },
    Closed {
        connection: ConnectionNumber,
    },
    Control {
        request: Request,
        reply: oneshot::Sender<Result<Response, ControlError>>,
    },
    Stop,
}

/// What the engine starts from.
pub(crate) struct Setup {
    pub(crate) options: ServeOptions,
    /// Name and bound port of each member.
    pub(crate) members: Vec<(String, StdTcpListener)>,
    pub(crate) runtime: Runtime,
    pub(crate) lobby: Lobby,
    pub(crate) narrator: Narrator,
}

pub(crate) struct Engine {
    sim: Sim,
    pace: Pace,
    runtime: Runtime,
    lobby: Lobby,
    names: Vec<String>,
    doors: Vec<Door>,
    connections: BTreeMap<ConnectionNumber, Connection>,
    numbers: BTreeMap<ExternalId, ConnectionNumber>,
    /// Members that take nothing in: paused, or cut off from the clients.
    paused: BTreeSet<usize>,
    cut_off: BTreeSet<usize>,
    /// How much of the world's record has been told.
    told: usize,
    narrator: Narrator,
    name_width: usize,
}

struct Connection {
    member: usize,
    external: ExternalId,
    outgoing: Outgoing,
    /// Credits of bytes that a silent member will not look at yet: its sockets are not read on.
    held: Vec<OwnedSemaphorePermit>,
}

impl Engine {
    /// Builds the world, initiates the set unless told otherwise, and opens the doors.
    pub(crate) fn start(setup: Setup) -> Result<Engine, ServeError> {
        let Setup { options, members, runtime, lobby, narrator } = setup;
        let mut builder = Sim::builder()
            .seed(options.seed)
            .set_name(options.set_name.clone())
            .server_version(options.server_version)
            .auth(options.auth)
            .record(Record::Story)
            .event_cap(EVENT_CAP);
        for (name, _) in &members {
            builder = builder.member(name.clone());
        }
        let sim = builder.build();
        // The end of links that connections from outside share can be named from the start.
        drop(sim.transport(OUTSIDE));
        let names: Vec<String> = members.iter().map(|(name, _)| name.clone()).collect();
        let mut engine = Engine {
            pace: Pace::new(options.speed, RealInstant::now(), sim.now()),
            name_width: names.iter().map(String::len).max().unwrap_or(0),
            sim,
            runtime,
            lobby,
            names,
            doors: Vec::new(),
            connections: BTreeMap::new(),
            numbers: BTreeMap::new(),
            paused: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            told: 0,
            narrator,
        };
        if !options.uninitiated {
            // Nobody watches yet: the first election need not take its ten seconds.
            engine.sim.elect();
        }
        engine.pace.rebase(RealInstant::now(), engine.sim.now());
        for (member, (_, listener)) in members.into_iter().enumerate() {
            let address = listener.local_addr()?;
            let mut door = Door::new(address, member);
            door.open(engine.runtime.handle(), &engine.lobby, Some(listener))?;
            engine.doors.push(door);
        }
        engine.narrate();
        Ok(engine)
    }

    /// Lets the world live until told to stop.
    pub(crate) fn run(mut self, input: &Receiver<Input>) {
        loop {
            let real = RealInstant::now();
            let behind = self.catch_up(real);
            self.flush();
            let wait = match self.sim.next_event_at() {
                _ if behind => Duration::ZERO,
                Some(at) => self.pace.wait(RealInstant::now(), at),
                None => Duration::from_secs(3_600),
            };
            let first = match input.recv_timeout(wait) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                // The lobby of this engine holds a sender as long as it lives.
                Err(RecvTimeoutError::Disconnected) => unreachable!("the engine holds a sender"),
            };
            self.catch_up(RealInstant::now());
            let mut next = Some(first);
            for _ in 0..BATCH_MAX {
                match next {
                    Some(Input::Stop) => return self.stop(),
                    Some(input) => self.take_in(input),
                    None => break,
                }
                next = input.try_recv().ok();
            }
            if let Some(input) = next {
                match input {
                    Input::Stop => return self.stop(),
                    input => self.take_in(input),
                }
            }
            // What came in has no latency: it is dealt with at this very moment.
            self.sim.run_to(self.sim.now());
            self.flush();
        }
    }

    /// Brings virtual time to where `real` wants it, one slice at most; whether more is to come.
    fn catch_up(&mut self, real: RealInstant) -> bool {
        let due = self.pace.virtual_at(real);
        let slice = due.min(self.sim.now() + SLICE);
        self.sim.run_to(slice);
        if slice == due {
            return false;
        }
        // A machine too slow for the speed asked for, or one that slept: time goes on from here.
        let tolerated = self.pace.virtual_at(real - LAG_MAX.min(real - self.pace.real_start()));
        if self.sim.now() < tolerated {
            self.pace.rebase(real, self.sim.now());
        }
        true
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Opened { member, connection, remote, certificate, outgoing } => {
                // A process that died since its socket accepted closes the connection: dropping
                // `outgoing` does.
                let name = self.names[member].as_str();
                let remote = remote.to_string();
                let opened = self.sim.open_external_as(name, &remote, certificate.as_deref());
                if let Ok(external) = opened {
                    self.numbers.insert(external, connection);
                    let held = Vec::new();
                    let opened = Connection { member, external, outgoing, held };
                    self.connections.insert(connection, opened);
                }
            }
            Input::Bytes { connection, bytes, credit } => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    self.sim.external_send(connection.external, bytes);
                    let member = &connection.member;
                    if self.paused.contains(member) || self.cut_off.contains(member) {
                        connection.held.push(credit);
                    }
                }
            }
            Input::Closed { connection } => self.close(connection),
            Input::Control { request, reply } => {
                let outcome = self.control(request);
                // Whoever asked may be gone.
                let _ = reply.send(outcome);
            }
            Input::Stop => unreachable!("stop is taken out before"),
        }
    }

    fn close(&mut self, connection: ConnectionNumber) {
        if let Some(Connection { external, .. }) = self.connections.remove(&connection) {
            self.numbers.remove(&external);
            self.sim.external_close(external);
        }
    }

    /// Carries out what the world has said: bytes to sockets, events to the narrator.
    fn flush(&mut self) {
        for (external, output) in self.sim.take_external_output() {
            let Some(number) = self.numbers.get(&external).copied() else {
                continue;
            };
            match output {
                ExternalOutput::Bytes(bytes) => {
                    let connection = &self.connections[&number];
                    if connection.outgoing.send(bytes).is_err() {
                        self.close(number);
                    }
                }
                ExternalOutput::Closed => {
                    self.numbers.remove(&external);
                    self.connections.remove(&number);
                }
            }
        }
        self.narrate();
    }

    /// Tells what happened since the last time, and opens and closes doors accordingly.
    fn narrate(&mut self) {
        let (events, told) = self.sim.events_since(self.told);
        self.told = told;
        let mut processes_changed = false;
        for event in &events {
            processes_changed |= matches!(
                event.kind,
                EventKind::ProcessStarted { .. }
                    | EventKind::ProcessKilled
                    | EventKind::ProcessExited { .. }
            );
            self.tell(event);
        }
        if processes_changed {
            self.mind_the_doors();
        }
    }

    fn tell(&mut self, event: &Event) {
        let Event { at, who, kind } = event;
        let width = self.name_width;
        self.narrator.tell(&format!("{at:>12}  {who:<width$}  {kind}"));
    }

    /// A living process listens, a dead one does not.
    fn mind_the_doors(&mut self) {
        for (index, door) in self.doors.iter_mut().enumerate() {
            let alive = self.sim.member(self.names[index].as_str()).is_some_and(|m| m.alive);
            if !alive {
                self.paused.remove(&index);
            }
            if alive && !door.is_open() {
                if let Err(error) = door.open(self.runtime.handle(), &self.lobby, None) {
                    let name = &self.names[index];
                    self.narrator.tell(&format!("cannot listen on {name} again: {error}"));
                }
            } else if !alive && door.is_open() {
                door.close(self.runtime.handle());
            }
        }
    }

    fn stop(mut self) {
        for door in &mut self.doors {
            door.close(self.runtime.handle());
        }
        self.connections.clear();
        self.runtime.shutdown_timeout(Duration::from_millis(500));
    }
}

/// The control port's verbs.
impl Engine {
    fn control(&mut self, request: Request) -> Result<Response, ControlError> {
        let response = match request {
            Request::Members => Response::Members(self.sim.members()),
            Request::Kill(member) => self.process(&member, "killed", Sim::kill)?,
            Request::Shutdown(member) => {
                self.process(&member, "asked to shut down", Sim::shutdown)?
            }
            Request::Restart { member, empty: false } => {
                self.process(&member, "restarted", Sim::restart)?
            }
            Request::Restart { member, empty: true } => {
                self.process(&member, "restarted with an empty dbpath", Sim::restart_empty)?
            }
            Request::Pause(member) => {
                let response = self.process(&member, "paused", Sim::pause)?;
                self.paused.extend(self.index_of(&response));
                response
            }
            Request::Resume(member) => {
                let response = self.process(&member, "resumed", Sim::resume)?;
                if let Some(index) = self.index_of(&response) {
                    self.paused.remove(&index);
                }
                response
            }
            Request::Partition(groups) => self.partition(groups)?,
            Request::Heal => {
                self.sim.heal();
                self.cut_off.clear();
                Response::Done { message: "every fault of the network ended".into() }
            }
            Request::Advance(duration) => {
                self.advance(self.sim.now() + duration);
                Response::Done { message: format!("it is {} s now", self.sim.now()) }
            }
        };
        self.give_back_credits();
        self.sim.run_to(self.sim.now());
        // Whoever asked for a kill may count on a closed port when the answer comes.
        self.flush();
        Ok(response)
    }

    /// Sockets of members that take bytes in again are read on.
    fn give_back_credits(&mut self) {
        for connection in self.connections.values_mut() {
            let member = &connection.member;
            if !self.paused.contains(member) && !self.cut_off.contains(member) {
                connection.held.clear();
            }
        }
    }

    fn index_of(&self, response: &Response) -> Option<usize> {
        let Response::Member { name, .. } = response else {
            return None;
        };
        self.names.iter().position(|known| known == name)
    }

    fn process(
        &mut self,
        member: &str,
        done: &str,
        verb: fn(&Sim, String) -> Result<(), FaultError>,
    ) -> Result<Response, ControlError> {
        let name = self.name_of(member)?;
        verb(&self.sim, name.clone()).map_err(|error| ControlError::conflict(error.to_string()))?;
        Ok(Response::Member { message: format!("{name} {done}"), name })
    }

    /// A member by its address, its index, or its role.
    fn name_of(&self, member: &str) -> Result<String, ControlError> {
        if let Some(name) = self.names.iter().find(|name| *name == member) {
            return Ok(name.clone());
        }
        if let Some(name) = member.parse().ok().and_then(|index: usize| self.names.get(index)) {
            return Ok(name.clone());
        }
        let by_role = match member {
            "primary" => self.sim.primary(),
            "secondary" => self.sim.secondaries().into_iter().next(),
            _ => {
                return Err(ControlError::not_found(format!(
                    "no member is called {member}: there are {}, `primary` and `secondary`",
                    self.names.join(", ")
                )));
            }
        };
        match by_role {
            Some(found) => Ok(found.name.to_string()),
            None => Err(ControlError::conflict(format!("there is no {member} now"))),
        }
    }

    /// Cuts the groups from each other. The clients stay with the groups that name them, or with
    /// the largest one if none does.
    fn partition(&mut self, groups: Vec<Vec<String>>) -> Result<Response, ControlError> {
        if groups.len() < 2 {
            return Err(ControlError::bad_request("a partition has two groups at least"));
        }
        let mut named: Vec<(Vec<String>, bool)> = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for group in &groups {
            let mut members = Vec::new();
            let mut clients = false;
            for member in group {
                if member == "clients" {
                    clients = true;
                    continue;
                }
                let name = self.name_of(member)?;
                if seen.contains(&name) {
                    let message = format!("{name} is in two groups");
                    return Err(ControlError::bad_request(message));
                }
                seen.push(name.clone());
                members.push(name);
            }
            if members.is_empty() {
                return Err(ControlError::bad_request("a group needs a member"));
            }
            named.push((members, clients));
        }
        if named.iter().all(|(_, clients)| !clients) {
            let largest = named.iter().map(|(members, _)| members.len()).max().unwrap_or(0);
            if let Some(group) = named.iter_mut().find(|(members, _)| members.len() == largest) {
                group.1 = true;
            }
        }
        for (index, (left, clients)) in named.iter().enumerate() {
            for (right, _) in &named[index + 1..] {
                self.sim
                    .partition(left, right)
                    .map_err(|error| ControlError::conflict(error.to_string()))?;
            }
            if !clients {
                self.sim
                    .partition(left, &[OUTSIDE.to_string()])
                    .map_err(|error| ControlError::conflict(error.to_string()))?;
            }
        }
        let shown: Vec<String> = named
            .iter()
            .map(|(members, clients)| {
                let with_clients = if *clients { " and the clients" } else { "" };
                format!("{}{with_clients}", members.join(", "))
            })
            .collect();
        Ok(Response::Done { message: format!("partitioned: {}", shown.join(" | ")) })
    }

    /// Lets time pass at full speed until `at`, and goes on from there.
    fn advance(&mut self, at: Instant) {
        while self.sim.now() < at {
            let slice = at.min(self.sim.now() + SLICE);
            self.sim.run_to(slice);
            self.flush();
        }
        self.pace.rebase(RealInstant::now(), self.sim.now());
    }
}

/// Tells the engine's thread how its start went.
pub(crate) type Started = SyncSender<Result<(), ServeError>>;
