//! How often the driver allocates for one operation: a number that does not depend on the machine, so
//! that it can be a gate.
//!
//! The servers are canned replies behind a [`Transport`] of their own, which allocates nothing once it is
//! warm: what is counted is the driver's, BSON and serde included.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::alloc::System;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stepdown_driver::transport::{BoxFuture, SrvRecords, Stream, Transport};
use stepdown_driver::wire::Message;
use stepdown_driver::{Client, Instant, ServerAddress};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How many operations each count is the mean of.
const OPERATIONS: usize = 200;

/// Servers whose answers are ready.
struct Canned {
    members: usize,
    tasks: Mutex<VecDeque<BoxFuture<'static, ()>>>,
    random: AtomicU64,
}

impl Canned {
    fn set(members: usize) -> Arc<Self> {
        Arc::new(Canned { members, tasks: Mutex::default(), random: AtomicU64::new(1) })
    }

    fn client(self: &Arc<Self>) -> Client {
        Client::with_transport("mongodb://m0:27017/?replicaSet=foo", self.clone()).unwrap()
    }

    /// Polls `future` and what was spawned until it is done. Nothing here ever has to be waited for.
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        let mut running = Vec::new();
        for _ in 0..10_000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                self.tasks.lock().unwrap().extend(running);
                return output;
            }
            running.extend(self.tasks.lock().unwrap().drain(..));
            running.retain_mut(|task: &mut BoxFuture<'static, ()>| {
                task.as_mut().poll(&mut cx).is_pending()
            });
        }
        panic!("it waits for something that will not happen");
    }
}

impl Transport for Canned {
    fn now(&self) -> Instant {
        Instant::from_millis(1)
    }

    fn unix_millis(&self) -> i64 {
        1_800_000_000_000
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        self.tasks.lock().unwrap().push_back(task);
    }

    fn sleep_until(&self, _at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        _by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        let stream = Answers::new(self.members, to);
        Box::pin(async move { Ok(Box::new(stream) as Box<dyn Stream>) })
    }

    fn resolve_srv<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// One connection: each request is answered by its command's name.
struct Answers {
    replies: Vec<(&'static [u8], Vec<u8>)>,
    reply: usize,
    request_id: [u8; 4],
    sent: usize,
    increment: u32,
}

impl Answers {
    fn new(members: usize, to: &ServerAddress) -> Self {
        let hosts: Vec<String> = (0..members).map(|n| format!("m{n}:27017")).collect();
        let time = Timestamp { time: 1_800_000_000, increment: 1 };
        let gossip = |mut reply: Document| {
            let signature = doc! {
                "hash": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0; 20] },
                "keyId": 7_i64,
            };
            reply.insert("ok", 1.0);
            reply.insert("$clusterTime", doc! { "clusterTime": time, "signature": signature });
            reply.insert("operationTime", time);
            let mut bytes = Vec::new();
            Message::new(1, 0, RawDocumentBuf::try_from(&reply).unwrap()).encode(&mut bytes);
            bytes
        };
        let primary = to.host() == "m0";
        let hello = doc! {
            "setName": "foo", "setVersion": 1, "hosts": hosts, "me": to.to_string(),
            "isWritablePrimary": primary, "ismaster": primary, "secondary": !primary,
            "primary": "m0:27017", "electionId": bson::oid::ObjectId::from_bytes([1; 12]),
            "logicalSessionTimeoutMinutes": 30, "minWireVersion": 0, "maxWireVersion": 21,
            "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "connectionId": 7, "readOnly": false,
        };
        let account = doc! { "_id": 7, "name": "x".repeat(400), "text": "y".repeat(500) };
        let cursor = doc! { "cursor": { "firstBatch": [account], "id": 0_i64, "ns": "app.notes" } };
        Answers {
            replies: vec![
                (b"isMaster", gossip(hello.clone())),
                (b"hello", gossip(hello)),
                (b"ping", gossip(doc! {})),
                (b"insert", gossip(doc! { "n": 1, "electionId": Bson::Null })),
                (b"find", gossip(cursor)),
            ],
            reply: 0,
            request_id: [0; 4],
            sent: usize::MAX,
            increment: 1,
        }
    }
}

impl Stream for Answers {
    fn poll_write(&mut self, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Header, flags, section kind, the document's length, the first element's type.
        self.request_id.copy_from_slice(&bytes[4..8]);
        let name = bytes[26..].split(|byte| *byte == 0).next().unwrap();
        let known = self.replies.iter().position(|(known, _)| *known == name);
        self.reply = known.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(name)));
        self.sent = 0;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_read(&mut self, _cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let (_, reply) = &mut self.replies[self.reply];
        if self.sent >= reply.len() {
            return Poll::Pending;
        }
        reply[8..12].copy_from_slice(&self.request_id);
        // Time goes on with every reply, as it does with every write.
        self.increment += 1;
        if let Some(at) = reply.windows(13).position(|window| window == b"\x11clusterTime\0") {
            reply[at + 13..at + 17].copy_from_slice(&self.increment.to_le_bytes());
        }
        let count = into.len().min(reply.len() - self.sent);
        into[..count].copy_from_slice(&reply[self.sent..self.sent + count]);
        self.sent += count;
        Poll::Ready(Ok(count))
    }

    fn set_deadline(&mut self, _at: Option<Instant>) {}

    fn is_dirty(&mut self) -> bool {
        false
    }
}

/// Allocations of one operation, a growing buffer counting as one each time.
fn allocations<F, T>(set: &Canned, mut operation: impl FnMut() -> F) -> usize
where
    F: Future<Output = stepdown_driver::Result<T>>,
{
    set.block_on(async {
        for _ in 0..20 {
            operation().await.unwrap();
        }
    });
    let region = Region::new(ALLOCATOR);
    set.block_on(async {
        for _ in 0..OPERATIONS {
            operation().await.unwrap();
        }
    });
    let change = region.change();
    // Whole numbers: what is left over belongs to the harness's own start.
    (change.allocations + change.reallocations) / OPERATIONS
}

#[derive(serde::Deserialize)]
struct Account {
    #[serde(rename = "_id")]
    _id: i32,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "text")]
    _text: String,
}

/// One test, so that nobody else allocates meanwhile.
#[test]
fn an_operation_allocates_a_handful_of_times_however_large_the_set() {
    let mut counts = Vec::new();
    for members in [1, 7] {
        let set = Canned::set(members);
        let client = set.client();
        let database = client.database("app");
        let notes = database.collection::<Document>("notes");
        let accounts = database.collection::<Account>("notes");
        let raw = database.collection::<RawDocumentBuf>("notes");
        let note = doc! { "n": 1_i64, "text": "x".repeat(230) };
        counts.push((
            members,
            allocations(&set, || database.run_command(doc! { "ping": 1 }).into_future()),
            allocations(&set, || notes.insert_one(&note).into_future()),
            allocations(&set, || accounts.find_one(doc! { "_id": 7 }).into_future()),
            allocations(&set, || raw.find_one(doc! { "_id": 7 }).into_future()),
        ));
    }
    println!("members, ping, insert, find_one typed, find_one raw: {counts:?}");
    let (_, ping, insert, typed, raw) = counts[0];
    assert!(insert <= 6, "an insert allocates {insert} times");
    assert!(ping <= 33, "a ping allocates {ping} times");
    assert!(typed <= 10, "a typed find_one allocates {typed} times");
    assert!(raw <= 9, "a raw find_one allocates {raw} times");
    assert_eq!(counts[1], (7, ping, insert, typed, raw), "the size of the set does not matter");
}
