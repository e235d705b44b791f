//! The world: virtual clock, event queue, random streams, network, processes, faults, and the executor
//! that drives futures in it.
//!
//! It carries messages, fires timers and breaks things; what a mongod thinks it does not know. Between
//! two members of the set requests and answers are typed, and each has its own connection: one does
//! not wait for another. Clients talk bytes, in order.
//!
//! One seed gives one history. Each source of randomness has a stream of its own: each process of each
//! member, each client, the latency of what each end sends.

mod builder;
mod connection;
mod core;
mod executor;
mod external;
mod faults;
mod messages;
mod network;
mod node;
mod queue;
mod set;
mod shell;
mod sim;
mod slab;
#[cfg(test)]
mod tests;

pub use builder::SimBuilder;
pub use core::WorldStats;
pub use executor::JoinHandle;
pub use external::{ExternalId, ExternalOutput, Refused};
pub use faults::{FaultError, Target};
pub use sim::{Member, Sim, Sleep, TimeLimit};

pub(crate) use connection::ClientSide;
#[cfg(feature = "scenario")]
pub(crate) use core::World;
pub(crate) use executor::Shared;
pub(crate) use slab::Handle;

/// Wall-clock time when a world begins: 2026-01-01T00:00:00Z, in milliseconds since the Unix epoch.
pub const EPOCH_MILLIS: i64 = 1_767_225_600_000;
