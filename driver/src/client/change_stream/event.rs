//! What a change stream tells.

use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, Timestamp};
use serde::{Deserialize, Serialize};

/// Where a change stream can be resumed: opaque, to be kept and handed back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResumeToken(RawDocumentBuf);

impl ResumeToken {
    /// A token from its document: the `_id` of an event.
    pub fn new(token: RawDocumentBuf) -> Self {
        ResumeToken(token)
    }

    /// The document.
    pub fn as_raw(&self) -> &RawDocument {
        &self.0
    }
}

/// An event of a change stream. Fields are those of the server's change events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ChangeStreamEvent<T> {
    /// The token to resume after this event.
    #[serde(rename = "_id")]
    pub id: ResumeToken,
    /// What happened.
    pub operation_type: OperationType,
    /// To which collection; not for `invalidate`.
    #[serde(default)]
    pub ns: Option<ChangeNamespace>,
    /// What kind of namespace was created: `collection`, `timeseries` or `view`.
    #[serde(default)]
    pub ns_type: Option<String>,
    /// Under which name, after `rename`.
    #[serde(default)]
    pub to: Option<ChangeNamespace>,
    /// The `_id` of the document.
    #[serde(default)]
    pub document_key: Option<Document>,
    /// What an update changed.
    #[serde(default)]
    pub update_description: Option<UpdateDescription>,
    /// The document: after an insert or a replacement always, after an update as `full_document` asked.
    #[serde(default = "none")]
    pub full_document: Option<T>,
    /// The document before the change, as `full_document_before_change` asked.
    #[serde(default = "none")]
    pub full_document_before_change: Option<T>,
    /// When, on the set's logical clock.
    #[serde(default)]
    pub cluster_time: Option<Timestamp>,
    /// When, on the primary's wall clock.
    #[serde(default)]
    pub wall_time: Option<DateTime>,
    /// The number of the transaction it was part of.
    #[serde(default)]
    pub txn_number: Option<i64>,
    /// The session of the transaction it was part of.
    #[serde(default)]
    pub lsid: Option<Document>,
    /// The collection's UUID, with `show_expanded_events`.
    #[serde(default, rename = "collectionUUID")]
    pub collection_uuid: Option<Bson>,
    /// Details of a change of the catalog, with `show_expanded_events`.
    #[serde(default)]
    pub operation_description: Option<Document>,
    /// Where a large event was split (`$changeStreamSplitLargeEvent`).
    #[serde(default)]
    pub split_event: Option<Document>,
}

fn none<T>() -> Option<T> {
    None
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum OperationType {
    /// A document was inserted.
    Insert,
    /// A document was changed by operators.
    Update,
    /// A document was replaced.
    Replace,
    /// A document was deleted.
    Delete,
    /// A collection was dropped.
    Drop,
    /// A collection was renamed.
    Rename,
    /// A database was dropped.
    DropDatabase,
    /// The stream is at its end.
    Invalidate,
    /// Anything else: `create`, `createIndexes`, `modify`, ...
    Other(String),
}

impl From<String> for OperationType {
    fn from(name: String) -> Self {
        match name.as_str() {
            "insert" => OperationType::Insert,
            "update" => OperationType::Update,
            "replace" => OperationType::Replace,
            "delete" => OperationType::Delete,
            "drop" => OperationType::Drop,
            "rename" => OperationType::Rename,
            "dropDatabase" => OperationType::DropDatabase,
            "invalidate" => OperationType::Invalidate,
            _ => OperationType::Other(name),
        }
    }
}

impl From<OperationType> for String {
    fn from(kind: OperationType) -> Self {
        match kind {
            OperationType::Insert => "insert".to_owned(),
            OperationType::Update => "update".to_owned(),
            OperationType::Replace => "replace".to_owned(),
            OperationType::Delete => "delete".to_owned(),
            OperationType::Drop => "drop".to_owned(),
            OperationType::Rename => "rename".to_owned(),
            OperationType::DropDatabase => "dropDatabase".to_owned(),
            OperationType::Invalidate => "invalidate".to_owned(),
            OperationType::Other(name) => name,
        }
    }
}

/// The namespace of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChangeNamespace {
    /// The database.
    pub db: String,
    /// The collection; not for `dropDatabase`.
    #[serde(default)]
    pub coll: Option<String>,
}

/// What an update changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct UpdateDescription {
    /// Fields with their new values.
    pub updated_fields: Document,
    /// Fields that are gone.
    pub removed_fields: Vec<String>,
    /// Arrays that became shorter.
    #[serde(default)]
    pub truncated_arrays: Option<Vec<TruncatedArray>>,
    /// Which parts of ambiguous paths are names and which are indexes.
    #[serde(default)]
    pub disambiguated_paths: Option<Document>,
}

/// An array that became shorter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TruncatedArray {
    /// Which.
    pub field: String,
    /// How long it is now.
    pub new_size: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{deserialize_from_document, doc};

    #[test]
    fn events_of_every_kind_are_read() {
        let event: ChangeStreamEvent<Document> = deserialize_from_document(doc! {
            "_id": { "_data": "82" }, "operationType": "update", "ns": { "db": "d", "coll": "c" },
            "documentKey": { "_id": 1 }, "clusterTime": Timestamp { time: 1, increment: 2 },
            "updateDescription": { "updatedFields": { "x": 2 }, "removedFields": ["y"],
                "truncatedArrays": [{ "field": "a", "newSize": 1 }] },
        })
        .unwrap();
        assert_eq!(event.operation_type, OperationType::Update);
        assert_eq!(event.full_document, None);
        let arrays = event.update_description.unwrap().truncated_arrays.unwrap();
        assert_eq!(arrays[0].new_size, 1);
        let event: ChangeStreamEvent<Document> = deserialize_from_document(doc! {
            "_id": { "_data": "83" }, "operationType": "createIndexes", "fullDocument": null,
        })
        .unwrap();
        assert_eq!(event.operation_type, OperationType::Other("createIndexes".to_owned()));
    }
}
