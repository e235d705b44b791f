//! What members have, lose and get back.

use std::time::Duration;

use bson::{Document, doc};
use stepdown::Sim;
use stepdown::trace::MemberState;

fn elected(seed: u64) -> Sim {
    let sim = Sim::builder().seed(seed).members(3).build();
    sim.elect();
    sim
}

fn insert(sim: &Sim, member: &str, id: i32, concern: Document) -> Document {
    let write = doc! { "insert": "c", "documents": [{ "_id": id }], "writeConcern": concern };
    sim.command(member, "test", write).unwrap()
}

fn ids(sim: &Sim, member: &str, level: &str) -> Vec<i32> {
    let find = doc! {
        "find": "c", "sort": { "_id": 1 }, "batchSize": 10_000, "readConcern": { "level": level },
        "$readPreference": { "mode": "secondaryPreferred" },
    };
    let reply = sim.command(member, "test", find).unwrap();
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    batch.iter().map(|found| found.as_document().unwrap().get_i32("_id").unwrap()).collect()
}

fn state(sim: &Sim, member: &str) -> Option<MemberState> {
    sim.member(member).unwrap().state()
}

#[test]
fn a_write_that_only_the_old_primary_has_is_rolled_back_and_kept_in_a_file() {
    let sim = elected(1);
    insert(&sim, "a:27017", 1, doc! { "w": "majority" });
    sim.partition(&["a:27017"], &["b:27017", "c:27017"]).unwrap();
    let lonely = insert(&sim, "a:27017", 2, doc! { "w": 1 });
    assert_eq!(lonely.get_f64("ok").unwrap(), 1.0, "{lonely}");
    assert_eq!(ids(&sim, "a:27017", "local"), [1, 2]);
    assert_eq!(ids(&sim, "a:27017", "majority"), [1], "not committed, not shown");
    sim.run_until(Duration::from_secs(60), |sim| {
        sim.primary().is_some_and(|primary| &*primary.name != "a:27017")
    })
    .unwrap();
    let new = sim.primary().unwrap().name;
    insert(&sim, &new, 3, doc! { "w": "majority" });
    sim.heal();
    sim.advance(Duration::from_secs(30));
    assert_eq!(state(&sim, "a:27017"), Some(MemberState::Secondary));
    for member in ["a:27017", "b:27017", "c:27017"] {
        assert_eq!(ids(&sim, member, "local"), [1, 3], "{member}");
    }
    assert!(sim.timeline().contains("1 rollback files written"));
}

#[test]
fn a_write_with_wtimeout_is_reported_and_not_undone() {
    let sim = elected(2);
    for secondary in sim.secondaries() {
        sim.pause(&secondary).unwrap();
    }
    let reply = insert(&sim, "a:27017", 1, doc! { "w": "majority", "wtimeout": 500 });
    assert_eq!(reply.get_i32("n").unwrap(), 1);
    let error = reply.get_document("writeConcernError").unwrap();
    assert_eq!(error.get_i32("code").unwrap(), 64);
    assert!(error.get_document("errInfo").unwrap().get_bool("wtimeout").unwrap());
    for member in sim.members() {
        if member.paused {
            sim.resume(&*member.name).unwrap();
        }
    }
    sim.advance(Duration::from_secs(5));
    assert_eq!(ids(&sim, "b:27017", "majority"), [1]);
}

#[test]
fn more_members_than_hold_data_are_refused_at_once_after_the_write() {
    let sim = elected(3);
    let before = sim.now();
    let reply = insert(&sim, "a:27017", 1, doc! { "w": 5 });
    assert_eq!(reply.get_i32("n").unwrap(), 1);
    assert_eq!(reply.get_document("writeConcernError").unwrap().get_i32("code").unwrap(), 100);
    assert!(sim.now() - before < Duration::from_millis(50));
    assert_eq!(ids(&sim, "a:27017", "local"), [1]);
}

#[test]
fn a_kill_loses_what_was_not_journaled_and_the_member_fetches_it_again() {
    let sim = elected(4);
    insert(&sim, "a:27017", 1, doc! { "w": 1 });
    // Before the journal's 100 ms; the secondaries have it.
    sim.advance(Duration::from_millis(20));
    sim.kill("a:27017").unwrap();
    sim.restart("a:27017").unwrap();
    sim.run_until(Duration::from_secs(60), |sim| sim.primary().is_some()).unwrap();
    sim.advance(Duration::from_secs(5));
    for member in ["a:27017", "b:27017", "c:27017"] {
        assert_eq!(ids(&sim, member, "local"), [1], "{member}");
    }
}

