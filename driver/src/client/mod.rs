//! The face of the driver: client, databases, collections, cursors, sessions.
//!
//! Names and builder style are those of the crate `mongodb`; what it lacks (who is primary, what goes
//! where, waiting out a failover) is added.

mod action;
mod change_stream;
mod collection;
mod crud;
mod cursor;
mod database;
pub mod gridfs;
mod reconnect;
mod session;
mod terms;
mod watcher;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocument, RawDocumentBuf};

pub use self::action::{
    Aggregate, BulkWrite, CollectionBulkWrite, Count, CountByCommand, CreateCollection,
    CreateIndexes, Delete, Distinct, Drop, DropDatabase, EstimatedCount, Find, FindOne,
    FindOneAndModify, InsertMany, InsertOne, ListCollectionNames, ListCollections,
    ListDatabaseNames, ListDatabases, ListIndexNames, ListIndexes, ManageSearchIndexes,
    ModifyCollection, Rename, RunCommand, RunCursorCommand, Update, Watch,
};
use self::change_stream::Watched;
pub use self::change_stream::{
    ChangeNamespace, ChangeStream, ChangeStreamEvent, OperationType, ResumeToken, TruncatedArray,
    UpdateDescription,
};
pub use self::collection::{Collection, CollectionOptions};
pub use self::crud::{
    CreateIndexesResult, DatabaseSpecification, InsertManyResult, InsertOneResult,
};
pub use self::cursor::Cursor;
pub use self::database::Database;
pub use self::session::{ClientSession, SessionOptions, StartTransaction};
use self::terms::Terms;
pub use self::watcher::TopologyWatcher;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Cluster, Reply, Scope, ServerStats, execute};
use crate::operation::{Command, WriteModel, integer, run_command};
use crate::options::{ClientOptions, SelectionCriteria};
use crate::sdam::TopologyDescription;
use crate::session::SessionSlot;
use crate::time::Instant;
use crate::transport::Transport;
use crate::uri::{ConnectionString, ServerAddress};

/// How many sessions one `endSessions` may name.
const MAX_ENDED_SESSIONS: usize = 10_000;
/// How long closing a client waits for the answer.
const GOODBYE: Duration = Duration::from_millis(500);

/// A client of one deployment. Cheap to clone; all clones share monitors, pools and sessions, which
/// end with the last clone or by [`Client::close`].
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Ends the work of a client with its last clone.
struct Handle {
    cluster: Arc<Cluster>,
}

impl std::ops::Drop for Handle {
    fn drop(&mut self) {
        self.cluster.close();
    }
}

/// What a client can be made of: [`ClientOptions`], or a connection string.
pub trait IntoClientOptions {
    /// The options.
    ///
    /// # Errors
    /// `InvalidArgument` for a connection string that is not one.
    fn into_client_options(self) -> Result<ClientOptions>;
}

impl IntoClientOptions for ClientOptions {
    fn into_client_options(self) -> Result<ClientOptions> {
        Ok(self)
    }
}

impl IntoClientOptions for &str {
    fn into_client_options(self) -> Result<ClientOptions> {
        ClientOptions::parse_str(self)
    }
}

impl IntoClientOptions for String {
    fn into_client_options(self) -> Result<ClientOptions> {
        ClientOptions::parse_str(self)
    }
}

impl Client {
    /// A client over TCP. Nothing is connected yet; the first operation waits for a server.
    ///
    /// # Errors
    /// `InvalidArgument` for a connection string that is not one or asks for what is not supported.
    #[cfg(feature = "tcp")]
    pub async fn with_uri_str(uri: impl AsRef<str>) -> Result<Self> {
        let transport: Arc<dyn Transport> = Arc::new(crate::transport::tcp::TcpTransport::new());
        let options = options_of(uri.as_ref(), &*transport).await?;
        Client::with_transport(traced(options), transport)
    }

    /// A client over TCP.
    ///
    /// # Errors
    /// As [`Client::with_transport`].
    #[cfg(feature = "tcp")]
    pub fn with_options(options: ClientOptions) -> Result<Self> {
        let transport = Arc::new(crate::transport::tcp::TcpTransport::new());
        Client::with_transport(traced(options), transport)
    }

