//! The first exchange on a connection: who we are, and what the server says of itself.
//!
//! Implements the handshake specification: the legacy command name with `helloOk` first, sent as
//! OP_MSG, with client metadata of at most 512 bytes. Connections of operations are authenticated with
//! it; those of monitors are not.

use std::sync::{Arc, Mutex};

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use super::Connection;
#[cfg(feature = "auth")]
use crate::auth::Authenticator;
use crate::error::{Error, Result};
use crate::operation::BodyWriter;
use crate::options::{ClientOptions, Compressor, DriverInfo, Tls};
use crate::sync::lock;
use crate::time::Instant;
use crate::transport::Transport;
#[cfg(feature = "tls")]
use crate::transport::tls::TlsConnector;
use crate::uri::ServerAddress;
use crate::wire;

/// The largest client metadata a server takes, in bytes.
const MAX_METADATA_BYTES: usize = 512;

/// How a connection is opened and what is said on it, made once per client.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The hello, but for what is added for authentication.
    body: Mutex<Body>,
    compressors: Vec<Compressor>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConnector>,
    #[cfg(feature = "auth")]
    authenticator: Option<Authenticator>,
}

/// The hello, and what was said to be part of it.
#[derive(Debug)]
struct Body {
    bytes: Arc<[u8]>,
    infos: Vec<DriverInfo>,
}

/// Why a connection could not be established.
#[derive(Debug)]
pub(crate) struct Unestablished {
    /// What happened.
    pub(crate) error: Error,
    /// Whether the server had been greeted and was asked to authenticate the user.
    pub(crate) authenticating: bool,
}

/// What of a server's hello reply decides how to talk to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerTraits {
    /// The server's own number for the connection.
    pub(crate) server_connection_id: Option<i64>,
    /// The newest wire version it speaks.
    pub(crate) max_wire_version: i32,
    /// Sessions are known (`logicalSessionTimeoutMinutes` was there).
    pub(crate) sessions: bool,
    /// A member of an initiated replica set, or a mongos: retryable writes are known.
    pub(crate) retryable_writes: bool,
    /// Not a mongos, but a member of a set, initiated or not.
    pub(crate) replica_set_member: bool,
}

impl ServerTraits {
    /// Whether it keeps a cluster time: a member of a set, or a mongos.
    pub(crate) fn replica_set_member_or_mongos(&self) -> bool {
        self.replica_set_member || self.retryable_writes
    }

    /// Reads them off a hello reply.
    pub(crate) fn from_hello(reply: &RawDocument) -> Self {
        let has = |key| matches!(reply.get(key), Ok(Some(_)));
        let mongos = reply.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        let initiated = reply.get_str("setName").is_ok();
        ServerTraits {
            server_connection_id: match reply.get("connectionId") {
                Ok(Some(RawBsonRef::Int32(id))) => Some(i64::from(id)),
                Ok(Some(RawBsonRef::Int64(id))) => Some(id),
                Ok(Some(RawBsonRef::Double(id))) => Some(id as i64),
                _ => None,
            },
            max_wire_version: match reply.get("maxWireVersion") {
                Ok(Some(RawBsonRef::Int32(version))) => version,
                Ok(Some(RawBsonRef::Int64(version))) => i32::try_from(version).unwrap_or(0),
                _ => 0,
            },
            sessions: has("logicalSessionTimeoutMinutes"),
            retryable_writes: has("logicalSessionTimeoutMinutes") && (initiated || mongos),
            replica_set_member: !mongos && (initiated || has("isreplicaset")),
        }
    }
}

