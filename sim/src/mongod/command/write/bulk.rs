//! `bulkWrite` (8.0): inserts, updates and deletes of several collections in one command.

use std::collections::VecDeque;
use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::retry::Retry;
use super::{
    BatchArguments, Done, MAX_STATEMENTS, UnfinishedBatch, begin_retryable, delete, insert, modify,
    statements,
};
use crate::mongod::command::arguments::{
    boolean, check_writable, document, each_field, missing_field, non_negative, safe_boolean,
    safe_i64, string, unknown_field, wrong_type,
};
use crate::mongod::command::catalog::{append_all, append_count};
use crate::mongod::command::cursor::{Cursor, DEFAULT_BATCH_SIZE, Source, first_reply};
use crate::mongod::command::{Operation, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::{Mongod, ServerVersion};

/// The namespace of the cursor over the results.
const RESULTS: &str = "admin.$cmd.bulkWrite";

/// One of `ops`, and the index of its namespace.
struct Op<'a> {
    namespace: usize,
    kind: OpKind<'a>,
}

enum OpKind<'a> {
    Insert(&'a RawDocument),
    Update(Box<modify::Statement<'a>>),
    Delete(delete::Statement<'a>),
}

/// What a bulk did so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    totals: Totals,
    results: VecDeque<Arc<RawDocumentBuf>>,
    retried: RawArrayBuf,
}

/// The totals of the reply.
#[derive(Debug, Default)]
struct Totals {
    errors: u64,
    inserted: u64,
    matched: u64,
    modified: u64,
    upserted: u64,
    deleted: u64,
}

pub(super) fn run(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    if server.options.version < ServerVersion::V8_0 {
        return Err(CommandError::new(
            error::COMMAND_NOT_FOUND,
            format!("no such command: '{}'", op.name),
        ));
    }
    let (mut errors_only, mut batch_size) = (false, DEFAULT_BATCH_SIZE);
    let arguments = BatchArguments::read_with("bulkWrite", "ops", op, |field, value| {
        match field {
            "errorsOnly" => errors_only = boolean("bulkWrite.errorsOnly", value)?,
            "nsInfo" => {}
            "cursor" => {
                each_field(
                    "bulkWrite.cursor",
                    document("bulkWrite.cursor", value)?,
                    |field, value| {
                        if field == "batchSize" {
                            batch_size = non_negative("bulkWrite.cursor", "batchSize", value)?;
                        }
                        Ok(field == "batchSize")
                    },
                )?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let namespaces = read_namespaces(op)?;
    let mut ops = Vec::new();
    for (number, given) in statements("bulkWrite", "ops", op)?.into_iter().enumerate() {
        let read = Op::read(given)?;
        if read.namespace >= namespaces.len() {
            return Err(CommandError::new(
                error::BAD_VALUE,
                format!(
                    "BulkWrite ops entry {number} has an invalid nsInfo index {}.",
                    read.namespace
                ),
            ));
        }
        ops.push(read);
    }
    let retry = begin_retryable(server, op)?;
    if retry.is_some() && ops.iter().any(Op::is_multi) {
        return Err(CommandError::new(
            error::INVALID_OPTIONS,
            "Cannot use retryable writes with multi=true",
        ));
    }
    // It may have begun before and had to wait for an open transaction.
    let (next, mut progress) = match server.unfinished.remove(&op.connection) {
        Some(UnfinishedBatch { next, done: Done::Bulk(progress) }) => (next, progress),
        _ => (0, Box::default()),
    };
    let Progress { totals, results, retried } = &mut *progress;
    for (index, one) in ops.iter().enumerate().skip(next) {
        let statement_id = arguments.statement_id(index);
        let namespace = &namespaces[one.namespace];
        let session = retry.map(|retry| (retry, statement_id));
        let mut was_retried = false;
        match execute(server, now, op, namespace, one, session, totals, &mut was_retried) {
            Ok(mut fields) => {
                if !errors_only {
                    let mut result = rawdoc! { "ok": 1.0, "idx": index as i32 };
                    append_all(&mut result, &fields);
                    fields = result;
                    results.push_back(Arc::new(fields));
                }
            }
            Err(conflict) if conflict.code == error::WRITE_CONFLICT => {
                if op.transaction().is_none() {
                    let unfinished = UnfinishedBatch { next: index, done: Done::Bulk(progress) };
                    server.unfinished.insert(op.connection, unfinished);
                }
                return Err(conflict);
            }
            Err(error) => {
                totals.errors += 1;
                let mut result = rawdoc! {
                    "ok": 0.0, "idx": index as i32, "code": error.code,
                    "errmsg": error.message.as_str(),
                };
                if let Some(extra) = &error.extra {
                    append_all(&mut result, extra);
                }
                result.append(cstr!("n"), 0);
                if let OpKind::Update(_) = one.kind {
                    result.append(cstr!("nModified"), 0);
                }
                results.push_back(Arc::new(result));
                if arguments.ordered {
                    break;
                }
            }
        }
        if was_retried {
            retried.push(statement_id);
        }
    }
    let Progress { totals, results, retried } = *progress;
    let cursor = Cursor {
        namespace: RESULTS.to_owned(),
        source: Source::Ready { documents: results, limited: false },
        read_concern: op.read_concern,
        at_cluster_time: None,
        lsid: op.session.map(|session| session.lsid),
        transaction: op.transaction(),
        tailable: false,
        await_data: false,
        no_timeout: false,
        used: now,
    };
    let outcome = first_reply(server, now, cursor, ReadAt::Newest, batch_size, false)?;
    let Outcome::Reply(mut reply) = outcome else {
        unreachable!("the first batch is there at once")
    };
    append_count(&mut reply, cstr!("nErrors"), totals.errors);
    append_count(&mut reply, cstr!("nInserted"), totals.inserted);
    append_count(&mut reply, cstr!("nMatched"), totals.matched);
    append_count(&mut reply, cstr!("nModified"), totals.modified);
    append_count(&mut reply, cstr!("nUpserted"), totals.upserted);
    append_count(&mut reply, cstr!("nDeleted"), totals.deleted);
    if !retried.is_empty() {
        reply.append(cstr!("retriedStmtIds"), retried);
    }
    Ok(Outcome::Reply(reply))
}

/// Executes one of them: the fields of its result behind `idx`.
#[allow(clippy::too_many_arguments, reason = "one statement of a batch, and what it adds to")]
fn execute(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    one: &Op<'_>,
    session: Option<(Retry, i32)>,
    totals: &mut Totals,
    was_retried: &mut bool,
) -> Result<RawDocumentBuf, CommandError> {
    check_writable(namespace)?;
    let executed = match session {
        Some((retry, statement_id)) => retry.executed(server, statement_id)?,
        None => None,
    };
    *was_retried = executed.is_some();
    let mut fields = RawDocumentBuf::new();
    match &one.kind {
        OpKind::Insert(document) => {
            if executed.is_none() {
                insert::insert_one(server, now, op, namespace, document, session)?;
            }
            totals.inserted += 1;
            fields.append(cstr!("n"), 1);
        }
        OpKind::Update(statement) => {
            let done = match executed {
                Some(executed) => modify::Modified::before(&executed),
                None => {
                    let (retry, id) = (session.map(|session| session.0), session.map(|s| s.1));
                    let id = id.unwrap_or_default();
                    modify::execute(server, now, op, namespace, statement, retry, id)?
                }
            };
            let n = done.matched + u64::from(done.upserted.is_some());
            totals.matched += done.matched;
            totals.modified += done.modified;
            append_count(&mut fields, cstr!("n"), n);
            append_count(&mut fields, cstr!("nModified"), done.modified);
            if let Some(id) = done.upserted {
                totals.upserted += 1;
                let mut upserted = RawDocumentBuf::new();
                upserted.append(cstr!("_id"), id);
                fields.append(cstr!("upserted"), upserted);
            }
        }
        OpKind::Delete(statement) => {
            let deleted = match executed {
                Some(_) => 1,
                None => {
                    let (retry, id) = (session.map(|session| session.0), session.map(|s| s.1));
                    let id = id.unwrap_or_default();
                    delete::execute(server, now, op, namespace, statement, retry, id)?
                }
            };
            totals.deleted += deleted;
            append_count(&mut fields, cstr!("n"), deleted);
        }
    }
    Ok(fields)
}

/// `nsInfo`: the namespaces that the operations name by their index.
fn read_namespaces(op: &Operation) -> Result<Vec<Arc<str>>, CommandError> {
    let mut namespaces: Vec<Arc<str>> = Vec::new();
    for info in statements("bulkWrite", "nsInfo", op)? {
        let mut namespace = None;
        each_field("bulkWrite.nsInfo", info, |field, value| {
            match field {
                "ns" => namespace = Some(string("bulkWrite.nsInfo.ns", value)?),
                "collectionUUID" | "encryptionInformation" | "isTimeseriesNamespace" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let namespace = namespace.ok_or_else(|| missing_field("bulkWrite.nsInfo.ns"))?;
        let valid = namespace
            .split_once('.')
            .is_some_and(|(db, collection)| !db.is_empty() && !collection.is_empty());
        if !valid {
            return Err(CommandError::new(
                error::INVALID_NAMESPACE,
                format!("Invalid namespace specified '{namespace}'"),
            ));
        }
        namespaces.push(namespace.into());
    }
    debug_assert!(namespaces.len() <= MAX_STATEMENTS);
    Ok(namespaces)
}

impl<'a> Op<'a> {
    fn read(given: &'a RawDocument) -> Result<Self, CommandError> {
        let first = given.iter().next().and_then(Result::ok);
        match first.map(|(name, _)| name.as_str()) {
            Some("insert") => Op::read_insert(given),
            Some("update") => Op::read_update(given),
            Some("delete") => Op::read_delete(given),
            other => Err(unknown_field("BulkWriteOps", other.unwrap_or_default())),
        }
    }

    fn is_multi(&self) -> bool {
        match &self.kind {
            OpKind::Insert(_) => false,
            OpKind::Update(statement) => statement.multi,
            OpKind::Delete(statement) => !statement.single,
        }
    }

    fn read_insert(given: &'a RawDocument) -> Result<Self, CommandError> {
        let (mut namespace, mut inserted) = (0, None);
        each_field("insert", given, |field, value| {
            match field {
                "insert" => namespace = index_of("insert.insert", value)?,
                "document" => inserted = Some(document("insert.document", value)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let inserted = inserted.ok_or_else(|| missing_field("insert.document"))?;
        Ok(Op { namespace, kind: OpKind::Insert(inserted) })
    }

    fn read_update(given: &'a RawDocument) -> Result<Self, CommandError> {
        let (mut namespace, mut query, mut update) = (0, None, None);
        let (mut multi, mut upsert, mut array_filters) = (false, false, Vec::new());
        let (mut collation, mut constants, mut hint, mut sort) = (None, None, None, None);
        each_field("update", given, |field, value| {
            let full = format!("update.{field}");
            match field {
                "update" => namespace = index_of(&full, value)?,
                "filter" => query = Some(document(&full, value)?),
                "updateMods" => update = Some(value),
                "multi" => multi = safe_boolean(&full, value)?,
                "upsert" => upsert = safe_boolean(&full, value)?,
                "arrayFilters" => array_filters = modify::read_array_filters(&full, value)?,
                "collation" => collation = Some(document(&full, value)?),
                "constants" => constants = Some(document(&full, value)?),
                "sort" => sort = Some(document(&full, value)?),
                "hint" => hint = Some(value),
                "upsertSupplied" | "sampleId" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let update = update.ok_or_else(|| missing_field("update.updateMods"))?;
        if !matches!(update, RawBsonRef::Document(_) | RawBsonRef::Array(_)) {
            return Err(wrong_type("update.updateMods", update, "'[object, array]'"));
        }
        let statement = modify::Statement {
            query: query.ok_or_else(|| missing_field("update.filter"))?,
            update,
            multi,
            upsert,
            array_filters,
            collation,
            constants,
            hint,
            sort,
        };
        Ok(Op { namespace, kind: OpKind::Update(Box::new(statement)) })
    }

    fn read_delete(given: &'a RawDocument) -> Result<Self, CommandError> {
        let (mut namespace, mut query, mut multi) = (0, None, false);
        let (mut collation, mut hint) = (None, None);
        each_field("delete", given, |field, value| {
            let full = format!("delete.{field}");
            match field {
                "delete" => namespace = index_of(&full, value)?,
                "filter" => query = Some(document(&full, value)?),
                "multi" => multi = safe_boolean(&full, value)?,
                "collation" => collation = Some(document(&full, value)?),
                "hint" => hint = Some(value),
                "sampleId" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let query = query.ok_or_else(|| missing_field("delete.filter"))?;
        let statement = delete::Statement { query, single: !multi, collation, hint };
        Ok(Op { namespace, kind: OpKind::Delete(statement) })
    }
}

/// The index of an operation's namespace.
fn index_of(field: &str, value: RawBsonRef<'_>) -> Result<usize, CommandError> {
    let index = safe_i64(field, value)?;
    usize::try_from(index).map_err(|_| {
        CommandError::new(
            51_024,
            format!("BSON field '{field}' value must be >= 0, actual value '{index}'"),
        )
    })
}
