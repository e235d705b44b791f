//! One entry of the oplog, as members share it.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use bson::{RawDocumentBuf, Uuid};

use super::optime::OpTime;

/// One entry of `local.oplog.rs`. Members share entries and the documents in them (`Arc`); nothing is
/// encoded on the way from one simulated member to another.
#[derive(Clone, Debug, PartialEq)]
pub struct OplogEntry {
    /// `ts` and `t`. The very first entry of a set ("initiating set") has term -1 and no `t` field.
    pub optime: OpTime,
    /// `wall`: the primary's wall clock, in milliseconds since the Unix epoch.
    pub wall_millis: i64,
    /// `op`.
    pub kind: OpKind,
    /// `ns`: `db.collection`, `db.$cmd`, or empty for no-ops.
    pub ns: Arc<str>,
    /// `ui`: the collection's UUID.
    pub collection_uuid: Option<Uuid>,
    /// `o`.
    pub object: Arc<RawDocumentBuf>,
    /// `o2`.
    pub object2: Option<Arc<RawDocumentBuf>>,
    /// `b: true` on an upsert that updates.
    pub upsert: bool,
    /// The session fields of a retryable write or a transaction.
    pub session: Option<Box<OpSession>>,
    /// What members that apply the same shared entry need not work out again; start with the default.
    pub cache: EntryCache,
}

/// The `op` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// `c`: create, drop, createIndexes, applyOps, ...
    Command,
    /// `d`.
    Delete,
    /// `i`.
    Insert,
    /// `n`.
    Noop,
    /// `u`.
    Update,
}

impl OpKind {
    /// The letter in the `op` field.
    pub const fn letter(self) -> &'static str {
        match self {
            OpKind::Command => "c",
            OpKind::Delete => "d",
            OpKind::Insert => "i",
            OpKind::Noop => "n",
            OpKind::Update => "u",
        }
    }
}

/// The session fields of an oplog entry.
#[derive(Clone, Debug, PartialEq)]
pub struct OpSession {
    /// `lsid.id`.
    pub lsid: Uuid,
    /// `txnNumber`.
    pub txn_number: i64,
    /// `stmtId`: one number, or several for a batched entry.
    pub statement_ids: Vec<i32>,
    /// `prevOpTime`: the previous statement of this txnNumber, null for the first.
    pub previous: OpTime,
    /// `needsRetryImage`: the image a retried findAndModify answers with, kept in memory beside the
    /// entry (the server keeps it in `config.image_collection`).
    pub retry_image: Option<RetryImage>,
}

/// What a retried findAndModify must answer with.
#[derive(Clone, Debug, PartialEq)]
pub enum RetryImage {
    /// The document after the change (`new: true`).
    Post(Arc<RawDocumentBuf>),
    /// The document before the change.
    Pre(Arc<RawDocumentBuf>),
}

/// What the first member to apply a shared entry worked out, for the others: no part of the entry's
/// meaning, equal to any other.
#[derive(Clone, Default)]
pub struct EntryCache(pub(super) OnceLock<CachedWork>);

/// See [`EntryCache`].
#[derive(Clone)]
pub(super) enum CachedWork {
    /// The operations inside an `applyOps`.
    Operations(Vec<InnerOperation>),
    /// The document a diff turns `before` into. Weak, so that a small diff in the oplog does not keep
    /// two large documents alive.
    PostImage { before: Weak<RawDocumentBuf>, after: Weak<RawDocumentBuf> },
}

impl fmt::Debug for EntryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EntryCache")
    }
}

impl PartialEq for EntryCache {
    fn eq(&self, _: &EntryCache) -> bool {
        true
    }
}

/// One operation inside an `applyOps` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct InnerOperation {
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
    /// `stmtId`.
    pub statement_ids: Vec<i32>,
}
