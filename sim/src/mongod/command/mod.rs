//! The commands: one file per family, each with a table of [`spec::CommandSpec`]s.

pub mod operation;
pub(crate) mod spec;

pub use operation::{
    Operation, OperationSession, OplogDraft, Outcome, ReadAt, ReadConcern, ReadConcernLevel,
};
