//! What the pages in `docs/` show as output is what the command prints.
//!
//! A block of this form is run from the repository's root and compared, line by line:
//!
//! ````text
//! ```console checked
//! $ stepdown run fixtures/failover.toml --only elections
//! ...
//! ```
//! ````
//!
//! A line `...` stands for any number of lines. `UPDATE_DOCS=1 cargo test -p stepdown-cli --test docs`
//! writes the present output into blocks that have no such line.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::Command;

const OPENING: &str = "```console checked";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `$ stepdown ARGUMENTS` prints: stdout, then stderr.
fn output_of(command: &str) -> String {
    let arguments = command
        .strip_prefix("$ stepdown ")
        .unwrap_or_else(|| panic!("a checked block begins with `$ stepdown`, not {command:?}"));
    let output = Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .args(arguments.split_whitespace())
        .current_dir(root())
        .output()
        .expect("the binary runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether `shown` is `printed`, where a line `...` stands for any number of lines.
fn is_shown_in(shown: &[&str], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((&"...", rest)) => {
            (0..=printed.len()).any(|skipped| is_shown_in(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed.split_first().is_some_and(|(first, others)| {
            line.trim_end() == first.trim_end() && is_shown_in(rest, others)
        }),
    }
}

/// Checks a page, and gives it back with the present outputs. Pushes what differs to `wrong`.
fn check(name: &str, text: &str, wrong: &mut Vec<String>) -> (String, usize) {
    let mut written = String::new();
    let mut count = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        written.push_str(line);
        written.push('\n');
        if line.trim_end() != OPENING {
            continue;
        }
        count += 1;
        let command = lines.next().unwrap_or_default();
        let shown: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let printed = output_of(command);
        let printed: Vec<&str> = printed.lines().collect();
        let elided = shown.contains(&"...");
        if !is_shown_in(&shown, &printed) {
            wrong.push(format!("{name}: {command}\n  prints:\n{}", printed.join("\n")));
        }
        written.push_str(command);
        for line in if elided { &shown } else { &printed } {
            written.push('\n');
            written.push_str(line.trim_end());
        }
        written.push_str("\n```\n");
    }
    (written, count)
}

#[test]
fn every_checked_block_of_the_pages_is_what_the_command_prints() {
    let entries = std::fs::read_dir(root().join("docs")).expect("there are pages");
    let mut pages: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    pages.push(root().join("README.md"));
    pages.sort();
    let (mut wrong, mut blocks) = (Vec::new(), 0);
    for page in &pages {
        let text = std::fs::read_to_string(page).expect("a page can be read");
        let (written, count) = check(&page.display().to_string(), &text, &mut wrong);
        blocks += count;
        if std::env::var_os("UPDATE_DOCS").is_some() && written != text {
            std::fs::write(page, written).expect("a page can be written");
        }
    }
    assert!(blocks >= 2, "only {blocks} checked blocks");
    assert!(wrong.is_empty(), "{}\n(UPDATE_DOCS=1 writes them)", wrong.join("\n\n"));
}

#[test]
fn three_dots_stand_for_any_lines() {
    assert!(is_shown_in(&["a", "...", "d"], &["a", "b", "c", "d"]));
    assert!(is_shown_in(&["a", "...", "b"], &["a", "b"]));
    assert!(!is_shown_in(&["a", "...", "d"], &["a", "b"]));
    assert!(!is_shown_in(&["a"], &["a", "b"]));
}
