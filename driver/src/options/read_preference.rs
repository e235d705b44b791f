//! Which members may serve a read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document};

use crate::error::{Error, Result};
use crate::sdam::ServerDescription;

/// Names and values a member must have among its tags.
pub type TagSet = BTreeMap<String, String>;

/// Which members may serve a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReadPreference {
    /// The primary alone.
    #[default]
    Primary,
    /// Secondaries alone.
    Secondary {
        /// Which of them.
        options: ReadPreferenceOptions,
    },
    /// The primary, or secondaries if there is none.
    PrimaryPreferred {
        /// Which of the secondaries.
        options: ReadPreferenceOptions,
    },
    /// Secondaries, or the primary if there is none.
    SecondaryPreferred {
        /// Which of the secondaries.
        options: ReadPreferenceOptions,
    },
    /// Any member that is near.
    Nearest {
        /// Which of them.
        options: ReadPreferenceOptions,
    },
}

/// What narrows a read preference down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadPreferenceOptions {
    /// Tag sets, tried in order; the first that any member matches counts.
    pub tag_sets: Option<Vec<TagSet>>,
    /// How far behind the primary a secondary may be; at least 90 s.
    pub max_staleness: Option<Duration>,
    /// Hedged reads on a sharded cluster.
    pub hedge: Option<HedgedReadOptions>,
}

impl ReadPreferenceOptions {
    /// Whether these options narrow nothing down.
    pub fn is_default(&self) -> bool {
        self.hedge.is_none()
            && self.max_staleness.is_none()
            && self.tag_sets.as_ref().is_none_or(|sets| sets.iter().all(BTreeMap::is_empty))
    }
}

/// Hedged reads on a sharded cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgedReadOptions {
    /// Whether mongos asks two members and takes the faster reply.
    pub enabled: bool,
}

impl HedgedReadOptions {
    /// Hedged reads switched on or off.
    pub fn with_enabled(enabled: bool) -> Self {
        HedgedReadOptions { enabled }
    }
}

/// The mode of a read preference, without what narrows it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadPreferenceMode {
    /// `primary`
    #[default]
    Primary,
    /// `primaryPreferred`
    PrimaryPreferred,
    /// `secondary`
    Secondary,
    /// `secondaryPreferred`
    SecondaryPreferred,
    /// `nearest`
    Nearest,
}

impl ReadPreferenceMode {
    /// The mode as connection strings and commands carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadPreferenceMode::Primary => "primary",
            ReadPreferenceMode::PrimaryPreferred => "primaryPreferred",
            ReadPreferenceMode::Secondary => "secondary",
            ReadPreferenceMode::SecondaryPreferred => "secondaryPreferred",
            ReadPreferenceMode::Nearest => "nearest",
        }
    }
}

impl FromStr for ReadPreferenceMode {
    type Err = Error;
    /// Case does not matter, as the drivers agree on.
    fn from_str(name: &str) -> Result<Self> {
        let all = [
            ReadPreferenceMode::Primary,
            ReadPreferenceMode::PrimaryPreferred,
            ReadPreferenceMode::Secondary,
            ReadPreferenceMode::SecondaryPreferred,
            ReadPreferenceMode::Nearest,
        ];
        all.into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::invalid_argument(format!("unknown read preference \"{name}\"")))
    }
}

impl ReadPreference {
    /// Mode primary.
    pub fn primary() -> Self {
        ReadPreference::Primary
    }

    /// Mode secondary, any of them.
    pub fn secondary() -> Self {
        ReadPreference::Secondary { options: ReadPreferenceOptions::default() }
    }

    /// Mode primaryPreferred.
    pub fn primary_preferred() -> Self {
        ReadPreference::PrimaryPreferred { options: ReadPreferenceOptions::default() }
    }

    /// Mode secondaryPreferred.
    pub fn secondary_preferred() -> Self {
        ReadPreference::SecondaryPreferred { options: ReadPreferenceOptions::default() }
    }

    /// Mode nearest.
    pub fn nearest() -> Self {
        ReadPreference::Nearest { options: ReadPreferenceOptions::default() }
    }

    /// The read preference of `mode` narrowed down by `options`.
    ///
    /// # Errors
    /// `InvalidArgument` if the mode is primary and the options narrow it down.
    pub fn from_parts(mode: ReadPreferenceMode, options: ReadPreferenceOptions) -> Result<Self> {
        Ok(match mode {
            ReadPreferenceMode::Primary if options.is_default() => ReadPreference::Primary,
            ReadPreferenceMode::Primary => {
                return Err(Error::invalid_argument(
                    "read preference primary takes no tags, maxStalenessSeconds or hedge",
                ));
            }
            ReadPreferenceMode::PrimaryPreferred => ReadPreference::PrimaryPreferred { options },
            ReadPreferenceMode::Secondary => ReadPreference::Secondary { options },
            ReadPreferenceMode::SecondaryPreferred => {
                ReadPreference::SecondaryPreferred { options }
            }
            ReadPreferenceMode::Nearest => ReadPreference::Nearest { options },
        })
    }

