//! Commands about collections and databases as a whole.

use std::time::Duration;

use bson::{Bson, Document};

use super::update::documents;
use super::{Command, document, max_time, optional, optional_value, write_concern};
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
    /// Which documents must be like it: `off`, `strict` or `moderate`.
    pub validation_level: Option<String>,
    /// What happens to those that are not: `error` or `warn`.
    pub validation_action: Option<String>,
    /// A view: what it looks at.
    pub view_on: Option<String>,
    /// The view's pipeline.
    pub pipeline: Option<Vec<Document>>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// A time series collection (`timeseries`).
    pub timeseries: Option<Document>,
    /// Documents of a time series or clustered collection are deleted after this long.
    pub expire_after: Option<Duration>,
    /// Documents are stored in the order of their key (`clusteredIndex`).
    pub clustered_index: Option<Document>,
    /// Change streams may show documents as they were (`changeStreamPreAndPostImages`).
    pub change_stream_pre_and_post_images: Option<Document>,
    /// The options of its indexes where they say nothing (`indexOptionDefaults`).
    pub index_option_defaults: Option<Document>,
    /// Options of the storage engine.
    pub storage_engine: Option<Document>,
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
        for (key, value) in [
            ("validationLevel", &options.validation_level),
            ("validationAction", &options.validation_action),
            ("viewOn", &options.view_on),
        ] {
            if let Some(value) = value {
                body.string(key, value);
            }
        }
        if let Some(pipeline) = &options.pipeline {
            documents(body, "pipeline", pipeline)?;
        }
        optional(body, "collation", options.collation.as_ref())?;
        optional(body, "timeseries", options.timeseries.as_ref())?;
        if let Some(time) = options.expire_after {
            body.i64("expireAfterSeconds", i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        }
        optional(body, "clusteredIndex", options.clustered_index.as_ref())?;
        let images = options.change_stream_pre_and_post_images.as_ref();
        optional(body, "changeStreamPreAndPostImages", images)?;
        optional(body, "indexOptionDefaults", options.index_option_defaults.as_ref())?;
        optional(body, "storageEngine", options.storage_engine.as_ref())?;
        for (key, value) in options.other.iter().flatten() {
            body.value(key, value)?;
        }
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, options.write_concern.as_ref())
    })?;
    Ok(command.definition().named("createCollection"))
}

/// What can be changed about a collection (`collMod`). `None` changes nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ModifyCollectionOptions {
    /// What documents must be like.
    pub validator: Option<Document>,
    /// Which documents must be like it.
    pub validation_level: Option<String>,
    /// What happens to those that are not.
    pub validation_action: Option<String>,
    /// An index and what changes about it.
    pub index: Option<Document>,
    /// A view: what it looks at.
    pub view_on: Option<String>,
    /// The view's pipeline.
    pub pipeline: Option<Vec<Document>>,
    /// Whether change streams may show documents as they were.
    pub change_stream_pre_and_post_images: Option<Document>,
    /// Anything else the command `collMod` takes.
    pub other: Option<Document>,
    /// Who must have it; default: that of the database.
    pub write_concern: Option<WriteConcern>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// A `collMod`.
pub(crate) fn modify_collection(
    database: &str,
    collection: &str,
    options: &ModifyCollectionOptions,
) -> Result<Command> {
    let mut command = Command::new("collMod", collection, database, |body| {
        optional(body, "validator", options.validator.as_ref())?;
        for (key, value) in [
            ("validationLevel", &options.validation_level),
            ("validationAction", &options.validation_action),
            ("viewOn", &options.view_on),
        ] {
            if let Some(value) = value {
                body.string(key, value);
            }
        }
        optional(body, "index", options.index.as_ref())?;
        if let Some(pipeline) = &options.pipeline {
            documents(body, "pipeline", pipeline)?;
        }
        let images = options.change_stream_pre_and_post_images.as_ref();
        optional(body, "changeStreamPreAndPostImages", images)?;
        for (key, value) in options.other.iter().flatten() {
            body.value(key, value)?;
        }
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, options.write_concern.as_ref())
    })?;
    command.retry = super::Retry::OverloadedWrite;
    Ok(command.named("modifyCollection"))
}

