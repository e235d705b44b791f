//! `find`.

use std::time::Duration;

use bson::{Bson, Document};

use super::{Command, document, max_time, optional, optional_value};
use crate::error::Result;
use crate::options::{ReadConcern, SelectionCriteria};

/// Which index to use.
#[derive(Clone, Debug, PartialEq)]
pub enum Hint {
    /// The index with these keys.
    Keys(Document),
    /// The index of this name.
    Name(String),
}

impl From<Document> for Hint {
    fn from(keys: Document) -> Self {
        Hint::Keys(keys)
    }
}

impl From<&str> for Hint {
    fn from(name: &str) -> Self {
        Hint::Name(name.to_owned())
    }
}

impl From<Hint> for Bson {
    fn from(hint: Hint) -> Self {
        match hint {
            Hint::Keys(keys) => Bson::Document(keys),
            Hint::Name(name) => Bson::String(name),
        }
    }
}

/// What a cursor does at the end of a capped collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CursorType {
    /// It ends.
    #[default]
    NonTailable,
    /// It stays and finds what comes later.
    Tailable,
    /// It stays, and the server waits a while for what comes.
    TailableAwait,
}

/// What `timeoutMS` applies to where a cursor is opened (CSOT, "Cursors").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeoutMode {
    /// To opening it and all its batches together.
    CursorLifetime,
    /// To opening it, and to each step anew.
    Iteration,
}

/// What can be said about a `find`. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FindOptions {
    /// Which members may answer; default: that of the collection.
    pub selection_criteria: Option<SelectionCriteria>,
    /// Which data may be read; default: that of the collection.
    pub read_concern: Option<ReadConcern>,
    /// The order.
    pub sort: Option<Document>,
    /// Which fields.
    pub projection: Option<Document>,
    /// Which index.
    pub hint: Option<Hint>,
    /// How many documents are passed over.
    pub skip: Option<u64>,
    /// How many documents at most; negative: in a single batch.
    pub limit: Option<i64>,
    /// How many documents per batch.
    pub batch_size: Option<u32>,
    /// What the cursor does at the end of a capped collection.
    pub cursor_type: Option<CursorType>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// How long the server waits for what comes, with [`CursorType::TailableAwait`].
    pub max_await_time: Option<Duration>,
    /// What `timeoutMS` applies to; default: the whole life of the cursor.
    pub timeout_mode: Option<TimeoutMode>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Inclusive lower bound on an index.
    pub min: Option<Document>,
    /// Exclusive upper bound on an index.
    pub max: Option<Document>,
    /// Only the index keys.
    pub return_key: Option<bool>,
    /// Adds `$recordId`.
    pub show_record_id: Option<bool>,
    /// The server keeps the cursor however long nobody asks.
    pub no_cursor_timeout: Option<bool>,
    /// Sorting may use the disk.
    pub allow_disk_use: Option<bool>,
    /// A sharded cluster may answer without shards that are down.
    pub allow_partial_results: Option<bool>,
    /// Variables for expressions.
    pub let_vars: Option<Document>,
}

/// A `find` on `database.collection`.
pub(crate) fn find(
    database: &str,
    collection: &str,
    filter: &Document,
    options: &FindOptions,
) -> Result<Command> {
    let command = Command::new("find", collection, database, |body| {
        document(body, "filter", filter)?;
        optional(body, "sort", options.sort.as_ref())?;
        optional(body, "projection", options.projection.as_ref())?;
        optional_value(body, "hint", options.hint.clone().map(Bson::from).as_ref())?;
        if let Some(skip) = options.skip {
            body.i64("skip", i64::try_from(skip).unwrap_or(i64::MAX));
        }
        if let Some(limit) = options.limit.filter(|limit| *limit != 0) {
            body.i64("limit", limit.saturating_abs());
        }
        if let Some(size) = options.batch_size {
            // A batch that holds the whole limit would leave a cursor open for nothing: asking for
            // one more closes it at once.
            let whole = options.limit == Some(i64::from(size));
            body.i64("batchSize", i64::from(size) + i64::from(whole));
        }
        if options.limit.is_some_and(|limit| limit < 0) {
            body.bool("singleBatch", true);
        }
        match options.cursor_type.unwrap_or_default() {
            CursorType::NonTailable => {}
            CursorType::Tailable => body.bool("tailable", true),
            CursorType::TailableAwait => {
                body.bool("tailable", true);
                body.bool("awaitData", true);
            }
        }
        max_time(body, options.max_time);
        optional_value(body, "comment", options.comment.as_ref())?;
        optional(body, "collation", options.collation.as_ref())?;
        optional(body, "min", options.min.as_ref())?;
        optional(body, "max", options.max.as_ref())?;
        optional(body, "let", options.let_vars.as_ref())?;
        for (key, value) in [
            ("returnKey", options.return_key),
            ("showRecordId", options.show_record_id),
            ("noCursorTimeout", options.no_cursor_timeout),
            ("allowDiskUse", options.allow_disk_use),
            ("allowPartialResults", options.allow_partial_results),
        ] {
            if let Some(value) = value {
                body.bool(key, value);
            }
        }
        Ok(())
    })?;
    Ok(command
        .read(options.selection_criteria.clone().unwrap_or_default())
        .with_read_concern(options.read_concern.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, doc};

    #[test]
    fn a_negative_limit_is_a_single_batch() {
        let options =
            FindOptions { limit: Some(-3), sort: Some(doc! { "x": 1 }), ..Default::default() };
        let command = find("d", "c", &doc! { "a": 1 }, &options).unwrap();
        let body = RawDocumentBuf::from_bytes(command.body).unwrap();
        assert_eq!(
            Document::try_from(body).unwrap(),
            doc! { "find": "c", "filter": { "a": 1 }, "sort": { "x": 1 }, "limit": 3_i64, "singleBatch": true }
        );
    }

    #[test]
    fn a_name_with_a_zero_byte_is_refused() {
        assert!(find("d", "c\0d", &doc! {}, &FindOptions::default()).is_err());
    }
}
