//! What a person breaks and mends: the verbs of [`Sim`] for processes and for the network.

use std::sync::Arc;
use std::time::Duration;

use super::builder::with_port;
use super::core::World;
use super::network::End;
use super::queue::Payload;
use super::sim::{Member, Sim};
use super::slab::Handle;
use crate::mongod::{DataFiles, Input};
use crate::trace::EventKind;

/// Whom a verb means: a member by name (`b:27017`, or `b` if that is enough), `primary`, `secondary`
/// (the first one), or a client's name where ends of links are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        Target(name.into())
    }
}

impl From<String> for Target {
    fn from(name: String) -> Self {
        Target(name)
    }
}

impl From<&String> for Target {
    fn from(name: &String) -> Self {
        Target(name.clone())
    }
}

impl From<&Arc<str>> for Target {
    fn from(name: &Arc<str>) -> Self {
        Target(name.to_string())
    }
}

impl From<Member> for Target {
    fn from(member: Member) -> Self {
        Target(member.name.to_string())
    }
}

impl From<&Member> for Target {
    fn from(member: &Member) -> Self {
        Target(member.name.to_string())
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

/// Why a verb could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Nobody has that name, or nobody plays that role now.
    #[error("no member or client is called {0}")]
    Unknown(String),
    /// The name is taken.
    #[error("a member called {0} exists")]
    Exists(String),
    /// No process runs there.
    #[error("{0} does not run")]
    NotRunning(String),
    /// A process runs there already.
    #[error("{0} runs")]
    Running(String),
}

/// Processes.
impl Sim {
    /// kill -9: the process is gone at once, and with it what was not journaled. Its clients see a
    /// reset, the other members too.
    ///
    /// # Errors
    /// An unknown name; no process runs there.
    pub fn kill(&self, member: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.running(&member.into())?;
        world.kill_process(node);
        Ok(())
    }

    /// SIGTERM: the process ends by itself, which can take its quiesce time (15 s). A paused process
    /// gets the signal when it is resumed.
    ///
    /// # Errors
    /// An unknown name; no process runs there.
    pub fn shutdown(&self, member: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.running(&member.into())?;
        let name = world.nodes[node as usize].host.clone();
        world.record_fault(format!("shut down {name} (SIGTERM)"));
        world.deliver(node, Input::Terminate);
        Ok(())
    }

    /// Starts the process again on what its dbpath holds.
    ///
    /// # Errors
    /// An unknown name; a process runs there.
    pub fn restart(&self, member: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.dead(&member.into())?;
        world.start_process(node);
        Ok(())
    }

    /// Starts the process again on an emptied dbpath.
    ///
    /// # Errors
    /// An unknown name; a process runs there.
    pub fn restart_empty(&self, member: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.dead(&member.into())?;
        let host = &mut world.nodes[node as usize];
        host.files = DataFiles::default();
        host.has_data = false;
        if let Some(invariants) = &mut world.invariants {
            invariants.forget(node);
        }
        world.start_process(node);
        Ok(())
    }

    /// SIGSTOP: the process stands still; its host's kernel still accepts connections.
    ///
    /// # Errors
    /// An unknown name; no process runs there.
    pub fn pause(&self, member: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.running(&member.into())?;
        let host = &mut world.nodes[node as usize];
        host.paused = true;
        let name = host.host.clone();
        world.record_fault(format!("pause {name}"));
        Ok(())
    }

    /// SIGCONT: the process goes on, reads what waited, and finds its timers late.
    ///
    /// # Errors
    /// An unknown name; no process runs there.
    pub fn resume(&self, member: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.running(&member.into())?;
        let name = world.nodes[node as usize].host.clone();
        world.record_fault(format!("resume {name}"));
        if world.nodes[node as usize].paused {
            world.resume_process(node);
        }
        Ok(())
    }

    /// Sets the member's wall clock `millis` ahead of true time (behind, if negative).
    ///
    /// # Errors
    /// An unknown name.
    pub fn skew(&self, member: impl Into<Target>, millis: i64) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.node(&member.into())?;
        let (now, true_millis) = (world.now, world.wall_millis());
        let host = &mut world.nodes[node as usize];
        host.clock.epoch_millis += true_millis + millis - host.clock.millis(now);
        let name = host.host.clone();
        world.record_fault(format!("skew the clock of {name} by {millis} ms"));
        world.set_clock(node);
        Ok(())
    }

