//! Counting: by an aggregation, or from the collection's metadata.

use std::time::Duration;

use bson::{Bson, Document, RawDocument, doc};

use super::{
    AggregateOptions, Command, CursorReply, Hint, aggregate, document, integer, lacks, max_time,
    optional, optional_value,
};
use crate::error::Result;
use crate::options::{ReadConcern, SelectionCriteria};

/// What can be said about counting documents. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CountOptions {
    /// Which members may answer; default: that of the collection.
    pub selection_criteria: Option<SelectionCriteria>,
    /// Which data may be read; default: that of the collection.
    pub read_concern: Option<ReadConcern>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which index.
    pub hint: Option<Hint>,
    /// How many documents are counted at most.
    pub limit: Option<u64>,
    /// How many documents are passed over.
    pub skip: Option<u64>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// What can be said about the estimate. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EstimatedDocumentCountOptions {
    /// Which members may answer; default: that of the collection.
    pub selection_criteria: Option<SelectionCriteria>,
    /// Which data may be read; default: that of the collection.
    pub read_concern: Option<ReadConcern>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// The aggregation that counts what matches `filter`.
pub(crate) fn count_from_aggregate(
    database: &str,
    collection: &str,
    filter: &Document,
    options: &CountOptions,
) -> Result<Command> {
    let number = |number: u64| Bson::Int64(i64::try_from(number).unwrap_or(i64::MAX));
    let mut pipeline = vec![doc! { "$match": filter.clone() }];
    pipeline.extend(options.skip.map(|skip| doc! { "$skip": number(skip) }));
    pipeline.extend(options.limit.map(|limit| doc! { "$limit": number(limit) }));
    pipeline.push(doc! { "$group": { "_id": 1, "n": { "$sum": 1 } } });
    let options = AggregateOptions {
        selection_criteria: options.selection_criteria.clone(),
        read_concern: options.read_concern.clone(),
        collation: options.collation.clone(),
        hint: options.hint.clone(),
        max_time: options.max_time,
        comment: options.comment.clone(),
        ..AggregateOptions::default()
    };
    aggregate(database, Some(collection), &pipeline, &options)
}

/// Reads the count off the aggregation's one document; none means zero.
pub(crate) fn read_count(reply: bson::RawDocumentBuf) -> Result<u64> {
    let mut batch = CursorReply::new("aggregate", reply)?;
    if !batch.advance()? {
        return Ok(0);
    }
    let count = integer(batch.current()?, "n").and_then(|count| u64::try_from(count).ok());
    count.ok_or_else(|| lacks("aggregate", "n"))
}

/// The `count` of everything, from metadata.
pub(crate) fn estimated_document_count(
    database: &str,
    collection: &str,
    options: &EstimatedDocumentCountOptions,
) -> Result<Command> {
    let command = Command::new("count", collection, database, |body| {
        max_time(body, options.max_time);
        optional_value(body, "comment", options.comment.as_ref())
    })?;
    Ok(command
        .read(options.selection_criteria.clone().unwrap_or_default())
        .with_read_concern(options.read_concern.as_ref()))
}

/// The `count` of what matches `filter`.
pub(crate) fn count_command(
    database: &str,
    collection: &str,
    filter: &Document,
    options: &CountOptions,
) -> Result<Command> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let command = Command::new("count", collection, database, |body| {
        document(body, "query", filter)?;
        for (key, value) in [("limit", options.limit), ("skip", options.skip)] {
            if let Some(value) = value {
                body.i64(key, number(value));
            }
        }
        optional_value(body, "hint", options.hint.clone().map(Bson::from).as_ref())?;
        optional(body, "collation", options.collation.as_ref())?;
        max_time(body, options.max_time);
        optional_value(body, "comment", options.comment.as_ref())
    })?;
    Ok(command
        .read(options.selection_criteria.clone().unwrap_or_default())
        .with_read_concern(options.read_concern.as_ref()))
}

/// Reads the reply to [`estimated_document_count`] and [`count_command`].
pub(crate) fn read_estimate(reply: &RawDocument) -> Result<u64> {
    integer(reply, "n").and_then(|n| u64::try_from(n).ok()).ok_or_else(|| lacks("count", "n"))
}
