//! Plays a sequence on a stage.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::connection::Connection;
use crate::normal::at_path;
use crate::sequence::{Action, Command, Sequence};
use crate::stage::Stage;

/// What was waited for happens within this time or not at all.
const LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked whether something has happened.
const POLL: Duration = Duration::from_millis(50);

/// The replies of a sequence.
pub type Transcript = Vec<Exchange>;

/// One command and its reply.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Which step of the sequence, from 0.
    pub step: usize,
    pub member: usize,
    /// With members' names.
    pub command: Document,
    /// With members' names; `{$network: ...}` if there was none.
    pub reply: Document,
}

struct Player<'a> {
    stage: Stage,
    sequence: &'a Sequence,
    connections: BTreeMap<String, Connection>,
    /// Members' own connections for what the sequence waits for.
    probes: BTreeMap<usize, Connection>,
    /// Which member a connection goes to.
    ends: BTreeMap<String, usize>,
    started: BTreeMap<String, Command>,
    kept: BTreeMap<String, Bson>,
    alive: Vec<bool>,
}

/// The replies, or what kept the sequence from being played.
pub fn play(sequence: &Sequence, stage: Stage) -> Result<Transcript, String> {
    let mut player = Player {
        stage,
        sequence,
        connections: BTreeMap::new(),
        probes: BTreeMap::new(),
        ends: BTreeMap::new(),
        started: BTreeMap::new(),
        kept: BTreeMap::new(),
        alive: vec![true; sequence.members.len()],
    };
    player.initiate()?;
    let mut transcript = Vec::new();
    for (number, step) in sequence.steps.iter().enumerate() {
        let exchange =
            player.step(&step.action).map_err(|error| format!("step {number}: {error}"))?;
        if let Some((command, reply)) = exchange {
            transcript.push(Exchange {
                step: number,
                member: command.member,
                command: command.body,
                reply,
            });
        }
    }
    Ok(transcript)
}

