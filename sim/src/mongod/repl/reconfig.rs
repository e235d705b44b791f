//! Installing configurations: initiation, reconfiguration, what heartbeats bring.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::config::{MemberConfig, ReplSetConfig, same_host};
use super::sync::SyncState;
use super::{ElectionReason, Member, Position};
use crate::mongod::command::wait::Waiting;
use crate::mongod::error::{
    ALREADY_INITIALIZED, CANNOT_INITIALIZE_NODE_WITH_DATA, CONFIGURATION_IN_PROGRESS, CommandError,
    INVALID_REPLICA_SET_CONFIG, NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE, NO_REPLICATION_ENABLED,
    NODE_NOT_ELECTABLE, NODE_NOT_FOUND, NOT_WRITABLE_PRIMARY, NOT_YET_INITIALIZED,
    PRIMARY_STEPPED_DOWN,
};
use crate::mongod::oplog_entry::{OpKind, OplogEntry};
use crate::mongod::optime::OpTime;
use crate::mongod::peer::{PeerFailure, PeerReply};
use crate::mongod::storage::text::shell_document;
use crate::mongod::timer::{HeartbeatTimers, Timer};
use crate::mongod::{Mongod, RpcId, WAKE_STATE};
use crate::trace::{EventKind, MemberState};

/// A question to every member of a proposed configuration.
#[derive(Debug)]
pub(crate) struct QuorumCheck {
    pub config: Arc<ReplSetConfig>,
    /// An initiation: everybody must answer and be empty.
    pub initiate: bool,
    pub pending: Vec<(RpcId, usize)>,
    pub answered: Vec<usize>,
    pub failures: Vec<String>,
    pub error: Option<CommandError>,
    pub deadline: Instant,
}

impl Mongod {
    // ---- initiation

