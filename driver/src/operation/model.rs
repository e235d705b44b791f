//! The writes of a bulk write, and what it did.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bson::{Bson, Document, doc};

use super::{DeleteResult, Hint, UpdateModifications, UpdateOptions, UpdateResult};
use crate::client::InsertOneResult;
use crate::error::{Error, Result};

/// A database and a collection of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace {
    /// The database.
    pub db: String,
    /// The collection.
    pub coll: String,
}

impl Namespace {
    /// The namespace of the collection `coll` of `db`.
    pub fn new(db: impl Into<String>, coll: impl Into<String>) -> Self {
        Namespace { db: db.into(), coll: coll.into() }
    }
}

impl FromStr for Namespace {
    type Err = Error;

    /// Reads `database.collection`.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('.') {
            Some((db, coll)) if !db.is_empty() && !coll.is_empty() => Ok(Namespace::new(db, coll)),
            _ => Err(Error::invalid_argument(format!("{text:?} is not a namespace"))),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.coll)
    }
}

/// One write of a bulk write.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WriteModel {
    /// Inserts a document.
    InsertOne(InsertOneModel),
    /// Changes one document.
    UpdateOne(UpdateOneModel),
    /// Changes all documents that match.
    UpdateMany(UpdateManyModel),
    /// Replaces one document.
    ReplaceOne(ReplaceOneModel),
    /// Deletes one document.
    DeleteOne(DeleteOneModel),
    /// Deletes all documents that match.
    DeleteMany(DeleteManyModel),
}

impl WriteModel {
    /// Where it writes.
    pub fn namespace(&self) -> &Namespace {
        match self {
            WriteModel::InsertOne(model) => &model.namespace,
            WriteModel::UpdateOne(model) => &model.namespace,
            WriteModel::UpdateMany(model) => &model.namespace,
            WriteModel::ReplaceOne(model) => &model.namespace,
            WriteModel::DeleteOne(model) => &model.namespace,
            WriteModel::DeleteMany(model) => &model.namespace,
        }
    }

    /// Whether it may touch several documents: such a write is never retried.
    pub(crate) fn is_multi(&self) -> bool {
        matches!(self, WriteModel::UpdateMany(_) | WriteModel::DeleteMany(_))
    }
}

