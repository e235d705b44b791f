//! The rules of the SDAM specification: how the outcome of one check changes what is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use crate::error::{Error, ErrorKind};
use crate::uri::ServerAddress;

/// The first wire version (MongoDB 6.0) whose primaries are compared by electionId first.
const ELECTION_ID_FIRST_WIRE_VERSION: i32 = 17;

/// One application of the rules.
pub(super) struct Update<'a> {
    /// The description being changed.
    pub(super) topology: &'a mut TopologyDescription,
    /// How many seeds the client was given.
    pub(super) seed_count: usize,
    /// Servers whose belief was changed by another server's word: they are checked at once.
    pub(super) check_now: Vec<ServerAddress>,
}

impl Update<'_> {
    /// Takes the news about one server of the topology.
    pub(super) fn apply(&mut self, mut server: ServerDescription) {
        let kind = self.topology.topology_type;
        if kind == TopologyType::Single
            && server.is_available()
            && let Some(wanted) = &self.topology.set_name
            && server.set_name.as_ref() != Some(wanted)
        {
            let found = server.set_name.as_deref().unwrap_or("no set");
            let error = Error::new(ErrorKind::InvalidResponse {
                message: format!(
                    "replicaSet is \"{wanted}\", but the server at {} belongs to {found}",
                    server.address
                ),
            });
            server = ServerDescription {
                error: Some(error),
                last_update_time: server.last_update_time,
                ..ServerDescription::unknown(server.address)
            };
        }
        self.topology.servers.insert(server.address.clone(), Arc::new(server.clone()));
        match (kind, server.server_type) {
            (TopologyType::Single | TopologyType::LoadBalanced, _) => {}

            (TopologyType::Unknown, ServerType::Standalone) => {
                self.unknown_with_standalone(&server)
            }
            (TopologyType::Unknown, ServerType::Mongos) => {
                self.topology.topology_type = TopologyType::Sharded;
            }
            (TopologyType::Unknown, ServerType::RsPrimary) => {
                self.topology.topology_type = TopologyType::ReplicaSetWithPrimary;
                self.set_from_primary(&server);
            }
            (
                TopologyType::Unknown,
                ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther,
            ) => {
                self.topology.topology_type = TopologyType::ReplicaSetNoPrimary;
                self.set_without_primary(&server);
            }
            (TopologyType::Unknown, _) => {}

            (TopologyType::Sharded, ServerType::Mongos | ServerType::Unknown) => {}
            (TopologyType::Sharded, _) => self.remove(&server.address),

            (TopologyType::ReplicaSetNoPrimary, ServerType::Standalone | ServerType::Mongos) => {
                self.remove(&server.address);
            }
            (TopologyType::ReplicaSetNoPrimary, ServerType::RsPrimary) => {
                self.topology.topology_type = TopologyType::ReplicaSetWithPrimary;
                self.set_from_primary(&server);
            }
            (
                TopologyType::ReplicaSetNoPrimary,
                ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther,
            ) => self.set_without_primary(&server),
            (TopologyType::ReplicaSetNoPrimary, _) => {}

            (TopologyType::ReplicaSetWithPrimary, ServerType::Standalone | ServerType::Mongos) => {
                self.remove(&server.address);
                self.look_for_primary();
            }
            (TopologyType::ReplicaSetWithPrimary, ServerType::RsPrimary) => {
                self.set_from_primary(&server);
            }
            (
                TopologyType::ReplicaSetWithPrimary,
                ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther,
            ) => self.set_with_primary_from_member(&server),
            (TopologyType::ReplicaSetWithPrimary, _) => self.look_for_primary(),
        }
    }

    fn unknown_with_standalone(&mut self, server: &ServerDescription) {
        if self.seed_count == 1 {
            self.topology.topology_type = TopologyType::Single;
        } else {
            self.remove(&server.address);
        }
    }

    /// A member that is not primary, while no primary is known: its host list only adds.
    fn set_without_primary(&mut self, server: &ServerDescription) {
        if !self.is_of_this_set(server) {
            self.remove(&server.address);
            return;
        }
        self.add_missing(server);
        if is_misaddressed(server) {
            self.remove(&server.address);
        }
    }

    /// A member that is not primary, while a primary is known (it may have been this one).
    fn set_with_primary_from_member(&mut self, server: &ServerDescription) {
        if !self.is_of_this_set(server) || is_misaddressed(server) {
            self.remove(&server.address);
        }
        self.look_for_primary();
    }

    /// A primary: if it is not a stale one, its host list is the truth.
    fn set_from_primary(&mut self, server: &ServerDescription) {
        if !self.is_of_this_set(server) {
            self.remove(&server.address);
            self.look_for_primary();
            return;
        }
        if !self.accept_election(server) {
            self.make_unknown(
                &server.address,
                "primary marked stale due to electionId/setVersion mismatch",
                server,
            );
            self.look_for_primary();
            return;
        }
        let others: Vec<_> = self
            .topology
            .of_type(ServerType::RsPrimary)
            .map(|other| other.address.clone())
            .filter(|address| *address != server.address)
            .collect();
        for address in others {
            let why = "primary marked stale due to discovery of newer primary";
            self.make_unknown(&address, why, server);
            self.check_now.push(address);
        }
        self.add_missing(server);
        let listed: BTreeSet<_> = server.known_hosts().cloned().collect();
        self.topology.servers.retain(|address, _| listed.contains(address));
        self.look_for_primary();
    }

    /// Whether the election behind this primary is at least as new as the newest one seen, which it
    /// then becomes.
    fn accept_election(&mut self, server: &ServerDescription) -> bool {
        let topology = &mut *self.topology;
        if server.max_wire_version >= ELECTION_ID_FIRST_WIRE_VERSION {
            // A missing value is smaller than any other, which is how `Option` compares.
            let seen = (topology.max_election_id, topology.max_set_version);
            let found = (server.election_id, server.set_version);
            if found < seen && !crate::planted::is(crate::planted::DriverBug::IgnoresElectionId) {
                return false;
            }
            (topology.max_election_id, topology.max_set_version) = found;
            return true;
        }
        if let (Some(version), Some(election)) = (server.set_version, server.election_id) {
            if let (Some(max_version), Some(max_election)) =
                (topology.max_set_version, topology.max_election_id)
                && (version, election) < (max_version, max_election)
            {
                return false;
            }
            topology.max_election_id = Some(election);
        }
        topology.max_set_version = topology.max_set_version.max(server.set_version);
        true
    }

    /// Whether the server belongs to the set the client uses; the first name seen becomes that.
    fn is_of_this_set(&mut self, server: &ServerDescription) -> bool {
        if self.topology.set_name.is_none() {
            self.topology.set_name.clone_from(&server.set_name);
        }
        self.topology.set_name == server.set_name
    }

    fn add_missing(&mut self, server: &ServerDescription) {
        for host in server.known_hosts() {
            self.topology
                .servers
                .entry(host.clone())
                .or_insert_with(|| Arc::new(ServerDescription::unknown(host.clone())));
        }
    }

    fn remove(&mut self, address: &ServerAddress) {
        self.topology.servers.remove(address);
    }

    fn make_unknown(&mut self, address: &ServerAddress, why: &str, word_of: &ServerDescription) {
        let description = ServerDescription {
            error: Some(Error::new(ErrorKind::StaleServer { message: why.to_owned() })),
            last_update_time: word_of.last_update_time,
            ..ServerDescription::unknown(address.clone())
        };
        self.topology.servers.insert(address.clone(), Arc::new(description));
    }

    fn look_for_primary(&mut self) {
        self.topology.topology_type = if self.topology.primary().is_some() {
            TopologyType::ReplicaSetWithPrimary
        } else {
            TopologyType::ReplicaSetNoPrimary
        };
    }
}

/// Whether the server calls itself by another address than the client does.
fn is_misaddressed(server: &ServerDescription) -> bool {
    server.me.as_ref().is_some_and(|me| *me != server.address)
}
