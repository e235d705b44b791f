//! Steps that are a client's operations, one or many.

use std::ops::Range;
use std::time::Duration;

use bson::Document;

use super::diagnostic::Diagnostics;
use super::expectations::{parse_expected, parse_load_expected};
use super::format::{Action, Load, LoadKind, Modification, Namespace, Operation, OperationKind};
use super::parse::{Names, parse_namespace, parse_read, parse_write_concern};
use super::reader::{Table, as_document, as_list};
use super::steps::LOAD_MAX;

pub(crate) fn parse_operation(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
    verb: &str,
) -> Option<Action> {
    let session = match step.string(diagnostics, "session") {
        Some((text, span)) => Some(names.known_session(diagnostics, text, &span)?),
        None => None,
    };
    let client = match &session {
        Some(session) if !step.has("client") => {
            step.take("client");
            let owner = names.sessions.iter().find(|(name, _)| name == session);
            owner.map(|(_, client)| client.clone())
        }
        _ => names.client(diagnostics, step),
    };
    let kind = match verb {
        "insert" => parse_insert(diagnostics, step),
        "find" => {
            let from = namespace(diagnostics, step, "find");
            let filter = step.document(diagnostics, "filter").unwrap_or_default();
            let sort = step.document(diagnostics, "sort");
            let limit = step.integer(diagnostics, "limit", 1..i64::from(i32::MAX));
            let read = parse_read(diagnostics, step);
            from.map(|from| OperationKind::Find { from, filter, sort, limit, read })
        }
        "update" => {
            let of = namespace(diagnostics, step, "update");
            let filter = step.document(diagnostics, "filter").unwrap_or_default();
            let change = step.document(diagnostics, "change");
            if !step.has("change") {
                let hint = "change = { \"$set\" = { paid = true } }".to_string();
                step.missing(diagnostics, "change", Some(hint));
            }
            let many = step.boolean(diagnostics, "many").unwrap_or(false);
            let upsert = step.boolean(diagnostics, "upsert").unwrap_or(false);
            let write_concern = parse_write_concern(diagnostics, step);
            of.zip(change).map(|(of, change)| OperationKind::Update {
                of,
                filter,
                change,
                many,
                upsert,
                write_concern,
            })
        }
        "delete" => {
            let from = namespace(diagnostics, step, "delete");
            let filter = step.document(diagnostics, "filter").unwrap_or_default();
            let many = step.boolean(diagnostics, "many").unwrap_or(false);
            let write_concern = parse_write_concern(diagnostics, step);
            from.map(|from| OperationKind::Delete { from, filter, many, write_concern })
        }
        "count" => {
            let of = namespace(diagnostics, step, "count");
            let filter = step.document(diagnostics, "filter").unwrap_or_default();
            let read = parse_read(diagnostics, step);
            of.map(|of| OperationKind::Count { of, filter, read })
        }
        "command" => {
            let command = step.document(diagnostics, "command");
            let database = step.string(diagnostics, "database");
            let database = database.map_or("admin".to_string(), |(name, _)| name.to_string());
            let read = parse_read(diagnostics, step);
            match command {
                Some(command) if command.is_empty() => {
                    let span = step.key_span("command");
                    let hint = "its first field is its name: { ping = 1 }".to_string();
                    diagnostics.problem(&span, "an empty command", Some(hint));
                    None
                }
                command => {
                    command.map(|command| OperationKind::Command { database, command, read })
                }
            }
        }
        "aggregate" => {
            let of = namespace(diagnostics, step, "aggregate");
            let mut pipeline = Vec::new();
            if let Some(value) = step.take("pipeline") {
                for item in as_list(diagnostics, "pipeline", value, "stages")? {
                    pipeline.push(as_document(diagnostics, "pipeline", item)?);
                }
            }
            let read = parse_read(diagnostics, step);
            let write_concern = parse_write_concern(diagnostics, step);
            of.map(|of| OperationKind::Aggregate { of, pipeline, read, write_concern })
        }
        "distinct" => {
            let of = namespace(diagnostics, step, "distinct");
            if !step.has("field") {
                step.missing(diagnostics, "field", Some("field = \"city\"".to_string()));
            }
            let field = step.string(diagnostics, "field").map(|(field, _)| field.to_string());
            let filter = step.document(diagnostics, "filter").unwrap_or_default();
            let read = parse_read(diagnostics, step);
            of.zip(field).map(|(of, field)| OperationKind::Distinct { of, field, filter, read })
        }
        "replace" => {
            let of = namespace(diagnostics, step, "replace");
            let filter = step.document(diagnostics, "filter").unwrap_or_default();
            if !step.has("document") {
                let hint = "document = { text = \"hello\" }".to_string();
                step.missing(diagnostics, "document", Some(hint));
            }
            let document = step.document(diagnostics, "document");
            let upsert = step.boolean(diagnostics, "upsert").unwrap_or(false);
            let write_concern = parse_write_concern(diagnostics, step);
            of.zip(document).map(|(of, document)| OperationKind::Replace {
                of,
                filter,
                document,
                upsert,
                write_concern,
            })
        }
        "find_and_modify" => parse_find_and_modify(diagnostics, step),
        _ => unreachable!("`{verb}` is no operation"),
    };
    let retry_for = step.duration(diagnostics, "retry_for");
    let background = step.string(diagnostics, "background");
    let expect_span = step.has("expect").then(|| step.key_span("expect"));
    let expected = parse_expected(diagnostics, step);
    let background = match background {
        Some((name, span)) => {
            Some(running_as(diagnostics, names, name, &span, expect_span.as_ref())?)
        }
        None => None,
    };
    names.operations.extend(background.clone());
    Some(Action::Operation(Box::new(Operation {
        client: client?,
        session,
        background,
        kind: kind?,
        retry_for,
        expected: expected?,
    })))
}

