//! The whole client over a scripted outside.

mod bulk;
mod change_streams;
mod limits;
mod prose;
mod transactions;
mod watching;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::{Document, Timestamp, doc};

use super::Client;
use crate::error::{ErrorKind, labels};
use crate::event::{CmapEvent, EventLog};
use crate::options::{ClientOptions, ReadPreference, WriteConcern};
use crate::testing::{Answer, Call, Scripted, hello};
use crate::transport::Transport;

/// A set that answers hellos, inserts and finds; `first` may answer instead.
fn set(first: impl Fn(&Call) -> Option<Answer> + Send + Sync + 'static) -> Arc<Scripted> {
    Scripted::new(move |call| {
        first(call).unwrap_or_else(|| match call.name() {
            _ if call.is_hello() => Answer::Reply(hello(call)),
            "find" => Answer::Reply(doc! {
                "cursor": { "firstBatch": [{ "_id": 1 }], "id": 0_i64, "ns": "d.c" }, "ok": 1.0,
            }),
            _ => Answer::Reply(doc! { "n": 1, "ok": 1.0 }),
        })
    })
}

/// Answers the first call of `command` with `answer`.
fn once(
    command: &'static str,
    answer: impl Fn() -> Answer + Send + Sync + 'static,
) -> impl Fn(&Call) -> Option<Answer> + Send + Sync + 'static {
    let calls = AtomicU32::new(0);
    move |call| (call.name() == command && calls.fetch_add(1, Ordering::SeqCst) == 0).then(&answer)
}

fn client(outside: &Arc<Scripted>, more: &str) -> Client {
    let uri = format!("mongodb://a,b,c/?replicaSet=foo{more}");
    Client::with_transport(uri, outside.clone() as Arc<dyn Transport>).unwrap()
}

fn refusal(code: i32, error_labels: &[&str]) -> Answer {
    Answer::Reply(doc! {
        "ok": 0.0, "errmsg": "as told", "code": code, "codeName": "AsTold",
        "errorLabels": error_labels.iter().map(|label| label.to_string()).collect::<Vec<_>>(),
    })
}

#[test]
fn a_retried_write_has_the_same_session_and_number() {
    let labels = [labels::RETRYABLE_WRITE_ERROR];
    let outside = set(once("insert", move || refusal(10107, &labels)));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! { "_id": 1 }).await.unwrap();
        notes.insert_one(doc! { "_id": 2 }).await.unwrap();
    });
    let calls = outside.calls("insert");
    let seen: Vec<_> =
        calls.iter().map(|c| (&c.command["lsid"], &c.command["txnNumber"])).collect();
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[2], (seen[0].0, &bson::Bson::Int64(2)));
    assert_eq!(client.stats()[0].retried, 1);
    assert_eq!(client.stats()[0].pool.generation, 0, "a step-down keeps connections open");
}

#[test]
fn a_lost_connection_clears_the_pool_and_the_write_is_retried() {
    let outside = set(once("insert", || Answer::Close));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! { "_id": 1 }).await.unwrap();
    });
    assert_eq!(outside.calls("insert").len(), 2);
    assert_eq!(client.stats()[0].pool.generation, 1);
}

#[test]
fn with_retries_off_the_error_is_of_the_auto_reconnect_family() {
    let outside = set(once("insert", || Answer::Close));
    let client = client(&outside, "&retryWrites=false");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let error = notes.insert_one(doc! { "_id": 1 }).await.unwrap_err();
        assert!(error.is_auto_reconnect() && error.is_network(), "{error}");
        assert!(!error.contains_label(labels::RETRYABLE_WRITE_ERROR));
        notes.insert_one(doc! { "_id": 1 }).await.unwrap();
    });
    assert!(outside.calls("insert").iter().all(|call| !call.command.contains_key("txnNumber")));
}

#[test]
fn updates_of_many_documents_are_never_retried() {
    let outside = set(once("update", || Answer::Close));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let update = doc! { "$set": { "x": 1 } };
        assert!(notes.update_many(doc! {}, update).await.unwrap_err().is_network());
    });
    assert_eq!(outside.calls("update").len(), 1);
}

