//! The world itself: members, clients, the network between them, and the loop that moves time.
//!
//! The loop is the inner loop of every test: it takes no lock, allocates nothing and clones nothing for
//! a message between members.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use stepdown_driver::Instant;
use stepdown_driver::transport::SrvRecords;

use super::connection::{Connection, DownSegment};
use super::external::{ExternalId, ExternalOutput};
use super::messages::{CUT, Messages};
use super::network::{End, GIVE_UP, Held, Network};
use super::node::{NOWHERE, Node, Peer};
use super::queue::{Due, EventQueue, Payload};
use super::slab::{Handle, Slab};
use crate::check::{Invariants, Violation};
use crate::mongod::peer::{PeerFailure, PeerReply, PeerRequest};
use crate::mongod::repl::config::same_host;
use crate::mongod::storage::DEFAULT_OPLOG_BYTES;
use crate::mongod::{
    Input, Mongod, Options, Output, PeerId, ReplSetOption, ReplyTo, RpcId, ServerVersion, WallClock,
};
use crate::random::RandomStream;
use crate::trace::{EventKind, Recorder};

/// What a world has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorldStats {
    /// Messages sent: requests and replies between members, segments between clients and members.
    pub messages: u64,
    /// Events taken from the queue.
    pub events: u64,
}

/// A client as an end of links.
pub(crate) struct ClientEnd {
    pub(crate) name: Arc<str>,
    /// The numbers its driver draws.
    pub(crate) random: RandomStream,
    /// The latency of what it sends.
    pub(crate) latency: RandomStream,
    last_port: u16,
}

impl ClientEnd {
    /// The local port of its next connection.
    pub(crate) fn next_port(&mut self) -> u16 {
        // Linux's range of local ports.
        self.last_port = if self.last_port >= 60_999 { 32_768 } else { self.last_port + 1 };
        self.last_port
    }
}

/// Why the loop stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Tasks became ready: they are in `woken`.
    Woken,
    /// Nothing is due by the limit.
    Limit,
    /// Nothing is due at all.
    Empty,
    /// The caller's condition holds.
    Condition,
}

/// So many events in one moment are not a coincidence.
const STUCK_AFTER: u32 = 5_000_000;

/// The members, the clients and everything between them.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) seed: u64,
    pub(crate) set_name: Arc<str>,
    pub(crate) seed_list: bool,
    pub(crate) version: ServerVersion,
    pub(crate) oplog_size_bytes: usize,
    pub(crate) auth: bool,
    pub(crate) epoch_millis: i64,
    pub(crate) queue: EventQueue,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<ClientEnd>,
    /// Clients made by `Sim::client`, which names them by number.
    pub(crate) clients_made: u32,
    pub(crate) connections: Slab<Connection>,
    pub(crate) network: Network,
    pub(crate) recorder: Recorder,
    /// What is on its way, if messages are recorded.
    pub(crate) messages: Option<Box<Messages>>,
    pub(crate) invariants: Option<Invariants>,
    /// The rule that was broken, just before the world ends over it.
    pub(crate) broken: Option<Violation>,
    pub(crate) check_messages: bool,
    pub(crate) srv: Vec<(String, SrvRecords)>,
    /// Who is to be woken once the world is unlocked.
    pub(crate) woken: Vec<Waker>,
    pub(crate) stats: WorldStats,
    pub(crate) externals: Vec<(ExternalId, Handle)>,
    pub(crate) external_output: Vec<(ExternalId, ExternalOutput)>,
    pub(crate) last_external: u64,
    pub(crate) world_name: Arc<str>,
    stuck: u32,
}

impl World {
    /// A world without members.
    pub(crate) fn new(seed: u64, network: Network, recorder: Recorder) -> Self {
        World {
            now: Instant::ZERO,
            seed,
            set_name: "foo".into(),
            seed_list: true,
            version: ServerVersion::default(),
            oplog_size_bytes: DEFAULT_OPLOG_BYTES,
            auth: false,
            epoch_millis: super::EPOCH_MILLIS,
            queue: EventQueue::default(),
            nodes: Vec::new(),
            clients: Vec::new(),
            clients_made: 0,
            connections: Slab::new(),
            network,
            messages: recorder.keeps_messages().then(Box::default),
            recorder,
            invariants: None,
            broken: None,
            check_messages: false,
            srv: Vec::new(),
            woken: Vec::new(),
            stats: WorldStats::default(),
            externals: Vec::new(),
            external_output: Vec::new(),
            last_external: 0,
            world_name: "world".into(),
            stuck: 0,
        }
    }

