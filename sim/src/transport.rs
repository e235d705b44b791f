//! The driver's way into a world: its clock, its random numbers, its network.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use stepdown_driver::Instant;
use stepdown_driver::transport::{BoxFuture, SrvRecords, Stream, Transport};
use stepdown_driver::uri::ServerAddress;

use crate::world::{ClientSide, Handle, Shared, Sleep};

/// The outside as one client of a world sees it.
pub struct WorldTransport {
    shared: Arc<Shared>,
    client: u32,
}

impl WorldTransport {
    pub(crate) fn new(shared: Arc<Shared>, client: u32) -> Self {
        WorldTransport { shared, client }
    }
}

impl fmt::Debug for WorldTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorldTransport").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Transport for WorldTransport {
    fn now(&self) -> Instant {
        self.shared.world().now
    }

    fn unix_millis(&self) -> i64 {
        self.shared.world().wall_millis()
    }

    fn random(&self) -> u64 {
        self.shared.world().clients[self.client as usize].random.next_u64()
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.shared.spawn(name.into(), task);
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::new(self.shared.clone(), at))
    }

    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(Connecting { transport: self, to, by, stream: None })
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        let world = self.shared.world();
        let answer = match world.srv.iter().find(|(known, _)| known == name) {
            Some((_, records)) => Ok(records.clone()),
            None if world.srv.is_empty() => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this world has no resolver: give the builder SRV records",
            )),
            None => Err(no_such_name(name)),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn no_such_name(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such host is known: {name}"))
}

/// A connection attempt.
struct Connecting<'a> {
    transport: &'a WorldTransport,
    to: &'a ServerAddress,
    by: Instant,
    /// The stream to be; dropping it gives the attempt up.
    stream: Option<WorldStream>,
}

impl Future for Connecting<'_> {
    type Output = io::Result<Box<dyn Stream>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.transport.shared;
        let mut world = shared.world();
        let Some(stream) = &self.stream else {
            let host = self.to.to_string();
            let Some(node) = world.node_at(&host) else {
                return Poll::Ready(Err(no_such_name(&host)));
            };
            let handle = world.connect(self.transport.client, node, self.by);
            world.wait_on(handle, cx.waker());
            let stream = WorldStream { shared: shared.clone(), connection: handle };
            drop(world);
            self.stream = Some(stream);
            return Poll::Pending;
        };
        let handle = stream.connection;
        let side = world.connections.get(handle).map_or(ClientSide::Reset, |it| it.client_side);
        let outcome = match side {
            ClientSide::Connecting if world.now >= self.by => Err(io::ErrorKind::TimedOut.into()),
            ClientSide::Connecting => {
                world.wait_on(handle, cx.waker());
                return Poll::Pending;
            }
            ClientSide::Open | ClientSide::Eof => Ok(()),
            ClientSide::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
            ClientSide::Reset | ClientSide::Gone => Err(io::ErrorKind::ConnectionReset.into()),
        };
        if let Some(connection) = world.connections.get_mut(handle) {
            // The time to connect is over; the stream starts without a deadline.
            connection.deadline = Instant::NEVER;
        }
        drop(world);
        let stream = self.stream.take().expect("the attempt began");
        Poll::Ready(outcome.map(|()| Box::new(stream) as Box<dyn Stream>))
    }
}

/// The client's end of a connection.
struct WorldStream {
    shared: Arc<Shared>,
    connection: Handle,
}

impl Stream for WorldStream {
    fn poll_write(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut world = self.shared.world();
        let now = world.now;
        let outcome = match world.connections.get(self.connection) {
            Some(it) if it.client_side == ClientSide::Reset => {
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Some(it) if it.deadline <= now => Err(io::ErrorKind::TimedOut.into()),
            Some(_) => {
                if !bytes.is_empty() {
                    world.client_writes(self.connection, bytes.to_vec());
                }
                Ok(bytes.len())
            }
            None => Err(io::ErrorKind::ConnectionReset.into()),
        };
        Poll::Ready(outcome)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut world = self.shared.world();
        let now = world.now;
        let Some(connection) = world.connections.get_mut(self.connection) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if connection.has_bytes() {
            // What arrived before the end, the reset or the deadline can still be read.
            return Poll::Ready(Ok(connection.read(into)));
        }
        match connection.client_side {
            ClientSide::Eof => return Poll::Ready(Ok(0)),
            ClientSide::Open if connection.deadline > now => {}
            ClientSide::Open => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        world.wait_on(self.connection, cx.waker());
        Poll::Pending
    }

    fn set_deadline(&mut self, at: Option<Instant>) {
        let mut world = self.shared.world();
        if let Some(connection) = world.connections.get_mut(self.connection) {
            connection.deadline = at.unwrap_or(Instant::NEVER);
        }
    }

    fn is_dirty(&mut self) -> bool {
        let world = self.shared.world();
        let connection = world.connections.get(self.connection);
        connection.is_none_or(|it| it.has_bytes() || it.client_side != ClientSide::Open)
    }
}

impl Drop for WorldStream {
    fn drop(&mut self) {
        // The waker is dropped by the world: it only names a task.
        self.shared.world().client_closes(self.connection);
    }
}
