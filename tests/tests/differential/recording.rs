//! Replies of a real set, kept beside the sequences.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bson::{Bson, Document};
use serde_json::Value;

use crate::play::{Exchange, Transcript};
use crate::sequence::{Action, Sequence, document};

fn path_of(sequence: &Path) -> PathBuf {
    let folder = sequence.parent().unwrap_or(Path::new("."));
    folder.join("recorded").join(sequence.file_name().expect("sequences are files"))
}

/// The kept replies.
pub fn load(path: &Path, sequence: &Sequence) -> Result<Transcript, String> {
    let kept = path_of(path);
    let text = std::fs::read_to_string(&kept).map_err(|error| {
        format!(
            "{}: {error}: record it with MONGOD=<a mongod 6.0> STEPDOWN_RECORD=1",
            kept.display()
        )
    })?;
    let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let exchanges = value.as_array().ok_or("a recording is an array")?;
    let mut transcript = Vec::new();
    for (entry, (step, command)) in exchanges.iter().zip(commands(sequence)) {
        let entry = document(entry)?;
        let number = Bson::Int32(i32::try_from(step).expect("few steps"));
        let same = entry.get("command") == Some(&Bson::Document(command.1.clone()))
            && entry.get("step") == Some(&number);
        if !same {
            return Err(format!("step {step} is not what was recorded: record it again"));
        }
        let reply = entry.get_document("reply").map_err(|error| error.to_string())?.clone();
        transcript.push(Exchange { step, member: command.0, command: command.1, reply });
    }
    if transcript.len() != commands(sequence).count() || transcript.len() != exchanges.len() {
        return Err("the sequence is not what was recorded: record it again".into());
    }
    Ok(transcript)
}

/// Keeps replies, one line each.
pub fn save(path: &Path, transcript: &Transcript) -> Result<(), String> {
    let mut text = String::from("[\n");
    for (number, exchange) in transcript.iter().enumerate() {
        let step = i32::try_from(exchange.step).expect("few steps");
        let mut entry = Document::new();
        entry.insert("step", step);
        entry.insert("command", exchange.command.clone());
        entry.insert("reply", exchange.reply.clone());
        let line = Bson::Document(entry).into_canonical_extjson();
        let comma = if number + 1 < transcript.len() { "," } else { "" };
        let _ = writeln!(text, "{line}{comma}");
    }
    text.push_str("]\n");
    let kept = path_of(path);
    std::fs::create_dir_all(kept.parent().expect("it has one"))
        .map_err(|error| error.to_string())?;
    std::fs::write(&kept, text).map_err(|error| format!("{}: {error}", kept.display()))
}

/// The commands of a sequence in the order of their replies.
fn commands(sequence: &Sequence) -> impl Iterator<Item = (usize, (usize, Document))> {
    sequence.steps.iter().enumerate().filter_map(|(number, step)| {
        let command = match &step.action {
            Action::Run(command) => command,
            Action::Finish(name) => {
                sequence.steps[..number].iter().rev().find_map(|step| match &step.action {
                    Action::Start(started, command) if started == name => Some(command),
                    _ => None,
                })?
            }
            _ => return None,
        };
        Some((number, (command.member, command.body.clone())))
    })
}
