//! Collections, databases and indexes: create, drop, list, rename, modify.

use std::sync::Arc;

use bson::raw::{CStr, RawArrayBuf, cstr};
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    check_writable, document, each_argument, first_value, namespace, safe_boolean, safe_i64, string,
};
use super::context::parse_context;
use super::cursor::{self, list_reply};
use super::spec::{CommandSpec, Gate};
use super::statistics::storage_size;
use super::views::check_not_view;
use super::{Operation, OplogDraft, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::auth::role::Resource;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::OpKind;
use crate::mongod::optime::OpTime;
use crate::mongod::query::matcher::Matcher;
use crate::mongod::storage::IndexSpec;

const fn write(
    names: &'static [&'static str],
    run: fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>,
) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

pub(super) const fn read(
    names: &'static [&'static str],
    run: fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>,
) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Read,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

/// A capped collection may be limited to at most so many bytes: one pebibyte.
const CAPPED_SIZE_MAX: i64 = 1 << 50;

pub(crate) const COMMANDS: &[CommandSpec] = &[
    write(&["create"], create),
    write(&["drop"], drop_collection),
    write(&["dropDatabase"], drop_database),
    write(&["collMod"], coll_mod),
    CommandSpec { admin_only: true, ..write(&["renameCollection"], rename) },
    read(&["listCollections"], list_collections),
    CommandSpec { admin_only: true, ..read(&["listDatabases"], list_databases) },
];

/// The options `create` takes and `listCollections` shows.
const CREATE_OPTIONS: &[&str] = &[
    "capped",
    "changeStreamPreAndPostImages",
    "collation",
    "indexOptionDefaults",
    "max",
    "size",
    "storageEngine",
    "validationAction",
    "validationLevel",
    "validator",
];

/// Draws up the entry of a command on a database.
pub(crate) fn command_entry(
    db: &str,
    uuid: Option<Uuid>,
    object: RawDocumentBuf,
    object2: Option<RawDocumentBuf>,
) -> OplogDraft {
    OplogDraft {
        kind: OpKind::Command,
        ns: format!("{db}.$cmd").into(),
        collection_uuid: uuid,
        object: Arc::new(object),
        object2: object2.map(Arc::new),
        upsert: false,
        session: None,
    }
}

/// Writes an entry on behalf of a client, whose write concern then waits for it.
pub(crate) fn log(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    draft: OplogDraft,
) -> Result<OpTime, CommandError> {
    let optime = server.log(now, draft)?;
    // What a transaction stages is written by its commit.
    if op.transaction().is_none() {
        server.note_client_write(op.connection, optime);
    }
    Ok(optime)
}

/// The collection's UUID, created first if it does not exist: an entry of its own.
pub(crate) fn ensure_collection(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
) -> Result<Uuid, CommandError> {
    match server.storage.collection(namespace, ReadAt::Newest) {
        Some(view) => Ok(view.uuid()),
        None => {
            check_not_view(&server.storage, namespace)?;
            create_collection(server, now, op, namespace, RawDocumentBuf::new())
        }
    }
}

/// Creates a collection with these options: an entry of its own.
pub(crate) fn create_collection(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    options: RawDocumentBuf,
) -> Result<Uuid, CommandError> {
    check_writable(namespace)?;
    let (db, collection) = split(namespace);
    let mut object = RawDocumentBuf::new();
    object.append(cstr!("create"), collection);
    append_all(&mut object, &options);
    object.append(cstr!("idIndex"), id_index());
    let uuid = server.new_uuid();
    log(server, now, op, command_entry(db, Some(uuid), object, None))?;
    Ok(uuid)
}

