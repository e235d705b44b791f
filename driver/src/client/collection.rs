//! Collections.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document};
use serde::Serialize;

use super::{
    Aggregate, Client, CollectionBulkWrite, Count, CountByCommand, CreateIndexes, Database, Delete,
    Distinct, Drop, EstimatedCount, Find, FindOne, FindOneAndModify, InsertMany, InsertOne,
    ListIndexNames, ListIndexes, ManageSearchIndexes, Rename, Update, Watch, Watched,
};
use crate::error::Result;
use crate::operation::{
    Change, CollectionWriteModel, IndexModel, Modification, Namespace, SearchIndexModel,
    UpdateModifications,
};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};

/// What a collection's, or database's, reads and writes use where nothing else is said.
#[derive(Clone, Debug, Default)]
pub struct CollectionOptions {
    /// Which members answer reads.
    pub selection_criteria: Option<SelectionCriteria>,
    /// Which data reads see.
    pub read_concern: Option<ReadConcern>,
    /// Who must have a write.
    pub write_concern: Option<WriteConcern>,
    /// How long each operation may take (`timeoutMS`); zero is no limit.
    pub timeout: Option<Duration>,
}

impl CollectionOptions {
    /// These, and `others` where these say nothing.
    pub(super) fn or(self, others: &CollectionOptions) -> Self {
        CollectionOptions {
            selection_criteria: self
                .selection_criteria
                .or_else(|| others.selection_criteria.clone()),
            read_concern: self.read_concern.or_else(|| others.read_concern.clone()),
            write_concern: self.write_concern.or_else(|| others.write_concern.clone()),
            timeout: self.timeout.or(others.timeout),
        }
    }
}

/// A collection, whose documents are read and written as `T`. Cheap to clone.
pub struct Collection<T> {
    inner: Arc<Inner>,
    of: PhantomData<fn() -> T>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    name: String,
    options: CollectionOptions,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Collection { inner: self.inner.clone(), of: PhantomData }
    }
}

impl<T> std::fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection({})", self.namespace())
    }
}

impl<T> Collection<T> {
    pub(super) fn new(database: Database, name: &str, options: CollectionOptions) -> Self {
        let inner = Inner { database, name: name.to_owned(), options };
        Collection { inner: Arc::new(inner), of: PhantomData }
    }

    /// The same collection with documents of type `U`.
    pub fn clone_with_type<U>(&self) -> Collection<U> {
        Collection { inner: self.inner.clone(), of: PhantomData }
    }

    /// The same collection, whose reads and writes use what is said in `options`.
    #[must_use]
    pub fn with_options(&self, options: CollectionOptions) -> Self {
        let options = options.or(&self.inner.options);
        Collection::new(self.inner.database.clone(), &self.inner.name, options)
    }

    /// The same collection, read from the members `criteria` allow.
    #[must_use]
    pub fn with_selection_criteria(&self, criteria: impl Into<SelectionCriteria>) -> Self {
        let selection_criteria = Some(criteria.into());
        self.with_options(CollectionOptions { selection_criteria, ..Default::default() })
    }

    /// The same collection, written with `concern`.
    #[must_use]
    pub fn with_write_concern(&self, concern: WriteConcern) -> Self {
        let write_concern = Some(concern);
        self.with_options(CollectionOptions { write_concern, ..Default::default() })
    }

