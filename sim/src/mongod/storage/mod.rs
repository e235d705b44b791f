//! The one store that answers every read: multi-version collections, indexes, the oplog, and what of
//! it all is durable.
//!
//! Each record keeps its versions by timestamp. `local` reads the newest, `majority` reads at the
//! commit point, `snapshot` at a timestamp; rollback drops what is newer than the common point and a
//! crash drops what was not journaled, both by taking the same undo notes back. Documents are shared
//! between the oplog, the store and the members.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::{RawDocumentBuf, Uuid};

use super::command::ReadAt;
use super::error::{self, CommandError};
use super::oplog_entry::{OpKind, OplogEntry};
use super::optime::{OpTime, Ts};
use super::session::{SESSION_TIMEOUT_MILLIS, SessionRecord};

mod apply;
mod catalog;
mod collection;
mod index;
mod oplog;
mod record;
pub(crate) mod text;
mod transaction;
mod view;

pub use apply::inner_operations;
pub(crate) use apply::uuid_of;
pub use index::IndexSpec;
pub use oplog::{DEFAULT_OPLOG_BYTES, Oplog};
pub use record::RecordId;
pub(crate) use transaction::write_conflict;
pub use view::CollectionView;

/// A member's data: collections, indexes, oplog, and the documents of `local`.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    catalog: catalog::Catalog,
    oplog: Oplog,
    durable: OpTime,
    stable: Ts,
    /// What `set_oldest` asked for; versions are kept from the durable position on all the same.
    oldest_wanted: Ts,
    oldest: Ts,
    local: BTreeMap<String, RawDocumentBuf>,
    past_sessions: BTreeMap<Uuid, SessionRecord>,
    transactions: transaction::OpenTransactions,
}

/// What of a store is on disk. The default is an empty dbpath.
#[derive(Clone, Debug, Default)]
pub struct DurableStorage(Option<Box<Storage>>);

impl DurableStorage {
    /// Whether the dbpath holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|storage| !storage.has_data() && storage.local.is_empty())
    }
}

/// A copy of a store's data as of one timestamp; cheap to clone, documents are shared.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    collections: Arc<Vec<CollectionCopy>>,
    sessions: Arc<Vec<SessionRecord>>,
}

impl Snapshot {
    /// The same snapshot with the source's retryable-write records, as initial sync clones them with
    /// `config.transactions`.
    pub fn with_sessions(mut self, sessions: Vec<SessionRecord>) -> Self {
        self.sessions = Arc::new(sessions);
        self
    }

    /// The source's retryable-write records.
    pub fn sessions(&self) -> &[SessionRecord] {
        &self.sessions
    }

    /// How many documents there are in all collections.
    pub fn document_count(&self) -> usize {
        self.collections.iter().map(|copy| copy.documents.len()).sum()
    }
}

#[derive(Clone, Debug)]
struct CollectionCopy {
    uuid: Uuid,
    namespace: Arc<str>,
    options: Arc<RawDocumentBuf>,
    indexes: Vec<Arc<IndexSpec>>,
    documents: Vec<Arc<RawDocumentBuf>>,
}

/// What a rollback undid.
#[derive(Clone, Debug, Default)]
pub struct RolledBack {
    /// The entries taken off the oplog, oldest first.
    pub entries: Vec<Arc<OplogEntry>>,
    /// The documents they had changed, as they were just before.
    pub files: Vec<RollbackFile>,
}

/// One file of the rollback directory: the rolled-back documents of one collection.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackFile {
    /// The collection.
    pub namespace: Arc<str>,
    /// The documents, as they were just before the rollback.
    pub documents: Vec<Arc<RawDocumentBuf>>,
}

impl Storage {
    /// Opens what is on disk.
    pub fn open(files: DurableStorage) -> Self {
        files.0.map_or_else(Storage::default, |storage| *storage)
    }