fn create(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut options = RawDocumentBuf::new();
    let (mut capped, mut sized) = (false, false);
    each_argument("create", &op.body, |field, value| {
        let full = format!("create.{field}");
        match field {
            "capped" => {
                capped = safe_boolean(&full, value)?;
                if capped {
                    options.append(cstr!("capped"), true);
                }
            }
            "size" => {
                sized = true;
                let size = safe_i64(&full, value)?.max(1);
                if size > CAPPED_SIZE_MAX {
                    return Err(CommandError::new(
                        51_024,
                        format!(
                            "BSON field 'size' value must be <= {CAPPED_SIZE_MAX}, actual value '{size}'"
                        ),
                    ));
                }
                // Rounded up to a multiple of 256, as the server does.
                let size = (size + 255) / 256 * 256;
                match i32::try_from(size) {
                    Ok(size) => options.append(cstr!("size"), size),
                    Err(_) => options.append(cstr!("size"), size),
                }
            }
            "max" => {
                sized = true;
                let max = safe_i64(&full, value)?;
                match i32::try_from(max) {
                    Ok(max) => options.append(cstr!("max"), max),
                    Err(_) => options.append(cstr!("max"), max),
                }
            }
            "validator" => {
                document(&full, value)?;
                options.append(cstr!("validator"), value);
            }
            "viewOn" | "pipeline" | "timeseries" | "clusteredIndex" | "expireAfterSeconds" => {
                return Err(CommandError::new(
                    error::COMMAND_NOT_SUPPORTED,
                    format!("This simulated server does not support create.{field}"),
                ));
            }
            "autoIndexId" | "idIndex" | "temp" | "flags" | "encryptedFields" => {}
            known if CREATE_OPTIONS.contains(&known) => append(&mut options, known, value),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let invalid = |message: &str| Err(CommandError::new(error::INVALID_OPTIONS, message));
    if capped && options.get("size").is_ok_and(|size| size.is_none()) {
        return invalid("the 'size' field is required when 'capped' is true");
    }
    if !capped && sized {
        return invalid(
            "the 'capped' field needs to be true when either the 'size' or 'max' fields are present",
        );
    }
    check_writable(&namespace)?;
    check_validator(server, now, op)?;
    if let Some(view) = server.storage.collection(&namespace, ReadAt::Newest) {
        // Since 7.0 the same collection may be created again.
        let same = view.options().as_bytes() == options.as_bytes();
        if same && server.options.version >= crate::mongod::ServerVersion::V7_0 {
            return Ok(Outcome::Reply(RawDocumentBuf::new()));
        }
        return Err(CommandError::new(
            error::NAMESPACE_EXISTS,
            format!("Collection {namespace} already exists."),
        ));
    }
    create_collection(server, now, op, &namespace, options)?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// A `validator` must be a filter.
fn check_validator(server: &Mongod, now: Instant, op: &Operation) -> Result<(), CommandError> {
    match op.body.get_document("validator") {
        Ok(validator) => parse_filter(server, now, op, Some(validator)).map(|_| ()),
        Err(_) => Ok(()),
    }
}

fn log_drop(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
) -> Result<Option<usize>, CommandError> {
    let Some(view) = server.storage.collection(namespace, ReadAt::Newest) else { return Ok(None) };
    let (uuid, indexes, records) = (view.uuid(), view.indexes().count(), view.count());
    let (db, collection) = split(namespace);
    let object = rawdoc! { "drop": collection };
    let mut object2 = RawDocumentBuf::new();
    append_count(&mut object2, cstr!("numRecords"), records);
    log(server, now, op, command_entry(db, Some(uuid), object, Some(object2)))?;
    Ok(Some(indexes))
}

fn drop_collection(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    each_argument("drop", &op.body, |field, _| Ok(field == "collectionUUID"))?;
    match log_drop(server, now, op, &namespace)? {
        Some(indexes) => Ok(Outcome::Reply(rawdoc! {
            "nIndexesWas": indexes as i32, "ns": namespace,
        })),
        // Since 7.0 there is nothing wrong with dropping nothing.
        None if server.options.version >= crate::mongod::ServerVersion::V7_0 => {
            Ok(Outcome::Reply(RawDocumentBuf::new()))
        }
        None => Err(CommandError::new(error::NAMESPACE_NOT_FOUND, "ns not found")),
    }
}

fn drop_database(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let one = safe_i64("dropDatabase.dropDatabase", first_value(&op.body)?)?;
    if one != 1 {
        return Err(CommandError::new(5_255_100, "Have to pass 1 as 'drop' parameter"));
    }
    each_argument("dropDatabase", &op.body, |_, _| Ok(false))?;
    if matches!(op.db.as_str(), "admin" | "config" | "local") {
        return Err(CommandError::new(
            error::ILLEGAL_OPERATION,
            format!("Dropping the '{}' database is prohibited.", op.db),
        ));
    }
    let names = collections_of(server, &op.db, ReadAt::Newest);
    if names.is_empty() {
        return Ok(Outcome::Reply(RawDocumentBuf::new()));
    }
    for name in names {
        log_drop(server, now, op, &name)?;
    }
    log(server, now, op, command_entry(&op.db, None, rawdoc! { "dropDatabase": 1 }, None))?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn rename(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let from = string("renameCollection.renameCollection", first_value(&op.body)?)?;
    let (mut to, mut drop_target) = (None, false);
    each_argument("renameCollection", &op.body, |field, value| {
        match field {
            "to" => to = Some(string("renameCollection.to", value)?),
            "dropTarget" => drop_target = safe_boolean("renameCollection.dropTarget", value)?,
            "stayTemp" | "collectionUUID" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let to = to.ok_or_else(|| super::arguments::missing_field("renameCollection.to"))?;
    for name in [from, to] {
        if name.split_once('.').is_none_or(|(db, name)| db.is_empty() || name.is_empty()) {
            return Err(CommandError::new(
                error::INVALID_NAMESPACE,
                format!("Invalid namespace specified '{name}'"),
            ));
        }
    }
    if from == to {
        return Err(CommandError::new(
            error::ILLEGAL_OPERATION,
            "Can't rename a collection to itself",
        ));
    }
    check_writable(from)?;
    check_writable(to)?;
    let Some(source) = server.storage.collection(from, ReadAt::Newest) else {
        return Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("Source collection {from} does not exist"),
        ));
    };
    let uuid = source.uuid();
    let (from_db, _) = split(from);
    if from_db != split(to).0 {
        return Err(CommandError::new(
            error::COMMAND_NOT_SUPPORTED,
            "This simulated server does not rename collections across databases",
        ));
    }
    let target = server.storage.collection(to, ReadAt::Newest);
    let target = target.map(|view| (view.uuid(), view.count()));
    let mut object2 = None;
    let mut object = rawdoc! { "renameCollection": from, "to": to, "stayTemp": false };
    match target {
        Some(_) if !drop_target => {
            return Err(CommandError::new(error::NAMESPACE_EXISTS, "target namespace exists"));
        }
        Some((target, records)) => {
            object.append(cstr!("dropTarget"), Binary::from_uuid(target));
            let mut dropped = RawDocumentBuf::new();
            append_count(&mut dropped, cstr!("numRecords"), records);
            object2 = Some(dropped);
        }
        None => {}
    }
    log(server, now, op, command_entry(from_db, Some(uuid), object, object2))?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn coll_mod(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut changes = RawDocumentBuf::new();
    each_argument("collMod", &op.body, |field, value| {
        match field {
            "validator" => {
                document("collMod.validator", value)?;
            }
            "validationLevel" | "validationAction" => {
                string(&format!("collMod.{field}"), value)?;
            }
            "changeStreamPreAndPostImages" => {
                document("collMod.changeStreamPreAndPostImages", value)?;
            }
            "index" | "viewOn" | "pipeline" | "cappedSize" | "cappedMax" | "expireAfterSeconds" => {
                return Err(CommandError::new(
                    error::COMMAND_NOT_SUPPORTED,
                    format!("This simulated server does not support collMod.{field}"),
                ));
            }
            _ => return Ok(false),
        }
        append(&mut changes, field, value);
        Ok(true)
    })?;
    check_validator(server, now, op)?;
    let Some(view) = server.storage.collection(&namespace, ReadAt::Newest) else {
        return Err(CommandError::new(error::NAMESPACE_NOT_FOUND, "ns does not exist"));
    };
    let uuid = view.uuid();
    let (db, collection) = split(&namespace);
    let mut old = rawdoc! { "uuid": Binary::from_uuid(uuid) };
    append_all(&mut old, view.options());
    let object2 = rawdoc! { "collectionOptions_old": old };
    let mut object = rawdoc! { "collMod": collection };
    append_all(&mut object, &changes);
    log(server, now, op, command_entry(db, Some(uuid), object, Some(object2)))?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn list_collections(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let (mut name_only, mut filter) = (false, None);
    each_argument("listCollections", &op.body, |field, value| {
        match field {
            "nameOnly" => name_only = safe_boolean("listCollections.nameOnly", value)?,
            "filter" => filter = Some(document("listCollections.filter", value)?),
            "cursor" => {
                document("listCollections.cursor", value)?;
            }
            "authorizedCollections" => {
                safe_boolean("listCollections.authorizedCollections", value)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let matcher = parse_filter(server, now, op, filter)?;
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    let prefix = format!("{}.", op.db);
    let mut found = Vec::new();
    if op.db == "local" {
        let names = server.storage.local_documents().map(|(name, _)| name);
        for name in names.chain(["oplog.rs"]) {
            found.push(rawdoc! {
                "name": name, "type": "collection", "options": {}, "info": { "readOnly": false },
            });
        }
    }
    for view in server.storage.collections(at) {
        let Some(name) = view.namespace().strip_prefix(&prefix) else { continue };
        found.push(rawdoc! {
            "name": name,
            "type": "collection",
            "options": (**view.options()).clone(),
            "info": { "readOnly": false, "uuid": Binary::from_uuid(view.uuid()) },
            "idIndex": id_index(),
        });
    }
    let mut listed = Vec::new();
    for collection in found {
        if matcher.as_ref().map_or(Ok(true), |matcher| matcher.matches(&collection))? {
            listed.push(if name_only {
                let name = collection.get_str("name").unwrap_or_default();
                rawdoc! { "name": name, "type": "collection" }
            } else {
                collection
            });
        }
    }
    Ok(list_reply(&format!("{}.$cmd.listCollections", op.db), listed))
}

fn list_databases(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let (mut name_only, mut filter, mut authorized) = (false, None, None);
    each_argument("listDatabases", &op.body, |field, value| {
        match field {
            "nameOnly" => name_only = safe_boolean("listDatabases.nameOnly", value)?,
            "filter" => filter = Some(document("listDatabases.filter", value)?),
            "authorizedDatabases" => {
                authorized = Some(safe_boolean("listDatabases.authorizedDatabases", value)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let sees_all = server.may(op, Resource::Cluster, "listDatabases");
    if authorized == Some(false) && !sees_all {
        return Err(CommandError::new(
            error::UNAUTHORIZED,
            "Insufficient permissions to list all databases",
        ));
    }
    let own_only = authorized == Some(true) || !sees_all;
    let matcher = parse_filter(server, now, op, filter)?;
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    let mut sizes: std::collections::BTreeMap<String, i64> = Default::default();
    for view in server.storage.collections(at) {
        let db = split(view.namespace()).0.to_owned();
        *sizes.entry(db).or_default() += storage_size(&view) + 4096;
    }
    // What a set keeps for itself is there from its first second on.
    for name in ["admin", "config"] {
        sizes.entry(name.to_owned()).or_insert(4096 * 2);
    }
    sizes.insert("local".to_owned(), server.storage.oplog().size_bytes() as i64);
    let (mut databases, mut total) = (RawArrayBuf::new(), 0_i64);
    for (name, size) in sizes {
        if own_only && !server.sees_database(op, &name) {
            continue;
        }
        let full = rawdoc! { "name": name.as_str(), "sizeOnDisk": size, "empty": false };
        if matcher.as_ref().map_or(Ok(true), |matcher| matcher.matches(&full))? {
            total += size;
            databases.push(if name_only {
                rawdoc! { "name": name.as_str() }
            } else {
                full
            });
        }
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("databases"), databases);
    if !name_only {
        reply.append(cstr!("totalSize"), total);
        reply.append(cstr!("totalSizeMb"), total >> 20);
    }
    Ok(Outcome::Reply(reply))
}

fn parse_filter(
    server: &Mongod,
    now: Instant,
    op: &Operation,
    filter: Option<&RawDocument>,
) -> Result<Option<Matcher>, CommandError> {
    let context = parse_context(server, now, op)?;
    filter.map(|filter| Matcher::parse(filter, &context)).transpose()
}

/// The namespaces of a database's collections.
fn collections_of(server: &Mongod, db: &str, at: ReadAt) -> Vec<Arc<str>> {
    let prefix = format!("{db}.");
    let all = server.storage.collections(at);
    let all = all.iter().map(|view| view.namespace().clone());
    all.filter(|name| name.starts_with(&prefix)).collect()
}

fn id_index() -> RawDocumentBuf {
    (*IndexSpec::of_id().document).clone()
}

/// Database and collection of a namespace.
pub(crate) fn split(namespace: &str) -> (&str, &str) {
    namespace.split_once('.').unwrap_or((namespace, ""))
}

/// Appends a field whose name came out of a document.
pub(crate) fn append(to: &mut RawDocumentBuf, field: &str, value: RawBsonRef<'_>) {
    if let Ok(field) = <&CStr>::try_from(field) {
        to.append(field, value);
    }
}

/// Appends all fields of a document.
pub(crate) fn append_all(to: &mut RawDocumentBuf, from: &RawDocument) {
    for (field, value) in from.iter().map_while(Result::ok) {
        to.append(field, value);
    }
}

/// Appends a number as the server does: 32 bits where they suffice.
pub(crate) fn append_count(to: &mut RawDocumentBuf, field: &CStr, count: u64) {
    match i32::try_from(count) {
        Ok(count) => to.append(field, count),
        Err(_) => to.append(field, i64::try_from(count).unwrap_or(i64::MAX)),
    }
}
