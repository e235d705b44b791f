//! Open multi-document transactions: each one's own writes, on top of the snapshot it reads.
//!
//! Nothing of an open transaction is in the collections: its writes wait here until the commit's oplog
//! entry puts them there, so that the oplog stays the only way data changes. Who reads while a
//! transaction is entered ([`super::Storage::enter`]) sees the snapshot with the own writes over it, by
//! the same views as everybody. What a transaction wrote is held against all others: the second writer
//! of a record, or of a key of a unique index, meets 112 WriteConflict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf, Uuid};

use super::apply::{id_of, post_image, without};
use super::catalog::Catalog;
use super::collection::Collection;
use super::index::IndexSpec;
use super::record::RecordId;
use super::view::CollectionView;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{InnerOperation, OpKind};
use crate::mongod::optime::Ts;

/// The first record id of records that only a transaction has: beyond every stored one.
const OWN_RECORDS: u64 = 1 << 62;

/// The time of what a transaction writes into a collection it created itself.
const OWN_TIME: Ts = Ts(1);

/// 112 WriteConflict, in the server's words.
pub(crate) fn write_conflict() -> CommandError {
    CommandError::new(
        error::WRITE_CONFLICT,
        "WriteConflict error: this operation conflicted with another operation. Please retry your \
         operation or multi-document transaction.",
    )
}

/// What open transactions hold against everybody else: records and keys of unique indexes, by the
/// collection's UUID, and the session that holds them.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    records: BTreeMap<(Uuid, RecordId), Uuid>,
    keys: BTreeMap<(Uuid, Arc<str>, Vec<u8>), Uuid>,
}

/// An index by name, and keys in it.
type IndexKeys = (Arc<str>, Vec<Vec<u8>>);

impl Held {
    /// Whether a record may be written by who is outside of every transaction.
    ///
    /// # Errors
    /// 112 WriteConflict.
    pub(super) fn check_record(&self, uuid: Uuid, record: RecordId) -> Result<(), CommandError> {
        match !self.records.is_empty() && self.records.contains_key(&(uuid, record)) {
            true => Err(write_conflict()),
            false => Ok(()),
        }
    }

    /// Whether a document may be written, as far as unique keys are held.
    ///
    /// # Errors
    /// 112 WriteConflict.
    pub(super) fn check_keys(
        &self,
        collection: &Collection,
        document: &RawDocument,
    ) -> Result<(), CommandError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        for index in collection.indexes.iter().filter(|index| index.is_live() && index.spec.unique)
        {
            for key in index.spec.keys(document)?.keys {
                if self.keys.contains_key(&(collection.uuid, index.spec.name.clone(), key)) {
                    return Err(write_conflict());
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, lsid: Uuid) {
        self.records.retain(|_, holder| *holder != lsid);
        self.keys.retain(|_, holder| *holder != lsid);
    }
}

/// What a transaction wrote into one collection.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnRecords {
    /// What records are to this transaction: changed, deleted (no document), or new.
    records: BTreeMap<RecordId, Option<Arc<RawDocumentBuf>>>,
    /// Of unique indexes: which own record has the key.
    keys: BTreeMap<Arc<str>, BTreeMap<Vec<u8>, RecordId>>,
}

impl OwnRecords {
    /// What the transaction made of a record; `None` if it left it alone.
    pub(super) fn get(&self, record: RecordId) -> Option<Option<&Arc<RawDocumentBuf>>> {
        self.records.get(&record).map(Option::as_ref)
    }

    /// The own record of this encoded `_id`.
    pub(super) fn find_id(&self, key: &[u8]) -> Option<(RecordId, &Arc<RawDocumentBuf>)> {
        let record = *self.keys.get("_id_")?.get(key)?;
        Some((record, self.records.get(&record)?.as_ref()?))
    }

    /// Every own document.
    pub(super) fn documents(&self) -> impl Iterator<Item = (RecordId, &Arc<RawDocumentBuf>)> {
        self.records.iter().filter_map(|(id, document)| Some((*id, document.as_ref()?)))
    }

