//! One connection: a byte stream, its buffers, and what is owed on it.

mod handshake;

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::lock;
use crate::time::Instant;
use crate::transport::{Stream, Transport};
use crate::uri::ServerAddress;
use crate::wire::{self, Flags, FrameReader, Message};

pub(crate) use self::handshake::{Greeting, ServerTraits, Unestablished, add_server_api};
use crate::options::Compressor;

/// How much is read at least at one time, in bytes: a buffer grows to what its connection is used for, and
/// a monitor needs little.
const READ_BYTES: usize = 2 * 1024;
/// A write buffer that grew beyond this for one request is given back after it, in bytes.
const KEPT_WRITE_BYTES: usize = 256 * 1024;

/// Ends whatever its connection is being waited for, from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    raised: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Interrupt {
    /// Makes the pending and every later exchange fail. Must not be called with a lock held.
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it was raised.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is under way.
    Idle,
    /// A request is partly written: nothing else can be sent any more.
    Writing,
    /// The request with this identifier was sent, its reply has not come; `None` where the server
    /// sends reply after reply to one request.
    Owing(Option<i32>),
    /// Unusable.
    Broken,
}

/// A connection to one server.
pub(crate) struct Connection {
    /// Identifier within its pool, from 1; 0 outside of pools.
    pub(crate) id: u64,
    /// The pool's generation it was made in.
    pub(crate) generation: u64,
    /// What the server said of itself when it was opened.
    pub(crate) traits: ServerTraits,
    /// Interrupts it from elsewhere.
    pub(crate) interrupt: Arc<Interrupt>,
    /// What requests are compressed with, agreed on when it was opened.
    compressor: Option<Compressor>,
    address: ServerAddress,
    stream: Box<dyn Stream>,
    reader: FrameReader,
    out: Vec<u8>,
    written: usize,
    state: State,
}

impl Connection {
    /// Opens a byte stream; nothing is said on it yet.
    ///
    /// # Errors
    /// `Io`, about the server at `address`.
    pub(crate) async fn open(
        transport: &dyn Transport,
        address: &ServerAddress,
        by: Instant,
    ) -> Result<Self> {
        let stream = transport
            .connect(address, by)
            .await
            .map_err(|error| Error::from(error).at(address.clone()))?;
        Ok(Connection {
            id: 0,
            generation: 0,
            traits: ServerTraits::default(),
            interrupt: Arc::default(),
            compressor: None,
            address: address.clone(),
            stream,
            reader: FrameReader::new(),
            out: Vec::new(),
            written: 0,
            state: State::Idle,
        })
    }

    /// Moves the one deadline of everything that follows; [`Instant::NEVER`] removes it.
    pub(crate) fn set_deadline(&mut self, at: Instant) {
        self.stream.set_deadline((at != Instant::NEVER).then_some(at));
    }

    /// The empty buffer the next request is to be written into.
    pub(crate) fn request_buffer(&mut self) -> &mut Vec<u8> {
        assert!(self.state == State::Idle, "one request at a time: {:?}", self.state);
        if self.out.capacity() > KEPT_WRITE_BYTES {
            self.out = Vec::new();
        }
        self.out.clear();
        &mut self.out
    }

    /// What was written into the request buffer.
    pub(crate) fn request_bytes(&self) -> &[u8] {
        &self.out
    }

    /// Compresses what is in the request buffer, the command `name`, if that was agreed on.
    ///
    /// # Errors
    /// `Internal` if the compressor fails.
    pub(crate) fn compress_request(&mut self, name: &str) -> Result<()> {
        let Some(compressor) = &self.compressor else { return Ok(()) };
        if !wire::is_compressible(name) {
            return Ok(());
        }
        let mut packed = Vec::with_capacity(self.out.len() / 2);
        wire::compress(&self.out, compressor, &mut packed)
            .map_err(|error| Error::new(ErrorKind::Internal { message: error.to_string() }))?;
        self.out = packed;
        Ok(())
    }

    /// The server.
    pub(crate) fn server_address(&self) -> &ServerAddress {
        &self.address
    }

    /// Sends what is in the request buffer, whose identifier is `request_id`. Without a reply to
    /// come (`w: 0`), the connection is free again at once.
    ///
    /// # Errors
    /// `Io`. The connection cannot be used any more.
    pub(crate) async fn send(&mut self, request_id: i32, replies: bool) -> Result<()> {
        self.written = 0;
        self.state = State::Writing;
        let sent = poll_fn(|cx| self.poll_send(cx)).await;
        self.settle(sent)?;
        self.state = if replies { State::Owing(Some(request_id)) } else { State::Idle };
        Ok(())
    }

    /// Receives the reply that is owed. If it says that more will come, the next is owed at once.
    ///
    /// # Errors
    /// `Io`, or `InvalidResponse` if what came is no message. The connection cannot be used any more.
    pub(crate) async fn receive(&mut self) -> Result<Message> {
        let State::Owing(owed) = self.state else {
            return Err(self.broken(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let message = match self.reader.next() {
                Ok(Some(message)) => message,
                Ok(None) => {
                    let read = poll_fn(|cx| self.poll_fill(cx)).await;
                    self.settle(read)?;
                    continue;
                }
                Err(error) => {
                    self.state = State::Broken;
                    let error = Error::invalid_response(error.to_string());
                    return Err(error.at(self.address.clone()));
                }
            };
            let more = message.flags.contains(Flags::MORE_TO_COME);
            if let Some(owed) = owed
                && message.response_to != owed
            {
                self.state = State::Broken;
                let what = format!("a reply to request {} came, not {owed}", message.response_to);
                return Err(Error::invalid_response(what).at(self.address.clone()));
            }
            self.state = if more { State::Owing(None) } else { State::Idle };
            return Ok(message);
        }
    }

    /// Whether a reply is still owed for a request that was sent whole: the connection may be kept
    /// if the next user reads it first.
    pub(crate) fn owes_reply(&self) -> bool {
        matches!(self.state, State::Owing(_))
    }

    /// Whether the next request can be sent, once what is owed was read.
    pub(crate) fn is_usable(&self) -> bool {
        matches!(self.state, State::Idle | State::Owing(_))
    }

    /// Nothing may be sent on it any more.
    pub(crate) fn mark_broken(&mut self) {
        self.state = State::Broken;
    }

    /// Whether the server closed it or said something unasked. Meaningless while a reply is owed.
    pub(crate) fn is_dirty(&mut self) -> bool {
        self.reader.buffered() > 0 || self.stream.is_dirty()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            if let Some(error) = self.interruption(cx) {
                return Poll::Ready(Err(error));
            }
            match self.stream.poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.interruption(cx) {
            return Poll::Ready(Err(error));
        }
        let missing = self.reader.missing();
        let space = self.reader.space(missing.max(READ_BYTES));
        match self.stream.poll_read(cx, space) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ))),
            Poll::Ready(Ok(count)) => {
                self.reader.filled(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The error of a raised interrupt; otherwise makes sure that one to come wakes this task.
    fn interruption(&self, cx: &Context<'_>) -> Option<io::Error> {
        {
            let mut waker = lock(&self.interrupt.waker);
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        self.interrupt.is_raised().then(|| {
            io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "interrupted because the connection pool was cleared",
            )
        })
    }

    fn settle<T>(&mut self, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| self.broken(error))
    }

    fn broken(&mut self, error: io::Error) -> Error {
        self.state = State::Broken;
        Error::from(error).at(self.address.clone())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
