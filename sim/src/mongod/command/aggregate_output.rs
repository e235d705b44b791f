//! `$out` and `$merge`: the writes at the end of a pipeline.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{Binary, Bson, Document, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::aggregate::in_executor;
use super::arguments::check_writable;
use super::catalog::{append_all, command_entry, create_collection, ensure_collection, log, split};
use super::scan::find_matching;
use super::views::check_not_view;
use super::write::insert::insert_one;
use super::write::modify::update_one;
use super::{Operation, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::aggregate::{Merge, PipelineOutput, Target, WhenMatched, WhenNotMatched};
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope};
use crate::mongod::query::value::{ValueRef, to_raw};
use crate::mongod::query::{Matcher, Pipeline, Update};

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

/// Whether a pipeline may write where it wants to.
///
/// # Errors
/// 10107 NotWritablePrimary elsewhere than on a primary, 51183 for `on` fields that no unique index
/// has, and what stands against the namespace.
pub(super) fn check(
    server: &Mongod,
    op: &Operation,
    pipeline: &Pipeline,
) -> Result<(), CommandError> {
    let Some(output) = pipeline.output() else { return Ok(()) };
    if server.repl.set_name.is_some() && !server.repl.is_writable() {
        return fail(error::NOT_WRITABLE_PRIMARY, "not primary");
    }
    let namespace = namespace_of(op, output.target());
    if let PipelineOutput::Out(target) = output
        && target.collection.starts_with("system.")
    {
        return fail(17385, format!("Can't $out to special collection: {}", target.collection));
    }
    check_writable(&namespace)?;
    let checked = match output {
        PipelineOutput::Out(_) => {
            check_not_view(&server.storage, &namespace).map_err(in_executor)?;
            let view = server.storage.collection(&namespace, ReadAt::Newest);
            match view.is_some_and(|view| view.is_capped()) {
                true => fail(
                    17152,
                    format!("namespace '{namespace}' is capped so it can't be used for $out"),
                ),
                false => Ok(()),
            }
        }
        PipelineOutput::Merge(merge) => {
            check_unique(server, &namespace, merge)?;
            check_not_view(&server.storage, &namespace)
        }
    };
    checked.map_err(in_executor)
}

/// The fields of `on` must identify a document.
fn check_unique(server: &Mongod, namespace: &str, merge: &Merge) -> Result<(), CommandError> {
    let Some(on) = merge.on.as_deref().filter(|on| *on != ["_id"]) else { return Ok(()) };
    let mut wanted: Vec<&str> = on.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    let unique = server.storage.collection(namespace, ReadAt::Newest).is_some_and(|view| {
        view.indexes().any(|(spec, _)| {
            let mut fields: Vec<&str> =
                spec.pattern.fields().iter().map(|field| field.path.as_str()).collect();
            fields.sort_unstable();
            spec.unique && spec.filter().is_none() && fields == wanted
        })
    });
    if unique {
        return Ok(());
    }
    fail(51183, "Cannot find index to verify that join fields will be unique")
}

fn namespace_of(op: &Operation, target: &Target) -> String {
    format!("{}.{}", target.database.as_deref().unwrap_or(&op.db), target.collection)
}

/// Writes the results of a pipeline.
///
/// # Errors
/// What the writes fail with; what `$merge` says of documents that match, or do not.
pub(super) fn write(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    output: &PipelineOutput,
    results: &[Document],
    context: &ParseContext,
) -> Result<(), CommandError> {
    let namespace = namespace_of(op, output.target());
    match output {
        PipelineOutput::Out(_) => replace_collection(server, now, op, &namespace, results),
        PipelineOutput::Merge(merge) => {
            let namespace: Arc<str> = namespace.into();
            for result in results {
                merge_one(server, now, op, &namespace, merge, result, context)?;
            }
            Ok(())
        }
    }
    .map_err(|error| CommandError {
        message: format!("PlanExecutor error during aggregation :: caused by :: {}", error.message),
        ..error
    })
}

