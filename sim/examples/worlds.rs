//! Memory over many worlds: each is built, elected, broken and dropped; what stays must not grow.
//!
//! ```text
//! cargo run --release -p stepdown --example worlds -- --worlds 2000
//! ```
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // It measures real memory and time.

mod measure;

use std::future::IntoFuture;
use std::time::Duration;

use measure::{argument, cpu_seconds, resident_mebibytes};
use stepdown::Sim;

/// One seed is enough to find the others.
const SEEDS: &str = "mongodb://b:27017/?replicaSet=foo";

fn main() {
    let worlds = argument("--worlds", 2_000);
    let members = usize::try_from(argument("--members", 3)).expect("at most 50 members");

    // The allocator's arenas fill in the first worlds; growth is counted from there.
    let warm = worlds / 10;
    (1..=warm).for_each(|seed| one_world(seed, members));
    let (before, cpu_before) = (resident_mebibytes(), cpu_seconds());
    (warm + 1..=worlds).for_each(|seed| one_world(seed, members));
    let (after, cpu) = (resident_mebibytes(), cpu_seconds() - cpu_before);

    println!(
        "worlds={worlds} members={members} rss_mb_before={before:.1} rss_mb_after={after:.1} \
         grown_mb={:.1} cpu_ms_per_world={:.3}",
        after - before,
        cpu * 1e3 / (worlds - warm) as f64,
    );
}

/// An election, a failover under a client's eyes, and a task that never ends.
fn one_world(seed: u64, members: usize) {
    let sim = Sim::builder().seed(seed).members(members).build();
    let primary = sim.elect();
    let client = sim.block_on(sim.client(SEEDS)).expect("the connection string is one");
    let notes = client.database("test").collection("notes");
    sim.block_on(notes.insert_one(bson::doc! { "_id": 1 }).into_future())
        .expect("the primary accepts writes");
    let inside = sim.clone();
    sim.spawn("never ends", async move {
        loop {
            inside.sleep(Duration::from_secs(1)).await;
        }
    });
    sim.kill(&primary).expect("the primary runs");
    sim.run_until(Duration::from_secs(60), |sim| sim.primary().is_some())
        .expect("the others elect");
    sim.block_on(notes.insert_one(bson::doc! { "_id": 2 }).into_future())
        .expect("the new primary accepts writes");
    sim.restart(&primary).expect("it was killed");
    sim.advance(Duration::from_secs(30));
}
