//! What can be said about a client, a database, a collection or an operation.

mod concern;
mod credential;
mod read_preference;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::Document;

pub use crate::operation::{
    AggregateOptions, BulkWriteOptions, ChangeStreamOptions, CollectionBulkWriteOptions,
    CollectionWriteOptions, CountOptions, CreateCollectionOptions, CreateIndexOptions, CursorType,
    DeleteManyModel, DeleteOneModel, DeleteOptions, DistinctOptions, EstimatedDocumentCountOptions,
    FindOneAndModifyOptions, FindOptions, FullDocumentBeforeChangeType, FullDocumentType, Hint,
    IndexOptions, InsertOneModel, InsertOptions, ListCollectionsOptions, ListDatabasesOptions,
    ModifyCollectionOptions, Namespace, ReplaceOneModel, ReturnDocument, TimeoutMode,
    UpdateManyModel, UpdateModifications, UpdateOneModel, UpdateOptions, WriteModel,
};
pub use concern::{Acknowledgment, ReadConcern, ReadConcernLevel, WriteConcern};
pub use credential::{AuthMechanism, Credential};
pub use read_preference::{
    HedgedReadOptions, Predicate, ReadPreference, ReadPreferenceMode, ReadPreferenceOptions,
    SelectionCriteria, ServerSelector, TagSet,
};

use crate::error::{Error, Result};
use crate::event::{CmapEvent, CommandEvent, CommandHooks, EventHandler, SdamEvent};
pub use crate::logging::{LogLevel, LogOptions};
pub use crate::telemetry::TracingOptions;
use crate::uri::ServerAddress;

/// `connectTimeoutMS` where nothing is said.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// `heartbeatFrequencyMS` where nothing is said.
pub const DEFAULT_HEARTBEAT_FREQ: Duration = Duration::from_secs(10);
/// The shortest allowed `heartbeatFrequencyMS`, and the shortest pause between two checks.
pub const MIN_HEARTBEAT_FREQ: Duration = Duration::from_millis(500);
/// `localThresholdMS` where nothing is said.
pub const DEFAULT_LOCAL_THRESHOLD: Duration = Duration::from_millis(15);
/// `serverSelectionTimeoutMS` where nothing is said.
pub const DEFAULT_SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// `maxPoolSize` where nothing is said.
pub const DEFAULT_MAX_POOL_SIZE: u32 = 100;
/// `maxConnecting` where nothing is said.
pub const DEFAULT_MAX_CONNECTING: u32 = 2;
/// `maxAdaptiveRetries` where nothing is said (client backpressure).
pub const DEFAULT_MAX_ADAPTIVE_RETRIES: u32 = 2;

