//! Watching.

use std::future::IntoFuture;
use std::time::Duration;

use bson::{Bson, Document, Timestamp};

use super::{builder, runs};
use crate::client::change_stream::{ChangeStream, ChangeStreamEvent, ResumeToken, Watched};
use crate::client::terms::Terms;
use crate::client::{Client, ClientSession, CollectionOptions};
use crate::error::Result;
use crate::operation::{ChangeStreamOptions, FullDocumentBeforeChangeType, FullDocumentType};
use crate::options::{ReadConcern, SelectionCriteria};
use crate::transport::BoxFuture;

/// Opens a change stream: see [`Collection::watch`](crate::Collection::watch),
/// [`Database::watch`](crate::Database::watch) and [`Client::watch`]. Preferred to an aggregation with
/// a `$changeStream` stage, which is not resumed.
#[must_use = "nothing happens until it is awaited"]
pub struct Watch<T> {
    client: Client,
    watched: Watched,
    pipeline: Vec<Document>,
    inherited: CollectionOptions,
    options: ChangeStreamOptions,
    terms: Terms,
    of: std::marker::PhantomData<fn() -> T>,
}

builder! {
    impl[T] Watch<T>, ChangeStreamOptions,
    {
        full_document: FullDocumentType,
        full_document_before_change: FullDocumentBeforeChangeType, resume_after: ResumeToken,
        start_after: ResumeToken, start_at_operation_time: Timestamp, show_expanded_events: bool,
        max_await_time: Duration, batch_size: u32, collation: Document,
        read_concern: ReadConcern,
    },
    into { selection_criteria: SelectionCriteria, comment: Bson }
}

impl<T> Watch<T> {
    pub(in crate::client) fn new(
        client: Client,
        watched: Watched,
        pipeline: Vec<Document>,
        inherited: CollectionOptions,
    ) -> Self {
        Watch {
            client,
            watched,
            pipeline,
            inherited,
            options: ChangeStreamOptions::default(),
            terms: Terms::default(),
            of: std::marker::PhantomData,
        }
    }

    /// Sets the pipeline each event goes through. It must keep the events' `_id`.
    pub fn pipeline(mut self, pipeline: impl IntoIterator<Item = Document>) -> Self {
        self.pipeline = pipeline.into_iter().collect();
        self
    }

    async fn run(mut self) -> Result<ChangeStream<ChangeStreamEvent<T>>> {
        self.terms.begin_read(
            &self.client,
            &mut self.options.selection_criteria,
            &mut self.options.read_concern,
            &self.inherited,
        )?;
        ChangeStream::open(self.client, self.watched, self.pipeline, self.options, self.terms).await
    }
}

runs!(impl[T: 'static] Watch<T> => ChangeStream<ChangeStreamEvent<T>>);
