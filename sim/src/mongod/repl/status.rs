//! What `replSetGetStatus` tells.

use bson::{Bson, DateTime, Document, Timestamp, doc};
use stepdown_driver::Instant;

use super::config::priority_to_double;
use super::{Member, Position};
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::{Mongod, ServerVersion};
use crate::trace::MemberState;

/// `electionCandidateMetrics`.
#[derive(Debug)]
pub(crate) struct CandidateMetrics {
    pub reason: &'static str,
    pub date_millis: i64,
    pub term: i64,
    pub last_committed: OpTime,
    pub last_seen: OpTime,
    pub votes_needed: i32,
    pub priority_micros: i64,
    pub election_timeout_millis: i64,
    pub prior_primary_id: Option<i32>,
    pub target_catch_up: Option<OpTime>,
    pub catch_up_ops: i64,
    pub new_term_start_millis: Option<i64>,
    pub majority_available_millis: Option<i64>,
}

/// `electionParticipantMetrics`.
#[derive(Debug)]
pub(crate) struct ParticipantMetrics {
    pub voted_for_candidate: bool,
    pub term: i64,
    pub date_millis: i64,
    pub candidate_id: i32,
    pub reason: String,
    pub last_applied: OpTime,
    pub max_applied: OpTime,
    pub priority_micros: i64,
    pub new_term_start_millis: Option<i64>,
    pub new_term_applied_millis: Option<i64>,
}

fn optime(optime: OpTime) -> Document {
    doc! { "ts": Timestamp::from(optime.ts), "t": optime.term }
}

fn date(millis: i64) -> DateTime {
    DateTime::from_millis(millis)
}

/// An optime's date: whole seconds.
fn optime_date(optime: OpTime) -> DateTime {
    date(i64::from(optime.ts.seconds()) * 1_000)
}

impl Mongod {
    /// The body of `replSetGetStatus`, without `ok`.
    pub(crate) fn status_document(&self, now: Instant) -> Document {
        let repl = &self.repl;
        let config = repl.config.as_ref().expect("the caller has checked");
        let written = self.options.version >= ServerVersion::V8_0;
        let source = repl.sync.source();
        let mut status = doc! {
            "set": &*config.set_name,
            "date": date(self.wall_millis(now)),
            "myState": repl.state() as i32,
            "term": repl.term,
        };
        if repl.too_stale {
            status.insert("tooStale", true);
        }
        status.insert("syncSourceHost", source.map_or(String::new(), |s| repl.host(s).to_string()));
        status.insert("syncSourceId", source.map_or(-1, |s| config.members[s].id));
        status.insert(
            "heartbeatIntervalMillis",
            config.settings.heartbeat_interval.as_millis() as i64,
        );
        status.insert("majorityVoteCount", config.majority_vote_count() as i32);
        status.insert("writeMajorityCount", config.write_majority_count() as i32);
        status.insert("votingMembersCount", config.voting_members() as i32);
        status.insert("writableVotingMembersCount", config.writable_voting_members() as i32);
        let mut optimes = doc! {
            "lastCommittedOpTime": optime(repl.commit.optime),
            "lastCommittedWallTime": date(repl.commit.wall_millis),
            "readConcernMajorityOpTime": optime(repl.commit.optime),
            "appliedOpTime": optime(repl.applied.optime),
            "durableOpTime": optime(repl.durable.optime),
        };
        if written {
            optimes.insert("writtenOpTime", optime(repl.applied.optime));
        }
        optimes.insert("lastAppliedWallTime", date(repl.applied.wall_millis));
        optimes.insert("lastDurableWallTime", date(repl.durable.wall_millis));
        if written {
            optimes.insert("lastWrittenWallTime", date(repl.applied.wall_millis));
        }
        status.insert("optimes", optimes);
        status.insert("lastStableRecoveryTimestamp", Timestamp::from(self.stable_timestamp()));
        if let Some(metrics) = &repl.candidate_metrics {
            status.insert("electionCandidateMetrics", metrics.document(written));
        }
        if let Some(metrics) = &repl.participant_metrics {
            status.insert("electionParticipantMetrics", metrics.document(written));
        }
        let mut indexes: Vec<usize> = (0..config.members.len()).collect();
        indexes.sort_by_key(|&index| config.members[index].id);
        let members: Vec<Bson> = indexes
            .into_iter()
            .map(|index| {
                if Some(index) == repl.self_index {
                    self.own_status(now, index, written).into()
                } else {
                    self.member_status(now, index, &repl.members[index], written).into()
                }
            })
            .collect();
        status.insert("members", members);
        status
    }

    fn stable_timestamp(&self) -> Ts {
        if self.repl.own().is_some_and(|own| own.arbiter_only) {
            return Ts::NULL;
        }
        self.repl.commit.optime.ts
    }

    fn own_status(&self, now: Instant, index: usize, written: bool) -> Document {
        let repl = &self.repl;
        let config = repl.config.as_ref().expect("the caller has checked");
        let state = repl.state();
        let mut own = doc! {
            "_id": config.members[index].id,
            "name": &*config.members[index].host,
            "health": 1.0,
            "state": state as i32,
            "stateStr": state.name(),
            "uptime": (now - self.started).as_secs() as i32,
        };
        if !config.members[index].arbiter_only {
            own.insert("optime", optime(repl.applied.optime));
            own.insert("optimeDate", optime_date(repl.applied.optime));
            if written {
                own.insert("optimeWritten", optime(repl.applied.optime));
                own.insert("optimeWrittenDate", optime_date(repl.applied.optime));
            }
            own.insert("lastAppliedWallTime", date(repl.applied.wall_millis));
            own.insert("lastDurableWallTime", date(repl.durable.wall_millis));
            if written {
                own.insert("lastWrittenWallTime", date(repl.applied.wall_millis));
            }
        }
        let source = repl.sync.source();
        own.insert("syncSourceHost", source.map_or(String::new(), |s| repl.host(s).to_string()));
        own.insert("syncSourceId", source.map_or(-1, |s| config.members[s].id));
        if repl.maintenance > 0 {
            own.insert("maintenanceMode", repl.maintenance as i32);
        }
        // A primary looks for nobody.
        own.insert("infoMessage", if repl.leader.is_some() { "" } else { repl.sync_source_info });
        if let Some(leader) = &repl.leader {
            insert_election_time(&mut own, leader.election_time);
        }
        own.insert("configVersion", config.version as i32);
        own.insert("configTerm", config.term as i32);
        own.insert("self", true);
        own.insert("lastHeartbeatMessage", "");
        own
    }

