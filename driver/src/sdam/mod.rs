//! Server discovery and monitoring: what the driver believes about a deployment, and the pure rules
//! that change it.
//!
//! Nothing here reads a clock or moves a byte. [`Topology`] is told outcomes and gives out
//! [`Effect`]s; monitors, pools and listeners carry them out.

mod machine;
mod rules;
mod server;
mod topology;
mod version;

pub use machine::{ApplicationError, Effect, Topology, TopologyOptions};
pub use server::{OpTime, ServerDescription, ServerType};
pub use topology::{TopologyDescription, TopologyType};
pub use version::TopologyVersion;

/// The lowest wire version this driver speaks (MongoDB 4.2).
pub const MIN_WIRE_VERSION: i32 = 8;
/// The highest wire version this driver speaks.
pub const MAX_WIRE_VERSION: i32 = 29;
