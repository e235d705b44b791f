//! Updates: operators, replacements, pipelines; each gives the new document and what the oplog says of it.

use bson::{Bson, Document, RawDocumentBuf, Timestamp};

use crate::mongod::error::{self, CommandError};

use super::compare::{identical, identical_documents};
use super::context::ParseContext;
use super::diff::{Touched, diff, guided_diff, versioned};
use super::matcher::Matcher;
use super::text::element_text;
use super::transform::Transform;
use super::value::{DocumentRef, ValueRef, to_raw};

mod arrays;
mod operator;
mod parse;
mod place;
#[cfg(test)]
mod tests;

use operator::Modification;
use parse::ArrayFilter;
pub use parse::check_stages;

/// A parsed update.
#[derive(Clone, Debug)]
pub struct Update(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Replacement(Document),
    Operators { modifications: Vec<Modification>, filters: Vec<ArrayFilter> },
    Pipeline(Vec<Transform>),
}

/// What an update made of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateOutcome {
    /// The document after it.
    pub document: Document,
    /// Whether a single byte changed: if not, nothing is written.
    pub changed: bool,
    /// What the oplog entry's `o` holds; `None` if nothing changed.
    pub entry: Option<UpdateEntry>,
}

/// The `o` of an update's oplog entry.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateEntry {
    /// `{$v: 2, diff: {...}}`.
    Diff(Document),
    /// The whole document.
    Replacement,
}

impl UpdateOutcome {
    /// The `o` of the oplog entry; `None` if nothing changed.
    pub fn oplog_object(&self) -> Option<RawDocumentBuf> {
        Some(match self.entry.as_ref()? {
            UpdateEntry::Diff(diff) => to_raw(diff),
            UpdateEntry::Replacement => to_raw(&self.document),
        })
    }
}

impl Update {
    /// Parses an update (`u` of an update statement, `update` of findAndModify) with its
    /// `arrayFilters`.
    ///
    /// # Errors
    /// `FailedToParse` for unknown operators and unusable filters, `ConflictingUpdateOperators` for
    /// paths that meet, and what single operators say about their arguments.
    pub fn parse<'a>(
        update: impl Into<ValueRef<'a>>,
        array_filters: &[DocumentRef<'_>],
        context: &ParseContext,
    ) -> Result<Update, CommandError> {
        parse::parse(update.into(), array_filters, context).map(Update)
    }

    /// Whether it replaces the document: not allowed with `multi: true`.
    pub fn is_replacement(&self) -> bool {
        matches!(self.0, Kind::Replacement(_))
    }

    /// Whether it is a pipeline.
    pub fn is_pipeline(&self) -> bool {
        matches!(self.0, Kind::Pipeline(_))
    }

    /// Applies it. `is_insert` says that the document is a new one (an upsert); `position` is the index
    /// in the array that the filter matched at.
    ///
    /// # Errors
    /// `ImmutableField` if `_id` would change, and what the operators say about the document.
    pub fn apply(
        &self,
        document: &Document,
        is_insert: bool,
        position: Option<usize>,
    ) -> Result<UpdateOutcome, CommandError> {
        let outcome = match &self.0 {
            Kind::Replacement(replacement) => replace(document, replacement.clone()),
            Kind::Operators { modifications, filters } => {
                let mut after = document.clone();
                let mut touched = Touched::default();
                for modification in modifications {
                    modification.apply(&mut after, filters, is_insert, position, &mut touched)?;
                }
                let changed = !identical_documents(document, &after);
                let entry = changed
                    .then(|| UpdateEntry::Diff(versioned(guided_diff(document, &after, &touched))));
                UpdateOutcome { document: after, changed, entry }
            }
            Kind::Pipeline(stages) => {
                let mut after = document.clone();
                for stage in stages {
                    after = stage.apply(&after)?;
                }
                if let (Some(id), false) = (document.get("_id"), after.contains_key("_id")) {
                    // A stage that drops `_id` does not drop it from the collection.
                    after = with_id_first(id.clone(), after);
                }
                let mut outcome = replace(document, after);
                if outcome.changed {
                    let found = diff(document, &outcome.document);
                    // The shorter of both is logged; around a diff there are 15 bytes more.
                    let length = to_raw(&found).as_bytes().len() + 15;
                    if length < to_raw(&outcome.document).as_bytes().len() {
                        outcome.entry = Some(UpdateEntry::Diff(versioned(found)));
                    }
                }
                outcome
            }
        };
        if let Some(before) = document.get("_id") {
            self.check_id(before, outcome.document.get("_id"))?;
        }
        if let Some(id) = outcome.document.get("_id") {
            check_id_value(id)?;
        }
        Ok(outcome)
    }

