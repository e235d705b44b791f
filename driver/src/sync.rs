//! The three waiting primitives the core needs, on no runtime: a counter to wait on, a slot for one
//! value, and the first of two futures.
//!
//! An async runtime's own would tie the core to that runtime, and some of theirs wake or choose at
//! random. These wake in the order of registration and always outside their lock.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Locks without caring for poison: every critical section of this crate leaves its data whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter that goes up; tasks wait until it has passed what they saw.
///
/// Reading the version before looking at the state it speaks of, and waiting for a later one after,
/// cannot miss a change.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<SignalState>,
}

#[derive(Debug, Default)]
struct SignalState {
    version: u64,
    next_waiter: u64,
    waiters: BTreeMap<u64, Waker>,
}

impl Signal {
    /// How often it was raised.
    pub(crate) fn version(&self) -> u64 {
        lock(&self.state).version
    }

    /// Counts up and wakes everybody who waits, the longest waiting first.
    pub(crate) fn raise(&self) {
        let waiters = {
            let mut state = lock(&self.state);
            state.version += 1;
            std::mem::take(&mut state.waiters)
        };
        for waker in waiters.into_values() {
            waker.wake();
        }
    }

    /// Completes once the version is above `seen`, with the version.
    pub(crate) fn passed(&self, seen: u64) -> Passed<'_> {
        Passed { signal: self, seen, waiter: None }
    }
}

/// The future of [`Signal::passed`].
pub(crate) struct Passed<'a> {
    signal: &'a Signal,
    seen: u64,
    waiter: Option<u64>,
}

impl Future for Passed<'_> {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        let mut state = lock(&self.signal.state);
        if state.version > self.seen {
            return Poll::Ready(state.version);
        }
        let id = self.waiter.unwrap_or_else(|| {
            state.next_waiter += 1;
            state.next_waiter
        });
        state.waiters.insert(id, cx.waker().clone());
        drop(state);
        self.waiter = Some(id);
        Poll::Pending
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.waiter {
            let waker = lock(&self.signal.state).waiters.remove(&id);
            drop(waker);
        }
    }
}

/// A slot for one value and somebody who waits for it.
pub(crate) fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Mutex::new(Slot { value: None, waker: None, closed: false }));
    (Sender { slot: Some(slot.clone()) }, Receiver { slot })
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// Gives the value; dropped without one, the receiver gets `None`.
pub(crate) struct Sender<T> {
    slot: Option<Arc<Mutex<Slot<T>>>>,
}

impl<T> Sender<T> {
    /// Hands `value` over, or back if nobody waits any more. Must not be called with a lock held.
    pub(crate) fn send(mut self, value: T) -> Result<(), T> {
        let slot = self.slot.take().expect("a sender sends once");
        let waker = {
            let mut state = lock(&slot);
            if state.closed {
                return Err(value);
            }
            state.value = Some(value);
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let waker = {
            let mut state = lock(&slot);
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Waits for the value.
pub(crate) struct Receiver<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> Receiver<T> {
    /// Refuses whatever comes from now on and returns what came already.
    pub(crate) fn close(&mut self) -> Option<T> {
        let mut state = lock(&self.slot);
        state.closed = true;
        state.value.take()
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.slot);
        if let Some(value) = state.value.take() {
            return Poll::Ready(Some(value));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What `future` has ready now, if anything.
pub(crate) async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Which of two futures was ready.
pub(crate) enum Either<A, B> {
    /// The first.
    Left(A),
    /// The second.
    Right(B),
}

/// The first of two futures that is ready; the left one if both are.
pub(crate) async fn select2<A: Future, B: Future>(
    left: A,
    right: B,
) -> Either<A::Output, B::Output> {
    let mut left = pin!(left);
    let mut right = pin!(right);
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(value) = left.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(value));
        }
        if let Poll::Ready(value) = right.as_mut().poll(cx) {
            return Poll::Ready(Either::Right(value));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_signal_raised_between_look_and_wait_is_not_missed() {
        let signal = Signal::default();
        let seen = signal.version();
        signal.raise();
        assert_eq!(poll_once(&mut signal.passed(seen)), Poll::Ready(1));
        assert_eq!(poll_once(&mut signal.passed(1)), Poll::Pending);
        assert!(lock(&signal.state).waiters.is_empty(), "a dropped waiter is forgotten");
    }

    #[test]
    fn a_value_nobody_waits_for_comes_back() {
        let (sender, mut receiver) = oneshot();
        assert_eq!(receiver.close(), None);
        assert_eq!(sender.send(1), Err(1));

        let (sender, mut receiver) = oneshot();
        assert_eq!(poll_once(&mut receiver), Poll::Pending);
        sender.send(2).unwrap();
        assert_eq!(poll_once(&mut receiver), Poll::Ready(Some(2)));

        let (sender, mut receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(poll_once(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn the_left_future_wins_a_tie() {
        let mut both = pin!(select2(async { 1 }, async { 2 }));
        let Poll::Ready(Either::Left(1)) =
            both.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("the left one is asked first");
        };
    }
}
