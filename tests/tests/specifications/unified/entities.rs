//! What operations of a case are done on, by name.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, Document};
use stepdown_driver::client::{ChangeStream, CollectionOptions, SessionOptions};
use stepdown_driver::event::EventHandler;
use stepdown_driver::gridfs::{GridFsBucket, GridFsBucketOptions};
use stepdown_driver::options::{LogLevel, LogOptions, ServerApi, ServerApiVersion};
use stepdown_driver::sdam::TopologyDescription;
use stepdown_driver::telemetry::{SpanRecorder, TracingOptions};
use stepdown_driver::{Client, ClientSession, Collection, Cursor, Database, TransactionOptions};

use super::arguments::{Arguments, integer, read_concern, read_preference, write_concern};
use super::deployment::Way;
use super::matching::Names;
use super::observer::Observer;
use super::{Failure, Operation};

/// How much of a command a span shows where a test wants to see it.
const QUERY_TEXT_LENGTH: usize = 1 << 20;

/// Something with a name.
#[derive(Clone)]
pub enum Entity {
    Client(Arc<ClientEntity>),
    Database(Database),
    Collection(Collection<Document>),
    Bucket(GridFsBucket),
    Session(Arc<SessionEntity>),
    Thread(Arc<ThreadEntity>),
    Cursor(Arc<CursorEntity>),
    Topology(Arc<TopologyDescription>),
    Value(Bson),
}

/// A client, and what it tells.
pub struct ClientEntity {
    pub client: Client,
    pub observer: Arc<Observer>,
    /// The events to be saved as entities at the end: their names, and under which name.
    pub stored: Vec<(String, Vec<String>)>,
    pub spans: SpanRecorder,
}

/// A session; none once it was ended.
pub struct SessionEntity {
    session: Mutex<Option<Arc<ClientSession>>>,
    pub lsid: Document,
}

/// A cursor; none while an operation uses it, and once it was closed.
pub struct CursorEntity {
    cursor: Mutex<Option<AnyCursor>>,
}

/// What can be iterated.
pub enum AnyCursor {
    Documents(Box<Cursor<Document>>),
    Changes(Box<ChangeStream<Document>>),
}

/// A thread: operations that wait for their turn, and what went wrong with earlier ones.
#[derive(Default)]
pub struct ThreadEntity {
    state: Mutex<ThreadState>,
}

#[derive(Default)]
struct ThreadState {
    queue: VecDeque<Operation>,
    running: bool,
    problem: Option<String>,
}

/// All entities of a case.
#[derive(Default)]
pub struct Entities {
    map: Mutex<BTreeMap<String, Entity>>,
}

