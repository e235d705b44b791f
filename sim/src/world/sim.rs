//! The handle to a world.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use stepdown_driver::Instant;
use stepdown_driver::client::Client;
use stepdown_driver::transport::Transport;

use super::builder::SimBuilder;
use super::core::{Stop, World, WorldStats};
use super::executor::{JoinHandle, Shared};
use super::external::{ExternalId, ExternalOutput, Refused};
use super::faults::{FaultError, Target};
use super::queue::TimerHandle;
use crate::mongod::MemberStatus;
use crate::trace::{self, Event, EventKind, Filter, MemberState};
use crate::transport::WorldTransport;

/// A replica set in a box: the handle to a world.
///
/// Every method takes `&self`, so that code inside a future driven by [`Sim::block_on`] can break
/// things too. Clones are handles to the same world. The handle that [`SimBuilder::build`] gave out
/// owns the running tasks: when it is dropped they are dropped.
pub struct Sim {
    shared: Arc<Shared>,
    owns_tasks: bool,
}

/// A member as the world sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its address.
    pub name: Arc<str>,
    /// Whether its process runs (a paused one does).
    pub alive: bool,
    /// Whether its process is paused.
    pub paused: bool,
    /// What its process says of itself; `None` if none runs.
    pub status: Option<MemberStatus>,
}

impl Member {
    /// Its own state; `None` if no process runs.
    pub fn state(&self) -> Option<MemberState> {
        self.status.as_ref().map(|status| status.state)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

/// What was waited for did not happen in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not by {at} s of virtual time")]
pub struct TimeLimit {
    /// When the wait was given up.
    pub at: Instant,
}

/// Making a world, and its time.
impl Sim {
    /// Describes a world: no members, seed 1, set name `foo`.
    pub fn builder() -> SimBuilder {
        SimBuilder::new()
    }

    pub(crate) fn own(shared: Shared) -> Self {
        Sim { shared: Arc::new(shared), owns_tasks: true }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    /// The present moment.
    pub fn now(&self) -> Instant {
        self.world().now
    }

    /// True time in milliseconds since the Unix epoch; members may be skewed.
    pub fn wall_millis(&self) -> i64 {
        self.world().wall_millis()
    }

    /// The seed of the world.
    pub fn seed(&self) -> u64 {
        self.world().seed
    }

    /// Lets `duration` pass. Spawned tasks go on meanwhile.
    pub fn advance(&self, duration: Duration) {
        let at = self.world().after(duration);
        self.run_to(at);
    }

    /// Lets time pass until `at`.
    pub fn run_to(&self, at: Instant) {
        self.shared.run(at, |_| false);
        self.shared.run_ready();
    }

    /// Lets time pass until `condition` holds: asked now, and after each thing that happens.
    ///
    /// # Errors
    /// It does not hold within `limit`.
    pub fn run_until(
        &self,
        limit: Duration,
        mut condition: impl FnMut(&Sim) -> bool,
    ) -> Result<Instant, TimeLimit> {
        let at = self.world().after(limit);
        loop {
            self.shared.run_ready();
            if condition(self) {
                return Ok(self.now());
            }
            let mut first = true;
            // One event at a time: the condition may look at the world only while it is unlocked.
            let stop = self.shared.run(at, |_| !std::mem::take(&mut first));
            if stop != Stop::Condition {
                self.shared.run_ready();
                return if condition(self) { Ok(self.now()) } else { Err(TimeLimit { at }) };
            }
        }
    }

    /// Lets time pass until `condition` holds of the world itself: no unlocking between events.
    pub(crate) fn run_until_world(
        &self,
        limit: Duration,
        condition: impl FnMut(&World) -> bool,
    ) -> Result<Instant, TimeLimit> {
        let at = self.world().after(limit);
        match self.shared.run(at, condition) {
            Stop::Condition => Ok(self.now()),
            Stop::Woken | Stop::Limit | Stop::Empty => Err(TimeLimit { at }),
        }
    }

    /// Drives `future` to its end: what is ready is polled; when nothing is, the world's next event
    /// comes.
    ///
    /// # Panics
    /// If nothing can ever happen again, or the builder's time limit passes, while `future` waits: with
    /// the seed, the time, the waiting tasks and the last events.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.shared.block_on("block_on", future)
    }

    /// Starts a task beside the caller; `name` is what a deadlock report calls it. It goes on whenever
    /// time passes.
    pub fn spawn<T, F>(&self, name: impl Into<Arc<str>>, future: F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (handle, task) = JoinHandle::wrap(future);
        self.shared.spawn(name.into(), task);
        handle
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let at = self.world().after(duration);
        Sleep::new(self.shared.clone(), at)
    }

    /// Completes at `at`, at once if that is past.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.shared.clone(), at)
    }
}

/// Clients.
impl Sim {
    /// The outside as the client called `name` sees it: its own random numbers, its own end of links,
    /// which faults can name. The same name is the same client.
    pub fn transport(&self, name: &str) -> Arc<dyn Transport> {
        let client = self.world().client_end(name);
        Arc::new(WorldTransport::new(self.shared.clone(), client))
    }

