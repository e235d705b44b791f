//! Runs a scenario in a world, step by step; the first disappointment ends it.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};
use stepdown_driver::Instant;
use stepdown_driver::error::Error;

use super::client::{LoadReport, ScenarioClient};
use super::describe;
use super::diagnostic::Position;
use super::format::{
    Action, Configuration, EndRef, Expected, Fault, Load, LoadExpected, MemberRef, Operation,
    Reconfiguration, SetSettings, Step, Took, Wait,
};
use super::judge::{Answer, Disappointment, judge};
use super::play::{OpenSession, OpenStream, Pending};
use super::{Failure, Outcome, RunOptions, Scenario};
use crate::trace::{EventKind, MemberState};
use crate::world::{FaultError, JoinHandle, Member, Sim};

/// How long an initiated set may take to settle before the first step.
const ELECT_WITHIN: Duration = Duration::from_secs(120);
/// How long a load in the foreground may take beyond its pauses.
const LOAD_WITHIN: Duration = Duration::from_secs(3_600);

/// Runs `scenario` to its end, or to its first failure.
pub(crate) fn run(scenario: &Scenario, options: &RunOptions) -> Outcome {
    let settings = &scenario.parsed.set;
    let seed = options.seed.unwrap_or(scenario.parsed.seed);
    let mut builder = Sim::builder()
        .seed(seed)
        .set_name(settings.name.clone())
        .server_version(settings.server_version)
        .record(options.record);
    if let Some((least, most)) = settings.latency {
        builder = builder.latency(least, most);
    }
    if let Some(bytes) = settings.oplog_size_bytes {
        builder = builder.oplog_size_bytes(bytes);
    }
    for member in &settings.members {
        builder = builder.member(member.clone());
    }
    let mut run = Run {
        scenario,
        sim: builder.build(),
        clients: BTreeMap::new(),
        inspectors: BTreeMap::new(),
        remembered: BTreeMap::new(),
        loads: BTreeMap::new(),
        pending: BTreeMap::new(),
        sessions: BTreeMap::new(),
        streams: BTreeMap::new(),
    };
    let failures: Vec<Failure> = run.tell(seed).err().into_iter().collect();
    Outcome { events: run.sim.events(), timeline: run.sim.timeline(), failures }
}

pub(crate) struct Run<'s> {
    scenario: &'s Scenario,
    pub(crate) sim: Sim,
    clients: BTreeMap<String, ScenarioClient>,
    /// Direct connections for looking into members.
    inspectors: BTreeMap<String, ScenarioClient>,
    remembered: BTreeMap<String, String>,
    loads: BTreeMap<String, (JoinHandle<LoadReport>, String)>,
    /// Operations in the background.
    pub(crate) pending: BTreeMap<String, Pending>,
    pub(crate) sessions: BTreeMap<String, OpenSession>,
    pub(crate) streams: BTreeMap<String, OpenStream>,
}

pub(crate) type Verdict = Result<(), Disappointment>;

