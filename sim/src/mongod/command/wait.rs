//! Requests that wait: for time, for data, for a majority, for an election.

use bson::RawDocumentBuf;
use stepdown_driver::Instant;

use super::request::Request;
use super::write_concern::{Satisfied, WriteConcern};
use crate::mongod::error::{
    CommandError, EXCEEDED_TIME_LIMIT, INTERRUPTED_DUE_TO_REPL_STATE_CHANGE, MAX_TIME_MS_EXPIRED,
    PRIMARY_STEPPED_DOWN,
};
use crate::mongod::optime::OpTime;
use crate::mongod::{
    ConnectionId, Landmark, Mongod, WAKE_COMMIT, WAKE_DATA, WAKE_STATE, WAKE_TRANSACTION,
};

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Parked {
    pub request: Box<Request>,
    pub wait: Wait,
}

/// What it waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// The next answer of an exhaust cursor: the request is taken up again.
    Again { at: Instant },
    /// `sleep`: the command runs again when it is over.
    Asleep { until: Instant },
    /// A fail point holds it up; then it goes on, or fails with this.
    Blocked { until: Instant, then: Then },
    /// The present configuration to be committed; then the reconfiguration is tried again.
    ConfigCommitted,
    /// The end of an open transaction that has written what this would write; then it is tried again.
    Conflict,
    /// Data; the command runs again when there is some, at the latest at `until`.
    Data { until: Instant },
    /// The election it called.
    Election,
    /// hello to change.
    Hello { counter: i64, until: Instant },
    /// A linearizable read's no-op to be committed.
    Linearizable { optime: OpTime, reply: RawDocumentBuf },
    /// A quorum check, and the spread of the configuration after it; then this is the answer.
    Quorum { reply: RawDocumentBuf },
    /// `afterClusterTime`, or a snapshot to read from.
    ReadConcern,
    /// The end of the process.
    Shutdown,
    /// A secondary to catch up, so that the primary may step down.
    StepDown { until: Instant, period_end: Instant, force: bool },
    /// The end of an fsync lock; then it passes the gate.
    Unlocked,
    /// The write concern.
    WriteConcern {
        optime: OpTime,
        concern: WriteConcern,
        until: Instant,
        outcome: Result<RawDocumentBuf, CommandError>,
    },
}

/// What a fail point lets follow a delay.
#[derive(Debug)]
pub(crate) enum Then {
    /// The command runs.
    GoOn,
    /// It fails.
    Fail(CommandError),
    /// The connection is closed.
    Close,
}

/// A kind of wait that something else ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    ConfigCommitted,
    Quorum,
}

impl Wait {
    fn is(&self, waiting: Waiting) -> bool {
        matches!(
            (self, waiting),
            (Wait::ConfigCommitted, Waiting::ConfigCommitted)
                | (Wait::Quorum { .. }, Waiting::Quorum)
        )
    }
}

impl Parked {
    pub(crate) fn connection(&self) -> ConnectionId {
        self.request.answer.connection
    }

    /// When it must be looked at again, whatever happens.
    pub(crate) fn deadline(&self) -> Instant {
        let own = match &self.wait {
            Wait::Again { at: until }
            | Wait::Asleep { until }
            | Wait::Blocked { until, .. }
            | Wait::Data { until }
            | Wait::Hello { until, .. }
            | Wait::StepDown { until, .. }
            | Wait::WriteConcern { until, .. } => *until,
            _ => Instant::NEVER,
        };
        // A blocked command sleeps through its limit, and hello's await time is its own limit.
        let limited = !matches!(self.wait, Wait::Blocked { .. } | Wait::Hello { .. });
        if limited { own.min(self.request.max_time_at()) } else { own }
    }
}

impl Mongod {
    pub(crate) fn park(&mut self, request: Box<Request>, wait: Wait) {
        let parked = Parked { request, wait };
        self.timers.set_earlier(crate::mongod::timer::Timer::Parked, parked.deadline());
        self.parked.push(parked);
    }

    pub(crate) fn waits_for(&self, waiting: Waiting) -> bool {
        self.parked.iter().any(|parked| parked.wait.is(waiting))
    }

    /// Ends every wait of one kind with the same outcome.
    pub(crate) fn finish_waiting(
        &mut self,
        now: Instant,
        waiting: Waiting,
        outcome: Result<(), CommandError>,
    ) {
        let mut index = 0;
        let mut done = Vec::new();
        while index < self.parked.len() {
            if self.parked[index].wait.is(waiting) {
                done.push(self.parked.remove(index));
            } else {
                index += 1;
            }
        }
        for parked in done {
            let reply = match parked.wait {
                Wait::Quorum { reply } => reply,
                _ => RawDocumentBuf::new(),
            };
            self.finish(now, parked.request, outcome.clone().map(|()| reply), None);
        }
    }

