//! Transactions and snapshot sessions over a scripted outside.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::{Bson, Document, Timestamp, doc};

use super::{client, once, refusal, set};
use crate::client::SessionOptions;
use crate::error::{ErrorKind, labels};
use crate::options::{ReadConcern, ReadPreference, WriteConcern};
use crate::telemetry::SpanRecorder;
use crate::testing::{Answer, Call};
use crate::{Client, TransactionState};

fn keys(call: &Call, wanted: &[&str]) -> Vec<String> {
    call.command.keys().filter(|key| wanted.contains(&key.as_str())).cloned().collect()
}

#[test]
fn the_first_command_starts_the_transaction_and_the_commit_carries_the_write_concern() {
    let outside = set(|_| None);
    let client = client(&outside, "&w=1&readConcernLevel=local");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        session.start_transaction().read_concern(ReadConcern::snapshot()).await.unwrap();
        notes.insert_one(doc! { "_id": 1 }).session(&session).await.unwrap();
        notes.find_one(doc! {}).session(&session).await.unwrap();
        session.commit_transaction().await.unwrap();
        session.commit_transaction().await.unwrap();
        notes.find_one(doc! {}).session(&session).await.unwrap();
        assert_eq!(session.transaction_state(), TransactionState::None);
    });
    let calls = outside.commands();
    let names: Vec<_> = calls.iter().map(Call::name).collect();
    assert_eq!(names, ["insert", "find", "commitTransaction", "commitTransaction", "find"]);
    let fields = ["txnNumber", "startTransaction", "autocommit", "readConcern", "writeConcern"];
    assert_eq!(
        keys(&calls[0], &fields),
        ["txnNumber", "startTransaction", "autocommit", "readConcern"]
    );
    assert_eq!(calls[0].command["readConcern"], doc! { "level": "snapshot" }.into());
    assert_eq!(keys(&calls[1], &fields), ["txnNumber", "autocommit"]);
    assert_eq!(calls[2].command["writeConcern"], doc! { "w": 1 }.into());
    assert_eq!(
        calls[3].command["writeConcern"],
        doc! { "w": "majority", "wtimeout": 10_000_i64 }.into()
    );
    assert_eq!(keys(&calls[4], &fields), ["readConcern"]);
    assert!(calls[..4].iter().all(|call| call.command["txnNumber"] == Bson::Int64(1)));
}

#[test]
fn writes_in_a_transaction_are_not_retried_and_network_errors_are_transient() {
    let outside = set(once("insert", || Answer::Close));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let error = notes.insert_one(doc! {}).session(&session).await.unwrap_err();
        assert!(error.contains_label(labels::TRANSIENT_TRANSACTION_ERROR), "{error}");
        assert!(!error.contains_label(labels::RETRYABLE_WRITE_ERROR), "{error}");
        assert!(session.is_dirty());
        session.abort_transaction().await.unwrap();
    });
    let names: Vec<_> = outside.commands().iter().map(|call| call.name().to_owned()).collect();
    assert_eq!(names, ["insert", "abortTransaction"]);
}

#[test]
fn a_commit_is_retried_with_retries_off_and_its_unknown_outcome_is_told() {
    let outside = set(|call| (call.name() == "commitTransaction").then(|| Answer::Close));
    let client = client(&outside, "&retryWrites=false");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        notes.insert_one(doc! {}).session(&session).await.unwrap();
        let error = session.commit_transaction().await.unwrap_err();
        assert!(error.contains_label(labels::UNKNOWN_TRANSACTION_COMMIT_RESULT), "{error}");
        assert!(!error.contains_label(labels::TRANSIENT_TRANSACTION_ERROR), "{error}");
    });
    let commits = outside.calls("commitTransaction");
    assert_eq!(commits.len(), 2);
    assert!(!commits[0].command.contains_key("writeConcern"));
    assert_eq!(
        commits[1].command.get_document("writeConcern").unwrap().get("w"),
        Some(&Bson::from("majority"))
    );
}

#[test]
fn what_is_not_allowed_in_a_transaction_is_refused_before_anything_is_sent() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let insert = notes.insert_one(doc! {}).write_concern(WriteConcern::majority());
        let error = insert.session(&session).await.unwrap_err();
        assert!(error.to_string().contains("Cannot set write concern"), "{error}");
        let find = notes.find_one(doc! {}).read_concern(ReadConcern::local());
        let error = find.session(&session).await.unwrap_err();
        assert!(error.to_string().contains("Cannot set read concern"), "{error}");
        let find = notes.find_one(doc! {}).selection_criteria(ReadPreference::secondary());
        let error = find.session(&session).await.unwrap_err();
        assert!(error.to_string().contains("must be primary"), "{error}");
        assert_eq!(session.transaction_state(), TransactionState::Starting);
        session.commit_transaction().await.unwrap();
    });
    assert!(outside.commands().is_empty());
}

#[test]
fn an_overloaded_server_is_asked_to_start_the_transaction_again() {
    let overload = [labels::RETRYABLE_ERROR, labels::SYSTEM_OVERLOADED_ERROR];
    let outside = set(once("insert", move || refusal(462, &overload)));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        notes.insert_one(doc! {}).session(&session).await.unwrap();
        session.abort_transaction().await.unwrap();
    });
    let inserts = outside.calls("insert");
    assert_eq!(inserts.len(), 2);
    assert!(inserts.iter().all(|call| call.command.contains_key("startTransaction")));
}

