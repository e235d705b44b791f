//! Client connections: two byte streams between a client and a mongod process.
//!
//! Bytes of one direction stay in order. `poll_write` takes everything at once (send buffers are not
//! modelled); what is written into a cut link waits for the heal, as TCP would retransmit it. A
//! connection attempt reaches the host's kernel, which refuses it at once if no process listens, and
//! accepts it even if the process is paused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use stepdown_driver::Instant;

use super::core::World;
use super::external::{ExternalId, ExternalOutput};
use super::network::{CONNECT_RETRY, DATA_RETRY, End, retransmitted_at};
use super::queue::Payload;
use super::slab::Handle;
use crate::mongod::{ConnectionId, Input};

/// How long TCP goes on retransmitting into the void before it gives a connection up
/// (`net.ipv4.tcp_retries2` = 15).
const TCP_GIVE_UP: Duration = Duration::from_secs(924);

/// What travels from a client to a server.
#[derive(Debug)]
pub(crate) enum UpSegment {
    /// A connection attempt.
    Open,
    /// Bytes.
    Bytes(Vec<u8>),
    /// The client's end is closed.
    Close,
}

/// What travels from a server to a client.
#[derive(Debug)]
pub(crate) enum DownSegment {
    /// The attempt succeeded.
    Accepted,
    /// The attempt failed.
    Refused,
    /// Bytes.
    Bytes(Vec<u8>),
    /// The server's end is closed.
    Eof,
    /// The connection broke.
    Reset,
}

/// What the client's end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientSide {
    /// No answer to the attempt yet.
    Connecting,
    /// Open.
    Open,
    /// The server closed its end.
    Eof,
    /// Broken.
    Reset,
    /// The attempt was refused.
    Refused,
    /// The client closed its end.
    Gone,
}

/// What the server's end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerSide {
    /// Nothing arrived yet.
    Unaware,
    /// Open.
    Open,
    /// Closed, or its process is dead.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: u32,
    pub(crate) node: u32,
    pub(crate) remote: Arc<str>,
    pub(crate) client_side: ClientSide,
    server_side: ServerSide,
    /// The id the process knows it by.
    id: ConnectionId,
    /// Set for connections that end outside the world: no latency, output is collected.
    external: Option<ExternalId>,
    /// The subject of the client's verified certificate.
    pub(crate) certificate: Option<Arc<str>>,
    /// Bytes the client has not read yet, from `read_from` on.
    inbound: Vec<u8>,
    read_from: usize,
    /// Who waits at the client's end.
    pub(crate) waiter: Option<Waker>,
    pub(crate) deadline: Instant,
    armed_at: Instant,
    last_up: Instant,
    last_down: Instant,
    held_up: VecDeque<(Instant, UpSegment)>,
    held_down: VecDeque<(Instant, DownSegment)>,
}

impl Connection {
    /// Whether the client could read something now.
    pub(crate) fn has_bytes(&self) -> bool {
        self.read_from < self.inbound.len()
    }

    /// Moves bytes to the reader.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> usize {
        let waiting = &self.inbound[self.read_from..];
        let count = waiting.len().min(into.len());
        into[..count].copy_from_slice(&waiting[..count]);
        self.read_from += count;
        if self.read_from == self.inbound.len() {
            self.inbound.clear();
            self.read_from = 0;
        }
        count
    }

    fn is_over(&self) -> bool {
        self.client_side == ClientSide::Gone && self.server_side == ServerSide::Closed
    }
}

impl World {
    // ---- the client's end

