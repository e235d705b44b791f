//! Replication: configuration, elections, oplog fetch, commit point, rollback, initial sync.

pub mod config;