    /// Looks at those whom the flags concern.
    pub(crate) fn wake_parked(&mut self, now: Instant, flags: u8) {
        // Those who go on waiting stay in the list: what the others do may end their wait too.
        let (concerned, waiting) =
            std::mem::take(&mut self.parked).into_iter().partition(|parked: &Parked| {
                let concerned = match &parked.wait {
                    Wait::Again { .. }
                    | Wait::Asleep { .. }
                    | Wait::Blocked { .. }
                    | Wait::Quorum { .. }
                    | Wait::Shutdown => false,
                    Wait::Unlocked => flags & WAKE_STATE != 0,
                    Wait::Conflict => flags & (WAKE_TRANSACTION | WAKE_STATE) != 0,
                    Wait::Data { .. } => flags & (WAKE_DATA | WAKE_COMMIT) != 0,
                    Wait::Election | Wait::Hello { .. } => flags & WAKE_STATE != 0,
                    Wait::ConfigCommitted | Wait::StepDown { .. } => {
                        flags & (WAKE_COMMIT | WAKE_STATE) != 0
                    }
                    Wait::Linearizable { .. } | Wait::ReadConcern | Wait::WriteConcern { .. } => {
                        flags & (WAKE_COMMIT | WAKE_DATA | WAKE_STATE) != 0
                    }
                };
                concerned || parked.deadline() <= now
            });
        self.parked = waiting;
        let concerned: Vec<Parked> = concerned;
        for parked in concerned {
            self.look_at_parked(now, parked);
        }
        self.arm_parked_timer();
    }

    fn look_at_parked(&mut self, now: Instant, parked: Parked) {
        let Parked { request, wait } = parked;
        // The client may have gone away while another was answered.
        if self.clients.get(request.answer.connection).is_none() {
            return;
        }
        let out_of_time = request.max_time_at() <= now;
        match wait {
            Wait::Blocked { until, then } if until <= now => match then {
                // Measured: what limits a getMore is how long it waits for data, and it begins to wait
                // after the delay.
                Then::GoOn if request.spec.names[0] == "getMore" => {
                    let mut request = request;
                    request.operation.started = now;
                    self.pass_gate(now, request);
                }
                Then::Fail(error) => self.finish(now, request, Err(error), None),
                Then::Close => self.close_client(request.answer.connection),
                // Measured: the delay counts, whatever the command.
                Then::GoOn if out_of_time => {
                    self.finish(now, request, Err(max_time_expired()), None);
                }
                Then::GoOn => self.pass_gate(now, request),
            },
            Wait::Again { at } if at <= now => self.begin(now, request),
            Wait::Asleep { until } if until <= now => self.run(now, request, true),
            Wait::Unlocked if !out_of_time => self.pass_gate(now, request),
            Wait::Data { until } => self.run(now, request, until <= now || out_of_time),
            Wait::Hello { counter, until } => {
                if self.repl.topology_counter != counter || until <= now {
                    self.run(now, request, true);
                } else {
                    self.park(request, Wait::Hello { counter, until });
                }
            }
            Wait::Conflict if self.repl.leader.is_none() && self.repl.set_name.is_some() => {
                self.unfinished.remove(&request.answer.connection);
                self.pass_gate(now, request);
            }
            // Out of time it is refused if it still conflicts.
            Wait::Conflict => self.run(now, request, false),
            Wait::ReadConcern if !out_of_time => self.pass_gate(now, request),
            Wait::ConfigCommitted if !out_of_time => self.run(now, request, false),
            Wait::Election => {
                if self.repl.leader.is_some() {
                    self.finish(now, request, Ok(RawDocumentBuf::new()), None);
                } else if self.repl.election.is_none() {
                    let error =
                        CommandError::new(crate::mongod::error::COMMAND_FAILED, "Election failed.");
                    self.finish(now, request, Err(error), None);
                } else {
                    self.park(request, Wait::Election);
                }
            }
            Wait::Linearizable { optime, reply } => {
                if self.repl.commit.optime >= optime {
                    self.finish(now, request, Ok(reply), None);
                } else if self.repl.leader.is_none() {
                    let error = CommandError::new(
                        PRIMARY_STEPPED_DOWN,
                        "Primary stepped down while waiting for linearizable read",
                    );
                    self.finish(now, request, Err(error), None);
                } else if out_of_time {
                    self.finish(now, request, Err(max_time_expired()), None);
                } else {
                    self.park(request, Wait::Linearizable { optime, reply });
                }
            }
            Wait::StepDown { until, period_end, force } => {
                self.try_step_down(now, request, until, period_end, force);
            }
            Wait::WriteConcern { optime, concern, until, outcome } => {
                match self.satisfied(optime, &concern) {
                    Satisfied::Yes => self.finish(now, request, outcome, None),
                    Satisfied::Never(error) => self.finish(now, request, outcome, Some(error)),
                    Satisfied::NotYet if self.repl.leader.is_none() => {
                        let error = concern.stepped_down();
                        self.finish(now, request, outcome, Some(error));
                    }
                    Satisfied::NotYet if until <= now => {
                        let error = concern.timed_out();
                        let told = !crate::mongod::planted::is(
                            crate::mongod::planted::ServerBug::CallsTimeoutSuccess,
                        );
                        self.finish(now, request, outcome, told.then_some(error));
                    }
                    Satisfied::NotYet if out_of_time => {
                        let error = concern.interrupted(max_time_expired());
                        self.finish(now, request, outcome, Some(error));
                    }
                    Satisfied::NotYet => {
                        self.park(request, Wait::WriteConcern { optime, concern, until, outcome });
                    }
                }
            }
            Wait::ReadConcern | Wait::ConfigCommitted | Wait::Unlocked => {
                self.finish(now, request, Err(max_time_expired()), None);
            }
            Wait::Asleep { .. } | Wait::Quorum { .. } if out_of_time => {
                self.finish(now, request, Err(max_time_expired()), None);
            }
            wait @ (Wait::Again { .. }
            | Wait::Asleep { .. }
            | Wait::Blocked { .. }
            | Wait::Quorum { .. }
            | Wait::Shutdown) => {
                self.park(request, wait);
            }
        }
    }

