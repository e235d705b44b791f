//! What is wrong with a scenario file, where, and what would help.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Why a scenario file cannot be run: every mistake found, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    source_name: Arc<str>,
    problems: Vec<Problem>,
}

/// One mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line it is on, from 1.
    pub line: usize,
    /// The column it begins at, from 1, counted in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would help, if anything is known to.
    pub hint: Option<String>,
}

impl ScenarioError {
    /// Panics without a problem: an error has a cause.
    pub(crate) fn new(source_name: Arc<str>, mut problems: Vec<Problem>) -> Self {
        assert!(!problems.is_empty(), "a scenario error without a problem");
        problems.sort_by_key(|problem| (problem.line, problem.column));
        ScenarioError { source_name, problems }
    }

    /// The file's name, as it was given.
    pub fn source_name(&self) -> &str {
        &self.source_name
    }

    /// Every mistake found, in the order of the file; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ScenarioError {
    /// One `file:line:column: message` per mistake, its hint on an indented line below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Problem { line, column, message, hint } = problem;
            write!(f, "{}:{line}:{column}: {message}", self.source_name)?;
            if let Some(hint) = hint {
                write!(f, "\n    hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ScenarioError {}

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
}

/// Turns byte offsets into lines and columns, and gathers what is wrong.
pub(crate) struct Diagnostics<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Diagnostics<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Diagnostics { text, problems: Vec::new() }
    }

    /// The place of a byte offset; the end of the text for anything beyond it.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// Notes a mistake that begins where `span` begins.
    pub(crate) fn problem(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let position = self.position(span.start);
        self.problem_at(position, message, hint);
    }

    /// Notes a mistake at a place.
    pub(crate) fn problem_at(
        &mut self,
        at: Position,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.problems.push(Problem {
            line: at.line,
            column: at.column,
            message: message.into(),
            hint: hint.into(),
        });
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// The hint for an unknown word: the nearest known one if it is near, otherwise all of them.
pub(crate) fn suggest(word: &str, known: &[&str]) -> Option<String> {
    if let Some(near) = nearest(word, known) {
        return Some(format!("did you mean `{near}`?"));
    }
    match known {
        [] => None,
        [only] => Some(format!("known here: `{only}`")),
        _ => Some(format!("known here: {}", known.join(", "))),
    }
}

/// The known word with the fewest edits from `word`, if that is few enough to be a slip.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = 1 + word.chars().count() / 3;
    known
        .iter()
        .map(|candidate| (edits(&word.to_lowercase(), &candidate.to_lowercase()), *candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, in characters.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        let diagnostics = Diagnostics::new("a = 1\nä = 2\n");
        assert_eq!(diagnostics.position(0), Position { line: 1, column: 1 });
        assert_eq!(diagnostics.position(4), Position { line: 1, column: 5 });
        assert_eq!(diagnostics.position(6), Position { line: 2, column: 1 });
        assert_eq!(diagnostics.position(9), Position { line: 2, column: 3 });
        assert_eq!(diagnostics.position(999), Position { line: 3, column: 1 });
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_a_different_word_is_not() {
        let known = ["restart", "restart_empty", "resume"];
        assert_eq!(nearest("restrat", &known), Some("restart"));
        assert_eq!(nearest("Resume", &known), Some("resume"));
        assert_eq!(nearest("elephant", &known), None);
        assert_eq!(
            suggest("elephant", &known).as_deref(),
            Some("known here: restart, restart_empty, resume")
        );
    }
}
