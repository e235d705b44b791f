//! Connection monitoring and pooling (CMAP) events.

use std::time::Duration;

use bson::oid::ObjectId;

use crate::error::Error;
use crate::uri::ServerAddress;

/// An event about a connection pool or a connection in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CmapEvent {
    /// A pool was made, paused.
    PoolCreated(PoolCreatedEvent),
    /// A pool may be used.
    PoolReady(PoolReadyEvent),
    /// A pool was cleared: its generation went up, and it is paused.
    PoolCleared(PoolClearedEvent),
    /// A pool was closed.
    PoolClosed(PoolClosedEvent),
    /// A connection was counted; opening it begins.
    ConnectionCreated(ConnectionCreatedEvent),
    /// A connection is open and authenticated.
    ConnectionReady(ConnectionReadyEvent),
    /// A connection was closed.
    ConnectionClosed(ConnectionClosedEvent),
    /// An operation asks for a connection.
    ConnectionCheckoutStarted(ConnectionCheckoutStartedEvent),
    /// An operation got none.
    ConnectionCheckoutFailed(ConnectionCheckoutFailedEvent),
    /// An operation got one.
    ConnectionCheckedOut(ConnectionCheckedOutEvent),
    /// An operation gave its connection back.
    ConnectionCheckedIn(ConnectionCheckedInEvent),
}

impl CmapEvent {
    /// The name the unified test format uses.
    pub fn name(&self) -> &'static str {
        match self {
            CmapEvent::PoolCreated(_) => "poolCreatedEvent",
            CmapEvent::PoolReady(_) => "poolReadyEvent",
            CmapEvent::PoolCleared(_) => "poolClearedEvent",
            CmapEvent::PoolClosed(_) => "poolClosedEvent",
            CmapEvent::ConnectionCreated(_) => "connectionCreatedEvent",
            CmapEvent::ConnectionReady(_) => "connectionReadyEvent",
            CmapEvent::ConnectionClosed(_) => "connectionClosedEvent",
            CmapEvent::ConnectionCheckoutStarted(_) => "connectionCheckOutStartedEvent",
            CmapEvent::ConnectionCheckoutFailed(_) => "connectionCheckOutFailedEvent",
            CmapEvent::ConnectionCheckedOut(_) => "connectionCheckedOutEvent",
            CmapEvent::ConnectionCheckedIn(_) => "connectionCheckedInEvent",
        }
    }

    /// The server whose pool this is about.
    pub fn address(&self) -> &ServerAddress {
        match self {
            CmapEvent::PoolCreated(event) => &event.address,
            CmapEvent::PoolReady(event) => &event.address,
            CmapEvent::PoolCleared(event) => &event.address,
            CmapEvent::PoolClosed(event) => &event.address,
            CmapEvent::ConnectionCreated(event) => &event.address,
            CmapEvent::ConnectionReady(event) => &event.address,
            CmapEvent::ConnectionClosed(event) => &event.address,
            CmapEvent::ConnectionCheckoutStarted(event) => &event.address,
            CmapEvent::ConnectionCheckoutFailed(event) => &event.address,
            CmapEvent::ConnectionCheckedOut(event) => &event.address,
            CmapEvent::ConnectionCheckedIn(event) => &event.address,
        }
    }
}

/// The settings of a pool that are not at their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPoolOptions {
    /// `maxIdleTimeMS`
    pub max_idle_time: Option<Duration>,
    /// `maxPoolSize`
    pub max_pool_size: Option<u32>,
    /// `minPoolSize`
    pub min_pool_size: Option<u32>,
    /// `maxConnecting`
    pub max_connecting: Option<u32>,
    /// `waitQueueTimeoutMS`
    pub wait_queue_timeout: Option<Duration>,
}

/// A pool was made, paused.
#[derive(Clone, Debug)]
pub struct PoolCreatedEvent {
    /// The server.
    pub address: ServerAddress,
    /// The settings of the pool that are not at their default.
    pub options: ConnectionPoolOptions,
}

/// A pool may be used.
#[derive(Clone, Debug)]
pub struct PoolReadyEvent {
    /// The server.
    pub address: ServerAddress,
}

/// A pool was cleared.
#[derive(Clone, Debug)]
pub struct PoolClearedEvent {
    /// The server.
    pub address: ServerAddress,
    /// The service behind a load balancer whose connections were cleared.
    pub service_id: Option<ObjectId>,
    /// Whether connections in use are interrupted.
    pub interrupt_in_use_connections: bool,
}

/// A pool was closed.
#[derive(Clone, Debug)]
pub struct PoolClosedEvent {
    /// The server.
    pub address: ServerAddress,
}

/// A connection was counted; opening it begins.
#[derive(Clone, Debug)]
pub struct ConnectionCreatedEvent {
    /// The server.
    pub address: ServerAddress,
    /// The driver's number of the connection, from one, counted per pool.
    pub connection_id: u32,
}

/// A connection is open and authenticated.
#[derive(Clone, Debug)]
pub struct ConnectionReadyEvent {
    /// The server.
    pub address: ServerAddress,
    /// The driver's number of the connection.
    pub connection_id: u32,
    /// From the connection being counted.
    pub duration: Duration,
}

/// A connection was closed.
#[derive(Clone, Debug)]
pub struct ConnectionClosedEvent {
    /// The server.
    pub address: ServerAddress,
    /// The driver's number of the connection.
    pub connection_id: u32,
    /// Why.
    pub reason: ConnectionClosedReason,
    /// The error, where the reason is one.
    pub error: Option<Error>,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionClosedReason {
    /// The pool was cleared since it was opened.
    Stale,
    /// It was idle for too long.
    Idle,
    /// It failed.
    Error,
    /// The pool was closed.
    PoolClosed,
}

impl ConnectionClosedReason {
    /// The reason as the specification's tests name it.
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionClosedReason::Stale => "stale",
            ConnectionClosedReason::Idle => "idle",
            ConnectionClosedReason::Error => "error",
            ConnectionClosedReason::PoolClosed => "poolClosed",
        }
    }
}

/// An operation asks for a connection.
#[derive(Clone, Debug)]
pub struct ConnectionCheckoutStartedEvent {
    /// The server.
    pub address: ServerAddress,
}

/// An operation got no connection.
#[derive(Clone, Debug)]
pub struct ConnectionCheckoutFailedEvent {
    /// The server.
    pub address: ServerAddress,
    /// Why.
    pub reason: ConnectionCheckoutFailedReason,
    /// The error, where the reason is one.
    pub error: Option<Error>,
    /// From asking.
    pub duration: Duration,
}

/// Why an operation got no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionCheckoutFailedReason {
    /// None came free in time.
    Timeout,
    /// Opening one failed, or the pool was cleared.
    ConnectionError,
    /// The pool was closed.
    PoolClosed,
}

impl ConnectionCheckoutFailedReason {
    /// The reason as the specification's tests name it.
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionCheckoutFailedReason::Timeout => "timeout",
            ConnectionCheckoutFailedReason::ConnectionError => "connectionError",
            ConnectionCheckoutFailedReason::PoolClosed => "poolClosed",
        }
    }
}

/// An operation got a connection.
#[derive(Clone, Debug)]
pub struct ConnectionCheckedOutEvent {
    /// The server.
    pub address: ServerAddress,
    /// The driver's number of the connection.
    pub connection_id: u32,
    /// From asking.
    pub duration: Duration,
}

/// An operation gave its connection back.
#[derive(Clone, Debug)]
pub struct ConnectionCheckedInEvent {
    /// The server.
    pub address: ServerAddress,
    /// The driver's number of the connection.
    pub connection_id: u32,
}