    // ---- the loop

    /// Takes events in order until one wakes a task, none is due by `limit`, or `condition` (asked
    /// after each event) holds.
    pub(crate) fn run(
        &mut self,
        limit: Instant,
        mut condition: impl FnMut(&World) -> bool,
    ) -> Stop {
        loop {
            if !self.woken.is_empty() {
                return Stop::Woken;
            }
            let Some((at, due)) = self.queue.pop_by(limit) else {
                return if self.queue.len() == 0 { Stop::Empty } else { Stop::Limit };
            };
            debug_assert!(at >= self.now, "time never goes back");
            if at == self.now {
                self.stuck += 1;
                if self.stuck > STUCK_AFTER {
                    self.fail(
                        "time stands still: events are scheduled for the same moment forever",
                    );
                }
            } else {
                self.stuck = 0;
                self.now = at;
            }
            self.stats.events += 1;
            self.take(due);
            if condition(self) {
                return Stop::Condition;
            }
        }
    }

    #[inline]
    fn take(&mut self, due: Due) {
        match due {
            Due::Wake(node) => self.wake(node),
            Due::Payload(slot) => {
                if self.messages.is_some() {
                    self.note_received(slot);
                }
                match self.queue.take(slot) {
                    Payload::Input { node, epoch, input } => {
                        let is_alive = epoch % 2 == 1;
                        if is_alive && self.nodes[node as usize].epoch == epoch {
                            self.deliver(node, input);
                        } else {
                            self.arrive_late(node, epoch, input);
                        }
                    }
                    Payload::Up(handle, segment) => self.arrive_up(handle, segment),
                    Payload::Down(handle, segment) => self.arrive_down(handle, segment),
                    Payload::Deadline(handle) => self.deadline_due(handle),
                    Payload::Timer { waker, .. } => self.woken.extend(waker),
                    Payload::Vacant => unreachable!("a key in the queue names a payload"),
                }
            }
        }
    }

    /// A member's wake-up: due, or stale because the member wants to be called later than it once did.
    fn wake(&mut self, node: u32) {
        let now = self.now;
        let host = &mut self.nodes[node as usize];
        if host.armed_at != now {
            return;
        }
        host.armed_at = Instant::NEVER;
        if host.paused {
            return;
        }
        let Some(process) = &mut host.process else { return };
        if process.next_timeout() <= now {
            process.handle(now, Input::Timeout);
        }
        self.drain(node);
    }

    /// Hands `input` to the process of a member; a dead one gets nothing, a paused one later.
    #[inline]
    pub(crate) fn deliver(&mut self, node: u32, input: Input) {
        let host = &mut self.nodes[node as usize];
        let Some(process) = &mut host.process else { return };
        if host.paused {
            host.inbox.push((self.now, input));
            return;
        }
        process.handle(self.now, input);
        self.drain(node);
    }

    /// Carries out what a process wants, and sees to it that it is called in time.
    pub(crate) fn drain(&mut self, node: u32) {
        let ix = node as usize;
        loop {
            let Some(process) = &mut self.nodes[ix].process else { return };
            let Some(output) = process.poll_output() else { break };
            match output {
                Output::PeerRequest { to, rpc, request } => {
                    self.send_request(node, to, rpc, request);
                }
                Output::PeerReply { reply_to, reply } => self.send_reply(node, reply_to, Ok(reply)),
                Output::Event(event) => self.recorder.push(*event),
                Output::ClientBytes { connection, bytes } => {
                    self.server_sends(node, connection, DownSegment::Bytes(bytes));
                }
                Output::CloseClient { connection } => {
                    self.server_sends(node, connection, DownSegment::Eof);
                }
                Output::Peer { id, host } => self.announce(node, id, host),
                Output::Exited { code, why } => {
                    self.exited(node, code, why);
                    return;
                }
            }
        }
        self.arm(node);
        if self.invariants.is_some() {
            self.check(node);
        }
    }

    /// One wake-up event per member; it is pushed again only when the member wants it earlier.
    #[inline]
    pub(crate) fn arm(&mut self, node: u32) {
        let host = &mut self.nodes[node as usize];
        let Some(process) = &host.process else { return };
        let at = process.next_timeout();
        if at < host.armed_at {
            let at = at.max(self.now);
            host.armed_at = at;
            self.queue.push_wake(at, node);
        }
    }

