//! Collections, indexes, databases as a whole; any command.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocumentBuf};
use serde::de::DeserializeOwned;

use super::{builder, runs, session};
use crate::client::cursor::{Cursor, CursorSettings};
use crate::client::terms::Terms;
use crate::client::{
    Client, ClientSession, Collection, CreateIndexesResult, Database, DatabaseSpecification,
    database_specification,
};
use crate::error::Result;
use crate::operation::{
    self, CreateCollectionOptions, CreateIndexOptions, IndexModel, IndexToCreate,
    check_write_concern,
};
use crate::options::{SelectionCriteria, WriteConcern};
use crate::transport::BoxFuture;

/// Creates indexes: see [`Collection::create_index`] and [`Collection::create_indexes`].
#[must_use = "nothing happens until it is awaited"]
pub struct CreateIndexes {
    collection: Collection<Document>,
    indexes: Vec<IndexModel>,
    options: CreateIndexOptions,
    terms: Terms,
}

builder! {
    impl[] CreateIndexes, CreateIndexOptions,
    { max_time: Duration, write_concern: WriteConcern },
    into { comment: Bson }
}

impl CreateIndexes {
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        indexes: Vec<IndexModel>,
    ) -> Self {
        let options = CreateIndexOptions::default();
        CreateIndexes { collection, indexes, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<CreateIndexesResult> {
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        self.terms.override_max_time(&mut self.options.max_time);
        let indexes =
            self.indexes.into_iter().map(IndexToCreate::new).collect::<Result<Vec<_>>>()?;
        let index_names = indexes.iter().map(|index| index.name.clone()).collect();
        let command = operation::create_indexes(
            self.collection.database().name(),
            self.collection.name(),
            indexes,
            &self.options,
        )?;
        client.run_checked(&command, &self.terms, check_write_concern).await?;
        Ok(CreateIndexesResult { index_names })
    }
}

runs!(impl[] CreateIndexes => CreateIndexesResult);

/// Lists indexes: see [`Collection::list_indexes`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListIndexes {
    collection: Collection<Document>,
    batch_size: Option<u32>,
    terms: Terms,
}

session!(impl[] ListIndexes);

impl ListIndexes {
    pub(in crate::client) fn new(collection: Collection<Document>) -> Self {
        ListIndexes { collection, batch_size: None, terms: Terms::default() }
    }

    /// How many documents per batch.
    pub fn batch_size(mut self, size: u32) -> Self {
        self.batch_size = Some(size);
        self
    }

    async fn run(mut self) -> Result<Cursor<Document>> {
        self.terms.begin(self.collection.client(), self.collection.options().timeout)?;
        let database = self.collection.database().name();
        let command = operation::list_indexes(database, self.collection.name(), self.batch_size)?;
        let settings = CursorSettings { batch_size: self.batch_size, ..Default::default() };
        Cursor::open(self.collection.client(), command, self.terms, settings).await
    }
}

runs!(impl[] ListIndexes => Cursor<Document>);

/// Drops a collection or indexes of it: see [`Collection::drop`] and [`Collection::drop_index`].
#[must_use = "nothing happens until it is awaited"]
pub struct Drop {
    collection: Collection<Document>,
    index: Option<String>,
    write_concern: Option<WriteConcern>,
    terms: Terms,
}

session!(impl[] Drop);

impl Drop {
    pub(in crate::client) fn collection(collection: Collection<Document>) -> Self {
        Drop { collection, index: None, write_concern: None, terms: Terms::default() }
    }

