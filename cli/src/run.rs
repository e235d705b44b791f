//! `stepdown run`: scenario files, their timelines on stdout, their verdict in the exit code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use stepdown::Instant;
use stepdown::scenario::{Departure, Outcome, RunOptions, Scenario, from_recorded, recorded_path};
use stepdown::trace::export::{ExportFormat, export};
use stepdown::trace::{self, Category, Filter, Record};

/// The story did not hold, or is not as recorded.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage.
pub(crate) const USAGE: u8 = 2;
/// The file cannot be read, or is wrong.
pub(crate) const WRONG_FILE: u8 = 3;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArguments {
    /// Scenario files (TOML; docs/scenarios.md describes them), or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The seed, instead of the one in the file: another history
    #[arg(long)]
    seed: Option<u64>,
    /// Compare each timeline with the recorded one (timelines/NAME.snap beside the file) instead of
    /// printing it
    #[arg(long, conflicts_with_all = ["seed", "format", "export", "only", "who", "since", "until", "level"])]
    check: bool,
    /// How to print the timeline
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// How much to record
    #[arg(long, value_enum, default_value_t = Level::Story)]
    level: Level,
    /// Print only events of these categories
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CATEGORY")]
    only: Vec<Part>,
    /// Print only events of these members or clients, by name ("a:27017", "app", "world")
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    who: Vec<String>,
    /// Print only what happened from this second of virtual time on ("12.5")
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    since: Option<Instant>,
    /// Print only what happened until this second of virtual time
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    until: Option<Instant>,
    /// Draw the run instead: who sent what to whom when
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "format")]
    export: Option<Form>,
    /// Draw heartbeats and the like too
    #[arg(long, requires = "export")]
    routine: bool,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned text, for people
    Text,
    /// One JSON object a line, for tools
    Jsonl,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// What a reader wants to know
    Story,
    /// Every decision: oplog writes, commit points, batches applied, operations that begin
    Everything,
    /// That, and each message
    Messages,
}

impl Level {
    fn record(self) -> Record {
        match self {
            Level::Story => Record::Story,
            Level::Everything => Record::Everything,
            Level::Messages => Record::Messages,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Elections, terms, states, configurations
    Elections,
    /// Sync sources, commit points, rollback, initial sync
    Replication,
    /// What clients ask and are told, and the story's own lines
    Client,
    /// Who believes whom down; messages
    Network,
    /// What the story breaks and mends
    Faults,
}

impl Part {
    fn category(self) -> Category {
        match self {
            Part::Elections => Category::Election,
            Part::Replication => Category::Replication,
            Part::Client => Category::Client,
            Part::Network => Category::Network,
            Part::Faults => Category::Fault,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A space-time diagram, to look at in a browser
    LamportSvg,
    /// A log with vector clocks, for ShiViz
    Shiviz,
    /// Chrome's trace events, for ui.perfetto.dev
    Perfetto,
}

impl Form {
    fn format(self) -> ExportFormat {
        match self {
            Form::LamportSvg => ExportFormat::LamportSvg,
            Form::Shiviz => ExportFormat::Shiviz,
            Form::Perfetto => ExportFormat::Perfetto,
        }
    }
}

const EXAMPLES: &str = "\
The timeline goes to stdout, the same bytes each time for the same file and seed. Exit codes:
  0  every expectation held; with --check, every timeline is as recorded
  1  an expectation failed, or a timeline is not as recorded; stderr says where
  2  wrong usage
  3  a file is wrong; file:line:column and a hint are on stderr

Examples:
  stepdown run fixtures/balanced-reads.toml
  stepdown run fixtures/failover.toml --seed 7 --only elections,faults
  stepdown run fixtures/failover.toml --format jsonl | grep election_won
  stepdown run fixtures/failover.toml --export lamport-svg --since 10 --output failover.svg
  stepdown run fixtures --check";

pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    let files = match scenario_files(&arguments.files) {
        Ok(files) => files,
        Err(code) => return code,
    };
    let mut worst = 0;
    let mut text = String::new();
    for file in &files {
        let scenario = match read(file) {
            Ok(scenario) => scenario,
            Err(code) => {
                worst = worst.max(code);
                continue;
            }
        };
        if arguments.check {
            worst = worst.max(check(file, &scenario));
            continue;
        }
        let outcome = scenario.run(&options(arguments));
        text.push_str(&shown(arguments, &outcome));
        worst = worst.max(verdict(&outcome));
    }
    if !arguments.check {
        match &arguments.output {
            Some(path) => {
                if let Err(error) = std::fs::write(path, &text) {
                    eprintln!("{}: {error}", path.display());
                    return ExitCode::from(USAGE);
                }
            }
            // A reader that has seen enough (`| head`) is no failure.
            None => drop(std::io::stdout().write_all(text.as_bytes())),
        }
    }
    ExitCode::from(worst)
}

/// The scenario files that are named, and those in folders that are; in the order of their names.
pub(crate) fn scenario_files(named: &[PathBuf]) -> Result<Vec<PathBuf>, ExitCode> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return Err(ExitCode::from(WRONG_FILE));
            }
        };
        let mut inside: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
            .collect();
        if inside.is_empty() {
            eprintln!("{}: no scenario file (*.toml) in this folder", path.display());
            return Err(ExitCode::from(WRONG_FILE));
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

/// Reads a scenario file; what is wrong with it goes to stderr.
pub(crate) fn read(file: &Path) -> Result<Scenario, u8> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        eprintln!("{name}: {error}");
        WRONG_FILE
    })?;
    Scenario::parse(&name, &text).map_err(|error| {
        eprintln!("{error}");
        WRONG_FILE
    })
}

