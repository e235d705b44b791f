//! `stepdown run`: a scenario file, its timeline on stdout, its verdict in the exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use stepdown::scenario::{RunOptions, Scenario};

/// The story did not hold.
const FAILED: u8 = 1;
/// The file cannot be read, or is wrong.
const WRONG_FILE: u8 = 3;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArguments {
    /// The scenario file (TOML; docs/scenarios.md describes it)
    file: PathBuf,
    /// The seed, instead of the one in the file: another history
    #[arg(long)]
    seed: Option<u64>,
    /// How to print the timeline
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned text, for people
    Text,
    /// One JSON object a line, for tools
    Jsonl,
}

const EXAMPLES: &str = "\
The timeline goes to stdout, the same bytes each time for the same file and seed. Exit codes:
  0  every expectation held
  1  an expectation failed; the step is on stderr and in the timeline
  2  wrong usage
  3  the file is wrong; file:line:column and a hint are on stderr

Examples:
  stepdown run fixtures/balanced-reads.toml
  stepdown run fixtures/failover.toml --seed 7 --format jsonl | grep ElectionWon";

pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    let name = arguments.file.display().to_string();
    let text = match std::fs::read_to_string(&arguments.file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(WRONG_FILE);
        }
    };
    let scenario = match Scenario::parse(&name, &text) {
        Ok(scenario) => scenario,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(WRONG_FILE);
        }
    };
    let options = RunOptions::default();
    let outcome = scenario.run(&match arguments.seed {
        Some(seed) => options.seed(seed),
        None => options,
    });
    let record = match arguments.format {
        Format::Text => outcome.timeline(),
        Format::Jsonl => outcome.json_lines(),
    };
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().write_all(record.as_bytes());
    for failure in outcome.failures() {
        eprintln!("{failure}");
    }
    if outcome.held() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}
