//! Reading a collection as of a timestamp.

use std::ops::Bound;
use std::sync::Arc;

use bson::{RawBsonRef, RawDocumentBuf, Uuid};

use super::collection::Collection;
use super::index::{IndexSpec, id_key};
use super::record::RecordId;
use super::transaction::OwnRecords;
use crate::mongod::error::CommandError;
use crate::mongod::optime::Ts;

/// A collection as of a timestamp.
#[derive(Clone, Copy, Debug)]
pub struct CollectionView<'a> {
    collection: &'a Collection,
    at: Ts,
    /// What the transaction that reads has written itself.
    own: Option<&'a OwnRecords>,
}

impl<'a> CollectionView<'a> {
    pub(super) fn new(collection: &'a Collection, at: Ts) -> Self {
        CollectionView { collection, at, own: None }
    }

    /// A transaction's view: its snapshot, and what it wrote itself over it.
    pub(super) fn with_own(
        collection: &'a Collection,
        at: Ts,
        own: Option<&'a OwnRecords>,
    ) -> Self {
        CollectionView { collection, at, own }
    }

    /// The collection's UUID.
    pub fn uuid(&self) -> Uuid {
        self.collection.uuid
    }

    /// `db.collection`.
    pub fn namespace(&self) -> &'a Arc<str> {
        self.collection.namespace_at(self.at).unwrap_or_else(|| self.collection.namespace())
    }

    /// The options it was created with, and those `collMod` gave it since.
    pub fn options(&self) -> &'a Arc<RawDocumentBuf> {
        self.collection.options_at(self.at)
    }

    /// Whether it is capped.
    pub fn is_capped(&self) -> bool {
        self.collection.is_capped()
    }

    /// The oldest documents that a capped collection has to let go of, to stay within its limits: the
    /// primary deletes them by oplog entries of their own.
    pub fn over_cap(&self) -> Vec<Arc<RawDocumentBuf>> {
        self.collection.over_cap()
    }

    /// How many documents there are.
    pub fn count(&self) -> u64 {
        if self.at == Ts::MAX && self.own.is_none() {
            self.collection.live()
        } else {
            self.scan(None).count() as u64
        }
    }

    /// The size of all documents in bytes, newest state.
    pub fn size_bytes(&self) -> u64 {
        self.collection.live_bytes()
    }

    /// The indexes, that on `_id` first, and whether each is multikey.
    pub fn indexes(&self) -> impl Iterator<Item = (&'a Arc<IndexSpec>, bool)> + use<'a> {
        let at = self.at;
        self.collection
            .indexes
            .iter()
            .filter(move |index| index.exists_at(at))
            .map(|index| (&index.spec, index.multikey))
    }

    /// The document of a record.
    pub fn get(&self, record: RecordId) -> Option<&'a Arc<RawDocumentBuf>> {
        match self.own.and_then(|own| own.get(record)) {
            Some(own) => own,
            None => self.collection.record(record)?.visible(self.at),
        }
    }

    /// The document of this `_id`.
    pub fn find_id(&self, id: RawBsonRef<'_>) -> Option<(RecordId, &'a Arc<RawDocumentBuf>)> {
        let key = id_key(id);
        if let Some(found) = self.own.and_then(|own| own.find_id(&key)) {
            return Some(found);
        }
        let view = *self;
        self.collection.indexes[0]
            .records_with(&key)
            .find_map(|record| Some((record, view.get(record)?)))
    }

    /// The documents in natural order, after a record or from the beginning.
    pub fn scan(
        &self,
        after: Option<RecordId>,
    ) -> impl DoubleEndedIterator<Item = (RecordId, &'a Arc<RawDocumentBuf>)> + use<'a> {
        self.scan_between(after, None)
    }

    /// The documents in natural order between two records, both left out.
    pub fn scan_between(
        &self,
        after: Option<RecordId>,
        before: Option<RecordId>,
    ) -> impl DoubleEndedIterator<Item = (RecordId, &'a Arc<RawDocumentBuf>)> + use<'a> {
        let (at, own) = (self.at, self.own);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = before.map_or(Bound::Unbounded, Bound::Excluded);
        let new = own.map(|own| own.new_records(from, to));
        self.collection
            .records(from, to)
            .filter_map(move |(id, record)| {
                let document = match own.and_then(|own| own.get(id)) {
                    Some(own) => own?,
                    None => record.visible(at)?,
                };
                Some((id, document))
            })
            .chain(new.into_iter().flatten())
    }

    /// The documents an index has between two bounds, in the order of keys. The bounds are beginnings
    /// of encoded keys (`KeyPattern::encode`); an included upper bound admits every key that
    /// begins with it. A document with several keys comes several times.
    pub fn scan_index(
        &self,
        name: &str,
        low: Bound<&[u8]>,
        high: Bound<&[u8]>,
    ) -> Option<impl DoubleEndedIterator<Item = (RecordId, &'a Arc<RawDocumentBuf>)> + use<'a>>
    {
        let at = self.at;
        let collection = self.collection;
        let index = collection
            .indexes
            .iter()
            .find(|index| index.exists_at(at) && &*index.spec.name == name)?;
        // An index that was dropped since keeps no entries.
        if !index.is_live() {
            return None;
        }
        let own = self.own;
        let stored = index.range(low, high).filter_map(move |(key, id)| {
            if own.is_some_and(|own| own.get(id).is_some()) {
                return None;
            }
            let record = collection.record(id)?;
            let document = record.visible(at)?;
            let has_key = record.has_one_version()
                || index.spec.keys(document).is_ok_and(|keys| keys.contain(key));
            has_key.then_some((key, id, document))
        });
        // A transaction's own documents are put among the others by their keys.
        let mut merged = Vec::new();
        let mut lazy = Some(stored);
        if let Some(own) = own {
            let within = |key: &[u8]| {
                let above = match low {
                    Bound::Included(low) => key >= low,
                    Bound::Excluded(low) => key > low && !key.starts_with(low),
                    Bound::Unbounded => true,
                };
                let below = match high {
                    Bound::Included(high) => key <= high || key.starts_with(high),
                    Bound::Excluded(high) => key < high,
                    Bound::Unbounded => true,
                };
                above && below
            };
            for (key, id, document) in lazy.take().into_iter().flatten() {
                merged.push((key.to_vec(), id, document));
            }
            for (id, document) in own.documents() {
                let keys = index.spec.keys(document).unwrap_or_default().keys;
                merged.extend(
                    keys.into_iter().filter(|key| within(key)).map(|key| (key, id, document)),
                );
            }
            merged.sort_by(|(a, first, _), (b, second, _)| a.cmp(b).then(first.cmp(second)));
        }
        let lazy = lazy.into_iter().flatten().map(|(_, id, document)| (id, document));
        Some(lazy.chain(merged.into_iter().map(|(_, id, document)| (id, document))))
    }

    /// How many keys an index has.
    pub fn key_count(&self, name: &str) -> u64 {
        let all = self.scan_index(name, Bound::Unbounded, Bound::Unbounded);
        all.map_or(0, |keys| keys.count() as u64)
    }

    /// The groups of documents that have a key of an index in common.
    pub fn duplicates(&self, name: &str) -> Vec<Vec<&'a Arc<RawDocumentBuf>>> {
        let at = self.at;
        let collection = self.collection;
        let Some(index) = collection
            .indexes
            .iter()
            .find(|index| index.exists_at(at) && index.is_live() && &*index.spec.name == name)
        else {
            return Vec::new();
        };
        let mut groups: Vec<(&[u8], Vec<&'a Arc<RawDocumentBuf>>)> = Vec::new();
        for (key, id) in index.range(Bound::Unbounded, Bound::Unbounded) {
            let Some(document) = collection.record(id).and_then(|record| record.visible(at)) else {
                continue;
            };
            match groups.last_mut() {
                Some((known, group)) if *known == key => group.push(document),
                _ => groups.push((key, vec![document])),
            }
        }
        groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).collect()
    }

    /// Whether indexes allow a document, as a new one or in place of a record (newest state).
    ///
    /// # Errors
    /// 11000 DuplicateKey; 171 CannotIndexParallelArrays.
    pub fn check(
        &self,
        document: &RawDocumentBuf,
        instead_of: Option<RecordId>,
    ) -> Result<(), CommandError> {
        self.collection.check(document, instead_of).map(|_| ())
    }
}