    /// The document an upsert inserts: the filter's equalities, the update on top, and an `_id` from
    /// `generate_id` if neither gives one.
    ///
    /// # Errors
    /// As [`Self::apply`]; `NotSingleValueField` (54) if the filter gives a path two values.
    pub fn upsert_document(
        &self,
        filter: &Matcher,
        generate_id: impl FnOnce() -> Bson,
    ) -> Result<Document, CommandError> {
        let mut document = Document::new();
        for (path, value) in filter.equalities()? {
            if self.is_replacement() && path != "_id" {
                continue;
            }
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            place::set(&mut document, &path, value)?;
        }
        let document = self.apply(&document, true, None)?.document;
        let id = document.get("_id").cloned().unwrap_or_else(generate_id);
        Ok(with_id_first(id, document))
    }

    fn check_id(&self, before: &Bson, after: Option<&Bson>) -> Result<(), CommandError> {
        if after.is_some_and(|after| identical(before, after)) {
            return Ok(());
        }
        let message = match (&self.0, after) {
            (Kind::Operators { .. }, _) => {
                "Performing an update on the path '_id' would modify the \
                                            immutable field '_id'"
                    .to_owned()
            }
            (_, Some(after)) => format!(
                "After applying the update, the (immutable) field '_id' was found to have been \
                 altered to {}",
                element_text("_id", after.into())
            ),
            (_, None) => {
                "After applying the update, the (immutable) field '_id' was found to have \
                          been removed"
                    .to_owned()
            }
        };
        Err(CommandError::new(error::IMMUTABLE_FIELD, message))
    }
}

/// Refuses what cannot be an `_id`.
///
/// # Errors
/// `InvalidIdField` for arrays, regular expressions and undefined.
pub fn check_id_value(id: &Bson) -> Result<(), CommandError> {
    match id {
        Bson::Array(_) | Bson::RegularExpression(_) | Bson::Undefined => Err(CommandError::new(
            error::INVALID_ID_FIELD,
            format!("The '_id' value cannot be of type {}", ValueRef::from(id).type_name()),
        )),
        _ => Ok(()),
    }
}

/// Whether the dotted path `a` is a proper prefix of `b`.
pub(super) fn is_prefix(a: &str, b: &str) -> bool {
    b.len() > a.len() && b.starts_with(a) && b.as_bytes()[a.len()] == b'.'
}

fn replace(before: &Document, replacement: Document) -> UpdateOutcome {
    let id = replacement.get("_id").or(before.get("_id")).cloned();
    let after = match id {
        Some(id) => with_id_first(id, replacement),
        None => replacement,
    };
    let changed = !identical_documents(before, &after);
    let entry = changed.then_some(UpdateEntry::Replacement);
    UpdateOutcome { document: after, changed, entry }
}

fn with_id_first(id: Bson, document: Document) -> Document {
    if document.iter().next().is_some_and(|(name, value)| name == "_id" && identical(value, &id)) {
        return document;
    }
    let mut first = Document::new();
    first.insert("_id", id);
    first.extend(document.into_iter().filter(|(name, _)| name != "_id"));
    first
}

/// Gives the empty timestamps at a new document's top level their value, as the server does on insert
/// and replacement (`_id` is left alone).
pub fn fill_empty_timestamps(document: &mut Document, now: Timestamp) {
    for (name, value) in document.iter_mut() {
        if name != "_id" && *value == Bson::Timestamp(Timestamp { time: 0, increment: 0 }) {
            *value = Bson::Timestamp(now);
        }
    }
}

/// `{_id: 1}`: how messages name the document.
fn id_text(document: &Document) -> String {
    match document.get("_id") {
        Some(id) => format!("{{{}}}", element_text("_id", id.into())),
        None => "{no id}".to_owned(),
    }
}
