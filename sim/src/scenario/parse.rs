//! From the text of a scenario file to its types: the header, the set, and what steps share.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, ScenarioError, suggest};
use super::format::{
    Acknowledgement, EndRef, MemberRef, Namespace, ReadMode, ReadSpec, SetSettings, Step,
    WriteConcernSpec,
};
use super::reader::{Table, Value, as_duration, as_integer, as_list, as_string, wrong_type};
use super::steps::parse_step;
use crate::mongod::ServerVersion;

/// The port of members that are given by count, or by host alone.
const DEFAULT_PORT: u16 = 27017;
/// A replica set has at most so many members.
const MEMBERS_MAX: i64 = 50;
/// A scenario has at most so many steps: a file with more is generated, and a test would be better.
const STEPS_MAX: usize = 10_000;

/// Everything a file says.
pub(crate) struct Parsed {
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) seed: u64,
    pub(crate) set: SetSettings,
    pub(crate) steps: Vec<Step>,
}

/// The names a step may use: what the file has introduced so far.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) members: Vec<String>,
    pub(crate) clients: Vec<String>,
    pub(crate) remembered: Vec<String>,
    pub(crate) loads: Vec<String>,
    /// Operations in the background.
    pub(crate) operations: Vec<String>,
    /// Open sessions, and whose they are.
    pub(crate) sessions: Vec<(String, String)>,
    /// Open change streams.
    pub(crate) streams: Vec<String>,
    /// Whether the file sets timeouts that only a written-out configuration can carry.
    pub(crate) settings_given: bool,
    pub(crate) set_name: String,
}

pub(crate) fn parse(source_name: &Arc<str>, text: &str) -> Result<Parsed, ScenarioError> {
    let mut diagnostics = Diagnostics::new(text);
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            diagnostics.problem(&span, error.message().trim(), None);
            return Err(ScenarioError::new(source_name.clone(), diagnostics.into_problems()));
        }
    };
    let mut file = Table::new(document.get_ref(), 0..0, "the file");
    let parsed = parse_file(&mut diagnostics, &mut file);
    file.finish(&mut diagnostics);
    let problems = diagnostics.into_problems();
    match parsed {
        Some(parsed) if problems.is_empty() => Ok(parsed),
        _ => Err(ScenarioError::new(source_name.clone(), problems)),
    }
}

fn parse_file(diagnostics: &mut Diagnostics<'_>, file: &mut Table<'_>) -> Option<Parsed> {
    let title = file.string(diagnostics, "title").map(|(title, _)| title.to_string());
    if !file.has("title") {
        file.missing(
            diagnostics,
            "title",
            Some("a line that names the story: title = \"..\"".into()),
        );
    }
    let about = file.string(diagnostics, "about").map(|(about, _)| about.trim().to_string());
    if !file.has("about") {
        file.missing(diagnostics, "about", Some("two lines that say what the story shows".into()));
    }
    let seed = match file.has("seed") {
        true => file.integer(diagnostics, "seed", 0..i64::MAX).map(|seed| seed as u64),
        false => {
            file.take("seed");
            Some(1)
        }
    };
    let set = parse_set(diagnostics, file);

    let mut names = Names::default();
    if let Some(set) = &set {
        names.members = set.members.clone();
        names.set_name = set.name.clone();
        names.settings_given = set.election_timeout.is_some() || set.heartbeat_interval.is_some();
    }
    let mut steps = Vec::new();
    let mut complete = true;
    let written = file.take("step");
    match written.map(|value| (value, value.get_ref().as_array())) {
        None => file.missing(
            diagnostics,
            "step",
            Some("a story has steps: [[step]] and below it, say, wait_for = \"primary\"".into()),
        ),
        Some((value, None)) => {
            let hint = "write each step under a line [[step]]".to_string();
            wrong_type(diagnostics, "step", value, "an array of tables", Some(hint));
        }
        Some((value, Some(array))) if array.len() > STEPS_MAX => {
            diagnostics.problem(&value.span(), format!("more than {STEPS_MAX} steps"), None);
        }
        Some((_, Some(array))) => {
            for (index, value) in array.iter().enumerate() {
                let number = index + 1;
                let Some(table) = value.get_ref().as_table() else {
                    wrong_type(diagnostics, "step", value, "a table", None);
                    continue;
                };
                let table = Table::new(table, value.span(), format!("step {number}"));
                match parse_step(diagnostics, &mut names, number, table) {
                    Some(step) => steps.push(step),
                    None => complete = false,
                }
            }
        }
    }
    if !complete {
        return None;
    }
    Some(Parsed { title: title?, about: about?, seed: seed?, set: set?, steps })
}

