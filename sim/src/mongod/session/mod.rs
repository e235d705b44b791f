//! Logical sessions and the history of retryable writes.

/// What a member knows of sessions.
#[derive(Debug, Default)]
pub struct Sessions {}
