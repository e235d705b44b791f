//! Collections, databases and indexes: create, drop, list, rename, modify.

use std::sync::Arc;

use bson::raw::{CStr, RawArrayBuf, cstr};
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    check_writable, document, each_argument, each_field, first_value, namespace, non_negative,
    safe_boolean, safe_i64, string,
};
use super::context::parse_context;
use super::cursor::{self, Cursor, Source, list_reply};
use super::maintenance::copy_collection;
use super::spec::{CommandSpec, Gate};
use super::statistics::storage_size;
use super::views::{check_not_view, view_of, views_namespace};
use super::{Operation, OplogDraft, Outcome, ReadAt, coll_mod, create};
use crate::mongod::Mongod;
use crate::mongod::auth::role::Resource;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::OpKind;
use crate::mongod::optime::OpTime;
use crate::mongod::query::matcher::Matcher;
use crate::mongod::storage::{IndexSpec, Storage};

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

pub(crate) const COMMANDS: &[CommandSpec] = &[
    write(&["create"], create::create),
    write(&["drop"], drop_collection),
    write(&["dropDatabase"], drop_database),
    write(&["collMod"], coll_mod::coll_mod),
    CommandSpec { admin_only: true, ..write(&["renameCollection"], rename) },
    read(&["listCollections"], list_collections),
    CommandSpec { admin_only: true, ..read(&["listDatabases"], list_databases) },
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
///
/// # Errors
/// 73 InvalidNamespace.
pub(crate) fn create_collection(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    options: RawDocumentBuf,
) -> Result<Uuid, CommandError> {
    check_writable(namespace)?;
    create_unchecked(server, now, op, namespace, options)
}

/// The same for the server's own collections, of any name.
pub(crate) fn create_unchecked(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    options: RawDocumentBuf,
) -> Result<Uuid, CommandError> {
    let (db, collection) = split(namespace);
    let mut object = RawDocumentBuf::new();
    object.append(cstr!("create"), collection);
    append_all(&mut object, &options);
    if options.get("clusteredIndex").is_ok_and(|clustered| clustered.is_none()) {
        object.append(cstr!("idIndex"), id_index(&options));
    }
    let uuid = server.new_uuid();
    log(server, now, op, command_entry(db, Some(uuid), object, None))?;
    Ok(uuid)
}

pub(super) fn log_drop(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
) -> Result<Option<usize>, CommandError> {
    let Some(view) = server.storage.collection(namespace, ReadAt::Newest) else { return Ok(None) };
    let clustered = view.options().get("clusteredIndex").is_ok_and(|option| option.is_some());
    // The index that a clustered collection is, is none of its indexes.
    let indexes = view.indexes().count() - usize::from(clustered);
    let (uuid, records) = (view.uuid(), view.count());
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
    match drop_view(server, now, op, &namespace)? {
        DroppedView::None => {}
        DroppedView::View => return Ok(Outcome::Reply(rawdoc! { "ns": namespace })),
        DroppedView::Series => {
            return Ok(Outcome::Reply(rawdoc! { "nIndexesWas": 0, "ns": namespace }));
        }
    }
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

enum DroppedView {
    None,
    View,
    Series,
}

/// Takes a view out of `system.views`, with the buckets under it if it is a time series.
fn drop_view(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
) -> Result<DroppedView, CommandError> {
    let Some(view) = view_of(&server.storage, namespace, ReadAt::Newest) else {
        return Ok(DroppedView::None);
    };
    if server.storage.collection(namespace, ReadAt::Newest).is_some() {
        return Ok(DroppedView::None);
    }
    let views = views_namespace(namespace);
    let uuid = server.storage.collection(&views, ReadAt::Newest).map(|views| views.uuid());
    let draft = OplogDraft {
        kind: OpKind::Delete,
        ns: views.into(),
        collection_uuid: uuid,
        object: Arc::new(rawdoc! { "_id": namespace }),
        object2: None,
        upsert: false,
        session: None,
    };
    log(server, now, op, draft)?;
    if split(&view.on).1.starts_with("system.buckets.") {
        log_drop(server, now, op, &view.on)?;
        return Ok(DroppedView::Series);
    }
    Ok(DroppedView::View)
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
    let first = first_value(&op.body)?;
    let from = first.as_str().ok_or_else(|| {
        CommandError::new(
            error::BAD_VALUE,
            format!("collection name has invalid type {}", super::arguments::type_name(first)),
        )
    })?;
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
    check_writable(to).map_err(|error| {
        CommandError::new(
            error::ILLEGAL_OPERATION,
            format!("error with target namespace: {}", error.message),
        )
    })?;
    if server.storage.collection(from, ReadAt::Newest).is_none()
        && view_of(&server.storage, from, ReadAt::Newest).is_some()
    {
        return Err(CommandError::new(
            error::COMMAND_NOT_SUPPORTED_ON_VIEW,
            format!("cannot rename view: {from}"),
        ));
    }
    if view_of(&server.storage, to, ReadAt::Newest).is_some() {
        return Err(CommandError::new(
            error::NAMESPACE_EXISTS,
            format!("a view already exists with that name: {to}"),
        ));
    }
    let Some(source) = server.storage.collection(from, ReadAt::Newest) else {
        return Err(CommandError::new(
            error::NAMESPACE_NOT_FOUND,
            format!("Source collection {from} does not exist"),
        ));
    };
    let uuid = source.uuid();
    let (from_db, _) = split(from);
    if from_db != split(to).0 {
        let exists = server.storage.collection(to, ReadAt::Newest).is_some();
        if exists && !drop_target {
            return Err(CommandError::new(error::NAMESPACE_EXISTS, "target namespace exists"));
        }
        copy_collection(server, now, op, from, to, None)?;
        log_drop(server, now, op, from)?;
        return Ok(Outcome::Reply(RawDocumentBuf::new()));
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

fn list_collections(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let (mut name_only, mut filter, mut batch_size) = (false, None, None);
    each_argument("listCollections", &op.body, |field, value| {
        match field {
            "nameOnly" => name_only = safe_boolean("listCollections.nameOnly", value)?,
            "filter" => filter = Some(document("listCollections.filter", value)?),
            "cursor" => {
                each_field(
                    "cursor",
                    document("listCollections.cursor", value)?,
                    |field, value| {
                        if field == "batchSize" {
                            batch_size = Some(non_negative("cursor", "batchSize", value)?);
                        }
                        Ok(field == "batchSize")
                    },
                )?;
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
    let mut views = Vec::new();
    for view in server.storage.collections(at) {
        let Some(name) = view.namespace().strip_prefix(&prefix) else { continue };
        let options = view.options();
        let mut shown = rawdoc! { "name": name, "type": "collection" };
        shown.append(cstr!("options"), &***options);
        let info = rawdoc! { "readOnly": false, "uuid": Binary::from_uuid(view.uuid()) };
        shown.append(cstr!("info"), info);
        if options.get("clusteredIndex").is_ok_and(|clustered| clustered.is_none()) {
            shown.append(cstr!("idIndex"), id_index(options));
        }
        found.push(shown);
        if name == "system.views" {
            views.extend(
                view.scan(None).filter_map(|(_, view)| shown_view(&server.storage, view, at)),
            );
        }
    }
    found.extend(views);
    let mut listed = Vec::new();
    for collection in found {
        if matcher.as_ref().map_or(Ok(true), |matcher| matcher.matches(&collection))? {
            listed.push(if name_only {
                let text = |field| collection.get_str(field).unwrap_or_default();
                rawdoc! { "name": text("name"), "type": text("type") }
            } else {
                collection
            });
        }
    }
    listed_reply(server, now, op, format!("{}.$cmd.listCollections", op.db), listed, batch_size)
}

/// A view, or a time series, as `listCollections` shows it.
fn shown_view(storage: &Storage, view: &RawDocument, at: ReadAt) -> Option<RawDocumentBuf> {
    let namespace = view.get_str("_id").ok()?;
    let (db, name) = split(namespace);
    let on = view.get_str("viewOn").ok()?;
    if on.starts_with("system.buckets.") {
        let buckets = storage.collection(&format!("{db}.{on}"), at)?;
        let mut options = RawDocumentBuf::new();
        for field in ["expireAfterSeconds", "timeseries"] {
            if let Ok(Some(value)) = buckets.options().get(field) {
                append(&mut options, field, value);
            }
        }
        return Some(rawdoc! {
            "name": name, "type": "timeseries", "options": options, "info": { "readOnly": false },
        });
    }
    let mut options = RawDocumentBuf::new();
    for (field, value) in view.iter().map_while(Result::ok) {
        if field.as_str() != "_id" {
            options.append(field, value);
        }
    }
    Some(rawdoc! {
        "name": name, "type": "view", "options": options, "info": { "readOnly": true },
    })
}

/// A list as a cursor with batches of a size.
pub(crate) fn listed_reply(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: String,
    listed: Vec<RawDocumentBuf>,
    batch_size: Option<u64>,
) -> Result<Outcome, CommandError> {
    match batch_size {
        Some(batch_size) if (batch_size as usize) < listed.len() => {
            let cursor = Cursor {
                namespace,
                source: Source::Ready {
                    documents: listed.into_iter().map(Arc::new).collect(),
                    limited: false,
                },
                read_concern: op.read_concern,
                at_cluster_time: None,
                lsid: op.session.map(|session| session.lsid),
                tailable: false,
                await_data: false,
                no_timeout: false,
                transaction: None,
                used: now,
            };
            let first =
                cursor::first_reply(server, now, cursor, ReadAt::Newest, batch_size, false)?;
            // Lists have the id first.
            let Outcome::Reply(reply) = &first else { return Ok(first) };
            let mut ordered = RawDocumentBuf::new();
            if let Ok(cursor) = reply.get_document("cursor") {
                for field in ["id", "ns", "firstBatch"] {
                    if let Ok(Some(value)) = cursor.get(field) {
                        append(&mut ordered, field, value);
                    }
                }
            }
            let mut reply = RawDocumentBuf::new();
            reply.append(cstr!("cursor"), ordered);
            Ok(Outcome::Reply(reply))
        }
        _ => Ok(list_reply(&namespace, listed)),
    }
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

fn id_index(options: &RawDocument) -> RawDocumentBuf {
    (*IndexSpec::of_id(options).document).clone()
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
