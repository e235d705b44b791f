//! What the pools of one client share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::Limits;
use crate::connection::Greeting;
use crate::error::Result;
use crate::event::{CmapEvent, ConnectionPoolOptions, EventHandler};
use crate::options::{ClientOptions, DEFAULT_MAX_CONNECTING};
use crate::transport::Transport;

/// What the pools of one client share.
pub(crate) struct PoolContext {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) greeting: Greeting,
    pub(crate) request_ids: AtomicI32,
    pub(crate) events: Option<EventHandler<CmapEvent>>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) wait_queue_timeout: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) options: ConnectionPoolOptions,
}

impl PoolContext {
    /// What `options` say about pools.
    ///
    /// # Errors
    /// As [`Greeting::new`].
    pub(crate) fn new(transport: Arc<dyn Transport>, options: &ClientOptions) -> Result<Self> {
        let non_zero = |time: Option<Duration>| time.filter(|time| !time.is_zero());
        Ok(PoolContext {
            greeting: Greeting::new(options)?,
            request_ids: AtomicI32::new(0),
            events: options.cmap_event_handler.clone(),
            connect_timeout: options.connect_timeout_or_default(),
            wait_queue_timeout: non_zero(options.wait_queue_timeout),
            limits: Limits {
                max_pool_size: options.max_pool_size_or_default().unwrap_or(0),
                min_pool_size: options.min_pool_size.unwrap_or(0),
                max_connecting: options.max_connecting.unwrap_or(DEFAULT_MAX_CONNECTING).max(1),
                max_idle_time: non_zero(options.max_idle_time),
            },
            options: ConnectionPoolOptions {
                max_idle_time: options.max_idle_time,
                max_pool_size: options.max_pool_size,
                min_pool_size: options.min_pool_size,
                max_connecting: options.max_connecting,
                wait_queue_timeout: options.wait_queue_timeout,
            },
            transport,
        })
    }

    /// The next request identifier of this client.
    pub(crate) fn next_request_id(&self) -> i32 {
        self.request_ids.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX
    }

    /// Tells a pool event.
    pub(super) fn emit(&self, event: impl FnOnce() -> CmapEvent) {
        if let Some(handler) = &self.events {
            handler.handle(event());
        }
    }
}
