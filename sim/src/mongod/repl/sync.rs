//! Pulling the oplog: sync source choice, fetch, apply, progress reports.

use std::time::Duration;

use stepdown_driver::Instant;

use super::{Position, RpcKind};
use crate::mongod::error::CommandError;
use crate::mongod::optime::Ts;
use crate::mongod::peer::{
    FetchOplog, FetchOplogReply, MemberPosition, PeerFailure, PeerReply, PeerRequest,
    UpdatePosition,
};
use crate::mongod::timer::Timer;
use crate::mongod::{Landmark, Mongod, ReplyTo, RpcId, WAKE_COMMIT, WAKE_DATA};
use crate::trace::{EventKind, MemberState};

/// No eligible source: look again after this.
const RETRY: Duration = Duration::from_secs(1);
/// A source that failed is left alone for this long.
const DENY_AFTER_ERROR: Duration = Duration::from_secs(10);
/// A source on which this member is too stale.
const DENY_TOO_STALE: Duration = Duration::from_secs(60);
/// A fetch that is not answered this long after its await time is given up.
const NETWORK_BUFFER: Duration = Duration::from_secs(5);
/// `maxSyncSourceLagSecs`.
const SOURCE_LAG_SECONDS_MAX: u32 = 30;
/// `changeSyncSourceThresholdMillis`: the primary is preferred within this of the best ping.
const PING_THRESHOLD_MICROS: u64 = 5_000;
/// One batch holds at most so many entries.
const BATCH_ENTRIES_MAX: usize = 5_000;
/// One batch holds at most so many bytes.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a follower is doing to keep up.
#[derive(Debug)]
pub(crate) enum SyncState {
    /// No source.
    Idle,
    /// Fetching from a source.
    Fetching(Fetching),
    /// Rolling back against a source.
    RollingBack(super::rollback::RollingBack),
    /// Copying everything from a source.
    InitialSync(super::initial_sync::InitialSync),
}

impl SyncState {
    /// The source's index in the configuration.
    pub(crate) fn source(&self) -> Option<usize> {
        match self {
            SyncState::Idle => None,
            SyncState::Fetching(fetching) => Some(fetching.source),
            SyncState::RollingBack(rollback) => Some(rollback.source),
            SyncState::InitialSync(sync) => sync.source,
        }
    }
}

/// A fetch in progress.
#[derive(Debug)]
pub(crate) struct Fetching {
    pub source: usize,
    pub rpc: RpcId,
    /// No batch of this source was seen yet: its first must contain this member's last entry.
    pub first: bool,
    /// The source's rollback id at the first batch.
    pub rbid: Option<i32>,
    /// A delayed member holds what is too young: nothing is asked before the sync timer fires.
    pub held: bool,
}

/// How often a stopped producer looks at its fail point.
const STOPPED_PRODUCER_POLL: Duration = Duration::from_millis(100);

/// A fetch that waits here for data.
#[derive(Debug)]
pub(crate) struct AwaitingFetch {
    pub reply_to: ReplyTo,
    pub request: FetchOplog,
    pub until: Instant,
}

impl Mongod {
    /// Chooses a sync source if there is none and one is wanted.
    pub(crate) fn choose_sync_source_if_idle(&mut self, now: Instant) {
        let wanted = match self.repl.state() {
            MemberState::Secondary | MemberState::Recovering | MemberState::Startup2 => true,
            MemberState::Primary => {
                self.repl.leader.as_ref().is_some_and(|leader| leader.target.is_some())
                    && !self.repl.is_writable()
            }
            _ => false,
        };
        if !wanted || !matches!(self.repl.sync, SyncState::Idle) {
            return;
        }
        if self.repl.state() == MemberState::Startup2 && self.repl.applied.optime.is_null() {
            self.begin_initial_sync(now);
            return;
        }
        match self.choose_sync_source(now) {
            Some((source, why)) => {
                let host = self.repl.host(source);
                self.event(now, || EventKind::SyncSource { source: Some(host), why: why.into() });
                self.repl.sync_source_info = "";
                if self.repl.primary.is_some_and(|primary| primary != source) {
                    self.pass(Landmark::ChainedSync);
                }
                self.fetch(now, source, true, None);
            }
            None => {
                self.repl.sync_source_info = "Could not find member to sync from";
                self.timers.set(Timer::Sync, now + RETRY);
            }
        }
    }

