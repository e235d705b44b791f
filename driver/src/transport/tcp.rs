//! The transport over real sockets, on tokio.
//!
//! This is the socket edge: the one place of the driver that reads the machine's clocks and random
//! numbers.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::{BoxFuture, SrvRecords, Stream, Transport};
use crate::sync::lock;
use crate::time::Instant;
use crate::uri::ServerAddress;

/// Real sockets, clocks and tasks.
///
/// It belongs to no runtime: whatever it does, it does on the tokio runtime of whoever calls, so one
/// client may be used from several runtimes one after another. Outside of any runtime, tasks go to the
/// one used last.
pub struct TcpTransport {
    epoch: std::time::Instant,
    keys: RandomState,
    draws: AtomicU64,
    last_runtime: Mutex<Option<Handle>>,
}

impl TcpTransport {
    /// A transport whose clock starts now.
    pub fn new() -> Self {
        TcpTransport {
            epoch: std::time::Instant::now(),
            keys: RandomState::new(),
            draws: AtomicU64::new(0),
            last_runtime: Mutex::new(None),
        }
    }

    /// The runtime to work on.
    fn runtime(&self) -> Option<Handle> {
        let mut last = lock(&self.last_runtime);
        if let Ok(current) = Handle::try_current() {
            *last = Some(current);
        }
        last.clone()
    }
}

impl Default for TcpTransport {
    fn default() -> Self {
        TcpTransport::new()
    }
}

impl std::fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpTransport").finish_non_exhaustive()
    }
}

impl Transport for TcpTransport {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn unix_millis(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn random(&self) -> u64 {
        // The keys come from the operating system and the hash is a keyed pseudo-random function:
        // hashing a counter gives numbers nobody else can foresee.
        let mut hasher = self.keys.build_hasher();
        hasher.write_u64(self.draws.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        if let Some(runtime) = self.runtime() {
            runtime.spawn(task);
        }
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let at = tokio_instant(self.epoch, at);
        Box::pin(async move { tokio::time::sleep_until(at).await })
    }

    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            if Handle::try_current().is_err() {
                return Err(io::Error::other("not called from within a tokio runtime"));
            }
            let Some(port) = to.port() else {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "Unix domain sockets are not supported",
                ));
            };
            let opening = TcpStream::connect((to.host(), port));
            let stream = tokio::time::timeout_at(tokio_instant(self.epoch, by), opening)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            stream.set_nodelay(true)?;
            set_keepalive(&stream)?;
            Ok(Box::new(TcpLink { stream, epoch: self.epoch, deadline: None, timer: None })
                as Box<dyn Stream>)
        })
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        Box::pin(async move {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("this transport has no resolver for SRV records, so {name} stays unknown"),
            ))
        })
    }
}

/// Lets the operating system notice a peer that vanished: first probe after two minutes of silence,
/// then every ten seconds, nine times.
fn set_keepalive(stream: &TcpStream) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(120));
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(9);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Our moment as tokio counts it; far enough away if it is beyond what tokio can count.
fn tokio_instant(epoch: std::time::Instant, at: Instant) -> tokio::time::Instant {
    let far = Duration::from_secs(86_400 * 365 * 30);
    (epoch + Duration::from_nanos(at.as_nanos()).min(far)).into()
}

/// One socket and its one deadline.
struct TcpLink {
    stream: TcpStream,
    epoch: std::time::Instant,
    deadline: Option<Instant>,
    /// Armed for some moment at or before the deadline, and moved only when it fires or when the
    /// deadline comes nearer: an ordinary operation neither makes nor moves a timer.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl TcpLink {
    /// Ready with an error once the deadline has passed; otherwise the task is woken then.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let target = tokio_instant(self.epoch, deadline);
        match &mut self.timer {
            None => {
                self.timer = Some((deadline, Box::pin(tokio::time::sleep_until(target))));
            }
            Some((armed, sleep)) if *armed > deadline => {
                sleep.as_mut().reset(target);
                *armed = deadline;
            }
            Some(_) => {}
        }
        while let Some((armed, sleep)) = &mut self.timer {
            if sleep.as_mut().poll(cx).is_pending() {
                break;
            }
            if tokio::time::Instant::now() >= target {
                self.timer = None;
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            sleep.as_mut().reset(target);
            *armed = deadline;
        }
        Poll::Pending
    }
}

impl Stream for TcpLink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| buffer.filled().len())),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    fn set_deadline(&mut self, at: Option<Instant>) {
        self.deadline = at;
    }

    fn is_dirty(&mut self) -> bool {
        // A socket of a runtime that is gone says so here, too.
        match self.stream.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => false,
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(())) => {
                // It may only have been readable: ask the socket itself.
                let blocked = self.stream.try_read(&mut [0]).err().map(|error| error.kind());
                blocked != Some(io::ErrorKind::WouldBlock)
            }
        }
    }
}
