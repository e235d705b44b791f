//! The commands: one file per family.

pub mod operation;

pub use operation::{
    Operation, OperationSession, OplogDraft, Outcome, ReadAt, ReadConcern, ReadConcernLevel,
};
