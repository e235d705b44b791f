//! Watchers: what must hold in every world, whatever the seed. Nothing in the product depends on them.
//!
//! [`Invariants`] looks into the members of a running set after each thing they do: the rules of the
//! replication protocol. A [`History`] is what clients asked and were answered; [`History::judge`]
//! holds it against what a replica set promises them, linearizability included.

mod history;
mod invariants;
mod linearizable;
mod log;

pub use history::{Asked, Complaint, Final, History, Outcome, Record, Strength};
pub use invariants::{Invariants, Violation};
pub use linearizable::{Interval, Register, is_linearizable};
