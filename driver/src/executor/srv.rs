//! SRV polling: asking DNS again who is behind a `mongodb+srv://` name.
//!
//! Only while the deployment is unknown or sharded (specification "polling SRV records for mongos
//! discovery"): a replica set says itself who belongs to it.

use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use crate::sdam::TopologyType;
use crate::uri::{ServerAddress, choose_hosts, srv_addresses};

/// The least time between two questions (`rescanSRVIntervalMS`).
const RESCAN_INTERVAL: Duration = Duration::from_secs(60);

/// Starts the task that asks, which ends with the client and once there is nothing to ask for.
pub(super) fn poll_srv(cluster: &Arc<Cluster>, host: &str) {
    let service = cluster.options().srv_service_name.as_deref().unwrap_or("mongodb");
    let (name, host) = (format!("_{service}._tcp.{host}"), host.to_owned());
    // A client that nobody uses any more is not kept for this.
    let watched = Arc::downgrade(cluster);
    let mut rest = cluster.transport().sleep_until(cluster.now() + RESCAN_INTERVAL);
    let task = async move {
        loop {
            rest.await;
            let Some(cluster) = watched.upgrade().filter(|cluster| !cluster.is_closed()) else {
                return;
            };
            let known = cluster.description();
            if !matches!(known.topology_type, TopologyType::Unknown | TopologyType::Sharded) {
                return;
            }
            let records = cluster.transport().resolve_srv(&name).await;
            let found = records.ok().and_then(|records| srv_addresses(&host, &records.hosts).ok());
            let pause = match found {
                Some(found) => {
                    let present: Vec<_> = known.servers.keys().cloned().collect();
                    let most = cluster.options().srv_max_hosts;
                    let next =
                        next_hosts(&present, found, most, &mut || cluster.transport().random());
                    cluster.on_srv(&next);
                    RESCAN_INTERVAL
                }
                // An answer that failed, or is empty, is asked for again sooner.
                None => cluster.options().heartbeat_freq_or_default(),
            };
            rest = cluster.transport().sleep_until(cluster.now() + pause);
        }
    };
    cluster.transport().spawn("SRV polling", Box::pin(task));
}

/// The hosts to talk to from now on: those known that are still named, and others up to `most`.
fn next_hosts(
    present: &[ServerAddress],
    found: Vec<ServerAddress>,
    most: Option<u32>,
    random: &mut impl FnMut() -> u64,
) -> Vec<ServerAddress> {
    let Some(most) = most.filter(|most| *most > 0) else { return found };
    let (mut next, mut others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|host| present.contains(host));
    choose_hosts(&mut others, (most as usize).saturating_sub(next.len()), random);
    next.append(&mut others);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<ServerAddress> {
        names.iter().map(|name| ServerAddress::new(name, 27017)).collect()
    }

    #[test]
    fn known_hosts_stay_and_others_fill_up_to_the_most() {
        let next = |present: &[&str], found: &[&str], most| {
            next_hosts(&hosts(present), hosts(found), most, &mut || 0)
        };
        assert_eq!(next(&["a", "b"], &["b", "c"], None), hosts(&["b", "c"]));
        assert_eq!(next(&["a", "b"], &["b", "c", "d"], Some(2)), hosts(&["b", "c"]));
        assert_eq!(next(&["a", "b"], &["a", "b", "c"], Some(2)), hosts(&["a", "b"]));
        assert_eq!(next(&["a"], &["x", "y"], Some(0)), hosts(&["x", "y"]));
    }
}
