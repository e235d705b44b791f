//! Prose tests of the driver specifications, in simulated sets and virtual time: what their authors could
//! not say in the test formats. Each test names its specification and, where it has one, its number.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::{Document, doc};
use stepdown::Sim;
use stepdown_driver::error::labels;
use stepdown_driver::event::{CmapEvent, CommandEvent, EventLog, SdamEvent};
use stepdown_driver::options::ClientOptions;
use stepdown_driver::transport::{BoxFuture, SrvRecords, Stream, Transport};
use stepdown_driver::uri::ServerAddress;
use stepdown_driver::{Client, Instant};

/// A set of three that has elected its primary.
fn set(seed: u64) -> Sim {
    let sim = Sim::builder().seed(seed).members(3).build();
    sim.elect();
    sim
}

/// A client with these options in the connection string, and what it tells.
fn client(sim: &Sim, options: &str) -> (Client, EventLog) {
    client_through(sim, options, sim.transport("application"))
}

fn client_through(sim: &Sim, options: &str, outside: Arc<dyn Transport>) -> (Client, EventLog) {
    let hosts: Vec<String> = sim.members().iter().map(ToString::to_string).collect();
    let uri = format!("mongodb://{}/?replicaSet={}&{options}", hosts.join(","), sim.set_name());
    let mut options = ClientOptions::parse_str(uri).unwrap();
    let log = EventLog::new();
    log.attach(&mut options);
    (Client::with_transport(options, outside).unwrap(), log)
}

/// Lets commands of the primary fail.
async fn fail_command(sim: &Sim, mode: impl Into<bson::Bson>, data: Document) {
    let (operator, _) = client_through(sim, "", sim.transport("operator"));
    let command = doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data };
    operator.database("admin").run_command(command).await.unwrap();
    operator.close().await;
}

/// The outside with one and the same random number, again and again.
struct Unrandom(Arc<dyn Transport>, u64);

impl Transport for Unrandom {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn unix_millis(&self) -> i64 {
        self.0.unix_millis()
    }

    fn random(&self) -> u64 {
        self.1
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.0.spawn(name, task);
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        self.0.sleep_until(at)
    }

    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        self.0.connect(to, by)
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>> {
        self.0.resolve_srv(name)
    }
}

#[test]
fn client_backpressure_1_retries_after_overload_back_off_exponentially() {
    let elapsed = |jitter: u64| {
        let sim = set(1);
        sim.block_on(async {
            let overload = ["SystemOverloadedError", "RetryableError"];
            let outside = Arc::new(Unrandom(sim.transport("application"), jitter));
            let (client, _) = client_through(&sim, "", outside);
            let notes = client.database("d").collection::<Document>("notes");
            notes.insert_one(doc! {}).await.unwrap();
            let data = doc! { "failCommands": ["insert"], "errorCode": 2, "errorLabels": overload };
            fail_command(&sim, "alwaysOn", data).await;
            let began = client.now();
            notes.insert_one(doc! { "a": 1 }).await.unwrap_err();
            client.now() - began
        })
    };
    let (least, most) = (elapsed(0), elapsed(u64::MAX));
    // The pauses are at most 200 and 400 ms.
    let difference = (most - least).as_millis();
    assert!((590..=610).contains(&difference), "{least:?} and {most:?}");
}

#[test]
fn client_backpressure_3_overload_errors_are_retried_twice_at_most() {
    let attempts = |options: &str| {
        let sim = set(1);
        sim.block_on(async {
            let overload = ["SystemOverloadedError", "RetryableError"];
            let data = doc! { "failCommands": ["find"], "errorCode": 462, "errorLabels": overload };
            fail_command(&sim, "alwaysOn", data).await;
            let (client, log) = client(&sim, options);
            let notes = client.database("d").collection::<Document>("notes");
            let error = notes.find_one(doc! {}).await.unwrap_err();
            assert!(error.contains_label(labels::RETRYABLE_ERROR));
            assert!(error.contains_label(labels::SYSTEM_OVERLOADED_ERROR));
            log.started_commands().iter().filter(|name| *name == "find").count()
        })
    };
    assert_eq!(attempts(""), 3);
    assert_eq!(attempts("maxAdaptiveRetries=1"), 2, "prose test 4");
}

