//! Databases.

use std::sync::Arc;

use bson::{Document, RawDocument, RawDocumentBuf};

use super::{
    Aggregate, Client, Collection, CollectionOptions, CreateCollection, DropDatabase,
    ListCollectionNames, ListCollections, ModifyCollection, RunCommand, RunCursorCommand, Watch,
    Watched, to_raw,
};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};

/// A database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    client: Client,
    name: Arc<str>,
    options: CollectionOptions,
}

impl Database {
    pub(super) fn new(client: Client, name: &str) -> Self {
        let options = client.collection_options();
        Database { client, name: name.into(), options }
    }

    /// The same database, whose reads and writes use what is said in `options`.
    #[must_use]
    pub fn with_options(mut self, options: CollectionOptions) -> Self {
        self.options = options.or(&self.options);
        self
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which members answer reads.
    pub fn selection_criteria(&self) -> Option<&SelectionCriteria> {
        self.options.selection_criteria.as_ref()
    }

    /// Which data reads see.
    pub fn read_concern(&self) -> Option<&ReadConcern> {
        self.options.read_concern.as_ref()
    }

    /// Who must have a write.
    pub fn write_concern(&self) -> Option<&WriteConcern> {
        self.options.write_concern.as_ref()
    }

    /// What its reads and writes use where nothing else is said.
    pub fn options(&self) -> &CollectionOptions {
        &self.options
    }

    /// The collection `name`, whose documents are read and written as `T`; no round trip.
    pub fn collection<T>(&self, name: &str) -> Collection<T> {
        Collection::new(self.clone(), name, self.options.clone())
    }

    /// The collection `name`, whose reads and writes use what is said in `options`.
    pub fn collection_with_options<T>(
        &self,
        name: &str,
        options: CollectionOptions,
    ) -> Collection<T> {
        Collection::new(self.clone(), name, options.or(&self.options))
    }

    /// Runs any command. It goes to the primary unless `selection_criteria` says otherwise, and is not
    /// retried. The reply is looked at for `ok: 0` alone.
    pub fn run_command(&self, command: Document) -> RunCommand<Document> {
        RunCommand::new(self.clone(), to_raw(&command))
    }

    /// The same with raw documents.
    pub fn run_raw_command(&self, command: &RawDocument) -> RunCommand<RawDocumentBuf> {
        RunCommand::new(self.clone(), Ok(command.to_owned()))
    }

    /// Runs any command that opens a cursor. Where it goes, and that it is not retried, is as with
    /// [`Database::run_command`].
    pub fn run_cursor_command(&self, command: Document) -> RunCursorCommand {
        RunCursorCommand::new(self.clone(), to_raw(&command))
    }

    /// An aggregation over the database (`$currentOp`, ...).
    pub fn aggregate(&self, pipeline: impl IntoIterator<Item = Document>) -> Aggregate<Document> {
        Aggregate::new(self.clone(), None, pipeline.into_iter().collect(), &self.options)
    }

    /// Watches what happens in the collections of the database.
    pub fn watch(&self) -> Watch<Document> {
        let watched = Watched::Database(self.name.to_string());
        Watch::new(self.client.clone(), watched, Vec::new(), self.options.clone())
    }

    /// Creates a collection.
    pub fn create_collection(&self, name: &str) -> CreateCollection {
        CreateCollection::new(self.clone(), name)
    }

    /// Changes a collection (`collMod`).
    pub fn modify_collection(&self, name: &str) -> ModifyCollection {
        ModifyCollection::new(self.clone(), name)
    }

    /// A GridFS bucket: files in chunks.
    pub fn gridfs_bucket(
        &self,
        options: impl Into<Option<super::gridfs::GridFsBucketOptions>>,
    ) -> super::gridfs::GridFsBucket {
        super::gridfs::GridFsBucket::new(self, options.into().unwrap_or_default())
    }

    /// The collections, as the server describes them.
    pub fn list_collections(&self) -> ListCollections {
        ListCollections::new(self.clone())
    }

    /// The names of the collections.
    pub fn list_collection_names(&self) -> ListCollectionNames {
        ListCollectionNames::new(self.clone())
    }

    /// Drops the database.
    pub fn drop(&self) -> DropDatabase {
        DropDatabase::new(self.clone())
    }
}