impl Entities {
    /// The entity `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<Entity, Failure> {
        let found = lock(&self.map).get(name).cloned();
        found.ok_or_else(|| Failure::test(format!("there is no entity {name}")))
    }

    /// Saves an entity under a name nobody has.
    ///
    /// # Errors
    /// The name is taken.
    pub fn insert(&self, name: &str, entity: Entity) -> Result<(), Failure> {
        let mut map = lock(&self.map);
        if map.contains_key(name) {
            return Err(Failure::test(format!("there is an entity {name} already")));
        }
        map.insert(name.to_owned(), entity);
        Ok(())
    }

    /// The client `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn client(&self, name: &str) -> Result<Arc<ClientEntity>, Failure> {
        match self.get(name)? {
            Entity::Client(client) => Ok(client),
            _ => Err(Failure::test(format!("{name} is no client"))),
        }
    }

    /// The session `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn session(&self, name: &str) -> Result<Arc<SessionEntity>, Failure> {
        match self.get(name)? {
            Entity::Session(session) => Ok(session),
            _ => Err(Failure::test(format!("{name} is no session"))),
        }
    }

    /// The thread `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn thread(&self, name: &str) -> Result<Arc<ThreadEntity>, Failure> {
        match self.get(name)? {
            Entity::Thread(thread) => Ok(thread),
            _ => Err(Failure::test(format!("{name} is no thread"))),
        }
    }

    /// What was recorded of a topology under `name`.
    ///
    /// # Errors
    /// There is nothing.
    pub fn topology(&self, name: &str) -> Result<Arc<TopologyDescription>, Failure> {
        match self.get(name)? {
            Entity::Topology(topology) => Ok(topology),
            _ => Err(Failure::test(format!("{name} is no topology description"))),
        }
    }

    /// All clients.
    pub fn clients(&self) -> Vec<Arc<ClientEntity>> {
        let map = lock(&self.map);
        let clients = map.values().filter_map(|entity| match entity {
            Entity::Client(client) => Some(client.clone()),
            _ => None,
        });
        clients.collect()
    }

    /// All threads.
    pub fn threads(&self) -> Vec<Arc<ThreadEntity>> {
        let map = lock(&self.map);
        let threads = map.values().filter_map(|entity| match entity {
            Entity::Thread(thread) => Some(thread.clone()),
            _ => None,
        });
        threads.collect()
    }

    /// Lets everything go: sessions and cursors first, as they belong to clients.
    pub fn clear(&self) {
        let mut all = std::mem::take(&mut *lock(&self.map));
        all.retain(|_, entity| match entity {
            Entity::Session(session) => {
                session.take();
                false
            }
            Entity::Cursor(cursor) => {
                cursor.take();
                false
            }
            _ => true,
        });
    }

    /// Makes the entities a file or an operation describes.
    ///
    /// # Errors
    /// One cannot be made.
    pub async fn create(&self, descriptions: &[Document], way: &Way) -> Result<(), Failure> {
        for description in descriptions {
            let Some((kind, Bson::Document(about))) = description.iter().next() else {
                return Err(Failure::test(format!("{description} is no entity")));
            };
            let id = about.get_str("id").map_err(|_| Failure::test("an entity without id"))?;
            let entity = match kind.as_str() {
                "client" => Entity::Client(make_client(id, about, way).await?),
                "database" => Entity::Database(self.make_database(about)?),
                "collection" => Entity::Collection(self.make_collection(about)?),
                "bucket" => Entity::Bucket(self.make_bucket(about)?),
                "session" => Entity::Session(self.make_session(about).await?),
                "thread" => Entity::Thread(Arc::default()),
                other => {
                    let message = format!("entities of type {other} are not supported yet");
                    return Err(Failure::test(message));
                }
            };
            self.insert(id, entity)?;
        }
        Ok(())
    }

    fn make_database(&self, about: &Document) -> Result<Database, Failure> {
        let client = self.client(about.get_str("client").unwrap_or_default())?;
        let name = about.get_str("databaseName").unwrap_or_default();
        let database = client.client.database(name);
        Ok(match about.get_document("databaseOptions") {
            Ok(options) => database.with_options(collection_options(options)?),
            Err(_) => database,
        })
    }

    fn make_collection(&self, about: &Document) -> Result<Collection<Document>, Failure> {
        let database = match self.get(about.get_str("database").unwrap_or_default())? {
            Entity::Database(database) => database,
            _ => return Err(Failure::test("a collection's database is no database")),
        };
        let name = about.get_str("collectionName").unwrap_or_default();
        Ok(match about.get_document("collectionOptions") {
            Ok(options) => database.collection_with_options(name, collection_options(options)?),
            Err(_) => database.collection(name),
        })
    }

    fn make_bucket(&self, about: &Document) -> Result<GridFsBucket, Failure> {
        let database = match self.get(about.get_str("database").unwrap_or_default())? {
            Entity::Database(database) => database,
            _ => return Err(Failure::test("a bucket's database is no database")),
        };
        let mut options = GridFsBucketOptions::default();
        if let Ok(given) = about.get_document("bucketOptions") {
            let mut given = Arguments::new("bucketOptions", given.clone());
            options.bucket_name = given.text("bucketName")?;
            options.chunk_size_bytes = given.size("chunkSizeBytes")?;
            options.read_concern = given.read_concern()?;
            options.write_concern = given.write_concern()?;
            options.selection_criteria = given.read_preference()?.map(Into::into);
            options.timeout = given.millis("timeoutMS")?;
            given.boolean("disableMD5")?;
            given.finish()?;
        }
        Ok(database.gridfs_bucket(options))
    }

    async fn make_session(&self, about: &Document) -> Result<Arc<SessionEntity>, Failure> {
        let client = self.client(about.get_str("client").unwrap_or_default())?;
        let mut options = SessionOptions::default();
        if let Ok(given) = about.get_document("sessionOptions") {
            let mut given = Arguments::new("sessionOptions", given.clone());
            options.causal_consistency = given.boolean("causalConsistency")?;
            options.snapshot = given.boolean("snapshot")?;
            options.default_timeout = given.millis("defaultTimeoutMS")?;
            if let Some(transaction) = given.document("defaultTransactionOptions")? {
                let mut transaction = Arguments::new("defaultTransactionOptions", transaction);
                options.default_transaction_options = Some(transaction_options(&mut transaction)?);
                transaction.finish()?;
            }
            if let Some(name) = given.text("snapshotTime")? {
                let Some(Bson::Timestamp(time)) = self.value(&name) else {
                    return Err(Failure::test(format!("{name} is no timestamp")));
                };
                options.snapshot_time = Some(time);
            }
            given.finish()?;
        }
        let session = client.client.start_session_with(options).await?;
        let lsid = session.id();
        Ok(Arc::new(SessionEntity { session: Mutex::new(Some(Arc::new(session))), lsid }))
    }
}

