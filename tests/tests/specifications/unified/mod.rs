//! The runner of the unified test format.
//!
//! `schema` says whether a file has the right shape, `requirements` whether its cases can run here,
//! `deployment` where they run; `case` runs one: its `entities`, what is `perform`ed on them, and
//! whether what happened `matches` what was expected.

mod arguments;
mod case;
mod deployment;
mod entities;
mod logs;
mod matching;
mod observer;
mod perform;
mod requirements;
mod schema;
mod spans;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bson::{Bson, Document};
use serde_json::Value;

pub use self::deployment::{Deployment, VARIABLE};
pub use self::matching::hex_bytes;
use crate::json::{list, text};

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All went as expected.
    Passed,
    /// It did not, and how.
    Failed(String),
    /// It cannot run here, and why.
    Skipped(String),
}

/// What a file's cases are expected to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// They pass.
    Pass,
    /// The runner's self-tests: every case fails.
    Fail,
    /// The runner's self-tests: the file is refused.
    Refusal,
}

impl Expectation {
    /// By where the file is.
    pub fn of(name: &str) -> Self {
        match name {
            name if name.starts_with("unified-test-format/valid-fail/") => Expectation::Fail,
            name if name.starts_with("unified-test-format/invalid/") => Expectation::Refusal,
            _ => Expectation::Pass,
        }
    }
}

/// Why an operation did not give a result.
#[derive(Debug)]
pub enum Failure {
    /// The driver's error: an operation may expect it.
    Driver(stepdown_driver::Error),
    /// The test is wrong, or went wrong.
    Test(String),
}

impl Failure {
    /// The test is wrong, or went wrong.
    pub fn test(message: impl Into<String>) -> Self {
        Failure::Test(message.into())
    }
}

impl From<stepdown_driver::Error> for Failure {
    fn from(error: stepdown_driver::Error) -> Self {
        Failure::Driver(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Driver(error) => write!(f, "{error}"),
            Failure::Test(message) => f.write_str(message),
        }
    }
}

/// One operation of a case.
#[derive(Clone, Debug)]
pub struct Operation {
    name: String,
    object: String,
    arguments: Document,
    ignore_outcome: bool,
    expect_error: Option<Document>,
    expect_result: Option<Bson>,
    save_as: Option<String>,
}

impl Operation {
    fn of(document: &Document) -> Result<Self, Failure> {
        let text = |key: &str| document.get_str(key).map(str::to_owned);
        let lacks = |_| Failure::test("an operation lacks its name or its object");
        Ok(Operation {
            name: text("name").map_err(lacks)?,
            object: text("object").map_err(lacks)?,
            arguments: document.get_document("arguments").cloned().unwrap_or_default(),
            ignore_outcome: document.get_bool("ignoreResultAndError").unwrap_or(false),
            expect_error: document.get_document("expectError").ok().cloned(),
            expect_result: document.get("expectResult").cloned(),
            save_as: text("saveResultAsEntity").ok(),
        })
    }

    fn all(documents: &[Document]) -> Result<Vec<Self>, Failure> {
        documents.iter().map(Operation::of).collect()
    }
}

/// The names of a file's cases; one that stands for all if the file cannot be read.
pub fn case_names(file: &Value) -> Vec<String> {
    let tests = list(file, "tests");
    let mut names: Vec<String> = Vec::new();
    for (number, test) in tests.iter().enumerate() {
        let name = text(test, "description").unwrap_or("").to_owned();
        let repeated = names.contains(&name) || name.is_empty();
        names.push(if repeated { format!("{name} #{number}") } else { name });
    }
    if names.is_empty() { vec!["the file".to_owned()] } else { names }
}

/// Runs the cases of a file that `selected` picks by their position, on what `deploy` makes, with or
/// without control of access: once for the file, and again after a case that did not pass and may have
/// left things behind.
pub fn run_file(
    name: &str,
    file: &Value,
    selected: &dyn Fn(usize) -> bool,
    deploy: &dyn Fn(bool) -> Result<Deployment, String>,
) -> Vec<Option<Outcome>> {
    let expectation = Expectation::of(name);
    let count = case_names(file).len();
    let checked = schema::check(file);
    if expectation == Expectation::Refusal {
        let outcome = match checked {
            Ok(()) => Outcome::Failed("the file was not refused".to_owned()),
            Err(_) => Outcome::Passed,
        };
        return (0..count).map(|index| selected(index).then(|| outcome.clone())).collect();
    }
    let parsed = checked.and_then(|()| deployment::bson_of(file));
    let outcomes = match parsed {
        Ok(Bson::Document(file)) => run_cases(&file, count, selected, deploy),
        Ok(_) => vec![Some(Outcome::Failed("the file is no document".to_owned())); count],
        Err(problem) => vec![Some(Outcome::Failed(problem)); count],
    };
    let judged = outcomes.into_iter().enumerate().map(|(index, outcome)| {
        let outcome = outcome.filter(|_| selected(index))?;
        Some(match (expectation, outcome) {
            (Expectation::Fail, Outcome::Passed) => {
                Outcome::Failed("it was to fail, and passed".to_owned())
            }
            (Expectation::Fail, Outcome::Failed(_)) => Outcome::Passed,
            (_, outcome) => outcome,
        })
    });
    judged.collect()
}

fn run_cases(
    file: &Document,
    count: usize,
    selected: &dyn Fn(usize) -> bool,
    deploy: &dyn Fn(bool) -> Result<Deployment, String>,
) -> Vec<Option<Outcome>> {
    let tests = documents(file, "tests");
    let mut stage: Option<case::Stage> = None;
    // Where access is controlled; made for those cases that ask for it.
    let mut controlled: Option<case::Stage> = None;
    let mut outcomes = Vec::with_capacity(count);
    for (index, test) in tests.iter().enumerate() {
        if !selected(index) {
            outcomes.push(None);
            continue;
        }
        if let Ok(reason) = test.get_str("skipReason") {
            outcomes.push(Some(Outcome::Skipped(format!("skipReason: {reason}"))));
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let open = ready(&mut stage, || deploy(false))?;
            if !open.lacks_auth_alone(file, test) {
                return Ok(open.play(file, test));
            }
            Ok(ready(&mut controlled, || deploy(true))?.play(file, test))
        }));
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(problem)) => Outcome::Failed(problem),
            Err(panic) => Outcome::Failed(format!("panic: {}", panic_message(&*panic))),
        };
        if matches!(outcome, Outcome::Failed(_)) {
            // What is left of it may panic once more while it is dropped.
            let left = (stage.take(), controlled.take());
            let _dropped = catch_unwind(AssertUnwindSafe(|| drop(left)));
        }
        outcomes.push(Some(outcome));
    }
    outcomes
}

/// The stage, made if there is none.
fn ready(
    stage: &mut Option<case::Stage>,
    deploy: impl FnOnce() -> Result<Deployment, String>,
) -> Result<&case::Stage, String> {
    match stage {
        Some(stage) => Ok(stage),
        none => Ok(none.insert(case::Stage::new(deploy()?)?)),
    }
}

/// The documents of an array, none if there is no such array.
fn documents(document: &Document, key: &str) -> Vec<Document> {
    let elements = document.get_array(key).into_iter().flatten();
    elements.filter_map(|element| element.as_document().cloned()).collect()
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a message".to_owned())
}
