//! The connections to one server.
//!
//! `PoolBook` decides; this shell keeps the connections themselves and tells those who wait. There
//! is no task behind a pool: whoever needs a connection that does not exist yet opens it, and a guard
//! gives the place back if it gives up.

mod book;
mod context;
mod ids;
mod lease;
mod standalone;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use self::book::Limits;
pub use self::book::PoolCounts;
use self::book::{CheckOut, CloseReason, Dial, Lease as Granted, Outcome, PoolBook, PoolState};
pub(crate) use self::context::PoolContext;
use self::ids::IdMap;
pub(crate) use self::lease::Lease;
pub use self::standalone::{PooledConnection, StandalonePool};
use crate::connection::{Connection, Interrupt, Unestablished};
use crate::error::{Error, ErrorKind, Result, labels};
use crate::event::{
    CmapEvent, ConnectionCheckedInEvent, ConnectionCheckedOutEvent, ConnectionCheckoutFailedEvent,
    ConnectionCheckoutFailedReason, ConnectionCheckoutStartedEvent, ConnectionClosedEvent,
    ConnectionClosedReason, ConnectionCreatedEvent, ConnectionReadyEvent, PoolClearedEvent,
    PoolClosedEvent, PoolCreatedEvent, PoolReadyEvent,
};
use crate::sync::{Either, Receiver, Sender, lock, oneshot, poll_once, select2};
use crate::time::Instant;
use crate::uri::ServerAddress;

/// How long the reply that an abandoned operation left behind is waited for, before the connection is
/// closed instead.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long the next borrower waits for it before a new connection is opened.
const DRAIN_MOMENT: Duration = Duration::from_millis(250);

/// The connections to one server.
pub(crate) struct Pool {
    address: ServerAddress,
    context: Arc<PoolContext>,
    inner: Mutex<Inner>,
    populating: AtomicBool,
    /// How many had to wait for a connection, and for how many nanoseconds all together.
    waits: AtomicU64,
    waited_nanos: AtomicU64,
}

struct Inner {
    book: PoolBook,
    /// Idle connections, by identifier.
    parked: IdMap<Box<Connection>>,
    /// Those who wait, by their number in the queue.
    waiters: IdMap<Sender<Grant>>,
    /// How to interrupt each open connection.
    interrupts: IdMap<Arc<Interrupt>>,
    /// Why the pool was cleared last.
    cause: Option<Error>,
}

/// What somebody who waited gets.
enum Grant {
    Connection(Box<Connection>),
    Dial(Dial),
    Cleared,
    Closed,
}

/// Wake-ups and events that must happen after locks are released.
#[must_use = "nobody is told otherwise"]
#[derive(Default)]
pub(crate) struct Deferred {
    closed: Vec<(Option<Box<Connection>>, u64, CloseReason)>,
    grants: Vec<(Sender<Grant>, Grant)>,
    interrupts: Vec<Arc<Interrupt>>,
}

impl Pool {
    /// A new pool, paused.
    pub(crate) fn new(address: ServerAddress, context: Arc<PoolContext>) -> Arc<Self> {
        context.emit(|| {
            CmapEvent::PoolCreated(PoolCreatedEvent {
                address: address.clone(),
                options: context.options.clone(),
            })
        });
        let inner = Inner {
            book: PoolBook::new(context.limits),
            parked: IdMap::new(),
            waiters: IdMap::new(),
            interrupts: IdMap::new(),
            cause: None,
        };
        let populating = AtomicBool::new(false);
        Arc::new(Pool {
            address,
            context,
            inner: Mutex::new(inner),
            populating,
            waits: AtomicU64::new(0),
            waited_nanos: AtomicU64::new(0),
        })
    }

    /// The server.
    pub(crate) fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// The present generation.
    pub(crate) fn generation(&self) -> u64 {
        lock(&self.inner).book.generation()
    }

    /// How many had to wait for a connection, and how long all together.
    pub(crate) fn waits(&self) -> (u64, Duration) {
        let nanos = self.waited_nanos.load(Ordering::Relaxed);
        (self.waits.load(Ordering::Relaxed), Duration::from_nanos(nanos))
    }

    /// Starts counting waits from zero.
    pub(crate) fn reset_waits(&self) {
        self.waits.store(0, Ordering::Relaxed);
        self.waited_nanos.store(0, Ordering::Relaxed);
    }

    /// How many of what.
    pub(crate) fn counts(&self) -> PoolCounts {
        lock(&self.inner).book.counts()
    }

