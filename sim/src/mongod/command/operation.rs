//! One request from a client, parsed once, and what a command may answer.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, Uuid};
use stepdown_driver::Instant;

use super::wait::Wait;
use super::write_concern::WriteConcern;
use crate::mongod::ConnectionId;
use crate::mongod::error::{CommandError, INTERNAL_ERROR};
use crate::mongod::oplog_entry::{InnerOperation, OpKind, OpSession};
use crate::mongod::optime::Ts;

/// A request: the command document and everything generic about it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asks.
    pub connection: ConnectionId,
    /// The command's name as the client wrote it.
    pub name: String,
    /// `$db`.
    pub db: String,
    /// The command document.
    pub body: Arc<RawDocumentBuf>,
    /// Document sequences (OP_MSG kind 1), by field name.
    pub sequences: Arc<Vec<(String, Vec<RawDocumentBuf>)>>,
    /// `lsid`, `txnNumber` and what goes with them.
    pub session: Option<OperationSession>,
    /// `opid` in `currentOp`.
    pub(crate) op_id: i32,
    /// `maxTimeMS`, if given and not 0.
    pub max_time: Option<Duration>,
    /// `readConcern`.
    pub read_concern: ReadConcern,
    /// `writeConcern`, if given.
    pub(crate) write_concern: Option<WriteConcern>,
    /// When the request arrived.
    pub started: Instant,
    /// For a command that waited for data: the time to wait is over, answer with what is there.
    pub waited: bool,
}

impl Operation {
    /// `$db.collection` for commands whose first field names a collection.
    pub fn namespace(&self, collection: &str) -> String {
        format!("{}.{}", self.db, collection)
    }

    /// The number of the multi-statement transaction that this is a statement of.
    pub fn transaction(&self) -> Option<i64> {
        self.session.filter(|session| session.in_transaction)?.txn_number
    }
}

/// The session fields of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationSession {
    /// `lsid.id`.
    pub lsid: Uuid,
    /// `txnNumber`.
    pub txn_number: Option<i64>,
    /// `autocommit: false` was given: part of a multi-statement transaction.
    pub in_transaction: bool,
    /// `startTransaction: true` was given.
    pub start_transaction: bool,
}

/// `readConcern`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadConcern {
    /// `level`.
    pub level: ReadConcernLevel,
    /// `afterClusterTime`.
    pub after_cluster_time: Option<Ts>,
    /// `atClusterTime`.
    pub at_cluster_time: Option<Ts>,
}

/// `readConcern.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadConcernLevel {
    /// `available`.
    Available,
    /// `linearizable`.
    Linearizable,
    /// `local`, the default.
    #[default]
    Local,
    /// `majority`.
    Majority,
    /// `snapshot`.
    Snapshot,
}

impl ReadConcernLevel {
    /// The name commands give it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadConcernLevel::Available => "available",
            ReadConcernLevel::Linearizable => "linearizable",
            ReadConcernLevel::Local => "local",
            ReadConcernLevel::Majority => "majority",
            ReadConcernLevel::Snapshot => "snapshot",
        }
    }
}

/// Which version of the data a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// The newest.
    Newest,
    /// As of a timestamp.
    Timestamp(Ts),
}

/// What a command gives back; an `Err(CommandError)` beside it is `{ok: 0}`.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The reply's own fields, without `ok` and what follows it.
    Reply(RawDocumentBuf),
    /// Nothing to answer yet: run the same operation again when data arrives or at `until`
    /// (then with `waited`).
    AwaitData {
        /// When to answer anyway.
        until: Instant,
    },
    /// Nothing to answer yet: something else ends the wait.
    Park(Wait),
    /// Step down once it is safe.
    StepDown {
        /// When to give up, or to do it anyway with `force`.
        until: Instant,
        /// No candidacy before this.
        period_end: Instant,
        /// Step down at `until` even if nobody is ready.
        force: bool,
    },
}

impl Outcome {
    /// A reply built as a document.
    ///
    /// # Errors
    /// 1 InternalError if it cannot be encoded (a field name with a NUL).
    pub(crate) fn document(reply: &Document) -> Result<Outcome, CommandError> {
        RawDocumentBuf::try_from(reply)
            .map(Outcome::Reply)
            .map_err(|error| CommandError::new(INTERNAL_ERROR, error.to_string()))
    }
}

/// An oplog entry before it has its place: what a command hands to `Mongod::log`.
#[derive(Clone, Debug)]
pub struct OplogDraft {
    /// `op`.
    pub kind: OpKind,
    /// `ns`.
    pub ns: Arc<str>,
    /// `ui`.
    pub collection_uuid: Option<Uuid>,
    /// `o`.
    pub object: Arc<RawDocumentBuf>,
    /// `o2`.
    pub object2: Option<Arc<RawDocumentBuf>>,
    /// `b`.
    pub upsert: bool,
    /// The session fields; `previous` is filled in by `Mongod::log`.
    pub session: Option<Box<OpSession>>,
}

impl From<OplogDraft> for InnerOperation {
    /// The same as one operation of a transaction.
    fn from(draft: OplogDraft) -> InnerOperation {
        InnerOperation {
            kind: draft.kind,
            ns: draft.ns,
            collection_uuid: draft.collection_uuid,
            object: draft.object,
            object2: draft.object2,
            upsert: draft.upsert,
            statement_ids: Vec::new(),
        }
    }
}