fn parse_set(diagnostics: &mut Diagnostics<'_>, file: &mut Table<'_>) -> Option<SetSettings> {
    let mut settings = SetSettings {
        name: "foo".to_string(),
        members: default_members(3),
        server_version: ServerVersion::default(),
        latency: None,
        election_timeout: None,
        heartbeat_interval: None,
        elected: false,
        oplog_size_bytes: None,
    };
    if !file.has("set") {
        file.take("set");
        return Some(settings);
    }
    let mut set = file.table(diagnostics, "set")?;
    set.rename("[set]");
    if let Some((name, span)) = set.string(diagnostics, "name") {
        if name.is_empty() || name.contains('/') {
            diagnostics.problem(&span, "a set's name is not empty and has no slash", None);
        }
        settings.name = name.to_string();
    }
    if let Some(members) = set.take("members") {
        settings.members = parse_members(diagnostics, members)?;
    }
    if let Some((version, span)) = set.string(diagnostics, "server_version") {
        match version {
            "6.0" => settings.server_version = ServerVersion::V6_0,
            "7.0" => settings.server_version = ServerVersion::V7_0,
            "8.0" => settings.server_version = ServerVersion::V8_0,
            _ => diagnostics.problem(
                &span,
                format!("no server version \"{version}\""),
                Some("known: \"6.0\", \"7.0\", \"8.0\"".to_string()),
            ),
        }
    }
    if let Some(latency) = set.take("latency") {
        settings.latency = parse_latency(diagnostics, latency);
    }
    settings.election_timeout = set.duration(diagnostics, "election_timeout");
    settings.heartbeat_interval = set.duration(diagnostics, "heartbeat_interval");
    settings.oplog_size_bytes =
        set.integer(diagnostics, "oplog_size_bytes", 1..i64::MAX).map(|bytes| bytes as usize);
    settings.elected = set.boolean(diagnostics, "elected").unwrap_or(false);
    set.finish(diagnostics);
    Some(settings)
}

fn default_members(count: usize) -> Vec<String> {
    let letters = ('a'..='z').map(String::from);
    let more = (1..).map(|number| format!("member{number}"));
    letters.chain(more).take(count).map(|host| format!("{host}:{DEFAULT_PORT}")).collect()
}

fn parse_members(diagnostics: &mut Diagnostics<'_>, value: &Value<'_>) -> Option<Vec<String>> {
    if let DeValue::Integer(_) = value.get_ref() {
        let count = as_integer(diagnostics, "members", value, 1..MEMBERS_MAX + 1)?;
        return Some(default_members(count as usize));
    }
    let list = as_list(diagnostics, "members", value, "member names")?;
    if list.is_empty() || list.len() > MEMBERS_MAX as usize {
        diagnostics.problem(&value.span(), format!("a set has 1 to {MEMBERS_MAX} members"), None);
        return None;
    }
    let mut members = Vec::new();
    for item in list {
        let name = parse_host(diagnostics, "members", item)?;
        if members.contains(&name) {
            diagnostics.problem(&item.span(), format!("the member {name} is named twice"), None);
            return None;
        }
        members.push(name);
    }
    Some(members)
}