/// Two operations at once over one connection: the first clears the pool under the second.
fn over_one_connection(command: &'static str) -> EventLog {
    let sim = set(1);
    let data = doc! {
        "failCommands": [command], "errorCode": 91, "blockConnection": true, "blockTimeMS": 1000,
        "errorLabels": ["RetryableWriteError"],
    };
    let (client, log) = sim.block_on(async {
        fail_command(&sim, doc! { "times": 1 }, data).await;
        let (client, log) = client(&sim, "maxPoolSize=1");
        client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
        log.clear();
        (client, log)
    });
    let operation = |client: Client| async move {
        let notes = client.database("d").collection::<Document>("notes");
        match command {
            "find" => drop(notes.find_one(doc! {}).await.unwrap()),
            _ => drop(notes.insert_one(doc! {}).await.unwrap()),
        }
    };
    let other = sim.spawn("the second operation", operation(client.clone()));
    sim.block_on(async {
        operation(client).await;
        other.await;
    });
    log
}

#[test]
fn retryable_reads_1_an_error_of_a_cleared_pool_is_retried() {
    let log = over_one_connection("find");
    let failed = log.cmap().into_iter().any(|event| {
        matches!(event, CmapEvent::ConnectionCheckoutFailed(event)
            if event.reason.as_str() == "connectionError")
    });
    assert!(failed, "{}", log.render());
    assert_eq!(log.count("poolClearedEvent"), 1, "{}", log.render());
    let finds = log.started_commands().into_iter().filter(|name| name == "find").count();
    assert_eq!(finds, 3, "{}", log.render());
}

#[test]
fn retryable_writes_2_an_error_of_a_cleared_pool_is_retried() {
    let log = over_one_connection("insert");
    assert_eq!(log.count("connectionCheckOutFailedEvent"), 1, "{}", log.render());
    assert_eq!(log.count("poolClearedEvent"), 1, "{}", log.render());
    let inserts = log.started_commands().into_iter().filter(|name| name == "insert").count();
    assert_eq!(inserts, 3, "{}", log.render());
}

#[test]
fn sessions_1_the_pool_of_sessions_gives_out_what_came_back_last() {
    let sim = set(1);
    sim.block_on(async {
        let (client, _) = client(&sim, "");
        client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
        let (a, b) = (client.start_session().await.unwrap(), client.start_session().await.unwrap());
        let (first, second) = (a.id(), b.id());
        a.end().await;
        b.end().await;
        let (c, d) = (client.start_session().await.unwrap(), client.start_session().await.unwrap());
        assert_eq!((c.id(), d.id()), (second, first));
    });
}

#[test]
fn sessions_5_a_session_belongs_to_its_client() {
    let sim = set(1);
    sim.block_on(async {
        let (one, _) = client(&sim, "");
        let (other, log) = client(&sim, "");
        let session = one.start_session().await.unwrap();
        let ping = other.database("admin").run_command(doc! { "ping": 1 }).session(&session).await;
        ping.unwrap_err();
        assert!(log.started_commands().is_empty());
    });
}

#[test]
fn sessions_14_implicit_sessions_are_taken_after_the_connection() {
    let sim = set(1);
    let (client, log) = client(&sim, "maxPoolSize=1&retryWrites=true");
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let notes = client.database("d").collection::<Document>("notes");
            sim.spawn(format!("insert {number}"), async move {
                notes.insert_one(doc! { "_id": number }).await.unwrap();
            })
        })
        .collect();
    sim.block_on(async {
        for task in tasks {
            task.await;
        }
    });
    let mut lsids: Vec<String> = log
        .commands()
        .iter()
        .filter_map(|event| match event {
            CommandEvent::Started(event) => event.command.get("lsid").map(ToString::to_string),
            _ => None,
        })
        .collect();
    assert_eq!(lsids.len(), 8);
    lsids.dedup();
    assert_eq!(lsids.len(), 1, "one connection, one session");
}