    /// Lets the member's wall clock run `parts_per_million` too fast (too slow, if negative) from now on.
    ///
    /// # Errors
    /// An unknown name.
    pub fn drift(
        &self,
        member: impl Into<Target>,
        parts_per_million: i64,
    ) -> Result<(), FaultError> {
        let mut world = self.world();
        let node = world.node(&member.into())?;
        let now = world.now;
        let host = &mut world.nodes[node as usize];
        let shown = host.clock.millis(now);
        host.clock.drift_ppm = parts_per_million;
        host.clock.epoch_millis += shown - host.clock.millis(now);
        let name = host.host.clone();
        world.record_fault(format!("the clock of {name} drifts by {parts_per_million} ppm"));
        world.set_clock(node);
        Ok(())
    }

    /// Starts one more mongod at `host` on an empty dbpath; it belongs to no set yet.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add_member(&self, host: impl Into<String>) -> Result<(), FaultError> {
        let host = with_port(&host.into());
        let mut world = self.world();
        if world.node_at(&host).is_some() {
            return Err(FaultError::Exists(host));
        }
        let node = world.add_node(host.into());
        world.start_process(node);
        Ok(())
    }
}

/// The network.
impl Sim {
    /// Nothing gets from one group to the other, in either direction. Whoever is not named still
    /// reaches both. Connections go silent; what is sent waits for the heal.
    ///
    /// # Errors
    /// An unknown name; then nothing is cut.
    pub fn partition<A, B>(&self, one: &[A], other: &[B]) -> Result<(), FaultError>
    where
        A: Clone + Into<Target>,
        B: Clone + Into<Target>,
    {
        let mut world = self.world();
        let one = world.ends(one)?;
        let other = world.ends(other)?;
        let what = format!("partition {} | {}", world.names(&one), world.names(&other));
        for &a in &one {
            for &b in &other {
                world.network.change(a, b, |rule| rule.cut = true);
                world.network.change(b, a, |rule| rule.cut = true);
            }
        }
        world.record_fault(what);
        Ok(())
    }

    /// Nothing gets from `from` to `to`; the other direction still works.
    ///
    /// # Errors
    /// An unknown name.
    pub fn cut(&self, from: impl Into<Target>, to: impl Into<Target>) -> Result<(), FaultError> {
        self.link(from, to, "cut", " -> ", |world, from, to| {
            world.network.change(from, to, |rule| rule.cut = true);
        })
    }

    /// New connections and requests from `from` to `to` are refused; open client connections stay.
    ///
    /// # Errors
    /// An unknown name.
    pub fn refuse(&self, from: impl Into<Target>, to: impl Into<Target>) -> Result<(), FaultError> {
        self.link(from, to, "refuse", " -> ", |world, from, to| {
            world.network.change(from, to, |rule| rule.refuse = true);
        })
    }

    /// Cuts `end` off from everybody, clients and those who come later included.
    ///
    /// # Errors
    /// An unknown name.
    pub fn isolate(&self, end: impl Into<Target>) -> Result<(), FaultError> {
        let mut world = self.world();
        let end = world.end(&end.into())?;
        world.network.isolate(end);
        let what = format!("isolate {}", world.names(&[end]));
        world.record_fault(what);
        Ok(())
    }

    /// Breaks the connections between `one` and `other` now. They can connect again at once.
    ///
    /// # Errors
    /// An unknown name.
    pub fn reset(
        &self,
        one: impl Into<Target>,
        other: impl Into<Target>,
    ) -> Result<(), FaultError> {
        self.link(one, other, "reset", " <-> ", World::reset_link)
    }

    /// Adds `delay` to the latency between `one` and `other`, in each direction.
    ///
    /// # Errors
    /// An unknown name.
    pub fn delay(
        &self,
        one: impl Into<Target>,
        other: impl Into<Target>,
        delay: Duration,
    ) -> Result<(), FaultError> {
        let verb = format!("delay by {delay:?}");
        let delay_nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.link(one, other, &verb, " <-> ", |world, one, other| {
            world.network.change(one, other, |rule| rule.delay_nanos = delay_nanos);
            world.network.change(other, one, |rule| rule.delay_nanos = delay_nanos);
        })
    }

