//! The stages.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope, split_path};
use crate::mongod::query::matcher::Matcher;
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::text::element_text;
use crate::mongod::query::transform::Transform;
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::bucket_auto::BucketAuto;
use super::graph::GraphLookup;
use super::group::{Bucket, Group};
use super::join::{Lookup, UnionWith};
use super::redact::Redact;
use super::unpack::Unpack;
use super::window::SetWindowFields;
use super::{Pipeline, PipelineContext, Place};

#[derive(Clone, Debug)]
pub(super) enum Stage {
    Match(Matcher),
    Transform(Transform),
    Group(Box<Group>),
    Bucket(Box<Bucket>),
    BucketAuto(Box<BucketAuto>),
    GraphLookup(Box<GraphLookup>),
    Redact(Box<Redact>),
    SetWindowFields(Box<SetWindowFields>),
    Unpack(Unpack),
    Sort(SortPattern),
    Limit(u64),
    Skip(u64),
    Count(String),
    Unwind { path: Vec<String>, index: Option<Vec<String>>, preserve: bool },
    Sample(u64),
    SortByCount { group: Box<Group>, sort: SortPattern },
    Facet(Vec<(String, Pipeline)>),
    Lookup(Box<Lookup>),
    UnionWith(UnionWith),
    Documents(Vec<Document>),
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl Stage {
    pub(super) fn parse(
        name: &str,
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Stage, CommandError> {
        if let Some(transform) = Transform::parse(name, value, context)? {
            return Ok(Stage::Transform(transform));
        }
        match name {
            "$match" => match value {
                ValueRef::Document(filter) => Ok(Stage::Match(Matcher::parse(filter, context)?)),
                _ => fail(15959, "the match filter must be an expression in an object"),
            },
            "$group" => Ok(Stage::Group(Box::new(Group::parse(value, context)?))),
            "$bucket" => Ok(Stage::Bucket(Box::new(Bucket::parse(value, context)?))),
            "$bucketAuto" => Ok(Stage::BucketAuto(Box::new(BucketAuto::parse(value, context)?))),
            "$graphLookup" => Ok(Stage::GraphLookup(Box::new(GraphLookup::parse(value, context)?))),
            "$redact" => Ok(Stage::Redact(Box::new(Redact::parse(value, context)?))),
            "$_internalUnpackBucket" => Ok(Stage::Unpack(Unpack::parse(value)?)),
            "$setWindowFields" => {
                Ok(Stage::SetWindowFields(Box::new(SetWindowFields::parse(value, context)?)))
            }
            "$sort" => {
                let ValueRef::Document(spec) = value else {
                    return fail(15973, "the $sort key specification must be an object");
                };
                if spec.is_empty() {
                    return fail(15976, "$sort stage must have at least one sort key");
                }
                Ok(Stage::Sort(SortPattern::parse(spec, context.collation)?))
            }
            "$limit" => match whole(name, value, 5_107_201)? {
                0 => fail(15958, "the limit must be positive"),
                limit => Ok(Stage::Limit(limit)),
            },
            "$skip" => whole(name, value, 5_107_200).map(Stage::Skip),
            "$count" => parse_count(value),
            "$unwind" => parse_unwind(value),
            "$sample" => parse_sample(value),
            "$sortByCount" => {
                let valid = match value {
                    ValueRef::Document(document) => {
                        document.iter().next().is_some_and(|(name, _)| name.starts_with('$'))
                    }
                    ValueRef::String(text) => text.starts_with('$'),
                    _ => {
                        return fail(
                            40149,
                            "the sortByCount field must be specified as a string or as an object",
                        );
                    }
                };
                if !valid {
                    let code = if value.as_document().is_some() { 40147 } else { 40148 };
                    return fail(
                        code,
                        "the sortByCount field must be defined as a $-prefixed path or an expression \
                         inside an object",
                    );
                }
                let group = Group::counting(Expression::parse(value, context)?, context.collation);
                let sort = bson::doc! { "count": -1 };
                let sort = SortPattern::parse((&sort).into(), context.collation)?;
                Ok(Stage::SortByCount { group: Box::new(group), sort })
            }
            "$facet" => parse_facet(value, context),
            "$lookup" => Ok(Stage::Lookup(Box::new(Lookup::parse(value, context)?))),
            "$unionWith" => Ok(Stage::UnionWith(UnionWith::parse(value, context)?)),
            "$documents" => parse_documents(value, context),
            _ => fail(40324, format!("Unrecognized pipeline stage name: '{name}'")),
        }
    }

    pub(super) fn foreign_collections(&self) -> Vec<&str> {
        match self {
            Stage::Lookup(lookup) => lookup.foreign_collections(),
            Stage::UnionWith(union) => union.foreign_collections(),
            Stage::GraphLookup(lookup) => vec![lookup.foreign_collection()],
            Stage::Facet(facets) => {
                facets.iter().flat_map(|(_, pipeline)| pipeline.foreign_collections()).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn run(
        &self,
        mut documents: Vec<Document>,
        context: &mut dyn PipelineContext,
    ) -> Result<Vec<Document>, CommandError> {
        match self {
            Stage::Match(matcher) => {
                let mut kept = Vec::new();
                for document in documents {
                    if matcher.matches(&document)? {
                        kept.push(document);
                    }
                }
                Ok(kept)
            }
            Stage::Transform(transform) => {
                documents.iter().map(|document| transform.apply(document)).collect()
            }
            Stage::Group(group) => group.run(documents),
            Stage::Bucket(bucket) => bucket.run(documents),
            Stage::BucketAuto(bucket) => bucket.run(documents),
            Stage::GraphLookup(lookup) => lookup.run(documents, context),
            Stage::Redact(redact) => {
                let mut kept = Vec::new();
                for document in documents {
                    kept.extend(redact.apply(document)?);
                }
                Ok(kept)
            }
            Stage::SetWindowFields(stage) => stage.run(documents),
            Stage::Unpack(unpack) => Ok(unpack.run(documents)),
            Stage::Sort(sort) => {
                sort.sort_by_document(&mut documents, |document| document.into());
                Ok(documents)
            }
            Stage::Limit(limit) => {
                documents.truncate(usize::try_from(*limit).unwrap_or(usize::MAX));
                Ok(documents)
            }
            Stage::Skip(skip) => {
                let skip = usize::try_from(*skip).unwrap_or(usize::MAX).min(documents.len());
                documents.drain(..skip);
                Ok(documents)
            }
            Stage::Count(_) if documents.is_empty() => Ok(Vec::new()),
            Stage::Count(name) => {
                let mut counted = Document::new();
                counted.insert(name, count(documents.len()));
                Ok(vec![counted])
            }
            Stage::Unwind { path, index, preserve } => {
                let mut unwound = Vec::new();
                for document in documents {
                    unwind(document, path, index.as_deref(), *preserve, &mut unwound);
                }
                Ok(unwound)
            }
            Stage::Sample(size) => {
                // The first places of a shuffle: as many draws as documents are taken.
                let size = usize::try_from(*size).unwrap_or(usize::MAX).min(documents.len());
                for place in 0..size {
                    let left = (documents.len() - place) as u64;
                    documents.swap(place, place + context.random_below(left) as usize);
                }
                documents.truncate(size);
                Ok(documents)
            }
            Stage::SortByCount { group, sort } => {
                let mut groups = group.run(documents)?;
                sort.sort_by_document(&mut groups, |document| document.into());
                Ok(groups)
            }
            Stage::Facet(facets) => {
                let mut facet = Document::new();
                for (name, pipeline) in facets {
                    let found = pipeline.run(documents.clone(), context)?;
                    facet.insert(name, found);
                }
                Ok(vec![facet])
            }
            Stage::Lookup(lookup) => lookup.run(documents, context),
            Stage::UnionWith(union) => union.run(documents, context),
            Stage::Documents(own) => Ok(own.clone()),
        }
    }
}

/// A count as the server gives it: an int while it fits.
pub(super) fn count(length: usize) -> Bson {
    match i32::try_from(length) {
        Ok(small) => Bson::Int32(small),
        Err(_) => Bson::Int64(length as i64),
    }
}

/// The whole non-negative number `$limit` and `$skip` take.
fn whole(name: &str, value: ValueRef<'_>, code: i32) -> Result<u64, CommandError> {
    let invalid = |why: &str| {
        let element = element_text(name, value);
        fail(code, format!("invalid argument to {name} stage: {why} in: {element}"))
    };
    if !value.is_number() {
        return invalid("Expected a number");
    }
    match as_exact_i64(value) {
        Some(number) if number >= 0 => Ok(number as u64),
        Some(_) => invalid("Expected a non-negative number"),
        None if as_f64(value).is_some_and(|number| number.fract() == 0.0) => {
            invalid("Cannot represent as a 64-bit integer")
        }
        None => fail(
            code,
            format!(
                "invalid argument to {name} stage: Expected an integer: {}",
                element_text(name, value)
            ),
        ),
    }
}

fn parse_count(value: ValueRef<'_>) -> Result<Stage, CommandError> {
    let Some(name) = value.as_str() else {
        return fail(40156, "the count field must be a non-empty string");
    };
    match name {
        "" => fail(40157, "the count field must be a non-empty string"),
        name if name.starts_with('$') => fail(40158, "the count field cannot be a $-prefixed path"),
        name if name.contains('\0') => fail(40159, "the count field cannot contain '\\0'"),
        name if name.contains('.') => fail(40160, "the count field cannot contain '.'"),
        name => Ok(Stage::Count(name.to_owned())),
    }
}

fn parse_unwind(value: ValueRef<'_>) -> Result<Stage, CommandError> {
    let (mut path, mut index, mut preserve) = (None, None, false);
    match value {
        ValueRef::String(text) => path = Some(text),
        ValueRef::Document(options) => {
            for (name, option) in options.iter() {
                match (name, option) {
                    ("path", ValueRef::String(text)) => path = Some(text),
                    ("path", other) => {
                        let message = format!(
                            "expected a string as the path for $unwind stage, got {}",
                            other.type_name()
                        );
                        return fail(28808, message);
                    }
                    ("preserveNullAndEmptyArrays", ValueRef::Boolean(value)) => preserve = value,
                    ("preserveNullAndEmptyArrays", other) => {
                        let message = format!(
                            "expected a boolean for the preserveNullAndEmptyArrays option to $unwind \
                             stage, got {}",
                            other.type_name()
                        );
                        return fail(28809, message);
                    }
                    ("includeArrayIndex", ValueRef::String(text)) if !text.is_empty() => {
                        if text.starts_with('$') {
                            let message = format!(
                                "includeArrayIndex option to $unwind stage should not be prefixed \
                                 with a '$': {text}"
                            );
                            return fail(28822, message);
                        }
                        index = Some(split_path(text)?);
                    }
                    ("includeArrayIndex", other) => {
                        let message = format!(
                            "expected a non-empty string for the includeArrayIndex option to $unwind \
                             stage, got {}",
                            other.type_name()
                        );
                        return fail(28810, message);
                    }
                    (name, _) => {
                        return fail(
                            28811,
                            format!("unrecognized option to $unwind stage: {name}"),
                        );
                    }
                }
            }
        }
        other => {
            let message = format!(
                "expected either a string or an object as specification for $unwind stage, got {}",
                other.type_name()
            );
            return fail(15981, message);
        }
    }
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return fail(28812, "no path specified to $unwind stage");
    };
    let Some(path) = path.strip_prefix('$') else {
        let message = format!("path option to $unwind stage should be prefixed with a '$': {path}");
        return fail(28818, message);
    };
    Ok(Stage::Unwind { path: split_path(path)?, index, preserve })
}

fn unwind(
    document: Document,
    path: &[String],
    index: Option<&[String]>,
    preserve: bool,
    into: &mut Vec<Document>,
) {
    // A path through arrays leads nowhere here: only documents are passed.
    let at = |document: &Document| -> Option<Bson> {
        let (name, rest) = path.split_first()?;
        let mut value = document.get(name)?;
        for name in rest {
            value = value.as_document()?.get(name)?;
        }
        Some(value.clone())
    };
    let with_index = |mut document: Document, value: Bson| {
        if let Some(index) = index {
            put(&mut document, index, value);
        }
        document
    };
    match at(&document) {
        Some(Bson::Array(array)) if array.is_empty() => {
            if preserve {
                let mut document = document;
                take(&mut document, path);
                into.push(with_index(document, Bson::Null));
            }
        }
        Some(Bson::Array(array)) => {
            for (place, element) in array.into_iter().enumerate() {
                let mut one = document.clone();
                put(&mut one, path, element);
                into.push(with_index(one, Bson::Int64(place as i64)));
            }
        }
        None | Some(Bson::Null | Bson::Undefined) => {
            if preserve {
                into.push(with_index(document, Bson::Null));
            }
        }
        Some(_) => into.push(with_index(document, Bson::Null)),
    }
}

/// Puts a value at a path of documents, making those that are missing.
pub(super) fn put(document: &mut Document, path: &[String], value: Bson) {
    let Some((name, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        document.insert(name, value);
        return;
    }
    let mut below = match document.get_mut(name) {
        Some(Bson::Document(below)) => std::mem::take(below),
        _ => Document::new(),
    };
    put(&mut below, rest, value);
    document.insert(name, below);
}

fn take(document: &mut Document, path: &[String]) {
    match path {
        [] => {}
        [name] => drop(document.remove(name)),
        [name, rest @ ..] => {
            if let Some(Bson::Document(below)) = document.get_mut(name) {
                take(below, rest);
            }
        }
    }
}

fn parse_sample(value: ValueRef<'_>) -> Result<Stage, CommandError> {
    let ValueRef::Document(options) = value else {
        return fail(28745, "the $sample stage specification must be an object");
    };
    if let Some((name, _)) = options.iter().find(|(name, _)| *name != "size") {
        return fail(28748, format!("unrecognized option to $sample: {name}"));
    }
    match options.get("size") {
        None => fail(28749, "$sample stage must specify a size"),
        Some(size) => match as_f64(size) {
            None => fail(28746, "size argument to $sample must be a number"),
            Some(number) if number < 0.0 => {
                fail(28747, "size argument to $sample must not be negative")
            }
            Some(number) => Ok(Stage::Sample(number as u64)),
        },
    }
}

fn parse_facet(value: ValueRef<'_>, context: &ParseContext) -> Result<Stage, CommandError> {
    let empty = || {
        let shown = element_text("$facet", value);
        fail(
            40169,
            format!("the $facet specification must be a non-empty object, but found: {shown}"),
        )
    };
    let ValueRef::Document(spec) = value else {
        return empty();
    };
    if spec.is_empty() {
        return empty();
    }
    let mut facets = Vec::new();
    for (name, pipeline) in spec.iter() {
        if name.contains('.') {
            return fail(
                16412,
                "FieldPath field names may not contain '.'. Consider using $getField or $setField.",
            );
        }
        split_path(name)?;
        let ValueRef::Array(stages) = pipeline else {
            let message = format!(
                "arguments to $facet must be arrays, {name} is type {}",
                pipeline.type_name()
            );
            return fail(40170, message);
        };
        facets.push((name.to_owned(), Pipeline::parse_in(Place::Facet, stages.iter(), context)?));
    }
    Ok(Stage::Facet(facets))
}

fn parse_documents(value: ValueRef<'_>, context: &ParseContext) -> Result<Stage, CommandError> {
    let empty = Bson::Document(Document::new());
    let value = Expression::parse(value, context)?.evaluate(&Scope::new(&empty))?;
    let Some(Bson::Array(members)) = value else {
        return fail(5_858_203, "an array is expected");
    };
    let mut documents = Vec::new();
    for member in members {
        match member {
            Bson::Document(document) => documents.push(document),
            _ => return fail(40228, "$documents must be an array of objects"),
        }
    }
    Ok(Stage::Documents(documents))
}

/// The options of a stage, each known.
pub(super) fn options<'a>(
    stage: &str,
    value: ValueRef<'a>,
    known: &[&str],
) -> Result<DocumentRef<'a>, CommandError> {
    let ValueRef::Document(options) = value else {
        let message = format!(
            "the {stage} stage specification must be an object, but found {}",
            value.type_name()
        );
        return fail(error::FAILED_TO_PARSE, message);
    };
    match options.iter().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => {
            fail(error::FAILED_TO_PARSE, format!("unknown argument to {stage}: {name}"))
        }
        None => Ok(options),
    }
}
