//! Who leads, and how fast somebody else does.

use std::time::Duration;

use bson::{Document, doc};
use stepdown::trace::MemberState;
use stepdown::{Instant, Sim};

fn seconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64()
}

fn elected(seed: u64, members: usize) -> Sim {
    let sim = Sim::builder().seed(seed).members(members).build();
    sim.elect();
    sim
}

fn primary_within(sim: &Sim, limit: Duration) -> Instant {
    sim.run_until(limit, |sim| sim.primary().is_some()).expect("a primary in time")
}

fn terms(sim: &Sim) -> Vec<i64> {
    sim.members().iter().filter_map(|member| member.status.as_ref()).map(|s| s.term).collect()
}

/// Initiates with the member documents given, and waits for a primary.
fn initiated_with(sim: &Sim, members: Vec<Document>) {
    let reply = sim
        .command(
            "a:27017",
            "admin",
            doc! { "replSetInitiate": { "_id": "foo", "members": members } },
        )
        .unwrap();
    assert_eq!(reply.get_f64("ok").unwrap(), 1.0, "{reply}");
    primary_within(sim, Duration::from_secs(30));
}

#[test]
fn the_first_election_comes_ten_to_eleven_and_a_half_seconds_after_the_initiate() {
    for seed in 0..50 {
        let sim = Sim::builder().seed(seed).members(3).build();
        sim.initiate();
        let initiated = sim.now();
        let writable = primary_within(&sim, Duration::from_secs(30));
        let took = seconds(initiated, writable);
        assert!((10.0..11.6).contains(&took), "seed {seed}: {took}");
        assert_eq!(&*sim.primary().unwrap().name, "a:27017", "only the initiator has data");
    }
}

#[test]
fn a_killed_primary_is_replaced_within_the_election_timeout_and_its_jitter() {
    for seed in 0..50 {
        let sim = elected(seed, 3);
        sim.advance(Duration::from_secs(5));
        let old = sim.primary().unwrap().name;
        let killed = sim.now();
        sim.kill(&*old).unwrap();
        assert!(sim.primary().is_none());
        let took = seconds(killed, primary_within(&sim, Duration::from_secs(60)));
        // A heartbeat may have come just before or just after the kill; a split vote costs a round.
        assert!((7.9..24.0).contains(&took), "seed {seed}: {took}");
        assert_ne!(sim.primary().unwrap().name, old);
    }
}

#[test]
fn a_clean_shutdown_of_the_primary_hands_over_at_once() {
    let sim = elected(3, 3);
    sim.advance(Duration::from_secs(5));
    let old = sim.primary().unwrap().name;
    let asked = sim.now();
    sim.shutdown(&*old).unwrap();
    let took = seconds(asked, primary_within(&sim, Duration::from_secs(5)));
    assert!(took < 0.1, "{took}");
    // It lives on in quiesce mode, then it is gone.
    assert!(sim.member(&*old).unwrap().alive);
    sim.advance(Duration::from_secs(16));
    assert!(!sim.member(&*old).unwrap().alive);
}

#[test]
fn a_primary_that_cannot_see_a_majority_steps_down_and_the_majority_elects() {
    let sim = elected(5, 3);
    sim.advance(Duration::from_secs(5));
    let old = sim.primary().unwrap().name;
    let cut = sim.now();
    sim.isolate(&*old).unwrap();
    let stepped_down = sim
        .run_until(Duration::from_secs(30), |sim| {
            sim.member(&*old).unwrap().state() == Some(MemberState::Secondary)
        })
        .unwrap();
    let took = seconds(cut, stepped_down);
    assert!((7.0..=10.5).contains(&took), "{took}");
    // The winner waits for the cut-off member's heartbeat to fail before it knows what to catch up to.
    primary_within(&sim, Duration::from_secs(30));
    assert_ne!(sim.primary().unwrap().name, old);
}

