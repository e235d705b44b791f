//! Runs the test files of the public driver specifications.
//!
//! `STEPDOWN_SPECIFICATIONS` names the folder `source` of a checkout of
//! <https://github.com/mongodb/specifications>, or any part of it. Every case is one test, named
//! `<specification>/<file>::<case>`. A file's format is recognised by its shape, so that files in
//! other places run as well; formats that cannot be run yet are counted as ignored tests.

mod concern;
mod connection_string;
mod discovery;
mod dns;
mod json;
mod sdam;
mod selection;

use std::collections::BTreeMap;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use discovery::{Format, TestFile};

/// The environment variable that says where the specifications are.
const VARIABLE: &str = "STEPDOWN_SPECIFICATIONS";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
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
    let mut left_out: BTreeMap<(String, &'static str), usize> = BTreeMap::new();
    for file in files {
        match file.format() {
            Ok(Format::Sdam) => trials.push(sdam::trial(file)),
            Ok(Format::Selection) => trials.push(selection::logic(file)),
            Ok(Format::InWindow) => trials.push(selection::in_window(file)),
            Ok(Format::RoundTripTime) => trials.push(selection::round_trip_time(file)),
            Ok(Format::ConnectionString) => trials.extend(connection_string::plain(file)),
            Ok(Format::Concern) => trials.extend(concern::documents(file)),
            Ok(Format::Credential) => trials.extend(connection_string::credentials(file)),
            Ok(Format::Seedlist) => trials.push(connection_string::seedlist(file)),
            Ok(Format::NotRun(what)) => *left_out.entry((file.spec, what)).or_default() += 1,
            Err(error) => trials.push(failing(&file.name, error)),
        }
    }
    trials.extend(left_out.into_iter().map(|((spec, what), count)| {
        ignored(format!("{spec}: {count} files not run, format: {what}"))
    }));
    trials
}

/// A test that is shown, and not run.
fn ignored(name: String) -> Trial {
    let reason = name.clone();
    Trial::test(name, move || Err(Failed::from(format!("cannot be run: {reason}"))))
        .with_ignored_flag(true)
}

/// A test that says what is wrong with the set-up.
fn failing(name: &str, message: String) -> Trial {
    Trial::test(name.to_owned(), move || Err(Failed::from(message)))
}

/// A test of one case of a file.
fn case(
    file: &TestFile,
    case: &str,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    Trial::test(format!("{}::{case}", file.name), move || run().map_err(Failed::from))
}