    /// A connection, at the latest at `by`.
    ///
    /// # Errors
    /// `ConnectionPoolCleared` while the pool is paused, `Shutdown` once it is closed, `Timeout` if none
    /// came free in time, and whatever fails while one is opened.
    pub(crate) async fn check_out(self: &Arc<Self>, by: Instant) -> Result<Lease> {
        let began = self.now();
        self.context.emit(|| {
            let address = self.address.clone();
            CmapEvent::ConnectionCheckoutStarted(ConnectionCheckoutStartedEvent { address })
        });
        match self.obtain(began, by).await {
            Ok(lease) => {
                self.context.emit(|| {
                    CmapEvent::ConnectionCheckedOut(ConnectionCheckedOutEvent {
                        address: self.address.clone(),
                        connection_id: event_id(lease.id),
                        duration: self.now() - began,
                    })
                });
                Ok(lease)
            }
            Err(error) => {
                self.context.emit(|| {
                    let reason = match *error.kind {
                        ErrorKind::Shutdown => ConnectionCheckoutFailedReason::PoolClosed,
                        ErrorKind::Timeout { .. } => ConnectionCheckoutFailedReason::Timeout,
                        _ => ConnectionCheckoutFailedReason::ConnectionError,
                    };
                    CmapEvent::ConnectionCheckoutFailed(ConnectionCheckoutFailedEvent {
                        address: self.address.clone(),
                        error: (reason == ConnectionCheckoutFailedReason::ConnectionError)
                            .then(|| error.clone()),
                        reason,
                        duration: self.now() - began,
                    })
                });
                Err(error)
            }
        }
    }

    /// The server was seen well: hands out from now on. Then [`Pool::maintain`] is to be called,
    /// once no lock is held.
    pub(crate) fn ready(&self) {
        let news = lock(&self.inner).book.ready();
        if news {
            self.context
                .emit(|| CmapEvent::PoolReady(PoolReadyEvent { address: self.address.clone() }));
        }
    }

    /// The server was seen ill: everything made so far is stale. Run what is returned once no lock
    /// is held.
    pub(crate) fn clear(&self, cause: Error, generation: u64, interrupt: bool) -> Deferred {
        let mut deferred = Deferred::default();
        let told = {
            let mut inner = lock(&self.inner);
            inner.cause = Some(cause);
            let outcome = inner.book.clear(generation, interrupt);
            let told = outcome.is_some();
            if let Some(outcome) = outcome {
                inner.apply(outcome, || Grant::Cleared, &mut deferred);
            }
            told
        };
        if told {
            self.context.emit(|| {
                CmapEvent::PoolCleared(PoolClearedEvent {
                    address: self.address.clone(),
                    service_id: None,
                    interrupt_in_use_connections: interrupt,
                })
            });
        }
        deferred
    }

    /// Closes the pool for good. Run what is returned once no lock is held.
    pub(crate) fn close(&self) -> Deferred {
        let mut deferred = Deferred::default();
        {
            let mut inner = lock(&self.inner);
            if inner.book.state() == PoolState::Closed {
                return deferred;
            }
            let outcome = inner.book.close();
            inner.apply(outcome, || Grant::Closed, &mut deferred);
        }
        deferred
    }

    /// Says that the pool was closed, after its connections were.
    pub(crate) fn tell_closed(&self) {
        self.context
            .emit(|| CmapEvent::PoolClosed(PoolClosedEvent { address: self.address.clone() }));
    }

    /// Closes what was idle for too long and opens what `minPoolSize` asks for. Called after each
    /// good check of the server.
    pub(crate) fn maintain(self: &Arc<Self>) {
        if self.context.limits.max_idle_time.is_some() {
            let mut deferred = Deferred::default();
            {
                let mut inner = lock(&self.inner);
                let outcome = inner.book.prune(self.now());
                inner.apply(outcome, || Grant::Closed, &mut deferred);
            }
            self.run(deferred);
        }
        self.populate();
    }

    /// Closes all idle connections: they belong to an event loop that is gone.
    pub(crate) fn forget_idle(self: &Arc<Self>) {
        let mut deferred = Deferred::default();
        {
            let mut inner = lock(&self.inner);
            let outcome = inner.book.forget_idle();
            inner.apply(outcome, || Grant::Closed, &mut deferred);
        }
        self.run(deferred);
    }

    /// Opens connections up to `minPoolSize`, one after another on a task of its own, if there is need
    /// and no such task.
    fn populate(self: &Arc<Self>) {
        if self.context.limits.min_pool_size == 0 || self.populating.swap(true, Ordering::SeqCst) {
            return;
        }
        let guard = Populating(self.clone());
        let Some(dial) = lock(&self.inner).book.populate() else { return };
        let task = async move {
            let pool = &guard.0;
            let mut next = Some(dial);
            while let Some(dial) = next {
                if pool.dial_for_anybody(dial).await.is_err() {
                    break;
                }
                next = lock(&pool.inner).book.populate();
            }
        };
        self.context.transport.spawn("pool: minPoolSize", Box::pin(task));
    }

