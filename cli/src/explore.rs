//! `stepdown explore`: many seeds on all cores, findings and what was seen on the way.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use stepdown::explore::{
    Chunk, ClientChoice, Faults, Found, Plan, Results, Search, Subject, Template, Totals,
    parse_faults, play, shrink, to_toml,
};
use stepdown::scenario::Scenario;
use stepdown::trace::Record;

/// Something was found.
const FOUND: u8 = 1;
/// A file cannot be read, or is wrong.
const WRONG_FILE: u8 = 3;
/// Plans played to shrink one finding.
const SHRINK_BUDGET: usize = 3_000;
/// How often the progress line is drawn, and said where there is no terminal.
const DRAWN_EVERY: Duration = Duration::from_millis(250);
const SAID_EVERY: Duration = Duration::from_secs(15);

#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct ExploreArguments {
    #[command(subcommand)]
    command: Option<ExploreCommand>,
    /// A scenario file to play under each seed, instead of generated faults and operations
    file: Option<PathBuf>,
    /// The seeds: from the first up to, not including, the second
    #[arg(long, value_parser = parse_seeds, default_value = "0..1000")]
    seeds: Range<u64>,
    /// How many members the set has
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    members: u8,
    /// How long clients work and things break, in virtual time: 60s, 5m
    #[arg(long, value_parser = parse_duration, default_value = "60s")]
    duration: Duration,
    /// How many clients, each at about one operation a second
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    clients: u8,
    /// What breaks: swarm (each seed about half of all), all, none, or a list
    #[arg(long, value_parser = parse_faults, default_value = "swarm")]
    faults: Faults,
    /// Who asks: this project's driver, a bare client, or the driver in one seed of eight
    #[arg(long, value_enum, default_value_t = Kind::Mixed)]
    client_kind: Kind,
    /// How many seeds are played at once; as many as there are cores if not said
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Stop after so many findings
    #[arg(long, default_value_t = 10)]
    max_findings: u64,
    /// Stop after so long, in real time: 10m, 2h
    #[arg(long, value_parser = parse_duration)]
    time_limit: Option<Duration>,
    /// Write results here, as JSON Lines; a file that is there is gone on with
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Cut each finding down to the smallest scenario file that still fails, written here
    #[arg(long, value_name = "FOLDER")]
    shrink: Option<PathBuf>,
    /// Play one part of the seeds: 1/4 is the first of four
    #[arg(long, value_parser = parse_shard, default_value = "1/1", value_name = "I/N")]
    shard: (u64, u64),
}

#[derive(Subcommand)]
enum ExploreCommand {
    /// Merge the result files of shards into one, on stdout
    Merge {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Mixed,
    Driver,
    Bare,
}

const EXAMPLES: &str = "\
Everything that is found is one `replay:` line on stdout: a command that plays that seed again. A summary
and what was seen on the way follow; progress is on stderr. Exit codes:
  0  nothing was found
  1  something was
  2  wrong usage
  3  a file cannot be read, or is wrong

Families of faults: kill, shutdown, pause, partition, isolate, cut, lag, reset, delay, clocks, stepdown, stepup,
reconfig, shape (arbiters, priorities, hidden and delayed members).

Examples:
  stepdown explore --seeds 0..10000 --members 5
  stepdown explore --seeds 0..1000 --faults kill,partition --duration 5m
  stepdown explore --seeds 0..1000000 --results found.jsonl      goes on where it was stopped
  stepdown explore --seeds 0..1000000 --shard 2/8 --results 2.jsonl
  stepdown explore --seeds 0..1000 --shrink found    a short scenario file for each finding
  stepdown explore merge 1.jsonl 2.jsonl > all.jsonl
  stepdown explore fixtures/failover.toml --seeds 0..500         one story under many seeds";

pub(crate) fn explore(arguments: ExploreArguments) -> ExitCode {
    let outcome = match &arguments.command {
        Some(ExploreCommand::Merge { files }) => merge(files),
        None => search(&arguments),
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("stepdown explore: {message}");
        ExitCode::from(WRONG_FILE)
    })
}

