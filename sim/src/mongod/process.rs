//! The process: start and end, inputs to whom they concern, timers, the clock of the set.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, Uuid, rawdoc};
use stepdown_driver::Instant;

use super::command::OplogDraft;
use super::command::UnfinishedBatch;
use super::command::client::Clients;
use super::command::cursor::Cursors;
use super::command::fail_point::FailPoints;
use super::command::operations::Counters;
use super::command::parameters::Parameters;
use super::command::upkeep::Profiler;
use super::command::wait::Parked;
use super::error::CommandError;
use super::oplog_entry::{OpKind, OplogEntry};
use super::optime::{OpTime, Ts};
use super::peer::{
    Heartbeat, HeartbeatReply, PeerReply, PeerRequest, RequestVotes, RequestVotesReply,
    UpdatePosition,
};
use super::repl::config::ReplSetConfig;
use super::repl::{LastVote, Position, Repl, RpcKind, SpareBoxes};
use super::session::{LogicalSessions, Sessions, Transactions};
use super::storage::{RollbackFile, Storage};
use super::timer::{Timer, TimerTable};
use super::{
    ConnectionId, DataFiles, Input, Landmark, Landmarks, MemberStatus, Options, Output, PeerId,
    ReplyTo, RpcId, ServerVersion,
};
use crate::random::RandomStream;
use crate::trace::{Event, EventKind, MemberState};

/// The commit point or a member's position moved.
pub(crate) const WAKE_COMMIT: u8 = 1;
/// Entries were applied.
pub(crate) const WAKE_DATA: u8 = 2;
/// The member's state, or what hello shows, changed.
pub(crate) const WAKE_STATE: u8 = 4;
/// A transaction ended.
pub(crate) const WAKE_TRANSACTION: u8 = 8;
/// Everybody who waits for anything.
pub(crate) const WAKE_ALL: u8 = 15;

/// Rounds of waking before it must be a bug. Clients that sent many requests ahead can wake each other
/// in turn as often as they have requests, so this is far above what connections may hold.
const WAKE_ROUNDS_MAX: usize = 10_000_000;

/// Hosts remembered by one process: far more than configurations name in its life.
const PEERS_MAX: usize = 1_000;

/// The largest increment of a timestamp: the server counts in a signed number.
const INCREMENT_MAX: u32 = i32::MAX as u32;

/// One simulated mongod process.
///
/// After each [`Mongod::handle`], drain [`Mongod::poll_output`] until it is empty and look at
/// [`Mongod::next_timeout`] again.
pub struct Mongod {
    pub(crate) options: Options,
    pub(crate) random: RandomStream,
    pub(crate) storage: Storage,
    pub(crate) sessions: Sessions,
    pub(crate) transactions: Transactions,
    pub(crate) logical_sessions: LogicalSessions,
    /// The cursor of the command being executed is a change stream's.
    pub(crate) watching: bool,
    /// A fail point closes the connection of the command being executed.
    pub(crate) lose_connection: bool,
    /// Batches that an open transaction stopped in their middle, and will go on.
    pub(crate) unfinished: BTreeMap<ConnectionId, UnfinishedBatch>,
    pub(crate) cursors: Cursors,
    pub(crate) repl: Repl,
    pub(crate) clients: Clients,
    pub(crate) fail_points: FailPoints,
    pub(crate) parameters: Parameters,
    pub(crate) counters: Counters,
    pub(crate) profilers: BTreeMap<String, Profiler>,
    /// How often `fsync` has locked and not yet unlocked: clients' writes wait.
    pub(crate) fsync_locks: u32,
    pub(crate) parked: Vec<Parked>,
    pub(crate) timers: TimerTable,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) started: Instant,
    pub(crate) shutdown_deadline: Instant,
    pub(crate) exited: bool,
    pub(crate) rollback_files: Vec<RollbackFile>,
    /// The namespace of no-ops, shared by all of them.
    pub(crate) empty_namespace: Arc<str>,
    noop_objects: Vec<(&'static str, Arc<RawDocumentBuf>)>,
    pub(crate) spare_boxes: SpareBoxes,
    /// What this process has lived through, for who looks on.
    pub(crate) landmarks: Landmarks,
    peers: Vec<Arc<str>>,
    wake_flags: u8,
}

