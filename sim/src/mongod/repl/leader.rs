//! Leading: catch-up, drain, the first entry of a term, and giving the role up.

use std::sync::Arc;
use std::time::Duration;

use bson::rawdoc;
use stepdown_driver::Instant;

use super::{Repl, RpcKind, SHUTDOWN_TIMEOUT};
use crate::mongod::command::{OplogDraft, ReadAt};
use crate::mongod::oplog_entry::OpKind;
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::peer::PeerRequest;
use crate::mongod::timer::Timer;
use crate::mongod::{Landmark, Mongod, Output, WAKE_COMMIT, WAKE_STATE};
use crate::trace::{EventKind, MemberState};

/// What a leader is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaderPhase {
    /// Fetching what others have beyond its own log.
    CatchUp,
    /// Accepting no more writes, waiting for a secondary to catch up.
    SteppingDown,
    /// Accepting writes.
    Writable,
}

/// A leader's own state.
#[derive(Debug)]
pub(crate) struct Leader {
    pub phase: LeaderPhase,
    /// A fresh tick of the cluster clock.
    pub election_time: Ts,
    /// The first entry of the term ("new primary").
    pub first_optime: OpTime,
    /// What catch-up has to reach.
    pub target: Option<OpTime>,
}

impl Mongod {
    /// The election is won: leading, not yet writable.
    pub(crate) fn become_leader(&mut self, now: Instant) {
        assert!(self.repl.leader.is_none(), "{} wins while leading", self.options.host);
        assert_eq!(self.repl.state(), MemberState::Secondary, "only a secondary wins");
        let election_time = self.tick_cluster_clock(now);
        self.drop_sync_source(now, "I lead now");
        self.repl.leader = Some(Box::new(Leader {
            phase: LeaderPhase::CatchUp,
            election_time,
            first_optime: OpTime::NULL,
            target: None,
        }));
        self.repl.primary = self.repl.self_index;
        self.timers.stop(Timer::Election);
        self.timers.stop(Timer::Sync);
        self.state_changed(now, "election won");
        for member in &mut self.repl.members {
            member.heard_since_win = false;
        }
        self.restart_heartbeats(now);
        self.timers.set_earlier(Timer::Liveness, now + self.election_timeout());
        let settings = &self.repl.config.as_ref().expect("a leader has a configuration").settings;
        let limit_millis = settings.catch_up_timeout_millis;
        if self.repl.members.len() == 1 || limit_millis == 0 {
            self.end_catch_up(now, "catch-up skipped");
        } else if limit_millis > 0 {
            self.timers.set(Timer::CatchUp, now + Duration::from_millis(limit_millis as u64));
        }
    }

    /// Somebody was heard, or did not answer, since the win: is there anything to catch up with?
    pub(crate) fn catch_up_heard(&mut self, now: Instant) {
        let Some(leader) = &self.repl.leader else { return };
        if leader.phase != LeaderPhase::CatchUp {
            return;
        }
        let self_index = self.repl.self_index;
        let known = leader.target;
        let all_heard = self
            .repl
            .members
            .iter()
            .enumerate()
            .all(|(index, member)| Some(index) == self_index || member.heard_since_win);
        if !all_heard {
            return;
        }
        // Nobody can catch up with a member that is down: the target follows who is up.
        let up = self.repl.members.iter().filter(|member| member.is_up());
        let target = up.map(|member| member.applied.optime).max().unwrap_or(OpTime::NULL);
        if known != Some(target) {
            if target <= self.repl.applied.optime {
                self.end_catch_up(now, "nobody is ahead of me");
                return;
            }
            self.repl.leader.as_mut().expect("leading").target = Some(target);
            if let Some(metrics) = &mut self.repl.candidate_metrics {
                metrics.target_catch_up = Some(target);
            }
            self.event(now, || EventKind::CatchUp { what: format!("catching up to {target}") });
            self.choose_sync_source_if_idle(now);
        }
        self.catch_up_progress(now);
    }

    /// Entries were applied: is the target reached?
    pub(crate) fn catch_up_progress(&mut self, now: Instant) {
        let Some(leader) = &self.repl.leader else { return };
        if leader.phase == LeaderPhase::CatchUp
            && leader.target.is_some_and(|target| self.repl.applied.optime >= target)
        {
            self.pass(Landmark::CatchUp);
            self.end_catch_up(now, "caught up");
        }
    }

    pub(crate) fn fire_catch_up(&mut self, now: Instant) {
        if self.repl.leader.as_ref().is_some_and(|leader| leader.phase == LeaderPhase::CatchUp) {
            self.end_catch_up(now, "catch-up timed out");
        }
    }

