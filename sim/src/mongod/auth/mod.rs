//! Who a client is, and what it may do.
//!
//! Users are documents of `admin.system.users`, which replicates as any collection does. What a request
//! needs is decided here for the simulated and the served set alike; whether anything is asked for at
//! all is [`Options::auth`](super::Options::auth). Only the hashing of passwords needs a feature
//! (`auth`): without it nobody can authenticate.

mod need;
pub(crate) mod role;
pub(crate) mod user;

use std::net::SocketAddr;
use std::sync::Arc;

use bson::RawDocumentBuf;

use super::Mongod;
use super::command::Operation;
use super::command::request::Request;
use super::error::{CommandError, UNAUTHORIZED};
use need::{Need, needs};
use role::{Privilege, Resource, merged};
use user::{User, UserName};

/// The mechanisms a client may authenticate by (`authenticationMechanisms`).
pub(crate) const MECHANISMS: [&str; 3] = ["MONGODB-X509", "SCRAM-SHA-1", "SCRAM-SHA-256"];

/// Commands that anybody may run, authenticated or not.
const FOR_EVERYBODY: &[&str] = &[
    "authenticate",
    "buildInfo",
    "configureFailPoint",
    "connectionStatus",
    "echo",
    "getLastError",
    "getnonce",
    "hello",
    "isMaster",
    "listCommands",
    "ping",
    "saslContinue",
    "saslStart",
    "testDeprecation",
    "waitForFailPoint",
    "whatsmyuri",
];

/// Whether a command is for everybody.
pub(crate) fn needs_nobody(command: &str) -> bool {
    FOR_EVERYBODY.contains(&command)
}

/// What a connection has shown of who it is.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// Authenticated as.
    pub user: Option<UserName>,
    /// A SCRAM conversation under way.
    #[cfg(feature = "auth")]
    pub conversation: Option<super::command::sasl::Conversation>,
    /// The subject of the client's certificate, which TLS has verified.
    pub certificate_subject: Option<Arc<str>>,
}

impl Identity {
    /// Nobody yet, with this certificate.
    pub(crate) fn of(certificate_subject: Option<Arc<str>>) -> Self {
        Identity { certificate_subject, ..Identity::default() }
    }
}

impl Mongod {
    /// Whether a request may run at all.
    ///
    /// # Errors
    /// 13 Unauthorized.
    pub(crate) fn authorize(&self, request: &Request) -> Result<(), CommandError> {
        let name = request.spec.names[0];
        if !self.options.auth || needs_nobody(name) {
            return Ok(());
        }
        let operation = &request.operation;
        let Some(client) = self.clients.get(operation.connection) else { return Ok(()) };
        let known = client.identity.user.as_ref().and_then(|user| self.user(user));
        let Some(user) = known else {
            let local = is_local(&client.remote);
            if local && !self.has_users() {
                return match self.first_steps(name, operation) {
                    true => Ok(()),
                    false => Err(not_authorized(operation)),
                };
            }
            let command = match self.options.version {
                super::ServerVersion::V6_0 => "command",
                _ => "Command",
            };
            return Err(CommandError::new(
                UNAUTHORIZED,
                format!("{command} {} requires authentication", operation.name),
            ));
        };
        let privileges = self.privileges(&user);
        let own_name = user.name.clone();
        let met = match needs(name, operation, &own_name) {
            Need::Nothing => true,
            Need::All(needed) => needed
                .iter()
                .all(|(resource, action)| grants(&privileges, resource.borrowed(), action)),
        };
        if met { Ok(()) } else { Err(not_authorized(operation)) }
    }

    /// The localhost exception: what somebody on this machine may do while there are no users.
    fn first_steps(&self, name: &str, operation: &Operation) -> bool {
        let makes_the_first = name == "createUser" && operation.db == "admin";
        makes_the_first || matches!(name, "replSetInitiate" | "replSetGetStatus" | "shutdown")
    }

    /// Whether the client may see what needs `action` on `resource`; everybody may where access is not
    /// controlled.
    pub(crate) fn may(&self, operation: &Operation, resource: Resource<'_>, action: &str) -> bool {
        if !self.options.auth {
            return true;
        }
        let client = self.clients.get(operation.connection);
        let user = client.and_then(|client| client.identity.user.as_ref());
        let user = user.and_then(|user| self.user(user));
        user.is_some_and(|user| grants(&self.privileges(&user), resource, action))
    }

    /// Whether the client may do anything at all in a database.
    pub(crate) fn sees_database(&self, operation: &Operation, db: &str) -> bool {
        if !self.options.auth {
            return true;
        }
        let client = self.clients.get(operation.connection);
        let user = client.and_then(|client| client.identity.user.as_ref());
        let user = user.and_then(|user| self.user(user));
        user.is_some_and(|user| {
            self.privileges(&user).iter().any(|granted| match &granted.pattern {
                role::Pattern::Collection(own, _) => own == db,
                role::Pattern::NamedAnywhere(_) => false,
                pattern => pattern.matches(Resource::Database(db)),
            })
        })
    }

    /// Everything a user's roles grant.
    pub(crate) fn privileges(&self, user: &User) -> Vec<Privilege> {
        let mut granted = Vec::new();
        for role in self.inherited_roles(&user.roles) {
            granted.extend(self.role_privileges(&role));
        }
        merged(granted)
    }
}

fn grants(privileges: &[Privilege], resource: Resource<'_>, action: &str) -> bool {
    privileges
        .iter()
        .any(|granted| granted.pattern.matches(resource) && granted.actions.contains(action))
}

/// Whether a client is on this machine. Clients inside a simulated world have names instead of
/// addresses, and are as near as can be.
fn is_local(remote: &str) -> bool {
    remote.parse::<SocketAddr>().map_or(true, |address| address.ip().is_loopback())
}

/// 13, showing the command without its secrets.
pub(crate) fn not_authorized(operation: &Operation) -> CommandError {
    let mut shown = RawDocumentBuf::new();
    for (key, value) in operation.body.iter().flatten() {
        match key.as_str() {
            "pwd" => shown.append(key, "xxx"),
            "$clusterTime" | "$readPreference" => {}
            _ => shown.append(key, value),
        }
    }
    CommandError::new(
        UNAUTHORIZED,
        format!(
            "not authorized on {} to execute command {}",
            operation.db,
            super::storage::text::shell_document(&shown)
        ),
    )
}
