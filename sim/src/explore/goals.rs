//! What a search should have seen sometimes: if it has not, it has not looked where it hurts.

use crate::mongod::{Landmark, Landmarks};

/// Something a run may see, beside the landmarks of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Goal {
    /// Two members were PRIMARY at once.
    TwoPrimaries = 32,
    /// Two members accepted writes at once.
    TwoWritable = 33,
    /// A crash lost entries.
    LostInCrash = 34,
    /// A retried write was answered from the session's history.
    RetryAnswered = 35,
    /// A majority write timed out.
    MajorityTimedOut = 36,
    /// A step-down ended a waiting write.
    StepDownEndedWrite = 37,
    /// A client was told that a member is not primary.
    NotPrimary = 38,
}

impl Goal {
    const ALL: [Goal; 7] = [
        Goal::TwoPrimaries,
        Goal::TwoWritable,
        Goal::LostInCrash,
        Goal::RetryAnswered,
        Goal::MajorityTimedOut,
        Goal::StepDownEndedWrite,
        Goal::NotPrimary,
    ];

    const fn name(self) -> &'static str {
        match self {
            Goal::TwoPrimaries => "two primaries at once",
            Goal::TwoWritable => "two writable primaries at once",
            Goal::LostInCrash => "entries lost in a crash",
            Goal::RetryAnswered => "retried write answered from history",
            Goal::MajorityTimedOut => "majority write timed out",
            Goal::StepDownEndedWrite => "step-down ended a waiting write",
            Goal::NotPrimary => "not primary",
        }
    }
}

/// A set of goals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goals(u64);

impl Goals {
    /// Adds one.
    pub fn add(&mut self, goal: Goal) {
        self.0 |= 1 << goal as u8;
    }

    pub(super) fn add_if(&mut self, seen: bool, goal: Goal) {
        if seen {
            self.add(goal);
        }
    }

    pub(super) fn add_landmarks(&mut self, landmarks: Landmarks) {
        for landmark in Landmark::ALL {
            if landmarks.has(landmark) {
                self.0 |= 1 << landmark as u8;
            }
        }
    }

    /// The names of all goals there are.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        let landmarks = Landmark::ALL.into_iter().map(Landmark::name);
        landmarks.chain(Goal::ALL.into_iter().map(Goal::name))
    }

    /// The names of those that were reached.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let landmarks = Landmark::ALL.into_iter().map(|it| (it as u8, it.name()));
        let goals = Goal::ALL.into_iter().map(|it| (it as u8, it.name()));
        landmarks.chain(goals).filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| name)
    }
}
