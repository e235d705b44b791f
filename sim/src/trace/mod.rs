//! The record of a run: a typed list of events, and the forms people read it in.

mod event;

pub use event::{Category, Event, EventKind, MemberState};
