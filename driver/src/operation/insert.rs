//! `insert`.

use bson::oid::ObjectId;
use bson::{Bson, RawDocument};
use serde::Serialize;

use super::{Command, optional_value, write_concern};
use crate::error::{Error, Result};
use crate::options::WriteConcern;

/// How many documents one command takes (`maxWriteBatchSize` of every server since 3.6).
pub(super) const MAX_COUNT: usize = 100_000;
/// How many bytes of documents one command takes: a message less room for the envelope.
pub(super) const MAX_BYTES: usize = crate::wire::MAX_MESSAGE_SIZE_BYTES - 16 * 1024;

/// The room made at first for a document, in bytes.
const ORDINARY_BYTES: usize = 512;

/// What can be said about an `insert`. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InsertOptions {
    /// Takes documents that break the collection's validation rules.
    pub bypass_document_validation: Option<bool>,
    /// Whether the first refused document ends it; default true. For `insert_many` alone.
    pub ordered: Option<bool>,
    /// Who must have it; default: that of the collection.
    pub write_concern: Option<WriteConcern>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// Documents that fit into one command.
#[derive(Debug, Default)]
pub(crate) struct InsertBatch {
    /// One after another.
    documents: Vec<u8>,
    /// The `_id` of each.
    pub(crate) ids: Vec<Bson>,
}

impl InsertBatch {
    /// A batch of one document of ordinary size, which is to be made with few allocations.
    pub(crate) fn for_one() -> Self {
        InsertBatch { documents: Vec::with_capacity(ORDINARY_BYTES), ids: Vec::with_capacity(1) }
    }

    /// The documents, one after another.
    pub(crate) fn documents(&self) -> &[u8] {
        &self.documents
    }

    /// Adds `value`, with an `_id` from `new_id` if it has none. Returns false, and adds nothing, if
    /// the batch is full.
    ///
    /// # Errors
    /// What serializing fails with; `InvalidArgument` for what is not a document.
    pub(crate) fn push<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        new_id: impl FnOnce() -> ObjectId,
    ) -> Result<bool> {
        if self.ids.len() == MAX_COUNT {
            return Ok(false);
        }
        let start = self.documents.len();
        bson::serialize_to_buffer(&value, &mut self.documents)?;
        let id = {
            let document = RawDocument::from_bytes(&self.documents[start..])
                .map_err(|error| Error::invalid_argument(format!("not a document: {error}")))?;
            crate::wire::find(document, "_id").map(Bson::try_from).transpose()?
        };
        let id = match id {
            Some(id) => id,
            None => {
                let id = new_id();
                // `_id` comes first, as the server stores it: type, key, twelve bytes.
                let mut element = [0; 17];
                element[0] = 0x07;
                element[1..4].copy_from_slice(b"_id");
                element[5..].copy_from_slice(&id.bytes());
                self.documents.splice(start + 4..start + 4, element);
                let length = i32::try_from(self.documents.len() - start).unwrap_or(i32::MAX);
                self.documents[start..start + 4].copy_from_slice(&length.to_le_bytes());
                Bson::ObjectId(id)
            }
        };
        if self.documents.len() > MAX_BYTES && !self.ids.is_empty() {
            self.documents.truncate(start);
            return Ok(false);
        }
        self.ids.push(id);
        Ok(true)
    }
}

/// The `insert` of a batch.
pub(crate) fn insert(
    database: &str,
    collection: &str,
    batch: &mut InsertBatch,
    options: &InsertOptions,
) -> Result<Command> {
    let concern = options.write_concern.as_ref();
    let mut command = Command::new("insert", collection, database, |body| {
        body.bool("ordered", options.ordered.unwrap_or(true));
        if let Some(bypass) = options.bypass_document_validation {
            body.bool("bypassDocumentValidation", bypass);
        }
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, concern)
    })?;
    command.sequence = Some(("documents", std::mem::take(&mut batch.documents)));
    Ok(command.write(concern, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn a_missing_id_is_put_first() {
        let mut batch = InsertBatch::default();
        let id = ObjectId::from_bytes([9; 12]);
        assert!(batch.push(&doc! { "x": 1 }, || id).unwrap());
        assert!(batch.push(&doc! { "x": 2, "_id": 5 }, || unreachable!()).unwrap());
        let command = insert("d", "c", &mut batch, &InsertOptions::default()).unwrap();
        let mut expected = bson::serialize_to_vec(&doc! { "_id": id, "x": 1 }).unwrap();
        expected.extend(bson::serialize_to_vec(&doc! { "x": 2, "_id": 5 }).unwrap());
        assert_eq!(command.sequence, Some(("documents", expected)));
        assert_eq!(batch.ids, [Bson::ObjectId(id), Bson::Int32(5)]);
    }

    #[test]
    fn what_is_not_a_document_is_refused() {
        assert!(InsertBatch::default().push(&7, || ObjectId::from_bytes([0; 12])).is_err());
    }
}
