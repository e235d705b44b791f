//! Who a client is, and what it may do.

/// The mechanisms a client may authenticate by (`authenticationMechanisms`).
pub(crate) const MECHANISMS: [&str; 3] = ["MONGODB-X509", "SCRAM-SHA-1", "SCRAM-SHA-256"];

/// Commands that anybody may run, authenticated or not.
const FOR_EVERYBODY: &[&str] = &[
    "authenticate",
    "buildInfo",
    "configureFailPoint",
    "connectionStatus",
    "echo",
    "getnonce",
    "hello",
    "isMaster",
    "listCommands",
    "logout",
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
