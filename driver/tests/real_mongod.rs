//! The driver over TCP against a real three-member set.
//!
//! Needs the path of a mongod in the environment variable `MONGOD`; without it the tests say
//! that they are skipped.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::future::IntoFuture;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use serde::{Deserialize, Serialize};
use stepdown_driver::error::labels;
use stepdown_driver::event::{CommandEvent, EventLog};
use stepdown_driver::options::{ClientOptions, ReadPreference, WriteConcern};
use stepdown_driver::sdam::{ServerType, TopologyDescription};
use stepdown_driver::{Client, IndexModel, ReturnDocument};

/// A mongod process; killed when dropped.
struct Mongod {
    program: PathBuf,
    port: u16,
    directory: PathBuf,
    process: Child,
}

impl Mongod {
    fn start(program: &PathBuf, port: u16, directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let process = Mongod::spawn(program, port, &directory);
        Mongod { program: program.clone(), port, directory, process }
    }

    fn spawn(program: &PathBuf, port: u16, directory: &PathBuf) -> Child {
        Command::new(program)
            .args(["--replSet", "foo", "--bind_ip", "127.0.0.1", "--nounixsocket"])
            .args(["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "enableTestCommands=1"])
            .args(["--port", &port.to_string()])
            .arg("--dbpath")
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Mongod::spawn(&self.program, self.port, &self.directory);
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn start_three(name: &str) -> Option<Vec<Mongod>> {
    let Some(program) = std::env::var_os("MONGOD") else {
        eprintln!("skipped: MONGOD is not set to the path of a mongod");
        return None;
    };
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
    drop(listeners);
    let base = std::env::temp_dir().join(format!("stepdown-{name}-{}", std::process::id()));
    let member =
        |port: &u16| Mongod::start(&program.clone().into(), *port, base.join(port.to_string()));
    Some(ports.iter().map(member).collect())
}

async fn initiate(members: &[Mongod]) {
    // The quorum check of replSetInitiate needs everybody to listen already.
    for member in members {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", member.port)).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "{} starts", member.address());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let direct = format!("mongodb://{}/?directConnection=true", members[0].address());
    let client = Client::with_uri_str(&direct).await.unwrap();
    let hosts: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(id, member)| doc! { "_id": id as i32, "host": member.address() })
        .collect();
    let config = doc! {
        "_id": "foo",
        "members": hosts,
        "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 },
    };
    let admin = client.database("admin");
    let refused = client.database("d").collection::<Document>("c").insert_one(doc! {}).await;
    let refused = refused.unwrap_err();
    assert!(refused.is_not_primary() || refused.is_node_recovering(), "{refused}");
    let ghost = |topology: &TopologyDescription| topology.of_type(ServerType::RsGhost).count() == 1;
    client.wait_for_topology(Duration::from_secs(5), ghost).await.unwrap();
    admin.run_command(doc! { "replSetInitiate": config }).await.unwrap();
    client.close().await;
}

fn uri(members: &[Mongod], more: &str) -> String {
    let hosts: Vec<_> = members.iter().map(Mongod::address).collect();
    // On a busy machine one member's round trips may be far longer than another's: the latency window
    // is not what is tested here.
    format!("mongodb://{}/?replicaSet=foo&localThresholdMS=10000{more}", hosts.join(","))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    #[serde(rename = "_id")]
    id: i32,
    balance: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_initiated_used_and_fails_over() {
    let Some(mut members) = start_three("story") else { return };
    initiate(&members).await;

    // One seed is enough to find the others.
    let mut options = ClientOptions::parse_str(uri(&members[1..2], "")).unwrap();
    let log = EventLog::new();
    log.attach(&mut options);
    let client = Client::with_options(options).unwrap();
    let accounts = client
        .database("bank")
        .collection::<Account>("accounts")
        .with_write_concern(WriteConcern::majority());
    let began = Instant::now();
    accounts.insert_one(Account { id: 0, balance: 100 }).await.unwrap();
    println!("first majority write after {:?}", began.elapsed());
    client
        .wait_for_topology(Duration::from_secs(20), |t| t.secondaries().count() == 2)
        .await
        .unwrap();
    println!("{}", client.topology());

    crud(&client).await;
    secondary_reads(&client).await;

    // Kill the primary: with retries off, the family of AutoReconnect is told.
    let plain = Client::with_uri_str(uri(
        &members,
        "&retryReads=false&retryWrites=false&serverSelectionTimeoutMS=500",
    ))
    .await
    .unwrap();
    let plain_accounts = plain.database("bank").collection::<Account>("accounts");
    plain_accounts.find_one(doc! {}).await.unwrap().unwrap();
    let primary = client.topology().primary().unwrap().address.clone();
    let index = members.iter().position(|m| m.address() == primary.to_string()).unwrap();
    members[index].kill();
    let began = Instant::now();
    let error = plain_accounts.insert_one(Account { id: 900, balance: 1 }).await.unwrap_err();
    println!("without retries: {error}");
    assert!(error.is_auto_reconnect(), "{error}");
    let result = accounts.insert_one(Account { id: 901, balance: 1 }).await;
    println!("with retries: {result:?} after {:?}", began.elapsed());
    result.unwrap();
    let again = plain
        .with_reconnect_for(Duration::from_secs(20), || {
            plain_accounts.find_one(doc! { "_id": 901 }).into_future()
        })
        .await
        .unwrap();
    assert_eq!(again, Some(Account { id: 901, balance: 1 }));
    let next = client.topology().primary().unwrap().address.clone();
    assert_ne!(next, primary);

    // The old primary rejoins.
    members[index].restart();
    client
        .wait_for_topology(Duration::from_secs(30), |t| {
            t.server(&primary).is_some_and(|server| server.is_secondary())
        })
        .await
        .unwrap();
    println!("{}", client.topology());
    for stats in client.stats() {
        println!("{stats:?}");
    }
    let retried: u64 = client.stats().iter().map(|stats| stats.retried).sum();
    println!("retried {retried}");
    assert!(log.commands().iter().any(|event| matches!(event, CommandEvent::Succeeded(_))));
    client.close().await;
    let error = accounts.find_one(doc! {}).await.unwrap_err();
    assert_eq!(error.to_string(), "the client was closed");
}

async fn crud(client: &Client) {
    let database = client.database("crud");
    let things = database.collection::<Document>("things");
    let many: Vec<_> = (0..250).map(|n| doc! { "_id": n, "n": n, "even": n % 2 == 0 }).collect();
    let inserted = things.insert_many(&many).await.unwrap();
    assert_eq!(inserted.inserted_ids.len(), 250);

    let mut cursor =
        things.find(doc! { "even": true }).sort(doc! { "n": -1 }).batch_size(10).await.unwrap();
    let mut found = Vec::new();
    while cursor.advance().await.unwrap() {
        found.push(cursor.current().get_i32("n").unwrap());
    }
    assert_eq!(found.len(), 125);
    assert!(found.is_sorted_by(|a, b| a > b));
    // Closed on the server when dropped.
    let mut dropped = things.find(doc! {}).batch_size(5).await.unwrap();
    dropped.try_next().await.unwrap().unwrap();
    drop(dropped);

    let limited: Vec<Document> =
        things.find(doc! {}).limit(7).await.unwrap().try_collect().await.unwrap();
    assert_eq!(limited.len(), 7);
    let raw = database.collection::<RawDocumentBuf>("things");
    let one = raw.find_one(doc! { "_id": 3 }).await.unwrap().unwrap();
    assert_eq!(one, rawdoc! { "_id": 3, "n": 3, "even": false });
    raw.insert_one(rawdoc! { "_id": 1000, "raw": true }).await.unwrap();

    assert_eq!(things.count_documents(doc! { "even": true }).await.unwrap(), 125);
    assert_eq!(things.estimated_document_count().await.unwrap(), 251);
    assert_eq!(things.distinct("even", doc! {}).await.unwrap().len(), 2);
    let updated = things.update_one(doc! { "_id": 1 }, doc! { "$set": { "x": 1 } }).await.unwrap();
    assert_eq!((updated.matched_count, updated.modified_count), (1, 1));
    let updated =
        things.update_many(doc! { "even": true }, doc! { "$inc": { "n": 1 } }).await.unwrap();
    assert_eq!(updated.modified_count, 125);
    let upserted = things
        .update_one(doc! { "_id": 5000 }, doc! { "$set": { "x": 1 } })
        .upsert(true)
        .await
        .unwrap();
    assert_eq!((upserted.matched_count, upserted.upserted_id), (0, Some(bson::Bson::Int32(5000))));
    let replaced = things.replace_one(doc! { "_id": 1 }, doc! { "y": 2 }).await.unwrap();
    assert_eq!(replaced.modified_count, 1);
    let after = things
        .find_one_and_update(doc! { "_id": 1 }, doc! { "$inc": { "y": 1 } })
        .return_document(ReturnDocument::After)
        .await
        .unwrap();
    assert_eq!(after, Some(doc! { "_id": 1, "y": 3 }));
    let before = things.find_one_and_replace(doc! { "_id": 1 }, doc! { "z": 1 }).await.unwrap();
    assert_eq!(before, Some(doc! { "_id": 1, "y": 3 }));
    assert_eq!(
        things.find_one_and_delete(doc! { "_id": 1 }).await.unwrap(),
        Some(doc! { "_id": 1, "z": 1 })
    );
    assert_eq!(things.find_one_and_delete(doc! { "_id": 1 }).await.unwrap(), None);
    assert_eq!(things.delete_one(doc! { "_id": 2 }).await.unwrap().deleted_count, 1);
    assert_eq!(things.delete_many(doc! { "n": { "$gte": 100 } }).await.unwrap().deleted_count, 150);

    let duplicate = things.insert_one(doc! { "_id": 3 }).await.unwrap_err();
    assert!(duplicate.is_duplicate_key(), "{duplicate}");
    let many = things.insert_many([doc! { "_id": 7000 }, doc! { "_id": 3 }, doc! { "_id": 7001 }]);
    let error = many.ordered(false).await.unwrap_err();
    assert!(error.is_duplicate_key(), "{error}");
    assert_eq!(things.count_documents(doc! { "_id": { "$gte": 7000 } }).await.unwrap(), 2);
    let impossible =
        things.insert_one(doc! {}).write_concern(WriteConcern::nodes(10)).await.unwrap_err();
    assert_eq!(impossible.code(), Some(100), "{impossible}");
    things.insert_one(doc! { "_id": 8000 }).write_concern(WriteConcern::nodes(0)).await.unwrap();

    let index = things.create_index(IndexModel::new(doc! { "n": 1 })).await.unwrap();
    assert_eq!(index.index_names, ["n_1"]);
    let indexes: Vec<Document> = things.list_indexes().await.unwrap().try_collect().await.unwrap();
    assert_eq!(indexes.len(), 2);
    things.drop_index("n_1").await.unwrap();
    database.create_collection("more").await.unwrap();
    let mut names = database.list_collection_names().await.unwrap();
    names.sort();
    assert_eq!(names, ["more", "things"]);
    assert_eq!(
        database.list_collections().await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(),
        2
    );
    assert!(client.list_database_names().await.unwrap().contains(&"crud".to_owned()));
    assert!(client.list_databases().await.unwrap().iter().any(|d| d.name == "crud" && !d.empty));
    let sums: Vec<Document> = things
        .aggregate([doc! { "$group": { "_id": null, "n": { "$sum": 1 } } }])
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(sums.len(), 1);
    let pong = database.run_command(doc! { "ping": 1 }).await.unwrap();
    assert_eq!(pong.get_f64("ok").unwrap(), 1.0);
    let error = database.run_command(doc! { "nonsense": 1 }).await.unwrap_err();
    assert_eq!(error.code(), Some(59), "{error}");

    // A causally consistent session reads its own write from a secondary.
    let session = client.start_session().await.unwrap();
    things.insert_one(doc! { "_id": 9000 }).session(&session).await.unwrap();
    let seen = things
        .find_one(doc! { "_id": 9000 })
        .selection_criteria(ReadPreference::secondary())
        .session(&session)
        .await
        .unwrap();
    assert!(seen.is_some() && session.operation_time().is_some());

    // A retryable write is retried under the same number, with the server's label.
    let admin = client.database("admin");
    let fail = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "failCommands": ["insert"], "errorCode": 91, "errorLabels": [labels::RETRYABLE_WRITE_ERROR] },
    };
    admin.run_command(fail).await.unwrap();
    things.insert_one(doc! { "_id": 9001 }).await.unwrap();
    let fail = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "failCommands": ["find"], "closeConnection": true },
    };
    admin.run_command(fail).await.unwrap();
    assert!(things.find_one(doc! { "_id": 9001 }).await.unwrap().is_some());

    // An operation that is given up does not cost its connection.
    let slow = things.find_one(doc! { "$where": "sleep(100) || true" });
    let given_up = tokio::time::timeout(Duration::from_millis(10), slow.into_future()).await;
    assert!(given_up.is_err());
    assert!(things.find_one(doc! { "_id": 9001 }).await.unwrap().is_some());
    things.drop().await.unwrap();
    database.drop().await.unwrap();
}

async fn secondary_reads(client: &Client) {
    client.reset_stats();
    let accounts = client
        .database("bank")
        .collection::<Account>("accounts")
        .with_selection_criteria(ReadPreference::secondary());
    let done = AtomicU32::new(0);
    for _ in 0..200 {
        accounts.find_one(doc! { "_id": 0 }).await.unwrap().unwrap();
        done.fetch_add(1, Ordering::Relaxed);
    }
    let balance = client.read_balance();
    println!("{balance:?}");
    let primary = client.topology().primary().unwrap().address.clone();
    assert_eq!(balance[&primary], 0);
    assert!(balance.iter().filter(|(a, _)| **a != primary).all(|(_, n)| (60..=140).contains(n)));
}

#[test]
fn one_client_outlives_the_runtime_it_was_made_in() {
    let Some(members) = start_three("runtimes") else { return };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime().block_on(async {
        initiate(&members).await;
        let client = Client::with_uri_str(uri(&members, "")).await.unwrap();
        client.database("d").collection("c").insert_one(doc! { "_id": 1 }).await.unwrap();
        client
    });
    for _ in 0..3 {
        let found = runtime().block_on(async {
            client.database("d").collection::<Document>("c").find_one(doc! {}).await
        });
        assert_eq!(found.unwrap(), Some(doc! { "_id": 1 }));
    }
    let again = runtime();
    again.block_on(async {
        let update = client.database("d").collection::<Document>("c");
        update.update_many(doc! {}, doc! { "$set": { "x": 1 } }).await.unwrap();
        client.close().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancelled_operations_and_step_downs_leave_the_pools_sound() {
    let Some(members) = start_three("storm") else { return };
    initiate(&members).await;
    let more = "&maxPoolSize=5&waitQueueTimeoutMS=2000&maxIdleTimeMS=500&minPoolSize=2";
    let client = Client::with_uri_str(uri(&members, more)).await.unwrap();
    let things = client.database("d").collection::<Document>("things");
    things.insert_one(doc! { "_id": -1 }).await.unwrap();
    let until = Instant::now() + Duration::from_secs(8);
    let mut tasks = Vec::new();
    for task in 0..32_u64 {
        let things = things.clone();
        tasks.push(tokio::spawn(async move {
            let (mut done, mut failed, mut given_up) = (0, 0, 0);
            for round in 0_u64.. {
                if Instant::now() > until {
                    break;
                }
                let id = (task * 1_000_000 + round) as i64;
                let work = async {
                    if round % 3 == 0 {
                        things.insert_one(doc! { "_id": id }).await.map(|_| ())
                    } else if round % 3 == 1 {
                        let everybody = ReadPreference::nearest();
                        let found =
                            things.find(doc! {}).batch_size(3).selection_criteria(everybody);
                        let mut cursor = found.await?;
                        for _ in 0..10 {
                            cursor.try_next().await?;
                        }
                        Ok(())
                    } else {
                        things
                            .update_one(doc! { "_id": -1 }, doc! { "$inc": { "n": 1 } })
                            .await
                            .map(|_| ())
                    }
                };
                // A pseudo-random patience, mostly too short.
                let patience =
                    Duration::from_micros((id as u64).wrapping_mul(2_654_435_761) % 20_000);
                match tokio::time::timeout(patience, work).await {
                    Ok(Ok(())) => done += 1,
                    Ok(Err(_)) => failed += 1,
                    Err(_) => given_up += 1,
                }
            }
            (done, failed, given_up)
        }));
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let step_down =
            doc! { "replSetStepDown": 3, "secondaryCatchUpPeriodSecs": 1, "force": true };
        let _ = client.database("admin").run_command(step_down).await;
    }
    let mut total = (0, 0, 0);
    for task in tasks {
        let (done, failed, given_up) = task.await.unwrap();
        total = (total.0 + done, total.1 + failed, total.2 + given_up);
    }
    println!("done, failed, given up: {total:?}");
    assert!(total.0 > 100, "{total:?}");
    things.find_one(doc! {}).await.unwrap().unwrap();
    // What was closed in the background has settled: nothing is lent out or waited for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for stats in client.stats() {
        println!("{stats:?}");
        assert_eq!(
            (stats.in_flight, stats.pool.in_use, stats.pool.waiting),
            (0, 0, 0),
            "{stats:?}"
        );
        assert!(stats.pool.idle <= 5, "{stats:?}");
    }
    client.close().await;
}
