//! What a query may ask of the world.

use std::sync::{Arc, OnceLock};

use bson::{Bson, DateTime, Timestamp};

use super::collation::Collation;
use crate::mongod::error::CommandError;

/// What is fixed when a filter, projection, update or pipeline is parsed: `$$NOW`, `$$CLUSTER_TIME`, the
/// command's `let` variables, the collation.
#[derive(Clone, Debug)]
pub struct ParseContext {
    /// `$$NOW` and `$currentDate`: the member's wall clock.
    pub now: DateTime,
    /// `$$CLUSTER_TIME`, and the timestamp of `$currentDate: {$type: "timestamp"}`.
    pub cluster_time: Timestamp,
    /// How strings compare.
    pub collation: Collation,
    /// The command's `let`, already evaluated: names without dollars.
    pub variables: Vec<(String, Bson)>,
    /// The first failure of an expression without variables, which is evaluated when it is parsed.
    pub constant_failure: ConstantFailure,
}

/// Where parsing leaves the failure of a constant expression for who runs the command: a server finds it
/// when it optimizes, after everything is parsed.
#[derive(Clone, Debug, Default)]
pub struct ConstantFailure(Arc<OnceLock<CommandError>>);

impl ConstantFailure {
    /// Notes a failure; the first one stays.
    pub fn note(&self, error: CommandError) {
        let _ = self.0.set(error);
    }

    /// The failure, with what the server writes in front of it.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&self, prefix: &str) -> Result<(), CommandError> {
        match self.0.get() {
            None => Ok(()),
            Some(error) => {
                Err(CommandError { message: format!("{prefix}{}", error.message), ..error.clone() })
            }
        }
    }
}

impl ParseContext {
    /// A context at `now`, with the simple collation and no variables.
    pub fn new(now: DateTime, cluster_time: Timestamp) -> Self {
        ParseContext {
            now,
            cluster_time,
            collation: Collation::Simple,
            variables: Vec::new(),
            constant_failure: ConstantFailure::default(),
        }
    }
}
