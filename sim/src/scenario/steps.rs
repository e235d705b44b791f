//! From one `[[step]]` table to a [`Step`]: one verb each.

use std::ops::Range;
use std::time::Duration;

use stepdown_driver::uri::ConnectionString;
use toml::de::DeValue;

use super::diagnostic::{Diagnostics, suggest};
use super::expectations::{parse_checks, parse_expected, parse_load_expected};
use super::faults::parse_fault;
use super::format::{Action, Configuration, Reconfiguration, Step, Took, Wait};
use super::operations::{parse_load, parse_operation};
use super::parse::{Names, parse_host};
use super::reader::{Table, as_duration, as_integer, as_string, wrong_type};
use super::sessions::{
    parse_close, parse_next, parse_session_step, parse_start_session, parse_watch,
};
use crate::trace::MemberState;

/// What each step has exactly one of; a step may also be a `note` or an `expect` alone.
const VERBS: [&str; 41] = [
    "start",
    "initiate",
    "reconfigure",
    "wait_for",
    "connect",
    "insert",
    "find",
    "update",
    "delete",
    "count",
    "aggregate",
    "distinct",
    "replace",
    "find_and_modify",
    "command",
    "start_session",
    "start_transaction",
    "commit_transaction",
    "abort_transaction",
    "end_session",
    "watch",
    "next",
    "close",
    "reads",
    "writes",
    "finish",
    "kill",
    "shutdown",
    "restart",
    "restart_empty",
    "pause",
    "resume",
    "isolate",
    "partition",
    "cut",
    "refuse",
    "reset",
    "delay",
    "skew",
    "drift",
    "advance",
];
/// Takes `true`; apart because every other verb takes what it acts on.
const HEAL: &str = "heal";

/// How long a wait lasts if the step does not say.
const WITHIN_DEFAULT: Duration = Duration::from_secs(60);
/// Most operations of one load.
pub(crate) const LOAD_MAX: i64 = 1_000_000;

pub(crate) fn parse_step(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    number: usize,
    mut step: Table<'_>,
) -> Option<Step> {
    let verbs: Vec<(&str, Range<usize>)> = step
        .keys()
        .filter(|(key, _)| VERBS.contains(key) || *key == HEAL)
        .map(|(key, span)| (key, span.clone()))
        .collect();
    let (verb, span) = match verbs.as_slice() {
        [(verb, span)] => (*verb, span.clone()),
        [] if step.has("expect") => ("expect", step.key_span("expect")),
        [] if step.has("note") => ("note", step.key_span("note")),
        [] => {
            no_verb(diagnostics, &step);
            return None;
        }
        [(first, _), (second, span), ..] => {
            diagnostics.problem(
                span,
                format!("step {number} has two verbs, `{first}` and `{second}`"),
                Some("each [[step]] does one thing: split it in two".to_string()),
            );
            return None;
        }
    };
    step.rename(format!("step {number} ({verb})"));
    let at = diagnostics.position(span.start);
    let note = step.string(diagnostics, "note").map(|(note, _)| note.trim().to_string());
    let action = parse_action(diagnostics, names, &mut step, verb);
    let remember = remembers(verb).then(|| step.string(diagnostics, "as")).flatten();
    let remember = remember.map(|(name, _)| {
        names.remembered.push(name.to_string());
        name.to_string()
    });
    let took = parse_took(diagnostics, &mut step);
    step.finish(diagnostics);
    Some(Step { number, at, note, action: action?, remember, took: took? })
}

/// `took = { at_least = "9s", at_most = "12s" }`, or `took = "12s"` at most.
fn parse_took(diagnostics: &mut Diagnostics<'_>, step: &mut Table<'_>) -> Option<Option<Took>> {
    if !step.has("took") {
        step.take("took");
        return Some(None);
    }
    let span = step.key_span("took");
    let value = step.take("took")?;
    let Some(table) = value.get_ref().as_table() else {
        let at_most = as_duration(diagnostics, "took", value)?;
        return Some(Some(Took { at_least: Duration::ZERO, at_most: Some(at_most) }));
    };
    let mut table = Table::new(table, value.span(), "`took`");
    let at_least = table.duration(diagnostics, "at_least");
    let at_most = table.duration(diagnostics, "at_most");
    table.finish(diagnostics);
    if at_least.is_none() && at_most.is_none() {
        let hint = "took = { at_least = \"9s\", at_most = \"12s\" }".to_string();
        diagnostics.problem(&span, "`took` bounds nothing", Some(hint));
        return None;
    }
    if let (Some(least), Some(most)) = (at_least, at_most)
        && least > most
    {
        diagnostics.problem(&span, "`took` cannot hold: at_least is more than at_most", None);
        return None;
    }
    Some(Some(Took { at_least: at_least.unwrap_or(Duration::ZERO), at_most }))
}

