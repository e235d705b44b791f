//! A MongoDB replica set driver that reaches the outside through one transport trait.

pub mod error;
pub mod event;
pub mod options;
pub mod sdam;
pub mod selection;
pub mod time;
pub mod transport;
pub mod uri;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
pub use time::Instant;
