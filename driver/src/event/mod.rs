//! What a client tells about its work: commands, connection pools, the topology.
//!
//! Names and fields are those of the command monitoring, CMAP and SDAM monitoring specifications.

mod cmap;
mod command;
mod hooks;
mod log;
mod sdam;

use std::fmt;
use std::sync::Arc;

pub use cmap::{
    CmapEvent, ConnectionCheckedInEvent, ConnectionCheckedOutEvent, ConnectionCheckoutFailedEvent,
    ConnectionCheckoutFailedReason, ConnectionCheckoutStartedEvent, ConnectionClosedEvent,
    ConnectionClosedReason, ConnectionCreatedEvent, ConnectionPoolOptions, ConnectionReadyEvent,
    PoolClearedEvent, PoolClosedEvent, PoolCreatedEvent, PoolReadyEvent,
};
pub use command::{
    CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent, ConnectionInfo,
};
pub use hooks::{CommandHooks, OutgoingCommand, SentCommand};
pub use log::{Event, EventLog};
pub use sdam::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerHeartbeatFailedEvent,
    ServerHeartbeatStartedEvent, ServerHeartbeatSucceededEvent, ServerOpeningEvent,
    TopologyClosedEvent, TopologyDescriptionChangedEvent, TopologyOpeningEvent,
};

/// Receives events of one family, on the task that makes them and in their order.
///
/// A handler must not block, and must not call the client that sent the event.
pub enum EventHandler<T> {
    /// Calls a function.
    Callback(Arc<dyn Fn(T) + Send + Sync>),
}

impl<T> EventHandler<T> {
    /// A handler that calls `function` with each event.
    pub fn callback(function: impl Fn(T) + Send + Sync + 'static) -> Self {
        EventHandler::Callback(Arc::new(function))
    }

    /// Hands `event` over.
    pub fn handle(&self, event: T) {
        match self {
            EventHandler::Callback(function) => function(event),
        }
    }
}

impl<T> Clone for EventHandler<T> {
    fn clone(&self) -> Self {
        match self {
            EventHandler::Callback(function) => EventHandler::Callback(Arc::clone(function)),
        }
    }
}

impl<T> fmt::Debug for EventHandler<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback(..)")
    }
}