#[test]
fn an_emptied_member_copies_everything_again() {
    let sim = elected(5);
    for id in 0..50 {
        insert(&sim, "a:27017", id, doc! { "w": "majority" });
    }
    sim.kill("c:27017").unwrap();
    sim.restart_empty("c:27017").unwrap();
    sim.run_until(Duration::from_secs(30), |sim| {
        state(sim, "c:27017") == Some(MemberState::Secondary)
    })
    .unwrap();
    assert_eq!(ids(&sim, "c:27017", "local"), (0..50).collect::<Vec<_>>());
}

#[test]
fn a_member_whose_last_entry_nobody_has_any_more_is_too_stale_until_it_is_emptied() {
    let sim = Sim::builder().seed(6).members(3).oplog_size_bytes(20_000).build();
    sim.elect();
    insert(&sim, "a:27017", 0, doc! { "w": 3 });
    sim.kill("c:27017").unwrap();
    for id in 1..400 {
        insert(&sim, "a:27017", id, doc! { "w": "majority" });
    }
    sim.restart("c:27017").unwrap();
    sim.advance(Duration::from_secs(20));
    assert_eq!(state(&sim, "c:27017"), Some(MemberState::Recovering));
    let status = sim.command("c:27017", "admin", doc! { "replSetGetStatus": 1 }).unwrap();
    assert!(status.get_bool("tooStale").unwrap());
    sim.kill("c:27017").unwrap();
    sim.restart_empty("c:27017").unwrap();
    sim.advance(Duration::from_secs(20));
    assert_eq!(state(&sim, "c:27017"), Some(MemberState::Secondary));
    assert_eq!(ids(&sim, "c:27017", "local").len(), 400);
}

#[test]
fn a_new_voter_raises_the_version_twice_and_a_removed_one_is_told() {
    let sim = elected(7);
    sim.advance(Duration::from_secs(2));
    sim.add_member("d:27017").unwrap();
    let config = |sim: &Sim| {
        let reply = sim.command("a:27017", "admin", doc! { "replSetGetConfig": 1 }).unwrap();
        reply.get_document("config").unwrap().clone()
    };
    let mut wider = config(&sim);
    wider.insert("version", 2);
    wider.get_array_mut("members").unwrap().push(doc! { "_id": 3, "host": "d:27017" }.into());
    let reply = sim.command("a:27017", "admin", doc! { "replSetReconfig": wider }).unwrap();
    assert_eq!(reply.get_f64("ok").unwrap(), 1.0, "{reply}");
    sim.advance(Duration::from_secs(20));
    assert_eq!(state(&sim, "d:27017"), Some(MemberState::Secondary));
    let now = config(&sim);
    assert_eq!(now.get_i32("version").unwrap(), 3, "added as newlyAdded, then counted");

    let mut narrower = now;
    narrower.insert("version", 4);
    narrower.get_array_mut("members").unwrap().remove(1);
    let reply = sim.command("a:27017", "admin", doc! { "replSetReconfig": narrower }).unwrap();
    assert_eq!(reply.get_f64("ok").unwrap(), 1.0, "{reply}");
    sim.advance(Duration::from_secs(20));
    let status = sim.command("a:27017", "admin", doc! { "replSetGetStatus": 1 }).unwrap();
    assert_eq!(status.get_array("members").unwrap().len(), 3);
}

#[test]
fn two_voters_at_once_are_refused() {
    let sim = elected(8);
    sim.advance(Duration::from_secs(2));
    let reply = sim.command("a:27017", "admin", doc! { "replSetGetConfig": 1 }).unwrap();
    let mut config = reply.get_document("config").unwrap().clone();
    config.insert("version", 2);
    config.get_array_mut("members").unwrap().truncate(1);
    let reply = sim.command("a:27017", "admin", doc! { "replSetReconfig": config }).unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 103, "{reply}");
}

#[test]
fn a_delayed_member_shows_a_write_only_after_its_delay() {
    let sim = Sim::builder().seed(9).members(3).build();
    let members = vec![
        doc! { "_id": 0, "host": "a:27017" },
        doc! { "_id": 1, "host": "b:27017" },
        doc! { "_id": 2, "host": "c:27017", "priority": 0, "secondaryDelaySecs": 30 },
    ];
    let initiate = doc! { "replSetInitiate": { "_id": "foo", "members": members } };
    sim.command("a:27017", "admin", initiate).unwrap();
    sim.run_until(Duration::from_secs(30), |sim| sim.primary().is_some()).unwrap();
    sim.advance(Duration::from_secs(60));
    insert(&sim, "a:27017", 1, doc! { "w": "majority" });
    sim.advance(Duration::from_secs(25));
    assert_eq!(ids(&sim, "b:27017", "local"), [1]);
    assert!(ids(&sim, "c:27017", "local").is_empty());
    sim.advance(Duration::from_secs(10));
    assert_eq!(ids(&sim, "c:27017", "local"), [1]);
}
