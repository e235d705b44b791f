//! The first exchange on a connection: who we are, and what the server says of itself.
//!
//! Implements the handshake specification: the legacy command name with `helloOk` first, sent as
//! OP_MSG, with client metadata of at most 512 bytes.

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use super::Connection;
use crate::error::{Error, Result};
use crate::operation::BodyWriter;
use crate::options::ClientOptions;
use crate::time::Instant;
use crate::transport::Transport;
use crate::uri::ServerAddress;
use crate::wire;

/// The largest client metadata a server takes, in bytes.
const MAX_METADATA_BYTES: usize = 512;

/// What is said on opening a connection, made once per client.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    body: Vec<u8>,
}

/// What of a server's hello reply decides how to talk to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerTraits {
    /// The server's own number for the connection.
    pub(crate) server_connection_id: Option<i64>,
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
            sessions: has("logicalSessionTimeoutMinutes"),
            retryable_writes: has("logicalSessionTimeoutMinutes") && (initiated || mongos),
            replica_set_member: !mongos && (initiated || has("isreplicaset")),
        }
    }
}

impl Greeting {
    /// The greeting of a client with these options.
    pub(crate) fn new(options: &ClientOptions) -> Self {
        let mut body = Vec::new();
        let mut writer = BodyWriter::new(&mut body);
        let modern = options.server_api.is_some();
        writer.i32(if modern { "hello" } else { "isMaster" }, 1);
        writer.bool("helloOk", true);
        writer.string("backpressure", "2");
        add_server_api(&mut writer, options);
        writer.document("client", &client_metadata(options));
        writer.string("$db", "admin");
        writer.finish();
        Greeting { body }
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
        let out = connection.request_buffer();
        let start = wire::begin(out, request_id, 0, wire::OP_MSG);
        out.extend_from_slice(&[0; 5]);
        out.extend_from_slice(&self.body);
        wire::finish(out, start);
        connection.send(request_id, true).await?;
        let reply = connection.receive().await?.body;
        if let Some(error) = Error::from_command_reply(&reply) {
            return Err(error.at(connection.address.clone()));
        }
        connection.traits = ServerTraits::from_hello(&reply);
        Ok(reply)
    }

    /// Opens a connection and greets the server on it, all until `by`.
    ///
    /// # Errors
    /// As [`Connection::open`] and [`Greeting::exchange`].
    pub(crate) async fn establish(
        &self,
        transport: &dyn Transport,
        address: &ServerAddress,
        by: Instant,
        request_id: i32,
    ) -> Result<(Connection, RawDocumentBuf)> {
        let mut connection = Connection::open(transport, address, by).await?;
        connection.set_deadline(by);
        let reply = self.exchange(&mut connection, request_id).await?;
        Ok((connection, reply))
    }
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
fn client_metadata(options: &ClientOptions) -> Vec<u8> {
    let mut driver_name = "stepdown".to_owned();
    let mut driver_version = env!("CARGO_PKG_VERSION").to_owned();
    let mut platform = "Rust".to_owned();
    if let Some(info) = &options.driver_info {
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
        let mut options = ClientOptions::default();
        options.app_name = Some("a".repeat(128));
        options.driver_info = Some(crate::options::DriverInfo {
            name: "wrapper".into(),
            version: Some("1".into()),
            platform: Some("p".repeat(400)),
        });
        let bytes = client_metadata(&options);
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
