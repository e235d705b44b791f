//! Bulk writes of one collection, sent as `insert`, `update` and `delete` commands (CRUD specification,
//! "Bulk writes").

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::{Bson, Document, RawDocument};

use super::insert::{MAX_BYTES, MAX_COUNT};
use super::update::Change;
use super::{
    BodyWriter, Command, Hint, UpdateModifications, delete, optional, optional_value, update,
    write_concern,
};
use crate::error::{Error, Result};
use crate::options::WriteConcern;

/// What can be said about a bulk write. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CollectionBulkWriteOptions {
    /// Whether the first refused write ends it; default true.
    pub ordered: Option<bool>,
    /// Takes documents that break the collection's validation rules.
    pub bypass_document_validation: Option<bool>,
    /// Who must have it; default: that of the collection.
    pub write_concern: Option<WriteConcern>,
    /// Variables for expressions.
    pub let_vars: Option<Document>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// What a write of a bulk write does to the documents it matches, apart from the change itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CollectionWriteOptions {
    /// Which elements of arrays `$[name]` stands for; for updates alone.
    pub array_filters: Option<Vec<Document>>,
    /// Inserts a document if none matches; not for deletions.
    pub upsert: Option<bool>,
    /// Which of several matching documents is changed (server 8.0); not for deletions, nor for many.
    pub sort: Option<Document>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which index.
    pub hint: Option<Hint>,
}

/// One write of a bulk write of one collection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CollectionWriteModel {
    /// Inserts a document.
    InsertOne(Document),
    /// Changes one document that matches.
    UpdateOne(Document, UpdateModifications, CollectionWriteOptions),
    /// Changes all documents that match.
    UpdateMany(Document, UpdateModifications, CollectionWriteOptions),
    /// Replaces one document that matches.
    ReplaceOne(Document, Document, CollectionWriteOptions),
    /// Deletes one document that matches.
    DeleteOne(Document, CollectionWriteOptions),
    /// Deletes all documents that match.
    DeleteMany(Document, CollectionWriteOptions),
}

/// What a bulk write of one collection did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CollectionBulkWriteResult {
    /// How many documents were inserted.
    pub inserted_count: u64,
    /// How many documents matched the filters of updates and replacements.
    pub matched_count: u64,
    /// How many of them were changed.
    pub modified_count: u64,
    /// How many documents were deleted.
    pub deleted_count: u64,
    /// The `_id` of each document that was inserted, by the position of its write.
    pub inserted_ids: BTreeMap<usize, Bson>,
    /// The `_id` of each document that was inserted because none matched, by the position of its write.
    pub upserted_ids: BTreeMap<usize, Bson>,
}

impl CollectionBulkWriteResult {
    /// The same as a document, with the names the specification gives the fields.
    pub fn to_document(&self) -> Document {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let ids = |ids: &BTreeMap<usize, Bson>| -> Document {
            ids.iter().map(|(index, id)| (index.to_string(), id.clone())).collect()
        };
        bson::doc! {
            "insertedCount": number(self.inserted_count),
            "matchedCount": number(self.matched_count),
            "modifiedCount": number(self.modified_count),
            "deletedCount": number(self.deleted_count),
            "upsertedCount": number(self.upserted_ids.len() as u64),
            "insertedIds": ids(&self.inserted_ids),
            "upsertedIds": ids(&self.upserted_ids),
        }
    }

