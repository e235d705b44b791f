//! Operations of the runner itself (`object: testRunner`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use stepdown_driver::TransactionState;
use stepdown_driver::event::CommandEvent;
use stepdown_driver::options::ReadPreference;

use crate::unified::arguments::Arguments;
use crate::unified::case::Case;
use crate::unified::entities::{Entity, ThreadEntity};
use crate::unified::observer::{Event, Family};
use crate::unified::{Failure, Operation};

/// How long events, threads and primaries are waited for if nothing else is said.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked meanwhile.
const PAUSE: Duration = Duration::from_millis(2);

pub async fn perform(case: &Rc<Case>, operation: &Operation) -> Result<(), Failure> {
    let mut arguments = Arguments::new(&operation.name, operation.arguments.clone());
    let name = operation.name.as_str();
    match name {
        "failPoint" => {
            let client = case.entities.client(&arguments.required_text("client")?)?;
            let fail_point = arguments.required_document("failPoint")?;
            arguments.finish()?;
            set_fail_point(case, &client.client, fail_point).await
        }
        "targetedFailPoint" => {
            let session = case.entities.session(&arguments.required_text("session")?)?.get()?;
            let fail_point = arguments.required_document("failPoint")?;
            arguments.finish()?;
            // A session of a replica set is never pinned: its transactions run on the primary.
            set_fail_point(case, session.client(), fail_point).await
        }
        "createEntities" => {
            let entities = arguments.required_documents("entities")?;
            arguments.finish()?;
            case.entities.create(&entities, &case.way).await
        }
        "assertCollectionExists" | "assertCollectionNotExists" => {
            let database = arguments.required_text("databaseName")?;
            let collection = arguments.required_text("collectionName")?;
            arguments.finish()?;
            let names = case.internal.database(&database).list_collection_names().await?;
            expect(name, names.contains(&collection) == (name == "assertCollectionExists"))
        }
        "assertIndexExists" | "assertIndexNotExists" => {
            let database = arguments.required_text("databaseName")?;
            let collection = arguments.required_text("collectionName")?;
            let index = arguments.required_text("indexName")?;
            arguments.finish()?;
            let collection = case.internal.database(&database).collection::<Document>(&collection);
            let found: Vec<Document> = match collection.list_indexes().await {
                Ok(cursor) => cursor.try_collect().await?,
                // NamespaceNotFound: no collection, no index.
                Err(error) if error.code() == Some(26) => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            let exists =
                found.iter().any(|found| found.get_str("name").is_ok_and(|name| name == index));
            expect(name, exists == (name == "assertIndexExists"))
        }
        "assertSameLsidOnLastTwoCommands" | "assertDifferentLsidOnLastTwoCommands" => {
            let client = case.entities.client(&arguments.required_text("client")?)?;
            arguments.finish()?;
            let events = client.observer.events(Family::Command);
            let mut lsids = events.iter().rev().filter_map(|event| match event {
                Event::Command(CommandEvent::Started(event)) => Some(event.command.get("lsid")),
                _ => None,
            });
            let (Some(Some(last)), Some(Some(before))) = (lsids.next(), lsids.next()) else {
                return Err(Failure::test(format!("{name}: two commands with an lsid are needed")));
            };
            expect(name, (last == before) == name.starts_with("assertSame"))
        }
        "assertNumberConnectionsCheckedOut" => {
            let client = case.entities.client(&arguments.required_text("client")?)?;
            let expected = arguments.integer("connections")?;
            let expected = expected.ok_or_else(|| Failure::test("connections is missing"))?;
            arguments.finish()?;
            let found = client.observer.checked_out();
            match found == expected {
                true => Ok(()),
                false => {
                    Err(Failure::test(format!("expected {expected} connections, found {found}")))
                }
            }
        }
        "assertSessionDirty"
        | "assertSessionNotDirty"
        | "assertSessionPinned"
        | "assertSessionUnpinned"
        | "assertSessionTransactionState" => assert_session(case, name, arguments),
        "runOnThread" => {
            let thread = case.entities.thread(&arguments.required_text("thread")?)?;
            let operation = Operation::of(&arguments.required_document("operation")?)?;
            arguments.finish()?;
            run_on_thread(case, &thread, operation);
            Ok(())
        }
        "waitForThread" => {
            let thread = case.entities.thread(&arguments.required_text("thread")?)?;
            arguments.finish()?;
            wait_for_thread(case, &thread).await
        }
        "waitForEvent" | "assertEventCount" => {
            let client = case.entities.client(&arguments.required_text("client")?)?;
            let event = arguments.required_document("event")?;
            let count = arguments.count("count")?;
            let count = count.ok_or_else(|| Failure::test("count is missing"))?;
            arguments.finish()?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let found = || client.observer.count(&event, &case.entities);
            if name == "assertEventCount" {
                let found = found();
                return match found == count {
                    true => Ok(()),
                    false => Err(Failure::test(format!(
                        "expected {count} events {event}, found {found}"
                    ))),
                };
            }
            let by = case.internal.now() + PATIENCE;
            while found() < count {
                if case.internal.now() >= by {
                    return Err(Failure::test(format!(
                        "waited for {count} events {event}, found {}",
                        found()
                    )));
                }
                case.internal.sleep(PAUSE).await;
            }
            Ok(())
        }
        "recordTopologyDescription" => {
            let client = case.entities.client(&arguments.required_text("client")?)?;
            let id = arguments.required_text("id")?;
            arguments.finish()?;
            case.entities.insert(&id, Entity::Topology(client.client.topology()))
        }
        "assertTopologyType" => {
            let topology = arguments.required_text("topologyDescription")?;
            let topology = case.entities.topology(&topology)?;
            let expected = arguments.required_text("topologyType")?;
            arguments.finish()?;
            let found = topology.topology_type.as_str();
            match found == expected {
                true => Ok(()),
                false => Err(Failure::test(format!("expected {expected}, found {found}"))),
            }
        }
        "waitForPrimaryChange" => {
            let client = case.entities.client(&arguments.required_text("client")?)?;
            let prior = arguments.required_text("priorTopologyDescription")?;
            let prior = case.entities.topology(&prior)?;
            let limit = arguments.millis("timeoutMS")?.unwrap_or(PATIENCE);
            arguments.finish()?;
            let before = prior.primary().map(|primary| primary.address.clone());
            client
                .client
                .wait_for_topology(limit, |topology| {
                    let now = topology.primary().map(|primary| primary.address.clone());
                    now.is_some() && now != before
                })
                .await
                .map_err(|error| Failure::test(format!("waitForPrimaryChange: {error}")))?;
            Ok(())
        }
        "wait" => {
            let time = arguments.millis("ms")?;
            arguments.finish()?;
            case.internal.sleep(time.unwrap_or_default()).await;
            Ok(())
        }
        "loop" => run_loop(case, arguments).await,
        _ => Err(Failure::test(format!("the operation {name} of the test runner is not known"))),
    }
}

fn expect(name: &str, holds: bool) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(Failure::test(format!("{name} does not hold"))),
    }
}

