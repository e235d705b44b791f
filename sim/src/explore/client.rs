//! The clients of a run: each does its operations one after the other and notes the answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Document, doc};
use stepdown_driver::Instant;
use stepdown_driver::client::{Client, ClientSession, Collection, CollectionOptions};
use stepdown_driver::error::{Error, Result};
use stepdown_driver::event::{CmapEvent, EventHandler, SdamEvent};
use stepdown_driver::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, WriteConcern,
};
use stepdown_driver::uri::ServerAddress;

use super::bare::{Bare, DATABASE, SERVER_PATIENCE_MILLIS};
use super::plan::{ClientKind, OperationAt};
use crate::check::{Asked, Complaint, History, Outcome, Record, Strength};
use crate::world::Sim;

/// What the clients of a run share.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Inner>>);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) history: History,
    /// What is wrong with a driver itself.
    pub(super) complaints: Vec<Complaint>,
    pub(super) retry_answered: bool,
    /// Clients that have done all their operations.
    pub(super) idle: usize,
}

impl Notes {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client.
pub(super) enum Worker {
    Bare(Box<Bare>),
    Driver { client: Client, session: Option<ClientSession> },
}

impl Worker {
    pub(super) fn new(
        sim: &Sim,
        number: usize,
        kind: ClientKind,
        hosts: &[String],
        notes: &Notes,
    ) -> Worker {
        let transport = sim.transport(&format!("client-{number}"));
        match kind {
            ClientKind::Bare => {
                let parse = |host: &String| ServerAddress::parse(host).expect("a member's address");
                let hosts: Vec<ServerAddress> = hosts.iter().map(parse).collect();
                Worker::Bare(Box::new(Bare::new(transport, hosts.into())))
            }
            ClientKind::Driver => {
                let uri = format!("mongodb://{}/?replicaSet={}", hosts.join(","), sim.set_name());
                let mut options = ClientOptions::parse_str(uri).expect("a connection string");
                options.server_selection_timeout = Some(Duration::from_secs(5));
                options.connect_timeout = Some(Duration::from_secs(2));
                options.socket_timeout = Some(Duration::from_secs(8));
                // More checks, more chances to be told by a primary of the past; and a connection to spare,
                // so that a pool has something to throw away.
                options.heartbeat_freq = Some(Duration::from_secs(2));
                options.min_pool_size = Some(2);
                watch(&mut options, notes);
                let client = Client::with_transport(options, transport).expect("good options");
                Worker::Driver { client, session: None }
            }
        }
    }