fn merge(files: &[PathBuf]) -> Result<ExitCode, String> {
    let mut results = Vec::new();
    for file in files {
        let text = read(file)?;
        let read = Results::read(&text).map_err(|what| format!("{}: {what}", file.display()))?;
        results.push(read);
    }
    let merged = Results::merge(results)?;
    // A reader that has seen enough is no failure.
    let _ = std::io::stdout().write_all(merged.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn search(arguments: &ExploreArguments) -> Result<ExitCode, String> {
    let subject = match &arguments.file {
        None => Subject::Generated(Template {
            members: arguments.members,
            duration: arguments.duration,
            clients: arguments.clients,
            faults: arguments.faults.clone(),
            client_choice: match arguments.client_kind {
                Kind::Mixed => ClientChoice::Mixed,
                Kind::Driver => ClientChoice::Driver,
                Kind::Bare => ClientChoice::Bare,
            },
        }),
        Some(file) => {
            let (name, text) = (file.display().to_string(), read(file)?);
            Scenario::parse(&name, &text).map_err(|error| error.to_string())?;
            Subject::Scenario { name, text }
        }
    };
    let search = Search { subject, seeds: arguments.seeds.clone(), shard: arguments.shard };
    let mut report = Report::new(&search, arguments)?;
    let done = report.chunks_done;
    let chunks = Mutex::new(search.chunks().skip(done).enumerate());
    let stop = AtomicBool::new(false);
    let jobs = match arguments.jobs {
        Some(jobs) => jobs.get(),
        None => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    let (played, plays) = sync_channel::<(usize, Chunk)>(2 * jobs);
    let outcome = std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (played, chunks, stop, search) = (played.clone(), &chunks, &stop, &search);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let next = chunks.lock().ok().and_then(|mut chunks| chunks.next());
                    let Some((number, seeds)) = next else { return };
                    if played.send((number, search.play(seeds))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(played);
        // Chunks come in any order; they are taken in order.
        let mut early: BTreeMap<usize, Chunk> = BTreeMap::new();
        let mut next = 0;
        for (number, chunk) in plays {
            early.insert(number, chunk);
            while let Some(chunk) = early.remove(&next) {
                next += 1;
                if report.is_over() {
                    continue;
                }
                if let Err(error) = report.take(&chunk) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            if report.is_over() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    });
    report.end();
    outcome?;
    Ok(if report.totals.found > 0 { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// Takes chunks in order: writes them, says what was found, draws the progress.
struct Report<'s> {
    search: &'s Search,
    totals: Totals,
    chunks_done: usize,
    seeds_before: u64,
    file: Option<fs::File>,
    max_findings: u64,
    shrink: Option<PathBuf>,
    began: Instant,
    time_limit: Option<Duration>,
    drawn: Instant,
    on_terminal: bool,
    all_seeds: u64,
}

impl<'s> Report<'s> {
    fn new(search: &'s Search, arguments: &ExploreArguments) -> Result<Self, String> {
        let mut totals = Totals::default();
        let mut chunks_done = 0;
        let mut file = None;
        if let Some(path) = &arguments.results {
            let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
            let there = fs::read_to_string(path).unwrap_or_default();
            let mut kept = 0;
            if !there.is_empty() {
                let results =
                    Results::read(&there).map_err(|what| format!("{}: {what}", path.display()))?;
                if results.header != search.header() {
                    return Err(format!(
                        "{} is of another search: {}; name another file, or remove it",
                        path.display(),
                        results.header.trim_end()
                    ));
                }
                results.chunks.iter().for_each(|chunk| totals.add(chunk));
                chunks_done = results.chunks.len();
                kept = results.whole_bytes;
            }
            let mut opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .map_err(wrong)?;
            opened.set_len(kept as u64).map_err(wrong)?;
            std::io::Seek::seek(&mut opened, std::io::SeekFrom::End(0)).map_err(wrong)?;
            if kept == 0 {
                opened.write_all(search.header().as_bytes()).map_err(wrong)?;
            }
            file = Some(opened);
        }
        let all_seeds = search.chunks().map(|seeds| seeds.end - seeds.start).sum();
        let now = Instant::now();
        Ok(Report {
            search,
            seeds_before: totals.seeds,
            totals,
            chunks_done,
            file,
            max_findings: arguments.max_findings,
            shrink: arguments.shrink.clone(),
            began: now,
            time_limit: arguments.time_limit,
            drawn: now,
            on_terminal: std::io::stderr().is_terminal(),
            all_seeds,
        })
    }

    fn is_over(&self) -> bool {
        self.totals.found >= self.max_findings
            || self.time_limit.is_some_and(|limit| self.began.elapsed() >= limit)
    }

    fn take(&mut self, chunk: &Chunk) -> Result<(), String> {
        self.totals.add(chunk);
        if let Some(file) = &mut self.file {
            file.write_all(chunk.lines().as_bytes()).map_err(|error| error.to_string())?;
        }
        for found in &chunk.found {
            self.wipe();
            self.say(found);
            if let Some(folder) = &self.shrink {
                self.cut_down(found, folder)?;
            }
        }
        let every = if self.on_terminal { DRAWN_EVERY } else { SAID_EVERY };
        if self.drawn.elapsed() >= every {
            self.draw();
        }
        Ok(())
    }

    fn say(&self, found: &Found) {
        let Found { seed, rule, what, at } = found;
        // A reader that has seen enough is no failure.
        let _ = write!(
            std::io::stdout(),
            "seed {seed} broke \"{rule}\" at {at} s: {}\nreplay: {}\n",
            what.trim_end(),
            self.search.replay(*seed)
        );
    }

    /// Shrinks a finding to a scenario file.
    fn cut_down(&self, found: &Found, folder: &Path) -> Result<(), String> {
        let Subject::Generated(template) = &self.search.subject else { return Ok(()) };
        let plan = Plan::generate(found.seed, template);
        let played = play(&plan, Record::Nothing);
        if played.finding.is_none() {
            return Err(format!("seed {} fails only sometimes: a bug of this program", found.seed));
        }
        let shrunk = shrink(&played, &plan, SHRINK_BUDGET);
        let about = format!("Found by exploration: seed {}.\nIt must hold.", found.seed);
        let text = to_toml(&shrunk.plan, &found.rule, &about);
        let file = folder.join(format!("seed-{}.toml", found.seed));
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let _ = writeln!(
            std::io::stdout(),
            "shrunk: {} ({} steps; {} plans were played for it)",
            file.display(),
            shrunk.steps(),
            shrunk.tried
        );
        Ok(())
    }

    fn rate(&self) -> u64 {
        let millis = self.began.elapsed().as_millis().max(1) as u64;
        (self.totals.seeds - self.seeds_before) * 1_000 / millis
    }

    fn draw(&mut self) {
        self.drawn = Instant::now();
        let (reached, goals) = self.totals.coverage();
        let Totals { seeds, found, .. } = self.totals;
        let line = format!(
            "{seeds} of {} seeds, {} a second, {found} found, {reached} of {goals} goals",
            self.all_seeds,
            self.rate()
        );
        if self.on_terminal {
            let filled = (24 * seeds / self.all_seeds.max(1)) as usize;
            eprint!("\r\x1b[K[{}{}] {line}", "=".repeat(filled), " ".repeat(24 - filled.min(24)));
        } else {
            eprintln!("{line}");
        }
    }

    /// Clears the progress line, before something else is printed.
    fn wipe(&self) {
        if self.on_terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn end(&mut self) {
        self.wipe();
        let mut stdout = std::io::stdout();
        let _ = writeln!(stdout, "{}", self.totals.sentence());
        if matches!(self.search.subject, Subject::Generated(_)) {
            let _ = write!(stdout, "seen in so many seeds:\n{}", self.totals.goal_table());
        }
        eprintln!("{} seeds a second", self.rate());
    }
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("two numbers with two dots between: 0..1000")?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|error| error.to_string());
    let seeds = number(first)?..number(end)?;
    if seeds.is_empty() { Err("there is no seed in it".into()) } else { Ok(seeds) }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "a number and a unit: 60s, 5m, 500ms")?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3_600))),
        unit => Err(format!("`{unit}` is none of ms, s, m, h")),
    }
}

fn parse_shard(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once('/').and_then(|(shard, shards)| {
        Some((shard.parse::<u64>().ok()?, shards.parse::<u64>().ok()?))
    });
    match parsed {
        Some((shard, shards)) if (1..=shards).contains(&shard) => Ok((shard, shards)),
        _ => Err("the number of the part and how many there are: 1/4".into()),
    }
}
