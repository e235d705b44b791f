//! Watching one server: when to ask it for a hello, how, and when to give up on an answer.
//!
//! [`Monitor`] decides (server monitoring specification: polling, streaming, the shortest pause); the
//! loops in `run` do what it says on a transport.

mod run;

use std::time::Duration;

use crate::options::MIN_HEARTBEAT_FREQ;
use crate::sdam::TopologyVersion;
use crate::time::Instant;

pub(crate) use self::run::{MonitorHandle, watch};

/// How long one monitor waits for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// `heartbeatFrequencyMS`
    pub(crate) heartbeat: Duration,
    /// `connectTimeoutMS`; `None` is no limit.
    pub(crate) connect_timeout: Option<Duration>,
    /// Whether streaming is wanted where the server can.
    pub(crate) streaming: bool,
}

/// What happened since the last action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Nothing: the monitor begins.
    Start,
    /// The server answered.
    Answered {
        /// The version of what it told, if it can tell of changes as they happen.
        topology_version: Option<TopologyVersion>,
        /// Another answer follows without asking.
        more_to_come: bool,
    },
    /// The check failed and the connection is closed.
    Failed {
        /// Whether it was the network, and the server was known until now.
        lost: bool,
    },
    /// The check was given up because an operation found the network broken; the connection is
    /// closed.
    Cancelled,
    /// The pause is over.
    Rested,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect and greet the server: the first check.
    Connect {
        /// Until when.
        by: Instant,
    },
    /// Ask for a hello at once.
    Ask {
        /// Until when.
        by: Instant,
    },
    /// Ask for a hello when something differs from `version`, and for more after it.
    AskToStream {
        /// What is known.
        version: TopologyVersion,
        /// How long the server waits for a change.
        await_time: Duration,
        /// Until when.
        by: Instant,
    },
    /// Read the next answer of a stream.
    ReadMore {
        /// Until when.
        by: Instant,
    },
    /// Do nothing until `until`, or until a check is asked for, but then not before `not_before`.
    Rest {
        /// The regular moment.
        until: Instant,
        /// The soonest moment.
        not_before: Instant,
    },
}

/// The state of one monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    pace: Pace,
    connected: bool,
    /// When the running or last check began.
    began: Instant,
}

impl Monitor {
    /// A monitor that has done nothing yet.
    pub(crate) fn new(pace: Pace) -> Self {
        Monitor { pace, connected: false, began: Instant::ZERO }
    }

    /// Takes in what happened and says what to do next.
    pub(crate) fn step(&mut self, now: Instant, input: Input) -> Action {
        match input {
            Input::Start => self.check(now),
            Input::Answered { topology_version, more_to_come } => {
                self.connected = true;
                match topology_version.filter(|_| self.pace.streaming) {
                    Some(_) if more_to_come => {
                        self.began = now;
                        Action::ReadMore { by: self.streaming_deadline(now) }
                    }
                    Some(version) => {
                        self.began = now;
                        Action::AskToStream {
                            version,
                            await_time: self.pace.heartbeat,
                            by: self.streaming_deadline(now),
                        }
                    }
                    None => self.rest(now),
                }
            }
            // A server that was there a moment ago may be back already.
            Input::Failed { lost: true } | Input::Cancelled => {
                self.connected = false;
                self.check(now)
            }
            Input::Failed { lost: false } => {
                self.connected = false;
                self.rest(now)
            }
            Input::Rested => self.check(now),
        }
    }

    fn check(&mut self, now: Instant) -> Action {
        self.began = now;
        let by = self.pace.connect_timeout.map_or(Instant::NEVER, |timeout| now + timeout);
        if self.connected { Action::Ask { by } } else { Action::Connect { by } }
    }

    fn rest(&self, now: Instant) -> Action {
        Action::Rest {
            until: now + self.pace.heartbeat,
            not_before: (self.began + MIN_HEARTBEAT_FREQ).max(now),
        }
    }

    fn streaming_deadline(&self, now: Instant) -> Instant {
        self.pace
            .connect_timeout
            .map_or(Instant::NEVER, |timeout| now + timeout + self.pace.heartbeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;

    fn monitor(streaming: bool) -> Monitor {
        Monitor::new(Pace {
            heartbeat: Duration::from_secs(10),
            connect_timeout: Some(Duration::from_secs(5)),
            streaming,
        })
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn version(counter: i64) -> TopologyVersion {
        TopologyVersion { process_id: ObjectId::from_bytes([7; 12]), counter }
    }

    #[test]
    fn a_polling_monitor_rests_between_two_checks() {
        let mut monitor = monitor(false);
        assert_eq!(monitor.step(at(0), Input::Start), Action::Connect { by: at(5_000) });
        let answer = Input::Answered { topology_version: Some(version(1)), more_to_come: false };
        let rest = Action::Rest { until: at(10_002), not_before: at(500) };
        assert_eq!(monitor.step(at(2), answer), rest);
        assert_eq!(monitor.step(at(600), Input::Rested), Action::Ask { by: at(5_600) });
    }

    #[test]
    fn a_streaming_monitor_never_rests_while_the_server_answers() {
        let mut monitor = monitor(true);
        monitor.step(at(0), Input::Start);
        let first = Input::Answered { topology_version: Some(version(1)), more_to_come: false };
        assert_eq!(
            monitor.step(at(2), first),
            Action::AskToStream {
                version: version(1),
                await_time: Duration::from_secs(10),
                by: at(15_002)
            }
        );
        let next = Input::Answered { topology_version: Some(version(2)), more_to_come: true };
        assert_eq!(monitor.step(at(3), next), Action::ReadMore { by: at(15_003) });
    }

    #[test]
    fn a_server_lost_just_now_is_tried_again_at_once_and_then_at_leisure() {
        let mut monitor = monitor(true);
        monitor.step(at(0), Input::Start);
        let again = monitor.step(at(9_000), Input::Failed { lost: true });
        assert_eq!(again, Action::Connect { by: at(14_000) });
        let rest = monitor.step(at(9_001), Input::Failed { lost: false });
        assert_eq!(rest, Action::Rest { until: at(19_001), not_before: at(9_500) });
    }
}