/// Configures a fail point on the primary a client sees.
async fn set_fail_point(
    case: &Rc<Case>,
    client: &stepdown_driver::Client,
    fail_point: Document,
) -> Result<(), Failure> {
    let name = fail_point.get_str("configureFailPoint").unwrap_or_default().to_owned();
    client
        .database("admin")
        .run_command(fail_point)
        .selection_criteria(ReadPreference::primary())
        .await?;
    let topology = client.topology();
    let host = topology.primary().or_else(|| topology.servers.values().next());
    if let Some(host) = host {
        case.remember_fail_point(host.address.to_string(), name);
    }
    Ok(())
}

fn run_on_thread(case: &Rc<Case>, thread: &Arc<ThreadEntity>, operation: Operation) {
    if !thread.push(operation) {
        return;
    }
    let (of, thread) = (case.clone(), thread.clone());
    let task = async move {
        while let Some(operation) = thread.next() {
            if let Err(problem) = super::operation(&of, &operation, false).await {
                thread.failed(format!("{}: {problem}", operation.name));
            }
        }
    };
    case.start(Box::pin(task));
}

/// Waits until a thread has done all it was given.
pub async fn wait_for_thread(case: &Rc<Case>, thread: &ThreadEntity) -> Result<(), Failure> {
    let by = case.internal.now() + PATIENCE;
    loop {
        match thread.outcome() {
            Some(outcome) => return outcome.map_err(Failure::Test),
            None if case.internal.now() >= by => {
                return Err(Failure::test("a thread is not done in time"));
            }
            None => case.internal.sleep(PAUSE).await,
        }
    }
}

