//! Indexes: create, drop, list.

use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    array, document, each_argument, malformed, missing_field, namespace, string, wrong_type,
};
use super::catalog::{append, append_all, command_entry, ensure_collection, log, split};
use super::cursor::{self, list_reply};
use super::spec::{CommandSpec, Gate};
use super::{Operation, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::value::{DocumentRef, ValueRef};
use crate::mongod::storage::IndexSpec;
use crate::mongod::storage::text::shell_document;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        names: &["createIndexes"],
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: false,
        run: create_indexes,
    },
    CommandSpec {
        names: &["dropIndexes", "deleteIndexes"],
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: false,
        run: drop_indexes,
    },
    CommandSpec {
        names: &["listIndexes"],
        gate: Gate::Read,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run: list_indexes,
    },
];

/// The options of an index that are kept and shown, whatever they mean here.
const INDEX_OPTIONS: &[&str] = &[
    "2dsphereIndexVersion",
    "background",
    "bits",
    "collation",
    "default_language",
    "dropDups",
    "expireAfterSeconds",
    "hidden",
    "language_override",
    "max",
    "min",
    "ns",
    "prepareUnique",
    "sparse",
    "storageEngine",
    "textIndexVersion",
    "unique",
    "weights",
    "wildcardProjection",
];

fn create_indexes(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut asked = None;
    let mut quorum = None;
    each_argument("createIndexes", &op.body, |field, value| {
        match field {
            "indexes" => asked = Some(array("createIndexes.indexes", value)?),
            "commitQuorum" => quorum = Some(value),
            "ignoreUnknownIndexOptions" | "v" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let asked = asked.ok_or_else(|| missing_field("createIndexes.indexes"))?;
    let mut specs = Vec::new();
    for (number, element) in asked.into_iter().enumerate() {
        let field = format!("createIndexes.indexes.{number}");
        let asked = document(&field, element.map_err(malformed)?)?;
        specs.push(complete(asked).map_err(|error| CommandError {
            message: format!(
                "Error in specification {} :: caused by :: {}",
                shell_document(asked),
                error.message
            ),
            ..error
        })?);
    }
    if specs.is_empty() {
        return Err(CommandError::new(
            error::BAD_VALUE,
            "Must specify at least one index to create",
        ));
    }
    let created = server.storage.collection(&namespace, ReadAt::Newest).is_none();
    let uuid = ensure_collection(server, now, op, &namespace)?;
    let view = server.storage.collection(&namespace, ReadAt::Newest).expect("made just now");
    let empty = view.count() == 0;
    let mut existing: Vec<Arc<IndexSpec>> = view.indexes().map(|(spec, _)| spec.clone()).collect();
    let before = existing.len();
    let mut new = Vec::new();
    for spec in specs {
        if !is_known(&spec, &existing)? {
            let spec = Arc::new(spec);
            existing.push(spec.clone());
            new.push(spec);
        }
    }
    if !new.is_empty() {
        let (db, collection) = split(&namespace);
        // In a transaction that is for the new and empty collection to say.
        if empty || op.transaction().is_some() {
            for spec in &new {
                let mut object = rawdoc! { "createIndexes": collection };
                append_all(&mut object, &spec.document);
                log(server, now, op, command_entry(db, Some(uuid), object, None))?;
            }
        } else {
            build(server, now, op, &namespace, uuid, &new)?;
        }
    }
    let mut reply = rawdoc! {
        "numIndexesBefore": before as i32,
        "numIndexesAfter": existing.len() as i32,
    };
    if new.is_empty() {
        reply.append(cstr!("note"), "all indexes already exist");
    } else {
        reply.append(cstr!("createdCollectionAutomatically"), created);
        match quorum {
            Some(quorum) => reply.append(cstr!("commitQuorum"), quorum),
            None => reply.append(cstr!("commitQuorum"), "votingMembers"),
        }
    }
    Ok(Outcome::Reply(reply))
}

/// A build on a collection with documents, in two phases: started, then committed or aborted. Here
/// both come at once.
fn build(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    uuid: Uuid,
    specs: &[Arc<IndexSpec>],
) -> Result<(), CommandError> {
    let (db, collection) = split(namespace);
    let build = server.new_uuid();
    let entry = |phase: &str| {
        let mut indexes = RawArrayBuf::new();
        specs.iter().for_each(|spec| indexes.push(&*spec.document));
        let mut object = RawDocumentBuf::new();
        append(&mut object, phase, RawBsonRef::String(collection));
        object.append(cstr!("indexBuildUUID"), Binary::from_uuid(build));
        object.append(cstr!("indexes"), indexes);
        object
    };
    log(server, now, op, command_entry(db, Some(uuid), entry("startIndexBuild"), None))?;
    let committed =
        log(server, now, op, command_entry(db, Some(uuid), entry("commitIndexBuild"), None));
    let Err(error) = committed else { return Ok(()) };
    let mut aborted = entry("abortIndexBuild");
    aborted.append(
        cstr!("cause"),
        rawdoc! { "ok": false, "code": error.code, "codeName": error.name(),
        "errmsg": error.message.as_str() },
    );
    log(server, now, op, command_entry(db, Some(uuid), aborted, None))?;
    Err(CommandError {
        message: format!(
            "Index build failed: {build}: Collection {namespace} ( {uuid} ) :: caused by :: {}",
            error.message
        ),
        ..error
    })
}

/// The specification as the catalog keeps it: `v`, `key` and `name`, then the options.
fn complete(asked: &RawDocument) -> Result<IndexSpec, CommandError> {
    let mut options = RawDocumentBuf::new();
    let (mut key, mut name) = (None, None);
    for element in asked {
        let (field, value) = element.map_err(malformed)?;
        match field.as_str() {
            "key" => key = Some(document("key", value)?),
            "name" => name = Some(string("name", value)?),
            "v" => {
                let version = crate::mongod::query::number::as_exact_i64(value.into());
                if version != Some(2) {
                    return Err(CommandError::new(
                        error::CANNOT_CREATE_INDEX,
                        "this simulated server makes indexes of version v:2",
                    ));
                }
            }
            "partialFilterExpression" => {
                // Reads check what an index gives them, so a full index serves as a partial one, but
                // for what is unique in it.
                if DocumentRef::from(asked).get("unique").is_some_and(ValueRef::is_truthy) {
                    return Err(CommandError::new(
                        error::COMMAND_NOT_SUPPORTED,
                        "This simulated server does not support unique partial indexes",
                    ));
                }
                document("partialFilterExpression", value)?;
                options.append(field, value);
            }
            // An index that need not be unique is like one that does not say so.
            "unique" if !ValueRef::from(value).is_truthy() => {}
            known if INDEX_OPTIONS.contains(&known) => options.append(field, value),
            unknown => {
                return Err(CommandError::new(
                    error::INVALID_INDEX_SPECIFICATION_OPTION,
                    format!(
                        "The field '{unknown}' is not valid for an index specification. \
                         Specification: {}",
                        shell_document(asked)
                    ),
                ));
            }
        }
    }
    let required = |field: &str| {
        CommandError::new(
            error::FAILED_TO_PARSE,
            format!("The '{field}' field is a required property of an index specification"),
        )
    };
    let key = key.ok_or_else(|| required("key"))?;
    let name = name.ok_or_else(|| required("name"))?;
    if key.iter().next().is_none() {
        return Err(CommandError::new(error::CANNOT_CREATE_INDEX, "Index keys cannot be empty."));
    }
    if name.is_empty() {
        return Err(CommandError::new(error::CANNOT_CREATE_INDEX, "index name cannot be empty"));
    }
    let mut spec = rawdoc! { "v": 2, "key": key.to_owned(), "name": name };
    append_all(&mut spec, &options);
    IndexSpec::parse(Arc::new(spec))
}

/// Whether the very same index exists.
///
/// # Errors
/// 85 IndexOptionsConflict, 86 IndexKeySpecsConflict: another one stands in its way.
fn is_known(spec: &IndexSpec, existing: &[Arc<IndexSpec>]) -> Result<bool, CommandError> {
    if spec.is_id() {
        return Ok(true);
    }
    // What makes an index the index it is, beside its name.
    let same = |known: &&Arc<IndexSpec>| {
        let option = |spec: &IndexSpec, name: &str| {
            spec.document.get_document(name).map(|option| option.as_bytes().to_vec()).ok()
        };
        let filter = "partialFilterExpression";
        known.pattern == spec.pattern
            && known.unique == spec.unique
            && known.sparse == spec.sparse
            && known.collation() == spec.collation()
            && option(known, filter) == option(spec, filter)
    };
    if let Some(known) = existing.iter().find(|known| known.name == spec.name) {
        if same(&known) {
            return Ok(true);
        }
        return Err(CommandError::new(
            error::INDEX_KEY_SPECS_CONFLICT,
            format!(
                "An existing index has the same name as the requested index. When index names are \
                 not specified, they are auto generated and can cause conflicts. Please refer to \
                 our documentation. Requested index: {}, existing index: {}",
                shell_document(&spec.document),
                shell_document(&known.document)
            ),
        ));
    }
    if let Some(known) = existing.iter().find(same) {
        return Err(CommandError::new(
            error::INDEX_OPTIONS_CONFLICT,
            format!("Index already exists with a different name: {}", known.name),
        ));
    }
    Ok(false)
}

fn drop_indexes(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut index = None;
    each_argument("dropIndexes", &op.body, |field, value| {
        match field {
            "index" => index = Some(value),
            "collectionUUID" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let index = index.ok_or_else(|| missing_field("dropIndexes.index"))?;
    let Some(view) = server.storage.collection(&namespace, ReadAt::Newest) else {
        return Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("ns not found {namespace}"),
        ));
    };
    let uuid = view.uuid();
    let existing: Vec<Arc<IndexSpec>> = view.indexes().map(|(spec, _)| spec.clone()).collect();
    let mut message = None;
    let by_name = |name: &str| {
        if name == "_id_" {
            return Err(CommandError::new(error::INVALID_OPTIONS, "cannot drop _id index"));
        }
        existing.iter().find(|spec| &*spec.name == name).cloned().ok_or_else(|| {
            CommandError::new(error::INDEX_NOT_FOUND, format!("index not found with name [{name}]"))
        })
    };
    let dropped: Vec<Arc<IndexSpec>> = match index {
        RawBsonRef::String("*") => {
            message = Some("non-_id indexes dropped for collection");
            existing.iter().filter(|spec| !spec.is_id()).cloned().collect()
        }
        RawBsonRef::String(name) => vec![by_name(name)?],
        RawBsonRef::Array(names) => {
            let mut dropped = Vec::new();
            for name in names {
                let name = name.map_err(malformed)?;
                dropped.push(by_name(string("dropIndexes.index", name)?)?);
            }
            dropped
        }
        RawBsonRef::Document(key) => {
            let found =
                existing.iter().find(|spec| spec.key_pattern().as_bytes() == key.as_bytes());
            let found = found.ok_or_else(|| {
                CommandError::new(
                    error::INDEX_NOT_FOUND,
                    format!("can't find index with key: {}", shell_document(key)),
                )
            })?;
            vec![by_name(&found.name)?]
        }
        other => {
            return Err(wrong_type("dropIndexes.index", other, "'[string, object, array]'"));
        }
    };
    let (db, collection) = split(&namespace);
    for spec in dropped {
        let object = rawdoc! { "dropIndexes": collection, "index": &*spec.name };
        let object2 = (*spec.document).clone();
        log(server, now, op, command_entry(db, Some(uuid), object, Some(object2)))?;
    }
    let mut reply = rawdoc! { "nIndexesWas": existing.len() as i32 };
    if let Some(message) = message {
        reply.append(cstr!("msg"), message);
    }
    Ok(Outcome::Reply(reply))
}

fn list_indexes(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    each_argument("listIndexes", &op.body, |field, value| {
        if field == "cursor" {
            document("listIndexes.cursor", value)?;
        }
        Ok(matches!(field, "cursor" | "includeBuildUUIDs" | "includeIndexBuildInfo"))
    })?;
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    let Some(view) = server.storage.collection(&namespace, at) else {
        return Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("ns does not exist: {namespace}"),
        ));
    };
    let specs: Vec<_> = view.indexes().map(|(spec, _)| (*spec.document).clone()).collect();
    Ok(list_reply(&namespace, specs))
}
