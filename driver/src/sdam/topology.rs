//! What the driver believes about a deployment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bson::oid::ObjectId;

use super::{ServerDescription, ServerType};
use crate::uri::ServerAddress;

/// What a deployment is, as far as the driver knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TopologyType {
    /// One server, used directly whatever it is.
    Single,
    /// A replica set of which no primary is known.
    ReplicaSetNoPrimary,
    /// A replica set with its primary.
    ReplicaSetWithPrimary,
    /// A sharded cluster.
    Sharded,
    /// A load balancer.
    LoadBalanced,
    /// Not known yet.
    #[default]
    Unknown,
}

impl TopologyType {
    /// The type as the specification names it.
    pub fn as_str(self) -> &'static str {
        match self {
            TopologyType::Single => "Single",
            TopologyType::ReplicaSetNoPrimary => "ReplicaSetNoPrimary",
            TopologyType::ReplicaSetWithPrimary => "ReplicaSetWithPrimary",
            TopologyType::Sharded => "Sharded",
            TopologyType::LoadBalanced => "LoadBalanced",
            TopologyType::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for TopologyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the driver believes about a deployment at one moment.
///
/// Shared as `Arc<TopologyDescription>`; its servers are shared between successive descriptions.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TopologyDescription {
    /// The client's view of a deployment, for events.
    pub id: ObjectId,
    /// What the deployment is.
    pub topology_type: TopologyType,
    /// The name of the set.
    pub set_name: Option<String>,
    /// The highest setVersion a primary reported, by the rules of stale primaries.
    pub max_set_version: Option<i64>,
    /// The highest electionId a primary reported, by the rules of stale primaries.
    pub max_election_id: Option<ObjectId>,
    /// The servers by address.
    pub servers: BTreeMap<ServerAddress, Arc<ServerDescription>>,
}

impl TopologyDescription {
    /// A deployment of which nothing is known, not even a server.
    pub fn empty(id: ObjectId) -> Self {
        TopologyDescription {
            id,
            topology_type: TopologyType::Unknown,
            set_name: None,
            max_set_version: None,
            max_election_id: None,
            servers: BTreeMap::new(),
        }
    }

    /// A deployment of type `topology_type` made of these servers. For tests of selection; a client's
    /// description comes from a [`Topology`](super::Topology).
    pub fn from_servers(
        id: ObjectId,
        topology_type: TopologyType,
        servers: impl IntoIterator<Item = ServerDescription>,
    ) -> Self {
        let servers =
            servers.into_iter().map(|server| (server.address.clone(), Arc::new(server))).collect();
        TopologyDescription { topology_type, servers, ..TopologyDescription::empty(id) }
    }

    /// What is believed about the server at `address`.
    pub fn server(&self, address: &ServerAddress) -> Option<&Arc<ServerDescription>> {
        self.servers.get(address)
    }

    /// What is believed about the server at `address`, which may be given as text.
    pub fn member(&self, address: &str) -> Option<&Arc<ServerDescription>> {
        self.server(&ServerAddress::parse(address).ok()?)
    }

    /// What the deployment is.
    pub fn kind(&self) -> TopologyType {
        self.topology_type
    }

    /// The primary of the set.
    pub fn primary(&self) -> Option<&Arc<ServerDescription>> {
        self.servers.values().find(|server| server.is_primary())
    }

    /// The secondaries of the set, by address.
    pub fn secondaries(&self) -> impl Iterator<Item = &Arc<ServerDescription>> {
        self.of_type(ServerType::RsSecondary)
    }

    /// The arbiters of the set, by address.
    pub fn arbiters(&self) -> impl Iterator<Item = &Arc<ServerDescription>> {
        self.of_type(ServerType::RsArbiter)
    }

    /// The servers of type `server_type`, by address.
    pub fn of_type(
        &self,
        server_type: ServerType,
    ) -> impl Iterator<Item = &Arc<ServerDescription>> {
        self.servers.values().filter(move |server| server.server_type == server_type)
    }

    /// Why no operation can be run on this deployment, if a server speaks no wire version this
    /// driver speaks.
    pub fn compatibility_error(&self) -> Option<String> {
        self.servers.values().find_map(|server| server.compatibility_error())
    }

    /// How long the deployment keeps an idle session, in minutes: the least of its data-bearing
    /// servers; `None` if one of them knows no sessions or there are none.
    pub fn logical_session_timeout_minutes(&self) -> Option<i64> {
        // A load balancer is not asked; sessions are always there.
        if self.topology_type == TopologyType::LoadBalanced {
            return None;
        }
        let mut least: Option<i64> = None;
        for server in self.servers.values().filter(|server| server.server_type.is_data_bearing()) {
            let minutes = server.logical_session_timeout_minutes?;
            least = Some(least.map_or(minutes, |least| least.min(minutes)));
        }
        least
    }

    /// Whether this is a replica set.
    pub fn is_replica_set(&self) -> bool {
        matches!(
            self.topology_type,
            TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary
        )
    }
}

impl fmt::Display for TopologyDescription {
    /// One line, as error messages show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.topology_type)?;
        if let Some(name) = &self.set_name {
            write!(f, " \"{name}\"")?;
        }
        f.write_str(" [")?;
        for (index, server) in self.servers.values().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", server.address, server.server_type)?;
            if let Some(error) = &server.error {
                write!(f, " ({error})")?;
            }
        }
        f.write_str("]")
    }
}
