//! The commands members send each other, when a client sends one by hand: the same handlers answer.

use bson::{Document, RawDocumentBuf, doc};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::error::{
    BAD_VALUE, CommandError, INCONSISTENT_REPLICA_SET_NAMES, INVALID_BSON, NO_REPLICATION_ENABLED,
    NODE_NOT_FOUND, NOT_YET_INITIALIZED,
};
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
    if server.repl.set_name.is_none() {
        return Err(CommandError::new(NO_REPLICATION_ENABLED, "not running with --replSet"));
    }
    let given = given(operation)?;
    let request = Heartbeat::from_document(&given)?;
    check_term(request.term)?;
    let name = server.repl.set_name.clone().unwrap_or_default();
    let theirs = given.get_str("replSetHeartbeat").unwrap_or_default();
    if theirs != &*name {
        return Err(CommandError::new(
            INCONSISTENT_REPLICA_SET_NAMES,
            format!("Our set name of {name} does not match name {theirs} reported by remote node"),
        ));
    }
    let reply = server.on_heartbeat(now, &request)?;
    let mut shown = doc! { "ok": 1.0 };
    shown.extend(reply.to_document(&name, server.repl.config.as_deref(), is_8(server)));
    // The commit point travels with the metadata that members ask for.
    shown.remove("$replData");
    Outcome::document(&shown)
}

fn request_votes(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let request = RequestVotes::from_document(&given(operation)?)?;
    check_term(request.term)?;
    if server.repl.config.is_none() {
        return Err(not_yet_initialized());
    }
    Outcome::document(&server.on_request_votes(now, &request)?.to_document())
}

fn update_position(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    if server.repl.config.is_none() {
        return Err(not_yet_initialized());
    }
    let update = UpdatePosition::from_document(&given(operation)?)?;
    check_term(update.term)?;
    let config = server.repl.config.clone().expect("just seen");
    let stranger =
        update.positions.iter().find(|position| config.index_of_id(position.member_id).is_none());
    if let Some(position) = stranger {
        return Err(CommandError::new(
            NODE_NOT_FOUND,
            format!(
                "Received replSetUpdatePosition for node which doesn't exist in our config, memberId: MemberId({})",
                position.member_id
            ),
        ));
    }
    server.on_update_position(now, &update);
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn not_yet_initialized() -> CommandError {
    CommandError::new(NOT_YET_INITIALIZED, "no replset config has been received")
}
