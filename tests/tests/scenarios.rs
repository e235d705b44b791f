//! The fixtures tell their stories, and their recorded timelines.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use stepdown::scenario::{RunOptions, Scenario};

fn timeline_of(name: &str) -> String {
    let path = format!("{}/../fixtures/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the fixture can be read");
    let scenario = Scenario::parse(&format!("fixtures/{name}.toml"), &text)
        .unwrap_or_else(|error| panic!("{error}"));
    let outcome = scenario.run(&RunOptions::default());
    assert!(outcome.held(), "{:?}\n{}", outcome.failures(), outcome.timeline());
    outcome.timeline().to_string()
}

fn compare_with_recorded(name: &str) {
    let timeline = timeline_of(name);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../fixtures/timelines");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, timeline));
}

#[test]
fn failover() {
    compare_with_recorded("failover");
}

#[test]
fn balanced_reads() {
    compare_with_recorded("balanced-reads");
}

#[test]
fn the_example_of_the_manual_holds() {
    let manual = format!("{}/../docs/scenarios.md", env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(manual).expect("the manual can be read");
    let (_, example) = manual.split_once("```toml\n").expect("the manual has an example");
    let (example, _) = example.split_once("```").expect("the example ends");
    let scenario =
        Scenario::parse("docs/scenarios.md", example).unwrap_or_else(|error| panic!("{error}"));
    let outcome = scenario.run(&RunOptions::default());
    assert!(outcome.held(), "{:?}\n{}", outcome.failures(), outcome.timeline());
}