impl Greeting {
    /// The greeting of a client with these options.
    ///
    /// # Errors
    /// `InvalidArgument` and `InvalidTlsConfig` for options that cannot be used, or that this build of
    /// the driver was made without.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self> {
        let lacking = |what: &str, feature: &str| {
            Err(Error::invalid_argument(format!(
                "{what} needs the driver's feature \"{feature}\", which is off"
            )))
        };
        if cfg!(not(feature = "auth")) && options.credential.is_some() {
            return lacking("authentication", "auth");
        }
        if cfg!(not(feature = "tls")) && matches!(options.tls, Some(Tls::Enabled(_))) {
            return lacking("TLS", "tls");
        }
        let compressors = options.compressors.clone().unwrap_or_default();
        if let Some(absent) = compressors.iter().find(|one| !wire::is_compressor_built_in(one)) {
            return lacking(&format!("the compressor {}", absent.name()), absent.name());
        }
        let infos: Vec<DriverInfo> = options.driver_info.iter().cloned().collect();
        let bytes = greeting_body(options, &compressors, &infos);
        Ok(Greeting {
            body: Mutex::new(Body { bytes: bytes.into(), infos }),
            compressors,
            #[cfg(feature = "tls")]
            tls: match &options.tls {
                Some(Tls::Enabled(settings)) => Some(TlsConnector::new(settings)?),
                _ => None,
            },
            #[cfg(feature = "auth")]
            authenticator: match &options.credential {
                Some(credential) => {
                    Some(Authenticator::new(credential, options.default_database.as_deref())?)
                }
                None => None,
            },
        })
    }

    /// Says more of who the client is on connections that are opened from now on; what was said before
    /// is not said twice. `options` are those of the client.
    pub(crate) fn append_metadata(&self, options: &ClientOptions, info: DriverInfo) {
        let mut body = lock(&self.body);
        if !body.infos.contains(&info) {
            body.infos.push(info);
            body.bytes = greeting_body(options, &self.compressors, &body.infos).into();
        }
    }

    /// Opens a connection, in TLS if the client uses it; nothing is said on it yet.
    ///
    /// # Errors
    /// `Io`, about the server at `address`.
    pub(crate) async fn open(
        &self,
        transport: &dyn Transport,
        address: &ServerAddress,
        by: Instant,
    ) -> Result<Connection> {
        let mut connection = Connection::open(transport, address, by).await?;
        connection.set_deadline(by);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls
            && address.port().is_some()
        {
            let shaken = tls.connect(connection.stream, address.host()).await;
            connection.stream =
                shaken.map_err(|error| Error::from(error).at(connection.address.clone()))?;
        }
        Ok(connection)
    }

    /// Sends the greeting and reads the reply, which must be an `ok: 1`.
    ///
    /// # Errors
    /// `Io`, `InvalidResponse`, or the server's refusal.
    pub(crate) async fn exchange(
        &self,
        connection: &mut Connection,
        request_id: i32,
    ) -> Result<RawDocumentBuf> {
        self.say_hello(connection, request_id, &self.body()).await
    }

    fn body(&self) -> Arc<[u8]> {
        lock(&self.body).bytes.clone()
    }

    async fn say_hello(
        &self,
        connection: &mut Connection,
        request_id: i32,
        hello: &[u8],
    ) -> Result<RawDocumentBuf> {
        let reply = command(connection, request_id, hello).await?;
        connection.traits = ServerTraits::from_hello(&reply);
        connection.compressor = self.agreed_compressor(&reply);
        Ok(reply)
    }

    /// The first of the client's compressors that the server has, too.
    fn agreed_compressor(&self, reply: &RawDocument) -> Option<Compressor> {
        if self.compressors.is_empty() {
            return None;
        }
        let offered = reply.get_array("compression").ok()?;
        let offers = |compressor: &&Compressor| {
            offered
                .into_iter()
                .any(|one| matches!(one, Ok(RawBsonRef::String(name)) if name == compressor.name()))
        };
        self.compressors.iter().find(offers).cloned()
    }

    /// Opens a connection, greets the server on it and authenticates the user, all until `by`.
    ///
    /// # Errors
    /// As [`Greeting::open`] and [`Greeting::exchange`], and `Authentication`.
    pub(crate) async fn establish(
        &self,
        transport: &dyn Transport,
        address: &ServerAddress,
        by: Instant,
        mut next_request_id: impl FnMut() -> i32,
    ) -> std::result::Result<Connection, Unestablished> {
        let before = |error| Unestablished { error, authenticating: false };
        let mut connection = self.open(transport, address, by).await.map_err(before)?;
        #[cfg(feature = "auth")]
        if let Some(authenticator) = &self.authenticator {
            let mut random = || transport.random();
            let body = self.body();
            let mut hello = Vec::with_capacity(body.len() + 256);
            let mut writer = BodyWriter::new(&mut hello);
            writer.elements_of(&body);
            let speculated =
                authenticator.add_to_hello(&mut writer, &mut random).map_err(before)?;
            writer.finish();
            let reply =
                self.say_hello(&mut connection, next_request_id(), &hello).await.map_err(before)?;
            let address = connection.address.clone();
            let during = |error: Error| Unestablished {
                error: error.at(address.clone()),
                authenticating: true,
            };
            let (mut conversation, mut next) =
                authenticator.after_hello(&reply, speculated, &mut random).map_err(during)?;
            while let Some(step) = next {
                let mut body = Vec::with_capacity(step.as_bytes().len() + 32);
                let mut writer = BodyWriter::new(&mut body);
                writer.elements_of(step.as_bytes());
                writer.string("$db", authenticator.source());
                writer.finish();
                let reply = command(&mut connection, next_request_id(), &body).await;
                let reply = reply.map_err(|error| {
                    // A server that is going away has not refused the user.
                    let passing = error.is_network() || error.is_retryable_read();
                    during(if passing { error } else { conversation.refused(&error) })
                })?;
                next = conversation.step(&reply).map_err(during)?;
            }
            return Ok(connection);
        }
        self.exchange(&mut connection, next_request_id()).await.map_err(before)?;
        Ok(connection)
    }
}

