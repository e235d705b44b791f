//! Statistics of collections and databases.

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{each_argument, namespace, safe_i64};
use super::catalog::{append, append_all, append_count, read};
use super::spec::CommandSpec;
use super::{Operation, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::CommandError;
use crate::mongod::storage::CollectionView;

pub(crate) const COMMANDS: &[CommandSpec] =
    &[read(&["collStats", "collstats"], coll_stats), read(&["dbStats", "dbstats"], db_stats)];

/// `{size, count, avgObjSize, ...}`: the storage statistics of a collection.
pub(crate) fn storage_stats(view: Option<&CollectionView<'_>>, scale: i64) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    let size = view.map_or(0, |view| view.size_bytes() as i64);
    let count = view.map_or(0, |view| view.count() as i64);
    append_count(&mut out, cstr!("size"), (size / scale) as u64);
    append_count(&mut out, cstr!("count"), count as u64);
    if count > 0 {
        append_count(&mut out, cstr!("avgObjSize"), (size / count) as u64);
    }
    out.append(cstr!("numOrphanDocs"), 0);
    let storage = view.map_or(0, storage_size);
    append_count(&mut out, cstr!("storageSize"), (storage / scale) as u64);
    if let Some(view) = view {
        out.append(cstr!("freeStorageSize"), 0);
        out.append(cstr!("capped"), view.is_capped());
        if view.is_capped() {
            let bound = |name: &str| view.options().get(name).ok().flatten();
            if let Some(max) = bound("max") {
                out.append(cstr!("max"), max);
            }
            if let Some(size) = bound("size") {
                out.append(cstr!("maxSize"), size);
            }
        }
    }
    let mut sizes = RawDocumentBuf::new();
    let mut indexes = 0;
    for (spec, _) in view.iter().flat_map(|view| view.indexes()) {
        append(&mut sizes, &spec.name, RawBsonRef::Int32((4096 / scale) as i32));
        indexes += 1;
    }
    out.append(cstr!("nindexes"), indexes);
    append_count(&mut out, cstr!("totalIndexSize"), (i64::from(indexes) * 4096 / scale) as u64);
    let total = storage + i64::from(indexes) * 4096;
    append_count(&mut out, cstr!("totalSize"), (total / scale) as u64);
    out.append(cstr!("indexSizes"), sizes);
    append_count(&mut out, cstr!("scaleFactor"), scale as u64);
    out
}

fn coll_stats(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let scale = read_scale("collStats", op)?;
    super::views::check_not_view(&server.storage, &namespace)?;
    let view = server.storage.collection(&namespace, ReadAt::Newest);
    let mut reply = rawdoc! { "ns": namespace.as_str() };
    append_all(&mut reply, &storage_stats(view.as_ref(), scale));
    Ok(Outcome::Reply(reply))
}

fn db_stats(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let scale = read_scale("dbStats", op)?;
    let prefix = format!("{}.", op.db);
    let (mut collections, mut objects, mut size, mut storage, mut indexes) = (0, 0, 0, 0, 0);
    for view in server.storage.collections(ReadAt::Newest) {
        if view.namespace().starts_with(&prefix) {
            collections += 1_i64;
            objects += view.count() as i64;
            size += view.size_bytes() as i64;
            storage += storage_size(&view);
            indexes += view.indexes().count() as i64;
        }
    }
    let average = if objects > 0 { size as f64 / objects as f64 } else { 0.0 };
    let scaled = |bytes: i64| bytes as f64 / scale as f64;
    Ok(Outcome::Reply(rawdoc! {
        "db": op.db.as_str(),
        "collections": collections,
        "views": 0_i64,
        "objects": objects,
        "avgObjSize": average,
        "dataSize": scaled(size),
        "storageSize": scaled(storage),
        "indexes": indexes,
        "indexSize": scaled(indexes * 4096),
        "totalSize": scaled(storage + indexes * 4096),
        "scaleFactor": scale as f64,
    }))
}

fn read_scale(command: &str, op: &Operation) -> Result<i64, CommandError> {
    let mut scale = 1;
    each_argument(command, &op.body, |field, value| {
        match field {
            "scale" => scale = safe_i64(&format!("{command}.scale"), value)?,
            "freeStorage" | "verbose" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if scale < 1 {
        return Err(CommandError::new(
            51_024,
            format!("BSON field 'scale' value must be >= 1, actual value '{scale}'"),
        ));
    }
    Ok(scale)
}

/// What the data would take on disk: whole pages of 4096 bytes.
pub(super) fn storage_size(view: &CollectionView<'_>) -> i64 {
    (view.size_bytes() as i64 + 4095) / 4096 * 4096
}
