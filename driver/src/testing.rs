//! A scripted outside for unit tests: one thread, a clock that jumps, servers that are closures.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};

use crate::sync::lock;
use crate::time::Instant;
use crate::transport::{BoxFuture, SrvRecords, Stream, Transport};
use crate::uri::ServerAddress;
use crate::wire::{Flags, FrameReader, Message};

/// How long each reply takes if nothing else is said.
const LATENCY: Duration = Duration::from_millis(1);

/// A request as a scripted server sees it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The server.
    pub(crate) address: String,
    /// Which connection of the transport, from 1.
    pub(crate) connection: u64,
    /// The command, document sequences as arrays.
    pub(crate) command: Document,
    /// When it came.
    pub(crate) at: Instant,
}

impl Call {
    /// The name of the command.
    pub(crate) fn name(&self) -> &str {
        self.command.keys().next().map_or("", String::as_str)
    }

    /// Whether it is a hello in any spelling.
    pub(crate) fn is_hello(&self) -> bool {
        ["hello", "ismaster"].contains(&self.name().to_ascii_lowercase().as_str())
    }
}

/// What a scripted server does with a request.
pub(crate) enum Answer {
    /// This, after the usual time.
    Reply(Document),
    /// This, after a time of its own.
    After(Duration, Document),
    /// Reply after reply to one request, each after its time.
    Stream(Vec<(Duration, Document)>),
    /// Nothing, ever.
    Silence,
    /// The end of the connection.
    Close,
}

type Script = dyn Fn(&Call) -> Answer + Send + Sync;

/// The outside.
pub(crate) struct Scripted {
    world: Arc<Mutex<World>>,
    script: Arc<Script>,
    random: AtomicU64,
}

#[derive(Default)]
struct World {
    now: Instant,
    sequence: u64,
    timers: BTreeMap<(Instant, u64), Waker>,
    spawned: VecDeque<BoxFuture<'static, ()>>,
    calls: Vec<Call>,
    connections: u64,
    refusing: Vec<String>,
}

impl World {
    fn wake_at(&mut self, at: Instant, waker: &Waker) {
        self.sequence += 1;
        self.timers.insert((at, self.sequence), waker.clone());
    }
}

impl Scripted {
    /// An outside whose servers all follow `script`.
    pub(crate) fn new(script: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Scripted {
            world: Arc::default(),
            script: Arc::new(script),
            random: AtomicU64::new(0),
        })
    }

    /// Whether connections to `address` are refused from now on.
    pub(crate) fn refuse(&self, address: &str, refuse: bool) {
        let refusing = &mut lock(&self.world).refusing;
        refusing.retain(|known| known != address);
        if refuse {
            refusing.push(address.to_owned());
        }
    }

    /// All requests so far but hellos.
    pub(crate) fn commands(&self) -> Vec<Call> {
        lock(&self.world).calls.iter().filter(|call| !call.is_hello()).cloned().collect()
    }

    /// All requests of one command so far.
    pub(crate) fn calls(&self, name: &str) -> Vec<Call> {
        lock(&self.world).calls.iter().filter(|call| call.name() == name).cloned().collect()
    }

    /// How many connections were opened.
    pub(crate) fn connections(&self) -> u64 {
        lock(&self.world).connections
    }

    /// Drives `future` and what it spawned; the clock jumps when nothing is ready.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut root = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let root_waker = Waker::from(woken.clone());
        let mut tasks: Vec<(BoxFuture<'static, ()>, Arc<Woken>)> = Vec::new();
        loop {
            let mut progress = false;
            if woken.0.swap(false, Ordering::SeqCst) {
                progress = true;
                let mut cx = Context::from_waker(&root_waker);
                if let Poll::Ready(output) = root.as_mut().poll(&mut cx) {
                    return output;
                }
            }
            let spawned: Vec<_> = lock(&self.world).spawned.drain(..).collect();
            tasks.extend(spawned.into_iter().map(|t| (t, Arc::new(Woken(AtomicBool::new(true))))));
            tasks.retain_mut(|(task, woken)| {
                if !woken.0.swap(false, Ordering::SeqCst) {
                    return true;
                }
                progress = true;
                let waker = Waker::from(woken.clone());
                task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            });
            if progress {
                continue;
            }
            let next = {
                let mut world = lock(&self.world);
                let ((at, _), waker) =
                    world.timers.pop_first().expect("everybody waits and nothing will happen");
                world.now = world.now.max(at);
                waker
            };
            next.wake();
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Transport for Scripted {
    fn now(&self) -> Instant {
        lock(&self.world).now
    }

    fn unix_millis(&self) -> i64 {
        1_800_000_000_000 + self.now().as_millis().cast_signed()
    }

    fn random(&self) -> u64 {
        // A multiplicative counter: different numbers, the same ones every time.
        self.random
            .fetch_add(1, Ordering::SeqCst)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        lock(&self.world).spawned.push_back(task);
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let world = self.world.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            let mut world = lock(&world);
            if world.now >= at {
                return Poll::Ready(());
            }
            world.wake_at(at, cx.waker());
            Poll::Pending
        }))
    }

    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        _by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            self.sleep_until(self.now() + LATENCY).await;
            let mut world = lock(&self.world);
            if world.refusing.contains(&to.to_string()) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            world.connections += 1;
            Ok(Box::new(Pipe {
                world: self.world.clone(),
                script: self.script.clone(),
                address: to.to_string(),
                connection: world.connections,
                requests: FrameReader::new(),
                replies: VecDeque::new(),
                closed: false,
                deadline: None,
            }) as Box<dyn Stream>)
        })
    }

    fn resolve_srv<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct Pipe {
    world: Arc<Mutex<World>>,
    script: Arc<Script>,
    address: String,
    connection: u64,
    requests: FrameReader,
    replies: VecDeque<(Instant, Vec<u8>)>,
    closed: bool,
    deadline: Option<Instant>,
}

