//! The one store that answers every read.

/// A copy of a store's data as of one timestamp; cheap to clone, documents are shared.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {}

/// What of a store is on disk.
#[derive(Debug, Default)]
pub struct DurableStorage {}

/// A member's data: collections, indexes, oplog.
#[derive(Debug, Default)]
pub struct Storage {}

impl Storage {
    /// Opens what is on disk.
    pub fn open(_files: DurableStorage) -> Self {
        Storage {}
    }

    /// What a crash leaves, and how many oplog entries it lost.
    pub fn crash(self) -> (DurableStorage, usize) {
        (DurableStorage {}, 0)
    }

    /// What a clean shutdown leaves.
    pub fn close(self) -> DurableStorage {
        DurableStorage {}
    }
}
