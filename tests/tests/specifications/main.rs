//! Runs the test files of the public driver specifications.
//!
//! `STEPDOWN_SPECIFICATIONS` names the folder `source` of a checkout of
//! <https://github.com/mongodb/specifications>, or any part of it. Every case is one test, named
//! `<specification>/<file>::<case>`. A file's format is recognised by its shape, so that files in
//! other places run as well.
//!
//! The cases of the unified test format run against a fresh simulated set per file, in virtual time;
//! where `STEPDOWN_URI` is a connection string they run against that deployment, over TCP. They are
//! run before the tests are listed, on as many threads as tests would be, so that what had to be
//! skipped is shown as ignored. `STEPDOWN_SPECIFICATIONS_REPORT` names a file for the verdicts, one
//! line of JSON per case.

// The runner is at the socket edge: it keeps real time and starts threads.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod bson_corpus;
mod cmap;
mod concern;
mod connection_string;
mod discovery;
mod dns;
mod json;
mod known_failures;
mod report;
mod sdam;
mod selection;
mod unified;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use discovery::{Format, TestFile};
use known_failures::KnownFailures;
use report::{Report, Verdict};
use unified::{Deployment, Outcome};

/// The environment variable that says where the specifications are.
const VARIABLE: &str = "STEPDOWN_SPECIFICATIONS";
/// What is known to fail.
static KNOWN: LazyLock<Result<KnownFailures, String>> = LazyLock::new(KnownFailures::read);
/// How much stack a thread has that runs cases: futures are large in debug builds.
const STACK_BYTES: usize = 32 << 20;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let report = Report::default();
    let trials = trials(&arguments, &report);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        println!("{}", report.render());
        if let Err(error) = report.write() {
            println!("the report cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}

fn trials(arguments: &Arguments, report: &Report) -> Vec<Trial> {
    let Some(root) = std::env::var_os(VARIABLE).filter(|root| !root.is_empty()) else {
        let name = format!(
            "specification tests: set {VARIABLE} to the folder `source` of a checkout of \
             https://github.com/mongodb/specifications, or to a part of it"
        );
        return vec![ignored(name)];
    };
    let files = match discovery::files_below(root.as_ref()) {
        Ok(files) if files.is_empty() => {
            return vec![failing(VARIABLE, format!("{} has no JSON files", root.display()))];
        }
        Ok(files) => files,
        Err(error) => return vec![failing(VARIABLE, format!("{}: {error}", root.display()))],
    };
    let mut trials = Vec::new();
    let mut unified = Vec::new();
    let mut left_out: BTreeMap<(String, &'static str), usize> = BTreeMap::new();
    for file in files {
        match file.format() {
            Ok(Format::Sdam) => trials.push(sdam::trial(file, report)),
            Ok(Format::Selection) => trials.push(selection::logic(file, report)),
            Ok(Format::InWindow) => trials.push(selection::in_window(file, report)),
            Ok(Format::RoundTripTime) => trials.push(selection::round_trip_time(file, report)),
            Ok(Format::ConnectionString) => trials.extend(connection_string::plain(file, report)),
            Ok(Format::Concern) => trials.extend(concern::documents(file, report)),
            Ok(Format::Credential) => trials.extend(connection_string::credentials(file, report)),
            Ok(Format::Seedlist) => trials.push(connection_string::seedlist(file, report)),
            Ok(Format::Cmap) => trials.push(cmap::trial(file, report)),
            Ok(Format::BsonCorpus) => trials.extend(bson_corpus::corpus(file, report)),
            Ok(Format::BsonVector) => trials.extend(bson_corpus::vectors(file, report)),
            Ok(Format::Records) => {}
            Ok(Format::Unified) => unified.push(file),
            Ok(Format::NotRun(what)) => *left_out.entry((file.spec, what)).or_default() += 1,
            Err(error) => trials.push(failing(&file.name, error)),
        }
    }
    trials.extend(left_out.into_iter().map(|((spec, what), count)| {
        ignored(format!("{spec}: {count} files not run, format: {what}"))
    }));
    trials.extend(run_unified(&unified, arguments, report));
    trials
}

/// Runs the files of the unified test format, and makes their cases tests whose outcome is known.
fn run_unified(files: &[TestFile], arguments: &Arguments, report: &Report) -> Vec<Trial> {
    let uri = std::env::var(unified::VARIABLE).ok().filter(|uri| !uri.is_empty());
    let none = KnownFailures::default();
    // What fails in a world says nothing about other deployments.
    let known = match (&uri, &*KNOWN) {
        (None, Ok(known)) => known,
        (None, Err(error)) => return vec![failing("known failures", error.clone())],
        (Some(_), _) => &none,
    };
    let chosen =
        |file: &TestFile, case: &str| is_chosen(arguments, &format!("{}::{case}", file.name));
    let names: Vec<Vec<String>> =
        files.iter().map(|file| unified::case_names(&file.json())).collect();
    let outcomes: Vec<Mutex<Vec<Option<Outcome>>>> =
        files.iter().map(|_| Mutex::default()).collect();
    if !arguments.list {
        let next = AtomicUsize::new(0);
        let deploy = |auth: bool| match &uri {
            // It controls access, or it does not.
            Some(uri) => Deployment::served(uri),
            None => Deployment::simulated(1, auth),
        };
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::SeqCst);
                let Some(file) = files.get(index) else { return };
                let selected = |case: usize| chosen(file, &names[index][case]);
                if !(0..names[index].len()).any(&selected) {
                    continue;
                }
                let found = unified::run_file(&file.name, &file.json(), &selected, &deploy);
                *outcomes[index].lock().expect("no worker panics with the lock") = found;
            }
        };
        let threads = match uri {
            // They would disturb each other on one deployment.
            Some(_) => 1,
            None => arguments.test_threads.unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
            }),
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, files.len().max(1)) {
                let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
                builder.spawn_scoped(scope, work).expect("a thread can be started");
            }
        });
    }
    let mut trials = Vec::new();
    for ((file, names), outcomes) in files.iter().zip(&names).zip(outcomes) {
        let mut outcomes =
            outcomes.into_inner().expect("no worker panics with the lock").into_iter();
        for case in names {
            let outcome = outcomes.next().flatten();
            trials.push(judged(file, case, outcome, known, report));
        }
    }
    if let Err(error) = known.prune() {
        trials.push(failing("known failures", format!("the list cannot be written: {error}")));
    }
    trials
}

