//! Runs command sequences against a simulated set and a real one, and compares the replies.
//!
//! `STEPDOWN_DIFFERENTIAL` names the folder of sequences (default `fixtures/differential`; its
//! `README.md` describes the format). Where `MONGOD` names a binary, each sequence is also run
//! against real mongods; `STEPDOWN_RECORD=1` then keeps their replies in the folder `recorded` beside
//! the sequences. Without `MONGOD`, or with `STEPDOWN_RECORDED=1`, the kept replies are what the
//! simulation is compared with.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real mongods live in real time"
)]

mod compare;
mod connection;
mod exceptions;
mod normal;
mod play;
mod recording;
mod sequence;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use stepdown_tests::real::mongod;

use play::Transcript;
use sequence::Sequence;
use stage::Stage;

/// The environment variable that says where the sequences are.
const VARIABLE: &str = "STEPDOWN_DIFFERENTIAL";
/// The environment variable that asks for the real replies to be kept.
const RECORD: &str = "STEPDOWN_RECORD";
/// The environment variable that asks for the kept replies although there is a mongod: the real sets take
/// minutes, and a busy machine makes them miss their deadlines.
const RECORDED: &str = "STEPDOWN_RECORDED";

/// Real sets run one after the other: several at once would miss their elections' deadlines.
static ONE_REAL_SET: Mutex<()> = Mutex::new(());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty()).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/differential"),
        PathBuf::from,
    );
    libtest_mimic::run(&arguments, trials(&folder)).exit_code()
}

fn trials(folder: &Path) -> Vec<Trial> {
    let files = match sequence::files_in(folder) {
        Ok(files) => files,
        Err(error) => {
            let message = format!("{}: {error}", folder.display());
            return vec![Trial::test(VARIABLE, move || Err(Failed::from(message)))];
        }
    };
    let mut trials = Vec::new();
    for path in files {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        trials.push(Trial::test(name, move || run(&path).map_err(Failed::from)));
    }
    trials
}

fn run(path: &Path) -> Result<(), String> {
    let sequence = Sequence::read(path)?;
    let real = real_replies(path, &sequence)?;
    let simulated = play::play(&sequence, Stage::simulated(sequence.members.len()))
        .map_err(|error| format!("simulated: {error}"))?;
    exceptions::judge(&sequence, &real, &simulated)
}

/// What a real set replies: now, or when it was recorded.
fn real_replies(path: &Path, sequence: &Sequence) -> Result<Transcript, String> {
    let set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    let binary = if set(RECORDED) { None } else { mongod() };
    let Some(binary) = binary else { return recording::load(path, sequence) };
    let _alone = ONE_REAL_SET.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::real(&binary, sequence.members.len())
        .map_err(|error| format!("starting real mongods: {error}"))?;
    let transcript =
        play::play(sequence, stage).map_err(|error| format!("real mongods: {error}"))?;
    if set(RECORD) {
        recording::save(path, &transcript)?;
    }
    Ok(transcript)
}
