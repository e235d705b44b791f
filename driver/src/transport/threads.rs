//! The transport over real sockets on plain threads, for code without async.
//!
//! There is no event loop: a future is driven by the thread that waits for it ([`block_on`]), each
//! background task has a thread of its own, and sockets block. A blocked read returns several times a
//! second to see whether its task was told to stop.
//!
//! This is the socket edge: it reads the machine's clocks and starts threads.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::cell::Cell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpStream, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use socket2::SockRef;

use super::machine::{self, Machine, machine_instant, set_up};
use super::race::{ATTEMPT_DELAY, first_to_connect, interleaved};
use super::{BoxFuture, SrvRecords, Stream, Transport};
use crate::sync::oneshot;
use crate::time::Instant;
use crate::uri::ServerAddress;

/// How long a read or write blocks before its task looks around.
const SLICE: Duration = Duration::from_millis(100);
/// The stack of a background thread, in bytes: monitors need little.
const STACK_BYTES: usize = 512 * 1024;

thread_local! {
    /// How many calls of [`block_on`] this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// The earliest moment a sleep of the future that is being driven waits for.
    static WAKE_AT: Cell<Option<std::time::Instant>> = const { Cell::new(None) };
}

/// Drives a future on this thread until it is done. The thread sleeps while the future waits.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let parker = Arc::new(Parker { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    let _within = Within::enter();
    loop {
        let outer = WAKE_AT.replace(None);
        let polled = future.as_mut().poll(&mut cx);
        let wake_at = WAKE_AT.replace(outer);
        if let Poll::Ready(output) = polled {
            return output;
        }
        parker.wait_until(wake_at);
    }
}

/// Counts nested calls of [`block_on`], also where a future panics.
struct Within;

impl Within {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Within
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Parker {
    fn wait_until(&self, wake_at: Option<std::time::Instant>) {
        while !self.woken.swap(false, Ordering::Acquire) {
            match wake_at {
                None => thread::park(),
                Some(at) => {
                    let left = at.saturating_duration_since(std::time::Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    thread::park_timeout(left);
                }
            }
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

/// Real sockets and clocks, and a thread per task.
pub struct ThreadTransport {
    machine: Machine,
}

impl ThreadTransport {
    /// A transport whose clock starts now.
    pub fn new() -> Self {
        ThreadTransport { machine: Machine::new() }
    }

    fn link<S: Socket>(&self, socket: S) -> Box<dyn Stream> {
        let epoch = self.machine.epoch;
        let unset = [None, None];
        Box::new(Link { socket, epoch, deadline: None, timeouts: unset })
    }

    async fn connect_to(
        &self,
        host: &str,
        port: u16,
        by: std::time::Instant,
    ) -> io::Result<TcpStream> {
        let addresses = interleaved((host, port).to_socket_addrs()?);
        let left = move || {
            let left = by.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
        };
        if let (1, Some(address)) = (addresses.len(), addresses.front()) {
            return TcpStream::connect_timeout(address, left()?);
        }
        let connect = |address| {
            let (sender, receiver) = oneshot();
            let attempt = move || {
                let connected = left().and_then(|left| TcpStream::connect_timeout(&address, left));
                // Another attempt may have won.
                let _ = sender.send(connected);
            };
            let started = start_thread("connect", attempt);
            async move {
                started?;
                receiver.await.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
            }
        };
        let delay = || Sleep::until(std::time::Instant::now() + ATTEMPT_DELAY);
        first_to_connect(addresses, connect, delay).await
    }
}

impl Default for ThreadTransport {
    fn default() -> Self {
        ThreadTransport::new()
    }
}

impl std::fmt::Debug for ThreadTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadTransport").finish_non_exhaustive()
    }
}

impl Transport for ThreadTransport {
    fn now(&self) -> Instant {
        self.machine.now()
    }

    fn unix_millis(&self) -> i64 {
        self.machine.unix_millis()
    }

    fn random(&self) -> u64 {
        self.machine.random()
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        // A machine without room for a thread drops the task, which its owner notices.
        let _ = start_thread(name, move || block_on(task));
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::until(machine_instant(self.machine.epoch, at)))
    }

    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let Some(port) = to.port() else { return self.connect_to_file(to.host()) };
            let by = machine_instant(self.machine.epoch, by);
            let stream = self.connect_to(to.host(), port, by).await?;
            set_up(SockRef::from(&stream))?;
            Ok(self.link(stream))
        })
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        Box::pin(async move {
            let what = format!("the transport on threads cannot look up {name}: use mongodb://");
            Err(io::Error::new(io::ErrorKind::Unsupported, what))
        })
    }
}

impl ThreadTransport {
    #[cfg(unix)]
    fn connect_to_file(&self, path: &str) -> io::Result<Box<dyn Stream>> {
        Ok(self.link(std::os::unix::net::UnixStream::connect(path)?))
    }

    #[cfg(not(unix))]
    fn connect_to_file(&self, _path: &str) -> io::Result<Box<dyn Stream>> {
        let what = "this system has no Unix domain sockets";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let name = format!("stepdown: {name}");
    thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work).map(drop)
}

/// Ends at a moment of the machine's clock.
struct Sleep {
    at: std::time::Instant,
    /// Whether a thread was started to wake somebody else's executor.
    helped: bool,
}

