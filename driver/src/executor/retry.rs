//! The policy of one operation: whether a failed attempt is followed by another one, and which error
//! the application gets if not.
//!
//! Pure. Implements the specifications of retryable reads, retryable writes and client backpressure.

use std::time::Duration;

use crate::error::{Attempt, Error, Phase, labels};
use crate::operation::{Retry, integer};
use crate::time::Instant;

/// The pause before a retry after an overload error starts from this.
const BASE_BACKOFF: Duration = Duration::from_millis(100);
/// It never grows beyond this.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// How many attempts an error tells of at most.
const MAX_REMEMBERED: usize = 32;

/// What comes after a failed attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Another attempt.
    Retry {
        /// After this pause.
        backoff: Option<Duration>,
        /// Whether the server that failed is to be avoided.
        avoid: bool,
    },
    /// No other attempt.
    Fail {
        /// What the application is told.
        error: Box<Error>,
        /// Whether that is the error of this last attempt.
        newest: bool,
    },
}

/// What decides about retries, apart from the errors themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetrySettings {
    /// Which rules the command falls under.
    pub(crate) retry: Retry,
    /// `retryReads`
    pub(crate) reads: bool,
    /// `retryWrites`
    pub(crate) writes: bool,
    /// `maxAdaptiveRetries`
    pub(crate) max_adaptive: u32,
    /// `enableOverloadRetargeting`
    pub(crate) retarget: bool,
    /// Whether the deployment is sharded: there the server that failed is always avoided.
    pub(crate) sharded: bool,
    /// Whether it belongs to a transaction that goes on: then it is sent again after overload alone.
    pub(crate) in_transaction: bool,
    /// When it must be done; until then it is retried as often as it takes.
    pub(crate) limit: Option<Instant>,
}

/// The state of one operation between its attempts.
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    settings: RetrySettings,
    retries: u32,
    overloaded: bool,
    attempts: Vec<Attempt>,
}

impl RetryPolicy {
    /// The policy of an operation that was not tried yet.
    pub(crate) fn new(settings: RetrySettings) -> Self {
        RetryPolicy { settings, retries: 0, overloaded: false, attempts: Vec::new() }
    }

    /// How many retries there were.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Takes a failed attempt. `jitter` is a random number.
    pub(crate) fn failed(&mut self, attempt: Attempt, jitter: u64) -> Verdict {
        let settings = self.settings;
        let error = &attempt.error;
        if attempt.phase == Phase::Selection {
            return self.fail(attempt);
        }
        let refused = error.is_refused_by_overload();
        self.overloaded |= error.is_overloaded();
        let (allowed, retryable) = match settings.retry {
            Retry::Read => (settings.reads, error.is_retryable_read()),
            Retry::OverloadedRead => (settings.reads, refused),
            Retry::Write => (settings.writes, error.is_retryable_write()),
            Retry::OverloadedWrite => (settings.writes, refused),
            Retry::Ending => (true, error.is_retryable_write()),
            Retry::No => (settings.reads && settings.writes, refused),
        };
        let again = settings.retry == Retry::OverloadedWrite
            && error.is_network()
            && crate::planted::is(crate::planted::DriverBug::RetriesUpdateMany);
        let (allowed, retryable) = (allowed || again, retryable || again);
        let retryable = if settings.in_transaction { refused } else { retryable };
        // One retry, or as many as there is time for; if overload is part of the story, as many as it
        // allows.
        let max = match settings.limit {
            _ if self.overloaded => settings.max_adaptive,
            Some(_) => u32::MAX,
            None => 1,
        };
        if !(allowed && retryable && self.retries < max) {
            return self.fail(attempt);
        }
        let overload = error.is_overloaded();
        let backoff = overload.then(|| backoff(base_backoff(error), self.retries + 1, jitter));
        let resumed = attempt.ended + backoff.unwrap_or_default();
        if settings.limit.is_some_and(|limit| resumed >= limit) {
            return self.fail(attempt);
        }
        self.retries += 1;
        self.remember(attempt);
        Verdict::Retry { backoff, avoid: settings.sharded || (overload && settings.retarget) }
    }

    /// Keeps an attempt for the story; where there are very many, the first and the last ones.
    fn remember(&mut self, attempt: Attempt) {
        if self.attempts.len() == MAX_REMEMBERED {
            self.attempts.remove(MAX_REMEMBERED / 2);
        }
        self.attempts.push(attempt);
    }

    /// Picks the error to tell: of reads the newest, of writes the newest that may have written. An
    /// attempt that found no server, or sent nothing, explains nothing if another went before it.
    fn fail(&mut self, last: Attempt) -> Verdict {
        let says_something = |attempt: &Attempt| match self.settings.retry {
            Retry::Write | Retry::OverloadedWrite | Retry::Ending | Retry::No => {
                attempt.phase > Phase::CheckOut
                    && !attempt.error.contains_label(labels::NO_WRITES_PERFORMED)
            }
            Retry::Read | Retry::OverloadedRead => attempt.phase != Phase::Selection,
        };
        self.attempts.push(last);
        let count = self.attempts.len();
        let chosen = self.attempts.iter().rposition(says_something).unwrap_or(0);
        let mut error = self.attempts[chosen].error.clone();
        if count > 1 {
            error = error.with_attempts(std::mem::take(&mut self.attempts));
        }
        Verdict::Fail { error: Box::new(error), newest: chosen + 1 == count }
    }
}

