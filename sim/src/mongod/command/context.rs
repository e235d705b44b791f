//! What a command's expressions may ask of the world.

use bson::{Bson, DateTime, RawBsonRef, RawDocument, Timestamp};
use stepdown_driver::Instant;

use super::arguments::document;
use super::views::view_of;
use super::{Operation, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::collation::Collation;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope};

/// `$$NOW`, `$$CLUSTER_TIME`, the command's `collation`.
///
/// # Errors
/// What is wrong with the collation.
pub(crate) fn parse_context(
    server: &Mongod,
    now: Instant,
    op: &Operation,
) -> Result<ParseContext, CommandError> {
    let wall = DateTime::from_millis(server.wall_millis(now));
    let mut context = ParseContext::new(wall, Timestamp::from(server.repl.cluster_time));
    if let Ok(Some(value @ RawBsonRef::Document(_))) = op.body.get("collation") {
        context.collation = Collation::parse(document("collation", value)?.into())?;
        if let Some(Ok((_, RawBsonRef::String(collection)))) = op.body.iter().next() {
            check_view_collation(server, &op.namespace(collection), context.collation)?;
        }
    } else if let Some(Ok((_, RawBsonRef::String(collection)))) = op.body.iter().next() {
        context.collation = default_collation(server, &op.namespace(collection));
    }
    Ok(context)
}

/// The collation of what names none: that of its collection or view.
pub(crate) fn default_collation(server: &Mongod, namespace: &str) -> Collation {
    let parse = |spec: &RawDocument| Collation::parse(spec.into()).unwrap_or_default();
    match server.storage.collection(namespace, ReadAt::Newest) {
        Some(view) if view.options().is_empty() => Collation::Simple,
        Some(view) => view.options().get_document("collation").map(parse).unwrap_or_default(),
        None => view_of(&server.storage, namespace, ReadAt::Newest)
            .and_then(|view| Some(parse(view.collation.as_deref()?)))
            .unwrap_or_default(),
    }
}

/// A view's collation is not a reader's choice.
fn check_view_collation(
    server: &Mongod,
    namespace: &str,
    collation: Collation,
) -> Result<(), CommandError> {
    let is_view = server.storage.collection(namespace, ReadAt::Newest).is_none()
        && view_of(&server.storage, namespace, ReadAt::Newest).is_some();
    if is_view && default_collation(server, namespace) != collation {
        return Err(CommandError::new(
            error::OPTION_NOT_SUPPORTED_ON_VIEW,
            "Cannot override a view's default collation",
        ));
    }
    Ok(())
}

/// The context of one statement on a namespace, with a collation of its own if it has one.
///
/// # Errors
/// As [`parse_context_with`].
pub(crate) fn statement_context(
    server: &Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    collation: Option<&RawDocument>,
) -> Result<ParseContext, CommandError> {
    let mut context = parse_context_with(server, now, op)?;
    context.collation = match collation {
        Some(collation) => Collation::parse(collation.into())?,
        None => default_collation(server, namespace),
    };
    Ok(context)
}

/// The same with the command's `let`.
///
/// # Errors
/// What its expressions fail with.
pub(crate) fn parse_context_with(
    server: &Mongod,
    now: Instant,
    op: &Operation,
) -> Result<ParseContext, CommandError> {
    let mut context = parse_context(server, now, op)?;
    if let Ok(Some(RawBsonRef::Document(variables))) = op.body.get("let") {
        bind(&mut context, variables)?;
    }
    Ok(context)
}

/// Evaluates `let` variables and binds them.
///
/// # Errors
/// What the expressions fail with.
pub(crate) fn bind(
    context: &mut ParseContext,
    variables: &RawDocument,
) -> Result<(), CommandError> {
    let root = Bson::Document(bson::Document::new());
    let mut bound = Vec::new();
    for element in variables {
        let (name, value) = element.map_err(super::arguments::malformed)?;
        let expression = Expression::parse(value.into(), context)?;
        let value = expression.evaluate_or_null(&Scope::new(&root))?;
        bound.push((name.as_str().to_owned(), value));
    }
    context.variables.extend(bound);
    Ok(())
}