fn assert_session(case: &Rc<Case>, name: &str, mut arguments: Arguments) -> Result<(), Failure> {
    let session = case.entities.session(&arguments.required_text("session")?)?.get()?;
    let state = arguments.text("state")?;
    arguments.finish()?;
    match name {
        "assertSessionTransactionState" => {
            let expected = state.ok_or_else(|| Failure::test("state is missing"))?;
            let found = match session.transaction_state() {
                TransactionState::None => "none",
                TransactionState::Starting => "starting",
                TransactionState::InProgress => "in_progress",
                TransactionState::Committed => "committed",
                TransactionState::Aborted => "aborted",
                _ => "unknown",
            };
            match found == expected {
                true => Ok(()),
                false => Err(Failure::test(format!("{name}: expected {expected}, found {found}"))),
            }
        }
        "assertSessionDirty" => expect(name, session.is_dirty()),
        "assertSessionNotDirty" => expect(name, !session.is_dirty()),
        // On a replica set no session is ever pinned to a server.
        _ => expect(name, name == "assertSessionUnpinned"),
    }
}

/// Runs operations again and again, for as many rounds as `numIterations` says, or for five
/// seconds: nobody is there to end it.
async fn run_loop(case: &Rc<Case>, mut arguments: Arguments) -> Result<(), Failure> {
    const ROUNDS: i64 = 10_000;
    let operations = arguments.required_documents("operations")?;
    let operations = Operation::all(&operations)?;
    let rounds = arguments.integer("numIterations")?.unwrap_or(ROUNDS);
    let errors = arguments.text("storeErrorsAsEntity")?;
    let failures = arguments.text("storeFailuresAsEntity")?;
    let iterations = arguments.text("storeIterationsAsEntity")?;
    let successes = arguments.text("storeSuccessesAsEntity")?;
    arguments.finish()?;
    let by = case.internal.now() + Duration::from_secs(5);
    let (mut done, mut succeeded) = (0_i64, 0_i64);
    let mut problems: Vec<Document> = Vec::new();
    while done < rounds && case.internal.now() < by {
        for operation in &operations {
            match super::operation(case, operation, false).await {
                Ok(()) => succeeded += 1,
                Err(problem) if errors.is_some() || failures.is_some() => {
                    let time = case.internal.now().as_millis() as f64 / 1000.0;
                    problems.push(doc! { "error": problem.to_string(), "time": time });
                    break;
                }
                Err(problem) => return Err(problem),
            }
        }
        done += 1;
        case.internal.sleep(Duration::from_millis(1)).await;
    }
    let names = [(iterations, done), (successes, succeeded)];
    for (name, count) in names {
        if let Some(name) = name {
            case.entities.insert(&name, Entity::Value(Bson::Int64(count)))?;
        }
    }
    if let Some(name) = errors.or(failures) {
        case.entities.insert(&name, Entity::Value(Bson::from(problems)))?;
    }
    Ok(())
}