    /// kill -9: what stays, without what was not journaled, and how many oplog entries were lost.
    pub fn crash(mut self) -> (DurableStorage, usize) {
        self.abort_transactions();
        let mut kept = self.durable;
        if crate::mongod::planted::is(crate::mongod::planted::ServerBug::LosesJournaled)
            && let [_, before] = self.oplog.optimes_at_or_before(kept.ts, 2)[..]
        {
            kept = before;
        }
        let lost = self.drop_after(kept).len();
        (DurableStorage(Some(Box::new(self))), lost)
    }

    /// A clean shutdown: everything is flushed.
    pub fn close(mut self) -> DurableStorage {
        self.abort_transactions();
        self.flush_journal();
        DurableStorage(Some(Box::new(self)))
    }

    // ---- writing

    /// Puts an entry at the end of the oplog and applies it at its optime.
    ///
    /// # Errors
    /// What stands against it: 11000 DuplicateKey, 26 NamespaceNotFound, 48 NamespaceExists, ...;
    /// nothing has changed then.
    pub fn append(&mut self, entry: Arc<OplogEntry>) -> Result<(), CommandError> {
        assert!(
            self.oplog.last().is_none_or(|last| last.optime.ts < entry.optime.ts),
            "the oplog grows in time"
        );
        // The parts of a large transaction are applied by its last one, all at its time.
        if entry.kind != OpKind::Noop && !entry.is_partial_transaction() {
            let mark = self.catalog.mark();
            let at = entry.optime.ts;
            let applied = self.parts_before(&entry).and_then(|parts| {
                self.catalog.operation = 0;
                for part in &parts {
                    apply::apply(&mut self.catalog, part, at)?;
                }
                apply::apply(&mut self.catalog, &entry, at)
            });
            if let Err(error) = applied {
                self.catalog.undo_to(mark);
                self.catalog.drop_pre_images_from(at);
                return Err(error);
            }
        }
        self.oplog.push(entry);
        if self.oplog.is_over_cap() {
            let past_sessions = &mut self.past_sessions;
            self.oplog.truncate(self.stable.min(self.durable.ts), |entry| {
                note_session(past_sessions, entry);
            });
            let oldest = self.oplog.oldest().map_or(Ts::NULL, |entry| entry.optime.ts);
            self.catalog.forget_pre_images(oldest);
        }
        Ok(())
    }

    /// The entries of a commit before its last one, in order; nothing for any other entry.
    pub(crate) fn parts_before(
        &self,
        last: &OplogEntry,
    ) -> Result<Vec<Arc<OplogEntry>>, CommandError> {
        let mut parts = Vec::new();
        if !last.is_of_transaction() {
            return Ok(parts);
        }
        let mut before = last.session.as_ref().map_or(OpTime::NULL, |session| session.previous);
        while !before.is_null() {
            let part = self.oplog.entry_at(before.ts).ok_or_else(|| {
                CommandError::new(
                    error::INCOMPLETE_TRANSACTION_HISTORY,
                    format!("the oplog does not have the part {before} of a transaction any more"),
                )
            })?;
            before = part.session.as_ref().map_or(OpTime::NULL, |session| session.previous);
            parts.push(part.clone());
        }
        parts.reverse();
        Ok(parts)
    }

    /// Makes everything written so far survive a crash.
    pub fn flush_journal(&mut self) {
        self.durable = self.oplog.last_optime();
        self.prune();
    }

    /// The position of the newest entry that survives a crash; null if none does.
    pub fn durable(&self) -> OpTime {
        self.durable
    }

    /// Whether a crash now would lose something.
    pub fn is_dirty(&self) -> bool {
        self.oplog.last_optime() != self.durable
    }

    /// The stable timestamp: nothing at or before it is ever rolled back, so the oplog need not be
    /// kept from there back.
    pub fn set_stable(&mut self, ts: Ts) {
        self.stable = self.stable.max(ts);
    }

    /// What `set_stable` said last.
    pub fn stable(&self) -> Ts {
        self.stable
    }

