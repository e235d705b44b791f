//! The one error type of the driver, and the questions one may ask it.

mod codes;
mod kind;
mod reply;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use bson::RawDocumentBuf;

pub use kind::{
    BulkWriteError, CommandError, ErrorKind, GridFsErrorKind, GridFsFileIdentifier,
    IndexedWriteError, InsertManyError, WriteConcernError, WriteError, WriteFailure,
};

use crate::sdam::TopologyVersion;
use crate::time::Instant;
use crate::uri::ServerAddress;

/// What the driver's fallible functions give back.
pub type Result<T> = std::result::Result<T, Error>;

/// Error labels that decide what a driver or an application does next.
///
/// A label is put on an error by the server or by the driver, and says what may be done about it
/// without knowing its code.
pub mod labels {
    /// The whole transaction may be run again.
    pub const TRANSIENT_TRANSACTION_ERROR: &str = "TransientTransactionError";
    /// The commit may be run again.
    pub const UNKNOWN_TRANSACTION_COMMIT_RESULT: &str = "UnknownTransactionCommitResult";
    /// The write may be run once again under the same transaction number.
    pub const RETRYABLE_WRITE_ERROR: &str = "RetryableWriteError";
    /// The change stream may be resumed.
    pub const RESUMABLE_CHANGE_STREAM_ERROR: &str = "ResumableChangeStreamError";
    /// The command certainly wrote nothing.
    pub const NO_WRITES_PERFORMED: &str = "NoWritesPerformed";
    /// The command was refused and may be sent again (client backpressure).
    pub const RETRYABLE_ERROR: &str = "RetryableError";
    /// The server is overloaded: back off before trying again (client backpressure).
    pub const SYSTEM_OVERLOADED_ERROR: &str = "SystemOverloadedError";
}

/// An error of the driver: what kind it is, and the labels it carries.
///
/// Cheap enough to clone, and `Send + Sync`, so that one network error can be told to everybody who
/// waited for that server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Error {
    /// What happened.
    pub kind: Box<ErrorKind>,
    labels: BTreeSet<String>,
    source: Option<Arc<Error>>,
    circumstances: Option<Box<Circumstances>>,
}

/// What most errors do not have, kept out of line so that a `Result` stays small.
#[derive(Clone, Debug, Default)]
struct Circumstances {
    server: Option<ServerAddress>,
    topology_version: Option<TopologyVersion>,
    server_response: Option<Arc<RawDocumentBuf>>,
    attempts: Vec<Attempt>,
}

/// How far an attempt came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// No server was selected.
    Selection,
    /// A server was selected, but no connection to it could be had.
    CheckOut,
    /// The request may have left; no whole reply came.
    Exchange,
    /// The server replied with an error.
    Reply,
}

/// One try of an operation that was tried more than once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The server that was tried; `None` if none could be selected.
    pub server: Option<ServerAddress>,
    /// How far the attempt came.
    pub phase: Phase,
    /// When the attempt began.
    pub began: Instant,
    /// When it failed.
    pub ended: Instant,
    /// Why it failed.
    pub error: Error,
}

impl Attempt {
    /// A record of one failed try.
    pub fn new(
        server: Option<ServerAddress>,
        phase: Phase,
        began: Instant,
        ended: Instant,
        error: Error,
    ) -> Self {
        Attempt { server, phase, began, ended, error }
    }
}

impl Error {
    /// An error of `kind` without labels.
    pub fn new(kind: impl Into<ErrorKind>) -> Self {
        Error {
            kind: Box::new(kind.into()),
            labels: BTreeSet::new(),
            source: None,
            circumstances: None,
        }
    }

