//! Finding, aggregating, counting.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use bson::{Bson, Document};
use serde::de::DeserializeOwned;

use super::{builder, runs};
use crate::client::cursor::{Cursor, CursorSettings};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Collection, CollectionOptions, Database};
use crate::error::Result;
use crate::operation::{
    self, AggregateOptions, CountOptions, CursorType, DistinctOptions,
    EstimatedDocumentCountOptions, FindOptions, Hint, TimeoutMode,
};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};
use crate::transport::BoxFuture;

/// Finds documents: see [`Collection::find`].
#[must_use = "nothing happens until it is awaited"]
pub struct Find<T> {
    collection: Collection<T>,
    filter: Document,
    options: FindOptions,
    terms: Terms,
}

builder! {
    impl[T] Find<T>, FindOptions,
    {
        sort: Document, projection: Document, skip: u64, limit: i64, batch_size: u32,
        cursor_type: CursorType, max_time: Duration, max_await_time: Duration,
        timeout_mode: TimeoutMode,
        collation: Document, min: Document, max: Document, return_key: bool,
        show_record_id: bool, no_cursor_timeout: bool, allow_disk_use: bool,
        allow_partial_results: bool, let_vars: Document, read_concern: ReadConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl<T> Find<T> {
    pub(in crate::client) fn new(collection: &Collection<T>, filter: Document) -> Self {
        let options = FindOptions::default();
        Find { collection: collection.clone(), filter, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<Cursor<T>> {
        let options = &mut self.options;
        self.terms.begin_read(
            self.collection.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        )?;
        self.terms.override_max_time(&mut options.max_time);
        let database = self.collection.database().name();
        let command = operation::find(database, self.collection.name(), &self.filter, options)?;
        let awaits = options.cursor_type == Some(CursorType::TailableAwait);
        let settings = CursorSettings {
            batch_size: options.batch_size,
            max_await_time: options.max_await_time.filter(|_| awaits),
            comment: options.comment.clone(),
            tailable: options.cursor_type.is_some_and(|kind| kind != CursorType::NonTailable),
            awaits,
            timeout_mode: options.timeout_mode,
        };
        Cursor::open(self.collection.client(), command, self.terms, settings).await
    }
}

runs!(impl[T: 'static] Find<T> => Cursor<T>);

/// Finds one document: see [`Collection::find_one`].
#[must_use = "nothing happens until it is awaited"]
pub struct FindOne<T> {
    collection: Collection<T>,
    filter: Document,
    options: FindOptions,
    terms: Terms,
}

builder! {
    impl[T] FindOne<T>, FindOptions,
    {
        sort: Document, projection: Document, skip: u64, max_time: Duration, collation: Document,
        min: Document, max: Document, return_key: bool, show_record_id: bool,
        allow_partial_results: bool, let_vars: Document, read_concern: ReadConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl<T> FindOne<T> {
    pub(in crate::client) fn new(collection: &Collection<T>, filter: Document) -> Self {
        let options = FindOptions::default();
        FindOne { collection: collection.clone(), filter, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        let options = &mut self.options;
        self.terms.begin_read(
            self.collection.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        )?;
        self.terms.override_max_time(&mut options.max_time);
        options.limit = Some(-1);
        options.batch_size = None;
        let database = self.collection.database().name();
        let command = operation::find(database, self.collection.name(), &self.filter, options)?;
        let reply = self.collection.client().run(&command, &self.terms).await?;
        let mut batch = operation::CursorReply::new("find", reply.body)?;
        if !batch.advance()? {
            return Ok(None);
        }
        operation::from_raw(batch.current()?).map(Some)
    }
}

runs!(impl[T: DeserializeOwned + 'static] FindOne<T> => Option<T>);

/// Runs an aggregation: see [`Collection::aggregate`] and [`Database::aggregate`].
#[must_use = "nothing happens until it is awaited"]
pub struct Aggregate<T> {
    database: Database,
    collection: Option<String>,
    pipeline: Vec<Document>,
    inherited: CollectionOptions,
    options: AggregateOptions,
    terms: Terms,
    of: PhantomData<fn() -> T>,
}

builder! {
    impl[T] Aggregate<T>, AggregateOptions,
    {
        allow_disk_use: bool, batch_size: u32, bypass_document_validation: bool,
        collation: Document, max_time: Duration, max_await_time: Duration, let_vars: Document,
        timeout_mode: TimeoutMode, read_concern: ReadConcern, write_concern: WriteConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl<T> Aggregate<T> {
    pub(in crate::client) fn new(
        database: Database,
        collection: Option<String>,
        pipeline: Vec<Document>,
        inherited: &CollectionOptions,
    ) -> Self {
        Aggregate {
            database,
            collection,
            pipeline,
            inherited: inherited.clone(),
            options: AggregateOptions::default(),
            terms: Terms::default(),
            of: PhantomData,
        }
    }

    /// Reads its documents as `U`.
    pub fn with_type<U>(self) -> Aggregate<U> {
        Aggregate {
            database: self.database,
            collection: self.collection,
            pipeline: self.pipeline,
            inherited: self.inherited,
            options: self.options,
            terms: self.terms,
            of: PhantomData,
        }
    }

    async fn run(mut self) -> Result<Cursor<T>> {
        let options = &mut self.options;
        self.terms.begin_read(
            self.database.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            &self.inherited,
        )?;
        self.terms.inherit_write(&mut options.write_concern, &self.inherited)?;
        self.terms.override_max_time(&mut options.max_time);
        let command = operation::aggregate(
            self.database.name(),
            self.collection.as_deref(),
            &self.pipeline,
            options,
        )?;
        let settings = CursorSettings {
            batch_size: options.batch_size,
            max_await_time: options.max_await_time,
            comment: options.comment.clone(),
            timeout_mode: options.timeout_mode,
            ..Default::default()
        };
        Cursor::open(self.database.client(), command, self.terms, settings).await
    }
}

runs!(impl[T: 'static] Aggregate<T> => Cursor<T>);

/// Finds different values: see [`Collection::distinct`].
#[must_use = "nothing happens until it is awaited"]
pub struct Distinct {
    collection: Collection<Document>,
    field: String,
    filter: Document,
    options: DistinctOptions,
    terms: Terms,
}

builder! {
    impl[] Distinct, DistinctOptions,
    { collation: Document, max_time: Duration, read_concern: ReadConcern },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl Distinct {
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        field: String,
        filter: Document,
    ) -> Self {
        let options = DistinctOptions::default();
        Distinct { collection, field, filter, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<Vec<Bson>> {
        let options = &mut self.options;
        self.terms.begin_read(
            self.collection.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        )?;
        self.terms.override_max_time(&mut options.max_time);
        let command = operation::distinct(
            self.collection.database().name(),
            self.collection.name(),
            &self.field,
            &self.filter,
            options,
        )?;
        let reply = self.collection.client().run(&command, &self.terms).await?;
        operation::read_distinct(&reply.body)
    }
}

runs!(impl[] Distinct => Vec<Bson>);

/// Counts documents: see [`Collection::count_documents`].
#[must_use = "nothing happens until it is awaited"]
pub struct Count {
    collection: Collection<Document>,
    filter: Document,
    options: CountOptions,
    terms: Terms,
}

builder! {
    impl[] Count, CountOptions,
    {
        collation: Document, limit: u64, skip: u64, max_time: Duration,
        read_concern: ReadConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl Count {
    pub(in crate::client) fn new(collection: Collection<Document>, filter: Document) -> Self {
        Count { collection, filter, options: CountOptions::default(), terms: Terms::default() }
    }

    async fn run(mut self) -> Result<u64> {
        let options = &mut self.options;
        self.terms.begin_read(
            self.collection.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        )?;
        self.terms.override_max_time(&mut options.max_time);
        let command = operation::count_from_aggregate(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            options,
        )?;
        let reply = self.collection.client().run(&command, &self.terms).await?;
        operation::read_count(reply.body)
    }
}

runs!(impl[] Count => u64);

/// Counts documents by the command `count`: see [`Collection::count`].
#[must_use = "nothing happens until it is awaited"]
pub struct CountByCommand {
    collection: Collection<Document>,
    filter: Document,
    options: CountOptions,
    terms: Terms,
}

builder! {
    impl[] CountByCommand, CountOptions,
    {
        collation: Document, limit: u64, skip: u64, max_time: Duration,
        read_concern: ReadConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl CountByCommand {
    pub(in crate::client) fn new(collection: Collection<Document>, filter: Document) -> Self {
        let options = CountOptions::default();
        CountByCommand { collection, filter, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<u64> {
        let options = &mut self.options;
        self.terms.begin_read(
            self.collection.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        )?;
        self.terms.override_max_time(&mut options.max_time);
        let database = self.collection.database().name();
        let command =
            operation::count_command(database, self.collection.name(), &self.filter, options)?;
        let reply = self.collection.client().run(&command, &self.terms).await?;
        operation::read_estimate(&reply.body)
    }
}

runs!(impl[] CountByCommand => u64);

/// Estimates how many documents there are: see [`Collection::estimated_document_count`].
#[must_use = "nothing happens until it is awaited"]
pub struct EstimatedCount {
    collection: Collection<Document>,
    options: EstimatedDocumentCountOptions,
    terms: Terms,
}

builder! {
    impl[] EstimatedCount, EstimatedDocumentCountOptions,
    { max_time: Duration, read_concern: ReadConcern },
    into { selection_criteria: SelectionCriteria, comment: Bson }
}

impl EstimatedCount {
    pub(in crate::client) fn new(collection: Collection<Document>) -> Self {
        EstimatedCount { collection, options: Default::default(), terms: Terms::default() }
    }

    async fn run(mut self) -> Result<u64> {
        let options = &mut self.options;
        self.terms.begin_read(
            self.collection.client(),
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        )?;
        self.terms.override_max_time(&mut options.max_time);
        let database = self.collection.database().name();
        let command =
            operation::estimated_document_count(database, self.collection.name(), options)?;
        let reply = self.collection.client().run(&command, &self.terms).await?;
        operation::read_estimate(&reply.body)
    }
}

runs!(impl[] EstimatedCount => u64);
