//! Members that leave a set and come back, and configurations at the edge of what is allowed.

use std::time::Duration;

use bson::{Bson, Document, doc};
use stepdown::Sim;
use stepdown::mongod::{
    DataFiles, Input, Mongod, Options, Output, ReplSetOption, ServerVersion, WallClock,
};
use stepdown::random::RandomStream;
use stepdown::trace::MemberState;
use stepdown_driver::Instant;

fn config(sim: &Sim) -> Document {
    let reply = sim.command("primary", "admin", doc! { "replSetGetConfig": 1 }).unwrap();
    reply.get_document("config").unwrap().clone()
}

fn reconfigure(sim: &Sim, mut config: Document, force: bool) -> Document {
    let version = config.get_i32("version").unwrap();
    config.insert("version", version + 1);
    sim.command("primary", "admin", doc! { "replSetReconfig": config, "force": force }).unwrap()
}

fn without(mut config: Document, host: &str) -> Document {
    let members = config.get_array_mut("members").unwrap();
    members.retain(|member| member.as_document().unwrap().get_str("host").ok() != Some(host));
    config
}

fn state(sim: &Sim, member: &str) -> Option<MemberState> {
    sim.member(member).unwrap().state()
}

fn becomes(sim: &Sim, member: &str, wanted: MemberState) {
    let reached = sim.run_until(Duration::from_secs(60), |sim| state(sim, member) == Some(wanted));
    assert!(reached.is_ok(), "{member} is {:?}\n{}", state(sim, member), sim.timeline());
}

fn assert_ok(reply: &Document) {
    assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{reply}");
}

/// A set of three, and a secondary of it.
fn set() -> (Sim, String) {
    let sim = Sim::builder().members(3).build();
    sim.elect();
    let secondary = sim.secondaries()[0].name.to_string();
    (sim, secondary)
}

#[test]
fn a_removed_member_closes_its_connections_and_comes_back_when_it_is_added_again() {
    let (sim, gone) = set();
    let before = config(&sim);
    let client = sim.open_external(&*gone, "192.0.2.1:1").unwrap();
    assert_ok(&reconfigure(&sim, without(before.clone(), &gone), false));
    becomes(&sim, &gone, MemberState::Removed);
    sim.advance(Duration::from_millis(1));
    let closed = (client, stepdown::world::ExternalOutput::Closed);
    assert!(sim.take_external_output().contains(&closed));
    let hello = sim.command(&*gone, "admin", doc! { "hello": 1 }).unwrap();
    assert_eq!(hello.get_bool("secondary").ok(), Some(false), "{hello}");
    assert_ok(&sim.command("primary", "db", doc! { "insert": "c", "documents": [{}] }).unwrap());
    let status = sim.command("primary", "admin", doc! { "replSetGetStatus": 1 }).unwrap();
    assert_eq!(status.get_array("members").unwrap().len(), 2);

    let mut again = before;
    again.insert("version", config(&sim).get_i32("version").unwrap());
    assert_ok(&reconfigure(&sim, again, false));
    becomes(&sim, &gone, MemberState::Secondary);
    let caught_up = sim.run_until(Duration::from_secs(60), |sim| {
        let applied = |name: &str| sim.member(name).unwrap().status.map(|status| status.applied);
        applied(&gone) == applied("primary")
    });
    assert!(caught_up.is_ok(), "{}", sim.timeline());
}

#[test]
fn a_removed_member_that_restarts_stays_removed_and_comes_back_with_its_data() {
    let (sim, gone) = set();
    let before = config(&sim);
    assert_ok(&reconfigure(&sim, without(before.clone(), &gone), false));
    becomes(&sim, &gone, MemberState::Removed);
    sim.kill(&*gone).unwrap();
    sim.restart(&*gone).unwrap();
    sim.advance(Duration::from_secs(30));
    assert_eq!(state(&sim, &gone), Some(MemberState::Removed));
    let mut again = before;
    again.insert("version", config(&sim).get_i32("version").unwrap());
    assert_ok(&reconfigure(&sim, again, false));
    becomes(&sim, &gone, MemberState::Secondary);
}

