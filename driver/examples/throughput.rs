//! How many operations per second, and how much CPU of this process each takes, against any deployment.
//!
//! ```console
//! $ cargo run --release -p stepdown-driver --example throughput -- "mongodb://127.0.0.1:27017/?replicaSet=foo"
//! ```
//!
//! Options: `--seconds N` for each line (default 1), `--only ping` for one operation, `--concurrency 16`
//! for one concurrency, `--threads N` for a runtime of N threads (default: the current thread alone).
//! It writes to, and drops, the collections `throughput.*`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};
use stepdown_driver::{Client, Collection, Database};

/// A document of about one kilobyte, as an application declares it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Account {
    #[serde(rename = "_id")]
    id: i64,
    name: String,
    balance: i64,
    tags: Vec<String>,
    history: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    at: i64,
    amount: f64,
    text: String,
}

impl Account {
    fn new(id: i64) -> Self {
        Account {
            id,
            name: "an account with a name of ordinary length".to_owned(),
            balance: 1_000_000,
            tags: (0..5).map(|n| format!("tag number {n}")).collect(),
            history: (0..10)
                .map(|n| Entry {
                    at: n,
                    amount: n as f64 * 1.5,
                    text: "what it was for".to_owned(),
                })
                .collect(),
        }
    }
}

/// A document of 300 bytes, its `_id` included.
fn small_document() -> Document {
    let mut document =
        doc! { "n": 1_i64, "name": "somebody", "when": bson::DateTime::from_millis(0) };
    let left = 300 - 17 - bson::serialize_to_vec(&document).unwrap().len() - "text".len() - 7;
    document.insert("text", "x".repeat(left));
    document
}

struct Settings {
    uri: String,
    seconds: u64,
    only: Option<String>,
    concurrency: Vec<usize>,
    threads: usize,
}

fn settings() -> Result<Settings, String> {
    let usage =
        "usage: throughput URI [--seconds N] [--only OPERATION] [--concurrency N] [--threads N]";
    let mut settings = Settings {
        uri: String::new(),
        seconds: 1,
        only: None,
        concurrency: vec![1, 16, 64],
        threads: 0,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(usage);
        let number = |text: String| text.parse::<u64>().map_err(|error| error.to_string());
        match argument.as_str() {
            "--seconds" => settings.seconds = number(value()?)?,
            "--only" => settings.only = Some(value()?),
            "--concurrency" => settings.concurrency = vec![number(value()?)? as usize],
            "--threads" => settings.threads = number(value()?)? as usize,
            _ if argument.starts_with("--") => return Err(usage.to_owned()),
            _ => settings.uri = argument,
        }
    }
    if settings.uri.is_empty() { Err(usage.to_owned()) } else { Ok(settings) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = settings()?;
    let runtime = match settings.threads {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?,
    };
    runtime.block_on(async { Arc::new(Bench::prepare(settings).await?).run().await })
}

struct Bench {
    settings: Settings,
    database: Database,
    inserted: Collection<Document>,
    accounts: Collection<Account>,
    raw: Collection<RawDocumentBuf>,
    many: Collection<RawDocumentBuf>,
    small: Document,
}

impl Bench {
    async fn prepare(settings: Settings) -> stepdown_driver::Result<Self> {
        let client = Client::with_uri_str(&settings.uri).await?;
        let database = client.database("throughput");
        for name in ["inserted", "accounts", "many"] {
            database.collection::<Document>(name).drop().await?;
        }
        let accounts = database.collection::<Account>("accounts");
        accounts.insert_many((0..10).map(Account::new)).await?;
        let many = database.collection::<RawDocumentBuf>("many");
        let documents = (0..1000).map(|n| {
            let mut document = small_document();
            document.insert("_id", n);
            document
        });
        many.clone_with_type::<Document>().insert_many(documents).await?;
        Ok(Bench {
            inserted: database.collection("inserted"),
            raw: accounts.clone_with_type(),
            accounts,
            many,
            database,
            small: small_document(),
            settings,
        })
    }

    async fn run(self: Arc<Self>) -> Result<(), Box<dyn std::error::Error>> {
        println!("{:<16} {:>11} {:>12} {:>13}", "operation", "concurrency", "ops/s", "CPU us/op");
        self.measure("ping", |bench| async move {
            bench.database.run_command(doc! { "ping": 1 }).await.map(drop)
        })
        .await?;
        self.measure("insert", |bench| async move {
            bench.inserted.insert_one(&bench.small).await.map(drop)
        })
        .await?;
        self.measure("find_one", |bench| async move {
            bench.accounts.find_one(doc! { "_id": 7_i64 }).await.map(|found| drop(found.unwrap()))
        })
        .await?;
        self.measure("find_one raw", |bench| async move {
            bench.raw.find_one(doc! { "_id": 7_i64 }).await.map(|found| drop(found.unwrap()))
        })
        .await?;
        self.measure("cursor 1000", |bench| async move {
            let mut cursor = bench.many.find(doc! {}).batch_size(100).await?;
            let mut count = 0;
            while cursor.advance().await? {
                count += usize::from(!cursor.current().as_bytes().is_empty());
            }
            assert_eq!(count, 1000);
            Ok(())
        })
        .await?;
        for name in ["inserted", "accounts", "many"] {
            self.database.collection::<Document>(name).drop().await?;
        }
        Ok(())
    }

    /// Runs `operation` over and over in as many tasks as the concurrency says.
    async fn measure<F>(
        self: &Arc<Self>,
        name: &str,
        operation: impl Fn(Arc<Bench>) -> F + Copy + Send + 'static,
    ) -> stepdown_driver::Result<()>
    where
        F: Future<Output = stepdown_driver::Result<()>> + Send,
    {
        if self.settings.only.as_deref().is_some_and(|only| only != name) {
            return Ok(());
        }
        for concurrency in &self.settings.concurrency {
            let (counted, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let tasks: Vec<_> = (0..*concurrency)
                .map(|_| {
                    let (bench, counted, done) = (self.clone(), counted.clone(), done.clone());
                    tokio::spawn(async move {
                        while !done.load(Ordering::Relaxed) {
                            operation(bench.clone()).await?;
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok::<_, stepdown_driver::Error>(())
                    })
                })
                .collect();
            // Connections are opened first.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (began, cpu, before) =
                (Instant::now(), cpu_time(), counted.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_secs(self.settings.seconds)).await;
            let operations = counted.load(Ordering::Relaxed) - before;
            let (elapsed, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu));
            done.store(true, Ordering::Relaxed);
            for task in tasks {
                task.await.expect("an operation does not panic")?;
            }
            println!(
                "{name:<16} {concurrency:>11} {:>12.0} {:>13.1}",
                operations as f64 / elapsed.as_secs_f64(),
                cpu.as_secs_f64() * 1e6 / operations.max(1) as f64,
            );
        }
        Ok(())
    }
}

/// The time all threads of this process have spent on a processor, as Linux tells it; zero elsewhere.
fn cpu_time() -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let nanos = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanos)
}
