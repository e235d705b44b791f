//! Scenario files with a table `[checked]`: a plan of an exploration, played and judged as there.

use std::sync::Arc;

use super::diagnostic::Diagnostics;
use super::{Failure, Outcome, RunOptions, ScenarioError, parse};
use crate::explore::file::{self, CheckedFile};
use crate::explore::{Plan, play};

/// Reads such a file; `None` if it is a story of the other kind.
pub(super) fn read(
    source_name: &Arc<str>,
    text: &str,
) -> Option<Result<(parse::Parsed, Plan), ScenarioError>> {
    let read = file::read(text)?;
    let mut diagnostics = Diagnostics::new(text);
    Some(match read {
        Ok(CheckedFile { title, about, plan }) => {
            let header = format!(
                "title = {title:?}\nabout = {about:?}\nseed = {}\n\n[[step]]\nnote = \"a plan\"\n",
                plan.seed
            );
            parse::parse(source_name, &header).map(|parsed| (parsed, plan))
        }
        Err(mistake) => {
            diagnostics.problem(&mistake.span, mistake.message, None);
            Err(ScenarioError::new(source_name.clone(), diagnostics.into_problems()))
        }
    })
}

/// Plays the plan; what an exploration would report is the one failure.
pub(super) fn run(source_name: &Arc<str>, plan: &Plan, options: &RunOptions) -> Outcome {
    let mut plan = plan.clone();
    plan.seed = options.seed.unwrap_or(plan.seed);
    let played = play(&plan, options.record);
    let failure = played.finding.map(|finding| Failure {
        source_name: source_name.clone(),
        step: 0,
        line: 1,
        expected: format!("that {}", finding.rule),
        seen: format!("at {} s: {}", finding.at, finding.what.trim_end()),
    });
    Outcome {
        events: played.events,
        timeline: played.timeline,
        failures: failure.into_iter().collect(),
    }
}
