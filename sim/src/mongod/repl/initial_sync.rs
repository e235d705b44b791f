//! Initial sync: an empty member copies everything from another.
//!
//! The simulated clone is one consistent copy at the source's last applied entry, so there is nothing
//! to re-apply between a begin and a stop point; the copy takes time in proportion to the documents.

use std::time::Duration;

use stepdown_driver::Instant;

use super::sync::SyncState;
use super::{Position, RpcKind};
use crate::mongod::peer::{ClonedData, PeerFailure, PeerReply, PeerRequest};
use crate::mongod::timer::Timer;
use crate::mongod::{Landmark, Mongod, RpcId};
use crate::trace::{EventKind, MemberState};

/// No source: look again after this (`initialSyncSyncSourceRetry...` of a real member is one second).
const RETRY: Duration = Duration::from_secs(1);
/// The shortest copy: connections, phases, index builds of the system collections.
const CLONE_MIN: Duration = Duration::from_millis(300);
/// Copying one document.
const CLONE_PER_DOCUMENT: Duration = Duration::from_micros(20);
/// A clone that is not answered for this long is started over.
const CLONE_TIMEOUT: Duration = Duration::from_secs(30);

/// An initial sync in progress.
#[derive(Debug)]
pub(crate) struct InitialSync {
    /// The source, once chosen.
    pub source: Option<usize>,
    pub rpc: Option<RpcId>,
    /// Everything copied, applied when the time it takes is over.
    pub copied: Option<Box<ClonedData>>,
    pub attempt: u32,
    pub began: Instant,
}

impl Mongod {
    pub(crate) fn begin_initial_sync(&mut self, now: Instant) {
        self.repl.sync = SyncState::InitialSync(InitialSync {
            source: None,
            rpc: None,
            copied: None,
            attempt: 0,
            began: now,
        });
        self.event(now, || EventKind::InitialSync { what: "started".into() });
        self.fire_initial_sync(now);
    }

    /// The timer of an initial sync: choose a source, or finish, or start over.
    pub(crate) fn fire_initial_sync(&mut self, now: Instant) {
        let SyncState::InitialSync(sync) = &mut self.repl.sync else { return };
        if let Some(copied) = sync.copied.take() {
            self.finish_initial_sync(now, *copied);
            return;
        }
        if sync.rpc.take().is_some() {
            let source = sync.source.take().expect("a clone has a source");
            self.repl.members[source].denied_until = now + Duration::from_secs(10);
        }
        let Some(source) = self.initial_sync_source(now) else {
            self.repl.sync_source_info = "Could not find member to sync from";
            self.timers.set(Timer::Sync, now + RETRY);
            return;
        };
        let rpc = self.repl.next_rpc(RpcKind::Clone, source);
        let host = self.repl.host(source);
        let SyncState::InitialSync(sync) = &mut self.repl.sync else { unreachable!() };
        sync.source = Some(source);
        sync.rpc = Some(rpc);
        sync.attempt += 1;
        let attempt = sync.attempt;
        self.timers.set(Timer::Sync, now + CLONE_TIMEOUT);
        self.event(now, || EventKind::InitialSync {
            what: format!("copying from {host} (attempt {attempt})"),
        });
        let peer = self.repl.members[source].peer;
        self.request(peer, rpc, PeerRequest::CloneData);
    }

    /// Voters prefer the primary, then the nearest readable member with data.
    fn initial_sync_source(&self, now: Instant) -> Option<usize> {
        let eligible = |index: &usize| {
            let member = &self.repl.members[*index];
            Some(*index) != self.repl.self_index
                && member.is_up()
                && member.denied_until <= now
                && matches!(member.state, MemberState::Primary | MemberState::Secondary)
                && !member.applied.optime.is_null()
        };
        self.repl.primary.filter(eligible).or_else(|| {
            (0..self.repl.members.len())
                .filter(eligible)
                .min_by_key(|&index| self.repl.members[index].ping_micros)
        })
    }

    /// The source's side.
    pub(crate) fn clone_data(&self) -> PeerReply {
        let oplog = self.storage.oplog();
        match oplog.last() {
            Some(entry) if self.repl.is_readable() => PeerReply::CloneData(Box::new(ClonedData {
                data: self.storage.snapshot(entry.optime.ts).with_sessions(self.sessions.records()),
                at: entry.optime,
                entry: entry.clone(),
                rbid: self.repl.rbid,
            })),
            _ => PeerReply::Error(Box::new(crate::mongod::error::CommandError::new(
                crate::mongod::error::NOT_PRIMARY_OR_SECONDARY,
                "not primary or secondary; cannot currently read from this replSet member",
            ))),
        }
    }

    /// A clone's answer, or its failure.
    pub(crate) fn on_clone_reply(
        &mut self,
        now: Instant,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        let SyncState::InitialSync(sync) = &mut self.repl.sync else { return };
        if sync.rpc != Some(rpc) {
            return;
        }
        sync.rpc = None;
        match outcome {
            Ok(PeerReply::CloneData(copied)) => {
                let documents = copied.data.document_count() as u32;
                sync.copied = Some(copied);
                let duration = CLONE_MIN + CLONE_PER_DOCUMENT * documents;
                self.timers.set(Timer::Sync, now + duration);
            }
            Ok(_) | Err(_) => {
                let source = sync.source.take().expect("a clone has a source");
                self.repl.members[source].denied_until = now + Duration::from_secs(1);
                self.event(now, || EventKind::InitialSync {
                    what: "attempt failed: the source does not answer".into(),
                });
                self.timers.set(Timer::Sync, now + RETRY);
            }
        }
    }

    fn finish_initial_sync(&mut self, now: Instant, copied: ClonedData) {
        let documents = copied.data.document_count();
        let entry = copied.entry;
        self.pass(Landmark::InitialSync);
        self.storage.install(copied.data, entry.clone());
        self.storage.flush_journal();
        self.sessions.rebuild(self.storage.past_sessions(), self.storage.oplog().iter());
        let position = Position { optime: entry.optime, wall_millis: entry.wall_millis };
        self.repl.applied = position;
        self.repl.durable = position;
        self.repl.cluster_time = self.repl.cluster_time.max(entry.optime.ts);
        let took = match std::mem::replace(&mut self.repl.sync, SyncState::Idle) {
            SyncState::InitialSync(sync) => now - sync.began,
            _ => unreachable!("only an initial sync finishes"),
        };
        self.event(now, || EventKind::InitialSync {
            what: format!(
                "finished after {} ms: {documents} documents, up to {}",
                took.as_millis(),
                entry.optime
            ),
        });
        self.set_follower(now, MemberState::Recovering, "initial sync done");
        self.set_follower(now, MemberState::Secondary, "consistent");
        self.arm_election_timer(now);
        self.timers.set(Timer::Sync, now);
        // The others want to know soon: a new voter counts from now on.
        self.restart_heartbeats(now);
    }
}
