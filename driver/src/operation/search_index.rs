//! Search indexes (index management specification): commands of Atlas that other servers refuse.

use bson::{Bson, Document, doc};

use super::{Command, optional_value};
use crate::error::Result;

/// A search index to be created.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SearchIndexModel {
    /// What it indexes.
    pub definition: Document,
    /// Its name; default: `default`.
    pub name: Option<String>,
    /// `search` or `vectorSearch`; default: `search`.
    pub index_type: Option<String>,
}

impl SearchIndexModel {
    /// An index of what `definition` says.
    pub fn new(definition: Document) -> Self {
        SearchIndexModel { definition, name: None, index_type: None }
    }

    /// The same index under `name`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same index of another type.
    #[must_use]
    pub fn index_type(mut self, index_type: impl Into<String>) -> Self {
        self.index_type = Some(index_type.into());
        self
    }

    fn to_document(&self) -> Document {
        let mut document = doc! { "definition": self.definition.clone() };
        if let Some(name) = &self.name {
            document.insert("name", name);
        }
        if let Some(index_type) = &self.index_type {
            document.insert("type", index_type);
        }
        document
    }
}

/// A `createSearchIndexes`.
pub(crate) fn create_search_indexes(
    database: &str,
    collection: &str,
    models: &[SearchIndexModel],
) -> Result<Command> {
    let indexes = models.iter().map(|model| Bson::Document(model.to_document())).collect();
    Command::new("createSearchIndexes", collection, database, |body| {
        optional_value(body, "indexes", Some(&Bson::Array(indexes)))
    })
}

/// An `updateSearchIndex`.
pub(crate) fn update_search_index(
    database: &str,
    collection: &str,
    name: &str,
    definition: &Document,
) -> Result<Command> {
    Command::new("updateSearchIndex", collection, database, |body| {
        body.string("name", name);
        super::document(body, "definition", definition)
    })
}

/// A `dropSearchIndex`.
pub(crate) fn drop_search_index(database: &str, collection: &str, name: &str) -> Result<Command> {
    Command::new("dropSearchIndex", collection, database, |body| {
        body.string("name", name);
        Ok(())
    })
}

/// The names in the reply to [`create_search_indexes`].
pub(crate) fn read_search_index_names(reply: &bson::RawDocument) -> Vec<String> {
    let Ok(created) = reply.get_array("indexesCreated") else { return Vec::new() };
    let name = |one| match one {
        Ok(bson::raw::RawBsonRef::Document(one)) => one.get_str("name").ok().map(str::to_owned),
        _ => None,
    };
    created.into_iter().filter_map(name).collect()
}
