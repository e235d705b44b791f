//! Host and port of a server, or the path of its Unix domain socket.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The port of a server whose address names none.
pub const DEFAULT_PORT: u16 = 27017;

/// The address of a server as it appears in a connection string or in a hello reply.
///
/// Cheap to clone. Two spellings of one host name are one address: host names are kept in lower
/// case, as the SDAM specification asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ServerAddress {
    /// A TCP socket.
    Tcp {
        /// Lower-case host name or IP address; an IPv6 address has no brackets here.
        host: Arc<str>,
        /// TCP port, never zero.
        port: u16,
    },
    /// A Unix domain socket.
    Unix {
        /// Path of the socket file, case preserved.
        path: Arc<str>,
    },
}

impl ServerAddress {
    /// The TCP address of `host` (lower-cased) and `port`.
    pub fn new(host: impl AsRef<str>, port: u16) -> Self {
        ServerAddress::Tcp { host: host.as_ref().to_ascii_lowercase().into(), port }
    }

    /// The Unix domain socket at `path`.
    pub fn unix(path: impl Into<Arc<str>>) -> Self {
        ServerAddress::Unix { path: path.into() }
    }

    /// Reads `host`, `host:port`, `[ipv6]`, `[ipv6]:port` or the path of a socket file (recognised
    /// by a slash), nothing of it percent-encoded.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty host, unbalanced brackets or a port outside 1..=65535.
    pub fn parse(text: &str) -> Result<Self> {
        if text.contains('/') {
            return Ok(ServerAddress::unix(text));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| invalid(text, "the bracket of an IPv6 address is not closed"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() && !is_zoned_ipv6(host) {
                return Err(invalid(text, "what is in brackets is not an IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(invalid(text, "unexpected text after the closing bracket")),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(invalid(text, "the host is empty"));
        }
        if host.contains(['[', ']', '@']) || host.chars().any(char::is_control) {
            return Err(invalid(text, "the host contains a forbidden character"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                match digits.parse::<u16>() {
                    Ok(port) if port > 0 => port,
                    _ => return Err(invalid(text, "a port is between 1 and 65535")),
                }
            }
            Some(_) => return Err(invalid(text, "a port is a number between 1 and 65535")),
        };
        Ok(ServerAddress::new(host, port))
    }

    /// Host name or IP address without brackets; for a Unix domain socket its path.
    pub fn host(&self) -> &str {
        match self {
            ServerAddress::Tcp { host, .. } => host,
            ServerAddress::Unix { path } => path,
        }
    }

    /// TCP port; `None` for a Unix domain socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            ServerAddress::Tcp { port, .. } => Some(*port),
            ServerAddress::Unix { .. } => None,
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Tcp { host, port } if host.contains(':') => {
                f.pad(&format!("[{host}]:{port}"))
            }
            ServerAddress::Tcp { host, port } => f.pad(&format!("{host}:{port}")),
            ServerAddress::Unix { path } => f.pad(path),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        ServerAddress::parse(text)
    }
}

impl Default for ServerAddress {
    fn default() -> Self {
        ServerAddress::new("localhost", DEFAULT_PORT)
    }
}

/// Whether `host` is an IPv6 address with a zone (`fe80::1%eth0`).
fn is_zoned_ipv6(host: &str) -> bool {
    host.split_once('%').is_some_and(|(address, zone)| {
        !zone.is_empty() && address.parse::<std::net::Ipv6Addr>().is_ok()
    })
}

fn invalid(text: &str, why: &str) -> Error {
    Error::invalid_argument(format!("invalid server address \"{text}\": {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_lower_cased_and_the_port_defaults_to_27017() {
        let address = ServerAddress::parse("DB1.Example.COM").unwrap();
        assert_eq!(address.to_string(), "db1.example.com:27017");
        assert_eq!(address, ServerAddress::new("db1.example.com", 27017));
    }

    #[test]
    fn ipv6_addresses_carry_brackets_only_when_printed() {
        let address = ServerAddress::parse("[::1]:27018").unwrap();
        assert_eq!((address.host(), address.port()), ("::1", Some(27018)));
        assert_eq!(address.to_string(), "[::1]:27018");
    }

    #[test]
    fn a_slash_makes_a_unix_domain_socket_and_its_case_is_kept() {
        let address = ServerAddress::parse("/tmp/MongoDB.sock").unwrap();
        assert_eq!(address, ServerAddress::unix("/tmp/MongoDB.sock"));
        assert_eq!(address.port(), None);
    }

    #[test]
    fn ports_outside_their_range_are_refused() {
        for text in
            ["a:0", "a:65536", "a:-1", "a:", "a:b", "a::1", ":1", "", "[::1", "[x]", "[::1]x"]
        {
            assert!(ServerAddress::parse(text).is_err(), "{text}");
        }
    }
}
