//! `findAndModify`.

use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocument, RawDocumentBuf};

use super::update::{Change, documents};
use super::{Command, Hint, document, lacks, max_time, optional, optional_value, write_concern};
use crate::error::Result;
use crate::options::WriteConcern;

/// Which state of the document is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReturnDocument {
    /// As it is after the change.
    After,
    /// As it was before the change.
    #[default]
    Before,
}

/// What can be said about finding a document and changing it at once. `None` means the server's
/// default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FindOneAndModifyOptions {
    /// Which elements of arrays `$[name]` stands for; not for replacements and deletions.
    pub array_filters: Option<Vec<Document>>,
    /// Takes documents that break the collection's validation rules; not for deletions.
    pub bypass_document_validation: Option<bool>,
    /// Inserts a document if none matches; not for deletions.
    pub upsert: Option<bool>,
    /// Which state is given back; not for deletions.
    pub return_document: Option<ReturnDocument>,
    /// Which of several matching documents.
    pub sort: Option<Document>,
    /// Which fields are given back.
    pub projection: Option<Document>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which index.
    pub hint: Option<Hint>,
    /// How long the server works on it.
    pub max_time: Option<Duration>,
    /// Who must have it; default: that of the collection.
    pub write_concern: Option<WriteConcern>,
    /// Variables for expressions.
    pub let_vars: Option<Document>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// What is done to the document that is found.
pub(crate) enum Modification {
    /// It is changed.
    Change(Change),
    /// It is deleted.
    Delete,
}

/// A `findAndModify`.
pub(crate) fn find_and_modify(
    database: &str,
    collection: &str,
    filter: &Document,
    modification: &Modification,
    options: &FindOneAndModifyOptions,
) -> Result<Command> {
    let concern = options.write_concern.as_ref();
    let command = Command::new("findAndModify", collection, database, |body| {
        document(body, "query", filter)?;
        optional(body, "sort", options.sort.as_ref())?;
        match modification {
            Modification::Delete => body.bool("remove", true),
            Modification::Change(change) => {
                change.check()?;
                change.write(body, "update")?;
                if options.return_document == Some(ReturnDocument::After) {
                    body.bool("new", true);
                }
                if let Some(upsert) = options.upsert {
                    body.bool("upsert", upsert);
                }
                if let Some(bypass) = options.bypass_document_validation {
                    body.bool("bypassDocumentValidation", bypass);
                }
                if let Some(filters) = &options.array_filters {
                    documents(body, "arrayFilters", filters)?;
                }
            }
        }
        optional(body, "fields", options.projection.as_ref())?;
        optional(body, "collation", options.collation.as_ref())?;
        optional_value(body, "hint", options.hint.clone().map(Bson::from).as_ref())?;
        max_time(body, options.max_time);
        optional(body, "let", options.let_vars.as_ref())?;
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, concern)
    })?;
    Ok(command.write(concern, true))
}

/// The document in the reply, if one was found.
pub(crate) fn read_value(reply: &RawDocument) -> Result<Option<RawDocumentBuf>> {
    match reply.get("value") {
        Ok(Some(RawBsonRef::Document(value))) => Ok(Some(value.to_owned())),
        Ok(Some(RawBsonRef::Null)) => Ok(None),
        _ => Err(lacks("findAndModify", "value")),
    }
}
