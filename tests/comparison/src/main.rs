//! The driver beside the official crate `mongodb`, against the same server in one run.
//!
//! ```console
//! $ cd tests/comparison && cargo run --release -- "mongodb://127.0.0.1:27017/?replicaSet=foo"
//! ```
//!
//! The two take turns, several times over, so that a machine whose speed changes is as fast for one as
//! for the other; the least CPU time of each is shown. `--operations N` runs N operations of one kind
//! (`--only insert`) with one driver (`--driver ours` or `official`) and ends: for callgrind.

use std::alloc::System;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use serde::{Deserialize, Serialize};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

mod ours {
    use stepdown_driver as driver;
    const THIS: &str = "comparison_ours";
    include!("workload.rs");
}

mod official {
    use mongodb as driver;
    const THIS: &str = "comparison_official";
    include!("workload.rs");
}

/// One driver with its collections.
pub trait Workload: Send + Sync {
    /// Runs an operation one time after another.
    fn run(self: Arc<Self>, operation: &'static str, times: u64) -> BoxFuture<Result<()>>;
}

const OPERATIONS: [(&str, u64); 6] = [
    ("ping", 20_000),
    ("insert", 20_000),
    ("find_one", 20_000),
    ("find_one raw", 20_000),
    ("cursor 1000", 200),
    ("cursor typed", 100),
];
const ROUNDS: usize = 3;

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
        let entry =
            |n: i64| Entry { at: n, amount: n as f64 * 1.5, text: "what it was for".into() };
        Account {
            id,
            name: "an account with a name of ordinary length".to_owned(),
            balance: 1_000_000,
            tags: (0..5).map(|n| format!("tag number {n}")).collect(),
            history: (0..10).map(entry).collect(),
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

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let uri =
        arguments.iter().find(|one| one.starts_with("mongodb")).ok_or("usage: comparison URI")?;
    let concurrency: u64 = option("--concurrency").map_or(Ok(16), |text| text.parse())?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let only = option("--only");
    if let Some(operations) = option("--operations") {
        let wanted = only.ok_or("--operations needs --only")?;
        let (operation, _) =
            OPERATIONS.into_iter().find(|(name, _)| *name == wanted).ok_or("no such operation")?;
        let runtime = runtime()?;
        return runtime.block_on(async {
            let workload = match option("--driver").as_deref() {
                Some("official") => official::Bench::new(uri).await?,
                _ => ours::Bench::new(uri).await?,
            };
            let region = Region::new(ALLOCATOR);
            let operations: u64 = operations.parse()?;
            workload.run(operation, operations).await?;
            let change = region.change();
            let count = change.allocations + change.reallocations;
            println!("{:.1} allocations per operation", count as f64 / operations as f64);
            Ok(())
        });
    }

    println!(
        "CPU microseconds per operation at concurrency {concurrency}, one thread, least of {ROUNDS} rounds"
    );
    println!("{:<14} {:>9} {:>9} {:>7}", "operation", "ours", "official", "ratio");
    let (one, other) = (runtime()?, runtime()?);
    let ours = one.block_on(ours::Bench::new(uri))?;
    let official = other.block_on(official::Bench::new(uri))?;
    for (operation, times) in OPERATIONS {
        if only.as_deref().is_some_and(|only| only != operation) {
            continue;
        }
        let mut least = [f64::MAX; 2];
        for _ in 0..ROUNDS {
            for (which, (runtime, workload)) in
                [(&one, &ours), (&other, &official)].into_iter().enumerate()
            {
                let spent = runtime.block_on(measure(workload, operation, times, concurrency))?;
                least[which] = least[which].min(spent);
            }
        }
        let [ours, official] = least;
        println!("{operation:<14} {ours:>9.1} {official:>9.1} {:>7.2}", ours / official);
    }
    Ok(())
}

/// CPU microseconds per operation, of `times` operations by `concurrency` tasks.
async fn measure(
    workload: &Arc<dyn Workload>,
    operation: &'static str,
    times: u64,
    concurrency: u64,
) -> Result<f64> {
    let run = |each: u64| {
        let tasks: Vec<_> =
            (0..concurrency).map(|_| tokio::spawn(workload.clone().run(operation, each))).collect();
        async move {
            for task in tasks {
                task.await??;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        }
    };
    // Connections are opened first.
    run(5).await?;
    let before = cpu_time();
    run(times / concurrency).await?;
    let spent = cpu_time().saturating_sub(before);
    Ok(spent.as_secs_f64() * 1e6 / (times / concurrency * concurrency) as f64)
}

/// The time all threads of this process have spent on a processor, as Linux tells it.
fn cpu_time() -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let nanos = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanos)
}
