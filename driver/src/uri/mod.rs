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
pub(crate) use srv::choose as choose_hosts;
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

    /// The hosts; none of a `mongodb+srv://` string before it is resolved.
    pub fn hosts(&self) -> &[ServerAddress] {
        &self.options.hosts
    }

    /// The value of an option as the string or its TXT record has it, percent-decoded; the first one
    /// if there are several. `name` in any case.
    pub fn raw_option(&self, name: &str) -> Option<&str> {
        let pair = self.parts.pairs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        pair.map(|(_, value)| value.as_str())
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

    /// The options of a `mongodb://` string, or of a resolved `mongodb+srv://` string.
    ///
    /// # Errors
    /// `InvalidArgument` for an incomplete credential, and if there are no hosts because the string
    /// has not been resolved.
    pub fn into_options(self) -> Result<ClientOptions> {
        if self.options.hosts.is_empty() {
            return Err(Error::invalid_argument(
                "a mongodb+srv:// string has to be resolved before it can be used",
            ));
        }
        self.options.validate()?;
        Ok(self.options)
    }

    /// The same `mongodb+srv://` string with its hosts and the options of its TXT record, given what
    /// DNS says about [`ConnectionString::srv_name`] and its host. `random` chooses among the hosts if
    /// there are more than `srvMaxHosts`.
    ///
    /// # Errors
    /// `DnsResolve` if there are no hosts, one is of a foreign domain, or the TXT record holds anything
    /// but the allowed options; `InvalidArgument` if its options contradict the string's.
    pub fn resolve_with(
        mut self,
        records: &SrvRecords,
        mut random: impl FnMut() -> u64,
    ) -> Result<Self> {
        let Some(srv_host) = &self.parts.srv_host else {
            return Err(Error::invalid_argument("a mongodb:// string has nothing to resolve"));
        };
        let mut hosts = srv_addresses(srv_host, &records.hosts)?;
        for (name, value) in srv::txt_options(&records.texts)? {
            // The string's own options win.
            if !self.parts.pairs.iter().any(|(known, _)| *known == name) {
                self.parts.pairs.push((name, value));
            }
        }
        self.warnings.clear();
        self.options = option::read(&self.parts, &self.parts.pairs, &mut self.warnings)?;
        if let Some(most) = self.options.srv_max_hosts.filter(|most| *most > 0) {
            srv::choose(&mut hosts, most as usize, &mut random);
        }
        self.options.hosts = hosts;
        self.options.validate_combinations()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
