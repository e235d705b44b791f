use std::fmt::Write as _;
use std::io;

use bson::{RawDocumentBuf, doc};
use proptest::prelude::*;

use super::*;

fn at(address: &str) -> ServerAddress {
    ServerAddress::parse(address).unwrap()
}

fn hello(address: &str, primary: bool, election: u8) -> ServerDescription {
    let mut reply = doc! {
        "ok": 1, "isWritablePrimary": primary, "secondary": !primary, "setName": "rs",
        "setVersion": 1, "hosts": ["a", "b", "c"], "me": address.to_owned(), "maxWireVersion": 25,
        "logicalSessionTimeoutMinutes": 30,
    };
    if primary {
        reply.insert("electionId", ObjectId::from_bytes([election; 12]));
    }
    let reply = RawDocumentBuf::try_from(&reply).unwrap();
    ServerDescription::from_hello(at(address), Instant::from_millis(1), &reply)
}

/// Effects as a person would list them.
fn listed(effects: &mut Vec<Effect>) -> String {
    let mut text = String::new();
    for effect in effects.drain(..) {
        let _ = match effect {
            Effect::Emit(event) => writeln!(text, "emit {}", event.name()),
            Effect::Publish(topology) => writeln!(text, "publish {}", topology.topology_type),
            Effect::CreatePool(address) => writeln!(text, "create pool {address}"),
            Effect::StartMonitor(address) => writeln!(text, "start monitor {address}"),
            Effect::StopMonitor(address) => writeln!(text, "stop monitor {address}"),
            Effect::ClosePool(address) => writeln!(text, "close pool {address}"),
            Effect::CheckNow(address) => writeln!(text, "check now {address}"),
            Effect::CancelCheck(address) => writeln!(text, "cancel check {address}"),
            Effect::PoolReady(address) => writeln!(text, "pool ready {address}"),
            Effect::PoolClear { address, generation, interrupt, .. } => {
                writeln!(text, "clear pool {address} to {generation}, interrupt {interrupt}")
            }
        };
    }
    text
}

fn opened(seeds: &[&str]) -> (Topology, Vec<Effect>) {
    let options = TopologyOptions {
        seeds: seeds.iter().map(|seed| at(seed)).collect(),
        repl_set_name: Some("rs".to_owned()),
        ..TopologyOptions::default()
    };
    let mut topology = Topology::new(ObjectId::from_bytes([0; 12]), options);
    let mut effects = Vec::new();
    topology.open(&mut effects);
    (topology, effects)
}

fn found() -> (Topology, Vec<Effect>) {
    let (mut topology, mut effects) = opened(&["a", "b", "c"]);
    for (name, primary) in [("a", true), ("b", false), ("c", false)] {
        topology.on_hello(hello(name, primary, 1), &mut effects);
    }
    effects.clear();
    (topology, effects)
}

#[test]
fn one_seed_leads_to_the_whole_set() {
    let (mut topology, mut effects) = opened(&["a"]);
    effects.clear();
    topology.on_hello(hello("a", true, 1), &mut effects);
    let expected = "\
emit serverDescriptionChangedEvent
emit serverOpeningEvent
create pool b:27017
start monitor b:27017
emit serverOpeningEvent
create pool c:27017
start monitor c:27017
emit topologyDescriptionChangedEvent
pool ready a:27017
publish ReplicaSetWithPrimary
";
    assert_eq!(listed(&mut effects), expected);
}

#[test]
fn a_new_primary_unseats_the_old_one_without_clearing_its_pool() {
    let (mut topology, mut effects) = found();
    topology.on_hello(hello("b", true, 2), &mut effects);
    let expected = "\
emit serverDescriptionChangedEvent
emit serverDescriptionChangedEvent
emit topologyDescriptionChangedEvent
publish ReplicaSetWithPrimary
check now a:27017
";
    assert_eq!(listed(&mut effects), expected);
    // The old primary, not knowing yet, is not believed.
    topology.on_hello(hello("a", true, 1), &mut effects);
    assert_eq!(topology.description().primary().unwrap().address, at("b"));
}