/// `$out`: into a collection of its own, that then takes the place of the target.
fn replace_collection(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    results: &[Document],
) -> Result<(), CommandError> {
    let (db, _) = split(namespace);
    let target = server.storage.collection(namespace, ReadAt::Newest);
    let kept = target.map(|view| {
        let indexes: Vec<_> = view.indexes().map(|(spec, _)| spec.document.clone()).collect();
        (view.uuid(), (**view.options()).clone(), indexes)
    });
    let temporary = format!("{db}.tmp.agg_out.{}", server.new_uuid());
    let (target, options, indexes) = match kept {
        Some((uuid, options, indexes)) => (Some(uuid), options, indexes),
        None => (None, RawDocumentBuf::new(), Vec::new()),
    };
    let uuid = create_collection(server, now, op, &temporary, options)?;
    for spec in indexes.iter().filter(|spec| spec.get_str("name").ok() != Some("_id_")) {
        let mut object = rawdoc! { "createIndexes": split(&temporary).1 };
        append_all(&mut object, spec);
        log(server, now, op, command_entry(db, Some(uuid), object, None))?;
    }
    let into: Arc<str> = temporary.as_str().into();
    for result in results {
        if let Err(error) = insert_one(server, now, op, &into, &to_raw(result), None) {
            let object = rawdoc! { "drop": split(&temporary).1 };
            log(server, now, op, command_entry(db, Some(uuid), object, None))?;
            return Err(error);
        }
    }
    let mut object = rawdoc! { "renameCollection": temporary, "to": namespace, "stayTemp": false };
    if let Some(target) = target {
        object.append(cstr!("dropTarget"), Binary::from_uuid(target));
    }
    log(server, now, op, command_entry(db, Some(uuid), object, None)).map(|_| ())
}

/// `$merge` of one result.
fn merge_one(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &Arc<str>,
    merge: &Merge,
    result: &Document,
    context: &ParseContext,
) -> Result<(), CommandError> {
    let mut result = result.clone();
    let id = vec!["_id".to_owned()];
    let on = merge.on.as_ref().unwrap_or(&id);
    if !result.contains_key("_id") && on.iter().any(|field| field == "_id") {
        let mut with_id = bson::doc! { "_id": server.new_object_id(now) };
        with_id.extend(result);
        result = with_id;
    }
    let root = Bson::Document(result.clone());
    let mut filter = Document::new();
    for field in on {
        let path: Vec<String> = field.split('.').map(str::to_owned).collect();
        let value = crate::mongod::query::expression::get_path(&root, &path);
        match value.filter(|value| !matches!(value, Bson::Null | Bson::Undefined | Bson::Array(_)))
        {
            Some(value) => filter.insert(field, bson::doc! { "$eq": value }),
            None => {
                return fail(
                    51132,
                    format!(
                        "$merge write error: 'on' field '{field}' is missing, null, undefined or an \
                         array"
                    ),
                );
            }
        };
    }
    ensure_collection(server, now, op, namespace)?;
    let matcher = Matcher::parse(&filter, context)?;
    let view = server.storage.collection(namespace, ReadAt::Newest).expect("made if missing");
    let found = find_matching(&view, &matcher, context.collation, 1)?.into_iter().next();
    let Some(found) = found else {
        return match merge.when_not_matched {
            WhenNotMatched::Discard => Ok(()),
            WhenNotMatched::Fail => fail(
                13113,
                "$merge could not find a matching document in the target collection for at least one \
                 document in the source collection",
            ),
            WhenNotMatched::Insert => {
                insert_one(server, now, op, namespace, &to_raw(&result), None)
            }
        };
    };
    let update = match &merge.when_matched {
        WhenMatched::KeepExisting => return Ok(()),
        WhenMatched::Fail => {
            let refused = insert_one(server, now, op, namespace, &to_raw(&result), None);
            return refused.map_err(|error| CommandError {
                message: format!(
                    "$merge with whenMatched: fail found an existing document with the same values \
                     for the 'on' fields :: caused by :: {}",
                    error.message
                ),
                ..error
            });
        }
        WhenMatched::Replace => Update::parse(ValueRef::from(&root), &[], context)?,
        WhenMatched::Merge => {
            let stage = bson::bson!([{ "$replaceWith": {
                "$mergeObjects": ["$$ROOT", { "$literal": root.clone() }]
            } }]);
            Update::parse(ValueRef::from(&stage), &[], context)?
        }
        WhenMatched::Pipeline { stages, variables } => {
            let mut inner = context.clone();
            let values = evaluate(variables, &root)?;
            inner.variables.retain(|(known, _)| values.iter().all(|(name, _)| name != known));
            inner.variables.extend(values);
            Update::parse(ValueRef::from(&Bson::Array(stages.clone())), &[], &inner)?
        }
    };
    update_one(server, now, op, namespace, &update, &found, None).map(|_| ())
}

fn evaluate(
    variables: &[(String, Expression)],
    root: &Bson,
) -> Result<Vec<(String, Bson)>, CommandError> {
    let scope = Scope::new(root);
    let mut values = Vec::new();
    for (name, expression) in variables {
        values.push((name.clone(), expression.evaluate_or_null(&scope)?));
    }
    Ok(values)
}
