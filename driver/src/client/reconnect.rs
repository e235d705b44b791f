//! Waiting out a failover.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use super::Client;
use crate::error::Result;
use crate::sync::{Either, select2};

/// How long [`Client::with_reconnect`] goes on.
const DEFAULT_LIMIT: Duration = Duration::from_secs(2);
/// The longest pause between two attempts; a change of the topology ends it sooner.
const PAUSE: Duration = Duration::from_millis(50);

impl Client {
    /// Runs `operation` again as long as it fails with an error of the AutoReconnect family
    /// ([`Error::is_auto_reconnect`](crate::Error::is_auto_reconnect)), for two seconds at most.
    ///
    /// For code that prefers to wait out a transition over handling it. An operation that is not safe
    /// to run twice (an `update_many` with `$inc`, say) should not be run like this.
    ///
    /// # Errors
    /// The first error of another kind, or the last error once the time is over.
    pub async fn with_reconnect<T, F>(&self, operation: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.with_reconnect_for(DEFAULT_LIMIT, operation).await
    }

    /// The same for `limit` at most. The first attempt is given the time its own timeouts give it;
    /// a later one is dropped when the limit is reached.
    ///
    /// # Errors
    /// As [`Client::with_reconnect`].
    pub async fn with_reconnect_for<T, F>(
        &self,
        limit: Duration,
        mut operation: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let by = self.now() + limit;
        let transport = self.cluster().transport();
        let mut seen = self.cluster().changed().version();
        let mut result = operation().await;
        loop {
            let error = match result {
                Err(error) if error.is_auto_reconnect() && self.now() < by => error,
                other => return other,
            };
            let pause = transport.sleep_until(by.min(self.now() + PAUSE));
            select2(self.cluster().changed().passed(seen), pause).await;
            seen = self.cluster().changed().version();
            let again = pin!(operation());
            result = match select2(again, transport.sleep_until(by)).await {
                Either::Left(result) => result,
                Either::Right(()) => return Err(error),
            };
        }
    }
}
