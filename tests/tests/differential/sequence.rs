//! A sequence file: the set, what is sent to whom, what is broken when.

use std::path::{Path, PathBuf};

use bson::{Bson, Document, doc};
use serde_json::Value;

/// Fields that a step can have.
const STEP_FIELDS: [&str; 20] = [
    "on",
    "run",
    "db",
    "connection",
    "until",
    "keep",
    "differs",
    "start",
    "finish",
    "wait",
    "settle",
    "kill",
    "terminate",
    "restart",
    "restart_empty",
    "pause",
    "resume",
    "sleep_millis",
    "close",
    "note",
];

/// A file of the corpus.
#[derive(Debug)]
pub struct Sequence {
    /// One document per mongod: the fields of its entry in the configuration.
    pub members: Vec<Document>,
    /// The configuration that the set is initiated with before the first step, if it is.
    pub initiate: Option<Document>,
    pub steps: Vec<Step>,
    /// Differences that any reply may have.
    pub differs: Vec<Exception>,
}

/// One line of a sequence.
#[derive(Debug)]
pub struct Step {
    pub action: Action,
    /// Differences that the reply has.
    pub differs: Vec<Exception>,
}

/// What is done.
#[derive(Debug)]
pub enum Action {
    /// Send a command and wait for its reply.
    Run(Command),
    /// Send a command; the reply is taken by `Finish` of the same name.
    Start(String, Command),
    /// Take the reply of what was started.
    Finish(String),
    /// Wait until members are in these states.
    Wait(Vec<(usize, String)>),
    /// Wait until all members have applied and committed the same.
    Settle,
    /// kill -9.
    Kill(usize),
    /// SIGTERM, and wait for the end of the process.
    Terminate(usize),
    Restart(usize),
    /// Start the process on an empty dbpath.
    RestartEmpty(usize),
    /// SIGSTOP.
    Pause(usize),
    /// SIGCONT.
    Resume(usize),
    Sleep(u64),
    /// Close the connection of that name.
    Close(String),
}

/// A command and where it goes.
#[derive(Clone, Debug)]
pub struct Command {
    pub member: usize,
    pub connection: String,
    pub database: String,
    pub body: Document,
    /// Repeat until the reply has these values at these paths.
    pub until: Option<Document>,
    /// Names for values of the reply that later commands use.
    pub keep: Vec<(String, String)>,
}

/// A known difference, explained in `docs/differences.md` under its name.
#[derive(Clone, Debug)]
pub struct Exception {
    pub name: String,
    /// Segments; `*` is any one segment.
    pub path: Vec<String>,
    /// It need not be there each time.
    pub sometimes: bool,
}

/// The sequences in a folder, by name.
pub fn files_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err("no sequences there".into()) } else { Ok(files) }
}

impl Sequence {
    pub fn read(path: &Path) -> Result<Sequence, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let set = value.get("set").ok_or("no set")?;
        let mut members = Vec::new();
        for member in list(set, "members") {
            members.push(document(member)?);
        }
        if members.is_empty() {
            return Err("a set has members".into());
        }
        let initiated = set.get("initiated").and_then(Value::as_bool).unwrap_or(true);
        let settings = set.get("settings").map(document).transpose()?;
        let initiate = initiated.then(|| configuration(&members, settings));
        let mut steps = Vec::new();
        for (number, step) in list(&value, "steps").iter().enumerate() {
            steps.push(read_step(step).map_err(|error| format!("step {number}: {error}"))?);
        }
        Ok(Sequence { members, initiate, steps, differs: exceptions(&value)? })
    }
}

/// The name a member has in sequences and recordings: that of the simulated one.
pub fn name_of(member: usize) -> String {
    let letter = u8::try_from(member).expect("few members") + b'a';
    format!("{}:27017", char::from(letter))
}

