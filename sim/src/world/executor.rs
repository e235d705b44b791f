//! The executor: drives futures, and the world when none can go on.
//!
//! Ready tasks are polled in the order they were woken, or in a seeded permutation of it. When none is
//! ready the world takes its next event. Tasks and the world are under locks of their own; neither is
//! locked while a future is polled, so a future may use the world and spawn tasks.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use stepdown_driver::Instant;
use stepdown_driver::transport::BoxFuture;

use super::core::{Stop, World};
use super::slab::{Handle, Slab};
use crate::random::RandomStream;

/// Locks, also after a panic elsewhere: a failed test must still be able to drop its world.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all handles to one world share.
pub(crate) struct Shared {
    pub(crate) world: Mutex<World>,
    tasks: Mutex<Slab<Task>>,
    ready: Arc<Mutex<VecDeque<Handle>>>,
    /// Set if ready tasks are polled in a seeded order.
    permutation: Option<Mutex<RandomStream>>,
    time_limit: Duration,
}

struct Task {
    name: Arc<str>,
    /// `None` for the future of a `block_on`, and while the task is being polled.
    future: Option<BoxFuture<'static, ()>>,
    alarm: Arc<Alarm>,
}

/// Puts its task into the ready queue, once until it is polled.
struct Alarm {
    task: Mutex<Option<Handle>>,
    is_queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<Handle>>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel)
            && let Some(task) = *lock(&self.task)
        {
            lock(&self.ready).push_back(task);
        }
    }
}

impl Shared {
    pub(crate) fn new(world: World, permute_tasks: bool, time_limit: Duration) -> Self {
        let permutation =
            permute_tasks.then(|| Mutex::new(RandomStream::new(world.seed, "order of tasks")));
        Shared {
            world: Mutex::new(world),
            tasks: Mutex::new(Slab::new()),
            ready: Arc::default(),
            permutation,
            time_limit,
        }
    }

    /// The world, locked. Whoever holds it must not poll, wake or drop a future.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Starts a task.
    pub(crate) fn spawn(&self, name: Arc<str>, future: BoxFuture<'static, ()>) {
        self.add_task(name, Some(future));
    }

    /// Drops every task; what they held of the world is let go.
    pub(crate) fn drop_tasks(&self) {
        // Dropping a task may drop streams and wake others: not under the lock.
        let tasks = std::mem::replace(&mut *lock(&self.tasks), Slab::new());
        drop(tasks);
        lock(&self.ready).clear();
    }

    /// Polls ready tasks until none is ready.
    pub(crate) fn run_ready(&self) {
        let nobody: Option<(Handle, &mut dyn FnMut() -> bool)> = None;
        self.poll_ready(nobody);
    }

    /// Lets the world go on until `limit`, polling tasks as they become ready. Stops where `condition`
    /// holds (asked after each event, and first of all).
    pub(crate) fn run(&self, limit: Instant, mut condition: impl FnMut(&World) -> bool) -> Stop {
        loop {
            self.run_ready();
            let mut world = self.world();
            if condition(&world) {
                return Stop::Condition;
            }
            let stop = world.run(limit, &mut condition);
            if stop != Stop::Condition && world.woken.is_empty() {
                // Nothing else happens by then.
                world.now = world.now.max(limit);
                return stop;
            }
            self.wake_all(world);
            if stop == Stop::Condition {
                self.run_ready();
                return stop;
            }
        }
    }

