//! How a world is made.

use std::sync::Arc;
use std::time::Duration;

use stepdown_driver::transport::SrvRecords;

use super::core::World;
use super::executor::Shared;
use super::network::Network;
use super::sim::Sim;
use crate::check::Invariants;
use crate::mongod::ServerVersion;
use crate::mongod::storage::DEFAULT_OPLOG_BYTES;
use crate::trace::{Record, Recorder};

/// Describes a world before it begins.
#[derive(Clone, Debug)]
#[must_use = "a world begins with build()"]
pub struct SimBuilder {
    seed: u64,
    set_name: String,
    members: Vec<String>,
    seed_list: bool,
    version: ServerVersion,
    oplog_size_bytes: usize,
    auth: bool,
    record: Record,
    event_cap: usize,
    latency: (Duration, Duration),
    permute_tasks: bool,
    time_limit: Duration,
    check_invariants: bool,
    check_messages: bool,
    srv: Vec<(String, SrvRecords)>,
}

impl SimBuilder {
    pub(crate) fn new() -> Self {
        SimBuilder {
            seed: 1,
            set_name: "foo".into(),
            members: Vec::new(),
            seed_list: true,
            version: ServerVersion::default(),
            oplog_size_bytes: DEFAULT_OPLOG_BYTES,
            auth: false,
            record: Record::default(),
            event_cap: usize::MAX,
            latency: (Duration::from_micros(250), Duration::from_micros(750)),
            permute_tasks: false,
            time_limit: Duration::from_secs(86_400),
            check_invariants: cfg!(debug_assertions),
            check_messages: cfg!(debug_assertions),
            srv: Vec::new(),
        }
    }

    /// The seed all randomness comes from; 1 unless told.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The set's name (`--replSet`); `foo` unless told.
    pub fn set_name(mut self, name: impl Into<String>) -> Self {
        self.set_name = name.into();
        self
    }

    /// Adds `count` members named `a:27017`, `b:27017`, ... `z:27017`, then `m26:27017`, ...
    pub fn members(mut self, count: usize) -> Self {
        for _ in 0..count {
            let number = self.members.len();
            let name = match u8::try_from(number) {
                Ok(letter @ 0..26) => format!("{}:27017", char::from(b'a' + letter)),
                _ => format!("m{number}:27017"),
            };
            self.members.push(name);
        }
        self
    }

    /// Adds one member at `host` (`name:port`; port 27017 if none is given).
    pub fn member(mut self, host: impl Into<String>) -> Self {
        self.members.push(with_port(&host.into()));
        self
    }

    /// Whether each mongod is started with the list of all members (`--replSet foo/a:27017,...`); true
    /// unless told.
    pub fn seed_list(mut self, given: bool) -> Self {
        self.seed_list = given;
        self
    }

    /// How large each member's oplog may grow (`--oplogSize`); 64 MiB unless told.
    pub fn oplog_size_bytes(mut self, bytes: usize) -> Self {
        self.oplog_size_bytes = bytes;
        self
    }

    /// Whether access is controlled (`--auth`); not unless told. Nobody can authenticate unless the
    /// feature `auth` is on.
    pub fn auth(mut self, on: bool) -> Self {
        self.auth = on;
        self
    }

    /// The release the members pretend to be; 8.0 unless told.
    pub fn server_version(mut self, version: ServerVersion) -> Self {
        self.version = version;
        self
    }

    /// How much is recorded; the story unless told.
    pub fn record(mut self, level: Record) -> Self {
        self.record = level;
        self
    }

    /// Keeps only the last `cap` events; all of them unless told.
    pub fn event_cap(mut self, cap: usize) -> Self {
        self.event_cap = cap;
        self
    }

    /// The one-way latency of every link, uniform in `min..=max`; 250 to 750 microseconds unless told.
    pub fn latency(mut self, min: Duration, max: Duration) -> Self {
        self.latency = (min, max);
        self
    }

    /// Polls ready tasks in a seeded order instead of the order they were woken in.
    pub fn permute_tasks(mut self, permute: bool) -> Self {
        self.permute_tasks = permute;
        self
    }

    /// How long a `block_on` may take in virtual time before it panics; one day unless told.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Whether the invariants of a set are checked after each thing a member does; in debug builds
    /// unless told.
    pub fn check_invariants(mut self, check: bool) -> Self {
        self.check_invariants = check;
        self
    }

    /// Whether each message between members is sent through its document and back, which must not
    /// change it; in debug builds unless told.
    pub fn check_messages(mut self, check: bool) -> Self {
        self.check_messages = check;
        self
    }

    /// What DNS says about `name` (`_mongodb._tcp.example.com`).
    pub fn srv(mut self, name: impl Into<String>, records: SrvRecords) -> Self {
        self.srv.push((name.into(), records));
        self
    }

    /// The world begins: every mongod is started, nothing is initiated.
    ///
    /// # Panics
    /// If two members have the same name.
    pub fn build(self) -> Sim {
        let network = Network::new(self.latency.0, self.latency.1);
        let recorder = Recorder::new(self.record, self.event_cap);
        let mut world = World::new(self.seed, network, recorder);
        world.set_name = self.set_name.into();
        world.seed_list = self.seed_list;
        world.version = self.version;
        world.oplog_size_bytes = self.oplog_size_bytes;
        world.auth = self.auth;
        world.invariants = self.check_invariants.then(Invariants::new);
        world.check_messages = self.check_messages;
        world.srv = self.srv;
        for host in self.members {
            let host: Arc<str> = host.into();
            assert!(world.node_at(&host).is_none(), "two members are named {host}");
            world.add_node(host);
        }
        for node in 0..world.nodes.len() as u32 {
            world.start_process(node);
        }
        Sim::own(Shared::new(world, self.permute_tasks, self.time_limit))
    }
}

/// A member's address as drivers spell it: in lower case, with a port.
pub(crate) fn with_port(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains(':') { host } else { host + ":27017" }
}