#[test]
fn with_reconnect_waits_out_a_transition() {
    let refused = AtomicU32::new(0);
    let outside = set(move |call| {
        let refuse = call.name() == "update" && refused.fetch_add(1, Ordering::SeqCst) < 3;
        refuse.then(|| refusal(10107, &[]))
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let began = client.now();
        let update = || async { notes.update_many(doc! {}, doc! { "$set": { "x": 1 } }).await };
        client.with_reconnect(update).await.unwrap();
        assert!(client.now() - began < Duration::from_secs(2));
    });
    assert_eq!(outside.calls("update").len(), 4);
}

#[test]
fn an_unacknowledged_write_waits_for_nothing_and_has_no_session() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let write = notes.insert_one(doc! { "_id": 1 }).write_concern(WriteConcern::nodes(0));
        write.await.unwrap();
        notes.insert_one(doc! { "_id": 2 }).await.unwrap();
    });
    let calls = outside.calls("insert");
    assert!(!calls[0].command.contains_key("lsid") && !calls[0].command.contains_key("txnNumber"));
    assert_eq!(calls[0].connection, calls[1].connection);
}

#[test]
fn a_cursor_keeps_its_session_and_its_server_and_is_closed_when_dropped() {
    let batch = |name: &str, id: i64| {
        Answer::Reply(doc! { "cursor": { name: [{ "_id": 1 }], "id": id, "ns": "d.c" }, "ok": 1.0 })
    };
    let outside = set(move |call| match call.name() {
        "find" => Some(batch("firstBatch", 9)),
        "getMore" => Some(batch("nextBatch", 9)),
        _ => None,
    });
    let client = client(&outside, "&readPreference=secondary");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let mut cursor = notes.find(doc! {}).batch_size(1).await.unwrap();
        for _ in 0..4 {
            cursor.try_next().await.unwrap().unwrap();
        }
        drop(cursor);
        client.sleep(Duration::from_secs(1)).await;
    });
    let calls = outside.commands();
    let names: Vec<_> = calls.iter().map(Call::name).collect();
    assert_eq!(names, ["find", "getMore", "getMore", "getMore", "killCursors"]);
    for call in &calls {
        assert_eq!(call.command["lsid"], calls[0].command["lsid"]);
        assert_eq!(call.address, calls[0].address);
    }
    let mode = calls[0].command.get_document("$readPreference").unwrap();
    assert_eq!(mode, &doc! { "mode": "secondary" });
}

#[test]
fn an_abandoned_operation_leaves_its_connection_usable() {
    let find = || {
        let cursor = doc! { "firstBatch": [{ "_id": 7 }], "id": 0_i64, "ns": "d.c" };
        Answer::After(Duration::from_millis(100), doc! { "cursor": cursor, "ok": 1.0 })
    };
    let outside = set(once("find", find));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! {}).await.unwrap();
        let find = std::future::IntoFuture::into_future(notes.find_one(doc! {}));
        let out_of_time = client.sleep(Duration::from_millis(10));
        let given_up = crate::sync::select2(find, out_of_time).await;
        assert!(matches!(given_up, crate::sync::Either::Right(())));
        let found = notes.find_one(doc! {}).await.unwrap();
        assert_eq!(found, Some(doc! { "_id": 1 }), "not the reply that was owed");
    });
    let calls = outside.commands();
    assert!(calls.iter().all(|call| call.connection == calls[0].connection));
}

#[test]
fn a_reply_that_does_not_come_soon_costs_the_connection() {
    let outside = set(once("find", || Answer::Silence));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let find = std::future::IntoFuture::into_future(notes.find_one(doc! {}));
        crate::sync::select2(find, client.sleep(Duration::from_millis(10))).await;
        assert!(notes.find_one(doc! {}).await.unwrap().is_some());
    });
    let calls = outside.calls("find");
    assert_ne!(calls[0].connection, calls[1].connection);
    assert_ne!(calls[0].command["lsid"], calls[1].command["lsid"], "that session is in doubt");
}