    /// The records that are new, within two bounds.
    pub(super) fn new_records(
        &self,
        from: std::ops::Bound<RecordId>,
        to: std::ops::Bound<RecordId>,
    ) -> impl DoubleEndedIterator<Item = (RecordId, &Arc<RawDocumentBuf>)> {
        use std::ops::Bound::{Excluded, Included};
        let first = RecordId(OWN_RECORDS);
        let from = match from {
            Excluded(after) if after >= first => Excluded(after),
            _ => Included(first),
        };
        let empty = matches!(to, Excluded(to) if to <= first);
        let range = (!empty).then(|| self.records.range((from, to)));
        range.into_iter().flatten().filter_map(|(id, document)| Some((*id, document.as_ref()?)))
    }

    fn set(
        &mut self,
        indexes: &[(Arc<str>, Vec<Vec<u8>>)],
        record: RecordId,
        document: Option<Arc<RawDocumentBuf>>,
    ) {
        if self.records.contains_key(&record) {
            for by_key in self.keys.values_mut() {
                by_key.retain(|_, owner| *owner != record);
            }
        }
        for (index, keys) in indexes {
            let by_key = self.keys.entry(index.clone()).or_default();
            by_key.extend(keys.iter().map(|key| (key.clone(), record)));
        }
        self.records.insert(record, document);
    }

    fn next_record(&self) -> RecordId {
        let last = self.records.keys().next_back().map_or(0, |record| record.0);
        RecordId((last + 1).max(OWN_RECORDS))
    }
}

/// One open transaction.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    /// The snapshot it reads.
    read_at: Ts,
    changed: BTreeMap<Uuid, OwnRecords>,
    created: BTreeMap<Arc<str>, Collection>,
    /// The namespaces it has read or written: nobody may drop or change them meanwhile.
    touched: BTreeSet<Arc<str>>,
    operations: Vec<InnerOperation>,
}

