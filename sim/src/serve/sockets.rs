//! The sockets: one door per member, one task per connection.
//!
//! What they say to the engine goes through one channel. It is bounded by credits: each connection
//! may have so many chunks under way, and reads no further until the engine has taken one in.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::engine::Input;

/// Bytes read from a socket at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks of one connection under way to the engine.
const CHUNKS_IN_FLIGHT: usize = 16;
/// Bytes waiting for one slow reader; a little more than two of the largest messages.
const OUTGOING_BYTES_MAX: usize = 100_000_000;
/// How long a client may take over its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// What all doors share.
#[derive(Clone)]
pub(crate) struct Lobby {
    input: Sender<Input>,
    places: Arc<Semaphore>,
    last_number: Arc<AtomicU64>,
    tls: Option<TlsAcceptor>,
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
    pub(crate) fn new(
        input: Sender<Input>,
        connections_max: usize,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        Lobby {
            input,
            places: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            last_number: Arc::default(),
            tls,
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
        let visit = Visit { remote, member, number, input: lobby.input.clone(), _place: place };
        tokio::spawn(welcome(stream, lobby.tls.clone(), visit));
    }
}

/// A connection and its place.
struct Visit {
    remote: SocketAddr,
    member: usize,
    number: ConnectionNumber,
    input: Sender<Input>,
    _place: OwnedSemaphorePermit,
}

/// Shakes hands, if that is the custom here, and serves.
async fn welcome(stream: TcpStream, tls: Option<TlsAcceptor>, visit: Visit) {
    // Requests and replies are small, and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = tls else {
        let (reader, writer) = stream.into_split();
        return serve(reader, writer, None, visit).await;
    };
    // A client that does not know TLS, or is not believed, is closed upon.
    let greeted = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
    if let Ok(Ok(stream)) = greeted {
        let certificate = super::tls::subject(stream.get_ref().1);
        let (reader, writer) = tokio::io::split(stream);
        serve(reader, writer, certificate, visit).await;
    }
}

/// One connection, from accept to close.
async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    certificate: Option<String>,
    visit: Visit,
) {
    let Visit { remote, member, number, input, _place } = visit;
    let (queue, outgoing) = unbounded_channel();
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let ours = Outgoing { queue, queued_bytes: queued_bytes.clone() };
    let opened = Input::Opened { member, connection: number, remote, certificate, outgoing: ours };
    if input.send(opened).is_err() {
        return;
    }
    tokio::select! {
        () = read(reader, number, &input) => {}
        () = write(writer, outgoing, &queued_bytes) => {}
    }
    let _ = input.send(Input::Closed { connection: number });
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
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
    mut writer: impl AsyncWrite + Unpin,
    mut outgoing: UnboundedReceiver<Vec<u8>>,
    queued_bytes: &AtomicUsize,
) {
    while let Some(bytes) = outgoing.recv().await {
        // What TLS has taken in has to be flushed; a plain socket has nothing to flush.
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
}
