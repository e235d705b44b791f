//! `findAndModify`.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    check_writable, document, each_argument, namespace, own_arguments, safe_boolean, safe_i64,
};
use super::context::parse_context_with;
use super::plan::Query;
use super::read::{Shown, check_hint};
use super::scan::{Found, Output, find_sorted};
use super::spec::{CommandSpec, Gate};
use super::views::check_not_view;
use super::write::delete::delete_one;
use super::write::modify::{
    WantedImage, append_value, id_of, read_array_filters, update_one, upsert,
};
use super::write::retry::{Executed, Retry};
use super::{Operation, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{OpKind, RetryImage};
use crate::mongod::query::matcher::{MatchDetails, Matcher};
use crate::mongod::query::project::{Projection, ProjectionSyntax};
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::update::Update;
use crate::mongod::query::value::DocumentRef;
use crate::mongod::storage::RecordId;
use crate::mongod::storage::text::shell_document;

pub(crate) const COMMANDS: &[CommandSpec] = &[CommandSpec {
    names: &["findAndModify", "findandmodify"],
    gate: Gate::Write,
    accepts_write_concern: true,
    retryable_write: true,
    admin_only: false,
    run,
}];

/// The arguments.
#[derive(Default)]
struct Arguments<'a> {
    query: Option<&'a RawDocument>,
    sort: Option<&'a RawDocument>,
    fields: Option<&'a RawDocument>,
    update: Option<RawBsonRef<'a>>,
    remove: bool,
    new: bool,
    upsert: bool,
    array_filters: Vec<&'a RawDocument>,
    hint: Option<RawBsonRef<'a>>,
    statement_id: i32,
}

