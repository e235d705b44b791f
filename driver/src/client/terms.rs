//! The terms an operation runs under: in which session, and for how long.

use std::sync::Arc;
use std::time::Duration;

use super::{Client, CollectionOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};
use crate::session::SharedSession;
use crate::time::Instant;

/// The terms an operation runs under.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    /// The caller's session.
    pub(crate) session: Option<Arc<SharedSession>>,
    /// `timeoutMS`: what the operation says itself, and once it began what it inherited.
    pub(crate) timeout: Option<Duration>,
    /// `rawData`
    pub(crate) raw_data: Option<bool>,
    /// When it must be done.
    pub(crate) limit: Option<Instant>,
}

impl Terms {
    /// Fixes the time limit: the operation begins. `inherited` is the `timeoutMS` of what it is
    /// about.
    ///
    /// # Errors
    /// `InvalidArgument` if the session belongs to another client, or if both the operation and the
    /// running `with_transaction` have a timeout.
    pub(crate) fn begin(&mut self, client: &Client, inherited: Option<Duration>) -> Result<()> {
        if let Some(session) = &self.session {
            if !session.belongs_to(client.cluster()) {
                return Err(Error::invalid_argument("the session belongs to another client"));
            }
            if let Some(limit) = session.limit() {
                if self.timeout.is_some() {
                    return Err(Error::invalid_argument(
                        "timeoutMS cannot be overridden within with_transaction",
                    ));
                }
                self.limit = Some(limit);
                // Zero would be no limit at all.
                self.timeout = Some((limit - client.now()).max(Duration::from_nanos(1)));
                return Ok(());
            }
        }
        self.timeout = self.timeout.or(inherited);
        self.limit = self.timeout.map(|timeout| deadline(client.now(), timeout));
        Ok(())
    }

    /// Begins a read: takes what it does not say itself from its transaction, else from `inherited`.
    ///
    /// # Errors
    /// As [`Terms::begin`], and `Transaction` if it has a read concern of its own in a transaction.
    pub(crate) fn begin_read(
        &mut self,
        client: &Client,
        criteria: &mut Option<SelectionCriteria>,
        concern: &mut Option<ReadConcern>,
        inherited: &CollectionOptions,
    ) -> Result<()> {
        self.begin(client, inherited.timeout)?;
        if let Some(session) = self.session.as_ref().filter(|session| session.in_transaction()) {
            if concern.is_some() {
                return Err(in_transaction("Cannot set read concern after starting a transaction"));
            }
            if criteria.is_none() {
                *criteria = session.transaction_criteria();
            }
            return Ok(());
        }
        inherit(criteria, inherited.selection_criteria.as_ref());
        inherit(concern, inherited.read_concern.as_ref());
        Ok(())
    }

    /// Begins a write: takes what it does not say itself from `inherited`. In a transaction the
    /// write concern is that of the commit.
    ///
    /// # Errors
    /// As [`Terms::begin`], and `Transaction` if it has a write concern of its own in a transaction.
    pub(crate) fn begin_write(
        &mut self,
        client: &Client,
        concern: &mut Option<WriteConcern>,
        inherited: &CollectionOptions,
    ) -> Result<()> {
        self.begin(client, inherited.timeout)?;
        self.inherit_write(concern, inherited)
    }

    /// The second half of [`Terms::begin_write`], for what reads and writes.
    pub(crate) fn inherit_write(
        &self,
        concern: &mut Option<WriteConcern>,
        inherited: &CollectionOptions,
    ) -> Result<()> {
        if self.in_transaction() {
            if concern.is_some() {
                return Err(in_transaction(
                    "Cannot set write concern after starting a transaction",
                ));
            }
            return Ok(());
        }
        inherit(concern, inherited.write_concern.as_ref());
        if self.limit.is_some()
            && let Some(concern) = concern
        {
            concern.w_timeout = None;
        }
        Ok(())
    }

    /// `timeoutMS` overrides the limit on the server's work.
    pub(crate) fn override_max_time(&self, max_time: &mut Option<Duration>) {
        if self.limit.is_some() {
            *max_time = None;
        }
    }

    /// Whether the operation belongs to a transaction.
    pub(crate) fn in_transaction(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.in_transaction())
    }
}

/// When what may take `timeout` must be done; zero is no limit.
pub(crate) fn deadline(now: Instant, timeout: Duration) -> Instant {
    if timeout.is_zero() { Instant::NEVER } else { now + timeout }
}

/// What an operation uses: its own choice, or that of the collection.
fn inherit<T: Clone>(own: &mut Option<T>, others: Option<&T>) {
    if own.is_none() {
        *own = others.cloned();
    }
}

fn in_transaction(message: &str) -> Error {
    Error::new(ErrorKind::Transaction { message: message.to_owned() })
}
