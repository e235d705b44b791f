//! What the driver believes about one server.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::raw::{RawArray, RawBsonRef, RawDocument};
use bson::{DateTime, Timestamp};

use super::{MAX_WIRE_VERSION, MIN_WIRE_VERSION, TopologyVersion};
use crate::error::{Error, Result};
use crate::options::TagSet;
use crate::time::Instant;
use crate::uri::ServerAddress;

/// What a server is, as far as the driver knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ServerType {
    /// A server that belongs to no set.
    Standalone,
    /// A router of a sharded cluster.
    Mongos,
    /// The primary of a set.
    RsPrimary,
    /// A secondary of a set.
    RsSecondary,
    /// An arbiter of a set.
    RsArbiter,
    /// A member of a set in any other state, or a hidden one.
    RsOther,
    /// A member without a set: not initiated, removed, or starting.
    RsGhost,
    /// A load balancer.
    LoadBalancer,
    /// Not checked, but another member calls it the primary (single-threaded drivers alone).
    PossiblePrimary,
    /// Not checked yet, or the last check failed.
    #[default]
    Unknown,
}

impl ServerType {
    /// Whether a server of this type holds data and may serve operations.
    pub fn is_data_bearing(self) -> bool {
        matches!(
            self,
            ServerType::Standalone
                | ServerType::Mongos
                | ServerType::RsPrimary
                | ServerType::RsSecondary
                | ServerType::LoadBalancer
        )
    }

    /// Whether a server of this type may serve operations at all.
    pub fn is_available(self) -> bool {
        !matches!(self, ServerType::Unknown | ServerType::PossiblePrimary)
    }

    /// The type as the specification names it.
    pub fn as_str(self) -> &'static str {
        match self {
            ServerType::Standalone => "Standalone",
            ServerType::Mongos => "Mongos",
            ServerType::RsPrimary => "RSPrimary",
            ServerType::RsSecondary => "RSSecondary",
            ServerType::RsArbiter => "RSArbiter",
            ServerType::RsOther => "RSOther",
            ServerType::RsGhost => "RSGhost",
            ServerType::LoadBalancer => "LoadBalancer",
            ServerType::PossiblePrimary => "PossiblePrimary",
            ServerType::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for ServerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A position in the oplog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTime {
    /// The timestamp.
    pub ts: Timestamp,
    /// The term of the election that made the primary that wrote it.
    pub t: i64,
}

/// What the driver believes about one server: the last hello reply, or why there is none.
///
/// Equality is that of the SDAM specification: it decides whether events are sent, and leaves
/// round-trip times, `lastWrite` and the time of the check aside.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDescription {
    /// The address the driver uses.
    pub address: ServerAddress,
    /// What it is.
    pub server_type: ServerType,
    /// Why it is unknown, if a check or an operation failed.
    pub error: Option<Error>,
    /// The mean round-trip time (exponentially weighted), if it was measured.
    pub round_trip_time: Option<Duration>,
    /// The least round-trip time of the last ten samples; zero until there are two.
    pub min_round_trip_time: Duration,
    /// The primary's wall clock at the last write this member has.
    pub last_write_date: Option<DateTime>,
    /// The position of that write.
    pub op_time: Option<OpTime>,
    /// The lowest wire version it speaks.
    pub min_wire_version: i32,
    /// The highest wire version it speaks.
    pub max_wire_version: i32,
    /// The name it gives itself.
    pub me: Option<ServerAddress>,
    /// Members that can be elected.
    pub hosts: BTreeSet<ServerAddress>,
    /// Members with priority zero.
    pub passives: BTreeSet<ServerAddress>,
    /// Arbiters.
    pub arbiters: BTreeSet<ServerAddress>,
    /// Its tags.
    pub tags: TagSet,
    /// The name of its set.
    pub set_name: Option<String>,
    /// The version of the set's configuration.
    pub set_version: Option<i64>,
    /// The election that made it primary.
    pub election_id: Option<ObjectId>,
    /// The member it believes to be the primary.
    pub primary: Option<ServerAddress>,
    /// When this was found out; `None` for a server that was never checked.
    pub last_update_time: Option<Instant>,
    /// How long it keeps an idle session, in minutes.
    pub logical_session_timeout_minutes: Option<i64>,
    /// How new this is.
    pub topology_version: Option<TopologyVersion>,
    /// The size of the largest document, in bytes.
    pub max_bson_object_size: i32,
    /// The size of the largest message, in bytes.
    pub max_message_size_bytes: i32,
    /// How many writes one command may carry.
    pub max_write_batch_size: i32,
    /// Whether it takes the command `hello`.
    pub hello_ok: bool,
    /// Whether it belongs to a hidden member.
    pub hidden: bool,
}

impl ServerDescription {
    /// What is believed about a server that was never checked.
    pub fn unknown(address: ServerAddress) -> Self {
        ServerDescription {
            address,
            server_type: ServerType::Unknown,
            error: None,
            round_trip_time: None,
            min_round_trip_time: Duration::ZERO,
            last_write_date: None,
            op_time: None,
            min_wire_version: 0,
            max_wire_version: 0,
            me: None,
            hosts: BTreeSet::new(),
            passives: BTreeSet::new(),
            arbiters: BTreeSet::new(),
            tags: TagSet::new(),
            set_name: None,
            set_version: None,
            election_id: None,
            primary: None,
            last_update_time: None,
            logical_session_timeout_minutes: None,
            topology_version: None,
            max_bson_object_size: 16 * 1024 * 1024,
            max_message_size_bytes: 48_000_000,
            max_write_batch_size: 100_000,
            hello_ok: false,
            hidden: false,
        }
    }

