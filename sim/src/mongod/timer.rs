//! The timers of one mongod: an enum and a small table. Heartbeats, one per member, stand beside it.

use stepdown_driver::Instant;

/// What a mongod waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Primary catch-up has taken too long.
    CatchUp,
    /// No primary was heard for the election timeout.
    Election,
    /// The journal is to be flushed.
    Journal,
    /// Some member was not heard for the election timeout.
    Liveness,
    /// The primary writes a no-op if nothing else was written.
    Noop,
    /// The earliest deadline of a parked operation.
    Parked,
    /// `replSetUpdatePosition` is due although nothing moved.
    Report,
    /// A clean shutdown goes on.
    Shutdown,
    /// A step-down or freeze period ends.
    StepDownEnd,
    /// Sync source: choose one, or give up on a fetch.
    Sync,
    /// A scheduled priority or catch-up takeover.
    Takeover,
    /// An election's votes have taken too long.
    Votes,
}

impl Timer {
    pub(crate) const ALL: [Timer; 12] = [
        Timer::CatchUp,
        Timer::Election,
        Timer::Journal,
        Timer::Liveness,
        Timer::Noop,
        Timer::Parked,
        Timer::Report,
        Timer::Shutdown,
        Timer::StepDownEnd,
        Timer::Sync,
        Timer::Takeover,
        Timer::Votes,
    ];
}

/// When each timer is due; [`Instant::NEVER`] when it is stopped.
#[derive(Debug)]
pub(crate) struct TimerTable([Instant; Timer::ALL.len()]);

impl TimerTable {
    pub(crate) fn new() -> Self {
        TimerTable([Instant::NEVER; Timer::ALL.len()])
    }

    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = at;
    }

    /// Sets the timer unless it is due sooner.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Instant) {
        let due = &mut self.0[timer as usize];
        *due = at.min(*due);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = Instant::NEVER;
    }

    pub(crate) fn due(&self, timer: Timer) -> Instant {
        self.0[timer as usize]
    }

    /// Stops the timer if it is due; says whether it was.
    pub(crate) fn fire(&mut self, timer: Timer, now: Instant) -> bool {
        let due = &mut self.0[timer as usize];
        let fired = *due <= now;
        if fired {
            *due = Instant::NEVER;
        }
        fired
    }

    pub(crate) fn next(&self) -> Instant {
        self.0.iter().copied().fold(Instant::NEVER, Instant::min)
    }
}
