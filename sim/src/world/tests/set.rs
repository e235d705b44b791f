//! Sets of real (simulated) mongods in a world.

use std::time::Duration;

use bson::{Document, doc};
use stepdown_driver::options::WriteConcern;

use super::SECOND;
use crate::Sim;
use crate::trace::{Category, EventKind, Filter, MemberState, Record};
use crate::world::Member;

const ELECTION: Duration = Duration::from_secs(60);

fn elected(seed: u64) -> (Sim, Member) {
    let sim = Sim::builder().seed(seed).members(3).record(Record::Everything).build();
    let primary = sim.elect();
    (sim, primary)
}

/// A life with a bit of everything, as its timeline.
fn life(seed: u64) -> String {
    let (sim, primary) = elected(seed);
    let secondary = sim.secondaries().swap_remove(0);
    sim.advance(SECOND * 5);
    sim.kill(&primary).unwrap();
    sim.run_until(ELECTION, |sim| sim.primary().is_some()).unwrap();
    sim.restart(&primary).unwrap();
    sim.pause(&secondary).unwrap();
    sim.advance(SECOND * 30);
    sim.resume(&secondary).unwrap();
    sim.isolate(&primary).unwrap();
    sim.advance(SECOND * 30);
    sim.heal();
    sim.advance(SECOND * 30);
    sim.timeline()
}

#[test]
fn a_set_elects_the_member_that_initiated_after_its_election_timeout() {
    let (sim, primary) = elected(1);
    assert_eq!(&*primary.name, "a:27017");
    assert_eq!(sim.secondaries().len(), 2);
    let seconds = sim.now().as_millis() / 1_000;
    assert!((10..=12).contains(&seconds), "the first election took {seconds} s");
}

#[test]
fn one_seed_gives_one_history_and_another_seed_another() {
    let first = life(1);
    assert_eq!(first, life(1));
    assert_ne!(first, life(2));
}

#[test]
fn recording_changes_nothing_of_what_happens() {
    let ending = |record| {
        let sim = Sim::builder().seed(5).members(3).record(record).build();
        let primary = sim.elect();
        sim.kill(&primary).unwrap();
        sim.run_until(ELECTION, |sim| sim.primary().is_some()).unwrap();
        (sim.now(), sim.stats(), sim.members())
    };
    assert_eq!(ending(Record::Nothing), ending(Record::Everything));
}

#[test]
fn a_killed_primary_is_replaced_within_the_election_timeout() {
    for seed in 1..=20 {
        let (sim, primary) = elected(seed);
        sim.advance(SECOND * 60);
        let killed = sim.now();
        sim.kill(&primary).unwrap();
        let replaced = sim.run_until(ELECTION, |sim| sim.primary().is_some()).unwrap();
        let seconds = (replaced - killed).as_secs();
        // The last good heartbeat was at most 2 s old; a split vote costs one more timeout.
        assert!((7..=24).contains(&seconds), "seed {seed}: {seconds} s");
        sim.restart(&primary).unwrap();
        sim.run_until(ELECTION, |sim| sim.secondaries().len() == 2).unwrap();
    }
}

#[test]
fn a_primary_cut_off_from_the_majority_steps_down_and_returns_as_a_secondary() {
    let (sim, primary) = elected(3);
    sim.advance(SECOND * 10);
    let others: Vec<Member> = sim.secondaries();
    sim.partition(&[&primary], &others).unwrap();
    sim.run_until(ELECTION, |sim| {
        sim.primary().is_some_and(|new| new.name != primary.name)
            && sim.member(&primary).unwrap().state() == Some(MemberState::Secondary)
    })
    .unwrap();
    sim.heal();
    sim.advance(SECOND * 30);
    let caught_up: Vec<_> =
        sim.members().into_iter().map(|member| member.status.unwrap().commit_point).collect();
    assert!(caught_up.windows(2).all(|pair| pair[0] == pair[1]), "{caught_up:?}");
}

#[test]
fn a_short_partition_is_bridged_by_retransmission() {
    let (sim, primary) = elected(4);
    sim.advance(SECOND * 10);
    let before = sim.now();
    let others: Vec<Member> = sim.secondaries();
    sim.partition(&[&primary], &others).unwrap();
    sim.advance(SECOND * 2);
    sim.heal();
    sim.advance(SECOND * 60);
    assert_eq!(sim.primary().unwrap().name, primary.name);
    let filter = Filter::new().since(before).category(Category::Network);
    assert_eq!(sim.timeline_of(&filter), "", "nobody was held down");
}

#[test]
fn a_paused_primary_is_replaced_and_steps_down_when_it_goes_on() {
    let (sim, primary) = elected(6);
    sim.advance(SECOND * 10);
    sim.pause(&primary).unwrap();
    sim.run_until(ELECTION, |sim| sim.primary().is_some_and(|new| new.name != primary.name))
        .unwrap();
    sim.resume(&primary).unwrap();
    sim.run_until(ELECTION, |sim| {
        sim.member(&primary).unwrap().state() == Some(MemberState::Secondary)
    })
    .unwrap();
}

