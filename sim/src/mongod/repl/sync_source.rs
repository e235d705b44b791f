//! Which member to pull the oplog from: the choice, and when to leave it for another.
//!
//! Source: server behaviour as listed in the project's notes; who wins among equals was measured on a
//! 6.0.5 set.

use std::time::Duration;

use stepdown_driver::Instant;

use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::{Mongod, ServerVersion};
use crate::trace::MemberState;

/// `maxSyncSourceLagSecs`.
const SOURCE_LAG_SECONDS_MAX: u32 = 30;
/// Round trips per other member before a first choice.
const PINGS_BEFORE_CHOICE: u64 = 2;
/// Round trips per other member before a nearer one is changed to.
const PINGS_BEFORE_CHANGE: u64 = 5;
/// `maxNumSyncSourceChangesPerHour` counts within this.
const HOUR: Duration = Duration::from_secs(3_600);
/// A source asked for by hand that is further behind than this gets a warning.
const WARNING_LAG_SECONDS: u32 = 10;

/// What a batch said of its source.
pub(super) struct SourceView {
    /// The index of its own source; -1 for none.
    pub sync_source_index: i32,
    pub last_applied: OpTime,
}

impl Mongod {
    /// The member to sync from, and why it.
    pub(super) fn choose_sync_source(&mut self, now: Instant) -> Option<(usize, &'static str)> {
        let config = self.repl.config.clone()?;
        let self_index = self.repl.self_index?;
        if let Some(forced) = self.repl.forced_source.take()
            && forced != self_index
            && self.repl.members.get(forced).is_some_and(super::Member::is_up)
        {
            self.repl.forced_now = true;
            return Some((forced, "replSetSyncFrom asked for it"));
        }
        self.repl.forced_now = false;
        if self.total_pings() < PINGS_BEFORE_CHOICE * (config.members.len() as u64 - 1) {
            // The first round trips say nothing yet about who is near.
            return None;
        }
        let chosen = if config.settings.chaining_allowed || self.repl.leader.is_some() {
            self.nearest_source(now)
        } else {
            let primary = self.repl.primary.filter(|&primary| self.is_sync_candidate(now, primary));
            primary.map(|primary| (primary, "chaining is not allowed: the primary"))
        };
        self.repl.sync_source_info =
            if chosen.is_some() { "" } else { "Could not find member to sync from" };
        chosen
    }

    /// Round trips heard of: a member that is down counts as heard.
    fn total_pings(&self) -> u64 {
        let of = |member: &super::Member| {
            if member.state == MemberState::Down {
                member.pings.max(PINGS_BEFORE_CHOICE)
            } else {
                member.pings
            }
        };
        self.repl.members.iter().map(of).sum()
    }

    fn nearest_source(&self, now: Instant) -> Option<(usize, &'static str)> {
        let members = &self.repl.members;
        for strict in [true, false] {
            let mut best: Option<usize> = None;
            for index in 0..members.len() {
                if !self.is_sync_candidate(now, index) || strict && self.is_second_choice(index) {
                    continue;
                }
                // Measured: among equals the last in the configuration.
                let nearer =
                    best.is_none_or(|b| members[index].ping_millis <= members[b].ping_millis);
                if nearer {
                    best = Some(index);
                }
            }
            let Some(best) = best else { continue };
            let threshold = self.parameters.number("changeSyncSourceThresholdMillis") as u64;
            let near = members[best].ping_millis + threshold;
            return Some(match self.repl.primary {
                Some(primary)
                    if self.options.version >= ServerVersion::V8_0
                        && self.is_sync_candidate(now, primary)
                        && members[primary].ping_millis <= near =>
                {
                    (primary, "the primary, near enough to the nearest")
                }
                _ => (best, "the nearest that is ahead of me"),
            });
        }
        None
    }

    /// Up, readable, with the indexes this member has, strictly ahead of it, and not denied.
    fn is_sync_candidate(&self, now: Instant, index: usize) -> bool {
        let Some(config) = &self.repl.config else { return false };
        let member = &self.repl.members[index];
        let own_builds = self.repl.own().is_some_and(|own| own.build_indexes);
        Some(index) != self.repl.self_index
            && member.is_up()
            && matches!(member.state, MemberState::Primary | MemberState::Secondary)
            && (config.members[index].build_indexes || !own_builds)
            && member.denied_until <= now
            && member.applied.optime > self.repl.applied.optime
    }