    /// A client that reaches its deployment through `transport`, which also looks up the hosts of a
    /// `mongodb+srv://` string.
    ///
    /// # Errors
    /// As [`Client::with_transport`], and `DnsResolve` if the hosts cannot be found.
    pub async fn with_uri_str_and_transport(
        uri: impl AsRef<str>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self> {
        let options = options_of(uri.as_ref(), &*transport).await?;
        Client::with_transport(options, transport)
    }

    /// A client that reaches its deployment through `transport`.
    ///
    /// # Errors
    /// `InvalidArgument` for options that contradict each other, or ask for what is not supported:
    /// a proxy, a load balancer; or for what this build was made without: see the features.
    /// `InvalidTlsConfig` for certificates that cannot be read.
    pub fn with_transport(
        options: impl IntoClientOptions,
        transport: Arc<dyn Transport>,
    ) -> Result<Self> {
        let mut options = options.into_client_options()?;
        options.validate()?;
        refuse_unsupported(&options)?;
        crate::logging::attach(&mut options);
        let cluster = Cluster::new(transport, options)?;
        cluster.open();
        Ok(Client { handle: Arc::new(Handle { cluster }) })
    }

    /// Says more of who the client is, in the handshakes of connections that are opened from now on: a
    /// library that wraps the driver and was handed a client names itself. What was said before is not
    /// said twice.
    pub fn append_metadata(&self, info: crate::options::DriverInfo) {
        self.cluster().pools().greeting.append_metadata(self.options(), info);
    }

    /// The database `name`; no round trip.
    pub fn database(&self, name: &str) -> Database {
        Database::new(self.clone(), name)
    }

    /// The database named in the connection string.
    pub fn default_database(&self) -> Option<Database> {
        let name = self.cluster().options().default_database.clone()?;
        Some(self.database(&name))
    }

    /// The options this client was made with.
    pub fn options(&self) -> &ClientOptions {
        self.cluster().options()
    }

    /// What the driver believes about the deployment now. It is a snapshot: it does not change.
    pub fn topology(&self) -> Arc<TopologyDescription> {
        self.cluster().description()
    }

    /// Waits until what the driver believes satisfies `accept`, for `limit` at most, and gives it back.
    ///
    /// # Errors
    /// `Timeout` if it did not come to that.
    pub async fn wait_for_topology(
        &self,
        limit: Duration,
        mut accept: impl FnMut(&TopologyDescription) -> bool,
    ) -> Result<Arc<TopologyDescription>> {
        use crate::sync::{Either, select2};
        let by = self.now() + limit;
        loop {
            let seen = self.cluster().changed().version();
            let description = self.topology();
            if accept(&description) {
                return Ok(description);
            }
            let changed = self.cluster().changed().passed(seen);
            let out_of_time = self.cluster().transport().sleep_until(by);
            if let Either::Right(()) = select2(changed, out_of_time).await {
                return Err(Error::timed_out(format!(
                    "the topology is still {} after {} ms",
                    self.topology(),
                    limit.as_millis()
                )));
            }
        }
    }

    /// Follows what the driver believes about the deployment, from now on.
    ///
    /// ```no_run
    /// # async fn example(client: stepdown_driver::Client) {
    /// let mut watcher = client.watch_topology();
    /// while let Some(topology) = watcher.primary_changed().await {
    ///     println!("the primary is {}", topology.primary().expect("there is one").address);
    /// }
    /// # }
    /// ```
    pub fn watch_topology(&self) -> TopologyWatcher {
        TopologyWatcher::new(self.clone())
    }

    /// What was counted about each server, by address.
    pub fn stats(&self) -> Vec<ServerStats> {
        let snapshot = self.cluster().snapshot();
        snapshot
            .servers
            .values()
            .map(|server| {
                let known = snapshot.description.server(server.address());
                ServerStats::of(
                    server,
                    known.map(|known| known.server_type).unwrap_or_default(),
                    known.and_then(|known| known.round_trip_time),
                    known.map(|known| known.min_round_trip_time).unwrap_or_default(),
                )
            })
            .collect()
    }

    /// How many reads went to each server.
    pub fn read_balance(&self) -> BTreeMap<ServerAddress, u64> {
        self.stats().into_iter().map(|stats| (stats.address, stats.selected_for_reads)).collect()
    }

    /// Starts counting from zero.
    pub fn reset_stats(&self) {
        for server in self.cluster().snapshot().servers.values() {
            server.counters.reset();
            server.pool.reset_waits();
        }
    }

    /// Waits for `duration` on the transport's clock.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.cluster().transport().sleep_until(self.now() + duration)
    }

