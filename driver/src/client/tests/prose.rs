//! Prose tests of the driver specifications, over a scripted outside. Each is named for its
//! specification, its number there, and what it asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::{Document, Timestamp, doc};

use super::{client, refusal, set};
use crate::client::SessionOptions;
use crate::error::{ErrorKind, labels};
use crate::options::{InsertOneModel, Namespace, WriteModel};
use crate::testing::{Answer, Call, Scripted, hello};

const OVERLOAD: [&str; 2] = [labels::RETRYABLE_ERROR, labels::SYSTEM_OVERLOADED_ERROR];

fn bulk_reply(count: usize, refused: usize, more: Document) -> Answer {
    let errors = (0..refused).map(|index| {
        let index = i32::try_from(index).unwrap();
        doc! { "ok": 0, "idx": index, "code": 11000, "errmsg": "dup" }
    });
    let cursor = doc! { "firstBatch": errors.collect::<Vec<_>>(), "id": 0_i64, "ns": "admin.$cmd.bulkWrite" };
    let (refused, done) =
        (i32::try_from(refused).unwrap(), i32::try_from(count - refused).unwrap());
    let mut reply = doc! { "ok": 1.0, "cursor": cursor, "nErrors": refused, "nInserted": done };
    reply.extend(more);
    Answer::Reply(reply)
}

/// A set whose servers take 100 writes, or 48,000 bytes, at once; `first` may answer instead.
fn small_set(first: impl Fn(&Call) -> Option<Answer> + Send + Sync + 'static) -> Arc<Scripted> {
    set(move |call| {
        if call.is_hello() {
            let mut reply = hello(call);
            let limits = doc! { "maxWriteBatchSize": 100, "maxMessageSizeBytes": 48_000 };
            reply.extend(limits);
            return Some(Answer::Reply(reply));
        }
        first(call)
    })
}

/// A client that knows its servers.
async fn introduce(client: &crate::Client) {
    let notes = client.database("db").collection::<Document>("coll");
    notes.find_one(doc! {}).await.unwrap();
}

fn inserts(count: usize, document: &Document) -> Vec<WriteModel> {
    let namespace = Namespace::new("db", "coll");
    (0..count).map(|_| InsertOneModel::new(namespace.clone(), document.clone()).into()).collect()
}

fn ops(call: &Call) -> usize {
    call.command.get_array("ops").unwrap().len()
}

#[test]
fn client_backpressure_3_an_overloaded_find_is_tried_three_times() {
    let outside = set(|call| (call.name() == "find").then(|| refusal(462, &OVERLOAD)));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("db").collection::<Document>("coll");
        let error = notes.find_one(doc! {}).await.unwrap_err();
        assert!(OVERLOAD.iter().all(|label| error.contains_label(label)));
    });
    assert_eq!(outside.calls("find").len(), 3);
}

#[test]
fn client_backpressure_4_max_adaptive_retries_is_the_number_of_retries() {
    let outside = set(|call| (call.name() == "find").then(|| refusal(462, &OVERLOAD)));
    let client = client(&outside, "&maxAdaptiveRetries=1");
    outside.block_on(async {
        let notes = client.database("db").collection::<Document>("coll");
        notes.find_one(doc! {}).await.unwrap_err();
    });
    assert_eq!(outside.calls("find").len(), 2);
}

#[test]
fn client_backpressure_5_the_servers_base_backoff_is_used() {
    let took = |base: Option<i32>| {
        let outside = set(move |call| {
            (call.name() == "insert").then(|| {
                let Answer::Reply(mut reply) = refusal(462, &OVERLOAD) else { unreachable!() };
                if let Some(base) = base {
                    reply.insert("baseBackoffMS", base);
                }
                Answer::Reply(reply)
            })
        });
        let client = client(&outside, "");
        outside.block_on(async {
            let notes = client.database("db").collection::<Document>("coll");
            let began = client.now();
            notes.insert_one(doc! {}).await.unwrap_err();
            client.now() - began
        })
    };
    // The random numbers are the same: only the base differs.
    let (own, given) = (took(None), took(Some(10)));
    assert!(given < own / 3, "{own:?} {given:?}");
}

#[test]
fn crud_3_a_bulk_write_is_split_by_the_number_of_writes() {
    let outside =
        small_set(|call| (call.name() == "bulkWrite").then(|| bulk_reply(ops(call), 0, doc! {})));
    let client = client(&outside, "");
    let count = 101;
    let result = outside.block_on(async {
        introduce(&client).await;
        client.bulk_write(inserts(count, &doc! { "a": "b" })).await.unwrap()
    });
    assert_eq!(result.inserted_count, count as u64);
    let calls = outside.calls("bulkWrite");
    assert_eq!(calls.iter().map(ops).collect::<Vec<_>>(), [100, 1]);
}

#[test]
fn crud_4_a_bulk_write_is_split_by_the_size_of_its_message() {
    let outside =
        small_set(|call| (call.name() == "bulkWrite").then(|| bulk_reply(ops(call), 0, doc! {})));
    let client = client(&outside, "");
    let large = doc! { "a": "b".repeat(16 * 1024 - 500) };
    let count = 48_000 / (16 * 1024) + 1;
    let result = outside.block_on(async {
        introduce(&client).await;
        client.bulk_write(inserts(count, &large)).await.unwrap()
    });
    assert_eq!(result.inserted_count, count as u64);
    let calls = outside.calls("bulkWrite");
    assert_eq!(calls.iter().map(ops).collect::<Vec<_>>(), [count - 1, 1]);
}