    /// What is believed about a server after `error`; the error's topologyVersion is kept, so that
    /// older news stays older.
    pub fn failed(address: ServerAddress, now: Instant, error: Error) -> Self {
        ServerDescription {
            topology_version: error.topology_version(),
            error: Some(error),
            last_update_time: Some(now),
            ..ServerDescription::unknown(address)
        }
    }

    /// What is believed about a load balancer: nothing more than that it is one.
    pub fn load_balancer(address: ServerAddress) -> Self {
        ServerDescription {
            server_type: ServerType::LoadBalancer,
            ..ServerDescription::unknown(address)
        }
    }

    /// Reads a hello reply that came at `now`. A refused or unreadable one makes the server unknown,
    /// with the error kept. Round-trip times are for the caller to fill in.
    pub fn from_hello(address: ServerAddress, now: Instant, reply: &RawDocument) -> Self {
        if let Some(error) = Error::from_command_reply(reply) {
            return ServerDescription::failed(address, now, error);
        }
        match read_hello(address.clone(), now, reply) {
            Ok(description) => description,
            Err(error) => ServerDescription::failed(address, now, error),
        }
    }

    /// The same description with round-trip times filled in.
    #[must_use]
    pub fn with_round_trip_times(mut self, mean: Option<Duration>, min: Duration) -> Self {
        self.round_trip_time = mean;
        self.min_round_trip_time = min;
        self
    }

    /// Whether a server of this type may serve operations at all.
    pub fn is_available(&self) -> bool {
        self.server_type.is_available()
    }

    /// Whether this is the primary of a set.
    pub fn is_primary(&self) -> bool {
        self.server_type == ServerType::RsPrimary
    }

    /// Whether this is a secondary of a set.
    pub fn is_secondary(&self) -> bool {
        self.server_type == ServerType::RsSecondary
    }

    /// Whether the server has every tag of `set` with its value.
    pub fn matches_tags(&self, set: &TagSet) -> bool {
        set.iter().all(|(name, value)| self.tags.get(name) == Some(value))
    }

    /// Whether this driver speaks a wire version the server speaks; true while that is unknown.
    pub fn is_compatible(&self) -> bool {
        !self.is_available()
            || self.server_type == ServerType::LoadBalancer
            || (self.min_wire_version <= MAX_WIRE_VERSION
                && self.max_wire_version >= MIN_WIRE_VERSION)
    }

    /// Why no command can be sent to this server, if it speaks no wire version this driver speaks.
    pub fn compatibility_error(&self) -> Option<String> {
        if self.is_compatible() {
            return None;
        }
        if self.min_wire_version > MAX_WIRE_VERSION {
            return Some(format!(
                "Server at {} requires wire version {}, but this version of stepdown-driver only \
                 supports up to {MAX_WIRE_VERSION}",
                self.address, self.min_wire_version
            ));
        }
        Some(format!(
            "Server at {} reports wire version {}, but this version of stepdown-driver requires at \
             least {MIN_WIRE_VERSION} (MongoDB 4.2)",
            self.address, self.max_wire_version
        ))
    }

