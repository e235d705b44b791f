//! Results: what a search found and saw, in an order that does not depend on who played which seed when.
//!
//! A search is cut into chunks of seeds. A result file has a header line, then for each chunk in order
//! one line for each finding and one that closes the chunk. Files of shards merge into the file that one
//! machine would have written; a file that broke off goes on where its last whole chunk ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::goals::Goals;
use super::plan::{ClientChoice, Faults, Plan, Template};
use super::stage::{Finding, play};
use crate::scenario::{RunOptions, Scenario};
use crate::trace::Record;

/// The version of the format of result files.
const FORMAT: u64 = 1;
/// Seeds in a chunk.
const CHUNK: u64 = 50;
/// Of what a finding says so much is kept.
const WHAT_MAX: usize = 6_000;

/// What is played under each seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A generated plan.
    Generated(Template),
    /// A scenario file: its name and its text.
    Scenario {
        /// What messages call it.
        name: String,
        /// The TOML.
        text: String,
    },
}

/// A search: what, and under which seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// What is played.
    pub subject: Subject,
    /// Under which seeds.
    pub seeds: Range<u64>,
    /// Which part of the chunks is this machine's: `(1, 4)` is the first of four.
    pub shard: (u64, u64),
}

/// A finding and its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// See [`Finding::rule`].
    pub rule: String,
    /// See [`Finding::what`].
    pub what: String,
    /// When it was noticed, as `12.345678`.
    pub at: String,
}

/// What came of one chunk of seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Its seeds.
    pub seeds: Range<u64>,
    /// What was found, by seed.
    pub found: Vec<Found>,
    /// Operations that were answered.
    pub operations: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Virtual milliseconds lived through.
    pub virtual_millis: u64,
    /// In how many seeds each goal was reached.
    pub goals: BTreeMap<String, u64>,
}

impl Search {
    /// The chunks of this machine's shard, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let (seeds, (shard, shards)) = (self.seeds.clone(), self.shard);
        let starts = seeds.clone().step_by(CHUNK as usize).zip(0_u64..);
        starts
            .filter(move |(_, number)| number % shards == shard - 1)
            .map(move |(start, _)| start..(start + CHUNK).min(seeds.end))
    }

    /// Plays one chunk.
    pub fn play(&self, seeds: Range<u64>) -> Chunk {
        let mut chunk = Chunk { seeds: seeds.clone(), ..Chunk::default() };
        match &self.subject {
            Subject::Generated(template) => {
                for seed in seeds {
                    let played = play(&Plan::generate(seed, template), Record::Nothing);
                    chunk.operations += played.operations as u64;
                    chunk.failed += played.failed as u64;
                    chunk.virtual_millis += played.ended.as_millis();
                    chunk.add_goals(played.goals);
                    chunk.found.extend(played.finding.map(|finding| Found::of(seed, finding)));
                }
            }
            Subject::Scenario { name, text } => {
                let Ok(scenario) = Scenario::parse(name, text) else { return chunk };
                let options = RunOptions::default().record(Record::Nothing);
                for seed in seeds {
                    let outcome = super::stage::tell(&scenario, &options.clone().seed(seed));
                    chunk.found.extend(outcome.err().map(|finding| Found::of(seed, finding)));
                }
            }
        }
        chunk
    }

    /// The first line of a result file.
    pub fn header(&self) -> String {
        let mut header = Map::new();
        header.insert("explore".into(), FORMAT.into());
        header.insert("seeds".into(), json!([self.seeds.start, self.seeds.end]));
        header.insert("chunk".into(), CHUNK.into());
        match &self.subject {
            Subject::Generated(template) => {
                header.insert("members".into(), template.members.into());
                header.insert("clients".into(), template.clients.into());
                header.insert("client_kind".into(), client_choice(template.client_choice).into());
                let millis = template.duration.as_millis() as u64;
                header.insert("duration_millis".into(), millis.into());
                header.insert("faults".into(), template.faults.to_string().into());
            }
            Subject::Scenario { name, .. } => {
                header.insert("scenario".into(), name.as_str().into());
            }
        }
        if self.shard != (1, 1) {
            header.insert("shard".into(), json!([self.shard.0, self.shard.1]));
        }
        line(&Value::Object(header))
    }

    /// The command line that plays one seed again.
    pub fn replay(&self, seed: u64) -> String {
        match &self.subject {
            Subject::Generated(template) => {
                let mut command = format!(
                    "stepdown explore --seeds {seed}..{} --members {} --duration {} --clients {} --faults {}",
                    seed + 1,
                    template.members,
                    in_words(template.duration),
                    template.clients,
                    template.faults,
                );
                if template.client_choice != ClientChoice::default() {
                    let _ =
                        write!(command, " --client-kind {}", client_choice(template.client_choice));
                }
                command
            }
            Subject::Scenario { name, .. } => format!("stepdown run {name} --seed {seed}"),
        }
    }
}

