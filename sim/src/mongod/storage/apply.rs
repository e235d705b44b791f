//! What an oplog entry does to the store.

use std::sync::{Arc, Weak};

use bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, Uuid};

use super::catalog::{Catalog, CollectionId};
use super::index::IndexSpec;
use crate::mongod::command::OPTION_ORDER;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{CachedWork, EntryCache, InnerOperation, OpKind, OplogEntry};
use crate::mongod::optime::Ts;
use crate::mongod::query::apply_diff;
use crate::mongod::query::value::to_raw;

/// Applies one entry at a timestamp: its own, or that of the commit it is a part of.
///
/// # Errors
/// What stands against it (duplicate key, no such collection, ...); some of the entry may be done
/// then, and the caller takes it back.
pub(super) fn apply(catalog: &mut Catalog, entry: &OplogEntry, at: Ts) -> Result<(), CommandError> {
    let operation = OperationRef {
        kind: entry.kind,
        ns: &entry.ns,
        collection_uuid: entry.collection_uuid,
        object: &entry.object,
        object2: entry.object2.as_deref(),
        upsert: entry.upsert,
        cache: Some(&entry.cache),
    };
    operation.apply(catalog, at)
}

/// The operations of an `applyOps` entry, read once and shared by all members that hold the entry;
/// `None` for any other entry.
///
/// # Errors
/// 9 FailedToParse: not a list of operations.
pub fn inner_operations(entry: &OplogEntry) -> Result<Option<&[InnerOperation]>, CommandError> {
    if entry.kind != OpKind::Command || !is_apply_ops(&entry.object) {
        return Ok(None);
    }
    operations_of(&entry.object, &entry.cache).map(Some)
}

fn is_apply_ops(object: &RawDocument) -> bool {
    object
        .iter_elements()
        .next()
        .is_some_and(|element| element.is_ok_and(|element| element.key().as_str() == "applyOps"))
}

fn operations_of<'a>(
    object: &RawDocument,
    cache: &'a EntryCache,
) -> Result<&'a [InnerOperation], CommandError> {
    if cache.0.get().is_none() {
        let _ = cache.0.set(CachedWork::Operations(parse_operations(object)?));
    }
    match cache.0.get() {
        Some(CachedWork::Operations(operations)) => Ok(operations),
        _ => unreachable!("an applyOps entry has no post-image of its own"),
    }
}

fn parse_operations(object: &RawDocument) -> Result<Vec<InnerOperation>, CommandError> {
    let bad = |what: &str| {
        CommandError::new(error::FAILED_TO_PARSE, format!("bad operation in applyOps: {what}"))
    };
    let list = object.get_array("applyOps").map_err(|_| bad("applyOps must be an array"))?;
    let mut operations = Vec::new();
    for element in list {
        let Ok(RawBsonRef::Document(operation)) = element else {
            return Err(bad("not a document"));
        };
        let kind = match operation.get_str("op") {
            Ok("i") => OpKind::Insert,
            Ok("u") => OpKind::Update,
            Ok("d") => OpKind::Delete,
            Ok("c") => OpKind::Command,
            Ok("n") => OpKind::Noop,
            _ => return Err(bad("op")),
        };
        let object = operation.get_document("o").map_err(|_| bad("o"))?;
        operations.push(InnerOperation {
            kind,
            ns: operation.get_str("ns").map_err(|_| bad("ns"))?.into(),
            collection_uuid: uuid_of(operation.get("ui").ok().flatten()),
            object: Arc::new(object.to_owned()),
            object2: operation.get_document("o2").ok().map(|object2| Arc::new(object2.to_owned())),
            upsert: operation.get_bool("b").unwrap_or(false),
            statement_ids: match operation.get("stmtId") {
                Ok(Some(RawBsonRef::Int32(id))) => vec![id],
                Ok(Some(RawBsonRef::Array(ids))) => {
                    ids.into_iter().filter_map(|id| id.ok()?.as_i32()).collect()
                }
                _ => Vec::new(),
            },
        });
    }
    Ok(operations)
}

/// A UUID in a document.
pub(crate) fn uuid_of(value: Option<RawBsonRef<'_>>) -> Option<Uuid> {
    match value {
        Some(RawBsonRef::Binary(binary)) => {
            <[u8; 16]>::try_from(binary.bytes).ok().map(Uuid::from_bytes)
        }
        _ => None,
    }
}

struct OperationRef<'a> {
    kind: OpKind,
    ns: &'a Arc<str>,
    collection_uuid: Option<Uuid>,
    object: &'a Arc<RawDocumentBuf>,
    object2: Option<&'a RawDocumentBuf>,
    upsert: bool,
    cache: Option<&'a EntryCache>,
}

