//! Connection strings: `mongodb://` and `mongodb+srv://`, their hosts and their options.
//!
//! The grammar is that of the connection string specification, the options those of the URI options
//! specification. What is malformed is an error; an option that is unknown, or whose value cannot be,
//! is left out with a [`Warning`].

mod address;
mod option;
mod split;
mod srv;

use std::fmt;

pub use address::{DEFAULT_PORT, ServerAddress};
pub use srv::srv_addresses;

use crate::error::{Error, Result};
use crate::options::ClientOptions;
use crate::transport::SrvRecords;

/// A connection string, taken apart.
#[derive(Clone, Debug)]
pub struct ConnectionString {
    parts: split::Parts,
    options: ClientOptions,
    warnings: Vec<Warning>,
}

/// Something in a connection string that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The name of the option, in lower case.
    pub option: String,
    /// Why it was left out.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option \"{}\" {}", self.option, self.message)
    }
}

impl ConnectionString {
    /// Takes `uri` apart and reads its options. Nothing is looked up, and whether a credential is
    /// complete is not decided yet (a TXT record, or code, may add to it).
    ///
    /// # Errors
    /// `InvalidArgument` for what is malformed, and for options that exclude each other.
    pub fn parse(uri: &str) -> Result<Self> {
        let parts = split::Parts::of(uri)?;
        let mut warnings = Vec::new();
        let options = option::read(&parts, &parts.pairs, &mut warnings)?;
        Ok(ConnectionString { parts, options, warnings })
    }

    /// What was left out, in the order of the string.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The options as far as the string itself says; of a `mongodb+srv://` string without hosts.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The hosts of a `mongodb://` string; none of a `mongodb+srv://` string.
    pub fn hosts(&self) -> &[ServerAddress] {
        &self.parts.hosts
    }

    /// The user name, decoded.
    pub fn username(&self) -> Option<&str> {
        self.parts.username.as_deref()
    }

    /// The password, decoded.
    pub fn password(&self) -> Option<&str> {
        self.parts.password.as_deref()
    }

    /// The database after the slash, decoded.
    pub fn database(&self) -> Option<&str> {
        self.parts.database.as_deref()
    }

    /// The name whose SRV records a `mongodb+srv://` string stands for
    /// (`_mongodb._tcp.example.com`); `None` for a `mongodb://` string.
    pub fn srv_name(&self) -> Option<String> {
        let host = self.parts.srv_host.as_deref()?;
        let service = self.options.srv_service_name.as_deref().unwrap_or("mongodb");
        Some(format!("_{service}._tcp.{host}"))
    }

    /// The options of a `mongodb://` string.
    ///
    /// # Errors
    /// `InvalidArgument` for an incomplete credential, and for a `mongodb+srv://` string.
    pub fn into_options(self) -> Result<ClientOptions> {
        if self.parts.srv_host.is_some() {
            return Err(Error::invalid_argument(
                "a mongodb+srv:// string has to be resolved before it can be used",
            ));
        }
        self.options.validate()?;
        Ok(self.options)
    }

    /// The options of a `mongodb+srv://` string, given what DNS says about
    /// [`ConnectionString::srv_name`]. `random` chooses among the hosts if there are more than
    /// `srvMaxHosts`.
    ///
    /// # Errors
    /// `DnsResolve` if there are no hosts, one is of a foreign domain, or the TXT record holds anything
    /// but the allowed options; `InvalidArgument` if its options contradict the string's.
    pub fn resolve_with(
        &self,
        records: &SrvRecords,
        mut random: impl FnMut() -> u64,
    ) -> Result<ClientOptions> {
        let Some(srv_host) = &self.parts.srv_host else {
            return Err(Error::invalid_argument("a mongodb:// string has nothing to resolve"));
        };
        let mut hosts = srv_addresses(srv_host, &records.hosts)?;
        let mut pairs = self.parts.pairs.clone();
        for (name, value) in srv::txt_options(&records.texts)? {
            // The string's own options win.
            if !pairs.iter().any(|(known, _)| *known == name) {
                pairs.push((name, value));
            }
        }
        let mut options = option::read(&self.parts, &pairs, &mut Vec::new())?;
        if let Some(most) = options.srv_max_hosts.filter(|most| *most > 0) {
            srv::choose(&mut hosts, most as usize, &mut random);
        }
        options.hosts = hosts;
        options.validate()?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests;