    // ---- between members

    fn announce(&mut self, node: u32, id: PeerId, host: Arc<str>) {
        let lives_at = self.node_at(&host).unwrap_or(NOWHERE);
        let peers = &mut self.nodes[node as usize].peers;
        let at = id.0 as usize;
        assert!(at <= peers.len() + 4_096, "peer ids are dense, not {}", id.0);
        if at >= peers.len() {
            peers.resize(at + 1, Peer { host: "".into(), node: NOWHERE });
        }
        peers[at] = Peer { host, node: lives_at };
    }

    #[inline]
    fn send_request(&mut self, node: u32, to: PeerId, rpc: RpcId, request: PeerRequest) {
        let host = &mut self.nodes[node as usize];
        let reply_to = pack(node, host.epoch, rpc);
        let target = host.peers.get(to.0 as usize).map_or(NOWHERE, |peer| peer.node);
        self.stats.messages += 1;
        if target == NOWHERE {
            let at = self.network.plain_arrival(self.now, &mut host.latency);
            self.fail_request(at, reply_to, PeerFailure::UnknownHost);
            return;
        }
        let (from, to) = (End::Node(node), End::Node(target));
        let at = self.network.arrival(self.now, &mut host.latency, from, to);
        if self.network.is_refused(from, to) {
            if self.messages.is_some() {
                let input = Input::PeerRequest { reply_to, request };
                let payload = Payload::Input { node: target, epoch: 0, input };
                self.note_stopped(from, to, &payload, "connection refused");
            }
            self.fail_request(at, reply_to, PeerFailure::Refused);
            return;
        }
        let epoch = self.nodes[target as usize].epoch;
        let input = Input::PeerRequest { reply_to, request };
        self.send_typed(at, from, to, Payload::Input { node: target, epoch, input });
    }

    #[cold]
    fn fail_request(&mut self, at: Instant, reply_to: ReplyTo, failure: PeerFailure) {
        let (node, epoch, rpc) = unpack(reply_to);
        let input = Input::PeerReply { rpc, outcome: Err(failure) };
        self.queue.push(at, Payload::Input { node, epoch, input });
    }

    /// Something arrives whose addressee is not the process it was sent to.
    #[cold]
    fn arrive_late(&mut self, node: u32, epoch: u32, input: Input) {
        let Input::PeerRequest { reply_to, .. } = &input else {
            // A process that died meanwhile does not hear the answer to its question.
            return;
        };
        let reply_to = *reply_to;
        if epoch % 2 == 1 {
            // It was on a connection of a process that died.
            self.send_reply(node, reply_to, Err(PeerFailure::Reset));
        } else if self.nodes[node as usize].is_alive() {
            // A process started while the attempt was on its way.
            self.deliver(node, input);
        } else {
            self.send_reply(node, reply_to, Err(PeerFailure::Refused));
        }
    }

    #[inline]
    fn send_reply(
        &mut self,
        node: u32,
        reply_to: ReplyTo,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        self.stats.messages += 1;
        let (asker, epoch, rpc) = unpack(reply_to);
        let (from, to) = (End::Node(node), End::Node(asker));
        let host = &mut self.nodes[node as usize];
        let at = self.network.arrival(self.now, &mut host.latency, from, to);
        let input = Input::PeerReply { rpc, outcome };
        self.send_typed(at, from, to, Payload::Input { node: asker, epoch, input });
    }

    #[inline]
    fn send_typed(&mut self, at: Instant, from: End, to: End, payload: Payload) {
        if self.network.is_cut(from, to) {
            self.note_stopped(from, to, &payload, CUT);
            self.network.hold(Held { sent: self.now, from, to, payload });
        } else {
            self.push_message(at, from, to, payload);
        }
    }

    /// After a heal: what nobody has given up yet is retransmitted.
    pub(crate) fn release_held(&mut self, held: Vec<Held>) {
        for Held { sent, from, to, payload } in held {
            if self.now - sent >= GIVE_UP {
                continue;
            }
            let again =
                super::network::retransmitted_at(sent, self.now, super::network::DATA_RETRY);
            if let End::Node(node) = from {
                let random = &mut self.nodes[node as usize].latency;
                let at = self.network.arrival(again, random, from, to);
                self.push_message(at, from, to, payload);
            }
        }
    }