#[test]
fn causal_consistency_1_to_5_reads_follow_what_the_session_saw() {
    let sim = set(1);
    sim.block_on(async {
        let (client, log) = client(&sim, "");
        let notes = client.database("d").collection::<Document>("notes");
        let session = client.start_session().await.unwrap();
        assert_eq!(session.operation_time(), None, "test 1");
        notes.find_one(doc! {}).session(&session).await.unwrap();
        let after = |log: &EventLog| {
            let events = log.commands();
            let last = events.iter().rev().find_map(|event| match event {
                CommandEvent::Started(event) => Some(event.command.clone()),
                _ => None,
            });
            let concern = last.unwrap().get_document("readConcern").cloned().unwrap_or_default();
            concern.get_timestamp("afterClusterTime").ok()
        };
        assert_eq!(after(&log), None, "test 2");
        let seen = session.operation_time().expect("test 3");
        notes.find_one(doc! {}).session(&session).await.unwrap();
        assert_eq!(after(&log), Some(seen), "test 4");
        notes.insert_one(doc! {}).session(&session).await.unwrap();
        let written = session.operation_time().unwrap();
        notes.find_one(doc! {}).session(&session).await.unwrap();
        assert_eq!(after(&log), Some(written), "test 5");
    });
}

#[test]
fn client_side_operations_timeout_8_a_deadline_bounds_the_search_for_a_server() {
    let sim = set(1);
    sim.block_on(async {
        for (options, millis) in [
            ("serverSelectionTimeoutMS=10", 10),
            ("timeoutMS=10&serverSelectionTimeoutMS=20", 10),
            ("timeoutMS=20&serverSelectionTimeoutMS=10", 10),
            ("timeoutMS=0&serverSelectionTimeoutMS=10", 10),
        ] {
            let uri = format!("mongodb://nowhere:27017/?{options}");
            let client = Client::with_transport(uri, sim.transport("application")).unwrap();
            let began = client.now();
            client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap_err();
            assert_eq!((client.now() - began).as_millis(), millis, "{options}");
        }
    });
}

#[test]
fn crud_1_a_write_concern_error_shows_its_details() {
    let sim = set(1);
    sim.block_on(async {
        let info =
            doc! { "writeConcern": { "w": 2, "wtimeout": 0, "provenance": "clientSupplied" } };
        let error = doc! {
            "code": 100, "codeName": "UnsatisfiableWriteConcern",
            "errmsg": "Not enough data-bearing nodes", "errInfo": info.clone(),
        };
        let data = doc! { "failCommands": ["insert"], "writeConcernError": error };
        fail_command(&sim, doc! { "times": 1 }, data).await;
        let (client, _) = client(&sim, "");
        let notes = client.database("d").collection::<Document>("notes");
        let error = notes.insert_one(doc! {}).await.unwrap_err();
        let reply = Document::try_from(&**error.server_response().unwrap()).unwrap();
        let found = reply.get_document("writeConcernError").unwrap();
        assert_eq!(found.get_document("errInfo").unwrap(), &info);
        assert_eq!(error.code(), Some(100));
    });
}

