//! Replication: configuration, elections, oplog fetch, commit point, rollback, initial sync.
//!
//! The state is one struct, `Repl`; what happens to it is split by idea: `heartbeat` (who is alive),
//! `election` (who leads), `leader` (catch-up, drain, step-down), `sync` (pulling the oplog),
//! `commit` (what a majority has), `rollback`, `initial_sync`, `reconfig`.
//!
//! Source: server behaviour of protocol version 1, as the project's fidelity notes list it.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use stepdown_driver::Instant;

use super::optime::{OpTime, Ts};
use super::timer::HeartbeatTimers;
use super::{PeerId, RpcId};
use crate::trace::MemberState;
use config::ReplSetConfig;

mod commit;
pub mod config;
mod election;
mod heartbeat;
mod initial_sync;
mod install;
pub(crate) mod leader;
mod member;
mod quorum;
pub(crate) mod reconfig;
mod rollback;
pub(crate) mod status;
mod sync;

pub(crate) use election::{Election, ElectionReason};
pub(crate) use heartbeat::SpareBoxes;
pub(crate) use leader::{Leader, LeaderPhase};
pub(crate) use member::Member;
pub(crate) use sync::{AwaitingFetch, SyncState};

/// How long one journal flush takes.
pub(crate) const JOURNAL_FLUSH: Duration = Duration::from_micros(1_000);
/// `storage.journal.commitIntervalMs`.
pub(crate) const JOURNAL_INTERVAL: Duration = Duration::from_millis(100);
/// `periodicNoopIntervalSecs`.
pub(crate) const NOOP_INTERVAL: Duration = Duration::from_secs(10);
/// `shutdownTimeoutMillisForSignaledShutdown`.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// A vote given, kept on disk in `local.replset.election`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastVote {
    pub term: i64,
    pub candidate_index: i64,
}

/// A position with its wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub optime: OpTime,
    pub wall_millis: i64,
}

/// Everything one member knows of its set.
#[derive(Debug)]
pub(crate) struct Repl {
    /// `--replSet`; `None` is a standalone.
    pub set_name: Option<Arc<str>>,
    pub set_name_hash: u64,
    pub config: Option<Arc<ReplSetConfig>>,
    /// This member's index in the configuration, if it is in it.
    pub self_index: Option<usize>,
    /// What is known of each member, by index in the configuration; one's own entry stays empty.
    pub members: Vec<Member>,
    pub heartbeats: HeartbeatTimers,
    pub term: i64,
    pub last_vote: LastVote,
    pub leader: Option<Box<Leader>>,
    /// STARTUP2, RECOVERING, SECONDARY or ROLLBACK: the state while not leading.
    pub follower: MemberState,
    /// `replSetMaintenance` is a counter.
    pub maintenance: u32,
    /// Every sync source's oplog begins after this member's last entry.
    pub too_stale: bool,
    /// The index of the member believed primary.
    pub primary: Option<usize>,
    pub applied: Position,
    pub durable: Position,
    pub commit: Position,
    pub topology_counter: i64,
    pub process_id: ObjectId,
    pub election: Option<Box<Election>>,
    pub takeover: Option<ElectionReason>,
    /// No candidacy before this: the end of a step-down or freeze period.
    pub stand_not_before: Instant,
    pub election_jitter_nanos: u64,
    pub election_jitter_drawn: Option<Instant>,
    pub sync: SyncState,
    /// Members whose oplog fetch waits for data here.
    pub fetchers: Vec<AwaitingFetch>,
    pub report_rpc: Option<RpcId>,
    /// Progress has to be reported once the report in flight is answered.
    pub report_pending: bool,
    /// The configuration is asked for: whom, by which request, since when.
    pub probe: Option<(PeerId, RpcId, Instant)>,
    /// A newer configuration was heard of while a probe was under way: whom to ask again.
    pub probe_again: Option<Arc<str>>,
    pub rbid: i32,
    pub rpc_sequence: u32,
    /// The cluster clock.
    pub cluster_time: Ts,
    pub last_noop_check: OpTime,
    /// Quiesce mode: its end.
    pub quiesce_until: Option<Instant>,
    pub shutting_down: bool,
    pub sync_source_info: &'static str,
    pub candidate_metrics: Option<Box<status::CandidateMetrics>>,
    pub participant_metrics: Option<Box<status::ParticipantMetrics>>,
    pub quorum_check: Option<Box<quorum::QuorumCheck>>,
    /// The member's own heartbeat target states were all heard since it won (catch-up).
    pub last_state: MemberState,
}

