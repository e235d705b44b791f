//! `$lookup` and `$unionWith`: stages that read other collections.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope, get_path, split_path};
use crate::mongod::query::matcher::Matcher;
use crate::mongod::query::value::ValueRef;

use super::stage::{options, put};
use super::{Pipeline, PipelineContext, Place};

/// `$lookup`, by equal fields, by a pipeline, or both.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    from: String,
    into: Vec<String>,
    fields: Option<(Vec<String>, String)>,
    variables: Vec<(String, Expression)>,
    /// Parsed again for each document if there are variables, whose values are constants to it.
    stages: Vec<Bson>,
    pipeline: Pipeline,
    context: ParseContext,
}

fn fail<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(error::FAILED_TO_PARSE, message))
}

impl Lookup {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Lookup, CommandError> {
        let known = ["from", "as", "localField", "foreignField", "let", "pipeline"];
        let spec = match value {
            ValueRef::Document(spec) => spec,
            _ => options("$lookup", value, &known)?,
        };
        if let Some((name, value)) = spec.iter().find(|(name, _)| !known.contains(name)) {
            return fail(match value {
                ValueRef::String(_) => format!("unknown argument to $lookup: {name}"),
                value => format!(
                    "$lookup argument '{name}' must be a string, found {}: {}",
                    crate::mongod::query::text::element_text(name, value),
                    value.type_name()
                ),
            });
        }
        if spec.get("from").is_none() && spec.get("pipeline").is_none() {
            return fail("must specify 'pipeline' when 'from' is empty");
        }
        let text = |name: &str| match spec.get(name) {
            None => Ok(None),
            Some(ValueRef::String(text)) => Ok(Some(text)),
            Some(other) if name == "from" => fail(format!(
                "$lookup 'from' field must be a string, but found {}",
                other.type_name()
            )),
            Some(other) => fail(format!(
                "$lookup argument '{name}' must be a string, found {}: {}",
                crate::mongod::query::text::element_text(name, other),
                other.type_name()
            )),
        };
        let Some(into) = text("as")? else { return fail("must specify 'as' field for a $lookup") };
        let from = text("from")?;
        let fields = match (text("localField")?, text("foreignField")?) {
            (Some(local), Some(foreign)) => {
                split_path(foreign)?;
                Some((split_path(local)?, foreign.to_owned()))
            }
            (None, None) => None,
            _ if spec.get("pipeline").is_none() => {
                return fail(
                    "$lookup requires either 'pipeline' or both 'localField' and 'foreignField' to be \
                     specified",
                );
            }
            _ => {
                return fail(
                    "$lookup requires both or neither of 'localField' and 'foreignField' to be \
                     specified",
                );
            }
        };
        let stages = match spec.get("pipeline") {
            None if fields.is_none() => {
                return fail(
                    "$lookup requires either 'pipeline' or both 'localField' and 'foreignField' to be \
                     specified",
                );
            }
            None => Vec::new(),
            Some(ValueRef::Array(stages)) => stages.to_vec(),
            Some(_) => {
                return Err(CommandError::new(
                    error::TYPE_MISMATCH,
                    "'pipeline' option must be specified as an array",
                ));
            }
        };
        let mut variables = Vec::new();
        match spec.get("let") {
            None => {}
            Some(ValueRef::Document(vars)) => {
                for (name, value) in vars.iter() {
                    variables.push((name.to_owned(), Expression::parse(value, context)?));
                }
            }
            Some(other) => {
                return fail(format!(
                    "$lookup argument '{}' must be an object, is type {}",
                    crate::mongod::query::text::element_text("let", other),
                    other.type_name()
                ));
            }
        }
        let named = variables.iter().map(|(name, _)| (name.clone(), Bson::Null)).collect();
        let inner = with_variables(context, named);
        let pipeline =
            Pipeline::parse_in(Place::Lookup, stages.iter().map(ValueRef::from), &inner)?;
        let Some(from) = from.or(pipeline.brings_documents().then_some("")) else {
            return fail("must specify 'from' field for a $lookup");
        };
        Ok(Lookup {
            from: from.to_owned(),
            into: split_path(into)?,
            fields,
            variables,
            stages,
            pipeline,
            context: context.clone(),
        })
    }

    pub(super) fn foreign_collections(&self) -> Vec<&str> {
        let mut names = self.pipeline.foreign_collections();
        if !self.from.is_empty() {
            names.push(&self.from);
        }
        names
    }

