//! Who to authenticate as, and how.

use std::fmt;
use std::str::FromStr;

use bson::{Bson, Document};

use crate::error::{Error, Result};

/// How to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMechanism {
    /// `SCRAM-SHA-1`
    ScramSha1,
    /// `SCRAM-SHA-256`
    ScramSha256,
    /// `MONGODB-X509`
    MongoDbX509,
    /// `GSSAPI` (Kerberos)
    Gssapi,
    /// `PLAIN` (LDAP)
    Plain,
    /// `MONGODB-AWS`
    MongoDbAws,
    /// `MONGODB-OIDC`
    MongoDbOidc,
}

impl AuthMechanism {
    /// The name as connection strings and commands carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMechanism::ScramSha1 => "SCRAM-SHA-1",
            AuthMechanism::ScramSha256 => "SCRAM-SHA-256",
            AuthMechanism::MongoDbX509 => "MONGODB-X509",
            AuthMechanism::Gssapi => "GSSAPI",
            AuthMechanism::Plain => "PLAIN",
            AuthMechanism::MongoDbAws => "MONGODB-AWS",
            AuthMechanism::MongoDbOidc => "MONGODB-OIDC",
        }
    }

    /// The database to authenticate against where `authSource` is not given; `path` is the database
    /// named in the connection string.
    pub fn default_source(mechanism: Option<Self>, path: Option<&str>) -> String {
        match mechanism {
            None | Some(AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256) => {
                path.unwrap_or("admin").to_owned()
            }
            Some(AuthMechanism::Plain) => path.unwrap_or("$external").to_owned(),
            Some(_) => "$external".to_owned(),
        }
    }
}

impl FromStr for AuthMechanism {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let all = [
            AuthMechanism::ScramSha1,
            AuthMechanism::ScramSha256,
            AuthMechanism::MongoDbX509,
            AuthMechanism::Gssapi,
            AuthMechanism::Plain,
            AuthMechanism::MongoDbAws,
            AuthMechanism::MongoDbOidc,
        ];
        all.into_iter().find(|mechanism| mechanism.as_str() == name).ok_or_else(|| {
            Error::invalid_argument(format!("unknown authentication mechanism \"{name}\""))
        })
    }
}

impl fmt::Display for AuthMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who to authenticate as.
///
/// Its `Debug` form never shows the password or a secret property.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Credential {
    /// The user; some mechanisms need none.
    pub username: Option<String>,
    /// The database that knows the user.
    pub source: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The mechanism; `None` lets the server's `saslSupportedMechs` decide between the SCRAMs.
    pub mechanism: Option<AuthMechanism>,
    /// `authMechanismProperties`.
    pub mechanism_properties: Option<Document>,
}

impl Credential {
    /// Whether the mechanism can be used with these fields (authentication specification).
    ///
    /// # Errors
    /// `InvalidArgument` saying what is missing or too much.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::invalid_argument(message));
        let named = self.username.as_deref().is_some_and(|name| !name.is_empty());
        if self.source.as_deref() == Some("") {
            return refuse("authSource is empty");
        }
        let external_only = matches!(
            self.mechanism,
            Some(
                AuthMechanism::MongoDbX509
                    | AuthMechanism::Gssapi
                    | AuthMechanism::MongoDbAws
                    | AuthMechanism::MongoDbOidc
            )
        );
        if external_only && self.source.as_deref().is_some_and(|source| source != "$external") {
            return refuse("the authSource of this mechanism can only be $external");
        }
        match self.mechanism {
            None | Some(AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256) => {
                if !named {
                    return refuse("this authentication mechanism needs a user name");
                }
                if self.mechanism.is_some() && self.password.is_none() {
                    return refuse("SCRAM needs a password");
                }
            }
            Some(AuthMechanism::Plain) => {
                if !named {
                    return refuse("PLAIN needs a user name");
                }
                if self.password.as_deref().is_none_or(str::is_empty) {
                    return refuse("PLAIN needs a password");
                }
            }
            Some(AuthMechanism::Gssapi) => {
                if !named {
                    return refuse("GSSAPI needs a user name");
                }
                match self.property("CANONICALIZE_HOST_NAME") {
                    None | Some("none" | "forward" | "forwardAndReverse" | "true" | "false") => {}
                    Some(_) => return refuse("unknown value of CANONICALIZE_HOST_NAME"),
                }
            }
            Some(AuthMechanism::MongoDbX509) => {
                if self.password.is_some() {
                    return refuse("MONGODB-X509 takes no password");
                }
            }
            Some(AuthMechanism::MongoDbAws) => {
                // Since 2025 the secrets come from the environment alone.
                if self.username.is_some() || self.password.is_some() {
                    return refuse("MONGODB-AWS takes no user name and no password");
                }
                if self.property("AWS_SESSION_TOKEN").is_some() {
                    return refuse("MONGODB-AWS takes no AWS_SESSION_TOKEN");
                }
            }
            Some(AuthMechanism::MongoDbOidc) => self.validate_oidc()?,
        }
        Ok(())
    }

    fn validate_oidc(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::invalid_argument(message));
        if self.password.is_some() {
            return refuse("MONGODB-OIDC takes no password");
        }
        if let Some(properties) = &self.mechanism_properties {
            let known = ["ENVIRONMENT", "TOKEN_RESOURCE", "ALLOWED_HOSTS"];
            if let Some(name) = properties.keys().find(|name| !known.contains(&name.as_str())) {
                return Err(Error::invalid_argument(format!(
                    "unknown property {name} of MONGODB-OIDC"
                )));
            }
        }
        let environment = self.property("ENVIRONMENT");
        let resource = self.property("TOKEN_RESOURCE").is_some();
        match environment {
            Some("azure" | "gcp") if !resource => refuse("this environment needs TOKEN_RESOURCE"),
            Some("test" | "k8s") if resource => refuse("this environment takes no TOKEN_RESOURCE"),
            Some("test" | "gcp" | "k8s") if self.username.is_some() => {
                refuse("this environment takes no user name")
            }
            Some("test" | "azure" | "gcp" | "k8s") => Ok(()),
            Some(_) => refuse("unknown ENVIRONMENT of MONGODB-OIDC"),
            None => refuse("MONGODB-OIDC needs an ENVIRONMENT"),
        }
    }

    fn property(&self, name: &str) -> Option<&str> {
        match self.mechanism_properties.as_ref()?.get(name)? {
            Bson::String(value) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("username", &self.username)
            .field("source", &self.source)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mechanism_knows_where_its_users_live() {
        let source = AuthMechanism::default_source;
        assert_eq!(source(None, None), "admin");
        assert_eq!(source(Some(AuthMechanism::ScramSha256), Some("shop")), "shop");
        assert_eq!(source(Some(AuthMechanism::Plain), None), "$external");
        assert_eq!(source(Some(AuthMechanism::MongoDbX509), Some("shop")), "$external");
    }

    #[test]
    fn scram_needs_a_user_and_a_password() {
        let mut credential =
            Credential { mechanism: Some(AuthMechanism::ScramSha256), ..Credential::default() };
        assert!(credential.validate().is_err());
        credential.username = Some("alice".to_owned());
        assert!(credential.validate().is_err());
        credential.password = Some("secret".to_owned());
        assert!(credential.validate().is_ok());
    }

    #[test]
    fn a_password_is_never_shown() {
        let credential =
            Credential { password: Some("secret".to_owned()), ..Credential::default() };
        assert!(!format!("{credential:?}").contains("secret"));
    }
}
