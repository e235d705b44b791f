//! The commit point: what a write majority has.

use std::time::Duration;

use stepdown_driver::Instant;

use super::{LeaderPhase, Position};
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::peer::UpdatePosition;
use crate::mongod::timer::Timer;
use crate::mongod::{Mongod, WAKE_COMMIT};
use crate::trace::EventKind;

/// `minSnapshotHistoryWindowInSeconds`: how far back snapshot reads can go.
const HISTORY: Duration = Duration::from_secs(300);

impl Mongod {
    /// The journal is to be flushed soon: somebody waits, or may.
    pub(crate) fn storage_flush_soon(&mut self, now: Instant) {
        self.timers.set_earlier(Timer::Journal, now + super::JOURNAL_FLUSH);
    }

    /// The journal is flushed: what was applied is durable.
    pub(crate) fn fire_journal(&mut self, now: Instant) {
        self.storage.flush_journal();
        if self.repl.durable == self.repl.applied {
            return;
        }
        self.repl.durable = self.repl.applied;
        if self.repl.leader.is_some() {
            self.note_member_progress(now);
        } else {
            self.report_progress(now);
        }
        // w: 1, j: true waits for this alone.
        self.wake(WAKE_COMMIT);
    }

    /// `replSetUpdatePosition` came in: progress of the sender and of those who sync from it.
    pub(crate) fn on_update_position(&mut self, now: Instant, update: &UpdatePosition) {
        if update.term > self.repl.term {
            self.adopt_term(now, update.term, "a position update's");
        }
        let Some(config) = self.repl.config.clone() else { return };
        let mut moved = false;
        for position in &update.positions {
            let Some(index) = config.index_of_id(position.member_id) else { continue };
            if Some(index) == self.repl.self_index {
                continue;
            }
            let member = &mut self.repl.members[index];
            if position.applied > member.applied.optime {
                member.applied = Position {
                    optime: position.applied,
                    wall_millis: position.applied_wall_millis,
                };
                moved = true;
            }
            if position.durable > member.durable.optime {
                member.durable = Position {
                    optime: position.durable,
                    wall_millis: position.durable_wall_millis,
                };
                moved = true;
            }
            member.last_update = now;
        }
        if self.repl.leader.is_some() {
            if moved {
                self.note_member_progress(now);
            }
        } else if moved {
            self.report_progress(now);
        }
    }

    /// A leader looks at everybody's positions again: commit point, waiting writes, waiting step-downs.
    pub(crate) fn note_member_progress(&mut self, now: Instant) {
        self.wake(WAKE_COMMIT);
        if self.repl.shutting_down {
            self.fire_shutdown(now);
        }
        let Some(leader) = &self.repl.leader else { return };
        if leader.phase == LeaderPhase::CatchUp || leader.first_optime.is_null() {
            return;
        }
        let first_optime = leader.first_optime;
        let Some(mut majority) = self.majority_position() else { return };
        // Whatever others claim to have: nothing is committed beyond what the leader wrote.
        if majority.optime > self.repl.applied.optime {
            majority = self.repl.applied;
        }
        // Entries of earlier terms are committed only together with one of this term.
        let old_term =
            crate::mongod::planted::is(crate::mongod::planted::ServerBug::CommitsOldTerm);
        if majority.optime > self.repl.commit.optime
            && (majority.optime >= first_optime || old_term)
        {
            assert!(
                majority.optime.term == self.repl.term || old_term,
                "only the own term commits"
            );
            let first = self.repl.commit.optime < first_optime;
            self.set_commit_point(now, majority);
            if first {
                self.note_majority_available(now);
            }
        }
    }

    /// The newest position that a write majority of the voters has.
    fn majority_position(&self) -> Option<Position> {
        let config = self.repl.config.as_ref()?;
        let self_index = self.repl.self_index?;
        let journaled = config.majority_journal_default;
        let mut positions = [Position::default(); super::config::MEMBERS_MAX];
        let mut count = 0;
        for (index, its) in config.members.iter().enumerate() {
            if !its.is_voter()
                && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::CountsNonVoters)
            {
                continue;
            }
            if its.arbiter_only
                && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::CountsArbiters)
            {
                continue;
            }
            let (applied, durable) = if index == self_index || its.arbiter_only {
                (self.repl.applied, self.repl.durable)
            } else {
                (self.repl.members[index].applied, self.repl.members[index].durable)
            };
            positions[count] = if journaled { durable } else { applied };
            count += 1;
        }
        let positions = &mut positions[..count];
        positions.sort_unstable_by_key(|position| std::cmp::Reverse(position.optime));
        positions.get(config.write_majority_count() - 1).copied()
    }

    /// A follower hears of a commit point that is on its own branch.
    pub(crate) fn learn_commit_point(&mut self, now: Instant, point: Position) {
        if self.repl.leader.is_some() {
            return;
        }
        let is_arbiter = self.repl.own().is_some_and(|own| own.arbiter_only);
        if is_arbiter && point.optime > self.repl.applied.optime {
            // It has no data that could be behind (measured: an arbiter shows what is committed as its own).
            self.repl.applied = point;
        }
        let point = if point.optime > self.repl.applied.optime { self.repl.applied } else { point };
        if point.optime > self.repl.commit.optime {
            self.set_commit_point(now, point);
        }
    }

    /// Moves the commit point forward; it never goes back while the process lives.
    pub(crate) fn set_commit_point(&mut self, now: Instant, point: Position) {
        assert!(point.optime > self.repl.commit.optime, "the commit point only moves forward");
        assert!(
            point.optime <= self.repl.applied.optime,
            "{}: commit point {} beyond the last applied entry {}",
            self.options.host,
            point.optime,
            self.repl.applied.optime
        );
        self.repl.commit = point;
        self.storage.set_stable(point.optime.ts);
        let history =
            Ts::new(point.optime.ts.seconds().saturating_sub(HISTORY.as_secs() as u32), 0);
        self.storage.set_oldest(history);
        if self.repl.leader.is_some() {
            self.event(now, || EventKind::CommitPoint { optime: point.optime });
        }
        self.wake(WAKE_COMMIT);
        self.answer_fetchers(now);
    }

    /// How many data-bearing members (this one included) have applied `optime`, or have it durably.
    pub(crate) fn members_at(&self, optime: OpTime, journaled: bool) -> usize {
        let Some(config) = &self.repl.config else { return 0 };
        (0..config.members.len())
            .filter(|&index| self.member_is_at(index, optime, journaled))
            .count()
    }

    /// Whether member `index` has `optime` (and is on the same branch: of the same term or a later one).
    pub(crate) fn member_is_at(&self, index: usize, optime: OpTime, journaled: bool) -> bool {
        let Some(config) = &self.repl.config else { return false };
        if config.members[index].arbiter_only {
            return false;
        }
        let (applied, durable) = if Some(index) == self.repl.self_index {
            (self.repl.applied, self.repl.durable)
        } else {
            (self.repl.members[index].applied, self.repl.members[index].durable)
        };
        let position = if journaled { applied.optime.min(durable.optime) } else { applied.optime };
        position >= optime
    }
}
