//! Authentication: SCRAM-SHA-1, SCRAM-SHA-256 and MONGODB-X509 (authentication specification).
//!
//! Pure: a `Conversation` is handed the server's documents and gives back the next command; whoever
//! owns the connection sends it. Randomness is an argument. What PBKDF2 derives from a password is kept
//! per client, so that a second connection does not pay for it again.

pub mod scram;

use std::sync::Arc;

use bson::raw::RawBsonRef;
use bson::spec::BinarySubtype;
use bson::{RawDocument, RawDocumentBuf, rawdoc};

use self::scram::{Hash, KeyCache, Scram};
use crate::error::{Error, Result};
use crate::operation::BodyWriter;
use crate::options::{AuthMechanism, Credential};

/// More exchanges than this are no SCRAM.
const MAX_ROUNDS: u32 = 8;

/// How one client authenticates its connections. Shared by all of them.
#[derive(Debug)]
pub(crate) struct Authenticator {
    credential: Credential,
    mechanism: Option<AuthMechanism>,
    source: String,
    keys: Arc<KeyCache>,
}

impl Authenticator {
    /// How a client with this credential authenticates; `path` is the database its connection string
    /// names.
    ///
    /// # Errors
    /// `InvalidArgument` for a mechanism this driver does not have, and for an incomplete credential.
    pub(crate) fn new(credential: &Credential, path: Option<&str>) -> Result<Self> {
        credential.validate()?;
        let mechanism = credential.mechanism;
        if let Some(unknown) = mechanism.filter(|mechanism| hash_of(*mechanism).is_none())
            && unknown != AuthMechanism::MongoDbX509
        {
            return Err(Error::invalid_argument(format!(
                "the authentication mechanism {unknown} is not supported by this driver"
            )));
        }
        if mechanism != Some(AuthMechanism::MongoDbX509) && credential.password.is_none() {
            return Err(Error::invalid_argument("SCRAM needs a password"));
        }
        let source = credential
            .source
            .clone()
            .unwrap_or_else(|| AuthMechanism::default_source(mechanism, path));
        let keys = Arc::default();
        Ok(Authenticator { credential: credential.clone(), mechanism, source, keys })
    }

    /// Adds to the first hello of a connection what saves round trips: the question which mechanisms
    /// the user has, and the first step of the likeliest one. Returns that step's conversation.
    pub(crate) fn add_to_hello(
        &self,
        hello: &mut BodyWriter<'_>,
        random: impl FnMut() -> u64,
    ) -> Result<Conversation<'_>> {
        if self.mechanism.is_none() {
            let user = self.credential.username.as_deref().unwrap_or_default();
            hello.string("saslSupportedMechs", &format!("{}.{user}", self.source));
        }
        let likely = self.mechanism.unwrap_or(AuthMechanism::ScramSha256);
        let (conversation, first) = Conversation::begin(self, likely, random)?;
        // There is no `$db` in there: the database is a field of its own.
        let mut step = first;
        step.append(bson::raw::cstr!("db"), self.source.as_str());
        hello.document("speculativeAuthenticate", step.as_bytes());
        Ok(conversation)
    }

    /// Goes on where the hello reply left off: with the speculated conversation if the server took
    /// part in it, from the beginning if not. `None` for the command means that the connection is
    /// authenticated.
    ///
    /// # Errors
    /// `Authentication` if the server's part in the conversation is not what it should be.
    pub(crate) fn after_hello<'a>(
        &'a self,
        reply: &RawDocument,
        speculated: Conversation<'a>,
        random: impl FnMut() -> u64,
    ) -> Result<(Conversation<'a>, Option<RawDocumentBuf>)> {
        let mechanism = self.mechanism.unwrap_or_else(|| negotiated(reply));
        if let Ok(step) = reply.get_document("speculativeAuthenticate")
            && mechanism == speculated.mechanism
        {
            let mut conversation = speculated;
            let next = conversation.step(step)?;
            return Ok((conversation, next));
        }
        let (conversation, first) = Conversation::begin(self, mechanism, random)?;
        Ok((conversation, Some(first)))
    }

    /// The database the commands of a conversation go to.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }
}

