//! The sockets: one door per member, one task per connection.
//!
//! What they say to the engine goes through one channel. It is bounded by credits: each connection
//! may have so many chunks under way, and reads no further until the engine has taken one in.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::engine::Input;

/// Bytes read from a socket at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks of one connection under way to the engine.
const CHUNKS_IN_FLIGHT: usize = 16;
/// Bytes waiting for one slow reader; a little more than two of the largest messages.
const OUTGOING_BYTES_MAX: usize = 100_000_000;
/// Connections open at once, over all members.
const CONNECTIONS_MAX: usize = 10_000;

/// What all doors share.
#[derive(Clone)]
pub(crate) struct Lobby {
    input: Sender<Input>,
    places: Arc<Semaphore>,
    last_number: Arc<AtomicU64>,
}

/// Names a connection between its task and the engine.
pub(crate) type ConnectionNumber = u64;

/// The engine's end of a connection.
pub(crate) struct Outgoing {
    queue: UnboundedSender<Vec<u8>>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The reader is too slow, or gone.
pub(crate) struct TooSlow;

impl Outgoing {
    /// Queues `bytes`; dropping the [`Outgoing`] closes the connection after what is queued.
    pub(crate) fn send(&self, bytes: Vec<u8>) -> Result<(), TooSlow> {
        let queued = self.queued_bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if queued > OUTGOING_BYTES_MAX {
            return Err(TooSlow);
        }
        self.queue.send(bytes).map_err(|_| TooSlow)
    }
}

impl Lobby {
    pub(crate) fn new(input: Sender<Input>) -> Self {
        Lobby {
            input,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            last_number: Arc::default(),
        }
    }
}

/// The port of one member: open while its process lives.
pub(crate) struct Door {
    address: SocketAddr,
    member: usize,
    accepting: Option<JoinHandle<()>>,
}

impl Door {
    pub(crate) fn new(address: SocketAddr, member: usize) -> Self {
        Door { address, member, accepting: None }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.accepting.is_some()
    }

    /// Listens, on a socket that is bound already if one is given.
    ///
    /// # Errors
    /// The port was taken by somebody else meanwhile.
    pub(crate) fn open(
        &mut self,
        runtime: &Handle,
        lobby: &Lobby,
        bound: Option<StdTcpListener>,
    ) -> io::Result<()> {
        assert!(self.accepting.is_none(), "the door of member {} is open", self.member);
        let listener = match bound {
            Some(listener) => listener,
            None => StdTcpListener::bind(self.address)?,
        };
        listener.set_nonblocking(true)?;
        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        self.accepting = Some(runtime.spawn(accept(listener, self.member, lobby.clone())));
        Ok(())
    }

    /// Stops listening; when this returns, connecting is refused.
    pub(crate) fn close(&mut self, runtime: &Handle) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Cancelled is what we asked for; the listener is dropped with the task.
            let _ = runtime.block_on(accepting);
        }
    }
}

async fn accept(listener: TcpListener, member: usize, lobby: Lobby) {
    loop {
        // Accepting fails when the connection is gone already or when files run out: go on, but
        // do not spin.
        let Ok((stream, remote)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = lobby.places.clone().try_acquire_owned() else {
            continue;
        };
        let number = lobby.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(serve(stream, remote, member, number, lobby.input.clone(), place));
    }
}

/// One connection, from accept to close.
async fn serve(
    mut stream: TcpStream,
    remote: SocketAddr,
    member: usize,
    number: ConnectionNumber,
    input: Sender<Input>,
    _place: OwnedSemaphorePermit,
) {
    // Requests and replies are small, and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let (queue, outgoing) = unbounded_channel();
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let ours = Outgoing { queue, queued_bytes: queued_bytes.clone() };
    let opened = Input::Opened { member, connection: number, remote, outgoing: ours };
    if input.send(opened).is_err() {
        return;
    }
    let (reader, writer) = stream.split();
    tokio::select! {
        () = read(reader, number, &input) => {}
        () = write(writer, outgoing, &queued_bytes) => {}
    }
    let _ = input.send(Input::Closed { connection: number });
}

async fn read(
    mut reader: tokio::net::tcp::ReadHalf<'_>,
    connection: ConnectionNumber,
    input: &Sender<Input>,
) {
    let credits = Arc::new(Semaphore::new(CHUNKS_IN_FLIGHT));
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let Ok(credit) = credits.clone().acquire_owned().await else {
            return;
        };
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let bytes = buffer[..count].to_vec();
                if input.send(Input::Bytes { connection, bytes, credit }).is_err() {
                    return;
                }
            }
        }
    }
}

async fn write(
    mut writer: tokio::net::tcp::WriteHalf<'_>,
    mut outgoing: UnboundedReceiver<Vec<u8>>,
    queued_bytes: &AtomicUsize,
) {
    while let Some(bytes) = outgoing.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
        queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
}
