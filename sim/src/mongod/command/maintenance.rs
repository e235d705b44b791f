//! `validate`, `convertToCapped`, `cloneCollectionAsCapped`, `dataSize`, and what a replica set refuses.

use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::{Binary, RawBsonRef, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    check_writable, each_argument, first_value, missing_field, namespace, safe_boolean, safe_i64,
    string,
};
use super::catalog::{
    append, append_all, append_count, command_entry, create_unchecked, log, read, split,
};
use super::spec::{CommandSpec, Gate};
use super::views::{check_not_view, view_of};
use super::write::insert::{delete_over_cap, insert_stored};
use super::{Operation, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};

const fn write(names: &'static [&'static str], run: super::spec::Run) -> CommandSpec {
    CommandSpec { gate: Gate::Write, accepts_write_concern: true, ..read(names, run) }
}

pub(crate) const COMMANDS: &[CommandSpec] = &[
    read(&["validate"], validate),
    read(&["dataSize", "datasize"], data_size),
    write(&["convertToCapped"], convert_to_capped),
    write(&["cloneCollectionAsCapped"], clone_as_capped),
    write(&["compact"], compact),
    write(&["reIndex"], re_index),
];

/// Every document is checked when it is written, so that what is here is valid.
fn validate(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    each_argument("validate", &op.body, |field, value| {
        match field {
            "full"
            | "background"
            | "repair"
            | "metadata"
            | "enforceFastCount"
            | "checkBSONConsistency"
            | "checkBSONConformance"
            | "scandata" => {
                safe_boolean(&format!("validate.{field}"), value)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let at = super::cursor::read_at(server, op, op.read_concern, None)?;
    let Some(view) = server.storage.collection(&namespace, at) else {
        if view_of(&server.storage, &namespace, at).is_some() {
            return Err(CommandError::new(
                error::COMMAND_NOT_SUPPORTED_ON_VIEW,
                "Cannot validate a view",
            ));
        }
        return Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("Collection '{namespace}' does not exist to validate."),
        ));
    };
    let validator = super::write::validate::Validator::of(server, now, op, &namespace)?;
    let mut failing = 0;
    for (_, document) in view.scan(None) {
        failing += u64::from(validator.check(document, None).is_err());
    }
    let (mut keys, mut details) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    // Measured: where documents are wrong, indexes are not looked at.
    let indexes: Vec<_> = view.indexes().filter(|_| failing == 0).collect();
    let count = indexes.len();
    for (spec, _) in indexes {
        let count = view.key_count(&spec.name) as i32;
        append(&mut keys, &spec.name, RawBsonRef::Int32(count));
        let valid = rawdoc! { "valid": true };
        append(&mut details, &spec.name, RawBsonRef::Document(&valid));
    }
    let mut reply = rawdoc! { "ns": namespace.as_str(), "nInvalidDocuments": 0 };
    append_count(&mut reply, cstr!("nNonCompliantDocuments"), failing);
    append_count(&mut reply, cstr!("nrecords"), view.count());
    reply.append(cstr!("nIndexes"), count as i32);
    reply.append(cstr!("keysPerIndex"), keys);
    reply.append(cstr!("indexDetails"), details);
    reply.append(cstr!("valid"), failing == 0);
    reply.append(cstr!("repaired"), false);
    let lists =
        ["warnings", "errors", "extraIndexEntries", "missingIndexEntries", "corruptRecords"];
    for list in lists {
        let mut entries = RawArrayBuf::new();
        if list == "errors" && failing > 0 {
            entries.push(
                "Detected one or more documents not compliant with the collection's schema. Check logs \
                 for log id 5363500.",
            );
        }
        append(&mut reply, list, RawBsonRef::Array(&entries));
    }
    if failing > 0 {
        reply.append(
            cstr!("advice"),
            "A corrupt namespace has been detected. See http://dochub.mongodb.org/core/data-recovery \
             for recovery steps.",
        );
    }
    Ok(Outcome::Reply(reply))
}

fn data_size(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = string("dataSize.dataSize", first_value(&op.body)?)?;
    each_argument("dataSize", &op.body, |field, _| {
        Ok(matches!(field, "keyPattern" | "min" | "max" | "estimate"))
    })?;
    let at = super::cursor::read_at(server, op, op.read_concern, None)?;
    let view = server.storage.collection(namespace, at);
    let mut reply = RawDocumentBuf::new();
    append_count(&mut reply, cstr!("size"), view.map_or(0, |view| view.size_bytes()));
    append_count(&mut reply, cstr!("numObjects"), view.map_or(0, |view| view.count()));
    reply.append(cstr!("millis"), 0);
    if view.is_some() {
        reply.append(cstr!("estimate"), false);
    }
    Ok(Outcome::Reply(reply))
}

fn read_size(command: &str, op: &Operation) -> Result<i64, CommandError> {
    let mut size = None;
    each_argument(command, &op.body, |field, value| {
        match field {
            "size" => size = Some(safe_i64(&format!("{command}.size"), value)?),
            "toCollection" | "temp" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    size.filter(|size| (1..=1 << 50).contains(size))
        .map(|size| (size + 255) / 256 * 256)
        .ok_or_else(|| CommandError::new(error::BAD_VALUE, "invalid command spec"))
}

fn source(server: &Mongod, namespace: &str) -> Result<(), CommandError> {
    check_not_view(&server.storage, namespace)?;
    match server.storage.collection(namespace, ReadAt::Newest) {
        Some(_) => Ok(()),
        None => Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("source collection {namespace} does not exist"),
        )),
    }
}

fn convert_to_capped(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let size = read_size("convertToCapped", op)?;
    source(server, &namespace)?;
    let (db, _) = split(&namespace);
    let view = server.storage.collection(&namespace, ReadAt::Newest).expect("checked above");
    let old = view.uuid();
    let temporary = format!("{db}.tmp{}.convertToCapped", &server.new_uuid().to_string()[..5]);
    let uuid = copy_collection(server, now, op, &namespace, &temporary, Some(size))?;
    let object = rawdoc! {
        "renameCollection": temporary, "to": namespace.as_str(), "stayTemp": false,
        "dropTarget": Binary::from_uuid(old),
    };
    log(server, now, op, command_entry(db, Some(uuid), object, None))?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn clone_as_capped(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let size = read_size("cloneCollectionAsCapped", op)?;
    let to = op.argument("toCollection");
    let to = to.ok_or_else(|| missing_field("cloneCollectionAsCapped.toCollection"))?;
    let to = op.namespace(string("cloneCollectionAsCapped.toCollection", to)?);
    check_writable(&to)?;
    source(server, &namespace)?;
    if server.storage.collection(&to, ReadAt::Newest).is_some() {
        return Err(CommandError::new(
            error::NAMESPACE_EXISTS,
            format!("cloneCollectionAsCapped failed - destination collection {to} already exists"),
        ));
    }
    copy_collection(server, now, op, &namespace, &to, Some(size))?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// Copies a collection's documents into a new one: with its options and indexes, or capped without
/// indexes.
pub(super) fn copy_collection(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    from: &str,
    to: &str,
    capped: Option<i64>,
) -> Result<Uuid, CommandError> {
    let view = server.storage.collection(from, ReadAt::Newest).expect("checked by the caller");
    let mut options = RawDocumentBuf::new();
    if let Some(size) = capped {
        options.append(cstr!("capped"), true);
        match i32::try_from(size) {
            Ok(size) => options.append(cstr!("size"), size),
            Err(_) => options.append(cstr!("size"), size),
        }
    }
    for (field, value) in view.options().iter().map_while(Result::ok) {
        if capped.is_none() || !matches!(field.as_str(), "capped" | "size" | "max") {
            options.append(field, value);
        }
    }
    let indexes: Vec<_> = view
        .indexes()
        .filter(|(spec, _)| capped.is_none() && !spec.is_id())
        .map(|(spec, _)| spec.document.clone())
        .collect();
    let documents: Vec<_> = view.scan(None).map(|(_, document)| document.clone()).collect();
    if let Some(target) = server.storage.collection(to, ReadAt::Newest) {
        let object = rawdoc! { "drop": split(to).1 };
        let uuid = target.uuid();
        log(server, now, op, command_entry(split(to).0, Some(uuid), object, None))?;
    }
    let uuid = create_unchecked(server, now, op, to, options)?;
    let (db, collection) = split(to);
    for spec in indexes {
        let mut object = rawdoc! { "createIndexes": collection };
        append_all(&mut object, &spec);
        log(server, now, op, command_entry(db, Some(uuid), object, None))?;
    }
    let to: Arc<str> = to.into();
    for document in documents {
        insert_stored(server, now, op, &to, (*document).clone())?;
    }
    delete_over_cap(server, now, op, &to)?;
    Ok(uuid)
}

fn compact(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let force = op.argument("force").and_then(RawBsonRef::as_bool).unwrap_or(false);
    if server.repl.set_name.is_some() && !force {
        return Err(CommandError::new(
            error::BAD_VALUE,
            "will not run compact on an active replica set primary as this is a slow blocking \
             operation. use force:true to force",
        ));
    }
    check_not_view(&server.storage, &namespace)?;
    if server.storage.collection(&namespace, ReadAt::Newest).is_none() {
        return Err(CommandError::new(error::NAMESPACE_NOT_FOUND, "collection does not exist"));
    }
    Ok(Outcome::Reply(rawdoc! { "bytesFreed": 0 }))
}

fn re_index(_: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    Err(CommandError::new(
        error::ILLEGAL_OPERATION,
        format!(
            "reIndex is only allowed on a standalone mongod instance. Cannot reIndex '{namespace}' while \
             replication is active"
        ),
    ))
}