impl OperationRef<'_> {
    fn apply(&self, catalog: &mut Catalog, ts: Ts) -> Result<(), CommandError> {
        match self.kind {
            OpKind::Noop => Ok(()),
            OpKind::Insert => {
                let collection = catalog.target(self.collection_uuid, self.ns)?;
                catalog.insert(ts, collection, self.object.clone())
            }
            OpKind::Update => self.apply_update(catalog, ts),
            OpKind::Delete => {
                let collection = catalog.target(self.collection_uuid, self.ns)?;
                catalog.delete(ts, collection, id_of(self.object)?)
            }
            OpKind::Command => self.apply_command(catalog, ts),
        }
    }

    fn apply_update(&self, catalog: &mut Catalog, ts: Ts) -> Result<(), CommandError> {
        let collection = catalog.target(self.collection_uuid, self.ns)?;
        let id = id_of(self.object2.unwrap_or(self.object))?;
        let diff = diff_of(self.object);
        let record = catalog.get(collection).find_id(id);
        let Some(record) = record else {
            if self.upsert && diff.is_none() {
                return catalog.insert(ts, collection, self.object.clone());
            }
            return Err(CommandError::new(
                error::NO_MATCHING_DOCUMENT,
                format!("no document to update in {}", self.ns),
            ));
        };
        let Some(diff) = diff else {
            return catalog.update(ts, collection, record, self.object.clone());
        };
        let before = catalog.get(collection).record(record).and_then(|record| record.newest());
        let before = before.cloned().expect("found as a live record");
        let after = match self.cached_post_image(&before) {
            Some(after) => after,
            None => {
                let after = Arc::new(apply_diff_to(&before, diff)?);
                if let Some(cache) = self.cache {
                    let _ = cache.0.set(CachedWork::PostImage {
                        before: Arc::downgrade(&before),
                        after: Arc::downgrade(&after),
                    });
                }
                after
            }
        };
        catalog.update(ts, collection, record, after)
    }

    /// What another member made of the very same document by the same entry.
    fn cached_post_image(&self, before: &Arc<RawDocumentBuf>) -> Option<Arc<RawDocumentBuf>> {
        match self.cache?.0.get()? {
            CachedWork::PostImage { before: known, after }
                if std::ptr::eq(Weak::as_ptr(known), Arc::as_ptr(before)) =>
            {
                after.upgrade()
            }
            _ => None,
        }
    }

    fn apply_command(&self, catalog: &mut Catalog, ts: Ts) -> Result<(), CommandError> {
        let object = self.object;
        let (name, value) = match object.iter().next() {
            Some(Ok((name, value))) => (name.as_str(), value),
            _ => return Err(bad_entry("an empty command")),
        };
        let db = self.ns.split_once('.').map_or(&**self.ns, |(db, _)| db);
        let named = || match value {
            RawBsonRef::String(collection) => Ok(format!("{db}.{collection}")),
            _ => Err(bad_entry(name)),
        };
        match name {
            "create" => {
                let uuid = self.collection_uuid.ok_or_else(|| bad_entry("create without ui"))?;
                let options = without(object, &["create", "idIndex"]);
                catalog.create(ts, named()?.into(), uuid, Arc::new(options)).map(|_| ())
            }
            "drop" => {
                let collection = catalog.target(self.collection_uuid, &named()?)?;
                catalog.drop(ts, collection);
                Ok(())
            }
            "dropDatabase" => {
                let prefix = format!("{db}.");
                let names: Vec<Arc<str>> = catalog
                    .all_at(Ts::MAX)
                    .into_iter()
                    .map(|(name, _)| name.clone())
                    .filter(|name| name.starts_with(&prefix))
                    .collect();
                for name in names {
                    let collection = catalog.target(None, &name)?;
                    catalog.drop(ts, collection);
                }
                Ok(())
            }
            "renameCollection" => {
                let to = object.get_str("to").map_err(|_| bad_entry(name))?;
                let from = value.as_str().ok_or_else(|| bad_entry(name))?;
                let drop_target = match object.get("dropTarget") {
                    Ok(Some(RawBsonRef::Boolean(drop))) => drop,
                    Ok(Some(RawBsonRef::Binary(_))) => true,
                    _ => false,
                };
                let collection = catalog.target(self.collection_uuid, from)?;
                if let Some(target) = catalog.by_name(to).filter(|_| drop_target) {
                    catalog.drop(ts, target);
                }
                catalog.rename(ts, collection, to.into())
            }
            "createIndexes" => {
                let collection = catalog.target(self.collection_uuid, &named()?)?;
                let spec = IndexSpec::parse(Arc::new(without(object, &["createIndexes"])))?;
                catalog.create_index(ts, collection, Arc::new(spec))
            }
            "startIndexBuild" | "abortIndexBuild" => Ok(()),
            "commitIndexBuild" => {
                let collection = catalog.target(self.collection_uuid, &named()?)?;
                let specs = object.get_array("indexes").map_err(|_| bad_entry(name))?;
                for spec in specs {
                    let Ok(RawBsonRef::Document(spec)) = spec else { return Err(bad_entry(name)) };
                    let spec = IndexSpec::parse(Arc::new(spec.to_owned()))?;
                    catalog.create_index(ts, collection, Arc::new(spec))?;
                }
                Ok(())
            }
            "dropIndexes" | "deleteIndexes" => {
                let collection = catalog.target(self.collection_uuid, &named()?)?;
                let index = object.get_str("index").map_err(|_| bad_entry(name))?;
                catalog.drop_index(ts, collection, index)
            }
            "collMod" => {
                let collection = catalog.target(self.collection_uuid, &named()?)?;
                let mut options = without(catalog.get(collection).options_at(Ts::MAX), &[]);
                for (key, value) in object.iter().skip(1).map_while(Result::ok) {
                    if let ("index", RawBsonRef::Document(change)) = (key.as_str(), value) {
                        alter_index(catalog, ts, collection, change)?;
                        continue;
                    }
                    options = without(&options, &[key.as_str()]);
                    // An empty validator is none.
                    let is_empty = value.as_document().is_some_and(|value| value.is_empty());
                    if !(key.as_str() == "validator" && is_empty) {
                        options.append(key, value);
                    }
                }
                let options = in_order(&options);
                catalog.set_options(ts, collection, Arc::new(options));
                Ok(())
            }
            "applyOps" => {
                let own = EntryCache::default();
                for inner in operations_of(object, self.cache.unwrap_or(&own))? {
                    let operation = OperationRef {
                        kind: inner.kind,
                        ns: &inner.ns,
                        collection_uuid: inner.collection_uuid,
                        object: &inner.object,
                        object2: inner.object2.as_deref(),
                        upsert: inner.upsert,
                        cache: None,
                    };
                    operation.apply(catalog, ts)?;
                    catalog.operation += 1;
                }
                Ok(())
            }
            other => Err(bad_entry(other)),
        }
    }
}

