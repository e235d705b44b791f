//! The story of a run as JSON Lines, for tools: one object a line.
//!
//! The first line names the format: `{"format":"stepdown-timeline","version":1}`. Every object after it has `nanos` (virtual time, a number), `who`, `category` (`client`, `election`,
//! `fault`, `network`, `replication`) and `event` (the kind, in snake case), then the fields of its
//! kind under the names of [`EventKind`]. Optimes are strings (`seconds:increment@term`), states are
//! the server's words.

use std::fmt::{Display, Write as _};

use super::{Category, Event, EventKind, FORMAT_VERSION};

/// `events`, one JSON object a line.
pub fn json_lines<'a>(events: impl IntoIterator<Item = &'a Event>) -> String {
    let mut text = format!("{{\"format\":\"stepdown-timeline\",\"version\":{FORMAT_VERSION}}}\n");
    for event in events {
        Line { text: &mut text }.event(event);
    }
    text
}

impl Category {
    /// The word for it in filters and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Category::Client => "client",
            Category::Election => "election",
            Category::Fault => "fault",
            Category::Network => "network",
            Category::Replication => "replication",
        }
    }
}

impl EventKind {
    /// The kind's name in snake case.
    pub const fn name(&self) -> &'static str {
        use EventKind as K;
        match self {
            K::ProcessStarted { .. } => "process_started",
            K::ProcessKilled => "process_killed",
            K::ProcessExited { .. } => "process_exited",
            K::Fault { .. } => "fault",
            K::StateChanged { .. } => "state_changed",
            K::ConfigInstalled { .. } => "config_installed",
            K::TermChanged { .. } => "term_changed",
            K::ElectionRefused { .. } => "election_refused",
            K::ElectionStarted { .. } => "election_started",
            K::Vote { .. } => "vote",
            K::ElectionWon { .. } => "election_won",
            K::ElectionLost { .. } => "election_lost",
            K::CatchUp { .. } => "catch_up",
            K::Writable { .. } => "writable",
            K::SteppingDown { .. } => "stepping_down",
            K::Takeover { .. } => "takeover",
            K::MemberDown { .. } => "member_down",
            K::MemberUp { .. } => "member_up",
            K::MessageSent { .. } => "message_sent",
            K::MessageReceived { .. } => "message_received",
            K::MessageStopped { .. } => "message_stopped",
            K::SyncSource { .. } => "sync_source",
            K::CommitPoint { .. } => "commit_point",
            K::OplogWrite { .. } => "oplog_write",
            K::Applied { .. } => "applied",
            K::InitialSync { .. } => "initial_sync",
            K::Rollback { .. } => "rollback",
            K::JournalLost { .. } => "journal_lost",
            K::OperationStarted { .. } => "operation_started",
            K::OperationSucceeded { .. } => "operation_succeeded",
            K::OperationFailed { .. } => "operation_failed",
            K::Topology { .. } => "topology",
            K::Note { .. } => "note",
        }
    }
}

struct Line<'a> {
    text: &'a mut String,
}