    /// The member to sync from, and why it.
    fn choose_sync_source(&self, now: Instant) -> Option<(usize, &'static str)> {
        let config = self.repl.config.as_ref()?;
        let self_index = self.repl.self_index?;
        let own = &config.members[self_index];
        let others = config.members.len() - 1;
        let pings: u64 = self.repl.members.iter().map(|member| member.pings.min(2)).sum();
        let heard_or_down = self
            .repl
            .members
            .iter()
            .enumerate()
            .filter(|(index, member)| *index != self_index && member.state == MemberState::Down)
            .count() as u64;
        if pings + 2 * heard_or_down < 2 * others as u64 {
            // The first round trips say nothing yet about who is near.
            return None;
        }
        if !config.settings.chaining_allowed {
            let primary = self.repl.primary?;
            return self
                .is_sync_candidate(now, primary)
                .then_some((primary, "chaining is not allowed: the primary"));
        }
        let primary_ts = self.repl.primary.map(|index| self.repl.members[index].applied.optime.ts);
        for strict in [true, false] {
            let mut best: Option<usize> = None;
            for index in 0..config.members.len() {
                if index == self_index || !self.is_sync_candidate(now, index) {
                    continue;
                }
                let its = &config.members[index];
                let member = &self.repl.members[index];
                let lags = primary_ts.is_some_and(|newest| {
                    member.applied.optime.ts.seconds().saturating_add(SOURCE_LAG_SECONDS_MAX)
                        < newest.seconds()
                });
                let second_choice = (own.is_voter() && !its.is_voter())
                    || its.hidden
                    || lags
                    || its.delay > own.delay;
                if strict && second_choice {
                    continue;
                }
                let nearer =
                    best.is_none_or(|b| member.ping_micros < self.repl.members[b].ping_micros);
                if nearer {
                    best = Some(index);
                }
            }
            if let Some(best) = best {
                let near = self.repl.members[best].ping_micros + PING_THRESHOLD_MICROS;
                return Some(match self.repl.primary {
                    Some(primary)
                        if primary != self_index
                            && self.is_sync_candidate(now, primary)
                            && self.repl.members[primary].ping_micros <= near =>
                    {
                        (primary, "the primary, near enough to the nearest")
                    }
                    _ => (best, "the nearest that is ahead of me"),
                });
            }
        }
        None
    }

    fn is_sync_candidate(&self, now: Instant, index: usize) -> bool {
        let Some(config) = &self.repl.config else { return false };
        let member = &self.repl.members[index];
        let own_builds = self.repl.own().is_some_and(|own| own.build_indexes);
        member.is_up()
            && matches!(member.state, MemberState::Primary | MemberState::Secondary)
            && (config.members[index].build_indexes || !own_builds)
            && member.denied_until <= now
            && (member.applied.optime > self.repl.applied.optime
                // An equal primary is taken so that its next write is not waited for by polling.
                || (member.state == MemberState::Primary
                    && member.applied.optime == self.repl.applied.optime))
    }

    /// Leaves the sync source.
    pub(crate) fn drop_sync_source(&mut self, now: Instant, why: &str) {
        if self.repl.sync.source().is_none() {
            return;
        }
        self.event(now, || EventKind::SyncSource { source: None, why: why.to_owned() });
        self.abandon_rollback(now);
        self.repl.sync = SyncState::Idle;
        self.repl.report_rpc = None;
        self.timers.set(Timer::Sync, now);
    }

    /// Leaves the sync source and does not come back to it for a while.
    pub(crate) fn deny_sync_source(&mut self, now: Instant, duration: Duration, why: &str) {
        if let Some(source) = self.repl.sync.source() {
            let forever =
                crate::mongod::planted::is(crate::mongod::planted::ServerBug::DeniesForever);
            self.repl.members[source].denied_until =
                if forever { Instant::NEVER } else { now + duration };
            self.drop_sync_source(now, why);
            // Not at once: a source that fails at once must not be asked in a tight loop.
            self.timers.set(Timer::Sync, now + Duration::from_millis(100));
        }
    }