    /// A driver's client of a connection string, as an application in this world: the first is the
    /// end of links called `client`, the next `client-2`, and so on. [`Client::with_transport`] with
    /// [`Sim::transport`] gives it another name.
    ///
    /// # Errors
    /// `InvalidArgument` for a connection string that is not one.
    pub async fn client(&self, uri: impl AsRef<str>) -> stepdown_driver::error::Result<Client> {
        let name = {
            let mut world = self.world();
            world.clients_made += 1;
            match world.clients_made {
                1 => "client".to_owned(),
                number => format!("client-{number}"),
            }
        };
        Client::with_transport(uri.as_ref(), self.transport(&name))
    }
}

/// The set.
impl Sim {
    /// The set's name.
    pub fn set_name(&self) -> Arc<str> {
        self.world().set_name.clone()
    }

    /// All members, in the order they were added.
    pub fn members(&self) -> Vec<Member> {
        let world = self.world();
        (0..world.nodes.len() as u32).map(|node| world.member(node)).collect()
    }

    /// The member of that name or role (`b:27017`, `b`, `primary`, `secondary`).
    pub fn member(&self, name: impl Into<Target>) -> Option<Member> {
        let world = self.world();
        world.node(&name.into()).ok().map(|node| world.member(node))
    }

    /// The member that accepts writes; with several, the one of the highest term.
    pub fn primary(&self) -> Option<Member> {
        let world = self.world();
        world.primary().map(|node| world.member(node))
    }

    /// The members in state SECONDARY.
    pub fn secondaries(&self) -> Vec<Member> {
        let world = self.world();
        world.secondaries().into_iter().map(|node| world.member(node)).collect()
    }
}

/// The record.
impl Sim {
    /// Everything recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.world().recorder.events().cloned().collect()
    }

    /// The events recorded after the first `position` ones, and the position after them; those
    /// forgotten meanwhile are left out.
    pub fn events_since(&self, position: usize) -> (Vec<Event>, usize) {
        let world = self.world();
        let forgotten = world.recorder.forgotten();
        let events = world.recorder.events();
        let end = forgotten + events.len();
        let skip = position.saturating_sub(forgotten);
        (events.skip(skip).cloned().collect(), end)
    }

    /// The story so far, for people.
    pub fn timeline(&self) -> String {
        trace::timeline(self.world().recorder.events())
    }

    /// The part of the story `filter` picks.
    pub fn timeline_of(&self, filter: &Filter) -> String {
        trace::timeline(self.world().recorder.events().filter(|event| filter.shows(event)))
    }

    /// The story so far, for tools.
    pub fn json_lines(&self) -> String {
        trace::json_lines(self.world().recorder.events())
    }

    /// Adds a line of one's own to the story.
    pub fn note(&self, text: impl Into<String>) {
        self.record("world", EventKind::Note { text: text.into() });
    }

