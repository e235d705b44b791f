//! Multi-document transactions: what they see, what they hold, how they end.

use std::time::Duration;

use bson::{Binary, Bson, Document, Uuid, doc};
use stepdown::Sim;

fn elected(seed: u64) -> Sim {
    let sim = Sim::builder().seed(seed).members(3).build();
    sim.elect();
    sim
}

/// A statement of transaction `number` of session `session`.
fn statement(mut command: Document, session: u8, number: i64) -> Document {
    let id = Binary::from_uuid(Uuid::from_bytes([session; 16]));
    command.extend(doc! { "lsid": { "id": id }, "txnNumber": number, "autocommit": false });
    command
}

/// The first statement.
fn first(command: Document, session: u8, number: i64) -> Document {
    let mut command = statement(command, session, number);
    command.insert("startTransaction", true);
    command
}

fn insert(id: i32) -> Document {
    doc! { "insert": "c", "documents": [{ "_id": id }] }
}

fn add(id: i32, amount: i32) -> Document {
    doc! { "update": "c", "updates": [{ "q": { "_id": id }, "u": { "$inc": { "n": amount } } }] }
}

fn find() -> Document {
    doc! { "find": "c", "sort": { "_id": 1 } }
}

fn commit(session: u8, number: i64) -> Document {
    statement(doc! { "commitTransaction": 1 }, session, number)
}

fn abort(session: u8, number: i64) -> Document {
    statement(doc! { "abortTransaction": 1 }, session, number)
}

fn primary(sim: &Sim) -> String {
    sim.primary().expect("a primary").name.to_string()
}

fn run(sim: &Sim, command: Document) -> Document {
    let db = match command.keys().next().map(String::as_str) {
        Some("commitTransaction" | "abortTransaction" | "killSessions") => "admin",
        _ => "test",
    };
    sim.command(primary(sim), db, command).unwrap()
}

#[track_caller]
fn ok(sim: &Sim, command: Document) -> Document {
    let reply = run(sim, command);
    assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{reply}");
    assert!(!reply.contains_key("writeErrors"), "{reply}");
    reply
}

#[track_caller]
fn fails(sim: &Sim, command: Document, code: i32) -> Document {
    let reply = run(sim, command);
    assert_eq!(reply.get_i32("code").ok(), Some(code), "{reply}");
    reply
}

fn ids(reply: &Document) -> Vec<i32> {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = cursor.get_array("firstBatch").unwrap();
    batch.iter().map(|found| found.as_document().unwrap().get_i32("_id").unwrap()).collect()
}

fn is_transient(reply: &Document) -> bool {
    let label = Bson::from("TransientTransactionError");
    reply.get_array("errorLabels").is_ok_and(|labels| labels.contains(&label))
}

#[test]
fn a_transaction_reads_its_snapshot_and_its_own_writes_and_nobody_else_does() {
    let sim = elected(1);
    ok(&sim, insert(1));
    ok(&sim, first(insert(2), 1, 1));
    ok(&sim, insert(3));
    assert_eq!(ids(&ok(&sim, statement(find(), 1, 1))), [1, 2], "its snapshot, its own write");
    assert_eq!(ids(&ok(&sim, find())), [1, 3], "nothing is seen before the commit");
    ok(&sim, commit(1, 1));
    assert_eq!(ids(&ok(&sim, find())), [1, 2, 3]);
    fails(&sim, statement(find(), 1, 1), 256);
    ok(&sim, commit(1, 1));
}

#[test]
fn an_aborted_transaction_leaves_nothing_and_is_not_gone_on_with() {
    let sim = elected(2);
    ok(&sim, insert(1));
    ok(&sim, first(insert(2), 1, 1));
    ok(&sim, abort(1, 1));
    assert_eq!(ids(&ok(&sim, find())), [1]);
    assert!(is_transient(&fails(&sim, statement(find(), 1, 1), 251)));
    fails(&sim, commit(1, 1), 251);
    ok(&sim, first(insert(2), 1, 2));
    ok(&sim, commit(1, 2));
    assert_eq!(ids(&ok(&sim, find())), [1, 2]);
}

