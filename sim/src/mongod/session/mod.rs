//! Logical sessions and the history of retryable writes.
//!
//! What is known of a session is derived from the oplog entries that carry it, on every member alike
//! (the server keeps it in `config.transactions`): exactly-once across a failover holds because, and
//! only if, the first attempt's entry survives.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawDocumentBuf, Uuid, rawdoc};

use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{OpKind, OplogEntry};
use crate::mongod::optime::OpTime;

mod logical;
mod transaction;

pub(crate) use logical::LogicalSessions;
pub(crate) use transaction::{Begun, Step, Transactions};

/// `lsid.uid` where nobody authenticated: the SHA-256 of the empty string.
pub(crate) const UID_OF_NOBODY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// How long a session is remembered after its last write: `localLogicalSessionTimeoutMinutes`.
pub const SESSION_TIMEOUT_MILLIS: i64 = 30 * 60 * 1000;

/// One session's record, as `config.transactions` holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    /// `_id.id`.
    pub lsid: Uuid,
    /// `txnNum`.
    pub txn_number: i64,
    /// `lastWriteOpTime`.
    pub last_write: OpTime,
    /// `lastWriteDate`, in milliseconds since the Unix epoch.
    pub last_write_wall_millis: i64,
    /// `state: "committed"`: the number is that of a committed transaction, not of retryable writes.
    pub committed: bool,
}

impl SessionRecord {
    /// The record as `config.transactions` shows it.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut shown = rawdoc! {
            "_id": {
                "id": Binary::from_uuid(self.lsid),
                "uid": Binary { subtype: BinarySubtype::Generic, bytes: UID_OF_NOBODY.to_vec() },
            },
            "txnNum": self.txn_number,
            "lastWriteOpTime": self.last_write.to_raw(),
            "lastWriteDate": DateTime::from_millis(self.last_write_wall_millis),
        };
        if self.committed {
            shown.append(bson::cstr!("state"), "committed");
        }
        shown
    }
}

impl OplogEntry {
    /// Whether this entry belongs to a transaction's commit (and is not a retryable write).
    pub fn is_of_transaction(&self) -> bool {
        let no_statements = self.session.as_ref().is_some_and(|op| op.statement_ids.is_empty());
        self.kind == OpKind::Command && no_statements
    }

    /// Whether a later entry of the same commit is still to come.
    pub fn is_partial_transaction(&self) -> bool {
        self.is_of_transaction() && self.object.get_bool("partialTxn").unwrap_or(false)
    }
}

/// What a member knows of sessions.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    by_lsid: BTreeMap<Uuid, Session>,
    /// The number of sessions at which expired ones are looked for: doubles as needed, so that the
    /// search costs each write next to nothing.
    sweep_at: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Session {
    txn_number: i64,
    last_write: OpTime,
    last_write_wall_millis: i64,
    /// The statements executed under `txn_number`, and the entries they wrote.
    statements: BTreeMap<i32, OpTime>,
    /// Whether statements may have been executed whose entries are not in this member's oplog.
    incomplete: bool,
    /// `txn_number` is that of a committed transaction.
    committed: bool,
    /// What `config.transactions` says: a number that has written nothing yet does not change it.
    record: Option<Box<SessionRecord>>,
}

impl Session {
    fn new(txn_number: i64) -> Self {
        Session {
            txn_number,
            last_write: OpTime::NULL,
            last_write_wall_millis: 0,
            statements: BTreeMap::new(),
            incomplete: false,
            committed: false,
            record: None,
        }
    }
}

