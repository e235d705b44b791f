//! Bulk writes of one collection.

use std::future::IntoFuture;

use bson::{Bson, Document};

use super::{builder, runs};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Collection};
use crate::error::{
    BulkWriteError, Error, ErrorKind, IndexedWriteError, Result, WriteConcernError, labels,
};
use crate::executor::Scope;
use crate::operation::{
    self, CollectionBulkWriteOptions, CollectionBulkWriteResult, CollectionWriteModel,
};
use crate::options::WriteConcern;
use crate::transport::BoxFuture;

/// Does several writes in as few commands as possible: see [`Collection::bulk_write`].
#[must_use = "nothing happens until it is awaited"]
pub struct CollectionBulkWrite {
    collection: Collection<Document>,
    models: Vec<CollectionWriteModel>,
    options: CollectionBulkWriteOptions,
    terms: Terms,
}

builder! {
    impl[] CollectionBulkWrite, CollectionBulkWriteOptions,
    {
        ordered: bool, bypass_document_validation: bool, write_concern: WriteConcern,
        let_vars: Document,
    },
    into { comment: Bson }
}

impl CollectionBulkWrite {
    pub(in crate::client) fn new(
        collection: Collection<Document>,
        models: Vec<CollectionWriteModel>,
    ) -> Self {
        let options = CollectionBulkWriteOptions::default();
        CollectionBulkWrite { collection, models, options, terms: Terms::default() }
    }

    async fn run(mut self) -> Result<CollectionBulkWriteResult> {
        operation::check_not_empty(&self.models)?;
        let (client, inherited) = (self.collection.client(), self.collection.options());
        self.terms.begin_write(client, &mut self.options.write_concern, inherited)?;
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let scope = client.scope("bulkWrite", (database, Some(name)), &self.terms);
        let result = self.run_batches(&scope).await;
        scope.outcome(client.now(), result)
    }

    async fn run_batches(&self, scope: &Scope) -> Result<CollectionBulkWriteResult> {
        let ordered = self.options.ordered.unwrap_or(true);
        let client = self.collection.client();
        let (database, name) = (self.collection.database().name(), self.collection.name());
        let batches = operation::batches(&self.models, ordered, &|| client.new_object_id())?;
        let mut result = CollectionBulkWriteResult::default();
        let mut errors = BulkWriteError::default();
        let mut labelled = None;
        let mut done = false;
        for mut batch in batches {
            let command = operation::bulk_command(database, name, &mut batch, &self.options)?;
            let reply = match client.run_in(&command, &self.terms, scope).await {
                Ok(reply) => reply,
                Err(error) if !done => return Err(error),
                // What earlier commands did is not to be forgotten for this.
                Err(error) => {
                    errors.partial_result = Some(result.to_document());
                    return Err(carrying_labels(ErrorKind::BulkWrite(errors), error));
                }
            };
            done = true;
            let mut failed = Vec::new();
            for error in IndexedWriteError::all_from_reply(&reply.body, 0) {
                if let Some(index) = batch.indexes.get(error.index) {
                    failed.push(*index);
                    errors.write_errors.insert(*index, error.into_write_error());
                }
            }
            failed.sort_unstable();
            result.add(&batch, &reply.body, &failed);
            if let Some(error) = Error::from_write_concern_error(&reply.body) {
                labelled = Some(error);
            }
            errors.write_concern_errors.extend(WriteConcernError::from_reply(&reply.body));
            if ordered && !failed.is_empty() {
                break;
            }
        }
        if errors.write_errors.is_empty() && errors.write_concern_errors.is_empty() {
            return Ok(result);
        }
        errors.partial_result = Some(result.to_document());
        let mut error = Error::new(ErrorKind::BulkWrite(errors));
        for label in labelled.iter().flat_map(|error| error.labels()) {
            error.add_label(label.clone());
        }
        Err(error)
    }
}

/// The error of a bulk write that `cause` ended.
fn carrying_labels(kind: ErrorKind, cause: Error) -> Error {
    let mut error = Error::new(kind);
    // Something was written: what says otherwise speaks of the last command alone.
    for label in cause.labels().iter().filter(|label| *label != labels::NO_WRITES_PERFORMED) {
        error.add_label(label.clone());
    }
    error.with_source(cause)
}

runs!(impl[] CollectionBulkWrite => CollectionBulkWriteResult);
