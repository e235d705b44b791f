//! The pool's accounting, without a socket in it: who may have which connection, and when.
//!
//! Implements the rules of the CMAP specification (connection-monitoring-and-pooling): generations,
//! limits, the fair wait queue, the states paused, ready and closed.

use std::collections::VecDeque;
use std::time::Duration;

use super::ids::IdMap;
use crate::time::Instant;

/// What a pool is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections at most, however used; 0 is no limit.
    pub(crate) max_pool_size: u32,
    /// Connections the pool keeps open even if nobody asks.
    pub(crate) min_pool_size: u32,
    /// Connections at most that are being established at one time.
    pub(crate) max_connecting: u32,
    /// An idle connection older than this is closed rather than used.
    pub(crate) max_idle_time: Option<Duration>,
}

/// A connection that is to be established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    /// The identifier it will have, counted from 1.
    pub(crate) id: u64,
    /// The generation it belongs to.
    pub(crate) generation: u64,
}

/// What somebody who asked gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// The idle connection of this identifier.
    Reuse(u64),
    /// The right to establish one.
    Dial(Dial),
}

/// The answer to a check-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckOut {
    /// Here it is.
    Lease(Lease),
    /// In the queue, with this number.
    Wait(u64),
    /// The pool is paused: its last word about the server was an error.
    Paused,
    /// The pool is closed for good.
    Closed,
}

/// Why a connection is closed, in the words of the CMAP events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The pool was cleared after it was made.
    Stale,
    /// It was not used for too long.
    Idle,
    /// It failed.
    Error,
    /// The pool was closed.
    PoolClosed,
}

/// What follows from a change: connections to close, and leases for those who waited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Connections to close.
    pub(crate) close: Vec<(u64, CloseReason)>,
    /// Queue numbers whose turn has come.
    pub(crate) granted: Vec<(u64, Lease)>,
    /// Queue numbers that get nothing any more.
    pub(crate) evicted: Vec<u64>,
    /// Connections in use that must be interrupted.
    pub(crate) interrupt: Vec<u64>,
}

/// The states of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolState {
    /// Hands nothing out until the server was seen well.
    Paused,
    /// Hands out.
    Ready,
    /// Over.
    Closed,
}

/// How a pool is doing, in numbers of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolCounts {
    /// Open and waiting for work.
    pub idle: usize,
    /// Handed out.
    pub in_use: usize,
    /// Being established.
    pub pending: usize,
    /// Callers in the wait queue.
    pub waiting: usize,
    /// How often the pool was cleared.
    pub generation: u64,
}

/// The books of one pool.
#[derive(Debug)]
pub(crate) struct PoolBook {
    limits: Limits,
    state: PoolState,
    generation: u64,
    last_id: u64,
    last_ticket: u64,
    /// A stack: the connection used last is used next, so that a pool too large shrinks.
    idle: Vec<Idle>,
    /// Generation by identifier.
    in_use: IdMap<u64>,
    pending: IdMap<u64>,
    queue: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    id: u64,
    generation: u64,
    since: Instant,
}

