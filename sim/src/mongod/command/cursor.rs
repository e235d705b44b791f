//! Cursors: the table of open ones, `getMore`, `killCursors`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawArrayBuf, cstr};
use bson::{RawBsonRef, RawDocumentBuf, Timestamp, Uuid};
use stepdown_driver::Instant;

use super::arguments::{
    array, each_argument, first_value, missing_field, namespace, non_negative, string, wrong_type,
};
use super::change_stream::ChangeStream;
use super::operation::{ReadConcern, ReadConcernLevel};
use super::parameters::Parameters;
use super::request::Request;
use super::scan::Scan;
use super::spec::{CommandSpec, Gate};
use super::wait::Wait;
use super::{Operation, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;
use crate::mongod::session::lsid_text;
use crate::mongod::{Mongod, ServerVersion};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        names: &["getMore"],
        gate: Gate::Always,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run: get_more,
    },
    CommandSpec {
        names: &["killCursors"],
        gate: Gate::Always,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run: kill_cursors,
    },
];

/// Documents in a first batch when the client does not say: the server's default.
pub(crate) const DEFAULT_BATCH_SIZE: u64 = 101;
/// The documents of a batch may take this many bytes; the first one comes whatever its size.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// How long a `getMore` of an awaiting cursor waits when it does not say.
const DEFAULT_AWAIT: Duration = Duration::from_secs(1);
/// Open cursors of one server; a client that leaves more behind is a leak, and the oldest goes.
const MAX_CURSORS: usize = 100_000;

/// The open cursors.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    by_id: BTreeMap<i64, Cursor>,
    /// Those whose query has a limit of time, which holds for their batches, too.
    limited: BTreeSet<i64>,
    /// When idle cursors are looked for next.
    sweep_at: Instant,
}

/// A query whose results are not all delivered.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub namespace: String,
    pub source: Source,
    /// Asked with this read concern; every batch is read with it.
    pub read_concern: ReadConcern,
    /// `snapshot` reads: the timestamp they all read at.
    pub at_cluster_time: Option<Ts>,
    pub lsid: Option<Uuid>,
    /// The transaction it was opened in.
    pub transaction: Option<i64>,
    pub tailable: bool,
    pub await_data: bool,
    pub no_timeout: bool,
    pub used: Instant,
}

/// Where a cursor's next documents come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// They are worked out already. `limited` tells that a limit was reached: that nothing comes after
    /// them is known without asking.
    Ready { documents: VecDeque<Arc<RawDocumentBuf>>, limited: bool },
    /// From the collection, or the oplog, one after another.
    Scan(Box<Scan>),
    /// A change stream.
    Changes(Box<ChangeStream>),
}

/// Between two answers of an exhaust cursor: long enough for what is written to leave.
const STREAM_PAUSE: Duration = Duration::from_micros(50);

impl Mongod {
    /// An exhaust cursor goes on: the next batch without being asked for.
    pub(crate) fn go_on_streaming(
        &mut self,
        now: Instant,
        mut request: Box<Request>,
        replied_with: i32,
    ) {
        request.answer.response_to = replied_with;
        request.operation.waited = false;
        self.park(request, Wait::Again { at: now + STREAM_PAUSE });
    }
}

/// The documents of one reply.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    documents: RawArrayBuf,
    count: u64,
    bytes: usize,
    limit: u64,
}

impl Batch {
    /// A batch of at most `limit` documents.
    pub(crate) fn new(limit: u64) -> Self {
        Batch { limit, ..Batch::default() }
    }