    /// No read will ask for an older timestamp than this, and no rollback will go there: what only
    /// they could see is let go.
    pub fn set_oldest(&mut self, ts: Ts) {
        if ts > self.oldest_wanted {
            self.oldest_wanted = ts;
            self.prune();
        }
    }

    /// The oldest timestamp that can be read or rolled back to.
    pub fn oldest(&self) -> Ts {
        self.oldest
    }

    fn prune(&mut self) {
        let oldest = self.oldest_wanted.min(self.durable.ts);
        if oldest > self.oldest {
            self.oldest = oldest;
            self.catalog.prune(oldest);
        }
    }

    /// Sets the oplog's cap, in bytes.
    pub fn set_oplog_size(&mut self, bytes: usize) {
        self.oplog.set_cap(bytes);
    }

    /// Takes back everything after the common point `to`.
    ///
    /// # Panics
    /// If `to` is not in the oplog, or older than [`Storage::oldest`]: committed data is never rolled
    /// back.
    pub fn rollback_to(&mut self, to: OpTime) -> RolledBack {
        assert!(self.oplog.contains(to), "rollback to {to}, which is not in the oplog");
        assert!(to.ts >= self.oldest, "rollback to {to}, before the oldest kept {}", self.oldest);
        let mut files: BTreeMap<Arc<str>, Vec<Arc<RawDocumentBuf>>> = BTreeMap::new();
        for (collection, record) in self.catalog.changed_after(to.ts) {
            let collection = self.catalog.get(collection);
            let document = collection.record(record).and_then(|record| record.newest());
            if let Some(document) = document.filter(|_| collection.dropped.is_none()) {
                files.entry(collection.namespace().clone()).or_default().push(document.clone());
            }
        }
        let entries = self.drop_after(to);
        let files = files
            .into_iter()
            .map(|(namespace, documents)| RollbackFile { namespace, documents })
            .collect();
        RolledBack { entries, files }
    }

    /// Drops the entries after `to` and what they did; the entries come back, oldest first.
    fn drop_after(&mut self, to: OpTime) -> Vec<Arc<OplogEntry>> {
        if !crate::mongod::planted::is(crate::mongod::planted::ServerBug::RollsBackOplogOnly) {
            self.catalog.undo_after(to.ts);
        }
        let mut entries = Vec::new();
        while self.oplog.last().is_some_and(|last| last.optime.ts > to.ts) {
            entries.extend(self.oplog.pop());
        }
        entries.reverse();
        self.durable = self.durable.min(to);
        entries
    }

    // ---- the oplog and `local`

    /// The oplog.
    pub fn oplog(&self) -> &Oplog {
        &self.oplog
    }

    /// The single document of a collection of `local`, by the collection's name without the database:
    /// `system.replset`, `replset.election`, `system.rollback.id`, ...
    pub fn local_document(&self, name: &str) -> Option<&RawDocumentBuf> {
        self.local.get(name)
    }

    /// Writes a single document of `local`; durable at once.
    pub fn set_local_document(&mut self, name: &str, document: RawDocumentBuf) {
        self.local.insert(name.to_owned(), document);
    }

    /// The collections of `local` that hold a single document, by name without the database.
    pub fn local_documents(&self) -> impl Iterator<Item = (&str, &RawDocumentBuf)> {
        self.local.iter().map(|(name, document)| (name.as_str(), document))
    }

    /// Whether there is replicated data: what `replSetHeartbeat {checkEmpty: true}` asks.
    pub fn has_data(&self) -> bool {
        !self.catalog.is_empty() || !self.oplog.is_empty()
    }

    // ---- reading