    /// Every process that has `dead` as a peer learns that its connections broke; not across a cut,
    /// where no reset gets through.
    pub(crate) fn tell_peers_of_death(&mut self, dead: u32) {
        for node in 0..self.nodes.len() as u32 {
            let (from, to) = (End::Node(dead), End::Node(node));
            if node == dead || self.network.is_cut(from, to) {
                continue;
            }
            let epoch = self.nodes[node as usize].epoch;
            for peer in self.nodes[node as usize].names_of(dead) {
                let random = &mut self.nodes[dead as usize].latency;
                let at = self.network.arrival(self.now, random, from, to);
                let input = Input::PeerReset { peer };
                self.push_message(at, from, to, Payload::Input { node, epoch, input });
            }
        }
    }

    // ---- processes

    /// Adds a host with an empty dbpath and no process.
    pub(crate) fn add_node(&mut self, host: Arc<str>) -> u32 {
        let node = self.nodes.len() as u32;
        assert!(node < 1 << NODE_BITS, "at most {} members", 1 << NODE_BITS);
        let clock = WallClock { epoch_millis: self.epoch_millis, drift_ppm: 0 };
        self.nodes.push(Node::new(host.clone(), clock, self.seed));
        for peer in self.nodes.iter_mut().flat_map(|node| &mut node.peers) {
            if same_host(&peer.host, &host) {
                peer.node = node;
            }
        }
        node
    }

    /// Starts the process of a member on what its dbpath holds.
    pub(crate) fn start_process(&mut self, node: u32) {
        let seeds = if self.seed_list {
            self.nodes.iter().map(|node| node.host.clone()).collect()
        } else {
            Vec::new()
        };
        let host = &mut self.nodes[node as usize];
        assert!(!host.is_alive(), "{} runs already", host.host);
        let orphans = host.change_epoch();
        assert!(orphans.is_empty(), "a dead process has no connections");
        let options = Options {
            host: host.host.clone(),
            repl_set: Some(ReplSetOption { name: self.set_name.clone(), seeds }),
            version: self.version,
            clock: host.clock,
            auth: self.auth,
            oplog_size_bytes: self.oplog_size_bytes,
            record: !self.recorder.is_off(),
            check_messages: self.check_messages,
        };
        // Each process draws from a stream of its own: what one draws before a crash moves nothing after it.
        let start = host.epoch.div_ceil(2);
        let random = RandomStream::new(self.seed, &format!("mongod {} start {start}", host.host));
        let (who, with_data) = (host.host.clone(), host.has_data);
        host.has_data = true;
        let files = std::mem::take(&mut host.files);
        self.recorder.record(self.now, &who, EventKind::ProcessStarted { with_data });
        let process = Mongod::start(self.now, options, files, random);
        self.nodes[node as usize].process = Some(Box::new(process));
        self.drain(node);
    }

    /// The process ended by itself: its kernel closes its connections.
    fn exited(&mut self, node: u32, code: i32, why: String) {
        let host = &mut self.nodes[node as usize];
        let process = host.process.take().expect("only a living process exits");
        host.files = process.into_data_files();
        let connections = host.change_epoch();
        let who = host.host.clone();
        self.recorder.record(self.now, &who, EventKind::ProcessExited { code, why });
        if let Some(invariants) = &mut self.invariants {
            invariants.ended(node, true);
        }
        for handle in connections {
            self.break_connection(handle, DownSegment::Eof);
        }
        self.tell_peers_of_death(node);
    }

    /// kill -9.
    pub(crate) fn kill_process(&mut self, node: u32) {
        let host = &mut self.nodes[node as usize];
        let process = host.process.take().expect("only a living process is killed");
        let (files, lost) = process.kill();
        host.files = files;
        let connections = host.change_epoch();
        let who = host.host.clone();
        self.recorder.record(self.now, &who, EventKind::ProcessKilled);
        if let Some(invariants) = &mut self.invariants {
            invariants.ended(node, false);
        }
        if lost > 0 {
            self.recorder.record(self.now, &who, EventKind::JournalLost { count: lost });
        }
        for handle in connections {
            self.break_connection(handle, DownSegment::Reset);
        }
        self.tell_peers_of_death(node);
    }