#[test]
fn the_second_writer_of_a_document_conflicts_and_its_transaction_is_aborted() {
    let sim = elected(3);
    ok(&sim, insert(1));
    ok(&sim, first(add(1, 1), 1, 1));
    assert!(is_transient(&fails(&sim, first(add(1, 10), 2, 1), 112)));
    fails(&sim, commit(2, 1), 251);
    ok(&sim, commit(1, 1));
    // Committed after a snapshot is as much of a conflict as open beside it.
    ok(&sim, first(find(), 2, 2));
    ok(&sim, add(1, 100));
    assert!(is_transient(&fails(&sim, statement(add(1, 10), 2, 2), 112)));
}

#[test]
fn a_write_outside_waits_for_the_transaction_that_holds_its_document() {
    let sim = elected(4);
    ok(&sim, insert(1));
    ok(&sim, first(add(1, 1), 1, 1));
    let mut impatient = add(1, 100);
    impatient.insert("maxTimeMS", 200);
    fails(&sim, impatient, 50);
    sim.block_on(async {
        let client = sim.client("mongodb://a,b,c/?replicaSet=foo").await.unwrap();
        let waiting = sim.spawn("writer", async move {
            client.database("test").run_command(add(1, 100)).await.unwrap()
        });
        let before = sim.now();
        waiting.await;
        let waited = sim.now() - before;
        assert!(waited > Duration::from_secs(50), "until the transaction's time is over");
    });
    let found = format!("{}", ok(&sim, find()));
    assert!(found.contains("\"n\": 100"), "the aborted one has not written: {found}");
}

#[test]
fn a_commit_is_one_oplog_entry_that_secondaries_apply_as_a_whole() {
    let sim = elected(5);
    ok(&sim, insert(1));
    ok(&sim, first(insert(2), 1, 1));
    ok(&sim, statement(add(1, 7), 1, 1));
    ok(&sim, statement(doc! { "insert": "new", "documents": [{ "_id": 1 }] }, 1, 1));
    let mut end = commit(1, 1);
    end.insert("writeConcern", doc! { "w": 3 });
    ok(&sim, end);
    for member in sim.members() {
        let mut read = find();
        read.insert("$readPreference", doc! { "mode": "secondaryPreferred" });
        let found = sim.command(&*member.name, "test", read).unwrap();
        assert_eq!(ids(&found), [1, 2], "{}", member.name);
    }
    let last = doc! { "find": "oplog.rs", "sort": { "$natural": -1 }, "limit": 1 };
    let found = sim.command(primary(&sim), "local", last).unwrap();
    let cursor = found.get_document("cursor").unwrap();
    let entry = cursor.get_array("firstBatch").unwrap()[0].as_document().unwrap();
    let object = entry.get_document("o").unwrap();
    assert_eq!(object.get_array("applyOps").unwrap().len(), 4, "{entry}");
    assert_eq!(entry.get_i64("txnNumber").ok(), Some(1));
}

#[test]
fn a_commit_of_more_than_sixteen_megabytes_is_a_chain_of_entries_applied_at_once() {
    let sim = elected(6);
    let large = "x".repeat(5 << 20);
    ok(&sim, doc! { "create": "c" });
    for id in 0..5 {
        let write = doc! { "insert": "c", "documents": [{ "_id": id, "x": &large }] };
        let write = if id == 0 { first(write, 1, 1) } else { statement(write, 1, 1) };
        ok(&sim, write);
    }
    let mut end = commit(1, 1);
    end.insert("writeConcern", doc! { "w": 3 });
    ok(&sim, end);
    let parts = doc! { "find": "oplog.rs", "filter": { "txnNumber": 1_i64 }, "projection": {
    "o.partialTxn": 1, "o.count": 1, "prevOpTime": 1 } };
    let found = sim.command(primary(&sim), "local", parts).unwrap();
    let cursor = found.get_document("cursor").unwrap();
    assert_eq!(cursor.get_array("firstBatch").unwrap().len(), 2, "{found}");
    for member in sim.members() {
        let count = doc! { "count": "c", "$readPreference": { "mode": "secondaryPreferred" } };
        let counted = sim.command(&*member.name, "test", count).unwrap();
        assert_eq!(counted.get_i32("n").ok(), Some(5), "{}", member.name);
    }
}