    /// Adds what the reply to `batch` tells; `failed` are the positions of refused writes.
    pub(crate) fn add(&mut self, batch: &WriteBatch, reply: &RawDocument, failed: &[usize]) {
        let n = super::count(reply, "n");
        match batch.kind {
            Kind::Insert => {
                self.inserted_count += n;
                for (index, id) in &batch.inserted {
                    let stopped = batch.ordered && failed.first().is_some_and(|at| index >= at);
                    if !stopped && !failed.contains(index) {
                        self.inserted_ids.insert(*index, id.clone());
                    }
                }
            }
            Kind::Delete => self.deleted_count += n,
            Kind::Update => {
                let upserted = upserted(reply);
                self.matched_count += n.saturating_sub(upserted.len() as u64);
                self.modified_count += super::count(reply, "nModified");
                for (at, id) in upserted {
                    if let Some(index) = batch.indexes.get(at) {
                        self.upserted_ids.insert(*index, id);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// Writes that go into one command.
#[derive(Debug)]
pub(crate) struct WriteBatch {
    kind: Kind,
    ordered: bool,
    statements: Vec<u8>,
    /// Whether each write touches one document at most.
    single: bool,
    /// The position of each write in what the caller passed.
    pub(crate) indexes: Vec<usize>,
    inserted: Vec<(usize, Bson)>,
}

/// Sorts `models` into as few commands as their order and size allow.
///
/// # Errors
/// `InvalidArgument` for a change that is none, and what serializing fails with.
pub(crate) fn batches(
    models: &[CollectionWriteModel],
    ordered: bool,
    new_id: &dyn Fn() -> ObjectId,
) -> Result<Vec<WriteBatch>> {
    let mut batches: Vec<WriteBatch> = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let (kind, statement, single, inserted) = statement(model, new_id)?;
        let fits = |batch: &WriteBatch| {
            batch.kind == kind
                && batch.indexes.len() < MAX_COUNT
                && batch.statements.len() + statement.len() <= MAX_BYTES
        };
        // What may be done in any order goes to others of its kind, wherever they are.
        let found = match ordered {
            true => batches.last_mut().filter(|batch| fits(batch)),
            false => batches.iter_mut().find(|batch| fits(batch)),
        };
        let batch = match found {
            Some(batch) => batch,
            None => {
                batches.push(WriteBatch {
                    kind,
                    ordered,
                    statements: Vec::new(),
                    single: true,
                    indexes: Vec::new(),
                    inserted: Vec::new(),
                });
                batches.last_mut().expect("one was just added")
            }
        };
        batch.statements.extend_from_slice(&statement);
        batch.single &= single;
        batch.indexes.push(index);
        batch.inserted.extend(inserted.map(|id| (index, id)));
    }
    Ok(batches)
}

/// The command of a batch.
pub(crate) fn bulk_command(
    database: &str,
    collection: &str,
    batch: &mut WriteBatch,
    options: &CollectionBulkWriteOptions,
) -> Result<Command> {
    let concern = options.write_concern.as_ref();
    let (name, field) = match batch.kind {
        Kind::Insert => ("insert", "documents"),
        Kind::Update => ("update", "updates"),
        Kind::Delete => ("delete", "deletes"),
    };
    let mut command = Command::new(name, collection, database, |body| {
        body.bool("ordered", batch.ordered);
        if let Some(bypass) = options.bypass_document_validation.filter(|_| name != "delete") {
            body.bool("bypassDocumentValidation", bypass);
        }
        if name != "insert" {
            optional(body, "let", options.let_vars.as_ref())?;
        }
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, concern)
    })?;
    command.sequence = Some((field, std::mem::take(&mut batch.statements)));
    Ok(command.write(concern, batch.single))
}

type Statement = (Kind, Vec<u8>, bool, Option<Bson>);

fn statement(model: &CollectionWriteModel, new_id: &dyn Fn() -> ObjectId) -> Result<Statement> {
    use CollectionWriteModel as Model;
    let change_statement = |filter, change: Change, many, options: &CollectionWriteOptions| {
        change.check()?;
        let mut bytes = Vec::new();
        let mut one = BodyWriter::new(&mut bytes);
        update::statement(&mut one, filter, &change, many, options)?;
        one.finish();
        Ok((Kind::Update, bytes, !many, None))
    };
    let delete_statement = |filter, many, options: &CollectionWriteOptions| {
        let mut bytes = Vec::new();
        let mut one = BodyWriter::new(&mut bytes);
        delete::statement(&mut one, filter, many, options)?;
        one.finish();
        Ok((Kind::Delete, bytes, !many, None))
    };
    match model {
        Model::InsertOne(given) => {
            let id = given.get("_id").cloned();
            let id = id.unwrap_or_else(|| Bson::ObjectId(new_id()));
            let mut bytes = Vec::new();
            let mut one = BodyWriter::new(&mut bytes);
            if !given.contains_key("_id") {
                one.value("_id", &id)?;
            }
            one.elements_of(&bson::serialize_to_vec(given)?);
            one.finish();
            Ok((Kind::Insert, bytes, true, Some(id)))
        }
        Model::UpdateOne(filter, change, options) => {
            change_statement(filter, Change::Modifications(change.clone()), false, options)
        }
        Model::UpdateMany(filter, change, options) => {
            change_statement(filter, Change::Modifications(change.clone()), true, options)
        }
        Model::ReplaceOne(filter, replacement, options) => {
            let replacement = Change::Replacement(bson::serialize_to_vec(replacement)?);
            change_statement(filter, replacement, false, options)
        }
        Model::DeleteOne(filter, options) => delete_statement(filter, false, options),
        Model::DeleteMany(filter, options) => delete_statement(filter, true, options),
    }
}

/// The position in its command, and the `_id`, of each document that was inserted because none
/// matched.
fn upserted(reply: &RawDocument) -> Vec<(usize, Bson)> {
    let Ok(upserted) = reply.get_array("upserted") else { return Vec::new() };
    upserted
        .into_iter()
        .map_while(|one| match one {
            Ok(bson::raw::RawBsonRef::Document(one)) => Some(one),
            _ => None,
        })
        .filter_map(|one| {
            let index = usize::try_from(super::integer(one, "index")?).ok()?;
            Some((index, Bson::try_from(one.get("_id").ok()??).ok()?))
        })
        .collect()
}

/// A bulk write that has nothing to do is refused before anything is sent.
///
/// # Errors
/// `InvalidArgument` if there is no write.
pub(crate) fn check_not_empty(models: &[CollectionWriteModel]) -> Result<()> {
    if models.is_empty() {
        return Err(Error::invalid_argument("a bulk write needs a write at least"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn models() -> Vec<CollectionWriteModel> {
        let options = CollectionWriteOptions::default;
        vec![
            CollectionWriteModel::InsertOne(doc! { "x": 1 }),
            CollectionWriteModel::DeleteMany(doc! {}, options()),
            CollectionWriteModel::InsertOne(doc! { "_id": 7 }),
        ]
    }

    #[test]
    fn the_order_of_writes_decides_how_many_commands_there_are() {
        let new_id = || ObjectId::from_bytes([1; 12]);
        let ordered = batches(&models(), true, &new_id).unwrap();
        let indexes: Vec<_> = ordered.iter().map(|batch| batch.indexes.clone()).collect();
        assert_eq!(indexes, [vec![0], vec![1], vec![2]]);
        let unordered = batches(&models(), false, &new_id).unwrap();
        let indexes: Vec<_> = unordered.iter().map(|batch| batch.indexes.clone()).collect();
        assert_eq!(indexes, [vec![0, 2], vec![1]]);
        assert!(unordered[0].single && !unordered[1].single);
    }

    #[test]
    fn what_an_ordered_batch_did_not_come_to_was_not_inserted() {
        let new_id = || ObjectId::from_bytes([1; 12]);
        let all: Vec<_> =
            (0..3).map(|id| CollectionWriteModel::InsertOne(doc! { "_id": id })).collect();
        let batch = &batches(&all, true, &new_id).unwrap()[0];
        let mut result = CollectionBulkWriteResult::default();
        result.add(batch, &bson::rawdoc! { "n": 1, "ok": 1 }, &[1]);
        assert_eq!(result.inserted_count, 1);
        assert_eq!(result.inserted_ids.keys().collect::<Vec<_>>(), [&0]);
    }
}