    /// Drains (the applier holds nothing back here), raises the configuration's term, writes the first
    /// entry of the term: writable.
    pub(crate) fn end_catch_up(&mut self, now: Instant, why: &str) {
        self.event(now, || EventKind::CatchUp { what: why.to_owned() });
        self.timers.stop(Timer::CatchUp);
        self.drop_sync_source(now, "catch-up is over");
        self.timers.stop(Timer::Sync);
        let term = self.repl.term;
        let config = self.repl.config.clone().expect("a leader has a configuration");
        if config.term != -1 && config.term != term {
            let mut bumped = (*config).clone();
            bumped.term = term;
            self.store_config(&bumped);
            self.install_config(now, Arc::new(bumped), "the new term's");
        }
        self.repl.leader.as_mut().expect("leading").phase = LeaderPhase::Writable;
        self.create_system_collections(now);
        let first = self.log_noop(now, "new primary");
        self.repl.leader.as_mut().expect("leading").first_optime = first;
        let wall_millis = self.wall_millis(now);
        if let Some(metrics) = &mut self.repl.candidate_metrics {
            metrics.new_term_start_millis = Some(wall_millis);
        }
        // The first look only remembers where the oplog ends: an idle new primary writes after 20 s.
        self.repl.last_noop_check = OpTime::NULL;
        self.timers.set(Timer::Noop, now + super::NOOP_INTERVAL);
        self.bump_topology();
        self.wake(WAKE_STATE);
        self.event(now, || EventKind::Writable { term });
        self.storage_flush_soon(now);
    }

    /// What a real member creates when it first leads: the collections that sessions need.
    fn create_system_collections(&mut self, now: Instant) {
        for collection in ["transactions", "image_collection"] {
            let namespace = format!("config.{collection}");
            if self.storage.collection(&namespace, ReadAt::Newest).is_some() {
                continue;
            }
            let uuid = self.new_uuid();
            let draft = OplogDraft {
                kind: OpKind::Command,
                ns: "config.$cmd".into(),
                collection_uuid: Some(uuid),
                object: Arc::new(rawdoc! {
                    "create": collection,
                    "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
                }),
                object2: None,
                upsert: false,
                session: None,
            };
            self.log(now, draft).expect("a missing collection can be created");
        }
    }

    /// Writes a no-op with a message.
    pub(crate) fn log_noop(&mut self, now: Instant, message: &'static str) -> OpTime {
        let object = self.noop_object(message);
        let draft = OplogDraft {
            kind: OpKind::Noop,
            ns: self.empty_namespace.clone(),
            collection_uuid: None,
            object,
            object2: None,
            upsert: false,
            session: None,
        };
        self.log(now, draft).expect("a no-op always applies")
    }

    /// Every ten seconds: a no-op if nothing was written since.
    pub(crate) fn fire_noop(&mut self, now: Instant) {
        if !self.repl.is_writable() {
            return;
        }
        if self.repl.last_noop_check == self.repl.applied.optime {
            self.log_noop(now, "periodic noop");
            self.storage_flush_soon(now);
        }
        self.repl.last_noop_check = self.repl.applied.optime;
        self.timers.set(Timer::Noop, now + super::NOOP_INTERVAL);
    }

    // ---- giving up the role

    /// Follows again. Connections stay open; writes waiting for their concern are told.
    pub(crate) fn step_down(&mut self, now: Instant, why: &str) {
        let leader = self.repl.leader.take().expect("only a leader steps down");
        self.abort_all_transactions();
        self.event(now, || EventKind::SteppingDown { why: why.to_owned() });
        drop(leader);
        self.repl.follower = MemberState::Secondary;
        self.repl.primary = None;
        self.repl.candidate_metrics = None;
        for timer in [Timer::CatchUp, Timer::Noop, Timer::Sync] {
            self.timers.stop(timer);
        }
        self.repl.sync = super::SyncState::Idle;
        self.state_changed(now, why);
        self.interrupt_for_step_down(now);
        self.arm_election_timer(now);
        self.timers.set(Timer::Sync, now);
        self.abandon_quorum_check(now);
    }

    /// The primary checks whether a majority of the voters is still there.
    pub(crate) fn check_majority(&mut self, now: Instant) {
        let Some(config) = &self.repl.config else { return };
        if self.repl.leader.is_some() && self.voters_up() * 2 <= config.voting_members() {
            self.pass(Landmark::DeposedBySilence);
            self.step_down(now, "Can't see a majority of the set, relinquishing primary");
        }
    }

    /// Whether it is safe to step down: a write majority has everything, and among it a member that
    /// may stand.
    pub(crate) fn successor_is_ready(&self) -> bool {
        let Some(config) = &self.repl.config else { return false };
        let mine = self.repl.applied.optime;
        let mut caught_up = 1;
        let mut electable = false;
        for (index, member) in self.repl.members.iter().enumerate() {
            let its = &config.members[index];
            if Some(index) == self.repl.self_index || !member.is_up() || its.arbiter_only {
                continue;
            }
            if member.applied.optime >= mine {
                caught_up += usize::from(its.is_voter());
                electable |= its.is_electable() && member.electable;
            }
        }
        electable && caught_up >= config.write_majority_count()
    }

