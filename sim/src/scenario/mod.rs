//! Scenario files: a story in TOML, run in a world, its record compared byte for byte.
//!
//! A file names its set and its seed, then tells what happens step by step: faults, waits, what
//! clients ask and what must come of it. `docs/scenarios.md` describes every key.

use std::fmt;
use std::sync::Arc;

mod checked;
mod checks;
mod client;
mod describe;
mod diagnostic;
mod expectations;
mod faults;
mod format;
mod judge;
mod operations;
mod parse;
mod play;
mod reader;
mod recorded;
mod run;
mod sessions;
mod steps;

pub use diagnostic::{Problem, ScenarioError};
pub use recorded::{Departure, from_recorded, recorded_path, to_recorded};

use crate::trace::{self, Event, Filter, Record};

/// A scenario file, read and understood.
pub struct Scenario {
    source_name: Arc<str>,
    parsed: parse::Parsed,
    /// Of a file with a table `[checked]`.
    plan: Option<crate::explore::Plan>,
}

impl Scenario {
    /// Reads the text of a scenario file; `source_name` is what messages call it.
    ///
    /// # Errors
    /// Every mistake in the file, with line and column.
    pub fn parse(source_name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let source_name: Arc<str> = source_name.into();
        if let Some(checked) = checked::read(&source_name, text) {
            let (parsed, plan) = checked?;
            return Ok(Scenario { source_name, parsed, plan: Some(plan) });
        }
        let parsed = parse::parse(&source_name, text)?;
        Ok(Scenario { source_name, parsed, plan: None })
    }

    /// A JSON Schema (2020-12) of scenario files, for editors: completion, and mistakes marked while
    /// one types. What a schema cannot say, such as which names earlier steps introduced, is left to
    /// [`Scenario::parse`].
    pub const JSON_SCHEMA: &'static str = include_str!("schema.json");

    /// Runs the story in a world of its own: the same bytes each time for the same seed.
    pub fn run(&self, options: &RunOptions) -> Outcome {
        match &self.plan {
            Some(plan) => checked::run(&self.source_name, plan, options),
            None => run::run(self, options),
        }
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
        self.plan.as_ref().map_or(self.parsed.steps.len(), crate::explore::step_count)
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

/// How to run a scenario.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RunOptions {
    /// The seed, instead of the file's.
    pub seed: Option<u64>,
    /// How much to record.
    pub record: Record,
}

impl RunOptions {
    /// Another seed than the file's.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How much to record.
    #[must_use]
    pub fn record(mut self, record: Record) -> Self {
        self.record = record;
        self
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    events: Vec<Event>,
    timeline: String,
    failures: Vec<Failure>,
}

impl Outcome {
    /// Whether every expectation held.
    pub fn held(&self) -> bool {
        self.failures.is_empty()
    }

    /// What did not hold. The first failure ends a run, so there is at most one.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The record as aligned text.
    pub fn timeline(&self) -> &str {
        &self.timeline
    }

    /// The part of the record that `filter` picks, as aligned text.
    pub fn timeline_of(&self, filter: &Filter) -> String {
        trace::timeline(self.events.iter().filter(|event| filter.shows(event)))
    }

    /// The record as JSON Lines.
    pub fn json_lines(&self) -> String {
        trace::json_lines(&self.events)
    }

    /// The record: what happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    source_name: Arc<str>,
    step: usize,
    line: usize,
    expected: String,
    seen: String,
}

impl Failure {
    /// The step's number, from 1; 0 is the set's election before the first step.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The line of the file that says it.
    pub fn line(&self) -> usize {
        self.line
    }

    /// What was expected.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was seen.
    pub fn seen(&self) -> &str {
        &self.seen
    }
}

impl fmt::Display for Failure {
    /// `file:line: step 7: expected this, saw that`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { source_name, step, line, expected, seen } = self;
        write!(f, "{source_name}:{line}: step {step}: expected {expected}, saw {seen}")
    }
}
