//! One builder per operation: options are set by methods, `.await` runs it.
//!
//! A builder owns all it needs: documents are serialized when it is made, so that it borrows nothing.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocumentBuf};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cursor::{Cursor, CursorSettings};
use super::{
    Client, ClientSession, Collection, CollectionOptions, CreateIndexesResult, Database,
    DatabaseSpecification, InsertManyResult, InsertOneResult, database_specification,
};
use crate::error::{
    Error, ErrorKind, IndexedWriteError, InsertManyError, Result, WriteConcernError,
};
use crate::operation::{
    self, AggregateOptions, Change, CountOptions, CreateCollectionOptions, CreateIndexOptions,
    CursorType, DeleteOptions, DeleteResult, DistinctOptions, EstimatedDocumentCountOptions,
    FindOneAndModifyOptions, FindOptions, Hint, IndexModel, IndexToCreate, InsertBatch,
    InsertOptions, Modification, ReturnDocument, UpdateOptions, UpdateResult, check_single_write,
    check_write_concern,
};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};
use crate::session::SharedSession;
use crate::transport::BoxFuture;

/// Writes a setter per option, one for all options at once, and one for the session.
macro_rules! builder {
    (
        impl[$($generics:tt)*] $action:ty, $options:ty,
        { $($name:ident : $type:ty),* $(,)? },
        into { $($into_name:ident : $into_type:ty),* $(,)? }
    ) => {
        impl<$($generics)*> $action {
            $(
                #[doc = concat!("Sets [`", stringify!($options), "::", stringify!($name), "`](crate::operation::", stringify!($options), ").")]
                pub fn $name(mut self, value: $type) -> Self {
                    self.options.$name = Some(value);
                    self
                }
            )*
            $(
                #[doc = concat!("Sets [`", stringify!($options), "::", stringify!($into_name), "`](crate::operation::", stringify!($options), ").")]
                pub fn $into_name(mut self, value: impl Into<$into_type>) -> Self {
                    self.options.$into_name = Some(value.into());
                    self
                }
            )*

            /// Replaces all options.
            pub fn with_options(mut self, options: impl Into<Option<$options>>) -> Self {
                self.options = options.into().unwrap_or_default();
                self
            }
        }
        session!(impl[$($generics)*] $action);
    };
}

/// Writes the setter for the session.
macro_rules! session {
    (impl[$($generics:tt)*] $action:ty) => {
        impl<$($generics)*> $action {
            /// Runs it in `session`.
            pub fn session(mut self, session: &ClientSession) -> Self {
                self.session = Some(session.shared());
                self
            }
        }
    };
}

/// Makes an action a future.
macro_rules! runs {
    (impl[$($generics:tt)*] $action:ty => $output:ty $(, where $($bounds:tt)*)?) => {
        impl<$($generics)*> IntoFuture for $action $(where $($bounds)*)? {
            type Output = Result<$output>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }
    };
}

/// What an operation uses: its own choice, or that of the collection.
fn inherit<T: Clone>(own: &mut Option<T>, others: Option<&T>) {
    if own.is_none() {
        *own = others.cloned();
    }
}

fn inherit_read(
    criteria: &mut Option<SelectionCriteria>,
    concern: &mut Option<ReadConcern>,
    options: &CollectionOptions,
) {
    inherit(criteria, options.selection_criteria.as_ref());
    inherit(concern, options.read_concern.as_ref());
}

