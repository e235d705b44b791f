//! A primary of one, driven by a client's bytes.

use std::sync::Arc;

use bson::{Document, RawDocumentBuf, Uuid, doc};
use stepdown_driver::Instant;
use stepdown_driver::wire::{FrameReader, Message};

use crate::mongod::{
    ConnectionId, DataFiles, Input, Mongod, Options, Output, ReplSetOption, ServerVersion,
    WallClock,
};
use crate::random::RandomStream;

mod bulk;
mod catalog;
mod cursors;
mod operators;
mod plans;
mod writes;

const CLIENT: ConnectionId = ConnectionId(1);

/// A set of one member that is primary, and a client connected to it.
struct Server {
    mongod: Mongod,
    now: Instant,
    request_id: i32,
}

impl Server {
    fn new() -> Server {
        Server::of_version(ServerVersion::V8_0)
    }

    fn of_version(version: ServerVersion) -> Server {
        let host: Arc<str> = "a:27017".into();
        let options = Options {
            check_messages: true,
            auth: false,
            oplog_size_bytes: crate::mongod::storage::DEFAULT_OPLOG_BYTES,
            repl_set: Some(ReplSetOption { name: "foo".into(), seeds: vec![host.clone()] }),
            host,
            version,
            clock: WallClock { epoch_millis: 1_800_000_000_000, drift_ppm: 0 },
            record: false,
        };
        let now = Instant::default();
        let random = RandomStream::new(1, "a:27017");
        let mongod = Mongod::start(now, options, DataFiles::default(), random);
        let mut server = Server { mongod, now, request_id: 0 };
        server.mongod.handle(
            now,
            Input::ClientOpened {
                connection: CLIENT,
                remote: "client:1".into(),
                certificate: None,
            },
        );
        let config = doc! { "_id": "foo", "members": [{ "_id": 0, "host": "a:27017" }] };
        server.ok("admin", doc! { "replSetInitiate": config });
        server.wait_until_writable();
        server
    }

    fn connect(&mut self) {
        let remote = "client:1".into();
        self.mongod.handle(
            self.now,
            Input::ClientOpened { connection: CLIENT, remote, certificate: None },
        );
    }

    fn wait_until_writable(&mut self) {
        for _ in 0..1000 {
            if self.mongod.status().writable {
                return;
            }
            self.pass_time();
        }
        panic!("a set of one elects itself");
    }

    /// A crash, a restart, a new connection.
    fn restart(&mut self) {
        let options = self.mongod.options.clone();
        let new = Mongod::start(
            self.now,
            options.clone(),
            DataFiles::default(),
            RandomStream::new(2, "a"),
        );
        let (files, lost) = std::mem::replace(&mut self.mongod, new).kill();
        assert_eq!(lost, 0, "every write here waits for the journal");
        self.mongod = Mongod::start(self.now, options, files, RandomStream::new(3, "a"));
        self.connect();
        self.wait_until_writable();
    }

    /// Moves on to the next timeout.
    fn pass_time(&mut self) {
        self.now = self.mongod.next_timeout();
        self.mongod.handle(self.now, Input::Timeout);
    }

    /// Sends a command and waits for the reply, without the fields that every reply carries.
    fn run(&mut self, db: &str, mut command: Document) -> Document {
        command.insert("$db", db);
        self.request_id += 1;
        let mut bytes = Vec::new();
        let body = RawDocumentBuf::try_from(&command).unwrap();
        Message::new(self.request_id, 0, body).encode(&mut bytes);
        self.mongod.handle(self.now, Input::ClientBytes { connection: CLIENT, bytes });
        let mut reader = FrameReader::new();
        for _ in 0..1000 {
            while let Some(output) = self.mongod.poll_output() {
                if let Output::ClientBytes { bytes, .. } = output {
                    reader.feed(&bytes);
                }
            }
            if let Some(message) = reader.next().unwrap() {
                let mut reply = Document::try_from(&*message.body).unwrap();
                for field in ["$clusterTime", "operationTime", "electionId", "opTime"] {
                    reply.remove(field);
                }
                return reply;
            }
            self.pass_time();
        }
        panic!("{command} is not answered");
    }

    /// The reply of a command that must succeed, without `ok`.
    fn ok(&mut self, db: &str, command: Document) -> Document {
        let mut reply = self.run(db, command.clone());
        assert_eq!(reply.remove("ok").and_then(|ok| ok.as_f64()), Some(1.0), "{command}: {reply}");
        reply
    }

    /// The code and the message of a command that must fail.
    fn error(&mut self, db: &str, command: Document) -> (i32, String) {
        let reply = self.run(db, command.clone());
        assert_eq!(reply.get_f64("ok").ok(), Some(0.0), "{command}: {reply}");
        (reply.get_i32("code").unwrap(), reply.get_str("errmsg").unwrap().to_owned())
    }

    /// All documents of a find's first batch.
    fn find(&mut self, collection: &str, filter: Document) -> Vec<Document> {
        let reply = self.ok("t", doc! { "find": collection, "filter": filter });
        first_batch(&reply)
    }

    /// The oplog entries on a database, without what differs from run to run.
    fn oplog(&mut self, db: &str) -> Vec<String> {
        let entries: Vec<_> = self.mongod.storage().oplog().iter().cloned().collect();
        entries
            .iter()
            .filter(|entry| {
                entry.ns.starts_with(&format!("{db}."))
                    || entry.object.iter().next().unwrap().unwrap().0.as_str() == "applyOps"
            })
            .map(|entry| {
                let mut shown = Document::try_from(&entry.to_document()).unwrap();
                for field in ["ui", "ts", "t", "v", "wall", "lsid", "prevOpTime"] {
                    shown.remove(field);
                }
                shown.to_string()
            })
            .collect()
    }
}

fn first_batch(reply: &Document) -> Vec<Document> {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch")).unwrap();
    batch.iter().map(|document| document.as_document().unwrap().clone()).collect()
}

fn cursor_id(reply: &Document) -> i64 {
    reply.get_document("cursor").unwrap().get_i64("id").unwrap()
}

/// The same command as a retryable write.
fn retryable(mut command: Document, txn_number: i64) -> Document {
    command.insert("lsid", doc! { "id": Uuid::from_bytes([9; 16]) });
    command.insert("txnNumber", txn_number);
    command
}
