use std::fmt::Write as _;
use std::io;

use bson::{RawDocumentBuf, doc};

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