    /// The sync timer: choose a source, or give up on a silent one.
    pub(crate) fn fire_sync(&mut self, now: Instant) {
        match &self.repl.sync {
            SyncState::Idle => self.choose_sync_source_if_idle(now),
            SyncState::Fetching(fetching) if fetching.held => {
                let (source, first, rbid) = (fetching.source, fetching.first, fetching.rbid);
                self.fetch(now, source, first, rbid);
            }
            SyncState::Fetching(_) => {
                self.deny_sync_source(now, DENY_AFTER_ERROR, "it does not answer");
            }
            SyncState::RollingBack(_) => self.fire_rollback(now),
            SyncState::InitialSync(_) => self.fire_initial_sync(now),
        }
    }

    fn await_time(&self) -> Duration {
        (self.election_timeout() / 2).min(Duration::from_secs(30))
    }

    /// Asks for entries after the last one.
    pub(crate) fn fetch(&mut self, now: Instant, source: usize, first: bool, rbid: Option<i32>) {
        let rpc = self.repl.next_rpc(RpcKind::Fetch, source);
        let await_time = self.await_time();
        let request = FetchOplog {
            last: self.repl.applied.optime,
            first,
            await_millis: if first { 0 } else { await_time.as_millis() as u32 },
            term: self.repl.term,
            commit_point: self.repl.commit.optime,
        };
        self.repl.sync = SyncState::Fetching(Fetching { source, rpc, first, rbid, held: false });
        self.timers.set(Timer::Sync, now + await_time + NETWORK_BUFFER);
        let peer = self.repl.members[source].peer;
        self.request(peer, rpc, PeerRequest::FetchOplog(request));
    }

    // ---- the source's side

    /// A follower asks for entries: answer now, or when there is something.
    pub(crate) fn on_fetch_oplog(&mut self, now: Instant, reply_to: ReplyTo, request: FetchOplog) {
        if request.term > self.repl.term {
            self.adopt_term(now, request.term, "an oplog fetch's");
        }
        if !self.repl.is_readable() {
            let error = CommandError::new(
                crate::mongod::error::NOT_PRIMARY_OR_SECONDARY,
                "not primary or secondary; cannot currently read from this replSet member",
            );
            self.reply(reply_to, PeerReply::Error(Box::new(error)));
            return;
        }
        if self.has_news_for(&request) {
            self.answer_fetch(reply_to, &request);
        } else {
            let until = now + Duration::from_millis(u64::from(request.await_millis));
            self.repl.fetchers.push(AwaitingFetch { reply_to, request, until });
            self.timers.set_earlier(Timer::Parked, until);
        }
    }

    fn has_news_for(&self, request: &FetchOplog) -> bool {
        request.first
            || self.repl.applied.optime.ts > request.last.ts
            || (self.repl.commit.optime > request.commit_point
                && request.commit_point < request.last)
    }

    fn answer_fetch(&mut self, reply_to: ReplyTo, request: &FetchOplog) {
        let oplog = self.storage.oplog();
        let from = if request.first {
            // The follower's own last entry comes first: it shows that the logs agree.
            Ts(request.last.ts.0.saturating_sub(1))
        } else {
            request.last.ts
        };
        let entries = oplog.range_after(from, BATCH_ENTRIES_MAX, BATCH_BYTES_MAX);
        let reply = FetchOplogReply {
            entries,
            oldest: oplog.oldest().map_or(Ts::NULL, |entry| entry.optime.ts),
            last_applied: self.repl.applied.optime,
            rbid: self.repl.rbid,
            term: self.repl.term,
            commit_point: self.repl.commit.optime,
            commit_wall_millis: self.repl.commit.wall_millis,
            primary_index: self.repl.primary.map_or(-1, |index| index as i32),
            sync_source_index: self.repl.sync.source().map_or(-1, |index| index as i32),
        };
        self.reply(reply_to, PeerReply::FetchOplog(Box::new(reply)));
    }