#[test]
fn a_broken_connection_costs_the_pool_once() {
    let (mut topology, mut effects) = found();
    let error = Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
    let broken = ApplicationError {
        generation: 0,
        service_id: None,
        handshake_completed: true,
        error: &error,
    };
    topology.on_application_error(Instant::ZERO, &at("a"), broken, &mut effects);
    let expected = "\
emit serverDescriptionChangedEvent
emit topologyDescriptionChangedEvent
publish ReplicaSetNoPrimary
clear pool a:27017 to 1, interrupt false
cancel check a:27017
";
    assert_eq!(listed(&mut effects), expected);
    topology.on_application_error(Instant::ZERO, &at("a"), broken, &mut effects);
    assert_eq!(listed(&mut effects), "", "the second connection of that generation tells no news");
}

#[test]
fn a_step_down_keeps_the_pool_and_a_shutdown_does_not() {
    for (code, clears) in [(189, false), (10107, false), (11600, true), (91, true)] {
        let (mut topology, mut effects) = found();
        let reply = RawDocumentBuf::try_from(&doc! { "ok": 0, "code": code }).unwrap();
        let error = Error::from_reply_for_sdam(&reply).unwrap();
        let told = ApplicationError {
            generation: 0,
            service_id: None,
            handshake_completed: true,
            error: &error,
        };
        topology.on_application_error(Instant::ZERO, &at("a"), told, &mut effects);
        let text = listed(&mut effects);
        assert!(text.ends_with("check now a:27017\n"), "{text}");
        assert_eq!(text.contains("clear pool"), clears, "{code}");
    }
}

#[test]
fn slow_operations_and_overloaded_listeners_change_nothing() {
    let (mut topology, mut effects) = found();
    let slow = Error::from(io::Error::from(io::ErrorKind::TimedOut));
    let refused = Error::from(io::Error::from(io::ErrorKind::ConnectionReset))
        .with_label(crate::error::labels::SYSTEM_OVERLOADED_ERROR);
    for (handshake_completed, error) in [(true, &slow), (false, &refused)] {
        let error =
            ApplicationError { generation: 0, service_id: None, handshake_completed, error };
        topology.on_application_error(Instant::ZERO, &at("a"), error, &mut effects);
        assert_eq!(listed(&mut effects), "");
    }
}

#[test]
fn a_check_that_times_out_interrupts_connections_in_use() {
    let (mut topology, mut effects) = found();
    let error = Error::from(io::Error::from(io::ErrorKind::TimedOut));
    topology.on_monitor_error(Instant::ZERO, &at("b"), &error, &mut effects);
    assert!(listed(&mut effects).ends_with("clear pool b:27017 to 1, interrupt true\n"));
    topology.on_hello(hello("b", false, 0), &mut effects);
    assert!(listed(&mut effects).contains("pool ready b:27017\n"));
    topology.on_hello(hello("b", false, 0), &mut effects);
    assert_eq!(listed(&mut effects), "publish ReplicaSetWithPrimary\n", "nothing is new");
}

#[test]
fn closing_tells_of_every_server_and_then_nothing_more() {
    let (mut topology, mut effects) = opened(&["a"]);
    effects.clear();
    topology.close(&mut effects);
    let expected = "\
stop monitor a:27017
close pool a:27017
emit serverClosedEvent
emit topologyDescriptionChangedEvent
publish Unknown
emit topologyClosedEvent
";
    assert_eq!(listed(&mut effects), expected);
    topology.on_hello(hello("a", true, 1), &mut effects);
    assert_eq!(listed(&mut effects), "");
}

/// Anything that can happen to a client that looks at three members.
#[derive(Clone, Debug)]
enum Outcome {
    Hello { member: usize, primary: bool, election: u8, hosts: usize, set: bool },
    CheckFailed { member: usize, timeout: bool },
    OperationFailed { member: usize, age: u64, handshake: bool, code: Option<i32> },
    Srv { hosts: usize },
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let member = 0..NAMES.len();
    prop_oneof![
        6 => (member.clone(), any::<bool>(), 0..4_u8, 1..16_usize, prop::bool::weighted(0.9))
            .prop_map(|(member, primary, election, hosts, set)| Outcome::Hello {
                member, primary, election, hosts, set
            }),
        2 => (member.clone(), any::<bool>())
            .prop_map(|(member, timeout)| Outcome::CheckFailed { member, timeout }),
        3 => (member, 0..3_u64, any::<bool>(), prop::option::of(prop::sample::select(vec![
            10107, 189, 91, 11600, 11602, 1,
        ])))
            .prop_map(|(member, age, handshake, code)| Outcome::OperationFailed {
                member, age, handshake, code
            }),
        1 => (0..16_usize).prop_map(|hosts| Outcome::Srv { hosts }),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// The names whose bit is set in `bits`.
fn names(bits: usize) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, n)| *n).collect()
}

