//! All collections of a member, and the undo record of their recent changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bson::{RawBsonRef, RawDocumentBuf, Uuid};

use super::collection::Collection;
use super::index::IndexSpec;
use super::record::RecordId;
use super::transaction::Held;
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;

/// Names a collection for the life of a store, whatever its namespace; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CollectionId(u64);

/// One change, as much as is needed to take it back.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A record got a version.
    Record(CollectionId, RecordId),
    Created(CollectionId),
    Dropped(CollectionId),
    Renamed(CollectionId),
    Options(CollectionId),
    IndexCreated(CollectionId),
    /// The position of the index in its collection's list.
    IndexDropped(CollectionId, usize),
    /// The position of the index whose specification changed.
    IndexAltered(CollectionId, usize),
}

/// Collections by id, name and UUID.
///
/// Every change leaves a note in `undo`, in the order of time. Taking the newest notes back is
/// rollback, crash recovery and the failure of a batch in its middle; letting the oldest ones go is
/// what makes old versions prunable.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    collections: BTreeMap<CollectionId, Collection>,
    by_name: BTreeMap<Arc<str>, CollectionId>,
    by_uuid: BTreeMap<Uuid, CollectionId>,
    next_id: u64,
    undo: VecDeque<(Ts, Change)>,
    /// When a collection last came, went or was renamed.
    names_changed: Ts,
    /// What open transactions hold against other writers.
    pub held: Held,
    /// What documents were before a change, where their collection keeps that: by the entry's time and
    /// the operation's place in it (`config.system.preimages` of the server).
    pub pre_images: BTreeMap<(Ts, u64), Arc<RawDocumentBuf>>,
    /// The place of the operation being applied in its entry.
    pub operation: u64,
}

impl Catalog {
    /// The collection of a namespace, newest state.
    pub(super) fn by_name(&self, namespace: &str) -> Option<CollectionId> {
        self.by_name.get(namespace).copied()
    }

    /// The live collection an oplog entry means: by UUID, or by name where it has none.
    pub(super) fn target(
        &self,
        uuid: Option<Uuid>,
        namespace: &str,
    ) -> Result<CollectionId, CommandError> {
        let by_uuid = uuid.and_then(|uuid| self.by_uuid.get(&uuid)).copied();
        match by_uuid {
            Some(id) if self.collections[&id].dropped.is_none() => Some(id),
            _ => self.by_name(namespace),
        }
        .ok_or_else(|| {
            CommandError::new(error::NAMESPACE_NOT_FOUND, format!("ns not found: {namespace}"))
        })
    }

    pub(super) fn get(&self, id: CollectionId) -> &Collection {
        &self.collections[&id]
    }

    /// The collection that had this namespace at `at`.
    pub(super) fn by_name_at(&self, namespace: &str, at: Ts) -> Option<&Collection> {
        if self.names_changed <= at {
            return self.by_name(namespace).map(|id| &self.collections[&id]);
        }
        self.collections
            .values()
            .find(|collection| collection.namespace_at(at).is_some_and(|name| **name == *namespace))
    }