    /// The mode.
    pub fn mode(&self) -> ReadPreferenceMode {
        match self {
            ReadPreference::Primary => ReadPreferenceMode::Primary,
            ReadPreference::Secondary { .. } => ReadPreferenceMode::Secondary,
            ReadPreference::PrimaryPreferred { .. } => ReadPreferenceMode::PrimaryPreferred,
            ReadPreference::SecondaryPreferred { .. } => ReadPreferenceMode::SecondaryPreferred,
            ReadPreference::Nearest { .. } => ReadPreferenceMode::Nearest,
        }
    }

    /// What narrows it down; `None` for mode primary.
    pub fn options(&self) -> Option<&ReadPreferenceOptions> {
        match self {
            ReadPreference::Primary => None,
            ReadPreference::Secondary { options }
            | ReadPreference::PrimaryPreferred { options }
            | ReadPreference::SecondaryPreferred { options }
            | ReadPreference::Nearest { options } => Some(options),
        }
    }

    /// The same preference for members that are at most `staleness` behind.
    ///
    /// # Errors
    /// `InvalidArgument` for mode primary.
    pub fn with_max_staleness(self, staleness: Duration) -> Result<Self> {
        self.with_options(|options| options.max_staleness = Some(staleness))
    }

    /// The same preference for members with these tags.
    ///
    /// # Errors
    /// `InvalidArgument` for mode primary, unless all sets are empty.
    pub fn with_tag_sets(self, tag_sets: Vec<TagSet>) -> Result<Self> {
        self.with_options(|options| options.tag_sets = Some(tag_sets))
    }

    fn with_options(self, change: impl FnOnce(&mut ReadPreferenceOptions)) -> Result<Self> {
        let mut options = self.options().cloned().unwrap_or_default();
        change(&mut options);
        ReadPreference::from_parts(self.mode(), options)
    }

    /// As a command carries it in `$readPreference`.
    pub fn to_document(&self) -> Document {
        let mut document = Document::new();
        document.insert("mode", self.mode().as_str());
        let Some(options) = self.options() else { return document };
        if let Some(tag_sets) = &options.tag_sets {
            let sets = tag_sets.iter().map(|set| {
                Bson::Document(set.iter().map(|(k, v)| (k.clone(), Bson::from(v))).collect())
            });
            document.insert("tags", Bson::Array(sets.collect()));
        }
        if let Some(staleness) = options.max_staleness {
            let seconds = i64::try_from(staleness.as_secs()).unwrap_or(i64::MAX);
            document.insert("maxStalenessSeconds", seconds);
        }
        if let Some(hedge) = &options.hedge {
            document.insert("hedge", bson::doc! { "enabled": hedge.enabled });
        }
        document
    }
}

/// A function that says of one server whether it may be used.
pub type Predicate = Arc<dyn Fn(&ServerDescription) -> bool + Send + Sync>;

/// A function that is shown all available servers and gives back those that may be used.
pub type ServerSelector =
    Arc<dyn Fn(Vec<Arc<ServerDescription>>) -> Vec<Arc<ServerDescription>> + Send + Sync>;

/// How the server of an operation is chosen. The latency window applies afterwards.
#[derive(Clone)]
#[non_exhaustive]
pub enum SelectionCriteria {
    /// By a read preference.
    ReadPreference(ReadPreference),
    /// By a function that is asked about each server that is available.
    Predicate(Predicate),
    /// By a function that is shown all servers that are available, and can rank them.
    Selector(ServerSelector),
}

impl Default for SelectionCriteria {
    fn default() -> Self {
        SelectionCriteria::ReadPreference(ReadPreference::Primary)
    }
}

impl From<ReadPreference> for SelectionCriteria {
    fn from(preference: ReadPreference) -> Self {
        SelectionCriteria::ReadPreference(preference)
    }
}

impl SelectionCriteria {
    /// The read preference, if this is one.
    pub fn as_read_preference(&self) -> Option<&ReadPreference> {
        match self {
            SelectionCriteria::ReadPreference(preference) => Some(preference),
            _ => None,
        }
    }
}

impl fmt::Debug for SelectionCriteria {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SelectionCriteria::ReadPreference(preference) => preference.fmt(f),
            SelectionCriteria::Predicate(_) => f.write_str("Predicate(..)"),
            SelectionCriteria::Selector(_) => f.write_str("Selector(..)"),
        }
    }
}
