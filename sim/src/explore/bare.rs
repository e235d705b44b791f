//! A client with nothing around it: one connection to each member, no monitors, no pools.
//!
//! It does what any driver must do to keep a replica set's promises: it looks for the primary, retries
//! a write once under the same transaction number, and carries cluster times from reply to request. A
//! seed with it costs about half of one with the driver, which is why most seeds use it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, Timestamp, rawdoc};
use stepdown_driver::Instant;
use stepdown_driver::transport::{Stream, Transport};
use stepdown_driver::uri::ServerAddress;
use stepdown_driver::wire::{FrameReader, Message};

use super::plan::OperationAt;
use crate::check::{Asked, Outcome, Strength};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a member may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_millis(1_000);
/// How long a primary is looked for.
const SEARCH: Duration = Duration::from_secs(5);
/// The pause between two rounds of looking.
const PAUSE: Duration = Duration::from_millis(400);
/// `wtimeout` and `maxTimeMS`.
pub(super) const SERVER_PATIENCE_MILLIS: i64 = 4_000;

/// The database of the workload.
pub(super) const DATABASE: &str = "check";

struct Connection {
    stream: Box<dyn Stream>,
    frames: FrameReader,
}

/// The client.
pub(super) struct Bare {
    transport: Arc<dyn Transport>,
    hosts: Arc<[ServerAddress]>,
    connections: Vec<Option<Connection>>,
    primary: Option<usize>,
    next_member: usize,
    lsid: [u8; 16],
    txn_number: i64,
    request_id: i32,
    operation_time: Option<Timestamp>,
    cluster_time: Option<RawDocumentBuf>,
    /// A retried write was answered from the session's history.
    pub(super) retry_answered: bool,
}

/// Why an attempt failed: a server's error code, or 0.
type Attempt = Result<RawDocumentBuf, i32>;

impl Bare {
    pub(super) fn new(transport: Arc<dyn Transport>, hosts: Arc<[ServerAddress]>) -> Self {
        let mut lsid = [0; 16];
        lsid[..8].copy_from_slice(&transport.random().to_be_bytes());
        lsid[8..].copy_from_slice(&transport.random().to_be_bytes());
        lsid[6] = lsid[6] & 0x0f | 0x40;
        lsid[8] = lsid[8] & 0x3f | 0x80;
        Bare {
            connections: hosts.iter().map(|_| None).collect(),
            hosts,
            primary: None,
            next_member: 0,
            lsid,
            txn_number: 0,
            request_id: 0,
            operation_time: None,
            cluster_time: None,
            retry_answered: false,
            transport,
        }
    }

    /// Runs one operation of the workload.
    pub(super) async fn perform(&mut self, operation: &OperationAt) -> Outcome {
        match operation.asked {
            Asked::Look { id } => {
                let reply = self.read(operation, "log", rawdoc! { "_id": id }).await;
                reply.map_or_else(Outcome::Failed, |reply| {
                    Outcome::Found(first_found(&reply).is_some())
                })
            }
            Asked::Get { register } => {
                let filter = rawdoc! { "_id": i32::from(register) };
                let reply = self.read(operation, "registers", filter).await;
                reply.map_or_else(Outcome::Failed, |reply| {
                    let value = first_found(&reply).and_then(|found| found.get_i64("v").ok());
                    Outcome::Value(value.unwrap_or(0))
                })
            }
            _ => self.write(operation).await,
        }
    }

    async fn write(&mut self, operation: &OperationAt) -> Outcome {
        let retryable = !matches!(operation.asked, Asked::AddMany { .. });
        let body = write_command(operation);
        if retryable {
            self.txn_number += 1;
        }
        let mut last = 0;
        for attempt in 0..2 {
            let Some(member) = self.find_primary().await else { return Outcome::Failed(last) };
            let mut command = body.clone();
            command.append(
                cstr!("lsid"),
                rawdoc! { "id": Binary { subtype: BinarySubtype::Uuid, bytes: self.lsid.to_vec() } },
            );
            if retryable {
                command.append(cstr!("txnNumber"), self.txn_number);
            }
            match self.ask(member, command).await {
                Ok(reply) => {
                    self.retry_answered |=
                        attempt > 0 && matches!(reply.get("retriedStmtIds"), Ok(Some(_)));
                    let n = count(&reply);
                    return match operation.asked {
                        Asked::Swap { .. } | Asked::AddMany { .. } if n == 0 => Outcome::Unmatched,
                        _ => Outcome::Done,
                    };
                }
                Err(code) => {
                    last = code;
                    self.primary = None;
                    if !retryable || !is_retryable(code) {
                        break;
                    }
                }
            }
        }
        Outcome::Failed(last)
    }

