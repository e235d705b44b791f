//! The server's side of SCRAM (RFC 5802, RFC 7677).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::{Document, doc};
use stepdown_driver::auth::scram::{Hash, Keys, nonce};

use super::failed;
use crate::mongod::Mongod;
use crate::mongod::auth::user::UserName;
use crate::mongod::error::{BAD_VALUE, CommandError};

/// The most rounds of hashing that a password is given.
const ITERATIONS_MAX: i64 = 1_000_000;

/// The hash of a mechanism; `None` if it is not a SCRAM one.
pub(super) fn hash_of(mechanism: &str) -> Option<Hash> {
    match mechanism {
        "SCRAM-SHA-1" => Some(Hash::Sha1),
        "SCRAM-SHA-256" => Some(Hash::Sha256),
        _ => None,
    }
}

fn name_of(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "SCRAM-SHA-1",
        Hash::Sha256 => "SCRAM-SHA-256",
    }
}

/// Base64, if it is that.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// What is kept of a password: `{iterationCount, salt, storedKey, serverKey}`.
///
/// # Errors
/// 2 BadValue: a password that SASLprep prohibits.
pub(crate) fn credential(
    server: &mut Mongod,
    mechanism: &str,
    user: &str,
    password: &str,
    digest: bool,
) -> Result<Document, CommandError> {
    let hash = hash_of(mechanism).expect("the mechanisms of credentials were checked");
    let (parameter, salt_bytes) = match hash {
        Hash::Sha1 => ("scramIterationCount", 16),
        Hash::Sha256 => ("scramSHA256IterationCount", 28),
    };
    // More would keep everybody else waiting for too long.
    let iterations = server.parameters.number(parameter).clamp(1, ITERATIONS_MAX) as i32;
    let prepared = match (hash, digest) {
        (Hash::Sha1, false) => password.to_owned(),
        _ => hash
            .prepare(user, password)
            .map_err(|error| CommandError::new(BAD_VALUE, error.to_string()))?,
    };
    let mut salt = vec![0; salt_bytes];
    server.random.fill(&mut salt);
    let salted = hash.salted_password(prepared.as_bytes(), &salt, iterations as u32);
    let keys = Keys::new(hash, &salted);
    Ok(doc! {
        "iterationCount": iterations,
        "salt": STANDARD.encode(&salt),
        "storedKey": STANDARD.encode(&keys.stored_key),
        "serverKey": STANDARD.encode(&keys.server_key),
    })
}

/// A conversation after the client's first message.
pub(crate) struct Conversation {
    hash: Hash,
    user: UserName,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
    /// `client-first-message-bare,server-first-message,`.
    said: String,
    nonce: String,
    /// `c=` of the last message: the header the client began with.
    binding: String,
    /// The client does without the empty exchange at the end.
    skips_last: bool,
    /// The proof was right: what is left is the empty exchange.
    proven: bool,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The value of an attribute `name=value` among the parts of a message.
fn attribute<'a>(parts: &[&'a str], name: &str) -> Option<&'a str> {
    parts.iter().find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

impl Conversation {
    /// Takes the client's first message; gives the answer.
    ///
    /// # Errors
    /// 18: no such user, no credentials for the mechanism, or a message that makes no sense.
    pub(super) fn start(
        server: &mut Mongod,
        db: &str,
        hash: Hash,
        payload: &[u8],
        skips_last: bool,
    ) -> Result<(Conversation, Vec<u8>), CommandError> {
        let message = std::str::from_utf8(payload).map_err(|_| failed())?;
        // Channel binding is not offered: `n` and `y` are all a client may say.
        let bare = message
            .strip_prefix("n,")
            .or_else(|| message.strip_prefix("y,"))
            .and_then(|rest| rest.split_once(','))
            .map(|(_authorization, bare)| bare)
            .ok_or_else(failed)?;
        let header = &message[..message.len() - bare.len()];
        let parts: Vec<&str> = bare.split(',').collect();
        let user = attribute(&parts, "n").ok_or_else(failed)?;
        let user = user.replace("=2C", ",").replace("=3D", "=");
        let client_nonce = attribute(&parts, "r").ok_or_else(failed)?;
        let name = UserName::new(&user, db);
        let found = server.user(&name).ok_or_else(failed)?;
        let credential = found
            .document
            .get_document("credentials")
            .and_then(|credentials| credentials.get_document(name_of(hash)))
            .map_err(|_absent| failed())?;
        let key = |field: &str| credential.get_str(field).ok().and_then(decode).ok_or_else(failed);
        let (stored_key, server_key) = (key("storedKey")?, key("serverKey")?);
        let salt = credential.get_str("salt").map_err(|_absent| failed())?;
        let iterations = credential.get_i32("iterationCount").map_err(|_absent| failed())?;
        let random = [(); 3].map(|()| server.random.next_u64());
        let nonce = format!("{client_nonce}{}", nonce(random));
        let answer = format!("r={nonce},s={salt},i={iterations}");
        let conversation = Conversation {
            hash,
            user: name,
            stored_key,
            server_key,
            said: format!("{bare},{answer},"),
            nonce,
            binding: STANDARD.encode(header),
            skips_last,
            proven: false,
        };
        Ok((conversation, answer.into_bytes()))
    }

    /// Takes the next message; gives the answer, and whether that was all.
    ///
    /// # Errors
    /// 18: the proof is wrong.
    pub(super) fn go_on(&mut self, payload: &[u8]) -> Result<(Vec<u8>, bool), CommandError> {
        if self.proven {
            return match payload.is_empty() {
                true => Ok((Vec::new(), true)),
                false => Err(failed()),
            };
        }
        let message = std::str::from_utf8(payload).map_err(|_| failed())?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or_else(failed)?;
        let parts: Vec<&str> = without_proof.split(',').collect();
        let as_agreed = attribute(&parts, "c") == Some(&self.binding)
            && attribute(&parts, "r") == Some(&self.nonce);
        let proof = decode(proof).filter(|_| as_agreed).ok_or_else(failed)?;
        let said = format!("{}{without_proof}", self.said);
        let signature = self.hash.hmac(&self.stored_key, said.as_bytes());
        if proof.len() != signature.len() {
            return Err(failed());
        }
        let client_key: Vec<u8> =
            proof.iter().zip(&signature).map(|(proof, signature)| proof ^ signature).collect();
        if self.hash.digest(&client_key) != self.stored_key {
            return Err(failed());
        }
        self.proven = true;
        let verifier = self.hash.hmac(&self.server_key, said.as_bytes());
        Ok((format!("v={}", STANDARD.encode(verifier)).into_bytes(), self.skips_last))
    }

    /// Who it is about.
    pub(super) fn user(&self) -> &UserName {
        &self.user
    }
}
