//! Read concern and write concern.

use std::fmt;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::error::{Error, Result};

/// How committed what is read must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadConcern {
    /// The level.
    pub level: ReadConcernLevel,
}

impl ReadConcern {
    /// A read concern of `level`.
    pub fn new(level: ReadConcernLevel) -> Self {
        ReadConcern { level }
    }

    /// Level local: what the member has, be it rolled back later.
    pub fn local() -> Self {
        ReadConcern::new(ReadConcernLevel::Local)
    }

    /// Level majority: what a majority has acknowledged.
    pub fn majority() -> Self {
        ReadConcern::new(ReadConcernLevel::Majority)
    }

    /// Level linearizable: majority, and the member made sure that it still is the primary.
    pub fn linearizable() -> Self {
        ReadConcern::new(ReadConcernLevel::Linearizable)
    }

    /// Level available: as local, without regard to orphaned documents.
    pub fn available() -> Self {
        ReadConcern::new(ReadConcernLevel::Available)
    }

    /// Level snapshot: all from one majority-committed moment.
    pub fn snapshot() -> Self {
        ReadConcern::new(ReadConcernLevel::Snapshot)
    }

    /// A level this driver does not know.
    pub fn custom(level: impl Into<String>) -> Self {
        ReadConcern::new(ReadConcernLevel::Custom(level.into()))
    }

    /// As a command carries it.
    pub fn to_document(&self) -> Document {
        doc! { "level": self.level.as_str() }
    }
}

impl From<ReadConcernLevel> for ReadConcern {
    fn from(level: ReadConcernLevel) -> Self {
        ReadConcern::new(level)
    }
}

/// The level of a read concern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadConcernLevel {
    /// `local`
    Local,
    /// `majority`
    Majority,
    /// `linearizable`
    Linearizable,
    /// `available`
    Available,
    /// `snapshot`
    Snapshot,
    /// Any other.
    Custom(String),
}

impl ReadConcernLevel {
    /// The level as a command carries it.
    pub fn as_str(&self) -> &str {
        match self {
            ReadConcernLevel::Local => "local",
            ReadConcernLevel::Majority => "majority",
            ReadConcernLevel::Linearizable => "linearizable",
            ReadConcernLevel::Available => "available",
            ReadConcernLevel::Snapshot => "snapshot",
            ReadConcernLevel::Custom(level) => level,
        }
    }
}

impl From<&str> for ReadConcernLevel {
    fn from(level: &str) -> Self {
        match level {
            "local" => ReadConcernLevel::Local,
            "majority" => ReadConcernLevel::Majority,
            "linearizable" => ReadConcernLevel::Linearizable,
            "available" => ReadConcernLevel::Available,
            "snapshot" => ReadConcernLevel::Snapshot,
            other => ReadConcernLevel::Custom(other.to_owned()),
        }
    }
}

impl fmt::Display for ReadConcernLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many members must have a write before it is acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteConcern {
    /// Which members.
    pub w: Option<Acknowledgment>,
    /// How long the server waits for them; zero waits for ever.
    pub w_timeout: Option<Duration>,
    /// Whether they must have it in their journal.
    pub journal: Option<bool>,
}

impl WriteConcern {
    /// `w: nodes`.
    pub fn nodes(nodes: u32) -> Self {
        WriteConcern { w: Some(Acknowledgment::Nodes(nodes)), ..Default::default() }
    }

    /// `w: "majority"`.
    pub fn majority() -> Self {
        WriteConcern { w: Some(Acknowledgment::Majority), ..Default::default() }
    }

    /// A write concern the set's configuration defines (`settings.getLastErrorModes`).
    pub fn custom(name: impl Into<String>) -> Self {
        WriteConcern { w: Some(Acknowledgment::Custom(name.into())), ..Default::default() }
    }

    /// Whether the server replies to the write at all: false for `w: 0` without `journal: true`.
    pub fn is_acknowledged(&self) -> bool {
        self.w != Some(Acknowledgment::Nodes(0)) || self.journal == Some(true)
    }

    /// Whether nothing is said: commands then carry no write concern.
    pub fn is_empty(&self) -> bool {
        *self == WriteConcern::default()
    }

    /// Whether this can be asked for.
    ///
    /// # Errors
    /// `InvalidArgument` for `w: 0` with `journal: true`.
    pub fn validate(&self) -> Result<()> {
        if self.w == Some(Acknowledgment::Nodes(0)) && self.journal == Some(true) {
            return Err(Error::invalid_argument("w: 0 and journal: true exclude each other"));
        }
        Ok(())
    }

    /// As a command carries it.
    pub fn to_document(&self) -> Document {
        let mut document = Document::new();
        if let Some(w) = &self.w {
            document.insert("w", Bson::from(w.clone()));
        }
        if let Some(journal) = self.journal {
            document.insert("j", journal);
        }
        if let Some(timeout) = self.w_timeout {
            let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
            document.insert("wtimeout", millis);
        }
        document
    }
}

impl From<Acknowledgment> for WriteConcern {
    fn from(w: Acknowledgment) -> Self {
        WriteConcern { w: Some(w), ..Default::default() }
    }
}

/// Which members must have a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledgment {
    /// This many members, the primary among them.
    Nodes(u32),
    /// A majority of the voting members.
    Majority,
    /// Members with certain tags, as the set's configuration names them.
    Custom(String),
}

impl From<u32> for Acknowledgment {
    fn from(nodes: u32) -> Self {
        Acknowledgment::Nodes(nodes)
    }
}

impl From<&str> for Acknowledgment {
    fn from(name: &str) -> Self {
        match name {
            "majority" => Acknowledgment::Majority,
            other => Acknowledgment::Custom(other.to_owned()),
        }
    }
}

impl From<Acknowledgment> for Bson {
    fn from(w: Acknowledgment) -> Self {
        match w {
            Acknowledgment::Nodes(nodes) => match i32::try_from(nodes) {
                Ok(nodes) => Bson::Int32(nodes),
                Err(_) => Bson::Int64(i64::from(nodes)),
            },
            Acknowledgment::Majority => Bson::String("majority".to_owned()),
            Acknowledgment::Custom(name) => Bson::String(name),
        }
    }
}
