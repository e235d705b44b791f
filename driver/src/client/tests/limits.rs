//! Time limits of operations (CSOT) over a scripted outside.

use std::time::Duration;

use bson::{Document, doc};

use super::{client, once, refusal, set};
use crate::client::CollectionOptions;
use crate::error::ErrorKind;
use crate::options::{CursorType, TimeoutMode, WriteConcern};
use crate::testing::Answer;

const LIMIT: Duration = Duration::from_millis(200);

fn is_timeout(error: &crate::Error) -> bool {
    matches!(*error.kind, ErrorKind::Timeout { .. })
}

#[test]
fn the_server_is_told_what_is_left_and_other_limits_are_overridden() {
    let outside = set(|_| None);
    let client = client(&outside, "&timeoutMS=200&wTimeoutMS=5&w=1");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! {}).await.unwrap();
        notes.find_one(doc! {}).max_time(Duration::from_secs(9)).await.unwrap();
        notes.find_one(doc! {}).timeout(Duration::ZERO).await.unwrap();
    });
    let calls = outside.commands();
    assert_eq!(calls[0].command["writeConcern"], doc! { "w": 1 }.into());
    for call in &calls[..2] {
        let left = call.command.get_i64("maxTimeMS").unwrap();
        assert!((150..=200).contains(&left), "{left}");
        assert_eq!(call.command.keys().filter(|key| *key == "maxTimeMS").count(), 1);
    }
    assert!(!calls[2].command.contains_key("maxTimeMS"), "zero is no limit");
}

#[test]
fn a_silent_server_costs_the_limit_and_no_more() {
    let outside = set(|call| (call.name() == "find").then(|| Answer::Silence));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! {}).await.unwrap();
        let began = client.now();
        let error = notes.find_one(doc! {}).timeout(LIMIT).await.unwrap_err();
        assert!(is_timeout(&error), "{error}");
        assert!(error.cause().is_some_and(|cause| cause.is_network_timeout()));
        assert_eq!(client.now() - began, LIMIT);
    });
}

#[test]
fn the_servers_own_deadline_is_a_timeout_wherever_it_stands() {
    let reply = |call: &crate::testing::Call| {
        let error = doc! { "index": 0, "code": 50, "errmsg": "late" };
        let reply = match call.name() {
            "insert" => doc! { "ok": 1.0, "n": 0, "writeErrors": [error] },
            "delete" => doc! { "ok": 1.0, "n": 0, "writeConcernError": error },
            "find" => doc! { "ok": 0.0, "code": 50, "errmsg": "late" },
            _ => return None,
        };
        Some(Answer::Reply(reply))
    };
    let outside = set(reply);
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let untouched = notes.insert_one(doc! {}).await.unwrap_err();
        assert!(!is_timeout(&untouched), "only timeoutMS changes errors");
        let limited = notes.with_timeout(LIMIT);
        assert!(is_timeout(&limited.insert_one(doc! {}).await.unwrap_err()));
        assert!(is_timeout(&limited.insert_many([doc! {}]).await.unwrap_err()));
        assert!(is_timeout(&limited.delete_one(doc! {}).await.unwrap_err()));
        assert!(is_timeout(&limited.find_one(doc! {}).await.unwrap_err()));
    });
}

#[test]
fn within_the_limit_an_operation_is_retried_as_often_as_it_takes() {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let outside = set(move |call| {
        let refuse =
            call.name() == "find" && calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 5;
        refuse.then(|| refusal(91, &[]))
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.find_one(doc! {}).timeout(Duration::from_secs(5)).await.unwrap();
    });
    assert_eq!(outside.calls("find").len(), 6);
}

#[test]
fn a_cursor_lives_as_long_as_its_limit_or_has_it_for_each_step() {
    let batch = |name: &str| doc! { "cursor": { name: [{ "_id": 1 }], "id": 9_i64, "ns": "d.c" }, "ok": 1.0 };
    let outside = set(move |call| match call.name() {
        "find" => Some(Answer::After(Duration::from_millis(150), batch("firstBatch"))),
        "getMore" => Some(Answer::After(Duration::from_millis(150), batch("nextBatch"))),
        _ => None,
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let mut whole = notes.find(doc! {}).timeout(LIMIT).await.unwrap();
        assert!(whole.try_next().await.unwrap().is_some());
        assert!(is_timeout(&whole.try_next().await.unwrap_err()));
        whole.close().await.unwrap();
        let steps = notes.find(doc! {}).timeout(LIMIT).timeout_mode(TimeoutMode::Iteration);
        let mut steps = steps.await.unwrap();
        for _ in 0..4 {
            assert!(steps.try_next().await.unwrap().is_some());
        }
        let tailable = notes.find(doc! {}).cursor_type(CursorType::Tailable).timeout(LIMIT);
        let refused = tailable.timeout_mode(TimeoutMode::CursorLifetime).await;
        assert!(refused.is_err());
        assert!(notes.find(doc! {}).timeout_mode(TimeoutMode::Iteration).await.is_err());
    });
    let finds = outside.calls("find");
    assert!(finds[0].command.contains_key("maxTimeMS"));
    assert!(!finds[1].command.contains_key("maxTimeMS"));
    assert!(outside.calls("getMore").iter().all(|call| !call.command.contains_key("maxTimeMS")));
    assert!(!outside.calls("killCursors").is_empty());
}

#[test]
fn a_transactions_callback_shares_its_limit() {
    let outside = set(once("insert", || Answer::Silence));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let notes = notes.with_options(CollectionOptions {
            write_concern: Some(WriteConcern::majority()),
            ..Default::default()
        });
        let session = client.start_session().await.unwrap();
        let began = client.now();
        let error = session
            .start_transaction()
            .timeout(LIMIT)
            .and_run(async |session| {
                let insert = notes.insert_one(doc! {}).session(session).timeout(LIMIT);
                assert!(insert.await.is_err(), "an operation has no limit of its own there");
                notes.insert_one(doc! {}).session(session).await.map(|_| ())
            })
            .await
            .unwrap_err();
        assert!(is_timeout(&error), "{error}");
        assert!(client.now() - began < LIMIT * 2);
    });
}
