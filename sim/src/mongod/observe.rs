//! What a watcher sees of a member: nothing is copied or counted but a few numbers.

use super::optime::OpTime;
use super::repl::config::ReplSetConfig;
use super::storage::{Oplog, Storage};
use super::{Landmarks, Mongod};
use crate::trace::MemberState;

/// A look into a member after it did something; see [`Mongod::observe`].
#[derive(Clone, Copy, Debug)]
pub struct Observation<'m> {
    /// Its address.
    pub host: &'m str,
    /// Its state.
    pub state: MemberState,
    /// Whether it accepts writes.
    pub writable: bool,
    /// Its term.
    pub term: i64,
    /// The last vote it gave: the term, and the candidate's index in its configuration (-1: none).
    pub vote: (i64, i64),
    /// Whether it stands for election now, dry runs included.
    pub stands: bool,
    /// Last applied.
    pub applied: OpTime,
    /// Last durable.
    pub durable: OpTime,
    /// The commit point it knows.
    pub commit_point: OpTime,
    /// Its rollback id.
    pub rbid: i32,
    /// `topologyVersion.counter`.
    pub topology_counter: i64,
    /// Its configuration.
    pub config: Option<&'m std::sync::Arc<ReplSetConfig>>,
    /// Its index in its configuration.
    pub self_index: Option<usize>,
    /// Its oplog.
    pub oplog: &'m Oplog,
    /// Its store.
    pub storage: &'m Storage,
    /// What this process has lived through.
    pub landmarks: Landmarks,
}

impl Observation<'_> {
    /// Version and term of its configuration; (-2, -1) without one.
    pub fn config_version(&self) -> (i64, i64) {
        self.config.map_or((-2, -1), |config| (config.version, config.term))
    }

    /// Whether its configuration makes it an arbiter.
    pub fn is_arbiter(&self) -> bool {
        match (self.config, self.self_index) {
            (Some(config), Some(index)) => config.members[index].arbiter_only,
            _ => false,
        }
    }
}

impl Mongod {
    /// A look at this member, for checks.
    #[inline]
    pub fn observe(&self) -> Observation<'_> {
        let repl = &self.repl;
        Observation {
            host: &self.options.host,
            state: repl.state(),
            writable: repl.is_writable(),
            term: repl.term,
            vote: (repl.last_vote.term, repl.last_vote.candidate_index),
            stands: repl.election.is_some(),
            applied: repl.applied.optime,
            durable: repl.durable.optime,
            commit_point: repl.commit.optime,
            rbid: repl.rbid,
            topology_counter: repl.topology_counter,
            config: repl.config.as_ref(),
            self_index: repl.self_index,
            oplog: self.storage.oplog(),
            storage: &self.storage,
            landmarks: self.landmarks,
        }
    }
}
