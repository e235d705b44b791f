//! The set's default read and write concern: `setDefaultRWConcern`, `getDefaultRWConcern`.
//!
//! What is set lives in `config.settings` under `ReadWriteConcernDefaults` and is replicated like any
//! document; each member keeps what it last read there until an entry changes the collection.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{DateTime, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{boolean, document, each_argument};
use super::operation::{Operation, Outcome, ReadAt, ReadConcern, ReadConcernLevel};
use super::spec::{CommandSpec, Gate};
use super::write_concern::{W, WriteConcern};
use crate::mongod::Mongod;
use crate::mongod::error::{BAD_VALUE, CommandError, ILLEGAL_OPERATION};
use crate::mongod::oplog_entry::{OpKind, OplogEntry};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["getDefaultRWConcern"], true, get),
    CommandSpec {
        names: &["setDefaultRWConcern"],
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: true,
        run: set,
    },
];

/// Where the defaults are kept.
const NAMESPACE: &str = "config.settings";
/// Under which `_id`.
const ID: &str = "ReadWriteConcernDefaults";

/// What was set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    read: Option<ReadConcernLevel>,
    write: Option<WriteConcern>,
    update_time: Option<Timestamp>,
    update_wall: Option<DateTime>,
}

impl Defaults {
    fn read_from(document: &RawDocument) -> Defaults {
        let read = document
            .get_document("defaultReadConcern")
            .ok()
            .and_then(|concern| ReadConcern::read(concern).ok())
            .filter(|concern| concern.level_given);
        let write = document.get_document("defaultWriteConcern").ok();
        let write = write.filter(|concern| !concern.is_empty());
        Defaults {
            read: read.map(|concern| concern.level),
            write: write.and_then(|concern| WriteConcern::read(concern).ok()),
            update_time: document.get_timestamp("updateOpTime").ok(),
            update_wall: document.get_datetime("updateWallClockTime").ok(),
        }
    }

    fn document(&self) -> RawDocumentBuf {
        let mut document = rawdoc! { "_id": ID };
        if let Some(level) = self.read {
            document.append(cstr!("defaultReadConcern"), rawdoc! { "level": level.as_str() });
        }
        if let Some(concern) = &self.write {
            document.append(cstr!("defaultWriteConcern"), concern.without_provenance());
        }
        if let Some(time) = self.update_time {
            document.append(cstr!("updateOpTime"), time);
        }
        if let Some(wall) = self.update_wall {
            document.append(cstr!("updateWallClockTime"), wall);
        }
        document
    }
}

impl Mongod {
    /// What is set in this member's data; read once and kept.
    pub(crate) fn defaults(&self) -> Arc<Defaults> {
        let mut kept = self.defaults_cache.borrow_mut();
        kept.get_or_insert_with(|| {
            let view = self.storage.collection(NAMESPACE, ReadAt::Newest);
            let found = view.and_then(|view| {
                view.scan(None).map(|(_, document)| document.clone()).find(|document| {
                    document.get("_id").ok().flatten() == Some(RawBsonRef::String(ID))
                })
            });
            Arc::new(found.map(|document| Defaults::read_from(&document)).unwrap_or_default())
        })
        .clone()
    }

    /// An entry was applied: does it change the defaults?
    pub(crate) fn note_defaults(&mut self, entry: &OplogEntry) {
        if &*entry.ns == NAMESPACE || entry.kind == OpKind::Command {
            self.forget_defaults();
        }
    }

    /// The data was replaced, or rolled back: the defaults are read again.
    pub(crate) fn forget_defaults(&mut self) {
        *self.defaults_cache.get_mut() = None;
    }

    /// The write concern that was set for the set, as a command without one takes it.
    pub(crate) fn custom_write_concern(&self) -> Option<WriteConcern> {
        let concern = self.defaults().write.clone()?;
        Some(WriteConcern { provenance: "customDefault", ..concern })
    }

    /// The level of the read concern that was set for the set.
    pub(crate) fn custom_read_level(&self) -> Option<ReadConcernLevel> {
        self.defaults().read
    }

    /// The reply to both commands, and `serverStatus.defaultRWConcern`.
    pub(crate) fn defaults_reply(&self, now: Instant, in_memory: bool) -> RawDocumentBuf {
        let defaults = self.defaults();
        let level = defaults.read.unwrap_or(ReadConcernLevel::Local);
        let mut reply = rawdoc! { "defaultReadConcern": { "level": level.as_str() } };
        let implicit = self.implicit_write_concern();
        match &defaults.write {
            Some(concern) => {
                reply.append(cstr!("defaultWriteConcern"), concern.without_provenance())
            }
            // Measured: an implicit w: 1 is not shown, nor is anything by who is no member.
            None if implicit.w == W::Majority && self.repl.self_index.is_some() => {
                reply.append(
                    cstr!("defaultWriteConcern"),
                    rawdoc! { "w": "majority", "wtimeout": 0 },
                );
            }
            None => {}
        }
        if let Some(time) = defaults.update_time {
            reply.append(cstr!("updateOpTime"), time);
        }
        if let Some(wall) = defaults.update_wall {
            reply.append(cstr!("updateWallClockTime"), wall);
        }
        let source = |set: bool| if set { "global" } else { "implicit" };
        reply.append(cstr!("defaultWriteConcernSource"), source(defaults.write.is_some()));
        reply.append(cstr!("defaultReadConcernSource"), source(defaults.read.is_some()));
        if in_memory {
            reply.append(cstr!("inMemory"), true);
        }
        let wall = DateTime::from_millis(self.wall_millis(now));
        reply.append(cstr!("localUpdateWallClockTime"), wall);
        reply
    }
}

