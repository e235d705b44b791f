//! `insert`.

use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::spec::ElementType;
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::retry::Retry;
use super::series::Series;
use super::validate::Validator;
use super::{
    BatchArguments, BatchResult, MAX_DOCUMENT_BYTES, begin_retryable, interrupt, statements,
    take_unfinished,
};
use crate::mongod::command::arguments::{check_writable, malformed, namespace, type_name};
use crate::mongod::command::catalog::{ensure_collection, log};
use crate::mongod::command::views::check_not_view;
use crate::mongod::command::{Operation, OplogDraft, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::OpKind;
use crate::mongod::{Mongod, ServerVersion};

/// Documents of one vectored insert (`internalInsertMaxBatchSize`).
const MAX_VECTOR: usize = 500;
/// Bytes of one vectored insert (`insertVectorMaxBytes`).
const MAX_VECTOR_BYTES: usize = 256 << 10;

/// A document on its way into the collection.
struct Pending {
    index: usize,
    statement_id: i32,
    document: Arc<RawDocumentBuf>,
}

pub(super) fn run(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let arguments = BatchArguments::read("insert", "documents", op)?;
    let documents = statements("insert", "documents", op)?;
    check_writable(&namespace)?;
    let retry = begin_retryable(server, op)?;
    if let Some(series) = Series::of(server, &namespace) {
        return Ok(series.insert(server, now, op, &documents, arguments.ordered).reply());
    }
    if let Err(error) = check_not_view(&server.storage, &namespace) {
        let mut result = BatchResult::default();
        let failing = if arguments.ordered { 1 } else { documents.len() };
        (0..failing).for_each(|index| result.fail(index, &error));
        return Ok(result.reply());
    }
    let uuid = ensure_collection(server, now, op, &namespace)?;
    let target = server.storage.collection(&namespace, ReadAt::Newest).expect("made just now");
    // One entry for a run of inserts since 8.0, but not where each may delete another.
    let vectored = server.options.version >= ServerVersion::V8_0 && !target.is_capped();
    let mut insert = Insert { server, now, op, namespace: namespace.into(), uuid, retry };
    let validator = Validator::of(insert.server, now, op, &insert.namespace)?;
    let (next, mut result) = take_unfinished(insert.server, op, BatchResult::default());
    let mut run: Vec<Pending> = Vec::new();
    let mut run_bytes = 0;
    for (index, document) in documents.into_iter().enumerate().skip(next) {
        let statement_id = arguments.statement_id(index);
        let executed = match retry {
            Some(retry) => retry.executed(insert.server, statement_id)?.is_some(),
            None => false,
        };
        if executed {
            result.n += 1;
            result.retried.push(statement_id);
            continue;
        }
        let prepared = insert.prepare(document).and_then(|document| {
            validator.check(&document, None)?;
            Ok(document)
        });
        let too_large = prepared
            .as_ref()
            .is_ok_and(|document| run_bytes + document.as_bytes().len() > MAX_VECTOR_BYTES);
        if run.len() >= MAX_VECTOR || too_large || !vectored || prepared.is_err() {
            if let Err((index, conflict)) = insert.flush(&mut run, &arguments, &mut result) {
                return interrupt(server, op, index, result, conflict);
            }
            run_bytes = 0;
            if arguments.ordered && !result.errors.is_empty() {
                break;
            }
        }
        match prepared {
            Ok(document) => {
                run_bytes += document.as_bytes().len();
                run.push(Pending { index, statement_id, document });
            }
            Err(error) => {
                result.fail(index, &error);
                if arguments.ordered {
                    break;
                }
            }
        }
    }
    if let Err((index, conflict)) = insert.flush(&mut run, &arguments, &mut result) {
        return interrupt(server, op, index, result, conflict);
    }
    Ok(result.reply())
}

/// Inserts one document, as a statement among others.
///
/// # Errors
/// What the document or the collection's validator says; 11000 DuplicateKey.
pub(crate) fn insert_one(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    document: &RawDocument,
    session: Option<(Retry, i32)>,
) -> Result<(), CommandError> {
    let uuid = ensure_collection(server, now, op, namespace)?;
    let retry = session.map(|(retry, _)| retry);
    let mut insert = Insert { server, now, op, namespace: namespace.clone(), uuid, retry };
    let document = insert.prepare(document)?;
    Validator::of(insert.server, now, op, namespace)?.check(&document, None)?;
    let statement_id = session.map_or(0, |(_, statement_id)| statement_id);
    insert.log_one(&Pending { index: 0, statement_id, document })
}

/// Inserts a document of the server's own as it is, into a collection that exists.
///
/// # Errors
/// 11000 DuplicateKey.
pub(crate) fn insert_stored(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    document: RawDocumentBuf,
) -> Result<(), CommandError> {
    let view = server.storage.collection(namespace, ReadAt::Newest);
    let uuid = view.expect("the caller has made it").uuid();
    let mut insert = Insert { server, now, op, namespace: namespace.clone(), uuid, retry: None };
    insert.log_one(&Pending { index: 0, statement_id: 0, document: Arc::new(document) })
}

struct Insert<'a> {
    server: &'a mut Mongod,
    now: Instant,
    op: &'a Operation,
    namespace: Arc<str>,
    uuid: Uuid,
    retry: Option<Retry>,
}

