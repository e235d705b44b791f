//! Server selection: which server gets an operation (server selection and max staleness
//! specifications). Pure: a description, a wish and two random numbers go in, a server comes out.

mod rtt;
mod staleness;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use rtt::RoundTripTimes;

use crate::error::{Error, ErrorKind, Result};
use crate::options::{
    DEFAULT_HEARTBEAT_FREQ, DEFAULT_LOCAL_THRESHOLD, ReadPreferenceMode, ReadPreferenceOptions,
    SelectionCriteria,
};
use crate::sdam::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use crate::uri::ServerAddress;

/// What an operation wants of its server.
#[derive(Clone, Copy, Debug)]
pub enum Want<'a> {
    /// A server that takes writes.
    Writable,
    /// A server that may serve reads.
    Readable(&'a SelectionCriteria),
}

/// A wish for a server, and the client's settings that bear on it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// What the operation wants.
    pub want: Want<'a>,
    /// Servers that failed the operation before: used only if there is no other.
    pub deprioritized: &'a [ServerAddress],
    /// `localThresholdMS`
    pub local_threshold: Duration,
    /// `heartbeatFrequencyMS`
    pub heartbeat_freq: Duration,
}

impl<'a> Request<'a> {
    /// A wish for a server that takes writes, with default settings.
    pub fn writable() -> Self {
        Request::new(Want::Writable)
    }

    /// A wish for a server that may serve reads, with default settings.
    pub fn readable(criteria: &'a SelectionCriteria) -> Self {
        Request::new(Want::Readable(criteria))
    }

    fn new(want: Want<'a>) -> Self {
        Request {
            want,
            deprioritized: &[],
            local_threshold: DEFAULT_LOCAL_THRESHOLD,
            heartbeat_freq: DEFAULT_HEARTBEAT_FREQ,
        }
    }

    /// The same wish, avoiding `servers`.
    #[must_use]
    pub fn avoiding(mut self, servers: &'a [ServerAddress]) -> Self {
        self.deprioritized = servers;
        self
    }

    /// The same wish under a client's own settings.
    #[must_use]
    pub fn with_settings(mut self, local_threshold: Duration, heartbeat_freq: Duration) -> Self {
        self.local_threshold = local_threshold;
        self.heartbeat_freq = heartbeat_freq;
        self
    }
}

impl fmt::Display for Request<'_> {
    /// What is wanted, as error messages say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.want {
            Want::Writable => f.write_str("a writable server"),
            Want::Readable(SelectionCriteria::ReadPreference(preference)) => {
                write!(f, "a server for read preference {}", preference.mode().as_str())?;
                if let Some(options) = preference.options() {
                    if let Some(tag_sets) = &options.tag_sets {
                        write!(f, ", tags {tag_sets:?}")?;
                    }
                    if let Some(staleness) = options.max_staleness {
                        write!(f, ", maxStalenessSeconds {}", staleness.as_secs())?;
                    }
                }
                Ok(())
            }
            Want::Readable(_) => f.write_str("a server the given function accepts"),
        }
    }
}

/// What selection came to.
#[derive(Clone, Debug)]
pub enum Pick {
    /// This server.
    Server(Arc<ServerDescription>),
    /// None yet: ask for a check of all servers and wait for the next description.
    Wait,
}

/// Selects one server.
///
/// `operation_count` says how many operations a server is running; of two servers taken by the two
/// `random` numbers, the one that runs fewer is picked. The caller counts the new operation.
///
/// # Errors
/// `IncompatibleServer` if a server speaks no wire version this driver speaks; `InvalidArgument` for
/// an impossible `maxStalenessSeconds`. Waiting would not help.
pub fn select(
    topology: &TopologyDescription,
    request: &Request<'_>,
    operation_count: impl Fn(&ServerAddress) -> u32,
    random: [u64; 2],
) -> Result<Pick> {
    if let Some(primary) = undisputed_primary(topology, request) {
        return Ok(Pick::Server(Arc::clone(primary)));
    }
    let servers = in_latency_window(&suitable_servers(topology, request)?, request.local_threshold);
    Ok(match pick_of_two(&servers, operation_count, random) {
        Some(server) => Pick::Server(Arc::clone(server)),
        None => Pick::Wait,
    })
}

/// The servers that can serve the request, whatever their latency, by address.
///
/// # Errors
/// As [`select`].
pub fn suitable_servers(
    topology: &TopologyDescription,
    request: &Request<'_>,
) -> Result<Vec<Arc<ServerDescription>>> {
    if let Some(message) = topology.compatibility_error() {
        return Err(Error::new(ErrorKind::IncompatibleServer { message }));
    }
    if let Want::Readable(SelectionCriteria::ReadPreference(preference)) = request.want
        && let Some(max_staleness) = preference.options().and_then(|options| options.max_staleness)
        && topology.is_replica_set()
    {
        staleness::validate(max_staleness, request.heartbeat_freq)?;
    }
    let all: Vec<_> =
        topology.servers.values().filter(|server| server.is_available()).cloned().collect();
    if !request.deprioritized.is_empty() {
        let preferred: Vec<_> = all
            .iter()
            .filter(|server| !request.deprioritized.contains(&server.address))
            .cloned()
            .collect();
        let suitable = suitable_among(topology, preferred, request);
        if !suitable.is_empty() {
            return Ok(suitable);
        }
    }
    Ok(suitable_among(topology, all, request))
}