fn configuration(members: &[Document], settings: Option<Document>) -> Document {
    let members: Vec<Document> = (0_i32..)
        .zip(members)
        .map(|(id, fields)| {
            let mut member = doc! { "_id": id, "host": name_of(id as usize) };
            member.extend(fields.clone());
            member
        })
        .collect();
    let mut all = doc! { "heartbeatIntervalMillis": 500, "electionTimeoutMillis": 2_000 };
    all.extend(settings.unwrap_or_default());
    doc! { "_id": "foo", "version": 1, "members": members, "settings": all }
}

fn read_step(step: &Value) -> Result<Step, String> {
    let fields = step.as_object().ok_or("not an object")?;
    if let Some(unknown) = fields.keys().find(|key| !STEP_FIELDS.contains(&key.as_str())) {
        return Err(format!("unknown field {unknown}"));
    }
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    let action = if let Some(body) = step.get("run") {
        let command = read_command(step, body)?;
        match text("start") {
            Some(name) => Action::Start(name.into(), command),
            None => Action::Run(command),
        }
    } else if let Some(name) = text("finish") {
        Action::Finish(name.into())
    } else if let Some(states) = step.get("wait") {
        let states = states.as_object().ok_or("wait: not an object")?;
        let mut wanted = Vec::new();
        for (name, state) in states {
            wanted.push((member(name)?, state.as_str().ok_or("wait: no state")?.to_owned()));
        }
        Action::Wait(wanted)
    } else if step.get("settle").is_some() {
        Action::Settle
    } else if let Some(name) = text("kill") {
        Action::Kill(member(name)?)
    } else if let Some(name) = text("terminate") {
        Action::Terminate(member(name)?)
    } else if let Some(name) = text("restart") {
        Action::Restart(member(name)?)
    } else if let Some(name) = text("restart_empty") {
        Action::RestartEmpty(member(name)?)
    } else if let Some(name) = text("pause") {
        Action::Pause(member(name)?)
    } else if let Some(name) = text("resume") {
        Action::Resume(member(name)?)
    } else if let Some(name) = text("close") {
        Action::Close(name.into())
    } else if let Some(millis) = step.get("sleep_millis").and_then(Value::as_u64) {
        Action::Sleep(millis)
    } else {
        return Err("nothing to do".into());
    };
    Ok(Step { action, differs: exceptions(step)? })
}

fn read_command(step: &Value, body: &Value) -> Result<Command, String> {
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    let on = text("on").ok_or("a command goes to a member: `on`")?;
    let mut keep = Vec::new();
    if let Some(kept) = step.get("keep").and_then(Value::as_object) {
        for (name, path) in kept {
            keep.push((name.clone(), path.as_str().ok_or("keep: no path")?.to_owned()));
        }
    }
    Ok(Command {
        member: member(on)?,
        connection: text("connection").unwrap_or(on).to_owned(),
        database: text("db").unwrap_or("admin").to_owned(),
        body: document(body)?,
        until: step.get("until").map(document).transpose()?,
        keep,
    })
}

fn member(name: &str) -> Result<usize, String> {
    match name.as_bytes() {
        [letter @ b'a'..=b'z'] => Ok(usize::from(letter - b'a')),
        _ => Err(format!("no member is called {name}")),
    }
}

fn exceptions(value: &Value) -> Result<Vec<Exception>, String> {
    let mut found = Vec::new();
    for entry in list(value, "differs") {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let name = text("name").ok_or("differs: no name")?.to_owned();
        let path = text("path").ok_or("differs: no path")?;
        let path = path.split('.').map(str::to_owned).collect();
        let sometimes = entry.get("sometimes").and_then(Value::as_bool).unwrap_or(false);
        found.push(Exception { name, path, sometimes });
    }
    Ok(found)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An extended JSON object as a document.
pub fn document(value: &Value) -> Result<Document, String> {
    match Bson::try_from(value.clone()) {
        Ok(Bson::Document(document)) => Ok(document),
        Ok(_) => Err(format!("not a document: {value}")),
        Err(error) => Err(format!("{error}: {value}")),
    }
}
