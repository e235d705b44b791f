//! Stages that turn one document into one: what update pipelines are made of, and aggregations too.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;

use super::context::ParseContext;
use super::expression::{Expression, Scope};
use super::project::{Projection, ProjectionSyntax};
use super::text::document_text;
use super::value::{DocumentRef, ValueRef};

/// `$project`, `$addFields`, `$set`, `$unset`, `$replaceRoot` or `$replaceWith`.
#[derive(Clone, Debug)]
pub struct Transform(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Project(Projection),
    Replace { expression: Expression, stage: &'static str },
}

impl Transform {
    /// Parses the stage `name`; `None` if it is none of these.
    ///
    /// # Errors
    /// What the stage says about its argument.
    pub fn parse(
        name: &str,
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Option<Transform>, CommandError> {
        let kind = match name {
            "$project" => {
                let ValueRef::Document(spec) = value else {
                    let message = "$project specification must be an object";
                    return Err(CommandError::new(15969, message));
                };
                Kind::Project(Projection::parse(spec, ProjectionSyntax::Stage, context)?)
            }
            "$addFields" | "$set" => {
                let ValueRef::Document(spec) = value else {
                    let message = format!(
                        "{name} specification stage must be an object, got {}",
                        value.type_name()
                    );
                    return Err(CommandError::new(40272, message));
                };
                Kind::Project(Projection::parse_add_fields(name, spec, context)?)
            }
            "$unset" => Kind::Project(Projection::exclude(&unset_paths(value)?)?),
            "$replaceRoot" => {
                let ValueRef::Document(spec) = value else {
                    let message = format!(
                        "expected an object as specification for $replaceRoot stage, got {}",
                        value.type_name()
                    );
                    return Err(CommandError::new(40229, message));
                };
                if let Some((unknown, _)) = spec.iter().find(|(name, _)| *name != "newRoot") {
                    let message =
                        format!("BSON field '$replaceRoot.{unknown}' is an unknown field.");
                    return Err(CommandError::new(40415, message));
                }
                let Some(root) = spec.get("newRoot") else {
                    let message =
                        "BSON field '$replaceRoot.newRoot' is missing but a required field";
                    return Err(CommandError::new(40414, message));
                };
                let expression = Expression::parse(root, context)?;
                Kind::Replace { expression, stage: "$replaceRoot" }
            }
            "$replaceWith" => {
                let expression = Expression::parse(value, context)?;
                Kind::Replace { expression, stage: "$replaceWith" }
            }
            _ => return Ok(None),
        };
        Ok(Some(Transform(kind)))
    }

    /// The document it makes of `document`.
    ///
    /// # Errors
    /// What expressions fail with; 40228 for a new root that is no document.
    pub fn apply(&self, document: &Document) -> Result<Document, CommandError> {
        match &self.0 {
            Kind::Project(projection) => projection.apply(document, None),
            Kind::Replace { expression, stage } => {
                let root = Bson::Document(document.clone());
                match expression.evaluate(&Scope::new(&root))? {
                    Some(Bson::Document(document)) => Ok(document),
                    other => {
                        let what = if *stage == "$replaceRoot" {
                            "'newRoot' expression "
                        } else {
                            "'replacement document' "
                        };
                        let (value, kind) = match &other {
                            None => ("MISSING".to_owned(), "missing"),
                            Some(value) => {
                                let value = ValueRef::from(value);
                                (super::text::value_text(value), value.type_name())
                            }
                        };
                        Err(CommandError::new(
                            40228,
                            format!(
                                "{what} must evaluate to an object, but resulting value was: {value}. \
                                 Type of resulting value: '{kind}'. Input document: {}",
                                document_text(DocumentRef::from(document))
                            ),
                        ))
                    }
                }
            }
        }
    }
}

fn unset_paths<'a>(value: ValueRef<'a>) -> Result<Vec<&'a str>, CommandError> {
    let strings = "$unset specification must be a string or an array containing only string values";
    match value {
        ValueRef::String(path) => Ok(vec![path]),
        ValueRef::Array(array) if !array.is_empty() => array
            .iter()
            .map(|path| path.as_str().ok_or_else(|| CommandError::new(31120, strings)))
            .collect(),
        ValueRef::Array(_) => Err(CommandError::new(
            31119,
            "$unset specification must be a string or an array with at least one field",
        )),
        _ => Err(CommandError::new(31002, "$unset specification must be a string or an array")),
    }
}