/// 0 if everything held; what did not goes to stderr.
pub(crate) fn verdict(outcome: &Outcome) -> u8 {
    for failure in outcome.failures() {
        eprintln!("{failure}");
    }
    if outcome.held() { 0 } else { FAILED }
}

fn check(file: &Path, scenario: &Scenario) -> u8 {
    let outcome = scenario.run(&RunOptions::default());
    let name = file.display();
    if verdict(&outcome) != 0 {
        println!("FAILED   {name}");
        return FAILED;
    }
    let path = recorded_path(file);
    let recorded = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}; record it with: stepdown record {name}", path.display());
            println!("NO RECORD  {name}");
            return FAILED;
        }
    };
    let Some(timeline) = from_recorded(&recorded) else {
        eprintln!(
            "{}: this is no record; make it anew with: stepdown record {name}",
            path.display()
        );
        println!("NO RECORD  {name}");
        return FAILED;
    };
    match Departure::between(timeline, outcome.timeline()) {
        None => {
            println!("ok       {name}");
            0
        }
        Some(departure) => {
            eprint!("{name}: {departure}");
            eprintln!("    if that is right, accept it with: stepdown record {name}");
            println!("DIFFERS  {name}");
            FAILED
        }
    }
}

fn options(arguments: &RunArguments) -> RunOptions {
    // Arrows are messages: a drawing without them shows nothing.
    let level = if arguments.export.is_some() { Level::Messages } else { arguments.level };
    let options = RunOptions::default().record(level.record());
    match arguments.seed {
        Some(seed) => options.seed(seed),
        None => options,
    }
}

fn shown(arguments: &RunArguments, outcome: &Outcome) -> String {
    let mut filter = Filter::new();
    for part in &arguments.only {
        filter = filter.category(part.category());
    }
    for who in &arguments.who {
        filter = filter.who(who);
    }
    if let Some(since) = arguments.since {
        filter = filter.since(since);
    }
    if let Some(until) = arguments.until {
        filter = filter.until(until);
    }
    match (arguments.export, arguments.format) {
        (Some(form), _) => export(outcome.events(), &filter, form.format(), arguments.routine),
        (None, Format::Text) => outcome.timeline_of(&filter),
        (None, Format::Jsonl) => {
            trace::json_lines(outcome.events().iter().filter(|event| filter.shows(event)))
        }
    }
}

/// Seconds with a fraction, without a float on the way.
fn seconds(text: &str) -> Result<Instant, String> {
    let wrong = || format!("`{text}` is no number of seconds (12, or 12.5)");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let seconds: u64 = whole.parse().map_err(|_| wrong())?;
    let since_start = Duration::new(seconds, nanos);
    u64::try_from(since_start.as_nanos()).map(Instant::from_nanos).map_err(|_| wrong())
}
