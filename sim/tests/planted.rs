//! Proof that the checkers check, a bounded sample of it: bugs planted in the server and in the driver
//! are found, each by the rule that it breaks, and what was found shrinks to a short scenario file that
//! still fails, and holds once the bug is gone.
//!
//! All of them: `cargo run --release -p stepdown --features planted-bugs --example planted`.

use stepdown::explore::planted::Bug;
use stepdown::explore::to_toml;
use stepdown::mongod::planted::ServerBug;
use stepdown::scenario::{RunOptions, Scenario};
use stepdown_driver::planted::DriverBug;

fn prove(bug: Bug, rule: &str, seeds: u64) {
    let proof =
        bug.prove(0..seeds, 12, 400).unwrap_or_else(|| panic!("{} was not found", bug.name()));
    assert_eq!(proof.rule, rule, "{}", bug.name());
    assert!(proof.shrunk.steps() <= 12, "{}: {} steps", bug.name(), proof.shrunk.steps());
    let text = to_toml(&proof.shrunk.plan, &bug.name(), "Found by exploration.");
    let scenario = Scenario::parse("found.toml", &text).expect("a scenario file");
    let outcome = bug.planted(|| scenario.run(&RunOptions::default()));
    assert!(!outcome.held(), "{}: its file holds:\n{text}", bug.name());
    let outcome = scenario.run(&RunOptions::default());
    assert_eq!(outcome.failures(), [], "{}: without the bug its file fails", bug.name());
}

#[test]
fn a_forgotten_vote_is_found() {
    prove(Bug::Server(ServerBug::ForgetsVote), "a vote survives a restart", 40);
}

#[test]
fn a_lost_journal_is_found() {
    prove(Bug::Server(ServerBug::LosesJournaled), "what is durable survives a crash", 40);
}

#[test]
fn an_entry_of_an_old_term_that_is_committed_is_found() {
    let rule = "a leader commits entries of its own term";
    prove(Bug::Server(ServerBug::CommitsOldTerm), rule, 80);
}

#[test]
fn a_write_concern_error_that_a_driver_ignores_is_found() {
    let rule = "what a majority acknowledged stays";
    prove(Bug::Driver(DriverBug::IgnoresWriteConcernError), rule, 200);
}
