//! The grammar: scheme, user, hosts, database, and the pairs of options.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::ServerAddress;
use crate::error::{Error, Result};

/// Characters a user name or password must escape.
const RESERVED_IN_USERINFO: [char; 7] = [':', '/', '?', '#', '[', ']', '@'];
/// Characters no database name may have.
const FORBIDDEN_IN_DATABASE: [char; 5] = ['/', '\\', ' ', '"', '$'];

/// A connection string's parts, percent-decoded.
#[derive(Clone, Default)]
pub(super) struct Parts {
    /// The host of a `mongodb+srv://` string, in lower case.
    pub(super) srv_host: Option<String>,
    /// The hosts of a `mongodb://` string.
    pub(super) hosts: Vec<ServerAddress>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
    /// Options in order: name in lower case, value.
    pub(super) pairs: Vec<(String, String)>,
}

impl fmt::Debug for Parts {
    /// Without password and option values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("srv_host", &self.srv_host)
            .field("hosts", &self.hosts)
            .field("username", &self.username)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Parts {
    pub(super) fn of(uri: &str) -> Result<Self> {
        let mut parts = Parts::default();
        let (rest, is_srv) = if let Some(rest) = uri.strip_prefix("mongodb://") {
            (rest, false)
        } else if let Some(rest) = uri.strip_prefix("mongodb+srv://") {
            (rest, true)
        } else {
            return Err(malformed("it begins with mongodb:// or mongodb+srv://"));
        };
        // The slash before the options may be left out.
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, query),
            None => (rest, ""),
        };
        let hosts = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => {
                parts.read_userinfo(userinfo)?;
                hosts
            }
            None => authority,
        };
        if is_srv {
            parts.srv_host = Some(srv_host(hosts)?);
        } else {
            parts.hosts = hosts.split(',').map(host).collect::<Result<_>>()?;
        }
        parts.read_database(path.strip_prefix('/').unwrap_or(path))?;
        parts.pairs = pairs(query)?;
        Ok(parts)
    }

    fn read_userinfo(&mut self, userinfo: &str) -> Result<()> {
        let (username, password) = match userinfo.split_once(':') {
            Some((username, password)) => (username, Some(password)),
            None => (userinfo, None),
        };
        if username.is_empty() {
            return Err(malformed("the user name before the @ is empty"));
        }
        for (part, what) in [(username, "user name"), (password.unwrap_or(""), "password")] {
            if part.contains(RESERVED_IN_USERINFO) {
                return Err(malformed(&format!("the {what} has a character that must be escaped")));
            }
        }
        self.username = Some(decode(username, "user name")?);
        self.password = password.map(|password| decode(password, "password")).transpose()?;
        Ok(())
    }

    fn read_database(&mut self, path: &str) -> Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        if path.contains('@') {
            return Err(malformed(
                "an @ follows the first slash: is a slash before it not escaped?",
            ));
        }
        let database = decode(path, "database")?;
        if database.contains(FORBIDDEN_IN_DATABASE) || database.contains('\0') {
            return Err(malformed("the database has a character no database name may have"));
        }
        self.database = Some(database);
        Ok(())
    }
}

/// One host of a `mongodb://` string.
fn host(text: &str) -> Result<ServerAddress> {
    let decoded = decode(text, "host")?;
    if text.contains('/') || decoded.is_empty() {
        return Err(malformed("a host is missing or has an unescaped slash"));
    }
    // An escaped slash makes it the path of a socket file.
    ServerAddress::parse(&decoded)
}

/// The one host of a `mongodb+srv://` string.
fn srv_host(text: &str) -> Result<String> {
    if text.contains(',') {
        return Err(malformed("mongodb+srv:// takes exactly one host"));
    }
    if text.contains(':') {
        return Err(malformed("mongodb+srv:// takes no port"));
    }
    let host = decode(text, "host")?.to_ascii_lowercase();
    if host.is_empty() || host.contains(['/', '[', ']', '@']) || host.split('.').any(str::is_empty)
    {
        return Err(malformed("mongodb+srv:// takes a host name"));
    }
    Ok(host)
}

/// The options after the question mark.
fn pairs(query: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(malformed(&format!("option \"{pair}\" has no value")));
        };
        if name.is_empty() {
            return Err(malformed("an option has no name"));
        }
        pairs.push((decode(name, "option name")?.to_ascii_lowercase(), decode(value, name)?));
    }
    Ok(pairs)
}

/// Percent-decodes strictly: each percent sign is followed by two hexadecimal digits, and what comes
/// out is UTF-8.
fn decode(text: &str, what: &str) -> Result<String> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        if !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
            return Err(malformed(&format!("the {what} has an unescaped percent sign")));
        }
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(|decoded| decoded.into_owned())
        .map_err(|_| malformed(&format!("the {what} is not UTF-8")))
}

fn malformed(why: &str) -> Error {
    Error::invalid_argument(format!("malformed connection string: {why}"))
}
