//! The session of one operation, and of one cursor.

use std::sync::{Arc, Mutex};

use bson::raw::RawBsonRef;
use bson::{RawDocument, Timestamp};

use super::ServerSession;
use crate::executor::Cluster;
use crate::sync::lock;
use crate::time::Instant;

/// What an explicit session knows; shared by the session and the operations that use it.
pub(crate) struct SharedSession {
    cluster: Arc<Cluster>,
    state: Mutex<SharedState>,
}

struct SharedState {
    server: Option<ServerSession>,
    causal_consistency: bool,
    operation_time: Option<Timestamp>,
}

impl SharedSession {
    /// A session that has not been used.
    pub(crate) fn new(cluster: Arc<Cluster>, causal_consistency: bool) -> Arc<Self> {
        let server = Some(cluster.take_session());
        let state = SharedState { server, causal_consistency, operation_time: None };
        Arc::new(SharedSession { cluster, state: Mutex::new(state) })
    }

    /// The UUID of its `lsid`.
    pub(crate) fn id(&self) -> Option<[u8; 16]> {
        lock(&self.state).server.as_ref().map(|session| session.id)
    }

    /// When the server said it had done the last operation.
    pub(crate) fn operation_time(&self) -> Option<Timestamp> {
        lock(&self.state).operation_time
    }

    /// Later reads see at least what was there at `time`.
    pub(crate) fn advance_operation_time(&self, time: Timestamp) {
        let mut state = lock(&self.state);
        let later = |known: Timestamp| (time.time, time.increment) > (known.time, known.increment);
        if state.operation_time.is_none_or(later) {
            state.operation_time = Some(time);
        }
    }

    /// Whether it belongs to this client.
    pub(crate) fn belongs_to(&self, cluster: &Arc<Cluster>) -> bool {
        Arc::ptr_eq(&self.cluster, cluster)
    }
}

impl Drop for SharedSession {
    fn drop(&mut self) {
        let server = lock(&self.state).server.take();
        if let Some(server) = server {
            self.cluster.give_back_session(server);
        }
    }
}

/// The session an operation uses: the caller's, or one of its own that is taken when it is needed and
/// goes back when the slot is dropped.
pub(crate) enum SessionSlot {
    /// The operation's own.
    Implicit(Implicit),
    /// The caller's.
    Explicit(Arc<SharedSession>),
    /// None: the command is about sessions itself.
    None,
}

/// An implicit session, from the moment it is needed.
#[derive(Default)]
pub(crate) struct Implicit {
    taken: Option<(ServerSession, Arc<Cluster>)>,
    /// A request was sent whose reply was not seen: what the server did is unknown.
    in_doubt: bool,
}

impl Drop for Implicit {
    fn drop(&mut self) {
        if let Some((mut session, cluster)) = self.taken.take() {
            session.dirty |= self.in_doubt;
            cluster.give_back_session(session);
        }
    }
}

impl SessionSlot {
    /// No session.
    pub(crate) fn none() -> Self {
        SessionSlot::None
    }

    /// The caller's session, or an implicit one if there is none.
    pub(crate) fn from_option(session: Option<Arc<SharedSession>>) -> Self {
        session.map_or_else(|| SessionSlot::Implicit(Implicit::default()), SessionSlot::Explicit)
    }

    /// Takes an implicit session now, if none was taken yet: after a connection was checked out,
    /// so that no more sessions are made than connections. From now on a request is under way.
    pub(crate) fn ensure(&mut self, cluster: &Arc<Cluster>) {
        if let SessionSlot::Implicit(implicit) = self {
            if implicit.taken.is_none() {
                implicit.taken = Some((cluster.take_session(), cluster.clone()));
            }
            implicit.in_doubt = true;
        }
    }

    /// The UUID of the `lsid`.
    pub(crate) fn id(&self) -> Option<[u8; 16]> {
        match self {
            SessionSlot::Implicit(implicit) => {
                implicit.taken.as_ref().map(|(session, _)| session.id)
            }
            SessionSlot::Explicit(shared) => shared.id(),
            SessionSlot::None => None,
        }
    }

    /// The number of the next retryable write.
    pub(crate) fn next_txn_number(&mut self) -> Option<i64> {
        self.with(ServerSession::next_txn_number)
    }

    /// The network failed under an operation of this session.
    pub(crate) fn network_failed(&mut self) {
        self.with(|session| session.dirty = true);
    }

    /// A reply came to an operation of this session.
    pub(crate) fn replied(&mut self, now: Instant, reply: &RawDocument) {
        self.with(|session| session.last_use = now);
        match self {
            SessionSlot::Implicit(implicit) => implicit.in_doubt = false,
            SessionSlot::Explicit(shared) => {
                if let Ok(Some(RawBsonRef::Timestamp(time))) = reply.get("operationTime") {
                    shared.advance_operation_time(time);
                }
            }
            SessionSlot::None => {}
        }
    }

    /// What a read of this session must at least see.
    pub(crate) fn after_cluster_time(&self) -> Option<Timestamp> {
        let SessionSlot::Explicit(shared) = self else { return None };
        let state = lock(&shared.state);
        state.operation_time.filter(|_| state.causal_consistency)
    }

    fn with<R>(&mut self, change: impl FnOnce(&mut ServerSession) -> R) -> Option<R> {
        match self {
            SessionSlot::Implicit(implicit) => {
                implicit.taken.as_mut().map(|(session, _)| change(session))
            }
            SessionSlot::Explicit(shared) => lock(&shared.state).server.as_mut().map(change),
            SessionSlot::None => None,
        }
    }
}
