//! Playing a plan in a world: the set is initiated, clients work while things break, everything is
//! mended, and then the set must come back to life and nothing that was promised may be missing.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use bson::rawdoc;
use stepdown_driver::Instant;

use super::client::{Notes, Worker, work};
use super::goals::{Goal, Goals};
use super::panics;
use super::plan::{Fault, FaultAt, MemberPlan, OperationAt, Place, Plan, Who};
use crate::check::{Asked, Final, Outcome, Strength};
use crate::mongod::command::ReadAt;
use crate::scenario::{RunOptions, Scenario};
use crate::trace::{Event, MemberState, Record};
use crate::world::{FaultError, Member, Sim};

/// The first primary comes 10 to 11.5 s after the initiate; some split votes are granted.
const FIRST_PRIMARY_WITHIN: Duration = Duration::from_secs(120);
/// After everything is mended: processes that are shutting down end, the others elect, roll back and
/// catch up. Nine election timeouts.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// And then a client's majority write goes through.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// After the last operation is due its client needs at most so long: two attempts, two searches.
const CLIENTS_WITHIN: Duration = Duration::from_secs(60);

/// Something that must not happen, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was broken, in a few words that are the same for every finding of its kind.
    pub rule: String,
    /// What happened: members, times, the operations concerned.
    pub what: String,
    /// When it was noticed, in virtual time.
    pub at: Instant,
}

/// How playing a plan went.
#[derive(Clone, Debug)]
pub struct Played {
    /// The first thing that went wrong.
    pub finding: Option<Finding>,
    /// What was seen on the way.
    pub goals: Goals,
    /// The plan with roles replaced by who played them, and without faults that had no effect.
    pub concrete: Plan,
    /// How many operations were answered, errors included.
    pub operations: usize,
    /// How many of them failed.
    pub failed: usize,
    /// Virtual time at the end.
    pub ended: Instant,
    /// The timeline, if anything was recorded.
    pub timeline: String,
    /// The record itself.
    pub events: Vec<Event>,
}

/// Plays `plan`, recording at `level`.
pub fn play(plan: &Plan, level: Record) -> Played {
    panics::be_quiet();
    let sim = Sim::builder()
        .seed(plan.seed)
        .members(plan.members.len())
        .record(level)
        .check_invariants(true)
        .check_messages(false)
        .build();
    let mut stage = Stage {
        plan,
        sim,
        notes: Notes::default(),
        effects: Vec::new(),
        taken_down: BTreeMap::new(),
        base: Instant::ZERO,
    };
    let outcome = panics::heard(|| catch_unwind(AssertUnwindSafe(|| stage.play())));
    let finding = match outcome {
        (Ok(Ok(())), _) => None,
        (Ok(Err(finding)), _) => Some(finding),
        (Err(_), heard) => Some(stage.panicked(heard)),
    };
    stage.report(finding)
}

/// Runs a scenario file; what did not hold, or panicked, is a finding.
///
/// # Errors
/// The finding.
pub(super) fn tell(scenario: &Scenario, options: &RunOptions) -> Result<(), Finding> {
    panics::be_quiet();
    let (outcome, heard) =
        panics::heard(|| catch_unwind(AssertUnwindSafe(|| scenario.run(options))));
    let at = Instant::ZERO;
    match outcome {
        Ok(outcome) => match outcome.failures().first() {
            None => Ok(()),
            Some(failure) => {
                let rule = format!("expectation of step {}", failure.step());
                Err(Finding { rule, what: failure.to_string(), at })
            }
        },
        Err(_) => {
            let heard = heard.unwrap_or_default();
            // An invariant's name is in its message; other assertions are known by their place.
            let named = heard.message.split_once("broke an invariant: ").map(|(_, rest)| rest);
            let rule = match named.and_then(|rest| rest.split_once(": ")) {
                Some((rule, _)) => rule.to_owned(),
                None => format!("no assertion fails: {}", heard.place),
            };
            Err(Finding { rule, what: heard.message, at })
        }
    }
}

