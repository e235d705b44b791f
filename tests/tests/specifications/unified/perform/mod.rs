//! What operations do: one file per kind of object.

/// Puts an action into the session and under the timeout that the operation names, and refuses
/// arguments nobody took.
macro_rules! under_terms {
    ($call:ident, $action:expr) => {{
        let mut action = $action;
        if let Some(session) = $call.session()? {
            action = action.session(&session);
        }
        if let Some(timeout) = $call.arguments.millis("timeoutMS")? {
            action = action.timeout(timeout);
        }
        if let Some(raw) = $call.arguments.boolean("rawData")? {
            action = action.raw_data(raw);
        }
        $call.finish()?;
        action
    }};
}

mod bucket;
mod bulk;
mod client;
mod collection;
mod cursor;
mod database;
mod error;
mod results;
mod session;
pub mod special;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bson::Bson;
use stepdown_driver::ClientSession;

use super::arguments::Arguments;
use super::case::Case;
use super::entities::Entity;
use super::matching::matches;
use super::{Failure, Operation};

/// What an operation gives back.
pub enum Produced {
    /// Nothing.
    Nothing,
    /// A value.
    Value(Bson),
    /// Something that can be saved, and cannot be looked at.
    Entity(Entity),
}

/// What came of an operation.
pub type Performed = Result<Produced, Failure>;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// An operation under way.
pub struct Call<'a> {
    pub case: &'a Rc<Case>,
    pub operation: &'a Operation,
    pub arguments: Arguments,
}

impl Call<'_> {
    /// The session the operation names, if it names one.
    pub fn session(&mut self) -> Result<Option<Arc<ClientSession>>, Failure> {
        let Some(name) = self.arguments.text("session")? else { return Ok(None) };
        self.case.entities.session(&name)?.get().map(Some)
    }

    /// Refuses arguments nobody took.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let of = self.arguments.of().to_owned();
        std::mem::replace(&mut self.arguments, Arguments::new(&of, bson::Document::new())).finish()
    }

    /// The object has no such operation.
    pub fn unsupported(&self, object: &str) -> Failure {
        let name = &self.operation.name;
        Failure::test(format!("{name} on a {object} is not supported by the driver yet"))
    }
}

/// Does an operation and checks what came of it. A driver's error comes back even if it was expected
/// if it is to `propagate`, because the operation belongs to a transaction's callback.
pub fn operation<'a>(
    case: &'a Rc<Case>,
    operation: &'a Operation,
    propagate: bool,
) -> Boxed<'a, Result<(), Failure>> {
    Box::pin(async move {
        if operation.object == "testRunner" {
            return special::perform(case, operation).await;
        }
        let arguments = Arguments::new(&operation.name, operation.arguments.clone());
        let call = Call { case, operation, arguments };
        let performed = match case.entities.get(&operation.object)? {
            Entity::Client(client) => client::perform(call, &client).await,
            Entity::Database(database) => database::perform(call, &database).await,
            Entity::Collection(collection) => collection::perform(call, &collection).await,
            Entity::Bucket(bucket) => bucket::perform(call, &bucket).await,
            Entity::Session(session) => session::perform(call, &session).await,
            Entity::Cursor(cursor) => cursor::perform(call, &cursor).await,
            _ => Err(Failure::test(format!("{} has no operations", operation.object))),
        };
        judge(case, operation, performed, propagate)
    })
}

fn judge(
    case: &Rc<Case>,
    operation: &Operation,
    performed: Performed,
    propagate: bool,
) -> Result<(), Failure> {
    let produced = match performed {
        Err(Failure::Test(message)) => return Err(Failure::Test(message)),
        Err(Failure::Driver(error)) => {
            if let Some(expected) = &operation.expect_error {
                error::check(&operation.name, expected, &error, &case.entities)
                    .map_err(|problem| Failure::test(format!("{problem}; the error is {error}")))?;
            } else if !operation.ignore_outcome && !propagate {
                return Err(Failure::test(format!("unexpected error: {error}")));
            }
            return if propagate { Err(Failure::Driver(error)) } else { Ok(()) };
        }
        Ok(produced) => produced,
    };
    if operation.ignore_outcome {
        return Ok(());
    }
    if let Some(expected) = &operation.expect_error {
        return Err(Failure::test(format!("expected an error: {expected}")));
    }
    if let Some(expected) = &operation.expect_result {
        let found = match &produced {
            Produced::Value(value) => Some(value),
            _ => None,
        };
        matches(expected, found, true, &case.entities).map_err(Failure::Test)?;
    }
    if let Some(name) = &operation.save_as {
        let entity = match produced {
            Produced::Value(value) => Entity::Value(value),
            Produced::Entity(entity) => entity,
            Produced::Nothing => return Err(Failure::test("there is no result to be saved")),
        };
        case.entities.insert(name, entity)?;
    }
    Ok(())
}
