//! Server discovery and monitoring (SDAM) events.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;

use crate::error::Error;
use crate::sdam::{ServerDescription, TopologyDescription};
use crate::uri::ServerAddress;

/// An event about what the driver believes, or about how it finds out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SdamEvent {
    /// The client begins to look at the deployment.
    TopologyOpening(TopologyOpeningEvent),
    /// The client no longer looks at the deployment.
    TopologyClosed(TopologyClosedEvent),
    /// What the driver believes about the deployment changed.
    TopologyDescriptionChanged(Box<TopologyDescriptionChangedEvent>),
    /// The driver begins to look at a server.
    ServerOpening(ServerOpeningEvent),
    /// The driver no longer looks at a server.
    ServerClosed(ServerClosedEvent),
    /// What the driver believes about a server changed.
    ServerDescriptionChanged(Box<ServerDescriptionChangedEvent>),
    /// A check of a server begins.
    ServerHeartbeatStarted(ServerHeartbeatStartedEvent),
    /// A check of a server was answered.
    ServerHeartbeatSucceeded(ServerHeartbeatSucceededEvent),
    /// A check of a server failed.
    ServerHeartbeatFailed(ServerHeartbeatFailedEvent),
}

impl SdamEvent {
    /// The name the unified test format uses.
    pub fn name(&self) -> &'static str {
        match self {
            SdamEvent::TopologyOpening(_) => "topologyOpeningEvent",
            SdamEvent::TopologyClosed(_) => "topologyClosedEvent",
            SdamEvent::TopologyDescriptionChanged(_) => "topologyDescriptionChangedEvent",
            SdamEvent::ServerOpening(_) => "serverOpeningEvent",
            SdamEvent::ServerClosed(_) => "serverClosedEvent",
            SdamEvent::ServerDescriptionChanged(_) => "serverDescriptionChangedEvent",
            SdamEvent::ServerHeartbeatStarted(_) => "serverHeartbeatStartedEvent",
            SdamEvent::ServerHeartbeatSucceeded(_) => "serverHeartbeatSucceededEvent",
            SdamEvent::ServerHeartbeatFailed(_) => "serverHeartbeatFailedEvent",
        }
    }

    /// The server this is about; `None` for events about the whole topology.
    pub fn address(&self) -> Option<&ServerAddress> {
        match self {
            SdamEvent::TopologyOpening(_)
            | SdamEvent::TopologyClosed(_)
            | SdamEvent::TopologyDescriptionChanged(_) => None,
            SdamEvent::ServerOpening(event) => Some(&event.address),
            SdamEvent::ServerClosed(event) => Some(&event.address),
            SdamEvent::ServerDescriptionChanged(event) => Some(&event.address),
            SdamEvent::ServerHeartbeatStarted(event) => Some(&event.server_address),
            SdamEvent::ServerHeartbeatSucceeded(event) => Some(&event.server_address),
            SdamEvent::ServerHeartbeatFailed(event) => Some(&event.server_address),
        }
    }
}

/// The client begins to look at the deployment.
#[derive(Clone, Debug)]
pub struct TopologyOpeningEvent {
    /// The client's view of a deployment.
    pub topology_id: ObjectId,
}

/// The client no longer looks at the deployment.
#[derive(Clone, Debug)]
pub struct TopologyClosedEvent {
    /// The client's view of a deployment.
    pub topology_id: ObjectId,
}

/// What the driver believes about the deployment changed.
#[derive(Clone, Debug)]
pub struct TopologyDescriptionChangedEvent {
    /// The client's view of a deployment.
    pub topology_id: ObjectId,
    /// What it believed.
    pub previous_description: Arc<TopologyDescription>,
    /// What it believes now.
    pub new_description: Arc<TopologyDescription>,
}

/// The driver begins to look at a server.
#[derive(Clone, Debug)]
pub struct ServerOpeningEvent {
    /// The client's view of a deployment.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
}

/// The driver no longer looks at a server.
#[derive(Clone, Debug)]
pub struct ServerClosedEvent {
    /// The client's view of a deployment.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
}

/// What the driver believes about a server changed.
#[derive(Clone, Debug)]
pub struct ServerDescriptionChangedEvent {
    /// The client's view of a deployment.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// What it believed.
    pub previous_description: Arc<ServerDescription>,
    /// What it believes now.
    pub new_description: Arc<ServerDescription>,
}

/// A check of a server begins.
#[derive(Clone, Debug)]
pub struct ServerHeartbeatStartedEvent {
    /// The server.
    pub server_address: ServerAddress,
    /// The connection the check uses, if it is open already.
    pub driver_connection_id: Option<u32>,
    /// Whether the server answers when something changes, not at once.
    pub awaited: bool,
}

/// A check of a server was answered.
#[derive(Clone, Debug)]
pub struct ServerHeartbeatSucceededEvent {
    /// The server.
    pub server_address: ServerAddress,
    /// The connection the check used.
    pub driver_connection_id: Option<u32>,
    /// The server's number of that connection.
    pub server_connection_id: Option<i64>,
    /// Whether the server answered when something changed, not at once.
    pub awaited: bool,
    /// From asking to the answer.
    pub duration: Duration,
    /// The answer.
    pub reply: Arc<RawDocumentBuf>,
}

/// A check of a server failed.
#[derive(Clone, Debug)]
pub struct ServerHeartbeatFailedEvent {
    /// The server.
    pub server_address: ServerAddress,
    /// The connection the check used.
    pub driver_connection_id: Option<u32>,
    /// Whether the server was to answer when something changes, not at once.
    pub awaited: bool,
    /// From asking to the failure.
    pub duration: Duration,
    /// What failed.
    pub failure: Error,
}