impl Sessions {
    /// Takes note of an entry that was applied.
    pub fn observe(&mut self, entry: &OplogEntry) {
        let Some(op) = &entry.session else { return };
        let session = self.by_lsid.entry(op.lsid).or_insert_with(|| Session::new(op.txn_number));
        if session.txn_number > op.txn_number {
            return;
        }
        if session.txn_number < op.txn_number {
            let record = session.record.take();
            *session = Session { record, ..Session::new(op.txn_number) };
        }
        session.last_write = entry.optime;
        session.last_write_wall_millis = entry.wall_millis;
        session.committed |= entry.is_of_transaction() && !entry.is_partial_transaction();
        let record = SessionRecord {
            lsid: op.lsid,
            txn_number: op.txn_number,
            last_write: entry.optime,
            last_write_wall_millis: entry.wall_millis,
            committed: session.committed,
        };
        match &mut session.record {
            Some(known) => **known = record,
            None => session.record = Some(Box::new(record)),
        }
        for id in &op.statement_ids {
            session.statements.entry(*id).or_insert(entry.optime);
        }
        if self.by_lsid.len() > self.sweep_at.max(1024) {
            let oldest = entry.wall_millis - SESSION_TIMEOUT_MILLIS;
            self.by_lsid.retain(|_, session| session.last_write_wall_millis >= oldest);
            self.sweep_at = self.by_lsid.len() * 2;
        }
    }

    /// The sessions that wrote and are remembered, and when they did last, in milliseconds since the
    /// Unix epoch.
    pub fn known(&self) -> impl Iterator<Item = (Uuid, i64)> {
        self.by_lsid.iter().map(|(lsid, session)| (*lsid, session.last_write_wall_millis))
    }

    /// Starts anew after a restart, a rollback or an initial sync: from the entries in the oplog,
    /// oldest first, and from what is known of sessions beyond it (`Storage::past_sessions`): those
    /// executed something, but what it answered is not known any more.
    pub fn rebuild<'a>(
        &mut self,
        past: impl Iterator<Item = &'a SessionRecord>,
        entries: impl Iterator<Item = &'a Arc<OplogEntry>>,
    ) {
        *self = Sessions::default();
        for record in past {
            let session = Session {
                txn_number: record.txn_number,
                last_write: record.last_write,
                last_write_wall_millis: record.last_write_wall_millis,
                statements: BTreeMap::new(),
                incomplete: !record.committed,
                committed: record.committed,
                record: Some(Box::new(record.clone())),
            };
            self.by_lsid.insert(record.lsid, session);
        }
        for entry in entries {
            self.observe(entry);
        }
    }

    /// The records of all sessions that wrote, for another member's initial sync.
    pub fn records(&self) -> Vec<SessionRecord> {
        self.by_lsid.values().filter_map(|session| session.record.as_deref().cloned()).collect()
    }

    /// A retryable write of this number begins, or comes again. A newer number makes the older one
    /// forgotten.
    ///
    /// # Errors
    /// 72 InvalidOptions: a negative number; 225 TransactionTooOld: the session is past it.
    pub fn begin(&mut self, lsid: Uuid, txn_number: i64) -> Result<(), CommandError> {
        if txn_number < 0 {
            return Err(CommandError::new(
                error::INVALID_OPTIONS,
                "Transaction number cannot be negative",
            ));
        }
        let session = self.by_lsid.entry(lsid).or_insert_with(|| Session::new(txn_number));
        if session.txn_number > txn_number {
            let newer = if session.committed { "transaction" } else { "retryable write" };
            return Err(too_old_write(lsid, txn_number, newer, session.txn_number));
        }
        if session.txn_number == txn_number && session.committed {
            return Err(converted_write());
        }
        if session.txn_number < txn_number {
            let wall = session.last_write_wall_millis;
            let record = session.record.take();
            let new = Session::new(txn_number);
            *session = Session { last_write_wall_millis: wall, record, ..new };
        }
        Ok(())
    }

    /// The entry that a statement wrote when it was first executed; `None` if it was not.
    ///
    /// # Errors
    /// 217 IncompleteTransactionHistory: that cannot be told any more.
    pub fn executed(
        &self,
        lsid: Uuid,
        txn_number: i64,
        statement_id: i32,
    ) -> Result<Option<OpTime>, CommandError> {
        let session = self.by_lsid.get(&lsid).filter(|session| session.txn_number == txn_number);
        let Some(session) = session else { return Ok(None) };
        match session.statements.get(&statement_id) {
            Some(optime) => Ok(Some(*optime)),
            None if session.incomplete => Err(incomplete_history(lsid, txn_number)),
            None => Ok(None),
        }
    }

    /// The highest number the session's entries have, and whether it is a committed transaction's.
    pub(crate) fn recorded(&self, lsid: Uuid) -> Option<(i64, bool)> {
        self.by_lsid.get(&lsid).map(|session| (session.txn_number, session.committed))
    }

    /// `prevOpTime` of the next entry of this transaction number: null for its first one.
    pub fn last_write(&self, lsid: Uuid, txn_number: i64) -> OpTime {
        self.by_lsid
            .get(&lsid)
            .filter(|session| session.txn_number == txn_number)
            .map_or(OpTime::NULL, |session| session.last_write)
    }

    /// How many sessions are known.
    pub fn len(&self) -> usize {
        self.by_lsid.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_lsid.is_empty()
    }
}

