//! One file and one seed give one history: twice in one process, and once in another.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::Command;

use stepdown::scenario::{RunOptions, Scenario};

fn fixtures() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let entries = std::fs::read_dir(folder).expect("there are fixtures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

/// The timeline and the JSON Lines of a run in this process.
fn run_here(file: &Path, seed: u64) -> (String, String) {
    let text = std::fs::read_to_string(file).expect("the fixture can be read");
    let name = file.display().to_string();
    let scenario = Scenario::parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
    let outcome = scenario.run(&RunOptions::default().seed(seed));
    assert!(outcome.held(), "{name}: {:?}", outcome.failures());
    (outcome.timeline().to_string(), outcome.json_lines())
}

fn run_elsewhere(file: &Path, seed: u64, format: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .arg("run")
        .arg(file)
        .args(["--seed", &seed.to_string(), "--format", format])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a timeline is UTF-8")
}

#[test]
fn every_fixture_gives_the_same_bytes_twice_here_and_once_elsewhere() {
    for file in fixtures() {
        let first = run_here(&file, 1);
        assert_eq!(first, run_here(&file, 1), "{}", file.display());
        assert_eq!(first.0, run_elsewhere(&file, 1, "text"), "{}", file.display());
        assert_eq!(first.1, run_elsewhere(&file, 1, "jsonl"), "{}", file.display());
    }
}

#[test]
fn another_seed_gives_another_history_that_also_holds() {
    for file in fixtures() {
        assert_ne!(run_here(&file, 1).0, run_here(&file, 2).0, "{}", file.display());
    }
}
