//! A scenario's client: the driver, and a note of who answered.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, Document, doc};
use stepdown_driver::client::{
    ChangeStream, Client, ClientSession, Collection, CollectionOptions, SessionOptions,
};
use stepdown_driver::error::Result;
use stepdown_driver::event::{CommandEvent, ConnectionInfo, EventHandler, SdamEvent};
use stepdown_driver::options::{
    Acknowledgment, ClientOptions, FullDocumentType, ReadConcern, ReadPreference, ReturnDocument,
    WriteConcern,
};
use stepdown_driver::sdam::ServerType;

use super::describe;
use super::format::{
    Acknowledgement, Load, LoadKind, Modification, Namespace, OperationKind, ReadMode, ReadSpec,
    Watch, Watched, WriteConcernSpec,
};
use super::judge::{Answer, describe_error};
use crate::trace::{EventKind, MemberState};
use crate::world::Sim;

/// A driver's client under its name in the story. Cheap to clone: clones are the same client.
#[derive(Clone)]
pub(crate) struct ScenarioClient {
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

/// A request under way: server, connection, request id.
type RequestKey = (String, u32, i32);

fn key(connection: &ConnectionInfo, request_id: i32) -> RequestKey {
    (connection.address.to_string(), connection.id, request_id)
}

/// What the driver's command events have told.
#[derive(Default)]
struct Seen {
    /// The loads that reads under way belong to.
    reading: BTreeMap<RequestKey, i32>,
    /// Who answered how many reads, by load.
    shares: BTreeMap<i32, BTreeMap<String, u32>>,
    last_load: i32,
    last_server: Option<String>,
}

impl Seen {
    fn take_in(&mut self, event: &CommandEvent) {
        let request = key(event.connection(), event.request_id());
        match event {
            CommandEvent::Started(event) => {
                // A read of a load carries the load's number as its comment.
                if let (true, Ok(load)) =
                    (event.command_name == "find", event.command.get_i32("comment"))
                {
                    self.reading.insert(request, load);
                }
            }
            CommandEvent::Succeeded(event) => {
                let server = event.connection.address.to_string();
                if let Some(load) = self.reading.remove(&request) {
                    let shares = self.shares.entry(load).or_default();
                    *shares.entry(server).or_default() += 1;
                } else {
                    self.last_server = Some(server);
                }
            }
            CommandEvent::Failed(event) => {
                self.reading.remove(&request);
                self.last_server = Some(event.connection.address.to_string());
            }
            _ => {}
        }
    }
}

impl ScenarioClient {
    /// A client of this name; what it comes to believe about the set is told in the story.
    pub(crate) fn connect(sim: &Sim, name: &str, uri: &str) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut options = ClientOptions::parse_str(uri)?;
        let listener = seen.clone();
        options.command_event_handler =
            Some(EventHandler::callback(move |event| lock(&listener).take_in(&event)));
        let (story, who) = (sim.clone(), name.to_string());
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            if let SdamEvent::TopologyDescriptionChanged(event) = event {
                let what = event.new_description.to_string();
                // A description changes in more than a line can show.
                if what != event.previous_description.to_string() {
                    story.record(&who, EventKind::Topology { what });
                }
            }
        }));
        let client = Client::with_transport(options, sim.transport(name))?;
        Ok(ScenarioClient { client, seen })
    }

    /// A direct connection to a member, for what no application does; it is not told of.
    pub(crate) fn inspector(sim: &Sim, member: &str) -> Result<Self> {
        let uri = format!("mongodb://{member}/?directConnection=true");
        let client = Client::with_transport(uri, sim.transport("inspector"))?;
        Ok(ScenarioClient { client, seen: Arc::default() })
    }

    /// Runs a command on the deployment's primary, or on the one member of a direct connection.
    pub(crate) async fn command(&self, database: &str, command: Document) -> Result<Answer> {
        let reply = self.client.database(database).run_command(command).await?;
        Ok(Answer { number: None, documents: vec![reply] })
    }

    /// All documents of a collection, in the order of their `_id`.
    pub(crate) async fn all(&self, of: &Namespace) -> Result<Vec<Document>> {
        let cursor = self.collection(of).find(doc! {}).sort(doc! { "_id": 1 }).await?;
        cursor.try_collect().await
    }

    /// Runs one operation, waiting out errors of the AutoReconnect family for `retry_for`.
    pub(crate) async fn perform(
        &self,
        kind: &OperationKind,
        retry_for: Option<Duration>,
        session: Option<&ClientSession>,
    ) -> Result<Answer> {
        match retry_for {
            None => self.perform_once(kind, session).await,
            Some(limit) => {
                let again = move || self.perform_once(kind, session);
                self.client.with_reconnect_for(limit, again).await
            }
        }
    }

    async fn perform_once(
        &self,
        kind: &OperationKind,
        session: Option<&ClientSession>,
    ) -> Result<Answer> {
        /// Runs an action in the session, if there is one.
        macro_rules! run {
            ($action:expr) => {{
                let action = $action;
                match session {
                    Some(session) => action.session(session).await,
                    None => action.await,
                }
            }};
        }
        match kind {
            OperationKind::Insert { into, documents, write_concern } => {
                let collection = self.writing(into, write_concern.as_ref());
                let inserted = match documents.as_slice() {
                    [document] => {
                        run!(collection.insert_one(document))?;
                        1
                    }
                    documents => run!(collection.insert_many(documents))?.inserted_ids.len() as i64,
                };
                Ok(number(inserted))
            }
            OperationKind::Find { from, filter, sort, limit, read } => {
                let mut find = self.reading(from, read).find(filter.clone());
                if let Some(sort) = sort {
                    find = find.sort(sort.clone());
                }
                if let Some(limit) = limit {
                    find = find.limit(*limit);
                }
                found(run!(find)?.try_collect().await?)
            }
            OperationKind::Update { of, filter, change, many, upsert, write_concern } => {
                let collection = self.writing(of, write_concern.as_ref());
                let update = match many {
                    true => collection.update_many(filter.clone(), change.clone()),
                    false => collection.update_one(filter.clone(), change.clone()),
                };
                let result = run!(update.upsert(*upsert))?;
                let upserted = u64::from(result.upserted_id.is_some());
                Ok(number((result.matched_count + upserted) as i64))
            }
            OperationKind::Replace { of, filter, document, upsert, write_concern } => {
                let collection = self.writing(of, write_concern.as_ref());
                let replace = collection.replace_one(filter.clone(), document.clone());
                let result = run!(replace.upsert(*upsert))?;
                let upserted = u64::from(result.upserted_id.is_some());
                Ok(number((result.matched_count + upserted) as i64))
            }
            OperationKind::FindAndModify {
                of,
                filter,
                modification,
                sort,
                upsert,
                new,
                write_concern,
            } => {
                let collection = self.writing(of, write_concern.as_ref());
                let filter = filter.clone();
                let mut action = match modification {
                    Modification::Change(change) => {
                        collection.find_one_and_update(filter, change.clone())
                    }
                    Modification::Replace(document) => {
                        collection.find_one_and_replace(filter, document.clone())
                    }
                    Modification::Remove => collection.find_one_and_delete(filter),
                };
                if let Some(sort) = sort {
                    action = action.sort(sort.clone());
                }
                if *upsert {
                    action = action.upsert(true);
                }
                if *new {
                    action = action.return_document(ReturnDocument::After);
                }
                found(run!(action)?.into_iter().collect())
            }
            OperationKind::Delete { from, filter, many, write_concern } => {
                let collection = self.writing(from, write_concern.as_ref());
                let delete = match many {
                    true => collection.delete_many(filter.clone()),
                    false => collection.delete_one(filter.clone()),
                };
                Ok(number(run!(delete)?.deleted_count as i64))
            }
            OperationKind::Count { of, filter, read } => {
                let count = run!(self.reading(of, read).count_documents(filter.clone()))?;
                Ok(number(count as i64))
            }
            OperationKind::Aggregate { of, pipeline, read, write_concern } => {
                let mut collection = self.reading(of, read);
                if let Some(concern) = write_concern {
                    collection = collection.with_write_concern(self::write_concern(concern));
                }
                found(run!(collection.aggregate(pipeline.clone()))?.try_collect().await?)
            }
            OperationKind::Distinct { of, field, filter, read } => {
                let distinct = self.reading(of, read).distinct(field, filter.clone());
                let values: Vec<Bson> = run!(distinct)?;
                let documents = vec![doc! { "values": values.clone() }];
                Ok(Answer { number: Some(values.len() as i64), documents })
            }
            OperationKind::Command { database, command, read } => {
                let mut run = self.client.database(database).run_command(command.clone());
                if let Some(mode) = read.mode {
                    run = run.selection_criteria(preference(mode));
                }
                Ok(Answer { number: None, documents: vec![run!(run)?] })
            }
        }
    }

    // ---- sessions and streams

    /// A session of this client.
    pub(crate) async fn start_session(
        &self,
        causal: Option<bool>,
        snapshot: bool,
    ) -> Result<ClientSession> {
        let mut options = SessionOptions::default();
        options.causal_consistency = causal;
        options.snapshot = snapshot.then_some(true);
        self.client.start_session_with(options).await
    }

    pub(crate) async fn start_transaction(
        &self,
        session: &ClientSession,
        read: &ReadSpec,
        concern: Option<&WriteConcernSpec>,
    ) -> Result<()> {
        let mut start = session.start_transaction();
        if let Some(mode) = read.mode {
            start = start.selection_criteria(preference(mode));
        }
        if let Some(level) = &read.concern {
            start = start.read_concern(ReadConcern::custom(level));
        }
        if let Some(concern) = concern {
            start = start.write_concern(write_concern(concern));
        }
        start.await
    }

    /// Commits, waiting out errors of the AutoReconnect family for `retry_for`.
    pub(crate) async fn commit(
        &self,
        session: &ClientSession,
        retry_for: Option<Duration>,
    ) -> Result<()> {
        match retry_for {
            None => session.commit_transaction().await,
            Some(limit) => {
                self.client.with_reconnect_for(limit, || session.commit_transaction()).await
            }
        }
    }

    /// Opens a change stream.
    pub(crate) async fn watch(&self, watch: &Watch) -> Result<ChangeStream<Document>> {
        let mut action = match &watch.watched {
            Watched::Collection(of) => self.collection(of).watch(),
            Watched::Database(name) => self.client.database(name).watch(),
            Watched::Deployment => self.client.watch(),
        };
        action = action.pipeline(watch.pipeline.clone());
        if let Some(full) = &watch.full_document {
            action = action.full_document(match full.as_str() {
                "updateLookup" => FullDocumentType::UpdateLookup,
                "whenAvailable" => FullDocumentType::WhenAvailable,
                _ => FullDocumentType::Required,
            });
        }
        if let Some(mode) = watch.read.mode {
            action = action.selection_criteria(preference(mode));
        }
        if let Some(level) = &watch.read.concern {
            action = action.read_concern(ReadConcern::custom(level));
        }
        Ok(action.await?.with_type())
    }

    /// Runs a load to its end.
    pub(crate) fn load(
        &self,
        sim: Sim,
        load: Load,
    ) -> impl Future<Output = LoadReport> + Send + 'static {
        let number = {
            let mut seen = lock(&self.seen);
            seen.last_load += 1;
            seen.last_load
        };
        let this = self.clone();
        async move {
            let mut report = LoadReport { what: describe::load(&load), ..LoadReport::default() };
            for index in 0..load.count {
                let outcome = match load.retry_for {
                    None => this.load_once(&load.kind, number, index).await,
                    Some(limit) => {
                        let again = || this.load_once(&load.kind, number, index);
                        this.client.with_reconnect_for(limit, again).await
                    }
                };
                match outcome {
                    Ok(()) => report.succeeded += 1,
                    Err(error) => *report.errors.entry(describe_error(&error)).or_default() += 1,
                }
                if !load.every.is_zero() {
                    sim.sleep(load.every).await;
                }
            }
            report.shares = lock(&this.seen).shares.remove(&number).unwrap_or_default();
            report
        }
    }

    async fn load_once(&self, kind: &LoadKind, load: i32, index: u32) -> Result<()> {
        match kind {
            LoadKind::Reads { from, read } => {
                let find = self.reading(from, read).find_one(doc! {});
                find.comment(Bson::Int32(load)).await.map(|_| ())
            }
            LoadKind::Writes { into, write_concern } => {
                let document = doc! { "load": load, "number": i64::from(index) };
                let collection = self.writing(into, write_concern.as_ref());
                collection.insert_one(&document).await.map(|_| ())
            }
        }
    }

    fn collection(&self, namespace: &Namespace) -> Collection<Document> {
        self.client.database(&namespace.database).collection(&namespace.collection)
    }

    fn reading(&self, from: &Namespace, read: &ReadSpec) -> Collection<Document> {
        self.collection(from).with_options(CollectionOptions {
            selection_criteria: read.mode.map(|mode| preference(mode).into()),
            read_concern: read.concern.as_ref().map(ReadConcern::custom),
            write_concern: None,
            ..Default::default()
        })
    }

    fn writing(
        &self,
        into: &Namespace,
        concern: Option<&WriteConcernSpec>,
    ) -> Collection<Document> {
        let collection = self.collection(into);
        match concern {
            None => collection,
            Some(concern) => collection.with_write_concern(write_concern(concern)),
        }
    }

    // ---- what it believes

    /// Who answered last, loads aside.
    pub(crate) fn last_server(&self) -> Option<String> {
        lock(&self.seen).last_server.take()
    }

    /// Whether it believes a member to be in a state.
    pub(crate) fn sees(&self, member: &str, state: MemberState) -> bool {
        let believed = self.client.topology().member(member).map(|server| server.server_type);
        let wanted = match state {
            MemberState::Primary => ServerType::RsPrimary,
            MemberState::Secondary => ServerType::RsSecondary,
            MemberState::Arbiter => ServerType::RsArbiter,
            MemberState::Startup => ServerType::RsGhost,
            MemberState::Down | MemberState::Unknown => ServerType::Unknown,
            _ => ServerType::RsOther,
        };
        // A member it does not know is as good as down.
        believed.unwrap_or(ServerType::Unknown) == wanted
    }

    /// The primary it knows.
    pub(crate) fn primary(&self) -> Option<String> {
        self.client.topology().primary().map(|server| server.address.to_string())
    }

    /// The members it knows, dead ones included.
    pub(crate) fn members(&self) -> Vec<String> {
        self.client.topology().servers.keys().map(ToString::to_string).collect()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn found(documents: Vec<Document>) -> Result<Answer> {
    Ok(Answer { number: Some(documents.len() as i64), documents })
}

fn number(number: i64) -> Answer {
    Answer { number: Some(number), documents: Vec::new() }
}

fn preference(mode: ReadMode) -> ReadPreference {
    match mode {
        ReadMode::Primary => ReadPreference::primary(),
        ReadMode::PrimaryPreferred => ReadPreference::primary_preferred(),
        ReadMode::Secondary => ReadPreference::secondary(),
        ReadMode::SecondaryPreferred => ReadPreference::secondary_preferred(),
        ReadMode::Nearest => ReadPreference::nearest(),
    }
}

fn write_concern(spec: &WriteConcernSpec) -> WriteConcern {
    let mut concern = WriteConcern::default();
    concern.w = spec.w.as_ref().map(|w| match w {
        Acknowledgement::Majority => Acknowledgment::Majority,
        Acknowledgement::Members(count) => Acknowledgment::Nodes(*count),
        Acknowledgement::Tagged(name) => Acknowledgment::Custom(name.clone()),
    });
    concern.journal = spec.journal;
    concern.w_timeout = spec.wtimeout;
    concern
}

/// How a load went.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadReport {
    what: String,
    succeeded: u32,
    /// Errors by their text, and how often each came.
    errors: BTreeMap<String, u32>,
    /// Who answered how many reads.
    shares: BTreeMap<String, u32>,
}

impl LoadReport {
    pub(crate) fn failures(&self) -> u32 {
        self.errors.values().sum()
    }

    pub(crate) fn share(&self, member: &str) -> u32 {
        self.shares.get(member).copied().unwrap_or(0)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} succeeded", self.what, self.succeeded)?;
        let shares: Vec<String> =
            self.shares.iter().map(|(member, count)| format!("{member} {count}")).collect();
        if !shares.is_empty() {
            write!(f, " ({})", shares.join(", "))?;
        }
        match self.failures() {
            0 => f.write_str(", no errors"),
            failures => {
                write!(f, ", {failures} failed")?;
                for (error, count) in &self.errors {
                    write!(f, "; {count} x {error}")?;
                }
                Ok(())
            }
        }
    }
}
