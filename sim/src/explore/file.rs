//! Plans as scenario files, and back.
//!
//! A file with a table `[checked]` is a plan written out: every fault and every operation is a step
//! with its time. It is played as an exploration plays it: the set's invariants are watched, and in the
//! end everything is mended, the set must come back to life, and what clients were answered is judged.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;

use super::plan::{ClientKind, Fault, FaultAt, MemberPlan, OperationAt, Place, Plan, Who};
use crate::check::{Asked, Strength};

/// A mistake in such a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

/// A file that was read.
#[derive(Clone, Debug)]
pub(crate) struct CheckedFile {
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) plan: Plan,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    about: String,
    #[serde(default = "one")]
    seed: u64,
    checked: Header,
    #[serde(default)]
    step: Vec<toml::Spanned<Step>>,
}

fn one() -> u64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    members: Vec<Shape>,
    #[serde(default)]
    clients: Vec<Client>,
    duration: String,
    election_timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Shape {
    arbiter: bool,
    priority: Option<u8>,
    hidden: bool,
    delay_seconds: u8,
    votes: Option<u8>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Client {
    Bare,
    Driver,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Concern {
    Weak,
    Majority,
    Linearizable,
}

/// One step: `at`, one verb, and what belongs to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: String,
    // What breaks and mends.
    kill: Option<String>,
    shutdown: Option<String>,
    restart: Option<String>,
    pause: Option<String>,
    resume: Option<String>,
    isolate: Option<String>,
    partition: Option<Vec<String>>,
    lag: Option<String>,
    cut: Option<[String; 2]>,
    reset: Option<[String; 2]>,
    delay: Option<[String; 2]>,
    by: Option<String>,
    heal: Option<bool>,
    skew: Option<String>,
    millis: Option<i32>,
    step_down: Option<u8>,
    force: Option<bool>,
    step_up: Option<String>,
    remove: Option<String>,
    add: Option<String>,
    // What a client asks.
    client: Option<u8>,
    append: Option<i64>,
    look: Option<i64>,
    count_up: Option<u8>,
    count_up_many: Option<u8>,
    put: Option<i64>,
    swap: Option<[i64; 2]>,
    register: Option<u8>,
    get: Option<u8>,
    concern: Option<Concern>,
    #[serde(default)]
    session: bool,
    #[serde(default)]
    secondary: bool,
    max_staleness: Option<String>,
}

/// Reads a file; `None` if it is a scenario of the other kind.
pub(crate) fn read(text: &str) -> Option<Result<CheckedFile, Mistake>> {
    let table: toml::Table = toml::from_str(text).ok()?;
    table.get("checked")?;
    Some(read_checked(text))
}

fn read_checked(text: &str) -> Result<CheckedFile, Mistake> {
    let file: File = toml::from_str(text).map_err(|error| Mistake {
        span: error.span().unwrap_or(0..0),
        message: error.message().trim().to_owned(),
    })?;
    let header_at = text.find("[checked]").unwrap_or(0);
    let in_header = |message: String| Mistake { span: header_at..header_at, message };
    let Header { members, clients, duration, election_timeout } = file.checked;
    let timeout = election_timeout.map(|text| duration_of(&text)).transpose().map_err(in_header)?;
    let mut plan = Plan {
        seed: file.seed,
        members: members.into_iter().map(member_plan).collect(),
        clients: clients
            .into_iter()
            .map(|client| match client {
                Client::Bare => ClientKind::Bare,
                Client::Driver => ClientKind::Driver,
            })
            .collect(),
        duration: duration_of(&duration).map_err(in_header)?,
        election_timeout_millis: timeout.map(|timeout| timeout.as_millis() as u32),
        faults: Vec::new(),
        operations: Vec::new(),
    };
    if plan.members.is_empty() || plan.members.len() > 50 {
        return Err(in_header("a set has one to fifty members".into()));
    }
    // Who was taken down last is started again: each such pair is an episode of its own.
    let mut episode = 0;
    let mut down: Vec<(u8, u32)> = Vec::new();
    for step in file.step {
        let span = step.span();
        let wrong = |message: String| Mistake { span: span.clone(), message };
        let step = step.into_inner();
        let at = duration_of(&step.at).map_err(&wrong)?;
        if let Some(operation) = operation_of(&plan, &step, at).map_err(&wrong)? {
            plan.operations.push(operation);
            continue;
        }
        let found = fault_of(&plan, &step).map_err(&wrong)?;
        let Some((fault, whom)) = found else { return Err(wrong("a step has a verb".into())) };
        let episode = match (&fault, whom) {
            (Fault::Restart | Fault::Resume, Some(whom)) => {
                let known = down.iter().rfind(|(member, _)| *member == whom);
                known
                    .map(|(_, episode)| *episode)
                    .ok_or_else(|| wrong(format!("no earlier step took {} down", name_of(whom))))?
            }
            (_, whom) => {
                episode += 1;
                down.extend(whom.map(|whom| (whom, episode)));
                episode
            }
        };
        plan.faults.push(FaultAt { at, episode, fault });
    }
    plan.faults.sort_by_key(|fault| fault.at);
    plan.operations.sort_by_key(|operation| (operation.at, operation.client));
    Ok(CheckedFile { title: file.title, about: file.about, plan })
}

fn member_plan(shape: Shape) -> MemberPlan {
    MemberPlan {
        arbiter: shape.arbiter,
        priority: shape.priority.unwrap_or(u8::from(!shape.arbiter)),
        hidden: shape.hidden,
        delay_seconds: shape.delay_seconds,
        votes: shape.votes.unwrap_or(1),
    }
}

fn operation_of(plan: &Plan, step: &Step, at: Duration) -> Result<Option<OperationAt>, String> {
    let register = || step.register.ok_or("it needs a `register`");
    let asked = if let Some(id) = step.append {
        Asked::Append { id }
    } else if let Some(id) = step.look {
        Asked::Look { id }
    } else if let Some(counter) = step.count_up {
        Asked::Add { counter }
    } else if let Some(counter) = step.count_up_many {
        Asked::AddMany { counter }
    } else if let Some(value) = step.put {
        Asked::Put { register: register()?, value }
    } else if let Some([from, to]) = step.swap {
        Asked::Swap { register: register()?, from, to }
    } else if let Some(register) = step.get {
        Asked::Get { register }
    } else {
        return Ok(None);
    };
    let client = step.client.ok_or("an operation needs a `client`")?;
    if usize::from(client) >= plan.clients.len() {
        return Err(format!("there is no client {client}; they count from 0"));
    }
    Ok(Some(OperationAt {
        at,
        client,
        session: step.session,
        asked,
        strength: match step.concern {
            Some(Concern::Weak) => Strength::Weak,
            Some(Concern::Linearizable) => Strength::Linearizable,
            Some(Concern::Majority) | None => Strength::Majority,
        },
        secondary: step.secondary,
        max_staleness: step.max_staleness.as_deref().map(duration_of).transpose()?,
    }))
}

/// The fault of a step, and the member it takes down or brings back.
fn fault_of(plan: &Plan, step: &Step) -> Result<Option<(Fault, Option<u8>)>, String> {
    let member = |name: &str| member_of(plan, name);
    let place = |name: &str| place_of(plan, name);
    let taken = |name: &str, fault: fn(Who) -> Fault| {
        let number = member(name)?;
        Ok(Some((fault(Who::Member(number)), Some(number))))
    };
    if let Some(name) = &step.kill {
        return taken(name, Fault::Kill);
    } else if let Some(name) = &step.shutdown {
        return taken(name, Fault::Shutdown);
    } else if let Some(name) = &step.pause {
        return taken(name, Fault::Pause);
    } else if let Some(name) = &step.restart {
        return Ok(Some((Fault::Restart, Some(member(name)?))));
    } else if let Some(name) = &step.resume {
        return Ok(Some((Fault::Resume, Some(member(name)?))));
    }
    let fault = if let Some(name) = &step.isolate {
        Fault::Isolate(Who::Member(member(name)?))
    } else if let Some(side) = &step.partition {
        let (mut members, mut clients) = (Vec::new(), Vec::new());
        for name in side {
            match place(name)? {
                Place::Member(who) => members.push(who),
                Place::Client(client) => clients.push(client),
            }
        }
        Fault::Partition(members, clients)
    } else if let Some(name) = &step.lag {
        Fault::Lag(Who::Member(member(name)?))
    } else if let Some([from, to]) = &step.cut {
        Fault::Cut(place(from)?, place(to)?)
    } else if let Some([from, to]) = &step.reset {
        Fault::Reset(place(from)?, place(to)?)
    } else if let Some([from, to]) = &step.delay {
        let by = duration_of(step.by.as_deref().ok_or("a delay needs `by`")?)?;
        Fault::Delay(place(from)?, place(to)?, by.as_millis() as u32)
    } else if step.heal == Some(true) {
        Fault::Heal
    } else if let Some(name) = &step.skew {
        Fault::Skew(member(name)?, step.millis.ok_or("a skew needs `millis`")?)
    } else if let Some(seconds) = step.step_down {
        Fault::StepDown(seconds, step.force.unwrap_or(false))
    } else if let Some(name) = &step.step_up {
        Fault::StepUp(Who::Member(member(name)?))
    } else if let Some(name) = &step.remove {
        Fault::Remove(member(name)?)
    } else if let Some(name) = &step.add {
        Fault::Add(member(name)?)
    } else {
        return Ok(None);
    };
    Ok(Some((fault, None)))
}

fn member_of(plan: &Plan, name: &str) -> Result<u8, String> {
    let found = (0..plan.members.len() as u8).find(|number| name_of(*number) == name);
    found.ok_or_else(|| format!("no member is called {name}; they are a, b, c, ..."))
}

fn place_of(plan: &Plan, name: &str) -> Result<Place, String> {
    let client = name.strip_prefix("client-").and_then(|number| number.parse::<u8>().ok());
    match client {
        Some(client) if usize::from(client) < plan.clients.len() => Ok(Place::Client(client)),
        _ => member_of(plan, name).map(|member| Place::Member(Who::Member(member))),
    }
}

fn name_of(member: u8) -> String {
    match member {
        0..26 => char::from(b'a' + member).to_string(),
        _ => format!("m{member}"),
    }
}

/// `12.5s`, `250ms`, `1.000250s`.
fn duration_of(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: 12s, 1.5s, 250ms");
    let (digits, unit_micros) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1_000),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1_000_000),
    };
    let (whole, fraction) = digits.trim().split_once('.').unwrap_or((digits.trim(), ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut micros = whole.checked_mul(unit_micros).ok_or_else(wrong)?;
    let mut unit = unit_micros;
    for digit in fraction.bytes() {
        unit /= 10;
        let digit = char::from(digit).to_digit(10).ok_or_else(wrong)?;
        micros += u64::from(digit) * unit;
    }
    Ok(Duration::from_micros(micros))
}

fn in_words(duration: Duration) -> String {
    let micros = duration.as_micros();
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    match rest {
        0 => format!("{seconds}s"),
        rest if rest % 1_000 == 0 => format!("{seconds}.{:03}s", rest / 1_000),
        rest => format!("{seconds}.{rest:06}s"),
    }
}

/// How many steps a plan's file has.
pub fn step_count(plan: &Plan) -> usize {
    plan.faults.len() + plan.operations.len()
}

/// A plan as a scenario file. `title` and `about` say what it is about.
pub fn to_toml(plan: &Plan, title: &str, about: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "title = {}", quoted(title));
    let _ = writeln!(text, "about = {}", quoted(about));
    let _ = writeln!(text, "seed = {}\n\n[checked]", plan.seed);
    let members: Vec<String> = plan.members.iter().map(shape_text).collect();
    let _ = writeln!(text, "members = [{}]", members.join(", "));
    let clients: Vec<&str> = plan
        .clients
        .iter()
        .map(|client| match client {
            ClientKind::Bare => "\"bare\"",
            ClientKind::Driver => "\"driver\"",
        })
        .collect();
    let _ = writeln!(text, "clients = [{}]", clients.join(", "));
    let _ = writeln!(text, "duration = \"{}\"", in_words(plan.duration));
    if let Some(millis) = plan.election_timeout_millis {
        let timeout = in_words(Duration::from_millis(u64::from(millis)));
        let _ = writeln!(text, "election_timeout = \"{timeout}\"");
    }
    let mut steps: Vec<(Duration, String)> = Vec::new();
    let mut down = std::collections::BTreeMap::new();
    for FaultAt { at, episode, fault } in &plan.faults {
        if let Fault::Kill(Who::Member(member))
        | Fault::Shutdown(Who::Member(member))
        | Fault::Pause(Who::Member(member)) = fault
        {
            down.insert(*episode, *member);
        }
        steps.push((*at, fault_text(fault, down.get(episode).copied())));
    }
    steps.extend(plan.operations.iter().map(|operation| (operation.at, operation_text(operation))));
    steps.sort_by_key(|(at, _)| *at);
    for (at, step) in steps {
        let _ = write!(text, "\n[[step]]\nat = \"{}\"\n{step}", in_words(at));
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains('\n') {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"\"\"\n{}\n\"\"\"", escaped.trim_end())
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn shape_text(its: &MemberPlan) -> String {
    let mut fields = Vec::new();
    if its.arbiter {
        fields.push("arbiter = true".to_owned());
    } else if its.priority != 1 {
        fields.push(format!("priority = {}", its.priority));
    }
    if its.hidden {
        fields.push("hidden = true".to_owned());
    }
    if its.delay_seconds > 0 {
        fields.push(format!("delay_seconds = {}", its.delay_seconds));
    }
    if its.votes != 1 {
        fields.push(format!("votes = {}", its.votes));
    }
    if fields.is_empty() { "{}".into() } else { format!("{{ {} }}", fields.join(", ")) }
}

fn fault_text(fault: &Fault, down: Option<u8>) -> String {
    let who = |who: &Who| match who {
        Who::Member(member) => name_of(*member),
        Who::Primary => "primary".into(),
        Who::Secondary => "secondary".into(),
    };
    let place = |place: &Place| match place {
        Place::Member(member) => who(member),
        Place::Client(client) => format!("client-{client}"),
    };
    let link = |from: &Place, to: &Place| format!("[\"{}\", \"{}\"]", place(from), place(to));
    let down = down.map_or_else(|| "a".into(), name_of);
    match fault {
        Fault::Kill(member) => format!("kill = \"{}\"\n", who(member)),
        Fault::Shutdown(member) => format!("shutdown = \"{}\"\n", who(member)),
        Fault::Restart => format!("restart = \"{down}\"\n"),
        Fault::Pause(member) => format!("pause = \"{}\"\n", who(member)),
        Fault::Resume => format!("resume = \"{down}\"\n"),
        Fault::Partition(members, clients) => {
            let members = members.iter().map(|member| format!("\"{}\"", who(member)));
            let clients = clients.iter().map(|client| format!("\"client-{client}\""));
            let side: Vec<String> = members.chain(clients).collect();
            format!("partition = [{}]\n", side.join(", "))
        }
        Fault::Isolate(member) => format!("isolate = \"{}\"\n", who(member)),
        Fault::Lag(member) => format!("lag = \"{}\"\n", who(member)),
        Fault::Cut(from, to) => format!("cut = {}\n", link(from, to)),
        Fault::Reset(from, to) => format!("reset = {}\n", link(from, to)),
        Fault::Delay(from, to, millis) => {
            format!("delay = {}\nby = \"{millis}ms\"\n", link(from, to))
        }
        Fault::Heal => "heal = true\n".into(),
        Fault::Skew(member, millis) => {
            format!("skew = \"{}\"\nmillis = {millis}\n", name_of(*member))
        }
        Fault::StepDown(seconds, true) => format!("step_down = {seconds}\nforce = true\n"),
        Fault::StepDown(seconds, false) => format!("step_down = {seconds}\n"),
        Fault::StepUp(member) => format!("step_up = \"{}\"\n", who(member)),
        Fault::Remove(member) => format!("remove = \"{}\"\n", name_of(*member)),
        Fault::Add(member) => format!("add = \"{}\"\n", name_of(*member)),
    }
}

fn operation_text(operation: &OperationAt) -> String {
    let OperationAt { client, session, asked, strength, secondary, max_staleness, .. } = operation;
    let mut text = format!("client = {client}\n");
    text.push_str(&match asked {
        Asked::Append { id } => format!("append = {id}\n"),
        Asked::Look { id } => format!("look = {id}\n"),
        Asked::Add { counter } => format!("count_up = {counter}\n"),
        Asked::AddMany { counter } => format!("count_up_many = {counter}\n"),
        Asked::Put { register, value } => format!("put = {value}\nregister = {register}\n"),
        Asked::Swap { register, from, to } => {
            format!("swap = [{from}, {to}]\nregister = {register}\n")
        }
        Asked::Get { register } => format!("get = {register}\n"),
    });
    text.push_str(match strength {
        Strength::Weak => "concern = \"weak\"\n",
        Strength::Majority => "",
        Strength::Linearizable => "concern = \"linearizable\"\n",
    });
    if *session {
        text.push_str("session = true\n");
    }
    if *secondary {
        text.push_str("secondary = true\n");
    }
    if let Some(bound) = max_staleness {
        let _ = writeln!(text, "max_staleness = \"{}\"", in_words(*bound));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::{Template, play};
    use crate::trace::Record;

    #[test]
    fn a_plan_is_the_same_after_it_was_written_and_read() {
        let template = Template { members: 5, ..Template::default() };
        for seed in 0..12 {
            // As it turned out, with members instead of roles.
            let plan = play(&Plan::generate(seed, &template), Record::Nothing).concrete;
            let text = to_toml(&plan, "A plan", "One line.\nAnother \"line\".");
            let read = read(&text).expect("it says so").expect("it is well-formed").plan;
            let without_episodes = |mut plan: Plan| {
                plan.faults.iter_mut().for_each(|fault| fault.episode = 0);
                plan
            };
            assert_eq!(without_episodes(read), without_episodes(plan), "seed {seed}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let text = "title = 't'\nabout = 'a'\n[checked]\nmembers = [{}]\nduration = '1s'\n\n[[step]]\nat = '1s'\nkill = 'b'\n";
        let mistake = read(text).unwrap().unwrap_err();
        assert_eq!(mistake.message, "no member is called b; they are a, b, c, ...");
        assert_eq!(&text[mistake.span], "[[step]]");
        assert!(read("title = 't'").is_none());
    }
}
