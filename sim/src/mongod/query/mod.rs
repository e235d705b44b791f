//! The query language: pure functions over BSON.
//!
//! No storage, no clock, no randomness of its own: whatever an expression may ask of the world
//! (`$$NOW`, other collections, a random number) is handed in by [`context::ParseContext`] or the
//! caller. Raw and decoded documents are read through one borrowed view, [`value::ValueRef`].

pub mod collation;
pub mod compare;
pub mod context;
pub mod decimal;
pub mod key;
pub mod number;
pub mod value;