impl Transaction {
    /// The collection of a namespace as this transaction sees it.
    pub(super) fn collection<'a>(
        &'a self,
        catalog: &'a Catalog,
        namespace: &str,
    ) -> Option<CollectionView<'a>> {
        if let Some(created) = self.created.get(namespace) {
            return Some(CollectionView::new(created, Ts::MAX));
        }
        let collection = catalog.by_name_at(namespace, self.read_at)?;
        let own = self.changed.get(&collection.uuid);
        Some(CollectionView::with_own(collection, self.read_at, own))
    }

    /// Every collection this transaction sees.
    pub(super) fn collections<'a>(&'a self, catalog: &'a Catalog) -> Vec<CollectionView<'a>> {
        let stored = catalog.all_at(self.read_at).into_iter().map(|(_, collection)| {
            let own = self.changed.get(&collection.uuid);
            CollectionView::with_own(collection, self.read_at, own)
        });
        let created = self.created.values();
        stored.chain(created.map(|created| CollectionView::new(created, Ts::MAX))).collect()
    }

    fn stage(
        &mut self,
        lsid: Uuid,
        catalog: &Catalog,
        held: &mut Held,
        operation: &InnerOperation,
    ) -> Result<(), CommandError> {
        if operation.kind == OpKind::Command {
            return self.stage_command(catalog, operation);
        }
        let namespace = &operation.ns;
        if let Some(created) = self.created.get_mut(namespace) {
            return write_own(created, operation);
        }
        let not_found = || {
            let message = format!("ns not found: {namespace}");
            CommandError::new(error::NAMESPACE_NOT_FOUND, message)
        };
        let collection = catalog.by_name_at(namespace, self.read_at).ok_or_else(not_found)?;
        let own = self.changed.get(&collection.uuid);
        let view = CollectionView::with_own(collection, self.read_at, own);
        if view.is_capped() {
            return Err(CommandError::new(
                error::OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                format!(
                    "Collection '{namespace}' is a capped collection. Writes in transactions are \
                     not allowed on capped collections."
                ),
            ));
        }
        let (record, document) = match operation.kind {
            OpKind::Insert => (None, Some(operation.object.clone())),
            OpKind::Update | OpKind::Delete => {
                let id = id_of(operation.object2.as_ref().unwrap_or(&operation.object))?;
                let found = view.find_id(id).ok_or_else(|| {
                    let message = format!("no document to change in {namespace}");
                    CommandError::new(error::NO_MATCHING_DOCUMENT, message)
                })?;
                let after = match operation.kind {
                    OpKind::Delete => None,
                    _ => Some(post_image(found.1, &operation.object)?),
                };
                (Some(found.0), after)
            }
            OpKind::Command | OpKind::Noop => return Ok(()),
        };
        if let Some(record) = record {
            let holder = held.records.get(&(collection.uuid, record));
            let changed_since =
                collection.record(record).is_some_and(|stored| stored.newest_ts() > self.read_at);
            if changed_since || holder.is_some_and(|holder| *holder != lsid) {
                return Err(write_conflict());
            }
        }
        let keys = match &document {
            Some(document) => self.check_unique(lsid, collection, held, document, record)?,
            None => Vec::new(),
        };
        let own = self.changed.entry(collection.uuid).or_default();
        let place = record.unwrap_or_else(|| own.next_record());
        own.set(&keys, place, document);
        held.records.insert((collection.uuid, place), lsid);
        for (index, keys) in keys {
            for key in keys {
                held.keys.insert((collection.uuid, index.clone(), key), lsid);
            }
        }
        Ok(())
    }

    /// The keys of a document in the unique indexes, if they are free.
    fn check_unique(
        &self,
        lsid: Uuid,
        collection: &Collection,
        held: &Held,
        document: &RawDocument,
        instead_of: Option<RecordId>,
    ) -> Result<Vec<IndexKeys>, CommandError> {
        let own = self.changed.get(&collection.uuid);
        let mut found = Vec::new();
        for index in collection.indexes.iter().filter(|index| index.is_live()) {
            let spec = &index.spec;
            let keys = spec.keys(document)?.keys;
            if !spec.unique {
                continue;
            }
            let taken = |key: &[u8]| spec.duplicate_key(collection.namespace(), document, key);
            for key in &keys {
                let own_owner = own.and_then(|own| own.keys.get(&spec.name)?.get(key));
                if own_owner.is_some_and(|owner| Some(*owner) != instead_of) {
                    return Err(taken(key));
                }
                for record in index.records_with(key).filter(|record| Some(*record) != instead_of) {
                    let Some(stored) = collection.record(record) else { continue };
                    let has_key = |document: Option<&Arc<RawDocumentBuf>>| {
                        document.is_some_and(|document| {
                            spec.keys(document).is_ok_and(|keys| keys.contain(key))
                        })
                    };
                    let is_own = own.is_some_and(|own| own.get(record).is_some());
                    if !is_own && has_key(stored.visible(self.read_at)) {
                        return Err(taken(key));
                    }
                    if stored.newest_ts() > self.read_at && has_key(stored.newest()) {
                        return Err(write_conflict());
                    }
                }
                let place = (collection.uuid, spec.name.clone(), key.clone());
                if held.keys.get(&place).is_some_and(|holder| *holder != lsid) {
                    return Err(write_conflict());
                }
            }
            found.push((spec.name.clone(), keys));
        }
        Ok(found)
    }

    fn stage_command(
        &mut self,
        catalog: &Catalog,
        operation: &InnerOperation,
    ) -> Result<(), CommandError> {
        let object = &operation.object;
        let db = operation.ns.split_once('.').map_or(&*operation.ns, |(db, _)| db);
        let refused = |what: &str| {
            let message = format!("Cannot run '{what}' in a multi-document transaction.");
            CommandError::new(error::OPERATION_NOT_SUPPORTED_IN_TRANSACTION, message)
        };
        let Some(Ok((name, value))) = object.iter().next() else { return Err(refused("")) };
        let namespace = || format!("{db}.{}", value.as_str().unwrap_or_default());
        match name.as_str() {
            "create" => {
                let namespace: Arc<str> = namespace().into();
                let uuid = operation.collection_uuid.ok_or_else(|| refused("create"))?;
                if self.collection(catalog, &namespace).is_some() {
                    return Err(CommandError::new(
                        error::NAMESPACE_EXISTS,
                        format!("Collection {namespace} already exists."),
                    ));
                }
                let options = Arc::new(without(object, &["create", "idIndex"]));
                let created = Collection::new(uuid, namespace.clone(), options, OWN_TIME);
                self.created.insert(namespace, created);
                Ok(())
            }
            "createIndexes" => {
                let namespace = namespace();
                let existing = |kind: &str| {
                    CommandError::new(
                        error::OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                        format!(
                            "Cannot create new indexes on {kind} collection {namespace} in a \
                             multi-document transaction."
                        ),
                    )
                };
                let Some(created) = self.created.get_mut(&*namespace) else {
                    return Err(existing("existing"));
                };
                if created.live() > 0 {
                    return Err(existing("non-empty"));
                }
                let spec = IndexSpec::parse(Arc::new(without(object, &["createIndexes"])))?;
                created.build_index(Arc::new(spec), OWN_TIME)
            }
            other => Err(refused(other)),
        }
    }
}