#[test]
fn a_member_cut_off_from_the_majority_never_raises_its_term() {
    let sim = elected(7, 3);
    let lonely = sim.secondaries()[0].name.clone();
    let term = sim.primary().unwrap().status.unwrap().term;
    sim.isolate(&*lonely).unwrap();
    sim.advance(Duration::from_secs(300));
    assert_eq!(sim.member(&*lonely).unwrap().status.unwrap().term, term);
    sim.heal();
    sim.advance(Duration::from_secs(15));
    assert_eq!(terms(&sim), [term; 3], "its return disturbs nobody");
}

#[test]
fn the_member_of_highest_priority_takes_over_after_an_election_timeout() {
    let sim = Sim::builder().seed(11).members(3).build();
    initiated_with(
        &sim,
        vec![
            doc! { "_id": 0, "host": "a:27017" },
            doc! { "_id": 1, "host": "b:27017", "priority": 5 },
            doc! { "_id": 2, "host": "c:27017" },
        ],
    );
    assert_eq!(&*sim.primary().unwrap().name, "a:27017");
    let first = sim.now();
    let b_leads = |sim: &Sim| sim.primary().is_some_and(|primary| &*primary.name == "b:27017");
    let took = seconds(first, sim.run_until(Duration::from_secs(30), b_leads).unwrap());
    assert!((9.5..13.0).contains(&took), "{took}");
}

#[test]
fn an_arbiter_votes_and_never_leads() {
    let sim = Sim::builder().seed(13).members(3).build();
    initiated_with(
        &sim,
        vec![
            doc! { "_id": 0, "host": "a:27017" },
            doc! { "_id": 1, "host": "b:27017" },
            doc! { "_id": 2, "host": "c:27017", "arbiterOnly": true },
        ],
    );
    sim.advance(Duration::from_secs(5));
    assert_eq!(sim.member("c:27017").unwrap().state(), Some(MemberState::Arbiter));
    sim.kill("a:27017").unwrap();
    primary_within(&sim, Duration::from_secs(30));
    assert_eq!(&*sim.primary().unwrap().name, "b:27017");
}

#[test]
fn without_a_majority_nobody_leads() {
    let sim = elected(17, 3);
    for secondary in sim.secondaries() {
        sim.kill(&secondary).unwrap();
    }
    sim.advance(Duration::from_secs(30));
    assert!(sim.primary().is_none());
    assert_eq!(sim.member("a:27017").unwrap().state(), Some(MemberState::Secondary));
}

#[test]
fn an_initiate_without_a_configuration_takes_the_members_given_at_start() {
    let sim = Sim::builder().members(3).build();
    let reply = sim.command("a:27017", "admin", doc! { "replSetInitiate": {} }).unwrap();
    assert_eq!(
        reply.get_str("info2").unwrap(),
        "no configuration specified. Using a default configuration for the set"
    );
    primary_within(&sim, Duration::from_secs(30));
    let config = sim.command("a:27017", "admin", doc! { "replSetGetConfig": 1 }).unwrap();
    let members = config.get_document("config").unwrap().get_array("members").unwrap();
    assert_eq!(members.len(), 3);
}

#[test]
fn an_initiate_without_a_configuration_or_seeds_makes_a_set_of_one_that_leads_at_once() {
    let sim = Sim::builder().members(1).seed_list(false).build();
    sim.command("a:27017", "admin", doc! { "replSetInitiate": {} }).unwrap();
    sim.advance(Duration::from_millis(10));
    assert!(sim.primary().is_some());
}

#[test]
fn a_second_initiate_is_refused() {
    let sim = elected(19, 3);
    let reply = sim.command("a:27017", "admin", doc! { "replSetInitiate": {} }).unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 23);
    assert_eq!(reply.get_str("codeName").unwrap(), "AlreadyInitialized");
}

#[test]
fn an_initiate_fails_when_a_member_does_not_answer() {
    let sim = Sim::builder().members(3).build();
    sim.kill("c:27017").unwrap();
    let reply = sim.command("a:27017", "admin", doc! { "replSetInitiate": {} }).unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 74, "{reply}");
    assert!(reply.get_str("errmsg").unwrap().contains("c:27017"), "{reply}");
}

