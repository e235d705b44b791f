//! `insert`, `update`, `delete`, `bulkWrite`: batches of statements, ordered or not, retryable or not.

use bson::raw::{CStr, RawArrayBuf, cstr};
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    array, boolean, each_argument, malformed, missing_field, safe_boolean, safe_i64, wrong_type,
};
use super::catalog::{append_all, append_count};
use super::spec::{CommandSpec, Gate};
use super::{Operation, Outcome};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};

mod bulk;
pub(crate) mod delete;
pub(crate) mod insert;
pub(crate) mod modify;
pub(crate) mod retry;
mod series;
pub(crate) mod validate;

use retry::Retry;

const fn write(
    names: &'static [&'static str],
    run: fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>,
) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: true,
        admin_only: false,
        run,
    }
}

pub(crate) const COMMANDS: &[CommandSpec] = &[
    write(&["insert"], insert::run),
    write(&["update"], modify::run),
    write(&["delete"], delete::run),
    CommandSpec { admin_only: true, ..write(&["bulkWrite"], bulk::run) },
];

/// `maxWriteBatchSize`.
const MAX_STATEMENTS: usize = 100_000;
/// `maxBsonObjectSize`.
pub(crate) const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// What the three commands have in common.
struct BatchArguments {
    ordered: bool,
    /// `stmtIds`, or the first of consecutive ones.
    statement_ids: StatementIds,
}

enum StatementIds {
    From(i32),
    List(Vec<i32>),
}

impl BatchArguments {
    /// Reads the arguments but for the statements themselves, whose field is `statements`.
    fn read(command: &str, statements: &str, op: &Operation) -> Result<Self, CommandError> {
        Self::read_with(command, statements, op, |_, _| Ok(false))
    }

    /// The same with further arguments, that `further` says whether it knows.
    fn read_with<'a>(
        command: &str,
        statements: &str,
        op: &'a Operation,
        mut further: impl FnMut(&'a str, RawBsonRef<'a>) -> Result<bool, CommandError>,
    ) -> Result<Self, CommandError> {
        let mut ordered = true;
        let mut statement_ids = StatementIds::From(0);
        each_argument(command, &op.body, |field, value| {
            let full = format!("{command}.{field}");
            match field {
                "ordered" => ordered = boolean(&full, value)?,
                "bypassDocumentValidation" => {
                    safe_boolean(&full, value)?;
                }
                "stmtId" => {
                    statement_ids = StatementIds::From(read_statement_id(&full, value)?);
                }
                "stmtIds" => {
                    let mut ids = Vec::new();
                    for id in array(&full, value)? {
                        ids.push(read_statement_id(&full, id.map_err(malformed)?)?);
                    }
                    statement_ids = StatementIds::List(ids);
                }
                "let" | "collation" if command != "insert" => {
                    super::arguments::document(&full, value)?;
                }
                "encryptionInformation" | "query" | "collectionUUID" | "isTimeseriesNamespace" => {}
                field if field == statements => {}
                field => return further(field, value),
            }
            Ok(true)
        })?;
        // A transaction ends with the first error.
        ordered |= op.transaction().is_some();
        Ok(BatchArguments { ordered, statement_ids })
    }

    fn statement_id(&self, index: usize) -> i32 {
        match &self.statement_ids {
            StatementIds::From(first) => first.saturating_add(index as i32),
            StatementIds::List(ids) => ids.get(index).copied().unwrap_or(index as i32),
        }
    }
}

fn read_statement_id(field: &str, value: RawBsonRef<'_>) -> Result<i32, CommandError> {
    let id = safe_i64(field, value)?;
    i32::try_from(id).map_err(|_| {
        CommandError::new(error::BAD_VALUE, format!("BSON field '{field}' is out of range"))
    })
}