    async fn read(
        &mut self,
        operation: &OperationAt,
        collection: &str,
        filter: RawDocumentBuf,
    ) -> Attempt {
        let level = match operation.strength {
            Strength::Weak => "local",
            Strength::Majority => "majority",
            Strength::Linearizable => "linearizable",
        };
        let mut command = rawdoc! { "find": collection, "filter": filter, "limit": 1_i32 };
        let mut concern = rawdoc! { "level": level };
        if let Some(after) = self.operation_time.filter(|_| operation.session) {
            concern.append(cstr!("afterClusterTime"), after);
        }
        command.append(cstr!("readConcern"), concern);
        command.append(cstr!("maxTimeMS"), SERVER_PATIENCE_MILLIS);
        command.append(cstr!("$db"), DATABASE);
        let member = if operation.secondary {
            command.append(cstr!("$readPreference"), rawdoc! { "mode": "secondaryPreferred" });
            self.next_member = (self.next_member + 1) % self.hosts.len();
            self.next_member
        } else {
            self.find_primary().await.ok_or(0)?
        };
        let answer = self.ask(member, command).await;
        if answer.is_err() && !operation.secondary {
            self.primary = None;
        }
        answer
    }

    /// The member that says it is primary.
    async fn find_primary(&mut self) -> Option<usize> {
        if self.primary.is_some() {
            return self.primary;
        }
        let by = self.transport.now() + SEARCH;
        loop {
            for member in 0..self.hosts.len() {
                let hello = rawdoc! { "hello": 1_i32, "$db": "admin" };
                let by = self.transport.now() + HELLO_PATIENCE;
                let Ok(reply) = self.exchange(member, hello, by).await else { continue };
                if reply.get_bool("isWritablePrimary").unwrap_or(false) {
                    self.primary = Some(member);
                    return self.primary;
                }
            }
            let again = self.transport.now() + PAUSE;
            if again >= by {
                return None;
            }
            self.transport.sleep_until(again).await;
        }
    }

    /// One command to one member; an error of any kind is one.
    async fn ask(&mut self, member: usize, mut command: RawDocumentBuf) -> Attempt {
        if let Some(time) = &self.cluster_time {
            command.append(cstr!("$clusterTime"), time.clone());
        }
        let by = self.transport.now() + PATIENCE;
        let reply = self.exchange(member, command, by).await.map_err(|_| 0)?;
        if let Ok(time) = reply.get_document("$clusterTime") {
            let newer = match &self.cluster_time {
                Some(known) => {
                    time.get_timestamp("clusterTime").ok() > known.get_timestamp("clusterTime").ok()
                }
                None => true,
            };
            if newer {
                self.cluster_time = Some(time.to_owned());
            }
        }
        if let Ok(time) = reply.get_timestamp("operationTime")
            && self.operation_time.is_none_or(|known| known < time)
        {
            self.operation_time = Some(time);
        }
        match error_of(&reply) {
            Some(code) => Err(code),
            None => Ok(reply),
        }
    }

    async fn exchange(
        &mut self,
        member: usize,
        command: RawDocumentBuf,
        by: Instant,
    ) -> io::Result<RawDocumentBuf> {
        let outcome = self.try_exchange(member, command, by).await;
        if outcome.is_err() {
            // It may owe an answer to a question nobody asks any more.
            self.connections[member] = None;
        }
        outcome
    }