    /// Ends what a connection's request waits for: it fails with `error`.
    pub(crate) fn interrupt(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        error: CommandError,
    ) {
        let place = self.parked.iter().position(|parked| parked.connection() == connection);
        let Some(Parked { request, wait }) = place.map(|place| self.parked.remove(place)) else {
            return;
        };
        match wait {
            Wait::WriteConcern { concern, outcome, .. } => {
                let interrupted = concern.interrupted(error);
                self.finish(now, request, outcome, Some(interrupted));
            }
            // A member that is on its way down is not held up.
            Wait::Shutdown => self.park(request, Wait::Shutdown),
            wait => {
                if matches!(wait, Wait::StepDown { .. }) {
                    self.abandon_step_down();
                }
                self.finish(now, request, Err(error), None);
            }
        }
    }

    /// A step-down attempt: done, given up, or to be looked at again.
    pub(crate) fn try_step_down(
        &mut self,
        now: Instant,
        request: Box<Request>,
        until: Instant,
        period_end: Instant,
        force: bool,
    ) {
        if self.repl.leader.is_none() {
            let error = CommandError::new(
                PRIMARY_STEPPED_DOWN,
                "While waiting for secondaries to catch up before stepping down, this node decided to step down for other reasons",
            );
            self.finish(now, request, Err(error), None);
            return;
        }
        let safe = self.successor_is_ready();
        if safe || (force && until <= now) || self.repl.members.len() == 1 && force {
            self.repl.stand_not_before = self.repl.stand_not_before.max(period_end);
            self.timers.set(crate::mongod::timer::Timer::StepDownEnd, period_end);
            self.pass(Landmark::SteppedDown);
            self.step_down(now, "replSetStepDown");
            if !force || safe {
                self.hand_off(now);
            }
            self.finish(now, request, Ok(RawDocumentBuf::new()), None);
        } else if until <= now || request.max_time_at() <= now {
            self.abandon_step_down();
            let error = if until <= now {
                let date = bson::DateTime::from_millis(self.wall_millis(now));
                CommandError::new(
                    EXCEEDED_TIME_LIMIT,
                    format!(
                        "No electable secondaries caught up as of {}. Please use the replSetStepDown command with the argument {{force: true}} to force node to step down.",
                        date.try_to_rfc3339_string().unwrap_or_default()
                    ),
                )
            } else {
                max_time_expired()
            };
            self.finish(now, request, Err(error), None);
        } else {
            self.park(request, Wait::StepDown { until, period_end, force });
        }
    }

    /// The role is lost: waiting writes are told, blocked writes are killed; reads live on.
    pub(crate) fn interrupt_for_step_down(&mut self, now: Instant) {
        let parked = std::mem::take(&mut self.parked);
        for parked in parked {
            let writes = parked.request.spec.gate == super::spec::Gate::Write;
            if writes
                && matches!(parked.wait, Wait::Blocked { .. } | Wait::Conflict | Wait::ReadConcern)
            {
                self.unfinished.remove(&parked.connection());
                let error = CommandError::new(
                    INTERRUPTED_DUE_TO_REPL_STATE_CHANGE,
                    "operation was interrupted",
                );
                self.finish(now, parked.request, Err(error), None);
            } else {
                self.parked.push(parked);
            }
        }
        self.wake(WAKE_STATE | WAKE_COMMIT);
    }
}

pub(crate) fn max_time_expired() -> CommandError {
    CommandError::new(MAX_TIME_MS_EXPIRED, "operation exceeded time limit")
}