#[test]
fn cluster_time_is_passed_on_and_a_session_reads_its_own_writes() {
    let time = |increment| Timestamp { time: 7, increment };
    let outside = set(move |call| {
        (call.name() == "insert").then(|| {
            Answer::Reply(doc! {
                "n": 1, "ok": 1.0, "operationTime": time(3),
                "$clusterTime": { "clusterTime": time(4) },
            })
        })
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let session = client.start_session().await.unwrap();
        notes.insert_one(doc! {}).session(&session).await.unwrap();
        let find = notes.find_one(doc! {}).selection_criteria(ReadPreference::secondary());
        find.session(&session).await.unwrap();
        assert_eq!(session.operation_time(), Some(time(3)));
    });
    let find = &outside.calls("find")[0].command;
    assert_eq!(find["$clusterTime"], doc! { "clusterTime": time(4) }.into());
    assert_eq!(find["readConcern"], doc! { "afterClusterTime": time(3) }.into());
    let monitors_passed_it_on =
        outside.calls("hello").iter().any(|c| c.command.contains_key("$clusterTime"));
    assert!(!monitors_passed_it_on);
}

#[test]
fn a_direct_connection_reaches_whoever_is_there() {
    let outside = set(|call| {
        call.is_hello().then(|| {
            Answer::Reply(doc! {
                "isreplicaset": true, "info": "Does not have a valid replica set config",
                "isWritablePrimary": false, "secondary": false, "maxWireVersion": 25, "ok": 1.0,
            })
        })
    });
    let uri = "mongodb://a/?directConnection=true";
    let client = Client::with_transport(uri, outside.clone() as Arc<dyn Transport>).unwrap();
    outside.block_on(async {
        let admin = client.database("admin");
        admin.run_command(doc! { "replSetInitiate": {} }).await.unwrap();
        assert_eq!(client.topology().kind(), crate::sdam::TopologyType::Single);
    });
    let command = &outside.calls("replSetInitiate")[0].command;
    assert_eq!(command["$readPreference"], doc! { "mode": "primaryPreferred" }.into());
}

#[test]
fn the_wait_queue_gives_up_after_its_time_and_serves_in_order() {
    let slow = |call: &Call| {
        let reply = doc! { "n": 1, "ok": 1.0 };
        (call.name() == "insert").then(|| Answer::After(Duration::from_millis(60), reply))
    };
    let outside = set(slow);
    let client = client(&outside, "&maxPoolSize=1&waitQueueTimeoutMS=100&retryWrites=false");
    let finished = Arc::new(std::sync::Mutex::new(Vec::new()));
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! { "_id": -1 }).await.unwrap();
        for number in 0..4 {
            let (notes, finished) = (notes.clone(), finished.clone());
            let task = async move {
                let result = notes.insert_one(doc! { "_id": number }).await;
                let timed_out = result.is_err_and(|e| matches!(*e.kind, ErrorKind::Timeout { .. }));
                finished.lock().unwrap().push((number, timed_out));
            };
            outside.spawn("insert", Box::pin(task));
        }
        client.sleep(Duration::from_secs(1)).await;
    });
    let mut finished = finished.lock().unwrap().clone();
    finished.sort_unstable();
    assert_eq!(finished, [(0, false), (1, false), (2, true), (3, true)]);
    assert_eq!(client.stats()[0].pool.in_use, 0);
}

#[test]
fn a_server_that_falls_silent_is_found_out_and_its_operations_are_freed() {
    let outside = set(|call| {
        let late = call.at.as_millis() > 1_000;
        (call.address == "a:27017" && late && (call.is_hello() || call.name() == "find"))
            .then_some(Answer::Silence)
    });
    let mut options =
        ClientOptions::parse_str("mongodb://a,b,c/?replicaSet=foo&retryReads=false").unwrap();
    options.connect_timeout = Some(Duration::from_secs(2));
    let log = EventLog::new();
    log.attach(&mut options);
    let client = Client::with_transport(options, outside.clone() as Arc<dyn Transport>).unwrap();
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.find_one(doc! {}).await.unwrap();
        client.sleep(Duration::from_secs(2)).await;
        let began = client.now();
        let error = notes.find_one(doc! {}).await.unwrap_err();
        assert!(error.is_auto_reconnect(), "{error}");
        // The next check comes within the heartbeat and times out after connectTimeoutMS.
        assert!(client.now() - began < Duration::from_secs(12), "{:?}", client.now() - began);
    });
    assert!(log.cmap().iter().any(|event| {
        matches!(event, CmapEvent::PoolCleared(cleared) if cleared.interrupt_in_use_connections)
    }));
}