#[test]
fn crud_5_write_concern_errors_are_gathered_over_batches() {
    let outside = small_set(|call| {
        let error = doc! { "writeConcernError": { "code": 91, "errmsg": "Replication is being shut down" } };
        (call.name() == "bulkWrite").then(|| bulk_reply(ops(call), 0, error))
    });
    let client = client(&outside, "&retryWrites=false");
    let error = outside.block_on(async {
        introduce(&client).await;
        client.bulk_write(inserts(101, &doc! { "a": "b" })).await.unwrap_err()
    });
    let ErrorKind::BulkWrite(bulk) = &*error.kind else { panic!("{error}") };
    assert_eq!(bulk.write_concern_errors.len(), 2);
    let done = bulk.partial_result.as_ref().unwrap();
    assert_eq!(done.get_i64("insertedCount").unwrap(), 101);
}

#[test]
fn crud_6_write_errors_are_gathered_over_batches_unless_it_is_ordered() {
    for (ordered, refused, commands) in [(false, 101, 2), (true, 1, 1)] {
        let outside = small_set(move |call| {
            let refused = if ordered { 1 } else { ops_or_none(call) };
            (call.name() == "bulkWrite").then(|| bulk_reply(ops(call), refused, doc! {}))
        });
        let client = client(&outside, "");
        let error = outside.block_on(async {
            introduce(&client).await;
            let write = client.bulk_write(inserts(101, &doc! { "_id": 1 }));
            write.ordered(ordered).await.unwrap_err()
        });
        let ErrorKind::BulkWrite(bulk) = &*error.kind else { panic!("{error}") };
        assert_eq!(bulk.write_errors.len(), refused);
        assert_eq!(bulk.partial_result, None, "nothing is known to be done");
        assert_eq!(outside.calls("bulkWrite").len(), commands);
    }
}

fn ops_or_none(call: &Call) -> usize {
    call.command.get_array("ops").map_or(0, Vec::len)
}

#[test]
fn crud_12_a_bulk_write_whose_first_write_does_not_fit_is_refused() {
    let outside = small_set(|_| None);
    let client = client(&outside, "");
    let error = outside.block_on(async {
        introduce(&client).await;
        let large = doc! { "a": "b".repeat(48_000) };
        client.bulk_write(inserts(1, &large)).await.unwrap_err()
    });
    assert!(matches!(*error.kind, ErrorKind::InvalidArgument { .. }), "{error}");
    assert!(outside.calls("bulkWrite").is_empty());
}

fn lsids(outside: &Arc<Scripted>, name: &str) -> Vec<bson::Bson> {
    outside.calls(name).iter().map(|call| call.command["lsid"].clone()).collect()
}

#[test]
fn sessions_2_and_14_operations_one_after_another_share_one_session() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("db").collection::<Document>("coll");
        for _ in 0..5 {
            notes.insert_one(doc! {}).await.unwrap();
        }
    });
    let ids = lsids(&outside, "insert");
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn sessions_4_closing_the_client_ends_the_sessions_of_its_pool() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("db").collection::<Document>("coll");
        notes.insert_one(doc! {}).await.unwrap();
        client.close().await;
    });
    let ended = outside.calls("endSessions")[0].command.get_array("endSessions").unwrap().clone();
    assert_eq!(ended, lsids(&outside, "insert"));
}

#[test]
fn sessions_6_a_session_of_another_client_is_refused() {
    let outside = set(|_| None);
    let (one, other) = (client(&outside, ""), client(&outside, ""));
    outside.block_on(async {
        let session = one.start_session().await.unwrap();
        let notes = other.database("db").collection::<Document>("coll");
        assert!(notes.find_one(doc! {}).session(&session).await.is_err());
        session.end().await;
        let notes = one.database("db").collection::<Document>("coll");
        assert!(notes.find_one(doc! {}).session(&session).await.is_err(), "it has ended");
    });
    assert!(outside.commands().iter().all(|call| call.name() != "find"));
}

#[test]
fn sessions_20_to_23_a_snapshot_time_needs_a_snapshot_session_and_is_read_back() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    let time = Timestamp { time: 1, increment: 1 };
    outside.block_on(async {
        let with = |snapshot| SessionOptions {
            snapshot,
            snapshot_time: Some(time),
            ..SessionOptions::default()
        };
        assert!(client.start_session_with(with(None)).await.is_err());
        assert!(client.start_session_with(with(Some(false))).await.is_err());
        let session = client.start_session_with(with(Some(true))).await.unwrap();
        assert_eq!(session.snapshot_time(), Some(time));
        assert_eq!(client.start_session().await.unwrap().snapshot_time(), None);
    });
}

#[test]
fn convenient_transactions_4_pauses_between_attempts_grow() {
    let commits = Arc::new(AtomicU32::new(0));
    let counted = commits.clone();
    let outside = set(move |call| {
        let fail =
            call.name() == "commitTransaction" && counted.fetch_add(1, Ordering::SeqCst) < 13;
        fail.then(|| refusal(251, &[labels::TRANSIENT_TRANSACTION_ERROR]))
    });
    let client = client(&outside, "");
    let took = outside.block_on(async {
        let notes = client.database("db").collection::<Document>("coll");
        let session = client.start_session().await.unwrap();
        let began = client.now();
        let run = session.with_transaction(async |session| {
            notes.insert_one(doc! {}).session(session).await.map(|_| ())
        });
        run.await.unwrap();
        client.now() - began
    });
    assert_eq!(commits.load(Ordering::SeqCst), 14);
    // Thirteen pauses, 2.2 seconds at most, of which chance takes a half; 28 round trips of 1 ms.
    assert!(took > Duration::from_millis(300) && took < Duration::from_millis(2300), "{took:?}");
}