    /// New data or a new commit point: answer whom it concerns.
    pub(crate) fn answer_fetchers(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.repl.fetchers.len() {
            let waiting = &self.repl.fetchers[index];
            if waiting.until <= now || self.has_news_for(&waiting.request) {
                // Order among them does not matter to anyone but must not depend on chance.
                let waiting = self.repl.fetchers.remove(index);
                self.answer_fetch(waiting.reply_to, &waiting.request);
            } else {
                index += 1;
            }
        }
    }

    // ---- the follower's side

    /// A fetch's answer, or its failure.
    pub(crate) fn on_fetch_reply(
        &mut self,
        now: Instant,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        let SyncState::Fetching(fetching) = &self.repl.sync else { return };
        if fetching.rpc != rpc {
            return;
        }
        let (source, first, rbid) = (fetching.source, fetching.first, fetching.rbid);
        match outcome {
            Ok(PeerReply::FetchOplog(_)) if self.fail_points.is_on("stopReplProducer") => {
                // What came is forgotten, and asked for again once the fail point lets go.
                self.repl.sync =
                    SyncState::Fetching(Fetching { source, rpc, first, rbid, held: true });
                self.timers.set(Timer::Sync, now + STOPPED_PRODUCER_POLL);
            }
            Ok(PeerReply::FetchOplog(reply)) => {
                self.on_batch(now, source, first, rbid, *reply);
            }
            Ok(PeerReply::Error(error)) => {
                self.deny_sync_source(now, Duration::from_secs(1), &error.message);
            }
            Ok(_) => unreachable!("a fetch is answered by a batch or an error"),
            Err(failure) => {
                self.deny_sync_source(now, DENY_AFTER_ERROR, &format!("{failure:?}"));
            }
        }
    }

    fn on_batch(
        &mut self,
        now: Instant,
        source: usize,
        first: bool,
        rbid: Option<i32>,
        reply: FetchOplogReply,
    ) {
        if reply.term > self.repl.term {
            self.adopt_term(now, reply.term, "the sync source's");
            if self.repl.sync.source() != Some(source) {
                return;
            }
        }
        if rbid.is_some_and(|rbid| rbid != reply.rbid) {
            self.deny_sync_source(now, Duration::from_secs(1), "it has rolled back");
            return;
        }
        let mut entries = reply.entries;
        if first {
            let mine = self.repl.applied.optime;
            if reply.last_applied < mine {
                self.deny_sync_source(now, Duration::from_secs(1), "it is behind me");
                return;
            }
            let agrees = entries.first().is_some_and(|entry| entry.optime == mine);
            let trusts =
                crate::mongod::planted::is(crate::mongod::planted::ServerBug::SkipsRollback)
                    || (crate::mongod::planted::is(crate::mongod::planted::ServerBug::TrustsChain)
                        && self.repl.primary.is_some_and(|primary| primary != source));
            if !agrees && !trusts {
                if self.repl.leader.is_some() {
                    // A leader undoes nothing: it leads from where it is.
                    self.end_catch_up(now, "the sync source does not have my last entry");
                } else if mine.ts < reply.oldest {
                    self.too_stale(now);
                } else {
                    self.begin_rollback(now, source, reply.rbid);
                }
                return;
            }
            if agrees {
                entries.remove(0);
            } else {
                entries.retain(|entry| entry.optime.ts > mine.ts);
            }
            if std::mem::take(&mut self.repl.too_stale) {
                self.state_changed(now, "found a source whose oplog reaches back far enough");
            }
        }
        // The main sign of a living primary under load.
        if reply.primary_index >= 0
            && reply.term == self.repl.term
            && self.repl.state() == MemberState::Secondary
        {
            self.arm_election_timer(now);
        }
        let held_until = self.hold_back(now, &mut entries);
        if crate::mongod::planted::is(crate::mongod::planted::ServerBug::AppliesOutOfOrder) {
            swap_first_two(&mut entries);
        }
        if let Some(last) = entries.last() {
            let last = last.optime;
            let count = entries.len();
            for entry in entries {
                self.apply_entry(&entry);
                self.repl.applied =
                    Position { optime: entry.optime, wall_millis: entry.wall_millis };
            }
            self.repl.cluster_time = self.repl.cluster_time.max(last.ts);
            self.event(now, || EventKind::Applied { count, last });
            self.storage_flush_soon(now);
            self.note_new_term_applied(now);
            if let (true, Some(metrics)) =
                (self.repl.leader.is_some(), &mut self.repl.candidate_metrics)
            {
                metrics.catch_up_ops += count as i64;
            }
            self.wake(WAKE_DATA | WAKE_COMMIT);
            self.report_progress(now);
            self.answer_fetchers(now);
            self.catch_up_progress(now);
        }
        let point = Position { optime: reply.commit_point, wall_millis: reply.commit_wall_millis };
        if !point.optime.is_null() {
            self.learn_commit_point(now, point);
        }
        if !matches!(&self.repl.sync, SyncState::Fetching(fetching) if fetching.source == source) {
            return;
        }
        let seen = SourceView {
            sync_source_index: reply.sync_source_index,
            last_applied: reply.last_applied,
        };
        if let Some(why) = self.reason_to_change_source(source, &seen) {
            self.drop_sync_source(now, why);
            return;
        }
        match held_until {
            None => self.fetch(now, source, false, Some(reply.rbid)),
            Some(at) => {
                if let SyncState::Fetching(fetching) = &mut self.repl.sync {
                    (fetching.held, fetching.first) = (true, false);
                    fetching.rbid = Some(reply.rbid);
                }
                self.timers.set(Timer::Sync, at);
            }
        }
    }