    /// Tells everybody what was decided. No lock may be held.
    pub(crate) fn run(self: &Arc<Self>, deferred: Deferred) {
        for (connection, id, reason) in deferred.closed {
            drop(connection);
            self.tell_connection_closed(id, reason, None);
        }
        for interrupt in deferred.interrupts {
            interrupt.raise();
        }
        for (sender, grant) in deferred.grants {
            if let Err(grant) = sender.send(grant) {
                self.give_back(grant);
            }
        }
    }

    /// Takes back what nobody waits for any more.
    fn give_back(self: &Arc<Self>, grant: Grant) {
        match grant {
            Grant::Connection(connection) => self.take_back(connection),
            Grant::Dial(dial) => self.dial_failed(dial),
            Grant::Cleared | Grant::Closed => {}
        }
    }

    async fn obtain(self: &Arc<Self>, began: Instant, by: Instant) -> Result<Lease> {
        let mut set_aside = None;
        loop {
            let grant = match self.begin(self.now()) {
                Ok(grant) => grant,
                Err((ticket, receiver)) => self.wait(ticket, receiver, began, by).await?,
            };
            match grant {
                Grant::Closed => return Err(Error::new(ErrorKind::Shutdown)),
                Grant::Cleared => {
                    let cause = lock(&self.inner).cause.clone();
                    return Err(Error::pool_cleared(&self.address, cause.as_ref()));
                }
                Grant::Dial(dial) => return self.dial(dial, self.connect_deadline(by)).await,
                Grant::Connection(connection) => {
                    let mut lease = Lease::new(self.clone(), connection);
                    if !lease.owes_reply() {
                        if !lease.is_dirty() {
                            return Ok(lease);
                        }
                        lease.fail();
                        continue;
                    }
                    // An operation was dropped before its reply came. If it is there by now, it is
                    // read; if not, a task waits for it, and another connection is taken. Before a
                    // new one is opened instead, the reply is given a moment.
                    lease.set_deadline(by.min(self.now() + DRAIN_TIME));
                    let id = lease.id;
                    let received = if set_aside == Some(id) {
                        // Nobody took it: there is no task to wait.
                        Some(lease.receive().await)
                    } else if self.counts().idle > 0 {
                        poll_once(lease.receive()).await
                    } else {
                        let moment = self.context.transport.sleep_until(self.now() + DRAIN_MOMENT);
                        match select2(lease.receive(), moment).await {
                            Either::Left(received) => Some(received),
                            Either::Right(()) => None,
                        }
                    };
                    match received {
                        Some(Ok(_)) if !lease.owes_reply() => return Ok(lease),
                        Some(_) => lease.fail(),
                        None => {
                            set_aside = Some(id);
                            self.drain(lease);
                        }
                    }
                }
            }
        }
    }

    /// Waits in the background for the reply that is owed, and gives the connection back then: a dropped
    /// operation costs neither a connection nor the time of whoever comes next.
    fn drain(self: &Arc<Self>, lease: Lease) {
        let mut lease = lease.silently();
        lease.set_deadline(self.now() + DRAIN_TIME);
        let task = async move {
            if lease.receive().await.is_err() || lease.owes_reply() {
                lease.fail();
            }
        };
        self.context.transport.spawn("pool: read a reply nobody waits for", Box::pin(task));
    }

    /// The first half of a check-out: what there is, or a place in the queue.
    fn begin(self: &Arc<Self>, now: Instant) -> std::result::Result<Grant, (u64, Receiver<Grant>)> {
        let mut deferred = Deferred::default();
        let answer = {
            let mut inner = lock(&self.inner);
            let (answer, outcome) = inner.book.check_out(now);
            inner.apply(outcome, || Grant::Closed, &mut deferred);
            match answer {
                CheckOut::Lease(lease) => Ok(inner.grant(lease)),
                CheckOut::Paused => Ok(Grant::Cleared),
                CheckOut::Closed => Ok(Grant::Closed),
                CheckOut::Wait(ticket) => {
                    let (sender, receiver) = oneshot();
                    inner.waiters.insert(ticket, sender);
                    Err((ticket, receiver))
                }
            }
        };
        self.run(deferred);
        answer
    }

