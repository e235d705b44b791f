//! Server sessions and their pool.

use std::time::Duration;

use crate::time::Instant;

/// A session this close to its end on the server is not used again.
const MARGIN: Duration = Duration::from_secs(60);

/// How many idle sessions are kept; what is above simply runs out on the server.
const MAX_IDLE: usize = 10_000;

/// A session as the server knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerSession {
    /// The UUID in its `lsid`.
    pub(crate) id: [u8; 16],
    /// When it was used last.
    pub(crate) last_use: Instant,
    /// The transaction number used last; retryable writes count it up.
    pub(crate) txn_number: i64,
    /// A network error left its state on the server unknown: it is not used again.
    pub(crate) dirty: bool,
}

impl ServerSession {
    /// A session of its own, whose UUID is made of two random numbers.
    pub(crate) fn new(now: Instant, random: [u64; 2]) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random[0].to_be_bytes());
        id[8..].copy_from_slice(&random[1].to_be_bytes());
        // Version 4 (random), variant 1, as RFC 9562 places them.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        ServerSession { id, last_use: now, txn_number: 0, dirty: false }
    }

    /// The number of the next retryable write.
    pub(crate) fn next_txn_number(&mut self) -> i64 {
        if !crate::planted::is(crate::planted::DriverBug::ReusesTransactionNumber)
            || self.txn_number % 2 == 0
        {
            self.txn_number += 1;
        } else {
            // The next one counts on.
            self.txn_number += 1;
            return self.txn_number - 1;
        }
        self.txn_number
    }

    fn is_about_to_end(&self, now: Instant, timeout: Option<Duration>) -> bool {
        timeout.is_some_and(|timeout| now - self.last_use + MARGIN >= timeout)
    }
}

/// Sessions nobody uses at present; the one used last is used next.
#[derive(Debug, Default)]
pub(crate) struct ServerSessionPool {
    /// In the order of their last use, the latest at the end.
    idle: Vec<ServerSession>,
}

impl ServerSessionPool {
    /// A session that lives for a while yet, if there is one. `timeout` is how long the deployment
    /// keeps an idle session.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        timeout: Option<Duration>,
    ) -> Option<ServerSession> {
        let session = self.idle.pop()?;
        if session.is_about_to_end(now, timeout) {
            // All below it were used even earlier.
            self.idle.clear();
            return None;
        }
        Some(session)
    }

    /// Takes a session back, unless it is of no more use.
    pub(crate) fn give_back(
        &mut self,
        now: Instant,
        timeout: Option<Duration>,
        session: ServerSession,
    ) {
        let ended = self.idle.iter().take_while(|idle| idle.is_about_to_end(now, timeout)).count();
        self.idle.drain(..ended);
        if !session.dirty && !session.is_about_to_end(now, timeout) && self.idle.len() < MAX_IDLE {
            self.idle.push(session);
        }
    }

    /// Takes all out: they are to be ended on the server.
    pub(crate) fn drain(&mut self) -> Vec<ServerSession> {
        std::mem::take(&mut self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_AN_HOUR: Option<Duration> = Some(Duration::from_secs(1800));

    fn minute(minute: u64) -> Instant {
        Instant::from_millis(minute * 60_000)
    }

    #[test]
    fn the_session_used_last_is_used_next() {
        let mut pool = ServerSessionPool::default();
        let (a, b) = (ServerSession::new(minute(0), [1, 1]), ServerSession::new(minute(0), [2, 2]));
        let b_id = b.id;
        pool.give_back(minute(0), HALF_AN_HOUR, a);
        pool.give_back(minute(0), HALF_AN_HOUR, b);
        assert_eq!(pool.take(minute(1), HALF_AN_HOUR).unwrap().id, b_id);
    }

    #[test]
    fn a_session_in_its_last_minute_or_dirty_is_dropped() {
        let mut pool = ServerSessionPool::default();
        pool.give_back(minute(0), HALF_AN_HOUR, ServerSession::new(minute(0), [1, 1]));
        assert_eq!(pool.take(minute(29), HALF_AN_HOUR), None);
        let dirty = ServerSession { dirty: true, ..ServerSession::new(minute(0), [1, 1]) };
        pool.give_back(minute(0), HALF_AN_HOUR, dirty);
        assert_eq!(pool.take(minute(0), HALF_AN_HOUR), None);
    }

    #[test]
    fn ids_are_random_uuids() {
        let id = ServerSession::new(minute(0), [u64::MAX, u64::MAX]).id;
        assert_eq!((id[6], id[8]), (0x4f, 0xbf));
    }
}
