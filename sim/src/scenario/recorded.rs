//! Recorded timelines: what a scenario's run looked like when somebody last looked at it and agreed.
//!
//! A record lies beside its scenario, in the folder `timelines`: `stories/failover.toml` has
//! `stories/timelines/failover.snap`. It is a snapshot file of the crate insta, so that
//! `cargo insta review` and `stepdown record` keep the same files.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::trace::FORMAT_VERSION;

/// Where the record of the scenario file at `scenario` lies.
pub fn recorded_path(scenario: &Path) -> PathBuf {
    let folder = scenario.parent().unwrap_or(Path::new(""));
    let stem = scenario.file_stem().unwrap_or_default().to_string_lossy();
    folder.join("timelines").join(format!("{stem}.snap"))
}

/// The text of a record: `timeline` under a head that says of what, and in which format.
pub fn to_recorded(source_name: &str, timeline: &str) -> String {
    format!(
        "---\nsource: {source_name}\ndescription: stepdown timeline {FORMAT_VERSION}\n---\n{}\n",
        timeline.trim_end()
    )
}

/// The timeline in the text of a record; `None` if it has no head.
pub fn from_recorded(text: &str) -> Option<&str> {
    let body = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n"))?;
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        at += line.len();
        if line.trim_end() == "---" {
            return Some(&body[at..]);
        }
    }
    None
}

/// Where a timeline first leaves its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The line of the timeline, from 1.
    pub line: usize,
    /// The lines before it that both have, at most three.
    pub before: Vec<String>,
    /// What the record goes on with, at most five lines.
    pub recorded: Vec<String>,
    /// What the run goes on with, at most five lines.
    pub seen: Vec<String>,
}

impl Departure {
    /// Compares a run's timeline with the recorded one; `None` if they are the same.
    pub fn between(recorded: &str, seen: &str) -> Option<Departure> {
        let recorded: Vec<&str> = recorded.trim_end().lines().collect();
        let seen: Vec<&str> = seen.trim_end().lines().collect();
        let same = recorded.iter().zip(&seen).take_while(|(one, other)| one == other).count();
        if same == recorded.len() && same == seen.len() {
            return None;
        }
        let some = |lines: &[&str], from: usize, count: usize| {
            lines.iter().skip(from).take(count).map(ToString::to_string).collect()
        };
        Some(Departure {
            line: same + 1,
            before: some(&recorded, same.saturating_sub(3), same.min(3)),
            recorded: some(&recorded, same, 5),
            seen: some(&seen, same, 5),
        })
    }
}

impl fmt::Display for Departure {
    /// The lines around the place, as a diff shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "line {} of the timeline is not as recorded:", self.line)?;
        for line in &self.before {
            writeln!(f, "      {line}")?;
        }
        let nothing = "(the end)".to_string();
        let or_end = |lines: &[String]| match lines {
            [] => vec![nothing.clone()],
            lines => lines.to_vec(),
        };
        for line in or_end(&self.recorded) {
            writeln!(f, "    - {line}")?;
        }
        for line in or_end(&self.seen) {
            writeln!(f, "    + {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_the_timeline_it_was_made_of() {
        let timeline = "    0.000000  a:27017  --- starts\n    1.000000  a:27017  stops\n";
        let text = to_recorded("stories/one.toml", timeline);
        assert_eq!(from_recorded(&text), Some(timeline));
        assert_eq!(from_recorded(timeline), None);
        assert_eq!(
            recorded_path(Path::new("stories/one.toml")),
            Path::new("stories/timelines/one.snap")
        );
    }

    #[test]
    fn a_departure_shows_where_and_what() {
        let recorded = "one\ntwo\nthree\nfour\nfive\n";
        assert_eq!(Departure::between(recorded, recorded.trim_end()), None);
        let departure = Departure::between(recorded, "one\ntwo\nthree\nfour\n").unwrap();
        assert_eq!(
            departure.to_string(),
            "line 5 of the timeline is not as recorded:
      two
      three
      four
    - five
    + (the end)
"
        );
    }
}