    /// The second half: waits in the queue.
    async fn wait(
        self: &Arc<Self>,
        ticket: u64,
        receiver: Receiver<Grant>,
        began: Instant,
        by: Instant,
    ) -> Result<Grant> {
        let mut place = Place { pool: self, ticket, receiver: Some(receiver) };
        let _waiting = Waiting { pool: self, since: began };
        // A deadline of the operation overrides `waitQueueTimeoutMS`.
        let by = match self.context.wait_queue_timeout {
            Some(timeout) if by == Instant::NEVER => began + timeout,
            _ => by,
        };
        let receiver = place.receiver.as_mut().expect("the place was just made");
        let granted = if by == Instant::NEVER {
            receiver.await
        } else {
            match select2(&mut *receiver, self.context.transport.sleep_until(by)).await {
                Either::Left(granted) => granted,
                Either::Right(()) => {
                    drop(place);
                    let counts = self.counts();
                    return Err(Error::timed_out(format!(
                        "no connection to {} came free in time: {} in use, {} being opened, {} more \
                         waiting",
                        self.address, counts.in_use, counts.pending, counts.waiting,
                    ))
                    .at(self.address.clone()));
                }
            }
        };
        place.receiver = None;
        Ok(granted.unwrap_or(Grant::Closed))
    }

    /// Opens the connection that was allowed, for an operation.
    async fn dial(self: &Arc<Self>, dial: Dial, by: Instant) -> Result<Lease> {
        let connection = self.open(dial, by).await?;
        let mut deferred = Deferred::default();
        let stale = {
            let mut inner = lock(&self.inner);
            let outcome = inner.book.established(self.now(), dial.id);
            inner.apply(outcome, || Grant::Closed, &mut deferred);
            inner.book.generation() != dial.generation
        };
        self.run(deferred);
        let lease = Lease::new(self.clone(), connection);
        if stale {
            drop(lease.silently());
            let cause = lock(&self.inner).cause.clone();
            return Err(Error::pool_cleared(&self.address, cause.as_ref()));
        }
        Ok(lease)
    }

    /// Opens the connection that was allowed, for whoever needs one first.
    async fn dial_for_anybody(self: &Arc<Self>, dial: Dial) -> Result<()> {
        let connection = self.open(dial, self.connect_deadline(Instant::NEVER)).await?;
        let mut deferred = Deferred::default();
        {
            let mut inner = lock(&self.inner);
            inner.parked.insert(dial.id, connection);
            let outcome = inner.book.established_idle(self.now(), dial.id);
            inner.apply(outcome, || Grant::Closed, &mut deferred);
        }
        self.run(deferred);
        Ok(())
    }

    /// Opens a connection. It stays pending in the books if that succeeds; if not, its place is given
    /// back.
    async fn open(self: &Arc<Self>, dial: Dial, by: Instant) -> Result<Box<Connection>> {
        let began = self.now();
        let mut guard = DialGuard { pool: self, dial: Some(dial) };
        self.context.emit(|| {
            CmapEvent::ConnectionCreated(ConnectionCreatedEvent {
                address: self.address.clone(),
                connection_id: event_id(dial.id),
            })
        });
        let context = &*self.context;
        let opened = context
            .greeting
            .establish(&*context.transport, &self.address, by, || context.next_request_id())
            .await;
        let mut connection = match opened {
            Ok(connection) => Box::new(connection),
            Err(Unestablished { error, authenticating }) => {
                let error = if authenticating { error } else { label_overload(error) };
                self.tell_connection_closed(dial.id, CloseReason::Error, Some(&error));
                return Err(error);
            }
        };
        connection.id = dial.id;
        connection.generation = dial.generation;
        connection.set_deadline(Instant::NEVER);
        guard.dial = None;
        lock(&self.inner).interrupts.insert(dial.id, connection.interrupt.clone());
        self.context.emit(|| {
            CmapEvent::ConnectionReady(ConnectionReadyEvent {
                address: self.address.clone(),
                connection_id: event_id(dial.id),
                duration: self.now() - began,
            })
        });
        Ok(connection)
    }

    fn dial_failed(self: &Arc<Self>, dial: Dial) {
        let mut deferred = Deferred::default();
        {
            let mut inner = lock(&self.inner);
            let outcome = inner.book.dial_failed(self.now(), dial.id);
            inner.apply(outcome, || Grant::Closed, &mut deferred);
        }
        self.run(deferred);
    }