    async fn try_exchange(
        &mut self,
        member: usize,
        command: RawDocumentBuf,
        by: Instant,
    ) -> io::Result<RawDocumentBuf> {
        if let Some(connection) = &mut self.connections[member]
            && connection.stream.is_dirty()
        {
            self.connections[member] = None;
        }
        if self.connections[member].is_none() {
            let connect_by = by.min(self.transport.now() + HELLO_PATIENCE);
            let stream = self.transport.connect(&self.hosts[member], connect_by).await?;
            self.connections[member] = Some(Connection { stream, frames: FrameReader::new() });
        }
        self.request_id += 1;
        let request_id = self.request_id;
        let Some(connection) = &mut self.connections[member] else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        connection.stream.set_deadline(Some(by));
        let mut bytes = Vec::with_capacity(command.as_bytes().len() + 32);
        Message::new(request_id, 0, command).encode(&mut bytes);
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            written += std::future::poll_fn(|cx| connection.stream.poll_write(cx, rest)).await?;
        }
        loop {
            if let Some(reply) = connection.frames.next().map_err(io::Error::other)? {
                if reply.response_to == request_id {
                    return Ok(reply.body);
                }
                continue;
            }
            let mut buffer = [0_u8; 2_048];
            let count =
                std::future::poll_fn(|cx| connection.stream.poll_read(cx, &mut buffer)).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            connection.frames.feed(&buffer[..count]);
        }
    }
}

fn write_command(operation: &OperationAt) -> RawDocumentBuf {
    let concern = match operation.strength {
        Strength::Weak => rawdoc! { "w": 1_i32 },
        _ => rawdoc! { "w": "majority", "wtimeout": SERVER_PATIENCE_MILLIS },
    };
    let mut command = match operation.asked {
        Asked::Append { id } => rawdoc! { "insert": "log", "documents": [{ "_id": id }] },
        Asked::Add { counter } => rawdoc! { "update": "counters", "updates": [{
            "q": { "_id": i32::from(counter) }, "u": { "$inc": { "n": 1_i64 } }, "upsert": true,
        }] },
        Asked::AddMany { counter } => rawdoc! { "update": "counters", "updates": [{
            "q": { "_id": i32::from(counter) }, "u": { "$inc": { "n": 1_i64 } }, "multi": true,
        }] },
        Asked::Put { register, value } => rawdoc! { "update": "registers", "updates": [{
            "q": { "_id": i32::from(register) }, "u": { "$set": { "v": value } }, "upsert": true,
        }] },
        Asked::Swap { register, from, to } => rawdoc! { "update": "registers", "updates": [{
            "q": { "_id": i32::from(register), "v": from }, "u": { "$set": { "v": to } },
        }] },
        Asked::Look { .. } | Asked::Get { .. } => unreachable!("reads are not written"),
    };
    command.append(cstr!("writeConcern"), concern);
    command.append(cstr!("$db"), DATABASE);
    command
}

/// The code of whatever kind of error a reply tells of.
fn error_of(reply: &RawDocumentBuf) -> Option<i32> {
    if !matches!(reply.get_f64("ok"), Ok(1.0)) {
        return Some(reply.get_i32("code").unwrap_or(1));
    }
    if let Ok(errors) = reply.get_array("writeErrors") {
        let first = errors.into_iter().next()?.ok()?;
        return Some(first.as_document()?.get_i32("code").unwrap_or(1));
    }
    let error = reply.get_document("writeConcernError").ok()?;
    Some(error.get_i32("code").unwrap_or(1))
}

fn count(reply: &RawDocumentBuf) -> i64 {
    match reply.get("n") {
        Ok(Some(value)) => value.as_i32().map(i64::from).or(value.as_i64()).unwrap_or(0),
        _ => 0,
    }
}

fn first_found(reply: &RawDocumentBuf) -> Option<&bson::RawDocument> {
    let batch = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?;
    batch.into_iter().next()?.ok()?.as_document()
}

/// Whether a write is tried again: the network failed, or the member is not, or no longer, primary.
fn is_retryable(code: i32) -> bool {
    matches!(code, 0 | 89 | 91 | 189 | 262 | 9001 | 10_107 | 11_600 | 11_602 | 13_435 | 13_436)
}