impl Line<'_> {
    fn event(&mut self, Event { at, who, kind }: &Event) {
        let _ = write!(self.text, "{{\"nanos\":{}", at.as_nanos());
        self.string("who", who);
        self.string("category", kind.category().name());
        self.string("event", kind.name());
        self.fields(kind);
        self.text.push_str("}\n");
    }

    fn fields(&mut self, kind: &EventKind) {
        use EventKind as K;
        match kind {
            K::ProcessStarted { with_data } => self.bare("with_data", with_data),
            K::ProcessKilled => {}
            K::ProcessExited { code, why } => {
                self.bare("code", code);
                self.string("why", why);
            }
            K::StateChanged { from, to, why } => {
                self.string("from", from.name());
                self.string("to", to.name());
                self.string("why", why);
            }
            K::ConfigInstalled { version, term, why } => {
                self.bare("version", version);
                self.bare("term", term);
                self.string("why", why);
            }
            K::TermChanged { term, why } | K::ElectionLost { term, why } => {
                self.bare("term", term);
                self.string("why", why);
            }
            K::ElectionRefused { why } | K::SteppingDown { why } => self.string("why", why),
            K::ElectionStarted { dry_run, term, why } => {
                self.bare("dry_run", dry_run);
                self.bare("term", term);
                self.string("why", why);
            }
            K::Vote { candidate, term, dry_run, granted, why } => {
                self.string("candidate", candidate);
                self.bare("term", term);
                self.bare("dry_run", dry_run);
                self.bare("granted", granted);
                self.string("why", why);
            }
            K::ElectionWon { term, votes } => {
                self.bare("term", term);
                self.bare("votes", votes);
            }
            K::Writable { term } => self.bare("term", term),
            K::MemberDown { member, why } => {
                self.string("member", member);
                self.string("why", why);
            }
            K::MemberUp { member, state } => {
                self.string("member", member);
                self.string("state", state.name());
            }
            K::MessageSent { message, to, what, routine } => {
                self.bare("message", message);
                self.string("to", to);
                self.string("what", what);
                self.bare("routine", routine);
            }
            K::MessageReceived { message, from, what, routine } => {
                self.bare("message", message);
                self.string("from", from);
                self.string("what", what);
                self.bare("routine", routine);
            }
            K::MessageStopped { to, what, routine, why } => {
                self.string("to", to);
                self.string("what", what);
                self.bare("routine", routine);
                self.string("why", why);
            }
            K::SyncSource { source, why } => {
                self.optional("source", source.as_deref());
                self.string("why", why);
            }
            K::CommitPoint { optime } => self.string("optime", &optime.to_string()),
            K::OplogWrite { optime, what } => {
                self.string("optime", &optime.to_string());
                self.string("what", what);
            }
            K::Applied { count, last } => {
                self.bare("count", count);
                self.string("last", &last.to_string());
            }
            K::JournalLost { count } => self.bare("count", count),
            K::Fault { what }
            | K::CatchUp { what }
            | K::Takeover { what }
            | K::InitialSync { what }
            | K::Rollback { what }
            | K::OperationStarted { what }
            | K::Topology { what } => self.string("what", what),
            K::OperationSucceeded { what, server } => {
                self.string("what", what);
                self.optional("server", server.as_deref());
            }
            K::OperationFailed { what, why } => {
                self.string("what", what);
                self.string("why", why);
            }
            K::Note { text } => self.string("text", text),
        }
    }

    /// A number or a boolean: printed as Rust prints it.
    fn bare(&mut self, name: &str, value: &dyn Display) {
        let _ = write!(self.text, ",\"{name}\":{value}");
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.bare(name, &"null"),
        }
    }

    fn string(&mut self, name: &str, value: &str) {
        let _ = write!(self.text, ",\"{name}\":\"");
        escape(value, self.text);
        self.text.push('"');
    }
}

/// Appends `value` as the inside of a JSON string.
pub(super) fn escape(value: &str, text: &mut String) {
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if (control as u32) < 0x20 => {
                let _ = write!(text, "\\u{:04x}", control as u32);
            }
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use stepdown_driver::Instant;

    use super::*;

    #[test]
    fn every_line_is_one_json_object_whatever_is_in_the_text() {
        let text = "a \"quoted\" \\ line\nwith a bell \u{7} and \u{2192}";
        let events = [Event {
            at: Instant::from_nanos(1_500),
            who: "client".into(),
            kind: EventKind::Note { text: text.into() },
        }];
        let lines = json_lines(&events);
        assert_eq!(lines.lines().count(), 2);
        let read = lines.lines().map(serde_json::from_str);
        let read: Vec<serde_json::Value> = read.collect::<Result<_, _>>().unwrap();
        assert_eq!(read[0]["version"], FORMAT_VERSION);
        let read = &read[1];
        assert_eq!(read["text"], text);
        assert_eq!(read["nanos"], 1_500);
        assert_eq!(read["event"], "note");
    }

    #[test]
    fn an_unknown_sync_source_is_null() {
        let events = [Event {
            at: Instant::ZERO,
            who: "a:27017".into(),
            kind: EventKind::SyncSource { source: None, why: "none is ahead".into() },
        }];
        assert_eq!(
            json_lines(&events).lines().nth(1).unwrap(),
            "{\"nanos\":0,\"who\":\"a:27017\",\"category\":\"replication\",\
             \"event\":\"sync_source\",\"source\":null,\"why\":\"none is ahead\"}"
        );
    }
}