/// 225: a retryable write of a number that the session is past.
fn too_old_write(lsid: Uuid, txn_number: i64, newer: &str, newer_number: i64) -> CommandError {
    CommandError::new(
        error::TRANSACTION_TOO_OLD,
        format!(
            "Retryable write with txnNumber {txn_number} is prohibited on session {} because \
             a newer {newer} with txnNumber {newer_number} has already started on this session.",
            lsid_text(lsid)
        ),
    )
}

/// 217: a retryable write under the number of a transaction.
fn converted_write() -> CommandError {
    CommandError::new(
        error::INCOMPLETE_TRANSACTION_HISTORY,
        "Cannot retry a retryable write that has been converted into a transaction",
    )
}

/// A session id as messages show it: the id, and the digest of the user's name (here: nobody's).
pub(crate) fn lsid_text(lsid: Uuid) -> String {
    format!("{lsid} - 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= -  - ")
}

/// 217: the entry that would tell a statement's result is gone.
pub(crate) fn incomplete_history(lsid: Uuid, txn_number: i64) -> CommandError {
    CommandError::new(
        error::INCOMPLETE_TRANSACTION_HISTORY,
        format!("Incomplete history detected for transaction {txn_number} on session {lsid}."),
    )
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::mongod::oplog_entry::{OpKind, OpSession};
    use crate::mongod::optime::Ts;

    const LSID: Uuid = Uuid::from_bytes([7; 16]);

    fn write(increment: u32, txn_number: i64, statement_ids: Vec<i32>) -> Arc<OplogEntry> {
        Arc::new(OplogEntry {
            optime: OpTime::new(Ts::new(1, increment), 1),
            wall_millis: 1000,
            kind: OpKind::Insert,
            ns: "db.c".into(),
            collection_uuid: None,
            object: Arc::new(rawdoc! { "_id": increment as i32 }),
            object2: None,
            upsert: false,
            session: Some(Box::new(OpSession {
                lsid: LSID,
                txn_number,
                statement_ids,
                previous: OpTime::NULL,
                retry_image: None,
            })),
            cache: Default::default(),
        })
    }

    #[test]
    fn an_executed_statement_is_known_by_its_entry_until_a_newer_number_comes() {
        let mut sessions = Sessions::default();
        sessions.begin(LSID, 1).unwrap();
        sessions.observe(&write(1, 1, vec![0, 1]));
        let wrote = OpTime::new(Ts::new(1, 1), 1);
        assert_eq!(sessions.executed(LSID, 1, 1), Ok(Some(wrote)));
        assert_eq!(sessions.executed(LSID, 1, 2), Ok(None));
        assert_eq!(sessions.last_write(LSID, 1), wrote);
        sessions.begin(LSID, 2).unwrap();
        assert_eq!(sessions.executed(LSID, 2, 1), Ok(None));
        assert_eq!(sessions.begin(LSID, 1).unwrap_err().code, 225);
    }

    #[test]
    fn a_rolled_back_statement_is_forgotten_and_a_cloned_one_is_not_guessed_about() {
        let mut sessions = Sessions::default();
        let entries = [write(1, 1, vec![0]), write(2, 1, vec![1])];
        entries.iter().for_each(|entry| sessions.observe(entry));
        let records = sessions.records();
        sessions.rebuild([].iter(), entries[..1].iter());
        assert_eq!(sessions.executed(LSID, 1, 1), Ok(None));
        sessions.rebuild(records.iter(), [].iter());
        assert_eq!(sessions.executed(LSID, 1, 1).unwrap_err().code, 217);
        sessions.begin(LSID, 2).unwrap();
        assert_eq!(sessions.executed(LSID, 2, 1), Ok(None));
    }
}
