//! Reading a collection as of a timestamp.

use std::ops::Bound;
use std::sync::Arc;

use bson::{RawBsonRef, RawDocumentBuf, Uuid};

use super::collection::Collection;
use super::index::{IndexSpec, id_key};
use super::record::RecordId;
use crate::mongod::error::CommandError;
use crate::mongod::optime::Ts;

/// A collection as of a timestamp.
#[derive(Clone, Copy, Debug)]
pub struct CollectionView<'a> {
    collection: &'a Collection,
    at: Ts,
}

impl<'a> CollectionView<'a> {
    pub(super) fn new(collection: &'a Collection, at: Ts) -> Self {
        CollectionView { collection, at }
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
        if self.at == Ts::MAX { self.collection.live() } else { self.scan(None).count() as u64 }
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
        self.collection.record(record)?.visible(self.at)
    }

    /// The document of this `_id`.
    pub fn find_id(&self, id: RawBsonRef<'_>) -> Option<(RecordId, &'a Arc<RawDocumentBuf>)> {
        let collection = self.collection;
        let at = self.at;
        collection.indexes[0]
            .records_with(&id_key(id))
            .find_map(|record| Some((record, collection.record(record)?.visible(at)?)))
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
        let at = self.at;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = before.map_or(Bound::Unbounded, Bound::Excluded);
        self.collection
            .records(from, to)
            .filter_map(move |(id, record)| Some((id, record.visible(at)?)))
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
        let found = index.range(low, high).filter_map(move |(key, id)| {
            let record = collection.record(id)?;
            let document = record.visible(at)?;
            let has_key = record.has_one_version()
                || index.spec.keys(document).is_ok_and(|keys| keys.contain(key));
            has_key.then_some((id, document))
        });
        Some(found)
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
