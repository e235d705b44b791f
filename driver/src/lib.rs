//! A MongoDB replica set driver that reaches the outside through one transport trait.

mod connection;
pub mod error;
pub mod event;
mod executor;
mod monitor;
pub mod operation;
pub mod options;
pub mod pool;
pub mod sdam;
pub mod selection;
mod session;
mod sync;
pub mod time;
pub mod transport;
pub mod uri;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
pub use time::Instant;