/// Writes a model, its setters and its conversion.
macro_rules! model {
    (
        $(#[$doc:meta])* $name:ident => $variant:ident,
        { $($(#[$need_doc:meta])* $need:ident : $need_type:ty),* },
        { $($(#[$may_doc:meta])* $may:ident : $may_type:ty),* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $name {
            /// Where.
            pub namespace: Namespace,
            $($(#[$need_doc])* pub $need: $need_type,)*
            $($(#[$may_doc])* pub $may: Option<$may_type>,)*
        }

        impl $name {
            /// The write without further options.
            pub fn new(namespace: Namespace, $($need: impl Into<$need_type>),*) -> Self {
                $name { namespace, $($need: $need.into(),)* $($may: None,)* }
            }

            $(
                #[doc = concat!("Sets [`", stringify!($name), "::", stringify!($may), "`].")]
                #[must_use]
                pub fn $may(mut self, value: impl Into<$may_type>) -> Self {
                    self.$may = Some(value.into());
                    self
                }
            )*
        }

        impl From<$name> for WriteModel {
            fn from(model: $name) -> Self {
                WriteModel::$variant(model)
            }
        }
    };
}

model! {
    /// Inserts a document; an `_id` is added if it has none.
    InsertOneModel => InsertOne,
    {
        /// The document.
        document: Document
    },
    {}
}

model! {
    /// Changes one document.
    UpdateOneModel => UpdateOne,
    {
        /// Which.
        filter: Document,
        /// How.
        update: UpdateModifications
    },
    {
        /// Which elements of arrays `$[name]` stands for.
        array_filters: Vec<Document>,
        /// The rules of comparing strings.
        collation: Document,
        /// Which index.
        hint: Hint,
        /// Inserts a document if none matches.
        upsert: bool,
        /// Which of several matching documents (server 8.0).
        sort: Document
    }
}

model! {
    /// Changes all documents that match.
    UpdateManyModel => UpdateMany,
    {
        /// Which.
        filter: Document,
        /// How.
        update: UpdateModifications
    },
    {
        /// Which elements of arrays `$[name]` stands for.
        array_filters: Vec<Document>,
        /// The rules of comparing strings.
        collation: Document,
        /// Which index.
        hint: Hint,
        /// Inserts a document if none matches.
        upsert: bool
    }
}

model! {
    /// Replaces one document.
    ReplaceOneModel => ReplaceOne,
    {
        /// Which.
        filter: Document,
        /// By what.
        replacement: Document
    },
    {
        /// The rules of comparing strings.
        collation: Document,
        /// Which index.
        hint: Hint,
        /// Inserts the document if none matches.
        upsert: bool,
        /// Which of several matching documents (server 8.0).
        sort: Document
    }
}

model! {
    /// Deletes one document.
    DeleteOneModel => DeleteOne,
    {
        /// Which.
        filter: Document
    },
    {
        /// The rules of comparing strings.
        collation: Document,
        /// Which index.
        hint: Hint
    }
}

model! {
    /// Deletes all documents that match.
    DeleteManyModel => DeleteMany,
    {
        /// Which.
        filter: Document
    },
    {
        /// The rules of comparing strings.
        collation: Document,
        /// Which index.
        hint: Hint
    }
}

impl UpdateOneModel {
    pub(super) fn options(&self) -> UpdateOptions {
        UpdateOptions {
            array_filters: self.array_filters.clone(),
            collation: self.collation.clone(),
            hint: self.hint.clone(),
            upsert: self.upsert,
            sort: self.sort.clone(),
            ..UpdateOptions::default()
        }
    }
}

impl UpdateManyModel {
    pub(super) fn options(&self) -> UpdateOptions {
        UpdateOptions {
            array_filters: self.array_filters.clone(),
            collation: self.collation.clone(),
            hint: self.hint.clone(),
            upsert: self.upsert,
            ..UpdateOptions::default()
        }
    }
}

impl ReplaceOneModel {
    pub(super) fn options(&self) -> UpdateOptions {
        UpdateOptions {
            collation: self.collation.clone(),
            hint: self.hint.clone(),
            upsert: self.upsert,
            sort: self.sort.clone(),
            ..UpdateOptions::default()
        }
    }
}

/// What a bulk write did.
///
/// All counts are zero if the write concern asked for no acknowledgment.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct BulkWriteResult {
    /// Whether the server said anything about it.
    pub acknowledged: bool,
    /// How many documents were inserted.
    pub inserted_count: u64,
    /// How many documents were inserted because none matched.
    pub upserted_count: u64,
    /// How many documents matched the filters of updates.
    pub matched_count: u64,
    /// How many documents were changed.
    pub modified_count: u64,
    /// How many documents were deleted.
    pub deleted_count: u64,
    /// The `_id` of each document that was inserted because none matched, by the index of its write;
    /// of [`Client::bulk_write`](crate::Client::bulk_write) with verbose results alone.
    pub upserted_ids: BTreeMap<usize, Bson>,
    /// Whether the next three are filled: asked for by `verbose_results`.
    pub has_verbose_results: bool,
    /// What each insert did, by its index.
    pub insert_results: BTreeMap<usize, InsertOneResult>,
    /// What each update and replacement did, by its index.
    pub update_results: BTreeMap<usize, UpdateResult>,
    /// What each deletion did, by its index.
    pub delete_results: BTreeMap<usize, DeleteResult>,
}

impl BulkWriteResult {
    /// As a document, with the names of the specification.
    pub(crate) fn to_document(&self) -> Document {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut document = doc! {
            "insertedCount": number(self.inserted_count),
            "upsertedCount": number(self.upserted_count),
            "matchedCount": number(self.matched_count),
            "modifiedCount": number(self.modified_count),
            "deletedCount": number(self.deleted_count),
        };
        if !self.has_verbose_results {
            return document;
        }
        let inserts = self.insert_results.iter().map(|(index, result)| {
            (index.to_string(), Bson::from(doc! { "insertedId": result.inserted_id.clone() }))
        });
        document.insert("insertResults", inserts.collect::<Document>());
        let updates = self.update_results.iter().map(|(index, result)| {
            let mut one = doc! {
                "matchedCount": number(result.matched_count),
                "modifiedCount": number(result.modified_count),
            };
            if let Some(id) = &result.upserted_id {
                one.insert("upsertedId", id.clone());
            }
            (index.to_string(), Bson::from(one))
        });
        document.insert("updateResults", updates.collect::<Document>());
        let deletes = self.delete_results.iter().map(|(index, result)| {
            let count = number(result.deleted_count);
            (index.to_string(), Bson::from(doc! { "deletedCount": count }))
        });
        document.insert("deleteResults", deletes.collect::<Document>());
        document
    }
}

/// What can be said about a bulk write. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BulkWriteOptions {
    /// Whether the first refused write ends it; default true.
    pub ordered: Option<bool>,
    /// Takes documents that break validation rules.
    pub bypass_document_validation: Option<bool>,
    /// Variables for expressions.
    pub let_vars: Option<Document>,
    /// Whether the result tells of each write; for [`Client::bulk_write`](crate::Client::bulk_write)
    /// alone; default false.
    pub verbose_results: Option<bool>,
    /// Who must have it; default: that of the client or collection.
    pub write_concern: Option<crate::options::WriteConcern>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}
