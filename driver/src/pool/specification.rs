//! The CMAP specification's own tests (`cmap-format`), over a scripted outside.
//!
//! The folder of the specifications is taken from the environment variable `STEPDOWN_SPECIFICATIONS`;
//! without it the test says that it is skipped.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::{Lease, Pool, PoolContext};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{CmapEvent, EventHandler};
use crate::options::ClientOptions;
use crate::sync::{Signal, lock};
use crate::testing::{Answer, Scripted, hello};
use crate::transport::Transport;
use crate::uri::ServerAddress;

/// What the specification writes for "any value".
const ANY: i64 = 42;

#[test]
fn the_specification_holds() {
    let Some(folder) = std::env::var_os("STEPDOWN_SPECIFICATIONS") else {
        eprintln!("skipped: STEPDOWN_SPECIFICATIONS is not set to a folder of specifications");
        return;
    };
    let folder = Path::new(&folder).join("connection-monitoring-and-pooling/tests/cmap-format");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut failed = Vec::new();
    for file in &files {
        let test: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        if let Err(why) = run(&test) {
            failed.push(format!("{}: {why}", file.file_name().unwrap().display()));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), files.len(), failed.join("\n"));
}

/// Everything the threads of one test share.
struct Stage {
    outside: Arc<Scripted>,
    pool: Arc<Pool>,
    events: Arc<Mutex<Vec<CmapEvent>>>,
    happened: Arc<Signal>,
    leases: Mutex<BTreeMap<String, Lease>>,
    unnamed: Mutex<Vec<Lease>>,
}

/// A thread of a test: what it is still to do.
#[derive(Default)]
struct Thread {
    todo: Mutex<VecDeque<Value>>,
    busy: Mutex<bool>,
    error: Mutex<Option<Error>>,
    changed: Signal,
}

fn run(test: &Value) -> std::result::Result<(), String> {
    let fail_point = &test["failPoint"]["data"];
    let block = fail_point["blockTimeMS"].as_u64();
    let close = fail_point["closeConnection"] == true;
    let outside = Scripted::new(move |call| match block {
        _ if close => Answer::Close,
        Some(millis) => Answer::After(Duration::from_millis(millis), hello(call)),
        None => Answer::Reply(hello(call)),
    });
    let events: Arc<Mutex<Vec<CmapEvent>>> = Arc::default();
    let happened = Arc::new(Signal::default());
    let (sink, bell) = (events.clone(), happened.clone());
    let handler = EventHandler::callback(move |event| {
        lock(&sink).push(event);
        bell.raise();
    });
    let mut options =
        ClientOptions { cmap_event_handler: Some(handler), ..ClientOptions::default() };
    let given = &test["poolOptions"];
    let number = |key: &str| given[key].as_u64().map(|number| u32::try_from(number).unwrap());
    let millis = |key: &str| given[key].as_u64().map(Duration::from_millis);
    options.max_pool_size = number("maxPoolSize");
    options.min_pool_size = number("minPoolSize");
    options.max_connecting = number("maxConnecting");
    options.max_idle_time = millis("maxIdleTimeMS");
    options.wait_queue_timeout = millis("waitQueueTimeoutMS");
    let transport = outside.clone() as Arc<dyn Transport>;
    let context = Arc::new(PoolContext::new(transport.clone(), &options).unwrap());
    let pool = Pool::new(ServerAddress::new("a", 27017), context);
    let interval = given["backgroundThreadIntervalMS"].as_i64().unwrap_or(50);
    if let Ok(interval) = u64::try_from(interval) {
        let (pool, transport) = (pool.clone(), transport.clone());
        let background = async move {
            loop {
                let at = transport.now() + Duration::from_millis(interval);
                transport.sleep_until(at).await;
                pool.maintain();
            }
        };
        outside.spawn("background", Box::pin(background));
    }
    let stage = Arc::new(Stage {
        outside: outside.clone(),
        pool,
        events,
        happened,
        leases: Mutex::default(),
        unnamed: Mutex::default(),
    });
    let operations = test["operations"].as_array().unwrap();
    let result = outside.block_on(main_thread(&stage, operations));
    check_error(test, result)?;
    check_events(test, &lock(&stage.events))
}

async fn main_thread(stage: &Arc<Stage>, operations: &[Value]) -> Result<()> {
    let mut threads: BTreeMap<String, Arc<Thread>> = BTreeMap::new();
    for operation in operations {
        let target = operation["target"].as_str().unwrap_or_default().to_owned();
        match operation["name"].as_str().unwrap() {
            "start" => {
                let thread = Arc::new(Thread::default());
                threads.insert(target, thread.clone());
                let task = work(stage.clone(), thread);
                stage.outside.spawn("thread", Box::pin(task));
            }
            "waitForThread" => {
                let thread = &threads[&target];
                loop {
                    let seen = thread.changed.version();
                    if lock(&thread.todo).is_empty() && !*lock(&thread.busy) {
                        break;
                    }
                    thread.changed.passed(seen).await;
                }
                let error = lock(&thread.error).take();
                error.map_or(Ok(()), Err)?;
            }
            _ => match operation["thread"].as_str() {
                Some(name) => {
                    lock(&threads[name].todo).push_back(operation.clone());
                    threads[name].changed.raise();
                }
                None => perform(stage, operation).await?,
            },
        }
    }
    Ok(())
}

