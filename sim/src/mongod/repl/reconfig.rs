//! Initiation and reconfiguration: what the commands demand and do.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::config::{MemberConfig, ReplSetConfig, compatible, same_host};
use super::{ElectionReason, Position};
use crate::mongod::command::wait::Waiting;
use crate::mongod::error::{
    ALREADY_INITIALIZED, CONFIGURATION_IN_PROGRESS, CommandError, INVALID_REPLICA_SET_CONFIG,
    NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE, NO_REPLICATION_ENABLED, NODE_NOT_ELECTABLE,
    NODE_NOT_FOUND, NOT_WRITABLE_PRIMARY, NOT_YET_INITIALIZED, PRIMARY_STEPPED_DOWN,
};
use crate::mongod::oplog_entry::{OpKind, OplogEntry};
use crate::mongod::optime::OpTime;
use crate::mongod::storage::text::shell_document;
use crate::mongod::{Landmark, Mongod, WAKE_STATE};
use crate::trace::MemberState;

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

    pub(super) fn finish_initiate(&mut self, now: Instant, config: Arc<ReplSetConfig>) {
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

    pub(super) fn finish_reconfig(
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
        self.pass(Landmark::Reconfigured);
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
        if crate::mongod::planted::is(crate::mongod::planted::ServerBug::ReconfiguresUnsafely) {
            return true;
        }
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