    /// Takes a connection back, in whatever state it is.
    fn take_back(self: &Arc<Self>, connection: Box<Connection>) {
        let id = connection.id;
        // An interrupted one is stale rather than failed.
        let healthy = connection.is_usable() || connection.interrupt.is_raised();
        let mut deferred = Deferred::default();
        {
            let mut inner = lock(&self.inner);
            inner.parked.insert(id, connection);
            let outcome = inner.book.check_in(self.now(), id, healthy);
            inner.apply(outcome, || Grant::Closed, &mut deferred);
        }
        self.run(deferred);
    }

    fn tell_checked_in(&self, id: u64) {
        self.context.emit(|| {
            CmapEvent::ConnectionCheckedIn(ConnectionCheckedInEvent {
                address: self.address.clone(),
                connection_id: event_id(id),
            })
        });
    }

    fn tell_connection_closed(&self, id: u64, reason: CloseReason, error: Option<&Error>) {
        self.context.emit(|| {
            CmapEvent::ConnectionClosed(ConnectionClosedEvent {
                address: self.address.clone(),
                connection_id: event_id(id),
                reason: match reason {
                    CloseReason::Stale => ConnectionClosedReason::Stale,
                    CloseReason::Idle => ConnectionClosedReason::Idle,
                    CloseReason::Error => ConnectionClosedReason::Error,
                    CloseReason::PoolClosed => ConnectionClosedReason::PoolClosed,
                },
                error: error.cloned(),
            })
        });
    }

    fn connect_deadline(&self, by: Instant) -> Instant {
        self.context.connect_timeout.map_or(by, |timeout| by.min(self.now() + timeout))
    }

    fn now(&self) -> Instant {
        self.context.transport.now()
    }
}

impl Inner {
    /// Does with the connections what the book decided; `evicted` is what those get who are sent away.
    fn apply(&mut self, outcome: Outcome, evicted: fn() -> Grant, deferred: &mut Deferred) {
        for (id, reason) in outcome.close {
            self.interrupts.remove(&id);
            deferred.closed.push((self.parked.remove(&id), id, reason));
        }
        for (ticket, lease) in outcome.granted {
            let grant = self.grant(lease);
            let sender = self.waiters.remove(&ticket).expect("who is in the queue waits");
            deferred.grants.push((sender, grant));
        }
        for ticket in outcome.evicted {
            let sender = self.waiters.remove(&ticket).expect("who is in the queue waits");
            deferred.grants.push((sender, evicted()));
        }
        for id in outcome.interrupt {
            deferred.interrupts.extend(self.interrupts.get(&id).cloned());
        }
    }

    fn grant(&mut self, lease: Granted) -> Grant {
        match lease {
            Granted::Dial(dial) => Grant::Dial(dial),
            Granted::Reuse(id) => {
                Grant::Connection(self.parked.remove(&id).expect("an idle connection is parked"))
            }
        }
    }
}

/// Counts the time until it is dropped as waited.
struct Waiting<'a> {
    pool: &'a Pool,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.pool.now() - self.since;
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.pool.waits.fetch_add(1, Ordering::Relaxed);
        self.pool.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A place in the queue; dropped, it is given up.
struct Place<'a> {
    pool: &'a Arc<Pool>,
    ticket: u64,
    receiver: Option<Receiver<Grant>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let sender = {
            let mut inner = lock(&self.pool.inner);
            inner.book.cancel(self.ticket);
            inner.waiters.remove(&self.ticket)
        };
        drop(sender);
        // Its turn may have come at this very moment.
        if let Some(grant) = receiver.close() {
            self.pool.give_back(grant);
        }
    }
}

/// The right to open a connection; dropped, it goes to the next.
struct DialGuard<'a> {
    pool: &'a Arc<Pool>,
    dial: Option<Dial>,
}

impl Drop for DialGuard<'_> {
    fn drop(&mut self) {
        if let Some(dial) = self.dial.take() {
            self.pool.dial_failed(dial);
        }
    }
}

/// The one task that opens connections up to `minPoolSize`.
struct Populating(Arc<Pool>);

impl Drop for Populating {
    fn drop(&mut self) {
        self.0.populating.store(false, Ordering::SeqCst);
    }
}

/// CMAP: a network error or timeout while a connection is opened may mean an overloaded server, and
/// nothing was sent yet. Name resolution is not the server's fault.
fn label_overload(error: Error) -> Error {
    let by_network = match &*error.kind {
        ErrorKind::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::NotConnected
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::WriteZero
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
        ),
        _ => false,
    };
    if !by_network {
        return error;
    }
    error.with_label(labels::SYSTEM_OVERLOADED_ERROR).with_label(labels::RETRYABLE_ERROR)
}

/// Connection identifiers count from 1 per pool; events have them in 32 bits.
fn event_id(id: u64) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}
