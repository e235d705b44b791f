//! Command monitoring events.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf};

use crate::error::Error;
use crate::uri::ServerAddress;

/// Which connection a command used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The driver's number of the connection, from one, counted per pool.
    pub id: u32,
    /// The server's number of the connection (`connectionId` of its hello reply).
    pub server_id: Option<i64>,
    /// The server.
    pub address: ServerAddress,
}

impl ConnectionInfo {
    /// Connection `id` of the pool of `address`.
    pub fn new(id: u32, server_id: Option<i64>, address: ServerAddress) -> Self {
        ConnectionInfo { id, server_id, address }
    }
}

/// An event about a command. Every started command ends in exactly one of the other two.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandEvent {
    /// A command is about to be sent.
    Started(CommandStartedEvent),
    /// The server replied `ok: 1`, with write errors or without.
    Succeeded(CommandSucceededEvent),
    /// The server replied `ok: 0`, or the network failed.
    Failed(CommandFailedEvent),
}

impl CommandEvent {
    /// The name the unified test format uses.
    pub fn name(&self) -> &'static str {
        match self {
            CommandEvent::Started(_) => "commandStartedEvent",
            CommandEvent::Succeeded(_) => "commandSucceededEvent",
            CommandEvent::Failed(_) => "commandFailedEvent",
        }
    }

    /// The name of the command.
    pub fn command_name(&self) -> &str {
        match self {
            CommandEvent::Started(event) => &event.command_name,
            CommandEvent::Succeeded(event) => &event.command_name,
            CommandEvent::Failed(event) => &event.command_name,
        }
    }

    /// The id of the request, which ties the two events of one attempt together.
    pub fn request_id(&self) -> i32 {
        match self {
            CommandEvent::Started(event) => event.request_id,
            CommandEvent::Succeeded(event) => event.request_id,
            CommandEvent::Failed(event) => event.request_id,
        }
    }

    /// The connection used.
    pub fn connection(&self) -> &ConnectionInfo {
        match self {
            CommandEvent::Started(event) => &event.connection,
            CommandEvent::Succeeded(event) => &event.connection,
            CommandEvent::Failed(event) => &event.connection,
        }
    }
}

/// A command is about to be sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandStartedEvent {
    /// The command, document sequences shown as arrays; empty for sensitive commands.
    pub command: Arc<Document>,
    /// The database.
    pub db: String,
    /// The name of the command.
    pub command_name: String,
    /// The id of the request.
    pub request_id: i32,
    /// Shared by the attempts and batches of one operation.
    pub operation_id: i64,
    /// The connection used.
    pub connection: ConnectionInfo,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
}

impl CommandStartedEvent {
    /// `command_name` is about to be sent to `db`.
    pub fn new(
        command: Arc<Document>,
        db: impl Into<String>,
        command_name: impl Into<String>,
        request_id: i32,
        operation_id: i64,
        connection: ConnectionInfo,
    ) -> Self {
        CommandStartedEvent {
            command,
            db: db.into(),
            command_name: command_name.into(),
            request_id,
            operation_id,
            connection,
            service_id: None,
        }
    }
}

/// The server replied `ok: 1`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandSucceededEvent {
    /// From sending to the reply.
    pub duration: Duration,
    /// The reply; empty for sensitive commands, `{ok: 1}` for unacknowledged writes.
    pub reply: Arc<RawDocumentBuf>,
    /// The database.
    pub db: String,
    /// The name of the command.
    pub command_name: String,
    /// The id of the request.
    pub request_id: i32,
    /// Shared by the attempts and batches of one operation.
    pub operation_id: i64,
    /// The connection used.
    pub connection: ConnectionInfo,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
}

impl CommandSucceededEvent {
    /// The end of the attempt that `started` began.
    pub fn of(
        started: &CommandStartedEvent,
        duration: Duration,
        reply: Arc<RawDocumentBuf>,
    ) -> Self {
        CommandSucceededEvent {
            duration,
            reply,
            db: started.db.clone(),
            command_name: started.command_name.clone(),
            request_id: started.request_id,
            operation_id: started.operation_id,
            connection: started.connection.clone(),
            service_id: started.service_id,
        }
    }
}

/// The server replied `ok: 0`, or the network failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandFailedEvent {
    /// From sending to the failure.
    pub duration: Duration,
    /// What failed; for sensitive commands only code, name and labels.
    pub failure: Error,
    /// The database.
    pub db: String,
    /// The name of the command.
    pub command_name: String,
    /// The id of the request.
    pub request_id: i32,
    /// Shared by the attempts and batches of one operation.
    pub operation_id: i64,
    /// The connection used.
    pub connection: ConnectionInfo,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
}

impl CommandFailedEvent {
    /// The end of the attempt that `started` began.
    pub fn of(started: &CommandStartedEvent, duration: Duration, failure: Error) -> Self {
        CommandFailedEvent {
            duration,
            failure,
            db: started.db.clone(),
            command_name: started.command_name.clone(),
            request_id: started.request_id,
            operation_id: started.operation_id,
            connection: started.connection.clone(),
            service_id: started.service_id,
        }
    }
}