/// A test whose outcome is known already; one that was not chosen has none.
fn judged(
    file: &TestFile,
    case: &str,
    outcome: Option<Outcome>,
    known: &KnownFailures,
    report: &Report,
) -> Trial {
    let name = format!("{}::{case}", file.name);
    let note = |verdict: Verdict| report.add(&file.name, case, verdict);
    match (outcome, known.reason(&name)) {
        (None, _) => Trial::test(name, || Ok(())),
        (Some(Outcome::Skipped(reason)), _) => {
            note(Verdict::Skipped(reason.clone()));
            ignored(format!("{name} ({reason})"))
        }
        (Some(Outcome::Passed), reason) if reason.is_none() || known.passed(&name) => {
            note(Verdict::Passed);
            Trial::test(name, || Ok(()))
        }
        (Some(Outcome::Passed), _) => {
            let message = "it passes: take it off the list of known failures".to_owned();
            note(Verdict::Failed(message.clone()));
            failing(&name, message)
        }
        (Some(Outcome::Failed(message)), None) => {
            note(Verdict::Failed(message.clone()));
            failing(&name, message)
        }
        (Some(Outcome::Failed(message)), Some(reason)) => {
            note(Verdict::KnownFailure(message));
            ignored(format!("{name} (known to fail: {reason})"))
        }
    }
}

/// Whether the command line chooses a test, by the rules of the test harness.
fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let fits = |pattern: &String| match arguments.exact {
        true => name == pattern,
        false => name.contains(pattern.as_str()),
    };
    arguments.filter.as_ref().is_none_or(fits) && !arguments.skip.iter().any(fits)
}

/// A test that is shown, and not run.
fn ignored(name: String) -> Trial {
    let reason = name.clone();
    Trial::test(name, move || Err(Failed::from(format!("cannot be run: {reason}"))))
        .with_ignored_flag(true)
}

/// A test that says what is wrong with the set-up, or went wrong before.
fn failing(name: &str, message: String) -> Trial {
    Trial::test(name.to_owned(), move || Err(Failed::from(message)))
}

/// A test of one case of a file.
fn case(
    file: &TestFile,
    case: &str,
    report: &Report,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    let (file, case, report) = (file.name.clone(), case.to_owned(), report.clone());
    let name = format!("{file}::{case}");
    Trial::test(name.clone(), move || {
        let known = KNOWN.as_ref().ok().and_then(|known| known.reason(&name));
        let verdict = match (run(), known) {
            (Ok(()), None) => Verdict::Passed,
            (Ok(()), Some(_)) => {
                Verdict::Failed("it passes: take it off the list of known failures".to_owned())
            }
            (Err(message), None) => Verdict::Failed(message),
            (Err(message), Some(_)) => Verdict::KnownFailure(message),
        };
        report.add(&file, &case, verdict.clone());
        match verdict {
            Verdict::Failed(message) => Err(Failed::from(message)),
            _ => Ok(()),
        }
    })
}