    /// The collection of a namespace as of `at`, or as the entered transaction sees it; `None` if there
    /// is none.
    pub fn collection(&self, namespace: &str, at: ReadAt) -> Option<CollectionView<'_>> {
        if let Some(transaction) = self.transactions.entered() {
            return transaction.collection(&self.catalog, namespace);
        }
        let ts = timestamp_of(at);
        self.catalog.by_name_at(namespace, ts).map(|collection| CollectionView::new(collection, ts))
    }

    /// Every collection as of `at`, by namespace; without those of `local`.
    pub fn collections(&self, at: ReadAt) -> Vec<CollectionView<'_>> {
        if let Some(transaction) = self.transactions.entered() {
            return transaction.collections(&self.catalog);
        }
        let ts = timestamp_of(at);
        let all = self.catalog.all_at(ts).into_iter();
        all.map(|(_, collection)| CollectionView::new(collection, ts)).collect()
    }

    /// The document that an operation of the entry at `ts` changed, as it was before, where its
    /// collection keeps pre-images; `operation` is its place in the entry.
    pub fn pre_image(&self, ts: Ts, operation: u64) -> Option<&Arc<RawDocumentBuf>> {
        self.catalog.pre_images.get(&(ts, operation))
    }

    /// The last known of sessions whose entries are not in the oplog (any more): they fell off its old
    /// end, or were before the initial sync.
    pub fn past_sessions(&self) -> impl Iterator<Item = &SessionRecord> {
        self.past_sessions.values()
    }

    // ---- initial sync

    /// The data as of `at`.
    pub fn snapshot(&self, at: Ts) -> Snapshot {
        let copy = |view: CollectionView<'_>| CollectionCopy {
            uuid: view.uuid(),
            namespace: view.namespace().clone(),
            options: view.options().clone(),
            indexes: view.indexes().map(|(spec, _)| spec.clone()).collect(),
            documents: view.scan(None).map(|(_, document)| document.clone()).collect(),
        };
        let collections = self.collections(ReadAt::Timestamp(at)).into_iter().map(copy).collect();
        Snapshot { collections: Arc::new(collections), sessions: Arc::default() }
    }

    /// Initial sync: replaces all replicated data by a copy, durable at once; the oplog begins with
    /// `last`, the entry the copy is as of. Nothing older can be read or rolled back to.
    pub fn install(&mut self, snapshot: Snapshot, last: Arc<OplogEntry>) {
        let at = last.optime.ts;
        let mut catalog = catalog::Catalog::default();
        for copy in snapshot.collections.iter() {
            let id = catalog
                .create(at, copy.namespace.clone(), copy.uuid, copy.options.clone())
                .expect("a copy of a good catalog");
            for document in &copy.documents {
                catalog.insert(at, id, document.clone()).expect("a copy of good data");
            }
            for spec in copy.indexes.iter().filter(|spec| &*spec.name != "_id_") {
                catalog.create_index(at, id, spec.clone()).expect("a copy of good indexes");
            }
        }
        catalog.prune(at);
        self.catalog = catalog;
        let sessions = snapshot.sessions.iter();
        self.past_sessions = sessions.map(|record| (record.lsid, record.clone())).collect();
        self.durable = last.optime;
        self.stable = Ts::NULL;
        self.oldest = at;
        self.oldest_wanted = at;
        self.oplog.reset(last);
    }
}

/// More past sessions than this, and those that have expired are let go.
const MANY_SESSIONS: usize = 4096;

fn note_session(past_sessions: &mut BTreeMap<Uuid, SessionRecord>, entry: &OplogEntry) {
    let Some(session) = &entry.session else { return };
    let record = SessionRecord {
        lsid: session.lsid,
        txn_number: session.txn_number,
        last_write: entry.optime,
        last_write_wall_millis: entry.wall_millis,
        committed: entry.is_of_transaction() && !entry.is_partial_transaction(),
    };
    past_sessions.insert(session.lsid, record);
    if past_sessions.len() > MANY_SESSIONS {
        let oldest = entry.wall_millis - SESSION_TIMEOUT_MILLIS;
        past_sessions.retain(|_, record| record.last_write_wall_millis > oldest);
        while past_sessions.len() > MANY_SESSIONS {
            past_sessions.pop_first();
        }
    }
}

fn timestamp_of(at: ReadAt) -> Ts {
    match at {
        ReadAt::Newest => Ts::MAX,
        ReadAt::Timestamp(ts) => ts,
    }
}

#[cfg(test)]
mod tests;