#[test]
fn with_transaction_runs_the_callback_again_and_commits_again() {
    let (inserts, commits) = (AtomicU32::new(0), AtomicU32::new(0));
    let outside = set(move |call| match call.name() {
        "insert" if inserts.fetch_add(1, Ordering::SeqCst) < 2 => {
            Some(refusal(112, &[labels::TRANSIENT_TRANSACTION_ERROR]))
        }
        "commitTransaction" if commits.fetch_add(1, Ordering::SeqCst) < 2 => {
            Some(refusal(91, &[labels::RETRYABLE_WRITE_ERROR]))
        }
        _ => None,
    });
    let client = client(&outside, "");
    let ran = AtomicU32::new(0);
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        let result = session
            .with_transaction(async |session| {
                ran.fetch_add(1, Ordering::SeqCst);
                notes.insert_one(doc! {}).session(session).await?;
                Ok(7)
            })
            .await;
        assert_eq!(result.unwrap(), 7);
    });
    assert_eq!(ran.load(Ordering::SeqCst), 3);
    let names: Vec<_> = outside.commands().iter().map(|call| call.name().to_owned()).collect();
    let (i, a, c) = ("insert", "abortTransaction", "commitTransaction");
    assert_eq!(names, [i, a, i, a, i, c, c, c]);
    let numbers: Vec<_> =
        outside.calls("insert").iter().map(|c| c.command["txnNumber"].clone()).collect();
    assert_eq!(numbers, [Bson::Int64(1), Bson::Int64(2), Bson::Int64(3)]);
}

#[test]
fn with_transaction_gives_up_after_120_seconds_and_says_why() {
    let outside = set(|call| {
        let labels = [labels::TRANSIENT_TRANSACTION_ERROR];
        (call.name() == "insert").then(|| refusal(112, &labels))
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        let began = client.now();
        let error = session
            .with_transaction(async |session| {
                notes.insert_one(doc! {}).session(session).await.map(|_| ())
            })
            .await
            .unwrap_err();
        assert!(matches!(*error.kind, ErrorKind::Timeout { .. }), "{error}");
        assert!(error.contains_label(labels::TRANSIENT_TRANSACTION_ERROR));
        assert_eq!(error.cause().and_then(crate::Error::code), Some(112));
        let took = client.now() - began;
        assert!(took > Duration::from_secs(118) && took < Duration::from_secs(121), "{took:?}");
    });
}

#[test]
fn a_dropped_session_aborts_its_transaction() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        notes.insert_one(doc! {}).session(&session).await.unwrap();
        drop(session);
        client.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(outside.calls("abortTransaction").len(), 1);
}

#[test]
fn a_snapshot_session_reads_one_moment_and_knows_no_transactions() {
    let time = Timestamp { time: 9, increment: 1 };
    let outside = set(move |call| {
        (call.name() == "find").then(|| {
            let cursor = doc! { "firstBatch": [], "id": 0_i64, "ns": "d.c", "atClusterTime": time };
            Answer::Reply(doc! { "cursor": cursor, "ok": 1.0 })
        })
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let options = SessionOptions { snapshot: Some(true), ..Default::default() };
        let session = client.start_session_with(options).await.unwrap();
        for _ in 0..2 {
            notes.find_one(doc! {}).session(&session).await.unwrap();
        }
        assert_eq!(session.snapshot_time(), Some(time));
        assert!(session.start_transaction().await.is_err());
        let both = SessionOptions {
            snapshot: Some(true),
            causal_consistency: Some(true),
            ..Default::default()
        };
        assert!(client.start_session_with(both).await.is_err());
    });
    let finds = outside.calls("find");
    assert_eq!(finds[0].command["readConcern"], doc! { "level": "snapshot" }.into());
    let second = doc! { "level": "snapshot", "atClusterTime": time };
    assert_eq!(finds[1].command["readConcern"], second.into());
}

#[test]
fn spans_nest_commands_in_operations_and_operations_in_transactions() {
    let recorder = SpanRecorder::new();
    let outside = set(once("find", || refusal(91, &[])));
    let mut options =
        crate::options::ClientOptions::parse_str("mongodb://a,b,c/?replicaSet=foo").unwrap();
    let tracing =
        crate::options::TracingOptions::with_tracer(std::sync::Arc::new(recorder.clone()));
    options.tracing = Some(tracing.query_text(40));
    let client = Client::with_transport(options, outside.clone()).unwrap();
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.find_one(doc! { "x": 1 }).await.unwrap();
        let session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        notes.insert_one(doc! {}).session(&session).await.unwrap();
        session.commit_transaction().await.unwrap();
    });
    let spans = recorder.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["find d.c", "transaction"]);
    assert!(spans.iter().all(|span| span.ended));
    let attempts = &spans[0].nested;
    assert_eq!(attempts.len(), 2, "each attempt has a span");
    assert_eq!(attempts[0].attributes["db.response.status_code"], "91".into());
    let text = "{\"find\":\"c\",\"filter\":{\"x\":1},\"limit\":1,\"...";
    assert_eq!(attempts[1].attributes["db.query.text"], text.into());
    let nested: Vec<_> = spans[1].nested.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(nested, ["insert d.c", "commitTransaction admin"]);
    assert_eq!(spans[1].nested[0].nested[0].attributes["db.mongodb.txn_number"], 1.into());
}