/// Those of `servers` whose round trip takes at most `local_threshold` longer than the shortest.
/// A server that was not measured counts as far away, unless none was.
pub fn in_latency_window(
    servers: &[Arc<ServerDescription>],
    local_threshold: Duration,
) -> Vec<Arc<ServerDescription>> {
    let Some(shortest) = servers.iter().filter_map(|server| server.round_trip_time).min() else {
        return servers.to_vec();
    };
    let limit = shortest.saturating_add(local_threshold);
    servers
        .iter()
        .filter(|server| server.round_trip_time.is_some_and(|time| time <= limit))
        .cloned()
        .collect()
}

/// Takes two different servers at random and gives back the one that runs fewer operations.
pub fn pick_of_two(
    servers: &[Arc<ServerDescription>],
    operation_count: impl Fn(&ServerAddress) -> u32,
    random: [u64; 2],
) -> Option<&Arc<ServerDescription>> {
    let below = |random: u64, count: usize| (random % count as u64) as usize;
    match servers {
        [] => None,
        [only] => Some(only),
        _ => {
            let first = below(random[0], servers.len());
            let mut second = below(random[1], servers.len() - 1);
            if second >= first {
                second += 1;
            }
            let (first, second) = (&servers[first], &servers[second]);
            if operation_count(&second.address) < operation_count(&first.address) {
                Some(second)
            } else {
                Some(first)
            }
        }
    }
}

/// The error of an operation that found no server in `timeout`.
pub fn timeout_error(
    topology: &TopologyDescription,
    request: &Request<'_>,
    timeout: Duration,
) -> Error {
    Error::server_selection(format!(
        "no server found within {} ms: {request} is wanted, the topology is {topology}",
        timeout.as_millis()
    ))
}

/// The primary of a set, where nothing but it can be meant: most operations need no more.
fn undisputed_primary<'a>(
    topology: &'a TopologyDescription,
    request: &Request<'_>,
) -> Option<&'a Arc<ServerDescription>> {
    let wanted = match request.want {
        Want::Writable => true,
        Want::Readable(criteria) => criteria
            .as_read_preference()
            .is_some_and(|preference| preference.mode() == ReadPreferenceMode::Primary),
    };
    let usual = topology.topology_type == TopologyType::ReplicaSetWithPrimary
        && request.deprioritized.is_empty()
        && topology.servers.values().all(|server| server.is_compatible());
    if wanted && usual { topology.primary() } else { None }
}

/// Applies topology, operation and custom selector to `servers`, all of them available.
fn suitable_among(
    topology: &TopologyDescription,
    servers: Vec<Arc<ServerDescription>>,
    request: &Request<'_>,
) -> Vec<Arc<ServerDescription>> {
    let of_type = |servers: Vec<Arc<ServerDescription>>, wanted: ServerType| {
        servers.into_iter().filter(|server| server.server_type == wanted).collect()
    };
    let by_topology: Vec<_> = match topology.topology_type {
        TopologyType::Unknown => Vec::new(),
        TopologyType::Single | TopologyType::LoadBalanced => servers,
        TopologyType::Sharded => of_type(servers, ServerType::Mongos),
        TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary => {
            match request.want {
                Want::Writable => of_type(servers, ServerType::RsPrimary),
                Want::Readable(SelectionCriteria::ReadPreference(preference)) => {
                    let options = preference.options().cloned().unwrap_or_default();
                    by_read_preference(topology, servers, preference.mode(), &options, request)
                }
                Want::Readable(_) => servers
                    .into_iter()
                    .filter(|server| server.server_type.is_data_bearing())
                    .collect(),
            }
        }
    };
    match request.want {
        Want::Readable(SelectionCriteria::Predicate(accept)) => {
            by_topology.into_iter().filter(|server| accept(server)).collect()
        }
        Want::Readable(SelectionCriteria::Selector(choose)) => choose(by_topology),
        _ => by_topology,
    }
}

/// Applies a read preference to the members of a replica set.
fn by_read_preference(
    topology: &TopologyDescription,
    servers: Vec<Arc<ServerDescription>>,
    mode: ReadPreferenceMode,
    options: &ReadPreferenceOptions,
    request: &Request<'_>,
) -> Vec<Arc<ServerDescription>> {
    let (primaries, others): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| server.is_primary());
    let secondaries: Vec<_> = others.into_iter().filter(|server| server.is_secondary()).collect();
    let narrowed = |servers: Vec<Arc<ServerDescription>>| {
        let fresh = match options.max_staleness {
            Some(max) => staleness::fresh_enough(topology, servers, max, request.heartbeat_freq),
            None => servers,
        };
        by_tags(fresh, options)
    };
    match mode {
        ReadPreferenceMode::Primary => primaries,
        ReadPreferenceMode::Secondary => narrowed(secondaries),
        ReadPreferenceMode::PrimaryPreferred => {
            if primaries.is_empty() {
                narrowed(secondaries)
            } else {
                primaries
            }
        }
        ReadPreferenceMode::SecondaryPreferred => {
            let secondaries = narrowed(secondaries);
            if secondaries.is_empty() { primaries } else { secondaries }
        }
        ReadPreferenceMode::Nearest => narrowed(primaries.into_iter().chain(secondaries).collect()),
    }
}

/// The servers that match the first tag set any server matches.
fn by_tags(
    servers: Vec<Arc<ServerDescription>>,
    options: &ReadPreferenceOptions,
) -> Vec<Arc<ServerDescription>> {
    let Some(tag_sets) = options.tag_sets.as_ref().filter(|sets| !sets.is_empty()) else {
        return servers;
    };
    for set in tag_sets {
        let matching: Vec<_> =
            servers.iter().filter(|server| server.matches_tags(set)).cloned().collect();
        if !matching.is_empty() {
            return matching;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
