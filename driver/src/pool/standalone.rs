//! A pool without a client.

use std::sync::Arc;

use super::{Lease, Pool, PoolContext, PoolCounts};
use crate::error::{Error, Result};
use crate::options::ClientOptions;
use crate::time::Instant;
use crate::transport::Transport;
use crate::uri::ServerAddress;

/// The pool of one server by itself, for tests of pools: what a client does to its pools, a test does to
/// this one. Nothing monitors the server, and nobody else looks after idle connections.
#[derive(Clone)]
pub struct StandalonePool {
    pool: Arc<Pool>,
}

/// A connection checked out of a [`StandalonePool`]; dropped, it is checked in.
pub struct PooledConnection {
    lease: Lease,
}

impl StandalonePool {
    /// A pool of connections to `address`, paused at first.
    ///
    /// # Errors
    /// `InvalidArgument` and `InvalidTlsConfig` for options that cannot be used.
    pub fn new(
        address: ServerAddress,
        options: &ClientOptions,
        transport: Arc<dyn Transport>,
    ) -> Result<Self> {
        let context = Arc::new(PoolContext::new(transport, options)?);
        Ok(StandalonePool { pool: Pool::new(address, context) })
    }

    /// The server was seen well.
    pub fn ready(&self) {
        self.pool.ready();
        self.pool.maintain();
    }

    /// Closes what was idle for too long, and opens what `minPoolSize` asks for.
    pub fn maintain(&self) {
        self.pool.maintain();
    }

    /// The server was seen ill: everything made so far is stale, and connections in use are interrupted if
    /// `interrupt_in_use`.
    pub fn clear(&self, interrupt_in_use: bool) {
        let cause = Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        let deferred = self.pool.clear(cause, self.pool.generation() + 1, interrupt_in_use);
        self.pool.run(deferred);
    }

    /// Closes the pool for good.
    pub fn close(&self) {
        let deferred = self.pool.close();
        self.pool.run(deferred);
        self.pool.tell_closed();
    }

    /// A connection.
    ///
    /// # Errors
    /// `ConnectionPoolCleared` while the pool is paused, `Shutdown` once it is closed, `Timeout` if none
    /// came free in time, and whatever fails while one is opened.
    pub async fn check_out(&self) -> Result<PooledConnection> {
        Ok(PooledConnection { lease: self.pool.check_out(Instant::NEVER).await? })
    }

    /// How many of what.
    pub fn counts(&self) -> PoolCounts {
        self.pool.counts()
    }
}

impl PooledConnection {
    /// Its number, from 1.
    pub fn id(&self) -> u64 {
        self.lease.id
    }
}