fn no_verb(diagnostics: &mut Diagnostics<'_>, step: &Table<'_>) {
    let mut known: Vec<&str> = VERBS.to_vec();
    known.extend([HEAL, "expect", "note"]);
    let near = step
        .keys()
        .filter_map(|(key, span)| {
            super::diagnostic::nearest(key, &known).map(|near| (key, span.clone(), near))
        })
        .next();
    match near {
        Some((key, span, near)) => diagnostics.problem(
            &span,
            format!("{} has no verb, and `{key}` is none", step.name()),
            Some(format!("did you mean `{near}`?")),
        ),
        None => diagnostics.problem(
            step.span(),
            format!("{} has no verb", step.name()),
            suggest("", &known),
        ),
    }
}

/// Whether a verb is about one member, which `as` can give a name for later steps.
fn remembers(verb: &str) -> bool {
    matches!(
        verb,
        "start"
            | "initiate"
            | "reconfigure"
            | "wait_for"
            | "kill"
            | "shutdown"
            | "restart"
            | "restart_empty"
            | "pause"
            | "resume"
            | "isolate"
    )
}

fn parse_action(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
    verb: &str,
) -> Option<Action> {
    Some(match verb {
        "note" => Action::Note,
        "expect" => Action::Expect(parse_checks(diagnostics, names, step)?),
        "start" => {
            let value = step.take("start")?;
            let member = parse_host(diagnostics, "start", value)?;
            if names.members.contains(&member) {
                diagnostics.problem(
                    &value.span(),
                    format!("{member} is a member already"),
                    Some("`restart` starts a member again".to_string()),
                );
                return None;
            }
            names.members.push(member.clone());
            Action::Start { member }
        }
        "initiate" => parse_initiate(diagnostics, names, step)?,
        "reconfigure" => parse_reconfigure(diagnostics, names, step)?,
        "wait_for" => {
            let what = parse_wait(diagnostics, names, step);
            let within = within(diagnostics, step);
            Action::WaitFor { what: what?, within }
        }
        "connect" => parse_connect(diagnostics, names, step)?,
        "insert" | "find" | "update" | "delete" | "count" | "aggregate" | "distinct"
        | "replace" | "find_and_modify" | "command" => {
            parse_operation(diagnostics, names, step, verb)?
        }
        "start_session" => parse_start_session(diagnostics, names, step)?,
        "start_transaction" => parse_session_step(diagnostics, names, step, "start_transaction")?,
        "commit_transaction" => parse_session_step(diagnostics, names, step, "commit_transaction")?,
        "abort_transaction" => parse_session_step(diagnostics, names, step, "abort_transaction")?,
        "end_session" => parse_session_step(diagnostics, names, step, "end_session")?,
        "watch" => parse_watch(diagnostics, names, step)?,
        "next" => parse_next(diagnostics, names, step)?,
        "close" => parse_close(diagnostics, names, step)?,
        "reads" | "writes" => parse_load(diagnostics, names, step, verb)?,
        "finish" => {
            let (load, span) = step.string(diagnostics, "finish")?;
            let within = within(diagnostics, step);
            if names.operations.iter().any(|name| name == load) {
                let expected = parse_expected(diagnostics, step);
                names.operations.retain(|name| name != load);
                let operation = load.to_string();
                return Some(Action::FinishOperation { operation, expected: expected?, within });
            }
            let expected = parse_load_expected(diagnostics, names, step);
            if !names.loads.iter().any(|name| name == load) {
                let running = names.loads.iter().chain(&names.operations);
                let known: Vec<&str> = running.map(String::as_str).collect();
                let hint = suggest(load, &known);
                diagnostics.problem(&span, format!("nothing runs as `{load}`"), hint);
                return None;
            }
            names.loads.retain(|name| name != load);
            Action::Finish { load: load.to_string(), expected: expected?, within }
        }
        "advance" => Action::Advance(step.duration(diagnostics, "advance")?),
        _ => Action::Fault(parse_fault(diagnostics, names, step, verb)?),
    })
}