fn happen(topology: &mut Topology, outcome: &Outcome, effects: &mut Vec<Effect>) {
    let io_error = |timeout: bool| {
        let kind = if timeout { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionReset };
        Error::from(io::Error::from(kind))
    };
    match *outcome {
        Outcome::Hello { member, primary, election, hosts, set } => {
            let mut reply = doc! {
                "ok": 1, "isWritablePrimary": primary, "secondary": !primary, "setVersion": 1,
                "hosts": names(hosts), "maxWireVersion": 25,
                "electionId": ObjectId::from_bytes([election; 12]),
            };
            if set {
                reply.insert("setName", "rs");
            }
            let reply = RawDocumentBuf::try_from(&reply).unwrap();
            let address = at(NAMES[member]);
            topology
                .on_hello(ServerDescription::from_hello(address, Instant::ZERO, &reply), effects);
        }
        Outcome::CheckFailed { member, timeout } => {
            topology.on_monitor_error(
                Instant::ZERO,
                &at(NAMES[member]),
                &io_error(timeout),
                effects,
            );
        }
        Outcome::OperationFailed { member, age, handshake, code } => {
            let error = match code {
                None => io_error(age == 2),
                Some(code) => {
                    let reply = doc! { "ok": 0, "code": code };
                    Error::from_reply_for_sdam(&RawDocumentBuf::try_from(&reply).unwrap()).unwrap()
                }
            };
            let address = at(NAMES[member]);
            let generation = topology.generation(&address, None).unwrap_or(0).saturating_sub(age);
            let error = ApplicationError {
                generation,
                service_id: None,
                handshake_completed: handshake,
                error: &error,
            };
            topology.on_application_error(Instant::ZERO, &address, error, effects);
        }
        Outcome::Srv { hosts } => {
            let hosts: Vec<_> = names(hosts).into_iter().map(at).collect();
            topology.on_srv(&hosts, effects);
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_beliefs_stay_consistent(
        named in any::<bool>(),
        happenings in prop::collection::vec(outcomes(), 0..40),
    ) {
        let options = TopologyOptions {
            seeds: vec![at("a"), at("b")],
            repl_set_name: named.then(|| "rs".to_owned()),
            ..TopologyOptions::default()
        };
        let mut topology = Topology::new(ObjectId::from_bytes([0; 12]), options);
        let mut effects = Vec::new();
        topology.open(&mut effects);
        // What the owner of the topology has made of the effects.
        let mut pools: BTreeMap<ServerAddress, (u64, bool)> = BTreeMap::new();
        let mut monitors: Vec<ServerAddress> = Vec::new();
        let mut published = None;
        for outcome in std::iter::once(None).chain(happenings.iter().map(Some)) {
            if let Some(outcome) = outcome {
                happen(&mut topology, outcome, &mut effects);
            }
            for effect in effects.drain(..) {
                match effect {
                    Effect::CreatePool(address) => {
                        prop_assert!(pools.insert(address, (0, false)).is_none());
                    }
                    Effect::ClosePool(address) => prop_assert!(pools.remove(&address).is_some()),
                    Effect::StartMonitor(address) => monitors.push(address),
                    Effect::StopMonitor(address) => monitors.retain(|other| *other != address),
                    Effect::PoolReady(address) => {
                        let pool = pools.get_mut(&address).unwrap();
                        prop_assert!(!std::mem::replace(&mut pool.1, true), "ready twice");
                    }
                    Effect::PoolClear { address, generation, .. } => {
                        let pool = pools.get_mut(&address).unwrap();
                        prop_assert_eq!(pool.0 + 1, generation);
                        *pool = (generation, false);
                    }
                    Effect::Publish(description) => published = Some(description),
                    Effect::CheckNow(_) | Effect::CancelCheck(_) | Effect::Emit(_) => {}
                }
            }
            let description = topology.description();
            prop_assert_eq!(published.as_ref(), Some(description));
            prop_assert!(description.servers.keys().eq(pools.keys()));
            monitors.sort();
            prop_assert!(description.servers.keys().eq(&monitors));
            let primaries = description.of_type(ServerType::RsPrimary).count();
            let with_primary = description.topology_type == TopologyType::ReplicaSetWithPrimary;
            prop_assert_eq!(primaries, usize::from(with_primary), "{}", description);
            for (address, (generation, _)) in &pools {
                prop_assert_eq!(topology.generation(address, None), Some(*generation));
            }
        }
    }
}
