//! What an idle, elected set costs: virtual seconds per CPU second, with recording off.
//!
//! ```text
//! cargo run --release -p stepdown --example idle -- --members 3 --virtual-seconds 36000
//! ```
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // It measures real time.

mod measure;

use std::time::{Duration, Instant};

use measure::{argument, cpu_seconds, resident_mebibytes};
use stepdown::Sim;
use stepdown::trace::Record;

fn main() {
    let members = argument("--members", 3);
    let virtual_seconds = argument("--virtual-seconds", 36_000);
    let seed = argument("--seed", 1);

    let count = usize::try_from(members).expect("a set has at most 50 members");
    let sim = Sim::builder()
        .seed(seed)
        .members(count)
        .record(Record::Nothing)
        .check_invariants(false)
        .build();
    sim.elect();
    // Initial syncs and first elections are over; let the connections settle.
    sim.advance(Duration::from_secs(60));

    let messages_before = sim.stats().messages;
    let (cpu_before, wall_before) = (cpu_seconds(), Instant::now());
    sim.advance(Duration::from_secs(virtual_seconds));
    let (cpu, wall) = (cpu_seconds() - cpu_before, wall_before.elapsed().as_secs_f64());
    let messages = sim.stats().messages - messages_before;

    println!(
        "peer=stepdown n={members} virt_s={virtual_seconds} wall_s={wall:.6} cpu_s={cpu:.6} \
         ratio_cpu={:.0} msgs={messages} cpu_ns_per_msg={:.1} rss_mb={:.1}",
        virtual_seconds as f64 / cpu,
        cpu * 1e9 / messages as f64,
        resident_mebibytes(),
    );
}
