//! The newest `$clusterTime` a client has seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bson::{RawDocument, RawDocumentBuf};

use crate::sync::lock;

/// The newest cluster time seen. A reply that brings nothing newer costs one comparison.
#[derive(Debug, Default)]
pub(crate) struct ClusterTime {
    /// Seconds in the upper, increment in the lower half.
    newest: AtomicU64,
    document: Mutex<Option<Arc<RawDocumentBuf>>>,
}

impl ClusterTime {
    /// Takes note of `time`, the value of a `$clusterTime` field, if it is newer.
    pub(crate) fn advance(&self, time: &RawDocument) {
        let Ok(timestamp) = time.get_timestamp("clusterTime") else { return };
        let number = u64::from(timestamp.time) << 32 | u64::from(timestamp.increment);
        if number <= self.newest.load(Ordering::Acquire) {
            return;
        }
        let mut document = lock(&self.document);
        // Somebody may have come first.
        if number > self.newest.load(Ordering::Acquire) {
            *document = Some(Arc::new(time.to_owned()));
            self.newest.store(number, Ordering::Release);
        }
    }

    /// The newer of what this and `other` have seen.
    pub(crate) fn newer_of(&self, other: Option<&ClusterTime>) -> Option<Arc<RawDocumentBuf>> {
        let newest = |time: &ClusterTime| time.newest.load(Ordering::Acquire);
        match other {
            Some(other) if newest(other) > newest(self) => other.current(),
            _ => self.current(),
        }
    }

    /// What the next request passes on.
    pub(crate) fn current(&self) -> Option<Arc<RawDocumentBuf>> {
        if self.newest.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.document).clone()
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
        assert_eq!(clock.current().as_deref(), Some(&time(5, 2)));
        clock.advance(&time(6, 0));
        assert_eq!(clock.current().as_deref(), Some(&time(6, 0)));
    }
}