/// Sends a command and reads its reply, which must be an `ok: 1`.
async fn command(
    connection: &mut Connection,
    request_id: i32,
    body: &[u8],
) -> Result<RawDocumentBuf> {
    let out = connection.request_buffer();
    let start = wire::begin(out, request_id, 0, wire::OP_MSG);
    out.extend_from_slice(&[0; 5]);
    out.extend_from_slice(body);
    wire::finish(out, start);
    connection.send(request_id, true).await?;
    let reply = connection.receive().await?.body;
    match Error::from_command_reply(&reply) {
        Some(error) => Err(error.at(connection.address.clone())),
        None => Ok(reply),
    }
}

/// The whole first command of a connection, but for what authentication adds.
fn greeting_body(
    options: &ClientOptions,
    compressors: &[Compressor],
    infos: &[DriverInfo],
) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = BodyWriter::new(&mut body);
    let modern = options.server_api.is_some();
    writer.i32(if modern { "hello" } else { "isMaster" }, 1);
    writer.bool("helloOk", true);
    writer.string("backpressure", "2");
    add_server_api(&mut writer, options);
    if !compressors.is_empty() {
        writer.array("compression", |names| {
            for (at, compressor) in compressors.iter().enumerate() {
                names.string(&at.to_string(), compressor.name());
            }
        });
    }
    writer.document("client", &client_metadata(options, infos));
    writer.string("$db", "admin");
    writer.finish();
    body
}

/// Adds the declared server API version, if any.
pub(crate) fn add_server_api(writer: &mut BodyWriter<'_>, options: &ClientOptions) {
    let Some(api) = &options.server_api else { return };
    writer.string("apiVersion", api.version.as_str());
    if let Some(strict) = api.strict {
        writer.bool("apiStrict", strict);
    }
    if let Some(errors) = api.deprecation_errors {
        writer.bool("apiDeprecationErrors", errors);
    }
}

/// `client`: application, driver, operating system and platform, cut down to what a server takes.
fn client_metadata(options: &ClientOptions, infos: &[DriverInfo]) -> Vec<u8> {
    let mut driver_name = "stepdown".to_owned();
    let mut driver_version = env!("CARGO_PKG_VERSION").to_owned();
    let mut platform = "Rust".to_owned();
    for info in infos {
        driver_name = format!("{driver_name}|{}", info.name);
        if let Some(version) = &info.version {
            driver_version = format!("{driver_version}|{version}");
        }
        if let Some(more) = &info.platform {
            platform = format!("{platform}|{more}");
        }
    }
    // The specification's order of what to leave out first: details of the operating system, then
    // the platform.
    for (with_details, with_platform) in [(true, true), (false, true), (false, false)] {
        let mut bytes = Vec::new();
        let mut metadata = BodyWriter::new(&mut bytes);
        if let Some(name) = &options.app_name {
            metadata.nested("application", |application| application.string("name", name));
        }
        metadata.nested("driver", |driver| {
            driver.string("name", &driver_name);
            driver.string("version", &driver_version);
        });
        metadata.nested("os", |os| {
            os.string("type", std::env::consts::OS);
            if with_details {
                os.string("architecture", std::env::consts::ARCH);
            }
        });
        if with_platform {
            metadata.string("platform", &platform);
        }
        metadata.finish();
        if bytes.len() <= MAX_METADATA_BYTES || !with_platform {
            return bytes;
        }
    }
    unreachable!("the last round returns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn metadata_gives_up_details_before_it_grows_too_large() {
        let options = ClientOptions { app_name: Some("a".repeat(128)), ..ClientOptions::default() };
        let info = DriverInfo {
            name: "wrapper".into(),
            version: Some("1".into()),
            platform: Some("p".repeat(400)),
        };
        let bytes = client_metadata(&options, &[info]);
        assert!(bytes.len() <= MAX_METADATA_BYTES);
        let metadata = RawDocument::from_bytes(&bytes).unwrap();
        assert!(metadata.get("platform").unwrap().is_none());
        let driver = metadata.get_document("driver").unwrap();
        assert_eq!(driver.get_str("name").unwrap(), "stepdown|wrapper");
    }

    #[test]
    fn an_uninitiated_member_has_no_retryable_writes() {
        let ghost = rawdoc! { "isreplicaset": true, "logicalSessionTimeoutMinutes": 30, "ok": 1.0 };
        let traits = ServerTraits::from_hello(&ghost);
        assert!(traits.replica_set_member && traits.sessions && !traits.retryable_writes);
    }
}
