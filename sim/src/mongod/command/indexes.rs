//! Indexes: create, drop, list.

use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    array, document, each_argument, each_field, malformed, missing_field, namespace, non_negative,
    string, type_name, wrong_types,
};
use super::catalog::{
    append, append_all, command_entry, ensure_collection, listed_reply, log, split,
};
use super::context::parse_context;
use super::cursor;
use super::spec::{CommandSpec, Gate};
use super::views::check_not_view;
use super::{Operation, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::value::{DocumentRef, ValueRef};
use crate::mongod::query::{Collation, KeyPattern, Matcher, ParseContext};
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
    check_not_view(&server.storage, &namespace)?;
    let context = parse_context(server, now, op)?;
    let mut specs: Vec<IndexSpec> = Vec::new();
    for (number, element) in asked.into_iter().enumerate() {
        let field = format!("createIndexes.indexes.{number}");
        let asked = document(&field, element.map_err(malformed)?)?;
        specs.push(complete(asked, context.collation, &context)?);
    }
    if specs.is_empty() {
        return Err(CommandError::new(
            error::BAD_VALUE,
            "Must specify at least one index to create",
        ));
    }
    check_together(server, &namespace, &specs)?;
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

/// Whether indexes can be built, and that together.
fn check_together(
    server: &mut Mongod,
    namespace: &str,
    specs: &[IndexSpec],
) -> Result<(), CommandError> {
    let mut failed = |code: i32, why: String| {
        let build = server.new_uuid();
        let uuid = server.storage.collection(namespace, ReadAt::Newest).map(|view| view.uuid());
        let uuid = uuid.unwrap_or(build);
        let why = why.replace("<build>", &build.to_string()).replace("<uuid>", &uuid.to_string());
        Err(CommandError::new(
            code,
            format!(
                "Index build failed: {build}: Collection {namespace} ( {uuid} ) :: caused by :: {why}"
            ),
        ))
    };
    for (number, spec) in specs.iter().enumerate() {
        let same = |other: &IndexSpec| {
            other.pattern == spec.pattern && other.name == spec.name && !spec.is_id()
        };
        if specs[..number].iter().any(same) {
            return failed(
                error::OPERATION_FAILED,
                "Cannot build two identical indexes. Try again without duplicate indexes.".into(),
            );
        }
        let mut kinds = spec.key_pattern().iter().map_while(Result::ok);
        if spec.unique && kinds.any(|(_, kind)| kind.as_str() == Some("hashed")) {
            return failed(
                16_764,
                format!(
                    "Caught exception during index builder (<build>) initialization on \
                     namespace{namespace} (<uuid>). {} index specs provided. First index spec: {} :: \
                     caused by :: Currently hashed indexes cannot guarantee uniqueness. Use a regular \
                     index.",
                    specs.len(),
                    shell_document(&specs[0].document)
                ),
            );
        }
    }
    Ok(())
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

/// The options whose values count as true or false.
const FLAGS: &[&str] = &["background", "hidden", "prepareUnique", "sparse", "unique"];

/// The options that an index on `_id` may have.
const ID_OPTIONS: &[&str] = &["collation", "key", "name", "ns", "v"];

/// The order in which `listIndexes` shows an index.
const LIST_ORDER: &[&str] = &[
    "v",
    "key",
    "name",
    "ns",
    "background",
    "unique",
    "hidden",
    "partialFilterExpression",
    "sparse",
    "expireAfterSeconds",
    "storageEngine",
    "weights",
    "default_language",
    "language_override",
    "textIndexVersion",
    "2dsphereIndexVersion",
    "bits",
    "min",
    "max",
    "bucketSize",
    "collation",
    "wildcardProjection",
    "clustered",
    "prepareUnique",
];

/// The specification as the catalog keeps it: `v`, `unique`, `key` and `name`, then the options as they
/// were given.
fn complete(
    asked: &RawDocument,
    collation: Collation,
    context: &ParseContext,
) -> Result<IndexSpec, CommandError> {
    let in_spec = |spec: &RawDocument, error: CommandError| CommandError {
        message: format!(
            "Error in specification {} :: caused by :: {}",
            shell_document(spec),
            error.message
        ),
        ..error
    };
    let read = read_spec(asked).map_err(|error| in_spec(asked, error))?;
    if let Ok(Some(seconds)) = asked.get("expireAfterSeconds") {
        check_expiry(asked, seconds, read.key)?;
    }
    let mut versioned = asked.to_owned();
    if asked.get("v").is_ok_and(|v| v.is_none()) {
        versioned.append(cstr!("v"), 2);
    }
    if read.name.is_empty() {
        let error = CommandError::new(error::CANNOT_CREATE_INDEX, "index name cannot be empty");
        return Err(in_spec(&versioned, error));
    }
    if read.name == "*" {
        return Err(CommandError::new(error::BAD_VALUE, "The index name '*' is not valid."));
    }
    let mut fields = read.key.iter().map_while(Result::ok);
    if let (Some((path, direction)), None) = (fields.next(), fields.next())
        && path.as_str() == "_id"
        && ValueRef::from(direction).is_number()
    {
        if crate::mongod::query::number::as_exact_i64(direction.into()) != Some(1) {
            return Err(CommandError::new(
                error::BAD_VALUE,
                format!(
                    "The field 'key' for an _id index must be {{_id: 1}}, but got {}",
                    shell_document(read.key)
                ),
            ));
        }
        let odd = asked.iter().map_while(Result::ok).map(|(field, _)| field.as_str());
        if let Some(odd) = odd.into_iter().find(|field| !ID_OPTIONS.contains(field)) {
            return Err(CommandError::new(
                error::INVALID_INDEX_SPECIFICATION_OPTION,
                format!(
                    "The field '{odd}' is not valid for an _id index specification. Specification: {}",
                    shell_document(&versioned)
                ),
            ));
        }
    }
    if let Ok(filter) = asked.get_document("partialFilterExpression") {
        let parsed = Matcher::parse(filter, context).map_err(|error| in_spec(asked, error))?;
        if DocumentRef::from(asked).get("sparse").is_some_and(ValueRef::is_truthy) {
            let message = "cannot mix \"partialFilterExpression\" and \"sparse\" options";
            let error = CommandError::new(error::CANNOT_CREATE_INDEX, message);
            return Err(in_spec(&versioned, error));
        }
        if let Some(part) = parsed.unfit_for_partial_index() {
            let error = CommandError::new(
                error::CANNOT_CREATE_INDEX,
                format!("Expression not supported in partial index: {part}"),
            );
            return Err(in_spec(&versioned, error));
        }
    }
    let unique = DocumentRef::from(asked).get("unique").is_some_and(ValueRef::is_truthy);
    let mut spec = RawDocumentBuf::new();
    spec.append(cstr!("v"), read.version);
    if unique {
        spec.append(cstr!("unique"), true);
    }
    let (key, weights) = text_key(asked, read.key);
    spec.append(cstr!("key"), key);
    spec.append(cstr!("name"), read.name);
    for (field, value) in asked.iter().map_while(Result::ok) {
        if !matches!(field.as_str(), "v" | "key" | "name" | "unique" | "collation" | "weights") {
            spec.append(field, value);
        }
    }
    if let Some(weights) = weights {
        spec.append(cstr!("weights"), weights);
        for (field, value) in [("default_language", "english"), ("language_override", "language")] {
            if asked.get(field).is_ok_and(|given| given.is_none()) {
                append(&mut spec, field, RawBsonRef::String(value));
            }
        }
        append(&mut spec, "textIndexVersion", RawBsonRef::Int32(3));
    }
    let is_sphere =
        |(_, kind): (&bson::raw::CStr, RawBsonRef<'_>)| kind.as_str() == Some("2dsphere");
    if read.key.iter().map_while(Result::ok).any(is_sphere)
        && asked.get("2dsphereIndexVersion").is_ok_and(|version| version.is_none())
    {
        append(&mut spec, "2dsphereIndexVersion", RawBsonRef::Int32(3));
    }
    let own = match asked.get_document("collation") {
        Ok(own) => Collation::parse(own.into())?,
        Err(_) => collation,
    };
    if let Some(own) = own.to_document() {
        spec.append(cstr!("collation"), own);
    }
    IndexSpec::parse(Arc::new(spec)).map_err(|error| in_spec(asked, error))
}

/// What of a specification everything else needs.
struct ReadSpec<'a> {
    key: &'a RawDocument,
    name: &'a str,
    version: i32,
}

fn read_spec(asked: &RawDocument) -> Result<ReadSpec<'_>, CommandError> {
    let (mut key, mut name, mut version) = (None, None, 2);
    let mismatch = |field: &str, kind: &str, value: RawBsonRef<'_>| {
        CommandError::new(
            error::TYPE_MISMATCH,
            format!("The field '{field}' must be {kind}, but got {}", type_name(value)),
        )
    };
    for element in asked {
        let (field, value) = element.map_err(malformed)?;
        match field.as_str() {
            "key" => {
                let pattern =
                    value.as_document().ok_or_else(|| mismatch("key", "an object", value))?;
                if pattern.iter().next().is_none() {
                    return Err(CommandError::new(
                        error::CANNOT_CREATE_INDEX,
                        "Index keys cannot be empty.",
                    ));
                }
                KeyPattern::parse(pattern.into())?;
                key = Some(pattern);
            }
            "name" => {
                name = Some(value.as_str().ok_or_else(|| mismatch("name", "a string", value))?);
            }
            "v" => match crate::mongod::query::number::as_exact_i64(value.into()) {
                Some(given @ 1..=2) => version = given as i32,
                Some(given) => {
                    return Err(CommandError::new(
                        error::CANNOT_CREATE_INDEX,
                        format!(
                            "Invalid index specification {}; cannot create an index with v={given}",
                            shell_document(asked)
                        ),
                    ));
                }
                None => return Err(mismatch("v", "a number", value)),
            },
            "partialFilterExpression" if value.as_document().is_none() => {
                return Err(mismatch("partialFilterExpression", "an object", value));
            }
            "collation" => {
                let given =
                    value.as_document().ok_or_else(|| mismatch("collation", "an object", value))?;
                Collation::parse(given.into())?;
            }
            flag if FLAGS.contains(&flag) => {
                let value = ValueRef::from(value);
                if !value.is_number() && !matches!(value, ValueRef::Boolean(_)) {
                    return Err(CommandError::new(
                        error::TYPE_MISMATCH,
                        format!(
                            "The field '{flag} has value {}, which is not convertible to bool",
                            crate::mongod::query::text::element_text(flag, value)
                        ),
                    ));
                }
            }
            known if INDEX_OPTIONS.contains(&known) || known == "partialFilterExpression" => {}
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
    Ok(ReadSpec { key, name: name.ok_or_else(|| required("name"))?, version })
}

fn check_expiry(
    asked: &RawDocument,
    seconds: RawBsonRef<'_>,
    key: &RawDocument,
) -> Result<(), CommandError> {
    let refused = |why: String| {
        Err(CommandError::new(
            error::CANNOT_CREATE_INDEX,
            format!("{why}. Index spec: {}", shell_document(asked)),
        ))
    };
    let Some(number) = crate::mongod::query::number::as_f64(seconds.into()) else {
        return refused(format!(
            "TTL index 'expireAfterSeconds' option must be numeric, but received a type of '{}'",
            type_name(seconds)
        ));
    };
    if number < 0.0 {
        return refused("TTL index 'expireAfterSeconds' option cannot be less than 0".into());
    }
    if number > f64::from(i32::MAX) {
        return refused(
            "TTL index 'expireAfterSeconds' option must be within an acceptable range, try a lower \
             number"
                .into(),
        );
    }
    if key.iter().count() > 1 {
        return refused(
            "TTL indexes are single-field indexes, compound indexes do not support TTL".into(),
        );
    }
    Ok(())
}

/// The key of a text index as the catalog has it, and the weights of its fields; other keys as they are.
fn text_key(asked: &RawDocument, key: &RawDocument) -> (RawDocumentBuf, Option<RawDocumentBuf>) {
    let is_text = |value: RawBsonRef<'_>| value.as_str() == Some("text");
    if !key.iter().map_while(Result::ok).any(|(_, value)| is_text(value)) {
        return (key.to_owned(), None);
    }
    let mut weights: std::collections::BTreeMap<String, i64> = Default::default();
    if let Ok(given) = asked.get_document("weights") {
        for (field, value) in given.iter().map_while(Result::ok) {
            let weight = crate::mongod::query::number::as_exact_i64(value.into()).unwrap_or(1);
            weights.insert(field.as_str().to_owned(), weight);
        }
    }
    let mut stored = RawDocumentBuf::new();
    for (field, value) in key.iter().map_while(Result::ok) {
        if !is_text(value) {
            stored.append(field, value);
            continue;
        }
        if stored.get("_fts").is_ok_and(|fts| fts.is_none()) {
            stored.append(cstr!("_fts"), "text");
            stored.append(cstr!("_ftsx"), 1);
        }
        if field.as_str() != "_fts" {
            weights.entry(field.as_str().to_owned()).or_insert(1);
        }
    }
    let mut shown = RawDocumentBuf::new();
    for (field, weight) in weights {
        append(&mut shown, &field, RawBsonRef::Int32(weight as i32));
    }
    (stored, Some(shown))
}

/// An index as `listIndexes` shows it.
pub(super) fn listed(spec: &IndexSpec) -> RawDocumentBuf {
    let mut shown = RawDocumentBuf::new();
    for name in LIST_ORDER {
        if let Ok(Some(value)) = spec.document.get(name) {
            append(&mut shown, name, value);
        }
    }
    shown
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
    check_not_view(&server.storage, &namespace)?;
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
            return Err(wrong_types("dropIndexes.index", other, "[string, object']"));
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

fn list_indexes(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut batch_size = None;
    each_argument("listIndexes", &op.body, |field, value| {
        if field == "cursor" {
            each_field("cursor", document("listIndexes.cursor", value)?, |field, value| {
                if field == "batchSize" {
                    batch_size = Some(non_negative("cursor", "batchSize", value)?);
                }
                Ok(field == "batchSize")
            })?;
        }
        Ok(matches!(field, "cursor" | "includeBuildUUIDs" | "includeIndexBuildInfo"))
    })?;
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    check_not_view(&server.storage, &namespace)?;
    let Some(view) = server.storage.collection(&namespace, at) else {
        return Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("ns does not exist: {namespace}"),
        ));
    };
    let specs = view.indexes().map(|(spec, _)| listed(spec)).collect();
    listed_reply(server, now, op, namespace, specs, batch_size)
}