impl Run<'_> {
    fn tell(&mut self, seed: u64) -> Result<(), Failure> {
        let parsed = &self.scenario.parsed;
        self.sim.note(format!("{} (seed {seed})", parsed.title));
        for line in parsed.about.lines() {
            self.sim.note(format!("  {}", line.trim()));
        }
        if parsed.set.elected {
            let verdict = self.elect(&parsed.set);
            verdict.map_err(|verdict| self.fail(0, Position { line: 1, column: 1 }, verdict))?;
        }
        for step in &parsed.steps {
            if let Some(note) = &step.note {
                for line in note.lines() {
                    self.sim.note(line.trim());
                }
            }
            if let Some(text) = describe::action(&step.action) {
                self.sim.note(format!("step {}: {text}", step.number));
            }
            let began = self.sim.now();
            let verdict = self.act(step).and_then(|()| self.judge_time(step, began));
            verdict.map_err(|verdict| self.fail(step.number, step.at, verdict))?;
        }
        self.sim.note("the story held");
        Ok(())
    }

    /// Whether a step took as long as the file says.
    fn judge_time(&self, step: &Step, began: Instant) -> Verdict {
        let Some(Took { at_least, at_most }) = step.took else { return Ok(()) };
        let took = self.sim.now() - began;
        if took >= at_least && at_most.is_none_or(|most| took <= most) {
            return Ok(());
        }
        let least = describe::duration(at_least);
        let expected = match at_most.map(describe::duration) {
            Some(most) => format!("it to take {least} to {most}"),
            None => format!("it to take {least} at least"),
        };
        Err(Disappointment { expected, seen: format!("{} ms", took.as_millis()) })
    }

    /// The failure as a value, and as an event.
    fn fail(&self, step: usize, at: Position, verdict: Disappointment) -> Failure {
        let Disappointment { expected, seen } = verdict;
        let source_name = self.scenario.source_name.clone();
        let failure = Failure { source_name, step, line: at.line, expected, seen };
        self.sim.note(format!("FAILED {failure}"));
        failure
    }

    fn act(&mut self, step: &Step) -> Verdict {
        // Roles are looked up before the step changes them.
        let meant = match &step.remember {
            Some(_) => subject(&step.action).map(|member| self.resolve(member)).transpose()?,
            None => None,
        };
        match &step.action {
            Action::Note => {}
            Action::Start { member } => self.fault(self.sim.add_member(member.clone()))?,
            Action::Initiate { on, configuration, expected } => {
                self.initiate(on, configuration, expected)?;
            }
            Action::Reconfigure { change, expected } => self.reconfigure(change, expected)?,
            Action::WaitFor { what, within } => self.wait_for(what, *within)?,
            Action::Connect { client, uri } => {
                let connected =
                    ScenarioClient::connect(&self.sim, client, uri).map_err(|error| {
                        Disappointment {
                            expected: format!("a client for {uri}"),
                            seen: error.to_string(),
                        }
                    })?;
                self.clients.insert(client.clone(), connected);
            }
            Action::Operation(operation) => match &operation.background {
                Some(name) => self.start_operation(name, operation)?,
                None => self.operate(operation)?,
            },
            Action::FinishOperation { operation, expected, within } => {
                self.finish_operation(operation, expected, *within)?;
            }
            Action::StartSession { session, client, causal, snapshot } => {
                self.start_session(session, client, *causal, *snapshot)?;
            }
            Action::StartTransaction { session, read, write_concern } => {
                self.start_transaction(session, read, write_concern.as_ref())?;
            }
            Action::CommitTransaction { session, retry_for, expected } => {
                self.commit_transaction(session, *retry_for, expected)?;
            }
            Action::AbortTransaction { session, expected } => {
                self.abort_transaction(session, expected)?;
            }
            Action::EndSession { session } => self.end_session(session)?,
            Action::Watch(watch) => self.watch(watch)?,
            Action::Next { stream, expected, within } => self.next(stream, expected, *within)?,
            Action::Close { stream } => self.close_stream(stream)?,
            Action::Load(load) => self.load(load)?,
            Action::Finish { load, expected, within } => self.finish(load, expected, *within)?,
            Action::Fault(fault) => self.inflict(fault)?,
            Action::Advance(duration) => self.sim.advance(*duration),
            Action::Expect(checks) => {
                for check in checks {
                    self.check(check)?;
                }
            }
        }
        if let Some(name) = &step.remember {
            let member = match (&step.action, meant) {
                (Action::Start { member }, _) => member.clone(),
                (_, Some(member)) => member,
                // What was waited for is there now.
                (_, None) => self.resolve(&MemberRef::Primary)?,
            };
            self.sim.note(format!("{name} is {member}"));
            self.remembered.insert(name.clone(), member);
        }
        Ok(())
    }

    /// The name of a member that plays a role now.
    pub(crate) fn resolve(&self, member: &MemberRef) -> Result<String, Disappointment> {
        let found = match member {
            MemberRef::Named(name) => Some(name.clone()),
            MemberRef::Remembered(name) => self.remembered.get(name).cloned(),
            MemberRef::Primary => self.sim.primary().map(|member| member.name.to_string()),
            MemberRef::Secondary => {
                self.sim.secondaries().first().map(|member| member.name.to_string())
            }
        };
        found.ok_or_else(|| Disappointment {
            expected: format!("a {}", describe::member(member)),
            seen: states(&self.sim),
        })
    }

    fn resolve_end(&self, end: &EndRef) -> Result<String, Disappointment> {
        match end {
            EndRef::Member(member) => self.resolve(member),
            EndRef::Client(name) => Ok(name.clone()),
            EndRef::Secondaries => unreachable!("the parser takes it in groups only"),
        }
    }

    fn resolve_ends(&self, ends: &[EndRef]) -> Result<Vec<String>, Disappointment> {
        let mut names = Vec::new();
        for end in ends {
            match end {
                EndRef::Secondaries => {
                    let all = self.sim.secondaries();
                    names.extend(all.iter().map(|member| member.name.to_string()));
                }
                end => names.push(self.resolve_end(end)?),
            }
        }
        Ok(names)
    }

    fn fault(&self, outcome: Result<(), FaultError>) -> Verdict {
        outcome.map_err(|error| Disappointment {
            expected: "that this can be done".to_string(),
            seen: error.to_string(),
        })
    }

    fn inflict(&self, fault: &Fault) -> Verdict {
        let sim = &self.sim;
        let outcome = match fault {
            Fault::Kill(member) => sim.kill(self.resolve(member)?),
            Fault::Shutdown(member) => sim.shutdown(self.resolve(member)?),
            Fault::Restart(member) => sim.restart(self.resolve(member)?),
            Fault::RestartEmpty(member) => sim.restart_empty(self.resolve(member)?),
            Fault::Pause(member) => sim.pause(self.resolve(member)?),
            Fault::Resume(member) => sim.resume(self.resolve(member)?),
            Fault::Isolate(member) => sim.isolate(self.resolve(member)?),
            Fault::Partition(left, right) => {
                sim.partition(&self.resolve_ends(left)?, &self.resolve_ends(right)?)
            }
            Fault::Cut(from, to) => sim.cut(self.resolve_end(from)?, self.resolve_end(to)?),
            Fault::Refuse(from, to) => sim.refuse(self.resolve_end(from)?, self.resolve_end(to)?),
            Fault::Reset(a, b) => sim.reset(self.resolve_end(a)?, self.resolve_end(b)?),
            Fault::Delay(a, b, by) => sim.delay(self.resolve_end(a)?, self.resolve_end(b)?, *by),
            Fault::Skew(member, millis) => sim.skew(self.resolve(member)?, *millis),
            Fault::Drift(member, ppm) => sim.drift(self.resolve(member)?, *ppm),
            Fault::Heal => {
                sim.heal();
                Ok(())
            }
        };
        self.fault(outcome)
    }

    // ---- the set

    fn elect(&mut self, settings: &SetSettings) -> Verdict {
        let first = MemberRef::Named(settings.members[0].clone());
        let configuration = Configuration::Members(settings.members.clone());
        self.initiate(&first, &configuration, &Expected::Ok)?;
        self.wait_for(&Wait::Settled, ELECT_WITHIN)
    }

    fn initiate(
        &mut self,
        on: &MemberRef,
        configuration: &Configuration,
        expected: &Expected,
    ) -> Verdict {
        let member = self.resolve(on)?;
        let command = match configuration {
            Configuration::None => doc! { "replSetInitiate": {} },
            Configuration::Members(members) => {
                doc! { "replSetInitiate": self.written_out(members) }
            }
            Configuration::Document(document) => doc! { "replSetInitiate": document.clone() },
        };
        let inspector = self.inspector(&member)?.clone();
        let outcome = self.sim.block_on(inspector.command("admin", command));
        self.record("initiate", &format!("replSetInitiate on {member}"), &outcome, Some(&member));
        judge(expected, &outcome)
    }

    /// replSetReconfig on the primary: its configuration with one member more, or one less.
    fn reconfigure(&mut self, change: &Reconfiguration, expected: &Expected) -> Verdict {
        let primary = self.resolve(&MemberRef::Primary)?;
        let wanted = match change {
            Reconfiguration::Add(host) => host.clone(),
            Reconfiguration::Remove(member) => self.resolve(member)?,
        };
        let inspector = self.inspector(&primary)?.clone();
        let current = inspector.command("admin", doc! { "replSetGetConfig": 1 });
        let unreadable = |seen: String| Disappointment {
            expected: format!("a configuration from {primary}"),
            seen,
        };
        let reply = self.sim.block_on(current).map_err(|error| unreadable(error.to_string()))?;
        let mut configuration = reply
            .documents
            .first()
            .and_then(|reply| reply.get_document("config").ok().cloned())
            .ok_or_else(|| unreadable(super::judge::documents(&reply.documents)))?;
        change_members(&mut configuration, change, &wanted)
            .ok_or_else(|| unreadable(configuration.to_string()))?;
        let command = doc! { "replSetReconfig": configuration };
        let outcome = self.sim.block_on(inspector.command("admin", command));
        let verb = if matches!(change, Reconfiguration::Add(_)) { "adds" } else { "removes" };
        let what = format!("replSetReconfig, which {verb} {wanted}");
        self.record("reconfigure", &what, &outcome, Some(&primary));
        judge(expected, &outcome)
    }

    /// A configuration with the file's timeouts.
    fn written_out(&self, members: &[String]) -> Document {
        let settings = &self.scenario.parsed.set;
        let members: Vec<Document> = (0_i32..)
            .zip(members)
            .map(|(id, host)| doc! { "_id": id, "host": host.as_str() })
            .collect();
        let mut configuration =
            doc! { "_id": settings.name.as_str(), "version": 1, "members": members };
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let mut timeouts = Document::new();
        if let Some(timeout) = settings.election_timeout {
            timeouts.insert("electionTimeoutMillis", millis(timeout));
        }
        if let Some(interval) = settings.heartbeat_interval {
            timeouts.insert("heartbeatIntervalMillis", millis(interval));
        }
        if !timeouts.is_empty() {
            configuration.insert("settings", timeouts);
        }
        configuration
    }

    fn wait_for(&self, what: &Wait, within: Duration) -> Verdict {
        let holds: Box<dyn FnMut(&Sim) -> bool> = match what {
            Wait::Primary => Box::new(|sim| sim.primary().is_some()),
            Wait::Settled => Box::new(is_settled),
            Wait::CaughtUp => Box::new(has_caught_up),
            Wait::State { member, state, seen_by: None } => {
                let name = self.resolve(member)?;
                let state = *state;
                Box::new(move |sim| state_of(sim, &name) == Some(state))
            }
            Wait::State { member, state, seen_by: Some(client) } => {
                let name = self.resolve(member)?;
                let state = *state;
                let client = self.client(client);
                Box::new(move |_| client.sees(&name, state))
            }
            Wait::PrimarySeenBy { client } => {
                let client = self.client(client);
                Box::new(move |_| client.primary().is_some())
            }
        };
        self.sim.run_until(within, holds).map(|_| ()).map_err(|_| Disappointment {
            expected: format!("{} within {}", describe::wait(what), describe::duration(within)),
            seen: states(&self.sim),
        })
    }

    // ---- clients

    pub(crate) fn client(&self, name: &str) -> &ScenarioClient {
        // The parser has seen to it that a client is connected before it is used.
        &self.clients[name]
    }

    fn operate(&self, operation: &Operation) -> Verdict {
        let client = self.client(&operation.client);
        let session = operation.session.as_ref().map(|name| self.sessions[name].session.clone());
        let performed = client.perform(&operation.kind, operation.retry_for, session.as_deref());
        let outcome = self.sim.block_on(performed);
        let server = client.last_server();
        let what = describe::operation(operation);
        self.record(&operation.client, &what, &outcome, server.as_deref());
        judge(&operation.expected, &outcome)
    }

    pub(crate) fn record(
        &self,
        who: &str,
        what: &str,
        outcome: &Result<Answer, Error>,
        server: Option<&str>,
    ) {
        let what = what.to_string();
        let kind = match outcome {
            Ok(_) => EventKind::OperationSucceeded { what, server: server.map(Into::into) },
            Err(error) => {
                EventKind::OperationFailed { what, why: super::judge::describe_error(error) }
            }
        };
        self.sim.record(who, kind);
    }

    fn load(&mut self, load: &Load) -> Verdict {
        let client = self.client(&load.client).clone();
        let sim = self.sim.clone();
        let task = client.load(sim, load.clone());
        match &load.background {
            Some(name) => {
                let handle = self.sim.spawn(name.as_str(), task);
                self.loads.insert(name.clone(), (handle, load.client.clone()));
                Ok(())
            }
            None => {
                let handle = self.sim.spawn("load", task);
                let within = LOAD_WITHIN + load.every * load.count;
                self.judge_load(handle, &load.client, &load.expected, within)
            }
        }
    }

    fn finish(&mut self, load: &str, expected: &LoadExpected, within: Duration) -> Verdict {
        let Some((handle, client)) = self.loads.remove(load) else {
            unreachable!("the parser knows which loads run, and `{load}` does not");
        };
        self.judge_load(handle, &client, expected, within)
    }

    /// A direct connection to a member, for what no application does.
    pub(crate) fn inspector(&mut self, member: &str) -> Result<&ScenarioClient, Disappointment> {
        if !self.inspectors.contains_key(member) {
            let client =
                ScenarioClient::inspector(&self.sim, member).map_err(|error| Disappointment {
                    expected: format!("a direct connection to {member}"),
                    seen: error.to_string(),
                })?;
            self.inspectors.insert(member.to_string(), client);
        }
        Ok(&self.inspectors[member])
    }
}