/// What the server asks for (`baseBackoffMS`), or the specification's own base.
fn base_backoff(error: &Error) -> Duration {
    let asked = error.server_response().and_then(|reply| integer(reply, "baseBackoffMS"));
    let asked = asked.and_then(|millis| u64::try_from(millis).ok()).filter(|millis| *millis > 0);
    asked.map_or(BASE_BACKOFF, Duration::from_millis)
}

/// A random part of a time that doubles with each retry, in whole nanoseconds.
fn backoff(base: Duration, retry: u32, jitter: u64) -> Duration {
    let ceiling = base.saturating_mul(2_u32.saturating_pow(retry)).min(MAX_BACKOFF);
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    // The upper 64 bits of the product: a fraction of `nanos` below one.
    let part = (u128::from(nanos) * u128::from(jitter)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{CommandError, ErrorKind};

    fn settings(retry: Retry) -> RetrySettings {
        RetrySettings {
            retry,
            reads: true,
            writes: true,
            max_adaptive: 2,
            retarget: false,
            sharded: false,
            in_transaction: false,
            limit: None,
        }
    }

    fn attempt(phase: Phase, error: Error) -> Attempt {
        Attempt::new(None, phase, Instant::ZERO, Instant::ZERO, error)
    }

    fn command(code: i32, labels: &[&str]) -> Attempt {
        let error = Error::new(ErrorKind::Command(CommandError::new(code, "", "")));
        let error = labels.iter().fold(error, |error, label| error.with_label(*label));
        attempt(Phase::Reply, error)
    }

    fn failed_with(verdict: Verdict) -> Option<i32> {
        let Verdict::Fail { error, .. } = verdict else { panic!("another attempt: {verdict:?}") };
        error.code()
    }

    #[test]
    fn a_read_is_tried_twice_and_the_newest_error_is_told() {
        let mut policy = RetryPolicy::new(settings(Retry::Read));
        let verdict = policy.failed(command(10107, &[]), 0);
        assert!(matches!(verdict, Verdict::Retry { backoff: None, avoid: false }));
        assert_eq!(failed_with(policy.failed(command(11600, &[]), 0)), Some(11600));
    }

    #[test]
    fn with_retries_off_the_first_error_is_told_at_once() {
        let off = RetrySettings { reads: false, writes: false, ..settings(Retry::Read) };
        assert_eq!(failed_with(RetryPolicy::new(off).failed(command(10107, &[]), 0)), Some(10107));
    }

    #[test]
    fn a_write_is_retried_only_under_its_label() {
        let mut policy = RetryPolicy::new(settings(Retry::Write));
        assert_eq!(failed_with(policy.failed(command(10107, &[]), 0)), Some(10107));
        let mut policy = RetryPolicy::new(settings(Retry::Write));
        let verdict = policy.failed(command(10107, &[labels::RETRYABLE_WRITE_ERROR]), 0);
        assert!(matches!(verdict, Verdict::Retry { .. }));
    }

    #[test]
    fn a_retry_that_wrote_nothing_leaves_the_first_error_standing() {
        let mut policy = RetryPolicy::new(settings(Retry::Write));
        policy.failed(command(91, &[labels::RETRYABLE_WRITE_ERROR]), 0);
        let second = command(10107, &[labels::RETRYABLE_WRITE_ERROR, labels::NO_WRITES_PERFORMED]);
        assert_eq!(failed_with(policy.failed(second, 0)), Some(91));

        let mut policy = RetryPolicy::new(settings(Retry::Write));
        policy.failed(command(91, &[labels::RETRYABLE_WRITE_ERROR]), 0);
        let nobody = attempt(Phase::Selection, Error::server_selection("nobody"));
        assert_eq!(failed_with(policy.failed(nobody, 0)), Some(91));
    }

    #[test]
    fn an_overloaded_server_is_tried_twice_more_after_growing_pauses() {
        let overload = [labels::RETRYABLE_ERROR, labels::SYSTEM_OVERLOADED_ERROR];
        let mut policy = RetryPolicy::new(settings(Retry::No));
        for most in [200, 400] {
            let verdict = policy.failed(command(462, &overload), u64::MAX);
            let Verdict::Retry { backoff: Some(pause), .. } = verdict else {
                panic!("{verdict:?}")
            };
            assert!(pause < Duration::from_millis(most) && pause > Duration::from_millis(most - 1));
        }
        assert_eq!(failed_with(policy.failed(command(462, &overload), 0)), Some(462));
    }
}
