//! Explicit sessions.

use std::sync::Arc;

use bson::{Document, Timestamp, Uuid, doc};

use super::Client;
use crate::session::SharedSession;

/// What can be said about a session.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Whether reads see at least what earlier operations of the session did; default true.
    pub causal_consistency: Option<bool>,
}

/// A session: operations given it belong together for the server, and, if it is causally consistent,
/// its reads see what its earlier operations did, whichever member answers.
pub struct ClientSession {
    client: Client,
    shared: Arc<SharedSession>,
}

impl ClientSession {
    pub(super) fn new(client: Client, options: &SessionOptions) -> Self {
        let causal = options.causal_consistency.unwrap_or(true);
        ClientSession { shared: SharedSession::new(client.cluster().clone(), causal), client }
    }

    /// The client it belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its `lsid`.
    pub fn id(&self) -> Document {
        doc! { "id": Uuid::from_bytes(self.shared.id().unwrap_or_default()) }
    }

    /// When the server said it had done the session's last operation.
    pub fn operation_time(&self) -> Option<Timestamp> {
        self.shared.operation_time()
    }

    /// Lets later reads see at least what was there at `time`, the operation time of another session.
    pub fn advance_operation_time(&mut self, time: Timestamp) {
        self.shared.advance_operation_time(time);
    }

    pub(super) fn shared(&self) -> Arc<SharedSession> {
        self.shared.clone()
    }
}

impl std::fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSession").field("id", &self.id()).finish_non_exhaustive()
    }
}
