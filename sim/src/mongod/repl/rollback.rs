//! Rollback: undoing what the sync source does not have.

use std::time::Duration;

use bson::rawdoc;
use stepdown_driver::Instant;

use super::sync::SyncState;
use super::{Position, RpcKind};
use crate::mongod::optime::OpTime;
use crate::mongod::peer::{PeerFailure, PeerReply, PeerRequest};
use crate::mongod::timer::Timer;
use crate::mongod::{Landmark, Mongod, RpcId};
use crate::trace::{EventKind, MemberState};

/// Optimes asked for at once.
const TAIL_LIMIT: u32 = 256;
/// Undoing takes about this long on a real member (140 ms measured for a handful of documents).
const ROLLBACK_DURATION: Duration = Duration::from_millis(140);
/// The source must answer within this.
const TAIL_TIMEOUT: Duration = Duration::from_secs(10);

/// A rollback in progress.
#[derive(Debug)]
pub(crate) struct RollingBack {
    pub source: usize,
    pub source_rbid: i32,
    pub rpc: Option<RpcId>,
    /// Found: waiting for the work to be done.
    pub common: Option<OpTime>,
}

/// The exit code of a process that found its own data unusable (`EXIT_ABRUPT`).
const FATAL_EXIT: i32 = 14;

impl Mongod {
    /// The source does not have this member's last entry.
    pub(crate) fn begin_rollback(&mut self, now: Instant, source: usize, source_rbid: i32) {
        let (mine, host) = (self.repl.applied.optime, self.repl.host(source));
        self.event(now, || EventKind::Rollback {
            what: format!("started: {host} does not have my last entry {mine}"),
        });
        self.repl.sync =
            SyncState::RollingBack(RollingBack { source, source_rbid, rpc: None, common: None });
        self.lose_election(now, "my last entry is not on the sync source".into());
        self.set_follower(now, MemberState::Rollback, "my last entry is not on the sync source");
        // Clients must not go on reading what is about to vanish.
        self.close_all_clients();
        let before = crate::mongod::optime::Ts::MAX;
        self.ask_for_tail(now, before);
    }

    fn ask_for_tail(&mut self, now: Instant, before: crate::mongod::optime::Ts) {
        let SyncState::RollingBack(rollback) = &self.repl.sync else { return };
        let source = rollback.source;
        let rpc = self.repl.next_rpc(RpcKind::Tail, source);
        if let SyncState::RollingBack(rollback) = &mut self.repl.sync {
            rollback.rpc = Some(rpc);
        }
        self.timers.set(Timer::Sync, now + TAIL_TIMEOUT);
        let peer = self.repl.members[source].peer;
        self.request(peer, rpc, PeerRequest::OplogTail { before, limit: TAIL_LIMIT });
    }

    /// The source's oplog, newest first: is a common entry in it?
    pub(crate) fn on_tail_reply(
        &mut self,
        now: Instant,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        let SyncState::RollingBack(rollback) = &mut self.repl.sync else { return };
        if rollback.rpc != Some(rpc) {
            return;
        }
        rollback.rpc = None;
        let Ok(PeerReply::OplogTail(tail)) = outcome else {
            self.deny_sync_source(now, Duration::from_secs(1), "it does not answer");
            return;
        };
        let common = tail.iter().find(|optime| self.storage.oplog().contains(**optime)).copied();
        if let Some(common) = common {
            let committed = self.repl.commit.optime;
            if common < committed
                && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::RollsBackTooFar)
            {
                // Only a forced reconfiguration brings this about; the server gives up as well.
                self.exit(
                    FATAL_EXIT,
                    &format!("would roll back to {common}, before the commit point {committed}"),
                );
                return;
            }
            let common = match self.storage.oplog().optimes_at_or_before(common.ts, 2)[..] {
                [_, before]
                    if crate::mongod::planted::is(
                        crate::mongod::planted::ServerBug::RollsBackTooFar,
                    ) =>
                {
                    before
                }
                _ => common,
            };
            if let SyncState::RollingBack(rollback) = &mut self.repl.sync {
                rollback.common = Some(common);
            }
            self.timers.set(Timer::Sync, now + ROLLBACK_DURATION);
        } else if let Some(oldest) = tail.last() {
            let before = crate::mongod::optime::Ts(oldest.ts.0 - 1);
            self.ask_for_tail(now, before);
        } else {
            // Nothing in common at all: only a resync helps, as on a real member.
            self.event(now, || EventKind::Rollback { what: "no common point".into() });
            self.deny_sync_source(now, Duration::from_secs(60), "no common point with it");
        }
    }

    /// The rollback timer: the work is done, or the source is silent.
    pub(crate) fn fire_rollback(&mut self, now: Instant) {
        let SyncState::RollingBack(rollback) = &self.repl.sync else { return };
        match rollback.common {
            Some(common) => {
                let (source, source_rbid) = (rollback.source, rollback.source_rbid);
                self.finish_rollback(now, common, source, source_rbid);
            }
            None => self.deny_sync_source(now, Duration::from_secs(10), "it does not answer"),
        }
    }

    fn finish_rollback(&mut self, now: Instant, common: OpTime, source: usize, source_rbid: i32) {
        let undone = self.storage.rollback_to(common);
        let entry = self.storage.oplog().last().expect("the common point stays").clone();
        assert_eq!(entry.optime, common, "a rollback ends at the common point");
        self.sessions.rebuild(self.storage.past_sessions(), self.storage.oplog().iter());
        if !crate::mongod::planted::is(crate::mongod::planted::ServerBug::KeepsRollbackId) {
            self.bump_rbid();
        }
        let position = Position { optime: common, wall_millis: entry.wall_millis };
        self.repl.applied = position;
        self.repl.durable = position;
        let (count, files) = (undone.entries.len(), undone.files.len());
        self.pass(Landmark::Rollback);
        if files > 0 {
            self.pass(Landmark::RollbackFiles);
        }
        self.rollback_files.extend(undone.files);
        self.event(now, || EventKind::Rollback {
            what: format!(
                "finished: {count} entries undone back to {common}, {files} rollback files written"
            ),
        });
        self.set_follower(now, MemberState::Recovering, "rollback done");
        self.set_follower(now, MemberState::Secondary, "consistent");
        self.arm_election_timer(now);
        self.fetch(now, source, true, Some(source_rbid));
    }

    /// The source is left in the middle of a rollback: back to where it can be tried again.
    pub(crate) fn abandon_rollback(&mut self, now: Instant) {
        if matches!(self.repl.sync, SyncState::RollingBack(_)) {
            self.repl.sync = SyncState::Idle;
            self.set_follower(
                now,
                MemberState::Secondary,
                "rollback postponed: the source is gone",
            );
            self.arm_election_timer(now);
        }
    }

    /// Raises the rollback id: after a rollback, after an unclean stop.
    pub(crate) fn bump_rbid(&mut self) {
        self.repl.rbid += 1;
        self.storage.set_local_document(
            "system.rollback.id",
            rawdoc! { "_id": "rollbackId", "rollbackId": self.repl.rbid },
        );
    }
}