#[test]
fn a_transaction_left_open_is_aborted_after_a_minute() {
    let sim = elected(7);
    ok(&sim, insert(1));
    ok(&sim, first(add(1, 1), 1, 1));
    sim.advance(Duration::from_secs(59));
    ok(&sim, statement(find(), 1, 1));
    sim.advance(Duration::from_secs(2));
    assert!(is_transient(&fails(&sim, statement(find(), 1, 1), 251)));
    ok(&sim, add(1, 10));
}

#[test]
fn a_killed_session_takes_its_transaction_along() {
    let sim = elected(8);
    ok(&sim, first(insert(1), 1, 1));
    let id = Binary::from_uuid(Uuid::from_bytes([1; 16]));
    ok(&sim, doc! { "killSessions": [{ "id": id }] });
    fails(&sim, commit(1, 1), 251);
    ok(&sim, insert(1));
}

#[test]
fn a_failover_aborts_what_is_open_and_the_commit_finds_nothing_on_the_new_primary() {
    let sim = elected(9);
    ok(&sim, first(insert(1), 1, 1));
    let old = primary(&sim);
    sim.kill(&*old).unwrap();
    sim.run_until(Duration::from_secs(60), |sim| {
        sim.primary().is_some_and(|primary| *primary.name != *old)
    })
    .unwrap();
    assert!(is_transient(&fails(&sim, commit(1, 1), 251)));
    assert_eq!(ids(&ok(&sim, find())), [] as [i32; 0]);
}

#[test]
fn a_commit_that_a_new_primary_has_is_not_done_again() {
    let sim = elected(10);
    ok(&sim, first(insert(1), 1, 1));
    let mut end = commit(1, 1);
    end.insert("writeConcern", doc! { "w": "majority" });
    ok(&sim, end.clone());
    let old = primary(&sim);
    sim.kill(&*old).unwrap();
    sim.run_until(Duration::from_secs(60), |sim| {
        sim.primary().is_some_and(|primary| *primary.name != *old)
    })
    .unwrap();
    ok(&sim, end);
    assert_eq!(ids(&ok(&sim, find())), [1]);
}

#[test]
fn a_commit_that_nobody_else_has_is_rolled_back_as_a_whole() {
    let sim = elected(11);
    ok(&sim, insert(1));
    sim.advance(Duration::from_secs(1));
    let old = primary(&sim);
    let others: Vec<String> = sim
        .members()
        .iter()
        .map(|member| member.name.to_string())
        .filter(|name| *name != old)
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    sim.partition(&[&*old], &others).unwrap();
    let on_old = |command: Document, db: &str| sim.command(&*old, db, command).unwrap();
    on_old(first(insert(2), 1, 1), "test");
    on_old(statement(add(1, 5), 1, 1), "test");
    let mut end = commit(1, 1);
    end.insert("writeConcern", doc! { "w": 1 });
    assert_eq!(on_old(end, "admin").get_f64("ok").ok(), Some(1.0));
    sim.run_until(Duration::from_secs(60), |sim| {
        sim.primary().is_some_and(|primary| *primary.name != *old)
    })
    .unwrap();
    ok(&sim, insert(3));
    sim.heal();
    sim.advance(Duration::from_secs(30));
    for member in sim.members() {
        let mut read = find();
        read.insert("$readPreference", doc! { "mode": "secondaryPreferred" });
        let found = sim.command(&*member.name, "test", read).unwrap();
        assert_eq!(ids(&found), [1, 3], "{}", member.name);
        assert!(!format!("{found}").contains("\"n\""), "{found}");
    }
}

#[test]
fn a_collection_in_use_by_a_transaction_is_not_dropped_under_it() {
    let sim = elected(12);
    ok(&sim, insert(1));
    ok(&sim, first(insert(2), 1, 1));
    fails(&sim, doc! { "drop": "c", "maxTimeMS": 100 }, 50);
    ok(&sim, doc! { "create": "another" });
    ok(&sim, abort(1, 1));
    ok(&sim, doc! { "drop": "c", "maxTimeMS": 100 });
}
