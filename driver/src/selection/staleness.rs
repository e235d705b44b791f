//! How far behind a secondary is, as seen from a client (max staleness specification).

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sdam::{ServerDescription, TopologyDescription};

/// The least `maxStalenessSeconds`, whatever the heartbeat frequency.
const SMALLEST_MAX_STALENESS: Duration = Duration::from_secs(90);
/// How often an idle primary writes a no-op.
const IDLE_WRITE_PERIOD: Duration = Duration::from_secs(10);

/// Refuses a staleness so small that a healthy secondary may exceed it.
pub(super) fn validate(max_staleness: Duration, heartbeat_freq: Duration) -> Result<()> {
    let least = SMALLEST_MAX_STALENESS.max(heartbeat_freq + IDLE_WRITE_PERIOD);
    if max_staleness < least {
        return Err(Error::invalid_argument(format!(
            "maxStalenessSeconds is at least {} here (90, or heartbeatFrequencyMS plus 10 seconds)",
            least.as_secs_f64()
        )));
    }
    Ok(())
}

/// Those of `servers` that are at most `max_staleness` behind; a primary always is.
pub(super) fn fresh_enough(
    topology: &TopologyDescription,
    servers: Vec<Arc<ServerDescription>>,
    max_staleness: Duration,
    heartbeat_freq: Duration,
) -> Vec<Arc<ServerDescription>> {
    let limit = nanos(max_staleness);
    let heartbeat = nanos(heartbeat_freq);
    // Without a primary, secondaries are measured against the one with the newest write.
    let newest = topology.secondaries().filter_map(|server| last_write(server)).max();
    let primary_lag = topology.primary().map(|primary| lag(primary));
    servers
        .into_iter()
        .filter(|server| {
            if !server.is_secondary()
                || crate::planted::is(crate::planted::DriverBug::IgnoresStaleness)
            {
                return true;
            }
            let staleness = match primary_lag {
                Some(primary_lag) => lag(server) - primary_lag + heartbeat,
                None => newest.unwrap_or(0) - last_write(server).unwrap_or(0) + heartbeat,
            };
            staleness <= limit
        })
        .collect()
}

/// From the last write to the check that told of it, in nanoseconds. The two clocks differ; the
/// difference cancels out where two servers are compared.
fn lag(server: &ServerDescription) -> i128 {
    let checked = server.last_update_time.map_or(0, |at| i128::from(at.as_nanos()));
    checked - last_write(server).unwrap_or(0)
}

fn last_write(server: &ServerDescription) -> Option<i128> {
    server.last_write_date.map(|date| i128::from(date.timestamp_millis()) * 1_000_000)
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}