    /// The present moment on the transport's clock.
    pub fn now(&self) -> Instant {
        self.cluster().now()
    }

    /// A session to run operations in, causally consistent unless the options say otherwise.
    ///
    /// # Errors
    /// None at present: whether the deployment knows sessions shows at the first operation.
    pub async fn start_session(&self) -> Result<ClientSession> {
        self.start_session_with(SessionOptions::default()).await
    }

    /// A session with `options`.
    ///
    /// # Errors
    /// `InvalidArgument` for options that exclude each other.
    pub async fn start_session_with(&self, options: SessionOptions) -> Result<ClientSession> {
        ClientSession::new(self.clone(), options)
    }

    /// The databases of the deployment.
    pub fn list_databases(&self) -> ListDatabases {
        ListDatabases::new(self.clone())
    }

    /// The names of the databases of the deployment.
    pub fn list_database_names(&self) -> ListDatabaseNames {
        ListDatabaseNames::new(self.clone())
    }

    /// Writes to several collections, in as many `bulkWrite` commands as their size asks for (server
    /// 8.0).
    ///
    /// ```no_run
    /// use stepdown_driver::options::{InsertOneModel, DeleteManyModel, Namespace, WriteModel};
    /// # async fn example(client: stepdown_driver::Client) -> stepdown_driver::Result<()> {
    /// let notes = Namespace::new("app", "notes");
    /// let models: Vec<WriteModel> = vec![
    ///     DeleteManyModel::new(notes.clone(), bson::doc! { "old": true }).into(),
    ///     InsertOneModel::new(notes, bson::doc! { "text": "new" }).into(),
    /// ];
    /// let result = client.bulk_write(models).verbose_results(true).await?;
    /// println!("{} inserted", result.inserted_count);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bulk_write(&self, models: impl IntoIterator<Item = impl Into<WriteModel>>) -> BulkWrite {
        BulkWrite::new(self.clone(), models.into_iter().map(Into::into).collect())
    }

    /// Watches what happens in all databases.
    pub fn watch(&self) -> Watch<Document> {
        let options = self.collection_options();
        Watch::new(self.clone(), Watched::Deployment, Vec::new(), options)
    }

    /// Ends monitors, pools and sessions, of all clones. Operations fail with `Shutdown` from now on.
    pub async fn close(&self) {
        use crate::sync::select2;
        let cluster = self.cluster();
        // Sessions run out by themselves if nobody can be told, or does not answer soon.
        let goodbye = cluster.transport().sleep_until(cluster.now() + GOODBYE);
        select2(self.end_sessions(), goodbye).await;
        cluster.close();
    }

    /// Tells the deployment which sessions nobody will use again, if anybody is there to be told.
    async fn end_sessions(&self) {
        let cluster = self.cluster();
        for some in cluster.drain_sessions().chunks(MAX_ENDED_SESSIONS) {
            let ids = some.iter().map(|session| {
                let id = bson::Uuid::from_bytes(session.id);
                bson::Bson::Document(bson::doc! { "id": id })
            });
            let end = bson::doc! { "endSessions": ids.collect::<Vec<_>>() };
            let Ok(raw) = to_raw(&end) else { return };
            let anybody = crate::options::ReadPreference::primary_preferred();
            let Ok(command) = run_command("admin", &raw, Some(anybody.into())) else { return };
            if !cluster.can_select(&command.target) {
                return;
            }
            let mut none = SessionSlot::none();
            let scope = Scope::quiet(
                cluster,
                self.options().timeout.map(|timeout| self::terms::deadline(cluster.now(), timeout)),
            );
            if execute(cluster, &command, &mut none, &scope).await.is_err() {
                return;
            }
        }
    }

    /// The same as [`Client::close`], under the name the crate `mongodb` gives it.
    pub async fn shutdown(self) {
        self.close().await;
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.handle.cluster
    }

    /// A new ObjectId from the transport's clock and random numbers.
    pub fn new_object_id(&self) -> ObjectId {
        self.cluster().new_object_id()
    }

    /// Runs a command under `terms`, as an operation of its own.
    pub(crate) async fn run(&self, command: &Command, terms: &Terms) -> Result<Reply> {
        self.run_checked(command, terms, |_| Ok(())).await
    }

    /// The same, and looks at the reply.
    pub(crate) async fn run_checked(
        &self,
        command: &Command,
        terms: &Terms,
        check: fn(&RawDocument) -> Result<()>,
    ) -> Result<Reply> {
        let mut slot = self.slot(command, terms)?;
        let cluster = self.cluster();
        let scope = Scope::of(cluster, command, terms.session.as_ref(), terms.limit)
            .with_raw_data(terms.raw_data);
        let ran = execute(cluster, command, &mut slot, &scope).await;
        let checked = ran.and_then(|reply| check(&reply.body).map(|()| reply));
        if scope.limit.is_none() && checked.is_ok() {
            return checked;
        }
        scope.outcome(cluster.now(), checked)
    }

    /// Runs one of several commands of an operation.
    pub(crate) async fn run_in(
        &self,
        command: &Command,
        terms: &Terms,
        scope: &Scope,
    ) -> Result<Reply> {
        let mut slot = self.slot(command, terms)?;
        execute(self.cluster(), command, &mut slot, scope).await
    }

    /// What the commands of an operation on `namespace` share.
    pub(crate) fn scope(
        &self,
        name: &str,
        namespace: (&str, Option<&str>),
        terms: &Terms,
    ) -> Scope {
        Scope::named(self.cluster(), name, namespace, terms.session.as_ref(), terms.limit)
            .with_raw_data(terms.raw_data)
    }

    /// The session a command runs in.
    pub(crate) fn slot(&self, command: &Command, terms: &Terms) -> Result<SessionSlot> {
        if let Some(session) = &terms.session {
            if !session.belongs_to(self.cluster()) {
                return Err(Error::invalid_argument("the session belongs to another client"));
            }
            if !command.acknowledged {
                let message = "an unacknowledged write cannot use an explicit session";
                return Err(Error::invalid_argument(message));
            }
        }
        Ok(SessionSlot::from_option(terms.session.clone()))
    }

    /// What reads and writes use where nothing else is said.
    pub(crate) fn collection_options(&self) -> CollectionOptions {
        CollectionOptions {
            selection_criteria: self.selection_criteria(),
            read_concern: self.options().read_concern.clone(),
            write_concern: self.options().write_concern.clone(),
            timeout: self.options().timeout,
        }
    }

    /// What reads use where nothing else is said.
    pub(crate) fn selection_criteria(&self) -> Option<SelectionCriteria> {
        self.cluster().options().selection_criteria.clone()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("topology", &self.topology().to_string()).finish()
    }
}