#[test]
fn a_clean_shutdown_hands_over_and_loses_nothing() {
    let (sim, primary) = elected(7);
    sim.advance(SECOND * 10);
    sim.shutdown(&primary).unwrap();
    sim.run_until(SECOND * 5, |sim| sim.primary().is_some_and(|new| new.name != primary.name))
        .unwrap();
    sim.run_until(SECOND * 30, |sim| !sim.member(&primary).unwrap().alive).unwrap();
    sim.restart(&primary).unwrap();
    sim.run_until(ELECTION, |sim| sim.secondaries().len() == 2).unwrap();
    let lost = sim.events().iter().any(|it| matches!(it.kind, EventKind::JournalLost { .. }));
    assert!(!lost, "{}", sim.timeline());
}

#[test]
fn a_member_with_an_emptied_dbpath_copies_everything_again() {
    let (sim, _) = elected(8);
    let secondary = sim.secondaries().swap_remove(0);
    sim.kill(&secondary).unwrap();
    sim.restart_empty(&secondary).unwrap();
    sim.run_until(ELECTION, |sim| sim.secondaries().len() == 2).unwrap();
    let copied = sim.events().iter().any(|event| {
        event.who == secondary.name && matches!(event.kind, EventKind::InitialSync { .. })
    });
    assert!(copied, "{}", sim.timeline());
}

#[test]
fn an_isolated_majority_of_a_set_leaves_it_without_a_primary() {
    let (sim, primary) = elected(9);
    for secondary in sim.secondaries() {
        sim.isolate(&secondary).unwrap();
    }
    sim.run_until(ELECTION, |sim| sim.primary().is_none()).unwrap();
    sim.advance(SECOND * 60);
    assert!(sim.primary().is_none());
    sim.heal();
    sim.run_until(ELECTION, |sim| sim.primary().is_some()).unwrap();
    assert!(sim.member(&primary).unwrap().alive);
}

#[test]
fn a_skewed_clock_does_not_stop_an_election() {
    let sim = Sim::builder().seed(10).members(3).build();
    sim.skew("a", 600_000).unwrap();
    sim.skew("b", -600_000).unwrap();
    let primary = sim.elect();
    sim.kill(primary).unwrap();
    sim.run_until(ELECTION, |sim| sim.primary().is_some()).unwrap();
}

#[test]
fn fifty_members_elect_and_survive_the_loss_of_the_primary() {
    let sim = Sim::builder().seed(11).members(50).build();
    let primary = sim.elect();
    sim.kill(&primary).unwrap();
    sim.run_until(ELECTION, |sim| sim.primary().is_some()).unwrap();
    assert_eq!(sim.secondaries().len(), 48);
}

// ---- with the driver's client

const MEMBERS: &str = "mongodb://a:27017,b:27017,c:27017/?replicaSet=foo";

/// A majority write, kill -9 of the primary, another majority write; what was written, and the record.
fn failover(seed: u64, permute_tasks: bool) -> (Vec<i32>, String, super::super::WorldStats) {
    let sim = Sim::builder().seed(seed).members(3).permute_tasks(permute_tasks).build();
    let primary = sim.elect();
    let written = sim.block_on(async {
        let client = sim.client(MEMBERS).await.unwrap();
        let notes = client
            .database("test")
            .collection::<Document>("notes")
            .with_write_concern(WriteConcern::majority());
        notes.insert_one(doc! { "_id": 1 }).await.unwrap();
        sim.kill(&primary).unwrap();
        notes.insert_one(doc! { "_id": 2 }).await.unwrap();
        let mut cursor = notes.find(doc! {}).await.unwrap();
        let mut written = Vec::new();
        while let Some(note) = cursor.try_next().await.unwrap() {
            written.push(note.get_i32("_id").unwrap());
        }
        written
    });
    // The client is gone: its goodbyes travel, and no connection stays.
    sim.advance(SECOND * 60);
    assert_eq!(sim.world().connections.len(), 0);
    (written, sim.timeline(), sim.stats())
}

#[test]
fn a_client_survives_the_kill_of_the_primary_the_same_way_each_time() {
    let first = failover(1, false);
    assert_eq!(first.0, [1, 2]);
    assert_eq!(first, failover(1, false));
}

#[test]
fn a_client_survives_whatever_the_order_its_tasks_run_in() {
    for seed in 1..=10 {
        assert_eq!(failover(seed, true).0, [1, 2], "seed {seed}");
    }
}

#[test]
fn a_client_behind_a_partition_waits_and_goes_on_after_the_heal() {
    let (sim, primary) = elected(12);
    sim.block_on(async {
        let client = sim.client(MEMBERS).await.unwrap();
        let notes = client.database("test").collection::<Document>("notes");
        notes.insert_one(doc! { "_id": 1 }).await.unwrap();
        sim.partition(&["client"], &["a", "b", "c"]).unwrap();
        let mender = sim.clone();
        let mended = sim.spawn("mender", async move {
            mender.sleep(SECOND * 5).await;
            mender.heal();
        });
        let before = sim.now();
        notes.insert_one(doc! { "_id": 2 }).await.unwrap();
        mended.await;
        let waited = (sim.now() - before).as_secs();
        assert!((5..=20).contains(&waited), "it waited {waited} s");
    });
    assert_eq!(sim.primary().unwrap().name, primary.name);
}