impl<'a> Arguments<'a> {
    fn read(body: &'a RawDocument) -> Result<Self, CommandError> {
        let mut found = Arguments::default();
        each_argument("findAndModify", body, |field, value| {
            let full = format!("findAndModify.{field}");
            match field {
                "query" | "sort" | "fields" if value == RawBsonRef::Null => {}
                "query" => found.query = Some(document(&full, value)?),
                "sort" => found.sort = Some(document(&full, value)?),
                "fields" => found.fields = Some(document(&full, value)?),
                "update" => found.update = Some(value),
                "remove" => found.remove = safe_boolean(&full, value)?,
                "new" => found.new = safe_boolean(&full, value)?,
                "upsert" => found.upsert = safe_boolean(&full, value)?,
                "bypassDocumentValidation" => {
                    safe_boolean(&full, value)?;
                }
                "arrayFilters" => found.array_filters = read_array_filters(&full, value)?,
                "collation" | "let" => {
                    document(&full, value)?;
                }
                "hint" => found.hint = Some(value),
                "stmtId" => found.statement_id = safe_i64(&full, value)? as i32,
                "encryptionInformation" | "sampleId" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let wrong = |message: &str| Err(CommandError::new(error::FAILED_TO_PARSE, message));
        if found.remove {
            if found.update.is_some() {
                return wrong("Cannot specify both an update and remove=true");
            }
            if found.upsert {
                return wrong("Cannot specify both upsert=true and remove=true ");
            }
            if found.new {
                return wrong(
                    "Cannot specify both new=true and remove=true; 'remove' always returns the \
                     deleted document",
                );
            }
        }
        match found.update {
            None if !found.remove => wrong("Either an update or remove=true must be specified"),
            Some(update) if !matches!(update, RawBsonRef::Document(_) | RawBsonRef::Array(_)) => {
                wrong("Update argument must be either an object or an array")
            }
            _ => Ok(found),
        }
    }
}

fn run(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace: Arc<str> = namespace(op)?.into();
    let arguments = Arguments::read(&op.body)?;
    check_writable(&namespace)?;
    let retry = Retry::of(op);
    if let Some(retry) = retry {
        server.sessions.begin(retry.lsid, retry.txn_number)?;
        if let Some(executed) = retry.executed(server, arguments.statement_id)? {
            return retried(op, &arguments, &executed);
        }
    }
    check_not_view(&server.storage, &namespace)?;
    let context = parse_context_with(server, now, op)?;
    let empty = RawDocumentBuf::new();
    let matcher = Matcher::parse(arguments.query.unwrap_or(&empty), &context)?;
    let sort = SortPattern::parse(arguments.sort.unwrap_or(&empty).into(), context.collation)?;
    let projection = arguments
        .fields
        .map(|fields| Projection::parse(fields, ProjectionSyntax::Find, &context))
        .transpose()?
        .filter(|projection| !projection.is_empty());
    let output = Output { projection, show_record_id: false };
    let filters: Vec<DocumentRef<'_>> =
        arguments.array_filters.iter().map(|filter| DocumentRef::from(*filter)).collect();
    let update =
        arguments.update.map(|update| Update::parse(update, &filters, &context)).transpose()?;
    context.constant_failure.check("")?;
    let mut found = None;
    if let Some(view) = server.storage.collection(&namespace, ReadAt::Newest) {
        check_hint(&view, arguments.hint, Shown { collation: true, ..Shown::of(&matcher) })?;
        let query = Query {
            matcher: &matcher,
            sort: Some(&sort),
            hint: arguments.hint,
            collation: context.collation,
        };
        found = find_sorted(&view, query, 1).map_err(in_executor)?.into_iter().next();
    }
    match (update, found) {
        (None, None) => Ok(reply(rawdoc! { "n": 0 }, None, None)),
        (None, Some(found)) => {
            let image = RetryImage::Pre(found.document.clone());
            let session = retry.map(|retry| (retry, arguments.statement_id, Some(image)));
            let value = output.of(&found)?;
            delete_one(server, now, op, &namespace, &found, session)?;
            Ok(reply(rawdoc! { "n": 1 }, Some(&value), None))
        }
        (Some(update), Some(found)) => {
            let wanted = if arguments.new { WantedImage::Post } else { WantedImage::Pre };
            let session = retry.map(|retry| (retry, arguments.statement_id, Some(wanted)));
            let after = update_one(server, now, op, &namespace, &update, &found, session)
                .map_err(in_executor)?;
            let shown = match after.filter(|_| arguments.new) {
                Some(document) => Found { document, ..found },
                None => found,
            };
            let value = output.of(&shown)?;
            Ok(reply(rawdoc! { "n": 1, "updatedExisting": true }, Some(&value), None))
        }
        (Some(update), None) if arguments.upsert => {
            let session = retry.map(|retry| (retry, arguments.statement_id));
            let document = upsert(server, now, op, &namespace, &update, &matcher, session)
                .map_err(in_executor)?;
            let mut last_error = rawdoc! { "n": 1, "updatedExisting": false };
            if let Some(id) = id_of(&document) {
                last_error.append(cstr!("upserted"), id);
            }
            let shown = Found { record: RecordId(0), document, details: MatchDetails::default() };
            let value = if arguments.new { Some(output.of(&shown)?) } else { None };
            Ok(reply(last_error, value.as_deref(), None))
        }
        (Some(_), None) => Ok(reply(rawdoc! { "n": 0, "updatedExisting": false }, None, None)),
    }
}

fn reply(
    last_error: RawDocumentBuf,
    value: Option<&RawDocumentBuf>,
    retried: Option<i32>,
) -> Outcome {
    let mut reply = rawdoc! { "lastErrorObject": last_error };
    append_value(&mut reply, value);
    if let Some(statement_id) = retried {
        reply.append(cstr!("retriedStmtId"), statement_id);
    }
    Outcome::Reply(reply)
}

/// How the server words errors that come up while findAndModify runs.
fn in_executor(error: CommandError) -> CommandError {
    CommandError {
        message: format!(
            "Plan executor error during findAndModify :: caused by :: {}",
            error.message
        ),
        ..error
    }
}

/// The reply to a retry, from the entry that the first attempt wrote and its image.
fn retried(
    op: &Operation,
    arguments: &Arguments<'_>,
    executed: &Executed,
) -> Result<Outcome, CommandError> {
    let statement_id = Some(arguments.statement_id);
    let image = |wanted: &str| {
        let found = match (&executed.image, wanted) {
            (Some(RetryImage::Pre(image)), "pre") | (Some(RetryImage::Post(image)), "post") => {
                Some(image.clone())
            }
            _ => None,
        };
        found.ok_or_else(|| {
            CommandError::new(
                40_607,
                format!(
                    "No {wanted}-image available for findAndModify retry request:{}",
                    shell_document(&own_arguments(&op.body))
                ),
            )
        })
    };
    match executed.kind {
        OpKind::Insert => {
            let mut last_error = rawdoc! { "n": 1, "updatedExisting": false };
            if let Some(id) = id_of(&executed.object) {
                last_error.append(cstr!("upserted"), id);
            }
            let value = arguments.new.then_some(&*executed.object);
            Ok(reply(last_error, value, statement_id))
        }
        OpKind::Delete if arguments.remove => {
            let value = image("pre")?;
            Ok(reply(rawdoc! { "n": 1 }, Some(&value), statement_id))
        }
        OpKind::Update if !arguments.remove => {
            let value = image(if arguments.new { "post" } else { "pre" })?;
            let last_error = rawdoc! { "n": 1, "updatedExisting": true };
            Ok(reply(last_error, Some(&value), statement_id))
        }
        kind => Err(CommandError::new(
            40_606,
            format!(
                "findAndModify retry request: {} is not compatible with previous write in the \
                 transaction of type: {}",
                shell_document(&own_arguments(&op.body)),
                kind.letter()
            ),
        )),
    }
}