    /// Asks the best caught-up member to stand, without a dry run. Nobody waits for the answer.
    pub(crate) fn hand_off(&mut self, now: Instant) {
        let Some(config) = self.repl.config.clone() else { return };
        let mine = self.repl.applied.optime;
        let mut best: Option<usize> = None;
        for (index, member) in self.repl.members.iter().enumerate() {
            let its = &config.members[index];
            let ready = Some(index) != self.repl.self_index
                && its.is_electable()
                && member.is_up()
                && member.electable
                && member.applied.optime >= mine;
            let better =
                best.is_none_or(|b| config.members[b].priority_micros < its.priority_micros);
            if ready && better {
                best = Some(index);
            }
        }
        if let Some(index) = best {
            let host = config.members[index].host.clone();
            self.event(now, || EventKind::Takeover {
                what: format!("election handoff: asks {host} to step up"),
            });
            let rpc = self.repl.next_rpc(RpcKind::Other, index);
            let peer = self.repl.members[index].peer;
            self.request(peer, rpc, PeerRequest::StepUp);
        }
    }

    /// A step-down attempt begins: no more writes, hello says so.
    pub(crate) fn begin_step_down(&mut self) {
        self.repl.leader.as_mut().expect("leading").phase = LeaderPhase::SteppingDown;
        self.bump_topology();
    }

    /// A step-down attempt failed: writable again.
    pub(crate) fn abandon_step_down(&mut self) {
        if let Some(leader) = &mut self.repl.leader
            && leader.phase == LeaderPhase::SteppingDown
        {
            leader.phase = LeaderPhase::Writable;
            self.bump_topology();
        }
    }

    // ---- clean shutdown

    /// SIGTERM or the `shutdown` command: a leader hands over first, then the member lives on as a
    /// secondary in quiesce mode, then it ends.
    pub(crate) fn begin_shutdown(&mut self, now: Instant, timeout: Duration) {
        if self.repl.shutting_down {
            return;
        }
        self.repl.shutting_down = true;
        self.shutdown_deadline = now + timeout;
        if self.repl.is_writable() && self.repl.members.len() > 1 {
            self.begin_step_down();
        }
        self.fire_shutdown(now);
    }

    /// The next step of a shutdown, as far as it can go now.
    pub(crate) fn fire_shutdown(&mut self, now: Instant) {
        if !self.repl.shutting_down {
            return;
        }
        if self.repl.quiesce_until.is_some_and(|until| until <= now) {
            self.exit(0, "clean shutdown");
            return;
        }
        if self.repl.leader.is_some() {
            let several = self.repl.members.len() > 1;
            if several && !self.successor_is_ready() && now < self.shutdown_deadline {
                // Looked at again on every progress; at the latest at the deadline.
                self.timers.set(Timer::Shutdown, self.shutdown_deadline);
                return;
            }
            self.repl.stand_not_before = now + Duration::from_secs(86_400);
            self.step_down(now, "shutdown");
            if several {
                self.hand_off(now);
            }
        }
        if self.repl.quiesce_until.is_none() {
            let quiesces =
                self.repl.state() == MemberState::Secondary && self.repl.members.len() > 1;
            if quiesces && now < self.shutdown_deadline {
                self.repl.quiesce_until = Some(self.shutdown_deadline);
                self.timers.set(Timer::Shutdown, self.shutdown_deadline);
                self.bump_topology();
                self.wake(WAKE_STATE);
                return;
            }
            self.exit(0, "clean shutdown");
        }
    }

    /// The process ends, with what it wrote on disk.
    pub(crate) fn exit(&mut self, code: i32, why: &str) {
        self.storage.flush_journal();
        self.exited = true;
        for timer in Timer::ALL {
            self.timers.stop(timer);
        }
        self.timers.refresh();
        self.repl.heartbeats.stop_all();
        self.outputs.push_back(Output::Exited { code, why: why.to_owned() });
    }

    /// The timeout of a shutdown by signal.
    pub(crate) fn shutdown_timeout_by_signal() -> Duration {
        SHUTDOWN_TIMEOUT
    }

    /// A leader's first entry is committed: majority writes are possible from now on.
    pub(crate) fn note_majority_available(&mut self, now: Instant) {
        let wall_millis = self.wall_millis(now);
        if let Some(metrics) = &mut self.repl.candidate_metrics
            && metrics.majority_available_millis.is_none()
        {
            metrics.majority_available_millis = Some(wall_millis);
        }
        self.wake(WAKE_COMMIT);
    }
}

impl Repl {
    /// The `electionId` while leading.
    pub(crate) fn current_election_id(&self) -> Option<bson::oid::ObjectId> {
        self.leader.is_some().then(|| Repl::election_id(self.term))
    }
}