/// A new member's address; a host alone gets the default port.
pub(crate) fn parse_host(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &Value<'_>,
) -> Option<String> {
    let text = as_string(diagnostics, key, value)?;
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    let port_ok = !text.contains(':') || port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_ok = !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if ["primary", "secondary", "none"].contains(&host) {
        diagnostics.problem(&value.span(), format!("`{host}` is a role, not a name"), None);
        return None;
    }
    if !port_ok || !host_ok {
        diagnostics.problem(
            &value.span(),
            format!("`{text}` is no address"),
            Some("members are named host:port, for example \"a:27017\"".to_string()),
        );
        return None;
    }
    Some(match text.contains(':') {
        true => text.to_string(),
        false => format!("{host}:{DEFAULT_PORT}"),
    })
}

fn parse_latency(
    diagnostics: &mut Diagnostics<'_>,
    value: &Value<'_>,
) -> Option<(Duration, Duration)> {
    let list = as_list(diagnostics, "latency", value, "durations")?;
    match list.as_slice() {
        [one] => {
            let latency = as_duration(diagnostics, "latency", one)?;
            Some((latency, latency))
        }
        [least, most] => {
            let least = as_duration(diagnostics, "latency", least)?;
            let most = as_duration(diagnostics, "latency", most)?;
            if least > most {
                let hint = Some("write the least first".to_string());
                diagnostics.problem(&value.span(), "the latency's bounds are reversed", hint);
                return None;
            }
            Some((least, most))
        }
        _ => {
            let hint = Some("latency = \"500us\" or latency = [\"250us\", \"750us\"]".to_string());
            diagnostics.problem(&value.span(), "a latency is one or two durations", hint);
            None
        }
    }
}

impl Names {
    /// The member that `text` means: a role, a name, a host that only one member has, or a name
    /// given by an earlier step with `as`.
    pub(crate) fn member(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        text: &str,
        span: &Range<usize>,
    ) -> Option<MemberRef> {
        let found = self.find_member(text);
        if found.is_none() {
            let mut known = vec!["primary", "secondary"];
            known.extend(self.members.iter().map(String::as_str));
            known.extend(self.remembered.iter().map(String::as_str));
            let hint = suggest(text, &known);
            diagnostics.problem(span, format!("no member is named `{text}`"), hint);
        }
        found
    }

    fn find_member(&self, text: &str) -> Option<MemberRef> {
        match text {
            "primary" => return Some(MemberRef::Primary),
            "secondary" => return Some(MemberRef::Secondary),
            _ => {}
        }
        if self.remembered.iter().any(|name| name == text) {
            return Some(MemberRef::Remembered(text.to_string()));
        }
        self.named(text).map(MemberRef::Named)
    }

    fn named(&self, text: &str) -> Option<String> {
        if let Some(name) = self.members.iter().find(|name| *name == text) {
            return Some(name.clone());
        }
        let mut of_host = self
            .members
            .iter()
            .filter(|name| name.rsplit_once(':').is_some_and(|(host, _)| host == text));
        match (of_host.next(), of_host.next()) {
            (Some(name), None) => Some(name.clone()),
            _ => None,
        }
    }

    /// A member by its own name, no role.
    pub(crate) fn literal(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        key: &str,
        value: &Value<'_>,
    ) -> Option<String> {
        let text = as_string(diagnostics, key, value)?;
        let found = self.named(text);
        if found.is_none() {
            let known: Vec<&str> = self.members.iter().map(String::as_str).collect();
            let hint = suggest(text, &known);
            diagnostics.problem(&value.span(), format!("no member is named `{text}`"), hint);
        }
        found
    }

    pub(crate) fn member_value(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        key: &str,
        value: &Value<'_>,
    ) -> Option<MemberRef> {
        let text = as_string(diagnostics, key, value)?;
        self.member(diagnostics, text, &value.span())
    }