#[test]
fn a_step_down_hands_over_and_the_old_primary_stands_back() {
    let sim = elected(23, 3);
    sim.advance(Duration::from_secs(5));
    let old = sim.primary().unwrap().name;
    let reply = sim.command(&*old, "admin", doc! { "replSetStepDown": 30 }).unwrap();
    assert_eq!(reply.get_f64("ok").unwrap(), 1.0, "{reply}");
    sim.advance(Duration::from_millis(100));
    let new = sim.primary().expect("the handoff is quick").name;
    assert_ne!(new, old);
    sim.kill(&*new).unwrap();
    sim.advance(Duration::from_secs(16));
    // The old primary may not stand for its 30 seconds; the third member leads.
    assert!(sim.primary().is_none_or(|primary| primary.name != old));
}

#[test]
fn a_step_down_with_nobody_caught_up_fails_and_the_primary_goes_on() {
    let sim = elected(29, 3);
    sim.advance(Duration::from_secs(5));
    for secondary in sim.secondaries() {
        sim.pause(&secondary).unwrap();
    }
    let write = doc! { "insert": "c", "documents": [{ "_id": 1 }], "writeConcern": { "w": 1 } };
    sim.command("a:27017", "test", write).unwrap();
    let request = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 1 };
    let asked = sim.now();
    let reply = sim.command("a:27017", "admin", request).unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 262, "{reply}");
    assert!(seconds(asked, sim.now()) >= 1.0);
    assert_eq!(&*sim.primary().expect("writable again").name, "a:27017");
}

#[test]
fn a_frozen_member_does_not_stand() {
    let sim = elected(31, 3);
    for secondary in sim.secondaries() {
        let reply = sim.command(&secondary, "admin", doc! { "replSetFreeze": 120 }).unwrap();
        assert_eq!(reply.get_f64("ok").unwrap(), 1.0);
    }
    sim.kill("a:27017").unwrap();
    sim.advance(Duration::from_secs(100));
    assert!(sim.primary().is_none());
    primary_within(&sim, Duration::from_secs(60));
}

#[test]
fn a_heartbeat_sent_by_hand_gets_the_answer_members_get() {
    let sim = elected(37, 3);
    sim.advance(Duration::from_secs(5));
    let request = doc! {
        "replSetHeartbeat": "foo", "configVersion": 0_i64, "configTerm": 0_i64, "hbv": 1_i64,
        "fromId": 77, "term": 1_i64, "primaryId": -1,
    };
    let reply = sim.command("a:27017", "admin", request).unwrap();
    assert_eq!(reply.get_i32("state").unwrap(), 1);
    assert_eq!(reply.get_str("set").unwrap(), "foo");
    let config = reply.get_document("config").expect("the asker's configuration is older");
    assert_eq!(config.get_i32("version").unwrap(), 1);
    let strangers = sim
        .command("a:27017", "admin", doc! { "replSetHeartbeat": "bar", "configVersion": 1_i64 })
        .unwrap();
    assert_eq!(strangers.get_i32("code").unwrap(), 108, "{strangers}");
}

