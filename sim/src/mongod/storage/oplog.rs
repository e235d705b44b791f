//! The oplog: entries in the order of time, capped by size, readable as documents.

use std::collections::VecDeque;
use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawDocumentBuf, Timestamp, rawdoc};

use crate::mongod::oplog_entry::{OpKind, OplogEntry, RetryImage};
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::session::UID_OF_NOBODY;

/// The default cap, in bytes. (A real oplog has at least 990 MB; a simulated one holds the same entry
/// once for all members.)
pub const DEFAULT_OPLOG_BYTES: usize = 64 << 20;

/// What an entry counts for beside its documents, in bytes: about what it takes in memory.
const ENTRY_OVERHEAD_BYTES: usize = 192;

/// The oplog of one member. Entries are shared with the other members.
#[derive(Clone, Debug)]
pub struct Oplog {
    entries: VecDeque<Arc<OplogEntry>>,
    bytes: usize,
    cap_bytes: usize,
}

impl Default for Oplog {
    fn default() -> Self {
        Oplog { entries: VecDeque::new(), bytes: 0, cap_bytes: DEFAULT_OPLOG_BYTES }
    }
}

impl Oplog {
    /// The newest entry.
    pub fn last(&self) -> Option<&Arc<OplogEntry>> {
        self.entries.back()
    }

    /// The oldest entry still held.
    pub fn oldest(&self) -> Option<&Arc<OplogEntry>> {
        self.entries.front()
    }

    /// The position of the newest entry; null if there is none.
    pub fn last_optime(&self) -> OpTime {
        self.entries.back().map_or(OpTime::NULL, |entry| entry.optime)
    }

    /// The entry at exactly `ts`.
    pub fn entry_at(&self, ts: Ts) -> Option<&Arc<OplogEntry>> {
        self.entries.get(self.first_not_before(ts)).filter(|entry| entry.optime.ts == ts)
    }

    /// Whether the entry of exactly this timestamp and term is here.
    pub fn contains(&self, optime: OpTime) -> bool {
        self.entry_at(optime.ts).is_some_and(|entry| entry.optime == optime)
    }

    /// The entries after `ts`, oldest first: at most `max_entries`, and at most `max_bytes` of
    /// documents but for the first, which comes whatever its size.
    pub fn range_after(
        &self,
        ts: Ts,
        max_entries: usize,
        max_bytes: usize,
    ) -> Vec<Arc<OplogEntry>> {
        let mut bytes = 0;
        self.iter_after(ts)
            .take(max_entries)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += size_of_entry(entry);
                first || bytes <= max_bytes
            })
            .cloned()
            .collect()
    }

    /// The positions at and before `ts`, newest first, at most `limit`.
    pub fn optimes_at_or_before(&self, ts: Ts, limit: usize) -> Vec<OpTime> {
        let end = self.entries.partition_point(|entry| entry.optime.ts <= ts);
        self.entries.range(..end).rev().take(limit).map(|entry| entry.optime).collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the entries count for against the cap, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// The cap, in bytes.
    pub fn cap_bytes(&self) -> usize {
        self.cap_bytes
    }

    /// All entries, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<OplogEntry>> {
        self.entries.iter()
    }

    /// The entries after `ts`, oldest first.
    pub fn iter_after(&self, ts: Ts) -> impl DoubleEndedIterator<Item = &Arc<OplogEntry>> {
        self.entries.range(self.first_after(ts)..)
    }

    /// The place of the first entry after `ts`. Nearly always that is near the end, so a long oplog
    /// is not searched through.
    fn first_after(&self, ts: Ts) -> usize {
        let near_end = self.entries.len().saturating_sub(8);
        if near_end > 0 && self.entries[near_end - 1].optime.ts > ts {
            return self.entries.partition_point(|entry| entry.optime.ts <= ts);
        }
        let skipped = self.entries.range(near_end..).take_while(|entry| entry.optime.ts <= ts);
        near_end + skipped.count()
    }

    /// Puts an entry at the end.
    pub(super) fn push(&mut self, entry: Arc<OplogEntry>) {
        assert!(
            self.entries
                .back()
                .is_none_or(|last| last.optime.ts < entry.optime.ts
                    && last.optime.term <= entry.optime.term),
            "the oplog grows in time and term"
        );
        self.bytes += size_of_entry(&entry);
        self.entries.push_back(entry);
    }

    /// Takes the newest entry away.
    pub(super) fn pop(&mut self) -> Option<Arc<OplogEntry>> {
        let entry = self.entries.pop_back()?;
        self.bytes -= size_of_entry(&entry);
        Some(entry)
    }

    /// Drops the oldest entries while the oplog is over its cap, but none after `keep_after`, and
    /// never the last one. Those dropped are shown to `dropped`.
    pub(super) fn truncate(&mut self, keep_after: Ts, mut dropped: impl FnMut(&OplogEntry)) {
        while self.bytes > self.cap_bytes && self.entries.len() > 1 {
            let Some(first) = self.entries.front() else { return };
            if first.optime.ts >= keep_after {
                return;
            }
            self.bytes -= size_of_entry(first);
            dropped(first);
            self.entries.pop_front();
        }
    }

    pub(super) fn set_cap(&mut self, bytes: usize) {
        self.cap_bytes = bytes;
    }

    pub(super) fn is_over_cap(&self) -> bool {
        self.bytes > self.cap_bytes
    }

    /// Starts anew with one entry.
    pub(super) fn reset(&mut self, entry: Arc<OplogEntry>) {
        self.entries.clear();
        self.bytes = 0;
        self.push(entry);
    }

    fn first_not_before(&self, ts: Ts) -> usize {
        self.entries.partition_point(|entry| entry.optime.ts < ts)
    }
}

