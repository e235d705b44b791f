//! Authentication: `saslStart`, `saslContinue`, `authenticate`, `logout`, `connectionStatus`, and what
//! a client may begin in its hello already.

use bson::{Bson, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use stepdown_driver::Instant;

use super::arguments::missing_field;
use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::auth::role::merged;
use crate::mongod::auth::user::{UserName, roles_document};
use crate::mongod::error::{
    AUTHENTICATION_FAILED, CommandError, MECHANISM_UNAVAILABLE, PROTOCOL_ERROR, TYPE_MISMATCH,
};
use crate::mongod::{ConnectionId, Mongod};

#[cfg(feature = "auth")]
mod scram;

#[cfg(feature = "auth")]
pub(crate) use scram::{Conversation, credential};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["authenticate"], false, authenticate),
    CommandSpec::anywhere(&["connectionStatus"], false, connection_status),
    CommandSpec::anywhere(&["getnonce"], false, get_nonce),
    CommandSpec::anywhere(&["logout"], false, logout),
    CommandSpec::anywhere(&["saslContinue"], false, sasl_continue),
    CommandSpec::anywhere(&["saslStart"], false, sasl_start),
];

/// 18: nobody is told what was wrong.
pub(crate) fn failed() -> CommandError {
    CommandError::new(AUTHENTICATION_FAILED, "Authentication failed.")
}

/// `{conversationId, done, payload}`.
#[cfg(feature = "auth")]
fn exchange(done: bool, payload: Vec<u8>) -> RawDocumentBuf {
    rawdoc! {
        "conversationId": 1,
        "done": done,
        "payload": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: payload },
    }
}

fn payload(body: &RawDocument, command: &str) -> Result<Vec<u8>, CommandError> {
    match body.get("payload").ok().flatten() {
        Some(RawBsonRef::Binary(binary)) => Ok(binary.bytes.to_vec()),
        // Some shells send it as base64.
        Some(RawBsonRef::String(text)) => decode_text(text),
        Some(_) => Err(CommandError::new(TYPE_MISMATCH, "Wrong type for field (payload)")),
        None => Err(missing_field(&format!("{command}.payload"))),
    }
}

#[cfg(feature = "auth")]
fn decode_text(text: &str) -> Result<Vec<u8>, CommandError> {
    scram::decode(text).ok_or_else(failed)
}

#[cfg(not(feature = "auth"))]
fn decode_text(_: &str) -> Result<Vec<u8>, CommandError> {
    Err(failed())
}

fn sasl_start(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    start(server, op.connection, &op.db, &op.body).map(Outcome::Reply)
}

/// Begins a conversation on behalf of a user of `db`.
fn start(
    server: &mut Mongod,
    connection: ConnectionId,
    db: &str,
    body: &RawDocument,
) -> Result<RawDocumentBuf, CommandError> {
    let Ok(mechanism) = body.get_str("mechanism") else {
        return Err(missing_field("saslStart.mechanism"));
    };
    let payload = payload(body, "saslStart")?;
    let skips_last = body
        .get_document("options")
        .is_ok_and(|options| options.get_bool("skipEmptyExchange").unwrap_or(false));
    begin(server, connection, db, mechanism, &payload, skips_last)
}

fn unavailable(mechanism: &str) -> CommandError {
    CommandError::new(
        MECHANISM_UNAVAILABLE,
        format!("Received authentication for mechanism {mechanism} which is not enabled"),
    )
}

#[cfg(feature = "auth")]
fn begin(
    server: &mut Mongod,
    connection: ConnectionId,
    db: &str,
    mechanism: &str,
    payload: &[u8],
    skips_last: bool,
) -> Result<RawDocumentBuf, CommandError> {
    let Some(hash) = scram::hash_of(mechanism) else { return Err(unavailable(mechanism)) };
    let (conversation, answer) = Conversation::start(server, db, hash, payload, skips_last)?;
    if let Some(client) = server.clients.get_mut(connection) {
        client.identity.conversation = Some(conversation);
    }
    Ok(exchange(false, answer))
}

#[cfg(not(feature = "auth"))]
fn begin(
    _: &mut Mongod,
    _: ConnectionId,
    _: &str,
    mechanism: &str,
    _: &[u8],
    _: bool,
) -> Result<RawDocumentBuf, CommandError> {
    Err(unavailable(mechanism))
}

fn no_conversation() -> CommandError {
    CommandError::new(PROTOCOL_ERROR, "No SASL session state found")
}