#[test]
fn a_vote_asked_for_by_hand_is_refused_to_a_stale_candidate_with_the_reason() {
    let sim = elected(41, 3);
    sim.advance(Duration::from_secs(5));
    let request = doc! {
        "replSetRequestVotes": 1, "setName": "foo", "dryRun": true, "term": 1_i64,
        "candidateIndex": 1_i64, "configVersion": 1_i64, "configTerm": 1_i64,
        "lastWrittenOpTime": { "ts": bson::Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
        "lastAppliedOpTime": { "ts": bson::Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
    };
    let reply = sim.command("c:27017", "admin", request).unwrap();
    assert!(!reply.get_bool("voteGranted").unwrap(), "{reply}");
    let reason = reply.get_str("reason").unwrap();
    assert!(reason.starts_with("candidate's data is staler than mine"), "{reason}");
}

#[test]
fn a_primary_hands_over_to_a_member_that_may_stand() {
    for seed in 0..20 {
        let sim = elected(seed, 3);
        sim.advance(Duration::from_secs(5));
        // Whoever has stepped down does not stand for a minute, and its heartbeats say so.
        sim.command("a:27017", "admin", doc! { "replSetStepDown": 60 }).unwrap();
        sim.advance(Duration::from_secs(5));
        let second = sim.primary().expect("the handoff is quick").name;
        sim.shutdown(&*second).unwrap();
        sim.advance(Duration::from_millis(100));
        let third = sim.primary().expect("the handoff is quick again").name;
        assert!(third != second && &*third != "a:27017", "seed {seed}: {third}");
    }
}

#[test]
fn a_primary_whose_only_successor_is_frozen_does_not_step_down() {
    let sim = elected(37, 2);
    sim.command("b:27017", "admin", doc! { "replSetFreeze": 60 }).unwrap();
    sim.advance(Duration::from_secs(5));
    let request = doc! { "replSetStepDown": 30, "secondaryCatchUpPeriodSecs": 3 };
    let reply = sim.command("a:27017", "admin", request).unwrap();
    assert_eq!(reply.get_i32("code").unwrap(), 262, "{reply}");
}

#[test]
fn whoever_is_made_the_whole_set_by_force_leads_at_once() {
    let sim = elected(41, 3);
    sim.kill("a:27017").unwrap();
    sim.kill("b:27017").unwrap();
    sim.advance(Duration::from_secs(13));
    assert!(sim.primary().is_none());
    let config = doc! { "_id": "foo", "version": 2, "members": [{ "_id": 2, "host": "c:27017" }] };
    sim.command("c:27017", "admin", doc! { "replSetReconfig": config, "force": true }).unwrap();
    sim.advance(Duration::from_millis(50));
    assert_eq!(&*sim.primary().expect("alone").name, "c:27017");
    let status = sim.command("c:27017", "admin", doc! { "replSetGetStatus": 1 }).unwrap();
    let metrics = status.get_document("electionCandidateMetrics").unwrap();
    assert_eq!(metrics.get_str("lastElectionReason").unwrap(), "electionTimeout");
}

#[test]
fn an_idle_new_primary_writes_its_first_noop_after_twenty_seconds() {
    let sim = elected(43, 3);
    let noops = |sim: &Sim| {
        let count = doc! { "count": "oplog.rs", "query": { "o.msg": "periodic noop" } };
        let reply = sim.command("a:27017", "local", count).unwrap();
        reply.get_i32("n").unwrap()
    };
    sim.advance(Duration::from_secs(19));
    assert_eq!(noops(&sim), 0);
    sim.advance(Duration::from_secs(2));
    assert_eq!(noops(&sim), 1);
    sim.advance(Duration::from_secs(10));
    assert_eq!(noops(&sim), 2);
}

#[test]
fn a_reconfiguration_reaches_everybody_at_once() {
    for seed in 0..100 {
        let sim = elected(seed, 3);
        sim.advance(Duration::from_secs(5));
        let reply = sim.command("a:27017", "admin", doc! { "replSetGetConfig": 1 }).unwrap();
        let mut config = reply.get_document("config").unwrap().clone();
        config.insert("version", 2);
        config.remove("term");
        let asked = sim.now();
        sim.command("a:27017", "admin", doc! { "replSetReconfig": config }).unwrap();
        for line in sim.timeline().lines().filter(|line| line.contains("version 2 term 1")) {
            let at: f64 = line.split_whitespace().next().unwrap().parse().unwrap();
            let after = at - asked.as_millis() as f64 / 1e3;
            assert!(after < 0.1, "seed {seed}: {after} s: {line}");
        }
    }
}
