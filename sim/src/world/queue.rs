//! The one event queue: everything that will happen, ordered by time, then by when it was scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

use stepdown_driver::Instant;

use super::connection::{DownSegment, UpSegment};
use super::slab::Handle;
use crate::mongod::Input;

/// What an event carries. Heartbeats travel inline, so that an idle set allocates nothing.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A place that is free.
    Vacant,
    /// Something reaches the host of a member. Kept in the form the process takes it in, so that it
    /// is moved as seldom as possible.
    Input {
        /// The member's index.
        node: u32,
        /// The epoch of the process it is meant for.
        epoch: u32,
        /// What arrives.
        input: Input,
    },
    /// Something reaches the server's end of a connection.
    Up(Handle, UpSegment),
    /// Something reaches the client's end of a connection.
    Down(Handle, DownSegment),
    /// The deadline of a stream may have come.
    Deadline(Handle),
    /// Someone sleeps until now; `None` once nobody does any more.
    Timer {
        /// Tells the sleeper's own event from a later one in the same place.
        sequence: u64,
        /// The sleeper.
        waker: Option<Waker>,
    },
}

/// What the queue gives out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// A member asked to be called now.
    Wake(u32),
    /// Something carried: [`EventQueue::take`] gives it.
    Payload(u32),
}

/// Names a pending timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerHandle {
    slot: u32,
    sequence: u64,
}

/// Bits of the place in a key; the highest of them marks a member's wake-up.
const SLOT_BITS: u32 = 24;
const WAKE: u32 = 1 << (SLOT_BITS - 1);

/// A binary heap of small keys (time, sequence number, place) over a slab of payloads.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    heap: BinaryHeap<Reverse<u128>>,
    sequence: u64,
    slots: Vec<Payload>,
    free: Vec<u32>,
    cancelled: usize,
}