impl Player<'_> {
    fn initiate(&mut self) -> Result<(), String> {
        let Some(config) = &self.sequence.initiate else { return Ok(()) };
        let reply = self.probe(0, &doc! { "replSetInitiate": config.clone() });
        if !is(&reply, "ok", 1.0) {
            return Err(format!("initiate: {reply}"));
        }
        let mut states = vec![(0, "PRIMARY".to_owned())];
        for (member, fields) in self.sequence.members.iter().enumerate().skip(1) {
            let arbiter = fields.get_bool("arbiterOnly").unwrap_or(false);
            states.push((member, if arbiter { "ARBITER" } else { "SECONDARY" }.to_owned()));
        }
        self.wait(&states)?;
        self.settle()
    }

    fn step(&mut self, action: &Action) -> Result<Option<(Command, Document)>, String> {
        match action {
            Action::Run(command) => {
                let mut sent = command.clone();
                sent.body = self.with_kept(&command.body)?;
                let reply = self.run(&sent)?;
                for (name, path) in &command.keep {
                    let value = at_path(&Bson::Document(reply.clone()), path)
                        .ok_or_else(|| format!("nothing at {path} to keep: {reply}"))?;
                    self.kept.insert(name.clone(), value);
                }
                return Ok(Some((command.clone(), self.stage.named(&reply))));
            }
            Action::Start(name, command) => {
                let mut sent = command.clone();
                sent.body = self.with_kept(&command.body)?;
                self.send(&sent).map_err(|error| error.to_string())?;
                self.started.insert(name.clone(), command.clone());
            }
            Action::Finish(name) => {
                let command = self.started.remove(name).ok_or("nothing of that name started")?;
                let reply = self.receive(&command.connection);
                return Ok(Some((command, self.stage.named(&reply))));
            }
            Action::Wait(states) => self.wait(states)?,
            Action::Settle => self.settle()?,
            Action::Kill(member) => {
                self.stage.kill(*member)?;
                self.forget(*member);
            }
            Action::Terminate(member) => {
                self.stage.terminate(*member)?;
                self.forget(*member);
            }
            Action::Restart(member) => {
                self.stage.restart(*member)?;
                self.alive[*member] = true;
            }
            Action::RestartEmpty(member) => {
                self.stage.restart_empty(*member)?;
                self.alive[*member] = true;
            }
            Action::Pause(member) => {
                self.stage.pause(*member)?;
                self.alive[*member] = false;
            }
            Action::Resume(member) => {
                self.stage.resume(*member)?;
                self.alive[*member] = true;
            }
            Action::Sleep(millis) => self.stage.sleep(Duration::from_millis(*millis)),
            Action::Close(name) => {
                self.connections.remove(name);
            }
        }
        Ok(None)
    }

    /// The member's process is gone, and its connections.
    fn forget(&mut self, member: usize) {
        self.alive[member] = false;
        self.probes.remove(&member);
        let started: Vec<&str> =
            self.started.values().map(|command| command.connection.as_str()).collect();
        let ends = &self.ends;
        self.connections
            .retain(|name, _| ends.get(name) != Some(&member) || started.contains(&name.as_str()));
    }

    fn run(&mut self, command: &Command) -> Result<Document, String> {
        let deadline = self.stage.transport.now() + LIMIT;
        loop {
            let reply = match self.send(command) {
                Ok(()) => self.receive(&command.connection),
                Err(error) => network(&error),
            };
            let Some(until) = &command.until else { return Ok(reply) };
            let whole = Bson::Document(reply);
            let holds = until.iter().all(|(path, wanted)| {
                at_path(&whole, path).is_some_and(|found| alike(&found, wanted))
            });
            let Bson::Document(reply) = whole else { unreachable!("made above") };
            if holds {
                return Ok(reply);
            }
            if self.stage.transport.now() > deadline {
                return Err(format!("never {until}: {reply}"));
            }
            self.stage.sleep(POLL);
        }
    }

    fn send(&mut self, command: &Command) -> io::Result<()> {
        let mut body = self.stage.addressed(&command.body);
        body.insert("$db", &command.database);
        let host = self.stage.host(command.member);
        let transport = &*self.stage.transport;
        let mut connection = match self.connections.remove(&command.connection) {
            Some(connection) => connection,
            None => self.stage.block_on(Connection::open(transport, host))?,
        };
        self.stage.block_on(connection.send(transport, &body))?;
        self.connections.insert(command.connection.clone(), connection);
        self.ends.insert(command.connection.clone(), command.member);
        Ok(())
    }

    fn receive(&mut self, name: &str) -> Document {
        let mut connection = self.connections.remove(name).expect("something was sent there");
        match self.stage.block_on(connection.receive()) {
            Ok(reply) => {
                self.connections.insert(name.to_owned(), connection);
                reply
            }
            Err(error) => network(&error),
        }
    }

    /// A command of the sequence's machinery, which leaves no trace in the transcript.
    fn probe(&mut self, member: usize, command: &Document) -> Document {
        let mut body = self.stage.addressed(command);
        body.insert("$db", "admin");
        let transport = &*self.stage.transport;
        let host = self.stage.host(member);
        let open = self.probes.remove(&member);
        let asked = self.stage.block_on(async {
            let mut connection = match open {
                Some(connection) => connection,
                None => Connection::open(transport, host).await?,
            };
            connection.send(transport, &body).await?;
            let reply = connection.receive().await?;
            Ok((connection, reply))
        });
        match asked {
            Ok((connection, reply)) => {
                self.probes.insert(member, connection);
                self.stage.named(&reply)
            }
            Err(error) => network(&error),
        }
    }

    fn until(
        &mut self,
        mut holds: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = self.stage.transport.now() + LIMIT;
        loop {
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(error) if self.stage.transport.now() > deadline => return Err(error),
                Err(_) => self.stage.sleep(POLL),
            }
        }
    }

    fn wait(&mut self, states: &[(usize, String)]) -> Result<(), String> {
        self.until(|player| {
            for (member, wanted) in states {
                let status = player.probe(*member, &doc! { "replSetGetStatus": 1 });
                let found = own_state(&status);
                let writable = wanted != "PRIMARY"
                    || is(&player.probe(*member, &doc! { "hello": 1 }), "isWritablePrimary", true);
                if found.as_deref() != Some(wanted) || !writable {
                    return Err(format!("member {member} is not {wanted}: {status}"));
                }
            }
            Ok(())
        })
    }

    /// Everybody alive has applied and committed the same, and knows it of the others.
    fn settle(&mut self) -> Result<(), String> {
        self.until(|player| {
            let mut seen: Option<Bson> = None;
            for member in 0..player.alive.len() {
                if !player.alive[member] {
                    continue;
                }
                let status = player.probe(member, &doc! { "replSetGetStatus": 1 });
                if is(&status, "myState", 7) {
                    // An arbiter has no data.
                    continue;
                }
                let optimes = optimes(&status).ok_or_else(|| format!("no optimes: {status}"))?;
                for optime in optimes {
                    match &seen {
                        None => seen = Some(optime),
                        Some(seen) if *seen == optime => {}
                        Some(_) => return Err(format!("unsettled: {status}")),
                    }
                }
            }
            Ok(())
        })?;
        // Two more rounds of heartbeats make what members know of each other the same everywhere.
        self.stage.sleep(Duration::from_millis(1_100));
        Ok(())
    }

    /// `{$kept: name}` replaced by what was kept.
    fn with_kept(&self, command: &Document) -> Result<Document, String> {
        let mut out = Document::new();
        for (key, value) in command {
            out.insert(key, self.value_with_kept(value)?);
        }
        Ok(out)
    }

    fn value_with_kept(&self, value: &Bson) -> Result<Bson, String> {
        Ok(match value {
            Bson::Document(document) => match document.get_str("$kept") {
                Ok(name) => self.kept.get(name).cloned().ok_or(format!("{name} is not kept"))?,
                Err(_) => Bson::Document(self.with_kept(document)?),
            },
            Bson::Array(values) => Bson::Array(
                values.iter().map(|value| self.value_with_kept(value)).collect::<Result<_, _>>()?,
            ),
            other => other.clone(),
        })
    }
}

