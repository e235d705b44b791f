//! One record and its versions.

use std::sync::Arc;

use bson::RawDocumentBuf;

use crate::mongod::optime::Ts;

/// A record's place in its collection: insertion order is natural order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId(pub u64);

/// What a record was from `ts` on; no document is a tombstone.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub ts: Ts,
    pub document: Option<Arc<RawDocumentBuf>>,
}

/// The versions of a record. Nearly every record has one, so the older ones are kept aside.
#[derive(Clone, Debug)]
pub(super) struct Record {
    newest: Version,
    older: Vec<Version>,
}

impl Record {
    pub(super) fn new(version: Version) -> Self {
        Record { newest: version, older: Vec::new() }
    }

    /// The newest document; `None` if the record is deleted.
    pub(super) fn newest(&self) -> Option<&Arc<RawDocumentBuf>> {
        self.newest.document.as_ref()
    }

    /// Since when the record is what it is now.
    pub(super) fn newest_ts(&self) -> Ts {
        self.newest.ts
    }

    /// The document as of `at`.
    pub(super) fn visible(&self, at: Ts) -> Option<&Arc<RawDocumentBuf>> {
        if self.newest.ts <= at {
            return self.newest.document.as_ref();
        }
        self.older.iter().rev().find(|version| version.ts <= at)?.document.as_ref()
    }

    /// Whether there is but one version, which every index entry of the record then belongs to.
    pub(super) fn has_one_version(&self) -> bool {
        self.older.is_empty()
    }

    /// Every document of every version.
    pub(super) fn documents(&self) -> impl Iterator<Item = &Arc<RawDocumentBuf>> {
        self.older.iter().chain([&self.newest]).filter_map(|version| version.document.as_ref())
    }

    pub(super) fn push(&mut self, version: Version) {
        assert!(self.newest.ts <= version.ts, "versions are written in the order of time");
        self.older.push(std::mem::replace(&mut self.newest, version));
    }

    /// Takes the newest version away; false, and nothing taken, if it is the only one.
    pub(super) fn pop(&mut self) -> bool {
        match self.older.pop() {
            Some(version) => {
                self.newest = version;
                if self.older.is_empty() {
                    // Give the memory back: most records are written once.
                    self.older = Vec::new();
                }
                true
            }
            None => false,
        }
    }

    /// Drops the versions that no read at or after `oldest` can see and gives them back; a tombstone
    /// that hides nothing any more counts among them if it is not the last version.
    pub(super) fn prune(&mut self, oldest: Ts) -> Vec<Version> {
        if self.older.is_empty() {
            return Vec::new();
        }
        if self.newest.ts <= oldest {
            return std::mem::take(&mut self.older);
        }
        // The last of the older versions that is visible at `oldest` stays.
        let keep = self.older.iter().rposition(|version| version.ts <= oldest).unwrap_or(0);
        self.older.drain(..keep).collect()
    }

    /// Whether nothing is left to see: one version, a tombstone, old enough.
    pub(super) fn is_gone(&self, oldest: Ts) -> bool {
        self.older.is_empty() && self.newest.document.is_none() && self.newest.ts <= oldest
    }
}
