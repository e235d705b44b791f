//! Which spans there are, and what they say.

use std::sync::Arc;

use bson::raw::RawBsonRef;
use bson::{Document, RawDocument};

use super::{AttributeValue, Span, Tracer};
use crate::error::Error;
use crate::operation::{Command, integer};
use crate::uri::ServerAddress;

/// Fields of a command that its `db.query.text` leaves out.
const LEFT_OUT: [&str; 4] = ["lsid", "$db", "$clusterTime", "signature"];

/// A command's span; it ends with an outcome, or unspoken if the operation is dropped.
pub(crate) struct CommandSpan(Arc<dyn Span>);

/// The pseudo operation around all operations of a transaction.
pub(crate) fn transaction_span(tracer: &dyn Tracer) -> Arc<dyn Span> {
    let span = tracer.start("transaction", None);
    span.set_attribute("db.system.name", "mongodb".into());
    span
}

/// The span of an operation on `database`, and on `collection` if there is one.
pub(crate) fn operation_span(
    tracer: &dyn Tracer,
    parent: Option<&dyn Span>,
    name: &str,
    database: &str,
    collection: Option<&str>,
) -> Arc<dyn Span> {
    let summary = summary(name, database, collection);
    let span = tracer.start(&summary, parent);
    span.set_attribute("db.system.name", "mongodb".into());
    span.set_attribute("db.namespace", database.into());
    if let Some(collection) = collection {
        span.set_attribute("db.collection.name", collection.into());
    }
    span.set_attribute("db.operation.name", name.into());
    span.set_attribute("db.operation.summary", summary.into());
    span
}

/// The span of one attempt of a command. `text` is the command as listeners see it, and how long its
/// text may be.
pub(crate) fn command_span(
    tracer: &dyn Tracer,
    operation: Option<&dyn Span>,
    command: &Command,
    connection: (&ServerAddress, u64, Option<i64>),
    session: Option<([u8; 16], Option<i64>)>,
    text: Option<(Document, usize)>,
) -> CommandSpan {
    let (address, driver_id, server_id) = connection;
    let span = tracer.start(&command.name, operation);
    let collection = command.collection();
    span.set_attribute("db.system.name", "mongodb".into());
    span.set_attribute("db.namespace", command.database.as_str().into());
    if let Some(collection) = &collection {
        span.set_attribute("db.collection.name", collection.as_str().into());
    }
    span.set_attribute("db.command.name", (&*command.name).into());
    let summary = summary(&command.name, &command.database, collection.as_deref());
    span.set_attribute("db.query.summary", summary.into());
    match address {
        ServerAddress::Tcp { host, port } => {
            span.set_attribute("network.transport", "tcp".into());
            span.set_attribute("server.address", (&**host).into());
            span.set_attribute("server.port", i64::from(*port).into());
        }
        other => {
            span.set_attribute("network.transport", "unix".into());
            span.set_attribute("server.address", other.to_string().into());
        }
    }
    let driver_id = i64::try_from(driver_id).unwrap_or(i64::MAX);
    span.set_attribute("db.mongodb.driver_connection_id", driver_id.into());
    if let Some(id) = server_id {
        span.set_attribute("db.mongodb.server_connection_id", id.into());
    }
    if let Some((id, number)) = session {
        span.set_attribute("db.mongodb.lsid", bson::Uuid::from_bytes(id).to_string().into());
        if let Some(number) = number {
            span.set_attribute("db.mongodb.txn_number", number.into());
        }
    }
    if &*command.name == "getMore"
        && let Ok(body) = RawDocument::from_bytes(&command.body)
        && let Some(id) = integer(body, "getMore")
    {
        span.set_attribute("db.mongodb.cursor_id", id.into());
    }
    if let Some((mut document, limit)) = text {
        for field in LEFT_OUT {
            document.remove(field);
        }
        span.set_attribute("db.query.text", query_text(document, limit).into());
    }
    CommandSpan(span)
}

impl CommandSpan {
    /// Ends it with the outcome of the attempt.
    pub(crate) fn end(self, outcome: Result<&RawDocument, &Error>) {
        match outcome {
            Ok(reply) => {
                if let Ok(Some(RawBsonRef::Document(cursor))) = reply.get("cursor")
                    && let Some(id) = integer(cursor, "id").filter(|id| *id != 0)
                {
                    self.0.set_attribute("db.mongodb.cursor_id", id.into());
                }
            }
            Err(error) => {
                if let Some(code) = error.code() {
                    self.0.set_attribute("db.response.status_code", code.to_string().into());
                }
                record_error(&*self.0, error);
            }
        }
    }
}

impl Drop for CommandSpan {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Says on `span` why it failed.
pub(crate) fn record_error(span: &dyn Span, error: &Error) {
    let kind = format!("{:?}", error.kind);
    let kind = kind.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
    span.set_attribute("exception.type", AttributeValue::String(kind));
    span.set_attribute("exception.message", error.to_string().into());
    // There is no stack in a chain of futures worth telling; the chain of causes is.
    span.set_attribute("exception.stacktrace", format!("{error:?}").into());
}

fn summary(name: &str, database: &str, collection: Option<&str>) -> String {
    match collection {
        Some(collection) => format!("{name} {database}.{collection}"),
        None => format!("{name} {database}"),
    }
}

fn query_text(document: Document, limit: usize) -> String {
    let text = crate::extended_json::relaxed(&document);
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
