//! What all commands of one operation share: its number, its time limit, its span.

use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Command, millis};
use crate::session::SharedSession;
use crate::telemetry::{Span, operation_span, record_error};
use crate::time::Instant;

/// What all commands of one operation share.
pub(crate) struct Scope {
    /// The number of the operation in events.
    pub(crate) id: i64,
    /// When it must be done (`timeoutMS`); [`Instant::NEVER`] if that is zero, `None` if it is not set.
    pub(crate) limit: Option<Instant>,
    /// `rawData`, for servers that know it.
    pub(crate) raw_data: Option<bool>,
    /// Its span.
    span: Option<Arc<dyn Span>>,
}

impl Scope {
    /// The scope of an operation of its own that runs `command`.
    pub(crate) fn of(
        cluster: &Cluster,
        command: &Command,
        session: Option<&Arc<SharedSession>>,
        limit: Option<Instant>,
    ) -> Self {
        let scope = Scope { id: cluster.next_operation_id(), limit, raw_data: None, span: None };
        if cluster.tracer().is_none() || super::is_sensitive(command) {
            return scope;
        }
        let name = command.operation_name();
        let collection = if name == "runCommand" { None } else { command.collection() };
        scope.traced(cluster, session, name, &command.database, collection.as_deref())
    }

    /// The scope of an operation of several commands.
    pub(crate) fn named(
        cluster: &Cluster,
        name: &str,
        namespace: (&str, Option<&str>),
        session: Option<&Arc<SharedSession>>,
        limit: Option<Instant>,
    ) -> Self {
        let scope = Scope { id: cluster.next_operation_id(), limit, raw_data: None, span: None };
        scope.traced(cluster, session, name, namespace.0, namespace.1)
    }

    /// The scope of what nobody waits for.
    pub(crate) fn quiet(cluster: &Cluster, limit: Option<Instant>) -> Self {
        Scope { id: cluster.next_operation_id(), limit, raw_data: None, span: None }
    }

    fn traced(
        mut self,
        cluster: &Cluster,
        session: Option<&Arc<SharedSession>>,
        name: &str,
        database: &str,
        collection: Option<&str>,
    ) -> Self {
        if let Some(tracer) = cluster.tracer() {
            let parent = session.and_then(|session| session.span());
            self.span =
                Some(operation_span(&**tracer, parent.as_deref(), name, database, collection));
        }
        self
    }

    /// The same scope, whose commands say `rawData`.
    pub(crate) fn with_raw_data(mut self, raw_data: Option<bool>) -> Self {
        self.raw_data = raw_data;
        self
    }

    /// The span of the operation.
    pub(crate) fn span(&self) -> Option<&dyn Span> {
        self.span.as_deref()
    }

    /// Takes the outcome of the operation: says it in the span, and tells of every timeout in the one
    /// way that `timeoutMS` asks for.
    pub(crate) fn outcome<T>(&self, now: Instant, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let error = self.translate(now, error);
            if let Some(span) = &self.span {
                record_error(&**span, &error);
            }
            error
        })
    }

    /// CSOT, "Error transformations".
    fn translate(&self, now: Instant, error: Error) -> Error {
        let Some(limit) = self.limit else { return error };
        match translate_timeout(error, now >= limit) {
            Ok(timeout) => timeout,
            Err(other) => other,
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            span.end();
        }
    }
}

/// The timeout error that stands for `error`; `error` itself if it does not tell of a timeout.
fn translate_timeout(error: Error, expired: bool) -> std::result::Result<Error, Error> {
    let told = matches!(&*error.kind, ErrorKind::Timeout { .. }) && error.cause().is_some();
    let timeout = match &*error.kind {
        ErrorKind::Timeout { .. } | ErrorKind::ServerSelection { .. } => true,
        ErrorKind::InsertMany(many) => {
            many.write_errors.iter().any(|error| error.code == MAX_TIME_EXPIRED)
                || many.write_concern_error.iter().any(|error| error.code == MAX_TIME_EXPIRED)
        }
        ErrorKind::BulkWrite(bulk) => {
            bulk.write_errors.values().any(|error| error.code == MAX_TIME_EXPIRED)
                || bulk.write_concern_errors.iter().any(|error| error.code == MAX_TIME_EXPIRED)
                || error.cause().is_some_and(|cause| {
                    matches!(*cause.kind, ErrorKind::Timeout { .. })
                        || cause.is_network_timeout()
                        || cause.code() == Some(MAX_TIME_EXPIRED)
                })
        }
        _ => {
            error.is_network_timeout()
                || error.code() == Some(MAX_TIME_EXPIRED)
                || (expired && error.is_retryable() && !error.is_overloaded())
        }
    };
    if told || !timeout {
        return Err(error);
    }
    let mut timeout = Error::timed_out(format!("the operation did not end in time: {error}"));
    for label in error.labels() {
        timeout.add_label(label.clone());
    }
    Ok(timeout.with_source(error))
}

/// The server's own deadline, which is ours less a round trip.
const MAX_TIME_EXPIRED: i32 = 50;

/// What is left until `limit` for the server to work, in milliseconds, if a round trip takes `trip` at
/// least.
///
/// # Errors
/// `Timeout` if there is no time for the trip.
pub(super) fn time_for_server(now: Instant, limit: Instant, trip: Duration) -> Result<i64> {
    let left = limit - now;
    if left <= trip {
        return Err(Error::timed_out(format!(
            "{} ms are left, and a round trip takes {} ms at least: nothing was sent",
            left.as_millis(),
            trip.as_millis()
        )));
    }
    // Zero would be no limit at all.
    Ok(millis(left - trip).max(1))
}