fn in_words(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// As the command line says it.
pub fn client_choice(choice: ClientChoice) -> &'static str {
    match choice {
        ClientChoice::Mixed => "mixed",
        ClientChoice::Driver => "driver",
        ClientChoice::Bare => "bare",
    }
}

impl Found {
    fn of(seed: u64, finding: Finding) -> Found {
        let Finding { rule, mut what, at } = finding;
        if what.len() > WHAT_MAX {
            let end = (0..=WHAT_MAX).rev().find(|at| what.is_char_boundary(*at)).unwrap_or(0);
            what.truncate(end);
            what.push_str(" ...");
        }
        Found { seed, rule, what, at: at.to_string() }
    }
}

impl Chunk {
    fn add_goals(&mut self, goals: Goals) {
        for name in goals.names() {
            *self.goals.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// The chunk's lines in a result file.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for Found { seed, rule, what, at } in &self.found {
            text.push_str(&line(&json!({ "seed": seed, "rule": rule, "at": at, "what": what })));
        }
        text.push_str(&line(&json!({
            "chunk": [self.seeds.start, self.seeds.end],
            "operations": self.operations,
            "failed": self.failed,
            "virtual_millis": self.virtual_millis,
            "goals": self.goals,
        })));
        text
    }
}

fn line(value: &Value) -> String {
    let mut text = value.to_string();
    text.push('\n');
    text
}

/// A result file as it was read.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// The header line.
    pub header: String,
    /// The whole chunks, in the order of the file.
    pub chunks: Vec<Chunk>,
    /// So many bytes are the header and whole chunks; what follows broke off.
    pub whole_bytes: usize,
}

impl Results {
    /// Reads a result file, up to where it broke off.
    ///
    /// # Errors
    /// It is none, or of another version: what is wrong, with the line's number.
    pub fn read(text: &str) -> Result<Results, String> {
        let mut results = Results::default();
        let mut found = Vec::new();
        let mut bytes = 0;
        for (number, text) in (1..).zip(text.split_inclusive('\n')) {
            bytes += text.len();
            let Ok(value) = serde_json::from_str::<Value>(text) else { break };
            if !text.ends_with('\n') {
                break;
            }
            let wrong = || format!("line {number} is no line of a result file");
            if number == 1 {
                if value["explore"] != FORMAT {
                    return Err(format!("line 1 is no header of a result file of format {FORMAT}"));
                }
                results.header = text.to_owned();
                results.whole_bytes = bytes;
            } else if let Some(range) = value.get("chunk") {
                let bound = |at: usize| range[at].as_u64().ok_or_else(wrong);
                let sum = |name: &str| value[name].as_u64().ok_or_else(wrong);
                let goals = value["goals"].as_object().ok_or_else(wrong)?;
                results.chunks.push(Chunk {
                    seeds: bound(0)?..bound(1)?,
                    found: std::mem::take(&mut found),
                    operations: sum("operations")?,
                    failed: sum("failed")?,
                    virtual_millis: sum("virtual_millis")?,
                    goals: goals
                        .iter()
                        .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0)))
                        .collect(),
                });
                results.whole_bytes = bytes;
            } else {
                let text = |name: &str| value[name].as_str().map(str::to_owned).ok_or_else(wrong);
                found.push(Found {
                    seed: value["seed"].as_u64().ok_or_else(wrong)?,
                    rule: text("rule")?,
                    what: text("what")?,
                    at: text("at")?,
                });
            }
        }
        if results.header.is_empty() {
            return Err("it has no header line".into());
        }
        Ok(results)
    }

    /// The file that one machine would have written instead of these.
    ///
    /// # Errors
    /// They are not shards of one search, or two of them have the same seeds.
    pub fn merge(files: Vec<Results>) -> Result<String, String> {
        let without_shard = |header: &str| -> Result<Value, String> {
            let mut header: Value =
                serde_json::from_str(header).map_err(|error| error.to_string())?;
            if let Some(header) = header.as_object_mut() {
                header.remove("shard");
            }
            Ok(header)
        };
        let Some(first) = files.first() else { return Err("there is nothing to merge".into()) };
        let header = without_shard(&first.header)?;
        for file in &files {
            let other = without_shard(&file.header)?;
            if other != header {
                return Err(format!("{header} and {other} are not shards of one search"));
            }
        }
        let mut chunks: Vec<Chunk> = files.into_iter().flat_map(|file| file.chunks).collect();
        chunks.sort_by_key(|chunk| chunk.seeds.start);
        if let Some(twice) = chunks.windows(2).find(|pair| pair[0].seeds.end > pair[1].seeds.start)
        {
            return Err(format!(
                "seeds {}..{} are there twice",
                twice[1].seeds.start, twice[0].seeds.end
            ));
        }
        let mut text = line(&header);
        chunks.iter().for_each(|chunk| text.push_str(&chunk.lines()));
        Ok(text)
    }
}

