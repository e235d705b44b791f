//! Server selection, max staleness, latency window and round-trip times.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::DateTime;
use bson::oid::ObjectId;
use libtest_mimic::Trial;
use serde_json::Value;
use stepdown_driver::Instant;
use stepdown_driver::options::{
    DEFAULT_HEARTBEAT_FREQ, DEFAULT_LOCAL_THRESHOLD, ReadPreference, ReadPreferenceMode,
    ReadPreferenceOptions, SelectionCriteria, TagSet,
};
use stepdown_driver::sdam::{
    MIN_WIRE_VERSION, ServerDescription, ServerType, TopologyDescription, TopologyType,
};
use stepdown_driver::selection::{
    Pick, Request, RoundTripTimes, in_latency_window, select, suitable_servers,
};
use stepdown_driver::uri::ServerAddress;

use crate::discovery::TestFile;
use crate::json::{integer, list, text};
use crate::report::Report;

/// One selection: which servers are suitable, and which of them are near.
pub fn logic(file: TestFile, report: &Report) -> Trial {
    let json = file.json();
    let name = format!(
        "{} {}",
        text(&json, "operation").unwrap_or("read"),
        json.get("read_preference").and_then(|p| text(p, "mode")).unwrap_or("default")
    );
    crate::case(&file, &name, report, move || run_logic(&json))
}

/// Many selections among servers that run different numbers of operations.
pub fn in_window(file: TestFile, report: &Report) -> Trial {
    let json = file.json();
    let name = text(&json, "description").unwrap_or("frequencies").to_owned();
    crate::case(&file, &name, report, move || run_in_window(&json))
}

/// One more sample enters the mean.
pub fn round_trip_time(file: TestFile, report: &Report) -> Trial {
    let json = file.json();
    crate::case(&file, "mean", report, move || run_round_trip_time(&json))
}

fn run_logic(test: &Value) -> Result<(), String> {
    let topology = topology(test.get("topology_description").ok_or("no topology")?)?;
    let expects_error = test.get("error").and_then(Value::as_bool).unwrap_or(false);
    let heartbeat = test
        .get("heartbeatFrequencyMS")
        .and_then(Value::as_u64)
        .map_or(DEFAULT_HEARTBEAT_FREQ, Duration::from_millis);
    let preference = match read_preference(test.get("read_preference").ok_or("no preference")?) {
        Err(_) if expects_error => return Ok(()),
        preference => preference?,
    };
    let criteria = SelectionCriteria::from(preference);
    let avoid = addresses(list(test, "deprioritized_servers"))?;
    let request = match text(test, "operation") {
        Some("write") => Request::writable(),
        Some("read") | None => Request::readable(&criteria),
        Some(other) => return Err(format!("unknown operation {other}")),
    };
    let request = request.avoiding(&avoid).with_settings(DEFAULT_LOCAL_THRESHOLD, heartbeat);
    let suitable = match suitable_servers(&topology, &request) {
        Err(_) if expects_error => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(_) if expects_error => return Err("an error was expected".to_owned()),
        Ok(suitable) => suitable,
    };
    let near = in_latency_window(&suitable, DEFAULT_LOCAL_THRESHOLD);
    for (key, found) in [("suitable_servers", &suitable), ("in_latency_window", &near)] {
        let mut expected = addresses(list(test, key))?;
        expected.sort();
        let mut found: Vec<_> = found.iter().map(|server| server.address.clone()).collect();
        found.sort();
        if expected != found {
            return Err(format!("{key}: expected {expected:?}, found {found:?}"));
        }
    }
    // Selection as a whole agrees with its two halves.
    match select(&topology, &request, |_| 0, [0, 0]).map_err(|error| error.to_string())? {
        Pick::Server(server) if near.contains(&server) => Ok(()),
        Pick::Wait if near.is_empty() => Ok(()),
        other => Err(format!("selected {other:?}")),
    }
}

fn run_in_window(test: &Value) -> Result<(), String> {
    let topology = topology(test.get("topology_description").ok_or("no topology")?)?;
    let mut counts = BTreeMap::new();
    for server in list(test, "mocked_topology_state") {
        let count = server.get("operation_count").and_then(Value::as_u64).ok_or("no count")?;
        counts.insert(address(server)?, u32::try_from(count).map_err(|e| e.to_string())?);
    }
    let iterations = test.get("iterations").and_then(Value::as_u64).ok_or("no iterations")?;
    let criteria = SelectionCriteria::from(ReadPreference::nearest());
    let request = Request::readable(&criteria);
    let mut random = SplitMix(0x5eed);
    let mut picked: BTreeMap<ServerAddress, u64> = BTreeMap::new();
    for _ in 0..iterations {
        let load = |address: &ServerAddress| counts.get(address).copied().unwrap_or(0);
        match select(&topology, &request, load, [random.next(), random.next()]) {
            Ok(Pick::Server(server)) => *picked.entry(server.address.clone()).or_default() += 1,
            other => return Err(format!("selected {other:?}")),
        }
    }
    let outcome = test.get("outcome").ok_or("no outcome")?;
    let tolerance = outcome.get("tolerance").and_then(Value::as_f64).ok_or("no tolerance")?;
    let expected = outcome.get("expected_frequencies").and_then(Value::as_object);
    for (name, expected) in expected.ok_or("no frequencies")? {
        let address = ServerAddress::parse(name).map_err(|error| error.to_string())?;
        let found = picked.get(&address).copied().unwrap_or(0) as f64 / iterations as f64;
        let expected = expected.as_f64().ok_or("a frequency that is no number")?;
        // Never and always are meant exactly.
        let tolerance = if expected == 0.0 || expected == 1.0 { 0.0 } else { tolerance };
        if (found - expected).abs() > tolerance {
            return Err(format!("{name}: expected {expected} within {tolerance}, found {found}"));
        }
    }
    Ok(())
}

