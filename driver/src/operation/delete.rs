//! `delete`.

use bson::{Bson, Document};

use super::{
    BodyWriter, CollectionWriteOptions, Command, Hint, document, optional, optional_value,
    write_concern,
};
use crate::error::Result;
use crate::options::WriteConcern;

/// What can be said about a deletion. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeleteOptions {
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which index.
    pub hint: Option<Hint>,
    /// Who must have it; default: that of the collection.
    pub write_concern: Option<WriteConcern>,
    /// Variables for expressions.
    pub let_vars: Option<Document>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// What a deletion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteResult {
    /// How many documents were deleted.
    pub deleted_count: u64,
}

/// The deletion of one or all matching documents.
pub(crate) fn delete(
    database: &str,
    collection: &str,
    filter: &Document,
    many: bool,
    options: &DeleteOptions,
) -> Result<Command> {
    let concern = options.write_concern.as_ref();
    let mut statement = Vec::new();
    let mut one = BodyWriter::new(&mut statement);
    let of_statement = CollectionWriteOptions {
        collation: options.collation.clone(),
        hint: options.hint.clone(),
        ..CollectionWriteOptions::default()
    };
    self::statement(&mut one, filter, many, &of_statement)?;
    one.finish();
    let mut command = Command::new("delete", collection, database, |body| {
        body.bool("ordered", true);
        optional(body, "let", options.let_vars.as_ref())?;
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, concern)
    })?;
    command.sequence = Some(("deletes", statement));
    Ok(command.write(concern, !many))
}

/// Writes the fields of one delete statement.
pub(super) fn statement(
    one: &mut BodyWriter<'_>,
    filter: &Document,
    many: bool,
    options: &CollectionWriteOptions,
) -> Result<()> {
    document(one, "q", filter)?;
    one.i32("limit", i32::from(!many));
    optional(one, "collation", options.collation.as_ref())?;
    optional_value(one, "hint", options.hint.clone().map(Bson::from).as_ref())
}
