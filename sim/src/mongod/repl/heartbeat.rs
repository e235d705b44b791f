//! Heartbeats: who is alive, who leads, whose configuration is newer.

use std::sync::Arc;
use std::time::Duration;

use stepdown_driver::Instant;

use super::{ElectionReason, Position, RpcKind};
use crate::mongod::error::{BAD_VALUE, CommandError, INCONSISTENT_REPLICA_SET_NAMES};
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::peer::{Heartbeat, HeartbeatReply, PeerFailure, PeerReply, PeerRequest};
use crate::mongod::timer::Timer;
use crate::mongod::{Mongod, RpcId};
use crate::trace::{EventKind, MemberState};

/// Retries after a failed heartbeat before the member is held down.
const RETRIES_MAX: u8 = 2;
/// Boxes kept for the next heartbeats.
const SPARES_MAX: usize = 64;

/// A member gets as many heartbeats as it sends: the boxes that came in go out again.
#[derive(Debug, Default)]
pub(crate) struct SpareBoxes {
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is kept")]
    heartbeats: Vec<Box<Heartbeat>>,
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is kept")]
    replies: Vec<Box<HeartbeatReply>>,
}

impl SpareBoxes {
    pub(crate) fn keep_heartbeat(&mut self, heartbeat: Box<Heartbeat>) {
        if self.heartbeats.len() < SPARES_MAX {
            self.heartbeats.push(heartbeat);
        }
    }

    fn keep_reply(&mut self, reply: Box<HeartbeatReply>) {
        if self.replies.len() < SPARES_MAX {
            self.replies.push(reply);
        }
    }
}

impl Mongod {
    /// Sends what is due, and gives up on what was not answered in time.
    pub(crate) fn fire_heartbeats(&mut self, now: Instant) {
        if self.repl.heartbeats.next() > now {
            return;
        }
        for index in 0..self.repl.heartbeats.len() {
            if !self.repl.heartbeats.is_due(index, now) {
                continue;
            }
            if self.repl.members[index].rpc.take().is_some() {
                self.heartbeat_failed(now, index, "Request timed out", true);
            } else {
                self.repl.members[index].first_try_at = now;
                self.repl.members[index].tries = 0;
                self.send_heartbeat(now, index);
            }
        }
        self.repl.heartbeats.refresh();
    }

    /// Sends heartbeats to everyone now: an election was won, or something new was heard.
    pub(crate) fn restart_heartbeats(&mut self, now: Instant) {
        for index in 0..self.repl.members.len() {
            if Some(index) == self.repl.self_index {
                continue;
            }
            let member = &mut self.repl.members[index];
            member.rpc = None;
            member.first_try_at = now;
            member.tries = 0;
            self.send_heartbeat(now, index);
        }
    }

    fn heartbeat_to(&mut self, with_sender: bool, check_empty: bool) -> Box<Heartbeat> {
        let filled = self.filled_heartbeat(with_sender, check_empty);
        match self.spare_boxes.heartbeats.pop() {
            Some(mut spare) => {
                *spare = filled;
                spare
            }
            None => Box::new(filled),
        }
    }

    fn filled_heartbeat(&self, with_sender: bool, check_empty: bool) -> Heartbeat {
        let repl = &self.repl;
        let (config_version, config_term) =
            repl.config.as_ref().map_or((-2, -1), |config| (config.version, config.term));
        Heartbeat {
            set_name_hash: repl.set_name_hash,
            check_empty,
            config_version,
            config_term,
            from_id: repl.own().map_or(-1, |own| own.id),
            from: with_sender.then(|| self.options.host.clone()),
            term: repl.term,
            primary_id: self.primary_id(),
        }
    }

    /// The `_id` of the member believed primary; -1 for nobody.
    pub(crate) fn primary_id(&self) -> i32 {
        match (&self.repl.config, self.repl.primary) {
            (Some(config), Some(index)) => config.members[index].id,
            _ => -1,
        }
    }

    fn send_heartbeat(&mut self, now: Instant, index: usize) {
        let Some(config) = &self.repl.config else { return };
        let timeout = config.settings.heartbeat_timeout;
        let (version, term) = (config.version, config.term);
        let rpc = self.repl.next_rpc(RpcKind::Heartbeat, index);
        let member = &mut self.repl.members[index];
        member.rpc = Some(rpc);
        member.sent_at = now;
        let peer = member.peer;
        let knows_us = member.config_version == version && member.config_term == term;
        // All tries of one heartbeat share one time budget.
        let by = member.first_try_at + timeout;
        self.repl.heartbeats.set(index, by);
        let heartbeat = self.heartbeat_to(!knows_us, false);
        self.request(peer, rpc, PeerRequest::Heartbeat(heartbeat));
    }