fn within(diagnostics: &mut Diagnostics<'_>, step: &mut Table<'_>) -> Duration {
    step.duration(diagnostics, "within").unwrap_or(WITHIN_DEFAULT)
}

fn parse_initiate(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    let value = step.take("initiate")?;
    let on = names.member_value(diagnostics, "initiate", value);
    let members = step.list(diagnostics, "members", "member names");
    let document = step.document(diagnostics, "config");
    let expected = parse_expected(diagnostics, step);
    let configuration = match (members, document) {
        (Some(_), Some(_)) => {
            diagnostics.problem(
                &step.key_span("config"),
                "`members` and `config` are two ways to say one thing",
                Some("keep one of them".to_string()),
            );
            return None;
        }
        (Some(list), None) => {
            let mut hosts = Vec::new();
            for item in list {
                if item.get_ref().as_str() == Some("all") {
                    hosts.extend(names.members.iter().cloned());
                } else {
                    hosts.push(names.literal(diagnostics, "members", item)?);
                }
            }
            Configuration::Members(hosts)
        }
        (None, Some(document)) => Configuration::Document(document),
        (None, None) => {
            if names.settings_given && !step.has("members") && !step.has("config") {
                diagnostics.problem(
                    &value.span(),
                    "[set] has timeouts, which an initiate without a configuration cannot carry",
                    Some("write the configuration out: members = \"all\"".to_string()),
                );
                return None;
            }
            Configuration::None
        }
    };
    Some(Action::Initiate { on: on?, configuration, expected: expected? })
}

fn parse_reconfigure(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    let span = step.key_span("reconfigure");
    let mut table = step.table(diagnostics, "reconfigure")?;
    let add = table.take("add");
    let remove = table.take("remove");
    table.finish(diagnostics);
    let expected = parse_expected(diagnostics, step);
    let change = match (add, remove) {
        (Some(host), None) => names.literal(diagnostics, "add", host).map(Reconfiguration::Add),
        (None, Some(member)) => {
            names.member_value(diagnostics, "remove", member).map(Reconfiguration::Remove)
        }
        _ => {
            let hint = "reconfigure = { add = \"d\" } or { remove = \"secondary\" }".to_string();
            diagnostics.problem(&span, "a reconfiguration adds or removes one member", Some(hint));
            None
        }
    };
    Some(Action::Reconfigure { change: change?, expected: expected? })
}

