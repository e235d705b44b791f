//! `aggregate`.

use std::borrow::Cow;
use std::time::Duration;

use bson::{Bson, Document};

use super::update::documents;
use super::{
    BodyWriter, Command, Hint, Retry, Target, TimeoutMode, check_name, max_time, optional,
    optional_value, write_concern,
};
use crate::error::{Error, Result};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};

/// What can be said about an aggregation. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AggregateOptions {
    /// Which members may answer; default: that of the collection.
    pub selection_criteria: Option<SelectionCriteria>,
    /// Which data may be read; default: that of the collection.
    pub read_concern: Option<ReadConcern>,
    /// Who must have what `$out` and `$merge` write; default: that of the collection.
    pub write_concern: Option<WriteConcern>,
    /// Stages may use the disk.
    pub allow_disk_use: Option<bool>,
    /// How many documents per batch.
    pub batch_size: Option<u32>,
    /// `$out` and `$merge` take documents that break validation rules.
    pub bypass_document_validation: Option<bool>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which index.
    pub hint: Option<Hint>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// How long the server waits for what comes, with a tailable cursor.
    pub max_await_time: Option<Duration>,
    /// What `timeoutMS` applies to; default: the whole life of the cursor.
    pub timeout_mode: Option<TimeoutMode>,
    /// Variables for expressions.
    pub let_vars: Option<Document>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// An aggregation over a collection, or over the database if there is none.
pub(crate) fn aggregate(
    database: &str,
    collection: Option<&str>,
    pipeline: &[Document],
    options: &AggregateOptions,
) -> Result<Command> {
    check_name("database", database)?;
    let writes = pipeline
        .last()
        .is_some_and(|stage| stage.contains_key("$out") || stage.contains_key("$merge"));
    if writes && options.timeout_mode == Some(TimeoutMode::Iteration) {
        let message = "a pipeline that writes has no cursor to limit each step of";
        return Err(Error::invalid_argument(message));
    }
    let mut bytes = Vec::with_capacity(256);
    let mut body = BodyWriter::new(&mut bytes);
    match collection {
        Some(collection) => {
            check_name("collection", collection)?;
            body.string("aggregate", collection);
        }
        None => body.i32("aggregate", 1),
    }
    documents(&mut body, "pipeline", pipeline)?;
    body.nested("cursor", |cursor| {
        // A pipeline that writes gives nothing back; batchSize 0 would keep it from running.
        if let Some(size) = options.batch_size.filter(|size| !(writes && *size == 0)) {
            cursor.i64("batchSize", i64::from(size));
        }
    });
    if let Some(allow) = options.allow_disk_use {
        body.bool("allowDiskUse", allow);
    }
    if let Some(bypass) = options.bypass_document_validation {
        body.bool("bypassDocumentValidation", bypass);
    }
    optional(&mut body, "collation", options.collation.as_ref())?;
    optional_value(&mut body, "hint", options.hint.clone().map(Bson::from).as_ref())?;
    max_time(&mut body, options.max_time);
    optional(&mut body, "let", options.let_vars.as_ref())?;
    optional_value(&mut body, "comment", options.comment.as_ref())?;
    if writes {
        write_concern(&mut body, options.write_concern.as_ref())?;
    }
    body.finish();
    let command = Command::from_body(Cow::Borrowed("aggregate"), database, bytes)
        .read(options.selection_criteria.clone().unwrap_or_default())
        .with_read_concern(options.read_concern.as_ref());
    Ok(if writes {
        let criteria = options.selection_criteria.clone().unwrap_or_default();
        Command { retry: Retry::OverloadedWrite, target: Target::Output(criteria), ..command }
    } else {
        command
    })
}
