//! The transaction of a session, as a pure state machine (transactions specification, "ClientSession
//! changes").

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::options::{Acknowledgment, ReadConcern, SelectionCriteria, WriteConcern};

/// `wtimeout` of a commit that is sent again and has none.
const REPEATED_COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be said about a transaction. `None` means what the session, else the client, says.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TransactionOptions {
    /// Which data its reads see.
    pub read_concern: Option<ReadConcern>,
    /// Who must have it before it counts as committed.
    pub write_concern: Option<WriteConcern>,
    /// Who answers its reads; servers allow the primary alone.
    pub selection_criteria: Option<SelectionCriteria>,
    /// How long the server works on one commit; `timeoutMS` overrides it.
    pub max_commit_time: Option<Duration>,
}

impl TransactionOptions {
    /// These, and `others` where these say nothing.
    pub(crate) fn or(self, others: Option<&TransactionOptions>) -> Self {
        let Some(others) = others else { return self };
        TransactionOptions {
            read_concern: self.read_concern.or_else(|| others.read_concern.clone()),
            write_concern: self.write_concern.or_else(|| others.write_concern.clone()),
            selection_criteria: self
                .selection_criteria
                .or_else(|| others.selection_criteria.clone()),
            max_commit_time: self.max_commit_time.or(others.max_commit_time),
        }
    }
}

/// Where the transaction of a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionState {
    /// None was started, or an operation outside of it followed its end.
    #[default]
    None,
    /// It was started, but no command of it was sent.
    Starting,
    /// A command of it was sent.
    InProgress,
    /// It was committed, whatever came of it.
    Committed,
    /// It was aborted.
    Aborted,
}

/// What is to be sent to commit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Commit {
    /// The write concern of the first attempt.
    pub(crate) write_concern: Option<WriteConcern>,
    /// The write concern of an attempt that follows one whose outcome is unknown.
    pub(crate) repeated: WriteConcern,
    /// `maxCommitTimeMS`
    pub(crate) max_time: Option<Duration>,
}

/// The transaction of one session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    state: TransactionState,
    options: TransactionOptions,
    /// Whether a command of it was ever sent: an empty one is ended without a word.
    sent: bool,
    /// Whether a commit was sent that may have been seen.
    committed_before: bool,
}

impl Transaction {
    /// Where it stands.
    pub(crate) fn state(&self) -> TransactionState {
        self.state
    }

    /// Whether operations belong to it.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, TransactionState::Starting | TransactionState::InProgress)
    }

    /// What was said when it was started.
    pub(crate) fn options(&self) -> &TransactionOptions {
        &self.options
    }

    /// Starts one.
    pub(crate) fn start(&mut self, options: TransactionOptions) -> Result<()> {
        if self.is_open() {
            return Err(refusal("Transaction already in progress"));
        }
        let acknowledged = options.write_concern.as_ref().is_none_or(WriteConcern::is_acknowledged);
        if !acknowledged {
            return Err(refusal("transactions do not support unacknowledged write concerns"));
        }
        *self = Transaction { state: TransactionState::Starting, options, ..Default::default() };
        Ok(())
    }

    /// A command is about to be sent. Returns, if it belongs to the transaction, whether it is its
    /// first.
    pub(crate) fn command(&mut self) -> Option<bool> {
        match self.state {
            TransactionState::Starting => {
                self.state = TransactionState::InProgress;
                self.sent = true;
                Some(true)
            }
            TransactionState::InProgress => Some(false),
            _ => {
                self.state = TransactionState::None;
                None
            }
        }
    }

    /// The first command was not sent after all, or was refused before the server looked at it.
    pub(crate) fn take_back_first(&mut self) {
        assert!(self.state == TransactionState::InProgress, "only what was sent is taken back");
        self.state = TransactionState::Starting;
        self.sent = false;
    }

    /// Commits; `None` if there is nothing to be sent.
    pub(crate) fn commit(&mut self) -> Result<Option<Commit>> {
        match self.state {
            TransactionState::None => return Err(refusal("No transaction started")),
            TransactionState::Aborted => {
                return Err(refusal(
                    "Cannot call commitTransaction after calling abortTransaction",
                ));
            }
            _ => self.state = TransactionState::Committed,
        }
        if !self.sent {
            return Ok(None);
        }
        let repeated = repeated(self.options.write_concern.clone());
        let write_concern = match self.committed_before {
            true => Some(repeated.clone()),
            false => self.options.write_concern.clone(),
        };
        Ok(Some(Commit { write_concern, repeated, max_time: self.options.max_commit_time }))
    }

    /// A commit was answered, or failed otherwise than by being refused for overload: the next one
    /// is a repetition.
    pub(crate) fn commit_was_seen(&mut self) {
        self.committed_before = true;
    }

    /// Aborts. Returns whether anything is to be sent.
    pub(crate) fn abort(&mut self) -> Result<bool> {
        match self.state {
            TransactionState::None => Err(refusal("No transaction started")),
            TransactionState::Committed => {
                Err(refusal("Cannot call abortTransaction after calling commitTransaction"))
            }
            TransactionState::Aborted => Err(refusal("Cannot call abortTransaction twice")),
            TransactionState::Starting | TransactionState::InProgress => {
                self.state = TransactionState::Aborted;
                Ok(self.sent)
            }
        }
    }
}

