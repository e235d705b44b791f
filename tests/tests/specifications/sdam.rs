//! Server discovery and monitoring: phases of responses and errors, each with its outcome.

use std::io;
use std::sync::Arc;

use bson::oid::ObjectId;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use stepdown_driver::Instant;
use stepdown_driver::error::Error;
use stepdown_driver::event::SdamEvent;
use stepdown_driver::sdam::{
    ApplicationError, Effect, ServerDescription, ServerType, Topology, TopologyDescription,
    TopologyOptions, TopologyVersion,
};
use stepdown_driver::uri::{ConnectionString, ServerAddress};

use crate::discovery::TestFile;
use crate::json::{document, integer, list, raw, same, text};
use crate::report::Report;

/// The one test of a file.
pub fn trial(file: TestFile, report: &Report) -> Trial {
    let json = file.json();
    let description = text(&json, "description").unwrap_or("phases").to_owned();
    crate::case(&file, &description, report, move || run(&json))
}

fn run(test: &Value) -> Result<(), String> {
    let uri = text(test, "uri").ok_or("no uri")?;
    let options = ConnectionString::parse(uri)
        .and_then(ConnectionString::into_options)
        .map_err(|error| error.to_string())?;
    let id = ObjectId::from_bytes([42; 12]);
    let mut topology = Topology::new(id, TopologyOptions::from(&options));
    let mut effects = Vec::new();
    topology.open(&mut effects);
    for (number, phase) in list(test, "phases").iter().enumerate() {
        let name = text(phase, "description").unwrap_or("");
        run_phase(&mut topology, phase, number, &mut effects)
            .map_err(|error| format!("phase {number} {name}: {error}"))?;
    }
    Ok(())
}

fn run_phase(
    topology: &mut Topology,
    phase: &Value,
    number: usize,
    effects: &mut Vec<Effect>,
) -> Result<(), String> {
    let now = Instant::from_millis(number as u64);
    for response in list(phase, "responses") {
        let address = address(response.get(0))?;
        let reply = response.get(1).ok_or("a response without a reply")?;
        if reply.as_object().is_some_and(serde_json::Map::is_empty) {
            // An empty reply stands for a network error.
            let error = Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
            topology.on_monitor_error(now, &address, &error, effects);
        } else {
            topology.on_hello(ServerDescription::from_hello(address, now, &raw(reply)?), effects);
        }
    }
    for error in list(phase, "applicationErrors") {
        apply_error(topology, error, now, effects)?;
    }
    check_outcome(topology, phase.get("outcome").ok_or("no outcome")?, effects)
}

fn apply_error(
    topology: &mut Topology,
    test: &Value,
    now: Instant,
    effects: &mut Vec<Effect>,
) -> Result<(), String> {
    let address = address(test.get("address"))?;
    let handshake_completed = match text(test, "when") {
        Some("beforeHandshakeCompletes") => false,
        Some("afterHandshakeCompletes") => true,
        other => return Err(format!("unknown when {other:?}")),
    };
    let error = match text(test, "type") {
        Some("network") => Error::from(io::Error::from(io::ErrorKind::ConnectionReset)),
        Some("timeout") => Error::from(io::Error::from(io::ErrorKind::TimedOut)),
        Some("command") => {
            let reply = raw(test.get("response").ok_or("a command error without response")?)?;
            match Error::from_reply_for_sdam(&reply) {
                Some(error) => error,
                // Nothing in the reply is about the server's state.
                None => return Ok(()),
            }
        }
        other => return Err(format!("unknown type {other:?}")),
    };
    let current = topology.generation(&address, None).unwrap_or(0);
    let generation = match test.get("generation") {
        Some(generation) => generation.as_u64().ok_or("a generation that is no number")?,
        None => current,
    };
    let error =
        ApplicationError { generation, service_id: None, handshake_completed, error: &error };
    topology.on_application_error(now, &address, error, effects);
    Ok(())
}

fn check_outcome(
    topology: &Topology,
    outcome: &Value,
    effects: &mut Vec<Effect>,
) -> Result<(), String> {
    let found = topology.description();
    for (key, expected) in outcome.as_object().ok_or("the outcome is no document")? {
        match key.as_str() {
            "servers" => check_servers(topology, expected)?,
            "topologyType" => same(key, expected, &json!(found.topology_type.as_str()))?,
            "setName" => same(key, expected, &json!(found.set_name))?,
            "logicalSessionTimeoutMinutes" => {
                same(key, expected, &json!(found.logical_session_timeout_minutes()))?;
            }
            "maxSetVersion" => same(key, expected, &json!(found.max_set_version))?,
            "maxElectionId" => same(key, expected, &election(found.max_election_id))?,
            "compatible" => same(key, expected, &json!(found.compatibility_error().is_none()))?,
            "events" => {
                let found = effects.iter().filter_map(|effect| match effect {
                    Effect::Emit(event) => event_json(event),
                    _ => None,
                });
                same(key, expected, &found.collect())?;
            }
            other => return Err(format!("unknown outcome \"{other}\"")),
        }
    }
    effects.clear();
    Ok(())
}