    /// The caller passed something that cannot be.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument { message: message.into() })
    }

    /// The server answered with something that is not a reply to what was asked.
    pub fn invalid_response(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidResponse { message: message.into() })
    }

    /// Authentication failed.
    pub fn authentication(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Authentication { message: message.into() })
    }

    /// No suitable server was found in time.
    pub fn server_selection(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::ServerSelection { message: message.into() })
    }

    /// A deadline of the client passed (`timeoutMS`, `waitQueueTimeoutMS`).
    pub fn timed_out(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Timeout { message: message.into() })
    }

    /// The pool was cleared while a connection was waited for. `cause` is the error that cleared it.
    ///
    /// Retryable, as the CMAP specification's PoolClearedError: nothing had been sent.
    pub fn pool_cleared(server: &ServerAddress, cause: Option<&Error>) -> Self {
        let why = cause.map_or_else(|| "no reason recorded".to_owned(), ToString::to_string);
        let mut error = Error::new(ErrorKind::ConnectionPoolCleared {
            message: format!("connection pool for {server} was cleared because: {why}"),
        })
        .at(server.clone());
        error.source = cause.map(|cause| Arc::new(cause.clone()));
        error
    }

    /// The same error, carrying `label` as well.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.add_label(label);
        self
    }

    /// The same error, with `source` named as its cause.
    #[must_use]
    pub fn with_source(mut self, source: Error) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same error, said to have happened at `server`.
    #[must_use]
    pub fn at(mut self, server: ServerAddress) -> Self {
        self.circumstances_mut().server = Some(server);
        self
    }

    /// The same error, carrying the topologyVersion of the reply it was read from.
    #[must_use]
    pub fn with_topology_version(mut self, version: Option<TopologyVersion>) -> Self {
        if version.is_some() || self.circumstances.is_some() {
            self.circumstances_mut().topology_version = version;
        }
        self
    }

    /// The same error, carrying the whole reply it was read from.
    #[must_use]
    pub fn with_server_response(mut self, reply: RawDocumentBuf) -> Self {
        self.circumstances_mut().server_response = Some(Arc::new(reply));
        self
    }

    /// The same error, carrying the record of every try.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Vec<Attempt>) -> Self {
        self.circumstances_mut().attempts = attempts;
        self
    }

    /// The same error without what a reply to a command with secrets may tell: its code, the code's
    /// name and its labels are left.
    #[must_use]
    pub(crate) fn redacted(&self) -> Error {
        let kind = match &*self.kind {
            ErrorKind::Command(error) => {
                ErrorKind::Command(CommandError::new(error.code, &*error.code_name, ""))
            }
            other => other.clone(),
        };
        let mut error = Error::new(kind);
        error.labels.clone_from(&self.labels);
        if let Some(server) = self.server() {
            error = error.at(server.clone());
        }
        error
    }

    /// Puts `label` on this error.
    pub fn add_label(&mut self, label: impl Into<String>) {
        self.labels.insert(label.into());
    }

    /// Takes `label` off this error.
    pub fn remove_label(&mut self, label: &str) {
        self.labels.remove(label);
    }

    /// The labels of this error, in alphabetical order.
    pub fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// Whether this error carries `label` (see [`labels`]).
    pub fn contains_label(&self, label: impl AsRef<str>) -> bool {
        self.labels.contains(label.as_ref())
    }

    /// The server this error came from or was about, if one is known.
    pub fn server(&self) -> Option<&ServerAddress> {
        self.circumstances.as_ref()?.server.as_ref()
    }

    /// The reply this error was read from, if it was kept.
    pub fn server_response(&self) -> Option<&RawDocumentBuf> {
        self.circumstances.as_ref()?.server_response.as_deref()
    }

    /// The topologyVersion of the reply this error was read from: how new this news is.
    pub fn topology_version(&self) -> Option<TopologyVersion> {
        self.circumstances.as_ref()?.topology_version
    }

    /// Each failed try of the operation, the first one first; empty if it was tried once.
    pub fn attempts(&self) -> &[Attempt] {
        self.circumstances.as_ref().map_or(&[], |circumstances| &circumstances.attempts)
    }

    /// The error that caused this one.
    pub fn cause(&self) -> Option<&Error> {
        self.source.as_deref()
    }

    /// The server's error code: of the command, or of its write concern error, or of its only or
    /// first write error.
    pub fn code(&self) -> Option<i32> {
        match &*self.kind {
            ErrorKind::Command(error) => Some(error.code),
            ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
            ErrorKind::InsertMany(error) => error
                .write_errors
                .first()
                .map(|error| error.code)
                .or(error.write_concern_error.as_ref().map(|error| error.code)),
            ErrorKind::BulkWrite(error) => error
                .write_errors
                .values()
                .next()
                .map(|error| error.code)
                .or(error.write_concern_errors.first().map(|error| error.code)),
            _ => None,
        }
    }

    /// The server's name for [`Error::code`], such as `NotWritablePrimary`.
    pub fn code_name(&self) -> Option<&str> {
        let name = match &*self.kind {
            ErrorKind::Command(error) => Some(error.code_name.as_str()),
            ErrorKind::Write(WriteFailure::WriteError(error)) => error.code_name.as_deref(),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
                Some(error.code_name.as_str())
            }
            _ => None,
        };
        name.filter(|name| !name.is_empty())
    }

    /// The server's own words, without what the driver adds around them.
    pub fn server_message(&self) -> Option<&str> {
        match &*self.kind {
            ErrorKind::Command(error) => Some(&error.message),
            ErrorKind::Write(WriteFailure::WriteError(error)) => Some(&error.message),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(&error.message),
            _ => None,
        }
    }

    /// Whether the network failed: refused, reset, closed, no such host, or no answer in time.
    pub fn is_network(&self) -> bool {
        matches!(*self.kind, ErrorKind::Io(_) | ErrorKind::DnsResolve { .. })
    }

    /// Whether the network failed by not answering in time.
    pub fn is_network_timeout(&self) -> bool {
        matches!(&*self.kind, ErrorKind::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }

    /// Whether time ran out anywhere: on the network, in selection or the wait queue, by `timeoutMS`,
    /// or on the server (50 `MaxTimeMSExpired`, 262 `ExceededTimeLimit`, and 64 for a write concern
    /// that was not met within `wtimeout`).
    pub fn is_timeout(&self) -> bool {
        self.is_network_timeout()
            || matches!(*self.kind, ErrorKind::Timeout { .. } | ErrorKind::ServerSelection { .. })
            || self.code().is_some_and(codes::is_timeout)
    }

    /// Whether the server said that it is not, or no longer, a writable primary.
    ///
    /// The code decides; the message only where there is no code. A write error never counts.
    pub fn is_not_primary(&self) -> bool {
        self.state_change() == Some(codes::StateChange::NotWritablePrimary)
    }

    /// Whether the server said that it is recovering, stepping down or shutting down.
    pub fn is_node_recovering(&self) -> bool {
        matches!(
            self.state_change(),
            Some(codes::StateChange::NodeIsRecovering | codes::StateChange::ShuttingDown)
        )
    }

    /// Whether the server said that it is shutting down (a part of [`Error::is_node_recovering`]):
    /// its connections are about to be closed.
    pub fn is_shutting_down(&self) -> bool {
        self.state_change() == Some(codes::StateChange::ShuttingDown)
    }

    /// Whether the server told of a change of its state: not primary, or recovering.
    pub fn is_state_change(&self) -> bool {
        self.state_change().is_some()
    }

    /// Whether no suitable server was found in time.
    pub fn is_server_selection(&self) -> bool {
        matches!(*self.kind, ErrorKind::ServerSelection { .. })
    }

    /// Whether the pool was cleared while a connection of it was waited for or used.
    pub fn is_pool_cleared(&self) -> bool {
        matches!(*self.kind, ErrorKind::ConnectionPoolCleared { .. })
    }

    /// Whether authentication failed.
    pub fn is_authentication(&self) -> bool {
        matches!(*self.kind, ErrorKind::Authentication { .. })
    }

    /// Whether a unique index refused a write (11000, and what mongos and old servers say for it).
    pub fn is_duplicate_key(&self) -> bool {
        match &*self.kind {
            ErrorKind::InsertMany(error) => {
                error.write_errors.iter().any(|error| codes::is_duplicate_key(error.code))
            }
            ErrorKind::BulkWrite(error) => {
                error.write_errors.values().any(|error| codes::is_duplicate_key(error.code))
            }
            ErrorKind::Write(WriteFailure::WriteConcernError(_)) => false,
            _ => self.code().is_some_and(codes::is_duplicate_key),
        }
    }

    /// The family PyMongo calls AutoReconnect: the connection or the primary was lost, the driver
    /// will find the set again by itself, and the same call may succeed when made again.
    ///
    /// Network errors, not primary, node is recovering, pool cleared, no server selected in time.
    pub fn is_auto_reconnect(&self) -> bool {
        self.is_network()
            || self.is_state_change()
            || self.is_pool_cleared()
            || self.is_server_selection()
    }

    /// Whether a driver may send a read again after this error (retryable reads specification).
    pub fn is_retryable_read(&self) -> bool {
        self.is_network()
            || self.is_pool_cleared()
            || self.is_refused_by_overload()
            || match &*self.kind {
                ErrorKind::Command(error) if error.code == 0 => self.is_state_change(),
                ErrorKind::Command(error) => codes::is_retryable_read(error.code),
                _ => false,
            }
    }

    /// Whether a driver may send a retryable write again after this error: it carries the label
    /// `RetryableWriteError`, or was refused for overload (client backpressure).
    pub fn is_retryable_write(&self) -> bool {
        self.contains_label(labels::RETRYABLE_WRITE_ERROR) || self.is_refused_by_overload()
    }

    /// Whether the same call may succeed when made again, be it a read or a retryable write.
    pub fn is_retryable(&self) -> bool {
        self.is_retryable_read() || self.is_retryable_write()
    }

    /// Whether the server, or the way to it, is overloaded: back off before trying again.
    pub fn is_overloaded(&self) -> bool {
        self.contains_label(labels::SYSTEM_OVERLOADED_ERROR)
    }

    /// Whether an overloaded server, or the way to it, refused the command, which may be sent again
    /// after a pause whatever command it is: it carries `RetryableError` and `SystemOverloadedError`
    /// (client backpressure).
    pub fn is_refused_by_overload(&self) -> bool {
        self.is_overloaded() && self.contains_label(labels::RETRYABLE_ERROR)
    }

    /// Whether the command that failed may have been applied all the same.
    ///
    /// `false` is certain: no server was selected, the pool was cleared before anything was sent, the
    /// arguments were refused, or the server says it wrote nothing. `true` means nobody knows.
    pub fn may_have_been_applied(&self) -> bool {
        if self.contains_label(labels::NO_WRITES_PERFORMED)
            || self.contains_label(labels::RETRYABLE_ERROR)
        {
            return self.attempts().iter().any(|attempt| attempt.error.may_have_been_applied());
        }
        match &*self.kind {
            ErrorKind::Io(_) | ErrorKind::InvalidResponse { .. } | ErrorKind::Timeout { .. } => {
                true
            }
            ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
            ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) => true,
            // Before the write began the server would have said NoWritesPerformed.
            ErrorKind::Command(_) => self.is_state_change() || self.is_timeout(),
            _ => self.attempts().iter().any(|attempt| attempt.error.may_have_been_applied()),
        }
    }

    fn circumstances_mut(&mut self) -> &mut Circumstances {
        self.circumstances.get_or_insert_default()
    }

    /// The server state change this error tells of, if any. Write errors are never looked at.
    fn state_change(&self) -> Option<codes::StateChange> {
        match &*self.kind {
            ErrorKind::Command(error) => codes::state_change(error.code, &error.message),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
                codes::state_change(error.code, &error.message)
            }
            ErrorKind::InsertMany(InsertManyError { write_concern_error: Some(error), .. }) => {
                codes::state_change(error.code, &error.message)
            }
            ErrorKind::BulkWrite(error) => error
                .write_concern_errors
                .iter()
                .find_map(|error| codes::state_change(error.code, &error.message)),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(server) = self.server()
            && !self.is_pool_cleared()
        {
            write!(f, " (server {server})")?;
        }
        if !self.labels.is_empty() {
            let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
            write!(f, " [{}]", labels.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Some(source) = &self.source {
            return Some(&**source);
        }
        match &*self.kind {
            ErrorKind::Io(error) => Some(&**error),
            ErrorKind::Bson(error) => Some(error),
            ErrorKind::Custom(error) => Some(&**error),
            _ => None,
        }
    }
}

impl<K> From<K> for Error
where
    ErrorKind: From<K>,
{
    fn from(kind: K) -> Self {
        Error::new(kind)
    }
}

#[cfg(test)]
mod tests;