/// Finds documents: see [`Collection::find`].
#[must_use = "nothing happens until it is awaited"]
pub struct Find<T> {
    collection: Collection<T>,
    filter: Document,
    options: FindOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[T] Find<T>, FindOptions,
    {
        sort: Document, projection: Document, skip: u64, limit: i64, batch_size: u32,
        cursor_type: CursorType, max_time: Duration, max_await_time: Duration,
        collation: Document, min: Document, max: Document, return_key: bool,
        show_record_id: bool, no_cursor_timeout: bool, allow_disk_use: bool,
        allow_partial_results: bool, let_vars: Document, read_concern: ReadConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl<T> Find<T> {
    pub(super) fn new(collection: &Collection<T>, filter: Document) -> Self {
        let options = FindOptions::default();
        Find { collection: collection.clone(), filter, options, session: None }
    }

    async fn run(mut self) -> Result<Cursor<T>> {
        let options = &mut self.options;
        inherit_read(
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        );
        let database = self.collection.database().name();
        let command = operation::find(database, self.collection.name(), &self.filter, options)?;
        let awaits = options.cursor_type == Some(CursorType::TailableAwait);
        let settings = CursorSettings {
            batch_size: options.batch_size,
            max_await_time: options.max_await_time.filter(|_| awaits),
            comment: options.comment.clone(),
        };
        Cursor::open(self.collection.client(), &command, self.session, settings).await
    }
}

runs!(impl[T: 'static] Find<T> => Cursor<T>);

/// Finds one document: see [`Collection::find_one`].
#[must_use = "nothing happens until it is awaited"]
pub struct FindOne<T> {
    collection: Collection<T>,
    filter: Document,
    options: FindOptions,
    session: Option<Arc<SharedSession>>,
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
    pub(super) fn new(collection: &Collection<T>, filter: Document) -> Self {
        let options = FindOptions::default();
        FindOne { collection: collection.clone(), filter, options, session: None }
    }

    async fn run(mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        let options = &mut self.options;
        inherit_read(
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        );
        options.limit = Some(-1);
        options.batch_size = None;
        let database = self.collection.database().name();
        let command = operation::find(database, self.collection.name(), &self.filter, options)?;
        let reply = self.collection.client().run(&command, self.session).await?;
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
    session: Option<Arc<SharedSession>>,
    of: PhantomData<fn() -> T>,
}

builder! {
    impl[T] Aggregate<T>, AggregateOptions,
    {
        allow_disk_use: bool, batch_size: u32, bypass_document_validation: bool,
        collation: Document, max_time: Duration, max_await_time: Duration, let_vars: Document,
        read_concern: ReadConcern, write_concern: WriteConcern,
    },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl<T> Aggregate<T> {
    pub(super) fn new(
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
            session: None,
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
            session: self.session,
            of: PhantomData,
        }
    }

    async fn run(mut self) -> Result<Cursor<T>> {
        let options = &mut self.options;
        inherit_read(&mut options.selection_criteria, &mut options.read_concern, &self.inherited);
        inherit(&mut options.write_concern, self.inherited.write_concern.as_ref());
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
        };
        Cursor::open(self.database.client(), &command, self.session, settings).await
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
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] Distinct, DistinctOptions,
    { collation: Document, max_time: Duration, read_concern: ReadConcern },
    into { selection_criteria: SelectionCriteria, hint: Hint, comment: Bson }
}

impl Distinct {
    pub(super) fn new(collection: Collection<Document>, field: String, filter: Document) -> Self {
        let options = DistinctOptions::default();
        Distinct { collection, field, filter, options, session: None }
    }

    async fn run(mut self) -> Result<Vec<Bson>> {
        let options = &mut self.options;
        inherit_read(
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        );
        let command = operation::distinct(
            self.collection.database().name(),
            self.collection.name(),
            &self.field,
            &self.filter,
            options,
        )?;
        let reply = self.collection.client().run(&command, self.session).await?;
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
    session: Option<Arc<SharedSession>>,
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
    pub(super) fn new(collection: Collection<Document>, filter: Document) -> Self {
        Count { collection, filter, options: CountOptions::default(), session: None }
    }

    async fn run(mut self) -> Result<u64> {
        let options = &mut self.options;
        inherit_read(
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        );
        let command = operation::count_from_aggregate(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            options,
        )?;
        let reply = self.collection.client().run(&command, self.session).await?;
        operation::read_count(reply.body)
    }
}

runs!(impl[] Count => u64);

/// Estimates how many documents there are: see [`Collection::estimated_document_count`].
#[must_use = "nothing happens until it is awaited"]
pub struct EstimatedCount {
    collection: Collection<Document>,
    options: EstimatedDocumentCountOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] EstimatedCount, EstimatedDocumentCountOptions,
    { max_time: Duration, read_concern: ReadConcern },
    into { selection_criteria: SelectionCriteria, comment: Bson }
}

impl EstimatedCount {
    pub(super) fn new(collection: Collection<Document>) -> Self {
        EstimatedCount { collection, options: Default::default(), session: None }
    }

    async fn run(mut self) -> Result<u64> {
        let options = &mut self.options;
        inherit_read(
            &mut options.selection_criteria,
            &mut options.read_concern,
            self.collection.options(),
        );
        let database = self.collection.database().name();
        let command =
            operation::estimated_document_count(database, self.collection.name(), options)?;
        let reply = self.collection.client().run(&command, self.session).await?;
        operation::read_estimate(&reply.body)
    }
}

runs!(impl[] EstimatedCount => u64);

/// Inserts a document: see [`Collection::insert_one`].
#[must_use = "nothing happens until it is awaited"]
pub struct InsertOne {
    collection: Collection<Document>,
    batch: Result<InsertBatch>,
    options: InsertOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] InsertOne, InsertOptions,
    { bypass_document_validation: bool, write_concern: WriteConcern },
    into { comment: Bson }
}

impl InsertOne {
    pub(super) fn new(collection: Collection<Document>, document: &impl Serialize) -> Self {
        let mut batch = InsertBatch::default();
        let batch = batch.push(document, || collection.client().new_object_id()).map(|_| batch);
        InsertOne { collection, batch, options: InsertOptions::default(), session: None }
    }

    async fn run(mut self) -> Result<InsertOneResult> {
        let mut batch = self.batch?;
        inherit(&mut self.options.write_concern, self.collection.options().write_concern.as_ref());
        let database = self.collection.database().name();
        let command =
            operation::insert(database, self.collection.name(), &mut batch, &self.options)?;
        let reply = self.collection.client().run(&command, self.session).await?;
        check_single_write(&reply.body)?;
        Ok(InsertOneResult { inserted_id: batch.ids.pop().unwrap_or(Bson::Null) })
    }
}

runs!(impl[] InsertOne => InsertOneResult);

/// Inserts documents: see [`Collection::insert_many`].
#[must_use = "nothing happens until it is awaited"]
pub struct InsertMany {
    collection: Collection<Document>,
    batches: Result<Vec<InsertBatch>>,
    options: InsertOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] InsertMany, InsertOptions,
    { bypass_document_validation: bool, ordered: bool, write_concern: WriteConcern },
    into { comment: Bson }
}

impl InsertMany {
    pub(super) fn new<T: Serialize>(
        collection: Collection<Document>,
        documents: impl IntoIterator<Item = impl std::borrow::Borrow<T>>,
    ) -> Self {
        let batches = InsertMany::batches(collection.client(), documents);
        InsertMany { collection, batches, options: InsertOptions::default(), session: None }
    }

    fn batches<T: Serialize>(
        client: &Client,
        documents: impl IntoIterator<Item = impl std::borrow::Borrow<T>>,
    ) -> Result<Vec<InsertBatch>> {
        let mut batches = vec![InsertBatch::default()];
        for document in documents {
            let last = batches.last_mut().expect("there is one batch at least");
            if !last.push(document.borrow(), || client.new_object_id())? {
                let mut next = InsertBatch::default();
                next.push(document.borrow(), || client.new_object_id())?;
                batches.push(next);
            }
        }
        Ok(batches)
    }

    async fn run(mut self) -> Result<InsertManyResult> {
        let batches = self.batches?;
        if batches[0].ids.is_empty() {
            return Err(Error::invalid_argument("insert_many needs a document at least"));
        }
        inherit(&mut self.options.write_concern, self.collection.options().write_concern.as_ref());
        let ordered = self.options.ordered.unwrap_or(true);
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let mut result = InsertManyResult::default();
        let mut write_errors = Vec::new();
        let mut write_concern_error = None;
        let mut offset = 0;
        for mut batch in batches {
            let command = operation::insert(database, name, &mut batch, &self.options)?;
            let ran = self.collection.client().run(&command, self.session.clone()).await;
            let reply = match ran {
                Ok(reply) => reply,
                // What earlier batches ran into is not to be forgotten for this.
                Err(error) if write_errors.is_empty() && write_concern_error.is_none() => {
                    return Err(error);
                }
                Err(error) => {
                    return Err(insert_many_error(write_errors, write_concern_error, result)
                        .with_source(error));
                }
            };
            let errors = IndexedWriteError::all_from_reply(&reply.body, offset);
            let first_error = errors.first().map(|error| error.index);
            let count = batch.ids.len();
            for (index, id) in batch.ids.drain(..).enumerate() {
                let index = index + offset;
                let skipped = ordered && first_error.is_some_and(|first| index >= first);
                if !skipped && !errors.iter().any(|error| error.index == index) {
                    result.inserted_ids.insert(index, id);
                }
            }
            offset += count;
            write_concern_error =
                write_concern_error.or(WriteConcernError::from_reply(&reply.body));
            let stop = ordered && !errors.is_empty();
            write_errors.extend(errors);
            if stop {
                break;
            }
        }
        if write_errors.is_empty() && write_concern_error.is_none() {
            return Ok(result);
        }
        Err(insert_many_error(write_errors, write_concern_error, result))
    }
}

fn insert_many_error(
    write_errors: Vec<IndexedWriteError>,
    write_concern_error: Option<WriteConcernError>,
    result: InsertManyResult,
) -> Error {
    let inserted_ids = result.inserted_ids;
    let error = InsertManyError { write_errors, write_concern_error, inserted_ids };
    Error::new(ErrorKind::InsertMany(error))
}

runs!(impl[] InsertMany => InsertManyResult);

/// Changes documents: see [`Collection::update_one`], [`Collection::update_many`] and
/// [`Collection::replace_one`].
#[must_use = "nothing happens until it is awaited"]
pub struct Update {
    collection: Collection<Document>,
    filter: Document,
    change: Result<Change>,
    many: bool,
    options: UpdateOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] Update, UpdateOptions,
    {
        array_filters: Vec<Document>, bypass_document_validation: bool, upsert: bool,
        sort: Document, collation: Document, let_vars: Document, write_concern: WriteConcern,
    },
    into { hint: Hint, comment: Bson }
}

impl Update {
    pub(super) fn new(
        collection: Collection<Document>,
        filter: Document,
        change: Result<Change>,
        many: bool,
    ) -> Self {
        let options = UpdateOptions::default();
        Update { collection, filter, change, many, options, session: None }
    }

