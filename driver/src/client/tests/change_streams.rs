//! Change streams over a scripted outside.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::{Document, doc};

use super::{client, refusal, set};
use crate::client::OperationType;
use crate::error::{ErrorKind, labels};
use crate::testing::{Answer, Call};

fn batch(name: &str, ids: &[i32], token: Option<i32>) -> Document {
    let events: Vec<_> = ids
        .iter()
        .map(|id| {
            doc! { "_id": { "_data": id }, "operationType": "insert", "ns": { "db": "d", "coll": "c" },
            "documentKey": { "_id": id }, "fullDocument": { "_id": id } }
        })
        .collect();
    let mut cursor = doc! { name: events, "id": 9_i64, "ns": "d.c" };
    if let Some(token) = token {
        cursor.insert("postBatchResumeToken", doc! { "_data": token });
    }
    doc! { "cursor": cursor, "ok": 1.0 }
}

fn stage(call: &Call) -> Document {
    let pipeline = call.command.get_array("pipeline").unwrap();
    pipeline[0].as_document().unwrap().get_document("$changeStream").unwrap().clone()
}

#[test]
fn a_stream_resumes_after_the_last_event_in_the_same_session() {
    let more = AtomicU32::new(0);
    let outside = set(move |call| match call.name() {
        "aggregate" => Some(Answer::Reply(batch("firstBatch", &[], Some(1)))),
        "getMore" => Some(match more.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Reply(batch("nextBatch", &[2, 3], Some(4))),
            1 => Answer::Close,
            2 => refusal(9001, &[labels::RESUMABLE_CHANGE_STREAM_ERROR]),
            3 => Answer::Reply(batch("nextBatch", &[5], Some(5))),
            _ => refusal(280, &[]),
        }),
        _ => None,
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let mut changes = notes.watch().await.unwrap();
        let token = |stream: &crate::ChangeStream<_>| {
            stream.resume_token().unwrap().as_raw().get_i32("_data").unwrap()
        };
        assert_eq!(token(&changes), 1);
        let event = changes.next().await.unwrap().unwrap();
        assert_eq!(event.operation_type, OperationType::Insert);
        assert_eq!(event.full_document, Some(doc! { "_id": 2 }));
        assert_eq!(token(&changes), 2);
        changes.next().await.unwrap().unwrap();
        assert_eq!(token(&changes), 4, "the batch's own token after its last event");
        assert_eq!(changes.next().await.unwrap().unwrap().full_document, Some(doc! { "_id": 5 }));
        assert_eq!(changes.next().await.unwrap_err().code(), Some(280));
        assert!(!changes.is_alive());
        assert!(changes.next().await.unwrap().is_none());
    });
    let calls = outside.calls("aggregate");
    assert_eq!(calls.len(), 3);
    assert_eq!(stage(&calls[0]), doc! {});
    assert_eq!(stage(&calls[1]), doc! { "resumeAfter": { "_data": 4 } });
    assert_eq!(stage(&calls[2]), doc! { "resumeAfter": { "_data": 1 } }, "an empty batch's token");
    assert!(calls.iter().all(|call| call.command["lsid"] == calls[0].command["lsid"]));
}

#[test]
fn an_event_without_a_token_ends_the_stream() {
    let outside = set(|call| {
        let event = doc! { "operationType": "insert" };
        let cursor = doc! { "firstBatch": [event], "id": 9_i64, "ns": "d.$cmd.aggregate" };
        (call.name() == "aggregate").then(|| Answer::Reply(doc! { "cursor": cursor, "ok": 1.0 }))
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let mut changes = client.database("d").watch().await.unwrap();
        let error = changes.next().await.unwrap_err();
        assert!(matches!(*error.kind, ErrorKind::MissingResumeToken));
        drop(changes);
        client.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(outside.calls("killCursors").len(), 1);
}

#[test]
fn a_stream_survives_a_timeout_and_next_if_any_does_not_wait() {
    let more = AtomicU32::new(0);
    let outside = set(move |call| match call.name() {
        "aggregate" => Some(Answer::Reply(batch("firstBatch", &[], None))),
        "getMore" => Some(match more.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Reply(batch("nextBatch", &[], None)),
            1 => Answer::Silence,
            _ => Answer::Reply(batch("nextBatch", &[7], None)),
        }),
        _ => None,
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let watch = client.watch().timeout(Duration::from_millis(100));
        let watch = watch.max_await_time(Duration::from_millis(20));
        let mut changes = watch.await.unwrap();
        assert!(changes.next_if_any().await.unwrap().is_none());
        let error = changes.next().await.unwrap_err();
        assert!(matches!(*error.kind, ErrorKind::Timeout { .. }), "{error}");
        assert!(changes.next().await.unwrap().is_some());
        let refused = client.watch().timeout(Duration::from_millis(10));
        assert!(refused.max_await_time(Duration::from_millis(10)).await.is_err());
    });
    let calls = outside.calls("aggregate");
    assert_eq!(stage(&calls[1])["allChangesForCluster"], true.into());
    let mores = outside.calls("getMore");
    assert!(mores.iter().all(|call| call.command.get_i64("maxTimeMS").unwrap() == 20));
}