/// Connecting without what was asked for would be worse than not connecting.
fn refuse_unsupported(options: &ClientOptions) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::invalid_argument(format!("{what} is not supported by this driver yet")))
    };
    if options.proxy.is_some() {
        return refuse("a SOCKS5 proxy (proxyHost)");
    }
    if options.load_balanced == Some(true) {
        return refuse("loadBalanced=true");
    }
    Ok(())
}

/// The options of a connection string, its hosts looked up if it is a `mongodb+srv://` one.
async fn options_of(uri: &str, transport: &dyn Transport) -> Result<ClientOptions> {
    let mut parsed = ConnectionString::parse(uri)?;
    if let Some(name) = parsed.srv_name() {
        let records = transport.resolve_srv(&name).await.map_err(|error| {
            let message = format!("the SRV records of {name} cannot be looked up: {error}");
            Error::new(ErrorKind::DnsResolve { message })
        })?;
        parsed = parsed.resolve_with(&records, || transport.random())?;
    }
    parsed.into_options()
}

/// What the environment says about spans, where the options say nothing.
#[cfg(feature = "tcp")]
fn traced(mut options: ClientOptions) -> ClientOptions {
    if cfg!(feature = "opentelemetry") && options.tracing.is_none() {
        options.tracing = crate::telemetry::TracingOptions::from_environment();
    }
    options
}

/// A document of `listDatabases`.
pub(crate) fn database_specification(
    document: &bson::RawDocument,
) -> Result<DatabaseSpecification> {
    Ok(DatabaseSpecification {
        name: document.get_str("name")?.to_owned(),
        size_on_disk: integer(document, "sizeOnDisk")
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        empty: document.get_bool("empty").unwrap_or(false),
    })
}

/// A document as raw bytes.
pub(crate) fn to_raw(document: &Document) -> Result<RawDocumentBuf> {
    Ok(RawDocumentBuf::try_from(document)?)
}

#[cfg(test)]
mod tests;