    async fn run(mut self) -> Result<UpdateResult> {
        let change = self.change?;
        inherit(&mut self.options.write_concern, self.collection.options().write_concern.as_ref());
        let command = operation::update(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            &change,
            self.many,
            &self.options,
        )?;
        let reply = self.collection.client().run(&command, self.session).await?;
        check_single_write(&reply.body)?;
        operation::read_update(&reply.body)
    }
}

runs!(impl[] Update => UpdateResult);

/// Deletes documents: see [`Collection::delete_one`] and [`Collection::delete_many`].
#[must_use = "nothing happens until it is awaited"]
pub struct Delete {
    collection: Collection<Document>,
    filter: Document,
    many: bool,
    options: DeleteOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] Delete, DeleteOptions,
    { collation: Document, let_vars: Document, write_concern: WriteConcern },
    into { hint: Hint, comment: Bson }
}

impl Delete {
    pub(super) fn new(collection: Collection<Document>, filter: Document, many: bool) -> Self {
        Delete { collection, filter, many, options: DeleteOptions::default(), session: None }
    }

    async fn run(mut self) -> Result<DeleteResult> {
        inherit(&mut self.options.write_concern, self.collection.options().write_concern.as_ref());
        let command = operation::delete(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            self.many,
            &self.options,
        )?;
        let reply = self.collection.client().run(&command, self.session).await?;
        check_single_write(&reply.body)?;
        Ok(DeleteResult { deleted_count: operation::count(&reply.body, "n") })
    }
}