impl Pipe {
    fn answer(&mut self, message: &Message) {
        let mut command = Document::try_from(&message.body).unwrap();
        for (field, documents) in &message.sequences {
            let documents: Vec<_> =
                documents.iter().map(|d| Document::try_from(d).unwrap()).collect();
            command.insert(field.clone(), documents);
        }
        let at = lock(&self.world).now;
        let call = Call { address: self.address.clone(), connection: self.connection, command, at };
        lock(&self.world).calls.push(call.clone());
        if message.flags.contains(Flags::MORE_TO_COME) {
            return;
        }
        let mut push = |after: Duration, reply: &Document, more: bool| {
            let mut bytes = Vec::new();
            let body = RawDocumentBuf::try_from(reply).unwrap();
            let mut reply = Message::new(1, message.request_id, body);
            if more {
                reply.flags = Flags::MORE_TO_COME;
            }
            reply.encode(&mut bytes);
            self.replies.push_back((at + after, bytes));
        };
        match (self.script)(&call) {
            Answer::Reply(reply) => push(LATENCY, &reply, false),
            Answer::After(after, reply) => push(after, &reply, false),
            Answer::Stream(replies) => {
                for (after, reply) in replies {
                    push(after, &reply, true);
                }
            }
            Answer::Silence => {}
            Answer::Close => self.closed = true,
        }
    }
}

impl Stream for Pipe {
    fn poll_write(&mut self, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.requests.feed(bytes);
        while let Some(message) = self.requests.next().unwrap() {
            self.answer(&message);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut world = lock(&self.world);
        let now = world.now;
        if let Some((at, bytes)) = self.replies.front_mut() {
            if *at <= now {
                let count = bytes.len().min(into.len());
                into[..count].copy_from_slice(&bytes[..count]);
                bytes.drain(..count);
                if bytes.is_empty() {
                    self.replies.pop_front();
                }
                return Poll::Ready(Ok(count));
            }
            let at = *at;
            world.wake_at(at, cx.waker());
        } else if self.closed {
            return Poll::Ready(Ok(0));
        }
        if let Some(deadline) = self.deadline {
            if deadline <= now {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            world.wake_at(deadline, cx.waker());
        }
        Poll::Pending
    }

    fn set_deadline(&mut self, at: Option<Instant>) {
        self.deadline = at;
    }

    fn is_dirty(&mut self) -> bool {
        let now = lock(&self.world).now;
        self.closed || self.replies.front().is_some_and(|(at, _)| *at <= now)
    }
}

/// A hello reply of a member of the set `foo` of a, b and c, of which a is the primary.
pub(crate) fn hello(call: &Call) -> Document {
    let primary = call.address == "a:27017";
    doc! {
        "helloOk": true, "isWritablePrimary": primary, "secondary": !primary,
        "hosts": ["a:27017", "b:27017", "c:27017"], "setName": "foo", "setVersion": 1,
        "me": &call.address, "primary": "a:27017", "logicalSessionTimeoutMinutes": 30,
        "maxWireVersion": 25, "minWireVersion": 0, "connectionId": 5, "ok": 1.0,
    }
}
