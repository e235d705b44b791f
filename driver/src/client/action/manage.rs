//! Collections and databases as a whole.

use std::future::IntoFuture;
use std::time::Duration;

use bson::{Bson, Document};

use super::{builder, runs, session};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Collection, Database};
use crate::error::Result;
use crate::operation::{
    self, CreateCollectionOptions, ModifyCollectionOptions, Namespace, check_write_concern,
};
use crate::options::WriteConcern;
use crate::transport::BoxFuture;

/// Drops a collection or indexes of it: see [`Collection::drop`] and [`Collection::drop_index`].
#[must_use = "nothing happens until it is awaited"]
pub struct Drop {
    collection: Collection<Document>,
    index: Option<Bson>,
    max_time: Option<Duration>,
    comment: Option<Bson>,
    write_concern: Option<WriteConcern>,
    terms: Terms,
}

session!(impl[] Drop);

impl Drop {
    pub(in crate::client) fn collection(collection: Collection<Document>) -> Self {
        Drop {
            collection,
            index: None,
            max_time: None,
            comment: None,
            write_concern: None,
            terms: Terms::default(),
        }
    }

    pub(in crate::client) fn index(collection: Collection<Document>, index: Bson) -> Self {
        Drop { index: Some(index), ..Drop::collection(collection) }
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    /// How long the server works on it; for indexes alone.
    pub fn max_time(mut self, time: Duration) -> Self {
        self.max_time = Some(time);
        self
    }

    /// A remark for logs and the profiler.
    pub fn comment(mut self, comment: impl Into<Bson>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    async fn run(mut self) -> Result<()> {
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.write_concern, inherited)?;
        self.terms.override_max_time(&mut self.max_time);
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let (concern, comment) = (self.write_concern.as_ref(), self.comment.as_ref());
        let command = match &self.index {
            Some(index) => {
                operation::drop_indexes(database, name, index, self.max_time, concern, comment)?
            }
            None => operation::drop_collection(database, name, concern, comment)?,
        };
        match client.run_checked(&command, &self.terms, check_write_concern).await {
            Ok(_) => Ok(()),
            // NamespaceNotFound: before 7.0 a server says so of a collection that is not there.
            Err(error) if error.code() == Some(26) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

runs!(impl[] Drop => ());

/// Drops a database: see [`Database::drop`].
#[must_use = "nothing happens until it is awaited"]
pub struct DropDatabase {
    database: Database,
    comment: Option<Bson>,
    write_concern: Option<WriteConcern>,
    terms: Terms,
}

session!(impl[] DropDatabase);

impl DropDatabase {
    pub(in crate::client) fn new(database: Database) -> Self {
        DropDatabase { database, comment: None, write_concern: None, terms: Terms::default() }
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    /// A remark for logs and the profiler.
    pub fn comment(mut self, comment: impl Into<Bson>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    async fn run(mut self) -> Result<()> {
        let client = self.database.client();
        self.terms.begin_write(client, &mut self.write_concern, self.database.options())?;
        let (concern, comment) = (self.write_concern.as_ref(), self.comment.as_ref());
        let command = operation::drop_database(self.database.name(), concern, comment)?;
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
        capped: bool, size: u64, max: u64, validator: Document, pipeline: Vec<Document>,
        collation: Document, timeseries: Document, expire_after: Duration,
        clustered_index: Document, change_stream_pre_and_post_images: Document,
        index_option_defaults: Document, storage_engine: Document, other: Document,
        write_concern: WriteConcern,
    },
    into { validation_level: String, validation_action: String, view_on: String, comment: Bson }
}

impl CreateCollection {
    pub(in crate::client) fn new(database: Database, name: &str) -> Self {
        let (options, terms) = (CreateCollectionOptions::default(), Terms::default());
        CreateCollection { database, name: name.to_owned(), options, terms }
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

/// Changes a collection: see [`Database::modify_collection`].
#[must_use = "nothing happens until it is awaited"]
pub struct ModifyCollection {
    database: Database,
    name: String,
    options: ModifyCollectionOptions,
    terms: Terms,
}

builder! {
    impl[] ModifyCollection, ModifyCollectionOptions,
    {
        validator: Document, index: Document, pipeline: Vec<Document>,
        change_stream_pre_and_post_images: Document, other: Document,
        write_concern: WriteConcern,
    },
    into { validation_level: String, validation_action: String, view_on: String, comment: Bson }
}

impl ModifyCollection {
    pub(in crate::client) fn new(database: Database, name: &str) -> Self {
        let (options, terms) = (ModifyCollectionOptions::default(), Terms::default());
        ModifyCollection { database, name: name.to_owned(), options, terms }
    }

    async fn run(mut self) -> Result<()> {
        let (client, inherited) = (self.database.client(), self.database.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let command =
            operation::modify_collection(self.database.name(), &self.name, &self.options)?;
        client.run_checked(&command, &self.terms, check_write_concern).await?;
        Ok(())
    }
}

runs!(impl[] ModifyCollection => ());

/// Renames a collection: see [`Collection::rename`].
#[must_use = "nothing happens until it is awaited"]
pub struct Rename {
    collection: Collection<Document>,
    to: Namespace,
    drop_target: Option<bool>,
    comment: Option<Bson>,
    write_concern: Option<WriteConcern>,
    terms: Terms,
}

session!(impl[] Rename);

impl Rename {
    pub(in crate::client) fn new(collection: Collection<Document>, to: Namespace) -> Self {
        let terms = Terms::default();
        Rename { collection, to, drop_target: None, comment: None, write_concern: None, terms }
    }

    /// Whether a collection of the new name is dropped first.
    pub fn drop_target(mut self, drop: bool) -> Self {
        self.drop_target = Some(drop);
        self
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    /// A remark for logs and the profiler.
    pub fn comment(mut self, comment: impl Into<Bson>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    async fn run(mut self) -> Result<()> {
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.write_concern, inherited)?;
        let command = operation::rename_collection(
            &self.collection.namespace(),
            &self.to.to_string(),
            self.drop_target,
            self.write_concern.as_ref(),
            self.comment.as_ref(),
        )?;
        client.run_checked(&command, &self.terms, check_write_concern).await?;
        Ok(())
    }
}

runs!(impl[] Rename => ());