async fn work(stage: Arc<Stage>, thread: Arc<Thread>) {
    loop {
        let seen = thread.changed.version();
        let next = lock(&thread.todo).pop_front();
        let Some(operation) = next else {
            thread.changed.passed(seen).await;
            continue;
        };
        *lock(&thread.busy) = true;
        if let Err(error) = perform(&stage, &operation).await {
            *lock(&thread.error) = Some(error);
        }
        *lock(&thread.busy) = false;
        thread.changed.raise();
    }
}

async fn perform(stage: &Arc<Stage>, operation: &Value) -> Result<()> {
    match operation["name"].as_str().unwrap() {
        "wait" => {
            let pause = Duration::from_millis(operation["ms"].as_u64().unwrap());
            stage.outside.sleep_until(stage.outside.now() + pause).await;
        }
        "waitForEvent" => {
            let (name, count) = (operation["event"].as_str().unwrap(), operation["count"].as_u64());
            loop {
                let seen = stage.happened.version();
                let found = lock(&stage.events).iter().filter(|e| type_of(e) == name).count();
                if found as u64 >= count.unwrap() {
                    break;
                }
                stage.happened.passed(seen).await;
            }
        }
        "ready" => {
            stage.pool.ready();
            stage.pool.maintain();
        }
        "checkOut" => {
            let lease = stage.pool.check_out(crate::Instant::NEVER).await?;
            match operation["label"].as_str() {
                Some(label) => drop(lock(&stage.leases).insert(label.to_owned(), lease)),
                None => lock(&stage.unnamed).push(lease),
            }
        }
        "checkIn" => {
            let lease = lock(&stage.leases).remove(operation["connection"].as_str().unwrap());
            drop(lease);
        }
        "clear" => {
            let interrupt = operation["interruptInUseConnections"] == true;
            let generation = stage.pool.generation() + 1;
            let cause = Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            let deferred = stage.pool.clear(cause, generation, interrupt);
            stage.pool.run(deferred);
        }
        "close" => {
            let deferred = stage.pool.close();
            stage.pool.run(deferred);
            stage.pool.tell_closed();
        }
        other => panic!("unknown operation {other}"),
    }
    Ok(())
}

fn check_error(test: &Value, result: Result<()>) -> std::result::Result<(), String> {
    let found = match &result {
        Ok(()) => None,
        Err(error) => Some(match *error.kind {
            ErrorKind::Shutdown => "PoolClosedError",
            ErrorKind::Timeout { .. } => "WaitQueueTimeoutError",
            ErrorKind::ConnectionPoolCleared { .. } => "PoolClearedError",
            _ => "another error",
        }),
    };
    if found == test["error"]["type"].as_str() {
        return Ok(());
    }
    Err(format!("ended with {result:?}, not with {}", test["error"]))
}

fn check_events(test: &Value, events: &[CmapEvent]) -> std::result::Result<(), String> {
    let ignored = |event: &&CmapEvent| {
        test["ignore"].as_array().is_some_and(|names| names.iter().any(|n| n == type_of(event)))
    };
    let found: Vec<Value> = events.iter().filter(|event| !ignored(event)).map(as_value).collect();
    let expected = test["events"].as_array().unwrap();
    for (index, expected) in expected.iter().enumerate() {
        let Some(found) = found.get(index) else {
            return Err(format!("event {index} is missing: {expected}; found {found:?}"));
        };
        for (key, value) in expected.as_object().unwrap() {
            let any = value.as_i64() == Some(ANY);
            let matches = match (any, &found[key]) {
                (true, found) => !found.is_null(),
                (false, Value::Object(found)) => {
                    value.as_object().unwrap().iter().all(|(key, value)| {
                        key == "backgroundThreadIntervalMS" || found[key] == *value
                    })
                }
                (false, found) => found == value,
            };
            if !matches {
                return Err(format!("event {index} is {found}, not {expected}"));
            }
        }
    }
    Ok(())
}

/// The name the specification gives an event.
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
    }
}

fn as_value(event: &CmapEvent) -> Value {
    let mut value = serde_json::json!({
        "type": type_of(event), "address": event.address().to_string(),
    });
    let mut set = |key: &str, what: Value| value[key] = what;
    match event {
        CmapEvent::PoolCreated(event) => {
            let millis = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
            set(
                "options",
                serde_json::json!({
                    "maxPoolSize": event.options.max_pool_size,
                    "minPoolSize": event.options.min_pool_size,
                    "maxConnecting": event.options.max_connecting,
                    "maxIdleTimeMS": millis(event.options.max_idle_time),
                    "waitQueueTimeoutMS": millis(event.options.wait_queue_timeout),
                }),
            );
        }
        CmapEvent::PoolCleared(event) => {
            set("interruptInUseConnections", event.interrupt_in_use_connections.into());
        }
        CmapEvent::ConnectionCreated(event) => set("connectionId", event.connection_id.into()),
        CmapEvent::ConnectionReady(event) => {
            set("connectionId", event.connection_id.into());
            set("duration", true.into());
        }
        CmapEvent::ConnectionClosed(event) => {
            set("connectionId", event.connection_id.into());
            set("reason", event.reason.as_str().into());
        }
        CmapEvent::ConnectionCheckoutFailed(event) => {
            set("reason", event.reason.as_str().into());
            set("duration", true.into());
        }
        CmapEvent::ConnectionCheckedOut(event) => {
            set("connectionId", event.connection_id.into());
            set("duration", true.into());
        }
        CmapEvent::ConnectionCheckedIn(event) => set("connectionId", event.connection_id.into()),
        _ => {}
    }
    value
}