/// SCRAM-SHA-256 if the server says that the user has it, SCRAM-SHA-1 otherwise.
fn negotiated(reply: &RawDocument) -> AuthMechanism {
    let offered = reply.get_array("saslSupportedMechs").is_ok_and(|offered| {
        offered.into_iter().any(|one| matches!(one, Ok(RawBsonRef::String("SCRAM-SHA-256"))))
    });
    if offered { AuthMechanism::ScramSha256 } else { AuthMechanism::ScramSha1 }
}

fn hash_of(mechanism: AuthMechanism) -> Option<Hash> {
    match mechanism {
        AuthMechanism::ScramSha1 => Some(Hash::Sha1),
        AuthMechanism::ScramSha256 => Some(Hash::Sha256),
        _ => None,
    }
}

/// One connection's way to being authenticated.
#[derive(Debug)]
pub(crate) struct Conversation<'a> {
    authenticator: &'a Authenticator,
    mechanism: AuthMechanism,
    scram: Option<Scram>,
    rounds: u32,
}

impl<'a> Conversation<'a> {
    fn begin(
        authenticator: &'a Authenticator,
        mechanism: AuthMechanism,
        mut random: impl FnMut() -> u64,
    ) -> Result<(Self, RawDocumentBuf)> {
        let credential = &authenticator.credential;
        let Some(hash) = hash_of(mechanism) else {
            let mut command = rawdoc! { "authenticate": 1, "mechanism": mechanism.as_str() };
            if let Some(user) = &credential.username {
                command.append(bson::raw::cstr!("user"), user.as_str());
            }
            return Ok((
                Conversation { authenticator, mechanism, scram: None, rounds: 0 },
                command,
            ));
        };
        let user = credential.username.as_deref().unwrap_or_default();
        let password = credential.password.as_deref().unwrap_or_default();
        let nonce = scram::nonce([random(), random(), random()]);
        let scram = Scram::new(hash, user, password, &nonce, authenticator.keys.clone())?;
        let command = rawdoc! {
            "saslStart": 1,
            "mechanism": mechanism.as_str(),
            "payload": payload(scram.client_first().as_bytes()),
            "autoAuthorize": 1,
            "options": { "skipEmptyExchange": true },
        };
        Ok((Conversation { authenticator, mechanism, scram: Some(scram), rounds: 0 }, command))
    }

    /// Takes the server's reply and gives the next command, or `None` once the server has shown that
    /// it knows the user, too.
    ///
    /// # Errors
    /// `Authentication` if it has not.
    pub(crate) fn step(&mut self, reply: &RawDocument) -> Result<Option<RawDocumentBuf>> {
        let Some(scram) = &mut self.scram else { return Ok(None) };
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(Error::authentication("the server does not come to an end"));
        }
        let refuse =
            |what: &str| Error::authentication(format!("the server's reply has no {what}"));
        let done = reply.get_bool("done").map_err(|_| refuse("done"))?;
        let said = match reply.get("payload") {
            Ok(Some(RawBsonRef::Binary(payload))) => payload.bytes,
            Ok(Some(RawBsonRef::String(payload))) => payload.as_bytes(),
            _ => return Err(refuse("payload")),
        };
        let said = std::str::from_utf8(said)
            .map_err(|_| Error::authentication("the server's words are not UTF-8"))?;
        let answer = scram.step(said)?;
        if done {
            // Without the server's proof anybody could have answered.
            return if scram.is_server_verified() {
                Ok(None)
            } else {
                Err(Error::authentication("the server did not prove that it knows the user"))
            };
        }
        let conversation =
            reply.get("conversationId").ok().flatten().ok_or_else(|| refuse("conversationId"))?;
        let mut next = rawdoc! { "saslContinue": 1 };
        next.append(bson::raw::cstr!("conversationId"), conversation);
        next.append(bson::raw::cstr!("payload"), payload(answer.as_bytes()));
        Ok(Some(next))
    }

    /// The error of a step the server refused.
    pub(crate) fn refused(&self, error: &Error) -> Error {
        let user = self.authenticator.credential.username.as_deref().unwrap_or("the certificate");
        let message = format!(
            "{user} on database {} with {}: {error}",
            self.authenticator.source, self.mechanism
        );
        Error::authentication(message).with_source(error.clone())
    }
}

