//! `bulkWrite`: writes to several collections in one command (bulk write specification).

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocument};

use super::insert::InsertBatch;
use super::model::{BulkWriteOptions, BulkWriteResult, Namespace, WriteModel};
use super::update::{Change, documents};
use super::{
    BodyWriter, Command, UpdateOptions, UpdateResult, integer, optional, optional_value,
    write_concern,
};
use crate::client::InsertOneResult;
use crate::error::{Error, Result, WriteError};
use crate::operation::DeleteResult;

/// Room for what the envelope adds to a `bulkWrite`, in bytes (bulk write specification).
const OVERHEAD_BYTES: usize = 1000;

/// How much fits into one command, by the server's own word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// `maxWriteBatchSize`
    pub(crate) count: usize,
    /// `maxMessageSizeBytes`
    pub(crate) bytes: usize,
}

/// One `bulkWrite` command, and which of the caller's writes are in it.
pub(crate) struct ClientBatch {
    pub(crate) command: Command,
    /// The index of the first write, and how many there are.
    pub(crate) offset: usize,
    pub(crate) count: usize,
    /// The `_id` of each inserted document, by its index in the batch.
    pub(crate) ids: BTreeMap<usize, Bson>,
}

/// The `bulkWrite` of as many of `models`, from `offset` on, as fit.
///
/// # Errors
/// `InvalidArgument` if not even one fits, or for what cannot be written.
pub(crate) fn client_bulk_write(
    models: &[WriteModel],
    offset: usize,
    options: &BulkWriteOptions,
    limits: BatchLimits,
    mut new_id: impl FnMut() -> ObjectId,
) -> Result<ClientBatch> {
    let concern = options.write_concern.as_ref();
    let mut command = Command::new_on_database("bulkWrite", "admin", |body| {
        body.bool("errorsOnly", !options.verbose_results.unwrap_or(false));
        body.bool("ordered", options.ordered.unwrap_or(true));
        if let Some(bypass) = options.bypass_document_validation {
            body.bool("bypassDocumentValidation", bypass);
        }
        optional_value(body, "comment", options.comment.as_ref())?;
        optional(body, "let", options.let_vars.as_ref())?;
        write_concern(body, concern)
    })?;
    let most = limits.bytes.saturating_sub(OVERHEAD_BYTES + command.body.len());
    let (mut ops, mut infos) = (Vec::new(), Vec::new());
    let mut namespaces: Vec<&Namespace> = Vec::new();
    let mut ids = BTreeMap::new();
    let mut count = 0;
    let mut multi = false;
    for model in models[offset..].iter().take(limits.count) {
        let namespace = model.namespace();
        let known = namespaces.iter().position(|known| *known == namespace);
        let index = known.unwrap_or(namespaces.len());
        let mut op = Vec::new();
        let id = write_op(&mut op, model, index, &mut new_id)?;
        let mut info = Vec::new();
        if known.is_none() {
            let mut body = BodyWriter::new(&mut info);
            body.string("ns", &namespace.to_string());
            body.finish();
        }
        if ops.len() + infos.len() + op.len() + info.len() > most {
            break;
        }
        if known.is_none() {
            namespaces.push(namespace);
        }
        ops.extend_from_slice(&op);
        infos.extend_from_slice(&info);
        ids.extend(id.map(|id| (count, id)));
        multi |= model.is_multi();
        count += 1;
    }
    if count == 0 {
        return Err(Error::invalid_argument(format!(
            "write #{offset} does not fit into a message of {} bytes",
            limits.bytes
        )));
    }
    command.sequence = Some(("ops", ops));
    command.second_sequence = Some(("nsInfo", infos));
    Ok(ClientBatch { command: command.write(concern, !multi), offset, count, ids })
}

fn write_op(
    op: &mut Vec<u8>,
    model: &WriteModel,
    index: usize,
    new_id: impl FnMut() -> ObjectId,
) -> Result<Option<Bson>> {
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    let mut body = BodyWriter::new(op);
    let mut id = None;
    match model {
        WriteModel::InsertOne(insert) => {
            body.i32("insert", index);
            let mut batch = InsertBatch::default();
            batch.push(&insert.document, new_id)?;
            body.document("document", batch.documents());
            id = batch.ids.pop();
        }
        WriteModel::UpdateOne(update) => {
            let change = Change::Modifications(update.update.clone());
            update_op(&mut body, index, &update.filter, &change, false, &update.options())?;
        }
        WriteModel::UpdateMany(update) => {
            let change = Change::Modifications(update.update.clone());
            update_op(&mut body, index, &update.filter, &change, true, &update.options())?;
        }
        WriteModel::ReplaceOne(replace) => {
            let change = Change::Replacement(bson::serialize_to_vec(&replace.replacement)?);
            update_op(&mut body, index, &replace.filter, &change, false, &replace.options())?;
        }
        WriteModel::DeleteOne(remove) => {
            let (collation, hint) = (&remove.collation, &remove.hint);
            delete_op(&mut body, index, &remove.filter, false, collation, hint)?;
        }
        WriteModel::DeleteMany(remove) => {
            let (collation, hint) = (&remove.collation, &remove.hint);
            delete_op(&mut body, index, &remove.filter, true, collation, hint)?;
        }
    }
    body.finish();
    Ok(id)
}