    /// The same collection, each operation of which may take this long.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with_options(CollectionOptions { timeout: Some(timeout), ..Default::default() })
    }

    /// The client.
    pub fn client(&self) -> &Client {
        self.inner.database.client()
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The name, without that of the database.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// `database.collection`.
    pub fn namespace(&self) -> String {
        format!("{}.{}", self.inner.database.name(), self.inner.name)
    }

    /// What its reads and writes use where nothing else is said.
    pub fn options(&self) -> &CollectionOptions {
        &self.inner.options
    }

    /// Finds all documents that match `filter`.
    pub fn find(&self, filter: Document) -> Find<T> {
        Find::new(self, filter)
    }

    /// Finds one document that matches `filter`.
    pub fn find_one(&self, filter: Document) -> FindOne<T> {
        FindOne::new(self, filter)
    }

    /// Runs an aggregation. Its documents are read as [`Document`]; see [`Aggregate::with_type`].
    pub fn aggregate(&self, pipeline: impl IntoIterator<Item = Document>) -> Aggregate<Document> {
        Aggregate::new(
            self.inner.database.clone(),
            Some(self.inner.name.clone()),
            pipeline.into_iter().collect(),
            &self.inner.options,
        )
    }

    /// Watches what happens in the collection; each event carries its document as a `T`.
    ///
    /// ```no_run
    /// # async fn example(notes: stepdown_driver::Collection<bson::Document>) -> stepdown_driver::Result<()> {
    /// let mut changes = notes.watch().await?;
    /// while let Some(event) = changes.next().await? {
    ///     println!("{:?} {:?}", event.operation_type, event.full_document);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self) -> Watch<T> {
        let database = &self.inner.database;
        let watched = Watched::Collection(database.name().to_owned(), self.inner.name.clone());
        Watch::new(database.client().clone(), watched, Vec::new(), self.inner.options.clone())
    }

    /// The different values of `field` among the documents that match `filter`.
    pub fn distinct(&self, field: impl AsRef<str>, filter: Document) -> Distinct {
        Distinct::new(self.as_documents(), field.as_ref().to_owned(), filter)
    }

    /// Counts the documents that match `filter`, by an aggregation.
    pub fn count_documents(&self, filter: Document) -> Count {
        Count::new(self.as_documents(), filter)
    }

    /// Counts the documents that match `filter`, by the command `count`: it is quicker than
    /// [`Collection::count_documents`] and does not run in transactions, and drivers advise against it.
    pub fn count(&self, filter: Document) -> CountByCommand {
        CountByCommand::new(self.as_documents(), filter)
    }

    /// How many documents there are about, by the collection's metadata.
    pub fn estimated_document_count(&self) -> EstimatedCount {
        EstimatedCount::new(self.as_documents())
    }

    /// Changes one document that matches `filter`.
    pub fn update_one(&self, filter: Document, update: impl Into<UpdateModifications>) -> Update {
        let change = Ok(Change::Modifications(update.into()));
        Update::new(self.as_documents(), filter, change, false)
    }

    /// Changes all documents that match `filter`.
    pub fn update_many(&self, filter: Document, update: impl Into<UpdateModifications>) -> Update {
        let change = Ok(Change::Modifications(update.into()));
        Update::new(self.as_documents(), filter, change, true)
    }

    /// Deletes one document that matches `filter`.
    pub fn delete_one(&self, filter: Document) -> Delete {
        Delete::new(self.as_documents(), filter, false)
    }

    /// Deletes all documents that match `filter`.
    pub fn delete_many(&self, filter: Document) -> Delete {
        Delete::new(self.as_documents(), filter, true)
    }

    /// Changes one document that matches `filter` and gives it back, as it was before unless
    /// `return_document` says otherwise.
    pub fn find_one_and_update(
        &self,
        filter: Document,
        update: impl Into<UpdateModifications>,
    ) -> FindOneAndModify<T> {
        let change = Change::Modifications(update.into());
        FindOneAndModify::new(self, filter, Ok(Modification::Change(change)))
    }

    /// Deletes one document that matches `filter` and gives it back.
    pub fn find_one_and_delete(&self, filter: Document) -> FindOneAndModify<T> {
        FindOneAndModify::new(self, filter, Ok(Modification::Delete))
    }

    /// Does all writes of `models`, in as few commands as their order allows.
    pub fn bulk_write(
        &self,
        models: impl IntoIterator<Item = CollectionWriteModel>,
    ) -> CollectionBulkWrite {
        CollectionBulkWrite::new(self.as_documents(), models.into_iter().collect())
    }

    /// Creates search indexes, as Atlas has them.
    pub fn create_search_indexes(
        &self,
        models: impl IntoIterator<Item = SearchIndexModel>,
    ) -> ManageSearchIndexes {
        ManageSearchIndexes::create(self.as_documents(), models.into_iter().collect())
    }

    /// Changes the search index `name`.
    pub fn update_search_index(
        &self,
        name: impl Into<String>,
        definition: Document,
    ) -> ManageSearchIndexes {
        ManageSearchIndexes::update(self.as_documents(), name.into(), definition)
    }

    /// Drops the search index `name`; that there is none is no error.
    pub fn drop_search_index(&self, name: impl Into<String>) -> ManageSearchIndexes {
        ManageSearchIndexes::drop(self.as_documents(), name.into())
    }

    /// The search indexes, or the one called `name`.
    pub fn list_search_indexes(&self, name: Option<&str>) -> Aggregate<Document> {
        let of = name.map_or_else(Document::new, |name| bson::doc! { "name": name });
        // These lists know neither read concern nor write concern.
        let inherited = CollectionOptions {
            read_concern: None,
            write_concern: None,
            ..self.inner.options.clone()
        };
        Aggregate::new(
            self.inner.database.clone(),
            Some(self.inner.name.clone()),
            vec![bson::doc! { "$listSearchIndexes": of }],
            &inherited,
        )
    }

    /// Creates an index.
    pub fn create_index(&self, index: IndexModel) -> CreateIndexes {
        CreateIndexes::new(self.as_documents(), vec![index])
    }

    /// Creates indexes.
    pub fn create_indexes(&self, indexes: impl IntoIterator<Item = IndexModel>) -> CreateIndexes {
        CreateIndexes::new(self.as_documents(), indexes.into_iter().collect())
    }

    /// The indexes, as the server describes them.
    pub fn list_indexes(&self) -> ListIndexes {
        ListIndexes::new(self.as_documents())
    }

    /// The names of the indexes.
    pub fn list_index_names(&self) -> ListIndexNames {
        ListIndexNames::new(self.as_documents())
    }

    /// Drops the index `name`.
    pub fn drop_index(&self, name: impl AsRef<str>) -> Drop {
        Drop::index(self.as_documents(), Bson::from(name.as_ref()))
    }

    /// Drops the index over `keys`.
    pub fn drop_index_by_keys(&self, keys: Document) -> Drop {
        Drop::index(self.as_documents(), Bson::Document(keys))
    }

    /// Drops all indexes but the one over `_id`.
    pub fn drop_indexes(&self) -> Drop {
        Drop::index(self.as_documents(), Bson::from("*"))
    }

    /// Gives the collection another name, or moves it to another database.
    pub fn rename(&self, to: Namespace) -> Rename {
        Rename::new(self.as_documents(), to)
    }

    /// Drops the collection.
    pub fn drop(&self) -> Drop {
        Drop::collection(self.as_documents())
    }

    fn as_documents(&self) -> Collection<Document> {
        self.clone_with_type()
    }
}

