//! What listeners and tracers are told of one attempt.

use std::sync::Arc;

use bson::{Document, RawDocumentBuf};

use super::{Operation, envelope, is_sensitive};
use crate::error::Error;
use crate::event::{
    CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent, ConnectionInfo,
    OutgoingCommand, SentCommand,
};
use crate::pool::Lease;
use crate::session::SessionFields;
use crate::telemetry::{CommandSpan, command_span};
use crate::time::Instant;

/// What was told about an attempt that goes on.
pub(super) struct Told {
    event: Option<CommandStartedEvent>,
    span: Option<CommandSpan>,
}

impl Told {
    /// Tells that the request in the lease's buffer is about to be sent.
    pub(super) fn started(
        operation: &Operation<'_>,
        lease: &Lease,
        request_id: i32,
        fields: Option<&SessionFields>,
    ) -> Self {
        let cluster = operation.cluster;
        if cluster.command_events().is_none() && cluster.tracer().is_none() {
            return Told { event: None, span: None };
        }
        let sensitive = is_sensitive(operation.command);
        let document =
            if sensitive { Document::new() } else { envelope::as_document(lease.request_bytes()) };
        let span = cluster.tracer().filter(|_| !sensitive).map(|tracer| {
            let options = cluster.options().tracing.as_ref();
            let limit = options.and_then(|o| o.query_text_max_length).filter(|limit| *limit > 0);
            command_span(
                &**tracer,
                operation.scope.span(),
                operation.command,
                (lease.server_address(), lease.id, lease.traits.server_connection_id),
                fields.map(|f| (f.id, f.transaction.or(operation.txn_number))),
                limit.map(|limit| (document.clone(), limit)),
            )
        });
        let event = cluster.command_events().map(|handler| {
            let connection = ConnectionInfo::new(
                u32::try_from(lease.id).unwrap_or(u32::MAX),
                lease.traits.server_connection_id,
                lease.server_address().clone(),
            );
            let event = CommandStartedEvent::new(
                Arc::new(document),
                operation.command.database.clone(),
                operation.command.name.to_string(),
                request_id,
                operation.scope.id,
                connection,
            );
            handler.handle(CommandEvent::Started(event.clone()));
            event
        });
        Told { event, span }
    }

    /// Tells how the attempt that began at `began` ended.
    pub(super) fn ended(
        self,
        operation: &Operation<'_>,
        began: Instant,
        result: Result<&RawDocumentBuf, &Error>,
    ) {
        if let Some(span) = self.span {
            span.end(result.map(|body| &**body));
        }
        let cluster = operation.cluster;
        let (Some(handler), Some(started)) = (cluster.command_events(), self.event) else {
            return;
        };
        let duration = cluster.now() - began;
        handler.handle(match result {
            Ok(_) if is_sensitive(operation.command) => CommandEvent::Succeeded(
                CommandSucceededEvent::of(&started, duration, Arc::new(RawDocumentBuf::new())),
            ),
            Ok(body) => CommandEvent::Succeeded(CommandSucceededEvent::of(
                &started,
                duration,
                Arc::new(body.clone()),
            )),
            Err(error) if is_sensitive(operation.command) => {
                CommandEvent::Failed(CommandFailedEvent::of(&started, duration, error.redacted()))
            }
            Err(error) => {
                CommandEvent::Failed(CommandFailedEvent::of(&started, duration, error.clone()))
            }
        });
    }
}

impl Operation<'_> {
    /// Asks the application's hooks, if there are any, whether the request in the lease's buffer is to
    /// be sent.
    pub(super) fn ask_hooks(&self, lease: &Lease, request_id: i32) -> crate::error::Result<()> {
        let Some(hooks) = &self.cluster.options().command_hooks else { return Ok(()) };
        let sent = self.sent(lease, request_id);
        hooks.before_send(&OutgoingCommand { sent, message: lease.request_bytes() })
    }

    /// Tells the application's hooks, if there are any, what came of an attempt.
    pub(super) fn tell_hooks(
        &self,
        lease: &Lease,
        request_id: i32,
        outcome: Result<&RawDocumentBuf, &Error>,
    ) {
        if let Some(hooks) = &self.cluster.options().command_hooks {
            hooks.after_reply(&self.sent(lease, request_id), outcome.map(|body| &**body));
        }
    }

    fn sent<'a>(&'a self, lease: &'a Lease, request_id: i32) -> SentCommand<'a> {
        SentCommand {
            name: &self.command.name,
            database: &self.command.database,
            server: lease.server_address(),
            connection_id: lease.id,
            request_id,
            operation_id: self.scope.id,
        }
    }
}