impl Sleep {
    fn until(at: std::time::Instant) -> Self {
        Sleep { at, helped: false }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.at.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        if DEPTH.get() > 0 {
            let earliest = WAKE_AT.get().map_or(self.at, |known| known.min(self.at));
            WAKE_AT.set(Some(earliest));
        } else if !self.helped {
            let waker = cx.waker().clone();
            self.helped = start_thread("timer", move || {
                thread::sleep(left);
                waker.wake();
            })
            .is_ok();
        }
        Poll::Pending
    }
}

/// What the driver needs of a blocking socket, whatever its family.
trait Socket: Read + Write + Send + 'static {
    fn set_timeout(&self, direction: Direction, timeout: Duration) -> io::Result<()>;
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;
    /// What is there to be read now, without taking it.
    fn peek(&self) -> io::Result<usize>;
}

#[derive(Clone, Copy)]
enum Direction {
    Read = 0,
    Write = 1,
}

macro_rules! socket {
    ($socket:ty) => {
        impl Socket for $socket {
            fn set_timeout(&self, direction: Direction, timeout: Duration) -> io::Result<()> {
                match direction {
                    Direction::Read => self.set_read_timeout(Some(timeout)),
                    Direction::Write => self.set_write_timeout(Some(timeout)),
                }
            }

            fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                <$socket>::set_nonblocking(self, nonblocking)
            }

            fn peek(&self) -> io::Result<usize> {
                SockRef::from(self).peek(&mut [MaybeUninit::uninit()])
            }
        }
    };
}

socket!(TcpStream);
#[cfg(unix)]
socket!(std::os::unix::net::UnixStream);

/// One socket and its one deadline.
struct Link<S> {
    socket: S,
    epoch: std::time::Instant,
    deadline: Option<Instant>,
    /// The timeouts the socket was given last, by direction.
    timeouts: [Option<Duration>; 2],
}

impl<S: Socket> Link<S> {
    /// Lets the next call block for a slice, or until the deadline.
    fn prepare(&mut self, direction: Direction) -> io::Result<()> {
        let slice = match self.deadline {
            None => SLICE,
            Some(deadline) => {
                let now = machine::now(self.epoch);
                if now >= deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                SLICE.min(deadline - now)
            }
        };
        // Zero means for ever.
        let slice = slice.max(Duration::from_millis(1));
        if self.timeouts[direction as usize] != Some(slice) {
            self.socket.set_timeout(direction, slice)?;
            self.timeouts[direction as usize] = Some(slice);
        }
        Ok(())
    }

    fn block(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut call: impl FnMut(&mut S) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            self.prepare(direction)?;
            match call(&mut self.socket) {
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        // The deadline is looked at next time.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    _ => return Poll::Ready(Err(error)),
                },
                done => return Poll::Ready(done),
            }
        }
    }
}

impl<S: Socket> Stream for Link<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.block(cx, Direction::Write, |socket| socket.write(bytes))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.block(cx, Direction::Read, |socket| socket.read(into))
    }

    fn set_deadline(&mut self, at: Option<Instant>) {
        self.deadline = at;
    }

    fn is_dirty(&mut self) -> bool {
        if self.socket.set_nonblocking(true).is_err() {
            return true;
        }
        let blocked = self.socket.peek().err().map(|error| error.kind());
        let clean = blocked == Some(io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).is_err() || !clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_thread_sleeps_until_it_is_woken_or_its_time_has_come() {
        let transport = ThreadTransport::new();
        let began = transport.now();
        block_on(transport.sleep_until(began + Duration::from_millis(20)));
        assert!(transport.now() - began >= Duration::from_millis(20));

        let (sender, receiver) = oneshot();
        let late = transport.sleep_until(transport.now() + Duration::from_millis(10));
        transport.spawn(
            "test",
            Box::pin(async move {
                late.await;
                assert!(sender.send(7).is_ok());
            }),
        );
        assert_eq!(block_on(receiver), Some(7));
        // Within a future that is being driven, too.
        let nested = async {
            block_on(transport.sleep_until(transport.now() + Duration::from_millis(5)));
            transport.sleep_until(transport.now() + Duration::from_millis(5)).await;
        };
        block_on(nested);
    }

    #[test]
    fn a_read_ends_at_its_deadline_and_a_closed_socket_is_dirty() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServerAddress::new("127.0.0.1", listener.local_addr().unwrap().port());
        let transport = ThreadTransport::new();
        let by = transport.now() + Duration::from_secs(5);
        let mut stream = block_on(transport.connect(&address, by)).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert!(!stream.is_dirty());

        let began = transport.now();
        stream.set_deadline(Some(began + Duration::from_millis(130)));
        let mut byte = [0];
        let error = block_on(std::future::poll_fn(|cx| stream.poll_read(cx, &mut byte)));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(transport.now() - began >= Duration::from_millis(130));

        stream.set_deadline(None);
        peer.write_all(b"x").unwrap();
        let read = block_on(std::future::poll_fn(|cx| stream.poll_read(cx, &mut byte)));
        assert_eq!((read.unwrap(), byte), (1, *b"x"));
        drop(peer);
        while !stream.is_dirty() {
            thread::yield_now();
        }
    }

    #[test]
    fn of_several_addresses_one_that_answers_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServerAddress::new("localhost", listener.local_addr().unwrap().port());
        let transport = ThreadTransport::new();
        let by = transport.now() + Duration::from_secs(5);
        assert!(block_on(transport.connect(&address, by)).is_ok());
    }
}
