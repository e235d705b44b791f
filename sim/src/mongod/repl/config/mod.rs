//! The replica set configuration document: fields, defaults and the rules one document must keep.
//!
//! Source: server behaviour as listed in the manual ("Replica Set Configuration") and measured on a
//! 6.0.5 set; the field order is that of `replSetGetConfig`.

mod read;
mod succession;

pub(super) use succession::compatible;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use crate::mongod::error::{BAD_VALUE, CommandError, INVALID_REPLICA_SET_CONFIG};

/// At most so many members.
pub const MEMBERS_MAX: usize = 50;
/// At most so many of them vote.
pub const VOTERS_MAX: usize = 7;

/// A configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplSetConfig {
    /// `_id`: the set's name.
    pub set_name: Arc<str>,
    /// `version`.
    pub version: i64,
    /// `term`; -1 after a forced reconfiguration.
    pub term: i64,
    /// `members`.
    pub members: Vec<MemberConfig>,
    /// `writeConcernMajorityJournalDefault`.
    pub majority_journal_default: bool,
    /// `settings`.
    pub settings: Settings,
}

/// One element of `members`.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberConfig {
    /// `_id`.
    pub id: i32,
    /// `host`.
    pub host: Arc<str>,
    /// `arbiterOnly`.
    pub arbiter_only: bool,
    /// `newlyAdded`: counts neither as a voter nor as electable until its initial sync is done.
    pub newly_added: bool,
    /// `buildIndexes`.
    pub build_indexes: bool,
    /// `hidden`.
    pub hidden: bool,
    /// `priority`, in millionths: the server's double, without its rounding.
    pub priority_micros: i64,
    /// `tags`.
    pub tags: BTreeMap<String, String>,
    /// `secondaryDelaySecs`.
    pub delay: Duration,
    /// `votes`.
    pub votes: i32,
}

/// `settings`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `chainingAllowed`.
    pub chaining_allowed: bool,
    /// `heartbeatIntervalMillis`.
    pub heartbeat_interval: Duration,
    /// `heartbeatTimeoutSecs`.
    pub heartbeat_timeout: Duration,
    /// `electionTimeoutMillis`.
    pub election_timeout: Duration,
    /// `catchUpTimeoutMillis`; -1: no limit, 0: no catch-up.
    pub catch_up_timeout_millis: i64,
    /// `catchUpTakeoverDelayMillis`; -1: never.
    pub catch_up_takeover_delay_millis: i64,
    /// `getLastErrorModes`: name -> {tag -> distinct values}.
    pub modes: BTreeMap<String, BTreeMap<String, i32>>,
    /// `replicaSetId`.
    pub replica_set_id: Option<ObjectId>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            chaining_allowed: true,
            heartbeat_interval: Duration::from_secs(2),
            heartbeat_timeout: Duration::from_secs(10),
            election_timeout: Duration::from_secs(10),
            catch_up_timeout_millis: -1,
            catch_up_takeover_delay_millis: 30_000,
            modes: BTreeMap::new(),
            replica_set_id: None,
        }
    }
}

impl MemberConfig {
    /// A member with every field at its default.
    pub fn new(id: i32, host: Arc<str>) -> Self {
        MemberConfig {
            id,
            host,
            arbiter_only: false,
            newly_added: false,
            build_indexes: true,
            hidden: false,
            priority_micros: 1_000_000,
            tags: BTreeMap::new(),
            delay: Duration::ZERO,
            votes: 1,
        }
    }

    /// Whether it counts as a voter: `votes: 1` and its initial sync done.
    pub fn is_voter(&self) -> bool {
        self.votes == 1 && !self.newly_added
    }

    /// Whether it may stand for election.
    pub fn is_electable(&self) -> bool {
        self.priority_micros > 0 && !self.arbiter_only && self.is_voter()
    }
}

impl ReplSetConfig {
    /// Whether this configuration is newer than `(version, term)`: by term first, by version alone
    /// if either term is -1.
    pub fn is_newer_than(&self, version: i64, term: i64) -> bool {
        if self.term == -1 || term == -1 {
            self.version > version
        } else {
            (self.term, self.version) > (term, version)
        }
    }

    /// The index of the member at `host`.
    pub fn index_of_host(&self, host: &str) -> Option<usize> {
        self.members.iter().position(|member| same_host(&member.host, host))
    }

    /// The index of the member with `_id` `id`.
    pub fn index_of_id(&self, id: i32) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// `votingMembersCount`.
    pub fn voting_members(&self) -> usize {
        self.members.iter().filter(|member| member.is_voter()).count()
    }

    /// `majorityVoteCount`.
    pub fn majority_vote_count(&self) -> usize {
        self.voting_members() / 2 + 1
    }

    /// `writableVotingMembersCount`.
    pub fn writable_voting_members(&self) -> usize {
        self.members.iter().filter(|member| member.is_voter() && !member.arbiter_only).count()
    }

    /// `writeMajorityCount`.
    pub fn write_majority_count(&self) -> usize {
        self.majority_vote_count().min(self.writable_voting_members())
    }