fn update_op(
    body: &mut BodyWriter<'_>,
    index: i32,
    filter: &Document,
    change: &Change,
    many: bool,
    options: &UpdateOptions,
) -> Result<()> {
    change.check()?;
    body.i32("update", index);
    super::document(body, "filter", filter)?;
    change.write(body, "updateMods")?;
    body.bool("multi", many);
    if let Some(upsert) = options.upsert {
        body.bool("upsert", upsert);
    }
    if let Some(filters) = &options.array_filters {
        documents(body, "arrayFilters", filters)?;
    }
    optional(body, "sort", options.sort.as_ref())?;
    optional_value(body, "hint", options.hint.clone().map(Bson::from).as_ref())?;
    optional(body, "collation", options.collation.as_ref())
}

fn delete_op(
    body: &mut BodyWriter<'_>,
    index: i32,
    filter: &Document,
    many: bool,
    collation: &Option<Document>,
    hint: &Option<super::Hint>,
) -> Result<()> {
    body.i32("delete", index);
    super::document(body, "filter", filter)?;
    body.bool("multi", many);
    optional_value(body, "hint", hint.clone().map(Bson::from).as_ref())?;
    optional(body, "collation", collation.as_ref())
}

impl BulkWriteResult {
    /// Adds the counts of a reply to `bulkWrite`.
    pub(crate) fn add_counts(&mut self, reply: &RawDocument) {
        self.inserted_count += super::count(reply, "nInserted");
        self.upserted_count += super::count(reply, "nUpserted");
        self.matched_count += super::count(reply, "nMatched");
        self.modified_count += super::count(reply, "nModified");
        self.deleted_count += super::count(reply, "nDeleted");
    }

    /// Adds a document of the results cursor; `model` gives the write at an index of the whole. Returns
    /// the index and the error of a write that was refused.
    pub(crate) fn add_outcome<'a>(
        &mut self,
        document: &RawDocument,
        batch: &mut ClientBatch,
        model: impl FnOnce(usize) -> Option<&'a WriteModel>,
    ) -> Result<Option<(usize, WriteError)>> {
        let lacks = || Error::invalid_response("a result of bulkWrite has no valid \"idx\"");
        let index = integer(document, "idx").and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|index| *index < batch.count).ok_or_else(lacks)?;
        let whole = batch.offset + index;
        if integer(document, "ok") != Some(1) {
            return Ok(Some((whole, write_error(document))));
        }
        match model(whole).ok_or_else(lacks)? {
            WriteModel::InsertOne(_) => {
                let inserted_id = batch.ids.remove(&index).unwrap_or(Bson::Null);
                self.insert_results.insert(whole, InsertOneResult { inserted_id });
            }
            WriteModel::DeleteOne(_) | WriteModel::DeleteMany(_) => {
                let deleted_count = super::count(document, "n");
                self.delete_results.insert(whole, DeleteResult { deleted_count });
            }
            _ => {
                let upserted_id = match document.get("upserted")? {
                    Some(RawBsonRef::Document(upserted)) => {
                        upserted.get("_id")?.map(Bson::try_from).transpose()?
                    }
                    _ => None,
                };
                if let Some(id) = &upserted_id {
                    self.upserted_ids.insert(whole, id.clone());
                }
                let result = UpdateResult {
                    matched_count: super::count(document, "n"),
                    modified_count: super::count(document, "nModified"),
                    upserted_id,
                };
                self.update_results.insert(whole, result);
            }
        }
        Ok(None)
    }
}

fn write_error(document: &RawDocument) -> WriteError {
    let code = integer(document, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or(0);
    let mut error = WriteError::new(code, document.get_str("errmsg").unwrap_or_default());
    error.code_name = document.get_str("codeName").ok().map(str::to_owned);
    let details = document.get_document("errInfo").ok();
    error.details = details.and_then(|details| Document::try_from(details).ok());
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::InsertOneModel;
    use bson::doc;

    const LIMITS: BatchLimits = BatchLimits { count: 100, bytes: 48_000_000 };

    fn insert(coll: &str, id: i32) -> WriteModel {
        InsertOneModel::new(Namespace::new("d", coll), doc! { "_id": id }).into()
    }

    fn id() -> ObjectId {
        ObjectId::from_bytes([7; 12])
    }

    #[test]
    fn a_batch_names_each_namespace_once_and_ends_at_the_limits() {
        let models = [insert("a", 1), insert("b", 2), insert("a", 3)];
        let options = BulkWriteOptions::default();
        let batch = client_bulk_write(&models, 0, &options, LIMITS, id).unwrap();
        assert_eq!((batch.count, batch.ids.len()), (3, 3));
        let infos = batch.command.second_sequence.unwrap().1;
        assert_eq!(infos.len(), 2 * (5 + 4 + 4 + 4));
        let two = BatchLimits { count: 2, ..LIMITS };
        assert_eq!(client_bulk_write(&models, 0, &options, two, id).unwrap().count, 2);
        let rest = client_bulk_write(&models, 2, &options, two, id).unwrap();
        assert_eq!((rest.count, rest.offset), (1, 2));
        let tight = BatchLimits { bytes: 1_000 + 60, ..LIMITS };
        assert!(client_bulk_write(&models, 0, &options, tight, id).is_err());
    }
}