impl Names for Entities {
    fn value(&self, name: &str) -> Option<Bson> {
        match lock(&self.map).get(name) {
            Some(Entity::Value(value)) => Some(value.clone()),
            _ => None,
        }
    }

    fn lsid(&self, name: &str) -> Option<Document> {
        match lock(&self.map).get(name) {
            Some(Entity::Session(session)) => Some(session.lsid.clone()),
            _ => None,
        }
    }
}

impl SessionEntity {
    /// The session.
    ///
    /// # Errors
    /// It was ended.
    pub fn get(&self) -> Result<Arc<ClientSession>, Failure> {
        lock(&self.session).clone().ok_or_else(|| Failure::test("the session was ended"))
    }

    /// Lets the session go; it ends with the operations that use it.
    pub fn take(&self) -> Option<Arc<ClientSession>> {
        lock(&self.session).take()
    }
}

impl CursorEntity {
    /// An entity of `cursor`.
    pub fn entity(cursor: AnyCursor) -> Entity {
        Entity::Cursor(Arc::new(CursorEntity { cursor: Mutex::new(Some(cursor)) }))
    }

    /// Takes the cursor out.
    pub fn take(&self) -> Option<AnyCursor> {
        lock(&self.cursor).take()
    }

    /// Puts the cursor back.
    pub fn put(&self, cursor: AnyCursor) {
        *lock(&self.cursor) = Some(cursor);
    }
}

impl ThreadEntity {
    /// Adds an operation. Returns whether a task has to be started to run it.
    pub fn push(&self, operation: Operation) -> bool {
        let mut state = lock(&self.state);
        state.queue.push_back(operation);
        !std::mem::replace(&mut state.running, true)
    }

    /// The next operation of the task that runs them; none ends the task.
    pub fn next(&self) -> Option<Operation> {
        let mut state = lock(&self.state);
        let next = state.queue.pop_front();
        state.running = next.is_some();
        next
    }

    /// An operation went wrong.
    pub fn failed(&self, problem: String) {
        let mut state = lock(&self.state);
        state.problem.get_or_insert(problem);
    }

    /// Whether all operations are done, and what went wrong first.
    pub fn outcome(&self) -> Option<Result<(), String>> {
        let mut state = lock(&self.state);
        match state.running {
            true => None,
            false => Some(state.problem.take().map_or(Ok(()), Err)),
        }
    }
}

