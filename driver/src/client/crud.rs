//! What operations give back.

use std::collections::BTreeMap;

use bson::Bson;

/// What an insert of one document did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InsertOneResult {
    /// The `_id` of the document.
    pub inserted_id: Bson,
}

/// What an insert of many documents did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct InsertManyResult {
    /// The `_id` of each document that was inserted, by its position in what was given.
    pub inserted_ids: BTreeMap<usize, Bson>,
}

/// What creating indexes did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreateIndexesResult {
    /// The names of the indexes, in the order given.
    pub index_names: Vec<String>,
}

/// A database as `listDatabases` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseSpecification {
    /// The name.
    pub name: String,
    /// The size on the disk, in bytes.
    pub size_on_disk: u64,
    /// Whether it holds no data.
    pub empty: bool,
}
