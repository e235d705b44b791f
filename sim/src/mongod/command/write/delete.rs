//! `delete`.

use std::sync::Arc;

use bson::RawDocument;
use stepdown_driver::Instant;

use super::insert::id_document;
use super::retry::Retry;
use super::{BatchArguments, BatchResult, begin_retryable, interrupt, statements, take_unfinished};
use crate::mongod::Mongod;
use crate::mongod::command::arguments::{
    check_writable, document, each_field, missing_field, namespace, safe_i64,
};
use crate::mongod::command::catalog::log;
use crate::mongod::command::context::statement_context;
use crate::mongod::command::plan::Query;
use crate::mongod::command::read::{Shown, check_hint};
use crate::mongod::command::scan::{Found, find_sorted};
use crate::mongod::command::views::check_not_view;
use crate::mongod::command::{Operation, OplogDraft, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{OpKind, RetryImage};
use crate::mongod::query::matcher::Matcher;

/// One element of `deletes`.
pub(super) struct Statement<'a> {
    pub query: &'a RawDocument,
    pub single: bool,
    pub collation: Option<&'a RawDocument>,
    pub hint: Option<bson::RawBsonRef<'a>>,
}

impl<'a> Statement<'a> {
    fn read(statement: &'a RawDocument) -> Result<Self, CommandError> {
        let (mut query, mut limit, mut collation, mut hint) = (None, None, None, None);
        each_field("delete.deletes", statement, |field, value| {
            let full = format!("delete.deletes.{field}");
            match field {
                "q" => query = Some(document(&full, value)?),
                // What is no number means no limit.
                "limit" => limit = Some(safe_i64(&full, value).unwrap_or(0)),
                "collation" => collation = Some(document(&full, value)?),
                "hint" => hint = Some(value),
                "sampleId" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let limit = limit.ok_or_else(|| missing_field("delete.deletes.limit"))?;
        if !(0..=1).contains(&limit) {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                format!("The limit field in delete objects must be 0 or 1. Got {limit}"),
            ));
        }
        let query = query.ok_or_else(|| missing_field("delete.deletes.q"))?;
        Ok(Statement { query, single: limit == 1, collation, hint })
    }
}

pub(super) fn run(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace: Arc<str> = namespace(op)?.into();
    let arguments = BatchArguments::read("delete", "deletes", op)?;
    let mut parsed = Vec::new();
    for statement in statements("delete", "deletes", op)? {
        parsed.push(Statement::read(statement)?);
    }
    check_writable(&namespace)?;
    let retry = begin_retryable(server, op)?;
    let new = BatchResult::default();
    let (next, mut result) = take_unfinished(server, op, new);
    for (index, statement) in parsed.iter().enumerate().skip(next) {
        let statement_id = arguments.statement_id(index);
        if let Some(retry) = retry.filter(|_| statement.single)
            && retry.executed(server, statement_id)?.is_some()
        {
            result.n += 1;
            result.retried.push(statement_id);
            continue;
        }
        match execute(server, now, op, &namespace, statement, retry, statement_id) {
            Ok(deleted) => result.n += deleted,
            Err(error) if error.code == error::WRITE_CONFLICT => {
                return interrupt(server, op, index, result, error);
            }
            Err(error) => {
                result.fail(index, &error);
                if arguments.ordered {
                    break;
                }
            }
        }
    }
    Ok(result.reply())
}

/// Executes one statement: how many documents it deleted.
///
/// # Errors
/// What its filter says.
pub(super) fn execute(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    statement: &Statement<'_>,
    retry: Option<Retry>,
    statement_id: i32,
) -> Result<u64, CommandError> {
    if retry.is_some() && !statement.single {
        return Err(CommandError::new(
            error::INVALID_OPTIONS,
            "Cannot use (or request) retryable writes with limit=0",
        ));
    }
    check_not_view(&server.storage, namespace)?;
    let context = statement_context(server, now, op, namespace, statement.collation)?;
    let matcher = Matcher::parse(statement.query, &context)?;
    context.constant_failure.check("")?;
    let Some(view) = server.storage.collection(namespace, ReadAt::Newest) else { return Ok(0) };
    check_hint(&view, statement.hint, Shown::of(&matcher))?;
    let limit = if statement.single { 1 } else { usize::MAX };
    let query = Query { hint: statement.hint, ..Query::of(&matcher, context.collation) };
    let found = find_sorted(&view, query, limit)?;
    // Looked at first, so that a statement waits before it has changed anything.
    server.storage.check_not_held(view.uuid(), found.iter().map(|found| found.record))?;
    for found in &found {
        let session = retry.map(|retry| (retry, statement_id, None));
        delete_one(server, now, op, namespace, found, session)?;
    }
    Ok(found.len() as u64)
}

/// Deletes one document that was found.
pub(crate) fn delete_one(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    found: &Found,
    session: Option<(Retry, i32, Option<RetryImage>)>,
) -> Result<(), CommandError> {
    let view = server.storage.collection(namespace, ReadAt::Newest).expect("it was read");
    let draft = OplogDraft {
        kind: OpKind::Delete,
        ns: namespace.clone(),
        collection_uuid: Some(view.uuid()),
        object: Arc::new(id_document(&found.document)),
        object2: None,
        upsert: false,
        session: session.map(|(retry, id, image)| retry.entry_fields(vec![id], image)),
    };
    log(server, now, op, draft).map(|_| ())
}
