//! Bulk writes to several collections (bulk write specification).

use std::collections::BTreeMap;
use std::future::IntoFuture;

use bson::{Bson, Document};

use super::{builder, runs};
use crate::client::cursor::{CursorSettings, RawCursor, Step};
use crate::client::terms::Terms;
use crate::client::{Client, ClientSession};
use crate::error::{BulkWriteError, Error, ErrorKind, Result, WriteConcernError, WriteError};
use crate::executor::{Scope, execute};
use crate::operation::{
    self, BatchLimits, BulkWriteOptions, BulkWriteResult, ClientBatch, WriteModel,
};
use crate::options::WriteConcern;
use crate::transport::BoxFuture;

/// Writes to several collections at once: see [`Client::bulk_write`].
#[must_use = "nothing happens until it is awaited"]
pub struct BulkWrite {
    client: Client,
    models: Vec<WriteModel>,
    options: BulkWriteOptions,
    terms: Terms,
}

builder! {
    impl[] BulkWrite, BulkWriteOptions,
    {
        ordered: bool, bypass_document_validation: bool, let_vars: Document,
        verbose_results: bool, write_concern: WriteConcern,
    },
    into { comment: Bson }
}

/// What a bulk write has come to so far.
#[derive(Default)]
struct Progress {
    result: BulkWriteResult,
    write_errors: BTreeMap<usize, WriteError>,
    write_concern_errors: Vec<WriteConcernError>,
    /// Whether a write is known to be done.
    any_done: bool,
}

impl BulkWrite {
    pub(in crate::client) fn new(client: Client, models: Vec<WriteModel>) -> Self {
        let (options, terms) = (BulkWriteOptions::default(), Terms::default());
        BulkWrite { client, models, options, terms }
    }

    async fn run(mut self) -> Result<BulkWriteResult> {
        if self.models.is_empty() {
            return Err(Error::invalid_argument("bulk_write needs a write at least"));
        }
        let inherited = self.client.collection_options();
        self.terms.begin_write(&self.client, &mut self.options.write_concern, &inherited)?;
        let acknowledged =
            self.options.write_concern.as_ref().is_none_or(WriteConcern::is_acknowledged);
        let verbose = self.options.verbose_results.unwrap_or(false);
        if !acknowledged {
            if verbose {
                let message = "Cannot request unacknowledged write concern and verbose results";
                return Err(Error::invalid_argument(message));
            }
            if self.options.ordered.unwrap_or(true) {
                let message = "Cannot request unacknowledged write concern and ordered writes";
                return Err(Error::invalid_argument(message));
            }
        }
        let scope = self.client.scope("bulkWrite", ("admin", None), &self.terms);
        let mut progress = Progress::default();
        progress.result.acknowledged = acknowledged;
        progress.result.has_verbose_results = verbose;
        let ran = self.run_batches(&mut progress, acknowledged, &scope).await;
        scope.outcome(self.client.now(), progress.finish(ran))
    }

    async fn run_batches(
        &self,
        progress: &mut Progress,
        acknowledged: bool,
        scope: &Scope,
    ) -> Result<()> {
        let ordered = self.options.ordered.unwrap_or(true);
        let limits = limits(&self.client);
        let mut offset = 0;
        while offset < self.models.len() {
            let new_id = || self.client.new_object_id();
            let batch =
                operation::client_bulk_write(&self.models, offset, &self.options, limits, new_id)?;
            offset += batch.count;
            let stop = self.run_batch(batch, progress, acknowledged, scope).await?;
            if stop && ordered {
                break;
            }
        }
        Ok(())
    }

    /// Runs one command and reads its results. Returns whether a write was refused.
    async fn run_batch(
        &self,
        mut batch: ClientBatch,
        progress: &mut Progress,
        acknowledged: bool,
        scope: &Scope,
    ) -> Result<bool> {
        let cluster = self.client.cluster();
        let mut slot = self.client.slot(&batch.command, &self.terms)?;
        let reply = execute(cluster, &batch.command, &mut slot, scope).await?;
        if !acknowledged {
            return Ok(false);
        }
        let ordered = self.options.ordered.unwrap_or(true);
        let errors = operation::count(&reply.body, "nErrors");
        progress.write_concern_errors.extend(WriteConcernError::from_reply(&reply.body));
        let mut counts = BulkWriteResult::default();
        counts.add_counts(&reply.body);
        // Unordered, what was not refused was done; ordered, what came before the one that was.
        let done = errors == 0 || (!ordered && errors < batch.count as u64);
        if done {
            progress.add(&counts);
        }
        let settings = CursorSettings::default();
        let mut cursor =
            RawCursor::from_reply(&self.client, "bulkWrite", reply, slot, settings, None)?;
        let mut refused = false;
        loop {
            cursor.limit_step(scope.limit);
            let step = match cursor.step(false).await {
                Ok(step) => step,
                Err(error) => {
                    cursor.close(self.terms.timeout).await;
                    return Err(error);
                }
            };
            if step != Step::Document {
                return Ok(refused);
            }
            let document = cursor.batch().current()?;
            let models = &self.models;
            let outcome =
                progress.result.add_outcome(document, &mut batch, |index| models.get(index))?;
            match outcome {
                None => progress.any_done = true,
                Some((index, error)) => {
                    refused = true;
                    if ordered && !done && index > batch.offset {
                        progress.add(&counts);
                    }
                    progress.write_errors.insert(index, error);
                    if ordered {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

impl Progress {
    fn add(&mut self, counts: &BulkWriteResult) {
        self.any_done = true;
        self.result.inserted_count += counts.inserted_count;
        self.result.upserted_count += counts.upserted_count;
        self.result.matched_count += counts.matched_count;
        self.result.modified_count += counts.modified_count;
        self.result.deleted_count += counts.deleted_count;
    }

    /// The result, or the error that tells of all that went wrong and of what was done.
    fn finish(self, ran: Result<()>) -> Result<BulkWriteResult> {
        let Progress { result, write_errors, write_concern_errors, any_done } = self;
        let nothing_else = write_errors.is_empty() && write_concern_errors.is_empty();
        let top = match ran {
            Ok(()) if nothing_else => return Ok(result),
            Ok(()) => None,
            Err(error) if nothing_else && !any_done => return Err(error),
            Err(error) => Some(error),
        };
        let error = Error::new(ErrorKind::BulkWrite(BulkWriteError {
            write_errors,
            write_concern_errors,
            partial_result: any_done.then(|| result.to_document()),
        }));
        Err(match top {
            Some(top) => {
                let labels = top.labels().clone();
                labels.into_iter().fold(error.with_source(top), Error::with_label)
            }
            None => error,
        })
    }
}

/// How much fits into one command of the server that takes writes.
fn limits(client: &Client) -> BatchLimits {
    let topology = client.topology();
    let any = || topology.servers.values().find(|server| server.is_available());
    let known = topology.primary().or_else(any);
    let positive = |value: i32| usize::try_from(value).ok().filter(|value| *value > 0);
    BatchLimits {
        count: known.and_then(|s| positive(s.max_write_batch_size)).unwrap_or(100_000),
        bytes: known
            .and_then(|s| positive(s.max_message_size_bytes))
            .unwrap_or(crate::wire::MAX_MESSAGE_SIZE_BYTES),
    }
}

runs!(impl[] BulkWrite => BulkWriteResult);
