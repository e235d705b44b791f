//! Stories of what operators and drivers ask of the server itself.

use stepdown_driver::wire::Flags;

use super::*;
use crate::mongod::ConnectionId;

const OTHER: ConnectionId = ConnectionId(2);

impl Server {
    /// Sends a command on a second connection, and does not wait.
    fn send_elsewhere(&mut self, db: &str, mut command: Document) {
        if self.mongod.clients.get(OTHER).is_none() {
            let remote = "client:2".into();
            let opened = Input::ClientOpened { connection: OTHER, remote, certificate: None };
            self.mongod.handle(self.now, opened);
        }
        command.insert("$db", db);
        let mut bytes = Vec::new();
        let body = RawDocumentBuf::try_from(&command).unwrap();
        Message::new(900, 0, body).encode(&mut bytes);
        self.mongod.handle(self.now, Input::ClientBytes { connection: OTHER, bytes });
    }

    /// What came back on a connection by now.
    fn replies_to(&mut self, wanted: ConnectionId) -> Vec<Message> {
        let mut reader = FrameReader::new();
        while let Some(output) = self.mongod.poll_output() {
            match output {
                Output::ClientBytes { connection, bytes } if connection == wanted => {
                    reader.feed(&bytes);
                }
                _ => {}
            }
        }
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }
}

#[test]
fn an_operation_that_waits_is_shown() {
    let mut server = Server::new();
    server.send_elsewhere("admin", doc! { "sleep": 1, "millis": 60_000, "comment": "long" });
    let shown = server.ok("admin", doc! { "currentOp": 1, "command.comment": "long" });
    let operation = shown.get_array("inprog").unwrap()[0].as_document().unwrap().clone();
    assert_eq!(operation.get_str("desc").ok(), Some("conn2"));
    let op = operation.get_i32("opid").unwrap();
    let by_stage = doc! {
        "aggregate": 1, "pipeline": [{ "$currentOp": {} }, { "$match": { "opid": op } }], "cursor": {},
    };
    assert_eq!(first_batch(&server.ok("admin", by_stage)).len(), 1);
}

#[test]
fn a_killed_operation_answers_that_it_was_interrupted() {
    let mut server = Server::new();
    server.send_elsewhere("admin", doc! { "sleep": 1, "millis": 60_000 });
    let op = server.mongod.parked[0].request.operation.op_id;
    let mut bytes = Vec::new();
    let kill = RawDocumentBuf::try_from(&doc! { "killOp": 1, "op": op, "$db": "admin" }).unwrap();
    Message::new(7, 0, kill).encode(&mut bytes);
    server.mongod.handle(server.now, Input::ClientBytes { connection: CLIENT, bytes });
    let replies = server.replies_to(OTHER);
    assert_eq!(replies[0].body.get_i32("code").ok(), Some(11_601));
}

#[test]
fn a_lock_by_fsync_holds_writes_until_it_is_given_back() {
    let mut server = Server::new();
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 1 }] });
    server.ok("admin", doc! { "fsync": 1, "lock": true });
    server.send_elsewhere("t", doc! { "insert": "c", "documents": [{ "_id": 2 }] });
    assert_eq!(server.find("c", doc! { "_id": 2 }), []);
    server.ok("admin", doc! { "fsyncUnlock": 1 });
    assert_eq!(server.find("c", doc! { "_id": 2 }), [doc! { "_id": 2 }]);
    let (code, message) = server.error("admin", doc! { "fsyncUnlock": 1 });
    assert_eq!((code, message.as_str()), (20, "fsyncUnlock called when not locked"));
}

#[test]
fn a_parameter_is_set_and_shown_and_a_wrong_one_is_refused() {
    let mut server = Server::new();
    let was = server.ok("admin", doc! { "setParameter": 1, "cursorTimeoutMillis": 5_000 });
    assert_eq!(was, doc! { "was": 600_000 });
    let shown = server.ok("admin", doc! { "getParameter": 1, "cursorTimeoutMillis": 1 });
    assert_eq!(shown, doc! { "cursorTimeoutMillis": 5_000 });
    let refused = server.error("admin", doc! { "setParameter": 1, "nonsense": 1 });
    assert_eq!(
        refused.1,
        "attempted to set unrecognized parameter [nonsense], use help:true to see options "
    );
    let refused = server.error("admin", doc! { "setParameter": 1, "enableTestCommands": 0 });
    assert_eq!(refused.1, "not allowed to change [enableTestCommands] at runtime");
}