    /// The members this server names: electable ones, passives and arbiters.
    pub fn known_hosts(&self) -> impl Iterator<Item = &ServerAddress> {
        self.hosts.iter().chain(&self.passives).chain(&self.arbiters)
    }
}

impl PartialEq for ServerDescription {
    fn eq(&self, other: &Self) -> bool {
        let text = |error: &Option<Error>| error.as_ref().map(ToString::to_string);
        self.address == other.address
            && self.server_type == other.server_type
            && self.min_wire_version == other.min_wire_version
            && self.max_wire_version == other.max_wire_version
            && self.me == other.me
            && self.hosts == other.hosts
            && self.passives == other.passives
            && self.arbiters == other.arbiters
            && self.tags == other.tags
            && self.set_name == other.set_name
            && self.set_version == other.set_version
            && self.election_id == other.election_id
            && self.primary == other.primary
            && self.logical_session_timeout_minutes == other.logical_session_timeout_minutes
            && self.topology_version == other.topology_version
            && text(&self.error) == text(&other.error)
    }
}

/// Reads an `ok: 1` hello reply.
fn read_hello(
    address: ServerAddress,
    now: Instant,
    reply: &RawDocument,
) -> Result<ServerDescription> {
    let mut description = ServerDescription::unknown(address);
    description.last_update_time = Some(now);
    let mut primary = false;
    let mut secondary = false;
    let mut arbiter = false;
    let mut replica_set = false;
    let mut mongos = false;
    for element in reply {
        let (key, value) = element.map_err(|e| Error::invalid_response(format!("hello: {e}")))?;
        match (key.as_str(), value) {
            ("isWritablePrimary" | "ismaster", value) => primary |= truthy(value),
            ("secondary", value) => secondary = truthy(value),
            ("arbiterOnly", value) => arbiter = truthy(value),
            ("isreplicaset", value) => replica_set = truthy(value),
            ("hidden", value) => description.hidden = truthy(value),
            ("helloOk", value) => description.hello_ok = truthy(value),
            ("msg", RawBsonRef::String(msg)) => mongos = msg == "isdbgrid",
            ("setName", RawBsonRef::String(name)) => description.set_name = Some(name.to_owned()),
            ("setVersion", value) => description.set_version = integer(value),
            ("electionId", RawBsonRef::ObjectId(id)) => description.election_id = Some(id),
            ("me", RawBsonRef::String(me)) => description.me = Some(ServerAddress::parse(me)?),
            ("primary", RawBsonRef::String(host)) if !host.is_empty() => {
                description.primary = Some(ServerAddress::parse(host)?);
            }
            ("hosts", RawBsonRef::Array(hosts)) => description.hosts = addresses(hosts)?,
            ("passives", RawBsonRef::Array(hosts)) => description.passives = addresses(hosts)?,
            ("arbiters", RawBsonRef::Array(hosts)) => description.arbiters = addresses(hosts)?,
            ("tags", RawBsonRef::Document(tags)) => {
                for tag in tags.into_iter().flatten() {
                    if let (name, RawBsonRef::String(value)) = tag {
                        description.tags.insert(name.to_string(), value.to_owned());
                    }
                }
            }
            ("minWireVersion", value) => description.min_wire_version = small(value),
            ("maxWireVersion", value) => description.max_wire_version = small(value),
            ("logicalSessionTimeoutMinutes", value) => {
                description.logical_session_timeout_minutes = integer(value);
            }
            ("maxBsonObjectSize", value) => {
                description.max_bson_object_size =
                    positive(value, description.max_bson_object_size);
            }
            ("maxMessageSizeBytes", value) => {
                description.max_message_size_bytes =
                    positive(value, description.max_message_size_bytes);
            }
            ("maxWriteBatchSize", value) => {
                description.max_write_batch_size =
                    positive(value, description.max_write_batch_size);
            }
            ("lastWrite", RawBsonRef::Document(last_write)) => {
                if let Ok(Some(RawBsonRef::DateTime(date))) = last_write.get("lastWriteDate") {
                    description.last_write_date = Some(date);
                }
                if let Ok(Some(RawBsonRef::Document(op_time))) = last_write.get("opTime")
                    && let Ok(Some(RawBsonRef::Timestamp(ts))) = op_time.get("ts")
                    && let Ok(Some(term)) = op_time.get("t")
                    && let Some(t) = integer(term)
                {
                    description.op_time = Some(OpTime { ts, t });
                }
            }
            _ => {}
        }
    }
    description.topology_version = TopologyVersion::from_reply(reply);
    description.server_type = if mongos {
        ServerType::Mongos
    } else if replica_set {
        ServerType::RsGhost
    } else if description.set_name.is_some() {
        if description.hidden {
            ServerType::RsOther
        } else if primary {
            ServerType::RsPrimary
        } else if secondary {
            ServerType::RsSecondary
        } else if arbiter {
            ServerType::RsArbiter
        } else {
            ServerType::RsOther
        }
    } else {
        ServerType::Standalone
    };
    Ok(description)
}

fn addresses(array: &RawArray) -> Result<BTreeSet<ServerAddress>> {
    let mut hosts = BTreeSet::new();
    for host in array {
        let host = host.map_err(|e| Error::invalid_response(format!("hello: {e}")))?;
        let RawBsonRef::String(host) = host else {
            return Err(Error::invalid_response("hello: a host is not a string"));
        };
        hosts.insert(ServerAddress::parse(host)?);
    }
    Ok(hosts)
}

fn truthy(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Boolean(value) => value,
        value => integer(value).is_some_and(|value| value != 0),
    }
}

fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(value) => Some(i64::from(value)),
        RawBsonRef::Int64(value) => Some(value),
        // Only proxies and test data send whole numbers as doubles.
        RawBsonRef::Double(value) if value.fract() == 0.0 => Some(value as i64),
        _ => None,
    }
}

fn small(value: RawBsonRef<'_>) -> i32 {
    integer(value).and_then(|value| i32::try_from(value).ok()).unwrap_or(0)
}

fn positive(value: RawBsonRef<'_>, otherwise: i32) -> i32 {
    Some(small(value)).filter(|value| *value > 0).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use bson::{Document, RawDocumentBuf, doc};

    use super::*;

    fn read(reply: Document) -> ServerDescription {
        let reply = RawDocumentBuf::try_from(&reply).unwrap();
        let address = ServerAddress::new("a", 27017);
        ServerDescription::from_hello(address, Instant::from_millis(7), &reply)
    }

    #[test]
    fn the_type_is_read_off_the_reply() {
        let cases = [
            (doc! { "ok": 1, "ismaster": true }, ServerType::Standalone),
            (doc! { "ok": 1, "ismaster": true, "msg": "isdbgrid" }, ServerType::Mongos),
            (doc! { "ok": 1, "isreplicaset": true }, ServerType::RsGhost),
            (doc! { "ok": 1, "setName": "rs", "isWritablePrimary": true }, ServerType::RsPrimary),
            (doc! { "ok": 1, "setName": "rs", "secondary": true }, ServerType::RsSecondary),
            (doc! { "ok": 1, "setName": "rs", "arbiterOnly": true }, ServerType::RsArbiter),
            (
                doc! { "ok": 1, "setName": "rs", "secondary": true, "hidden": true },
                ServerType::RsOther,
            ),
            (doc! { "ok": 1, "setName": "rs" }, ServerType::RsOther),
            (doc! { "ok": 0, "setName": "rs", "isWritablePrimary": true }, ServerType::Unknown),
            (doc! {}, ServerType::Unknown),
        ];
        for (reply, expected) in cases {
            let text = reply.to_string();
            assert_eq!(read(reply).server_type, expected, "{text}");
        }
    }

    #[test]
    fn a_members_reply_is_kept_whole() {
        let process_id = ObjectId::from_bytes([1; 12]);
        let server = read(doc! {
            "ok": 1.0, "helloOk": true, "isWritablePrimary": false, "secondary": true,
            "setName": "rs", "setVersion": 3, "me": "A:27017", "primary": "b:27017",
            "hosts": ["A:27017", "b:27017"], "passives": ["c:27017"], "arbiters": ["d:27017"],
            "tags": { "dc": "ny" }, "minWireVersion": 0, "maxWireVersion": 25,
            "maxBsonObjectSize": 100, "maxMessageSizeBytes": 200, "maxWriteBatchSize": 300,
            "logicalSessionTimeoutMinutes": 30,
            "lastWrite": {
                "lastWriteDate": DateTime::from_millis(1234),
                "opTime": { "ts": Timestamp { time: 5, increment: 6 }, "t": 2_i64 },
            },
            "topologyVersion": { "processId": process_id, "counter": 4_i64 },
        });
        let hosts: Vec<_> = server.known_hosts().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a:27017", "b:27017", "c:27017", "d:27017"]);
        assert_eq!(server.me.as_ref(), Some(&server.address));
        assert_eq!(server.last_write_date.map(DateTime::timestamp_millis), Some(1234));
        assert_eq!(server.op_time.map(|op_time| (op_time.ts.time, op_time.t)), Some((5, 2)));
        assert_eq!(server.topology_version, Some(TopologyVersion { process_id, counter: 4 }));
        assert_eq!(server.last_update_time, Some(Instant::from_millis(7)));
        assert_eq!((server.max_bson_object_size, server.max_write_batch_size), (100, 300));
    }

    #[test]
    fn what_changes_with_every_check_is_no_news() {
        let server = || read(doc! { "ok": 1, "setName": "rs", "secondary": true });
        let mut later = server()
            .with_round_trip_times(Some(Duration::from_millis(3)), Duration::from_millis(2));
        later.last_update_time = Some(Instant::from_millis(9));
        later.last_write_date = Some(DateTime::from_millis(9));
        assert_eq!(later, server());
        later.set_version = Some(2);
        assert_ne!(later, server());
    }

    #[test]
    fn a_host_that_is_no_address_makes_the_server_unknown() {
        let server = read(doc! { "ok": 1, "setName": "rs", "hosts": ["a:b:c"] });
        assert_eq!(server.server_type, ServerType::Unknown);
        assert!(server.error.unwrap().to_string().contains("a:b:c"));
    }
}
