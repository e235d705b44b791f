//! Inserting, changing, deleting.

use std::future::IntoFuture;
use std::time::Duration;

use bson::{Bson, Document};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{builder, runs};
use crate::client::terms::Terms;
use crate::client::{Client, ClientSession, Collection, InsertManyResult, InsertOneResult};
use crate::error::{
    Error, ErrorKind, IndexedWriteError, InsertManyError, Result, WriteConcernError,
};
use crate::executor::Scope;
use crate::operation::{
    self, Change, DeleteOptions, DeleteResult, FindOneAndModifyOptions, Hint, InsertBatch,
    InsertOptions, Modification, ReturnDocument, UpdateOptions, UpdateResult, check_single_write,
    check_write_concern,
};
use crate::options::WriteConcern;
use crate::transport::BoxFuture;

/// Inserts a document: see [`Collection::insert_one`].
#[must_use = "nothing happens until it is awaited"]
pub struct InsertOne {
    collection: Collection<Document>,
    batch: Result<InsertBatch>,
    options: InsertOptions,
    terms: Terms,
}

builder! {
    impl[] InsertOne, InsertOptions,
    { bypass_document_validation: bool, write_concern: WriteConcern },
    into { comment: Bson }
}

impl InsertOne {
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        document: &impl Serialize,
    ) -> Self {
        let mut batch = InsertBatch::for_one();
        let batch = batch.push(document, || collection.client().new_object_id()).map(|_| batch);
        InsertOne { collection, batch, options: InsertOptions::default(), terms: Terms::default() }
    }

    async fn run(mut self) -> Result<InsertOneResult> {
        let mut batch = self.batch?;
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let database = self.collection.database().name();
        let command =
            operation::insert(database, self.collection.name(), &mut batch, &self.options)?;
        let client = self.collection.client();
        client.run_checked(&command, &self.terms, check_single_write).await?;
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
    terms: Terms,
}

builder! {
    impl[] InsertMany, InsertOptions,
    { bypass_document_validation: bool, ordered: bool, write_concern: WriteConcern },
    into { comment: Bson }
}

impl InsertMany {
    pub(in crate::client) fn new<T: Serialize>(
        collection: Collection<Document>,
        documents: impl IntoIterator<Item = impl std::borrow::Borrow<T>>,
    ) -> Self {
        let batches = InsertMany::batches(collection.client(), documents);
        InsertMany {
            collection,
            batches,
            options: InsertOptions::default(),
            terms: Terms::default(),
        }
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
        let batches = std::mem::replace(&mut self.batches, Ok(Vec::new()))?;
        if batches[0].ids.is_empty() {
            return Err(Error::invalid_argument("insert_many needs a document at least"));
        }
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let scope = client.scope("insert", (database, Some(name)), &self.terms);
        let result = self.run_batches(batches, &scope).await;
        scope.outcome(client.now(), result)
    }

    async fn run_batches(
        &self,
        batches: Vec<InsertBatch>,
        scope: &Scope,
    ) -> Result<InsertManyResult> {
        let ordered = self.options.ordered.unwrap_or(true);
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let mut result = InsertManyResult::default();
        let mut write_errors = Vec::new();
        let mut write_concern_error = None;
        let mut offset = 0;
        for mut batch in batches {
            let command = operation::insert(database, name, &mut batch, &self.options)?;
            let ran = self.collection.client().run_in(&command, &self.terms, scope).await;
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
    terms: Terms,
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
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        filter: Document,
        change: Result<Change>,
        many: bool,
    ) -> Self {
        let options = UpdateOptions::default();
        Update { collection, filter, change, many, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<UpdateResult> {
        let change = self.change?;
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let command = operation::update(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            &change,
            self.many,
            &self.options,
        )?;
        let client = self.collection.client();
        let reply = client.run_checked(&command, &self.terms, check_single_write).await?;
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
    terms: Terms,
}

builder! {
    impl[] Delete, DeleteOptions,
    { collation: Document, let_vars: Document, write_concern: WriteConcern },
    into { hint: Hint, comment: Bson }
}

impl Delete {
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        filter: Document,
        many: bool,
    ) -> Self {
        Delete {
            collection,
            filter,
            many,
            options: DeleteOptions::default(),
            terms: Terms::default(),
        }
    }

    async fn run(mut self) -> Result<DeleteResult> {
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let command = operation::delete(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            self.many,
            &self.options,
        )?;
        let client = self.collection.client();
        let reply = client.run_checked(&command, &self.terms, check_single_write).await?;
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
    terms: Terms,
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
    pub(in crate::client) fn new(
        collection: &Collection<T>,
        filter: Document,
        modification: Result<Modification>,
    ) -> Self {
        FindOneAndModify {
            collection: collection.clone(),
            filter,
            modification,
            options: FindOneAndModifyOptions::default(),
            terms: Terms::default(),
        }
    }

    async fn run(mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        let modification = self.modification?;
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        self.terms.override_max_time(&mut self.options.max_time);
        let command = operation::find_and_modify(
            self.collection.database().name(),
            self.collection.name(),
            &self.filter,
            &modification,
            &self.options,
        )?;
        let acknowledged = command.acknowledged;
        let client = self.collection.client();
        let reply = client.run_checked(&command, &self.terms, check_write_concern).await?;
        if !acknowledged {
            return Ok(None);
        }
        operation::read_value(&reply.body)?.map(|value| operation::from_raw(&value)).transpose()
    }
}

runs!(impl[T: DeserializeOwned + 'static] FindOneAndModify<T> => Option<T>);
