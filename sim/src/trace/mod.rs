//! The record of a run: a typed list of events, and the forms people read it in.
//!
//! Everything that decides says so with an [`Event`]: when, who, what, and why in words. A
//! [`Recorder`] keeps the list; [`timeline`] prints it for people, [`json_lines`] for tools, and a
//! [`Filter`] picks parts of the story; [`export`] draws it for other tools.

mod event;
pub mod export;
mod filter;
mod json_lines;
mod recorder;
mod timeline;

/// The version of the timeline's formats, text and JSON Lines: it rises when a reader of the old form
/// would misread the new one. A new kind of event, or a new field, is no such change.
pub const FORMAT_VERSION: u32 = 1;

pub use event::{Category, Event, EventKind, MemberState};
pub use filter::Filter;
pub use json_lines::json_lines;
pub use recorder::{Record, Recorder};
pub use timeline::timeline;
