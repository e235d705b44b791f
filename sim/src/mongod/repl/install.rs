//! Making a configuration the present one: what heartbeats bring, what commands decide.

use std::sync::Arc;

use bson::RawDocumentBuf;
use stepdown_driver::Instant;

use super::Member;
use super::config::ReplSetConfig;
use super::sync::SyncState;
use crate::mongod::timer::{HeartbeatTimers, Timer};
use crate::mongod::{Landmark, Mongod, WAKE_STATE};
use crate::trace::EventKind;

impl Mongod {
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
        self.pass(Landmark::ConfigHeard);
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
            _ => {
                self.abandon_rollback(now);
                self.repl.sync = SyncState::Idle;
            }
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
                self.abandon_rollback(now);
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
}