/// The name of something in the background: a new one, and judged when it has finished.
fn running_as(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    name: &str,
    span: &Range<usize>,
    expect_span: Option<&Range<usize>>,
) -> Option<String> {
    if let Some(expect_span) = expect_span {
        diagnostics.problem(
            expect_span,
            "what goes on in the background is judged when it has finished",
            Some(format!("move `expect` to the step finish = \"{name}\"")),
        );
    }
    if names.loads.iter().chain(&names.operations).any(|running| running == name) {
        diagnostics.problem(span, format!("something runs as `{name}` already"), None);
        return None;
    }
    Some(name.to_string())
}

fn parse_find_and_modify(
    diagnostics: &mut Diagnostics<'_>,
    step: &mut Table<'_>,
) -> Option<OperationKind> {
    let of = namespace(diagnostics, step, "find_and_modify");
    let filter = step.document(diagnostics, "filter").unwrap_or_default();
    let sort = step.document(diagnostics, "sort");
    let change = step.document(diagnostics, "change").map(Modification::Change);
    let document = step.document(diagnostics, "document").map(Modification::Replace);
    let remove = step.boolean(diagnostics, "remove").unwrap_or(false);
    let remove = remove.then_some(Modification::Remove);
    let upsert = step.boolean(diagnostics, "upsert").unwrap_or(false);
    let new = step.boolean(diagnostics, "new").unwrap_or(false);
    let write_concern = parse_write_concern(diagnostics, step);
    let mut ways: Vec<Modification> = [change, document, remove].into_iter().flatten().collect();
    if ways.len() != 1 {
        let hint = "change = {..}, or document = {..} to replace it, or remove = true".to_string();
        let span = step.key_span("find_and_modify");
        diagnostics.problem(&span, "find_and_modify does one thing", Some(hint));
        return None;
    }
    let modification = ways.pop()?;
    if modification == Modification::Remove && (new || upsert) {
        let span = step.key_span("remove");
        diagnostics.problem(&span, "`new` and `upsert` do not go with `remove`", None);
        return None;
    }
    Some(OperationKind::FindAndModify {
        of: of?,
        filter,
        modification,
        sort,
        upsert,
        new,
        write_concern,
    })
}

fn parse_insert(diagnostics: &mut Diagnostics<'_>, step: &mut Table<'_>) -> Option<OperationKind> {
    let into = namespace(diagnostics, step, "insert");
    let one = step.document(diagnostics, "document");
    let many = step.take("documents");
    let documents: Vec<Document> = match (one, many) {
        (Some(document), None) => vec![document],
        (None, Some(value)) => {
            let mut documents = Vec::new();
            for item in as_list(diagnostics, "documents", value, "documents")? {
                documents.push(as_document(diagnostics, "documents", item)?);
            }
            documents
        }
        (Some(_), Some(value)) => {
            diagnostics.problem(&value.span(), "`document` or `documents`, not both", None);
            return None;
        }
        (None, None) => {
            if !step.has("document") {
                let hint = "document = { _id = 1, text = \"hello\" }".to_string();
                step.missing(diagnostics, "document", Some(hint));
            }
            return None;
        }
    };
    let write_concern = parse_write_concern(diagnostics, step);
    Some(OperationKind::Insert { into: into?, documents, write_concern })
}

fn namespace(
    diagnostics: &mut Diagnostics<'_>,
    step: &mut Table<'_>,
    key: &'static str,
) -> Option<Namespace> {
    let (text, span) = step.string(diagnostics, key)?;
    parse_namespace(diagnostics, text, &span)
}

pub(crate) fn parse_load(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
    verb: &str,
) -> Option<Action> {
    let client = names.client(diagnostics, step);
    let (count, kind) = match verb {
        "reads" => {
            let count = step.integer(diagnostics, "reads", 1..LOAD_MAX + 1);
            if !step.has("from") {
                step.missing(diagnostics, "from", Some("from = \"shop.orders\"".to_string()));
            }
            let from = namespace(diagnostics, step, "from");
            let read = parse_read(diagnostics, step);
            (count, from.map(|from| LoadKind::Reads { from, read }))
        }
        _ => {
            let count = step.integer(diagnostics, "writes", 1..LOAD_MAX + 1);
            if !step.has("to") {
                step.missing(diagnostics, "to", Some("to = \"shop.orders\"".to_string()));
            }
            let into = namespace(diagnostics, step, "to");
            let write_concern = parse_write_concern(diagnostics, step);
            (count, into.map(|into| LoadKind::Writes { into, write_concern }))
        }
    };
    let every = step.duration(diagnostics, "every").unwrap_or(Duration::ZERO);
    let retry_for = step.duration(diagnostics, "retry_for");
    let background = step.string(diagnostics, "background");
    let expect_span = step.has("expect").then(|| step.key_span("expect"));
    let expected = parse_load_expected(diagnostics, names, step);
    let background = match background {
        Some((name, span)) => {
            Some(running_as(diagnostics, names, name, &span, expect_span.as_ref())?)
        }
        None => None,
    };
    names.loads.extend(background.clone());
    Some(Action::Load(Box::new(Load {
        client: client?,
        kind: kind?,
        count: count? as u32,
        every,
        background,
        expected: expected?,
        retry_for,
    })))
}