fn payload(bytes: &[u8]) -> bson::Binary {
    bson::Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator(mechanism: Option<AuthMechanism>) -> Authenticator {
        let credential = Credential {
            username: Some("user".to_owned()),
            password: Some("pencil".to_owned()),
            mechanism,
            ..Credential::default()
        };
        Authenticator::new(&credential, Some("shop")).unwrap()
    }

    fn hello(authenticator: &Authenticator) -> RawDocumentBuf {
        let mut bytes = Vec::new();
        let mut body = BodyWriter::new(&mut bytes);
        authenticator.add_to_hello(&mut body, || 7).unwrap();
        body.finish();
        RawDocumentBuf::from_bytes(bytes).unwrap()
    }

    #[test]
    fn a_hello_asks_for_mechanisms_and_speculates_on_the_better_one() {
        let hello = hello(&authenticator(None));
        assert_eq!(hello.get_str("saslSupportedMechs").unwrap(), "shop.user");
        let step = hello.get_document("speculativeAuthenticate").unwrap();
        assert_eq!(step.get_str("mechanism").unwrap(), "SCRAM-SHA-256");
        assert_eq!(step.get_str("db").unwrap(), "shop");
    }

    #[test]
    fn a_mechanism_that_was_chosen_is_not_asked_for() {
        let hello = hello(&authenticator(Some(AuthMechanism::ScramSha1)));
        assert!(hello.get("saslSupportedMechs").unwrap().is_none());
        let step = hello.get_document("speculativeAuthenticate").unwrap();
        assert_eq!(step.get_str("mechanism").unwrap(), "SCRAM-SHA-1");
    }

    #[test]
    fn without_a_word_of_the_server_the_older_mechanism_is_taken() {
        let authenticator = authenticator(None);
        for (reply, expected) in [
            (rawdoc! {}, "SCRAM-SHA-1"),
            (rawdoc! { "saslSupportedMechs": ["SCRAM-SHA-1"] }, "SCRAM-SHA-1"),
            (rawdoc! { "saslSupportedMechs": ["SCRAM-SHA-1", "SCRAM-SHA-256"] }, "SCRAM-SHA-256"),
        ] {
            let mut bytes = Vec::new();
            let mut body = BodyWriter::new(&mut bytes);
            let speculated = authenticator.add_to_hello(&mut body, || 1).unwrap();
            let (_, first) = authenticator.after_hello(&reply, speculated, || 2).unwrap();
            assert_eq!(first.unwrap().get_str("mechanism").unwrap(), expected);
        }
    }

    #[test]
    fn x509_is_one_step_and_names_the_user_if_one_was_given() {
        let mechanism = Some(AuthMechanism::MongoDbX509);
        let credential = Credential { mechanism, ..Credential::default() };
        let authenticator = Authenticator::new(&credential, Some("shop")).unwrap();
        assert_eq!(authenticator.source(), "$external");
        let (mut conversation, first) =
            Conversation::begin(&authenticator, AuthMechanism::MongoDbX509, || 0).unwrap();
        assert_eq!(first, rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509" });
        assert!(conversation.step(&rawdoc! { "dbname": "$external" }).unwrap().is_none());
    }

    #[test]
    fn a_server_that_says_done_without_proof_is_not_believed() {
        let authenticator = authenticator(Some(AuthMechanism::ScramSha256));
        let (mut conversation, _) =
            Conversation::begin(&authenticator, AuthMechanism::ScramSha256, || 1).unwrap();
        let nonce = scram::nonce([1, 1, 1]);
        let first = format!("r={nonce}xyz,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let reply =
            rawdoc! { "conversationId": 1, "done": true, "payload": payload(first.as_bytes()) };
        let error = conversation.step(&reply).unwrap_err();
        assert!(error.is_authentication(), "{error}");
    }

    #[test]
    fn mechanisms_nobody_wrote_are_refused_by_name() {
        let credential = Credential {
            mechanism: Some(AuthMechanism::Plain),
            username: Some("u".into()),
            password: Some("p".into()),
            ..Credential::default()
        };
        let error = Authenticator::new(&credential, None).unwrap_err();
        assert!(error.to_string().contains("PLAIN"), "{error}");
    }
}