/// Everything a client can be told. `None` means the default.
///
/// Made by [`ClientOptions::parse_str`] from a connection string, or by [`ClientOptions::default`]
/// and assignment. Field names are those of the crate `mongodb`; times are durations, and zero means
/// "no limit" where the connection string's option says so.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The seeds: `localhost:27017` if empty.
    pub hosts: Vec<ServerAddress>,
    /// `appname`: shown in the server's log and used by fail points.
    pub app_name: Option<String>,
    /// `compressors`, the preferred one first.
    pub compressors: Option<Vec<Compressor>>,
    /// Receives connection pool events.
    pub cmap_event_handler: Option<EventHandler<CmapEvent>>,
    /// Receives command events.
    pub command_event_handler: Option<EventHandler<CommandEvent>>,
    /// Receives topology events.
    pub sdam_event_handler: Option<EventHandler<SdamEvent>>,
    /// `connectTimeoutMS`; default 10 s; zero waits for ever.
    pub connect_timeout: Option<Duration>,
    /// Is asked before each command is sent, and told what came of it.
    pub command_hooks: Option<Arc<dyn CommandHooks>>,
    /// Who to authenticate as.
    pub credential: Option<Credential>,
    /// `directConnection`: talk to the one host given, whatever it is.
    pub direct_connection: Option<bool>,
    /// What a library built on this driver says of itself in the handshake.
    pub driver_info: Option<DriverInfo>,
    /// `heartbeatFrequencyMS`; default 10 s, at least 500 ms.
    pub heartbeat_freq: Option<Duration>,
    /// `loadBalanced`.
    pub load_balanced: Option<bool>,
    /// `localThresholdMS`: how much slower than the fastest a server may be; default 15 ms.
    pub local_threshold: Option<Duration>,
    /// `maxIdleTimeMS`; zero keeps idle connections for ever.
    pub max_idle_time: Option<Duration>,
    /// `maxPoolSize`; default 100; zero is no limit.
    pub max_pool_size: Option<u32>,
    /// `minPoolSize`; default 0.
    pub min_pool_size: Option<u32>,
    /// `maxConnecting`: how many connections of a pool are opened at a time; default 2.
    pub max_connecting: Option<u32>,
    /// `waitQueueTimeoutMS`: how long an operation waits for a connection of the pool.
    pub wait_queue_timeout: Option<Duration>,
    /// `readConcernLevel`.
    pub read_concern: Option<ReadConcern>,
    /// `replicaSet`: the name the set must have.
    pub repl_set_name: Option<String>,
    /// `retryReads`; default true.
    pub retry_reads: Option<bool>,
    /// `retryWrites`; default true.
    pub retry_writes: Option<bool>,
    /// `maxAdaptiveRetries`: retries of one operation after overload errors; default 2.
    pub max_adaptive_retries: Option<u32>,
    /// `enableOverloadRetargeting`: whether an overloaded server is avoided by the retry; default false.
    pub enable_overload_retargeting: Option<bool>,
    /// `readPreference` and its companions, or a function that chooses servers.
    pub selection_criteria: Option<SelectionCriteria>,
    /// The declared server API version.
    pub server_api: Option<ServerApi>,
    /// `serverMonitoringMode`; default auto.
    pub server_monitoring_mode: Option<ServerMonitoringMode>,
    /// `serverSelectionTimeoutMS`; default 30 s.
    pub server_selection_timeout: Option<Duration>,
    /// `serverSelectionTryOnce`: for single-threaded drivers alone; read and kept, without effect.
    pub server_selection_try_once: Option<bool>,
    /// The database named in the connection string.
    pub default_database: Option<String>,
    /// `socketTimeoutMS`; zero waits for ever.
    pub socket_timeout: Option<Duration>,
    /// `timeoutMS`: the one deadline of a whole operation; zero is no limit.
    pub timeout: Option<Duration>,
    /// What the driver says of its work in words, and to whom; default: nothing.
    pub logging: Option<LogOptions>,
    /// Whether spans are made of operations and commands, and by whom; default: not.
    pub tracing: Option<TracingOptions>,
    /// `tls` and its companions.
    pub tls: Option<Tls>,
    /// `w`, `wTimeoutMS`, `journal`.
    pub write_concern: Option<WriteConcern>,
    /// `srvMaxHosts`: how many of the hosts found by DNS are used; zero is all.
    pub srv_max_hosts: Option<u32>,
    /// `srvServiceName`; default `mongodb`.
    pub srv_service_name: Option<String>,
    /// The host name of a `mongodb+srv://` string, which SRV polling asks DNS for again.
    pub srv_host: Option<String>,
    /// `proxyHost` and its companions: a SOCKS5 proxy.
    pub proxy: Option<Proxy>,
}

impl ClientOptions {
    /// The options of a `mongodb://` connection string; its warnings are dropped (see
    /// [`ConnectionString::parse`](crate::uri::ConnectionString::parse) to keep them).
    ///
    /// # Errors
    /// `InvalidArgument` where the connection string specification says so, and for `mongodb+srv://`,
    /// which needs DNS (see [`ConnectionString::resolve_with`](crate::uri::ConnectionString::resolve_with)).
    pub fn parse_str(uri: impl AsRef<str>) -> Result<Self> {
        crate::uri::ConnectionString::parse(uri.as_ref())?.into_options()
    }

    /// Whether these options can be used together.
    ///
    /// # Errors
    /// `InvalidArgument` naming the options that contradict each other.
    pub fn validate(&self) -> Result<()> {
        self.validate_combinations()?;
        match &self.credential {
            Some(credential) => credential.validate(),
            None => Ok(()),
        }
    }

