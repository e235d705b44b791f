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
///
/// The next one is kept as a lower bound: a timer that is put off leaves it too early, and the moment it
/// names passes with nothing due, after which it is exact again. Timers are put off far more often than
/// they fire, so nothing is searched on the way of a message.
#[derive(Debug)]
pub(crate) struct TimerTable {
    due: [Instant; Timer::ALL.len()],
    next: Instant,
}

impl TimerTable {
    pub(crate) fn new() -> Self {
        TimerTable { due: [Instant::NEVER; Timer::ALL.len()], next: Instant::NEVER }
    }

    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.due[timer as usize] = at;
        self.next = self.next.min(at);
    }

    /// Sets the timer unless it is due sooner.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Instant) {
        self.set(timer, at.min(self.due[timer as usize]));
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.due[timer as usize] = Instant::NEVER;
    }

    /// Stops the timer if it is due; says whether it was.
    pub(crate) fn fire(&mut self, timer: Timer, now: Instant) -> bool {
        let due = &mut self.due[timer as usize];
        let fired = *due <= now;
        if fired {
            *due = Instant::NEVER;
        }
        fired
    }

    /// Nothing is due before this.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Makes [`TimerTable::next`] exact.
    pub(crate) fn refresh(&mut self) {
        self.next = self.due.iter().copied().fold(Instant::NEVER, Instant::min);
    }
}

/// When each member is due for a heartbeat, or its heartbeat for a timeout; by index in the
/// configuration. The next one is a lower bound, as in [`TimerTable`].
#[derive(Debug)]
pub(crate) struct HeartbeatTimers {
    due: Vec<Instant>,
    next: Instant,
}

impl HeartbeatTimers {
    pub(crate) fn new(members: usize, at: Instant) -> Self {
        HeartbeatTimers { due: vec![at; members], next: at }
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    pub(crate) fn set(&mut self, index: usize, at: Instant) {
        self.due[index] = at;
        self.next = self.next.min(at);
    }

    /// Whether member `index` is due.
    pub(crate) fn is_due(&self, index: usize, now: Instant) -> bool {
        self.due[index] <= now
    }

    /// No more heartbeats.
    pub(crate) fn stop_all(&mut self) {
        self.due.fill(Instant::NEVER);
        self.next = Instant::NEVER;
    }

    /// Nothing is due before this.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Makes [`HeartbeatTimers::next`] exact.
    pub(crate) fn refresh(&mut self) {
        self.next = self.due.iter().copied().fold(Instant::NEVER, Instant::min);
    }
}