fn check_servers(topology: &Topology, expected: &Value) -> Result<(), String> {
    let found = &topology.description().servers;
    let expected = expected.as_object().ok_or("servers is no document")?;
    if expected.len() != found.len() {
        let found: Vec<_> = found.keys().map(ToString::to_string).collect();
        let expected: Vec<_> = expected.keys().collect();
        return Err(format!("servers: expected {expected:?}, found {found:?}"));
    }
    for (name, expected) in expected {
        let address = ServerAddress::parse(name).map_err(|error| error.to_string())?;
        let server = found.get(&address).ok_or_else(|| format!("{name} is missing"))?;
        check_server(topology, server, expected).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn check_server(
    topology: &Topology,
    server: &ServerDescription,
    expected: &Value,
) -> Result<(), String> {
    for (key, expected) in expected.as_object().ok_or("a server is no document")? {
        match key.as_str() {
            // Drivers that check servers side by side do not know possible primaries.
            "type" if expected == "PossiblePrimary" => {
                same(key, &json!("Unknown"), &json!(server.server_type.as_str()))?;
            }
            "type" => same(key, expected, &json!(server.server_type.as_str()))?,
            "setName" => same(key, expected, &json!(server.set_name))?,
            "setVersion" => same(key, expected, &json!(server.set_version))?,
            "electionId" => same(key, expected, &election(server.election_id))?,
            "logicalSessionTimeoutMinutes" => {
                same(key, expected, &json!(server.logical_session_timeout_minutes))?;
            }
            "minWireVersion" => same(key, expected, &wire(server, server.min_wire_version))?,
            "maxWireVersion" => same(key, expected, &wire(server, server.max_wire_version))?,
            "topologyVersion" => {
                let expected = match expected {
                    Value::Null => None,
                    version => Some(topology_version(version)?),
                };
                if server.topology_version != expected {
                    let found = server.topology_version;
                    return Err(format!("{key}: expected {expected:?}, found {found:?}"));
                }
            }
            "error" => {
                let found = server.error.as_ref().map(ToString::to_string);
                match (expected.as_str(), &found) {
                    (None, None) => {}
                    (Some(expected), Some(found)) if found.contains(expected) => {}
                    _ => return Err(format!("{key}: expected {expected}, found {found:?}")),
                }
            }
            "pool" => {
                let found = topology.generation(&server.address, None);
                same("pool", expected, &json!({ "generation": found }))?;
            }
            other => return Err(format!("unknown property \"{other}\"")),
        }
    }
    Ok(())
}

/// A wire version; a load balancer, which is never asked, has none.
fn wire(server: &ServerDescription, version: i32) -> Value {
    match server.server_type {
        ServerType::LoadBalancer => Value::Null,
        _ => json!(version),
    }
}

fn topology_version(value: &Value) -> Result<TopologyVersion, String> {
    let version = document(value)?;
    let process_id = version.get_object_id("processId").map_err(|error| error.to_string())?;
    let counter = value.get("counter").and_then(integer).ok_or("no counter")?;
    Ok(TopologyVersion { process_id, counter })
}

fn election(id: Option<ObjectId>) -> Value {
    id.map_or(Value::Null, |id| json!({ "$oid": id.to_hex() }))
}

fn address(value: Option<&Value>) -> Result<ServerAddress, String> {
    let name = value.and_then(Value::as_str).ok_or("no address")?;
    ServerAddress::parse(name).map_err(|error| error.to_string())
}

/// An event as the tests write it; `None` for events they leave out.
fn event_json(event: &SdamEvent) -> Option<Value> {
    // Every test calls its topology 42.
    let id = "42";
    Some(match event {
        SdamEvent::TopologyOpening(_) => json!({ "topology_opening_event": { "topologyId": id } }),
        SdamEvent::TopologyClosed(_) => json!({ "topology_closed_event": { "topologyId": id } }),
        SdamEvent::ServerOpening(event) => json!({
            "server_opening_event": { "topologyId": id, "address": event.address.to_string() },
        }),
        SdamEvent::ServerClosed(event) => json!({
            "server_closed_event": { "topologyId": id, "address": event.address.to_string() },
        }),
        SdamEvent::ServerDescriptionChanged(event) => json!({
            "server_description_changed_event": {
                "topologyId": id,
                "address": event.address.to_string(),
                "previousDescription": server_json(&event.previous_description),
                "newDescription": server_json(&event.new_description),
            },
        }),
        SdamEvent::TopologyDescriptionChanged(event) => json!({
            "topology_description_changed_event": {
                "topologyId": id,
                "previousDescription": topology_json(&event.previous_description),
                "newDescription": topology_json(&event.new_description),
            },
        }),
        _ => return None,
    })
}

fn topology_json(topology: &TopologyDescription) -> Value {
    let servers: Vec<Value> = topology.servers.values().map(server_json).collect();
    let mut json = json!({ "topologyType": topology.topology_type.as_str(), "servers": servers });
    if let Some(name) = &topology.set_name {
        json["setName"] = json!(name);
    }
    json
}

fn server_json(server: &Arc<ServerDescription>) -> Value {
    let names = |hosts: &std::collections::BTreeSet<ServerAddress>| -> Vec<String> {
        hosts.iter().map(ToString::to_string).collect()
    };
    let mut json = json!({
        "address": server.address.to_string(),
        "arbiters": names(&server.arbiters),
        "hosts": names(&server.hosts),
        "passives": names(&server.passives),
        "type": server.server_type.as_str(),
    });
    if server.server_type != ServerType::Unknown {
        if let Some(name) = &server.set_name {
            json["setName"] = json!(name);
        }
        if let Some(primary) = &server.primary {
            json["primary"] = json!(primary.to_string());
        }
    }
    json
}