impl PoolBook {
    /// An empty, paused pool of generation 0.
    pub(crate) fn new(limits: Limits) -> Self {
        PoolBook {
            limits,
            state: PoolState::Paused,
            generation: 0,
            last_id: 0,
            last_ticket: 0,
            idle: Vec::new(),
            in_use: IdMap::new(),
            pending: IdMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// The present generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The present state.
    pub(crate) fn state(&self) -> PoolState {
        self.state
    }

    /// How many of what.
    pub(crate) fn counts(&self) -> PoolCounts {
        PoolCounts {
            idle: self.idle.len(),
            in_use: self.in_use.len(),
            pending: self.pending.len(),
            waiting: self.queue.len(),
            generation: self.generation,
        }
    }

    /// Somebody wants a connection. Idle connections that must not be used are closed on the way.
    pub(crate) fn check_out(&mut self, now: Instant) -> (CheckOut, Outcome) {
        let mut outcome = Outcome::default();
        let answer = match self.state {
            PoolState::Closed => CheckOut::Closed,
            PoolState::Paused => CheckOut::Paused,
            // Nobody overtakes the queue.
            PoolState::Ready => {
                match self.queue.is_empty().then(|| self.lease(now, &mut outcome)) {
                    Some(Some(lease)) => CheckOut::Lease(lease),
                    _ => {
                        self.last_ticket += 1;
                        self.queue.push_back(self.last_ticket);
                        CheckOut::Wait(self.last_ticket)
                    }
                }
            }
        };
        (answer, outcome)
    }

    /// The queue number is given up.
    pub(crate) fn cancel(&mut self, ticket: u64) {
        self.queue.retain(|waiting| *waiting != ticket);
    }

    /// The connection was established and is now in use.
    pub(crate) fn established(&mut self, now: Instant, id: u64) -> Outcome {
        let generation =
            self.pending.remove(&id).expect("only a pending connection is established");
        self.in_use.insert(id, generation);
        self.grant(now)
    }

    /// The connection was established for nobody in particular: the first in the queue gets it.
    pub(crate) fn established_idle(&mut self, now: Instant, id: u64) -> Outcome {
        let generation =
            self.pending.remove(&id).expect("only a pending connection is established");
        self.in_use.insert(id, generation);
        self.check_in(now, id, true)
    }

    /// The connection could not be established, or whoever tried gave up.
    pub(crate) fn dial_failed(&mut self, now: Instant, id: u64) -> Outcome {
        self.pending.remove(&id).expect("only a pending connection can fail to be established");
        self.grant(now)
    }

    /// The connection comes back. Unless it is in `close` of the outcome, it is kept: granted to the
    /// first in the queue, or idle.
    pub(crate) fn check_in(&mut self, now: Instant, id: u64, healthy: bool) -> Outcome {
        let generation = self.in_use.remove(&id).expect("only a connection in use comes back");
        let reason = match self.state {
            PoolState::Closed => Some(CloseReason::PoolClosed),
            _ if !healthy => Some(CloseReason::Error),
            _ if generation < self.generation => Some(CloseReason::Stale),
            _ => None,
        };
        if reason.is_none() {
            self.idle.push(Idle { id, generation, since: now });
        }
        let mut outcome = self.grant(now);
        outcome.close.extend(reason.map(|reason| (id, reason)));
        outcome
    }

    /// The server was seen well. Returns whether that is news.
    pub(crate) fn ready(&mut self) -> bool {
        let news = self.state == PoolState::Paused;
        if news {
            self.state = PoolState::Ready;
        }
        news
    }

    /// The server was seen ill: everything made so far is stale, everybody who waits is told so.
    /// `generation` is that of connections from now on, which the topology counts. Returns `None` if
    /// there is nothing to tell anybody: it is closed, or was cleared already.
    pub(crate) fn clear(&mut self, generation: u64, interrupt: bool) -> Option<Outcome> {
        if self.state == PoolState::Closed {
            return None;
        }
        let was_ready = self.state == PoolState::Ready;
        self.generation = generation;
        self.state = PoolState::Paused;
        let mut outcome = Outcome {
            close: self.idle.drain(..).map(|idle| (idle.id, CloseReason::Stale)).collect(),
            evicted: self.queue.drain(..).collect(),
            ..Outcome::default()
        };
        if interrupt {
            outcome.interrupt = self.in_use.keys().copied().collect();
        }
        let silent = !was_ready && outcome == Outcome::default();
        (!silent).then_some(outcome)
    }

    /// Closes the pool for good. Connections in use are closed when they come back.
    pub(crate) fn close(&mut self) -> Outcome {
        self.state = PoolState::Closed;
        Outcome {
            close: self.idle.drain(..).map(|idle| (idle.id, CloseReason::PoolClosed)).collect(),
            evicted: self.queue.drain(..).collect(),
            ..Outcome::default()
        }
    }

    /// Closes all idle connections: they belong to an event loop that is gone.
    pub(crate) fn forget_idle(&mut self) -> Outcome {
        Outcome {
            close: self.idle.drain(..).map(|idle| (idle.id, CloseReason::Error)).collect(),
            ..Outcome::default()
        }
    }

    /// Closes what has been idle for too long, the oldest first.
    pub(crate) fn prune(&mut self, now: Instant) -> Outcome {
        let (perished, kept) = std::mem::take(&mut self.idle)
            .into_iter()
            .partition(|idle| self.perished(now, idle).is_some());
        self.idle = kept;
        let perished: Vec<Idle> = perished;
        Outcome {
            close: perished.into_iter().map(|idle| (idle.id, CloseReason::Idle)).collect(),
            ..Outcome::default()
        }
    }

    /// A connection to establish because there are fewer than `minPoolSize`, if there is need and
    /// leave for one.
    pub(crate) fn populate(&mut self) -> Option<Dial> {
        let wanted = self.state == PoolState::Ready
            && self.total() < self.limits.min_pool_size as usize
            && self.may_dial();
        wanted.then(|| self.dial())
    }

    fn total(&self) -> usize {
        self.idle.len() + self.in_use.len() + self.pending.len()
    }

    fn may_dial(&self) -> bool {
        let max = self.limits.max_pool_size as usize;
        (max == 0 || self.total() < max) && self.pending.len() < self.limits.max_connecting as usize
    }

    fn dial(&mut self) -> Dial {
        self.last_id += 1;
        let dial = Dial { id: self.last_id, generation: self.generation };
        self.pending.insert(dial.id, dial.generation);
        dial
    }

    fn perished(&self, now: Instant, idle: &Idle) -> Option<CloseReason> {
        if idle.generation < self.generation {
            return Some(CloseReason::Stale);
        }
        let too_long = self.limits.max_idle_time.is_some_and(|max| now - idle.since > max);
        too_long.then_some(CloseReason::Idle)
    }

    fn lease(&mut self, now: Instant, outcome: &mut Outcome) -> Option<Lease> {
        while let Some(idle) = self.idle.pop() {
            if let Some(reason) = self.perished(now, &idle) {
                outcome.close.push((idle.id, reason));
                continue;
            }
            self.in_use.insert(idle.id, idle.generation);
            return Some(Lease::Reuse(idle.id));
        }
        self.may_dial().then(|| Lease::Dial(self.dial()))
    }

    /// Serves the queue as far as there is something to serve.
    fn grant(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        while self.state == PoolState::Ready && !self.queue.is_empty() {
            let Some(lease) = self.lease(now, &mut outcome) else { break };
            let ticket = self.queue.pop_front().expect("the queue is not empty");
            outcome.granted.push((ticket, lease));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(max: u32, max_connecting: u32) -> PoolBook {
        let mut book = PoolBook::new(Limits {
            max_pool_size: max,
            min_pool_size: 0,
            max_connecting,
            max_idle_time: Some(Duration::from_secs(10)),
        });
        assert!(book.ready());
        book
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn out(book: &mut PoolBook, now: Instant) -> CheckOut {
        book.check_out(now).0
    }

    fn dialled(book: &mut PoolBook, now: Instant) -> u64 {
        let CheckOut::Lease(Lease::Dial(dial)) = out(book, now) else { panic!("no leave to dial") };
        book.established(now, dial.id);
        dial.id
    }

    #[test]
    fn a_new_pool_is_paused_until_the_server_was_seen_well() {
        let limits =
            Limits { max_pool_size: 1, min_pool_size: 0, max_connecting: 2, max_idle_time: None };
        let mut book = PoolBook::new(limits);
        assert_eq!(out(&mut book, at(0)), CheckOut::Paused);
        assert!(book.ready());
        assert!(!book.ready(), "only once is it news");
        assert!(matches!(out(&mut book, at(0)), CheckOut::Lease(Lease::Dial(_))));
    }

    #[test]
    fn the_connection_used_last_is_used_next() {
        let mut book = book(10, 2);
        let (first, second) = (dialled(&mut book, at(0)), dialled(&mut book, at(0)));
        book.check_in(at(1), second, true);
        book.check_in(at(1), first, true);
        assert_eq!(out(&mut book, at(1)), CheckOut::Lease(Lease::Reuse(first)));
        assert_eq!(out(&mut book, at(1)), CheckOut::Lease(Lease::Reuse(second)));
    }

    #[test]
    fn the_queue_is_served_in_order_and_nobody_overtakes() {
        let mut book = book(1, 2);
        let id = dialled(&mut book, at(0));
        assert_eq!(out(&mut book, at(0)), CheckOut::Wait(1));
        assert_eq!(out(&mut book, at(0)), CheckOut::Wait(2));
        assert_eq!(book.check_in(at(1), id, true).granted, [(1, Lease::Reuse(id))]);
        book.cancel(2);
        assert_eq!(out(&mut book, at(1)), CheckOut::Wait(3));
        assert_eq!(book.check_in(at(2), id, true).granted, [(3, Lease::Reuse(id))]);
    }

    #[test]
    fn a_failed_connection_gives_its_place_to_the_first_in_the_queue() {
        let mut book = book(1, 2);
        let id = dialled(&mut book, at(0));
        assert_eq!(out(&mut book, at(0)), CheckOut::Wait(1));
        let outcome = book.check_in(at(1), id, false);
        assert_eq!(outcome.close, [(id, CloseReason::Error)]);
        assert_eq!(outcome.granted, [(1, Lease::Dial(Dial { id: id + 1, generation: 0 }))]);
    }

    #[test]
    fn no_more_than_max_connecting_are_established_at_one_time() {
        let mut book = book(10, 2);
        assert!(matches!(out(&mut book, at(0)), CheckOut::Lease(Lease::Dial(_))));
        assert!(matches!(out(&mut book, at(0)), CheckOut::Lease(Lease::Dial(_))));
        assert_eq!(out(&mut book, at(0)), CheckOut::Wait(1));
        let granted = book.dial_failed(at(0), 1).granted;
        assert_eq!(granted, [(1, Lease::Dial(Dial { id: 3, generation: 0 }))]);
    }

    #[test]
    fn clearing_evicts_the_queue_and_closes_what_is_stale_when_it_comes_back() {
        let mut book = book(2, 2);
        let (idle, used) = (dialled(&mut book, at(0)), dialled(&mut book, at(0)));
        assert_eq!(out(&mut book, at(0)), CheckOut::Wait(1));
        book.cancel(1);
        book.check_in(at(0), idle, true);
        let outcome = book.clear(1, true).unwrap();
        assert_eq!(outcome.close, [(idle, CloseReason::Stale)]);
        assert_eq!(outcome.interrupt, [used]);
        assert_eq!(out(&mut book, at(0)), CheckOut::Paused);
        assert_eq!(book.check_in(at(1), used, true).close, [(used, CloseReason::Stale)]);
        assert_eq!(book.clear(2, false), None, "a paused, empty pool has nothing to tell");
        assert_eq!(book.generation(), 2);
    }

    #[test]
    fn what_was_idle_for_too_long_is_closed_instead_of_used() {
        let mut book = book(10, 2);
        let id = dialled(&mut book, at(0));
        book.check_in(at(0), id, true);
        let (answer, outcome) = book.check_out(at(11));
        assert!(matches!(answer, CheckOut::Lease(Lease::Dial(_))));
        assert_eq!(outcome.close, [(id, CloseReason::Idle)]);

        let other = dialled(&mut book, at(11));
        book.check_in(at(11), other, true);
        assert_eq!(book.prune(at(21)), Outcome::default());
        assert_eq!(book.prune(at(22)).close, [(other, CloseReason::Idle)]);
    }

    #[test]
    fn a_closed_pool_takes_nothing_back() {
        let mut book = book(1, 2);
        let id = dialled(&mut book, at(0));
        assert_eq!(out(&mut book, at(0)), CheckOut::Wait(1));
        assert_eq!(book.close().evicted, [1]);
        assert_eq!(book.check_in(at(0), id, true).close, [(id, CloseReason::PoolClosed)]);
        assert_eq!(out(&mut book, at(0)), CheckOut::Closed);
    }
}