    /// A delayed member applies an entry only `secondaryDelaySecs` after it was written: takes the
    /// younger ones off and says when the first of them is due.
    fn hold_back(
        &self,
        now: Instant,
        entries: &mut Vec<std::sync::Arc<crate::mongod::oplog_entry::OplogEntry>>,
    ) -> Option<Instant> {
        let delay = self.repl.own()?.delay;
        if delay.is_zero() {
            return None;
        }
        let ripe = self.wall_millis(now) - delay.as_millis() as i64;
        let young = entries.iter().position(|entry| entry.wall_millis > ripe)?;
        let wait_millis = (entries[young].wall_millis - ripe).max(1) as u64;
        entries.truncate(young);
        Some(now + Duration::from_millis(wait_millis))
    }

    /// Applies one fetched entry: to the store, and to what is known of sessions.
    pub(crate) fn apply_entry(
        &mut self,
        entry: &std::sync::Arc<crate::mongod::oplog_entry::OplogEntry>,
    ) {
        if let Err(error) = self.storage.append(entry.clone()) {
            panic!(
                "{}: entry {} that the sync source applied does not apply here: {}",
                self.options.host, entry.optime, error.message
            );
        }
        if !crate::mongod::planted::is(crate::mongod::planted::ServerBug::ForgetsSessions) {
            self.sessions.observe(entry);
        }
    }

