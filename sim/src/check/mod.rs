//! Watchers: what must hold in every world, whatever the seed. Nothing in the product depends on them.

mod invariants;

pub use invariants::{Invariants, Violation};
