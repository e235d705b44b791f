//! A collection: records with their versions, and indexes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Uuid};

use super::index::{Index, IndexSpec, Keys, id_key};
use super::record::{Record, RecordId, Version};
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;

/// A collection of one member; its names, options and indexes have versions like its records.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    pub uuid: Uuid,
    pub created: Ts,
    pub dropped: Option<Ts>,
    /// The namespaces it had, from when on.
    pub names: Vec<(Ts, Arc<str>)>,
    /// The options it had, from when on.
    pub options: Vec<(Ts, Arc<RawDocumentBuf>)>,
    /// The index on `_id` first.
    pub indexes: Vec<Index>,
    records: BTreeMap<RecordId, Record>,
    next_record: u64,
    live: u64,
    live_bytes: u64,
    capped: Option<Cap>,
    /// `changeStreamPreAndPostImages: {enabled: true}`.
    keeps_pre_images: bool,
}

fn keeps_pre_images(options: &RawDocument) -> bool {
    options
        .get_document("changeStreamPreAndPostImages")
        .is_ok_and(|images| images.get_bool("enabled").unwrap_or(false))
}

/// The limits of a capped collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cap {
    bytes: u64,
    documents: u64,
}

impl Collection {
    pub(super) fn new(
        uuid: Uuid,
        namespace: Arc<str>,
        options: Arc<RawDocumentBuf>,
        created: Ts,
    ) -> Self {
        let number = |field: &str| match options.get(field) {
            Ok(Some(RawBsonRef::Int32(number))) => u64::try_from(number).ok(),
            Ok(Some(RawBsonRef::Int64(number))) => u64::try_from(number).ok(),
            Ok(Some(RawBsonRef::Double(number))) => Some(number.max(0.0) as u64),
            _ => None,
        };
        let capped = options.get_bool("capped").unwrap_or(false).then(|| Cap {
            bytes: number("size").unwrap_or(u64::MAX),
            documents: number("max").filter(|max| *max > 0).unwrap_or(u64::MAX),
        });
        Collection {
            uuid,
            created,
            dropped: None,
            names: vec![(created, namespace)],
            keeps_pre_images: keeps_pre_images(&options),
            indexes: vec![Index::new(Arc::new(IndexSpec::of_id(&options)), created)],
            options: vec![(created, options)],
            records: BTreeMap::new(),
            next_record: 1,
            live: 0,
            live_bytes: 0,
            capped,
        }
    }

    pub(super) fn namespace(&self) -> &Arc<str> {
        &self.names.last().expect("a collection has a name").1
    }

    pub(super) fn namespace_at(&self, at: Ts) -> Option<&Arc<str>> {
        let exists = self.created <= at && self.dropped.is_none_or(|dropped| dropped > at);
        let (_, name) = self.names.iter().rev().find(|(since, _)| exists && *since <= at)?;
        Some(name)
    }

    pub(super) fn options_at(&self, at: Ts) -> &Arc<RawDocumentBuf> {
        let (_, options) =
            self.options.iter().rev().find(|(since, _)| *since <= at).unwrap_or(&self.options[0]);
        options
    }

    /// A record's document before a change, if the collection keeps pre-images.
    pub(super) fn pre_image(&self, record: RecordId) -> Option<Arc<RawDocumentBuf>> {
        if !self.keeps_pre_images {
            return None;
        }
        self.records.get(&record)?.newest().cloned()
    }

    /// Its options change.
    pub(super) fn set_options(&mut self, ts: Ts, options: Arc<RawDocumentBuf>) {
        self.keeps_pre_images = keeps_pre_images(&options);
        self.options.push((ts, options));
    }

    /// The last change of its options is taken back.
    pub(super) fn undo_options(&mut self) {
        self.options.pop();
        self.keeps_pre_images =
            self.options.last().is_some_and(|(_, options)| keeps_pre_images(options));
    }

    pub(super) fn is_capped(&self) -> bool {
        self.capped.is_some()
    }

