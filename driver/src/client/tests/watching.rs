//! What testers want: a topology to follow, hooks, figures.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::{Document, RawDocument, doc};

use super::{client, once, refusal, set};
use crate::error::{Error, Result, labels};
use crate::event::{CommandHooks, OutgoingCommand, SentCommand};
use crate::options::ClientOptions;
use crate::{Client, sync};

#[test]
fn a_watcher_tells_of_the_primary_and_ends_with_the_client() {
    let outside = set(|_| None);
    let client = client(&outside, "");
    outside.block_on(async {
        let mut watcher = client.watch_topology();
        assert!(watcher.current().primary().is_none());
        let topology = watcher.primary_changed().await.unwrap();
        assert_eq!(topology.primary().unwrap().address.to_string(), "a:27017");
        let closing = async {
            client.sleep(Duration::from_secs(1)).await;
            client.close().await;
            std::future::pending::<()>().await;
        };
        let told = async { while watcher.changed().await.is_some() {} };
        assert!(matches!(sync::select2(told, closing).await, sync::Either::Left(())));
    });
}

/// Refuses the first insert and writes down all that passes.
#[derive(Debug, Default)]
struct Hooks {
    refused: AtomicU32,
    seen: Mutex<Vec<String>>,
}

impl CommandHooks for Hooks {
    fn before_send(&self, command: &OutgoingCommand<'_>) -> Result<()> {
        if command.sent.name == "insert" && self.refused.fetch_add(1, Ordering::SeqCst) == 0 {
            assert!(command.to_document().contains_key("documents"));
            return Err(Error::from(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        Ok(())
    }

    fn after_reply(
        &self,
        command: &SentCommand<'_>,
        outcome: std::result::Result<&RawDocument, &Error>,
    ) {
        let text = format!("{} {} {}", command.name, command.database, outcome.is_ok());
        self.seen.lock().unwrap().push(text);
    }
}

#[test]
fn hooks_see_every_command_and_can_let_it_fail() {
    let hooks = Arc::new(Hooks::default());
    let outside = set(once("find", || refusal(91, &[])));
    let mut options = ClientOptions::parse_str("mongodb://a,b,c/?replicaSet=foo").unwrap();
    options.command_hooks = Some(hooks.clone());
    let client = Client::with_transport(options, outside.clone()).unwrap();
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! {}).await.unwrap();
        notes.find_one(doc! {}).await.unwrap();
    });
    assert_eq!(outside.calls("insert").len(), 1, "the refused attempt was not sent");
    assert_eq!(*hooks.seen.lock().unwrap(), ["insert d true", "find d false", "find d true"]);
}

#[test]
fn waits_for_connections_are_counted() {
    let outside = set(|_| None);
    let client = client(&outside, "&maxPoolSize=1");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        notes.insert_one(doc! {}).await.unwrap();
        let one = std::future::IntoFuture::into_future(notes.insert_one(doc! {}));
        let other = async {
            notes.insert_one(doc! {}).await.unwrap();
            client.sleep(Duration::from_secs(1)).await;
        };
        let _ = sync::select2(
            async {
                one.await.unwrap();
                std::future::pending::<()>().await
            },
            other,
        )
        .await;
    });
    let stats = client.stats();
    assert_eq!(stats[0].check_out_waits, 1);
    assert!(stats[0].check_out_wait_time > Duration::ZERO);
}

#[test]
fn a_cursor_whose_server_is_overloaded_is_closed() {
    let overload = [labels::RETRYABLE_ERROR, labels::SYSTEM_OVERLOADED_ERROR];
    let outside = set(move |call| match call.name() {
        "find" => {
            let cursor = doc! { "firstBatch": [], "id": 9_i64, "ns": "d.c" };
            Some(crate::testing::Answer::Reply(doc! { "cursor": cursor, "ok": 1.0 }))
        }
        "getMore" => Some(refusal(462, &overload)),
        _ => None,
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let mut cursor = notes.find(doc! {}).await.unwrap();
        assert_eq!(cursor.try_next().await.unwrap_err().code(), Some(462));
        assert_eq!(outside.calls("killCursors").len(), 1);
    });
    assert_eq!(outside.calls("getMore").len(), 3);
}
