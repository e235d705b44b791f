//! `stepdown explore` from the outside: the same results however many cores play, results that are gone
//! on with, shards that merge, exit codes.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Short storms: the results matter, not what is in them.
const STORM: [&str; 6] = ["--seeds", "0..120", "--duration", "4s", "--clients", "1"];

fn explore(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .arg("explore")
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    path
}

fn into_file(file: &Path, more: &[&str]) -> String {
    let results = ["--results", file.to_str().expect("a path in Unicode")];
    let output = explore(&[&STORM[..], &results[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    fs::read_to_string(file).expect("a result file")
}

#[test]
fn one_core_or_two_give_the_same_result_file() {
    let one = into_file(&scratch("one.jsonl"), &["--jobs", "1"]);
    let two = into_file(&scratch("two.jsonl"), &["--jobs", "2"]);
    assert_eq!(one, two);
    assert_eq!(one.lines().count(), 4, "a header and three chunks:\n{one}");
}

#[test]
fn a_search_that_was_stopped_goes_on_and_ends_with_the_same_file() {
    let file = scratch("stopped.jsonl");
    let whole = into_file(&file, &[]);
    let broken_off = &whole[..whole.len() * 2 / 3];
    fs::write(&file, broken_off).expect("the file can be written");
    assert_eq!(into_file(&file, &[]), whole);
    let other = explore(&["--seeds", "0..99", "--results", file.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(3), "a file of another search is refused");
}

#[test]
fn shards_merge_into_the_file_of_one_machine() {
    let whole = into_file(&scratch("whole.jsonl"), &[]);
    let (one, two) = (scratch("shard-1.jsonl"), scratch("shard-2.jsonl"));
    into_file(&one, &["--shard", "1/2"]);
    into_file(&two, &["--shard", "2/2"]);
    let merged = explore(&["merge", two.to_str().unwrap(), one.to_str().unwrap()]);
    assert!(merged.status.success());
    assert_eq!(String::from_utf8_lossy(&merged.stdout), whole);
}

#[test]
fn a_scenario_that_fails_is_found_and_told_with_a_replay_line() {
    let file = scratch("fails.toml");
    let story = "title = \"t\"\nabout = \"a\"\n\n[set]\nelected = true\n\n[[step]]\nexpect = { primary = \"none\" }\n";
    fs::write(&file, story).expect("the file can be written");
    let output = explore(&[file.to_str().unwrap(), "--seeds", "0..3"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert_eq!(stdout.matches("replay: stepdown run ").count(), 3, "{stdout}");
}

#[test]
fn a_wrong_word_is_wrong_usage() {
    let output = explore(&["--faults", "fire"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`fire` is none of swarm"));
}