    /// As [`ClientOptions::validate`], but for the credential, which may not be complete yet.
    pub(crate) fn validate_combinations(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::invalid_argument(message));
        if self.direct_connection == Some(true) && self.hosts.len() > 1 {
            return refuse("directConnection=true needs exactly one host");
        }
        if self.load_balanced == Some(true) {
            if self.hosts.len() > 1 {
                return refuse("loadBalanced=true needs exactly one host");
            }
            if self.direct_connection == Some(true) {
                return refuse("loadBalanced=true and directConnection=true exclude each other");
            }
            if self.repl_set_name.is_some() {
                return refuse("loadBalanced=true and replicaSet exclude each other");
            }
        }
        if self.srv_max_hosts.is_some_and(|hosts| hosts > 0) {
            if self.repl_set_name.is_some() {
                return refuse("a positive srvMaxHosts and replicaSet exclude each other");
            }
            if self.load_balanced == Some(true) {
                return refuse("a positive srvMaxHosts and loadBalanced=true exclude each other");
            }
        }
        if let (Some(min), Some(max)) = (self.min_pool_size, self.max_pool_size)
            && max > 0
            && min > max
        {
            return refuse("minPoolSize is greater than maxPoolSize");
        }
        if self.heartbeat_freq.is_some_and(|freq| freq < MIN_HEARTBEAT_FREQ) {
            return refuse("heartbeatFrequencyMS is at least 500");
        }
        if self.max_connecting == Some(0) {
            return refuse("maxConnecting is at least 1");
        }
        if let Some(write_concern) = &self.write_concern {
            write_concern.validate()?;
        }
        if let Some(proxy) = &self.proxy {
            proxy.validate()?;
        }
        Ok(())
    }

    /// The read preference of these options; primary if none was given or a function chooses.
    pub fn read_preference(&self) -> ReadPreference {
        match &self.selection_criteria {
            Some(SelectionCriteria::ReadPreference(preference)) => preference.clone(),
            _ => ReadPreference::Primary,
        }
    }

    /// `heartbeatFrequencyMS`, or its default.
    pub fn heartbeat_freq_or_default(&self) -> Duration {
        self.heartbeat_freq.unwrap_or(DEFAULT_HEARTBEAT_FREQ)
    }

    /// `localThresholdMS`, or its default.
    pub fn local_threshold_or_default(&self) -> Duration {
        self.local_threshold.unwrap_or(DEFAULT_LOCAL_THRESHOLD)
    }

    /// `serverSelectionTimeoutMS`, or its default.
    pub fn server_selection_timeout_or_default(&self) -> Duration {
        self.server_selection_timeout.unwrap_or(DEFAULT_SERVER_SELECTION_TIMEOUT)
    }

    /// `connectTimeoutMS`, or its default; `None` if it was set to zero: no limit.
    pub fn connect_timeout_or_default(&self) -> Option<Duration> {
        Some(self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT)).filter(|t| !t.is_zero())
    }

    /// `maxPoolSize`, or its default; `None` if it was set to zero: no limit.
    pub fn max_pool_size_or_default(&self) -> Option<u32> {
        Some(self.max_pool_size.unwrap_or(DEFAULT_MAX_POOL_SIZE)).filter(|size| *size > 0)
    }
}

/// A way to compress messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compressor {
    /// `snappy`.
    Snappy,
    /// `zlib`.
    Zlib {
        /// `zlibCompressionLevel`, -1 (default) to 9.
        level: Option<i32>,
    },
    /// `zstd`.
    Zstd {
        /// The level, if not the default.
        level: Option<i32>,
    },
}

impl Compressor {
    /// The name the handshake uses.
    pub fn name(&self) -> &'static str {
        match self {
            Compressor::Snappy => "snappy",
            Compressor::Zlib { .. } => "zlib",
            Compressor::Zstd { .. } => "zstd",
        }
    }
}

/// What a library built on this driver says of itself in the handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// What it runs on.
    pub platform: Option<String>,
}

