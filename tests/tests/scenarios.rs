//! The fixtures tell their stories, at more seeds than their own, and their recorded timelines.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use stepdown::scenario::{RunOptions, Scenario};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// The names of all scenarios, without their ending.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("there are fixtures");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 14, "{names:?}");
    names
}

fn timeline_of(name: &str, options: &RunOptions) -> String {
    let text = std::fs::read_to_string(folder().join(format!("{name}.toml"))).expect("it is there");
    let scenario = Scenario::parse(&format!("fixtures/{name}.toml"), &text)
        .unwrap_or_else(|error| panic!("{error}"));
    let outcome = scenario.run(options);
    assert!(outcome.held(), "{name}: {:?}\n{}", outcome.failures(), outcome.timeline());
    outcome.timeline().to_string()
}

#[test]
fn every_story_is_told_as_it_was_recorded() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../fixtures/timelines");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for name in names() {
        let timeline = timeline_of(&name, &RunOptions::default());
        settings.bind(|| insta::assert_snapshot!(name, timeline));
    }
}

#[test]
fn every_story_holds_at_other_seeds() {
    for name in names() {
        for seed in 2..=3 {
            timeline_of(&name, &RunOptions::default().seed(seed));
        }
    }
}
