//! What a query may ask of the world.

use bson::{Bson, DateTime, Timestamp};

use super::collation::Collation;

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
}

impl ParseContext {
    /// A context at `now`, with the simple collation and no variables.
    pub fn new(now: DateTime, cluster_time: Timestamp) -> Self {
        ParseContext { now, cluster_time, collation: Collation::Simple, variables: Vec::new() }
    }
}
