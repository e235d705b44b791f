//! The fixtures tell their stories, at more seeds than their own, and their recorded timelines.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use stepdown::scenario::{RunOptions, Scenario};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// All scenario files.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("there are fixtures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 14, "{files:?}");
    files
}

#[test]
fn every_story_is_told_as_it_was_recorded() {
    stepdown::snapshot::assert_scenarios(folder());
}

#[test]
fn every_story_holds_at_other_seeds() {
    for file in files() {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).expect("it is there");
        let scenario = Scenario::parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
        for seed in 2..=3 {
            let outcome = scenario.run(&RunOptions::default().seed(seed));
            assert!(outcome.held(), "{name}: {:?}\n{}", outcome.failures(), outcome.timeline());
        }
    }
}

#[test]
fn a_world_of_ones_own_has_a_timeline_to_assert() {
    let sim = stepdown::Sim::builder().seed(7).members(1).build();
    sim.note("nothing is initiated");
    sim.advance(std::time::Duration::from_millis(1_500));
    sim.kill("a").expect("it runs");
    stepdown::assert_timeline!(sim, @r"
        0.000000  a:27017  mongod starts on an empty dbpath
        0.000000  world    -- nothing is initiated
        1.500000  a:27017  killed (kill -9)
    ");
    let faults = stepdown::trace::Filter::new().category(stepdown::trace::Category::Client);
    stepdown::assert_timeline!(sim, faults, @"    0.000000  world  -- nothing is initiated");
}

#[test]
fn a_record_outlives_the_tool_that_wrote_it() {
    // The same file, whether insta or `stepdown record` accepted it.
    for file in files() {
        let path = stepdown::scenario::recorded_path(&file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let timeline = stepdown::scenario::from_recorded(&text).expect("a record has a head");
        assert!(timeline.trim_end().ends_with("the story held"), "{path:?}");
    }
}