    fn reason_to_change_source(&self, source: usize, seen: &SourceView) -> Option<&'static str> {
        let config = self.repl.config.as_ref()?;
        if !config.settings.chaining_allowed
            && self.repl.primary.is_some_and(|primary| primary != source)
        {
            return Some("chaining is not allowed and another member is primary");
        }
        if seen.sync_source_index < 0
            && self.repl.primary != Some(source)
            && seen.last_applied <= self.repl.applied.optime
            && self.repl.primary.is_some_and(|primary| {
                self.repl.members[primary].applied.optime > self.repl.applied.optime
            })
        {
            return Some("it is not ahead of me, has no source itself and is not the primary");
        }
        let lags = self.repl.members.iter().enumerate().any(|(index, member)| {
            index != source
                && member.is_up()
                && matches!(member.state, MemberState::Primary | MemberState::Secondary)
                && seen.last_applied.ts.seconds().saturating_add(SOURCE_LAG_SECONDS_MAX)
                    < member.applied.optime.ts.seconds()
        });
        lags.then_some("it lags behind another member by more than maxSyncSourceLagSecs")
    }

    fn too_stale(&mut self, now: Instant) {
        self.lose_election(now, "too stale to catch up".into());
        self.repl.too_stale = true;
        self.pass(Landmark::TooStale);
        self.deny_sync_source(now, DENY_TOO_STALE, "my last entry is older than its oldest");
        self.state_changed(now, "too stale to catch up");
    }

    // ---- progress reports

    /// Tells the sync source what this member, and those who sync from it, have.
    pub(crate) fn report_progress(&mut self, now: Instant) {
        if self.repl.report_rpc.is_some() {
            self.repl.report_pending = true;
            return;
        }
        let SyncState::Fetching(fetching) = &self.repl.sync else { return };
        if self.repl.leader.is_some() {
            return;
        }
        let source = fetching.source;
        let Some(config) = &self.repl.config else { return };
        let mut positions = Vec::with_capacity(config.members.len());
        for (index, its) in config.members.iter().enumerate() {
            let own = Some(index) == self.repl.self_index;
            let (applied, durable) = if own {
                (self.repl.applied, self.repl.durable)
            } else {
                // Only those whose progress comes through here.
                let member = &self.repl.members[index];
                if Some(member.sync_source_index) != self.repl.self_index.map(|i| i as i32) {
                    continue;
                }
                (member.applied, member.durable)
            };
            positions.push(MemberPosition {
                member_id: its.id,
                config_version: config.version,
                applied: applied.optime,
                durable: durable.optime,
                applied_wall_millis: applied.wall_millis,
                durable_wall_millis: durable.wall_millis,
            });
        }
        let update = UpdatePosition { term: self.repl.term, positions };
        let rpc = self.repl.next_rpc(RpcKind::Report, source);
        self.repl.report_rpc = Some(rpc);
        self.repl.report_pending = false;
        self.timers.set(Timer::Report, now + self.election_timeout() / 2);
        let peer = self.repl.members[source].peer;
        self.request(peer, rpc, PeerRequest::UpdatePosition(Box::new(update)));
    }

    /// A report's answer, or its failure.
    pub(crate) fn on_report_reply(&mut self, now: Instant, rpc: RpcId) {
        if self.repl.report_rpc == Some(rpc) {
            self.repl.report_rpc = None;
            if self.repl.report_pending {
                self.report_progress(now);
            }
        }
    }

    /// Half an election timeout without news: say so, it is a sign of life.
    pub(crate) fn fire_report(&mut self, now: Instant) {
        // A report that was never answered is forgotten with its connection.
        self.repl.report_rpc = None;
        self.report_progress(now);
    }

    fn note_new_term_applied(&mut self, now: Instant) {
        let wall_millis = self.wall_millis(now);
        let (applied, term) = (self.repl.applied, self.repl.term);
        if let Some(metrics) = &mut self.repl.participant_metrics
            && metrics.new_term_applied_millis.is_none()
            && metrics.term == term
            && applied.optime.term == term
        {
            metrics.new_term_start_millis = Some(applied.wall_millis);
            metrics.new_term_applied_millis = Some(wall_millis);
        }
    }
}

/// What a planted bug does to a batch: two entries change places, each under the other's optime.
fn swap_first_two(entries: &mut [std::sync::Arc<crate::mongod::oplog_entry::OplogEntry>]) {
    use crate::mongod::oplog_entry::{OpKind, OplogEntry};
    let [one, other, ..] = entries else { return };
    if one.kind == OpKind::Command || other.kind == OpKind::Command {
        return;
    }
    let at = |entry: &OplogEntry, of: &OplogEntry| OplogEntry {
        optime: of.optime,
        wall_millis: of.wall_millis,
        ..entry.clone()
    };
    let (first, second) = (at(other, one), at(one, other));
    (*one, *other) = (std::sync::Arc::new(first), std::sync::Arc::new(second));
}

/// What a batch said of its source.
struct SourceView {
    sync_source_index: i32,
    last_applied: crate::mongod::optime::OpTime,
}