/// A write into a collection that the transaction created itself.
fn write_own(created: &mut Collection, operation: &InnerOperation) -> Result<(), CommandError> {
    if operation.kind == OpKind::Insert {
        return created.insert(OWN_TIME, operation.object.clone()).map(|_| ());
    }
    let id = id_of(operation.object2.as_ref().unwrap_or(&operation.object))?;
    let record = created.find_id(id).ok_or_else(|| {
        CommandError::new(error::NO_MATCHING_DOCUMENT, "no document to change".to_owned())
    })?;
    if operation.kind == OpKind::Delete {
        created.delete(OWN_TIME, record);
        return Ok(());
    }
    let before = created.record(record).and_then(|record| record.newest()).cloned();
    let after = post_image(&before.expect("found as a live record"), &operation.object)?;
    created.update(OWN_TIME, record, after)
}

/// The open transactions of a store, by session.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenTransactions {
    by_lsid: BTreeMap<Uuid, Transaction>,
    entered: Option<Uuid>,
}

impl OpenTransactions {
    /// The transaction whose statement is being executed.
    pub(super) fn entered(&self) -> Option<&Transaction> {
        self.entered.and_then(|lsid| self.by_lsid.get(&lsid))
    }
}

impl super::Storage {
    /// Opens a transaction for a session that reads as of `read_at`.
    pub fn open_transaction(&mut self, lsid: Uuid, read_at: Ts) {
        let before = self.transactions.by_lsid.insert(
            lsid,
            Transaction {
                read_at,
                changed: BTreeMap::new(),
                created: BTreeMap::new(),
                touched: BTreeSet::new(),
                operations: Vec::new(),
            },
        );
        assert!(before.is_none(), "a session has one transaction at a time");
    }

    /// Whether a session's transaction is open.
    pub fn has_transaction(&self, lsid: Uuid) -> bool {
        self.transactions.by_lsid.contains_key(&lsid)
    }

    /// From now on reads and writes are those of this session's transaction.
    pub fn enter(&mut self, lsid: Uuid) {
        assert!(self.transactions.entered.is_none(), "one statement runs at a time");
        assert!(self.has_transaction(lsid), "only an open transaction is entered");
        self.transactions.entered = Some(lsid);
    }

    /// The statement is over: reads and writes are everybody's again.
    pub fn leave(&mut self) {
        self.transactions.entered = None;
    }

    /// Whether a transaction's statement is being executed.
    pub fn is_in_transaction(&self) -> bool {
        self.transactions.entered.is_some()
    }

    /// The snapshot that the entered transaction reads.
    pub fn transaction_read_at(&self) -> Option<Ts> {
        self.transactions.entered().map(|transaction| transaction.read_at)
    }

    /// The entered transaction works on this namespace: until it ends nobody may drop it.
    pub fn touch(&mut self, namespace: &str) {
        let lsid = self.transactions.entered;
        let transaction = lsid.and_then(|lsid| self.transactions.by_lsid.get_mut(&lsid));
        if let Some(transaction) = transaction
            && !transaction.touched.contains(namespace)
        {
            transaction.touched.insert(namespace.into());
        }
    }

    /// Whether the entered transaction has worked on this namespace before.
    pub fn has_touched(&self, namespace: &str) -> bool {
        self.transactions
            .entered()
            .is_some_and(|transaction| transaction.touched.contains(namespace))
    }