    /// A member or a client.
    pub(crate) fn end(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        key: &str,
        value: &Value<'_>,
    ) -> Option<EndRef> {
        let text = as_string(diagnostics, key, value)?;
        if self.clients.iter().any(|name| name == text) {
            return Some(EndRef::Client(text.to_string()));
        }
        self.member(diagnostics, text, &value.span()).map(EndRef::Member)
    }

    /// The client a step names with `client`, or the only one there is.
    pub(crate) fn client(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        step: &mut Table<'_>,
    ) -> Option<String> {
        let Some((text, span)) = step.string(diagnostics, "client") else {
            if step.has("client") {
                return None;
            }
            return match self.clients.as_slice() {
                [only] => Some(only.clone()),
                [] => {
                    let hint = "connect one in an earlier step: connect = \"app\"".to_string();
                    let message = format!("{} needs a client, and none is connected", step.name());
                    diagnostics.problem(step.span(), message, Some(hint));
                    None
                }
                several => {
                    let hint = format!("one of: {}", several.join(", "));
                    step.missing(diagnostics, "client", Some(hint));
                    None
                }
            };
        };
        self.known_client(diagnostics, text, &span)
    }

    pub(crate) fn known_session(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        text: &str,
        span: &Range<usize>,
    ) -> Option<String> {
        let known: Vec<&str> = self.sessions.iter().map(|(name, _)| name.as_str()).collect();
        known_name(diagnostics, "session", text, span, &known)
    }

    pub(crate) fn known_stream(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        text: &str,
        span: &Range<usize>,
    ) -> Option<String> {
        let known: Vec<&str> = self.streams.iter().map(String::as_str).collect();
        known_name(diagnostics, "change stream", text, span, &known)
    }

    pub(crate) fn known_client(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        text: &str,
        span: &Range<usize>,
    ) -> Option<String> {
        let known: Vec<&str> = self.clients.iter().map(String::as_str).collect();
        known_name(diagnostics, "client", text, span, &known)
    }
}

/// `text`, if it is one of the `known`.
fn known_name(
    diagnostics: &mut Diagnostics<'_>,
    what: &str,
    text: &str,
    span: &Range<usize>,
    known: &[&str],
) -> Option<String> {
    if known.contains(&text) {
        return Some(text.to_string());
    }
    let hint = suggest(text, known);
    diagnostics.problem(span, format!("no {what} is named `{text}`"), hint);
    None
}

pub(crate) fn parse_namespace(
    diagnostics: &mut Diagnostics<'_>,
    text: &str,
    span: &Range<usize>,
) -> Option<Namespace> {
    match text.split_once('.') {
        Some((database, collection)) if !database.is_empty() && !collection.is_empty() => {
            Some(Namespace { database: database.to_string(), collection: collection.to_string() })
        }
        _ => {
            diagnostics.problem(
                span,
                format!("\"{text}\" names no collection"),
                Some("write database.collection, for example \"shop.orders\"".to_string()),
            );
            None
        }
    }
}

pub(crate) fn parse_read(diagnostics: &mut Diagnostics<'_>, step: &mut Table<'_>) -> ReadSpec {
    const MODES: [(&str, ReadMode); 5] = [
        ("primary", ReadMode::Primary),
        ("primaryPreferred", ReadMode::PrimaryPreferred),
        ("secondary", ReadMode::Secondary),
        ("secondaryPreferred", ReadMode::SecondaryPreferred),
        ("nearest", ReadMode::Nearest),
    ];
    const CONCERNS: [&str; 5] = ["local", "available", "majority", "linearizable", "snapshot"];
    let mut read = ReadSpec::default();
    if let Some((text, span)) = step.string(diagnostics, "read_preference") {
        read.mode = MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        if read.mode.is_none() {
            let hint = suggest(text, &MODES.map(|(name, _)| name));
            diagnostics.problem(&span, format!("no read preference \"{text}\""), hint);
        }
    }
    if let Some((text, span)) = step.string(diagnostics, "read_concern") {
        if !CONCERNS.contains(&text) {
            let hint = suggest(text, &CONCERNS);
            diagnostics.problem(&span, format!("no read concern \"{text}\""), hint);
        }
        read.concern = Some(text.to_string());
    }
    read
}

