//! `update`.

use bson::{Bson, Document};

use super::{
    BodyWriter, CollectionWriteOptions, Command, Hint, count, document, optional, optional_value,
    write_concern,
};
use crate::error::{Error, Result};
use crate::options::WriteConcern;

/// How documents are to be changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum UpdateModifications {
    /// By update operators (`$set`, ...).
    Document(Document),
    /// By an aggregation pipeline.
    Pipeline(Vec<Document>),
}

impl From<Document> for UpdateModifications {
    fn from(update: Document) -> Self {
        UpdateModifications::Document(update)
    }
}

impl From<Vec<Document>> for UpdateModifications {
    fn from(pipeline: Vec<Document>) -> Self {
        UpdateModifications::Pipeline(pipeline)
    }
}

/// What can be said about an update or a replacement. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct UpdateOptions {
    /// Which elements of arrays `$[name]` stands for.
    pub array_filters: Option<Vec<Document>>,
    /// Takes documents that break the collection's validation rules.
    pub bypass_document_validation: Option<bool>,
    /// Inserts a document if none matches.
    pub upsert: Option<bool>,
    /// Which of several matching documents is changed (server 8.0).
    pub sort: Option<Document>,
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

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct UpdateResult {
    /// How many documents matched the filter.
    pub matched_count: u64,
    /// How many of them were changed.
    pub modified_count: u64,
    /// The `_id` of the document that was inserted.
    pub upserted_id: Option<Bson>,
}

/// A change as a command carries it.
pub(crate) enum Change {
    /// By operators or a pipeline.
    Modifications(UpdateModifications),
    /// By another document, given as its bytes.
    Replacement(Vec<u8>),
}

impl Change {
    /// Refuses what the server would take for the other kind of change.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Change::Modifications(UpdateModifications::Document(update)) => {
                if !update.keys().next().is_some_and(|key| key.starts_with('$')) {
                    let message = "the first key of an update is an operator such as $set";
                    return Err(Error::invalid_argument(message));
                }
            }
            Change::Modifications(UpdateModifications::Pipeline(stages)) => {
                if stages.is_empty() {
                    return Err(Error::invalid_argument("an update pipeline has a stage at least"));
                }
            }
            Change::Replacement(bytes) => {
                // The first key starts after the length and the type.
                if bytes.get(5) == Some(&b'$') {
                    let message = "a replacement contains no update operator";
                    return Err(Error::invalid_argument(message));
                }
            }
        }
        Ok(())
    }

    /// Adds the change under `key`.
    pub(crate) fn write(&self, body: &mut BodyWriter<'_>, key: &str) -> Result<()> {
        match self {
            Change::Modifications(UpdateModifications::Document(update)) => {
                document(body, key, update)
            }
            Change::Modifications(UpdateModifications::Pipeline(stages)) => {
                documents(body, key, stages)
            }
            Change::Replacement(bytes) => {
                body.document(key, bytes);
                Ok(())
            }
        }
    }
}

/// Adds an array of documents.
pub(super) fn documents(
    body: &mut BodyWriter<'_>,
    key: &str,
    documents: &[Document],
) -> Result<()> {
    let array = documents.iter().cloned().map(Bson::Document).collect();
    Ok(body.value(key, &Bson::Array(array))?)
}

/// The update of one or many documents.
pub(crate) fn update(
    database: &str,
    collection: &str,
    filter: &Document,
    change: &Change,
    many: bool,
    options: &UpdateOptions,
) -> Result<Command> {
    change.check()?;
    let concern = options.write_concern.as_ref();
    let mut statement = Vec::new();
    let mut one = BodyWriter::new(&mut statement);
    let of_statement = CollectionWriteOptions {
        array_filters: options.array_filters.clone(),
        upsert: options.upsert,
        sort: options.sort.clone(),
        collation: options.collation.clone(),
        hint: options.hint.clone(),
    };
    self::statement(&mut one, filter, change, many, &of_statement)?;
    one.finish();
    let mut command = Command::new("update", collection, database, |body| {
        body.bool("ordered", true);
        if let Some(bypass) = options.bypass_document_validation {
            body.bool("bypassDocumentValidation", bypass);
        }
        optional(body, "let", options.let_vars.as_ref())?;
        optional_value(body, "comment", options.comment.as_ref())?;
        write_concern(body, concern)
    })?;
    command.sequence = Some(("updates", statement));
    Ok(command.write(concern, !many))
}

/// Writes the fields of one update statement.
pub(super) fn statement(
    one: &mut BodyWriter<'_>,
    filter: &Document,
    change: &Change,
    many: bool,
    options: &CollectionWriteOptions,
) -> Result<()> {
    document(one, "q", filter)?;
    change.write(one, "u")?;
    if many {
        one.bool("multi", true);
    }
    if options.upsert == Some(true) {
        one.bool("upsert", true);
    }
    if let Some(filters) = &options.array_filters {
        documents(one, "arrayFilters", filters)?;
    }
    optional(one, "sort", options.sort.as_ref())?;
    optional(one, "collation", options.collation.as_ref())?;
    optional_value(one, "hint", options.hint.clone().map(Bson::from).as_ref())
}

/// Reads the reply to an update.
pub(crate) fn read_update(reply: &bson::RawDocument) -> Result<UpdateResult> {
    let upserted_id = match reply.get_array("upserted") {
        Ok(upserted) => match upserted.into_iter().next() {
            Some(Ok(bson::raw::RawBsonRef::Document(first))) => {
                first.get("_id")?.map(Bson::try_from).transpose()?
            }
            _ => None,
        },
        Err(_) => None,
    };
    let matched = count(reply, "n");
    Ok(UpdateResult {
        matched_count: matched - u64::from(upserted_id.is_some() && matched > 0),
        modified_count: count(reply, "nModified"),
        upserted_id,
    })
}
