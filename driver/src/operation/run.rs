//! Any command, as the caller wrote it (run-command specification: it is not looked into).

use std::borrow::Cow;

use bson::RawDocument;

use super::{Command, Target, check_name};
use crate::error::{Error, Result};
use crate::options::SelectionCriteria;

/// The command `body` on `database`. It goes to the primary unless `criteria` say otherwise.
pub(crate) fn run_command(
    database: &str,
    body: &RawDocument,
    criteria: Option<SelectionCriteria>,
) -> Result<Command> {
    check_name("database", database)?;
    let first = body.iter().next().transpose()?;
    let Some((name, _)) = first else {
        return Err(Error::invalid_argument("an empty document is not a command"));
    };
    let name = name.as_str().to_owned();
    let mut command = Command::from_body(Cow::Owned(name), database, body.as_bytes().to_vec());
    command.target = Target::Readable(criteria.unwrap_or_default());
    command.operation = Some("runCommand");
    Ok(command)
}