    /// Begins to connect `client` to `node`.
    pub(crate) fn connect(&mut self, client: u32, node: u32, deadline: Instant) -> Handle {
        let port = self.clients[client as usize].next_port();
        let remote: Arc<str> = format!("{}:{port}", self.clients[client as usize].name).into();
        let handle = self.new_connection(client, node, remote, None);
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.deadline = deadline;
        }
        self.send_up(handle, UpSegment::Open);
        handle
    }

    pub(crate) fn new_connection(
        &mut self,
        client: u32,
        node: u32,
        remote: Arc<str>,
        external: Option<ExternalId>,
    ) -> Handle {
        self.connections.insert(Connection {
            client,
            node,
            remote,
            client_side: ClientSide::Connecting,
            server_side: ServerSide::Unaware,
            id: ConnectionId(0),
            external,
            certificate: None,
            inbound: Vec::new(),
            read_from: 0,
            waiter: None,
            deadline: Instant::NEVER,
            armed_at: Instant::NEVER,
            last_up: Instant::ZERO,
            last_down: Instant::ZERO,
            held_up: VecDeque::new(),
            held_down: VecDeque::new(),
        })
    }

    /// The same for a connection from outside.
    pub(crate) fn begin_external(&mut self, handle: Handle) {
        self.send_up(handle, UpSegment::Open);
    }

    /// Remembers who waits at the client's end, and sees to it that the deadline wakes them.
    pub(crate) fn wait_on(&mut self, handle: Handle, waker: &Waker) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        match &mut connection.waiter {
            Some(waiter) => waiter.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if connection.deadline < connection.armed_at {
            connection.armed_at = connection.deadline;
            self.queue.push(connection.deadline.max(self.now), Payload::Deadline(handle));
        }
    }

    /// A deadline event came: wakes the waiter if the deadline did not move meanwhile.
    pub(crate) fn deadline_due(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.armed_at > self.now {
            return;
        }
        connection.armed_at = Instant::NEVER;
        if connection.deadline <= self.now {
            self.woken.extend(connection.waiter.take());
        } else if connection.waiter.is_some() && connection.deadline != Instant::NEVER {
            connection.armed_at = connection.deadline;
            self.queue.push(connection.deadline, Payload::Deadline(handle));
        }
    }

    /// The client writes.
    pub(crate) fn client_writes(&mut self, handle: Handle, bytes: Vec<u8>) {
        self.send_up(handle, UpSegment::Bytes(bytes));
    }

    /// The client's end is dropped.
    pub(crate) fn client_closes(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.client_side = ClientSide::Gone;
        connection.waiter = None;
        connection.inbound = Vec::new();
        connection.read_from = 0;
        connection.held_down.clear();
        if connection.is_over() {
            self.connections.remove(handle);
        } else {
            self.send_up(handle, UpSegment::Close);
        }
    }

    fn send_up(&mut self, handle: Handle, segment: UpSegment) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let (from, to) = (End::Client(connection.client), End::Node(connection.node));
        if !connection.held_up.is_empty() || self.network.is_cut(from, to) {
            self.note_stopped_up(from, to, &segment);
            if let Some(connection) = self.connections.get_mut(handle) {
                connection.held_up.push_back((self.now, segment));
            }
            return;
        }
        let at = if connection.external.is_some() {
            self.now
        } else {
            let random = &mut self.clients[connection.client as usize].latency;
            self.network.arrival(self.now, random, from, to)
        };
        let at = at.max(connection.last_up);
        connection.last_up = at;
        self.stats.messages += 1;
        self.push_message(at, from, to, Payload::Up(handle, segment));
    }

    // ---- the server's end

    /// Something arrived at the server's end.
    pub(crate) fn arrive_up(&mut self, handle: Handle, segment: UpSegment) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let node = connection.node;
        match (segment, connection.server_side) {
            (UpSegment::Open, _) => self.accept(handle),
            (UpSegment::Bytes(bytes), ServerSide::Open) => {
                let connection = connection.id;
                self.deliver(node, Input::ClientBytes { connection, bytes });
            }
            (UpSegment::Bytes(_), _) => {
                // No process holds the other end any more: the kernel answers with a reset.
                if !matches!(connection.client_side, ClientSide::Gone | ClientSide::Refused) {
                    self.send_down(handle, DownSegment::Reset);
                }
            }
            (UpSegment::Close, before) => {
                connection.server_side = ServerSide::Closed;
                connection.held_down.clear();
                let id = connection.id;
                self.server_is_gone(handle);
                if before == ServerSide::Open {
                    self.nodes[node as usize].forget_connection(id);
                    self.deliver(node, Input::ClientClosed { connection: id });
                }
            }
        }
    }

    fn accept(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let (client, node) = (End::Client(connection.client), connection.node);
        let host = &mut self.nodes[node as usize];
        if !host.is_alive() || self.network.is_refused(client, End::Node(node)) {
            connection.server_side = ServerSide::Closed;
            self.send_down(handle, DownSegment::Refused);
            return;
        }
        connection.server_side = ServerSide::Open;
        connection.id = host.admit_connection(handle);
        let (id, remote) = (connection.id, connection.remote.clone());
        let certificate = connection.certificate.clone();
        self.send_down(handle, DownSegment::Accepted);
        self.deliver(node, Input::ClientOpened { connection: id, remote, certificate });
    }

    /// A process writes to, or closes, one of its connections.
    pub(crate) fn server_sends(&mut self, node: u32, id: ConnectionId, segment: DownSegment) {
        // A connection the client closed meanwhile: its answer goes nowhere.
        let Some(handle) = self.nodes[node as usize].connection(id) else { return };
        let closes = matches!(segment, DownSegment::Eof);
        self.send_down(handle, segment);
        if closes {
            self.nodes[node as usize].forget_connection(id);
            self.server_is_gone(handle);
        }
    }

    /// A process died: `how` is what its clients see.
    pub(crate) fn break_connection(&mut self, handle: Handle, how: DownSegment) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if matches!(how, DownSegment::Reset) {
            // A reset discards what was not sent yet, and nothing retransmits it.
            connection.held_down.clear();
            let ends = (End::Node(connection.node), End::Client(connection.client));
            if self.network.is_cut(ends.0, ends.1) {
                self.server_is_gone(handle);
                return;
            }
        }
        self.send_down(handle, how);
        self.server_is_gone(handle);
    }

    /// The network breaks the connection at both ends, now.
    pub(crate) fn reset_connection(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let (node, id) = (connection.node, connection.id);
        let was_open = connection.server_side == ServerSide::Open;
        connection.held_up.clear();
        connection.held_down.clear();
        self.arrive_down(handle, DownSegment::Reset);
        self.server_is_gone(handle);
        if was_open {
            self.nodes[node as usize].forget_connection(id);
            self.deliver(node, Input::ClientClosed { connection: id });
        }
    }

    fn server_is_gone(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.server_side = ServerSide::Closed;
            if connection.is_over() {
                self.connections.remove(handle);
            }
        }
    }

    fn send_down(&mut self, handle: Handle, segment: DownSegment) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.client_side == ClientSide::Gone {
            return;
        }
        let (from, to) = (End::Node(connection.node), End::Client(connection.client));
        if !connection.held_down.is_empty() || self.network.is_cut(from, to) {
            let first = connection.held_down.front().map_or(self.now, |(sent, _)| *sent);
            if self.now - first < TCP_GIVE_UP {
                self.note_stopped_down(from, to, &segment);
                if let Some(connection) = self.connections.get_mut(handle) {
                    connection.held_down.push_back((self.now, segment));
                }
            } else {
                self.server_gives_up(handle);
            }
            return;
        }
        self.stats.messages += 1;
        if connection.external.is_some() {
            self.arrive_down(handle, segment);
            return;
        }
        let random = &mut self.nodes[connection.node as usize].latency;
        let at = self.network.arrival(self.now, random, from, to);
        let at = at.max(connection.last_down);
        connection.last_down = at;
        self.push_message(at, from, to, Payload::Down(handle, segment));
    }

    /// The server's TCP has retransmitted in vain for too long: its process learns that the
    /// connection is gone. By an event, because that process is in the middle of giving out outputs.
    fn server_gives_up(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.held_down.clear();
        self.queue.push(self.now, Payload::Up(handle, UpSegment::Close));
    }

    /// Something arrived at the client's end.
    pub(crate) fn arrive_down(&mut self, handle: Handle, segment: DownSegment) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if matches!(connection.client_side, ClientSide::Gone | ClientSide::Reset) {
            return;
        }
        if let Some(id) = connection.external {
            match segment {
                DownSegment::Accepted => connection.client_side = ClientSide::Open,
                DownSegment::Bytes(bytes) => {
                    self.external_output.push((id, ExternalOutput::Bytes(bytes)));
                }
                DownSegment::Refused | DownSegment::Eof | DownSegment::Reset => {
                    connection.client_side = ClientSide::Reset;
                    self.external_output.push((id, ExternalOutput::Closed));
                }
            }
            return;
        }
        match segment {
            DownSegment::Accepted => connection.client_side = ClientSide::Open,
            DownSegment::Refused => connection.client_side = ClientSide::Refused,
            DownSegment::Eof => connection.client_side = ClientSide::Eof,
            DownSegment::Reset => connection.client_side = ClientSide::Reset,
            DownSegment::Bytes(bytes) => {
                if connection.inbound.is_empty() {
                    connection.inbound = bytes;
                } else {
                    connection.inbound.extend_from_slice(&bytes);
                }
            }
        }
        self.woken.extend(connection.waiter.take());
    }

    /// After a heal: what waited is retransmitted, in order.
    pub(crate) fn release_connections(&mut self) {
        let handles: Vec<Handle> = self.connections.iter().map(|(handle, _)| handle).collect();
        for handle in handles {
            let Some(connection) = self.connections.get_mut(handle) else { continue };
            let (client, node) = (connection.client, connection.node);
            let (mut up, mut down) = (
                std::mem::take(&mut connection.held_up),
                std::mem::take(&mut connection.held_down),
            );
            let (mut last_up, mut last_down) = (connection.last_up, connection.last_down);
            let ends = (End::Client(client), End::Node(node));
            for (sent, segment) in up.drain(..) {
                let first = match segment {
                    UpSegment::Open => CONNECT_RETRY,
                    UpSegment::Bytes(_) | UpSegment::Close => DATA_RETRY,
                };
                let random = &mut self.clients[client as usize].latency;
                let again = retransmitted_at(sent, self.now, first);
                last_up = last_up.max(self.network.plain_arrival(again, random));
                self.stats.messages += 1;
                self.push_message(last_up, ends.0, ends.1, Payload::Up(handle, segment));
            }
            for (sent, segment) in down.drain(..) {
                let random = &mut self.nodes[node as usize].latency;
                let again = retransmitted_at(sent, self.now, DATA_RETRY);
                last_down = last_down.max(self.network.plain_arrival(again, random));
                self.stats.messages += 1;
                self.push_message(last_down, ends.1, ends.0, Payload::Down(handle, segment));
            }
            if let Some(connection) = self.connections.get_mut(handle) {
                (connection.last_up, connection.last_down) = (last_up, last_down);
            }
        }
    }
}
