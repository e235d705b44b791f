//! `update`, and what findAndModify shares with it.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{Bson, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};
use stepdown_driver::Instant;

use super::insert::{delete_over_cap, id_document};
use super::retry::{Executed, Retry};
use super::validate::Validator;
use super::{
    BatchArguments, BatchResult, MAX_DOCUMENT_BYTES, begin_retryable, interrupt, statements,
    take_unfinished,
};
use crate::mongod::command::arguments::{
    array, boolean, check_writable, document, each_field, malformed, missing_field, namespace,
};
use crate::mongod::command::catalog::{ensure_collection, log};
use crate::mongod::command::context::{bind, statement_context};
use crate::mongod::command::plan::Query;
use crate::mongod::command::read::{Shown, check_hint};
use crate::mongod::command::scan::{Found, decode, find_sorted};
use crate::mongod::command::views::check_not_view;
use crate::mongod::command::{Operation, OplogDraft, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{OpKind, RetryImage};
use crate::mongod::query::matcher::Matcher;
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::update::{Update, check_stages, fill_empty_timestamps};
use crate::mongod::query::value::{ArrayRef, DocumentRef, to_raw};
use crate::mongod::{Mongod, ServerVersion};

/// One element of `updates`.
pub(super) struct Statement<'a> {
    pub query: &'a RawDocument,
    pub update: RawBsonRef<'a>,
    pub multi: bool,
    pub upsert: bool,
    pub array_filters: Vec<&'a RawDocument>,
    pub collation: Option<&'a RawDocument>,
    pub constants: Option<&'a RawDocument>,
    pub hint: Option<RawBsonRef<'a>>,
    /// Which of several that match is updated (8.0).
    pub sort: Option<&'a RawDocument>,
}

impl<'a> Statement<'a> {
    fn read(statement: &'a RawDocument, version: ServerVersion) -> Result<Self, CommandError> {
        let (mut query, mut update, mut collation, mut constants, mut hint, mut sort) =
            (None, None, None, None, None, None);
        let (mut multi, mut upsert, mut filters) = (false, false, Vec::new());
        each_field("update.updates", statement, |field, value| {
            let full = format!("update.updates.{field}");
            match field {
                "q" => query = Some(document(&full, value)?),
                "u" => update = Some(value),
                "multi" => multi = boolean(&full, value)?,
                "upsert" => upsert = boolean(&full, value)?,
                "arrayFilters" => filters = read_array_filters(&full, value)?,
                "collation" => collation = Some(document(&full, value)?),
                "c" => constants = Some(document(&full, value)?),
                "hint" => hint = Some(value),
                "sort" if version >= ServerVersion::V8_0 => sort = Some(document(&full, value)?),
                "upsertSupplied" | "sampleId" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let query = query.ok_or_else(|| missing_field("update.updates.q"))?;
        let update = update.ok_or_else(|| missing_field("update.updates.u"))?;
        if let RawBsonRef::Array(stages) = update {
            check_stages(ArrayRef::Raw(stages))?;
        }
        if !matches!(update, RawBsonRef::Document(_) | RawBsonRef::Array(_)) {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "Update argument must be either an object or an array",
            ));
        }
        Ok(Statement {
            query,
            update,
            multi,
            upsert,
            array_filters: filters,
            collation,
            constants,
            hint,
            sort,
        })
    }
}

/// `arrayFilters`.
pub(crate) fn read_array_filters<'a>(
    field: &str,
    value: RawBsonRef<'a>,
) -> Result<Vec<&'a RawDocument>, CommandError> {
    let mut filters = Vec::new();
    for (number, filter) in array(field, value)?.into_iter().enumerate() {
        filters.push(document(&format!("{field}.{number}"), filter.map_err(malformed)?)?);
    }
    Ok(filters)
}

