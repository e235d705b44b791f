//! The transport over real sockets, on tokio.
//!
//! This is the socket edge: the one place of the driver that reads the machine's clocks and random
//! numbers.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::machine::{Machine, machine_instant, set_up};
use super::race::{ATTEMPT_DELAY, first_to_connect, interleaved};
use super::{BoxFuture, SrvRecords, Stream, Transport};
use crate::sync::lock;
use crate::time::Instant;
use crate::uri::ServerAddress;

/// Real sockets, clocks and tasks.
///
/// A host of several addresses is tried as RFC 8305 says ("happy eyeballs"): the families take turns, and
/// an attempt that is silent for 250 ms gets company.
///
/// It belongs to no runtime: whatever it does, it does on the tokio runtime of whoever calls, so one
/// client may be used from several runtimes one after another. Outside of any runtime, tasks go to the
/// one used last.
pub struct TcpTransport {
    machine: Machine,
    last_runtime: Mutex<Option<Handle>>,
}

impl TcpTransport {
    /// A transport whose clock starts now.
    pub fn new() -> Self {
        TcpTransport { machine: Machine::new(), last_runtime: Mutex::new(None) }
    }

    /// A socket as the driver sees it.
    fn link<S: Socket>(&self, stream: S) -> Box<dyn Stream> {
        let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        Box::new(Link { runtime, stream, epoch: self.machine.epoch, deadline: None, timer: None })
    }

    /// Connects to a Unix domain socket.
    #[cfg(unix)]
    async fn connect_to_file(
        &self,
        path: &str,
        until: tokio::time::Instant,
    ) -> io::Result<Box<dyn Stream>> {
        let stream = tokio::time::timeout_at(until, tokio::net::UnixStream::connect(path))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(self.link(stream))
    }

    #[cfg(not(unix))]
    async fn connect_to_file(
        &self,
        _path: &str,
        _until: tokio::time::Instant,
    ) -> io::Result<Box<dyn Stream>> {
        let what = "this system has no Unix domain sockets";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
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
        self.machine.now()
    }

    fn unix_millis(&self) -> i64 {
        self.machine.unix_millis()
    }

    fn random(&self) -> u64 {
        self.machine.random()
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        if let Some(runtime) = self.runtime() {
            runtime.spawn(task);
        }
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let at = tokio_instant(self.machine.epoch, at);
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
            let until = tokio_instant(self.machine.epoch, by);
            let Some(port) = to.port() else { return self.connect_to_file(to.host(), until).await };
            let opening = async {
                let addresses = tokio::net::lookup_host((to.host(), port)).await?;
                let delay = || tokio::time::sleep(ATTEMPT_DELAY);
                first_to_connect(interleaved(addresses), TcpStream::connect, delay).await
            };
            let stream = tokio::time::timeout_at(until, opening)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            set_up(SockRef::from(&stream))?;
            Ok(self.link(stream))
        })
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        Box::pin(look_up(name))
    }
}

/// Asks the system's name servers.
#[cfg(feature = "srv")]
async fn look_up(name: &str) -> io::Result<SrvRecords> {
    use hickory_resolver::TokioResolver;
    use hickory_resolver::proto::rr::{RData, RecordType};

    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(io::Error::other)?;
    // A name of a connection string is whole: no search domain is added to it.
    let whole = |name: &str| format!("{}.", name.trim_end_matches('.'));
    let mut records = SrvRecords::default();
    let found = resolver.lookup(whole(name), RecordType::SRV).await.map_err(io::Error::other)?;
    for record in found.answers() {
        if let RData::SRV(srv) = &record.data {
            records.hosts.push((srv.target.to_utf8(), srv.port));
        }
    }
    // The TXT record is that of the host name, without service and protocol.
    let host = name.splitn(3, '.').nth(2).unwrap_or(name);
    match resolver.lookup(whole(host), RecordType::TXT).await {
        Ok(found) => {
            for record in found.answers() {
                if let RData::TXT(txt) = &record.data {
                    let text: Vec<u8> =
                        txt.txt_data.iter().flat_map(|part| part.to_vec()).collect();
                    records.texts.push(String::from_utf8_lossy(&text).into_owned());
                }
            }
        }
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    Ok(records)
}

#[cfg(not(feature = "srv"))]
async fn look_up(name: &str) -> io::Result<SrvRecords> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("looking up {name} needs the driver's feature \"srv\", which is off"),
    ))
}

/// Our moment as tokio counts it.
fn tokio_instant(epoch: std::time::Instant, at: Instant) -> tokio::time::Instant {
    machine_instant(epoch, at).into()
}

/// What the driver needs of a socket of tokio, whatever its family.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// What is there to be read now, without taking it.
    fn peek_now(&self) -> io::Result<usize>;
}

impl Socket for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn peek_now(&self) -> io::Result<usize> {
        let peek = || SockRef::from(self).peek(&mut [MaybeUninit::uninit()]);
        self.try_io(Interest::READABLE, peek)
    }
}

#[cfg(unix)]
impl Socket for tokio::net::UnixStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn peek_now(&self) -> io::Result<usize> {
        let peek = || SockRef::from(self).peek(&mut [MaybeUninit::uninit()]);
        self.try_io(Interest::READABLE, peek)
    }
}

/// One socket and its one deadline.
struct Link<S> {
    stream: S,
    /// The runtime whose event loop knows the socket.
    runtime: Option<tokio::runtime::Id>,
    epoch: std::time::Instant,
    deadline: Option<Instant>,
    /// Armed for some moment at or before the deadline, and moved only when it fires or when the
    /// deadline comes nearer: an ordinary operation neither makes nor moves a timer.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Link<S> {
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

impl<S: Socket> Stream for Link<S> {
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
        // On its own runtime nothing needs to be registered to know that nothing came.
        let here = Handle::try_current().ok().map(|runtime| runtime.id());
        if here.is_some() && here == self.runtime {
            let blocked = self.stream.peek_now().err().map(|error| error.kind());
            return blocked != Some(io::ErrorKind::WouldBlock);
        }
        // A socket of a runtime that is gone says so here, too.
        match self.stream.poll_readable(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => false,
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(())) => {
                // It may only have been readable: ask the socket itself, without taking anything.
                let blocked = self.stream.peek_now().err().map(|error| error.kind());
                blocked != Some(io::ErrorKind::WouldBlock)
            }
        }
    }
}