    /// Every collection there was at `at`, by name.
    pub(super) fn all_at(&self, at: Ts) -> Vec<(&Arc<str>, &Collection)> {
        let mut all: Vec<_> = self
            .collections
            .values()
            .filter_map(|collection| Some((collection.namespace_at(at)?, collection)))
            .collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// Since when the present collection of a namespace exists under this name.
    pub(super) fn minimum(&self, namespace: &str) -> Option<Ts> {
        let collection = self.get(self.by_name(namespace)?);
        collection.names.last().map(|(since, _)| *since)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    // ---- changes

    pub(super) fn create(
        &mut self,
        ts: Ts,
        namespace: Arc<str>,
        uuid: Uuid,
        options: Arc<RawDocumentBuf>,
    ) -> Result<CollectionId, CommandError> {
        if self.by_name.contains_key(&namespace) {
            return Err(CommandError::new(
                error::NAMESPACE_EXISTS,
                format!("Collection {namespace} already exists."),
            ));
        }
        let id = CollectionId(self.next_id);
        self.next_id += 1;
        let collection = Collection::new(uuid, namespace.clone(), options, ts);
        self.collections.insert(id, collection);
        self.by_name.insert(namespace, id);
        self.by_uuid.insert(uuid, id);
        self.names_changed = ts;
        self.undo.push_back((ts, Change::Created(id)));
        Ok(id)
    }

    pub(super) fn drop(&mut self, ts: Ts, id: CollectionId) {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        assert!(collection.dropped.is_none(), "a collection is dropped once");
        collection.dropped = Some(ts);
        self.by_name.remove(collection.namespace());
        self.names_changed = ts;
        self.undo.push_back((ts, Change::Dropped(id)));
    }

    pub(super) fn rename(
        &mut self,
        ts: Ts,
        id: CollectionId,
        to: Arc<str>,
    ) -> Result<(), CommandError> {
        if self.by_name.contains_key(&to) {
            return Err(CommandError::new(
                error::NAMESPACE_EXISTS,
                "target namespace exists".to_owned(),
            ));
        }
        let collection = self.collections.get_mut(&id).expect("a known collection");
        self.by_name.remove(collection.namespace());
        collection.names.push((ts, to.clone()));
        self.by_name.insert(to, id);
        self.names_changed = ts;
        self.undo.push_back((ts, Change::Renamed(id)));
        Ok(())
    }

    pub(super) fn set_options(&mut self, ts: Ts, id: CollectionId, options: Arc<RawDocumentBuf>) {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        collection.set_options(ts, options);
        self.undo.push_back((ts, Change::Options(id)));
    }

    /// Gives an index another specification with the same key.
    pub(super) fn alter_index(
        &mut self,
        ts: Ts,
        id: CollectionId,
        spec: IndexSpec,
    ) -> Result<(), CommandError> {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        let number = collection
            .live_index(&spec.name)
            .ok_or_else(|| Collection::no_such_index(&spec.name))?;
        let index = &mut collection.indexes[number];
        let old = std::mem::replace(&mut index.spec, Arc::new(spec));
        index.before.push(old);
        self.undo.push_back((ts, Change::IndexAltered(id, number)));
        Ok(())
    }

    /// The specification of a live index.
    pub(super) fn index_spec(&self, id: CollectionId, name: &str) -> Option<&Arc<IndexSpec>> {
        let collection = &self.collections[&id];
        collection.live_index(name).map(|number| &collection.indexes[number].spec)
    }

    pub(super) fn create_index(
        &mut self,
        ts: Ts,
        id: CollectionId,
        spec: Arc<IndexSpec>,
    ) -> Result<(), CommandError> {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        if collection.live_index(&spec.name).is_some() {
            return Err(CommandError::new(
                error::INDEX_ALREADY_EXISTS,
                format!("Index with name {} already exists", spec.name),
            ));
        }
        collection.build_index(spec, ts)?;
        self.undo.push_back((ts, Change::IndexCreated(id)));
        Ok(())
    }

    pub(super) fn drop_index(
        &mut self,
        ts: Ts,
        id: CollectionId,
        name: &str,
    ) -> Result<(), CommandError> {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        let number = collection.live_index(name).ok_or_else(|| Collection::no_such_index(name))?;
        collection.indexes[number].dropped = Some(ts);
        collection.indexes[number].clear();
        self.undo.push_back((ts, Change::IndexDropped(id, number)));
        Ok(())
    }

    pub(super) fn insert(
        &mut self,
        ts: Ts,
        id: CollectionId,
        document: Arc<RawDocumentBuf>,
    ) -> Result<(), CommandError> {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        self.held.check_keys(collection, &document)?;
        let record = collection.insert(ts, document)?;
        self.undo.push_back((ts, Change::Record(id, record)));
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        ts: Ts,
        id: CollectionId,
        record: RecordId,
        document: Arc<RawDocumentBuf>,
    ) -> Result<(), CommandError> {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        self.held.check_record(collection.uuid, record)?;
        self.held.check_keys(collection, &document)?;
        let before = collection.pre_image(record);
        collection.update(ts, record, document)?;
        if let Some(before) = before {
            self.pre_images.insert((ts, self.operation), before);
        }
        self.undo.push_back((ts, Change::Record(id, record)));
        Ok(())
    }

    pub(super) fn delete(
        &mut self,
        ts: Ts,
        id: CollectionId,
        document_id: RawBsonRef<'_>,
    ) -> Result<(), CommandError> {
        let collection = self.collections.get_mut(&id).expect("a known collection");
        let record = collection.find_id(document_id).ok_or_else(|| {
            CommandError::new(
                error::NO_MATCHING_DOCUMENT,
                format!("no document to delete in {}", collection.namespace()),
            )
        })?;
        self.held.check_record(collection.uuid, record)?;
        if let Some(before) = collection.pre_image(record) {
            self.pre_images.insert((ts, self.operation), before);
        }
        collection.delete(ts, record);
        self.undo.push_back((ts, Change::Record(id, record)));
        Ok(())
    }

    // ---- undoing and pruning

    /// A mark to come back to with [`Catalog::undo_to`].
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back every change since the mark.
    pub(super) fn undo_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            self.undo_last();
        }
    }