struct Stage<'p> {
    plan: &'p Plan,
    sim: Sim,
    notes: Notes,
    /// The faults that had an effect, with their roles resolved.
    effects: Vec<FaultAt>,
    /// Whom an episode took down, paused, ...
    taken_down: BTreeMap<u32, u8>,
    base: Instant,
}

impl Stage<'_> {
    fn play(&mut self) -> Result<(), Finding> {
        self.initiate()?;
        self.base = self.sim.now();
        let hosts: Vec<String> =
            self.sim.members().iter().map(|member| member.name.to_string()).collect();
        let mut handles = Vec::new();
        for (number, kind) in self.plan.clients.iter().enumerate() {
            let worker = Worker::new(&self.sim, number, *kind, &hosts, &self.notes);
            let mine = |operation: &&OperationAt| usize::from(operation.client) == number;
            let operations = self.plan.operations.iter().filter(mine).copied().collect();
            let task = work(self.sim.clone(), worker, self.base, operations, self.notes.clone());
            handles.push(self.sim.spawn(format!("client-{number}"), task));
        }
        for fault in &self.plan.faults {
            self.sim.run_to(self.base + fault.at);
            self.inflict(fault);
        }
        self.sim.run_to(self.base + self.plan.duration);
        self.mend();
        self.settle()?;
        let clients = self.plan.clients.len();
        let notes = self.notes.clone();
        let by = self.sim.now() + CLIENTS_WITHIN;
        while notes.lock().idle < clients {
            if self.sim.now() >= by {
                let what = format!("an operation never ended\n{}", self.states());
                return self.found("clients make progress", what);
            }
            self.start_the_dead();
            let soon = Duration::from_secs(2);
            let _ = self.sim.run_until(soon, |_| notes.lock().idle == clients);
        }
        let mut workers: Vec<Worker> = Vec::new();
        for handle in handles {
            workers.push(self.sim.block_on(handle));
        }
        self.serve(workers)?;
        self.settle()?;
        self.judge()
    }

    fn found(&self, rule: &str, what: String) -> Result<(), Finding> {
        Err(Finding { rule: rule.into(), what, at: self.sim.now() })
    }

    /// A panic: an invariant, an assertion of the product, or a deadlock.
    fn panicked(&self, heard: Option<panics::Heard>) -> Finding {
        let at = self.sim.now();
        let heard = heard.unwrap_or_default();
        if let Some(violation) = self.sim.world().broken.clone() {
            return Finding { rule: violation.rule.into(), what: heard.message, at };
        }
        let place = if heard.place.is_empty() { "somewhere" } else { &heard.place };
        Finding { rule: format!("no assertion fails: {place}"), what: heard.message, at }
    }

    fn report(mut self, finding: Option<Finding>) -> Played {
        let mut goals = Goals::default();
        {
            let world = self.sim.world();
            if let Some(invariants) = &world.invariants {
                goals.add_landmarks(invariants.landmarks());
                let seen = invariants.sightings();
                goals.add_if(seen.two_primaries, Goal::TwoPrimaries);
                goals.add_if(seen.two_writable, Goal::TwoWritable);
                goals.add_if(seen.lost_in_crash, Goal::LostInCrash);
            }
        }
        let notes = self.notes.lock();
        goals.add_if(notes.retry_answered, Goal::RetryAnswered);
        let records = notes.history.records();
        for record in records {
            match record.outcome {
                Outcome::Failed(64) => goals.add(Goal::MajorityTimedOut),
                Outcome::Failed(189 | 11_602) => goals.add(Goal::StepDownEndedWrite),
                Outcome::Failed(10_107) => goals.add(Goal::NotPrimary),
                _ => {}
            }
        }
        let (operations, failed) = (
            records.len(),
            records.iter().filter(|it| matches!(it.outcome, Outcome::Failed(_))).count(),
        );
        drop(notes);
        let mut concrete = self.plan.clone();
        concrete.faults = std::mem::take(&mut self.effects);
        Played {
            finding,
            goals,
            concrete,
            operations,
            failed,
            ended: self.sim.now(),
            timeline: self.sim.timeline(),
            events: self.sim.events(),
        }
    }

    // ---- the set

    fn initiate(&mut self) -> Result<(), Finding> {
        let members = self.sim.members();
        let config = configuration(&self.sim.set_name(), &members, self.plan);
        let command = rawdoc! { "replSetInitiate": config, "$db": "admin" };
        let outcome = self.sim.shell_command(&members[0].name, command);
        let refused = match outcome {
            Ok(reply) if matches!(reply.get_f64("ok"), Ok(1.0)) => None,
            Ok(reply) => Some(format!("{reply:?}")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refused) = refused {
            return self.found("a good configuration is accepted", refused);
        }
        let primary =
            self.sim.run_until_world(FIRST_PRIMARY_WITHIN, |world| world.primary().is_some());
        if primary.is_err() {
            return self.found("a new set elects", self.states());
        }
        Ok(())
    }

    fn number_of(&self, host: &str) -> Option<u8> {
        self.sim.world().node_at(host).map(|node| node as u8)
    }

    fn host(&self, member: u8) -> Arc<str> {
        self.sim.world().nodes[usize::from(member)].host.clone()
    }

    fn resolve(&self, who: Who) -> Option<u8> {
        match who {
            Who::Member(member) => Some(member),
            Who::Primary => self.sim.primary().and_then(|member| self.number_of(&member.name)),
            Who::Secondary => {
                self.sim.secondaries().first().and_then(|member| self.number_of(&member.name))
            }
        }
    }

    fn resolve_place(&self, place: Place) -> Option<(Place, String)> {
        match place {
            Place::Client(client) => Some((place, format!("client-{client}"))),
            Place::Member(who) => {
                let member = self.resolve(who)?;
                Some((Place::Member(Who::Member(member)), self.host(member).to_string()))
            }
        }
    }

    /// Lets a fault happen; remembers it as it turned out.
    fn inflict(&mut self, planned: &FaultAt) {
        if let Some(fault) = self.try_to(planned) {
            let FaultAt { at, episode, .. } = *planned;
            self.effects.push(FaultAt { at, episode, fault });
        }
    }

    fn try_to(&mut self, planned: &FaultAt) -> Option<Fault> {
        let sim = self.sim.clone();
        let episode = planned.episode;
        let mut strike = |who: Who, verb: fn(&Sim, &str) -> Result<(), FaultError>| {
            let member = self.resolve(who)?;
            verb(&sim, &self.host(member)).ok()?;
            self.taken_down.insert(episode, member);
            Some(Who::Member(member))
        };
        match &planned.fault {
            Fault::Kill(who) => strike(*who, |sim, host| sim.kill(host)).map(Fault::Kill),
            Fault::Shutdown(who) => {
                strike(*who, |sim, host| sim.shutdown(host)).map(Fault::Shutdown)
            }
            Fault::Pause(who) => strike(*who, |sim, host| sim.pause(host)).map(Fault::Pause),
            Fault::Isolate(who) => strike(*who, |sim, host| sim.isolate(host)).map(Fault::Isolate),
            Fault::Restart => {
                let member = *self.taken_down.get(&episode)?;
                sim.restart(&self.host(member)).ok()?;
                Some(Fault::Restart)
            }
            Fault::Resume => {
                let member = *self.taken_down.get(&episode)?;
                sim.resume(&self.host(member)).ok()?;
                Some(Fault::Resume)
            }
            Fault::Partition(side, clients) => {
                let mut members: Vec<u8> =
                    side.iter().filter_map(|who| self.resolve(*who)).collect();
                members.sort_unstable();
                members.dedup();
                let (one, other) = self.sides(&members, clients);
                if one.is_empty() || other.is_empty() {
                    return None;
                }
                sim.partition(&one, &other).ok()?;
                let members = members.into_iter().map(Who::Member).collect();
                Some(Fault::Partition(members, clients.clone()))
            }
            Fault::Lag(who) => {
                let member = self.resolve(*who)?;
                let host = self.host(member);
                for other in (0..self.plan.members.len() as u8).filter(|other| *other != member) {
                    sim.cut(&*host, &*self.host(other)).ok()?;
                }
                Some(Fault::Lag(Who::Member(member)))
            }
            Fault::Cut(from, to) => {
                let ((from, a), (to, b)) = self.link(*from, *to)?;
                sim.cut(a, b).ok()?;
                Some(Fault::Cut(from, to))
            }
            Fault::Reset(from, to) => {
                let ((from, a), (to, b)) = self.link(*from, *to)?;
                sim.reset(a, b).ok()?;
                Some(Fault::Reset(from, to))
            }
            Fault::Delay(from, to, millis) => {
                let ((from, a), (to, b)) = self.link(*from, *to)?;
                sim.delay(a, b, Duration::from_millis(u64::from(*millis))).ok()?;
                Some(Fault::Delay(from, to, *millis))
            }
            Fault::Heal => {
                sim.heal();
                Some(Fault::Heal)
            }
            Fault::Skew(member, millis) => {
                sim.skew(&self.host(*member), i64::from(*millis)).ok()?;
                Some(planned.fault.clone())
            }
            Fault::StepDown(seconds, force) => {
                let seconds_of_grace = if *force { 0 } else { seconds.saturating_sub(1).min(10) };
                self.send_to_primary(rawdoc! {
                    "replSetStepDown": i32::from(*seconds),
                    "secondaryCatchUpPeriodSecs": i32::from(seconds_of_grace),
                    "force": *force,
                    "$db": "admin",
                })?;
                Some(planned.fault.clone())
            }
            Fault::StepUp(who) => {
                let member = self.resolve(*who)?;
                let host = self.host(member);
                if !self.sim.member(&host).is_some_and(|member| member.alive) {
                    return None;
                }
                let command = rawdoc! { "replSetStepUp": 1_i32, "$db": "admin" };
                self.sim.spawn_shell_command(&host, command);
                Some(Fault::StepUp(Who::Member(member)))
            }
            Fault::Remove(member) | Fault::Add(member) => {
                let adds = matches!(planned.fault, Fault::Add(_));
                let command = self.reconfiguration(*member, adds)?;
                self.send_to_primary(command)?;
                Some(planned.fault.clone())
            }
        }
    }

    fn link(&self, from: Place, to: Place) -> Option<((Place, String), (Place, String))> {
        let (from, to) = (self.resolve_place(from)?, self.resolve_place(to)?);
        (from.1 != to.1).then_some((from, to))
    }

    /// The two sides of a partition, by name.
    fn sides(&self, members: &[u8], clients: &[u8]) -> (Vec<String>, Vec<String>) {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for member in 0..self.plan.members.len() as u8 {
            let side = if members.contains(&member) { &mut one } else { &mut other };
            side.push(self.host(member).to_string());
        }
        for client in 0..self.plan.clients.len() as u8 {
            let side = if clients.contains(&client) { &mut one } else { &mut other };
            side.push(format!("client-{client}"));
        }
        (one, other)
    }

    /// An operator's command to whoever accepts writes; nobody waits for the answer.
    fn send_to_primary(&self, command: RawDocumentBuf) -> Option<()> {
        let primary = self.sim.primary()?;
        self.sim.spawn_shell_command(&primary.name, command);
        Some(())
    }

    /// The primary's configuration with a member more, or one less.
    fn reconfiguration(&self, member: u8, adds: bool) -> Option<RawDocumentBuf> {
        let host = self.host(member);
        let world = self.sim.world();
        let primary = world.nodes[world.primary()? as usize].process.as_ref()?;
        let config = primary.observe().config?.clone();
        drop(world);
        let is_in = config.index_of_host(&host).is_some();
        if is_in == adds {
            return None;
        }
        let mut document = config.to_document(false);
        document.insert("version", config.version + 1);
        document.remove("term");
        let members = document.get_array_mut("members").ok()?;
        if adds {
            let its = member_document(member, &host, &self.plan.members[usize::from(member)]);
            members.push(bson::Document::try_from(its.as_ref()).ok()?.into());
        } else {
            members.retain(|it| {
                it.as_document().and_then(|it| it.get_str("host").ok()) != Some(&*host)
            });
        }
        let config = RawDocumentBuf::try_from(&document).ok()?;
        Some(rawdoc! { "replSetReconfig": config, "$db": "admin" })
    }

    // ---- the end

    fn mend(&self) {
        self.sim.heal();
        for member in self.sim.members() {
            // Names of existing members: these cannot fail but for what the next line asks.
            let _ = self.sim.skew(&member, 0);
            if member.paused {
                let _ = self.sim.resume(&member);
            }
        }
    }

    /// Starts whoever does not run: killed, or shut down, which may end long after everything is mended.
    fn start_the_dead(&self) {
        for member in self.sim.members().iter().filter(|member| !member.alive) {
            let _ = self.sim.restart(member);
        }
    }

    /// Everybody who died is started; then the set has one primary, and everybody follows it.
    fn settle(&self) -> Result<(), Finding> {
        let by = self.sim.now() + SETTLED_WITHIN;
        loop {
            self.start_the_dead();
            let soon = by.min(self.sim.now() + Duration::from_secs(2));
            let left = soon - self.sim.now();
            if self.sim.run_until_world(left, is_settled).is_ok() {
                return Ok(());
            }
            if self.sim.now() >= by {
                return self.found("a mended set settles", self.states());
            }
        }
    }

    /// Each client writes once more, with majority, and that goes through.
    fn serve(&self, workers: Vec<Worker>) -> Result<(), Finding> {
        let by = self.sim.now() + SERVED_WITHIN;
        for (number, mut worker) in workers.into_iter().enumerate() {
            let mut id = -1 - ((number as i64) << 32);
            loop {
                let operation = OperationAt {
                    at: Duration::ZERO,
                    client: number as u8,
                    session: false,
                    asked: Asked::Append { id },
                    strength: Strength::Majority,
                    secondary: false,
                    max_staleness: None,
                };
                self.start_the_dead();
                let outcome = self.sim.block_on(worker.perform(&operation, &self.notes));
                match outcome {
                    Outcome::Done => break,
                    _ if self.sim.now() < by => id -= 1,
                    outcome => {
                        let what = format!(
                            "client-{number} cannot write with majority to a healthy set: {outcome:?}\n{}",
                            self.states()
                        );
                        return self.found("a mended set serves everybody", what);
                    }
                }
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), Finding> {
        if let Some(complaint) = self.notes.lock().complaints.first() {
            return self.found(complaint.rule, complaint.what.clone());
        }
        self.compare()?;
        let end = self.end();
        let notes = self.notes.lock();
        match notes.history.judge(Some(&end)).into_iter().next() {
            Some(complaint) => self.found(complaint.rule, complaint.what),
            None => Ok(()),
        }
    }

    /// Members that have applied the same have the same data.
    fn compare(&self) -> Result<(), Finding> {
        let world = self.sim.world();
        let mut first: Option<(Arc<str>, crate::mongod::optime::OpTime, Contents)> = None;
        for node in &world.nodes {
            let Some(process) = &node.process else { continue };
            let seen = process.observe();
            if !matches!(seen.state, MemberState::Primary | MemberState::Secondary) {
                continue;
            }
            let contents = contents(process);
            match &first {
                Some((host, applied, theirs)) if *applied == seen.applied => {
                    if *theirs != contents {
                        let what = format!(
                            "{host} and {} have both applied {applied}, and their data differ:\n{}",
                            node.host,
                            difference(theirs, &contents)
                        );
                        drop(world);
                        return self.found("members end up the same", what);
                    }
                }
                Some(_) => {}
                None => first = Some((node.host.clone(), seen.applied, contents)),
            }
        }
        Ok(())
    }

    /// What the primary has in the end.
    fn end(&self) -> Final {
        let mut end = Final::default();
        let world = self.sim.world();
        let Some(primary) = world.primary() else { return end };
        let Some(process) = &world.nodes[primary as usize].process else { return end };
        for ((namespace, id), document) in contents(process) {
            match namespace.as_str() {
                "check.log" => {
                    end.log.insert(id);
                }
                "check.counters" => {
                    end.counters.insert(id as u8, document.get_i64("n").unwrap_or(0));
                }
                "check.registers" => {
                    end.registers.insert(id as u8, document.get_i64("v").unwrap_or(0));
                }
                _ => {}
            }
        }
        end
    }

    fn states(&self) -> String {
        let world = self.sim.world();
        world.report("the members at this time:", &[])
    }
}

type Contents = BTreeMap<(String, i64), Arc<RawDocumentBuf>>;

/// The documents of the workload on a member.
fn contents(process: &crate::mongod::Mongod) -> Contents {
    let mut contents = Contents::new();
    for name in ["check.log", "check.counters", "check.registers"] {
        let Some(view) = process.storage().collection(name, ReadAt::Newest) else { continue };
        for (_, document) in view.scan(None) {
            let id = document.get("_id").ok().flatten();
            let id = id.and_then(|id| id.as_i64().or(id.as_i32().map(i64::from)));
            contents.insert((name.to_owned(), id.unwrap_or(i64::MIN)), document.clone());
        }
    }
    contents
}

fn difference(one: &Contents, other: &Contents) -> String {
    let mut text = String::new();
    for key in one.keys().chain(other.keys()) {
        let (mine, theirs) = (one.get(key), other.get(key));
        if mine != theirs && text.len() < 1_000 {
            text.push_str(&format!("    {} {}: {mine:?} and {theirs:?}\n", key.0, key.1));
        }
    }
    text
}

/// One writable primary; every other member that runs follows it, is an arbiter, or was removed.
fn is_settled(world: &crate::world::World) -> bool {
    let Some(primary) = world.primary() else { return false };
    let Some(leader) = &world.nodes[primary as usize].process else { return false };
    let leader = leader.observe();
    let Some(config) = leader.config else { return false };
    leader.commit_point == leader.applied
        && world.nodes.iter().all(|node| {
            let Some(process) = &node.process else { return false };
            let seen = process.observe();
            let its = config.index_of_host(&node.host).map(|index| &config.members[index]);
            match (its, seen.state) {
                (None, MemberState::Removed | MemberState::Startup) => true,
                (Some(_), MemberState::Primary) => seen.writable && seen.term == leader.term,
                (Some(_), MemberState::Arbiter) => seen.term == leader.term,
                (Some(its), MemberState::Secondary) => {
                    !its.delay.is_zero() || seen.applied == leader.applied
                }
                _ => false,
            }
        })
}

fn member_document(id: u8, host: &str, its: &MemberPlan) -> RawDocumentBuf {
    let mut member = rawdoc! { "_id": i32::from(id), "host": host };
    if its.arbiter {
        member.append(cstr!("arbiterOnly"), true);
    }
    if its.priority != 1 {
        member.append(cstr!("priority"), i32::from(its.priority));
    }
    if its.hidden {
        member.append(cstr!("hidden"), true);
    }
    if its.delay_seconds > 0 {
        member.append(cstr!("secondaryDelaySecs"), i32::from(its.delay_seconds));
    }
    if its.votes != 1 {
        member.append(cstr!("votes"), i32::from(its.votes));
    }
    member
}

/// The configuration that a plan's set is initiated with.
fn configuration(set_name: &str, members: &[Member], plan: &Plan) -> RawDocumentBuf {
    let mut list = RawArrayBuf::new();
    for ((id, member), its) in (0_u8..).zip(members).zip(&plan.members) {
        // A set has at most seven voters.
        let its = match id {
            0..7 => *its,
            _ => MemberPlan { votes: 0, priority: 0, arbiter: false, ..*its },
        };
        list.push(member_document(id, &member.name, &its));
    }
    let mut config = rawdoc! { "_id": set_name, "version": 1_i32, "members": list };
    if let Some(millis) = plan.election_timeout_millis {
        let settings = rawdoc! {
            "electionTimeoutMillis": i64::from(millis), "heartbeatIntervalMillis": 1_000_i64,
        };
        config.append(cstr!("settings"), settings);
    }
    config
}
