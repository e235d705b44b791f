//! Elections: when a member stands, how it asks, how it votes.

use std::time::Duration;

use bson::rawdoc;
use stepdown_driver::Instant;

use super::status::{CandidateMetrics, ParticipantMetrics};
use super::{LastVote, RpcKind};
use crate::mongod::error::{
    BAD_VALUE, CommandError, INVALID_REPLICA_SET_CONFIG, SHUTDOWN_IN_PROGRESS,
};
use crate::mongod::optime::OpTime;
use crate::mongod::peer::{PeerFailure, PeerReply, PeerRequest, RequestVotes, RequestVotesReply};
use crate::mongod::timer::Timer;
use crate::mongod::{Landmark, Mongod, RpcId};
use crate::trace::{EventKind, MemberState};

/// `priorityTakeoverFreshnessWindowSeconds`.
const PRIORITY_FRESHNESS_SECONDS: u32 = 2;
/// Within one second, so many increments behind is close enough for a priority takeover.
const PRIORITY_FRESHNESS_INCREMENTS: u32 = 1_000;
/// Votes are waited for at most this long.
const VOTES_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Why a member stands; the names are those of `lastElectionReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElectionReason {
    CatchupTakeover,
    ElectionTimeout,
    PriorityTakeover,
    SingleNodePromptElection,
    StepUpRequest,
    StepUpRequestSkipDryRun,
}

impl ElectionReason {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            ElectionReason::CatchupTakeover => "catchupTakeover",
            ElectionReason::ElectionTimeout => "electionTimeout",
            ElectionReason::PriorityTakeover => "priorityTakeover",
            ElectionReason::SingleNodePromptElection => "singleNodePromptElection",
            ElectionReason::StepUpRequest => "stepUpRequest",
            ElectionReason::StepUpRequestSkipDryRun => "stepUpRequestSkipDryRun",
        }
    }
}

/// An election this member has called.
#[derive(Debug)]
pub(crate) struct Election {
    pub reason: ElectionReason,
    pub dry_run: bool,
    /// The term asked for in a dry run is the present one, in the real one the next.
    pub term: i64,
    pub votes: usize,
    pub needed: usize,
    pub pending: usize,
    pub prior_primary: Option<usize>,
    pub primary_said_yes: bool,
}

impl Mongod {
    /// Sets the election timer anew: election timeout plus jitter below 15 % of it. The jitter is
    /// drawn anew only when its upper bound has passed since the last draw.
    pub(crate) fn arm_election_timer(&mut self, now: Instant) {
        let may_stand = self.repl.is_electable()
            || crate::mongod::planted::is(crate::mongod::planted::ServerBug::StandsWithoutPriority);
        if self.repl.state() != MemberState::Secondary || !may_stand {
            self.timers.stop(Timer::Election);
            return;
        }
        let timeout = self.election_timeout();
        let jitter_max = timeout * 15 / 100;
        let redraw = self.repl.election_jitter_drawn.is_none_or(|drawn| now - drawn >= jitter_max);
        if redraw {
            let millis = self.random.below((jitter_max.as_millis() as u64).max(1));
            self.repl.election_jitter_nanos = millis * 1_000_000;
            self.repl.election_jitter_drawn = Some(now);
        }
        let jitter = Duration::from_nanos(self.repl.election_jitter_nanos);
        self.timers.set(Timer::Election, now + timeout + jitter);
    }

    /// What heartbeats say of this member (`electable`): a frozen member, or one that stepped down a moment
    /// ago, is not counted on by a primary that wants to hand over.
    pub(crate) fn could_stand(&self, now: Instant) -> bool {
        let repl = &self.repl;
        repl.state() == MemberState::Secondary
            && repl.is_electable()
            && !repl.shutting_down
            && now >= repl.stand_not_before
    }

    /// Why this member must not stand now, in words; `None` if it may.
    fn refuses_to_stand(&self, now: Instant, reason: ElectionReason) -> Option<String> {
        let repl = &self.repl;
        let Some(config) = &repl.config else { return Some("I have no configuration".into()) };
        let Some(own) = repl.own() else { return Some("I am not in the configuration".into()) };
        if repl.shutting_down {
            return Some("I am shutting down".into());
        }
        if repl.state() != MemberState::Secondary {
            return Some(format!("I am {}, not SECONDARY", repl.state()));
        }
        if own.arbiter_only {
            return Some("I am an arbiter".into());
        }
        if !own.is_electable()
            && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::StandsWithoutPriority)
        {
            return Some("my priority is 0 or I have no vote".into());
        }
        if repl.election.is_some() || repl.quorum_check.is_some() {
            return Some("an election or a reconfiguration is in progress".into());
        }
        if now < repl.stand_not_before {
            return Some("my step-down or freeze period is not over".into());
        }
        if repl.applied.optime.is_null() {
            return Some("I have no data".into());
        }
        if self.voters_up() * 2 <= config.voting_members() {
            return Some("I can't see a majority of the set".into());
        }
        match reason {
            ElectionReason::PriorityTakeover => self.refuses_priority_takeover(),
            ElectionReason::CatchupTakeover => self.refuses_catchup_takeover(),
            _ => None,
        }
    }

    fn refuses_priority_takeover(&self) -> Option<String> {
        let primary = self.repl.primary?;
        let theirs = self.repl.members[primary].applied.optime;
        let mine = self.repl.applied.optime;
        let behind = mine.term != theirs.term
            || mine.ts.seconds().saturating_add(PRIORITY_FRESHNESS_SECONDS) < theirs.ts.seconds()
            || (mine.ts.seconds() == theirs.ts.seconds()
                && mine.ts.increment().saturating_add(PRIORITY_FRESHNESS_INCREMENTS)
                    < theirs.ts.increment());
        behind
            .then(|| format!("my last entry {mine} is not close enough to the primary's {theirs}"))
    }

    fn refuses_catchup_takeover(&self) -> Option<String> {
        let mine = self.repl.applied.optime;
        let freshest = self.repl.members.iter().map(|m| m.applied.optime).max().unwrap_or(mine);
        if mine < freshest {
            return Some("I am not the freshest member".into());
        }
        let primary = self.repl.primary?;
        if mine <= self.repl.members[primary].applied.optime {
            return Some("the primary has caught up".into());
        }
        (mine.term == self.repl.term).then(|| "I have an entry of this term".into())
    }

    /// Voters held to be alive, this member included.
    pub(crate) fn voters_up(&self) -> usize {
        let Some(config) = &self.repl.config else { return 0 };
        config
            .members
            .iter()
            .enumerate()
            .filter(|(index, member)| {
                member.is_voter()
                    && (Some(*index) == self.repl.self_index || self.repl.members[*index].is_up())
            })
            .count()
    }

    /// The election timeout has passed.
    pub(crate) fn fire_election(&mut self, now: Instant) {
        if let Err(why) = self.stand(now, ElectionReason::ElectionTimeout) {
            self.event(now, || EventKind::ElectionRefused { why });
            self.arm_election_timer(now);
        }
    }

    /// Stands for election.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn stand(&mut self, now: Instant, reason: ElectionReason) -> Result<(), String> {
        if let Some(why) = self.refuses_to_stand(now, reason) {
            return Err(why);
        }
        self.cancel_takeover(now, "an election begins");
        let prior_primary = self.repl.primary;
        if reason == ElectionReason::StepUpRequestSkipDryRun {
            self.call_election(now, reason, false, prior_primary);
        } else {
            self.call_election(now, reason, true, prior_primary);
        }
        Ok(())
    }

    fn call_election(
        &mut self,
        now: Instant,
        reason: ElectionReason,
        dry_run: bool,
        prior_primary: Option<usize>,
    ) {
        let config = self.repl.config.clone().expect("a candidate has a configuration");
        let self_index = self.repl.self_index.expect("a candidate is in its configuration");
        if !dry_run {
            self.repl.term += 1;
            self.record_vote(LastVote { term: self.repl.term, candidate_index: self_index as i64 });
            self.note_candidacy(now, reason, &config, prior_primary);
        }
        let term = self.repl.term;
        match reason {
            ElectionReason::CatchupTakeover => self.pass(Landmark::CatchUpTakeover),
            ElectionReason::PriorityTakeover => self.pass(Landmark::PriorityTakeover),
            ElectionReason::StepUpRequestSkipDryRun => self.pass(Landmark::Handoff),
            _ => {}
        }
        self.event(now, || EventKind::ElectionStarted {
            dry_run,
            term,
            why: reason.name().to_owned(),
        });
        let request = RequestVotes {
            set_name: config.set_name.clone(),
            dry_run,
            term,
            candidate_index: self_index,
            config_version: config.version,
            config_term: config.term,
            last_written: self.repl.applied.optime,
            last_applied: self.repl.applied.optime,
        };
        let mut pending = 0;
        for index in 0..config.members.len() {
            if index == self_index || !config.members[index].is_voter() {
                continue;
            }
            let rpc = self.repl.next_rpc(RpcKind::Vote, index);
            self.repl.members[index].vote_rpc = Some(rpc);
            let peer = self.repl.members[index].peer;
            self.request(peer, rpc, PeerRequest::RequestVotes(Box::new(request.clone())));
            pending += 1;
        }
        self.repl.election = Some(Box::new(Election {
            reason,
            dry_run,
            term,
            votes: 1,
            needed: config.majority_vote_count(),
            pending,
            prior_primary,
            primary_said_yes: false,
        }));
        self.timers.set(Timer::Votes, now + self.election_timeout().min(VOTES_TIMEOUT_MAX));
        self.count_votes(now);
    }

    fn note_candidacy(
        &mut self,
        now: Instant,
        reason: ElectionReason,
        config: &super::config::ReplSetConfig,
        prior_primary: Option<usize>,
    ) {
        let repl = &self.repl;
        let own = repl.own().expect("a candidate is in its configuration");
        let seen = repl.members.iter().map(|member| member.applied.optime).max();
        let metrics = CandidateMetrics {
            reason: reason.name(),
            date_millis: self.wall_millis(now),
            term: repl.term,
            last_committed: repl.commit.optime,
            last_seen: seen.unwrap_or(OpTime::NULL).max(repl.applied.optime),
            votes_needed: config.majority_vote_count() as i32,
            priority_micros: own.priority_micros,
            election_timeout_millis: config.settings.election_timeout.as_millis() as i64,
            prior_primary_id: prior_primary.map(|index| config.members[index].id),
            target_catch_up: None,
            catch_up_ops: 0,
            new_term_start_millis: None,
            majority_available_millis: None,
        };
        self.repl.candidate_metrics = Some(Box::new(metrics));
        if let Some(metrics) = &mut self.repl.participant_metrics {
            metrics.new_term_start_millis = None;
            metrics.new_term_applied_millis = None;
        }
    }

    /// Keeps a vote on disk; it is there before anybody hears of it.
    fn record_vote(&mut self, vote: LastVote) {
        assert!(
            vote.term > self.repl.last_vote.term
                || crate::mongod::planted::is(crate::mongod::planted::ServerBug::VotesTwice),
            "{} votes twice: {:?} after {:?}",
            self.options.host,
            vote,
            self.repl.last_vote
        );
        self.repl.last_vote = vote;
        self.storage.set_local_document(
            "replset.election",
            rawdoc! { "_id": self.repl.process_id, "term": vote.term, "candidateIndex": vote.candidate_index },
        );
    }

    /// A vote request's answer, or its failure.
    pub(crate) fn on_vote_reply(
        &mut self,
        now: Instant,
        index: usize,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        if index >= self.repl.members.len() || self.repl.members[index].vote_rpc != Some(rpc) {
            return;
        }
        self.repl.members[index].vote_rpc = None;
        let Some(election) = &mut self.repl.election else { return };
        election.pending -= 1;
        if let Ok(PeerReply::RequestVotes(reply)) = outcome {
            self.repl.members[index].last_update = now;
            if reply.term > self.repl.term {
                let why = format!("{} has term {}", self.repl.host(index), reply.term);
                self.lose_election(now, why);
                self.adopt_term(now, reply.term, "a voter's");
                return;
            }
            if reply.granted {
                election.votes += 1;
                election.primary_said_yes |= election.prior_primary == Some(index);
            }
        }
        self.count_votes(now);
    }

    fn count_votes(&mut self, now: Instant) {
        let Some(election) = &self.repl.election else { return };
        let (votes, needed, pending) = (election.votes, election.needed, election.pending);
        // A catch-up takeover's dry run must tell the primary of the coming term.
        let waits_for_primary = election.dry_run
            && election.reason == ElectionReason::CatchupTakeover
            && !election.primary_said_yes;
        if votes >= needed && !waits_for_primary {
            self.timers.stop(Timer::Votes);
            let election = self.repl.election.take().expect("just seen");
            if election.dry_run {
                self.call_election(now, election.reason, false, election.prior_primary);
            } else {
                self.event(now, || EventKind::ElectionWon { term: election.term, votes });
                self.become_leader(now);
            }
        } else if votes + pending < needed || (pending == 0 && waits_for_primary) {
            self.lose_election(now, format!("{votes} of {needed} votes needed"));
        }
    }

    /// The votes have taken too long.
    pub(crate) fn fire_votes(&mut self, now: Instant) {
        self.lose_election(now, "the votes took too long".to_owned());
    }

    /// Gives up an election in progress.
    pub(crate) fn lose_election(&mut self, now: Instant, why: String) {
        let Some(election) = self.repl.election.take() else { return };
        self.timers.stop(Timer::Votes);
        for member in &mut self.repl.members {
            member.vote_rpc = None;
        }
        self.pass(if election.dry_run { Landmark::DryRunLost } else { Landmark::ElectionLost });
        self.event(now, || EventKind::ElectionLost { term: election.term, why });
        self.arm_election_timer(now);
        self.wake(super::super::WAKE_STATE);
    }

    /// Answers a candidate. The order of the conditions is the server's.
    pub(crate) fn on_request_votes(
        &mut self,
        now: Instant,
        request: &RequestVotes,
    ) -> Result<RequestVotesReply, CommandError> {
        if self.repl.shutting_down && self.repl.quiesce_until.is_none() {
            return Err(CommandError::new(SHUTDOWN_IN_PROGRESS, "In the process of shutting down"));
        }
        let (Some(config), Some(_)) = (self.repl.config.clone(), self.repl.self_index) else {
            return Err(CommandError::new(
                INVALID_REPLICA_SET_CONFIG,
                "My replica set config is invalid or I am not a member of it",
            ));
        };
        let Some(candidate) = config.members.get(request.candidate_index) else {
            return Err(CommandError::new(
                BAD_VALUE,
                format!("Invalid candidateIndex: {}", request.candidate_index),
            ));
        };
        if request.term > self.repl.term {
            self.adopt_term(now, request.term, "a candidate's");
        }
        let refusal = self.refuses_vote(&config, candidate, request);
        let granted = refusal.is_none();
        if request.last_written < self.repl.applied.optime {
            self.pass(Landmark::StaleCandidate);
        } else if !granted && !request.dry_run && self.repl.last_vote.term >= request.term {
            self.pass(Landmark::SecondCandidate);
        }
        if !request.dry_run {
            if granted {
                self.record_vote(LastVote {
                    term: request.term,
                    candidate_index: request.candidate_index as i64,
                });
            }
            if granted || request.term == self.repl.term {
                self.note_participation(now, request, candidate.id, refusal.as_deref());
            }
            if granted {
                self.arm_election_timer(now);
            }
        }
        let host = candidate.host.clone();
        let why = refusal.clone().unwrap_or_default();
        let (term, dry_run) = (request.term, request.dry_run);
        self.event(now, || EventKind::Vote { candidate: host, term, dry_run, granted, why });
        Ok(RequestVotesReply { term: self.repl.term, granted, reason: refusal.unwrap_or_default() })
    }

    fn refuses_vote(
        &self,
        config: &super::config::ReplSetConfig,
        candidate: &super::config::MemberConfig,
        request: &RequestVotes,
    ) -> Option<String> {
        let repl = &self.repl;
        if self.fail_points.is_on("voteNoInElection") {
            return Some("forced to vote no due to failpoint voteNoInElection set".into());
        }
        if self.fail_points.is_on("voteYesInDryRunButNoInRealElection") {
            return (!request.dry_run).then(|| {
                "forced to vote no in real election due to failpoint voteYesInDryRunButNoInRealElection set".into()
            });
        }
        if config.is_newer_than(request.config_version, request.config_term) {
            return Some(format!(
                "candidate's config with {{version: {}, term: {}}} is older than mine with {{version: {}, term: {}}}",
                request.config_version, request.config_term, config.version, config.term
            ));
        }
        if request.term < repl.term {
            return Some(format!(
                "candidate's term ({}) is lower than mine ({})",
                request.term, repl.term
            ));
        }
        if request.set_name != config.set_name {
            return Some(format!(
                "candidate's set name ({}) differs from mine ({})",
                request.set_name, config.set_name
            ));
        }
        if request.last_written < repl.applied.optime
            && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::ElectsStale)
        {
            return Some(format!(
                "candidate's data is staler than mine. candidate's last written OpTime: {}, my last written OpTime: {}",
                request.last_written, repl.applied.optime
            ));
        }
        if !request.dry_run
            && repl.last_vote.term >= request.term
            && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::VotesTwice)
        {
            let voted = usize::try_from(repl.last_vote.candidate_index)
                .ok()
                .and_then(|index| config.members.get(index));
            return Some(format!(
                "already voted for another candidate ({}) this term ({})",
                voted.map_or("?", |member| &member.host),
                repl.last_vote.term
            ));
        }
        let same_config =
            (request.config_version, request.config_term) == (config.version, config.term);
        if repl.state() == MemberState::Arbiter && same_config {
            let healthier = repl.members.iter().enumerate().find(|(index, member)| {
                member.is_up()
                    && member.state == MemberState::Primary
                    && config.members[*index].priority_micros >= candidate.priority_micros
                    && *index != request.candidate_index
            });
            if let Some((index, _)) = healthier {
                return Some(format!(
                    "can see a healthy primary ({}) of equal or greater priority",
                    config.members[index].host
                ));
            }
        }
        None
    }

    fn note_participation(
        &mut self,
        now: Instant,
        request: &RequestVotes,
        candidate_id: i32,
        refusal: Option<&str>,
    ) {
        let repl = &self.repl;
        let seen = repl.members.iter().map(|member| member.applied.optime).max();
        let metrics = ParticipantMetrics {
            voted_for_candidate: refusal.is_none(),
            term: request.term,
            date_millis: self.wall_millis(now),
            candidate_id,
            reason: refusal.unwrap_or_default().to_owned(),
            last_applied: repl.applied.optime,
            max_applied: seen.unwrap_or(OpTime::NULL).max(repl.applied.optime),
            priority_micros: repl.own().map_or(0, |own| own.priority_micros),
            new_term_start_millis: None,
            new_term_applied_millis: None,
        };
        self.repl.participant_metrics = Some(Box::new(metrics));
    }

    /// A higher term was heard: a leader steps down, then the term is taken over.
    pub(crate) fn adopt_term(&mut self, now: Instant, term: i64, whose: &str) {
        assert!(term > self.repl.term, "terms only grow");
        self.lose_election(now, format!("term {term} was heard"));
        if self.repl.leader.is_some()
            && !crate::mongod::planted::is(crate::mongod::planted::ServerBug::IgnoresHigherTerm)
        {
            self.pass(Landmark::DeposedByTerm);
            self.step_down(now, &format!("{whose} term {term} is higher than mine"));
        }
        self.repl.term = term;
        self.set_primary(now, None);
        self.cancel_takeover(now, "the term changed");
        self.event(now, || EventKind::TermChanged { term, why: format!("{whose} term") });
        self.arm_election_timer(now);
    }

    // ---- takeovers

    /// A reply from the primary came in: is there reason to take over?
    pub(crate) fn consider_takeover(&mut self, now: Instant, primary: usize) {
        if self.repl.takeover.is_some()
            || self.repl.state() != MemberState::Secondary
            || !self.repl.is_electable()
        {
            return;
        }
        let config = self.repl.config.clone().expect("a secondary has a configuration");
        let self_index = self.repl.self_index.expect("a secondary is in its configuration");
        let own = &config.members[self_index];
        let rank = config.priority_rank(self_index);
        let behind = self.repl.members[primary].applied.optime < self.repl.applied.optime;
        let catch_up = config.settings.catch_up_takeover_delay_millis >= 0
            && self.repl.applied.optime.term != self.repl.term
            && behind;
        let priority = own.priority_micros > config.members[primary].priority_micros;
        let timeout = self.election_timeout();
        let (reason, delay) = if catch_up && !(priority && rank == 0) {
            let millis = config.settings.catch_up_takeover_delay_millis as u64;
            (ElectionReason::CatchupTakeover, Duration::from_millis(millis))
        } else if priority {
            let jitter_millis = self.random.below((timeout.as_millis() as u64 * 15 / 100).max(1));
            let delay = timeout * (rank + 1) + Duration::from_millis(jitter_millis);
            (ElectionReason::PriorityTakeover, delay)
        } else {
            return;
        };
        self.repl.takeover = Some(reason);
        self.timers.set(Timer::Takeover, now + delay);
        self.event(now, || EventKind::Takeover {
            what: format!("{} scheduled in {} ms", reason.name(), delay.as_millis()),
        });
    }

    pub(crate) fn cancel_takeover(&mut self, now: Instant, why: &str) {
        if let Some(reason) = self.repl.takeover.take() {
            self.timers.stop(Timer::Takeover);
            self.event(now, || EventKind::Takeover {
                what: format!("{} cancelled: {why}", reason.name()),
            });
        }
    }

    pub(crate) fn fire_takeover(&mut self, now: Instant) {
        let Some(reason) = self.repl.takeover.take() else { return };
        if let Err(why) = self.stand(now, reason) {
            self.event(now, || EventKind::ElectionRefused { why });
        }
    }

    /// Another member asks this one to stand, its own step-down done.
    pub(crate) fn on_handoff(&mut self, now: Instant) -> Result<(), CommandError> {
        self.stand(now, ElectionReason::StepUpRequestSkipDryRun)
            .map_err(|why| CommandError::new(crate::mongod::error::COMMAND_FAILED, why))
    }

    /// The set of one member needs no timeout.
    pub(crate) fn elect_single_node(&mut self, now: Instant) {
        self.elect_alone(now, ElectionReason::SingleNodePromptElection);
    }

    /// Stands at once if this member is the whole set.
    pub(crate) fn elect_alone(&mut self, now: Instant, reason: ElectionReason) {
        let alone = self.repl.config.as_ref().is_some_and(|config| config.members.len() == 1);
        if alone && self.repl.state() == MemberState::Secondary {
            let _refused = self.stand(now, reason);
        }
    }
}
