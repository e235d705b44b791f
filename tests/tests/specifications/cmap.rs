//! Connection pools (`cmap-format`): a pool by itself, and what its connections' threads see.
//!
//! Unit and integration tests alike run over a member of a simulated set, in virtual time.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bson::Bson;
use libtest_mimic::Trial;
use serde_json::Value;
use stepdown::Sim;
use stepdown::trace::Record;
use stepdown_driver::Client;
use stepdown_driver::error::{Error, ErrorKind};
use stepdown_driver::event::{CmapEvent, EventHandler};
use stepdown_driver::options::ClientOptions;
use stepdown_driver::pool::{PooledConnection, StandalonePool};
use stepdown_driver::uri::ServerAddress;

use crate::discovery::TestFile;
use crate::json::{document, list, text};
use crate::report::Report;

/// What the specification writes for "any value".
const ANY: i64 = 42;
/// How often threads and events are looked at.
const PAUSE: Duration = Duration::from_micros(100);
/// How often a pool looks after itself where nothing is said.
const BACKGROUND_MILLIS: i64 = 50;
/// How long a test may take in virtual time.
const LIMIT: Duration = Duration::from_secs(60);

/// The one test of a file.
pub fn trial(file: TestFile, report: &Report) -> Trial {
    let json = file.json();
    let description = text(&json, "description").unwrap_or("operations").to_owned();
    crate::case(&file, &description, report, move || run(&json))
}

/// A pool, what it told, and who holds its connections.
struct Stage {
    held: RefCell<BTreeMap<String, PooledConnection>>,
    unnamed: RefCell<Vec<PooledConnection>>,
    threads: RefCell<BTreeMap<String, Thread>>,
    events: Arc<Mutex<Vec<CmapEvent>>>,
    pool: StandalonePool,
    // Dropped last: connections go back through it.
    sim: Sim,
}

/// A thread: what it is still to do, whether it does something, and what went wrong.
#[derive(Default)]
struct Thread {
    todo: VecDeque<Value>,
    busy: bool,
    error: Option<Error>,
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn run(test: &Value) -> Result<(), String> {
    let sim = Sim::builder().members(1).record(Record::Nothing).check_invariants(false).build();
    sim.elect();
    let host = sim.members()[0].name.to_string();
    if let Some(fail_point) = test.get("failPoint") {
        let command = document(fail_point)?;
        let uri = format!("mongodb://{host}/?directConnection=true");
        sim.block_on(async {
            let client = Client::with_transport(uri, sim.transport("setup"))?;
            client.database("admin").run_command(command).await?;
            client.close().await;
            Ok(())
        })
        .map_err(|error: Error| error.to_string())?;
    }
    let events: Arc<Mutex<Vec<CmapEvent>>> = Arc::default();
    let sink = events.clone();
    let mut options = ClientOptions::default();
    options.cmap_event_handler = Some(EventHandler::callback(move |event| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }));
    let given = test.get("poolOptions").cloned().unwrap_or_default();
    let number = |key: &str| {
        given.get(key).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
    };
    let millis = |key: &str| given.get(key).and_then(Value::as_u64).map(Duration::from_millis);
    options.max_pool_size = number("maxPoolSize");
    options.min_pool_size = number("minPoolSize");
    options.max_connecting = number("maxConnecting");
    options.max_idle_time = millis("maxIdleTimeMS");
    options.wait_queue_timeout = millis("waitQueueTimeoutMS");
    options.app_name = text(&given, "appName").map(str::to_owned);
    let address: ServerAddress = host.parse().map_err(|error: Error| error.to_string())?;
    let pool = StandalonePool::new(address, &options, sim.transport("pool"))
        .map_err(|error| error.to_string())?;
    let interval = given.get("backgroundThreadIntervalMS").and_then(Value::as_i64);
    if let Ok(interval) = u64::try_from(interval.unwrap_or(BACKGROUND_MILLIS)) {
        let (world, pool) = (sim.clone(), pool.clone());
        // It ends with the world.
        let background = async move {
            loop {
                world.sleep(Duration::from_millis(interval.max(1))).await;
                pool.maintain();
            }
        };
        let _runs_on = sim.spawn("background of the pool", background);
    }
    let stage = Stage {
        sim,
        pool,
        events,
        held: RefCell::default(),
        unnamed: RefCell::default(),
        threads: RefCell::default(),
    };
    let result = stage.sim.block_on(stage.main(list(test, "operations")))?;
    check_error(test, result)?;
    let events = stage.events.lock().unwrap_or_else(PoisonError::into_inner);
    check_events(test, &events)
}

