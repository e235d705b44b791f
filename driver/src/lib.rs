//! A MongoDB replica set driver that reaches the outside through one transport trait.

pub mod time;
pub mod transport;
pub mod uri;
pub mod wire;

pub use time::Instant;
