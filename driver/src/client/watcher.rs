//! Following what the driver believes about the deployment.

use std::sync::Arc;

use super::Client;
use crate::sdam::TopologyDescription;

/// Tells of every change of what the driver believes: see [`Client::watch_topology`].
///
/// Changes that follow each other while nobody waits are told as one: what is given is always the
/// newest description.
#[derive(Debug)]
pub struct TopologyWatcher {
    client: Client,
    seen: u64,
    last: Arc<TopologyDescription>,
}

impl TopologyWatcher {
    pub(super) fn new(client: Client) -> Self {
        // The version first: a change between the two is told once more, but none is missed.
        let seen = client.cluster().changed().version();
        let last = client.topology();
        TopologyWatcher { client, seen, last }
    }

    /// What was believed when this watcher was made, or told last.
    pub fn current(&self) -> &Arc<TopologyDescription> {
        &self.last
    }

    /// Waits for the next change and gives the description after it; `None` once the client is closed.
    pub async fn changed(&mut self) -> Option<Arc<TopologyDescription>> {
        loop {
            let cluster = self.client.cluster();
            if cluster.is_closed() {
                return None;
            }
            self.seen = cluster.changed().passed(self.seen).await;
            let description = cluster.description();
            if !Arc::ptr_eq(&description, &self.last) {
                self.last = description.clone();
                return Some(description);
            }
        }
    }

    /// Waits until another server than the one known so far is primary and gives the description; `None`
    /// once the client is closed.
    pub async fn primary_changed(&mut self) -> Option<Arc<TopologyDescription>> {
        let address = |topology: &TopologyDescription| {
            topology.primary().map(|primary| primary.address.clone())
        };
        let old = address(&self.last);
        loop {
            let description = self.changed().await?;
            let new = address(&description);
            if new.is_some() && new != old {
                return Some(description);
            }
        }
    }
}