runs!(impl[] Delete => DeleteResult);

/// Finds a document and changes it at once: see [`Collection::find_one_and_update`] and its like.
#[must_use = "nothing happens until it is awaited"]
pub struct FindOneAndModify<T> {
    collection: Collection<T>,
    filter: Document,
    modification: Result<Modification>,
    options: FindOneAndModifyOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[T] FindOneAndModify<T>, FindOneAndModifyOptions,
    {
        array_filters: Vec<Document>, bypass_document_validation: bool, upsert: bool,
        return_document: ReturnDocument, sort: Document, projection: Document,
        collation: Document, max_time: Duration, let_vars: Document,
        write_concern: WriteConcern,
    },
    into { hint: Hint, comment: Bson }
}

impl<T> FindOneAndModify<T> {
    pub(super) fn new(
        collection: &Collection<T>,
        filter: Document,
        modification: Result<Modification>,
    ) -> Self {
        FindOneAndModify {
            collection: collection.clone(),
            filter,
            modification,
            options: FindOneAndModifyOptions::default(),
            session: None,
        }
    }

    async fn run(mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        let modification = self.modification?;
        inherit(&mut self.options.write_concern, self.collection.options().write_concern.as_ref());
        let command = operation::find_and_modify(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            &modification,
            &self.options,
        )?;
        let acknowledged = command.acknowledged;
        let reply = self.collection.client().run(&command, self.session).await?;
        if !acknowledged {
            return Ok(None);
        }
        check_write_concern(&reply.body)?;
        operation::read_value(&reply.body)?.map(|value| operation::from_raw(&value)).transpose()
    }
}

