//! Proof that the checkers check: plants each bug in turn, counts the seeds until it is found, shrinks
//! what was found, and prints the table of `docs/exploration.md`.
//!
//! `cargo run --release -p stepdown --features planted-bugs --example planted [NAME ..]`, with a part of
//! a name for some of them; `none MEMBERS SEEDS` plants nothing, and must find nothing. `--write FOLDER` keeps the shrunk scenario files.

use std::path::PathBuf;

use stepdown::explore::planted::Bug;
use stepdown::explore::{Search, Subject, Template, Totals, to_toml};

/// No bug may need more seeds.
const SEEDS: u64 = 5_000;
/// No shrunk scenario may have more steps.
const STEPS: usize = 12;
/// Plans played to shrink one finding.
const BUDGET: usize = 3_000;

fn main() {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if let [none, members, seeds] = &names[..]
        && none == "none"
    {
        return nothing_planted(members.parse().expect("a count"), seeds.parse().expect("a count"));
    }
    let folder = names.iter().position(|name| name == "--write").map(|at| {
        let folder = names.drain(at..).nth(1);
        PathBuf::from(folder.unwrap_or_else(|| ".".into()))
    });
    let wanted = |bug: &Bug| {
        let name = bug.name();
        names.is_empty() || names.iter().any(|wanted| name.contains(wanted.as_str()))
    };
    println!("| bug | seeds needed | found by the rule | steps after shrinking |");
    println!("|---|---|---|---|");
    let mut missed = 0;
    for bug in Bug::all().filter(wanted) {
        let name = bug.name();
        let Some(proof) = bug.prove(0..SEEDS, STEPS, BUDGET) else {
            println!("| {name} | not found in {SEEDS} | | |");
            missed += 1;
            continue;
        };
        let steps = proof.shrunk.steps();
        missed += usize::from(steps > STEPS);
        println!("| {name} | {} | {} | {steps} |", proof.seed + 1, proof.rule);
        if let Some(folder) = &folder {
            let about = format!("Found by seed {}, and cut down to this.", proof.seed);
            let file = name.replace([':', ' '], "-").replace("--", "-");
            let text = to_toml(&proof.shrunk.plan, &name, &about);
            std::fs::write(folder.join(format!("{file}.toml")), text).expect("a writable folder");
        }
    }
    assert_eq!(missed, 0, "so many bugs were not found, or did not shrink to {STEPS} steps");
}

/// The counter-proof, on one core.
fn nothing_planted(members: u8, seeds: u64) {
    let subject = Subject::Generated(Template { members, ..Template::default() });
    let search = Search { subject, seeds: 0..seeds, shard: (1, 1) };
    let mut totals = Totals::default();
    for chunk in search.chunks() {
        let chunk = search.play(chunk);
        for found in &chunk.found {
            println!(
                "seed {} broke {:?}: {}\n{}",
                found.seed,
                found.rule,
                found.what,
                search.replay(found.seed)
            );
        }
        totals.add(&chunk);
    }
    println!("{}", totals.sentence());
}