impl Stage {
    /// Runs all threads, the main one first, until that one ends.
    async fn main(&self, operations: &[Value]) -> Result<Result<(), Error>, String> {
        let mut main = std::pin::pin!(self.main_thread(operations));
        let mut limit = std::pin::pin!(self.sim.sleep(LIMIT));
        let mut workers: BTreeMap<String, Task<'_>> = BTreeMap::new();
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = main.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            let names: Vec<String> = self.threads.borrow().keys().cloned().collect();
            for name in names {
                let worker = workers
                    .entry(name.clone())
                    .or_insert_with(|| Box::pin(self.work(name.clone())));
                // A worker never ends.
                let _pending = worker.as_mut().poll(cx);
            }
            limit.as_mut().poll(cx).map(|()| Err("the test does not end".to_owned()))
        })
        .await
    }

    async fn main_thread(&self, operations: &[Value]) -> Result<Result<(), Error>, String> {
        for operation in operations {
            let target = text(operation, "target").unwrap_or_default().to_owned();
            let name = text(operation, "name").ok_or("an operation has no name")?;
            match (name, text(operation, "thread")) {
                ("start", _) => {
                    self.threads.borrow_mut().insert(target, Thread::default());
                }
                ("waitForThread", _) => loop {
                    let done = match self.threads.borrow_mut().get_mut(&target) {
                        None => return Err(format!("there is no thread {target}")),
                        Some(thread) if thread.busy || !thread.todo.is_empty() => None,
                        Some(thread) => Some(thread.error.take()),
                    };
                    match done {
                        Some(Some(error)) => return Ok(Err(error)),
                        Some(None) => break,
                        None => self.sim.sleep(PAUSE).await,
                    }
                },
                (_, Some(thread)) => match self.threads.borrow_mut().get_mut(thread) {
                    Some(thread) => thread.todo.push_back(operation.clone()),
                    None => return Err(format!("there is no thread {thread}")),
                },
                (_, None) => match self.perform(operation).await? {
                    Ok(()) => {}
                    Err(error) => return Ok(Err(error)),
                },
            }
        }
        Ok(Ok(()))
    }

    async fn work(&self, name: String) {
        loop {
            let next = self.threads.borrow_mut().get_mut(&name).and_then(|thread| {
                let next = thread.todo.pop_front();
                thread.busy = next.is_some();
                next
            });
            let Some(operation) = next else {
                self.sim.sleep(PAUSE).await;
                continue;
            };
            let done = self.perform(&operation).await;
            if let Some(thread) = self.threads.borrow_mut().get_mut(&name) {
                let error = match done {
                    Ok(done) => done.err(),
                    Err(message) => Some(Error::invalid_argument(message)),
                };
                thread.error = thread.error.take().or(error);
                thread.busy = false;
            }
        }
    }

    async fn perform(&self, operation: &Value) -> Result<Result<(), Error>, String> {
        let whole = |key: &str| operation.get(key).and_then(Value::as_u64).unwrap_or(0);
        match text(operation, "name").unwrap_or_default() {
            "wait" => self.sim.sleep(Duration::from_millis(whole("ms"))).await,
            "waitForEvent" => {
                let name = text(operation, "event").unwrap_or_default();
                let limit = operation.get("timeout").and_then(Value::as_u64).unwrap_or(10_000);
                let by = self.sim.now() + Duration::from_millis(limit);
                loop {
                    let found = {
                        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                        events.iter().filter(|event| type_of(event) == name).count()
                    };
                    if found as u64 >= whole("count") {
                        break;
                    }
                    if self.sim.now() >= by {
                        return Err(format!("waited in vain for {name}"));
                    }
                    self.sim.sleep(PAUSE).await;
                }
            }
            "ready" => self.pool.ready(),
            "checkOut" => match self.pool.check_out().await {
                Err(error) => return Ok(Err(error)),
                Ok(connection) => match text(operation, "label") {
                    Some(label) => {
                        self.held.borrow_mut().insert(label.to_owned(), connection);
                    }
                    None => self.unnamed.borrow_mut().push(connection),
                },
            },
            "checkIn" => {
                let label = text(operation, "connection").unwrap_or_default();
                let held = self.held.borrow_mut().remove(label);
                drop(held.ok_or_else(|| format!("nobody holds {label}"))?);
            }
            "clear" => {
                let interrupt = operation.get("interruptInUseConnections");
                self.pool.clear(interrupt.and_then(Value::as_bool).unwrap_or(false));
            }
            "close" => self.pool.close(),
            other => return Err(format!("the operation {other} is not known")),
        }
        Ok(Ok(()))
    }
}