    pub(super) fn live(&self) -> u64 {
        self.live
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn record(&self, id: RecordId) -> Option<&Record> {
        self.records.get(&id)
    }

    pub(super) fn records(
        &self,
        from: Bound<RecordId>,
        to: Bound<RecordId>,
    ) -> impl DoubleEndedIterator<Item = (RecordId, &Record)> {
        self.records.range((from, to)).map(|(id, record)| (*id, record))
    }

    /// The live record of this `_id`.
    pub(super) fn find_id(&self, id: RawBsonRef<'_>) -> Option<RecordId> {
        self.indexes[0]
            .records_with(&id_key(id))
            .find(|record| self.records.get(record).is_some_and(|record| record.newest().is_some()))
    }

    /// Whether the unique indexes and the index keys allow `document`, as a new record or in place
    /// of `instead_of`. The keys for every live index come back.
    ///
    /// # Errors
    /// 11000 DuplicateKey; 171 CannotIndexParallelArrays.
    pub(super) fn check(
        &self,
        document: &RawDocument,
        instead_of: Option<RecordId>,
    ) -> Result<Vec<Keys>, CommandError> {
        self.indexes
            .iter()
            .map(|index| {
                if !index.is_live() {
                    return Ok(Keys::default());
                }
                let keys = index.spec.keys(document)?;
                if index.spec.unique {
                    for key in &keys.keys {
                        if self.is_taken(index, key, instead_of) {
                            return Err(index.spec.duplicate_key(self.namespace(), document, key));
                        }
                    }
                }
                Ok(keys)
            })
            .collect()
    }

    fn is_taken(&self, index: &Index, key: &[u8], instead_of: Option<RecordId>) -> bool {
        index.records_with(key).any(|id| {
            let record = &self.records[&id];
            Some(id) != instead_of
                && record.newest().is_some_and(|document| {
                    record.has_one_version()
                        || index.spec.keys(document).is_ok_and(|keys| keys.contain(key))
                })
        })
    }

    /// Writes a new record.
    pub(super) fn insert(
        &mut self,
        ts: Ts,
        document: Arc<RawDocumentBuf>,
    ) -> Result<RecordId, CommandError> {
        let keys = self.check(&document, None)?;
        let id = RecordId(self.next_record);
        self.next_record += 1;
        for (index, keys) in self.indexes.iter_mut().zip(keys) {
            index.add(keys, id);
        }
        self.count(&document, true);
        self.records.insert(id, Record::new(Version { ts, document: Some(document) }));
        Ok(id)
    }

    /// Writes a new version of a live record.
    pub(super) fn update(
        &mut self,
        ts: Ts,
        id: RecordId,
        document: Arc<RawDocumentBuf>,
    ) -> Result<(), CommandError> {
        let keys = self.check(&document, Some(id))?;
        for (index, keys) in self.indexes.iter_mut().zip(keys) {
            index.add(keys, id);
        }
        let old = self.records[&id].newest().cloned().expect("only live records are updated");
        self.count(&old, false);
        self.count(&document, true);
        let record = self.records.get_mut(&id).expect("looked up just now");
        record.push(Version { ts, document: Some(document) });
        Ok(())
    }

    /// Writes a tombstone onto a live record.
    pub(super) fn delete(&mut self, ts: Ts, id: RecordId) {
        let record = self.records.get_mut(&id).expect("only known records are deleted");
        let old = record.newest().cloned().expect("only live records are deleted");
        record.push(Version { ts, document: None });
        self.count(&old, false);
    }

    /// The oldest documents that a capped collection must let go of.
    pub(super) fn over_cap(&self) -> Vec<Arc<RawDocumentBuf>> {
        let Some(cap) = self.capped else { return Vec::new() };
        let (mut live, mut bytes) = (self.live, self.live_bytes);
        let mut gone = Vec::new();
        for record in self.records.values() {
            if live <= 1 || (live <= cap.documents && bytes <= cap.bytes) {
                break;
            }
            if let Some(document) = record.newest() {
                live -= 1;
                bytes -= document.as_bytes().len() as u64;
                gone.push(document.clone());
            }
        }
        gone
    }

    /// Undoes the newest version of a record.
    pub(super) fn undo(&mut self, id: RecordId) {
        let record = self.records.get_mut(&id).expect("what is undone was done");
        let undone = record.newest().cloned();
        let emptied = !record.pop();
        let restored = if emptied { None } else { record.newest().cloned() };
        if let Some(document) = &undone {
            self.count(document, false);
            self.forget_keys(id, document);
        }
        if let Some(document) = &restored {
            self.count(document, true);
        }
        if emptied {
            self.records.remove(&id);
        }
    }

    /// Drops the versions of a record that no read at or after `oldest` can see.
    pub(super) fn prune(&mut self, id: RecordId, oldest: Ts) {
        let Some(record) = self.records.get_mut(&id) else { return };
        let pruned = record.prune(oldest);
        let gone = record.is_gone(oldest);
        for document in pruned.iter().filter_map(|version| version.document.as_ref()) {
            self.forget_keys(id, document);
        }
        if gone {
            self.records.remove(&id);
        }
    }

    /// Makes an index on what is there.
    ///
    /// # Errors
    /// 11000 DuplicateKey, 171 CannotIndexParallelArrays: of the newest documents.
    pub(super) fn build_index(
        &mut self,
        spec: Arc<IndexSpec>,
        created: Ts,
    ) -> Result<(), CommandError> {
        let mut index = Index::new(spec, created);
        for document in self.records.values().filter_map(Record::newest) {
            index.spec.keys(document)?;
        }
        self.fill(&mut index);
        if index.spec.unique {
            // In the order of keys, so that the first duplicate is the one a server finds first.
            let mut before: Option<&[u8]> = None;
            for (key, id) in index.range(Bound::Unbounded, Bound::Unbounded) {
                let Some(document) = self.records[&id].newest() else { continue };
                if !index.spec.keys(document)?.contain(key) {
                    continue;
                }
                if before == Some(key) {
                    return Err(index.spec.duplicate_key(self.namespace(), document, key));
                }
                before = Some(key);
            }
        }
        self.indexes.push(index);
        Ok(())
    }

    /// Fills an empty index anew, after the drop of it was undone.
    pub(super) fn rebuild_index(&mut self, number: usize) {
        let mut index = self.indexes[number].clone();
        index.clear();
        self.fill(&mut index);
        self.indexes[number] = index;
    }

    fn fill(&self, index: &mut Index) {
        for (id, record) in &self.records {
            for document in record.documents() {
                index.add(index.spec.keys(document).unwrap_or_default(), *id);
            }
        }
    }

    /// Old versions whose keys cannot be made (parallel arrays, before the index) have none.
    fn forget_keys(&mut self, id: RecordId, document: &RawDocument) {
        for index in self.indexes.iter_mut().filter(|index| index.is_live()) {
            index.remove(index.spec.keys(document).unwrap_or_default(), id);
        }
    }

    fn count(&mut self, document: &RawDocument, comes: bool) {
        let bytes = document.as_bytes().len() as u64;
        if comes {
            self.live += 1;
            self.live_bytes += bytes;
        } else {
            self.live -= 1;
            self.live_bytes -= bytes;
        }
    }

    pub(super) fn live_index(&self, name: &str) -> Option<usize> {
        self.indexes.iter().position(|index| index.is_live() && &*index.spec.name == name)
    }

    pub(super) fn no_such_index(name: &str) -> CommandError {
        CommandError::new(error::INDEX_NOT_FOUND, format!("index not found with name [{name}]"))
    }
}