impl Mongod {
    /// Starts a process on what `files` hold. `random` is its own stream.
    pub fn start(
        now: Instant,
        options: Options,
        files: DataFiles,
        mut random: RandomStream,
    ) -> Self {
        let mut process_id = [0; 12];
        random.fill(&mut process_id[4..]);
        let seconds = (options.clock.millis(now) / 1_000) as u32;
        process_id[..4].copy_from_slice(&seconds.to_be_bytes());
        let set_name = options.repl_set.as_ref().map(|option| option.name.clone());
        let mut mongod = Mongod {
            repl: Repl::new(set_name, ObjectId::from_bytes(process_id)),
            storage: Storage::open(files.storage),
            options,
            random,
            sessions: Sessions::default(),
            transactions: Transactions::default(),
            lose_connection: false,
            watching: false,
            logical_sessions: LogicalSessions::default(),
            unfinished: BTreeMap::new(),
            cursors: Cursors::default(),
            clients: Clients::default(),
            fail_points: FailPoints::default(),
            parameters: Parameters::default(),
            counters: Counters::default(),
            profilers: BTreeMap::new(),
            fsync_locks: 0,
            parked: Vec::new(),
            timers: TimerTable::new(),
            outputs: VecDeque::new(),
            started: now,
            shutdown_deadline: Instant::NEVER,
            exited: false,
            rollback_files: Vec::new(),
            empty_namespace: "".into(),
            noop_objects: Vec::new(),
            spare_boxes: SpareBoxes::default(),
            landmarks: Landmarks::default(),
            peers: Vec::new(),
            wake_flags: 0,
        };
        mongod.storage.set_oplog_size(mongod.options.oplog_size_bytes);
        mongod.recover(now, files.clean);
        mongod
    }

    /// Loads what an earlier process of this member left.
    fn recover(&mut self, now: Instant, clean: bool) {
        let id = self.storage.local_document("system.rollback.id");
        if let Some(rbid) = id.and_then(|document| document.get_i32("rollbackId").ok()) {
            self.repl.rbid = rbid;
            if !clean {
                self.bump_rbid();
            }
        }
        let vote = self.storage.local_document("replset.election");
        if let Some(vote) = vote
            .filter(|_| !crate::mongod::planted::is(crate::mongod::planted::ServerBug::ForgetsVote))
        {
            self.repl.last_vote = LastVote {
                term: vote.get_i64("term").unwrap_or(0),
                candidate_index: vote.get_i64("candidateIndex").unwrap_or(-1),
            };
        }
        if let Some(last) = self.storage.oplog().last() {
            let position = Position { optime: last.optime, wall_millis: last.wall_millis };
            self.repl.applied = position;
            self.repl.durable = position;
            self.repl.cluster_time = last.optime.ts;
            self.sessions.rebuild(self.storage.past_sessions(), self.storage.oplog().iter());
        }
        let config = self.storage.local_document("system.replset").and_then(|document| {
            if crate::mongod::planted::is(crate::mongod::planted::ServerBug::DropsConfig) {
                return None;
            }
            let document = Document::try_from(document.as_ref()).ok()?;
            ReplSetConfig::from_document(&document).ok()
        });
        if let (Some(config), true) = (config, self.repl.set_name.is_some()) {
            self.repl.term = self.repl.last_vote.term.max(self.repl.applied.optime.term).max(0);
            self.install_config(now, Arc::new(config), "read from disk");
            let has_data = !self.repl.applied.optime.is_null();
            // A removed one too is where it was as soon as it is added again.
            if has_data && self.repl.state() != MemberState::Arbiter {
                self.set_follower(now, MemberState::Recovering, "restarted with data");
                self.set_follower(now, MemberState::Secondary, "consistent");
                self.arm_election_timer(now);
                self.elect_single_node(now);
            }
        }
    }

