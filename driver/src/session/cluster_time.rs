//! The newest `$clusterTime` a client has seen.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use crate::sync::lock;
use crate::wire::find;

/// The newest cluster time seen. A reply that brings nothing newer costs one comparison.
#[derive(Debug, Default)]
pub(crate) struct ClusterTime {
    /// Seconds in the upper, increment in the lower half.
    newest: AtomicU64,
    /// The bytes of the document; overwritten in place, for every write brings a newer one.
    document: Mutex<Vec<u8>>,
}

impl ClusterTime {
    /// Takes note of `time`, the value of a `$clusterTime` field, if it is newer.
    pub(crate) fn advance(&self, time: &RawDocument) {
        let Some(RawBsonRef::Timestamp(timestamp)) = find(time, "clusterTime") else { return };
        let number = u64::from(timestamp.time) << 32 | u64::from(timestamp.increment);
        if number <= self.newest.load(Ordering::Acquire) {
            return;
        }
        let mut document = lock(&self.document);
        // Somebody may have come first.
        if number > self.newest.load(Ordering::Acquire) {
            document.clear();
            document.extend_from_slice(time.as_bytes());
            self.newest.store(number, Ordering::Release);
        }
    }

    /// Hands the newer of what this and `other` have seen to `write`, which must not take a lock; not
    /// at all if neither has seen any.
    pub(crate) fn with_newer_of(&self, other: Option<&ClusterTime>, write: impl FnOnce(&[u8])) {
        let newest = |time: &ClusterTime| time.newest.load(Ordering::Acquire);
        let newer = other.filter(|other| newest(other) > newest(self)).unwrap_or(self);
        if newest(newer) > 0 {
            write(&lock(&newer.document));
        }
    }

    /// What was seen, if anything was.
    pub(crate) fn current(&self) -> Option<RawDocumentBuf> {
        if self.newest.load(Ordering::Acquire) == 0 {
            return None;
        }
        RawDocumentBuf::from_bytes(lock(&self.document).clone()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, rawdoc};

    #[test]
    fn only_a_newer_time_is_kept() {
        let time = |time, increment| rawdoc! { "clusterTime": Timestamp { time, increment } };
        let clock = ClusterTime::default();
        assert_eq!(clock.current(), None);
        clock.advance(&time(5, 2));
        clock.advance(&time(5, 1));
        clock.advance(&rawdoc! { "clusterTime": "nonsense" });
        assert_eq!(clock.current(), Some(time(5, 2)));
        clock.advance(&time(6, 0));
        assert_eq!(clock.current(), Some(time(6, 0)));
    }
}
