//! Connection strings.

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// Lower-case host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}