/// The declared server API version (stable API).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerApi {
    /// The version.
    pub version: ServerApiVersion,
    /// Refuse commands that are not part of the version.
    pub strict: Option<bool>,
    /// Refuse commands that are deprecated in the version.
    pub deprecation_errors: Option<bool>,
}

impl ServerApi {
    /// The declaration of `version`, neither strict nor with deprecation errors.
    pub fn new(version: ServerApiVersion) -> Self {
        ServerApi { version, strict: None, deprecation_errors: None }
    }

    /// Adds `apiVersion` and its companions to a command.
    pub fn append_to(&self, command: &mut Document) {
        command.insert("apiVersion", self.version.as_str());
        if let Some(strict) = self.strict {
            command.insert("apiStrict", strict);
        }
        if let Some(deprecation_errors) = self.deprecation_errors {
            command.insert("apiDeprecationErrors", deprecation_errors);
        }
    }
}

/// A version of the server API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerApiVersion {
    /// Version 1.
    V1,
}

impl ServerApiVersion {
    /// The version as commands carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            ServerApiVersion::V1 => "1",
        }
    }
}

/// How the servers are monitored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerMonitoringMode {
    /// Streaming, except in a function-as-a-service environment.
    #[default]
    Auto,
    /// Streaming where the server can.
    Stream,
    /// Polling.
    Poll,
}

impl fmt::Display for ServerMonitoringMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServerMonitoringMode::Auto => "auto",
            ServerMonitoringMode::Stream => "stream",
            ServerMonitoringMode::Poll => "poll",
        })
    }
}

/// Whether TLS is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// TLS, with these settings.
    Enabled(TlsOptions),
    /// No TLS.
    Disabled,
}

/// The settings of TLS.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsOptions {
    /// `tlsInsecure`: as both of the next two.
    pub insecure: Option<bool>,
    /// `tlsAllowInvalidCertificates`.
    pub allow_invalid_certificates: Option<bool>,
    /// `tlsAllowInvalidHostnames`.
    pub allow_invalid_hostnames: Option<bool>,
    /// `tlsCAFile`: path of the trusted authorities (PEM).
    pub ca_file_path: Option<String>,
    /// `tlsCertificateKeyFile`: path of the client's certificate and key (PEM).
    pub cert_key_file_path: Option<String>,
    /// `tlsCertificateKeyFilePassword`: what the key is encrypted with.
    pub tls_certificate_key_file_password: Option<String>,
    /// `tlsDisableOCSPEndpointCheck`.
    pub disable_ocsp_endpoint_check: Option<bool>,
    /// `tlsDisableCertificateRevocationCheck`.
    pub disable_certificate_revocation_check: Option<bool>,
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("insecure", &self.insecure)
            .field("allow_invalid_certificates", &self.allow_invalid_certificates)
            .field("allow_invalid_hostnames", &self.allow_invalid_hostnames)
            .field("ca_file_path", &self.ca_file_path)
            .field("cert_key_file_path", &self.cert_key_file_path)
            .field(
                "tls_certificate_key_file_password",
                &self.tls_certificate_key_file_password.as_ref().map(|_| "(hidden)"),
            )
            .field("disable_ocsp_endpoint_check", &self.disable_ocsp_endpoint_check)
            .field(
                "disable_certificate_revocation_check",
                &self.disable_certificate_revocation_check,
            )
            .finish()
    }
}

/// A SOCKS5 proxy through which servers are reached.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proxy {
    /// `proxyHost`.
    pub host: String,
    /// `proxyPort`; default 1080.
    pub port: Option<u16>,
    /// `proxyUsername`.
    pub username: Option<String>,
    /// `proxyPassword`.
    pub password: Option<String>,
}

impl Proxy {
    fn validate(&self) -> Result<()> {
        if self.host.is_empty() {
            return Err(Error::invalid_argument("the other proxy options need proxyHost"));
        }
        if self.username.is_some() != self.password.is_some() {
            return Err(Error::invalid_argument(
                "proxyUsername and proxyPassword are given together or not at all",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}