    /// Takes in one input at `now`; `now` never goes back.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.exited {
            return;
        }
        match input {
            Input::Timeout => self.on_timeout(now),
            Input::PeerRequest { reply_to, request } => {
                self.on_peer_request(now, reply_to, request)
            }
            Input::PeerReply { rpc, outcome } => match RpcKind::of(rpc) {
                (RpcKind::Heartbeat, index) => self.on_heartbeat_reply(now, index, rpc, outcome),
                (RpcKind::Vote, index) => self.on_vote_reply(now, index, rpc, outcome),
                (RpcKind::Fetch, _) => self.on_fetch_reply(now, rpc, outcome),
                (RpcKind::Report, _) => self.on_report_reply(now, rpc),
                (RpcKind::Clone, _) => self.on_clone_reply(now, rpc, outcome),
                (RpcKind::Tail, _) => self.on_tail_reply(now, rpc, outcome),
                (RpcKind::Probe, _) => self.on_probe_reply(now, rpc, outcome),
                (RpcKind::Other, _) => self.on_quorum_reply(now, rpc, outcome),
            },
            Input::PeerReset { peer } => self.on_peer_reset(now, peer),
            Input::ClientOpened { connection, remote, certificate } => {
                self.client_opened(connection, remote, certificate);
            }
            Input::ClientBytes { connection, bytes } => self.client_bytes(now, connection, &bytes),
            Input::ClientClosed { connection } => self.client_closed(connection),
            Input::Terminate => self.begin_shutdown(now, Self::shutdown_timeout_by_signal()),
        }
        self.settle(now);
    }

    /// The next output, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due; [`Instant::NEVER`] if never.
    pub fn next_timeout(&self) -> Instant {
        self.timers.next().min(self.repl.heartbeats.next())
    }

    /// kill -9: what stays on disk, without what was not journaled; and how many oplog entries were lost.
    pub fn kill(self) -> (DataFiles, usize) {
        let (storage, lost) = self.storage.crash();
        (DataFiles { storage, clean: false }, lost)
    }

    /// After [`Output::Exited`]: everything, flushed.
    pub fn into_data_files(self) -> DataFiles {
        DataFiles { storage: self.storage.close(), clean: true }
    }

    /// What a watcher may know.
    pub fn status(&self) -> MemberStatus {
        let repl = &self.repl;
        MemberStatus {
            host: self.options.host.clone(),
            state: repl.state(),
            writable: repl.is_writable(),
            term: repl.term,
            applied: repl.applied.optime,
            durable: repl.durable.optime,
            commit_point: repl.commit.optime,
            config: repl.config.as_ref().map_or((-2, -1), |config| (config.version, config.term)),
            sync_source: repl.sync.source().map(|index| repl.host(index)),
        }
    }

    /// The store, for checks.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The rollback files this process has written, oldest first.
    pub fn rollback_files(&self) -> &[RollbackFile] {
        &self.rollback_files
    }

    /// Sets the member's wall clock: skew and drift.
    pub fn set_clock(&mut self, clock: super::WallClock) {
        self.options.clock = clock;
    }

    // ---- for the command families

    /// Writes one entry: gives it the next optime and the wall time, appends it to the oplog, applies
    /// it to the store. The only way data changes on a primary.
    ///
    /// # Errors
    /// What applying it says (duplicate key, no such collection); nothing is written then.
    pub(crate) fn log(&mut self, now: Instant, draft: OplogDraft) -> Result<OpTime, CommandError> {
        assert!(self.repl.is_writable(), "{} logs without leading", self.options.host);
        if self.storage.is_in_transaction() {
            self.storage.stage(draft.into())?;
            return Ok(self.repl.applied.optime);
        }
        if draft.session.is_some() {
            self.pass_transactional_write(&draft)?;
        }
        if draft.kind == OpKind::Command && self.storage.open_transactions() > 0 {
            self.check_not_in_use(&draft)?;
        }
        let before = self.repl.cluster_time;
        let optime = OpTime::new(self.tick_cluster_clock(now), self.repl.term);
        let mut session = draft.session;
        if let Some(session) = &mut session {
            session.previous = self.sessions.last_write(session.lsid, session.txn_number);
        }
        let entry = Arc::new(OplogEntry {
            optime,
            wall_millis: self.wall_millis(now),
            kind: draft.kind,
            ns: draft.ns,
            collection_uuid: draft.collection_uuid,
            object: draft.object,
            object2: draft.object2,
            upsert: draft.upsert,
            session,
            cache: Default::default(),
        });
        if let Err(error) = self.storage.append(entry.clone()) {
            self.repl.cluster_time = before;
            return Err(error);
        }
        self.sessions.observe(&entry);
        self.repl.applied = Position { optime, wall_millis: entry.wall_millis };
        if crate::mongod::planted::is(crate::mongod::planted::ServerBug::ClaimsDurable) {
            self.repl.durable = self.repl.applied;
        }
        self.timers.set_earlier(Timer::Journal, now + super::repl::JOURNAL_INTERVAL);
        self.wake(WAKE_DATA | WAKE_COMMIT);
        self.event(now, || EventKind::OplogWrite { optime, what: describe(&entry) });
        Ok(optime)
    }

    /// A no-op entry with a message of its own.
    pub(crate) fn log_message(&mut self, now: Instant, message: &str) -> OpTime {
        let draft = OplogDraft {
            kind: OpKind::Noop,
            ns: self.empty_namespace.clone(),
            collection_uuid: None,
            object: Arc::new(rawdoc! { "msg": message }),
            object2: None,
            upsert: false,
            session: None,
        };
        self.log(now, draft).expect("nothing stands against a no-op")
    }

    /// The fail point `onPrimaryTransactionalWrite`: a retryable write, or a commit, is about to be
    /// written.
    fn pass_transactional_write(&mut self, draft: &OplogDraft) -> Result<(), CommandError> {
        let Some(data) = self.fail_points.pass("onPrimaryTransactionalWrite", &mut self.random)
        else {
            return Ok(());
        };
        // A failure does not keep the connection from being closed.
        self.lose_connection = data.get_bool("closeConnection").unwrap_or(true);
        if let Ok(code) = data.get_i32("failBeforeCommitExceptionCode") {
            let session = draft.session.as_ref().expect("the caller looked");
            return Err(CommandError::new(
                code,
                format!(
                    "Failing write for {}:{} due to failpoint. The write must not be reflected.",
                    super::session::lsid_text(session.lsid),
                    session.txn_number
                ),
            ));
        }
        Ok(())
    }

    /// Nobody drops or changes a collection that an open transaction works on.
    fn check_not_in_use(&self, draft: &OplogDraft) -> Result<(), CommandError> {
        let first = draft.object.iter().next().and_then(Result::ok);
        let Some((name, value)) = first else { return Ok(()) };
        let db = draft.ns.split_once('.').map_or(&*draft.ns, |(db, _)| db);
        let in_use = match (name.as_str(), value.as_str()) {
            ("create" | "applyOps", _) => false,
            ("renameCollection", Some(from)) => {
                let to = draft.object.get_str("to").unwrap_or_default();
                self.storage.is_touched(from) || self.storage.is_touched(to)
            }
            ("dropDatabase", _) => self.storage.is_touched(&format!("{db}.")),
            (_, Some(collection)) => self.storage.is_touched(&format!("{db}.{collection}")),
            _ => false,
        };
        if in_use { Err(super::storage::write_conflict()) } else { Ok(()) }
    }

    /// The member's wall clock, in milliseconds since the Unix epoch.
    pub(crate) fn wall_millis(&self, now: Instant) -> i64 {
        self.options.clock.millis(now)
    }

    /// A version 4 UUID from this member's stream.
    pub(crate) fn new_uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid::from_bytes(bytes)
    }

    // ---- shared by the rooms

    /// The next timestamp: the wall clock's second or the last one, whichever is later.
    pub(crate) fn tick_cluster_clock(&mut self, now: Instant) -> Ts {
        let seconds = (self.wall_millis(now) / 1_000).clamp(0, i64::from(u32::MAX)) as u32;
        let last = self.repl.cluster_time;
        let next = if seconds > last.seconds() {
            Ts::new(seconds, 1)
        } else if last.increment() < INCREMENT_MAX {
            Ts::new(last.seconds(), last.increment() + 1)
        } else {
            // A client may bring any increment; as on the server, the clock goes on into the next second.
            Ts::new(last.seconds() + 1, 0)
        };
        assert!(next > last, "the cluster clock only moves forward");
        self.repl.cluster_time = next;
        next
    }

    /// `{msg: message}`, made once per message.
    pub(crate) fn noop_object(&mut self, message: &'static str) -> Arc<RawDocumentBuf> {
        if let Some((_, object)) = self.noop_objects.iter().find(|(known, _)| *known == message) {
            return object.clone();
        }
        let object = Arc::new(rawdoc! { "msg": message });
        self.noop_objects.push((message, object.clone()));
        object
    }

    /// Notes that something rare happened.
    pub(crate) fn pass(&mut self, landmark: Landmark) {
        self.landmarks.add(landmark);
    }

    /// Records an event, if anybody listens.
    pub(crate) fn event(&mut self, now: Instant, kind: impl FnOnce() -> EventKind) {
        if self.options.record {
            let event = Event { at: now, who: self.options.host.clone(), kind: kind() };
            self.outputs.push_back(Output::Event(Box::new(event)));
        }
    }

    pub(crate) fn request(&mut self, to: PeerId, rpc: RpcId, request: PeerRequest) {
        if self.options.check_messages {
            self.check_request(&request);
        }
        self.outputs.push_back(Output::PeerRequest { to, rpc, request });
    }

    pub(crate) fn reply(&mut self, reply_to: ReplyTo, reply: PeerReply) {
        if self.options.check_messages {
            self.check_reply(&reply);
        }
        self.outputs.push_back(Output::PeerReply { reply_to, reply });
    }

    /// The checking mode: a request survives being a document.
    fn check_request(&self, request: &PeerRequest) {
        let written = self.options.version >= ServerVersion::V8_0;
        match request {
            PeerRequest::Heartbeat(heartbeat) => {
                let name = self.repl.set_name.as_deref().unwrap_or_default();
                let back = Heartbeat::from_document(&heartbeat.to_document(name));
                assert_eq!(back.as_ref(), Ok(&**heartbeat), "a heartbeat is not its document");
            }
            PeerRequest::RequestVotes(votes) => {
                let back = RequestVotes::from_document(&votes.to_document(written));
                assert_eq!(back.as_ref(), Ok(&**votes), "a vote request is not its document");
            }
            PeerRequest::UpdatePosition(update) => {
                let back = UpdatePosition::from_document(&update.to_document(written));
                assert_eq!(back.as_ref(), Ok(&**update), "a position update is not its document");
            }
            _ => {}
        }
    }

    /// The checking mode: a reply survives being a document.
    fn check_reply(&self, reply: &PeerReply) {
        let written = self.options.version >= ServerVersion::V8_0;
        match reply {
            PeerReply::Heartbeat(reply) => {
                let config = self.repl.config.as_deref();
                let document = reply.to_document(config, written);
                let back = HeartbeatReply::from_document(&document, config);
                assert_eq!(back.as_ref(), Ok(&**reply), "a heartbeat reply is not its document");
            }
            PeerReply::RequestVotes(reply) => {
                let back = RequestVotesReply::from_document(&reply.to_document());
                assert_eq!(back.as_ref(), Ok(&**reply), "a vote is not its document");
            }
            _ => {}
        }
    }

    /// The name of the member at `host`, announced when it is new.
    pub(crate) fn peer_id(&mut self, host: &Arc<str>) -> PeerId {
        let place = self.peers.iter().position(|known| known == host).unwrap_or_else(|| {
            self.peers.push(host.clone());
            let id = PeerId((self.peers.len() - 1) as u32);
            self.outputs.push_back(Output::Peer { id, host: host.clone() });
            self.peers.len() - 1
        });
        PeerId(place as u32)
    }

    /// The same for a host that somebody outside may have made up: so many are not remembered without
    /// end.
    pub(crate) fn stranger_id(&mut self, host: &Arc<str>) -> Option<PeerId> {
        let known = self.peers.len() < PEERS_MAX || self.peers.contains(host);
        known.then(|| self.peer_id(host))
    }

    /// Those who wait for this are looked at before the input is done with.
    pub(crate) fn wake(&mut self, flags: u8) {
        self.wake_flags |= flags;
    }

    /// hello changed: waiting ones are answered.
    pub(crate) fn bump_topology(&mut self) {
        self.repl.topology_counter += 1;
        self.wake(WAKE_STATE);
    }

    /// Changes the state kept while not leading.
    pub(crate) fn set_follower(&mut self, now: Instant, state: MemberState, why: &str) {
        self.repl.follower = state;
        self.state_changed(now, why);
    }

    /// The state may have changed: record it, tell waiting hellos.
    pub(crate) fn state_changed(&mut self, now: Instant, why: &str) {
        let (from, to) = (self.repl.last_state, self.repl.state());
        if from != to {
            self.repl.last_state = to;
            if !crate::mongod::planted::is(crate::mongod::planted::ServerBug::KeepsTopologyVersion)
            {
                self.bump_topology();
            }
            self.event(now, || EventKind::StateChanged { from, to, why: why.to_owned() });
        }
    }

    // ---- inputs

    fn on_timeout(&mut self, now: Instant) {
        self.fire_heartbeats(now);
        if self.timers.next() > now {
            return;
        }
        for timer in Timer::ALL {
            if !self.timers.fire(timer, now) {
                continue;
            }
            match timer {
                Timer::CatchUp => self.fire_catch_up(now),
                Timer::Election => self.fire_election(now),
                Timer::Journal => self.fire_journal(now),
                Timer::Liveness => self.fire_liveness(now),
                Timer::Noop => self.fire_noop(now),
                Timer::Parked => self.fire_parked(now),
                Timer::Report => self.fire_report(now),
                Timer::Shutdown => self.fire_shutdown(now),
                Timer::StepDownEnd => self.elect_single_node(now),
                Timer::Sync => self.fire_sync(now),
                Timer::Takeover => self.fire_takeover(now),
                Timer::Votes => self.fire_votes(now),
            }
        }
        self.timers.refresh();
    }

    fn on_peer_request(&mut self, now: Instant, reply_to: ReplyTo, request: PeerRequest) {
        let reply = match request {
            PeerRequest::Heartbeat(request) => {
                let reply = self.on_heartbeat(now, &request).map(PeerReply::Heartbeat);
                self.spare_boxes.keep_heartbeat(request);
                reply
            }
            PeerRequest::RequestVotes(request) => self
                .on_request_votes(now, &request)
                .map(|reply| PeerReply::RequestVotes(Box::new(reply))),
            PeerRequest::FetchOplog(request) => {
                self.on_fetch_oplog(now, reply_to, request);
                return;
            }
            PeerRequest::UpdatePosition(update) => {
                self.on_update_position(now, &update);
                Ok(PeerReply::Done)
            }
            PeerRequest::CloneData => Ok(self.clone_data()),
            PeerRequest::StepUp => self.on_handoff(now).map(|()| PeerReply::Done),
            PeerRequest::OplogTail { before, limit } => Ok(PeerReply::OplogTail(
                self.storage.oplog().optimes_at_or_before(before, limit as usize),
            )),
        };
        self.reply(reply_to, reply.unwrap_or_else(|error| PeerReply::Error(Box::new(error))));
    }

    fn on_probe_reply(
        &mut self,
        now: Instant,
        rpc: RpcId,
        outcome: Result<PeerReply, super::peer::PeerFailure>,
    ) {
        if self.repl.probe.is_some_and(|(_, asked, _)| asked == rpc) {
            self.repl.probe = None;
            let again = self.repl.probe_again.take();
            if let Ok(PeerReply::Heartbeat(reply)) = outcome {
                match (reply.config, again) {
                    (Some(config), _) => self.config_heard(now, config),
                    (None, Some(host)) => self.send_probe(now, &host),
                    (None, None) => {}
                }
            }
        }
    }

    /// The connections to a peer broke: what was asked over them gets no answer.
    fn on_peer_reset(&mut self, now: Instant, peer: PeerId) {
        use super::peer::PeerFailure::Reset;
        if self.repl.probe.is_some_and(|(asked, _, _)| asked == peer) {
            self.repl.probe = None;
        }
        let index = self.repl.members.iter().position(|member| member.peer == peer);
        let Some(index) = index else { return };
        if let Some(rpc) = self.repl.members[index].rpc {
            self.on_heartbeat_reply(now, index, rpc, Err(Reset));
        } else {
            // A broken connection is noticed at the next heartbeat, as on a real member.
        }
        if let Some(rpc) = self.repl.members[index].vote_rpc {
            self.on_vote_reply(now, index, rpc, Err(Reset));
        }
        if self.repl.sync.source() == Some(index) {
            self.deny_sync_source(now, Duration::from_secs(10), "its connection broke");
        }
    }

    /// Answers those whose wait is over, until nobody's is.
    fn settle(&mut self, now: Instant) {
        let mut rounds = 0;
        while self.wake_flags != 0 && !self.exited {
            let flags = std::mem::take(&mut self.wake_flags);
            if flags & WAKE_DATA != 0 && !self.repl.fetchers.is_empty() {
                self.answer_fetchers(now);
            }
            if !self.parked.is_empty() {
                self.wake_parked(now, flags);
            }
            rounds += 1;
            assert!(rounds < WAKE_ROUNDS_MAX, "{} wakes without end", self.options.host);
        }
    }

    fn fire_parked(&mut self, now: Instant) {
        self.answer_fetchers(now);
        self.settle_quorum_check(now);
        self.abort_expired_transactions(now);
        self.wake(WAKE_ALL);
        self.arm_parked_timer();
    }

    /// The Parked timer covers waiting operations, waiting fetches and a quorum check.
    pub(crate) fn arm_parked_timer(&mut self) {
        let parked = self.parked.iter().map(Parked::deadline);
        let fetchers = self.repl.fetchers.iter().map(|fetcher| fetcher.until);
        let check = self.repl.quorum_check.iter().map(|check| check.deadline);
        let next = parked.chain(fetchers).chain(check).fold(Instant::NEVER, Instant::min);
        self.timers.set(Timer::Parked, next.min(self.transactions.next_expiry()));
    }
}

/// An entry in a few words, for the record.
fn describe(entry: &OplogEntry) -> String {
    let message = entry.object.get_str("msg").ok();
    match message {
        Some(message) if entry.ns.is_empty() => format!("n {message:?}"),
        _ => {
            let first = entry.object.iter().next().and_then(Result::ok);
            match (entry.kind, first) {
                (super::oplog_entry::OpKind::Command, Some((name, value))) => {
                    match value.as_str() {
                        Some(value) => format!("c {} {{{name}: {value}}}", entry.ns),
                        None => format!("c {} {{{name}}}", entry.ns),
                    }
                }
                (kind, _) => format!("{} {}", kind.letter(), entry.ns),
            }
        }
    }
}