async fn make_client(id: &str, about: &Document, way: &Way) -> Result<Arc<ClientEntity>, Failure> {
    let none = Document::new();
    let uri_options = about.get_document("uriOptions").unwrap_or(&none);
    for unsupported in ["autoEncryptOpts"] {
        if about.contains_key(unsupported) {
            return Err(Failure::test(format!("{unsupported} is not supported by the driver yet")));
        }
    }
    let mut options = way.options(uri_options, None).map_err(Failure::Test)?;
    if let Ok(api) = about.get_document("serverApi") {
        let version = match api.get_str("version") {
            Ok("1") => ServerApiVersion::V1,
            other => return Err(Failure::test(format!("server API {other:?} is not known"))),
        };
        let mut server_api = ServerApi::new(version);
        server_api.strict = api.get_bool("strict").ok();
        server_api.deprecation_errors = api.get_bool("deprecationErrors").ok();
        options.server_api = Some(server_api);
    }
    let spans = SpanRecorder::new();
    if let Ok(tracing) = about.get_document("observeTracingMessages") {
        let made = TracingOptions::with_tracer(Arc::new(spans.clone()));
        let payload = tracing.get_bool("enableCommandPayload").unwrap_or(false);
        options.tracing = Some(if payload { made.query_text(QUERY_TEXT_LENGTH) } else { made });
    }
    let observer = Observer::new(about);
    if let Ok(levels) = about.get_document("observeLogMessages") {
        options.logging = Some(log_options(levels, &observer));
    }
    observer.attach(&mut options);
    let min_pool_size = options.min_pool_size.unwrap_or(0);
    let client = Client::with_transport(options, way.transport(id))?;
    if let Some(millis) = about.get("awaitMinPoolSizeMS").and_then(integer)
        && min_pool_size > 0
    {
        wait_for_pools(&client, min_pool_size, Duration::from_millis(millis.unsigned_abs()))
            .await?;
        observer.clear();
    }
    let stored = about.get_array("storeEventsAsEntities").into_iter().flatten();
    let stored = stored.filter_map(Bson::as_document).map(|one| {
        let events = one.get_array("events").into_iter().flatten();
        let names = events.filter_map(Bson::as_str).map(str::to_owned).collect();
        (one.get_str("id").unwrap_or_default().to_owned(), names)
    });
    let stored = stored.collect();
    Ok(Arc::new(ClientEntity { client, observer, stored, spans }))
}

/// Records what is said of the components a test asks for. Documents are shown whole.
fn log_options(levels: &Document, observer: &Arc<Observer>) -> LogOptions {
    let level = |component: &str| levels.get_str(component).ok().and_then(LogLevel::named);
    let observer = observer.clone();
    let handler = EventHandler::callback(move |message| observer.log(message));
    let mut options = LogOptions::new(LogLevel::Trace, handler);
    options.command = level("command");
    options.topology = level("topology");
    options.server_selection = level("serverSelection");
    options.connection = level("connection");
    // What is cut off is no longer Extended JSON.
    options.max_document_length = usize::MAX;
    options
}

/// Waits until the pool of each data-bearing server has as many connections as it shall have.
async fn wait_for_pools(client: &Client, size: u32, limit: Duration) -> Result<(), Failure> {
    let by = client.now() + limit;
    loop {
        let stats = client.stats();
        let mut bearing = stats.iter().filter(|server| server.server_type.is_data_bearing());
        let known = client.topology().servers.values().all(|server| server.is_available());
        if known && bearing.all(|server| server.pool.idle + server.pool.in_use >= size as usize) {
            return Ok(());
        }
        if client.now() >= by {
            return Err(Failure::test("the pools were not filled in time (awaitMinPoolSizeMS)"));
        }
        client.sleep(Duration::from_millis(5)).await;
    }
}

/// `readConcern`, `writeConcern`, `readPreference` and `maxCommitTimeMS`.
pub fn transaction_options(arguments: &mut Arguments) -> Result<TransactionOptions, Failure> {
    let mut options = TransactionOptions::default();
    options.read_concern = arguments.read_concern()?;
    options.write_concern = arguments.write_concern()?;
    options.selection_criteria = arguments.read_preference()?.map(Into::into);
    options.max_commit_time = arguments.millis("maxCommitTimeMS")?;
    Ok(options)
}

fn collection_options(given: &Document) -> Result<CollectionOptions, Failure> {
    let mut options = CollectionOptions::default();
    for (name, value) in given {
        if name == "timeoutMS" {
            let millis = integer(value).and_then(|millis| u64::try_from(millis).ok());
            options.timeout = millis.map(Duration::from_millis);
            continue;
        }
        match (name.as_str(), value.as_document()) {
            ("readConcern", Some(concern)) => options.read_concern = read_concern(concern),
            ("writeConcern", Some(concern)) => {
                options.write_concern = Some(write_concern(concern)?);
            }
            ("readPreference", Some(preference)) => {
                options.selection_criteria = Some(read_preference(preference)?.into());
            }
            (other, _) => {
                let message = format!("the option {other} is not supported by the driver yet");
                return Err(Failure::test(message));
            }
        }
    }
    Ok(options)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
