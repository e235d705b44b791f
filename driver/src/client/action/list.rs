//! What there is: databases, collections.

use std::future::IntoFuture;
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Bson, Document};

use super::{builder, runs};
use crate::client::cursor::{Cursor, CursorSettings};
use crate::client::terms::Terms;
use crate::client::{
    Client, ClientSession, Database, DatabaseSpecification, database_specification,
};
use crate::error::Result;
use crate::operation::{self, ListCollectionsOptions, ListDatabasesOptions, TimeoutMode};
use crate::transport::BoxFuture;

/// Lists collections: see [`Database::list_collections`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListCollections {
    database: Database,
    options: ListCollectionsOptions,
    terms: Terms,
}

builder! {
    impl[] ListCollections, ListCollectionsOptions,
    {
        filter: Document, name_only: bool, authorized_collections: bool, batch_size: u32,
        timeout_mode: TimeoutMode,
    },
    into { comment: Bson }
}

impl ListCollections {
    pub(in crate::client) fn new(database: Database) -> Self {
        let (options, terms) = (ListCollectionsOptions::default(), Terms::default());
        ListCollections { database, options, terms }
    }

    async fn run(mut self) -> Result<Cursor<Document>> {
        self.terms.begin(self.database.client(), self.database.options().timeout)?;
        open(self.database, &self.options, self.terms).await
    }
}

async fn open(
    database: Database,
    options: &ListCollectionsOptions,
    terms: Terms,
) -> Result<Cursor<Document>> {
    let command = operation::list_collections(database.name(), options)?;
    let settings = CursorSettings {
        batch_size: options.batch_size,
        comment: options.comment.clone(),
        timeout_mode: options.timeout_mode,
        ..CursorSettings::default()
    };
    Cursor::open(database.client(), command, terms, settings).await
}

runs!(impl[] ListCollections => Cursor<Document>);

/// Lists the names of collections: see [`Database::list_collection_names`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListCollectionNames {
    database: Database,
    options: ListCollectionsOptions,
    terms: Terms,
}

builder! {
    impl[] ListCollectionNames, ListCollectionsOptions,
    { filter: Document, authorized_collections: bool, batch_size: u32 },
    into { comment: Bson }
}

impl ListCollectionNames {
    pub(in crate::client) fn new(database: Database) -> Self {
        let (options, terms) = (ListCollectionsOptions::default(), Terms::default());
        ListCollectionNames { database, options, terms }
    }

    async fn run(mut self) -> Result<Vec<String>> {
        self.terms.begin(self.database.client(), self.database.options().timeout)?;
        // With a filter that looks at more than the name, the server must not give names alone.
        let names_do = self.options.filter.iter().flat_map(Document::keys).all(|key| key == "name");
        if names_do {
            self.options.name_only = Some(true);
            self.options.authorized_collections.get_or_insert(true);
        }
        let mut cursor = open(self.database, &self.options, self.terms).await?;
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
    options: ListDatabasesOptions,
    terms: Terms,
}

builder! {
    impl[] ListDatabases, ListDatabasesOptions,
    { filter: Document, authorized_databases: bool, max_time: Duration },
    into { comment: Bson }
}

impl ListDatabases {
    pub(in crate::client) fn new(client: Client) -> Self {
        let (options, terms) = (ListDatabasesOptions::default(), Terms::default());
        ListDatabases { client, options, terms }
    }

    async fn run(mut self) -> Result<Vec<DatabaseSpecification>> {
        self.terms.begin(&self.client, self.client.options().timeout)?;
        self.terms.override_max_time(&mut self.options.max_time);
        let command = operation::list_databases(&self.options, false)?;
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
    options: ListDatabasesOptions,
    terms: Terms,
}

builder! {
    impl[] ListDatabaseNames, ListDatabasesOptions,
    { filter: Document, authorized_databases: bool, max_time: Duration },
    into { comment: Bson }
}

impl ListDatabaseNames {
    pub(in crate::client) fn new(client: Client) -> Self {
        let (options, terms) = (ListDatabasesOptions::default(), Terms::default());
        ListDatabaseNames { client, options, terms }
    }

    async fn run(mut self) -> Result<Vec<String>> {
        self.terms.begin(&self.client, self.client.options().timeout)?;
        self.terms.override_max_time(&mut self.options.max_time);
        let command = operation::list_databases(&self.options, true)?;
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