    pub(in crate::client) fn index(collection: Collection<Document>, name: String) -> Self {
        Drop { index: Some(name), ..Drop::collection(collection) }
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    async fn run(mut self) -> Result<()> {
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.write_concern, inherited)?;
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let concern = self.write_concern.as_ref();
        let command = match &self.index {
            Some(index) => operation::drop_indexes(database, name, index, concern)?,
            None => operation::drop_collection(database, name, concern)?,
        };
        match client.run_checked(&command, &self.terms, check_write_concern).await {
            Ok(_) => Ok(()),
            // NamespaceNotFound: before 7.0 a server says so of a collection that is not there.
            Err(error) if self.index.is_none() && error.code() == Some(26) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

runs!(impl[] Drop => ());

/// Drops a database: see [`Database::drop`].
#[must_use = "nothing happens until it is awaited"]
pub struct DropDatabase {
    database: Database,
    write_concern: Option<WriteConcern>,
    terms: Terms,
}

session!(impl[] DropDatabase);

impl DropDatabase {
    pub(in crate::client) fn new(database: Database) -> Self {
        DropDatabase { database, write_concern: None, terms: Terms::default() }
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    async fn run(mut self) -> Result<()> {
        let client = self.database.client();
        self.terms.begin_write(client, &mut self.write_concern, self.database.options())?;
        let concern = self.write_concern.as_ref();
        let command = operation::drop_database(self.database.name(), concern)?;
        client.run_checked(&command, &self.terms, check_write_concern).await?;
        Ok(())
    }
}

runs!(impl[] DropDatabase => ());

/// Creates a collection: see [`Database::create_collection`].
#[must_use = "nothing happens until it is awaited"]
pub struct CreateCollection {
    database: Database,
    name: String,
    options: CreateCollectionOptions,
    terms: Terms,
}

builder! {
    impl[] CreateCollection, CreateCollectionOptions,
    {
        capped: bool, size: u64, max: u64, validator: Document, collation: Document,
        other: Document, write_concern: WriteConcern,
    },
    into { comment: Bson }
}

impl CreateCollection {
    pub(in crate::client) fn new(database: Database, name: &str) -> Self {
        let options = CreateCollectionOptions::default();
        CreateCollection { database, name: name.to_owned(), options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<()> {
        let (client, inherited) = (self.database.client(), self.database.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let command =
            operation::create_collection(self.database.name(), &self.name, &self.options)?;
        client.run_checked(&command, &self.terms, check_write_concern).await?;
        Ok(())
    }
}

runs!(impl[] CreateCollection => ());

/// Lists collections: see [`Database::list_collections`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListCollections {
    database: Database,
    filter: Option<Document>,
    terms: Terms,
}

session!(impl[] ListCollections);

impl ListCollections {
    pub(in crate::client) fn new(database: Database) -> Self {
        ListCollections { database, filter: None, terms: Terms::default() }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(mut self) -> Result<Cursor<Document>> {
        self.terms.begin(self.database.client(), self.database.options().timeout)?;
        let command =
            operation::list_collections(self.database.name(), self.filter.as_ref(), false)?;
        let settings = CursorSettings::default();
        Cursor::open(self.database.client(), command, self.terms, settings).await
    }
}

runs!(impl[] ListCollections => Cursor<Document>);

/// Lists the names of collections: see [`Database::list_collection_names`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListCollectionNames {
    database: Database,
    filter: Option<Document>,
    terms: Terms,
}

session!(impl[] ListCollectionNames);

impl ListCollectionNames {
    pub(in crate::client) fn new(database: Database) -> Self {
        ListCollectionNames { database, filter: None, terms: Terms::default() }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(mut self) -> Result<Vec<String>> {
        self.terms.begin(self.database.client(), self.database.options().timeout)?;
        // With a filter that looks at more than the name, the server must not give names alone.
        let names_do = self.filter.iter().flat_map(Document::keys).all(|key| key == "name");
        let command =
            operation::list_collections(self.database.name(), self.filter.as_ref(), names_do)?;
        let settings = CursorSettings::default();
        let mut cursor: Cursor<Document> =
            Cursor::open(self.database.client(), command, self.terms, settings).await?;
        let mut names = Vec::new();
        while cursor.advance().await? {
            names.push(cursor.current().get_str("name")?.to_owned());
        }
        Ok(names)
    }
}

runs!(impl[] ListCollectionNames => Vec<String>);

/// Lists databases: see [`Client::list_databases`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListDatabases {
    client: Client,
    filter: Option<Document>,
    terms: Terms,
}

session!(impl[] ListDatabases);

impl ListDatabases {
    pub(in crate::client) fn new(client: Client) -> Self {
        ListDatabases { client, filter: None, terms: Terms::default() }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(mut self) -> Result<Vec<DatabaseSpecification>> {
        self.terms.begin(&self.client, self.client.options().timeout)?;
        let command = operation::list_databases(self.filter.as_ref(), false)?;
        let reply = self.client.run(&command, &self.terms).await?;
        let mut databases = Vec::new();
        for database in reply.body.get_array("databases")? {
            if let RawBsonRef::Document(database) = database? {
                databases.push(database_specification(database)?);
            }
        }
        Ok(databases)
    }
}

runs!(impl[] ListDatabases => Vec<DatabaseSpecification>);

/// Lists the names of databases: see [`Client::list_database_names`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListDatabaseNames {
    client: Client,
    filter: Option<Document>,
    terms: Terms,
}

session!(impl[] ListDatabaseNames);

impl ListDatabaseNames {
    pub(in crate::client) fn new(client: Client) -> Self {
        ListDatabaseNames { client, filter: None, terms: Terms::default() }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(mut self) -> Result<Vec<String>> {
        self.terms.begin(&self.client, self.client.options().timeout)?;
        let command = operation::list_databases(self.filter.as_ref(), true)?;
        let reply = self.client.run(&command, &self.terms).await?;
        let mut names = Vec::new();
        for database in reply.body.get_array("databases")? {
            if let RawBsonRef::Document(database) = database? {
                names.push(database.get_str("name")?.to_owned());
            }
        }
        Ok(names)
    }
}

runs!(impl[] ListDatabaseNames => Vec<String>);

/// Runs any command: see [`Database::run_command`]. The reply is read as `T`.
#[must_use = "nothing happens until it is awaited"]
pub struct RunCommand<T> {
    database: Database,
    body: Result<RawDocumentBuf>,
    selection_criteria: Option<SelectionCriteria>,
    terms: Terms,
    of: PhantomData<fn() -> T>,
}

session!(impl[T] RunCommand<T>);

impl<T> RunCommand<T> {
    pub(in crate::client) fn new(database: Database, body: Result<RawDocumentBuf>) -> Self {
        RunCommand {
            database,
            body,
            selection_criteria: None,
            terms: Terms::default(),
            of: PhantomData,
        }
    }

    /// Which members may run it; default: the primary.
    pub fn selection_criteria(mut self, criteria: impl Into<SelectionCriteria>) -> Self {
        self.selection_criteria = Some(criteria.into());
        self
    }

    async fn run(mut self) -> Result<T>
    where
        T: DeserializeOwned,
    {
        let body = self.body?;
        self.terms.begin(self.database.client(), self.database.options().timeout)?;
        let transaction = self.terms.session.as_ref().filter(|session| session.in_transaction());
        let criteria = self
            .selection_criteria
            .or_else(|| transaction.and_then(|session| session.transaction_criteria()));
        let command = operation::run_command(self.database.name(), &body, criteria)?;
        let reply = self.database.client().run(&command, &self.terms).await?;
        operation::from_raw(&reply.body)
    }
}

runs!(impl[T: DeserializeOwned + 'static] RunCommand<T> => T);