/// What `collMod` changes about an index.
fn alter_index(
    catalog: &mut Catalog,
    ts: Ts,
    collection: CollectionId,
    change: &RawDocument,
) -> Result<(), CommandError> {
    let name = change.get_str("name").map_err(|_| bad_entry("collMod of an index"))?;
    let known = catalog.index_spec(collection, name).ok_or_else(|| bad_entry("collMod"))?;
    let mut changed = without(&known.document, &[]);
    for (field, value) in change.iter().map_while(Result::ok) {
        if field.as_str() == "name" {
            continue;
        }
        changed = without(&changed, &[field.as_str()]);
        // What is off is not shown.
        if value != RawBsonRef::Boolean(false) {
            changed.append(field, value);
        }
        if field.as_str() == "unique" {
            changed = without(&changed, &["prepareUnique"]);
        }
    }
    catalog.alter_index(ts, collection, IndexSpec::parse(Arc::new(changed))?)
}

/// Options in the order in which catalogs show them.
fn in_order(options: &RawDocument) -> RawDocumentBuf {
    let mut ordered = RawDocumentBuf::new();
    for name in OPTION_ORDER {
        for (key, value) in options.iter().map_while(Result::ok) {
            if key.as_str() == name {
                ordered.append(key, value);
            }
        }
    }
    for (key, value) in options.iter().map_while(Result::ok) {
        if !OPTION_ORDER.contains(&key.as_str()) {
            ordered.append(key, value);
        }
    }
    ordered
}

fn apply_diff_to(before: &RawDocument, diff: &RawDocument) -> Result<RawDocumentBuf, CommandError> {
    let decode = |document: &RawDocument| {
        Document::try_from(document)
            .map_err(|error| CommandError::new(error::INVALID_BSON, error.to_string()))
    };
    Ok(to_raw(&apply_diff(&decode(before)?, &decode(diff)?)?))
}

/// The diff of an update entry's object; `None` if it is a whole document.
fn diff_of(object: &RawDocument) -> Option<&RawDocument> {
    match object.get("diff") {
        Ok(Some(RawBsonRef::Document(diff))) if object.get("$v").is_ok_and(|v| v.is_some()) => {
            Some(diff)
        }
        _ => None,
    }
}

/// What an update's object makes of a document.
pub(super) fn post_image(
    before: &RawDocument,
    object: &Arc<RawDocumentBuf>,
) -> Result<Arc<RawDocumentBuf>, CommandError> {
    match diff_of(object) {
        Some(diff) => apply_diff_to(before, diff).map(Arc::new),
        None => Ok(object.clone()),
    }
}

pub(super) fn id_of(document: &RawDocument) -> Result<RawBsonRef<'_>, CommandError> {
    document.get("_id").ok().flatten().ok_or_else(|| bad_entry("no _id"))
}

fn bad_entry(what: &str) -> CommandError {
    CommandError::new(error::FAILED_TO_PARSE, format!("cannot apply the oplog entry: {what}"))
}

/// A document without some of its fields.
pub(super) fn without(document: &RawDocument, fields: &[&str]) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    for (key, value) in document.iter().map_while(Result::ok) {
        if !fields.contains(&key.as_str()) {
            out.append(key, value);
        }
    }
    out
}
