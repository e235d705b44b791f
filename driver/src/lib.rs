//! A MongoDB replica set driver that reaches the outside through one transport trait.

pub mod client;
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
#[cfg(test)]
mod testing;
pub mod time;
pub mod transport;
pub mod uri;
pub mod wire;

pub use client::{Client, ClientSession, Collection, Cursor, Database};
pub use error::{Error, ErrorKind, Result};
pub use executor::ServerStats;
pub use operation::{
    DeleteResult, Hint, IndexModel, IndexOptions, ReturnDocument, UpdateModifications, UpdateResult,
};
pub use time::Instant;
pub use uri::ServerAddress;
