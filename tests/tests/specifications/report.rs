//! What the run amounts to, specification by specification.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;

/// The environment variable that names a file to write one line of JSON per case to.
const VARIABLE: &str = "STEPDOWN_SPECIFICATIONS_REPORT";

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It failed, and how.
    Failed(String),
    /// It failed, as is known.
    KnownFailure(String),
    /// It was not run, and why.
    Skipped(String),
}

/// Collects verdicts. Clones are the same report.
#[derive(Clone, Default)]
pub struct Report {
    entries: Arc<Mutex<Vec<Entry>>>,
}

struct Entry {
    spec: String,
    file: String,
    case: String,
    verdict: Verdict,
}

#[derive(Default)]
struct Row<'a> {
    files: BTreeSet<&'a str>,
    passed: usize,
    failed: usize,
    known: usize,
    skipped: usize,
    reasons: BTreeMap<&'a str, usize>,
}

impl Report {
    /// Notes what became of a case of a file (`specification/path`).
    pub fn add(&self, file: &str, case: &str, verdict: Verdict) {
        let spec = file.split('/').next().unwrap_or(file).to_owned();
        let (file, case) = (file.to_owned(), case.to_owned());
        self.lock().push(Entry { spec, file, case, verdict });
    }

    /// The table, and why cases were skipped.
    pub fn render(&self) -> String {
        let entries = self.lock();
        let mut rows: BTreeMap<&str, Row<'_>> = BTreeMap::new();
        for entry in entries.iter() {
            let row = rows.entry(&entry.spec).or_default();
            row.files.insert(&entry.file);
            match &entry.verdict {
                Verdict::Passed => row.passed += 1,
                Verdict::Failed(_) => row.failed += 1,
                Verdict::KnownFailure(_) => row.known += 1,
                Verdict::Skipped(reason) => {
                    row.skipped += 1;
                    *row.reasons.entry(reason).or_default() += 1;
                }
            }
        }
        let mut text = String::new();
        let mut line = |name: &str, files: usize, row: &Row<'_>| {
            let cases = row.passed + row.failed + row.known + row.skipped;
            let _infallible = writeln!(
                text,
                "{name:38} {files:6} {cases:6} {:7} {:7} {:7} {:8}",
                row.passed, row.failed, row.known, row.skipped
            );
            for (reason, count) in &row.reasons {
                let _infallible = writeln!(text, "    {count:5} skipped: {reason}");
            }
        };
        let mut all = Row::default();
        for (spec, row) in &rows {
            line(spec, row.files.len(), row);
            all.passed += row.passed;
            all.failed += row.failed;
            all.known += row.known;
            all.skipped += row.skipped;
        }
        line("all", rows.values().map(|row| row.files.len()).sum(), &all);
        format!(
            "\n{:38} {:>6} {:>6} {:>7} {:>7} {:>7} {:>8}\n{text}",
            "specification", "files", "cases", "passed", "failed", "known", "skipped"
        )
    }

    /// Writes one line of JSON per case where the environment asks for it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> std::io::Result<()> {
        let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) else {
            return Ok(());
        };
        let mut text = String::new();
        for entry in self.lock().iter() {
            let (verdict, detail) = match &entry.verdict {
                Verdict::Passed => ("passed", ""),
                Verdict::Failed(detail) => ("failed", detail.as_str()),
                Verdict::KnownFailure(detail) => ("known failure", detail.as_str()),
                Verdict::Skipped(detail) => ("skipped", detail.as_str()),
            };
            let line = json!({
                "specification": entry.spec,
                "file": entry.file,
                "case": entry.case,
                "verdict": verdict,
                "detail": detail,
            });
            let _infallible = writeln!(text, "{line}");
        }
        std::fs::write(path, text)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