fn get(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let mut in_memory = false;
    each_argument("getDefaultRWConcern", &op.body, |field, value| {
        if field == "inMemory" {
            in_memory = boolean("getDefaultRWConcern.inMemory", value)?;
        }
        Ok(field == "inMemory")
    })?;
    Ok(Outcome::Reply(server.defaults_reply(now, in_memory)))
}

fn set(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let (mut read, mut write) = (None, None);
    each_argument("setDefaultRWConcern", &op.body, |field, value| {
        match field {
            "defaultReadConcern" => {
                read = Some(document("setDefaultRWConcern.defaultReadConcern", value)?);
            }
            "defaultWriteConcern" => {
                write = Some(document("setDefaultRWConcern.defaultWriteConcern", value)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let bad = |message: String| Err(CommandError::new(BAD_VALUE, message));
    if read.is_none() && write.is_none() {
        return bad(
            "At least one of the \"defaultReadConcern\" or \"defaultWriteConcern\" fields must be present".into(),
        );
    }
    let mut defaults = (*server.defaults()).clone();
    if let Some(given) = write {
        if given.is_empty() {
            if defaults.write.is_some() {
                return Err(CommandError::new(
                    ILLEGAL_OPERATION,
                    "The global default write concern cannot be unset once it is set.",
                ));
            }
        } else {
            defaults.write = Some(suitable_write_concern(server, given)?);
        }
    }
    if let Some(given) = read {
        defaults.read = suitable_read_concern(given)?;
    }
    let ts = server.tick_cluster_clock(now);
    defaults.update_time = Some(ts.into());
    defaults.update_wall = Some(DateTime::from_millis(server.wall_millis(now)));
    save(server, now, op, &defaults)?;
    Ok(Outcome::Reply(server.defaults_reply(now, false)))
}

fn suitable_write_concern(
    server: &Mongod,
    given: &RawDocument,
) -> Result<WriteConcern, CommandError> {
    let concern = WriteConcern::read(given)?;
    let bad = |message: &str| Err(CommandError::new(BAD_VALUE, message));
    if given.get("provenance").ok().flatten().is_some() {
        return bad("'provenance' must be unset in default write concern");
    }
    if concern.w == W::Members(0) {
        return bad("Unacknowledged write concern is not suitable for the default write concern");
    }
    if let W::Mode(mode) = &concern.w {
        server.check_mode(mode)?;
    }
    Ok(concern)
}

fn suitable_read_concern(given: &RawDocument) -> Result<Option<ReadConcernLevel>, CommandError> {
    let concern = ReadConcern::read(given).or_else(|error| {
        // A time makes it unsuitable before anything else does.
        if given.get("afterClusterTime").ok().flatten().is_some() {
            return Ok(ReadConcern::default());
        }
        Err(error)
    })?;
    let bad = |message: String| Err(CommandError::new(BAD_VALUE, message));
    if matches!(concern.level, ReadConcernLevel::Snapshot | ReadConcernLevel::Linearizable) {
        return bad(format!(
            "level: '{}' is not suitable for the default read concern",
            concern.level.as_str()
        ));
    }
    for field in ["afterOpTime", "afterClusterTime", "atClusterTime"] {
        if given.get(field).ok().flatten().is_some() {
            return bad(format!("'{field}' is not suitable for the default read concern"));
        }
    }
    Ok(concern.level_given.then_some(concern.level))
}

/// Writes them as the server does: an upsert of the whole document.
fn save(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    defaults: &Defaults,
) -> Result<(), CommandError> {
    let update = rawdoc! {
        "update": "settings",
        "updates": [{ "q": { "_id": ID }, "u": defaults.document(), "upsert": true }],
    };
    let operation = Operation {
        name: "update".into(),
        db: "config".into(),
        body: Arc::new(update),
        sequences: Arc::default(),
        session: None,
        ..op.clone()
    };
    let spec = super::find_command("update").expect("a server can update");
    match (spec.run)(server, now, &operation)? {
        Outcome::Reply(reply) => {
            let failed = reply.get_array("writeErrors").ok();
            let first = failed.and_then(|errors| errors.into_iter().flatten().next());
            match first.as_ref().and_then(|error| error.as_document()) {
                None => Ok(()),
                Some(error) => Err(CommandError::new(
                    error.get_i32("code").unwrap_or(crate::mongod::error::INTERNAL_ERROR),
                    error.get_str("errmsg").unwrap_or_default(),
                )),
            }
        }
        _ => unreachable!("an update of one document answers at once"),
    }
}
