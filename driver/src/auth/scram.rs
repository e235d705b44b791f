//! SCRAM (RFC 5802, RFC 7677) as MongoDB uses it: both ends' arithmetic, and the client's state machine.
//!
//! With SHA-1 the password is first replaced by the hexadecimal MD5 of `user:mongo:password`; with
//! SHA-256 it is prepared by SASLprep (RFC 4013). User names are never prepared.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::sync::lock;

/// The least number of iterations a server may ask for (RFC 5802, and the driver specification).
const MIN_ITERATIONS: u32 = 4096;
/// How many derived keys a client keeps: one set has one salt per user and mechanism.
const KEPT_KEYS: usize = 8;
/// The GS2 header of a client that binds no channel, in base64.
const CHANNEL_BINDING: &str = "biws";

/// The hash function of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-1.
    Sha1,
    /// SCRAM-SHA-256.
    Sha256,
}

impl Hash {
    /// The hash of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(bytes).to_vec(),
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
        }
    }

    /// HMAC of `bytes` under `key`.
    pub fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        const ANY_LENGTH: &str = "HMAC takes a key of any length";
        match self {
            Hash::Sha1 => {
                let mut mac = Hmac::<Sha1>::new_from_slice(key).expect(ANY_LENGTH);
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
            Hash::Sha256 => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect(ANY_LENGTH);
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    /// `SaltedPassword`: what PBKDF2 makes of a password that [`Hash::prepare`] has prepared.
    pub fn salted_password(self, prepared: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Hash::Sha1 => {
                let mut salted = vec![0; 20];
                pbkdf2::pbkdf2_hmac::<Sha1>(prepared, salt, iterations, &mut salted);
                salted
            }
            Hash::Sha256 => {
                let mut salted = vec![0; 32];
                pbkdf2::pbkdf2_hmac::<Sha256>(prepared, salt, iterations, &mut salted);
                salted
            }
        }
    }

    /// The password as the mechanism hashes it.
    ///
    /// # Errors
    /// `InvalidArgument` for a password with characters that SASLprep prohibits.
    pub fn prepare(self, user: &str, password: &str) -> Result<String> {
        match self {
            Hash::Sha1 => {
                use std::fmt::Write;
                let digest = Md5::digest(format!("{user}:mongo:{password}").as_bytes());
                let mut hex = String::with_capacity(32);
                for byte in digest {
                    let _ = write!(hex, "{byte:02x}");
                }
                Ok(hex)
            }
            Hash::Sha256 => stringprep::saslprep(password)
                .map(std::borrow::Cow::into_owned)
                .map_err(|error| Error::invalid_argument(format!("the password: {error}"))),
        }
    }
}

/// What both ends derive from a salted password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// `ClientKey`: the client's secret.
    pub client_key: Vec<u8>,
    /// `StoredKey`: the hash of the client's secret, which a server keeps.
    pub stored_key: Vec<u8>,
    /// `ServerKey`: the server's secret.
    pub server_key: Vec<u8>,
}

impl Keys {
    /// The keys of a salted password.
    pub fn new(hash: Hash, salted_password: &[u8]) -> Self {
        let client_key = hash.hmac(salted_password, b"Client Key");
        let stored_key = hash.digest(&client_key);
        let server_key = hash.hmac(salted_password, b"Server Key");
        Keys { client_key, stored_key, server_key }
    }

    /// `ClientProof`: shows the server that the client knows the password.
    pub fn client_proof(&self, hash: Hash, auth_message: &str) -> Vec<u8> {
        let signature = hash.hmac(&self.stored_key, auth_message.as_bytes());
        self.client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect()
    }

    /// `ServerSignature`: shows the client that the server knows the user.
    pub fn server_signature(&self, hash: Hash, auth_message: &str) -> Vec<u8> {
        hash.hmac(&self.server_key, auth_message.as_bytes())
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(hidden)")
    }
}

/// A client's nonce of 192 random bits, in printable characters without a comma.
pub fn nonce(random: [u64; 3]) -> String {
    let bytes: Vec<u8> = random.iter().flat_map(|number| number.to_be_bytes()).collect();
    STANDARD.encode(bytes)
}