    /// Ends every fault of the network: cuts, refusals, delays. What waited is retransmitted.
    pub fn heal(&self) {
        let mut world = self.world();
        let held = world.network.heal();
        world.record_fault("heal".into());
        world.release_held(held);
        world.release_connections();
    }

    fn link(
        &self,
        from: impl Into<Target>,
        to: impl Into<Target>,
        verb: &str,
        arrow: &str,
        act: impl FnOnce(&mut World, End, End),
    ) -> Result<(), FaultError> {
        let mut world = self.world();
        let (from, to) = (world.end(&from.into())?, world.end(&to.into())?);
        let what = format!("{verb} {}{arrow}{}", world.names(&[from]), world.names(&[to]));
        world.record_fault(what);
        act(&mut world, from, to);
        Ok(())
    }
}

impl World {
    fn record_fault(&mut self, what: String) {
        let who = self.world_name.clone();
        self.recorder.record(self.now, &who, EventKind::Fault { what });
    }

    /// The member `target` means.
    pub(crate) fn node(&self, target: &Target) -> Result<u32, FaultError> {
        let name = target.0.as_str();
        let found = self.node_at(name).or_else(|| match name {
            "primary" => self.primary(),
            "secondary" => self.secondaries().first().copied(),
            host => self.only_node_with_host(host),
        });
        found.ok_or_else(|| FaultError::Unknown(name.into()))
    }

    fn only_node_with_host(&self, host: &str) -> Option<u32> {
        let mut matching = (0..)
            .zip(&self.nodes)
            .filter(|(_, node)| node.host.rsplit_once(':').is_some_and(|(name, _)| name == host));
        match (matching.next(), matching.next()) {
            (Some((ix, _)), None) => Some(ix),
            _ => None,
        }
    }

    fn running(&self, target: &Target) -> Result<u32, FaultError> {
        let node = self.node(target)?;
        let host = &self.nodes[node as usize];
        if host.is_alive() { Ok(node) } else { Err(FaultError::NotRunning(host.host.to_string())) }
    }

    fn dead(&self, target: &Target) -> Result<u32, FaultError> {
        let node = self.node(target)?;
        let host = &self.nodes[node as usize];
        if host.is_alive() { Err(FaultError::Running(host.host.to_string())) } else { Ok(node) }
    }

    fn end(&self, target: &Target) -> Result<End, FaultError> {
        let client = self.clients.iter().position(|client| *client.name == *target.0);
        match client {
            Some(ix) => Ok(End::Client(ix as u32)),
            None => self.node(target).map(End::Node),
        }
    }

    fn ends<T: Clone + Into<Target>>(&self, targets: &[T]) -> Result<Vec<End>, FaultError> {
        targets.iter().map(|target| self.end(&target.clone().into())).collect()
    }

    fn names(&self, ends: &[End]) -> String {
        let names = ends.iter().map(|end| match *end {
            End::Node(ix) => &*self.nodes[ix as usize].host,
            End::Client(ix) => &*self.clients[ix as usize].name,
        });
        names.collect::<Vec<_>>().join(", ")
    }

    fn set_clock(&mut self, node: u32) {
        let host = &mut self.nodes[node as usize];
        if let Some(process) = &mut host.process {
            process.set_clock(host.clock);
        }
    }

    fn reset_link(&mut self, one: End, other: End) {
        match (one, other) {
            (End::Node(a), End::Node(b)) => {
                for (node, peer) in [(a, b), (b, a)] {
                    let host = &self.nodes[node as usize];
                    let epoch = host.epoch;
                    for peer in host.names_of(peer) {
                        let input = Input::PeerReset { peer };
                        self.queue.push(self.now, Payload::Input { node, epoch, input });
                    }
                }
            }
            (End::Client(client), End::Node(node)) | (End::Node(node), End::Client(client)) => {
                let between: Vec<Handle> = self
                    .connections
                    .iter()
                    .filter(|(_, it)| it.client == client && it.node == node)
                    .map(|(handle, _)| handle)
                    .collect();
                for handle in between {
                    self.reset_connection(handle);
                }
            }
            (End::Client(_), End::Client(_)) => {}
        }
    }
}