/// The member a step is about.
fn subject(action: &Action) -> Option<&MemberRef> {
    match action {
        Action::Initiate { on, .. } => Some(on),
        Action::Reconfigure { change: Reconfiguration::Remove(member), .. } => Some(member),
        Action::WaitFor { what: Wait::State { member, .. }, .. } => Some(member),
        Action::Fault(
            Fault::Kill(member)
            | Fault::Shutdown(member)
            | Fault::Restart(member)
            | Fault::RestartEmpty(member)
            | Fault::Pause(member)
            | Fault::Resume(member)
            | Fault::Isolate(member),
        ) => Some(member),
        _ => None,
    }
}

/// The next version of a configuration, with `host` added or removed; `None` if it is not one.
fn change_members(
    configuration: &mut Document,
    change: &Reconfiguration,
    host: &str,
) -> Option<()> {
    let integer = |value: &Bson| value.as_i64().or(value.as_i32().map(i64::from));
    let version = integer(configuration.get("version")?)?;
    configuration.insert("version", version + 1);
    // The server fills in its own.
    configuration.remove("term");
    let members = configuration.get_array_mut("members").ok()?;
    match change {
        Reconfiguration::Remove(_) => members.retain(|member| {
            member.as_document().and_then(|member| member.get_str("host").ok()) != Some(host)
        }),
        Reconfiguration::Add(_) => {
            let ids =
                members.iter().filter_map(|member| integer(member.as_document()?.get("_id")?));
            let id = ids.max().unwrap_or(-1) + 1;
            members.push(Bson::Document(doc! { "_id": id, "host": host }));
        }
    }
    Some(())
}

pub(crate) fn state_of(sim: &Sim, name: &str) -> Option<MemberState> {
    let member = sim.member(name)?;
    Some(member.state().unwrap_or(MemberState::Down))
}

fn is_settled(sim: &Sim) -> bool {
    sim.primary().is_some()
        && sim.members().iter().filter_map(Member::state).all(|state| {
            matches!(state, MemberState::Primary | MemberState::Secondary | MemberState::Arbiter)
        })
}

fn has_caught_up(sim: &Sim) -> bool {
    let Some(primary) = sim.primary().and_then(|member| member.status) else {
        return false;
    };
    is_settled(sim)
        && sim
            .members()
            .iter()
            .filter_map(|member| member.status.as_ref())
            .filter(|status| status.state == MemberState::Secondary)
            .all(|status| status.applied >= primary.applied)
}

/// Everybody's state, for a disappointment.
pub(crate) fn states(sim: &Sim) -> String {
    let all: Vec<String> = sim
        .members()
        .iter()
        .map(|member| match member.state() {
            Some(state) if member.paused => format!("{} {state} (paused)", member.name),
            Some(state) => format!("{} {state}", member.name),
            None => format!("{} not running", member.name),
        })
        .collect();
    all.join(", ")
}