impl Repl {
    pub(crate) fn new(set_name: Option<Arc<str>>, process_id: ObjectId) -> Self {
        let set_name_hash = set_name.as_deref().map_or(0, hash_of_name);
        Repl {
            set_name,
            set_name_hash,
            config: None,
            self_index: None,
            members: Vec::new(),
            heartbeats: HeartbeatTimers::new(0, Instant::NEVER),
            term: 0,
            last_vote: LastVote { term: 0, candidate_index: -1 },
            leader: None,
            follower: MemberState::Startup2,
            maintenance: 0,
            too_stale: false,
            primary: None,
            applied: Position::default(),
            durable: Position::default(),
            commit: Position::default(),
            topology_counter: 0,
            process_id,
            election: None,
            takeover: None,
            stand_not_before: Instant::ZERO,
            election_jitter_nanos: 0,
            election_jitter_drawn: None,
            sync: SyncState::Idle,
            fetchers: Vec::new(),
            report_rpc: None,
            report_pending: false,
            probe: None,
            probe_again: None,
            rbid: 1,
            rpc_sequence: 0,
            cluster_time: Ts::NULL,
            last_noop_check: OpTime::NULL,
            quiesce_until: None,
            shutting_down: false,
            sync_source_info: "",
            candidate_metrics: None,
            participant_metrics: None,
            quorum_check: None,
            last_state: MemberState::Startup,
        }
    }

    /// The member's own state, in the order the server decides it.
    pub(crate) fn state(&self) -> MemberState {
        let Some(config) = &self.config else { return MemberState::Startup };
        let Some(index) = self.self_index else { return MemberState::Removed };
        if self.leader.is_some() {
            MemberState::Primary
        } else if config.members[index].arbiter_only {
            MemberState::Arbiter
        } else if self.follower == MemberState::Secondary
            && (self.maintenance > 0 || self.too_stale)
        {
            MemberState::Recovering
        } else {
            self.follower
        }
    }

    /// Whether writes are accepted: leading, drained, and not stepping down.
    pub(crate) fn is_writable(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.phase == LeaderPhase::Writable)
    }

    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.state(), MemberState::Primary | MemberState::Secondary)
    }

    /// This member's configuration, if it has one.
    pub(crate) fn own(&self) -> Option<&config::MemberConfig> {
        Some(&self.config.as_ref()?.members[self.self_index?])
    }

    /// Whether the configuration lets this member stand.
    pub(crate) fn is_electable(&self) -> bool {
        self.own().is_some_and(config::MemberConfig::is_electable)
    }

    /// The `electionId` of `term`.
    pub(crate) fn election_id(term: i64) -> ObjectId {
        let mut bytes = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&term.to_be_bytes());
        ObjectId::from_bytes(bytes)
    }

    /// The next request id: what it is for, for which member, and a sequence number that tells it from
    /// earlier ones.
    pub(crate) fn next_rpc(&mut self, kind: RpcKind, index: usize) -> RpcId {
        self.rpc_sequence = (self.rpc_sequence + 1) & 0x001f_ffff;
        RpcId((kind as u32) << 29 | (index as u32 & 0xff) << 21 | self.rpc_sequence)
    }

    /// The host of member `index`.
    pub(crate) fn host(&self, index: usize) -> Arc<str> {
        self.config.as_ref().map_or_else(|| "?".into(), |config| config.members[index].host.clone())
    }
}

/// A fingerprint of a set name, so that heartbeats need not carry the text.
pub(crate) fn hash_of_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What an [`RpcId`] was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RpcKind {
    Heartbeat = 0,
    Vote = 1,
    Fetch = 2,
    Report = 3,
    Clone = 4,
    Tail = 5,
    Probe = 6,
    Other = 7,
}

impl RpcKind {
    /// What `rpc` was for, and the member's index.
    pub(crate) fn of(rpc: RpcId) -> (RpcKind, usize) {
        let kind = match rpc.0 >> 29 {
            0 => RpcKind::Heartbeat,
            1 => RpcKind::Vote,
            2 => RpcKind::Fetch,
            3 => RpcKind::Report,
            4 => RpcKind::Clone,
            5 => RpcKind::Tail,
            6 => RpcKind::Probe,
            _ => RpcKind::Other,
        };
        (kind, (rpc.0 >> 21 & 0xff) as usize)
    }
}
