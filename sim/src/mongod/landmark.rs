//! Landmarks: rare things a process lives through, as one bit each, so that a search through many
//! worlds can say what it has seen without recording anything.

/// Something that happens only sometimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Landmark {
    /// It undid entries that its sync source did not have.
    Rollback,
    /// It wrote rollback files.
    RollbackFiles,
    /// A dry run was lost.
    DryRunLost,
    /// A real election was lost.
    ElectionLost,
    /// A catch-up takeover was called.
    CatchUpTakeover,
    /// A priority takeover was called.
    PriorityTakeover,
    /// It stood because its predecessor asked it to.
    Handoff,
    /// As a new leader it fetched what others had.
    CatchUp,
    /// It stepped down because it heard a higher term.
    DeposedByTerm,
    /// It stepped down because it saw no majority.
    DeposedBySilence,
    /// It stepped down because a command said so.
    SteppedDown,
    /// A vote was refused because the candidate was stale.
    StaleCandidate,
    /// A vote was refused because it had voted already.
    SecondCandidate,
    /// It synced from a member that was not the primary.
    ChainedSync,
    /// It finished an initial sync.
    InitialSync,
    /// It took over a configuration by heartbeat.
    ConfigHeard,
    /// It changed the set's configuration.
    Reconfigured,
    /// It was too stale to catch up.
    TooStale,
}

impl Landmark {
    /// Every landmark.
    pub const ALL: [Landmark; 18] = [
        Landmark::Rollback,
        Landmark::RollbackFiles,
        Landmark::DryRunLost,
        Landmark::ElectionLost,
        Landmark::CatchUpTakeover,
        Landmark::PriorityTakeover,
        Landmark::Handoff,
        Landmark::CatchUp,
        Landmark::DeposedByTerm,
        Landmark::DeposedBySilence,
        Landmark::SteppedDown,
        Landmark::StaleCandidate,
        Landmark::SecondCandidate,
        Landmark::ChainedSync,
        Landmark::InitialSync,
        Landmark::ConfigHeard,
        Landmark::Reconfigured,
        Landmark::TooStale,
    ];

    /// In a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Landmark::Rollback => "rollback",
            Landmark::RollbackFiles => "rollback files written",
            Landmark::DryRunLost => "dry run lost",
            Landmark::ElectionLost => "election lost",
            Landmark::CatchUpTakeover => "catch-up takeover",
            Landmark::PriorityTakeover => "priority takeover",
            Landmark::Handoff => "election handoff",
            Landmark::CatchUp => "new leader caught up",
            Landmark::DeposedByTerm => "primary deposed by a higher term",
            Landmark::DeposedBySilence => "primary saw no majority",
            Landmark::SteppedDown => "primary stepped down on command",
            Landmark::StaleCandidate => "stale candidate refused",
            Landmark::SecondCandidate => "second candidate refused",
            Landmark::ChainedSync => "chained sync",
            Landmark::InitialSync => "initial sync",
            Landmark::ConfigHeard => "configuration by heartbeat",
            Landmark::Reconfigured => "reconfiguration",
            Landmark::TooStale => "member too stale",
        }
    }
}

/// A set of landmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Landmarks(u64);

impl Landmarks {
    /// Adds one.
    #[inline]
    pub fn add(&mut self, landmark: Landmark) {
        self.0 |= 1 << landmark as u8;
    }

    /// Whether it is there.
    pub const fn has(self, landmark: Landmark) -> bool {
        self.0 & 1 << landmark as u8 != 0
    }

    /// Those of both.
    #[inline]
    pub const fn union(self, other: Landmarks) -> Landmarks {
        Landmarks(self.0 | other.0)
    }
}