runs!(impl[T: DeserializeOwned + 'static] FindOneAndModify<T> => Option<T>);

/// Creates indexes: see [`Collection::create_index`] and [`Collection::create_indexes`].
#[must_use = "nothing happens until it is awaited"]
pub struct CreateIndexes {
    collection: Collection<Document>,
    indexes: Vec<IndexModel>,
    options: CreateIndexOptions,
    session: Option<Arc<SharedSession>>,
}

builder! {
    impl[] CreateIndexes, CreateIndexOptions,
    { max_time: Duration, write_concern: WriteConcern },
    into { comment: Bson }
}

impl CreateIndexes {
    pub(super) fn new(collection: Collection<Document>, indexes: Vec<IndexModel>) -> Self {
        let options = CreateIndexOptions::default();
        CreateIndexes { collection, indexes, options, session: None }
    }

    async fn run(mut self) -> Result<CreateIndexesResult> {
        inherit(&mut self.options.write_concern, self.collection.options().write_concern.as_ref());
        let indexes =
            self.indexes.into_iter().map(IndexToCreate::new).collect::<Result<Vec<_>>>()?;
        let index_names = indexes.iter().map(|index| index.name.clone()).collect();
        let command = operation::create_indexes(
            self.collection.database().name(),
            self.collection.name(),
            indexes,
            &self.options,
        )?;
        let reply = self.collection.client().run(&command, self.session).await?;
        check_write_concern(&reply.body)?;
        Ok(CreateIndexesResult { index_names })
    }
}

runs!(impl[] CreateIndexes => CreateIndexesResult);

/// Lists indexes: see [`Collection::list_indexes`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListIndexes {
    collection: Collection<Document>,
    batch_size: Option<u32>,
    session: Option<Arc<SharedSession>>,
}

session!(impl[] ListIndexes);

impl ListIndexes {
    pub(super) fn new(collection: Collection<Document>) -> Self {
        ListIndexes { collection, batch_size: None, session: None }
    }

    /// How many documents per batch.
    pub fn batch_size(mut self, size: u32) -> Self {
        self.batch_size = Some(size);
        self
    }

    async fn run(self) -> Result<Cursor<Document>> {
        let database = self.collection.database().name();
        let command = operation::list_indexes(database, self.collection.name(), self.batch_size)?;
        let settings = CursorSettings { batch_size: self.batch_size, ..Default::default() };
        Cursor::open(self.collection.client(), &command, self.session, settings).await
    }
}

runs!(impl[] ListIndexes => Cursor<Document>);

/// Drops a collection or indexes of it: see [`Collection::drop`] and [`Collection::drop_index`].
#[must_use = "nothing happens until it is awaited"]
pub struct Drop {
    collection: Collection<Document>,
    index: Option<String>,
    write_concern: Option<WriteConcern>,
    session: Option<Arc<SharedSession>>,
}

session!(impl[] Drop);

impl Drop {
    pub(super) fn collection(collection: Collection<Document>) -> Self {
        Drop { collection, index: None, write_concern: None, session: None }
    }

    pub(super) fn index(collection: Collection<Document>, name: String) -> Self {
        Drop { index: Some(name), ..Drop::collection(collection) }
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    async fn run(mut self) -> Result<()> {
        inherit(&mut self.write_concern, self.collection.options().write_concern.as_ref());
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let concern = self.write_concern.as_ref();
        let command = match &self.index {
            Some(index) => operation::drop_indexes(database, name, index, concern)?,
            None => operation::drop_collection(database, name, concern)?,
        };
        match self.collection.client().run(&command, self.session).await {
            Ok(reply) => check_write_concern(&reply.body),
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
    session: Option<Arc<SharedSession>>,
}

session!(impl[] DropDatabase);

impl DropDatabase {
    pub(super) fn new(database: Database) -> Self {
        DropDatabase { database, write_concern: None, session: None }
    }

    /// Who must have it.
    pub fn write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    async fn run(mut self) -> Result<()> {
        inherit(&mut self.write_concern, self.database.write_concern());
        let concern = self.write_concern.as_ref();
        let command = operation::drop_database(self.database.name(), concern)?;
        let reply = self.database.client().run(&command, self.session).await?;
        check_write_concern(&reply.body)
    }
}

runs!(impl[] DropDatabase => ());

/// Creates a collection: see [`Database::create_collection`].
#[must_use = "nothing happens until it is awaited"]
pub struct CreateCollection {
    database: Database,
    name: String,
    options: CreateCollectionOptions,
    session: Option<Arc<SharedSession>>,
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
    pub(super) fn new(database: Database, name: &str) -> Self {
        let options = CreateCollectionOptions::default();
        CreateCollection { database, name: name.to_owned(), options, session: None }
    }

    async fn run(mut self) -> Result<()> {
        inherit(&mut self.options.write_concern, self.database.write_concern());
        let command =
            operation::create_collection(self.database.name(), &self.name, &self.options)?;
        let reply = self.database.client().run(&command, self.session).await?;
        check_write_concern(&reply.body)
    }
}

runs!(impl[] CreateCollection => ());

/// Lists collections: see [`Database::list_collections`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListCollections {
    database: Database,
    filter: Option<Document>,
    session: Option<Arc<SharedSession>>,
}

session!(impl[] ListCollections);

impl ListCollections {
    pub(super) fn new(database: Database) -> Self {
        ListCollections { database, filter: None, session: None }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(self) -> Result<Cursor<Document>> {
        let command =
            operation::list_collections(self.database.name(), self.filter.as_ref(), false)?;
        let settings = CursorSettings::default();
        Cursor::open(self.database.client(), &command, self.session, settings).await
    }
}

runs!(impl[] ListCollections => Cursor<Document>);

/// Lists the names of collections: see [`Database::list_collection_names`].
#[must_use = "nothing happens until it is awaited"]
pub struct ListCollectionNames {
    database: Database,
    filter: Option<Document>,
    session: Option<Arc<SharedSession>>,
}

session!(impl[] ListCollectionNames);

impl ListCollectionNames {
    pub(super) fn new(database: Database) -> Self {
        ListCollectionNames { database, filter: None, session: None }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(self) -> Result<Vec<String>> {
        // With a filter that looks at more than the name, the server must not give names alone.
        let names_do = self.filter.iter().flat_map(Document::keys).all(|key| key == "name");
        let command =
            operation::list_collections(self.database.name(), self.filter.as_ref(), names_do)?;
        let settings = CursorSettings::default();
        let mut cursor: Cursor<Document> =
            Cursor::open(self.database.client(), &command, self.session, settings).await?;
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
    session: Option<Arc<SharedSession>>,
}

session!(impl[] ListDatabases);

impl ListDatabases {
    pub(super) fn new(client: Client) -> Self {
        ListDatabases { client, filter: None, session: None }
    }

    /// Only those whose description matches.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = Some(filter);
        self
    }

    async fn run(self) -> Result<Vec<DatabaseSpecification>> {
        let command = operation::list_databases(self.filter.as_ref(), false)?;
        let reply = self.client.run(&command, self.session).await?;
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

/// Runs any command: see [`Database::run_command`]. The reply is read as `T`.
#[must_use = "nothing happens until it is awaited"]
pub struct RunCommand<T> {
    database: Database,
    body: Result<RawDocumentBuf>,
    selection_criteria: Option<SelectionCriteria>,
    session: Option<Arc<SharedSession>>,
    of: PhantomData<fn() -> T>,
}

session!(impl[T] RunCommand<T>);

impl<T> RunCommand<T> {
    pub(super) fn new(database: Database, body: Result<RawDocumentBuf>) -> Self {
        RunCommand { database, body, selection_criteria: None, session: None, of: PhantomData }
    }

    /// Which members may run it; default: the primary.
    pub fn selection_criteria(mut self, criteria: impl Into<SelectionCriteria>) -> Self {
        self.selection_criteria = Some(criteria.into());
        self
    }

    async fn run(self) -> Result<T>
    where
        T: DeserializeOwned,
    {
        let body = self.body?;
        let command = operation::run_command(self.database.name(), &body, self.selection_criteria)?;
        let reply = self.database.client().run(&command, self.session).await?;
        operation::from_raw(&reply.body)
    }
}

runs!(impl[T: DeserializeOwned + 'static] RunCommand<T> => T);
