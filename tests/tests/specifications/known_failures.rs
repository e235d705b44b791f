//! The cases that are known to fail, and why: a budget that may shrink, and must not grow.
//!
//! A line that begins with `#` is the reason for the cases in the lines below it. A listed case that
//! fails is no error; one that passes is, until it is taken off the list: by hand, or by a run with
//! `STEPDOWN_KNOWN_FAILURES=prune`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Where the list is, from the folder of this crate.
const FILE: &str = "../fixtures/specifications/known-failures.txt";

/// The environment variable that, set to `prune`, has cases that pass taken off the list.
const VARIABLE: &str = "STEPDOWN_KNOWN_FAILURES";

/// The list: the reason by `file::case`.
#[derive(Default)]
pub struct KnownFailures {
    text: String,
    reasons: BTreeMap<String, String>,
    passed: Mutex<BTreeSet<String>>,
}

impl KnownFailures {
    /// Reads the list.
    ///
    /// # Errors
    /// It cannot be read, or a case has no reason.
    pub fn read() -> Result<Self, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        KnownFailures::parse(text)
    }

    fn parse(text: String) -> Result<Self, String> {
        let mut reason = None;
        let mut reasons = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match (line.strip_prefix('#'), &reason) {
                (Some(text), _) => reason = Some(text.trim().to_owned()),
                (None, Some(reason)) => {
                    if reasons.insert(line.to_owned(), reason.clone()).is_some() {
                        return Err(format!("{line} is listed twice"));
                    }
                }
                (None, None) => return Err(format!("{line} has no reason")),
            }
        }
        Ok(KnownFailures { text, reasons, passed: Mutex::default() })
    }

    /// Why a case (`file::case`) is known to fail.
    pub fn reason(&self, case: &str) -> Option<&str> {
        self.reasons.get(case).map(String::as_str)
    }

    /// A listed case passed. Returns whether that is fine, because the list is being pruned.
    pub fn passed(&self, case: &str) -> bool {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).insert(case.to_owned());
        std::env::var(VARIABLE).is_ok_and(|value| value == "prune")
    }

    /// Takes the cases that passed off the list, and reasons without cases, if that was asked for.
    ///
    /// # Errors
    /// The list cannot be written.
    pub fn prune(&self) -> std::io::Result<()> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.is_empty() || !std::env::var(VARIABLE).is_ok_and(|value| value == "prune") {
            return Ok(());
        }
        let mut kept = String::new();
        for group in self.text.split("\n\n") {
            let lines = group.lines().map(str::trim).filter(|line| !passed.contains(*line));
            let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
            if lines.iter().any(|line| !line.starts_with('#')) {
                kept.push_str(&lines.join("\n"));
                kept.push_str("\n\n");
            }
        }
        std::fs::write(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE),
            kept.trim_end().to_owned() + "\n",
        )
    }
}
