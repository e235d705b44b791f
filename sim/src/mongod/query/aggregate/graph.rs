//! `$graphLookup`: the documents that can be reached from one, step by step.

use std::collections::BTreeMap;

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::collation::Collation;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope, get_path, split_path};
use crate::mongod::query::key::append_key;
use crate::mongod::query::matcher::Matcher;
use crate::mongod::query::number::as_exact_i64;
use crate::mongod::query::path::{LeafArray, Path};
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::PipelineContext;
use super::stage::put;

/// `$graphLookup`.
#[derive(Clone, Debug)]
pub(super) struct GraphLookup {
    from: String,
    into: Vec<String>,
    start: Expression,
    connect_from: Vec<String>,
    connect_to: Path,
    max_depth: Option<u64>,
    depth_field: Option<Vec<String>>,
    restriction: Option<Matcher>,
    collation: Collation,
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl GraphLookup {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<GraphLookup, CommandError> {
        let ValueRef::Document(spec) = value else {
            let message = format!(
                "the $graphLookup stage specification must be an object, but found {}",
                value.type_name()
            );
            return fail(error::FAILED_TO_PARSE, message);
        };
        let (mut from, mut into, mut start, mut connect_from, mut connect_to) =
            (None, None, None, None, None);
        let (mut max_depth, mut depth_field, mut restriction) = (None, None, None);
        for (name, value) in spec.iter() {
            match (name, value) {
                ("startWith", value) => start = Some(Expression::parse(value, context)?),
                ("maxDepth", value) => {
                    if !value.is_number() {
                        let message =
                            format!("maxDepth must be numeric, found type: {}", value.type_name());
                        return fail(40100, message);
                    }
                    match as_exact_i64(value) {
                        None => {
                            let message = format!(
                                "maxDepth could not be represented as a long long: {}",
                                crate::mongod::query::text::value_text(value)
                            );
                            return fail(40102, message);
                        }
                        Some(depth) if depth < 0 => {
                            let message =
                                format!("maxDepth requires a nonnegative argument, found: {depth}");
                            return fail(40101, message);
                        }
                        Some(depth) => max_depth = Some(depth as u64),
                    }
                }
                ("restrictSearchWithMatch", ValueRef::Document(filter)) => {
                    restriction = Some(Matcher::parse(filter, context)?);
                }
                ("restrictSearchWithMatch", other) => {
                    let message = format!(
                        "restrictSearchWithMatch must be an object, found {}",
                        other.type_name()
                    );
                    return fail(40185, message);
                }
                (
                    "as" | "connectFromField" | "connectToField" | "depthField" | "from",
                    ValueRef::String(text),
                ) => match name {
                    "from" => from = Some(text.to_owned()),
                    "as" => into = Some(split_path(text)?),
                    "connectFromField" => connect_from = Some(split_path(text)?),
                    "connectToField" => {
                        split_path(text)?;
                        connect_to = Some(Path::new(text));
                    }
                    _ => depth_field = Some(split_path(text)?),
                },
                ("from", other) => {
                    let message = format!(
                        "$graphLookup 'from' field must be a string, but found {}",
                        other.type_name()
                    );
                    return fail(error::FAILED_TO_PARSE, message);
                }
                ("as" | "connectFromField" | "connectToField" | "depthField", other) => {
                    let message = format!(
                        "$graphLookup argument '{name}' must be a string, found {name}: {} is of type \
                         {}",
                        crate::mongod::query::text::value_text(other),
                        other.type_name()
                    );
                    return fail(40103, message);
                }
                (name, _) => {
                    return fail(40104, format!("Unknown argument to $graphLookup: {name}"));
                }
            }
        }
        let (Some(from), Some(into), Some(start), Some(connect_from), Some(connect_to)) =
            (from, into, start, connect_from, connect_to)
        else {
            return fail(
                40105,
                "$graphLookup requires 'from', 'as', 'startWith', 'connectFromField', and \
                 'connectToField' to be specified.",
            );
        };
        let collation = context.collation;
        Ok(GraphLookup {
            from,
            into,
            start,
            connect_from,
            connect_to,
            max_depth,
            depth_field,
            restriction,
            collation,
        })
    }

    pub(super) fn foreign_collection(&self) -> &str {
        &self.from
    }

    pub(super) fn run(
        &self,
        documents: Vec<Document>,
        context: &mut dyn PipelineContext,
    ) -> Result<Vec<Document>, CommandError> {
        let mut foreign = Vec::new();
        for document in context.collection(&self.from)? {
            let passes = match &self.restriction {
                Some(restriction) => restriction.matches(&document)?,
                None => true,
            };
            if passes {
                foreign.push(document);
            }
        }
        let by_value = self.index(&foreign)?;
        let mut joined = Vec::with_capacity(documents.len());
        for mut document in documents {
            let root = Bson::Document(document.clone());
            let start = self.start.evaluate_or_null(&Scope::new(&root))?;
            let found = self.search(&foreign, &by_value, start);
            put(&mut document, &self.into, Bson::Array(found));
            joined.push(document);
        }
        Ok(joined)
    }

    /// The documents by the values that connect to them.
    fn index(&self, foreign: &[Document]) -> Result<BTreeMap<Vec<u8>, Vec<usize>>, CommandError> {
        let mut by_value: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (place, document) in foreign.iter().enumerate() {
            let mut keys = Vec::new();
            self.connect_to.visit(
                DocumentRef::from(document),
                LeafArray::Traverse,
                &mut |value, _| {
                    keys.push(self.key(value.unwrap_or(ValueRef::Null)));
                    Ok::<bool, CommandError>(false)
                },
            )?;
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                by_value.entry(key).or_default().push(place);
            }
        }
        Ok(by_value)
    }

    fn key(&self, value: ValueRef<'_>) -> Vec<u8> {
        let mut key = Vec::new();
        append_key(&mut key, value, self.collation, false);
        key
    }

    /// Breadth first, each document once.
    fn search(
        &self,
        foreign: &[Document],
        by_value: &BTreeMap<Vec<u8>, Vec<usize>>,
        start: Bson,
    ) -> Vec<Bson> {
        let mut frontier = match start {
            Bson::Array(values) => values,
            value => vec![value],
        };
        let mut seen = vec![false; foreign.len()];
        let mut found = Vec::new();
        let mut depth = 0_u64;
        while !frontier.is_empty() {
            let mut next = Vec::new();
            for value in &frontier {
                let places = by_value.get(&self.key(value.into()));
                for place in places.into_iter().flatten().copied() {
                    if std::mem::replace(&mut seen[place], true) {
                        continue;
                    }
                    let mut document = foreign[place].clone();
                    let root = Bson::Document(document.clone());
                    match get_path(&root, &self.connect_from) {
                        Some(Bson::Array(values)) => next.extend(values),
                        value => next.extend(value),
                    }
                    if let Some(field) = &self.depth_field {
                        put(&mut document, field, Bson::Int64(depth as i64));
                    }
                    found.push(Bson::Document(document));
                }
            }
            if self.max_depth.is_some_and(|max| depth >= max) {
                break;
            }
            depth += 1;
            frontier = next;
        }
        found
    }
}