#[test]
fn a_fail_point_blocks_before_it_fails_and_its_delay_counts_against_the_limit() {
    let mut server = Server::new();
    let configure = |server: &mut Server, data: Document| {
        let point =
            doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
        server.ok("admin", point);
    };
    let block = doc! { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 200 };
    configure(&mut server, block.clone());
    let before = server.now;
    server.ok("admin", doc! { "ping": 1 });
    assert_eq!((server.now - before).as_millis(), 200);
    configure(&mut server, block);
    let (code, _) = server.error("admin", doc! { "ping": 1, "maxTimeMS": 100 });
    assert_eq!(code, 50);
    configure(&mut server, doc! { "failCommands": ["findandmodify"], "errorCode": 7.0 });
    let (code, _) = server.error("t", doc! { "findAndModify": "c", "remove": true });
    assert_eq!(code, 7);
    configure(&mut server, doc! { "failCommands": ["hello"], "errorCode": 7 });
    server.ok("admin", doc! { "isMaster": 1 });
    configure(&mut server, doc! { "failCommands": ["ping"], "blockConnection": true });
    let (code, message) = server.error("admin", doc! { "ping": 1 });
    assert_eq!(code, 72);
    assert_eq!(message, "must specify 'blockTimeMS' when 'blockConnection' is true");
}

#[test]
fn an_exhaust_cursor_sends_batch_after_batch_without_being_asked() {
    let mut server = Server::new();
    let documents: Vec<_> = (0..10).map(|id| doc! { "_id": id }).collect();
    server.ok("t", doc! { "insert": "c", "documents": documents });
    let reply = server.ok("t", doc! { "find": "c", "batchSize": 2 });
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! { "getMore": id, "collection": "c", "batchSize": 3, "$db": "t" };
    let mut message = Message::new(70, 0, RawDocumentBuf::try_from(&more).unwrap());
    message.flags = Flags::EXHAUST_ALLOWED;
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    server.mongod.handle(server.now, Input::ClientBytes { connection: CLIENT, bytes });
    let mut replies = server.replies_to(CLIENT);
    while replies.last().is_none_or(|reply| reply.flags.contains(Flags::MORE_TO_COME)) {
        server.pass_time();
        let more = server.replies_to(CLIENT);
        replies.extend(more);
    }
    let sizes: Vec<usize> = replies
        .iter()
        .map(|reply| first_batch(&Document::try_from(&*reply.body).unwrap()).len())
        .collect();
    assert_eq!(sizes, [3, 3, 2]);
    assert_eq!(replies[0].response_to, 70);
    assert_eq!(replies[1].response_to, replies[0].request_id);
}

#[test]
fn figures_count_what_was_done() {
    let mut server = Server::new();
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 1 }, { "_id": 2 }] });
    server.find("c", doc! {});
    server.error("t", doc! { "find": "c", "nonsense": 1 });
    let status = server.ok("admin", doc! { "serverStatus": 1, "locks": 0 });
    let counters = status.get_document("opcounters").unwrap();
    assert_eq!(
        (counters.get_i64("insert").ok(), counters.get_i64("query").ok()),
        (Some(2), Some(2))
    );
    assert!(!status.contains_key("locks"));
    let metrics = status.get_document("metrics").unwrap().get_document("commands").unwrap();
    assert_eq!(metrics.get_document("find").unwrap(), &doc! { "failed": 1_i64, "total": 2_i64 });
    let top = server.ok("admin", doc! { "top": 1 });
    let used = top.get_document("totals").unwrap().get_document("t.c").unwrap();
    assert_eq!(used.get_document("queries").unwrap().get_i64("count").ok(), Some(2));
}

#[test]
fn members_with_equal_data_have_equal_hashes() {
    let hash = |ids: [i32; 2]| {
        let mut server = Server::new();
        for id in ids {
            server.ok("t", doc! { "insert": "c", "documents": [{ "_id": id }] });
        }
        server.ok("t", doc! { "dbHash": 1 }).get_str("md5").unwrap().to_owned()
    };
    assert_eq!(hash([1, 2]), hash([2, 1]));
    assert_ne!(hash([1, 2]), hash([1, 3]));
}
