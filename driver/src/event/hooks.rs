//! Hooks into the way of every command.

use std::fmt;

use bson::{Document, RawDocument};

use crate::error::{Error, Result};
use crate::uri::ServerAddress;

/// Is asked before each command is sent, and told what came of it.
///
/// For tests and for teaching: to look at what goes over the wire, and to let it fail. Hooks run on
/// the operation's own task; they must not block, and must not call the client. Monitoring, the
/// handshake and authentication pass by them.
pub trait CommandHooks: Send + Sync + fmt::Debug {
    /// `command` is about to be sent. With an error it is not: the attempt fails with it, and the rules
    /// of retrying decide what comes then.
    ///
    /// # Errors
    /// Whatever the hook wants the attempt to fail with.
    fn before_send(&self, command: &OutgoingCommand<'_>) -> Result<()> {
        let _ = command;
        Ok(())
    }

    /// An attempt that [`CommandHooks::before_send`] let pass ended with this reply, or failed.
    fn after_reply(
        &self,
        command: &SentCommand<'_>,
        outcome: std::result::Result<&RawDocument, &Error>,
    ) {
        let _ = (command, outcome);
    }
}

/// Which attempt of which command.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SentCommand<'a> {
    /// The name of the command.
    pub name: &'a str,
    /// The database.
    pub database: &'a str,
    /// The server.
    pub server: &'a ServerAddress,
    /// The driver's number of the connection, from one, counted per pool.
    pub connection_id: u64,
    /// The id of the request.
    pub request_id: i32,
    /// Shared by the attempts and batches of one operation.
    pub operation_id: i64,
}

/// A command that is about to be sent.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OutgoingCommand<'a> {
    /// Which.
    pub sent: SentCommand<'a>,
    /// The whole message, as it goes over the wire unless it is compressed.
    pub message: &'a [u8],
}

impl OutgoingCommand<'_> {
    /// The command, document sequences as arrays.
    pub fn to_document(&self) -> Document {
        crate::executor::as_document(self.message)
    }
}
