//! Storms: random faults while clients write, then calm. Nothing acknowledged by a majority is lost, all
//! members end up the same, and the set comes back to life by itself.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bson::{Document, doc};
use stepdown::Sim;
use stepdown::random::RandomStream;
use stepdown::trace::MemberState;

/// Faults of one storm, each drawn with a pause after it.
const FAULTS: usize = 14;

fn members_that_run(sim: &Sim) -> usize {
    sim.members().iter().filter(|member| member.alive && !member.paused).count()
}

/// One fault that leaves a majority able to come back.
fn break_something(sim: &Sim, random: &mut RandomStream) {
    let members = sim.members();
    let any = &members[random.below(members.len() as u64) as usize];
    let other = &members[random.below(members.len() as u64) as usize];
    let name = &*any.name;
    let majority = members.len() / 2 + 1;
    match random.below(12) {
        0..=2 if any.alive && members_that_run(sim) > majority => sim.kill(name).unwrap(),
        3 if any.alive && members_that_run(sim) > majority => sim.shutdown(name).unwrap(),
        4 | 5 => {
            for member in members.iter().filter(|member| !member.alive) {
                sim.restart(&*member.name).unwrap();
            }
        }
        6 if any.alive && !any.paused && members_that_run(sim) > majority => {
            sim.pause(name).unwrap();
        }
        7 => {
            for member in members.iter().filter(|member| member.paused) {
                sim.resume(&*member.name).unwrap();
            }
        }
        8 => sim.isolate(name).unwrap(),
        9 if any.name != other.name => sim.cut(name, &*other.name).unwrap(),
        10 if any.name != other.name => sim.partition(&[name], &[&*other.name]).unwrap(),
        _ => sim.heal(),
    }
}

fn calm(sim: &Sim) {
    sim.heal();
    for member in sim.members() {
        if member.paused {
            sim.resume(&*member.name).unwrap();
        }
    }
    // Whoever is shutting down takes up to fifteen seconds over it.
    sim.advance(Duration::from_secs(20));
    for member in sim.members().iter().filter(|member| !member.alive) {
        sim.restart(&*member.name).unwrap();
    }
}

/// Everybody follows one primary and has what it has.
fn is_settled(sim: &Sim) -> bool {
    let Some(primary) = sim.primary() else { return false };
    let last = primary.status.as_ref().unwrap().applied;
    sim.members().iter().all(|member| {
        member.status.as_ref().is_some_and(|status| {
            status.applied == last
                && matches!(status.state, MemberState::Primary | MemberState::Secondary)
        })
    })
}

fn ids_on(sim: &Sim, member: &str) -> BTreeSet<i32> {
    let mut find = doc! {
        "find": "c", "batchSize": 100_000, "$readPreference": { "mode": "secondaryPreferred" },
    };
    find.insert("projection", doc! { "_id": 1 });
    let reply = sim.command(member, "storm", find).unwrap();
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    batch.iter().map(|found| found.as_document().unwrap().get_i32("_id").unwrap()).collect()
}

/// One storm of one seed; gives back how many writes were acknowledged by a majority.
fn storm(seed: u64, members: usize) -> usize {
    let sim = Sim::builder().seed(seed).members(members).check_invariants(true).build();
    sim.elect();
    let mut random = RandomStream::new(seed, "storm");
    let acknowledged = Rc::new(RefCell::new(BTreeSet::new()));
    let written = acknowledged.clone();
    let hosts: Vec<String> = sim.members().iter().map(|member| member.name.to_string()).collect();
    let uri = format!(
        "mongodb://{}/?replicaSet=foo&w=majority&wtimeoutMS=2000&serverSelectionTimeoutMS=2000&socketTimeoutMS=3000",
        hosts.join(",")
    );
    sim.block_on(async {
        let client = sim.client(uri).await.unwrap();
        let collection = client.database("storm").collection::<Document>("c");
        let mut next = 0;
        for _ in 0..FAULTS {
            break_something(&sim, &mut random);
            for _ in 0..random.between(1, 4) {
                if collection.insert_one(doc! { "_id": next }).await.is_ok() {
                    written.borrow_mut().insert(next);
                }
                next += 1;
                let pause = Duration::from_millis(random.between(10, 4_000));
                sim.sleep(pause).await;
            }
        }
        client.close().await;
    });
    calm(&sim);
    if sim.run_until(Duration::from_secs(180), is_settled).is_err() {
        panic!("seed {seed}: not settled three minutes after the storm\n{}", tail(&sim));
    }
    let acknowledged = acknowledged.take();
    let first = ids_on(&sim, &hosts[0]);
    for host in &hosts {
        let there = ids_on(&sim, host);
        assert_eq!(there, first, "seed {seed}: {host} differs from {}", hosts[0]);
    }
    let lost: Vec<_> = acknowledged.difference(&first).collect();
    assert!(
        lost.is_empty(),
        "seed {seed}: acknowledged by a majority and lost: {lost:?}\n{}",
        tail(&sim)
    );
    acknowledged.len()
}

fn tail(sim: &Sim) -> String {
    let timeline = sim.timeline();
    let lines: Vec<&str> = timeline.lines().collect();
    lines[lines.len().saturating_sub(120)..].join("\n")
}

fn seeds() -> std::ops::Range<u64> {
    // More of them by hand: STEPDOWN_STORMS=10000 cargo test --release --test storms
    let count = std::env::var("STEPDOWN_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    0..count
}

#[test]
fn three_members_lose_nothing_that_a_majority_acknowledged() {
    let acknowledged: usize = seeds().map(|seed| storm(seed, 3)).sum();
    assert!(acknowledged > seeds().count() * 5, "storms that let no write through test nothing");
}

#[test]
fn five_members_lose_nothing_that_a_majority_acknowledged() {
    let acknowledged: usize = seeds().map(|seed| storm(1_000_000 + seed, 5)).sum();
    assert!(acknowledged > seeds().count() * 5, "storms that let no write through test nothing");
}