fn is(document: &Document, field: &str, value: impl Into<Bson>) -> bool {
    document.get(field) == Some(&value.into())
}

fn own_state(status: &Document) -> Option<String> {
    let members = status.get_array("members").ok()?;
    let own =
        members.iter().filter_map(Bson::as_document).find(|member| is(member, "self", true))?;
    own.get_str("stateStr").ok().map(str::to_owned)
}

/// The optimes in a status that must agree when nothing is going on.
fn optimes(status: &Document) -> Option<Vec<Bson>> {
    let own = status.get_document("optimes").ok()?;
    let mut found = Vec::new();
    for name in ["lastCommittedOpTime", "appliedOpTime", "durableOpTime"] {
        found.push(own.get(name)?.clone());
    }
    for member in status.get_array("members").ok()?.iter().filter_map(Bson::as_document) {
        let up = is(member, "health", 1.0);
        let myself = is(member, "self", true);
        if up && let Some(optime) = member.get("optime") {
            found.push(optime.clone());
        }
        if up
            && !myself
            && let Some(optime) = member.get("optimeDurable")
        {
            found.push(optime.clone());
        }
    }
    Some(found)
}

/// Equal, whatever number type the sequence's author wrote.
fn alike(found: &Bson, wanted: &Bson) -> bool {
    let number = |value: &Bson| match *value {
        Bson::Int32(value) => Some(f64::from(value)),
        Bson::Int64(value) => Some(value as f64),
        Bson::Double(value) => Some(value),
        _ => None,
    };
    found == wanted || number(found).is_some() && number(found) == number(wanted)
}

fn network(error: &io::Error) -> Document {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => "closed".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    };
    doc! { "$network": what }
}
