//! The commands members send each other, when a client sends one by hand: the same handlers answer.

use bson::{Document, RawDocumentBuf};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::error::{BAD_VALUE, CommandError, INVALID_BSON};
use crate::mongod::peer::{Heartbeat, RequestVotes, UpdatePosition};
use crate::mongod::{Mongod, ServerVersion};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["replSetHeartbeat"], true, heartbeat),
    CommandSpec::anywhere(&["replSetRequestVotes"], true, request_votes),
    CommandSpec::anywhere(&["replSetUpdatePosition"], true, update_position),
];

fn given(operation: &Operation) -> Result<Document, CommandError> {
    Document::try_from(&**operation.body)
        .map_err(|error| CommandError::new(INVALID_BSON, error.to_string()))
}

/// Terms grow by one with each election: nobody honest gets here, and from here on there is room for
/// elections without end.
const TERM_MAX: i64 = i32::MAX as i64 / 2;

fn check_term(term: i64) -> Result<(), CommandError> {
    if term <= TERM_MAX {
        return Ok(());
    }
    Err(CommandError::new(BAD_VALUE, format!("term {term} is out of range")))
}

fn is_8(server: &Mongod) -> bool {
    server.options.version >= ServerVersion::V8_0
}

fn heartbeat(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let request = Heartbeat::from_document(&given(operation)?)?;
    check_term(request.term)?;
    let reply = server.on_heartbeat(now, &request)?;
    Outcome::document(&reply.to_document(server.repl.config.as_deref(), is_8(server)))
}

fn request_votes(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let request = RequestVotes::from_document(&given(operation)?)?;
    check_term(request.term)?;
    Outcome::document(&server.on_request_votes(now, &request)?.to_document())
}

fn update_position(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let update = UpdatePosition::from_document(&given(operation)?)?;
    check_term(update.term)?;
    server.on_update_position(now, &update);
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}
