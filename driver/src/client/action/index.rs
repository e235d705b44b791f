//! Indexes.

use std::future::IntoFuture;
use std::time::Duration;

use bson::{Bson, Document};

use super::{builder, runs, session};
use crate::client::cursor::{Cursor, CursorSettings};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Collection, CreateIndexesResult};
use crate::error::Result;
use crate::operation::{
    self, CreateIndexOptions, IndexModel, IndexToCreate, TimeoutMode, check_write_concern,
};
use crate::options::WriteConcern;
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
    into { commit_quorum: Bson, comment: Bson }
}

impl CreateIndexes {
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        indexes: Vec<IndexModel>,
    ) -> Self {
        let (options, terms) = (CreateIndexOptions::default(), Terms::default());
        CreateIndexes { collection, indexes, options, terms }
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
    comment: Option<Bson>,
    timeout_mode: Option<TimeoutMode>,
    terms: Terms,
}

session!(impl[] ListIndexes);

impl ListIndexes {
    pub(in crate::client) fn new(collection: Collection<Document>) -> Self {
        let terms = Terms::default();
        ListIndexes { collection, batch_size: None, comment: None, timeout_mode: None, terms }
    }

    /// How many documents per batch.
    pub fn batch_size(mut self, size: u32) -> Self {
        self.batch_size = Some(size);
        self
    }

    /// A remark for logs and the profiler.
    pub fn comment(mut self, comment: impl Into<Bson>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// What `timeoutMS` applies to; default: the whole life of the cursor.
    pub fn timeout_mode(mut self, mode: TimeoutMode) -> Self {
        self.timeout_mode = Some(mode);
        self
    }

    async fn run(mut self) -> Result<Cursor<Document>> {
        self.terms.begin(self.collection.client(), self.collection.options().timeout)?;
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let command =
            operation::list_indexes(database, name, self.batch_size, self.comment.as_ref())?;
        let settings = CursorSettings {
            batch_size: self.batch_size,
            comment: self.comment,
            timeout_mode: self.timeout_mode,
            ..Default::default()
        };
        Cursor::open(self.collection.client(), command, self.terms, settings).await
    }
}

runs!(impl[] ListIndexes => Cursor<Document>);

/// Lists the names of indexes: see [`Collection::list_index_names`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListIndexNames {
    list: ListIndexes,
}

impl ListIndexNames {
    pub(in crate::client) fn new(collection: Collection<Document>) -> Self {
        ListIndexNames { list: ListIndexes::new(collection) }
    }

    /// Runs it in `session`.
    pub fn session(mut self, session: &ClientSession) -> Self {
        self.list = self.list.session(session);
        self
    }

    /// Gives the whole operation this long (`timeoutMS`); zero is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.list = self.list.timeout(timeout);
        self
    }

    async fn run(self) -> Result<Vec<String>> {
        let mut cursor = self.list.run().await?;
        let mut names = Vec::new();
        while cursor.advance().await? {
            names.push(cursor.current().get_str("name")?.to_owned());
        }
        Ok(names)
    }
}

runs!(impl[] ListIndexNames => Vec<String>);