/// Sums over chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Seeds played.
    pub seeds: u64,
    /// Seeds that failed.
    pub found: u64,
    /// Operations that were answered.
    pub operations: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Virtual milliseconds lived through.
    pub virtual_millis: u64,
    /// In how many seeds each goal was reached.
    pub goals: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds a chunk.
    pub fn add(&mut self, chunk: &Chunk) {
        self.seeds += chunk.seeds.end - chunk.seeds.start;
        self.found += chunk.found.len() as u64;
        self.operations += chunk.operations;
        self.failed += chunk.failed;
        self.virtual_millis += chunk.virtual_millis;
        for (name, count) in &chunk.goals {
            *self.goals.entry(name.clone()).or_default() += count;
        }
    }

    /// How many of all goals were reached at least once.
    pub fn coverage(&self) -> (usize, usize) {
        (self.goals.len(), Goals::all_names().count())
    }

    /// The goals and in how many seeds each was reached, one a line; those never reached say so.
    pub fn goal_table(&self) -> String {
        let mut text = String::new();
        for name in Goals::all_names() {
            match self.goals.get(name) {
                Some(count) => {
                    let _ = writeln!(text, "  {count:>9}  {name}");
                }
                None => {
                    let _ = writeln!(text, "      never  {name}");
                }
            }
        }
        text
    }

    /// The template of a swarm, for messages.
    pub fn sentence(&self) -> String {
        format!(
            "{} seeds, {} operations ({} failed), {} virtual hours: {} findings",
            self.seeds,
            self.operations,
            self.failed,
            self.virtual_millis / 3_600_000,
            self.found
        )
    }
}

/// What `--faults` may say, for messages.
pub fn fault_words() -> String {
    let names: Vec<&str> = super::plan::Family::ALL.iter().map(|family| family.name()).collect();
    format!("swarm, all, none, or a list of {}", names.join(", "))
}

/// Reads `--faults`.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_faults(text: &str) -> Result<Faults, String> {
    Faults::parse(text).map_err(|word| format!("`{word}` is none of {}", fault_words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(seeds: Range<u64>, shard: (u64, u64)) -> Search {
        let template =
            Template { duration: Duration::from_secs(6), clients: 1, ..Template::default() };
        Search { subject: Subject::Generated(template), seeds, shard }
    }

    fn file(search: &Search) -> String {
        let chunks: Vec<Range<u64>> = search.chunks().collect();
        // Whoever plays them plays them in any order.
        let mut played: Vec<Chunk> =
            chunks.into_iter().rev().map(|chunk| search.play(chunk)).collect();
        played.reverse();
        let mut text = search.header();
        played.iter().for_each(|chunk| text.push_str(&chunk.lines()));
        text
    }

    #[test]
    fn the_files_of_shards_merge_into_the_file_of_one_machine() {
        let whole = file(&search(0..130, (1, 1)));
        let shards = [(2, 2), (1, 2)].map(|shard| file(&search(0..130, shard)));
        assert_ne!(shards[0], whole);
        let read = |text: &String| Results::read(text).unwrap();
        assert_eq!(Results::merge(shards.iter().map(read).collect()), Ok(whole.clone()));
        let twice = Results::merge(vec![read(&whole), read(&whole)]);
        assert_eq!(twice, Err("seeds 0..50 are there twice".to_owned()));
    }

    #[test]
    fn a_file_that_broke_off_goes_on_after_its_last_whole_chunk() {
        let search = search(0..100, (1, 1));
        let whole = file(&search);
        let results = Results::read(&whole[..whole.len() - 5]).unwrap();
        assert_eq!(results.header, search.header());
        assert_eq!(results.chunks.len(), 1);
        let rest = search.play(50..100).lines();
        assert_eq!(whole[..results.whole_bytes].to_owned() + &rest, whole);
    }
}
