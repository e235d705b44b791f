//! `distinct`.

use std::time::Duration;

use bson::{Bson, Document, RawDocument};

use super::{Command, Hint, document, lacks, max_time, optional, optional_value};
use crate::error::Result;
use crate::options::{ReadConcern, SelectionCriteria};

/// What can be said about a `distinct`. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DistinctOptions {
    /// Which members may answer; default: that of the collection.
    pub selection_criteria: Option<SelectionCriteria>,
    /// Which data may be read; default: that of the collection.
    pub read_concern: Option<ReadConcern>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which index (server 7.1).
    pub hint: Option<Hint>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// A `distinct`.
pub(crate) fn distinct(
    database: &str,
    collection: &str,
    field: &str,
    filter: &Document,
    options: &DistinctOptions,
) -> Result<Command> {
    let command = Command::new("distinct", collection, database, |body| {
        body.string("key", field);
        document(body, "query", filter)?;
        optional(body, "collation", options.collation.as_ref())?;
        optional_value(body, "hint", options.hint.clone().map(Bson::from).as_ref())?;
        max_time(body, options.max_time);
        optional_value(body, "comment", options.comment.as_ref())
    })?;
    Ok(command
        .read(options.selection_criteria.clone().unwrap_or_default())
        .with_read_concern(options.read_concern.as_ref()))
}

/// The values in the reply.
pub(crate) fn read_distinct(reply: &RawDocument) -> Result<Vec<Bson>> {
    let values = reply.get_array("values").map_err(|_| lacks("distinct", "values"))?;
    values.into_iter().map(|value| Ok(Bson::try_from(value?)?)).collect()
}