/// The statements of a batch: an array in the command, or a document sequence beside it.
///
/// # Errors
/// 40414 if there are none, 14 if they are no documents, 16 InvalidLength if too few or too many.
fn statements<'a>(
    command: &str,
    field: &str,
    op: &'a Operation,
) -> Result<Vec<&'a RawDocument>, CommandError> {
    let full = format!("{command}.{field}");
    let sequence = op.sequences.iter().find(|(name, _)| name == field);
    let mut list: Vec<&RawDocument> = Vec::new();
    if let Some((_, documents)) = sequence {
        list.extend(documents.iter().map(|document| &**document));
    } else {
        let value = op.body.get(field).map_err(malformed)?.ok_or_else(|| missing_field(&full))?;
        for (number, element) in array(&full, value)?.into_iter().enumerate() {
            match element.map_err(malformed)? {
                RawBsonRef::Document(document) => list.push(document),
                other => return Err(wrong_type(&format!("{full}.{number}"), other, "'object'")),
            }
        }
    }
    if list.is_empty() || list.len() > MAX_STATEMENTS {
        return Err(CommandError::new(
            error::INVALID_LENGTH,
            format!(
                "Write batch sizes must be between 1 and {MAX_STATEMENTS}. Got {} operations.",
                list.len()
            ),
        ));
    }
    Ok(list)
}

/// A batch that met what an open transaction holds: what it did so far, and where it goes on.
#[derive(Debug)]
pub(crate) struct UnfinishedBatch {
    next: usize,
    done: Done,
}

/// What an unfinished batch did so far.
#[derive(Debug)]
enum Done {
    Batch(BatchResult),
    Bulk(Box<bulk::Progress>),
}

/// Where the batch of a connection goes on after it had to wait, and what it did before; a new one
/// begins with `new`.
fn take_unfinished(server: &mut Mongod, op: &Operation, new: BatchResult) -> (usize, BatchResult) {
    match server.unfinished.remove(&op.connection) {
        Some(UnfinishedBatch { next, done: Done::Batch(result) }) => (next, result),
        _ => (0, new),
    }
}

/// A statement conflicts with an open transaction: the batch stops here.
fn interrupt(
    server: &mut Mongod,
    op: &Operation,
    next: usize,
    result: BatchResult,
    conflict: CommandError,
) -> Result<Outcome, CommandError> {
    if op.transaction().is_none() {
        let unfinished = UnfinishedBatch { next, done: Done::Batch(result) };
        server.unfinished.insert(op.connection, unfinished);
    }
    Err(conflict)
}

/// What a batch did so far.
#[derive(Debug, Default)]
struct BatchResult {
    n: u64,
    /// Updates alone count them.
    modified: Option<u64>,
    errors: Vec<RawDocumentBuf>,
    upserted: Vec<RawDocumentBuf>,
    retried: Vec<i32>,
}

impl BatchResult {
    fn fail(&mut self, index: usize, error: &CommandError) {
        let mut shown = rawdoc! {
            "index": index as i32, "code": error.code, "errmsg": error.message.as_str(),
        };
        if let Some(extra) = &error.extra {
            append_all(&mut shown, extra);
        }
        self.errors.push(shown);
    }

    fn upsert(&mut self, index: usize, id: RawBson) {
        let mut shown = rawdoc! { "index": index as i32 };
        shown.append(cstr!("_id"), id);
        self.upserted.push(shown);
    }

    /// The reply's fields, in the server's order.
    fn reply(self) -> Outcome {
        let mut reply = RawDocumentBuf::new();
        append_count(&mut reply, cstr!("n"), self.n);
        append_list(&mut reply, cstr!("writeErrors"), self.errors);
        append_list(&mut reply, cstr!("retriedStmtIds"), self.retried);
        append_list(&mut reply, cstr!("upserted"), self.upserted);
        if let Some(modified) = self.modified {
            append_count(&mut reply, cstr!("nModified"), modified);
        }
        Outcome::Reply(reply)
    }
}

fn append_list<T: bson::raw::BindRawBsonRef>(
    reply: &mut RawDocumentBuf,
    field: &CStr,
    elements: Vec<T>,
) {
    if !elements.is_empty() {
        let mut list = RawArrayBuf::new();
        elements.into_iter().for_each(|element| list.push(element));
        reply.append(field, list);
    }
}

/// Begins a retryable write, if the request is one.
fn begin_retryable(server: &mut Mongod, op: &Operation) -> Result<Option<Retry>, CommandError> {
    let Some(retry) = Retry::of(op) else { return Ok(None) };
    server.sessions.begin(retry.lsid, retry.txn_number)?;
    Ok(Some(retry))
}
