use bson::oid::ObjectId;

use super::*;
use crate::options::{ReadPreference, TagSet};

fn at(name: &str) -> ServerAddress {
    ServerAddress::parse(name).unwrap()
}

/// A primary `a` and secondaries `b` and `c`, ten, twenty and forty milliseconds away.
fn set() -> TopologyDescription {
    let servers = [
        ("a", ServerType::RsPrimary, 10, "ny"),
        ("b", ServerType::RsSecondary, 20, "ny"),
        ("c", ServerType::RsSecondary, 40, "sf"),
    ];
    let servers = servers.map(|(name, server_type, millis, dc)| {
        let mut server = ServerDescription::unknown(at(name));
        server.server_type = server_type;
        server.max_wire_version = 25;
        server.round_trip_time = Some(Duration::from_millis(millis));
        server.tags = TagSet::from([("dc".to_owned(), dc.to_owned())]);
        server
    });
    let id = ObjectId::from_bytes([0; 12]);
    TopologyDescription::from_servers(id, TopologyType::ReplicaSetWithPrimary, servers)
}

fn picked(topology: &TopologyDescription, request: &Request<'_>, random: [u64; 2]) -> String {
    match select(topology, request, |_| 0, random).unwrap() {
        Pick::Server(server) => server.address.host().to_owned(),
        Pick::Wait => "wait".to_owned(),
    }
}

#[test]
fn writes_go_to_the_primary_and_wait_while_there_is_none() {
    let mut topology = set();
    assert_eq!(picked(&topology, &Request::writable(), [7, 9]), "a");
    topology.servers.remove(&at("a"));
    topology.topology_type = TopologyType::ReplicaSetNoPrimary;
    assert_eq!(picked(&topology, &Request::writable(), [7, 9]), "wait");
}

#[test]
fn a_deprioritized_primary_is_still_better_than_none() {
    let topology = set();
    let avoid = [at("a")];
    assert_eq!(picked(&topology, &Request::writable().avoiding(&avoid), [0, 0]), "a");
    let preferred = ReadPreference::primary_preferred().into();
    let request = Request::readable(&preferred).avoiding(&avoid);
    assert_eq!(picked(&topology, &request, [0, 0]), "b");
}

#[test]
fn of_two_near_servers_the_idler_one_is_picked() {
    let topology = set();
    let nearest = ReadPreference::nearest().into();
    let request = Request::readable(&nearest);
    // c is too far away; whichever way the random numbers fall, b is idler than a.
    for random in [[0, 0], [1, 0], [6, 5]] {
        let load = |address: &ServerAddress| if *address == at("a") { 3 } else { 1 };
        let Pick::Server(server) = select(&topology, &request, load, random).unwrap() else {
            panic!("nobody was picked")
        };
        assert_eq!(server.address, at("b"));
    }
}

#[test]
fn tag_sets_are_tried_in_order() {
    let tag = |dc: &str| TagSet::from([("dc".to_owned(), dc.to_owned())]);
    let preference = ReadPreference::secondary()
        .with_tag_sets(vec![tag("tokyo"), tag("sf"), tag("ny")])
        .unwrap();
    let criteria = preference.into();
    assert_eq!(picked(&set(), &Request::readable(&criteria), [0, 0]), "c");
}

#[test]
fn a_function_may_choose_among_the_members() {
    let only_c = SelectionCriteria::Predicate(Arc::new(|server| server.address == at("c")));
    assert_eq!(picked(&set(), &Request::readable(&only_c), [0, 0]), "c");
    let slowest = SelectionCriteria::Selector(Arc::new(|mut servers| {
        servers.sort_by_key(|server| server.round_trip_time);
        servers.split_off(servers.len() - 1)
    }));
    assert_eq!(picked(&set(), &Request::readable(&slowest), [0, 0]), "c");
}

#[test]
fn an_incompatible_member_fails_every_operation() {
    let mut topology = set();
    let mut old = ServerDescription::unknown(at("c"));
    old.server_type = ServerType::RsSecondary;
    old.max_wire_version = 6;
    topology.servers.insert(at("c"), Arc::new(old));
    let error = select(&topology, &Request::writable(), |_| 0, [0, 0]).unwrap_err();
    assert!(matches!(*error.kind, ErrorKind::IncompatibleServer { .. }), "{error}");
}

#[test]
fn the_error_after_the_timeout_says_what_was_wanted_and_what_is_known() {
    let mut topology = set();
    topology.servers.retain(|address, _| *address == at("b"));
    topology.topology_type = TopologyType::ReplicaSetNoPrimary;
    let error = timeout_error(&topology, &Request::writable(), Duration::from_secs(30));
    assert_eq!(
        error.to_string(),
        "no server found within 30000 ms: a writable server is wanted, the topology is \
         ReplicaSetNoPrimary [b:27017 RSSecondary]"
    );
}
