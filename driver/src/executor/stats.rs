//! What the driver counts about each server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Server;
use crate::pool::PoolCounts;
use crate::sdam::ServerType;
use crate::uri::ServerAddress;

/// The counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    selected: AtomicU64,
    selected_for_reads: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    in_flight: AtomicU32,
}

impl Counters {
    /// An operation goes to this server.
    pub(crate) fn selected(&self, for_read: bool) {
        self.selected.fetch_add(1, Ordering::Relaxed);
        if for_read {
            self.selected_for_reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An attempt on this server failed.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// An operation comes to this server as a second or later attempt.
    pub(crate) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// How many operations it runs.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Starts all but the present load from zero.
    pub(crate) fn reset(&self) {
        for counter in [&self.selected, &self.selected_for_reads, &self.failed, &self.retried] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts an operation as in flight until it is dropped.
pub(crate) struct InFlight(Arc<Server>);

impl InFlight {
    /// One more.
    pub(crate) fn on(server: &Arc<Server>) -> Self {
        server.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(server.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the driver counted about one server since the client was made or
/// [`Client::reset_stats`](crate::Client::reset_stats) was called.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// The server.
    pub address: ServerAddress,
    /// What it is believed to be.
    pub server_type: ServerType,
    /// Attempts that went to it.
    pub selected: u64,
    /// Those of them that were reads.
    pub selected_for_reads: u64,
    /// Attempts it runs now.
    pub in_flight: u32,
    /// Attempts that failed on it: no connection, the network, or a refusal of the whole command.
    pub failed: u64,
    /// Attempts that came to it because an earlier one failed.
    pub retried: u64,
    /// The mean round-trip time, if it was measured.
    pub round_trip_time: Option<Duration>,
    /// The least of the last ten round-trip times; zero until there are two.
    pub min_round_trip_time: Duration,
    /// Its connections.
    pub pool: PoolCounts,
    /// How many operations had to wait for a connection of its pool.
    pub check_out_waits: u64,
    /// How long they waited, all together.
    pub check_out_wait_time: Duration,
}

impl ServerStats {
    /// Reads the counters of `server`.
    pub(crate) fn of(
        server: &Server,
        server_type: ServerType,
        round_trip_time: Option<Duration>,
        min_round_trip_time: Duration,
    ) -> Self {
        let (check_out_waits, check_out_wait_time) = server.pool.waits();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            address: server.address().clone(),
            server_type,
            selected: read(&server.counters.selected),
            selected_for_reads: read(&server.counters.selected_for_reads),
            in_flight: server.counters.in_flight(),
            failed: read(&server.counters.failed),
            retried: read(&server.counters.retried),
            round_trip_time,
            min_round_trip_time,
            check_out_waits,
            check_out_wait_time,
            pool: server.pool.counts(),
        }
    }
}