/// A commit that may have been seen before must not be undone by a later election: majority.
fn repeated(concern: Option<WriteConcern>) -> WriteConcern {
    let mut concern = concern.unwrap_or_default();
    concern.w = Some(Acknowledgment::Majority);
    concern.w_timeout.get_or_insert(REPEATED_COMMIT_TIMEOUT);
    concern
}

fn refusal(message: &str) -> Error {
    Error::new(ErrorKind::Transaction { message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_repeated_with_majority_and_a_time_limit() {
        let mut transaction = Transaction::default();
        transaction
            .start(TransactionOptions {
                write_concern: Some(WriteConcern::nodes(1)),
                ..Default::default()
            })
            .unwrap();
        assert_eq!((transaction.command(), transaction.command()), (Some(true), Some(false)));
        let first = transaction.commit().unwrap().unwrap();
        assert_eq!(first.write_concern, Some(WriteConcern::nodes(1)));
        transaction.commit_was_seen();
        let again = transaction.commit().unwrap().unwrap().write_concern.unwrap();
        assert_eq!(again.w, Some(Acknowledgment::Majority));
        assert_eq!(again.w_timeout, Some(REPEATED_COMMIT_TIMEOUT));
    }

    #[test]
    fn an_empty_transaction_ends_without_a_word() {
        let mut transaction = Transaction::default();
        transaction.start(TransactionOptions::default()).unwrap();
        assert_eq!(transaction.commit().unwrap(), None);
        assert_eq!(transaction.commit().unwrap(), None);
        transaction.start(TransactionOptions::default()).unwrap();
        assert!(!transaction.abort().unwrap());
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let says = |error: Error, what: &str| assert!(error.to_string().contains(what), "{error}");
        let mut transaction = Transaction::default();
        says(transaction.commit().unwrap_err(), "No transaction started");
        says(transaction.abort().unwrap_err(), "No transaction started");
        let unacknowledged = TransactionOptions {
            write_concern: Some(WriteConcern::nodes(0)),
            ..Default::default()
        };
        says(transaction.start(unacknowledged).unwrap_err(), "unacknowledged write concern");
        transaction.start(TransactionOptions::default()).unwrap();
        says(transaction.start(Default::default()).unwrap_err(), "already in progress");
        assert_eq!(transaction.state(), TransactionState::Starting);
        transaction.abort().unwrap();
        says(transaction.abort().unwrap_err(), "abortTransaction twice");
        says(transaction.commit().unwrap_err(), "after calling abortTransaction");
        assert_eq!(transaction.command(), None);
        assert_eq!(transaction.state(), TransactionState::None);
        transaction.start(TransactionOptions::default()).unwrap();
        transaction.commit().unwrap();
        says(transaction.abort().unwrap_err(), "after calling commitTransaction");
    }

    #[test]
    fn a_first_command_that_was_refused_for_overload_is_the_first_again() {
        let mut transaction = Transaction::default();
        transaction.start(TransactionOptions::default()).unwrap();
        assert_eq!(transaction.command(), Some(true));
        transaction.take_back_first();
        assert_eq!(transaction.command(), Some(true));
    }
}
