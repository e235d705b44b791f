//! Which transactions sessions have, and what may happen to them next.
//!
//! This is what only the primary's memory knows: transactions in progress, aborted ones, and those
//! committed without having written. Who wrote is in the oplog, and thus in [`Sessions`]. A new
//! primary knows nothing of the old one's open transactions.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::Uuid;
use stepdown_driver::Instant;

use super::{Sessions, converted_write, lsid_text, too_old_write};
use crate::mongod::error::{self, CommandError};

/// `transactionLifetimeLimitSeconds`.
const LIFETIME: Duration = Duration::from_secs(60);

/// Numbers remembered of transactions that are over; the oldest go first.
const REMEMBERED_MAX: usize = 10_000;

/// The transactions that the process knows of.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    by_lsid: BTreeMap<Uuid, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    txn_number: i64,
    state: State,
    started: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InProgress,
    Aborted,
    /// Committed, and it had written nothing: no entry tells.
    Committed,
}

/// What a statement is to its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `startTransaction: true`.
    Start,
    /// A later statement.
    Continue,
    /// `commitTransaction`, which may come again after it was done.
    Commit,
    /// `abortTransaction`.
    Abort,
}

/// What was found when a statement's transaction was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is in progress.
    InProgress,
    /// It was committed before; only a commit is told so.
    Committed,
}

impl Transactions {
    /// A statement of a transaction comes in. `Start` makes it the session's present one: what the
    /// session had before is for the caller to abort.
    ///
    /// # Errors
    /// 225 TransactionTooOld, 117 ConflictingOperationInProgress, 251 NoSuchTransaction,
    /// 256 TransactionCommitted.
    pub(crate) fn step(
        &mut self,
        sessions: &Sessions,
        now: Instant,
        lsid: Uuid,
        txn_number: i64,
        step: Step,
    ) -> Result<Begun, CommandError> {
        let known = self.by_lsid.get(&lsid).copied();
        let recorded = sessions.recorded(lsid);
        let recorded_number = recorded.map_or(-1, |(number, _)| number);
        let known = known.filter(|known| known.txn_number > recorded_number);
        let active = known.map_or(recorded_number, |known| known.txn_number);
        if txn_number < active {
            let of_transaction =
                known.is_some() || recorded.is_some_and(|(_, committed)| committed);
            let (newer, counter) =
                if of_transaction { ("transaction", 0) } else { ("retryable write", -1) };
            return Err(CommandError::new(
                error::TRANSACTION_TOO_OLD,
                format!(
                    "Cannot start transaction with {{ txnNumber: {txn_number} }} on session {} \
                     because a newer {newer} with txnNumberAndRetryCounter {{ txnNumber: {active}, \
                     txnRetryCounter: {counter} }} has already started on this session.",
                    lsid_text(lsid)
                ),
            ));
        }
        if step == Step::Start {
            if txn_number == active {
                return Err(CommandError::new(
                    error::CONFLICTING_OPERATION_IN_PROGRESS,
                    "Only servers in a sharded cluster can start a new transaction at the active \
                     transaction number",
                ));
            }
            self.remember(lsid, Known { txn_number, state: State::InProgress, started: now });
            return Ok(Begun::InProgress);
        }
        let state = match (known, recorded) {
            (Some(known), _) if known.txn_number == txn_number => known.state,
            (None, Some((number, true))) if number == txn_number => State::Committed,
            _ => {
                return Err(CommandError::new(
                    error::NO_SUCH_TRANSACTION,
                    format!(
                        "Given transaction number {txn_number} does not match any in-progress \
                         transactions. The active transaction number is {active}"
                    ),
                ));
            }
        };
        match (state, step) {
            (State::InProgress, _) => Ok(Begun::InProgress),
            (State::Committed, Step::Commit) => Ok(Begun::Committed),
            (State::Committed, _) => Err(CommandError::new(
                error::TRANSACTION_COMMITTED,
                format!("Transaction with {{ txnNumber: {txn_number} }} has been committed."),
            )),
            (State::Aborted, _) => Err(CommandError::new(
                error::NO_SUCH_TRANSACTION,
                format!("Transaction with {{ txnNumber: {txn_number} }} has been aborted."),
            )),
        }
    }

    /// A retryable write comes in; true if it ends a transaction in progress, which is for the caller
    /// to abort.
    ///
    /// # Errors
    /// 225 TransactionTooOld, 217 IncompleteTransactionHistory: the number is a transaction's, or older.
    pub(crate) fn retryable_write(
        &mut self,
        lsid: Uuid,
        txn_number: i64,
    ) -> Result<bool, CommandError> {
        let Some(known) = self.by_lsid.get(&lsid) else { return Ok(false) };
        if txn_number < known.txn_number {
            return Err(too_old_write(lsid, txn_number, "transaction", known.txn_number));
        }
        if txn_number == known.txn_number {
            return Err(converted_write());
        }
        let in_progress = known.state == State::InProgress;
        self.by_lsid.remove(&lsid);
        Ok(in_progress)
    }

    /// The transaction was committed. `wrote`: its entry tells so from now on.
    pub(crate) fn committed(&mut self, lsid: Uuid, wrote: bool) {
        if wrote {
            self.by_lsid.remove(&lsid);
        } else if let Some(known) = self.by_lsid.get_mut(&lsid) {
            known.state = State::Committed;
        }
    }

    /// The session's transaction is no more; false if none was in progress.
    pub(crate) fn aborted(&mut self, lsid: Uuid) -> bool {
        let known = self.by_lsid.get_mut(&lsid).filter(|known| known.state == State::InProgress);
        let Some(known) = known else { return false };
        known.state = State::Aborted;
        true
    }

    /// Forgets everything: the member does not lead any more.
    pub(crate) fn clear(&mut self) {
        self.by_lsid.clear();
    }

    /// The sessions with a transaction in progress.
    pub(crate) fn in_progress(&self) -> impl Iterator<Item = Uuid> {
        let open = self.by_lsid.iter().filter(|(_, known)| known.state == State::InProgress);
        open.map(|(lsid, _)| *lsid)
    }

    /// Those that have been open for too long.
    pub(crate) fn expired(&self, now: Instant) -> Vec<Uuid> {
        self.in_progress().filter(|lsid| self.by_lsid[lsid].started + LIFETIME <= now).collect()
    }

    /// When the next one has been open for too long.
    pub(crate) fn next_expiry(&self) -> Instant {
        self.in_progress()
            .map(|lsid| self.by_lsid[&lsid].started + LIFETIME)
            .fold(Instant::NEVER, Instant::min)
    }

    fn remember(&mut self, lsid: Uuid, known: Known) {
        if self.by_lsid.len() >= REMEMBERED_MAX {
            let over = self.by_lsid.iter().filter(|(_, known)| known.state != State::InProgress);
            let oldest = over.min_by_key(|(_, known)| known.started).map(|(lsid, _)| *lsid);
            if let Some(oldest) = oldest {
                self.by_lsid.remove(&oldest);
            }
        }
        self.by_lsid.insert(lsid, known);
    }
}