impl EventQueue {
    /// When the next event is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(key)| Instant::from_nanos((key >> 64) as u64))
    }

    /// How many events are pending.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Schedules `payload`; the place it has until it is due.
    #[inline]
    pub(crate) fn push(&mut self, at: Instant, payload: Payload) -> u32 {
        let slot = self.place(payload);
        self.push_key(at, slot);
        slot
    }

    /// Schedules a call of member `node`.
    pub(crate) fn push_wake(&mut self, at: Instant, node: u32) {
        debug_assert!(node < WAKE, "a member's index fits");
        self.push_key(at, WAKE | node);
    }

    /// Schedules the waking of a sleeper.
    pub(crate) fn push_timer(&mut self, at: Instant, waker: Waker) -> TimerHandle {
        let sequence = self.sequence;
        let slot = self.place(Payload::Timer { sequence, waker: Some(waker) });
        self.push_key(at, slot);
        TimerHandle { slot, sequence }
    }

    /// The waker of a pending timer.
    pub(crate) fn timer_waker(&mut self, handle: TimerHandle) -> Option<&mut Waker> {
        match self.slots.get_mut(handle.slot as usize) {
            Some(Payload::Timer { sequence, waker }) if *sequence == handle.sequence => {
                waker.as_mut()
            }
            _ => None,
        }
    }

    /// Nobody sleeps until `handle` any more. Its event stays until it is due or until half the queue
    /// is such events.
    pub(crate) fn cancel_timer(&mut self, handle: TimerHandle) {
        let Some(Payload::Timer { sequence, waker }) = self.slots.get_mut(handle.slot as usize)
        else {
            return;
        };
        if *sequence != handle.sequence || waker.take().is_none() {
            return;
        }
        self.cancelled += 1;
        if self.cancelled > 64 && self.cancelled > self.heap.len() / 2 {
            self.drop_cancelled();
        }
    }

    /// Takes out the earliest event if it is due by `limit`.
    #[inline]
    pub(crate) fn pop_by(&mut self, limit: Instant) -> Option<(Instant, Due)> {
        let &Reverse(key) = self.heap.peek()?;
        let at = Instant::from_nanos((key >> 64) as u64);
        if at > limit {
            return None;
        }
        self.heap.pop();
        let slot = key as u32 & ((1 << SLOT_BITS) - 1);
        if slot & WAKE != 0 {
            return Some((at, Due::Wake(slot & !WAKE)));
        }
        Some((at, Due::Payload(slot)))
    }

    /// Takes out what a due event carries; once for each.
    #[inline]
    pub(crate) fn take(&mut self, slot: u32) -> Payload {
        self.free.push(slot);
        let payload = std::mem::replace(&mut self.slots[slot as usize], Payload::Vacant);
        if matches!(payload, Payload::Timer { waker: None, .. }) {
            self.cancelled -= 1;
        }
        payload
    }

    /// Every sleeper's moment and waker.
    pub(crate) fn sleepers(&self) -> impl Iterator<Item = (Instant, &Waker)> {
        self.heap.iter().filter_map(|Reverse(key)| {
            let slot = *key as u32 & ((1 << SLOT_BITS) - 1);
            match self.slots.get(slot as usize) {
                Some(Payload::Timer { waker: Some(waker), .. }) if slot & WAKE == 0 => {
                    Some((Instant::from_nanos((key >> 64) as u64), waker))
                }
                _ => None,
            }
        })
    }

    #[inline]
    fn place(&mut self, payload: Payload) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = payload;
            return slot;
        }
        let slot = self.slots.len() as u32;
        assert!(slot < WAKE, "more than {WAKE} pending events: something schedules without end");
        self.slots.push(payload);
        slot
    }

    #[inline]
    fn push_key(&mut self, at: Instant, slot: u32) {
        let order = (self.sequence << SLOT_BITS) | u64::from(slot);
        self.sequence += 1;
        self.heap.push(Reverse((u128::from(at.as_nanos()) << 64) | u128::from(order)));
    }

    fn drop_cancelled(&mut self) {
        let (slots, free) = (&mut self.slots, &mut self.free);
        self.heap.retain(|Reverse(key)| {
            let slot = *key as u32 & ((1 << SLOT_BITS) - 1);
            if slot & WAKE != 0 {
                return true;
            }
            let dead = matches!(slots[slot as usize], Payload::Timer { waker: None, .. });
            if dead {
                slots[slot as usize] = Payload::Vacant;
                free.push(slot);
            }
            !dead
        });
        self.cancelled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut EventQueue) -> Vec<(u64, u32)> {
        let mut order = Vec::new();
        while let Some((at, due)) = queue.pop_by(Instant::NEVER) {
            match due {
                Due::Wake(node) => order.push((at.as_nanos(), node)),
                Due::Payload(slot) => drop(queue.take(slot)),
            }
        }
        order
    }

    #[test]
    fn events_of_one_moment_come_in_the_order_they_were_scheduled() {
        let mut queue = EventQueue::default();
        for (at, node) in [(20, 1), (10, 2), (20, 3), (10, 4)] {
            queue.push_wake(Instant::from_nanos(at), node);
        }
        assert_eq!(drain(&mut queue), [(10, 2), (10, 4), (20, 1), (20, 3)]);
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let mut queue = EventQueue::default();
        for _ in 0..10_000 {
            let timer = queue.push_timer(Instant::from_millis(30_000), Waker::noop().clone());
            queue.cancel_timer(timer);
        }
        assert!(queue.len() < 200, "{} events left", queue.len());
        assert_eq!(drain(&mut queue), []);
    }

    #[test]
    fn a_timer_handle_does_not_reach_a_later_event_in_the_same_place() {
        let mut queue = EventQueue::default();
        let first = queue.push_timer(Instant::from_nanos(1), Waker::noop().clone());
        let Some((_, Due::Payload(slot))) = queue.pop_by(Instant::NEVER) else { panic!("a timer") };
        queue.take(slot);
        let second = queue.push_timer(Instant::from_nanos(2), Waker::noop().clone());
        queue.cancel_timer(first);
        assert!(queue.timer_waker(second).is_some());
    }
}