    fn member_status(
        &self,
        now: Instant,
        index: usize,
        member: &Member,
        written: bool,
    ) -> Document {
        let config = self.repl.config.as_ref().expect("the caller has checked");
        let its = &config.members[index];
        let wall = |at: Option<Instant>| date(at.map_or(0, |at| self.wall_millis(at)));
        let mut status = doc! {
            "_id": its.id,
            "name": &*its.host,
            "health": if member.is_up() { 1.0 } else { 0.0 },
            "state": member.state as i32,
            "stateStr": member.state.name(),
            "uptime": member.up_since.map_or(0, |since| (now - since).as_secs() as i32),
        };
        if !its.arbiter_only {
            status.insert("optime", optime(member.applied.optime));
            status.insert("optimeDurable", optime(member.durable.optime));
            if written {
                status.insert("optimeWritten", optime(member.applied.optime));
            }
            status.insert("optimeDate", optime_date(member.applied.optime));
            status.insert("optimeDurableDate", optime_date(member.durable.optime));
            if written {
                status.insert("optimeWrittenDate", optime_date(member.applied.optime));
            }
            let Position { wall_millis: applied, .. } = member.applied;
            status.insert("lastAppliedWallTime", date(applied));
            status.insert("lastDurableWallTime", date(member.durable.wall_millis));
            if written {
                status.insert("lastWrittenWallTime", date(applied));
            }
        }
        status.insert("lastHeartbeat", wall(member.last_reply));
        status.insert("lastHeartbeatRecv", wall(member.last_request));
        status.insert("pingMs", (member.ping_micros / 1_000) as i64);
        status.insert("lastHeartbeatMessage", &member.last_message);
        let source = usize::try_from(member.sync_source_index).ok().filter(|_| member.is_up());
        let source = source.and_then(|index| config.members.get(index));
        status.insert("syncSourceHost", source.map_or(String::new(), |s| s.host.to_string()));
        status.insert("syncSourceId", source.map_or(-1, |s| s.id));
        status.insert("infoMessage", "");
        if member.state == MemberState::Primary && !member.election_time.is_null() {
            insert_election_time(&mut status, member.election_time);
        }
        status.insert("configVersion", member.config_version as i32);
        status.insert("configTerm", member.config_term as i32);
        status
    }
}

fn insert_election_time(status: &mut Document, ts: Ts) {
    status.insert("electionTime", Timestamp::from(ts));
    status.insert("electionDate", date(i64::from(ts.seconds()) * 1_000));
}

impl CandidateMetrics {
    fn document(&self, written: bool) -> Document {
        let mut metrics = doc! {
            "lastElectionReason": self.reason,
            "lastElectionDate": date(self.date_millis),
            "electionTerm": self.term,
            "lastCommittedOpTimeAtElection": optime(self.last_committed),
        };
        if written {
            metrics.insert("lastSeenWrittenOpTimeAtElection", optime(self.last_seen));
        }
        metrics.insert("lastSeenOpTimeAtElection", optime(self.last_seen));
        metrics.insert("numVotesNeeded", self.votes_needed);
        metrics.insert("priorityAtElection", priority_to_double(self.priority_micros));
        metrics.insert("electionTimeoutMillis", self.election_timeout_millis);
        if let Some(id) = self.prior_primary_id {
            metrics.insert("priorPrimaryMemberId", id);
        }
        if let Some(target) = self.target_catch_up {
            metrics.insert("targetCatchupOpTime", optime(target));
        }
        metrics.insert("numCatchUpOps", self.catch_up_ops);
        if let Some(millis) = self.new_term_start_millis {
            metrics.insert("newTermStartDate", date(millis));
        }
        if let Some(millis) = self.majority_available_millis {
            metrics.insert("wMajorityWriteAvailabilityDate", date(millis));
        }
        metrics
    }
}

impl ParticipantMetrics {
    fn document(&self, written: bool) -> Document {
        let mut metrics = doc! {
            "votedForCandidate": self.voted_for_candidate,
            "electionTerm": self.term,
            "lastVoteDate": date(self.date_millis),
            "electionCandidateMemberId": self.candidate_id,
            "voteReason": &self.reason,
        };
        if written {
            metrics.insert("lastWrittenOpTimeAtElection", optime(self.last_applied));
            metrics.insert("maxWrittenOpTimeInSet", optime(self.max_applied));
        }
        metrics.insert("lastAppliedOpTimeAtElection", optime(self.last_applied));
        metrics.insert("maxAppliedOpTimeInSet", optime(self.max_applied));
        metrics.insert("priorityAtElection", priority_to_double(self.priority_micros));
        if let Some(millis) = self.new_term_start_millis {
            metrics.insert("newTermStartDate", date(millis));
        }
        if let Some(millis) = self.new_term_applied_millis {
            metrics.insert("newTermAppliedDate", date(millis));
        }
        metrics
    }
}
