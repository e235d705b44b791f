//! One case: data, entities, operations, and what is to be true afterwards.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bson::{Bson, Document, doc};
use stepdown_driver::Client;
use stepdown_driver::options::{ReadConcern, WriteConcern};

use super::deployment::{Deployment, Way};
use super::entities::{Entities, Entity};
use super::observer::{Family, check_events};
use super::requirements::Facts;
use super::{Failure, Operation, Outcome, documents, logs, perform, spans};

/// How long a case may take, on the clock of its deployment.
const CASE_LIMIT: Duration = Duration::from_secs(300);

/// A deployment and the runner's own client of it.
pub struct Stage {
    // Dropped first: the deployment drives its tasks.
    internal: Client,
    facts: Facts,
    deployment: Deployment,
}

/// A case while it runs; shared by the tasks of its threads.
pub struct Case {
    pub entities: Entities,
    pub way: Way,
    pub internal: Client,
    /// Fail points to be switched off: where, and which.
    fail_points: Mutex<Vec<(String, String)>>,
    /// The tasks of threads: polled together with the case itself, in the order they were started.
    tasks: RefCell<Vec<Task>>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

impl Stage {
    /// Looks at what it is on.
    ///
    /// # Errors
    /// What making a client or asking it fails with.
    pub fn new(deployment: Deployment) -> Result<Self, String> {
        let internal = deployment.block_on(async { deployment.way().client(None) })?;
        let facts = deployment.facts(&internal)?;
        Ok(Stage { internal, facts, deployment })
    }

    /// Whether a case of `file` could run here if only access were controlled.
    pub fn lacks_auth_alone(&self, file: &Document, test: &Document) -> bool {
        let controlled = Facts { auth: true, ..self.facts.clone() };
        let meets = |facts: &Facts| {
            [file, test].iter().all(|of| facts.meet(&documents(of, "runOnRequirements")).is_ok())
        };
        !meets(&self.facts) && meets(&controlled)
    }

    /// Runs a case of `file`.
    pub fn play(&self, file: &Document, test: &Document) -> Outcome {
        for of in [file, test] {
            if let Err(reason) = self.facts.meet(&documents(of, "runOnRequirements")) {
                return Outcome::Skipped(format!("needs {reason}"));
            }
        }
        let case = Rc::new(Case {
            entities: Entities::default(),
            way: self.deployment.way().clone(),
            internal: self.internal.clone(),
            fail_points: Mutex::default(),
            tasks: RefCell::default(),
        });
        let outcome = self.deployment.block_on(async {
            let mut limit = std::pin::pin!(self.internal.sleep(CASE_LIMIT));
            let mut run = std::pin::pin!(case.run(file, test));
            let outcome = std::future::poll_fn(|cx| {
                if let Poll::Ready(outcome) = run.as_mut().poll(cx) {
                    return Poll::Ready(outcome);
                }
                case.poll_tasks(cx);
                limit.as_mut().poll(cx).map(|()| {
                    let seconds = CASE_LIMIT.as_secs();
                    Err(Failure::test(format!("the case is not done after {seconds} s")))
                })
            });
            let outcome = outcome.await;
            case.tasks.take();
            case.clean_up(test).await;
            outcome
        });
        match outcome {
            Ok(()) => Outcome::Passed,
            Err(failure) => Outcome::Failed(failure.to_string()),
        }
    }
}

impl Case {
    async fn run(self: &Rc<Self>, file: &Document, test: &Document) -> Result<(), Failure> {
        for data in documents(file, "initialData") {
            self.prepare(&data)
                .await
                .map_err(|error| Failure::test(format!("initialData: {error}")))?;
        }
        self.entities
            .create(&documents(file, "createEntities"), &self.way)
            .await
            .map_err(|problem| Failure::test(format!("createEntities: {problem}")))?;
        for (index, operation) in Operation::all(&documents(test, "operations"))?.iter().enumerate()
        {
            perform::operation(self, operation, false).await.map_err(|problem| {
                Failure::test(format!("operation {index}, {}: {problem}", operation.name))
            })?;
        }
        for thread in self.entities.threads() {
            perform::special::wait_for_thread(self, &thread).await?;
        }
        for client in self.entities.clients() {
            client.observer.stop();
        }
        self.disable_fail_points().await;
        self.store_events()?;
        self.check_events(test)?;
        for data in documents(test, "outcome") {
            self.check_outcome(&data).await?;
        }
        Ok(())
    }

    /// Runs `task` beside the case.
    pub fn start(&self, task: Task) {
        self.tasks.borrow_mut().push(task);
    }

    fn poll_tasks(&self, cx: &mut Context<'_>) {
        loop {
            let mut running = self.tasks.take();
            let count = running.len();
            running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
            let ended = running.len() < count;
            let mut tasks = self.tasks.borrow_mut();
            let started = !tasks.is_empty();
            tasks.splice(0..0, running);
            // What has ended may have been waited for without a waker.
            if ended {
                cx.waker().wake_by_ref();
            }
            if !started {
                return;
            }
        }
    }

    /// Notes a fail point that has to be switched off.
    pub fn remember_fail_point(&self, host: String, name: String) {
        self.fail_points.lock().unwrap_or_else(PoisonError::into_inner).push((host, name));
    }