    /// Asks a member that sent something newer for its configuration.
    pub(crate) fn send_probe(&mut self, now: Instant, host: &Arc<str>) {
        let Some(peer) = self.stranger_id(host) else { return };
        let timeout = self.heartbeat_timeout();
        if self.repl.probe.is_some_and(|(asked, _, at)| asked == peer && now < at + timeout) {
            // What is asked already may be answered from before the news.
            self.repl.probe_again = Some(host.clone());
            return;
        }
        self.repl.probe_again = None;
        let rpc = self.repl.next_rpc(RpcKind::Probe, 0);
        self.repl.probe = Some((peer, rpc, now));
        let heartbeat = self.heartbeat_to(true, false);
        self.request(peer, rpc, PeerRequest::Heartbeat(heartbeat));
    }

    /// A quorum check's question to a member that may not be in the configuration yet.
    pub(crate) fn send_quorum_heartbeat(
        &mut self,
        host: &Arc<str>,
        config: (i64, i64),
        check_empty: bool,
    ) -> RpcId {
        let peer = self.peer_id(host);
        let rpc = self.repl.next_rpc(RpcKind::Other, 0);
        let mut heartbeat = self.heartbeat_to(false, check_empty);
        (heartbeat.config_version, heartbeat.config_term) = config;
        self.request(peer, rpc, PeerRequest::Heartbeat(heartbeat));
        rpc
    }

    /// Answers a heartbeat.
    pub(crate) fn on_heartbeat(
        &mut self,
        now: Instant,
        request: &Heartbeat,
    ) -> Result<Box<HeartbeatReply>, CommandError> {
        if request.set_name_hash != self.repl.set_name_hash || self.repl.set_name.is_none() {
            return Err(CommandError::new(
                INCONSISTENT_REPLICA_SET_NAMES,
                "Our set name did not match that of the sender of the heartbeat",
            ));
        }
        let own_id = self.repl.own().map(|own| own.id);
        if own_id.is_some_and(|id| id == request.from_id) {
            return Err(CommandError::new(
                BAD_VALUE,
                format!(
                    "Received heartbeat from member with the same member ID as ourself: {}",
                    request.from_id
                ),
            ));
        }
        if request.term > self.repl.term && self.repl.config.is_some() {
            self.adopt_term(now, request.term, "a heartbeat's");
        }
        let sender = self
            .repl
            .config
            .as_ref()
            .and_then(|config| config.index_of_id(request.from_id))
            .filter(|&index| Some(index) != self.repl.self_index);
        if let Some(index) = sender {
            let member = &mut self.repl.members[index];
            member.last_update = now;
            member.last_request = Some(now);
            let idle = member.rpc.is_none();
            let says_primary = request.primary_id == request.from_id && request.primary_id >= 0;
            if idle
                && says_primary
                && request.term >= self.repl.term
                && self.repl.primary != Some(index)
            {
                // Something new: look at everybody now rather than at the next interval.
                self.repl.heartbeats.set(index, now);
            }
        }
        if !request.check_empty {
            let newer = match &self.repl.config {
                None => request.config_version >= 1,
                Some(config) => {
                    (request.config_version, request.config_term) != (config.version, config.term)
                        && !config.is_newer_than(request.config_version, request.config_term)
                }
            };
            let host = request.from.clone().or_else(|| sender.map(|index| self.repl.host(index)));
            if let (true, Some(host)) = (newer, host) {
                self.send_probe(now, &host);
            }
        }
        let filled = self.heartbeat_reply(now, request);
        Ok(match self.spare_boxes.replies.pop() {
            Some(mut spare) => {
                *spare = filled;
                spare
            }
            None => Box::new(filled),
        })
    }