    pub(super) fn run(
        &self,
        documents: Vec<Document>,
        context: &mut dyn PipelineContext,
    ) -> Result<Vec<Document>, CommandError> {
        // Read as a whole only where no index serves.
        let mut foreign: Option<Vec<Document>> = self.from.is_empty().then(Vec::new);
        let mut joined = Vec::with_capacity(documents.len());
        for mut document in documents {
            let root = Bson::Document(document.clone());
            let mut found = match &self.fields {
                Some((local, foreign_field)) => {
                    let filter = self.equality(get_path(&root, local), foreign_field)?;
                    match context.find_by_index(&self.from, &filter)? {
                        Some(found) => found,
                        None => {
                            let mut found = Vec::new();
                            for candidate in whole(&mut foreign, context, &self.from)? {
                                if filter.matches(candidate)? {
                                    found.push(candidate.clone());
                                }
                            }
                            found
                        }
                    }
                }
                None => whole(&mut foreign, context, &self.from)?.to_vec(),
            };
            if self.variables.is_empty() {
                found = self.pipeline.run(found, context)?;
            } else {
                let scope = Scope::new(&root);
                let mut values = Vec::new();
                for (name, expression) in &self.variables {
                    values.push((name.clone(), expression.evaluate_or_null(&scope)?));
                }
                let inner = with_variables(&self.context, values);
                let pipeline = Pipeline::parse(self.stages.iter().map(ValueRef::from), &inner)?;
                found = pipeline.run(found, context)?;
            }
            let found = Bson::Array(found.into_iter().map(Bson::Document).collect());
            put(&mut document, &self.into, found);
            joined.push(document);
        }
        Ok(joined)
    }

    /// The filter on the foreign field: equal to the local value, or to one of its elements.
    fn equality(&self, local: Option<Bson>, foreign: &str) -> Result<Matcher, CommandError> {
        let values = match local {
            None => vec![Bson::Null],
            Some(Bson::Array(elements)) => elements,
            Some(value) => vec![value],
        };
        if values.is_empty() {
            return Matcher::parse(&bson::doc! { "$alwaysFalse": 1 }, &self.context);
        }
        let special = |value: &Bson| matches!(value, Bson::RegularExpression(_) | Bson::Undefined);
        if !values.iter().any(special) {
            let mut filter = Document::new();
            filter.insert(foreign, bson::doc! { "$in": values });
            return Matcher::parse(&filter, &self.context);
        }
        let alternatives: Vec<Bson> = values
            .into_iter()
            .map(|value| {
                let mut filter = Document::new();
                filter.insert(foreign, bson::doc! { "$eq": value });
                Bson::Document(filter)
            })
            .collect();
        Matcher::parse(&bson::doc! { "$or": alternatives }, &self.context)
    }
}

/// The documents of a collection, read once.
fn whole<'a>(
    known: &'a mut Option<Vec<Document>>,
    context: &mut dyn PipelineContext,
    name: &str,
) -> Result<&'a [Document], CommandError> {
    if known.is_none() {
        *known = Some(context.collection(name)?);
    }
    Ok(known.as_deref().unwrap_or_default())
}

/// The context with further variables, which hide those of the same name.
fn with_variables(context: &ParseContext, variables: Vec<(String, Bson)>) -> ParseContext {
    let mut inner = context.clone();
    inner.variables.retain(|(known, _)| variables.iter().all(|(name, _)| name != known));
    inner.variables.extend(variables);
    inner
}

/// `$unionWith`.
#[derive(Clone, Debug)]
pub(super) struct UnionWith {
    collection: Option<String>,
    pipeline: Pipeline,
}

impl UnionWith {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<UnionWith, CommandError> {
        if let ValueRef::String(collection) = value {
            let pipeline = Pipeline { stages: Vec::new(), output: None };
            return Ok(UnionWith { collection: Some(collection.to_owned()), pipeline });
        }
        let ValueRef::Document(spec) = value else {
            return fail(format!(
                "the $unionWith stage specification must be an object or string, but found {}",
                value.type_name()
            ));
        };
        for (name, value) in spec.iter() {
            match (name, value) {
                ("coll", ValueRef::String(_)) | ("pipeline", _) => {}
                ("coll", other) => {
                    return Err(CommandError::new(
                        error::TYPE_MISMATCH,
                        format!(
                            "BSON field '$unionWith.coll' is the wrong type '{}', expected type 'string'",
                            other.type_name()
                        ),
                    ));
                }
                (name, _) => {
                    return Err(CommandError::new(
                        40415,
                        format!("BSON field '$unionWith.{name}' is an unknown field."),
                    ));
                }
            }
        }
        let stages = match spec.get("pipeline") {
            None => Vec::new(),
            Some(ValueRef::Array(stages)) => stages.to_vec(),
            Some(_) => return fail("'pipeline' option must be specified as an array"),
        };
        let pipeline =
            Pipeline::parse_in(Place::UnionWith, stages.iter().map(ValueRef::from), context)?;
        let collection = match spec.get("coll") {
            Some(ValueRef::String(collection)) => Some(collection.to_owned()),
            None if pipeline.brings_documents() => None,
            _ => {
                return fail(
                    "$unionWith stage without explicit collection must have a pipeline with $documents as first stage",
                );
            }
        };
        Ok(UnionWith { collection, pipeline })
    }

    pub(super) fn foreign_collections(&self) -> Vec<&str> {
        let mut names = self.pipeline.foreign_collections();
        names.extend(self.collection.as_deref());
        names
    }

    pub(super) fn run(
        &self,
        mut documents: Vec<Document>,
        context: &mut dyn PipelineContext,
    ) -> Result<Vec<Document>, CommandError> {
        let more = match &self.collection {
            Some(collection) => context.collection(collection)?,
            None => Vec::new(),
        };
        documents.extend(self.pipeline.run(more, context)?);
        Ok(documents)
    }
}