fn check_error(test: &Value, result: Result<(), Error>) -> Result<(), String> {
    let found = result.as_ref().err().map(|error| match *error.kind {
        ErrorKind::Shutdown => "PoolClosedError",
        ErrorKind::Timeout { .. } => "WaitQueueTimeoutError",
        ErrorKind::ConnectionPoolCleared { .. } => "PoolClearedError",
        _ => "another error",
    });
    let expected = test.get("error").and_then(|error| text(error, "type"));
    if found == expected {
        return Ok(());
    }
    Err(format!("expected the error {expected:?}, found {result:?}"))
}

fn check_events(test: &Value, events: &[CmapEvent]) -> Result<(), String> {
    let ignored: Vec<&str> = list(test, "ignore").iter().filter_map(Value::as_str).collect();
    let found = events.iter().filter(|event| !ignored.contains(&type_of(event)));
    let found: Vec<bson::Document> = found.map(fields).collect();
    for (index, expected) in list(test, "events").iter().enumerate() {
        let Some(found) = found.get(index) else {
            return Err(format!("event {index}: expected {expected}, found only {found:?}"));
        };
        let Value::Object(expected) = expected else { continue };
        for (key, value) in expected {
            let same = match (value, found.get(key)) {
                (value, found) if value.as_i64() == Some(ANY) => found.is_some(),
                (Value::Object(options), Some(Bson::Document(found))) => {
                    options.iter().all(|(key, value)| {
                        key == "backgroundThreadIntervalMS"
                            || key == "appName"
                            || found.get(key) == Bson::try_from(value.clone()).ok().as_ref()
                    })
                }
                (value, found) => found == Bson::try_from(value.clone()).ok().as_ref(),
            };
            if !same {
                return Err(format!("event {index}: {key}: expected {value}, found {found}"));
            }
        }
    }
    Ok(())
}

/// The name the format gives an event.
fn type_of(event: &CmapEvent) -> &'static str {
    match event {
        CmapEvent::PoolCreated(_) => "ConnectionPoolCreated",
        CmapEvent::PoolReady(_) => "ConnectionPoolReady",
        CmapEvent::PoolCleared(_) => "ConnectionPoolCleared",
        CmapEvent::PoolClosed(_) => "ConnectionPoolClosed",
        CmapEvent::ConnectionCreated(_) => "ConnectionCreated",
        CmapEvent::ConnectionReady(_) => "ConnectionReady",
        CmapEvent::ConnectionClosed(_) => "ConnectionClosed",
        CmapEvent::ConnectionCheckoutStarted(_) => "ConnectionCheckOutStarted",
        CmapEvent::ConnectionCheckoutFailed(_) => "ConnectionCheckOutFailed",
        CmapEvent::ConnectionCheckedOut(_) => "ConnectionCheckedOut",
        CmapEvent::ConnectionCheckedIn(_) => "ConnectionCheckedIn",
        _ => "unknown",
    }
}

/// What the format looks at. Numbers are as small as they fit, as in the files.
fn fields(event: &CmapEvent) -> bson::Document {
    let mut fields = bson::doc! { "type": type_of(event), "address": event.address().to_string() };
    let number = |number: u32| Bson::Int32(i32::try_from(number).unwrap_or(i32::MAX));
    let millis = |time: Duration| Bson::Int32(i32::try_from(time.as_millis()).unwrap_or(i32::MAX));
    match event {
        CmapEvent::PoolCreated(event) => {
            let given = &event.options;
            let all = [
                ("maxPoolSize", given.max_pool_size.map(number)),
                ("minPoolSize", given.min_pool_size.map(number)),
                ("maxConnecting", given.max_connecting.map(number)),
                ("maxIdleTimeMS", given.max_idle_time.map(millis)),
                ("waitQueueTimeoutMS", given.wait_queue_timeout.map(millis)),
            ];
            let options: bson::Document = all
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect();
            fields.insert("options", options);
        }
        CmapEvent::PoolCleared(event) => {
            fields.insert("interruptInUseConnections", event.interrupt_in_use_connections);
        }
        CmapEvent::ConnectionCreated(event) => {
            fields.insert("connectionId", number(event.connection_id));
        }
        CmapEvent::ConnectionReady(event) => {
            fields.insert("connectionId", number(event.connection_id));
            fields.insert("duration", millis(event.duration));
        }
        CmapEvent::ConnectionClosed(event) => {
            fields.insert("connectionId", number(event.connection_id));
            fields.insert("reason", event.reason.as_str());
        }
        CmapEvent::ConnectionCheckoutFailed(event) => {
            fields.insert("reason", event.reason.as_str());
            fields.insert("duration", millis(event.duration));
        }
        CmapEvent::ConnectionCheckedOut(event) => {
            fields.insert("connectionId", number(event.connection_id));
            fields.insert("duration", millis(event.duration));
        }
        CmapEvent::ConnectionCheckedIn(event) => {
            fields.insert("connectionId", number(event.connection_id));
        }
        _ => {}
    }
    fields
}