    /// SIGCONT: what waited in the kernel is read now, then late timers fire.
    pub(crate) fn resume_process(&mut self, node: u32) {
        let host = &mut self.nodes[node as usize];
        host.paused = false;
        let inbox = std::mem::take(&mut host.inbox);
        for (arrived, input) in inbox {
            let given_up = self.now - arrived >= GIVE_UP;
            if given_up && matches!(input, Input::PeerRequest { .. }) {
                continue;
            }
            self.deliver(node, input);
        }
        self.arm(node);
    }

    // ---- names

    /// The index of the member at `host`.
    pub(crate) fn node_at(&self, host: &str) -> Option<u32> {
        (0..).zip(&self.nodes).find(|(_, node)| same_host(&node.host, host)).map(|(ix, _)| ix)
    }

    /// The index of the client of that name, made now if there is none.
    pub(crate) fn client_end(&mut self, name: &str) -> u32 {
        if let Some(at) = self.clients.iter().position(|client| *client.name == *name) {
            return at as u32;
        }
        self.clients.push(ClientEnd {
            name: name.into(),
            random: RandomStream::new(self.seed, &format!("client {name}")),
            latency: RandomStream::new(self.seed, &format!("latency from {name}")),
            last_port: 32_767,
        });
        (self.clients.len() - 1) as u32
    }

    /// Milliseconds since the Unix epoch, for whoever has no clock of their own.
    pub(crate) fn wall_millis(&self) -> i64 {
        self.epoch_millis + self.now.as_millis() as i64
    }

    // ---- what must never happen

    fn check(&mut self, node: u32) {
        let host = &self.nodes[node as usize];
        let (Some(process), Some(invariants)) = (&host.process, &mut self.invariants) else {
            return;
        };
        if let Err(violation) = invariants.observe(node, host.epoch, &process.observe()) {
            let who = host.host.clone();
            let what = format!("{who} broke an invariant: {violation}");
            self.broken = Some(violation);
            self.fail(&what);
        }
    }

    /// Panics with everything needed to see and repeat what happened.
    pub(crate) fn fail(&self, what: &str) -> ! {
        panic!("{}", self.report(what, &[]));
    }

    /// The text of such a panic: what, when, the seed, who waits, the last events.
    pub(crate) fn report(&self, what: &str, waiting: &[String]) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{what}\n  seed {}, virtual time {} s\n", self.seed, self.now);
        if !waiting.is_empty() {
            text.push_str("  waiting:\n");
            for line in waiting {
                let _ = writeln!(text, "    {line}");
            }
        }
        if !self.nodes.is_empty() {
            text.push_str("  members:\n");
        }
        for node in &self.nodes {
            let _ = match &node.process {
                None => writeln!(text, "    {}: not running", node.host),
                Some(process) => {
                    let seen = process.observe();
                    writeln!(
                        text,
                        "    {}: {}{}{}, term {}, applied {}, durable {}, committed {}",
                        node.host,
                        seen.state,
                        if seen.writable { " (writable)" } else { "" },
                        if node.paused { " (paused)" } else { "" },
                        seen.term,
                        seen.applied,
                        seen.durable,
                        seen.commit_point
                    )
                }
            };
        }
        text.push_str(&self.recorder.last_words(LAST_EVENTS));
        text
    }

    /// The far future of a bounded wait.
    pub(crate) fn after(&self, duration: Duration) -> Instant {
        self.now + duration
    }
}

const LAST_EVENTS: usize = 20;

// ---- ReplyTo: which member asked, which of its processes, which of its questions

const NODE_BITS: u32 = 12;
const EPOCH_BITS: u32 = 20;

#[inline]
fn pack(node: u32, epoch: u32, rpc: RpcId) -> ReplyTo {
    assert!(epoch < 1 << EPOCH_BITS, "half a million restarts of one member");
    let origin = (node << EPOCH_BITS) | epoch;
    ReplyTo((u64::from(origin) << 32) | u64::from(rpc.0))
}

#[inline]
fn unpack(reply_to: ReplyTo) -> (u32, u32, RpcId) {
    let origin = (reply_to.0 >> 32) as u32;
    (origin >> EPOCH_BITS, origin & ((1 << EPOCH_BITS) - 1), RpcId(reply_to.0 as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_answer_goes_survives_the_packing() {
        let packed = pack(4_095, 7, RpcId(u32::MAX));
        assert_eq!(unpack(packed), (4_095, 7, RpcId(u32::MAX)));
    }
}