/// A `renameCollection`.
pub(crate) fn rename_collection(
    from: &str,
    to: &str,
    drop_target: Option<bool>,
    concern: Option<&WriteConcern>,
    comment: Option<&Bson>,
) -> Result<Command> {
    let mut command = Command::new("renameCollection", from, "admin", |body| {
        super::check_name("collection", to)?;
        body.string("to", to);
        if let Some(drop_target) = drop_target {
            body.bool("dropTarget", drop_target);
        }
        optional_value(body, "comment", comment)?;
        write_concern(body, concern)
    })?;
    command.retry = super::Retry::OverloadedWrite;
    Ok(command.named("rename"))
}

/// A `drop`.
pub(crate) fn drop_collection(
    database: &str,
    collection: &str,
    concern: Option<&WriteConcern>,
    comment: Option<&Bson>,
) -> Result<Command> {
    let command = Command::new("drop", collection, database, |body| {
        optional_value(body, "comment", comment)?;
        write_concern(body, concern)
    })?;
    Ok(command.definition().named("dropCollection"))
}

/// A `dropDatabase`.
pub(crate) fn drop_database(
    database: &str,
    concern: Option<&WriteConcern>,
    comment: Option<&Bson>,
) -> Result<Command> {
    let command = Command::new_on_database("dropDatabase", database, |body| {
        optional_value(body, "comment", comment)?;
        write_concern(body, concern)
    })?;
    Ok(command.definition())
}

/// What can be said about listing collections. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListCollectionsOptions {
    /// Only those whose description matches.
    pub filter: Option<Document>,
    /// Only those the user may see, with `name_only`.
    pub authorized_collections: Option<bool>,
    /// Only names and types.
    pub name_only: Option<bool>,
    /// How many descriptions per batch.
    pub batch_size: Option<u32>,
    /// What `timeoutMS` applies to; default: the whole life of the cursor.
    pub timeout_mode: Option<super::TimeoutMode>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// A `listCollections`: asked of the primary, as the specification wants it.
pub(crate) fn list_collections(
    database: &str,
    options: &ListCollectionsOptions,
) -> Result<Command> {
    let command = Command::new_on_database("listCollections", database, |body| {
        optional(body, "filter", options.filter.as_ref())?;
        if let Some(only) = options.name_only {
            body.bool("nameOnly", only);
        }
        if let Some(authorized) = options.authorized_collections {
            body.bool("authorizedCollections", authorized);
        }
        body.nested("cursor", |cursor| {
            if let Some(size) = options.batch_size {
                cursor.i64("batchSize", i64::from(size));
            }
        });
        optional_value(body, "comment", options.comment.as_ref())
    })?;
    Ok(command.read(SelectionCriteria::default()))
}

/// What can be said about listing databases. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListDatabasesOptions {
    /// Only those whose description matches.
    pub filter: Option<Document>,
    /// Only those the user may see.
    pub authorized_databases: Option<bool>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// A `listDatabases`: asked of the primary, as the specification wants it.
pub(crate) fn list_databases(options: &ListDatabasesOptions, name_only: bool) -> Result<Command> {
    let command = Command::new_on_database("listDatabases", "admin", |body| {
        if let Some(filter) = &options.filter {
            document(body, "filter", filter)?;
        }
        if name_only {
            body.bool("nameOnly", true);
        }
        if let Some(authorized) = options.authorized_databases {
            body.bool("authorizedDatabases", authorized);
        }
        max_time(body, options.max_time);
        optional_value(body, "comment", options.comment.as_ref())
    })?;
    Ok(command.read(SelectionCriteria::default()))
}