impl<T: Serialize> Collection<T> {
    /// Inserts `document`. An `_id` is added if it has none.
    pub fn insert_one(&self, document: impl Borrow<T>) -> InsertOne {
        InsertOne::new(self.as_documents(), document.borrow())
    }

    /// Inserts `documents`, in as many commands as their size asks for. An `_id` is added to those
    /// that have none.
    pub fn insert_many(&self, documents: impl IntoIterator<Item = impl Borrow<T>>) -> InsertMany {
        InsertMany::new(self.as_documents(), documents)
    }

    /// Replaces one document that matches `filter`.
    pub fn replace_one(&self, filter: Document, replacement: impl Borrow<T>) -> Update {
        let change = replacement_of(replacement.borrow());
        Update::new(self.as_documents(), filter, change, false)
    }

    /// Replaces one document that matches `filter` and gives it back, as it was before unless
    /// `return_document` says otherwise.
    pub fn find_one_and_replace(
        &self,
        filter: Document,
        replacement: impl Borrow<T>,
    ) -> FindOneAndModify<T> {
        let change = replacement_of(replacement.borrow());
        FindOneAndModify::new(self, filter, change.map(Modification::Change))
    }
}

fn replacement_of<T: Serialize>(replacement: &T) -> Result<Change> {
    Ok(Change::Replacement(bson::serialize_to_vec(replacement)?))
}