#[test]
fn server_monitoring_heartbeats_come_as_often_as_was_asked_for() {
    let sim = set(1);
    let (_client, log) = client(&sim, "heartbeatFrequencyMS=500");
    sim.advance(Duration::from_millis(2_250));
    let mut per_server = std::collections::BTreeMap::new();
    for event in log.sdam() {
        if let SdamEvent::ServerHeartbeatSucceeded(event) = event {
            *per_server.entry(event.server_address.to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(per_server.len(), 3);
    assert!(per_server.values().all(|count| (4..=6).contains(count)), "{per_server:?}");
}

#[test]
fn server_monitoring_round_trip_times_are_measured_while_hellos_stream() {
    let sim = set(1);
    sim.block_on(async {
        let (client, _) = client(&sim, "heartbeatFrequencyMS=500&appName=streamingRttTest");
        client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
        client.sleep(Duration::from_secs(2)).await;
        let primary = client.topology().primary().unwrap().clone();
        assert!(primary.round_trip_time.unwrap() > Duration::ZERO);
        let data = doc! {
            "failCommands": ["hello", "isMaster"], "appName": "streamingRttTest",
            "blockConnection": true, "blockTimeMS": 500,
        };
        fail_command(&sim, doc! { "times": 1000 }, data).await;
        let slow = client.wait_for_topology(Duration::from_secs(60), |topology| {
            let known = topology.server(&primary.address).and_then(|s| s.round_trip_time);
            known.is_some_and(|time| time > Duration::from_millis(250))
        });
        slow.await.unwrap();
    });
}

#[test]
fn connections_survive_step_down_get_more_goes_on_at_the_old_primary() {
    let sim = set(1);
    sim.block_on(async {
        let (client, log) = client(&sim, "");
        let notes = client.database("step-down").collection::<Document>("step-down");
        notes.insert_many((0..5).map(|number| doc! { "_id": number })).await.unwrap();
        let mut cursor = notes.find(doc! {}).batch_size(2).await.unwrap();
        assert!(cursor.advance().await.unwrap());
        let created = log.count("connectionCreatedEvent");
        let (operator, _) = client_through(&sim, "", sim.transport("operator"));
        let command = doc! { "replSetStepDown": 5, "force": true };
        operator.database("admin").run_command(command).await.unwrap();
        for _ in 0..4 {
            assert!(cursor.advance().await.unwrap());
        }
        assert!(!cursor.advance().await.unwrap());
        assert_eq!(log.count("poolClearedEvent"), 0, "{}", log.render());
        assert_eq!(log.count("connectionCreatedEvent"), created, "{}", log.render());
    });
}

#[test]
fn connections_survive_step_down_only_a_shutdown_clears_the_pool() {
    for (code, cleared) in [(10_107, 0), (11_600, 1), (91, 1)] {
        let sim = set(1);
        sim.block_on(async {
            let (client, log) = client(&sim, "retryWrites=false");
            let notes = client.database("step-down").collection::<Document>("step-down");
            notes.insert_one(doc! {}).await.unwrap();
            let data = doc! { "failCommands": ["insert"], "errorCode": code };
            fail_command(&sim, doc! { "times": 1 }, data).await;
            let error = notes.insert_one(doc! {}).await.unwrap_err();
            assert_eq!(error.code(), Some(code));
            assert_eq!(log.count("poolClearedEvent"), cleared, "{code}: {}", log.render());
            notes.insert_one(doc! {}).await.unwrap();
        });
    }
}

#[test]
fn transactions_a_cleared_pool_makes_a_transaction_transient() {
    let sim = set(1);
    let data = doc! {
        "failCommands": ["insert"], "errorCode": 91, "blockConnection": true, "blockTimeMS": 500,
    };
    let (client, found) = sim.block_on(async {
        let (client, _) = client(&sim, "maxPoolSize=1&retryWrites=false");
        client.database("d").create_collection("notes").await.unwrap();
        fail_command(&sim, doc! { "times": 1 }, data).await;
        (client, Arc::new(Mutex::new(None)))
    });
    // It holds the only connection until it fails, and clears the pool.
    let notes = client.database("d").collection::<Document>("notes");
    let blocking = sim.spawn("the insert that fails", async move {
        notes.insert_one(doc! {}).await.unwrap_err();
    });
    let task = {
        let (client, found) = (client.clone(), found.clone());
        sim.spawn("the transaction", async move {
            client.sleep(Duration::from_millis(100)).await;
            let session = client.start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            let notes = client.database("d").collection::<Document>("notes");
            let error = notes.insert_one(doc! {}).session(&session).await.unwrap_err();
            *found.lock().unwrap() = Some(error);
        })
    };
    sim.block_on(async {
        blocking.await;
        task.await;
    });
    let error = found.lock().unwrap().take().unwrap();
    assert!(error.is_pool_cleared(), "{error}");
    assert!(error.contains_label(labels::TRANSIENT_TRANSACTION_ERROR), "{error}");
}
