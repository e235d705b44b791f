//! Sessions and transactions.

use std::ops::Deref;

use crate::error::Result;
use crate::transport::threads::block_on;

/// A session: see [`crate::ClientSession`]. Operations are given it by `.session(&session)`, and
/// `start_transaction()` is run as they are.
#[derive(Debug)]
pub struct ClientSession {
    inner: crate::ClientSession,
}

impl ClientSession {
    pub(super) fn new(inner: crate::ClientSession) -> Self {
        ClientSession { inner }
    }

    /// Runs `callback` in a transaction and commits it, again and again as long as that may help: see
    /// [`crate::ClientSession::with_transaction`].
    ///
    /// # Errors
    /// As [`crate::ClientSession::with_transaction`].
    pub fn with_transaction<R>(
        &self,
        mut callback: impl FnMut(&crate::ClientSession) -> Result<R>,
    ) -> Result<R> {
        block_on(self.inner.with_transaction(async |session| callback(session)))
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// As [`crate::ClientSession::commit_transaction`].
    pub fn commit_transaction(&self) -> Result<()> {
        block_on(self.inner.commit_transaction())
    }

    /// Aborts the transaction.
    ///
    /// # Errors
    /// As [`crate::ClientSession::abort_transaction`].
    pub fn abort_transaction(&self) -> Result<()> {
        block_on(self.inner.abort_transaction())
    }

    /// Ends the session: aborts a transaction that is open and gives the server session back.
    pub fn end(&self) {
        block_on(self.inner.end());
    }
}

impl Deref for ClientSession {
    type Target = crate::ClientSession;
    fn deref(&self) -> &crate::ClientSession {
        &self.inner
    }
}
