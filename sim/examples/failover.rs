//! What the failover story costs in CPU time, with recording off, over many seeds.
//!
//! From nothing: three mongods start, a direct client initiates the set, the first election is held, a
//! majority write is acknowledged, the primary is killed (kill -9), and the story ends with the
//! first majority write the second primary acknowledges. A real set takes about 24 s for it.
//!
//! ```text
//! cargo run --release -p stepdown --example failover -- --seeds 500
//! ```
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // It measures real time.

mod measure;

use measure::{argument, cpu_seconds, resident_mebibytes};
use stepdown::Sim;
use stepdown::trace::Record;
use stepdown_driver::Result;
use stepdown_driver::options::WriteConcern;

const MEMBERS: &str = "mongodb://a:27017,b:27017,c:27017/?replicaSet=foo";
const ONE: &str = "mongodb://a:27017/?directConnection=true";

/// How much one story was.
#[derive(Default)]
struct Told {
    virtual_seconds: f64,
    messages: u64,
    events: u64,
}

fn main() {
    let seeds = argument("--seeds", 500);
    let first = argument("--first-seed", 1);
    for seed in first..first + seeds / 10 {
        story(seed); // Warm caches and the allocator.
    }
    let before = cpu_seconds();
    let mut worst = 0.0_f64;
    let mut total = Told::default();
    for seed in first..first + seeds {
        let began = cpu_seconds();
        let told = story(seed);
        worst = worst.max(cpu_seconds() - began);
        total.virtual_seconds += told.virtual_seconds;
        total.messages += told.messages;
        total.events += told.events;
    }
    let cpu = cpu_seconds() - before;
    let each = |sum: f64| sum / seeds as f64;
    println!(
        "seeds={seeds} cpu_ms_per_story={:.3} worst_ms={:.3} virt_s_per_story={:.1} \
         msgs_per_story={:.0} events_per_story={:.0} rss_mb={:.1}",
        each(cpu * 1e3),
        worst * 1e3,
        each(total.virtual_seconds),
        each(total.messages as f64),
        each(total.events as f64),
        resident_mebibytes(),
    );
}

fn story(seed: u64) -> Told {
    let sim = Sim::builder()
        .seed(seed)
        .members(3)
        .record(Record::Nothing)
        .check_invariants(false)
        .build();
    if let Err(error) = sim.block_on(failover(&sim)) {
        panic!("seed {seed}: {error}");
    }
    let stats = sim.stats();
    Told {
        virtual_seconds: sim.now().as_millis() as f64 / 1e3,
        messages: stats.messages,
        events: stats.events,
    }
}

async fn failover(sim: &Sim) -> Result<()> {
    let direct = sim.client(ONE).await?;
    let configuration = bson::doc! {
        "_id": "foo",
        "members": [
            { "_id": 0, "host": "a:27017" },
            { "_id": 1, "host": "b:27017" },
            { "_id": 2, "host": "c:27017" },
        ],
    };
    let initiate = bson::doc! { "replSetInitiate": configuration };
    direct.database("admin").run_command(initiate).await?;
    drop(direct);

    let client = sim.client(MEMBERS).await?;
    let majority = WriteConcern::majority();
    let notes = client.database("test").collection("notes").with_write_concern(majority);
    // The driver waits for the first election, and retries once by itself after the kill.
    notes.insert_one(bson::doc! { "_id": 1 }).await?;

    let primary = sim.primary().expect("somebody acknowledged the write");
    sim.kill(&primary).expect("the primary runs");
    notes.insert_one(bson::doc! { "_id": 2 }).await?;
    let second = sim.primary().expect("somebody acknowledged the write");
    assert_ne!(primary.name, second.name);
    Ok(())
}
