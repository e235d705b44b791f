//! What members say to each other, typed. The field names are the real commands'; [`document`] turns
//! the messages into those commands and back.

use std::sync::Arc;

pub mod document;

use super::error::CommandError;
use super::oplog_entry::OplogEntry;
use super::optime::{OpTime, Ts};
use super::repl::config::ReplSetConfig;
use crate::trace::MemberState;

/// A request to another member.
#[derive(Clone, Debug)]
pub enum PeerRequest {
    /// `replSetHeartbeat`; boxed, so that what is moved from hand to hand stays small.
    Heartbeat(Box<Heartbeat>),
    /// `replSetRequestVotes`.
    RequestVotes(Box<RequestVotes>),
    /// `find` / `getMore` on `local.oplog.rs`, awaiting data.
    FetchOplog(FetchOplog),
    /// `replSetUpdatePosition`.
    UpdatePosition(Box<UpdatePosition>),
    /// Initial sync: the whole data of the source at one timestamp.
    CloneData,
    /// `replSetStepUp {skipDryRun: true}`: an election handoff.
    StepUp,
    /// Rollback: the optimes of the source's oplog at and before `before`, newest first.
    OplogTail {
        /// Where to start.
        before: Ts,
        /// At most so many.
        limit: u32,
    },
}

/// An answer to a [`PeerRequest`].
#[derive(Clone, Debug)]
pub enum PeerReply {
    /// To a heartbeat.
    Heartbeat(Box<HeartbeatReply>),
    /// To a vote request.
    RequestVotes(Box<RequestVotesReply>),
    /// To an oplog fetch.
    FetchOplog(Box<FetchOplogReply>),
    /// To a position update, a step-up: done.
    Done,
    /// The source's data.
    CloneData(Box<ClonedData>),
    /// Optimes, newest first.
    OplogTail(Vec<OpTime>),
    /// `{ok: 0}`.
    Error(Box<CommandError>),
}

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFailure {
    /// Nobody listens there.
    Refused,
    /// The connection broke.
    Reset,
    /// No such host.
    UnknownHost,
}

/// `replSetHeartbeat`. Small: it is nine tenths of an idle set's traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// A fingerprint of the set's name; `replSetHeartbeat: "<name>"` when encoded.
    pub set_name_hash: u64,
    /// `checkEmpty`.
    pub check_empty: bool,
    /// `configVersion`; -2 if the sender has none.
    pub config_version: i64,
    /// `configTerm`.
    pub config_term: i64,
    /// `fromId`: the sender's member `_id`; -1 if it has none.
    pub from_id: i32,
    /// `from`: the sender's address; left out once the receiver is known to have the sender's
    /// configuration, where `from_id` says the same.
    pub from: Option<Arc<str>>,
    /// `term`.
    pub term: i64,
    /// `primaryId`: whom the sender holds to be primary; -1 for nobody.
    pub primary_id: i32,
}

/// The reply to `replSetHeartbeat`.
#[derive(Clone, Debug, PartialEq)]
pub struct HeartbeatReply {
    /// `state`.
    pub state: MemberState,
    /// `electable`.
    pub electable: bool,
    /// `hasData`, only for `checkEmpty`.
    pub has_data: bool,
    /// `v`: the config version.
    pub config_version: i64,
    /// `configTerm`.
    pub config_term: i64,
    /// `config`: the whole configuration, if the sender's is older.
    pub config: Option<Arc<ReplSetConfig>>,
    /// `term`.
    pub term: i64,
    /// `primaryId`; -1 for nobody.
    pub primary_id: i32,
    /// `syncingTo`, as the index of the member in the config; -1 for nobody.
    pub sync_source_index: i32,
    /// `electionTime`, if primary.
    pub election_time: Ts,
    /// `opTime`: last applied.
    pub applied: OpTime,
    /// `durableOpTime`.
    pub durable: OpTime,
    /// The wall time of `applied`, in milliseconds since the Unix epoch.
    pub applied_wall_millis: i64,
    /// The wall time of `durable`.
    pub durable_wall_millis: i64,
    /// The commit point the member knows (`$replData.lastOpCommitted`).
    pub commit_point: OpTime,
    /// The wall time of the commit point.
    pub commit_wall_millis: i64,
}

/// `replSetRequestVotes`.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestVotes {
    /// `setName`.
    pub set_name: Arc<str>,
    /// `dryRun`.
    pub dry_run: bool,
    /// `term`.
    pub term: i64,
    /// `candidateIndex`: an index into `members`, not an `_id`.
    pub candidate_index: usize,
    /// `configVersion`.
    pub config_version: i64,
    /// `configTerm`.
    pub config_term: i64,
    /// `lastWrittenOpTime`.
    pub last_written: OpTime,
    /// `lastAppliedOpTime`.
    pub last_applied: OpTime,
}

/// The reply to `replSetRequestVotes`.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestVotesReply {
    /// `term`.
    pub term: i64,
    /// `voteGranted`.
    pub granted: bool,
    /// `reason`: empty for a yes.
    pub reason: String,
}

/// An oplog fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchOplog {
    /// The fetcher's last entry; the reply begins with it (`ts >= last.ts`) on a first fetch.
    pub last: OpTime,
    /// First fetch from this source: the reply must include `last` itself, to show that the logs agree.
    pub first: bool,
    /// How long to wait for data, in milliseconds.
    pub await_millis: u32,
    /// The fetcher's term.
    pub term: i64,
    /// The fetcher's commit point: a source that knows a newer one answers at once.
    pub commit_point: OpTime,
}

/// The reply to an oplog fetch, with its `$replData` and `$oplogQueryData`.
#[derive(Clone, Debug)]
pub struct FetchOplogReply {
    /// The entries, oldest first.
    pub entries: Vec<Arc<OplogEntry>>,
    /// The oldest entry's timestamp.
    pub oldest: Ts,
    /// The source's last applied.
    pub last_applied: OpTime,
    /// The source's rollback id.
    pub rbid: i32,
    /// The source's term.
    pub term: i64,
    /// The commit point the source knows.
    pub commit_point: OpTime,
    /// The wall time of the commit point.
    pub commit_wall_millis: i64,
    /// The index of the primary the source knows; -1 for nobody.
    pub primary_index: i32,
    /// The index of the source's own sync source; -1 for nobody.
    pub sync_source_index: i32,
}

/// `replSetUpdatePosition`.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdatePosition {
    /// The sender's term.
    pub term: i64,
    /// What the sender knows of each member.
    pub positions: Vec<MemberPosition>,
}

/// One element of `optimes`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberPosition {
    /// `memberId`.
    pub member_id: i32,
    /// `cfgver`.
    pub config_version: i64,
    /// `appliedOpTime`.
    pub applied: OpTime,
    /// `durableOpTime`.
    pub durable: OpTime,
    /// The wall time of `applied`.
    pub applied_wall_millis: i64,
    /// The wall time of `durable`.
    pub durable_wall_millis: i64,
}

/// What initial sync copies.
#[derive(Clone, Debug)]
pub struct ClonedData {
    /// The source's data as of `at`.
    pub data: super::storage::Snapshot,
    /// The optime of the copy: fetching goes on from here.
    pub at: OpTime,
    /// The entry at `at`.
    pub entry: Arc<OplogEntry>,
    /// The source's rollback id.
    pub rbid: i32,
}
