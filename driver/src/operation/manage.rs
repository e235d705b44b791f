//! Commands about collections and databases as a whole.

use bson::{Bson, Document};

use super::{Command, document, optional, optional_value, write_concern};
use crate::error::Result;
use crate::options::{SelectionCriteria, WriteConcern};

/// What can be said about creating a collection. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CreateCollectionOptions {
    /// A fixed size: new documents replace the oldest.
    pub capped: Option<bool>,
    /// That size, in bytes.
    pub size: Option<u64>,
    /// How many documents fit at most.
    pub max: Option<u64>,
    /// What documents must be like.
    pub validator: Option<Document>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Anything else the command `create` takes.
    pub other: Option<Document>,
    /// Who must have it; default: that of the database.
    pub write_concern: Option<WriteConcern>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// A `create`.
pub(crate) fn create_collection(
    database: &str,
    collection: &str,
    options: &CreateCollectionOptions,
) -> Result<Command> {
    let command = Command::new("create", collection, database, |body| {
        if let Some(capped) = options.capped {
            body.bool("capped", capped);
        }
        for (key, value) in [("size", options.size), ("max", options.max)] {
            if let Some(value) = value {
                body.i64(key, i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        optional(body, "validator", options.validator.as_ref())?;
        optional(body, "collation", options.collation.as_ref())?;
        for (key, value) in options.other.iter().flatten() {
            body.value(key, value)?;
        }
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, options.write_concern.as_ref())
    })?;
    Ok(command.definition().named("createCollection"))
}

/// A `drop`.
pub(crate) fn drop_collection(
    database: &str,
    collection: &str,
    concern: Option<&WriteConcern>,
) -> Result<Command> {
    let command = Command::new("drop", collection, database, |body| write_concern(body, concern))?;
    Ok(command.definition().named("dropCollection"))
}

/// A `dropDatabase`.
pub(crate) fn drop_database(database: &str, concern: Option<&WriteConcern>) -> Result<Command> {
    let command =
        Command::new_on_database("dropDatabase", database, |body| write_concern(body, concern))?;
    Ok(command.definition())
}

/// A `listCollections`: asked of the primary, as the specification wants it.
pub(crate) fn list_collections(
    database: &str,
    filter: Option<&Document>,
    name_only: bool,
) -> Result<Command> {
    let command = Command::new_on_database("listCollections", database, |body| {
        optional(body, "filter", filter)?;
        if name_only {
            body.bool("nameOnly", true);
            body.bool("authorizedCollections", true);
        }
        body.nested("cursor", |_| {});
        Ok(())
    })?;
    Ok(command.read(SelectionCriteria::default()))
}

/// A `listDatabases`: asked of the primary, as the specification wants it.
pub(crate) fn list_databases(filter: Option<&Document>, name_only: bool) -> Result<Command> {
    let command = Command::new_on_database("listDatabases", "admin", |body| {
        if let Some(filter) = filter {
            document(body, "filter", filter)?;
        }
        if name_only {
            body.bool("nameOnly", true);
        }
        Ok(())
    })?;
    Ok(command.read(SelectionCriteria::default()))
}