#[test]
fn a_member_removed_while_it_was_down_learns_of_it_when_it_is_back() {
    let (sim, gone) = set();
    let before = config(&sim);
    sim.kill(&*gone).unwrap();
    assert_ok(&reconfigure(&sim, without(before.clone(), &gone), false));
    sim.restart(&*gone).unwrap();
    becomes(&sim, &gone, MemberState::Removed);
    let mut again = before;
    again.insert("version", config(&sim).get_i32("version").unwrap());
    assert_ok(&reconfigure(&sim, again, false));
    becomes(&sim, &gone, MemberState::Secondary);
}

#[test]
fn maintenance_does_not_outlive_the_process() {
    let (sim, member) = set();
    assert_ok(&sim.command(&*member, "admin", doc! { "replSetMaintenance": true }).unwrap());
    assert_eq!(state(&sim, &member), Some(MemberState::Recovering));
    sim.kill(&*member).unwrap();
    sim.restart(&*member).unwrap();
    becomes(&sim, &member, MemberState::Secondary);
}

#[test]
fn the_shortest_and_the_longest_times_a_configuration_may_hold_stall_nobody() {
    for time in [1, 2, i32::MAX] {
        for members in [1, 3] {
            let sim = Sim::builder().members(members).build();
            sim.elect();
            let mut config = config(&sim);
            let settings = config.get_document_mut("settings").unwrap();
            for field in [
                "heartbeatIntervalMillis",
                "heartbeatTimeoutSecs",
                "electionTimeoutMillis",
                "catchUpTimeoutMillis",
                "catchUpTakeoverDelayMillis",
            ] {
                settings.insert(field, time);
            }
            reconfigure(&sim, config, true);
            sim.advance(Duration::from_secs(10));
            for member in sim.members() {
                // Whoever rolls back closes connections; elections come often here.
                let ping = || sim.command(&*member.name, "admin", doc! { "ping": 1 });
                let reply = (0..100).find_map(|_| ping().ok());
                assert_ok(&reply.expect("it answers at last"));
            }
        }
    }
}

#[test]
fn a_member_of_unknown_address_is_just_down() {
    let (sim, _) = set();
    for host in ["nowhere:27017", "a b c:1", "x:0", "x:99999999", ":", "", "[::1:5", "a:b:c"] {
        let mut config = config(&sim);
        let member = doc! { "_id": 9, "host": host, "priority": 0, "votes": 0 };
        config.get_array_mut("members").unwrap().push(Bson::Document(member));
        reconfigure(&sim, config, true);
        sim.advance(Duration::from_secs(25));
        assert!(sim.primary().is_some(), "{host:?}\n{}", sim.timeline());
        let current = self::config(&sim);
        let mut members = current.get_array("members").unwrap().clone();
        members.retain(|member| member.as_document().unwrap().get_i32("_id").ok() != Some(9));
        let mut back = current;
        back.insert("members", members);
        reconfigure(&sim, back, true);
        sim.advance(Duration::from_secs(5));
    }
}

