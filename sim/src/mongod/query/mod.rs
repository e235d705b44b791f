//! The query language: pure functions over BSON.
//!
//! No storage, no clock, no randomness of its own: whatever an expression may ask of the world
//! (`$$NOW`, other collections, a random number) is handed in by [`context::ParseContext`] or the
//! caller. Raw and decoded documents are read through one borrowed view, [`value::ValueRef`].

pub mod aggregate;
pub mod collation;
pub mod compare;
pub mod context;
pub mod decimal;
pub mod diff;
pub mod expression;
pub mod key;
pub mod matcher;
pub mod number;
pub mod path;
pub mod project;
pub mod regex;
pub mod sort;
pub mod text;
pub mod transform;
pub mod update;
pub mod value;

pub use aggregate::{Pipeline, PipelineContext};
pub use collation::Collation;
pub use context::ParseContext;
pub use diff::apply_diff;
pub use key::{KeyPattern, index_key};
pub use matcher::{MatchDetails, Matcher};
pub use project::{Projection, ProjectionSyntax};
pub use sort::{SortKey, SortPattern};
pub use update::{Update, UpdateEntry, UpdateOutcome};