pub(super) fn run(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace: Arc<str> = namespace(op)?.into();
    let arguments = BatchArguments::read("update", "updates", op)?;
    let mut parsed = Vec::new();
    for statement in statements("update", "updates", op)? {
        parsed.push(Statement::read(statement, server.options.version)?);
    }
    check_writable(&namespace)?;
    let retry = begin_retryable(server, op)?;
    let new = BatchResult { modified: Some(0), ..BatchResult::default() };
    let (next, mut result) = take_unfinished(server, op, new);
    for (index, statement) in parsed.iter().enumerate().skip(next) {
        let statement_id = arguments.statement_id(index);
        let retried = match retry.filter(|_| !statement.multi) {
            Some(retry) => retry.executed(server, statement_id)?,
            None => None,
        };
        let done = match retried {
            Some(executed) => {
                result.retried.push(statement_id);
                Ok(Modified::before(&executed))
            }
            None => execute(server, now, op, &namespace, statement, retry, statement_id),
        };
        match done {
            Ok(done) => {
                result.n += done.matched + u64::from(done.upserted.is_some());
                *result.modified.get_or_insert(0) += done.modified;
                if let Some(id) = done.upserted {
                    result.upsert(index, id);
                }
            }
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

/// What one statement did.
pub(super) struct Modified {
    pub matched: u64,
    pub modified: u64,
    pub upserted: Option<RawBson>,
}

const NOTHING: Modified = Modified { matched: 0, modified: 0, upserted: None };

impl Modified {
    /// What a statement that was executed before did then.
    pub(super) fn before(executed: &Executed) -> Modified {
        match executed.kind {
            OpKind::Insert => Modified { upserted: id_of(&executed.object), ..NOTHING },
            _ => Modified { matched: 1, modified: 1, ..NOTHING },
        }
    }
}

/// Executes one statement.
///
/// # Errors
/// What its filter or its update says; 11000 DuplicateKey.
pub(super) fn execute(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    statement: &Statement<'_>,
    retry: Option<Retry>,
    statement_id: i32,
) -> Result<Modified, CommandError> {
    if retry.is_some() && statement.multi {
        return Err(CommandError::new(
            error::INVALID_OPTIONS,
            "Cannot use (or request) retryable writes with multi=true",
        ));
    }
    check_not_view(&server.storage, namespace)?;
    let mut context = statement_context(server, now, op, namespace, statement.collation)?;
    if let Some(constants) = statement.constants {
        bind(&mut context, constants)?;
    }
    if statement.constants.is_some() && !matches!(statement.update, RawBsonRef::Array(_)) {
        return Err(CommandError::new(
            51_198,
            "Constant values may only be specified for pipeline updates",
        ));
    }
    let filters: Vec<DocumentRef<'_>> =
        statement.array_filters.iter().map(|filter| DocumentRef::from(*filter)).collect();
    let update = Update::parse(statement.update, &filters, &context)?;
    if statement.multi && update.is_replacement() {
        return Err(CommandError::new(
            error::FAILED_TO_PARSE,
            "multi update is not supported for replacement-style update",
        ));
    }
    if statement.multi && statement.sort.is_some() {
        return Err(CommandError::new(
            error::FAILED_TO_PARSE,
            "Cannot specify sort with multi=true",
        ));
    }
    let matcher = Matcher::parse(statement.query, &context)?;
    let sort = statement.sort.map(|sort| SortPattern::parse(sort.into(), context.collation));
    let sort = sort.transpose()?;
    context.constant_failure.check("")?;
    let mut found = Vec::new();
    if let Some(view) = server.storage.collection(namespace, ReadAt::Newest) {
        check_hint(&view, statement.hint, Shown { collation: true, ..Shown::of(&matcher) })?;
        let limit = if statement.multi { usize::MAX } else { 1 };
        let query = Query {
            matcher: &matcher,
            sort: sort.as_ref(),
            hint: statement.hint,
            collation: context.collation,
        };
        found = find_sorted(&view, query, limit)?;
    }
    if found.is_empty() && statement.upsert {
        let session = retry.map(|retry| (retry, statement_id));
        let document = upsert(server, now, op, namespace, &update, &matcher, session)?;
        return Ok(Modified { upserted: id_of(&document), ..NOTHING });
    }
    let mut done = Modified { matched: found.len() as u64, ..NOTHING };
    for found in &found {
        let session = retry.map(|retry| (retry, statement_id, None));
        if update_one(server, now, op, namespace, &update, found, session)?.is_some() {
            done.modified += 1;
        }
    }
    Ok(done)
}

/// Which image of a findAndModify its retry will want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedImage {
    Pre,
    Post,
}

/// Updates one document that was found; the new one comes back, `None` if nothing changed.
///
/// # Errors
/// What the update says about the document; 11000 DuplicateKey.
pub(crate) fn update_one(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    update: &Update,
    found: &Found,
    session: Option<(Retry, i32, Option<WantedImage>)>,
) -> Result<Option<Arc<RawDocumentBuf>>, CommandError> {
    let before = decode(&found.document)?;
    let mut outcome = update.apply(&before, false, found.details.array_index)?;
    if update.is_replacement() {
        fill_empty_timestamps(&mut outcome.document, server.repl.cluster_time.into());
    }
    let Some(object) = outcome.oplog_object() else { return Ok(None) };
    let after = to_raw(&outcome.document);
    if after.as_bytes().len() > MAX_DOCUMENT_BYTES {
        return Err(CommandError::new(
            17_419,
            format!("Resulting document after update is larger than {MAX_DOCUMENT_BYTES}"),
        ));
    }
    Validator::of(server, now, op, namespace)?.check(&after, Some(&found.document))?;
    let session = session.map(|(retry, id, image)| {
        let image = image.map(|image| match image {
            WantedImage::Pre => RetryImage::Pre(found.document.clone()),
            WantedImage::Post => RetryImage::Post(Arc::new(after.clone())),
        });
        retry.entry_fields(vec![id], image)
    });
    let view = server.storage.collection(namespace, ReadAt::Newest).expect("it was read");
    let draft = OplogDraft {
        kind: OpKind::Update,
        ns: namespace.clone(),
        collection_uuid: Some(view.uuid()),
        object: Arc::new(object),
        object2: Some(Arc::new(id_document(&found.document))),
        upsert: false,
        session,
    };
    log(server, now, op, draft)?;
    let view = server.storage.collection(namespace, ReadAt::Newest).expect("it was written");
    let stored = view.get(found.record).expect("it was updated").clone();
    debug_assert_eq!(*stored, after, "the entry says what the update did");
    Ok(Some(stored))
}

/// Inserts the document that an upsert makes of its filter and its update.
///
/// # Errors
/// What the update says; 11000 DuplicateKey.
pub(crate) fn upsert(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    update: &Update,
    matcher: &Matcher,
    session: Option<(Retry, i32)>,
) -> Result<Arc<RawDocumentBuf>, CommandError> {
    let id = server.new_object_id(now);
    let mut document = update.upsert_document(matcher, || Bson::ObjectId(id))?;
    fill_empty_timestamps(&mut document, server.repl.cluster_time.into());
    let document = Arc::new(to_raw(&document));
    if document.as_bytes().len() > MAX_DOCUMENT_BYTES {
        return Err(CommandError::new(
            17_420,
            format!("Document to upsert is larger than {MAX_DOCUMENT_BYTES}"),
        ));
    }
    Validator::of(server, now, op, namespace)?.check(&document, None)?;
    let uuid = ensure_collection(server, now, op, namespace)?;
    let draft = OplogDraft {
        kind: OpKind::Insert,
        ns: namespace.clone(),
        collection_uuid: Some(uuid),
        object: document.clone(),
        object2: Some(Arc::new(id_document(&document))),
        upsert: false,
        session: session.map(|(retry, id)| retry.entry_fields(vec![id], None)),
    };
    log(server, now, op, draft)?;
    delete_over_cap(server, now, op, namespace)?;
    Ok(document)
}

/// The `_id` of a document.
pub(crate) fn id_of(document: &RawDocument) -> Option<RawBson> {
    document.get("_id").ok().flatten().map(RawBson::from)
}

/// A reply's `value`: a document or null.
pub(crate) fn append_value(reply: &mut RawDocumentBuf, value: Option<&RawDocumentBuf>) {
    match value {
        Some(document) => reply.append(cstr!("value"), document),
        None => reply.append(cstr!("value"), RawBsonRef::Null),
    }
}