    /// Drives `future` to its end.
    pub(crate) fn block_on<F: Future>(&self, name: &str, future: F) -> F::Output {
        let mut future = pin!(future);
        let root = self.add_task(name.into(), None);
        // Also when the future panics, the task must not stay behind.
        let _guard = Root { shared: self, root };
        let waker = {
            let tasks = lock(&self.tasks);
            let task = tasks.get(root).expect("the root was just added");
            Waker::from(task.alarm.clone())
        };
        let limit = self.world().after(self.time_limit);
        let mut output = None;
        loop {
            let mut poll_root = || match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => {
                    output = Some(value);
                    true
                }
                Poll::Pending => false,
            };
            self.poll_ready(Some((root, &mut poll_root)));
            if let Some(value) = output {
                return value;
            }
            let mut world = self.world();
            match world.run(limit, |_| false) {
                Stop::Woken | Stop::Condition => self.wake_all(world),
                Stop::Empty => {
                    let waiting = self.waiting(&world);
                    let what = "deadlock: nothing will ever happen again, and tasks wait";
                    let report = world.report(what, &waiting);
                    drop(world);
                    panic!("{report}");
                }
                Stop::Limit => {
                    world.now = world.now.max(limit);
                    let waiting = self.waiting(&world);
                    let what = format!(
                        "time limit: block_on has waited for {} s of virtual time",
                        self.time_limit.as_secs()
                    );
                    let report = world.report(&what, &waiting);
                    drop(world);
                    panic!("{report}");
                }
            }
        }
    }

    /// Wakes whom the world's events concern, after unlocking it.
    fn wake_all(&self, mut world: MutexGuard<'_, World>) {
        let mut woken = std::mem::take(&mut world.woken);
        drop(world);
        for waker in woken.drain(..) {
            waker.wake();
        }
        // Keep the allocation, if nobody was woken meanwhile.
        let mut world = self.world();
        if world.woken.is_empty() {
            world.woken = woken;
        }
    }

    fn add_task(&self, name: Arc<str>, future: Option<BoxFuture<'static, ()>>) -> Handle {
        let alarm = Arc::new(Alarm {
            task: Mutex::new(None),
            is_queued: AtomicBool::new(true),
            ready: self.ready.clone(),
        });
        let task = lock(&self.tasks).insert(Task { name, future, alarm: alarm.clone() });
        *lock(&alarm.task) = Some(task);
        lock(&self.ready).push_back(task);
        task
    }

    /// Polls ready tasks until none is ready or the root is done.
    fn poll_ready(&self, mut root: Option<(Handle, &mut dyn FnMut() -> bool)>) {
        // Tasks further up the stack, waiting for a call made inside them: theirs to poll.
        let mut not_mine = Vec::new();
        while let Some(id) = self.next_ready() {
            let mut tasks = lock(&self.tasks);
            let Some(task) = tasks.get_mut(id) else { continue };
            if let Some((root, poll)) = &mut root
                && *root == id
            {
                task.alarm.is_queued.store(false, Ordering::Release);
                drop(tasks);
                if poll() {
                    break;
                }
                continue;
            }
            let Some(mut future) = task.future.take() else {
                not_mine.push(id);
                continue;
            };
            let alarm = task.alarm.clone();
            drop(tasks);
            alarm.is_queued.store(false, Ordering::Release);
            let waker = Waker::from(alarm);
            let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
            let mut tasks = lock(&self.tasks);
            if poll.is_ready() {
                let done = tasks.remove(id);
                drop(tasks);
                drop((done, future));
            } else if let Some(task) = tasks.get_mut(id) {
                task.future = Some(future);
            } else {
                drop(tasks);
                drop(future);
            }
        }
        lock(&self.ready).extend(not_mine);
    }

    fn next_ready(&self) -> Option<Handle> {
        let mut ready = lock(&self.ready);
        match &self.permutation {
            Some(random) if ready.len() > 1 => {
                let at = lock(random).below(ready.len() as u64) as usize;
                ready.swap_remove_back(at)
            }
            _ => ready.pop_front(),
        }
    }

    /// Each waiting task, and what it waits for where it waits for the world directly.
    fn waiting(&self, world: &World) -> Vec<String> {
        let tasks = lock(&self.tasks);
        let lines = tasks.iter().map(|(_, task)| {
            let waker = Waker::from(task.alarm.clone());
            match what_for(world, &waker) {
                Some(what) => format!("{}: {what}", task.name),
                None => task.name.to_string(),
            }
        });
        lines.collect()
    }
}

/// What the owner of `waker` waits for.
fn what_for(world: &World, waker: &Waker) -> Option<String> {
    let sleep = world.queue.sleepers().find(|(_, sleeper)| sleeper.will_wake(waker));
    if let Some((at, _)) = sleep {
        return Some(format!("sleeps until {at} s"));
    }
    let mut connections = world.connections.iter().map(|(_, connection)| connection);
    let connection = connections.find(|connection| {
        connection.waiter.as_ref().is_some_and(|waiter| waiter.will_wake(waker))
    })?;
    let host = &world.nodes[connection.node as usize].host;
    let deadline = match connection.deadline {
        Instant::NEVER => String::from("no deadline"),
        at => format!("deadline {at} s"),
    };
    Some(format!("reads from {host} as {}, {deadline}", connection.remote))
}

/// Removes the task of a `block_on`.
struct Root<'a> {
    shared: &'a Shared,
    root: Handle,
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        let task = lock(&self.shared.tasks).remove(self.root);
        drop(task);
    }
}

/// The result of a spawned task, as a future. Dropping it lets the task run on.
pub struct JoinHandle<T> {
    state: Arc<Mutex<Join<T>>>,
}

struct Join<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> JoinHandle<T> {
    /// `future` with its result kept for the handle.
    pub(crate) fn wrap(
        future: impl Future<Output = T> + Send + 'static,
    ) -> (Self, BoxFuture<'static, ()>) {
        let state = Arc::new(Mutex::new(Join { value: None, waker: None }));
        let result = state.clone();
        let task = Box::pin(async move {
            let value = future.await;
            let waker = {
                let mut state = lock(&result);
                state.value = Some(value);
                state.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        (JoinHandle { state }, task)
    }

    /// Whether the task has ended and its result was not taken yet.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).value.is_some()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.state);
        match state.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").finish_non_exhaustive()
    }
}
