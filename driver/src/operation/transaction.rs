//! `commitTransaction` and `abortTransaction`.

use super::{Command, Retry, max_time, write_concern};
use crate::error::Result;
use crate::options::WriteConcern;
use crate::session::{Commit, TransactionOptions};

/// A `commitTransaction`; its repetition has a write concern of its own.
pub(crate) fn commit_transaction(commit: &Commit) -> Result<Command> {
    let build = |concern: Option<&WriteConcern>| {
        Command::new_on_database("commitTransaction", "admin", |body| {
            max_time(body, commit.max_time);
            write_concern(body, concern)
        })
    };
    let mut command = build(commit.write_concern.as_ref())?;
    command.repeated_body = Some(build(Some(&commit.repeated))?.body);
    command.retry = Retry::Ending;
    Ok(command)
}

/// An `abortTransaction`.
pub(crate) fn abort_transaction(options: &TransactionOptions) -> Result<Command> {
    let mut command = Command::new_on_database("abortTransaction", "admin", |body| {
        write_concern(body, options.write_concern.as_ref())
    })?;
    command.retry = Retry::Ending;
    Ok(command)
}
