//! The options of change streams.

use std::time::Duration;

use bson::{Bson, Document, Timestamp};

use crate::client::ResumeToken;
use crate::options::{ReadConcern, SelectionCriteria};

/// What can be said about a change stream. `None` means the server's default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChangeStreamOptions {
    /// Whether updates come with the whole document.
    pub full_document: Option<FullDocumentType>,
    /// Whether changes come with the document as it was.
    pub full_document_before_change: Option<FullDocumentBeforeChangeType>,
    /// Resumes after this token.
    pub resume_after: Option<ResumeToken>,
    /// Starts anew after this token, which may be that of an `invalidate`.
    pub start_after: Option<ResumeToken>,
    /// Starts at this moment.
    pub start_at_operation_time: Option<Timestamp>,
    /// Tells of changes of the catalog as well.
    pub show_expanded_events: Option<bool>,
    /// How long the server waits for an event before it answers that there is none.
    pub max_await_time: Option<Duration>,
    /// How many events per batch.
    pub batch_size: Option<u32>,
    /// The rules of comparing strings.
    pub collation: Option<Document>,
    /// Which data may be read: `majority`, which is the default, alone works.
    pub read_concern: Option<ReadConcern>,
    /// Which members may answer; default: that of the collection, database or client.
    pub selection_criteria: Option<SelectionCriteria>,
    /// A remark for logs and the profiler.
    pub comment: Option<Bson>,
}

/// Whether updates come with the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullDocumentType {
    /// They do not.
    Default,
    /// As it is when it is looked up.
    UpdateLookup,
    /// As it was right after, if that is known.
    WhenAvailable,
    /// As it was right after; an error if that is not known.
    Required,
    /// Any other.
    Other(String),
}

impl FullDocumentType {
    /// As the stage carries it.
    pub fn as_str(&self) -> &str {
        match self {
            FullDocumentType::Default => "default",
            FullDocumentType::UpdateLookup => "updateLookup",
            FullDocumentType::WhenAvailable => "whenAvailable",
            FullDocumentType::Required => "required",
            FullDocumentType::Other(other) => other,
        }
    }
}

impl From<&str> for FullDocumentType {
    fn from(name: &str) -> Self {
        match name {
            "default" => FullDocumentType::Default,
            "updateLookup" => FullDocumentType::UpdateLookup,
            "whenAvailable" => FullDocumentType::WhenAvailable,
            "required" => FullDocumentType::Required,
            other => FullDocumentType::Other(other.to_owned()),
        }
    }
}

/// Whether changes come with the document as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullDocumentBeforeChangeType {
    /// If that is known.
    WhenAvailable,
    /// Yes; an error if that is not known.
    Required,
    /// They do not.
    Off,
    /// Any other.
    Other(String),
}

impl FullDocumentBeforeChangeType {
    /// As the stage carries it.
    pub fn as_str(&self) -> &str {
        match self {
            FullDocumentBeforeChangeType::WhenAvailable => "whenAvailable",
            FullDocumentBeforeChangeType::Required => "required",
            FullDocumentBeforeChangeType::Off => "off",
            FullDocumentBeforeChangeType::Other(other) => other,
        }
    }
}

impl From<&str> for FullDocumentBeforeChangeType {
    fn from(name: &str) -> Self {
        match name {
            "whenAvailable" => FullDocumentBeforeChangeType::WhenAvailable,
            "required" => FullDocumentBeforeChangeType::Required,
            "off" => FullDocumentBeforeChangeType::Off,
            other => FullDocumentBeforeChangeType::Other(other.to_owned()),
        }
    }
}