#[test]
fn an_overloaded_server_is_tried_again_after_a_pause() {
    let labels = [labels::RETRYABLE_ERROR, labels::SYSTEM_OVERLOADED_ERROR];
    let outside = set(once("update", move || refusal(462, &labels)));
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.update_many(doc! {}, doc! { "$set": { "x": 1 } }).await.unwrap();
    });
    assert_eq!(outside.calls("update").len(), 2);
}

#[test]
fn a_refused_connection_leaves_belief_and_pool_alone_until_a_check_fails() {
    let outside = set(|_| None);
    let client = client(&outside, "&retryWrites=false&maxIdleTimeMS=50");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! {}).await.unwrap();
        client.sleep(Duration::from_millis(100)).await;
        outside.refuse("a:27017", true);
        let error = notes.insert_one(doc! {}).await.unwrap_err();
        assert!(error.is_overloaded() && !error.may_have_been_applied(), "{error}");
        assert!(client.topology().primary().is_some());
        assert_eq!(client.stats()[0].pool.generation, 0);
        outside.refuse("a:27017", false);
        notes.insert_one(doc! {}).await.unwrap();
    });
}

#[test]
fn closing_ends_sessions_and_everything_else() {
    let outside = set(|_| None);
    let client = client(&outside, "&minPoolSize=2");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.find_one(doc! {}).await.unwrap();
        client.sleep(Duration::from_secs(1)).await;
        assert!(client.stats().iter().all(|stats| stats.pool.idle >= 2), "{:?}", client.stats());
        client.close().await;
        let error = notes.find_one(doc! {}).await.unwrap_err();
        assert!(matches!(*error.kind, ErrorKind::Shutdown));
    });
    assert_eq!(outside.calls("endSessions").len(), 1);
    let connections = outside.connections();
    outside.block_on(outside.sleep_until(outside.now() + Duration::from_secs(100)));
    assert_eq!(outside.connections(), connections, "nobody connects any more");
}

#[test]
fn a_message_too_large_for_any_server_is_not_sent() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let database = client.database("d");
        let error = database.run_command(doc! { "big": "x".repeat(49_000_000) }).await.unwrap_err();
        assert!(error.to_string().contains("49000"), "{error}");
        database.run_command(doc! { "ping": 1 }).await.unwrap();
    });
    assert_eq!(outside.commands().len(), 1);
}

#[test]
fn what_is_not_supported_is_refused_rather_than_left_out() {
    let outside = set(|_| None);
    let refused = [
        #[cfg(not(feature = "auth"))]
        ("mongodb://user:password@a/", "\"auth\""),
        #[cfg(not(feature = "tls"))]
        ("mongodb://a/?tls=true", "\"tls\""),
        #[cfg(not(feature = "zstd"))]
        ("mongodb://a/?compressors=zstd", "\"zstd\""),
        ("mongodb://a/?loadBalanced=true", "loadBalanced"),
    ];
    for (uri, what) in refused {
        let transport = outside.clone() as Arc<dyn Transport>;
        let error = Client::with_transport(uri, transport).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn a_streaming_check_brings_news_at_once() {
    let outside = set(|call| {
        let version = |counter: i64| {
            doc! { "processId": bson::oid::ObjectId::from_bytes([1; 12]), "counter": counter }
        };
        let mut first = hello(call);
        first.insert("topologyVersion", version(1));
        if !call.is_hello() {
            return None;
        }
        if !call.command.contains_key("topologyVersion") {
            return Some(Answer::Reply(first));
        }
        // After five seconds a stops being the primary and b becomes it.
        let mut news = first.clone();
        news.insert("topologyVersion", version(2));
        news.insert("isWritablePrimary", call.address == "b:27017");
        news.insert("secondary", call.address != "b:27017");
        news.insert("primary", "b:27017");
        news.insert("electionId", bson::oid::ObjectId::from_bytes([2; 12]));
        let quiet = news.clone();
        Some(Answer::Stream(vec![(Duration::from_secs(5), news), (Duration::from_secs(15), quiet)]))
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let began = client.now();
        let changed = |topology: &crate::sdam::TopologyDescription| {
            topology.primary().is_some_and(|primary| primary.address.to_string() == "b:27017")
        };
        client.wait_for_topology(Duration::from_secs(9), changed).await.unwrap();
        let waited = client.now() - began;
        assert!(waited >= Duration::from_secs(5) && waited < Duration::from_millis(5_100));
    });
}