pub(crate) fn parse_write_concern(
    diagnostics: &mut Diagnostics<'_>,
    step: &mut Table<'_>,
) -> Option<WriteConcernSpec> {
    let value = step.take("write_concern")?;
    if value.get_ref().is_table() {
        let table = value.get_ref().as_table()?;
        let mut table = Table::new(table, value.span(), "`write_concern`");
        let w = match table.take("w") {
            Some(w) => Some(parse_acknowledgement(diagnostics, w)?),
            None => None,
        };
        let journal = table.boolean(diagnostics, "j");
        let wtimeout = table.duration(diagnostics, "wtimeout");
        table.finish(diagnostics);
        return Some(WriteConcernSpec { w, journal, wtimeout });
    }
    let w = Some(parse_acknowledgement(diagnostics, value)?);
    Some(WriteConcernSpec { w, journal: None, wtimeout: None })
}

fn parse_acknowledgement(
    diagnostics: &mut Diagnostics<'_>,
    value: &Value<'_>,
) -> Option<Acknowledgement> {
    match value.get_ref() {
        DeValue::Integer(_) => as_integer(diagnostics, "w", value, 0..MEMBERS_MAX + 1)
            .map(|count| Acknowledgement::Members(count as u32)),
        DeValue::String(text) if text.as_ref() == "majority" => Some(Acknowledgement::Majority),
        DeValue::String(text) => Some(Acknowledgement::Tagged(text.to_string())),
        _ => {
            let hint = "write_concern = \"majority\", or 2, or { w = 2, wtimeout = \"1s\" }";
            wrong_type(diagnostics, "w", value, "a number or \"majority\"", Some(hint.into()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use crate::scenario::format::{Action, Fault};

    const HEADER: &str = "title = \"t\"\nabout = \"a\"\n";

    /// What is wrong with a file that begins with a good header: line 1 is the first after it.
    fn complaints(text: &str) -> String {
        let whole = format!("{HEADER}{text}");
        let error = Scenario::parse("story.toml", &whole).unwrap_err();
        let mut lines = Vec::new();
        for problem in error.problems() {
            lines.push(format!("{}:{}: {}", problem.line - 2, problem.column, problem.message));
            lines.extend(problem.hint.iter().map(|hint| format!("  {hint}")));
        }
        lines.join("\n")
    }

    #[test]
    fn a_file_without_a_header_is_told_what_it_lacks() {
        let error = Scenario::parse("story.toml", "seed = 3\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "story.toml:1:1: the file needs `title`\n    hint: a line that names the story: title = \"..\"\n\
             story.toml:1:1: the file needs `about`\n    hint: two lines that say what the story shows\n\
             story.toml:1:1: the file needs `step`\n    hint: a story has steps: [[step]] and below it, say, wait_for = \"primary\""
        );
    }

    #[test]
    fn broken_toml_is_reported_where_it_breaks() {
        assert!(complaints("[[step]]\nkill = \"a\n").starts_with("2:10: "));
        assert!(complaints("[[step]\n").starts_with("1:8: "));
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest_known_one() {
        assert_eq!(
            complaints("[[step]]\nwait_for = \"primary\"\nwithn = \"2s\"\n"),
            "3:1: step 1 (wait_for) has no key `withn`\n  did you mean `within`?"
        );
        assert_eq!(
            complaints("[[step]]\nadvance = \"1s\"\n[set]\nmember = 3\n"),
            "4:1: [set] has no key `member`\n  did you mean `members`?"
        );
    }

    #[test]
    fn an_unknown_verb_suggests_the_nearest_one() {
        assert_eq!(
            complaints("[[step]]\nrestrat = \"a\"\n"),
            "2:1: step 1 has no verb, and `restrat` is none\n  did you mean `restart`?"
        );
    }

    #[test]
    fn a_step_does_one_thing() {
        assert_eq!(
            complaints("[[step]]\nkill = \"a\"\nrestart = \"a\"\n"),
            "3:1: step 1 has two verbs, `kill` and `restart`\n  each [[step]] does one thing: split it in two"
        );
    }

    #[test]
    fn a_wrong_type_is_reported_at_the_value() {
        assert_eq!(
            complaints("[[step]]\nadvance = 5\n"),
            "2:11: `advance` must be a duration, not an integer\n  durations are written \"250us\", \"10ms\", \"2s\", \"1.5s\", \"1m 30s\""
        );
        assert_eq!(
            complaints("[[step]]\nadvance = \"5 sec\"\n"),
            "2:11: `advance`: \"5 sec\" is no duration\n  durations are written \"250us\", \"10ms\", \"2s\", \"1.5s\", \"1m 30s\""
        );
    }

    #[test]
    fn a_member_nobody_introduced_is_reported_where_it_is_named() {
        assert_eq!(
            complaints("[[step]]\npartition = [[\"a\"], [\"b\", \"x\"]]\n"),
            "2:27: no member is named `x`\n  \
             known here: primary, secondary, a:27017, b:27017, c:27017"
        );
    }

    #[test]
    fn every_mistake_is_reported_in_the_order_of_the_file() {
        let text =
            "[[step]]\nkill = \"primry\"\n[[step]]\nadvance = true\n[[step]]\nconect = \"app\"\n";
        let places: Vec<String> = complaints(text)
            .lines()
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(": ").next().unwrap().to_string())
            .collect();
        assert_eq!(places, ["2:8", "4:11", "6:1"]);
    }

    #[test]
    fn a_missing_field_is_reported_at_its_step() {
        let text = "[[step]]\nconnect = \"app\"\n\n[[step]]\ninsert = \"shop.orders\"\n";
        assert_eq!(
            complaints(text),
            "4:1: step 2 (insert) needs `document`\n  document = { _id = 1, text = \"hello\" }"
        );
    }

    #[test]
    fn two_clients_must_be_told_apart() {
        let text =
            "[[step]]\nconnect = \"x\"\n[[step]]\nconnect = \"y\"\n[[step]]\nfind = \"d.c\"\n";
        assert_eq!(complaints(text), "5:1: step 3 (find) needs `client`\n  one of: x, y");
    }

    #[test]
    fn a_host_alone_names_its_member() {
        let text = format!(
            "{HEADER}[[step]]\nkill = \"b\"\nas = \"victim\"\n[[step]]\nrestart = \"victim\"\n"
        );
        let scenario = Scenario::parse("story.toml", &text).unwrap();
        let steps = &scenario.parsed.steps;
        let Action::Fault(Fault::Kill(victim)) = &steps[0].action else { panic!("{:?}", steps[0]) };
        assert_eq!(*victim, MemberRef::Named("b:27017".to_string()));
        let Action::Fault(Fault::Restart(again)) = &steps[1].action else {
            panic!("{:?}", steps[1])
        };
        assert_eq!(*again, MemberRef::Remembered("victim".to_string()));
    }

    #[test]
    fn connection_options_are_checked_as_the_driver_reads_them() {
        let text = "[[step]]\nconnect = \"app\"\noptions = { retryWrites = true, heartbeatFrequency = 5 }\n";
        let said = complaints(text);
        assert!(said.starts_with("3:33: option \"heartbeatfrequency\""), "{said}");
    }

    #[test]
    fn the_fixtures_are_well_written() {
        let failover = include_str!("../../../fixtures/failover.toml");
        Scenario::parse("failover.toml", failover).unwrap();
        let balanced = include_str!("../../../fixtures/balanced-reads.toml");
        Scenario::parse("balanced-reads.toml", balanced).unwrap();
    }
}
