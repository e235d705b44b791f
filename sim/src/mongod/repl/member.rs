//! What one member knows of another.

use stepdown_driver::Instant;

use super::Position;
use crate::mongod::optime::Ts;
use crate::mongod::{PeerId, RpcId};
use crate::trace::MemberState;

/// What is known of one other member, mostly from heartbeats.
#[derive(Debug)]
pub(crate) struct Member {
    pub peer: PeerId,
    pub state: MemberState,
    pub electable: bool,
    pub applied: Position,
    pub durable: Position,
    pub config_version: i64,
    pub config_term: i64,
    /// The index of its sync source; -1 for none.
    pub sync_source_index: i32,
    pub election_time: Ts,
    /// A request, reply or progress update: the last sign of life.
    pub last_update: Instant,
    /// When its last heartbeat reply (or failure) came in.
    pub last_reply: Option<Instant>,
    /// When its last heartbeat request came in.
    pub last_request: Option<Instant>,
    pub up_since: Option<Instant>,
    pub last_message: String,
    /// Running average of round trips, in microseconds.
    pub ping_micros: u64,
    pub pings: u64,
    /// The heartbeat in flight.
    pub rpc: Option<RpcId>,
    pub sent_at: Instant,
    pub first_try_at: Instant,
    pub tries: u8,
    /// Heard (or failed) since this member won its election.
    pub heard_since_win: bool,
    pub vote_rpc: Option<RpcId>,
    /// No oplog fetch from it before this.
    pub denied_until: Instant,
}

impl Member {
    pub(crate) fn new(peer: PeerId, now: Instant) -> Self {
        Member {
            peer,
            state: MemberState::Unknown,
            electable: false,
            applied: Position::default(),
            durable: Position::default(),
            config_version: -1,
            config_term: -1,
            sync_source_index: -1,
            election_time: Ts::NULL,
            last_update: now,
            last_reply: None,
            last_request: None,
            up_since: None,
            last_message: String::new(),
            ping_micros: 0,
            pings: 0,
            rpc: None,
            sent_at: now,
            first_try_at: now,
            tries: 0,
            heard_since_win: false,
            vote_rpc: None,
            denied_until: Instant::ZERO,
        }
    }

    /// Whether it is held to be alive.
    pub(crate) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// A round trip of `micros`: new = (old * 4 + sample) / 5.
    pub(crate) fn pinged(&mut self, micros: u64) {
        self.ping_micros =
            if self.pings == 0 { micros } else { (self.ping_micros * 4 + micros) / 5 };
        self.pings += 1;
    }
}
