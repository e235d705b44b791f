//! A member's host: the process that runs there now, if any, and what it left on disk.

use std::sync::Arc;

use stepdown_driver::Instant;

use super::slab::Handle;
use crate::mongod::{ConnectionId, DataFiles, Input, Mongod, PeerId, WallClock};
use crate::random::RandomStream;

/// The node of a peer whose host nobody knows.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// What a process calls a peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) host: Arc<str>,
    /// The index of the member at that host; [`NOWHERE`] if there is none (yet).
    pub(crate) node: u32,
}

/// A host with its dbpath, and the mongod that runs there.
pub(crate) struct Node {
    pub(crate) host: Arc<str>,
    pub(crate) process: Option<Box<Mongod>>,
    /// What is on disk while no process runs.
    pub(crate) files: DataFiles,
    /// Whether the dbpath holds anything.
    pub(crate) has_data: bool,
    /// Rises at each start and each death: odd while a process runs.
    pub(crate) epoch: u32,
    pub(crate) paused: bool,
    /// What waits in the kernel for a paused process, and since when.
    pub(crate) inbox: Vec<(Instant, Input)>,
    /// When the live wake-up event is due; there is none at [`Instant::NEVER`].
    pub(crate) armed_at: Instant,
    pub(crate) peers: Vec<Peer>,
    /// The latency of what this member sends. One stream per sender, not per link: 50 members make
    /// 2,450 links, and each stream buffers 256 bytes.
    pub(crate) latency: RandomStream,
    pub(crate) clock: WallClock,
    /// Open client connections by ascending id.
    connections: Vec<(ConnectionId, Handle)>,
    last_connection: u64,
}

impl Node {
    /// A host with an empty dbpath.
    pub(crate) fn new(host: Arc<str>, clock: WallClock, seed: u64) -> Self {
        let latency = RandomStream::new(seed, &format!("latency from {host}"));
        Node {
            host,
            process: None,
            files: DataFiles::default(),
            has_data: false,
            epoch: 0,
            paused: false,
            inbox: Vec::new(),
            armed_at: Instant::NEVER,
            peers: Vec::new(),
            latency,
            clock,
            connections: Vec::new(),
            last_connection: 0,
        }
    }

    /// Whether a process runs (a paused one does).
    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        self.epoch % 2 == 1
    }

    /// The process ends or starts: what belongs to one process only is forgotten. Gives back the
    /// connections it had.
    pub(crate) fn change_epoch(&mut self) -> Vec<Handle> {
        self.epoch += 1;
        self.paused = false;
        self.inbox.clear();
        self.armed_at = Instant::NEVER;
        self.peers.clear();
        self.last_connection = 0;
        std::mem::take(&mut self.connections).into_iter().map(|(_, handle)| handle).collect()
    }

    /// The names this process gave to the peer that lives at `node`.
    pub(crate) fn names_of(&self, node: u32) -> Vec<PeerId> {
        (0_u32..)
            .zip(&self.peers)
            .filter(|(_, peer)| peer.node == node)
            .map(|(id, _)| PeerId(id))
            .collect()
    }

    /// A new client connection.
    pub(crate) fn admit_connection(&mut self, handle: Handle) -> ConnectionId {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        self.connections.push((id, handle));
        id
    }

    /// The open connection of that id.
    pub(crate) fn connection(&self, id: ConnectionId) -> Option<Handle> {
        let at = self.connections.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.connections[at].1)
    }

    /// The connection is closed.
    pub(crate) fn forget_connection(&mut self, id: ConnectionId) {
        if let Ok(at) = self.connections.binary_search_by_key(&id, |(id, _)| *id) {
            self.connections.remove(at);
        }
    }
}