    /// Whether no more documents are wanted.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= self.limit
    }

    /// Adds a document; false, and nothing added, if it would make the batch too large.
    pub(crate) fn push(&mut self, document: &RawDocumentBuf) -> bool {
        let bytes = document.as_bytes().len();
        if self.count > 0 && self.bytes + bytes > MAX_BATCH_BYTES {
            return false;
        }
        self.documents.push(document);
        self.bytes += bytes;
        self.count += 1;
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Source {
    /// Fills a batch; true if nothing is left.
    pub(crate) fn fill(
        &mut self,
        server: &Mongod,
        at: ReadAt,
        batch: &mut Batch,
    ) -> Result<bool, CommandError> {
        match self {
            Source::Ready { documents, limited } => {
                // A full batch is not asked whether more would come, as on the server.
                while !batch.is_full() {
                    let Some(document) = documents.front() else { return Ok(true) };
                    if !batch.push(document) {
                        return Ok(false);
                    }
                    documents.pop_front();
                }
                Ok(*limited && documents.is_empty())
            }
            Source::Scan(scan) => scan.fill(server, at, batch),
            Source::Changes(stream) => stream.fill(server, batch),
        }
    }

    /// A change stream's `postBatchResumeToken`, and whether it is invalidated.
    fn resume_point(&self) -> Option<(RawDocumentBuf, bool)> {
        match self {
            Source::Changes(stream) => Some(stream.resume_point()),
            _ => None,
        }
    }
}

impl Cursors {
    fn insert(&mut self, id: i64, cursor: Cursor) {
        if self.by_id.len() >= MAX_CURSORS {
            let oldest = self.by_id.iter().min_by_key(|(_, cursor)| cursor.used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.by_id.remove(&id);
            }
        }
        self.by_id.insert(id, cursor);
    }

    /// How many are open, and how many of those never time out.
    pub(crate) fn open(&self) -> (i64, i64) {
        let no_timeout = self.by_id.values().filter(|cursor| cursor.no_timeout).count();
        (self.by_id.len() as i64, no_timeout as i64)
    }

    /// The open cursors that nobody is asking now: between two requests, all of them.
    pub(crate) fn idle(&self) -> impl Iterator<Item = (i64, &Cursor)> {
        self.by_id.iter().map(|(id, cursor)| (*id, cursor))
    }

    /// The query that has just opened a cursor has a limit of time.
    pub(crate) fn limit_time(&mut self, id: i64) {
        self.limited.insert(id);
    }

    /// Closes the cursors of a session that ended.
    pub(crate) fn close_session(&mut self, lsid: Uuid) {
        self.by_id.retain(|_, cursor| cursor.lsid != Some(lsid));
    }

    /// Closes the cursors of all sessions.
    pub(crate) fn close_sessions(&mut self) {
        self.by_id.retain(|_, cursor| cursor.lsid.is_none());
    }

    /// Closes every cursor: the process rolls back, or leaves the set.
    pub(crate) fn close_all(&mut self) {
        self.by_id.clear();
    }

    /// Closes what nobody used for `cursorTimeoutMillis`; looked at on use, at most once a minute.
    fn sweep(&mut self, now: Instant, parameters: &Parameters) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + Duration::from_secs(60);
        let millis = parameters.number("cursorTimeoutMillis").max(0) as u64;
        let timeout = Duration::from_millis(millis);
        self.limited.retain(|id| self.by_id.contains_key(id));
        self.by_id.retain(|_, cursor| cursor.no_timeout || cursor.used + timeout > now);
    }
}

/// `{cursor: {firstBatch, id, ns}}`, keeping the cursor if something is left.
pub(crate) fn first_reply(
    server: &mut Mongod,
    now: Instant,
    mut cursor: Cursor,
    at: ReadAt,
    batch_size: u64,
    single_batch: bool,
) -> Result<Outcome, CommandError> {
    server.cursors.sweep(now, &server.parameters);
    let mut batch = Batch::new(batch_size);
    let exhausted = cursor.source.fill(server, at, &mut batch)?;
    let over = (exhausted && !cursor.tailable) || single_batch;
    let (namespace, at_cluster_time) = (cursor.namespace.clone(), cursor.at_cluster_time);
    let resume = cursor.source.resume_point();
    let id = if over {
        0
    } else {
        // Positive, and never 0.
        let id = ((server.random.next_u64() >> 1) as i64).max(1);
        server.cursors.insert(id, cursor);
        id
    };
    Ok(Outcome::Reply(cursor_reply("firstBatch", batch, id, &namespace, at_cluster_time, resume)))
}

/// `{cursor: {id: 0, ns, firstBatch}}`: the shape of lists, and of collections that do not exist.
pub(crate) fn list_reply(
    namespace: &str,
    documents: impl IntoIterator<Item = RawDocumentBuf>,
) -> Outcome {
    let mut batch = RawArrayBuf::new();
    documents.into_iter().for_each(|document| batch.push(document));
    let mut cursor = RawDocumentBuf::new();
    cursor.append(cstr!("id"), 0_i64);
    cursor.append(cstr!("ns"), namespace);
    cursor.append(cstr!("firstBatch"), batch);
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("cursor"), cursor);
    Outcome::Reply(reply)
}