#[test]
fn a_member_that_would_undo_what_a_majority_had_ends_instead() {
    let sim = Sim::builder().members(3).build();
    sim.elect();
    let (others, primary) = (sim.secondaries(), sim.primary().unwrap());
    let (with, without) = (&*others[0].name, &*others[1].name);
    sim.pause(without).unwrap();
    let insert = doc! { "insert": "c", "documents": [{}], "writeConcern": { "w": "majority" } };
    assert_ok(&sim.command("primary", "db", insert.clone()).unwrap());
    sim.advance(Duration::from_secs(5));
    let mut config = config(&sim);
    sim.kill(&*primary.name).unwrap();
    sim.pause(with).unwrap();
    sim.resume(without).unwrap();
    for member in config.get_array_mut("members").unwrap() {
        let member = member.as_document_mut().unwrap();
        if member.get_str("host").ok() != Some(without) {
            member.extend(doc! { "votes": 0, "priority": 0 });
        }
    }
    config.insert("version", 9);
    let force = doc! { "replSetReconfig": config, "force": true };
    assert_ok(&sim.command(without, "admin", force).unwrap());
    let leads = |sim: &Sim| sim.primary().is_some_and(|primary| *primary.name == *without);
    assert!(sim.run_until(Duration::from_secs(60), leads).is_ok(), "{}", sim.timeline());
    assert_ok(&sim.command(without, "db", insert).unwrap());
    sim.resume(with).unwrap();
    let ended = sim.run_until(Duration::from_secs(60), |sim| !sim.member(with).unwrap().alive);
    assert!(ended.is_ok(), "{}", sim.timeline());
    assert_ok(&sim.command(without, "admin", doc! { "ping": 1 }).unwrap());
}

#[test]
fn maintenance_is_refused_in_the_midst_of_an_election() {
    let (sim, candidate) = set();
    // By then everybody has the configuration of the new term.
    sim.advance(Duration::from_secs(5));
    let host = sim.open_external(&*candidate, "192.0.2.1:1").unwrap();
    let mut bytes = Vec::new();
    let messages = [
        bson::rawdoc! { "replSetStepUp": 1, "$db": "admin" },
        bson::rawdoc! { "replSetMaintenance": true, "$db": "admin" },
    ];
    for (client, message) in
        [host, sim.open_external(&*candidate, "192.0.2.1:2").unwrap()].into_iter().zip(messages)
    {
        bytes.clear();
        stepdown_driver::wire::Message::new(1, 0, message).encode(&mut bytes);
        sim.external_send(client, bytes.clone());
    }
    becomes(&sim, &candidate, MemberState::Primary);
}

fn start(set_name: &str, files: DataFiles, now: Instant) -> Mongod {
    let options = Options {
        host: "a:27017".into(),
        repl_set: Some(ReplSetOption { name: set_name.into(), seeds: Vec::new() }),
        version: ServerVersion::V8_0,
        clock: WallClock { epoch_millis: 1_767_225_600_000, drift_ppm: 0 },
        record: false,
        check_messages: true,
        auth: false,
        oplog_size_bytes: 1 << 20,
    };
    Mongod::start(now, options, files, RandomStream::new(1, "mongod"))
}

#[test]
fn a_process_started_with_another_set_name_is_removed_until_it_gets_its_own_back() {
    use stepdown::mongod::ConnectionId;
    use stepdown_driver::wire::Message;
    let mut now = Instant::from_millis(1_000);
    let mut first = start("foo", DataFiles::default(), now);
    let connection = ConnectionId(1);
    first.handle(
        now,
        Input::ClientOpened { connection, remote: "192.0.2.1:1".into(), certificate: None },
    );
    let initiate = bson::rawdoc! { "replSetInitiate": {}, "$db": "admin" };
    let mut bytes = Vec::new();
    Message::new(1, 0, initiate).encode(&mut bytes);
    first.handle(now, Input::ClientBytes { connection, bytes });
    while first.poll_output().is_some() {}
    assert_eq!(first.status().state, MemberState::Primary);
    let (files, _) = first.kill();

    now += Duration::from_secs(1);
    let mut other = start("bar", files, now);
    assert_eq!(other.status().state, MemberState::Removed);
    for _ in 0..100 {
        let next = other.next_timeout();
        if next > now + Duration::from_secs(60) {
            break;
        }
        now = now.max(next);
        other.handle(now, Input::Timeout);
        while let Some(output) = other.poll_output() {
            assert!(!matches!(output, Output::Exited { .. }));
        }
    }
    assert_eq!(other.status().state, MemberState::Removed);
    let (files, _) = other.kill();

    let own = start("foo", files, now + Duration::from_secs(1));
    assert_eq!(own.status().state, MemberState::Primary);
}