impl Insert<'_> {
    /// Writes a run of documents: by one entry if there are several and nothing stands against any,
    /// one by one otherwise. What an open transaction stands against comes back with its index.
    fn flush(
        &mut self,
        run: &mut Vec<Pending>,
        arguments: &BatchArguments,
        result: &mut BatchResult,
    ) -> Result<(), (usize, CommandError)> {
        let run = std::mem::take(run);
        if arguments.ordered && !result.errors.is_empty() {
            return Ok(());
        }
        let vectored = run.len() > 1 && self.op.transaction().is_none();
        if vectored && self.log_vector(&run).is_ok() {
            result.n += run.len() as u64;
            return Ok(());
        }
        for pending in run {
            match self.log_one(&pending) {
                Ok(()) => result.n += 1,
                Err(error) if error.code == error::WRITE_CONFLICT => {
                    return Err((pending.index, error));
                }
                Err(error) => {
                    result.fail(pending.index, &error);
                    if arguments.ordered {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn log_one(&mut self, pending: &Pending) -> Result<(), CommandError> {
        let session = self.retry.map(|retry| retry.entry_fields(vec![pending.statement_id], None));
        let draft = OplogDraft {
            kind: OpKind::Insert,
            ns: self.namespace.clone(),
            collection_uuid: Some(self.uuid),
            object: pending.document.clone(),
            object2: Some(Arc::new(id_document(&pending.document))),
            upsert: false,
            session,
        };
        log(self.server, self.now, self.op, draft)?;
        delete_over_cap(self.server, self.now, self.op, &self.namespace)
    }

    fn log_vector(&mut self, run: &[Pending]) -> Result<(), CommandError> {
        let mut operations = RawArrayBuf::new();
        for pending in run {
            let mut operation = rawdoc! {
                "op": "i", "ns": &*self.namespace, "ui": Binary::from_uuid(self.uuid),
            };
            operation.append(cstr!("o"), &*pending.document);
            operation.append(cstr!("o2"), id_document(&pending.document));
            if self.retry.is_some() {
                operation.append(cstr!("stmtId"), pending.statement_id);
            }
            operations.push(operation);
        }
        let mut object = RawDocumentBuf::new();
        object.append(cstr!("applyOps"), operations);
        let statement_ids = run.iter().map(|pending| pending.statement_id).collect();
        let draft = OplogDraft {
            kind: OpKind::Command,
            ns: "admin.$cmd".into(),
            collection_uuid: None,
            object: Arc::new(object),
            object2: None,
            upsert: false,
            session: self.retry.map(|retry| retry.entry_fields(statement_ids, None)),
        };
        log(self.server, self.now, self.op, draft).map(|_| ())
    }

    /// The document as it is stored: an `_id` first of all, empty timestamps filled in.
    fn prepare(&mut self, document: &RawDocument) -> Result<Arc<RawDocumentBuf>, CommandError> {
        let size = document.as_bytes().len();
        if size > MAX_DOCUMENT_BYTES {
            return Err(CommandError::new(
                error::BSON_OBJECT_TOO_LARGE,
                format!(
                    "object to insert too large. size in bytes: {size}, max size: \
                     {MAX_DOCUMENT_BYTES}"
                ),
            ));
        }
        check_nesting(document, 0)?;
        let id = document.get("_id").map_err(malformed)?;
        if let Some(id) = id {
            check_id(id)?;
        }
        let first = document.iter_elements().next().and_then(Result::ok);
        let id_is_first = first.is_some_and(|element| element.key().as_str() == "_id");
        let has_empty_timestamp = document.iter_elements().flatten().any(|element| {
            element.element_type() == ElementType::Timestamp
                && element.value().is_ok_and(|value| is_empty_timestamp(value))
                && element.key().as_str() != "_id"
        });
        if id_is_first && !has_empty_timestamp {
            return Ok(Arc::new(document.to_owned()));
        }
        let mut stored = RawDocumentBuf::new();
        match id {
            Some(id) => stored.append(cstr!("_id"), id),
            None => stored.append(cstr!("_id"), self.server.new_object_id(self.now)),
        }
        for (field, value) in document.iter().map_while(Result::ok) {
            if field.as_str() == "_id" {
                continue;
            }
            if is_empty_timestamp(value) {
                stored.append(field, Timestamp::from(self.server.repl.cluster_time));
            } else {
                stored.append(field, value);
            }
        }
        Ok(Arc::new(stored))
    }
}

/// Deletes what a capped collection has to let go of, by entries of their own.
pub(crate) fn delete_over_cap(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
) -> Result<(), CommandError> {
    let Some(view) = server.storage.collection(namespace, ReadAt::Newest) else { return Ok(()) };
    if !view.is_capped() {
        return Ok(());
    }
    let (uuid, old) = (view.uuid(), view.over_cap());
    for document in old {
        let draft = OplogDraft {
            kind: OpKind::Delete,
            ns: namespace.clone(),
            collection_uuid: Some(uuid),
            object: Arc::new(id_document(&document)),
            object2: None,
            upsert: false,
            session: None,
        };
        log(server, now, op, draft)?;
    }
    Ok(())
}

/// `{_id: ..}` of a document.
pub(crate) fn id_document(document: &RawDocument) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
    out.append(cstr!("_id"), id);
    out
}

fn is_empty_timestamp(value: RawBsonRef<'_>) -> bool {
    matches!(value, RawBsonRef::Timestamp(Timestamp { time: 0, increment: 0 }))
}

fn check_id(id: RawBsonRef<'_>) -> Result<(), CommandError> {
    match id {
        RawBsonRef::Array(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Undefined => {
            Err(CommandError::new(
                error::INVALID_ID_FIELD,
                format!("The '_id' value cannot be of type {}", type_name(id)),
            ))
        }
        RawBsonRef::Document(document) => {
            for (field, _) in document.iter().map_while(Result::ok) {
                if field.as_str().starts_with('$') {
                    return Err(CommandError::new(
                        error::DOLLAR_PREFIXED_FIELD_NAME,
                        format!(
                            "_id fields may not contain '$'-prefixed fields: {field} is not valid \
                             for storage."
                        ),
                    ));
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Deeper than this a document is refused.
const MAX_DEPTH: usize = 180;

/// Walks the whole document once: what is malformed deep inside must not be stored.
fn check_nesting(document: &RawDocument, depth: usize) -> Result<(), CommandError> {
    if depth > MAX_DEPTH {
        return Err(CommandError::new(
            error::OVERFLOW,
            format!("Cannot store a document nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    for element in document.iter() {
        match element.map_err(malformed)?.1 {
            RawBsonRef::Document(inner) => check_nesting(inner, depth + 1)?,
            RawBsonRef::Array(inner) => {
                let inner = RawDocument::from_bytes(inner.as_bytes()).map_err(malformed)?;
                check_nesting(inner, depth + 1)?;
            }
            _ => {}
        }
    }
    Ok(())
}
