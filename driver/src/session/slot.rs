//! The session of one operation, and of one cursor.

use std::sync::Arc;

use bson::RawDocument;

use super::shared::SessionFields;
use super::{ServerSession, SharedSession};
use crate::error::Result;
use crate::executor::Cluster;
use crate::operation::{Command, ReadConcernUse};
use crate::time::Instant;

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

    /// The caller's session.
    pub(crate) fn explicit(&self) -> Option<&Arc<SharedSession>> {
        match self {
            SessionSlot::Explicit(shared) => Some(shared),
            _ => None,
        }
    }

    /// Whether the operation belongs to a transaction that goes on.
    pub(crate) fn in_transaction(&self) -> bool {
        self.explicit().is_some_and(|shared| shared.in_transaction())
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

    /// What the session adds to `command`, which is about to be sent.
    ///
    /// # Errors
    /// `InvalidArgument` if the caller's session has ended.
    pub(crate) fn fields(&self, command: &Command) -> Result<Option<SessionFields>> {
        match self {
            SessionSlot::Explicit(shared) => shared.fields(command).map(Some),
            SessionSlot::Implicit(Implicit { taken: Some((session, _)), .. }) => {
                let mut fields = SessionFields { id: session.id, ..SessionFields::default() };
                if command.concern != ReadConcernUse::Never {
                    let concern = command.read_concern.as_ref();
                    fields.level = concern.map(|concern| concern.level.clone());
                }
                Ok(Some(fields))
            }
            SessionSlot::Implicit(_) | SessionSlot::None => Ok(None),
        }
    }

    /// The first command of a transaction is to be sent as its first again.
    pub(crate) fn take_back_first(&self) {
        if let SessionSlot::Explicit(shared) = self {
            shared.take_back_first();
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
    pub(crate) fn replied(&mut self, now: Instant, command: &Command, reply: &RawDocument) {
        match self {
            SessionSlot::Implicit(implicit) => {
                implicit.in_doubt = false;
                if let Some((session, _)) = &mut implicit.taken {
                    session.last_use = now;
                }
            }
            SessionSlot::Explicit(shared) => shared.replied(now, command, reply),
            SessionSlot::None => {}
        }
    }

    fn with<R>(&mut self, change: impl FnOnce(&mut ServerSession) -> R) -> Option<R> {
        match self {
            SessionSlot::Implicit(implicit) => {
                implicit.taken.as_mut().map(|(session, _)| change(session))
            }
            SessionSlot::Explicit(shared) => shared.with(change),
            SessionSlot::None => None,
        }
    }
}