    /// Adds an event to the story: what `who`, a client or a scenario, did or saw.
    pub fn record(&self, who: &str, kind: EventKind) {
        let mut world = self.world();
        let now = world.now;
        world.recorder.record(now, &who.into(), kind);
    }

    /// What the world has done so far.
    pub fn stats(&self) -> WorldStats {
        self.world().stats
    }
}

/// The outside, for a world that is served on real sockets.
impl Sim {
    /// Opens a connection from outside to `member`; `remote` is the address it comes from.
    ///
    /// # Errors
    /// Nobody of that name runs.
    pub fn open_external(
        &self,
        member: impl Into<Target>,
        remote: &str,
    ) -> Result<ExternalId, Refused> {
        self.open_external_as(member, remote, None)
    }

    /// The same for a client whose certificate TLS has verified: its subject (RFC 4514).
    ///
    /// # Errors
    /// Nobody of that name runs.
    pub fn open_external_as(
        &self,
        member: impl Into<Target>,
        remote: &str,
        certificate: Option<&str>,
    ) -> Result<ExternalId, Refused> {
        let mut world = self.world();
        let node = world.node(&member.into()).map_err(|_: FaultError| Refused)?;
        world.open_external(node, remote.into(), certificate.map(Into::into))
    }

    /// Bytes from outside; nothing happens if the connection is closed.
    pub fn external_send(&self, id: ExternalId, bytes: Vec<u8>) {
        let mut world = self.world();
        if let Some(handle) = world.external(id) {
            world.client_writes(handle, bytes);
        }
    }

    /// The outside closes its end.
    pub fn external_close(&self, id: ExternalId) {
        self.world().close_external(id);
    }

    /// What left the world since the last call, in order.
    pub fn take_external_output(&self) -> Vec<(ExternalId, ExternalOutput)> {
        self.world().take_external_output()
    }

    /// When the next event is due.
    pub fn next_event_at(&self) -> Option<Instant> {
        self.world().next_event_at()
    }
}

impl Clone for Sim {
    fn clone(&self) -> Self {
        Sim { shared: self.shared.clone(), owns_tasks: false }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks hold transports, and transports hold the world: without this nothing would ever be freed.
        if self.owns_tasks {
            self.shared.drop_tasks();
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn member(&self, node: u32) -> Member {
        let host = &self.nodes[node as usize];
        Member {
            name: host.host.clone(),
            alive: host.is_alive(),
            paused: host.paused,
            status: host.process.as_ref().map(|process| process.status()),
        }
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = (u32, MemberStatus)> {
        (0..)
            .zip(&self.nodes)
            .filter_map(|(ix, node)| node.process.as_ref().map(|process| (ix, process.status())))
    }

    /// The writable member of the highest term.
    pub(crate) fn primary(&self) -> Option<u32> {
        let writable = self.statuses().filter(|(_, status)| status.writable);
        writable.max_by_key(|(_, status)| status.term).map(|(ix, _)| ix)
    }

    /// The members in state SECONDARY.
    pub(crate) fn secondaries(&self) -> Vec<u32> {
        self.statuses()
            .filter(|(_, status)| status.state == MemberState::Secondary)
            .map(|(ix, _)| ix)
            .collect()
    }
}

/// A future that completes at a moment.
pub struct Sleep {
    shared: Arc<Shared>,
    at: Instant,
    timer: Option<TimerHandle>,
}

impl Sleep {
    pub(crate) fn new(shared: Arc<Shared>, at: Instant) -> Self {
        Sleep { shared, at, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = self.shared.clone();
        let mut world = shared.world();
        if world.now >= self.at {
            if let Some(timer) = self.timer.take() {
                world.queue.cancel_timer(timer);
            }
            return Poll::Ready(());
        }
        if let Some(waker) = self.timer.and_then(|timer| world.queue.timer_waker(timer)) {
            waker.clone_from(cx.waker());
        } else {
            self.timer = Some(world.queue.push_timer(self.at, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.shared.world().queue.cancel_timer(timer);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Sim>();
};
