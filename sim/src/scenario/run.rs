//! Runs a scenario in a world, step by step; the first disappointment ends it.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Document, doc};
use stepdown_driver::error::Error;

use super::client::{LoadReport, ScenarioClient};
use super::describe;
use super::diagnostic::Position;
use super::format::{
    Action, Balanced, Check, Configuration, EndRef, Expected, Fault, Load, LoadExpected, MemberRef,
    Operation, SetSettings, Step, Wait,
};
use super::judge::{Answer, Disappointment, documents, is_even, judge, same_documents};
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
    };
    let failures: Vec<Failure> = run.tell(seed).err().into_iter().collect();
    Outcome { timeline: run.sim.timeline(), json_lines: run.sim.json_lines(), failures }
}

struct Run<'s> {
    scenario: &'s Scenario,
    sim: Sim,
    clients: BTreeMap<String, ScenarioClient>,
    /// Direct connections for looking into members.
    inspectors: BTreeMap<String, ScenarioClient>,
    remembered: BTreeMap<String, String>,
    loads: BTreeMap<String, (JoinHandle<LoadReport>, String)>,
}

type Verdict = Result<(), Disappointment>;

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
            let verdict = self.act(step);
            verdict.map_err(|verdict| self.fail(step.number, step.at, verdict))?;
        }
        self.sim.note("the story held");
        Ok(())
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
            Action::Operation(operation) => self.operate(operation)?,
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
    fn resolve(&self, member: &MemberRef) -> Result<String, Disappointment> {
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

    fn client(&self, name: &str) -> &ScenarioClient {
        // The parser has seen to it that a client is connected before it is used.
        &self.clients[name]
    }

    fn operate(&self, operation: &Operation) -> Verdict {
        let client = self.client(&operation.client);
        let outcome = self.sim.block_on(client.perform(&operation.kind, operation.retry_for));
        let server = client.last_server();
        let what = describe::operation(operation);
        self.record(&operation.client, &what, &outcome, server.as_deref());
        judge(&operation.expected, &outcome)
    }

    fn record(&self, who: &str, what: &str, outcome: &Result<Answer, Error>, server: Option<&str>) {
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

    fn judge_load(
        &self,
        handle: JoinHandle<LoadReport>,
        client: &str,
        expected: &LoadExpected,
        within: Duration,
    ) -> Verdict {
        let finished = self.sim.run_until(within, |_| handle.is_finished());
        finished.map_err(|_| Disappointment {
            expected: format!("the load to finish within {}", describe::duration(within)),
            seen: "it goes on".to_string(),
        })?;
        let report = self.sim.block_on(handle);
        self.sim.record(client, EventKind::Note { text: report.to_string() });
        let failed = report.failures();
        if failed > expected.errors || failed < expected.errors_at_least {
            let wanted = match (expected.errors_at_least, expected.errors) {
                (0, most) => format!("at most {most} errors"),
                (least, u32::MAX) => format!("at least {least} errors"),
                (least, most) => format!("{least} to {most} errors"),
            };
            return Err(Disappointment { expected: wanted, seen: report.to_string() });
        }
        self.judge_shares(&report, expected)
    }

    fn judge_shares(&self, report: &LoadReport, expected: &LoadExpected) -> Verdict {
        let disappointed =
            |expected: String| Err(Disappointment { expected, seen: report.to_string() });
        let members = match &expected.balanced {
            None => Vec::new(),
            Some(Balanced::Secondaries) => {
                self.sim.secondaries().iter().map(|member| member.name.to_string()).collect()
            }
            Some(Balanced::Members(members)) => {
                members.iter().map(|member| self.resolve(member)).collect::<Result<Vec<_>, _>>()?
            }
        };
        if expected.balanced.is_some() {
            let counts: Vec<u32> = members.iter().map(|name| report.share(name)).collect();
            if is_even(&counts) != Some(true) {
                let among = members.join(", ");
                return disappointed(format!("an even share for each of {among}"));
            }
        }
        for (member, least) in &expected.at_least {
            let name = self.resolve(member)?;
            if report.share(&name) < *least {
                return disappointed(format!("at least {least} from {name}"));
            }
        }
        for member in &expected.nothing_from {
            let name = self.resolve(member)?;
            if report.share(&name) > 0 {
                return disappointed(format!("nothing from {name}"));
            }
        }
        Ok(())
    }

    /// A direct connection to a member, for what no application does.
    fn inspector(&mut self, member: &str) -> Result<&ScenarioClient, Disappointment> {
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

    // ---- expectations

    fn check(&mut self, check: &Check) -> Verdict {
        let name_or_none = |member: Option<Member>| {
            member.map_or("none".to_string(), |member| member.name.to_string())
        };
        match check {
            Check::Primary(wanted) => {
                let wanted = match wanted {
                    Some(member) => self.resolve(member)?,
                    None => "none".to_string(),
                };
                let seen = name_or_none(self.sim.primary());
                self.compare(format!("the primary is {wanted}"), wanted == seen, || {
                    format!("the primary is {seen}")
                })
            }
            Check::PrimaryIsNot(member) => {
                let unwanted = self.resolve(member)?;
                let seen = name_or_none(self.sim.primary());
                self.compare(format!("the primary is not {unwanted}"), unwanted != seen, || {
                    format!("the primary is {seen}")
                })
            }
            Check::State(member, allowed) => {
                let name = self.resolve(member)?;
                let seen = state_of(&self.sim, &name);
                let words: Vec<&str> = allowed.iter().map(|state| state.name()).collect();
                let expected = format!("{name} is {}", words.join(" or "));
                self.compare(expected, seen.is_some_and(|seen| allowed.contains(&seen)), || {
                    states(&self.sim)
                })
            }
            Check::Down(member) => {
                let name = self.resolve(member)?;
                let down = state_of(&self.sim, &name) == Some(MemberState::Down);
                self.compare(format!("{name} is down"), down, || states(&self.sim))
            }
            Check::ClientPrimary { client, primary } => {
                let wanted = match primary {
                    Some(member) => self.resolve(member)?,
                    None => "none".to_string(),
                };
                let seen = self.client(client).primary().unwrap_or_else(|| "none".to_string());
                let expected = format!("{client} sees {wanted} as the primary");
                self.compare(expected, wanted == seen, || format!("it sees {seen}"))
            }
            Check::ClientMembers { client, count } => {
                let seen = self.client(client).members();
                let expected = format!("{client} sees {count} members");
                self.compare(expected, seen.len() == *count, || {
                    format!("it sees {}", seen.join(", "))
                })
            }
            Check::Holds { member, of, documents: wanted } => {
                let name = self.resolve(member)?;
                let inspector = self.inspector(&name)?.clone();
                let found = self.sim.block_on(inspector.all(of));
                let what =
                    format!("{name} holds {} {}", describe::namespace(of), documents(wanted));
                match found {
                    Ok(found) => {
                        self.compare(what, same_documents(&found, wanted), || documents(&found))
                    }
                    Err(error) => Err(Disappointment { expected: what, seen: error.to_string() }),
                }
            }
        }
    }

    /// Notes what held, or is disappointed.
    fn compare(&self, expected: String, holds: bool, seen: impl FnOnce() -> String) -> Verdict {
        if !holds {
            return Err(Disappointment { expected, seen: seen() });
        }
        self.sim.note(format!("as expected: {expected}"));
        Ok(())
    }
}

/// The member a step is about.
fn subject(action: &Action) -> Option<&MemberRef> {
    match action {
        Action::Initiate { on, .. } => Some(on),
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

fn state_of(sim: &Sim, name: &str) -> Option<MemberState> {
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
fn states(sim: &Sim) -> String {
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