#[cfg(feature = "auth")]
fn sasl_continue(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let payload = payload(&op.body, "saslContinue")?;
    let client = server.clients.get_mut(op.connection);
    let conversation = client.and_then(|client| client.identity.conversation.take());
    let mut conversation = conversation.ok_or_else(no_conversation)?;
    let (answer, done) = conversation.go_on(&payload)?;
    let client = server.clients.get_mut(op.connection).expect("it has just sent this");
    if done {
        client.identity.user = Some(conversation.user().clone());
    } else {
        client.identity.conversation = Some(conversation);
    }
    Ok(Outcome::Reply(exchange(done, answer)))
}

#[cfg(not(feature = "auth"))]
fn sasl_continue(_: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    payload(&op.body, "saslContinue")?;
    Err(no_conversation())
}

/// X.509: TLS has verified the certificate, and its subject is the user's name.
fn authenticate(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    x509(server, op.connection, &op.body).map(Outcome::Reply)
}

fn x509(
    server: &mut Mongod,
    connection: ConnectionId,
    body: &RawDocument,
) -> Result<RawDocumentBuf, CommandError> {
    match body.get_str("mechanism") {
        Ok("MONGODB-X509") => {}
        Ok(other) => return Err(unavailable(other)),
        Err(_) => return Err(missing_field("authenticate.mechanism")),
    }
    let client = server.clients.get(connection);
    let Some(subject) = client.and_then(|client| client.identity.certificate_subject.clone())
    else {
        return Err(CommandError::new(
            AUTHENTICATION_FAILED,
            "No verified subject name available from client",
        ));
    };
    if body.get_str("user").is_ok_and(|user| user != &*subject) {
        return Err(CommandError::new(
            AUTHENTICATION_FAILED,
            "There is no x.509 client certificate matching the user.",
        ));
    }
    let name = UserName::new(&subject, "$external");
    if server.user(&name).is_none() {
        return Err(CommandError::new(
            crate::mongod::error::USER_NOT_FOUND,
            format!("Could not find user \"{subject}\" for db \"$external\""),
        ));
    }
    if let Some(client) = server.clients.get_mut(connection) {
        client.identity.user = Some(name);
    }
    Ok(rawdoc! { "dbname": "$external", "user": &*subject })
}

fn logout(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    if let Some(client) = server.clients.get_mut(op.connection) {
        client.identity.user = None;
    }
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

/// What an old handshake asks first; nothing takes it any more.
fn get_nonce(server: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    let nonce = format!("{:016x}", server.random.next_u64());
    Ok(Outcome::Reply(rawdoc! { "nonce": nonce }))
}

fn connection_status(
    server: &mut Mongod,
    _: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let user = server
        .clients
        .get(op.connection)
        .and_then(|client| client.identity.user.as_ref())
        .and_then(|name| server.user(name));
    let mut info = Document::new();
    let (mut users, mut roles, mut privileges) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(user) = &user {
        users.push(Bson::Document(
            doc! { "user": user.name.user.as_str(), "db": user.name.db.as_str() },
        ));
        roles = server.inherited_roles(&user.roles);
        privileges = merged(server.privileges(user));
    }
    info.insert("authenticatedUsers", users);
    info.insert("authenticatedUserRoles", roles_document(&roles));
    if op.argument("showPrivileges").and_then(|flag| flag.as_bool()).unwrap_or(false) {
        let shown: Vec<Bson> =
            privileges.iter().map(|granted| Bson::Document(granted.to_document())).collect();
        info.insert("authenticatedUserPrivileges", shown);
    }
    Outcome::document(&doc! { "authInfo": info })
}

impl Mongod {
    /// `saslSupportedMechs` of a hello: the mechanisms of the user `db.name`; `None` if there is no such
    /// user.
    pub(crate) fn supported_mechanisms(&self, user: &str) -> Option<RawArrayBuf> {
        let (db, user) = user.split_once('.')?;
        let user = self.user(&UserName::new(user, db))?;
        let credentials = user.document.get_document("credentials").ok()?;
        let mut mechanisms = RawArrayBuf::new();
        for name in credentials.keys().filter(|name| name.as_str() != "external") {
            mechanisms.push(name.as_str());
        }
        Some(mechanisms)
    }

    /// `speculativeAuthenticate` of a hello: its answer, if it goes well. If it does not, the client
    /// hears nothing of it and begins again.
    pub(crate) fn speculate(
        &mut self,
        connection: ConnectionId,
        body: &RawDocument,
    ) -> Option<RawDocumentBuf> {
        let attempt = body.get_document("speculativeAuthenticate").ok()?;
        let db = attempt.get_str("db").unwrap_or("admin").to_owned();
        let first = attempt.iter().next()?.ok()?.0;
        match first.as_str() {
            "saslStart" => start(self, connection, &db, attempt).ok(),
            "authenticate" => x509(self, connection, attempt).ok(),
            _ => None,
        }
    }
}