/// What an entry counts for, in bytes.
fn size_of_entry(entry: &OplogEntry) -> usize {
    ENTRY_OVERHEAD_BYTES
        + entry.object.as_bytes().len()
        + entry.object2.as_ref().map_or(0, |object2| object2.as_bytes().len())
}

impl OplogEntry {
    /// The entry as `local.oplog.rs` holds it, fields in the server's order.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        if let Some(session) = &self.session {
            let uid = Binary { subtype: BinarySubtype::Generic, bytes: UID_OF_NOBODY.to_vec() };
            out.append(
                cstr!("lsid"),
                rawdoc! { "id": Binary::from_uuid(session.lsid), "uid": uid },
            );
            out.append(cstr!("txnNumber"), session.txn_number);
        }
        out.append(cstr!("op"), self.kind.letter());
        out.append(cstr!("ns"), &*self.ns);
        if let Some(uuid) = self.collection_uuid {
            out.append(cstr!("ui"), Binary::from_uuid(uuid));
        }
        out.append(cstr!("o"), &*self.object);
        if let Some(object2) = &self.object2 {
            out.append(cstr!("o2"), &**object2);
        }
        if self.upsert {
            out.append(cstr!("b"), true);
        }
        match self.session.as_ref().and_then(|session| session.retry_image.as_ref()) {
            Some(RetryImage::Pre(_)) => out.append(cstr!("needsRetryImage"), "preImage"),
            Some(RetryImage::Post(_)) => out.append(cstr!("needsRetryImage"), "postImage"),
            None => {}
        }
        let batched = self.kind == OpKind::Command;
        if let Some(session) = self.session.as_ref().filter(|_| !batched) {
            match session.statement_ids.as_slice() {
                [] => {}
                [one] => out.append(cstr!("stmtId"), *one),
                several => {
                    let mut ids = RawArrayBuf::new();
                    several.iter().for_each(|id| ids.push(*id));
                    out.append(cstr!("stmtId"), ids);
                }
            }
        }
        out.append(cstr!("ts"), Timestamp::from(self.optime.ts));
        if self.optime.term >= 0 {
            out.append(cstr!("t"), self.optime.term);
        }
        out.append(cstr!("v"), 2_i64);
        out.append(cstr!("wall"), DateTime::from_millis(self.wall_millis));
        if let Some(session) = &self.session {
            out.append(cstr!("prevOpTime"), session.previous.to_raw());
            if batched && !session.statement_ids.is_empty() {
                out.append(cstr!("multiOpType"), 1_i32);
            }
        }
        out
    }
}
