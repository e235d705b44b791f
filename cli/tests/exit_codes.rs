//! What `stepdown` says with its exit code, and where it says the rest.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::{Command, Output};

fn stepdown(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepdown"));
    command.args(arguments).env_remove("STEPDOWN_CONTROL");
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// A scenario file of these lines, below a header of three.
fn scenario(name: &str, steps: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let header = "title = \"A test\"\nabout = \"Of exit codes.\"\nset.elected = true\n";
    std::fs::write(&path, format!("{header}{steps}")).expect("the file can be written");
    path.display().to_string()
}

fn fixture(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../fixtures").join(name).display().to_string()
}

#[test]
fn a_story_that_holds_exits_with_0_and_prints_its_timeline() {
    let held = stepdown(&["run", &scenario("holds.toml", "[[step]]\nwait_for = \"primary\"\n")]);
    assert_eq!(held.status.code(), Some(0), "{}", text(&held.stderr));
    assert!(text(&held.stdout).contains("the story held"), "{}", text(&held.stdout));
    assert_eq!(text(&held.stderr), "");
}

#[test]
fn a_failed_expectation_exits_with_1_and_says_step_line_expected_and_seen() {
    let file = scenario("fails.toml", "\n[[step]]\nexpect = { primary = \"none\" }\n");
    let failed = stepdown(&["run", &file]);
    assert_eq!(failed.status.code(), Some(1));
    let said = text(&failed.stderr);
    let expected = format!("{file}:6: step 1: expected the primary is none, saw the primary is ");
    assert!(said.starts_with(&expected), "{said}");
    assert!(text(&failed.stdout).contains("FAILED"), "{}", text(&failed.stdout));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["run"][..],
        &["run", "x.toml", "--format", "xml"],
        &["dance"],
        &["serve", "--members", "0"],
        &["serve", "--speed", "fast"],
        &["ctl"],
    ] {
        let wrong = stepdown(arguments);
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}: {}", text(&wrong.stderr));
    }
}

#[test]
fn a_wrong_file_exits_with_3_and_says_line_and_column() {
    let file = scenario("wrong.toml", "\n[[step]]\nkill = \"primry\"\n");
    let wrong = stepdown(&["run", &file]);
    assert_eq!(wrong.status.code(), Some(3));
    assert_eq!(
        text(&wrong.stderr),
        format!("{file}:6:8: no member is named `primry`\n    hint: did you mean `primary`?\n")
    );
    assert_eq!(text(&wrong.stdout), "");
    assert_eq!(stepdown(&["run", "no-such-file.toml"]).status.code(), Some(3));
}

#[test]
fn both_formats_print_the_same_story() {
    let file = fixture("failover.toml");
    let lines = stepdown(&["run", &file, "--format", "jsonl"]);
    assert_eq!(lines.status.code(), Some(0), "{}", text(&lines.stderr));
    let lines = text(&lines.stdout);
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(value.is_object(), "{line}");
    }
    let timeline = text(&stepdown(&["run", &file]).stdout);
    // JSON Lines begin with a line that names the format.
    assert_eq!(timeline.lines().count() + 1, lines.lines().count());
}

#[test]
fn a_recorded_story_is_checked_and_a_changed_one_is_noticed_and_accepted() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("recorded-stories");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let file = folder.join("one.toml");
    let story = "title = \"One\"\nabout = \"Of records.\"\nset.elected = true\n\n[[step]]\nadvance = \"1s\"\n";
    std::fs::write(&file, story).expect("the file can be written");
    let folder = folder.display().to_string();

    let unrecorded = stepdown(&["run", &folder, "--check"]);
    assert_eq!(unrecorded.status.code(), Some(1));
    assert!(text(&unrecorded.stderr).contains("stepdown record"), "{}", text(&unrecorded.stderr));

    let recorded = stepdown(&["record", &folder]);
    assert_eq!(recorded.status.code(), Some(0), "{}", text(&recorded.stderr));
    assert!(text(&recorded.stdout).starts_with("recorded "), "{}", text(&recorded.stdout));
    let checked = stepdown(&["run", &folder, "--check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).starts_with("ok "), "{}", text(&checked.stdout));
    assert!(text(&stepdown(&["record", &folder]).stdout).starts_with("unchanged "));

    std::fs::write(&file, story.replace("1s", "2s")).expect("the file can be written");
    let changed = stepdown(&["run", &folder, "--check"]);
    assert_eq!(changed.status.code(), Some(1));
    let said = text(&changed.stderr);
    assert!(said.contains("is not as recorded"), "{said}");
    assert!(said.contains("- ") && said.contains("step 1: 1s pass"), "{said}");
    assert_eq!(stepdown(&["record", &folder]).status.code(), Some(0));
    assert_eq!(stepdown(&["run", &folder, "--check"]).status.code(), Some(0));
}

#[test]
fn a_story_that_does_not_hold_is_not_recorded() {
    let file = scenario("unheld.toml", "\n[[step]]\nexpect = { primary = \"none\" }\n");
    let refused = stepdown(&["record", &file]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!PathBuf::from(file).with_file_name("timelines").join("unheld.snap").exists());
}

#[test]
fn a_timeline_can_be_narrowed_by_category_name_and_time() {
    let file = fixture("failover.toml");
    let narrowed =
        stepdown(&["run", &file, "--only", "elections", "--who", "a:27017", "--until", "5.5"]);
    let narrowed = text(&narrowed.stdout);
    assert!(narrowed.contains("installs config version 1"), "{narrowed}");
    assert!(narrowed.lines().all(|line| line.contains("a:27017")), "{narrowed}");
    let later = text(&stepdown(&["run", &file, "--since", "5.5"]).stdout);
    assert!(!later.contains("    0.0"), "{later}");
    assert_eq!(stepdown(&["run", &file, "--since", "soon"]).status.code(), Some(2));
}

#[test]
fn a_run_can_be_drawn_in_three_forms() {
    let file = fixture("failover.toml");
    let drawn = |form| text(&stepdown(&["run", &file, "--export", form]).stdout);
    assert!(drawn("lamport-svg").contains("replSetRequestVotes"));
    assert!(drawn("shiviz").contains("{\"a:27017\":1}"));
    let perfetto: serde_json::Value =
        serde_json::from_str(&drawn("perfetto")).expect("Perfetto reads JSON");
    assert!(perfetto["traceEvents"].as_array().is_some_and(|events| events.len() > 100));
    let routine = text(&stepdown(&["run", &file, "--export", "shiviz", "--routine"]).stdout);
    assert!(routine.contains("replSetHeartbeat"));
}

#[test]
fn ctl_exits_with_1_where_nobody_listens() {
    // Port 1 is nobody's.
    let refused = stepdown(&["ctl", "--control", "1", "members"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).starts_with("stepdown ctl: "), "{}", text(&refused.stderr));
}
