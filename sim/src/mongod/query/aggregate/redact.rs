//! `$redact`: parts of documents that stay, go, or are looked into.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope};
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::ValueRef;

/// `$redact`.
#[derive(Clone, Debug)]
pub(super) struct Redact(Expression);

/// The variables the expression answers with.
const ANSWERS: [(&str, &str); 3] = [("DESCEND", "descend"), ("PRUNE", "prune"), ("KEEP", "keep")];

impl Redact {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Redact, CommandError> {
        let mut inner = context.clone();
        let answers = ANSWERS.map(|(name, value)| (name.to_owned(), Bson::String(value.into())));
        inner.variables.extend(answers);
        Expression::parse(value, &inner).map(Redact)
    }

    /// What is left of a document; `None` if nothing is.
    pub(super) fn apply(&self, document: Document) -> Result<Option<Document>, CommandError> {
        let root = Bson::Document(document);
        let answer = self.0.evaluate(&Scope::new(&root))?;
        let Bson::Document(document) = root else { unreachable!("it was made one above") };
        match answer {
            Some(Bson::String(answer)) if answer == "keep" => Ok(Some(document)),
            Some(Bson::String(answer)) if answer == "prune" => Ok(None),
            Some(Bson::String(answer)) if answer == "descend" => {
                let mut kept = Document::new();
                for (name, value) in document {
                    if let Some(value) = self.descend(value)? {
                        kept.insert(name, value);
                    }
                }
                Ok(Some(kept))
            }
            other => Err(CommandError::new(
                17053,
                format!(
                    "$redact's expression should not return anything aside from the variables \
                     $$KEEP, $$DESCEND, and $$PRUNE, but returned {}",
                    other.as_ref().map_or_else(String::new, |value| value_text(value.into()))
                ),
            )),
        }
    }

    fn descend(&self, value: Bson) -> Result<Option<Bson>, CommandError> {
        match value {
            Bson::Document(document) => Ok(self.apply(document)?.map(Bson::Document)),
            Bson::Array(elements) => {
                let mut kept = Vec::new();
                for element in elements {
                    kept.extend(self.descend(element)?);
                }
                Ok(Some(Bson::Array(kept)))
            }
            value => Ok(Some(value)),
        }
    }
}