    fn heartbeat_reply(&self, now: Instant, request: &Heartbeat) -> HeartbeatReply {
        let repl = &self.repl;
        let state = repl.state();
        let config = repl.config.as_ref();
        let (config_version, config_term) =
            config.map_or((-2, -1), |config| (config.version, config.term));
        let send_config = !request.check_empty
            && config.is_some_and(|config| {
                request.config_version == -2
                    || config.is_newer_than(request.config_version, request.config_term)
            });
        // A member in initial sync has no position to speak of.
        let in_initial_sync = state == MemberState::Startup2;
        let shown =
            |position: Position| if in_initial_sync { Position::default() } else { position };
        let (applied, durable) = (shown(repl.applied), shown(repl.durable));
        HeartbeatReply {
            state,
            electable: repl.leader.is_some() || self.could_stand(now),
            has_data: request.check_empty && self.storage.has_data(),
            config_version,
            config_term,
            config: if send_config { config.cloned() } else { None },
            term: repl.term,
            primary_id: self.primary_id(),
            sync_source_index: repl.sync.source().map_or(-1, |index| index as i32),
            election_time: repl.leader.as_ref().map_or(Ts::NULL, |leader| leader.election_time),
            applied: applied.optime,
            durable: durable.optime,
            applied_wall_millis: applied.wall_millis,
            durable_wall_millis: durable.wall_millis,
            commit_point: repl.commit.optime,
            commit_wall_millis: repl.commit.wall_millis,
        }
    }

    /// A heartbeat's answer, or its failure.
    pub(crate) fn on_heartbeat_reply(
        &mut self,
        now: Instant,
        index: usize,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        if index >= self.repl.members.len() || self.repl.members[index].rpc != Some(rpc) {
            return;
        }
        self.repl.members[index].rpc = None;
        match outcome {
            Ok(PeerReply::Heartbeat(reply)) => {
                self.heartbeat_succeeded(now, index, &reply);
                self.spare_boxes.keep_reply(reply);
            }
            Ok(PeerReply::Error(error)) => {
                // An answer that is an error: no retry would change it.
                self.heartbeat_failed(now, index, &error.message, true);
            }
            Ok(_) => unreachable!("a heartbeat is answered by a heartbeat reply or an error"),
            Err(failure) => {
                let host = self.repl.host(index);
                let why = match failure {
                    PeerFailure::Refused => {
                        format!("Error connecting to {host} :: caused by :: Connection refused")
                    }
                    PeerFailure::Reset => "Connection reset by peer".to_owned(),
                    PeerFailure::UnknownHost => {
                        format!(
                            "Error connecting to {host} :: caused by :: Could not find address for {host}"
                        )
                    }
                };
                self.heartbeat_failed(now, index, &why, false);
            }
        }
    }

    fn heartbeat_failed(&mut self, now: Instant, index: usize, why: &str, is_final: bool) {
        let timeout = self.heartbeat_timeout();
        let member = &mut self.repl.members[index];
        member.tries += 1;
        if !is_final && member.tries <= RETRIES_MAX && now < member.first_try_at + timeout {
            self.send_heartbeat(now, index);
            return;
        }
        member.tries = 0;
        member.last_reply = Some(now);
        member.heard_since_win = true;
        let next = now + self.heartbeat_interval();
        self.repl.heartbeats.set(index, next);
        self.mark_down(now, index, why);
        self.catch_up_heard(now);
    }

    /// Holds member `index` to be down.
    pub(crate) fn mark_down(&mut self, now: Instant, index: usize, why: &str) {
        let member = &mut self.repl.members[index];
        member.last_message.clear();
        member.last_message.push_str(why);
        if member.state == MemberState::Down {
            return;
        }
        member.state = MemberState::Down;
        member.electable = false;
        member.up_since = None;
        member.applied.optime = OpTime::NULL;
        member.durable.optime = OpTime::NULL;
        let host = self.repl.host(index);
        self.event(now, || EventKind::MemberDown { member: host, why: why.to_owned() });
        if self.repl.primary == Some(index) {
            self.set_primary(now, None);
        }
        if self.repl.sync.source() == Some(index) {
            self.drop_sync_source(now, "it is held to be down");
        }
        self.check_majority(now);
    }

