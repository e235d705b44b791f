//! The driver for code without async, on plain threads: no runtime is hidden behind it.
//!
//! The types have the names they have elsewhere, and everything that builds an operation is theirs by
//! [`Deref`]: options are set as always, and [`Run::run`] runs it, where async code would `.await`.
//! What has async methods of its own (GridFS streams) is driven by [`block_on`]. Each server is watched by one or two threads; a client that is dropped or closed ends them within a
//! tenth of a second.
//!
//! ```no_run
//! use bson::{Document, doc};
//! use stepdown_driver::blocking::{Client, Run};
//!
//! # fn example() -> stepdown_driver::Result<()> {
//! let client = Client::with_uri_str("mongodb://localhost:27017/?replicaSet=foo")?;
//! let notes = client.database("app").collection::<Document>("notes");
//! notes.insert_one(doc! { "text": "written once, whoever is primary" }).run()?;
//! for note in notes.find(doc! {}).sort(doc! { "_id": -1 }).limit(5).run()? {
//!     println!("{}", note?);
//! }
//! # Ok(())
//! # }
//! ```

mod cursor;
mod run;
mod session;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

pub use self::cursor::{ChangeStream, Cursor};
pub use self::run::{IntoBlocking, Run};
pub use self::session::ClientSession;
use crate::client::{CollectionOptions, SessionOptions};
use crate::error::Result;
use crate::options::{ClientOptions, SelectionCriteria, WriteConcern};
use crate::sdam::TopologyDescription;
use crate::transport::threads::ThreadTransport;
pub use crate::transport::threads::block_on;

/// A client of one deployment: see [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Client {
    inner: crate::Client,
}

impl Client {
    /// A client over TCP. Nothing is connected yet; the first operation waits for a server.
    ///
    /// # Errors
    /// As [`crate::Client::with_transport`], and `DnsResolve` for `mongodb+srv://`.
    pub fn with_uri_str(uri: impl AsRef<str>) -> Result<Self> {
        let transport = Arc::new(ThreadTransport::new());
        let client = crate::Client::with_uri_str_and_transport(uri, transport);
        Ok(Client { inner: block_on(client)? })
    }

    /// A client over TCP.
    ///
    /// # Errors
    /// As [`crate::Client::with_transport`].
    pub fn with_options(options: ClientOptions) -> Result<Self> {
        let transport = Arc::new(ThreadTransport::new());
        Ok(Client { inner: crate::Client::with_transport(options, transport)? })
    }

    /// The database `name`; no round trip.
    pub fn database(&self, name: &str) -> Database {
        Database { inner: self.inner.database(name) }
    }

    /// The database named in the connection string.
    pub fn default_database(&self) -> Option<Database> {
        Some(Database { inner: self.inner.default_database()? })
    }

    /// A session to run operations in, causally consistent unless the options say otherwise.
    ///
    /// # Errors
    /// As [`crate::Client::start_session`].
    pub fn start_session(&self) -> Result<ClientSession> {
        Ok(ClientSession::new(block_on(self.inner.start_session())?))
    }

    /// A session with `options`.
    ///
    /// # Errors
    /// As [`crate::Client::start_session_with`].
    pub fn start_session_with(&self, options: SessionOptions) -> Result<ClientSession> {
        Ok(ClientSession::new(block_on(self.inner.start_session_with(options))?))
    }

    /// Waits until what the driver believes satisfies `accept`, for `limit` at most.
    ///
    /// # Errors
    /// `Timeout` if it did not come to that.
    pub fn wait_for_topology(
        &self,
        limit: Duration,
        accept: impl FnMut(&TopologyDescription) -> bool,
    ) -> Result<Arc<TopologyDescription>> {
        block_on(self.inner.wait_for_topology(limit, accept))
    }

    /// Runs `operation` again as long as it fails with an error of the AutoReconnect family, for
    /// `limit` at most: see [`crate::Client::with_reconnect_for`].
    ///
    /// # Errors
    /// The first error of another kind, or the last error once the time is over.
    pub fn with_reconnect_for<T>(
        &self,
        limit: Duration,
        mut operation: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        block_on(self.inner.with_reconnect_for(limit, || {
            let result = operation();
            async move { result }
        }))
    }

    /// Ends monitors, pools and sessions, of all clones. Operations fail with `Shutdown` from now on.
    pub fn close(&self) {
        block_on(self.inner.close());
    }

    /// The same as [`Client::close`], under the name the crate `mongodb` gives it.
    pub fn shutdown(self) {
        self.close();
    }
}

impl Deref for Client {
    type Target = crate::Client;
    fn deref(&self) -> &crate::Client {
        &self.inner
    }
}

/// A database: see [`crate::Database`].
#[derive(Clone, Debug)]
pub struct Database {
    inner: crate::Database,
}

impl Database {
    /// The same database, whose reads and writes use what is said in `options`.
    #[must_use]
    pub fn with_options(self, options: CollectionOptions) -> Self {
        Database { inner: self.inner.with_options(options) }
    }

    /// The client.
    pub fn client(&self) -> Client {
        Client { inner: self.inner.client().clone() }
    }

    /// The collection `name`, whose documents are read and written as `T`; no round trip.
    pub fn collection<T>(&self, name: &str) -> Collection<T> {
        Collection { inner: self.inner.collection(name) }
    }

    /// The collection `name`, whose reads and writes use what is said in `options`.
    pub fn collection_with_options<T>(
        &self,
        name: &str,
        options: CollectionOptions,
    ) -> Collection<T> {
        Collection { inner: self.inner.collection_with_options(name, options) }
    }
}

impl Deref for Database {
    type Target = crate::Database;
    fn deref(&self) -> &crate::Database {
        &self.inner
    }
}

/// A collection: see [`crate::Collection`].
#[derive(Debug)]
pub struct Collection<T> {
    inner: crate::Collection<T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Collection { inner: self.inner.clone() }
    }
}

impl<T> Collection<T> {
    /// The same collection with documents of type `U`.
    pub fn clone_with_type<U>(&self) -> Collection<U> {
        Collection { inner: self.inner.clone_with_type() }
    }

    /// The same collection, whose reads and writes use what is said in `options`.
    #[must_use]
    pub fn with_options(&self, options: CollectionOptions) -> Self {
        Collection { inner: self.inner.with_options(options) }
    }

    /// The same collection, read from the members `criteria` allow.
    #[must_use]
    pub fn with_selection_criteria(&self, criteria: impl Into<SelectionCriteria>) -> Self {
        Collection { inner: self.inner.with_selection_criteria(criteria) }
    }

    /// The same collection, written with `concern`.
    #[must_use]
    pub fn with_write_concern(&self, concern: WriteConcern) -> Self {
        Collection { inner: self.inner.with_write_concern(concern) }
    }

    /// The client.
    pub fn client(&self) -> Client {
        Client { inner: self.inner.client().clone() }
    }

    /// The database.
    pub fn database(&self) -> Database {
        Database { inner: self.inner.database().clone() }
    }
}

impl<T> Deref for Collection<T> {
    type Target = crate::Collection<T>;
    fn deref(&self) -> &crate::Collection<T> {
        &self.inner
    }
}