fn cursor_reply(
    batch_name: &str,
    batch: Batch,
    id: i64,
    namespace: &str,
    at_cluster_time: Option<Ts>,
    resume: Option<(RawDocumentBuf, bool)>,
) -> RawDocumentBuf {
    let mut cursor = RawDocumentBuf::new();
    match batch_name {
        "firstBatch" => cursor.append(cstr!("firstBatch"), batch.documents),
        _ => cursor.append(cstr!("nextBatch"), batch.documents),
    }
    if let Some((token, invalidated)) = resume {
        cursor.append(cstr!("postBatchResumeToken"), token);
        if invalidated {
            cursor.append(cstr!("invalidated"), true);
        }
    }
    cursor.append(cstr!("id"), id);
    cursor.append(cstr!("ns"), namespace);
    if let Some(ts) = at_cluster_time {
        cursor.append(cstr!("atClusterTime"), Timestamp::from(ts));
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("cursor"), cursor);
    reply
}

fn get_more(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let value = first_value(&operation.body)?;
    let RawBsonRef::Int64(id) = value else {
        return Err(wrong_type("getMore.getMore", value, "'long'"));
    };
    let mut collection = None;
    let mut batch_size = 0;
    each_argument("getMore", &operation.body, |field, value| {
        match field {
            "collection" => collection = Some(string("getMore.collection", value)?),
            "batchSize" => batch_size = non_negative("getMore", "batchSize", value)?,
            "term" | "lastKnownCommittedOpTime" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let collection = collection.ok_or_else(|| missing_field("getMore.collection"))?;
    server.cursors.sweep(now, &server.parameters);
    let Some(cursor) = server.cursors.by_id.get_mut(&id) else {
        return Err(CommandError::new(
            error::CURSOR_NOT_FOUND,
            format!("cursor id {id} not found"),
        ));
    };
    if server.cursors.limited.contains(&id) && server.fail_points.is_on("maxTimeAlwaysTimeOut") {
        server.cursors.by_id.remove(&id);
        return Err(super::wait::max_time_expired());
    }
    let namespace = operation.namespace(collection);
    if namespace != cursor.namespace {
        return Err(CommandError::new(
            error::UNAUTHORIZED,
            format!(
                "Requested getMore on namespace '{namespace}', but cursor belongs to a different \
                 namespace {}",
                cursor.namespace
            ),
        ));
    }
    let lsid = operation.session.map(|session| session.lsid);
    check_same_session(id, cursor, lsid, operation.transaction())?;
    if operation.max_time.is_some() && !cursor.await_data {
        return Err(CommandError::new(
            error::BAD_VALUE,
            "cannot set maxTimeMS on getMore command for a non-awaitData cursor",
        ));
    }
    cursor.used = now;
    server.watching = matches!(cursor.source, Source::Changes(_));
    if let Some(data) =
        server.fail_points.pass("failGetMoreAfterCursorCheckout", &mut server.random)
    {
        let code = data.get_i32("errorCode").ok();
        server.lose_connection = data.get_bool("closeConnection").unwrap_or(false);
        if let Some(code) = code {
            return Err(CommandError::new(
                code,
                "Hit the 'failGetMoreAfterCursorCheckout' failpoint",
            ));
        }
    }
    // Taken out while it is read from: what fails closes it.
    let mut cursor = server.cursors.by_id.remove(&id).expect("looked up just now");
    let at = read_at(server, operation, cursor.read_concern, cursor.at_cluster_time)?;
    let mut batch = Batch::new(if batch_size == 0 { u64::MAX } else { batch_size });
    let exhausted =
        cursor.source.fill(server, at, &mut batch).map_err(|error| match cursor.source {
            Source::Changes(_) => CommandError {
                message: format!("Executor error during getMore :: caused by :: {}", error.message),
                ..error
            },
            _ => error,
        })?;
    let over = exhausted && !cursor.tailable;
    if batch.is_empty() && cursor.await_data && !operation.waited && !over {
        let until = operation.started + operation.max_time.unwrap_or(DEFAULT_AWAIT);
        server.cursors.by_id.insert(id, cursor);
        return Ok(Outcome::AwaitData { until });
    }
    let at_cluster_time = cursor.at_cluster_time;
    let resume = cursor.source.resume_point();
    if !over {
        server.cursors.by_id.insert(id, cursor);
    }
    let id = if over { 0 } else { id };
    Ok(Outcome::Reply(cursor_reply("nextBatch", batch, id, &namespace, at_cluster_time, resume)))
}

/// A cursor goes on in the session, and the transaction, that opened it.
///
/// # Errors
/// 50736 to 50741: it does not.
fn check_same_session(
    id: i64,
    cursor: &Cursor,
    lsid: Option<Uuid>,
    transaction: Option<i64>,
) -> Result<(), CommandError> {
    let refused = |code: i32, created: String, now: String| {
        let message = format!("Cannot run getMore on cursor {id}, which was {created}, {now}");
        Err(CommandError::new(code, message))
    };
    match (cursor.lsid, lsid) {
        (None, Some(lsid)) => {
            let now = format!("in session {}", lsid_text(lsid));
            return refused(50_736, "not created in a session".into(), now);
        }
        (Some(own), None) => {
            let created = format!("created in session {}", lsid_text(own));
            return refused(50_737, created, "without an lsid".into());
        }
        (Some(own), Some(lsid)) if own != lsid => {
            let created = format!("created in session {}", lsid_text(own));
            return refused(50_738, created, format!("in session {}", lsid_text(lsid)));
        }
        _ => {}
    }
    match (cursor.transaction, transaction) {
        (None, Some(number)) => refused(
            50_739,
            "not created in a transaction".into(),
            format!("in transaction {number}"),
        ),
        (Some(own), None) => {
            refused(50_740, format!("created in transaction {own}"), "without a txnNumber".into())
        }
        (Some(own), Some(number)) if own != number => refused(
            50_741,
            format!("created in transaction {own}"),
            format!("in transaction {number}"),
        ),
        _ => Ok(()),
    }
}

/// 239 SnapshotTooOld.
pub(crate) fn snapshot_too_old(at: Ts) -> CommandError {
    CommandError::new(
        error::SNAPSHOT_TOO_OLD,
        format!(
            "Read timestamp {} is older than the oldest available timestamp.",
            Timestamp::from(at)
        ),
    )
}

/// The version of the data that a read with this concern sees.
///
/// # Errors
/// 239 SnapshotTooOld; 134 ReadConcernMajorityNotAvailableYet: the history does not reach back there.
pub(crate) fn read_at(
    server: &Mongod,
    operation: &Operation,
    read_concern: ReadConcern,
    at_cluster_time: Option<Ts>,
) -> Result<ReadAt, CommandError> {
    let asks_first = at_cluster_time.is_none();
    let at = match at_cluster_time {
        Some(ts) => ReadAt::Timestamp(ts),
        None if read_concern == operation.read_concern => server.read_at(operation),
        None => server.read_at(&Operation { read_concern, ..operation.clone() }),
    };
    if let ReadAt::Timestamp(ts) = at
        && asks_first
        && read_concern.level == ReadConcernLevel::Snapshot
        && server.options.version < ServerVersion::V8_0
        && let Some(Ok((_, RawBsonRef::String(collection)))) = operation.body.iter().next()
    {
        server.storage.check_minimum(&operation.namespace(collection), ts)?;
    }
    let oldest = server.storage.oldest();
    match at {
        ReadAt::Timestamp(ts) if ts < oldest => {
            if read_concern.level == ReadConcernLevel::Snapshot {
                Err(snapshot_too_old(ts))
            } else {
                Err(CommandError::new(
                    error::READ_CONCERN_MAJORITY_NOT_AVAILABLE_YET,
                    "Read concern majority reads are currently not possible.",
                ))
            }
        }
        at => Ok(at),
    }
}

/// `atClusterTime` of a reply: snapshot reads tell where they read.
pub(crate) fn at_cluster_time(operation: &Operation, at: ReadAt) -> Option<Ts> {
    match at {
        ReadAt::Timestamp(ts) if operation.read_concern.level == ReadConcernLevel::Snapshot => {
            Some(ts)
        }
        _ => None,
    }
}

fn kill_cursors(
    server: &mut Mongod,
    _: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(operation)?;
    let mut ids = None;
    each_argument("killCursors", &operation.body, |field, value| {
        match field {
            "cursors" => {
                let mut list = Vec::new();
                let elements = array("killCursors.cursors", value)?;
                for (number, element) in elements.into_iter().enumerate() {
                    match element.map_err(super::arguments::malformed)? {
                        RawBsonRef::Int64(id) => list.push(id),
                        other => {
                            let field = format!("killCursors.cursors.{number}");
                            return Err(wrong_type(&field, other, "'long'"));
                        }
                    }
                }
                ids = Some(list);
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let ids = ids.ok_or_else(|| missing_field("killCursors.cursors"))?;
    let (mut killed, mut not_found) = (RawArrayBuf::new(), RawArrayBuf::new());
    for id in ids {
        let cursors = &mut server.cursors.by_id;
        if cursors.get(&id).is_some_and(|cursor| cursor.namespace == namespace) {
            cursors.remove(&id);
            killed.push(id);
        } else {
            not_found.push(id);
        }
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("cursorsKilled"), killed);
    reply.append(cstr!("cursorsNotFound"), not_found);
    reply.append(cstr!("cursorsAlive"), RawArrayBuf::new());
    reply.append(cstr!("cursorsUnknown"), RawArrayBuf::new());
    Ok(Outcome::Reply(reply))
}