/// Keys derived before, by what they were derived from. One user's alone.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
    keys: Arc<Keys>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl KeyCache {
    /// The keys, derived now if they were not before. PBKDF2 runs outside of the lock.
    fn keys(&self, hash: Hash, prepared: &str, salt: &[u8], iterations: u32) -> Arc<Keys> {
        let known = lock(&self.kept)
            .iter()
            .find(|kept| kept.hash == hash && kept.salt == salt && kept.iterations == iterations)
            .map(|kept| kept.keys.clone());
        known.unwrap_or_else(|| {
            let salted = hash.salted_password(prepared.as_bytes(), salt, iterations);
            let keys = Arc::new(Keys::new(hash, &salted));
            let mut kept = lock(&self.kept);
            if kept.len() >= KEPT_KEYS {
                kept.remove(0);
            }
            kept.push(Kept { hash, salt: salt.to_vec(), iterations, keys: keys.clone() });
            keys
        })
    }
}

/// The client's part of one SCRAM conversation.
pub(crate) struct Scram {
    hash: Hash,
    prepared: String,
    nonce: String,
    client_first_bare: String,
    keys: Arc<KeyCache>,
    state: State,
}

enum State {
    /// The client's first message was sent.
    Begun,
    /// The client's proof was sent; this is what the server must sign.
    Proved { signature: Vec<u8> },
    /// The server has shown that it knows the user.
    Verified,
}

impl Scram {
    /// A conversation that has not begun.
    ///
    /// # Errors
    /// `InvalidArgument` for a password with prohibited characters.
    pub(crate) fn new(
        hash: Hash,
        user: &str,
        password: &str,
        nonce: &str,
        keys: Arc<KeyCache>,
    ) -> Result<Self> {
        let prepared = hash.prepare(user, password)?;
        Ok(Scram::with_prepared(hash, user, prepared, nonce, keys))
    }

    fn with_prepared(
        hash: Hash,
        user: &str,
        prepared: String,
        nonce: &str,
        keys: Arc<KeyCache>,
    ) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let client_first_bare = format!("n={user},r={nonce}");
        let nonce = nonce.to_owned();
        Scram { hash, prepared, nonce, client_first_bare, keys, state: State::Begun }
    }

    /// The first message.
    pub(crate) fn client_first(&self) -> String {
        format!("n,,{}", self.client_first_bare)
    }

    /// Takes the server's message and gives the answer; an empty one once there is nothing to say.
    ///
    /// # Errors
    /// `Authentication` if the message breaks the protocol or the server's proof is wrong.
    pub(crate) fn step(&mut self, server: &str) -> Result<String> {
        match &self.state {
            State::Begun => self.prove(server),
            State::Proved { signature } => {
                let fields = Fields::of(server)?;
                if let Some(error) = fields.get('e') {
                    return Err(Error::authentication(format!("the server says: {error}")));
                }
                let proof = fields.base64('v')?;
                if proof != *signature {
                    return Err(Error::authentication("the server's signature is wrong"));
                }
                self.state = State::Verified;
                Ok(String::new())
            }
            State::Verified => Ok(String::new()),
        }
    }

    /// Whether the server has proved that it knows the user.
    pub(crate) fn is_server_verified(&self) -> bool {
        matches!(self.state, State::Verified)
    }

    fn prove(&mut self, server_first: &str) -> Result<String> {
        let fields = Fields::of(server_first)?;
        if let Some(error) = fields.get('e') {
            return Err(Error::authentication(format!("the server says: {error}")));
        }
        if fields.get('m').is_some() {
            return Err(Error::authentication("the server asks for an unknown extension"));
        }
        let nonce = fields.required('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(Error::authentication("the server's nonce does not continue the client's"));
        }
        let salt = fields.base64('s')?;
        let iterations: u32 = fields
            .required('i')?
            .parse()
            .map_err(|_| Error::authentication("the iteration count is not a number"))?;
        if iterations < MIN_ITERATIONS {
            return Err(Error::authentication(format!(
                "the server asks for {iterations} iterations; fewer than {MIN_ITERATIONS} are unsafe"
            )));
        }
        let keys = self.keys.keys(self.hash, &self.prepared, &salt, iterations);
        let without_proof = format!("c={CHANNEL_BINDING},r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.client_first_bare);
        let proof = STANDARD.encode(keys.client_proof(self.hash, &auth_message));
        let signature = keys.server_signature(self.hash, &auth_message);
        self.state = State::Proved { signature };
        Ok(format!("{without_proof},p={proof}"))
    }
}

impl std::fmt::Debug for Scram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scram").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// The comma-separated fields of a message.
struct Fields<'a>(Vec<(char, &'a str)>);

