//! What a command declares about itself.

use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use crate::mongod::Mongod;
use crate::mongod::error::CommandError;

/// A command as its family's table lists it.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// Its name, and the other spellings clients use (`isMaster`, `ismaster`).
    pub names: &'static [&'static str],
    /// Where it may run.
    pub gate: Gate,
    /// Whether it accepts `writeConcern` (then the reply waits for it).
    pub accepts_write_concern: bool,
    /// Whether it accepts a `txnNumber` outside a transaction.
    pub retryable_write: bool,
    /// Whether only the `admin` database has it.
    pub admin_only: bool,
    /// Runs it.
    pub run: Run,
}

/// Runs a command.
pub(crate) type Run = fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>;

impl CommandSpec {
    /// A command that answers in every state and writes nothing.
    pub(crate) const fn anywhere(
        names: &'static [&'static str],
        admin_only: bool,
        run: Run,
    ) -> CommandSpec {
        CommandSpec {
            names,
            gate: Gate::Always,
            accepts_write_concern: false,
            retryable_write: false,
            admin_only,
            run,
        }
    }
}

/// Where a command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// In every state, before initiation too.
    Always,
    /// On a primary; elsewhere only where the client said that a secondary will do.
    Read,
    /// On a writable primary.
    Write,
}