    /// `replSetInitiate`: checks the configuration, then asks everybody in it.
    ///
    /// # Errors
    /// 76, 23, 93, 104 as a server answers them.
    pub(crate) fn begin_initiate(
        &mut self,
        now: Instant,
        given: Option<&Document>,
    ) -> Result<(), CommandError> {
        let Some(set_name) = self.repl.set_name.clone() else {
            return Err(CommandError::new(
                NO_REPLICATION_ENABLED,
                "This node was not started with replication enabled.",
            ));
        };
        if self.repl.config.is_some() {
            return Err(CommandError::new(ALREADY_INITIALIZED, "already initialized"));
        }
        if self.repl.quorum_check.is_some() {
            return Err(CommandError::new(
                ALREADY_INITIALIZED,
                "replSetInitiate is already in progress",
            ));
        }
        let mut config = match given {
            Some(given) => initial_config(given)?,
            None => self.default_config(&set_name),
        };
        config.term = 0;
        if config.set_name != set_name {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                format!(
                    "Rejecting initiate with a set name that differs from command line set name, initiate set name: {}, command line set name: {set_name}",
                    config.set_name
                ),
            ));
        }
        config
            .validate()
            .map_err(|error| CommandError::new(INVALID_REPLICA_SET_CONFIG, error.message))?;
        if config.version != 1 {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                format!(
                    "Configuration used to initiate a replica set must  have version 1, but found {}",
                    config.version
                ),
            ));
        }
        if config.settings.replica_set_id.is_some() {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                format!(
                    "replica set configuration cannot contain 'replicaSetId' field when called from replSetInitiate: {}",
                    given.map(shown_with_version).unwrap_or_default()
                ),
            ));
        }
        let Some(own) = config.index_of_host(&self.options.host) else {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                format!(
                    "No host described in new configuration with {{version: {}, term: {}}} for replica set {} maps to this node",
                    config.version, config.term, config.set_name
                ),
            ));
        };
        if !config.members[own].is_electable() {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                format!(
                    "This node, {}, with _id MemberId({}) is not electable under the new configuration with {{version: {}, term: {}}} for replica set {}",
                    config.members[own].host,
                    config.members[own].id,
                    config.version,
                    config.term,
                    config.set_name
                ),
            ));
        }
        config.settings.replica_set_id = Some(self.new_object_id(now));
        self.begin_quorum_check(now, Arc::new(config), own, true);
        Ok(())
    }

    /// No configuration was given: the members named at start, or this one alone.
    fn default_config(&self, set_name: &Arc<str>) -> ReplSetConfig {
        let seeds = self.options.repl_set.as_ref().map_or(&[][..], |option| &option.seeds[..]);
        let mut hosts = vec![self.options.host.clone()];
        hosts.extend(seeds.iter().filter(|seed| !same_host(seed, &self.options.host)).cloned());
        let members = hosts.into_iter().zip(0..).map(|(host, id)| MemberConfig::new(id, host));
        ReplSetConfig {
            set_name: set_name.clone(),
            version: 1,
            term: 0,
            members: members.collect(),
            majority_journal_default: true,
            settings: super::config::Settings::default(),
        }
    }

    fn begin_quorum_check(
        &mut self,
        now: Instant,
        config: Arc<ReplSetConfig>,
        own: usize,
        initiate: bool,
    ) {
        let timeout = config.settings.heartbeat_timeout;
        let mut pending = Vec::new();
        for (index, member) in config.members.iter().enumerate() {
            if index == own {
                continue;
            }
            let rpc =
                self.send_quorum_heartbeat(&member.host, (config.version, config.term), initiate);
            pending.push((rpc, index));
        }
        let deadline = now + timeout;
        self.timers.set_earlier(Timer::Parked, deadline);
        self.repl.quorum_check = Some(Box::new(QuorumCheck {
            config,
            initiate,
            pending,
            answered: vec![own],
            failures: Vec::new(),
            error: None,
            deadline,
        }));
        self.settle_quorum_check(now);
    }

    /// An answer to a quorum check.
    pub(crate) fn on_quorum_reply(
        &mut self,
        now: Instant,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        let Some(check) = &mut self.repl.quorum_check else { return };
        let Some(place) = check.pending.iter().position(|(asked, _)| *asked == rpc) else { return };
        let (_, index) = check.pending.remove(place);
        let host = check.config.members[index].host.clone();
        match outcome {
            Ok(PeerReply::Heartbeat(reply)) => {
                if check.initiate && reply.has_data {
                    check.error.get_or_insert(CommandError::new(
                        CANNOT_INITIALIZE_NODE_WITH_DATA,
                        format!("'{host}' has data already, cannot initiate set."),
                    ));
                } else if reply.config_version >= check.config.version
                    && reply.config_term >= check.config.term
                {
                    check.error.get_or_insert(CommandError::new(
                        NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
                        format!(
                            "Our config version is {} and the one of {host} is {}; cannot proceed",
                            check.config.version, reply.config_version
                        ),
                    ));
                } else {
                    check.answered.push(index);
                }
            }
            Ok(PeerReply::Error(error)) => {
                check.error.get_or_insert(CommandError::new(
                    NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
                    format!("{host}: {}", error.message),
                ));
            }
            Ok(_) => unreachable!("a heartbeat is answered by a heartbeat reply or an error"),
            Err(failure) => {
                let why = match failure {
                    PeerFailure::Refused => "Connection refused",
                    PeerFailure::Reset => "Connection reset by peer",
                    PeerFailure::UnknownHost => "Could not find address",
                };
                check.failures.push(format!(
                    "{host} failed with Error connecting to {host} :: caused by :: {why}"
                ));
            }
        }
        self.settle_quorum_check(now);
    }

    /// Ends a quorum check that has heard enough, or waited long enough.
    pub(crate) fn settle_quorum_check(&mut self, now: Instant) {
        let Some(check) = &mut self.repl.quorum_check else { return };
        if check.deadline <= now {
            for (_, index) in std::mem::take(&mut check.pending) {
                let host = &check.config.members[index].host;
                check.failures.push(format!("{host} failed with Request timed out"));
            }
        }
        if !check.pending.is_empty() && check.error.is_none() {
            return;
        }
        let check = self.repl.quorum_check.take().expect("just seen");
        let outcome = match (&check.error, check.initiate) {
            (Some(error), _) => Err(error.clone()),
            (None, true) if !check.failures.is_empty() => Err(CommandError::new(
                NODE_NOT_FOUND,
                format!(
                    "replSetInitiate quorum check failed because not all proposed set members responded affirmatively: {}",
                    check.failures.join(", ")
                ),
            )),
            (None, true) => Ok(()),
            (None, false) => quorum_of_reconfig(&check),
        };
        let outcome = outcome.and_then(|()| {
            if check.initiate {
                self.finish_initiate(now, check.config.clone());
                Ok(())
            } else {
                self.finish_reconfig(now, check.config.clone())
            }
        });
        match outcome {
            Ok(()) if check.initiate => self.finish_waiting(now, Waiting::Quorum, Ok(())),
            // A reconfiguration goes on waiting: for a majority to have installed it.
            Ok(()) => self.reconfig_progress(now),
            Err(error) => self.finish_waiting(now, Waiting::Quorum, Err(error)),
        }
    }

    /// The role is lost: a check in progress ends with it.
    pub(crate) fn abandon_quorum_check(&mut self, now: Instant) {
        if self.repl.quorum_check.as_ref().is_some_and(|check| !check.initiate) {
            self.repl.quorum_check = None;
            let error =
                CommandError::new(PRIMARY_STEPPED_DOWN, "Primary stepped down during reconfig");
            self.finish_waiting(now, Waiting::Quorum, Err(error));
        }
    }

    fn finish_initiate(&mut self, now: Instant, config: Arc<ReplSetConfig>) {
        self.store_config(&config);
        // The first entry has no term; it is committed by itself.
        let ts = self.tick_cluster_clock(now);
        let entry = Arc::new(OplogEntry {
            optime: OpTime::new(ts, -1),
            wall_millis: self.wall_millis(now),
            kind: OpKind::Noop,
            ns: self.empty_namespace.clone(),
            collection_uuid: None,
            object: self.noop_object("initiating set"),
            object2: None,
            upsert: false,
            session: None,
            cache: Default::default(),
        });
        self.storage.append(entry.clone()).expect("a no-op always applies");
        self.storage.flush_journal();
        let position = Position { optime: entry.optime, wall_millis: entry.wall_millis };
        self.repl.applied = position;
        self.repl.durable = position;
        self.install_config(now, config, "replSetInitiate");
        self.set_commit_point(now, position);
        self.set_follower(now, MemberState::Recovering, "initiated");
        self.set_follower(now, MemberState::Secondary, "consistent");
        self.arm_election_timer(now);
        self.elect_single_node(now);
    }

    // ---- reconfiguration

    /// `replSetReconfig` without `force`: the checks of a safe reconfiguration; then asks everybody.
    ///
    /// # Errors
    /// 94, 10107, 109, 93, 103, 104 as a server answers them. `Ok(false)`: the present configuration
    /// is not committed yet, come back.
    pub(crate) fn begin_reconfig(
        &mut self,
        now: Instant,
        given: &Document,
    ) -> Result<bool, CommandError> {
        let Some(old) = self.repl.config.clone() else {
            return Err(not_yet_initialized());
        };
        if !self.repl.is_writable() {
            return Err(CommandError::new(
                NOT_WRITABLE_PRIMARY,
                format!(
                    "New config is rejected :: caused by :: replSetReconfig should only be run on a writable PRIMARY. Current state {};",
                    self.repl.state()
                ),
            ));
        }
        if self.repl.quorum_check.is_some() {
            return Err(CommandError::new(
                CONFIGURATION_IN_PROGRESS,
                "Cannot run replSetReconfig because the node is currently updating its configuration",
            ));
        }
        let mut new = ReplSetConfig::from_document(given)?;
        if new.members.iter().any(|member| member.newly_added) {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                "replSetReconfig should not include the newlyAdded field",
            ));
        }
        if !self.config_is_committed() {
            return Ok(false);
        }
        new.term = self.repl.term;
        new.settings.replica_set_id = new.settings.replica_set_id.or(old.settings.replica_set_id);
        for member in &mut new.members {
            let before = old.members.iter().find(|m| m.id == member.id);
            member.newly_added = member.votes == 1
                && !member.arbiter_only
                && before.is_none_or(|before| before.votes == 0 || before.newly_added);
        }
        compatible(&old, &new, false).map_err(incompatible)?;
        let own = self.index_in(&new)?;
        self.begin_quorum_check(now, Arc::new(new), own, false);
        Ok(true)
    }

    /// `replSetReconfig` with `force`: on any member that has a configuration, without asking anybody.
    ///
    /// # Errors
    /// 94, 93, 103 as a server answers them.
    pub(crate) fn force_reconfig(
        &mut self,
        now: Instant,
        given: &Document,
    ) -> Result<(), CommandError> {
        let Some(old) = self.repl.config.clone() else {
            return Err(not_yet_initialized());
        };
        let mut new = ReplSetConfig::from_document(given)?;
        let jump = 10_000 + self.random.below(100_000) as i64;
        new.version = new.version.max(old.version).saturating_add(jump);
        new.term = -1;
        new.settings.replica_set_id = new.settings.replica_set_id.or(old.settings.replica_set_id);
        compatible(&old, &new, true).map_err(incompatible)?;
        self.index_in(&new)?;
        self.store_config(&new);
        self.install_config(now, Arc::new(new), "replSetReconfig with force");
        // Whoever is left as the whole set does not wait for a timeout, though it says that it did: so a real
        // member of 6.0.5 does.
        self.elect_alone(now, ElectionReason::ElectionTimeout);
        Ok(())
    }

    fn index_in(&self, config: &ReplSetConfig) -> Result<usize, CommandError> {
        let Some(own) = config.index_of_host(&self.options.host) else {
            return Err(CommandError::new(
                NODE_NOT_FOUND,
                format!(
                    "No host described in new configuration with {{version: {}, term: {}}} for replica set {} maps to this node",
                    config.version, config.term, config.set_name
                ),
            ));
        };
        if self.repl.leader.is_some() && !config.members[own].is_electable() {
            return Err(CommandError::new(
                NODE_NOT_ELECTABLE,
                format!(
                    "This node, {}, with _id MemberId({}) is not electable under the new configuration with {{version: {}, term: {}}} for replica set {}",
                    config.members[own].host,
                    config.members[own].id,
                    config.version,
                    config.term,
                    config.set_name
                ),
            ));
        }
        Ok(own)
    }

    fn finish_reconfig(
        &mut self,
        now: Instant,
        config: Arc<ReplSetConfig>,
    ) -> Result<(), CommandError> {
        if !self.repl.is_writable() {
            return Err(CommandError::new(
                PRIMARY_STEPPED_DOWN,
                "Primary stepped down during reconfig",
            ));
        }
        self.store_config(&config);
        self.log_reconfig(now, config.version);
        self.install_config(now, config, "replSetReconfig");
        Ok(())
    }

    fn log_reconfig(&mut self, now: Instant, version: i64) {
        let draft = crate::mongod::command::OplogDraft {
            kind: OpKind::Noop,
            ns: self.empty_namespace.clone(),
            collection_uuid: None,
            object: Arc::new(rawdoc! { "msg": "Reconfig set", "version": version as i32 }),
            object2: None,
            upsert: false,
            session: None,
        };
        self.log(now, draft).expect("a no-op always applies");
        self.storage_flush_soon(now);
    }

    /// Whether a majority of the voters has the present configuration, and what was committed before
    /// it is committed in it.
    pub(crate) fn config_is_committed(&self) -> bool {
        let Some(config) = &self.repl.config else { return false };
        let Some(leader) = &self.repl.leader else { return false };
        self.config_is_spread()
            && self.repl.commit.optime >= leader.first_optime
            && config.term <= self.repl.term
    }

    /// Whether a majority of the voters has installed the present configuration.
    pub(crate) fn config_is_spread(&self) -> bool {
        let Some(config) = &self.repl.config else { return false };
        let having = config
            .members
            .iter()
            .enumerate()
            .filter(|(index, member)| {
                let theirs = &self.repl.members[*index];
                member.is_voter()
                    && (Some(*index) == self.repl.self_index
                        || (theirs.config_version, theirs.config_term)
                            == (config.version, config.term))
            })
            .count();
        having >= config.majority_vote_count()
    }

    /// Something was heard that may let a waiting reconfiguration go on.
    pub(crate) fn reconfig_progress(&mut self, now: Instant) {
        if self.repl.leader.is_none() || self.repl.quorum_check.is_some() {
            return;
        }
        if self.waits_for(Waiting::Quorum) && self.config_is_spread() {
            self.finish_waiting(now, Waiting::Quorum, Ok(()));
        }
        if self.waits_for(Waiting::ConfigCommitted) && self.config_is_committed() {
            self.wake(WAKE_STATE);
        }
    }

    /// A new voter has its data: from now on it counts.
    pub(crate) fn drop_newly_added(&mut self, now: Instant, index: usize) {
        let Some(config) = &self.repl.config else { return };
        let synced = matches!(
            self.repl.members[index].state,
            MemberState::Secondary | MemberState::Recovering | MemberState::Rollback
        );
        if !config.members[index].newly_added
            || !synced
            || !self.repl.is_writable()
            || self.repl.quorum_check.is_some()
            || !self.config_is_committed()
            // There is no version after the last one.
            || config.version >= i64::from(i32::MAX)
        {
            return;
        }
        let mut new = (**config).clone();
        new.members[index].newly_added = false;
        new.version += 1;
        new.term = self.repl.term;
        self.store_config(&new);
        self.log_reconfig(now, new.version);
        let host = new.members[index].host.clone();
        self.install_config(now, Arc::new(new), &format!("{host} is no longer newly added"));
    }

    // ---- installing

    /// A heartbeat reply brought a configuration.
    pub(crate) fn config_heard(&mut self, now: Instant, config: Arc<ReplSetConfig>) {
        let newer = self
            .repl
            .config
            .as_ref()
            .is_none_or(|mine| config.is_newer_than(mine.version, mine.term));
        let busy = self.repl.election.is_some()
            || self.repl.quorum_check.is_some()
            || (self.repl.leader.is_some() && !self.repl.is_writable() && config.term != -1);
        if !newer || busy || self.repl.set_name.as_ref() != Some(&config.set_name) {
            return;
        }
        if config.validate().is_err() {
            return;
        }
        self.store_config(&config);
        self.install_config(now, config, "heard by heartbeat");
    }

    /// Keeps a configuration on disk.
    pub(crate) fn store_config(&mut self, config: &ReplSetConfig) {
        let document = RawDocumentBuf::try_from(&config.to_document(true))
            .expect("a configuration document is encodable");
        self.storage.set_local_document("system.replset", document);
    }

    /// Makes a configuration the present one.
    pub(crate) fn install_config(&mut self, now: Instant, config: Arc<ReplSetConfig>, why: &str) {
        let before = self.repl.config.replace(config.clone());
        let mut known: Vec<(Arc<str>, Member)> = match before {
            Some(before) => before
                .members
                .iter()
                .map(|member| member.host.clone())
                .zip(std::mem::take(&mut self.repl.members))
                .collect(),
            None => Vec::new(),
        };
        let old_source = self.repl.sync.source().map(|index| known[index].0.clone());
        let old_primary = self.repl.primary.map(|index| known[index].0.clone());
        self.lose_election(now, "a new configuration was installed".into());
        self.cancel_takeover(now, "a new configuration was installed");
        // A configuration of another set, left on the disk by a process with another --replSet, is one
        // without this member.
        let is_own_set = self.repl.set_name.as_ref() == Some(&config.set_name);
        self.repl.self_index = config.index_of_host(&self.options.host).filter(|_| is_own_set);
        for (index, its) in config.members.iter().enumerate() {
            let place = known.iter().position(|(host, _)| *host == its.host);
            let mut member = match place {
                Some(place) => known.swap_remove(place).1,
                None => {
                    let peer = if Some(index) == self.repl.self_index {
                        crate::mongod::PeerId(u32::MAX)
                    } else {
                        self.peer_id(&its.host)
                    };
                    Member::new(peer, now)
                }
            };
            // Requests carry the index: what is in flight belongs to the old configuration.
            member.rpc = None;
            member.vote_rpc = None;
            self.repl.members.push(member);
        }
        let find = |host: Option<Arc<str>>| {
            host.and_then(|host| config.members.iter().position(|member| member.host == host))
        };
        let primary = find(old_primary);
        self.repl.primary = primary;
        let source = find(old_source);
        match (&mut self.repl.sync, source) {
            (SyncState::Fetching(fetching), Some(source)) => fetching.source = source,
            (SyncState::RollingBack(rollback), Some(source)) => rollback.source = source,
            (SyncState::InitialSync(sync), Some(source)) => sync.source = Some(source),
            (SyncState::InitialSync(sync), None) => sync.source = None,
            _ => self.repl.sync = SyncState::Idle,
        }
        if let SyncState::InitialSync(sync) = &mut self.repl.sync
            && sync.source.is_none()
        {
            sync.rpc = None;
            sync.copied = None;
            self.timers.set(Timer::Sync, now);
        }
        self.repl.heartbeats = HeartbeatTimers::new(config.members.len(), now);
        if let Some(own) = self.repl.self_index {
            self.repl.heartbeats.set(own, Instant::NEVER);
        } else {
            self.repl.heartbeats.stop_all();
        }
        self.timers.set(Timer::Liveness, now + self.election_timeout());
        self.event(now, || EventKind::ConfigInstalled {
            version: config.version,
            term: config.term,
            why: why.to_owned(),
        });
        if self.repl.leader.is_some() && !self.repl.is_electable() {
            self.step_down(now, "I am not electable in the new configuration");
        }
        // Measured: a new configuration and the state it brings are one change.
        let counter = self.repl.topology_counter;
        self.bump_topology();
        self.state_changed(now, why);
        self.repl.topology_counter = counter + 1;
        match self.repl.self_index {
            None => {
                self.repl.sync = SyncState::Idle;
                self.close_all_clients();
            }
            Some(own) if !config.members[own].arbiter_only => {
                if matches!(self.repl.sync, SyncState::Idle) && self.repl.leader.is_none() {
                    self.timers.set_earlier(Timer::Sync, now);
                }
            }
            Some(_) => {}
        }
        self.arm_election_timer(now);
        self.wake(WAKE_STATE);
    }

    /// An id for the set, from this member's own stream.
    pub(crate) fn new_object_id(&mut self, now: Instant) -> ObjectId {
        let seconds = (self.wall_millis(now) / 1_000) as u32;
        let mut bytes = [0; 12];
        self.random.fill(&mut bytes[4..]);
        bytes[..4].copy_from_slice(&seconds.to_be_bytes());
        ObjectId::from_bytes(bytes)
    }
}