fn parse_wait(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<Wait> {
    const EVENTS: [&str; 3] = ["primary", "settled", "caught up"];
    let (text, span) = step.string(diagnostics, "wait_for")?;
    let state = step.string(diagnostics, "state");
    let seen_by = match step.string(diagnostics, "seen_by") {
        Some((client, span)) => Some(names.known_client(diagnostics, client, &span)?),
        None => None,
    };
    if let Some((state, state_span)) = state {
        let state = parse_state(diagnostics, state, &state_span);
        let member = names.member(diagnostics, text, &span);
        return Some(Wait::State { member: member?, state: state?, seen_by });
    }
    match (text, seen_by) {
        ("primary", Some(client)) => Some(Wait::PrimarySeenBy { client }),
        ("primary", None) => Some(Wait::Primary),
        ("settled", None) => Some(Wait::Settled),
        ("caught up", None) => Some(Wait::CaughtUp),
        ("settled" | "caught up", Some(_)) => {
            let hint =
                Some("`seen_by` goes with \"primary\", or a member and its state".to_string());
            diagnostics.problem(&step.key_span("seen_by"), "no client can see that", hint);
            None
        }
        (other, _) => {
            let hint = match suggest(other, &EVENTS) {
                Some(near) if near.starts_with("did") => near,
                _ => "\"primary\", \"settled\", \"caught up\", or a member and its `state`".into(),
            };
            diagnostics.problem(&span, format!("\"{other}\" is nothing to wait for"), Some(hint));
            None
        }
    }
}

pub(crate) fn parse_state(
    diagnostics: &mut Diagnostics<'_>,
    text: &str,
    span: &Range<usize>,
) -> Option<MemberState> {
    const STATES: [MemberState; 8] = [
        MemberState::Startup,
        MemberState::Primary,
        MemberState::Secondary,
        MemberState::Recovering,
        MemberState::Startup2,
        MemberState::Arbiter,
        MemberState::Rollback,
        MemberState::Removed,
    ];
    // A file says DOWN of a member without a process; the server's own word is a sentence.
    if text == "DOWN" {
        return Some(MemberState::Down);
    }
    let found = STATES.into_iter().find(|state| state.name() == text);
    if found.is_none() {
        let mut known = STATES.map(MemberState::name).to_vec();
        known.push("DOWN");
        diagnostics.problem(span, format!("no state \"{text}\""), suggest(text, &known));
    }
    found
}

fn parse_connect(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    let (client, span) = step.string(diagnostics, "connect")?;
    let uri = parse_client_uri(diagnostics, names, step);
    if client.is_empty() {
        diagnostics.problem(&span, "a client needs a name", None);
        return None;
    }
    if names.clients.iter().any(|name| name == client) {
        let message = format!("a client named `{client}` is connected already");
        diagnostics.problem(&span, message, None);
        return None;
    }
    names.clients.push(client.to_string());
    Some(Action::Connect { client: client.to_string(), uri: uri? })
}

/// The connection string a `connect` step writes out or describes, checked as the driver will.
fn parse_client_uri(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<String> {
    let written = step.string(diagnostics, "uri");
    let seeds = step.list(diagnostics, "seeds", "member names");
    let direct = step.boolean(diagnostics, "direct").unwrap_or(false);
    let options = step.table(diagnostics, "options");
    if let Some((uri, span)) = written {
        for key in ["seeds", "direct", "options"] {
            if step.has(key) {
                diagnostics.problem(
                    &step.key_span(key),
                    format!("`uri` says it all: no `{key}` beside it"),
                    None,
                );
            }
        }
        return check_uri(diagnostics, uri.to_string(), &span, &[]);
    }
    let mut hosts = Vec::new();
    match seeds {
        None => hosts.extend(names.members.iter().cloned()),
        Some(list) => {
            for item in list {
                hosts.push(names.literal(diagnostics, "seeds", item)?);
            }
        }
    }
    let mut query = Vec::new();
    match direct {
        true => query.push("directConnection=true".to_string()),
        false => query.push(format!("replicaSet={}", names.set_name)),
    }
    let mut places = Vec::new();
    for (key, span, value) in options.into_iter().flat_map(Table::into_entries) {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(boolean) => boolean.to_string(),
            DeValue::Integer(integer) => integer.to_string(),
            _ => {
                wrong_type(diagnostics, key, value, "a string, an integer, true or false", None);
                return None;
            }
        };
        query.push(format!("{key}={}", percent_encoded(&text)));
        places.push((key.to_lowercase(), span));
    }
    let span = step.key_span(if step.has("options") { "options" } else { "connect" });
    let uri = format!("mongodb://{}/?{}", hosts.join(","), query.join("&"));
    check_uri(diagnostics, uri, &span, &places)
}

/// Only what would end or split an option is encoded.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b',' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Has the driver read the connection string; what it would only warn of is a mistake here.
/// `places` are where the options are written, if they are written one by one.
fn check_uri(
    diagnostics: &mut Diagnostics<'_>,
    uri: String,
    span: &Range<usize>,
    places: &[(String, Range<usize>)],
) -> Option<String> {
    let parsed = match ConnectionString::parse(&uri) {
        Ok(parsed) => parsed,
        Err(error) => {
            diagnostics.problem(span, error.to_string(), None);
            return None;
        }
    };
    for warning in parsed.warnings() {
        let place = places.iter().find(|(option, _)| *option == warning.option);
        let span = place.map_or(span, |(_, span)| span);
        diagnostics.problem(span, warning.to_string(), None);
    }
    Some(uri)
}

/// A count of something, for expectations.
pub(crate) fn count_of(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &super::reader::Value<'_>,
) -> Option<u32> {
    as_integer(diagnostics, key, value, 0..LOAD_MAX + 1).map(|count| count as u32)
}

/// The text of a value, for expectations.
pub(crate) fn text_of<'t>(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &'t super::reader::Value<'t>,
) -> Option<&'t str> {
    as_string(diagnostics, key, value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn the_schema_for_editors_knows_every_verb_and_no_other() {
        let schema: serde_json::Value =
            serde_json::from_str(Scenario::JSON_SCHEMA).expect("the schema is JSON");
        let steps = schema["properties"]["step"]["items"]["oneOf"].as_array().expect("of steps");
        let known: BTreeSet<&str> =
            steps.iter().map(|step| step["title"].as_str().expect("a title")).collect();
        let mut verbs = BTreeSet::from(VERBS);
        verbs.extend([HEAL, "expect", "note"]);
        assert_eq!(known, verbs);
    }
}