    /// What a first look leaves out: non-voters for a voter, hidden members, members that lag behind the
    /// primary or are more delayed than this one.
    fn is_second_choice(&self, index: usize) -> bool {
        let (Some(config), Some(own)) = (&self.repl.config, self.repl.own()) else { return true };
        let its = &config.members[index];
        let primary = self.repl.primary.map(|primary| self.repl.members[primary].applied.optime.ts);
        let lags = primary
            .is_some_and(|newest| lags_behind(self.repl.members[index].applied.optime.ts, newest));
        (own.is_voter() && !its.is_voter()) || its.hidden || lags || its.delay > own.delay
    }

    /// Why a source is left after a batch, if it is.
    pub(super) fn reason_to_change_source(
        &mut self,
        now: Instant,
        source: usize,
        seen: &SourceView,
    ) -> Option<&'static str> {
        if self.repl.forced_source.is_some() {
            return Some("replSetSyncFrom asks for another");
        }
        let config = self.repl.config.clone()?;
        let catching_up = self.repl.leader.is_some();
        if !config.settings.chaining_allowed
            && !catching_up
            && self.repl.primary.is_some_and(|primary| primary != source)
        {
            return Some("chaining is not allowed and another member is primary");
        }
        let ahead = seen.last_applied > self.repl.applied.optime;
        if seen.sync_source_index < 0 && self.repl.primary != Some(source) && !ahead {
            return Some("it is not ahead of me, has no source itself and is not the primary");
        }
        if catching_up
            && !ahead
            && usize::try_from(seen.sync_source_index).ok() == self.repl.self_index
        {
            return Some("it syncs from me and is not ahead of me");
        }
        let others = 0..config.members.len();
        let mut better = others.filter(|&index| index != source);
        if better.any(|index| {
            self.is_sync_candidate(now, index)
                && !self.is_second_choice(index)
                && lags_behind(seen.last_applied.ts, self.repl.members[index].applied.optime.ts)
        }) {
            return Some("it lags behind another member by more than maxSyncSourceLagSecs");
        }
        self.much_nearer_than(now, source).then(|| {
            self.repl.source_changes.push(now);
            "another member is much nearer"
        })
    }

    /// Whether an eligible member's round trip is shorter by more than `changeSyncSourceThresholdMillis`;
    /// that is reason for a change only a few times in an hour.
    fn much_nearer_than(&mut self, now: Instant, source: usize) -> bool {
        let current = self.repl.members[source].ping_millis;
        if current == 0 {
            // Nobody is nearer than that: nothing to look up.
            return false;
        }
        let threshold = self.parameters.number("changeSyncSourceThresholdMillis") as u64;
        let delayed = self.repl.own().is_some_and(|own| !own.delay.is_zero());
        let others = self.repl.members.len() as u64 - 1;
        if current <= threshold
            || threshold == 0
            || delayed
            || self.repl.leader.is_some()
            || self.repl.forced_now
            || self.total_pings() < PINGS_BEFORE_CHANGE * others
        {
            return false;
        }
        self.repl.source_changes.retain(|&at| now < at + HOUR);
        let most = self.parameters.number("maxNumSyncSourceChangesPerHour");
        if self.repl.source_changes.len() as i64 >= most {
            return false;
        }
        (0..self.repl.members.len()).any(|index| {
            index != source
                && self.is_sync_candidate(now, index)
                && !self.is_second_choice(index)
                && self.repl.members[index].ping_millis + threshold < current
        })
    }

    /// The source was asked for by hand; `Some` says that it is far behind.
    pub(crate) fn force_sync_source(&mut self, now: Instant, index: usize) -> Option<String> {
        self.repl.forced_source = Some(index);
        if self.repl.sync.source().is_none() && matches!(self.repl.sync, super::SyncState::Idle) {
            self.timers.set(crate::mongod::timer::Timer::Sync, now);
        }
        let theirs = self.repl.members[index].applied.optime.ts.seconds();
        let mine = self.repl.applied.optime.ts.seconds();
        (theirs.saturating_add(WARNING_LAG_SECONDS) < mine).then(|| {
            format!(
                "requested member \"{}\" is more than {WARNING_LAG_SECONDS} seconds behind us",
                self.repl.host(index)
            )
        })
    }
}

fn lags_behind(its: Ts, newest: Ts) -> bool {
    its.seconds().saturating_add(SOURCE_LAG_SECONDS_MAX) < newest.seconds()
}