    /// The records changed after `ts`, each once, in the order of their first change.
    pub(super) fn changed_after(&self, ts: Ts) -> Vec<(CollectionId, RecordId)> {
        let start = self.undo.partition_point(|(at, _)| *at <= ts);
        let mut seen = std::collections::BTreeSet::new();
        self.undo
            .range(start..)
            .filter_map(|(_, change)| match change {
                Change::Record(collection, record) => Some((*collection, *record)),
                _ => None,
            })
            .filter(|changed| seen.insert(*changed))
            .collect()
    }

    /// Lets go of the pre-images of entries that are not in the oplog any more.
    pub(super) fn forget_pre_images(&mut self, oldest: Ts) {
        if self.pre_images.first_key_value().is_some_and(|((ts, _), _)| *ts < oldest) {
            self.pre_images = self.pre_images.split_off(&(oldest, 0));
        }
    }

    /// Lets go of the pre-images of entries that are taken back.
    pub(super) fn drop_pre_images_from(&mut self, ts: Ts) {
        if self.pre_images.last_key_value().is_some_and(|((last, _), _)| *last >= ts) {
            self.pre_images.split_off(&(ts, 0));
        }
    }

    /// Takes back every change after `ts`.
    pub(super) fn undo_after(&mut self, ts: Ts) {
        self.drop_pre_images_from(Ts(ts.0.saturating_add(1)));
        while self.undo.back().is_some_and(|(at, _)| *at > ts) {
            self.undo_last();
        }
    }

    fn undo_last(&mut self) {
        let Some((_, change)) = self.undo.pop_back() else { return };
        match change {
            Change::Record(id, record) => {
                self.collections.get_mut(&id).expect("not pruned yet").undo(record);
            }
            Change::Created(id) => {
                let collection = self.collections.remove(&id).expect("not pruned yet");
                self.by_name.remove(collection.namespace());
                self.by_uuid.remove(&collection.uuid);
            }
            Change::Dropped(id) => {
                let collection = self.collections.get_mut(&id).expect("not pruned yet");
                collection.dropped = None;
                self.by_name.insert(collection.namespace().clone(), id);
            }
            Change::Renamed(id) => {
                let collection = self.collections.get_mut(&id).expect("not pruned yet");
                let (_, name) = collection.names.pop().expect("it was renamed");
                self.by_name.remove(&name);
                self.by_name.insert(collection.namespace().clone(), id);
            }
            Change::Options(id) => {
                self.collections.get_mut(&id).expect("not pruned yet").undo_options();
            }
            Change::IndexCreated(id) => {
                self.collections.get_mut(&id).expect("not pruned yet").indexes.pop();
            }
            Change::IndexAltered(id, number) => {
                let collection = self.collections.get_mut(&id).expect("not pruned yet");
                let index = &mut collection.indexes[number];
                index.spec = index.before.pop().expect("it was altered");
            }
            Change::IndexDropped(id, number) => {
                let collection = self.collections.get_mut(&id).expect("not pruned yet");
                collection.indexes[number].dropped = None;
                collection.rebuild_index(number);
            }
        }
    }

    /// Lets go of what no read at or after `oldest` can see. Each change is looked at once in its
    /// life.
    pub(super) fn prune(&mut self, oldest: Ts) {
        while self.undo.front().is_some_and(|(at, _)| *at <= oldest) {
            let Some((_, change)) = self.undo.pop_front() else { return };
            match change {
                Change::Record(id, record) => {
                    if let Some(collection) = self.collections.get_mut(&id) {
                        collection.prune(record, oldest);
                    }
                }
                Change::Created(_) | Change::IndexCreated(_) => {}
                Change::Dropped(id) => {
                    if let Some(collection) = self.collections.remove(&id) {
                        self.by_uuid.remove(&collection.uuid);
                    }
                }
                Change::Renamed(id) => {
                    if let Some(collection) = self.collections.get_mut(&id) {
                        let keep = collection.names.iter().rposition(|(at, _)| *at <= oldest);
                        collection.names.drain(..keep.unwrap_or(0));
                    }
                }
                Change::Options(id) => {
                    if let Some(collection) = self.collections.get_mut(&id) {
                        let keep = collection.options.iter().rposition(|(at, _)| *at <= oldest);
                        collection.options.drain(..keep.unwrap_or(0));
                    }
                }
                Change::IndexAltered(id, number) => {
                    if let Some(collection) = self.collections.get_mut(&id) {
                        collection.indexes[number].before.remove(0);
                    }
                }
                Change::IndexDropped(id, _) => {
                    // Undo notes name indexes by position: the husks go once no note is left.
                    let named = |change: &Change| match change {
                        Change::IndexDropped(other, _) | Change::IndexAltered(other, _) => {
                            *other == id
                        }
                        _ => false,
                    };
                    if !self.undo.iter().any(|(_, change)| named(change))
                        && let Some(collection) = self.collections.get_mut(&id)
                    {
                        collection.indexes.retain(|index| index.is_live());
                    }
                }
            }
        }
    }
}
