//! A connection on loan.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Pool;
use crate::connection::Connection;

/// A connection on loan; dropped, it goes back to its pool.
///
/// If it is dropped while a reply is owed (the operation's future was dropped), the pool keeps it, and
/// that reply is read before anybody uses it again: a storm of cancelled operations is not to become a
/// storm of new connections. If only a part of the request was written, the connection is closed.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Box<Connection>>,
    silent: bool,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, connection: Box<Connection>) -> Self {
        Lease { pool, connection: Some(connection), silent: false }
    }

    /// The same loan, which no check-out event announced: it ends without an event, too.
    pub(super) fn silently(mut self) -> Self {
        self.silent = true;
        self
    }

    /// The connection cannot be used: closes it instead of giving it back for use. No check-out
    /// event announced it yet.
    pub(super) fn fail(mut self) {
        self.silent = true;
        if let Some(connection) = &mut self.connection {
            connection.mark_broken();
        }
    }
}

impl Deref for Lease {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a lease has its connection until it is dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease has its connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.set_deadline(crate::time::Instant::NEVER);
        if !self.silent {
            self.pool.tell_checked_in(connection.id);
        }
        self.pool.take_back(connection);
    }
}