    /// Members that hold data, whatever their votes.
    pub fn data_bearing_members(&self) -> usize {
        self.members.iter().filter(|member| !member.arbiter_only).count()
    }

    /// Whether the implicit default write concern is majority; otherwise it is w:1 (sets where an
    /// arbiter leaves no spare data-bearing voter).
    pub fn implicit_default_is_majority(&self) -> bool {
        let arbiters = self.voting_members() - self.writable_voting_members();
        arbiters == 0 || self.writable_voting_members() > self.majority_vote_count()
    }

    /// How many members have a strictly higher priority than member `index`.
    pub fn priority_rank(&self, index: usize) -> u32 {
        let mine = self.members[index].priority_micros;
        self.members.iter().filter(|member| member.priority_micros > mine).count() as u32
    }

    /// Checks the rules between the fields of one configuration.
    ///
    /// # Errors
    /// 2 BadValue (or 93) with the rule that is broken; commands wrap it in their own code.
    pub fn validate(&self) -> Result<(), CommandError> {
        let bad = |message: String| Err(CommandError::new(BAD_VALUE, message));
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return bad(format!(
                "Replica set configuration contains {} members, but must have at least 1 and no more than  {MEMBERS_MAX}",
                self.members.len()
            ));
        }
        let local = self.members.iter().filter(|member| is_localhost(&member.host)).count();
        if local != 0 && local != self.members.len() {
            return bad(format!(
                "Either all host names in a replica set configuration must be localhost references, or none must be; found {local} out of {}",
                self.members.len()
            ));
        }
        for (index, member) in self.members.iter().enumerate() {
            if member.arbiter_only && !member.tags.is_empty() {
                return Err(invalid("Cannot set tags on arbiters."));
            }
            if member.arbiter_only && member.priority_micros != 0 {
                return Err(invalid(format!(
                    "Member {} is an arbiter but has priority {}. Arbiter priority must be 0.",
                    member.host,
                    priority_to_double(member.priority_micros)
                )));
            }
            for (earlier, other) in self.members[..index].iter().enumerate() {
                if other.id == member.id {
                    return bad(format!(
                        "Found two member configurations with same _id field, members.{earlier}._id == members.{index}._id == MemberId({})",
                        member.id
                    ));
                }
                if same_host(&other.host, &member.host) {
                    return bad(format!(
                        "Found two member configurations with same host field, members.{earlier}.host == members.{index}.host == {}",
                        member.host
                    ));
                }
            }
        }
        let voters = self.members.iter().filter(|member| member.votes == 1).count();
        if voters == 0 || voters > VOTERS_MAX {
            return bad(format!(
                "Replica set configuration contains {voters} voting members, but must be at least 1 and no more than {VOTERS_MAX}"
            ));
        }
        if self.members.iter().filter(|member| member.arbiter_only).count() > 1 {
            return bad(
                "Multiple arbiters are not allowed unless all nodes were started with with --setParameter 'allowMultipleArbiters=true'".into(),
            );
        }
        if !self.members.iter().any(|member| !member.arbiter_only && member.priority_micros > 0) {
            return bad(
                "Replica set configuration must contain at least one non-arbiter member with priority > 0".into(),
            );
        }
        for tags in self.settings.modes.values() {
            for tag in tags.keys() {
                if !self.members.iter().any(|member| member.tags.contains_key(tag)) {
                    return Err(CommandError::new(
                        4,
                        format!("No replica set tag key {tag} in config"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The document, in the order of `replSetGetConfig`. `newlyAdded` shows only where `internal`.
    pub fn to_document(&self, internal: bool) -> Document {
        let mut document = doc! { "_id": &*self.set_name, "version": self.version as i32 };
        if self.term != -1 {
            document.insert("term", self.term as i32);
        }
        let members: Vec<Bson> =
            self.members.iter().map(|m| m.to_document(internal).into()).collect();
        document.insert("members", members);
        document.insert("protocolVersion", 1_i64);
        document.insert("writeConcernMajorityJournalDefault", self.majority_journal_default);
        let settings = &self.settings;
        let modes: Document = settings
            .modes
            .iter()
            .map(|(mode, tags)| {
                let tags: Document =
                    tags.iter().map(|(tag, count)| (tag.clone(), Bson::Int32(*count))).collect();
                (mode.clone(), Bson::Document(tags))
            })
            .collect();
        let mut shown = doc! {
            "chainingAllowed": settings.chaining_allowed,
            "heartbeatIntervalMillis": settings.heartbeat_interval.as_millis() as i32,
            "heartbeatTimeoutSecs": settings.heartbeat_timeout.as_secs() as i32,
            "electionTimeoutMillis": settings.election_timeout.as_millis() as i32,
            "catchUpTimeoutMillis": settings.catch_up_timeout_millis as i32,
            "catchUpTakeoverDelayMillis": settings.catch_up_takeover_delay_millis as i32,
            "getLastErrorModes": modes,
            "getLastErrorDefaults": { "w": 1, "wtimeout": 0 },
        };
        if let Some(id) = settings.replica_set_id {
            shown.insert("replicaSetId", id);
        }
        document.insert("settings", shown);
        document
    }
}

impl MemberConfig {
    fn validate(&self) -> Result<(), CommandError> {
        let bad = |message: &str| Err(CommandError::new(BAD_VALUE, message));
        if self.arbiter_only && self.votes == 0 {
            return bad("Arbiter must vote (cannot have 0 votes)");
        }
        if self.priority_micros > 0 {
            if self.delay > Duration::ZERO {
                return bad("priority must be 0 when secondaryDelaySecs is used");
            }
            if self.hidden {
                return bad("priority must be 0 when hidden=true");
            }
            if !self.build_indexes {
                return bad("priority must be 0 when buildIndexes=false");
            }
            if self.votes == 0 {
                return bad("priority must be 0 when non-voting (votes:0)");
            }
        }
        if self.delay.as_secs() > 31_622_400 {
            return bad("secondaryDelaySecs field value is out of range");
        }
        Ok(())
    }

    fn to_document(&self, internal: bool) -> Document {
        let mut document =
            doc! { "_id": self.id, "host": &*self.host, "arbiterOnly": self.arbiter_only };
        if internal && self.newly_added {
            document.insert("newlyAdded", true);
        }
        document.insert("buildIndexes", self.build_indexes);
        document.insert("hidden", self.hidden);
        document.insert("priority", priority_to_double(self.priority_micros));
        let tags: Document =
            self.tags.iter().map(|(k, v)| (k.clone(), Bson::String(v.clone()))).collect();
        document.insert("tags", tags);
        document.insert("secondaryDelaySecs", self.delay.as_secs() as i64);
        document.insert("votes", self.votes);
        document
    }
}

/// A priority as the double that replies carry.
pub fn priority_to_double(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// Whether two addresses name one process: loopback has three spellings.
pub fn same_host(one: &str, other: &str) -> bool {
    fn canonical(host: &str) -> (&str, &str) {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "27017"));
        match name {
            "127.0.0.1" | "[::1]" => ("localhost", port),
            name => (name, port),
        }
    }
    one == other || canonical(one) == canonical(other)
}

fn is_localhost(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn invalid(message: impl Into<String>) -> CommandError {
    CommandError::new(INVALID_REPLICA_SET_CONFIG, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(members: Vec<Document>) -> Result<ReplSetConfig, CommandError> {
        let config = ReplSetConfig::from_document(&doc! { "_id": "foo", "members": members })?;
        config.validate().map(|()| config)
    }

    #[test]
    fn a_configuration_shows_every_field_in_the_servers_order() {
        let config = parse(vec![doc! { "_id": 0, "host": "a:27017" }]).unwrap();
        let shown: Vec<_> = config.to_document(false).keys().cloned().collect();
        assert_eq!(
            shown,
            [
                "_id",
                "version",
                "members",
                "protocolVersion",
                "writeConcernMajorityJournalDefault",
                "settings"
            ]
        );
        assert_eq!(ReplSetConfig::from_document(&config.to_document(true)).unwrap(), config);
    }

    #[test]
    fn an_arbiter_has_priority_0_by_default_and_may_not_have_more() {
        let with = |priority: Option<i32>| {
            let mut arbiter = doc! { "_id": 1, "host": "b", "arbiterOnly": true };
            if let Some(priority) = priority {
                arbiter.insert("priority", priority);
            }
            parse(vec![doc! { "_id": 0, "host": "a" }, arbiter])
        };
        assert_eq!(with(None).unwrap().members[1].priority_micros, 0);
        assert_eq!(with(Some(1)).unwrap_err().code, INVALID_REPLICA_SET_CONFIG);
    }

    #[test]
    fn an_arbiter_raises_the_majority_but_not_the_write_majority() {
        let arbiter = doc! { "_id": 2, "host": "c", "arbiterOnly": true };
        let data = |id: i32, host: &str| doc! { "_id": id, "host": host };
        let psa = parse(vec![data(0, "a"), data(1, "b"), arbiter]).unwrap();
        assert_eq!((psa.majority_vote_count(), psa.write_majority_count()), (2, 2));
        assert!(!psa.implicit_default_is_majority());
        let pss = parse(vec![data(0, "a"), data(1, "b"), data(2, "c")]).unwrap();
        assert!(pss.implicit_default_is_majority());
    }

    #[test]
    fn configurations_are_ordered_by_term_then_version_and_by_version_alone_after_a_force() {
        let mut config = parse(vec![doc! { "_id": 0, "host": "a" }]).unwrap();
        (config.version, config.term) = (3, 2);
        assert!(config.is_newer_than(4, 1));
        assert!(config.is_newer_than(2, 2));
        assert!(!config.is_newer_than(3, 2));
        assert!(!config.is_newer_than(1, 3));
        assert!(config.is_newer_than(2, -1));
        assert!(!config.is_newer_than(4, -1));
        config.term = -1;
        assert!(config.is_newer_than(2, 9));
        assert!(!config.is_newer_than(3, 9));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = parse(vec![doc! { "_id": 0, "host": "a", "slaveDelay": 3 }]).unwrap_err();
        assert_eq!(error.code, INVALID_REPLICA_SET_CONFIG);
        assert!(error.message.contains("slaveDelay"), "{}", error.message);
    }
}
