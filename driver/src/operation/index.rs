//! `createIndexes`, `dropIndexes`, `listIndexes`.

use std::fmt::Write as _;
use std::time::Duration;

use bson::{Bson, Document};

use super::{Command, max_time, optional_value, write_concern};
use crate::error::{Error, Result};
use crate::options::{SelectionCriteria, WriteConcern};

/// An index to be created.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct IndexModel {
    /// Its keys and their directions.
    pub keys: Document,
    /// Everything else.
    pub options: Option<IndexOptions>,
}

/// What can be said about an index. `None` means the server's default.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct IndexOptions {
    /// Its name; default: made of its keys, `a_1_b_-1`.
    pub name: Option<String>,
    /// No two documents may have the same keys.
    pub unique: Option<bool>,
    /// Documents without the keys are left out.
    pub sparse: Option<bool>,
    /// Documents are deleted this long after the date under the key.
    pub expire_after: Option<Duration>,
    /// Only documents that match this are indexed.
    pub partial_filter_expression: Option<Document>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// The query planner does not see it.
    pub hidden: Option<bool>,
    /// Anything else an index can be told: `weights`, `wildcardProjection`, `2dsphereIndexVersion`...
    pub other: Option<Document>,
}

impl IndexModel {
    /// An index over `keys`.
    pub fn new(keys: Document) -> Self {
        IndexModel { keys, options: None }
    }

    /// The same index with `options`.
    #[must_use]
    pub fn with_options(mut self, options: IndexOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// The same index, unique.
    #[must_use]
    pub fn unique(mut self) -> Self {
        self.options.get_or_insert_default().unique = Some(true);
        self
    }

    /// The same index under `name`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.get_or_insert_default().name = Some(name.into());
        self
    }
}

/// An index as the command carries it.
pub(crate) struct IndexToCreate {
    /// Its name.
    pub(crate) name: String,
    document: Document,
}

impl IndexToCreate {
    /// Gives the index its name.
    pub(crate) fn new(model: IndexModel) -> Result<Self> {
        if model.keys.is_empty() {
            return Err(Error::invalid_argument("an index has a key at least"));
        }
        let options = model.options.unwrap_or_default();
        let name = options.name.unwrap_or_else(|| default_name(&model.keys));
        let mut document = Document::new();
        document.insert("key", model.keys);
        document.insert("name", name.as_str());
        for (key, value) in
            [("unique", options.unique), ("sparse", options.sparse), ("hidden", options.hidden)]
        {
            if let Some(value) = value {
                document.insert(key, value);
            }
        }
        if let Some(time) = options.expire_after {
            let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
            document.insert("expireAfterSeconds", seconds);
        }
        if let Some(filter) = options.partial_filter_expression {
            document.insert("partialFilterExpression", filter);
        }
        if let Some(collation) = options.collation {
            document.insert("collation", collation);
        }
        document.extend(options.other.unwrap_or_default());
        Ok(IndexToCreate { name, document })
    }
}

fn default_name(keys: &Document) -> String {
    let mut name = String::new();
    for (key, direction) in keys {
        let separator = if name.is_empty() { "" } else { "_" };
        let _ = match direction {
            Bson::String(kind) => write!(name, "{separator}{key}_{kind}"),
            Bson::Double(number) => write!(name, "{separator}{key}_{}", *number as i64),
            other => write!(name, "{separator}{key}_{other}"),
        };
    }
    name
}

/// What can be said about creating indexes. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CreateIndexOptions {
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// Which members must have built them before they count as built (`commitQuorum`).
    pub commit_quorum: Option<Bson>,
    /// Who must have it; default: that of the collection.
    pub write_concern: Option<WriteConcern>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// A `createIndexes`.
pub(crate) fn create_indexes(
    database: &str,
    collection: &str,
    indexes: Vec<IndexToCreate>,
    options: &CreateIndexOptions,
) -> Result<Command> {
    let command = Command::new("createIndexes", collection, database, |body| {
        let indexes = indexes.into_iter().map(|index| Bson::Document(index.document)).collect();
        body.value("indexes", &Bson::Array(indexes))?;
        max_time(body, options.max_time);
        optional_value(body, "commitQuorum", options.commit_quorum.as_ref())?;
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, options.write_concern.as_ref())
    })?;
    Ok(command.definition())
}

/// A `dropIndexes` of the index of this name or these keys; `*` is all of them.
pub(crate) fn drop_indexes(
    database: &str,
    collection: &str,
    index: &Bson,
    time: Option<Duration>,
    concern: Option<&WriteConcern>,
    comment: Option<&Bson>,
) -> Result<Command> {
    let command = Command::new("dropIndexes", collection, database, |body| {
        body.value("index", index)?;
        max_time(body, time);
        optional_value(body, "comment", comment)?;
        write_concern(body, concern)
    })?;
    Ok(command.definition())
}

/// A `listIndexes`: asked of the primary, as the specification wants it.
pub(crate) fn list_indexes(
    database: &str,
    collection: &str,
    batch_size: Option<u32>,
    comment: Option<&Bson>,
) -> Result<Command> {
    let command = Command::new("listIndexes", collection, database, |body| {
        body.nested("cursor", |cursor| {
            if let Some(size) = batch_size {
                cursor.i64("batchSize", i64::from(size));
            }
        });
        optional_value(body, "comment", comment)
    })?;
    Ok(command.read(SelectionCriteria::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn the_default_name_is_made_of_keys_and_directions() {
        let name = |keys| IndexToCreate::new(IndexModel::new(keys)).unwrap().name;
        assert_eq!(name(doc! { "a": 1, "b": -1 }), "a_1_b_-1");
        assert_eq!(name(doc! { "text": "hashed", "f": 1.0 }), "text_hashed_f_1");
    }
}