    /// Whether some open transaction works on this namespace, or on one of this database (`db.`).
    pub fn is_touched(&self, namespace_or_prefix: &str) -> bool {
        self.transactions.by_lsid.values().any(|transaction| {
            transaction.touched.iter().any(|touched| match namespace_or_prefix.ends_with('.') {
                true => touched.starts_with(namespace_or_prefix),
                false => **touched == *namespace_or_prefix,
            })
        })
    }

    /// Adds a write to the entered transaction.
    ///
    /// # Errors
    /// 112 WriteConflict: somebody else wrote it since the snapshot, or has it in an open transaction;
    /// 263 for what transactions do not do; and what applying it says (duplicate key, ...). Nothing is
    /// added then.
    pub fn stage(&mut self, operation: InnerOperation) -> Result<(), CommandError> {
        let lsid = self.transactions.entered.expect("writes are staged in a transaction");
        let transaction = self.transactions.by_lsid.get_mut(&lsid).expect("it is open");
        let mut held = std::mem::take(&mut self.catalog.held);
        let staged = transaction.stage(lsid, &self.catalog, &mut held, &operation);
        self.catalog.held = held;
        staged?;
        if !transaction.touched.contains(&operation.ns) {
            transaction.touched.insert(operation.ns.clone());
        }
        transaction.operations.push(operation);
        Ok(())
    }

    /// Ends a session's transaction and gives back what it did, for the commit's entry; nothing is
    /// held by it any more.
    ///
    /// # Errors
    /// 112 WriteConflict: a collection it creates was created by another meanwhile.
    pub fn end_transaction(&mut self, lsid: Uuid) -> Result<Vec<InnerOperation>, CommandError> {
        assert!(self.transactions.entered.is_none(), "a transaction ends between statements");
        self.catalog.held.release(lsid);
        let Some(transaction) = self.transactions.by_lsid.remove(&lsid) else {
            return Ok(Vec::new());
        };
        let in_the_way = |namespace: &Arc<str>| self.catalog.by_name(namespace).is_some();
        if transaction.created.keys().any(in_the_way) {
            return Err(write_conflict());
        }
        Ok(transaction.operations)
    }

    /// Ends a session's transaction as if it had never been; false if there was none.
    pub fn abort_transaction(&mut self, lsid: Uuid) -> bool {
        assert!(self.transactions.entered.is_none(), "a transaction ends between statements");
        self.catalog.held.release(lsid);
        self.transactions.by_lsid.remove(&lsid).is_some()
    }

    /// Aborts every open transaction: the member steps down, rolls back or dies.
    pub fn abort_transactions(&mut self) {
        self.transactions = OpenTransactions::default();
        self.catalog.held = Held::default();
    }

    /// How many transactions are open.
    pub fn open_transactions(&self) -> usize {
        self.transactions.by_lsid.len()
    }

    /// Whether these records may be written from outside a transaction.
    ///
    /// # Errors
    /// 112 WriteConflict: an open transaction has written one of them.
    pub fn check_not_held(
        &self,
        collection: Uuid,
        mut records: impl Iterator<Item = RecordId>,
    ) -> Result<(), CommandError> {
        if self.catalog.held.records.is_empty() || self.is_in_transaction() {
            return Ok(());
        }
        records.try_for_each(|record| self.catalog.held.check_record(collection, record))
    }

    /// 246 if a collection of this name did not exist yet at the snapshot but does now: servers before
    /// 8.0 do not know the catalog of the past.
    ///
    /// # Errors
    /// 246 SnapshotUnavailable.
    pub fn check_minimum(&self, namespace: &str, read_at: Ts) -> Result<(), CommandError> {
        let Some(minimum) = self.catalog.minimum(namespace) else { return Ok(()) };
        if minimum <= read_at {
            return Ok(());
        }
        let shown = |ts: Ts| format!("Timestamp({}, {})", ts.seconds(), ts.increment());
        Err(CommandError::new(
            error::SNAPSHOT_UNAVAILABLE,
            format!(
                "Unable to read from a snapshot due to pending collection catalog changes; please \
                 retry the operation. Snapshot timestamp is {}. Collection minimum is {}",
                shown(read_at),
                shown(minimum)
            ),
        ))
    }
}