    async fn prepare(&self, data: &Document) -> stepdown_driver::Result<()> {
        let name = data.get_str("collectionName").unwrap_or_default();
        let database = self.internal.database(data.get_str("databaseName").unwrap_or_default());
        let collection = database.collection::<Document>(name);
        let collection = collection.with_write_concern(WriteConcern::majority());
        for leftover in [format!("enxcol_.{name}.esc"), format!("enxcol_.{name}.ecoc")] {
            database.collection::<Document>(&leftover).drop().await?;
        }
        collection.drop().write_concern(WriteConcern::majority()).await?;
        let documents = documents(data, "documents");
        let options = data.get_document("createOptions").ok();
        if options.is_some() || documents.is_empty() {
            let mut create = database.create_collection(name);
            if let Some(options) = options {
                create = create.other(options.clone());
            }
            create.write_concern(WriteConcern::majority()).await?;
        }
        if !documents.is_empty() {
            collection.insert_many(documents).await?;
        }
        Ok(())
    }

    async fn check_outcome(&self, data: &Document) -> Result<(), Failure> {
        let name = data.get_str("collectionName").unwrap_or_default();
        let database = self.internal.database(data.get_str("databaseName").unwrap_or_default());
        let found: Vec<Document> = database
            .collection::<Document>(name)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .read_concern(ReadConcern::local())
            .await?
            .try_collect()
            .await?;
        let expected = documents(data, "documents");
        let sorted = |all: &[Document]| -> Vec<Bson> {
            all.iter().map(|document| normal(&Bson::Document(document.clone()))).collect()
        };
        if sorted(&expected) != sorted(&found) {
            return Err(Failure::test(format!(
                "outcome: expected {}, found {}",
                Bson::from(expected),
                Bson::from(found)
            )));
        }
        Ok(())
    }

    fn check_events(&self, test: &Document) -> Result<(), Failure> {
        for expected in documents(test, "expectEvents") {
            let name = expected.get_str("client").unwrap_or_default();
            let client = self.entities.client(name)?;
            let family = match expected.get_str("eventType") {
                Ok("cmap") => Family::Cmap,
                Ok("sdam") => Family::Sdam,
                _ => Family::Command,
            };
            let found = client.observer.events(family);
            let ignore_extra = expected.get_bool("ignoreExtraEvents").unwrap_or(false);
            let events = documents(&expected, "events");
            check_events(&events, &found, ignore_extra, &self.entities)
                .map_err(|problem| Failure::test(format!("events of {name}: {problem}")))?;
        }
        for expected in documents(test, "expectTracingMessages") {
            let name = expected.get_str("client").unwrap_or_default();
            let found = self.entities.client(name)?.spans.spans();
            let ignore_extra = expected.get_bool("ignoreExtraSpans").unwrap_or(false);
            spans::check(&documents(&expected, "spans"), &found, ignore_extra, &self.entities)
                .map_err(|problem| Failure::test(format!("spans of {name}: {problem}")))?;
        }
        for expected in documents(test, "expectLogMessages") {
            let name = expected.get_str("client").unwrap_or_default();
            let found = self.entities.client(name)?.observer.messages();
            logs::check(&expected, &found, &self.entities)
                .map_err(|problem| Failure::test(format!("messages of {name}: {problem}")))?;
        }
        Ok(())
    }

    /// Switches off what may trouble others, and lets everything go. Nothing here can fail a case.
    async fn clean_up(&self, test: &Document) {
        self.disable_fail_points().await;
        let clients = self.entities.clients();
        self.entities.clear();
        for client in clients {
            client.client.close().await;
        }
        let operations = documents(test, "operations");
        let transaction = operations.iter().any(|operation| {
            matches!(operation.get_str("name"), Ok("startTransaction" | "withTransaction"))
        });
        if transaction {
            let kill = doc! { "killAllSessions": [] };
            let _refused = self.internal.database("admin").run_command(kill).await;
        }
    }

    async fn disable_fail_points(&self) {
        let fail_points =
            std::mem::take(&mut *self.fail_points.lock().unwrap_or_else(PoisonError::into_inner));
        for (host, name) in fail_points {
            let Ok(client) = self.way.client(Some(&host)) else { continue };
            let off = doc! { "configureFailPoint": name, "mode": "off" };
            let _refused = client.database("admin").run_command(off).await;
            client.close().await;
        }
    }

    /// Saves the events of clients that are to be saved.
    fn store_events(&self) -> Result<(), Failure> {
        for client in self.entities.clients() {
            for (id, names) in &client.stored {
                let all = [Family::Command, Family::Cmap, Family::Sdam];
                let events = all.into_iter().flat_map(|family| client.observer.events(family));
                let named = events.filter(|event| {
                    names.iter().any(|name| name.eq_ignore_ascii_case(event.name()))
                });
                let named = named.map(|event| Bson::String(event.to_string())).collect();
                self.entities.insert(id, Entity::Value(Bson::Array(named)))?;
            }
        }
        Ok(())
    }
}

/// The same value with the fields of its documents in alphabetical order.
fn normal(value: &Bson) -> Bson {
    match value {
        Bson::Document(document) => {
            let mut fields: Vec<_> = document.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields = fields.into_iter().map(|(key, value)| (key.clone(), normal(value)));
            Bson::Document(fields.collect())
        }
        Bson::Array(elements) => Bson::Array(elements.iter().map(normal).collect()),
        other => other.clone(),
    }
}
