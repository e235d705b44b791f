//! Exploration: many seeds, each a plan of faults and operations of its own, played and judged.
//!
//! A run is a pure function of its seed and its template ([`Plan::generate`], [`play`]); whoever has
//! more than one core plays seeds side by side and puts the results in order. What is found is cut
//! down to the smallest scenario that still fails.

mod bare;
mod client;
pub(crate) mod file;
mod goals;
mod panics;
mod plan;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(feature = "explore")]
mod results;
mod shrink;
mod stage;

pub use file::{step_count, to_toml};
pub use goals::{Goal, Goals};
pub use plan::{
    ClientChoice, ClientKind, Family, Fault, FaultAt, Faults, MemberPlan, OperationAt, Place, Plan,
    Template, Who,
};
#[cfg(feature = "explore")]
pub use results::{
    Chunk, Found, Results, Search, Subject, Totals, client_choice, fault_words, parse_faults,
};
pub use shrink::{Shrunk, shrink};
pub use stage::{Finding, Played, play};