impl<'a> Fields<'a> {
    fn of(message: &'a str) -> Result<Self> {
        let broken = || Error::authentication("the server's message is not SCRAM");
        let field = |field: &'a str| {
            let (name, value) = field.split_once('=')?;
            let mut name = name.chars();
            name.next().filter(|_| name.next().is_none()).map(|name| (name, value))
        };
        let fields: Option<Vec<_>> = message.split(',').map(field).collect();
        fields.map(Fields).ok_or_else(broken)
    }

    fn get(&self, name: char) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn required(&self, name: char) -> Result<&'a str> {
        self.get(name).ok_or_else(|| {
            Error::authentication(format!("the server's message has no field \"{name}\""))
        })
    }

    fn base64(&self, name: char) -> Result<Vec<u8>> {
        STANDARD.decode(self.required(name)?).map_err(|_| {
            Error::authentication(format!("field \"{name}\" of the server is not base64"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Vector {
        hash: Hash,
        prepared: &'static str,
        nonce: &'static str,
        first: &'static str,
        proof: &'static str,
        last: &'static str,
    }

    fn scram(vector: &Vector) -> Scram {
        let keys = Arc::default();
        Scram::with_prepared(vector.hash, "user", vector.prepared.into(), vector.nonce, keys)
    }

    /// RFC 5802 section 5, and RFC 7677 section 3: user `user`, password `pencil`.
    const VECTORS: [Vector; 2] = [
        Vector {
            hash: Hash::Sha1,
            prepared: "pencil",
            nonce: "fyko+d2lbbFgONRv9qkxdawL",
            first: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            proof: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            last: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        },
        Vector {
            hash: Hash::Sha256,
            prepared: "pencil",
            nonce: "rOprNGfwEbeRWgbNEkqO",
            first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,\
                    i=4096",
            proof: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            last: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        },
    ];

    #[test]
    fn the_conversations_of_the_rfcs_are_held_word_for_word() {
        for vector in VECTORS {
            let mut scram = scram(&vector);
            assert_eq!(scram.client_first(), format!("n,,n=user,r={}", vector.nonce));
            assert_eq!(scram.step(vector.first).unwrap(), vector.proof);
            assert!(!scram.is_server_verified());
            assert_eq!(scram.step(vector.last).unwrap(), "");
            assert!(scram.is_server_verified());
        }
    }

    #[test]
    fn a_wrong_server_signature_or_nonce_or_too_few_iterations_are_refused() {
        for vector in VECTORS {
            let mut one = scram(&vector);
            one.step(vector.first).unwrap();
            assert!(one.step("v=AAAA").unwrap_err().is_authentication());
            assert!(scram(&vector).step("r=other,s=QSXCR+Q6sek8bf92,i=4096").is_err());
            assert!(scram(&vector).step(&vector.first.replace("4096", "4095")).is_err());
            assert!(scram(&vector).step(&format!("r={},s=QSXC,i=4096", vector.nonce)).is_err());
            assert!(scram(&vector).step("nonsense").is_err());
        }
    }

    #[test]
    fn sha1_hashes_user_and_password_and_sha256_prepares_the_password() {
        // md5("user:mongo:pencil")
        assert_eq!(
            Hash::Sha1.prepare("user", "pencil").unwrap(),
            "1c33006ec1ffd90f9cadcbcc0e118200"
        );
        // RFC 4013 section 3: a soft hyphen is mapped to nothing, a Roman numeral to its letters.
        assert_eq!(Hash::Sha256.prepare("u", "I\u{ad}X").unwrap(), "IX");
        assert_eq!(Hash::Sha256.prepare("u", "\u{2168}").unwrap(), "IX");
        assert!(Hash::Sha256.prepare("u", "\u{7}").is_err());
    }

    #[test]
    fn commas_and_equals_signs_of_a_user_are_escaped() {
        let scram = Scram::new(Hash::Sha256, "a=b,c", "p", "n", Arc::default()).unwrap();
        assert_eq!(scram.client_first(), "n,,n=a=3Db=2Cc,r=n");
    }

    #[test]
    fn keys_are_derived_once() {
        let cache = KeyCache::default();
        let first = cache.keys(Hash::Sha256, "pencil", b"salt", 4096);
        let second = cache.keys(Hash::Sha256, "pencil", b"salt", 4096);
        assert!(Arc::ptr_eq(&first, &second));
        assert_ne!(first, cache.keys(Hash::Sha1, "pencil", b"salt", 4096));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let text = format!("{:?} {:?}", scram(&VECTORS[0]), Keys::new(Hash::Sha1, b"secret"));
        assert!(!text.contains("pencil") && !text.contains("secret"), "{text}");
    }

    proptest! {
        #[test]
        fn arbitrary_words_of_a_server_never_panic(first in ".{0,80}", second in ".{0,80}") {
            let mut scram = scram(&VECTORS[1]);
            let _ = scram.step(&first);
            let _ = scram.step(&second);
        }
    }
}
