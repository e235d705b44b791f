//! A MongoDB replica set in a box: simulated mongods under a virtual clock.

pub mod check;
#[cfg(feature = "scenario")]
pub mod explore;
pub mod mongod;
pub mod random;
#[cfg(feature = "scenario")]
pub mod scenario;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "snapshot")]
pub mod snapshot;
pub mod trace;
pub mod transport;
pub mod world;

pub use stepdown_driver::Instant;
pub use world::{Sim, SimBuilder};
