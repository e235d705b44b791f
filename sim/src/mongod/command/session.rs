//! Logical sessions: start, refresh, end.

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Document, RawBsonRef, RawDocumentBuf, Uuid, doc, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{array, document, each_argument, first_value, malformed, wrong_type};
use super::spec::{CommandSpec, Gate};
use super::{Operation, Outcome};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::storage::uuid_of;

/// The SHA-256 digest of no user's name: whom sessions belong to where nobody authenticates.
const NOBODY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

const fn command(
    names: &'static [&'static str],
    run: fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>,
) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Always,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

pub(crate) const COMMANDS: &[CommandSpec] = &[
    command(&["startSession"], start),
    command(&["refreshSessions"], refresh),
    command(&["endSessions"], end),
    command(&["killSessions"], kill),
    command(&["killAllSessions"], kill_all),
    command(&["killAllSessionsByPattern"], kill_all),
];

/// `$listLocalSessions`: the session that asks, and those that wrote and are remembered for it.
pub(super) fn local_sessions(server: &Mongod, now: Instant, op: &Operation) -> Vec<Document> {
    let own = op.session.map(|session| (session.lsid, server.wall_millis(now)));
    let others =
        server.sessions.known().filter(|(lsid, _)| own.is_none_or(|(own, _)| own != *lsid));
    let uid = Binary { subtype: BinarySubtype::Generic, bytes: NOBODY.to_vec() };
    let shown = own.into_iter().chain(others).map(|(lsid, wall_millis)| {
        doc! {
            "_id": { "id": Binary::from_uuid(lsid), "uid": uid.clone() },
            "lastUse": DateTime::from_millis(wall_millis),
        }
    });
    shown.collect()
}

fn start(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    each_argument("startSession", &op.body, |_, _| Ok(false))?;
    let id = server.new_uuid();
    let mut reply = rawdoc! { "id": { "id": Binary::from_uuid(id) } };
    reply.append(cstr!("timeoutMinutes"), 30);
    Ok(Outcome::Reply(reply))
}

/// The sessions a command names.
fn sessions(command: &str, inner: &str, op: &Operation) -> Result<Vec<Uuid>, CommandError> {
    each_argument(command, &op.body, |_, _| Ok(false))?;
    let mut ids = Vec::new();
    for (number, element) in
        array(&format!("{command}.{command}"), first_value(&op.body)?)?.into_iter().enumerate()
    {
        let full = format!("{command}.{command}.{number}");
        let session = document(&full, element.map_err(malformed)?)?;
        let id = session.get("id").map_err(malformed)?;
        let field = format!("{command}.{inner}.id");
        ids.push(
            uuid_of(id)
                .ok_or_else(|| wrong_type(&field, id.unwrap_or(RawBsonRef::Null), "'binData'"))?,
        );
    }
    Ok(ids)
}

/// Sessions are kept alive by their use, or by this.
fn refresh(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    for lsid in sessions("refreshSessions", "refreshSessionsFromClient", op)? {
        server.logical_sessions.touch(lsid, now);
    }
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// Measured: what the sessions have open lives on until the next look at all sessions, and what they
/// have written is still known to a retry.
fn end(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    for lsid in sessions("endSessions", "endSessionsFromClient", op)? {
        server.logical_sessions.end(lsid);
    }
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// Ends what the sessions are doing, but not what they have done.
fn kill(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    for lsid in sessions("killSessions", "killSessionsFromClient", op)? {
        server.cursors.close_session(lsid);
        server.abort_transaction(lsid);
    }
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// Ends what all sessions are doing: an empty array means everybody's.
fn kill_all(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let name = op.name.as_str();
    each_argument(name, &op.body, |_, _| Ok(false))?;
    let named = array(&format!("{name}.{name}"), first_value(&op.body)?)?;
    if !named.is_empty() {
        return Err(CommandError::new(
            error::COMMAND_NOT_SUPPORTED,
            format!("This simulated server has no users: {name} takes an empty array"),
        ));
    }
    server.cursors.close_sessions();
    let open: Vec<Uuid> = server.transactions.in_progress().collect();
    for lsid in open {
        server.abort_transaction(lsid);
    }
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}
