//! Retryable writes: what a statement wrote when it was first executed.

use std::sync::Arc;

use bson::{RawDocumentBuf, Uuid};

use crate::mongod::Mongod;
use crate::mongod::command::Operation;
use crate::mongod::error::CommandError;
use crate::mongod::oplog_entry::{OpKind, OpSession, RetryImage};
use crate::mongod::optime::OpTime;
use crate::mongod::session::incomplete_history;
use crate::mongod::storage::inner_operations;

/// A session and its transaction number, on a request outside a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub lsid: Uuid,
    pub txn_number: i64,
}

/// What an executed statement wrote.
#[derive(Clone, Debug)]
pub(crate) struct Executed {
    pub kind: OpKind,
    /// `o`.
    pub object: Arc<RawDocumentBuf>,
    pub image: Option<RetryImage>,
}

impl Retry {
    /// The retryable write that a request is, if it is one.
    pub(crate) fn of(op: &Operation) -> Option<Retry> {
        let session = op.session.filter(|session| !session.in_transaction)?;
        Some(Retry { lsid: session.lsid, txn_number: session.txn_number? })
    }

    /// What the statement wrote, if it was executed before.
    ///
    /// # Errors
    /// 217 IncompleteTransactionHistory: its entry is gone.
    pub(crate) fn executed(
        self,
        server: &Mongod,
        statement_id: i32,
    ) -> Result<Option<Executed>, CommandError> {
        if crate::mongod::planted::is(crate::mongod::planted::ServerBug::RunsRetryAgain) {
            return Ok(None);
        }
        let found = server.sessions.executed(self.lsid, self.txn_number, statement_id)?;
        let Some(optime) = found else { return Ok(None) };
        let lost = || incomplete_history(self.lsid, self.txn_number);
        let entry = server.storage.oplog().entry_at(optime.ts).ok_or_else(lost)?;
        if let Some(operations) = inner_operations(entry)? {
            let inner = operations
                .iter()
                .find(|operation| operation.statement_ids.contains(&statement_id))
                .ok_or_else(lost)?;
            return Ok(Some(Executed {
                kind: inner.kind,
                object: inner.object.clone(),
                image: None,
            }));
        }
        Ok(Some(Executed {
            kind: entry.kind,
            object: entry.object.clone(),
            image: entry.session.as_ref().and_then(|session| session.retry_image.clone()),
        }))
    }

    /// The session fields of an entry that executes these statements.
    pub(crate) fn entry_fields(
        self,
        statement_ids: Vec<i32>,
        retry_image: Option<RetryImage>,
    ) -> Box<OpSession> {
        Box::new(OpSession {
            lsid: self.lsid,
            txn_number: self.txn_number,
            statement_ids,
            // `Mongod::log` knows the one before.
            previous: OpTime::NULL,
            retry_image,
        })
    }
}
