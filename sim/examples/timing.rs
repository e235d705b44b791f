//! How long a simulated set takes to elect, to step down, to take over: the simulated column of
//! `docs/timing.md`.
//!
//! Each seed is three members with default settings, measured as `tests/clients/timing.py` measures a real
//! set: everything once, one thing after the other, with a random pause before each so that heartbeats are
//! met in any phase. The samples are printed as `name<TAB>milliseconds ...`, for that script to make the table of.
//!
//! ```text
//! cargo run --release -p stepdown --example timing -- --seeds 200
//! ```

mod measure;

use std::time::Duration;

use bson::{Document, doc};
use measure::argument;
use stepdown::mongod::ServerVersion;
use stepdown::trace::{MemberState, Record};
use stepdown::{Instant, Sim};

const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let seeds = argument("--seeds", 200);
    let first = argument("--first-seed", 1);
    let version = match argument("--version", 6) {
        6 => ServerVersion::V6_0,
        7 => ServerVersion::V7_0,
        _ => ServerVersion::V8_0,
    };
    type Measure = fn(&Sim, u64) -> Duration;
    let measures: [(&str, Measure); 6] = [
        ("initiate", initiate),
        ("kill", kill),
        ("terminate", terminate),
        ("lost_majority", lost_majority),
        ("takeover", takeover),
        // Last, because whoever has stepped down does not stand for a minute.
        ("step_down", step_down),
    ];
    let mut samples = vec![Vec::new(); measures.len()];
    for seed in first..first + seeds {
        let sim = Sim::builder()
            .seed(seed)
            .members(3)
            .server_version(version)
            .record(Record::Nothing)
            .check_invariants(false)
            .build();
        for ((_, measure), samples) in measures.iter().zip(&mut samples) {
            samples.push(measure(&sim, seed).as_micros());
        }
    }
    for ((name, _), samples) in measures.iter().zip(samples) {
        let words: Vec<String> = samples
            .iter()
            .map(|micros| format!("{}.{:03}", micros / 1_000, micros % 1_000))
            .collect();
        println!("{name}\t{}", words.join(" "));
    }
}

fn initiate(sim: &Sim, _seed: u64) -> Duration {
    let began = sim.now();
    sim.initiate();
    first_writable(sim, |_| true) - began
}

fn step_down(sim: &Sim, seed: u64) -> Duration {
    let primary = settle(sim, seed);
    let began = sim.now();
    command(sim, &primary, doc! { "replSetStepDown": 60 });
    first_writable(sim, |name| name != primary) - began
}

fn terminate(sim: &Sim, seed: u64) -> Duration {
    let primary = settle(sim, seed.wrapping_mul(3));
    let began = sim.now();
    sim.shutdown(&primary).expect("the primary runs");
    let took = first_writable(sim, |name| name != primary) - began;
    sim.run_until(LIMIT, |sim| !sim.member(&primary).expect("a member").alive).expect("it ends");
    sim.restart(&primary).expect("it is down");
    took
}

fn kill(sim: &Sim, seed: u64) -> Duration {
    let primary = settle(sim, seed.wrapping_mul(5));
    let began = sim.now();
    sim.kill(&primary).expect("the primary runs");
    let took = first_writable(sim, |name| name != primary) - began;
    sim.restart(&primary).expect("it is down");
    took
}

fn lost_majority(sim: &Sim, seed: u64) -> Duration {
    let primary = settle(sim, seed.wrapping_mul(7));
    let others: Vec<String> = sim
        .members()
        .into_iter()
        .map(|member| member.name.to_string())
        .filter(|name| *name != primary)
        .collect();
    let began = sim.now();
    for other in &others {
        sim.pause(other).expect("it runs");
    }
    let writable = |sim: &Sim| {
        let status = sim.member(&primary).expect("a member").status;
        status.is_some_and(|status| status.writable)
    };
    let ended = sim.run_until(LIMIT, |sim| !writable(sim)).expect("it steps down");
    for other in &others {
        sim.resume(other).expect("it is paused");
    }
    ended - began
}

fn takeover(sim: &Sim, seed: u64) -> Duration {
    let primary = settle(sim, seed.wrapping_mul(11));
    let reply = command(sim, &primary, doc! { "replSetGetConfig": 1 });
    let mut config = reply.get_document("config").expect("a configuration").clone();
    let version = config.get_i32("version").expect("a version");
    config.insert("version", version + 1);
    let members = config.get_array_mut("members").expect("members");
    let mut heirs: Vec<&mut Document> = members
        .iter_mut()
        .filter_map(|member| member.as_document_mut())
        .filter(|member| member.get_str("host").is_ok_and(|host| host != primary))
        .collect();
    let heir = (seed % 2) as usize;
    heirs[heir].insert("priority", 2);
    let heir = heirs[heir].get_str("host").expect("a host").to_owned();
    let began = sim.now();
    command(sim, &primary, doc! { "replSetReconfig": config });
    first_writable(sim, |name| name == heir) - began
}

/// When a member whose name `counts` accepts writes.
fn first_writable(sim: &Sim, counts: impl Fn(&str) -> bool) -> Instant {
    let found = sim.run_until(LIMIT, |sim| {
        sim.members().iter().any(|member| {
            counts(&member.name) && member.status.as_ref().is_some_and(|status| status.writable)
        })
    });
    found.unwrap_or_else(|limit| panic!("seed {}: no primary, {limit}", sim.seed()))
}

/// Waits until all follow one primary, then for a moment in any phase of the heartbeats.
fn settle(sim: &Sim, salt: u64) -> String {
    let settled = |sim: &Sim| {
        let members = sim.members();
        let secondaries =
            members.iter().filter(|member| member.state() == Some(MemberState::Secondary)).count();
        sim.primary().is_some() && secondaries + 1 == members.len()
    };
    sim.run_until(LIMIT, settled).unwrap_or_else(|limit| panic!("seed {}: {limit}", sim.seed()));
    let primary = sim.primary().expect("a settled set has one").name;
    let insert = doc! { "insert": "notes", "documents": [{}], "writeConcern": { "w": 3 } };
    sim.command(&*primary, "test", insert).expect("the primary answers");
    // Heartbeats are 2 s apart: 5 to 8 s, by a multiplication that scatters the seeds.
    let scattered = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    sim.advance(Duration::from_millis(5_000 + scattered % 3_000));
    sim.primary().expect("nothing has happened since").name.to_string()
}

/// Runs an admin command on one member.
fn command(sim: &Sim, member: &str, command: Document) -> Document {
    let reply = sim.command(member, "admin", command).expect("the member answers");
    assert!(reply.get_f64("ok").is_ok_and(|ok| ok > 0.0), "seed {}: {reply}", sim.seed());
    reply
}
