//! What operators do to a running server: `fsync`, `logRotate`, `profile`, `dbHash`.

use bson::{Bson, Document, RawBsonRef, RawDocument, doc};
use stepdown_driver::Instant;

use super::arguments::{each_argument, first_value, safe_i64};
use super::operation::{Operation, Outcome, ReadAt};
use super::spec::CommandSpec;
use crate::mongod::error::{BAD_VALUE, CommandError, ILLEGAL_OPERATION};
use crate::mongod::query::value::ValueRef;
use crate::mongod::{Mongod, WAKE_STATE};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["dbHash", "dbhash"], false, db_hash),
    CommandSpec::anywhere(&["features"], false, features),
    CommandSpec::anywhere(&["fsync"], true, fsync),
    CommandSpec::anywhere(&["fsyncUnlock"], true, fsync_unlock),
    CommandSpec::anywhere(&["logRotate"], true, log_rotate),
    CommandSpec::anywhere(&["profile"], false, profile),
    CommandSpec::anywhere(&["validateDBMetadata"], false, validate_db_metadata),
];

const LOCKED: &str = "now locked against writes, use db.fsyncUnlock() to unlock";

/// A database's profiler, as `profile` sets it. Nothing is written to `system.profile`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profiler {
    level: i32,
    slow_millis: i32,
    sample_rate: f64,
}

impl Default for Profiler {
    fn default() -> Self {
        Profiler { level: 0, slow_millis: 100, sample_rate: 1.0 }
    }
}

fn fsync(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let lock = operation.argument("lock").is_some_and(|value| ValueRef::from(value).is_truthy());
    server.storage_flush_soon(now);
    if !lock {
        return Outcome::document(&doc! { "numFiles": 1 });
    }
    server.fsync_locks += 1;
    Outcome::document(&doc! {
        "info": LOCKED,
        "lockCount": i64::from(server.fsync_locks),
        "seeAlso": "http://dochub.mongodb.org/core/fsynccommand",
    })
}

fn fsync_unlock(server: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    if server.fsync_locks == 0 {
        return Err(CommandError::new(ILLEGAL_OPERATION, "fsyncUnlock called when not locked"));
    }
    server.fsync_locks -= 1;
    if server.fsync_locks == 0 {
        server.wake(WAKE_STATE);
        return Outcome::document(&doc! { "info": "fsyncUnlock completed", "lockCount": 0_i64 });
    }
    Outcome::document(&doc! {
        "info": "Lock count reduced",
        "lockCount": i64::from(server.fsync_locks),
    })
}

/// There is no log file to rotate.
fn log_rotate(_: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    Outcome::document(&Document::new())
}

fn features(server: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    let id = server.repl.process_id.bytes();
    let machine = i32::from_be_bytes([id[4], id[5], id[6], id[7]]);
    Outcome::document(&doc! { "js": { "utf8": true }, "oidMachine": machine })
}

fn profile(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let was = server.profilers.get(&operation.db).copied().unwrap_or_default();
    let mut set = was;
    let level = safe_i64("profile.profile", first_value(&operation.body)?)?;
    each_argument("profile", &operation.body, |field, value| {
        match (field, value) {
            ("slowms", value) => {
                let millis = safe_i64("profile.slowms", value)?;
                set.slow_millis = millis.clamp(0, i64::from(i32::MAX)) as i32;
            }
            ("sampleRate", RawBsonRef::Double(rate)) if (0.0..=1.0).contains(&rate) => {
                set.sample_rate = rate;
            }
            ("sampleRate", RawBsonRef::Int32(rate @ 0..=1)) => set.sample_rate = f64::from(rate),
            ("sampleRate", _) => {
                return Err(CommandError::new(
                    BAD_VALUE,
                    "'sampleRate' must be between 0.0 and 1.0 inclusive",
                ));
            }
            ("filter", _) => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Measured: any other number only asks.
    if (0..=2).contains(&level) {
        set.level = level as i32;
    }
    server.profilers.insert(operation.db.clone(), set);
    Outcome::document(&doc! {
        "was": was.level,
        "slowms": was.slow_millis,
        "sampleRate": was.sample_rate,
    })
}

/// Collections are checked when they are made: there is nothing to complain of.
fn validate_db_metadata(
    _: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    if operation.body.get_document("apiParameters").is_err() {
        return Err(super::arguments::missing_field("validateDBMetadata.apiParameters"));
    }
    Outcome::document(&doc! { "apiVersionErrors": [] })
}

/// Equal on members with equal data; the hash is not the server's.
fn db_hash(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let mut wanted = None;
    each_argument("dbHash", &operation.body, |field, value| {
        match field {
            "collections" => {
                let names = super::arguments::array("dbHash.collections", value)?;
                wanted = Some(
                    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)),
                );
            }
            "skipTempCollections" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let wanted: Option<Vec<String>> = wanted.map(Iterator::collect);
    let prefix = format!("{}.", operation.db);
    let mut hashes = Document::new();
    let mut capped = Vec::new();
    let mut uuids = Document::new();
    let mut whole = Hash::new();
    for view in server.storage.collections(ReadAt::Newest) {
        let Some(name) = view.namespace().strip_prefix(&prefix) else { continue };
        let unreplicated = operation.db == "local" || name == "system.profile";
        if unreplicated || wanted.as_ref().is_some_and(|wanted| !wanted.iter().any(|w| w == name)) {
            continue;
        }
        let mut documents: Vec<_> = view.scan(None).map(|(_, document)| document).collect();
        documents.sort_by(|left, right| id_bytes(left).cmp(id_bytes(right)));
        let mut hash = Hash::new();
        for document in documents {
            hash.take(document.as_bytes());
        }
        whole.take(name.as_bytes());
        whole.take(hash.hex().as_bytes());
        hashes.insert(name, hash.hex());
        if view.is_capped() {
            capped.push(Bson::from(name));
        }
        uuids.insert(name, bson::Binary::from_uuid(view.uuid()));
    }
    Outcome::document(&doc! {
        "host": &*server.options.host,
        "collections": hashes,
        "capped": capped,
        "uuids": uuids,
        "md5": whole.hex(),
        "timeMillis": 0,
    })
}

/// The order only has to be the same on every member.
fn id_bytes(document: &RawDocument) -> &[u8] {
    document.as_bytes()
}

/// FNV-1a of 128 bits, in the form of an MD5.
struct Hash(u128);

impl Hash {
    fn new() -> Self {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u128::from(*byte);
            self.0 = self.0.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn hex(&self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Hash::new();
        hash.take(b"a");
        assert_eq!(hash.hex(), "d228cb696f1a8caf78912b704e4a8964");
    }
}
