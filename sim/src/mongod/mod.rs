//! One simulated server: a pure state machine.
//!
//! It is handed inputs ([`Mongod::handle`]) and gives back outputs ([`Mongod::poll_output`]);
//! [`Mongod::next_timeout`] says when to come back. It never sees the world: no clock, no network,
//! no randomness but the stream handed in at the start.

use std::sync::Arc;

use stepdown_driver::Instant;

use crate::trace::{Event, MemberState};

pub(crate) mod auth;
pub(crate) mod command;
pub mod error;
mod landmark;
mod observe;
pub mod oplog_entry;
pub mod optime;
pub mod peer;
#[doc(hidden)]
pub mod planted;
mod process;
pub mod query;
pub mod repl;
pub mod session;
pub mod storage;
mod timer;

use optime::OpTime;
use peer::{PeerFailure, PeerReply, PeerRequest};

/// Names another member's host within one mongod process; announced by [`Output::Peer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// Pairs a request to a peer with its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RpcId(pub u32);

/// Where the answer to a peer's request goes; only the carrier knows what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo(pub u64);

/// A client's connection, unique within one mongod process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The simulated server's release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerVersion {
    /// 6.0, wire version 17.
    V6_0,
    /// 7.0, wire version 21.
    V7_0,
    /// 8.0, wire version 25.
    #[default]
    V8_0,
}

/// How a mongod is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its own address, as the configuration names it.
    pub host: Arc<str>,
    /// `--replSet`: the set's name and the members given after a slash; `None` is a standalone.
    pub repl_set: Option<ReplSetOption>,
    /// The release to be.
    pub version: ServerVersion,
    /// The member's wall clock.
    pub clock: WallClock,
    /// `--oplogSize`, in bytes: older entries than fit go, those that are not committed stay.
    pub oplog_size_bytes: usize,
    /// `--auth`: clients may do what their users' roles grant, and nothing else.
    pub auth: bool,
    /// Whether to give out [`Output::Event`]s.
    pub record: bool,
    /// Sends every message to and from other members through its document and back, and panics if
    /// that changes it. For tests: it costs far more than the message.
    pub check_messages: bool,
}

/// `--replSet name/seed,seed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplSetOption {
    /// The set's name.
    pub name: Arc<str>,
    /// The members given at start, in order; used by an initiate without a configuration.
    pub seeds: Vec<Arc<str>>,
}

/// A member's wall clock: an affine function of the world's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Milliseconds since the Unix epoch when the world began, this member's skew included.
    pub epoch_millis: i64,
    /// How much faster than true time it runs, in parts per million.
    pub drift_ppm: i64,
}

impl WallClock {
    /// Milliseconds since the Unix epoch at `now`.
    pub fn millis(self, now: Instant) -> i64 {
        let elapsed = now.as_millis() as i64;
        self.epoch_millis + elapsed + elapsed / 1_000 * self.drift_ppm / 1_000
    }
}

/// What reaches a mongod.
#[derive(Debug)]
pub enum Input {
    /// The time of [`Mongod::next_timeout`] has come.
    Timeout,
    /// A member asks.
    PeerRequest {
        /// Where the answer goes.
        reply_to: ReplyTo,
        /// What it asks.
        request: PeerRequest,
    },
    /// A member answered, or will not.
    PeerReply {
        /// Which request.
        rpc: RpcId,
        /// The answer.
        outcome: Result<PeerReply, PeerFailure>,
    },
    /// Every connection to this peer broke: its process died, or the network reset them.
    PeerReset {
        /// The peer.
        peer: PeerId,
    },
    /// A client connected.
    ClientOpened {
        /// Its connection.
        connection: ConnectionId,
        /// Its address, as `whatsmyuri` says it.
        remote: Arc<str>,
        /// The subject of its certificate, where TLS has verified one (RFC 4514).
        certificate: Option<Arc<str>>,
    },
    /// A client sent bytes.
    ClientBytes {
        /// Its connection.
        connection: ConnectionId,
        /// The bytes, in order; message boundaries are the receiver's to find.
        bytes: Vec<u8>,
    },
    /// A client went away.
    ClientClosed {
        /// Its connection.
        connection: ConnectionId,
    },
    /// SIGTERM: a clean shutdown.
    Terminate,
}

/// What leaves a mongod.
#[derive(Debug)]
pub enum Output {
    /// From now on `id` means the member at `host`.
    Peer {
        /// The name used from now on.
        id: PeerId,
        /// Its address.
        host: Arc<str>,
    },
    /// Ask a member.
    PeerRequest {
        /// Whom.
        to: PeerId,
        /// Comes back with the answer.
        rpc: RpcId,
        /// What.
        request: PeerRequest,
    },
    /// Answer a member.
    PeerReply {
        /// Whom: what came with its request.
        reply_to: ReplyTo,
        /// What.
        reply: PeerReply,
    },
    /// Bytes to a client.
    ClientBytes {
        /// Whose connection.
        connection: ConnectionId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close a client's connection, after the bytes given out before.
    CloseClient {
        /// Which.
        connection: ConnectionId,
    },
    /// The process ends now, its data flushed unless `code` tells of a failure.
    Exited {
        /// The exit code.
        code: i32,
        /// Why.
        why: String,
    },
    /// Something worth recording.
    Event(Box<Event>),
}

/// What a process leaves on its disk.
#[derive(Debug, Default)]
pub struct DataFiles {
    /// Collections, indexes, oplog, and the documents of `local`.
    pub storage: storage::DurableStorage,
    /// The process that left them ended cleanly.
    pub clean: bool,
}

/// What a watcher may know of a member without asking it over the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    /// Its address.
    pub host: Arc<str>,
    /// Its state.
    pub state: MemberState,
    /// Whether it accepts writes.
    pub writable: bool,
    /// Its term.
    pub term: i64,
    /// Last applied.
    pub applied: OpTime,
    /// Last durable.
    pub durable: OpTime,
    /// The commit point it knows.
    pub commit_point: OpTime,
    /// Version and term of its configuration; (-2, -1) without one.
    pub config: (i64, i64),
    /// Its sync source.
    pub sync_source: Option<Arc<str>>,
}

pub use landmark::{Landmark, Landmarks};
pub use observe::Observation;
pub use process::Mongod;
pub(crate) use process::{WAKE_COMMIT, WAKE_DATA, WAKE_STATE, WAKE_TRANSACTION};
