//! Planted bugs: named switches that make the simulated server wrong, so that tests can show that what
//! is wrong is found. Compiled in only with the feature `planted-bugs`; without it every switch is a
//! constant.

/// A way in which the simulated server can be made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerBug {
    /// A member votes for a second candidate in one term.
    VotesTwice,
    /// The vote is not read from disk at a restart.
    ForgetsVote,
    /// A candidate that is behind gets the vote.
    ElectsStale,
    /// An arbiter is counted as if it had the data.
    CountsArbiters,
    /// A member that does not vote is counted for the majority.
    CountsNonVoters,
    /// w: "majority" is acknowledged once the primary has it.
    AcknowledgesEarly,
    /// An entry of an earlier term is committed by counting.
    CommitsOldTerm,
    /// A follower whose last entry is not on its source goes on after it.
    SkipsRollback,
    /// A rollback goes one entry further than the common point.
    RollsBackTooFar,
    /// A rollback takes entries off the oplog and leaves the data.
    RollsBackOplogOnly,
    /// A rollback leaves the rollback id.
    KeepsRollbackId,
    /// A crash loses the last journaled entry.
    LosesJournaled,
    /// A member calls durable what is not journaled.
    ClaimsDurable,
    /// Majority reads see what is not committed.
    ReadsUncommitted,
    /// Two entries of a batch are applied in the wrong order.
    AppliesOutOfOrder,
    /// A retried write is executed again.
    RunsRetryAgain,
    /// What a secondary applies is not noted in its sessions.
    ForgetsSessions,
    /// Syncing from a secondary, a member does not check that the logs agree.
    TrustsChain,
    /// A configuration is replaced before it is committed.
    ReconfiguresUnsafely,
    /// The configuration is not read from disk at a restart.
    DropsConfig,
    /// A linearizable read is answered without asking a majority.
    AnswersLinearizableAtOnce,
    /// `afterClusterTime` is not waited for.
    IgnoresAfterClusterTime,
    /// A primary that hears a higher term goes on leading.
    IgnoresHigherTerm,
    /// A commit point heard by heartbeat is taken whatever branch it is on.
    TrustsCommitPoint,
    /// A member with priority 0 stands.
    StandsWithoutPriority,
    /// A change of state does not raise the topology version.
    KeepsTopologyVersion,
    /// A sync source that failed once is never used again.
    DeniesForever,
    /// `wtimeout` passes, and the write is acknowledged.
    CallsTimeoutSuccess,
}

impl ServerBug {
    /// All of them.
    pub const ALL: [ServerBug; 28] = [
        ServerBug::VotesTwice,
        ServerBug::ForgetsVote,
        ServerBug::ElectsStale,
        ServerBug::CountsArbiters,
        ServerBug::CountsNonVoters,
        ServerBug::AcknowledgesEarly,
        ServerBug::CommitsOldTerm,
        ServerBug::SkipsRollback,
        ServerBug::RollsBackTooFar,
        ServerBug::RollsBackOplogOnly,
        ServerBug::KeepsRollbackId,
        ServerBug::LosesJournaled,
        ServerBug::ClaimsDurable,
        ServerBug::ReadsUncommitted,
        ServerBug::AppliesOutOfOrder,
        ServerBug::RunsRetryAgain,
        ServerBug::ForgetsSessions,
        ServerBug::TrustsChain,
        ServerBug::ReconfiguresUnsafely,
        ServerBug::DropsConfig,
        ServerBug::AnswersLinearizableAtOnce,
        ServerBug::IgnoresAfterClusterTime,
        ServerBug::IgnoresHigherTerm,
        ServerBug::TrustsCommitPoint,
        ServerBug::StandsWithoutPriority,
        ServerBug::KeepsTopologyVersion,
        ServerBug::DeniesForever,
        ServerBug::CallsTimeoutSuccess,
    ];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::ServerBug;

    std::thread_local! {
        static PLANTED: Cell<Option<ServerBug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the simulated servers of this thread, or none.
    pub fn plant(bug: Option<ServerBug>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted.
    pub(crate) fn is(bug: ServerBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    /// Whether this bug is planted: none is.
    #[inline(always)]
    pub(crate) const fn is(_: super::ServerBug) -> bool {
        false
    }
}

pub(crate) use switch::is;
#[cfg(feature = "planted-bugs")]
pub use switch::plant;
