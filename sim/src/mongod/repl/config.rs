//! The replica set configuration document.

/// A configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplSetConfig {}