    fn heartbeat_succeeded(&mut self, now: Instant, index: usize, reply: &HeartbeatReply) {
        let interval = self.heartbeat_interval();
        self.repl.heartbeats.set(index, now + interval);
        let first_contact;
        {
            let member = &mut self.repl.members[index];
            let micros = (now - member.sent_at).as_micros() as u64;
            member.pinged(micros);
            member.tries = 0;
            member.last_update = now;
            member.last_reply = Some(now);
            member.heard_since_win = true;
            first_contact = member.up_since.is_none();
            if first_contact {
                member.up_since = Some(now);
                member.last_message.clear();
            }
            let restarted = matches!(
                reply.state,
                MemberState::Rollback | MemberState::Recovering | MemberState::Startup2
            );
            if restarted || reply.applied > member.applied.optime {
                member.applied =
                    Position { optime: reply.applied, wall_millis: reply.applied_wall_millis };
            }
            if restarted || reply.durable > member.durable.optime {
                member.durable =
                    Position { optime: reply.durable, wall_millis: reply.durable_wall_millis };
            }
            member.electable = reply.electable;
            member.config_version = reply.config_version;
            member.config_term = reply.config_term;
            member.sync_source_index = reply.sync_source_index;
            member.election_time = reply.election_time;
        }
        let before = std::mem::replace(&mut self.repl.members[index].state, reply.state);
        if before != reply.state || first_contact {
            let host = self.repl.host(index);
            self.event(now, || EventKind::MemberUp { member: host, state: reply.state });
        }
        if reply.term > self.repl.term {
            self.adopt_term(now, reply.term, "a heartbeat reply's");
        }
        if let Some(config) = &reply.config {
            self.config_heard(now, config.clone());
            if index >= self.repl.members.len() {
                return;
            }
        }
        self.learn_primary(now, index, reply);
        let on_my_branch = reply.commit_point.term == self.repl.applied.optime.term
            || self.repl.own().is_some_and(|own| own.arbiter_only)
            || crate::mongod::planted::is(crate::mongod::planted::ServerBug::TrustsCommitPoint);
        if !reply.commit_point.is_null() && on_my_branch {
            // Only a commit point of the term of my own last entry is on my branch for sure.
            let point =
                Position { optime: reply.commit_point, wall_millis: reply.commit_wall_millis };
            self.learn_commit_point(now, point);
        }
        if self.repl.leader.is_some() {
            self.note_member_progress(now);
            self.drop_newly_added(now, index);
            self.catch_up_heard(now);
        } else {
            if self.repl.primary == Some(index) && reply.term == self.repl.term {
                self.consider_takeover(now, index);
            }
            if self.repl.takeover == Some(ElectionReason::CatchupTakeover)
                && reply.applied.term == self.repl.term
            {
                self.cancel_takeover(now, "the primary has caught up");
            }
            self.choose_sync_source_if_idle(now);
        }
        self.reconfig_progress(now);
    }

    fn learn_primary(&mut self, now: Instant, index: usize, reply: &HeartbeatReply) {
        if reply.state == MemberState::Primary && reply.term == self.repl.term {
            assert!(
                self.repl.leader.is_none(),
                "two members lead term {}: {} and {}",
                reply.term,
                self.options.host,
                self.repl.host(index)
            );
            self.set_primary(now, Some(index));
            if self.repl.state() == MemberState::Secondary {
                self.arm_election_timer(now);
            }
        } else if self.repl.primary == Some(index) {
            self.set_primary(now, None);
        }
    }

    /// Changes whom this member holds to be primary. hello shows it, and yet it is no change of topology
    /// (measured): what follows, the new term's configuration, is.
    pub(crate) fn set_primary(&mut self, now: Instant, primary: Option<usize>) {
        if self.repl.primary != primary {
            self.repl.primary = primary;
            if primary.is_none() {
                self.cancel_takeover(now, "no primary is seen");
            }
        }
    }

    /// The earliest silence that has lasted the election timeout.
    pub(crate) fn fire_liveness(&mut self, now: Instant) {
        let timeout = self.election_timeout();
        let mut next = Instant::NEVER;
        for index in 0..self.repl.members.len() {
            let member = &self.repl.members[index];
            if Some(index) == self.repl.self_index || !member.is_up() {
                continue;
            }
            let silent_at = member.last_update + timeout;
            if silent_at <= now {
                self.mark_down(now, index, "no response within election timeout period");
            } else {
                next = next.min(silent_at);
            }
        }
        // Members that come back are seen by heartbeats; look again then.
        self.timers.set(Timer::Liveness, next.min(now + timeout));
    }

    pub(crate) fn heartbeat_interval(&self) -> Duration {
        let Some(config) = &self.repl.config else { return Duration::from_secs(2) };
        let (interval, election) =
            (config.settings.heartbeat_interval, config.settings.election_timeout);
        match self.repl.state() {
            MemberState::Arbiter => interval.min(election / 2),
            MemberState::Primary => interval,
            _ if self.repl.sync.source().is_none() => (interval / 4).min(election / 2),
            _ => interval,
        }
    }

    fn heartbeat_timeout(&self) -> Duration {
        self.repl
            .config
            .as_ref()
            .map_or(Duration::from_secs(10), |config| config.settings.heartbeat_timeout)
    }

    pub(crate) fn election_timeout(&self) -> Duration {
        self.repl
            .config
            .as_ref()
            .map_or(Duration::from_secs(10), |config| config.settings.election_timeout)
    }
}
