//! A MongoDB replica set driver that reaches the outside through one transport trait.
//!
//! Names and builder style are those of the crate `mongodb`. [`Client::with_uri_str`] talks TCP (feature
//! `tcp`, on by default); [`Client::with_transport`] talks through whatever implements
//! [`Transport`](transport::Transport), a simulated set for one. The core depends on no runtime, clock
//! or source of random numbers.
//!
//! ```no_run
//! use bson::{Document, doc};
//! use stepdown_driver::{Client, Result};
//!
//! # async fn example() -> Result<()> {
//! let client = Client::with_uri_str("mongodb://localhost:27017/?replicaSet=foo").await?;
//! let notes = client.database("app").collection::<Document>("notes");
//! notes.insert_one(doc! { "text": "written once, whoever is primary" }).await?;
//! let primary = client.topology().primary().map(|server| server.address.clone());
//! println!("the primary is {primary:?}");
//! let mut cursor = notes.find(doc! {}).sort(doc! { "_id": -1 }).limit(5).await?;
//! while let Some(note) = cursor.try_next().await? {
//!     println!("{note}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | gives | crates with it alone |
//! |---|---|---|---|
//! | (none) | | the core, for a transport of your own | 42 |
//! | `auth` | yes | SCRAM-SHA-1, SCRAM-SHA-256, MONGODB-X509 | 60 |
//! | `tcp` | yes | real sockets on tokio: TCP, Unix domain sockets | 46 |
//! | `blocking` | | the same API without async, on plain threads | 43 |
//! | `tls` | yes | TLS 1.2 and 1.3 with rustls, over any transport | 52 |
//! | `snappy`, `zlib`, `zstd` | | the compressors of OP_COMPRESSED | 43, 47, 45 |
//! | `srv` | | real DNS for `mongodb+srv://` | 110 |
//! | `tracing`, `opentelemetry` | | log messages, spans | 45, 45 |
//!
//! Thirty-nine of the crates without features are `bson` and what it cannot be built without; the driver
//! adds `futures-core`, `percent-encoding`, and itself is not counted. Seven of them run at build time
//! alone. (`cargo tree -p stepdown-driver --no-default-features -e normal --prefix none`, each name and
//! version once.)
//!
//! # What there is
//!
//! CRUD with every option, [bulk writes](Client::bulk_write), [sessions](ClientSession) with
//! [transactions](ClientSession::with_transaction), [change streams](ChangeStream), [GridFS](gridfs),
//! indexes, collections, any command; time limits by `timeoutMS` on the client, on databases and
//! collections ([`client::CollectionOptions`]), sessions and by `.timeout(..)` on every action;
//! [events](event), log messages, [spans](telemetry), [hooks](event::CommandHooks), a
//! [watcher](Client::watch_topology) of the topology and [figures](Client::stats) of each member.
//!
//! The deployment is a replica set. Sharded clusters are reached through one mongos at a time: their
//! transactions are not pinned to one, and carry no recovery token.
//!
//! # Rooms
//!
//! What decides is pure and takes the time as an argument: `sdam` (what is believed), `selection`, the
//! books of a `pool`, the state of a `monitor`, the retry policy. What moves bytes is the operation's
//! own future: it borrows a connection, writes and reads on the caller's task, and gives it back.
//! Dropping such a future is safe: if its reply is still owed, it is read before anybody uses the
//! connection again.

#[cfg(feature = "auth")]
pub mod auth;
#[cfg(feature = "blocking")]
pub mod blocking;
pub mod client;
mod connection;
pub mod error;
pub mod event;
mod executor;
mod extended_json;
pub mod logging;
mod monitor;
pub mod operation;
pub mod options;
#[doc(hidden)]
pub mod planted;
pub mod pool;
pub mod sdam;
pub mod selection;
mod session;
mod sync;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod time;
pub mod transport;
pub mod uri;
pub mod wire;

pub use client::gridfs;
pub use client::{ChangeStream, Client, ClientSession, Collection, Cursor, Database};
pub use error::{Error, ErrorKind, Result};
pub use executor::ServerStats;
pub use operation::{
    BulkWriteResult, CollectionBulkWriteResult, CollectionWriteModel, DeleteResult, Hint,
    IndexModel, IndexOptions, Namespace, ReturnDocument, SearchIndexModel, UpdateModifications,
    UpdateResult, WriteModel,
};
pub use session::{TransactionOptions, TransactionState};
pub use time::Instant;
pub use uri::ServerAddress;