/// A given configuration as the server shows it: it has its version by then.
fn shown_with_version(given: &Document) -> String {
    let mut given = given.clone();
    if !given.contains_key("version") {
        given.insert("version", 1);
    }
    RawDocumentBuf::try_from(&given).map_or_else(|_| String::new(), |raw| shell_document(&raw))
}

fn initial_config(given: &Document) -> Result<ReplSetConfig, CommandError> {
    let config = ReplSetConfig::from_document(given)?;
    if config.members.iter().any(|member| member.newly_added) {
        return Err(CommandError::new(
            INVALID_REPLICA_SET_CONFIG,
            "replSetInitiate should not include the newlyAdded field",
        ));
    }
    Ok(config)
}

fn not_yet_initialized() -> CommandError {
    CommandError::new(NOT_YET_INITIALIZED, "no replset config has been received")
}

fn incompatible(error: CommandError) -> CommandError {
    if error.code == INVALID_REPLICA_SET_CONFIG {
        return error;
    }
    CommandError::new(NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE, error.message)
}

fn quorum_of_reconfig(check: &QuorumCheck) -> Result<(), CommandError> {
    let config = &check.config;
    let voters = check.answered.iter().filter(|&&index| config.members[index].is_voter()).count();
    let electable = check.answered.iter().any(|&index| config.members[index].is_electable());
    if voters >= config.majority_vote_count() && electable {
        return Ok(());
    }
    Err(CommandError::new(
        NODE_NOT_FOUND,
        format!(
            "Quorum check failed because not enough voting nodes responded; required {} but only the following {voters} voting nodes responded: {}; the following nodes did not respond affirmatively: {}",
            config.majority_vote_count(),
            check
                .answered
                .iter()
                .map(|&index| config.members[index].host.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            check.failures.join(", ")
        ),
    ))
}

/// The rules between a configuration and its successor.
fn compatible(old: &ReplSetConfig, new: &ReplSetConfig, force: bool) -> Result<(), CommandError> {
    let refused = |message: String| {
        Err(CommandError::new(NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE, message))
    };
    if new.set_name != old.set_name {
        return Err(CommandError::new(
            INVALID_REPLICA_SET_CONFIG,
            format!(
                "Rejecting reconfig where new config set name differs from command line set name, new config set name: {}, old config set name: {}",
                new.set_name, old.set_name
            ),
        ));
    }
    if new.implicit_default_is_majority() != old.implicit_default_is_majority() {
        return refused(
            "Reconfig attempted to install a config that would change the implicit default write concern. Use the setDefaultRWConcern command to set a cluster-wide write concern and try the reconfig again.".into(),
        );
    }
    new.validate()?;
    if new.settings.replica_set_id != old.settings.replica_set_id {
        let shown = |id: Option<ObjectId>| id.map(|id| id.to_hex()).unwrap_or_default();
        return refused(format!(
            "New and old configurations differ in replica set ID; old was {}, and new is {}",
            shown(old.settings.replica_set_id),
            shown(new.settings.replica_set_id)
        ));
    }
    if new.version <= old.version {
        return refused(format!(
            "New replica set configuration version and term must be greater than old, but {{version: {}, term: {}}} is not greater than {{version: {}, term: {}}} for replica set {}",
            new.version, new.term, old.version, old.term, new.set_name
        ));
    }
    for member in &new.members {
        for before in &old.members {
            let (same_id, same_address) =
                (member.id == before.id, same_host(&member.host, &before.host));
            if same_address && !same_id {
                return refused(format!(
                    "New and old configurations both have members with host of {} but in the new configuration the _id field is MemberId({}) and in the old configuration it is MemberId({}) for replica set {}",
                    member.host, member.id, before.id, new.set_name
                ));
            }
            if same_id && same_address {
                if member.build_indexes != before.build_indexes {
                    return refused(format!(
                        "New and old configurations differ in the setting of the buildIndexes field for member {}; to make this change, remove then re-add the member",
                        member.host
                    ));
                }
                if member.arbiter_only != before.arbiter_only {
                    return refused(format!(
                        "New and old configurations differ in the setting of the arbiterOnly field for member {}; to make this change, remove then re-add the member",
                        member.host
                    ));
                }
            }
        }
    }
    if !force {
        let votes = |config: &ReplSetConfig| -> Vec<i32> {
            config.members.iter().filter(|m| m.votes == 1).map(|m| m.id).collect()
        };
        let (before, after) = (votes(old), votes(new));
        let added = after.iter().filter(|id| !before.contains(id)).count();
        let removed = before.iter().filter(|id| !after.contains(id)).count();
        if added + removed > 1 {
            return refused(
                "Non force replica set reconfig can only add or remove at most 1 voting member."
                    .into(),
            );
        }
    }
    Ok(())
}
