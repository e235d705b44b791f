//! Scenario files: a story in TOML, run in a world, its record compared byte for byte.
//!
//! A file names its set and its seed, then tells what happens step by step: faults, waits, what
//! clients ask and what must come of it. `docs/scenarios.md` describes every key.

use std::fmt;
use std::sync::Arc;

mod diagnostic;
mod expectations;
mod format;
mod parse;
mod reader;
mod steps;

pub use diagnostic::{Problem, ScenarioError};

/// A scenario file, read and understood.
pub struct Scenario {
    source_name: Arc<str>,
    parsed: parse::Parsed,
}

impl Scenario {
    /// Reads the text of a scenario file; `source_name` is what messages call it.
    ///
    /// # Errors
    /// Every mistake in the file, with line and column.
    pub fn parse(source_name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let source_name: Arc<str> = source_name.into();
        let parsed = parse::parse(&source_name, text)?;
        Ok(Scenario { source_name, parsed })
    }

    /// The file's name, as it was given.
    pub fn source_name(&self) -> &str {
        &self.source_name
    }

    /// What the story is called.
    pub fn title(&self) -> &str {
        &self.parsed.title
    }

    /// What the story shows.
    pub fn about(&self) -> &str {
        &self.parsed.about
    }

    /// The seed the file gives; 1 if it gives none.
    pub fn seed(&self) -> u64 {
        self.parsed.seed
    }

    /// How many steps it has.
    pub fn step_count(&self) -> usize {
        self.parsed.steps.len()
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("source_name", &self.source_name)
            .field("title", &self.parsed.title)
            .field("seed", &self.parsed.seed)
            .field("set", &self.parsed.set)
            .field("steps", &self.parsed.steps)
            .finish()
    }
}