    /// Runs one operation.
    pub(super) async fn perform(&mut self, operation: &OperationAt, notes: &Notes) -> Outcome {
        match self {
            Worker::Bare(bare) => {
                let outcome = bare.perform(operation).await;
                if bare.retry_answered {
                    notes.lock().retry_answered = true;
                }
                outcome
            }
            Worker::Driver { client, session } => {
                if operation.session && session.is_none() {
                    *session = client.start_session().await.ok();
                }
                let session = session.as_ref().filter(|_| operation.session);
                match with_driver(client, session, operation).await {
                    Ok(outcome) => outcome,
                    Err(error) => Outcome::Failed(error.code().unwrap_or(0)),
                }
            }
        }
    }
}

/// Does `operations` at their times, the first one `base` after the world began.
pub(super) async fn work(
    sim: Sim,
    mut worker: Worker,
    base: Instant,
    operations: Vec<OperationAt>,
    notes: Notes,
) -> Worker {
    for operation in operations {
        let at = base + operation.at;
        if sim.now() < at {
            sim.sleep_until(at).await;
        }
        let from = sim.now();
        let outcome = worker.perform(&operation, &notes).await;
        let OperationAt { client, session, asked, strength, max_staleness, .. } = operation;
        let to = sim.now();
        let record = Record { client, session, asked, strength, max_staleness, from, to, outcome };
        notes.lock().history.push(record);
    }
    notes.lock().idle += 1;
    worker
}

async fn with_driver(
    client: &Client,
    session: Option<&ClientSession>,
    operation: &OperationAt,
) -> Result<Outcome> {
    let collection = |name: &str| -> Collection<Document> {
        let mut options = CollectionOptions::default();
        match operation.asked {
            Asked::Look { .. } | Asked::Get { .. } => {
                options.read_concern = Some(match operation.strength {
                    Strength::Weak => ReadConcern::local(),
                    Strength::Majority => ReadConcern::majority(),
                    Strength::Linearizable => ReadConcern::linearizable(),
                });
                if operation.secondary {
                    let mut preference = ReadPreference::secondary_preferred();
                    if let Some(bound) = operation.max_staleness
                        && let Ok(bounded) = preference.clone().with_max_staleness(bound)
                    {
                        preference = bounded;
                    }
                    options.selection_criteria = Some(preference.into());
                }
            }
            _ => {
                let mut concern = WriteConcern::default();
                if operation.strength == Strength::Weak {
                    concern.w = Some(Acknowledgment::Nodes(1));
                } else {
                    concern.w = Some(Acknowledgment::Majority);
                    concern.w_timeout = Some(Duration::from_millis(SERVER_PATIENCE_MILLIS as u64));
                }
                options.write_concern = Some(concern);
            }
        }
        client.database(DATABASE).collection_with_options(name, options)
    };
    let patience = Duration::from_millis(SERVER_PATIENCE_MILLIS as u64);
    macro_rules! run {
        ($action:expr) => {{
            let action = $action;
            match session {
                Some(session) => action.session(session).await?,
                None => action.await?,
            }
        }};
    }
    Ok(match operation.asked {
        Asked::Append { id } => {
            run!(collection("log").insert_one(doc! { "_id": id }));
            Outcome::Done
        }
        Asked::Look { id } => {
            let found = run!(collection("log").find_one(doc! { "_id": id }).max_time(patience));
            Outcome::Found(found.is_some())
        }
        Asked::Get { register } => {
            let filter = doc! { "_id": i32::from(register) };
            let found = run!(collection("registers").find_one(filter).max_time(patience));
            Outcome::Value(found.and_then(|found| found.get_i64("v").ok()).unwrap_or(0))
        }
        Asked::Add { counter } => {
            let filter = doc! { "_id": i32::from(counter) };
            let change = doc! { "$inc": { "n": 1_i64 } };
            run!(collection("counters").update_one(filter, change).upsert(true));
            Outcome::Done
        }
        Asked::AddMany { counter } => {
            let filter = doc! { "_id": i32::from(counter) };
            let change = doc! { "$inc": { "n": 1_i64 } };
            let result = run!(collection("counters").update_many(filter, change));
            if result.matched_count == 0 { Outcome::Unmatched } else { Outcome::Done }
        }
        Asked::Put { register, value } => {
            let filter = doc! { "_id": i32::from(register) };
            let change = doc! { "$set": { "v": value } };
            run!(collection("registers").update_one(filter, change).upsert(true));
            Outcome::Done
        }
        Asked::Swap { register, from, to } => {
            let filter = doc! { "_id": i32::from(register), "v": from };
            let result =
                run!(collection("registers").update_one(filter, doc! { "$set": { "v": to } }));
            if result.matched_count == 0 { Outcome::Unmatched } else { Outcome::Done }
        }
    })
}

// ---- what a driver must not do, whatever it is answered

/// What is known of the connections of a pool.
#[derive(Default)]
struct Pool {
    /// How often it was cleared.
    generation: u64,
    /// The generation each connection was opened in.
    opened: BTreeMap<u32, u64>,
    /// A connection of this generation, or an earlier one, has failed.
    failed: Option<u64>,
}

/// Watches a driver's events: it never goes back to the primary of an earlier election, and never uses
/// a connection again that is as old as one that failed.
fn watch(options: &mut ClientOptions, notes: &Notes) {
    let complaints = notes.clone();
    let newest = Mutex::new(None);
    options.sdam_event_handler = Some(EventHandler::callback(move |event| {
        let SdamEvent::TopologyDescriptionChanged(event) = event else { return };
        let Some(primary) = event.new_description.primary() else { return };
        let Some(elected) = primary.election_id else { return };
        let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.is_some_and(|newest| elected < newest) {
            complain(
                &complaints,
                "a driver follows the newest primary",
                format!("{} of an earlier election was taken for the primary", primary.address),
            );
        }
        *newest = (*newest).max(Some(elected));
    }));
    let complaints = notes.clone();
    let pools: Mutex<BTreeMap<ServerAddress, Pool>> = Mutex::default();
    options.cmap_event_handler = Some(EventHandler::callback(move |event: CmapEvent| {
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pools.entry(event.address().clone()).or_default();
        match event {
            CmapEvent::PoolCleared(_) => pool.generation += 1,
            CmapEvent::ConnectionCreated(event) => {
                pool.opened.insert(event.connection_id, pool.generation);
            }
            CmapEvent::ConnectionClosed(event) => {
                let opened = pool.opened.remove(&event.connection_id);
                if event.error.as_ref().is_some_and(broke) {
                    pool.failed = pool.failed.max(opened);
                }
            }
            CmapEvent::ConnectionCheckedOut(event) => {
                let opened = pool.opened.get(&event.connection_id).copied();
                if opened.is_some() && opened <= pool.failed {
                    complain(
                        &complaints,
                        "a failed pool is cleared",
                        format!(
                            "connection {} to {} is used, as old as one that failed",
                            event.connection_id, event.address
                        ),
                    );
                }
            }
            _ => {}
        }
    }));
}

/// Whether a connection's error says that the server, or the way to it, is gone.
fn broke(error: &Error) -> bool {
    error.is_network() && !error.is_network_timeout()
}

fn complain(notes: &Notes, rule: &'static str, what: String) {
    let mut notes = notes.lock();
    if notes.complaints.iter().all(|complaint| complaint.rule != rule) {
        notes.complaints.push(Complaint { rule, what });
    }
}
