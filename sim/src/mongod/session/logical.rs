//! Which sessions are in use: the logical session cache.
//!
//! Sessions begin by being used. One that nobody used for half an hour is over, and one that was ended
//! is so from the next look on; what they left open, cursors and transactions, ends with them. Looks
//! are taken when sessions are used: nobody notices in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::Uuid;
use stepdown_driver::Instant;

/// `localLogicalSessionTimeoutMinutes`.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// `logicalSessionRefreshMillis`.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// The sessions in use.
#[derive(Debug, Default)]
pub(crate) struct LogicalSessions {
    used: BTreeMap<Uuid, Instant>,
    ended: BTreeSet<Uuid>,
    next_look: Instant,
}

impl LogicalSessions {
    /// A session is used.
    pub(crate) fn touch(&mut self, lsid: Uuid, now: Instant) {
        self.used.insert(lsid, now);
    }

    /// `endSessions`: it is over at the next look.
    pub(crate) fn end(&mut self, lsid: Uuid) {
        self.used.remove(&lsid);
        self.ended.insert(lsid);
    }

    /// The sessions that are over since the last look; mostly it is not time for one.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<Uuid> {
        if now < self.next_look {
            return Vec::new();
        }
        self.next_look = now + REFRESH;
        let mut over: Vec<Uuid> = std::mem::take(&mut self.ended).into_iter().collect();
        over.extend(
            self.used.iter().filter(|(_, used)| **used + TIMEOUT <= now).map(|(id, _)| *id),
        );
        for lsid in &over {
            self.used.remove(lsid);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_session_is_over_at_the_next_look_and_an_unused_one_after_half_an_hour() {
        let at = |minutes: u64| Instant::ZERO + Duration::from_secs(minutes * 60);
        let (one, other) = (Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16]));
        let mut sessions = LogicalSessions::default();
        assert_eq!(sessions.look(at(0)), []);
        sessions.touch(one, at(1));
        sessions.touch(other, at(1));
        sessions.end(one);
        assert_eq!(sessions.look(at(4)), [], "the next look is after five minutes");
        assert_eq!(sessions.look(at(5)), [one]);
        assert_eq!(sessions.look(at(30)), []);
        assert_eq!(sessions.look(at(36)), [other]);
    }
}
