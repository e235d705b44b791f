//! Search indexes.

use std::future::IntoFuture;

use bson::Document;

use super::{runs, session};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Collection};
use crate::error::Result;
use crate::operation::{self, SearchIndexModel};
use crate::transport::BoxFuture;

/// Creates, changes or drops search indexes: see [`Collection::create_search_indexes`] and its like.
/// The result are the names of created indexes.
#[must_use = "nothing happens until it is awaited"]
pub struct ManageSearchIndexes {
    collection: Collection<Document>,
    task: Task,
    terms: Terms,
}

session!(impl[] ManageSearchIndexes);

enum Task {
    Create(Vec<SearchIndexModel>),
    Update(String, Document),
    Drop(String),
}

impl ManageSearchIndexes {
    pub(in crate::client) fn create(
        collection: Collection<Document>,
        models: Vec<SearchIndexModel>,
    ) -> Self {
        ManageSearchIndexes { collection, task: Task::Create(models), terms: Terms::default() }
    }

    pub(in crate::client) fn update(
        collection: Collection<Document>,
        name: String,
        definition: Document,
    ) -> Self {
        let task = Task::Update(name, definition);
        ManageSearchIndexes { collection, task, terms: Terms::default() }
    }

    pub(in crate::client) fn drop(collection: Collection<Document>, name: String) -> Self {
        ManageSearchIndexes { collection, task: Task::Drop(name), terms: Terms::default() }
    }

    async fn run(mut self) -> Result<Vec<String>> {
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin(client, inherited.timeout)?;
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let command = match &self.task {
            Task::Create(models) => operation::create_search_indexes(database, name, models)?,
            Task::Update(index, definition) => {
                operation::update_search_index(database, name, index, definition)?
            }
            Task::Drop(index) => operation::drop_search_index(database, name, index)?,
        };
        match (client.run(&command, &self.terms).await, &self.task) {
            (Ok(reply), _) => Ok(operation::read_search_index_names(&reply.body)),
            // NamespaceNotFound: what is not there needs no dropping.
            (Err(error), Task::Drop(_)) if error.code() == Some(26) => Ok(Vec::new()),
            (Err(error), _) => Err(error),
        }
    }
}

runs!(impl[] ManageSearchIndexes => Vec<String>);