fn run_round_trip_time(test: &Value) -> Result<(), String> {
    let known = match test.get("avg_rtt_ms") {
        Some(Value::String(null)) if null == "NULL" => None,
        known => Some(milliseconds(known)?),
    };
    let mut times = RoundTripTimes::with_mean(known);
    times.add(milliseconds(test.get("new_rtt_ms"))?);
    let expected = milliseconds(test.get("new_avg_rtt"))?;
    let found = times.mean().ok_or("no mean")?;
    if found.abs_diff(expected) > Duration::from_nanos(1) {
        return Err(format!("expected {expected:?}, found {found:?}"));
    }
    Ok(())
}

fn topology(value: &Value) -> Result<TopologyDescription, String> {
    let types = [
        TopologyType::Single,
        TopologyType::ReplicaSetNoPrimary,
        TopologyType::ReplicaSetWithPrimary,
        TopologyType::Sharded,
        TopologyType::LoadBalanced,
        TopologyType::Unknown,
    ];
    let name = text(value, "type").ok_or("no topology type")?;
    let topology_type = types
        .into_iter()
        .find(|topology_type| topology_type.as_str() == name)
        .ok_or_else(|| format!("unknown topology type {name}"))?;
    let servers: Vec<_> = list(value, "servers").iter().map(server).collect::<Result<_, _>>()?;
    Ok(TopologyDescription::from_servers(ObjectId::from_bytes([0; 12]), topology_type, servers))
}

fn server(value: &Value) -> Result<ServerDescription, String> {
    let types = [
        ServerType::Standalone,
        ServerType::Mongos,
        ServerType::RsPrimary,
        ServerType::RsSecondary,
        ServerType::RsArbiter,
        ServerType::RsOther,
        ServerType::RsGhost,
        ServerType::LoadBalancer,
        ServerType::PossiblePrimary,
        ServerType::Unknown,
    ];
    let name = text(value, "type").ok_or("no server type")?;
    let mut server = ServerDescription::unknown(address(value)?);
    server.server_type = types
        .into_iter()
        .find(|server_type| server_type.as_str() == name)
        .ok_or_else(|| format!("unknown server type {name}"))?;
    if value.get("avg_rtt_ms").is_some() {
        server.round_trip_time = Some(milliseconds(value.get("avg_rtt_ms"))?);
    }
    server.tags = tag_set(value.get("tags"));
    let wire_version = value.get("maxWireVersion").and_then(Value::as_i64);
    server.max_wire_version = match wire_version {
        Some(version) => i32::try_from(version).map_err(|error| error.to_string())?,
        None => MIN_WIRE_VERSION,
    };
    let checked = value.get("lastUpdateTime").and_then(Value::as_u64).unwrap_or(0);
    server.last_update_time = Some(Instant::from_millis(checked));
    let written = value.get("lastWrite").and_then(|write| write.get("lastWriteDate"));
    server.last_write_date = written.and_then(integer).map(DateTime::from_millis);
    Ok(server)
}

fn read_preference(value: &Value) -> Result<ReadPreference, String> {
    let mode: ReadPreferenceMode = match text(value, "mode") {
        Some(mode) => mode.parse().map_err(|error| format!("{error}"))?,
        None => ReadPreferenceMode::Primary,
    };
    let mut options = ReadPreferenceOptions::default();
    if value.get("tag_sets").is_some() {
        let sets = list(value, "tag_sets").iter().map(|set| tag_set(Some(set)));
        options.tag_sets = Some(sets.collect());
    }
    match value.get("maxStalenessSeconds").and_then(Value::as_i64) {
        None | Some(-1) => {}
        Some(seconds) => {
            let seconds = u64::try_from(seconds).map_err(|error| error.to_string())?;
            options.max_staleness = Some(Duration::from_secs(seconds));
        }
    }
    ReadPreference::from_parts(mode, options).map_err(|error| error.to_string())
}

fn tag_set(value: Option<&Value>) -> TagSet {
    let tags = value.and_then(Value::as_object).into_iter().flatten();
    tags.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn addresses(servers: &[Value]) -> Result<Vec<ServerAddress>, String> {
    servers.iter().map(address).collect()
}

fn address(server: &Value) -> Result<ServerAddress, String> {
    let name = text(server, "address").ok_or("no address")?;
    ServerAddress::parse(name).map_err(|error| error.to_string())
}

fn milliseconds(value: Option<&Value>) -> Result<Duration, String> {
    let millis = value.and_then(Value::as_f64).ok_or("no number of milliseconds")?;
    Ok(Duration::from_nanos((millis * 1e6).round() as u64))
}

/// A small random stream, always the same: the frequencies of a test run never change.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
