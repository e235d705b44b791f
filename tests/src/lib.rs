//! Shared helpers of the cross-crate tests: real mongods, the founding stories.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests at the socket edge live in real time"
)]

pub mod real;
pub mod stories;
