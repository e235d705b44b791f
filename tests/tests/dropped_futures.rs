//! An operation's future may be dropped at any await point: nothing leaks, and nobody is given a reply
//! that was another's.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bson::{Document, doc};
use stepdown::Sim;
use stepdown_driver::event::EventLog;
use stepdown_driver::options::ClientOptions;
use stepdown_driver::{Client, Collection};

/// Gives a future up after it was not ready so many times. What it gave, if it was ready before.
struct Impatient<F> {
    future: Option<Pin<Box<F>>>,
    patience: u64,
}

impl<F: Future> Impatient<F> {
    fn new(future: F, patience: u64) -> Self {
        Impatient { future: Some(Box::pin(future)), patience }
    }
}

impl<F: Future> Future for Impatient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.future else { return Poll::Ready(None) };
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.patience == 0 => {
                self.future = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.patience -= 1;
                Poll::Pending
            }
        }
    }
}

/// A small generator of test cases: the world's own streams are not for tests.
struct Cases(u64);

impl Cases {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn connect(sim: &Sim, more: &str) -> (Client, EventLog) {
    let seeds = sim.members().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut options =
        ClientOptions::parse_str(format!("mongodb://{seeds}/?replicaSet=foo{more}")).unwrap();
    let log = EventLog::with_capacity(1 << 20);
    log.attach(&mut options);
    (Client::with_transport(options, sim.transport("app")).unwrap(), log)
}

/// One operation of many kinds, cut off or not.
async fn do_something(client: &Client, notes: &Collection<Document>, which: u64, n: i64) {
    let result = match which {
        0 => notes.insert_one(doc! { "n": n }).await.map(drop),
        1 => notes.find_one(doc! { "_id": n % 50 }).await.map(|found| {
            let found = found.expect("the first fifty are always there");
            assert_eq!(found.get_i64("_id").unwrap(), n % 50, "the answer to another question");
        }),
        2 => notes.update_one(doc! { "_id": n % 50 }, doc! { "$inc": { "x": 1 } }).await.map(drop),
        3 => {
            let walk = async {
                let mut cursor = notes.find(doc! { "_id": { "$lt": 50 } }).batch_size(7).await?;
                while cursor.advance().await? {
                    let id = cursor.current().get_i64("_id").unwrap();
                    assert!((0..50).contains(&id));
                }
                Ok(())
            };
            walk.await
        }
        4 => client.database("d").run_command(doc! { "ping": 1 }).await.map(|reply| {
            assert!(!reply.contains_key("cursor") && !reply.contains_key("n"), "{reply}");
        }),
        5 => notes.count_documents(doc! { "_id": { "$lt": 50 } }).await.map(|count| {
            assert_eq!(count, 50);
        }),
        _ => {
            let documents = (0..20).map(|more| doc! { "n": n, "more": more });
            notes.insert_many(documents.collect::<Vec<_>>()).into_future().await.map(drop)
        }
    };
    result.unwrap_or_else(|error| panic!("operation {which}: {error}"));
}

/// Once everything is quiet, all connections are idle and everything works.
async fn assert_nothing_leaked(client: &Client, notes: &Collection<Document>, context: &str) {
    client.sleep(Duration::from_secs(6)).await;
    for stats in client.stats() {
        let pool = stats.pool;
        assert_eq!((pool.in_use, pool.pending, pool.waiting), (0, 0, 0), "{context}: {stats:?}");
        assert_eq!(stats.in_flight, 0, "{context}: {stats:?}");
    }
    for which in 0..7 {
        do_something(client, notes, which, 13).await;
    }
}

async fn prepare(client: &Client) -> Collection<Document> {
    let notes = client.database("d").collection::<Document>("notes");
    let first = (0..50_i64).map(|n| doc! { "_id": n, "x": 0 }).collect::<Vec<_>>();
    notes.insert_many(first).await.unwrap();
    notes
}

#[test]
fn an_operation_may_be_dropped_at_every_await_point() {
    let sim = Sim::builder().seed(5).members(3).build();
    sim.elect();
    sim.block_on(async {
        for pool in ["", "&maxPoolSize=1"] {
            let (client, log) = connect(&sim, pool);
            client.database("d").drop().await.unwrap();
            let notes = prepare(&client).await;
            for which in 0..7 {
                // Cut off one await later each time, until it gets to its end.
                let mut cut = 0;
                loop {
                    let operation = do_something(&client, &notes, which, 7);
                    let done = Impatient::new(operation, cut).await.is_some();
                    let context = format!("operation {which} cut off at await {cut} {pool}");
                    // The very next one must not be given the answer that is still owed.
                    do_something(&client, &notes, 1, 11).await;
                    if cut % 5 == 0 || done {
                        assert_nothing_leaked(&client, &notes, &context).await;
                    }
                    if done {
                        break;
                    }
                    cut += 1;
                    assert!(cut < 300, "{context}");
                }
                assert!(cut > 0, "operation {which} waited for nothing");
            }
            // The drops cost no connection: none was closed.
            let closed = log.count("connectionClosedEvent");
            assert_eq!(log.dropped(), 0, "the log remembers everything");
            assert_eq!(closed, 0, "connections were closed {pool}");
            client.close().await;
        }
    });
}

#[test]
fn a_storm_of_operations_dropped_at_random_leaks_nothing() {
    for seed in 0..6 {
        let sim = Sim::builder().seed(seed).members(3).build();
        sim.elect();
        sim.block_on(async {
            let (client, _log) = connect(&sim, "&maxPoolSize=4&waitQueueTimeoutMS=20000");
            let notes = prepare(&client).await;
            let mut cases = Cases(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
            for _ in 0..40 {
                // Twelve at once on four connections, most of them given up.
                let wave: Vec<_> = (0..12)
                    .map(|n| {
                        let (which, patience) = (cases.below(7), cases.below(24));
                        let (client, notes) = (client.clone(), notes.clone());
                        sim.spawn("application", async move {
                            Impatient::new(do_something(&client, &notes, which, n), patience).await;
                        })
                    })
                    .collect();
                for one in wave {
                    one.await;
                }
            }
            assert_nothing_leaked(&client, &notes, &format!("seed {seed}")).await;
            client.close().await;
        });
    }
}

#[test]
fn operations_dropped_while_the_primary_dies_leak_nothing() {
    for seed in 20..24 {
        let sim = Sim::builder().seed(seed).members(3).build();
        sim.elect();
        sim.block_on(async {
            let (client, _log) = connect(&sim, "&maxPoolSize=3");
            let notes = prepare(&client).await;
            let mut cases = Cases(seed);
            for _ in 0..3 {
                let wave: Vec<_> = (0..10)
                    .map(|_| {
                        let patience = cases.below(30);
                        let notes = notes.clone();
                        sim.spawn("application", async move {
                            let insert = notes.insert_one(doc! { "late": true }).into_future();
                            // Whether it succeeds does not matter here.
                            let _ = Impatient::new(insert, patience).await;
                        })
                    })
                    .collect();
                let primary = client.topology().primary().map(|server| server.address.to_string());
                if let Some(primary) = primary {
                    sim.kill(primary.as_str()).unwrap();
                    client.sleep(Duration::from_secs(30)).await;
                    sim.restart(primary.as_str()).unwrap();
                }
                for one in wave {
                    one.await;
                }
                client.sleep(Duration::from_secs(30)).await;
            }
            let count = notes.count_documents(doc! { "_id": { "$lt": 50 } }).await.unwrap();
            assert_eq!(count, 50);
            client.sleep(Duration::from_secs(10)).await;
            for stats in client.stats() {
                let pool = stats.pool;
                assert_eq!((pool.in_use, pool.pending, pool.waiting), (0, 0, 0), "{stats:?}");
                assert_eq!(stats.in_flight, 0, "{stats:?}");
            }
            client.close().await;
        });
    }
}
