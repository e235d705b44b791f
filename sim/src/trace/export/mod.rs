//! A run drawn for people and for other tools: who knew what when.
//!
//! All three forms want a record made at [`Record::Messages`](super::Record::Messages): the arrows
//! between the ends are its messages. [`causal_past`] picks what can have led to an event.

mod causal;
mod lamport;
mod perfetto;
mod shiviz;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use causal::causal_past;

use super::{Event, EventKind, Filter};

/// A form to draw a run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportFormat {
    /// A space-time diagram after Lamport, as SVG: a line of life for each end, arrows for messages.
    LamportSvg,
    /// A log with vector clocks, as ShiViz reads it with its default expression.
    Shiviz,
    /// Chrome's trace event format, as ui.perfetto.dev and chrome://tracing read it.
    Perfetto,
}

impl ExportFormat {
    /// Every form, with its name on the command line.
    pub const ALL: [(&'static str, ExportFormat); 3] = [
        ("lamport-svg", ExportFormat::LamportSvg),
        ("shiviz", ExportFormat::Shiviz),
        ("perfetto", ExportFormat::Perfetto),
    ];
}

/// Draws what `filter` shows of `events`, which are in the order they happened. Messages that a set
/// sends all day long (heartbeats, positions, waits for new entries, hellos) are left out unless `routine`.
pub fn export(events: &[Event], filter: &Filter, format: ExportFormat, routine: bool) -> String {
    let is_shown = |event: &Event| filter.shows(event) && (routine || !is_routine(&event.kind));
    let shown: Vec<&Event> = events.iter().filter(|event| is_shown(event)).collect();
    match format {
        ExportFormat::LamportSvg => lamport::draw(events, is_shown),
        ExportFormat::Shiviz => shiviz::write(&shown),
        ExportFormat::Perfetto => perfetto::write(&shown),
    }
}

fn is_routine(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::MessageSent { routine: true, .. }
            | EventKind::MessageReceived { routine: true, .. }
            | EventKind::MessageStopped { routine: true, .. }
    )
}

/// Everybody who appears, members first, and where each of them stands.
fn everybody<'a>(
    events: impl IntoIterator<Item = &'a Event>,
) -> (Vec<Arc<str>>, BTreeMap<Arc<str>, usize>) {
    let names: BTreeSet<Arc<str>> = events.into_iter().map(|event| event.who.clone()).collect();
    // A member's name is its address, which has a port.
    let (mut names, others): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.contains(':'));
    names.extend(others);
    let places = names.iter().cloned().zip(0..).collect();
    (names, places)
}

/// `text` as a JSON string, quotes included.
fn json_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    super::json_lines::escape(text, &mut quoted);
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use stepdown_driver::Instant;

    use super::*;
    use crate::trace::MemberState;

    /// a stands, asks b, who says yes; c's question gets lost.
    fn election() -> Vec<Event> {
        let event = |millis, who: &str, kind| Event {
            at: Instant::from_millis(millis),
            who: who.into(),
            kind,
        };
        let sent = |message, to: &str, what: &str| EventKind::MessageSent {
            message,
            to: to.into(),
            what: what.into(),
            routine: false,
        };
        let received = |message, from: &str, what: &str| EventKind::MessageReceived {
            message,
            from: from.into(),
            what: what.into(),
            routine: false,
        };
        vec![
            event(0, "a:27017", EventKind::ProcessStarted { with_data: true }),
            event(0, "b:27017", EventKind::ProcessStarted { with_data: true }),
            event(5, "b:27017", EventKind::Note { text: "b <thinks> & \"waits\"".into() }),
            event(10, "a:27017", sent(1, "b:27017", "replSetRequestVotes: term 2")),
            event(
                10,
                "a:27017",
                EventKind::MessageStopped {
                    to: "c:27017".into(),
                    what: "replSetRequestVotes: term 2".into(),
                    routine: false,
                    why: "the link is cut".into(),
                },
            ),
            event(11, "b:27017", received(1, "a:27017", "replSetRequestVotes: term 2")),
            event(11, "b:27017", sent(2, "a:27017", "my vote: yes (term 2)")),
            event(12, "a:27017", received(2, "b:27017", "my vote: yes (term 2)")),
            event(
                12,
                "a:27017",
                EventKind::StateChanged {
                    from: MemberState::Secondary,
                    to: MemberState::Primary,
                    why: "won the election of term 2".into(),
                },
            ),
            event(13, "b:27017", EventKind::Note { text: "later".into() }),
        ]
    }

    #[test]
    fn shiviz_gets_a_vector_clock_for_each_event() {
        insta::assert_snapshot!(export(&election(), &Filter::new(), ExportFormat::Shiviz, false), @r#"
        a:27017 {"a:27017":1}
        0.000000 mongod starts on its data
        b:27017 {"b:27017":1}
        0.000000 mongod starts on its data
        b:27017 {"b:27017":2}
        0.005000 -- b <thinks> & "waits"
        a:27017 {"a:27017":2}
        0.010000 -> b:27017  replSetRequestVotes: term 2
        a:27017 {"a:27017":3}
        0.010000 -x c:27017  replSetRequestVotes: term 2: the link is cut
        b:27017 {"a:27017":2, "b:27017":3}
        0.011000 <- a:27017  replSetRequestVotes: term 2
        b:27017 {"a:27017":2, "b:27017":4}
        0.011000 -> a:27017  my vote: yes (term 2)
        a:27017 {"a:27017":4, "b:27017":4}
        0.012000 <- b:27017  my vote: yes (term 2)
        a:27017 {"a:27017":5, "b:27017":4}
        0.012000 SECONDARY -> PRIMARY: won the election of term 2
        b:27017 {"a:27017":2, "b:27017":5}
        0.013000 -- later
        "#);
    }

    #[test]
    fn perfetto_gets_json_with_slices_for_states_and_flows_for_messages() {
        let text = export(&election(), &Filter::new(), ExportFormat::Perfetto, false);
        let read: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let events = read["traceEvents"].as_array().expect("with events");
        let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
        // Two processes named, two messages with both their ends.
        assert_eq!((of("M"), of("s"), of("f")), (2, 2, 2));
        assert!(events.iter().any(|event| event["ph"] == "X" && event["name"] == "PRIMARY"));
    }

    #[test]
    fn the_drawing_has_a_line_of_life_for_each_end_and_an_arrow_for_each_message() {
        let svg = export(&election(), &Filter::new(), ExportFormat::LamportSvg, false);
        assert_eq!(svg.matches("class=\"message\"").count(), 2, "{svg}");
        assert_eq!(svg.matches("class=\"stopped\"").count(), 1, "{svg}");
        assert!(svg.contains("b &lt;thinks&gt; &amp; &quot;waits&quot;"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn routine_messages_are_left_out_unless_asked_for() {
        let heartbeat = Event {
            at: Instant::ZERO,
            who: "a:27017".into(),
            kind: EventKind::MessageSent {
                message: 1,
                to: "b:27017".into(),
                what: "replSetHeartbeat".into(),
                routine: true,
            },
        };
        let events = [heartbeat];
        assert!(
            !export(&events, &Filter::new(), ExportFormat::Shiviz, false)
                .contains("replSetHeartbeat")
        );
        assert!(
            export(&events, &Filter::new(), ExportFormat::Shiviz, true)
                .contains("replSetHeartbeat")
        );
    }

    #[test]
    fn the_causal_past_of_a_victory_holds_the_vote_and_not_what_came_after() {
        let events = election();
        let past = causal_past(&events, 8);
        let texts: Vec<String> =
            past.iter().map(|at| format!("{} {}", events[*at].who, events[*at].kind)).collect();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        a:27017 mongod starts on its data
        b:27017 mongod starts on its data
        b:27017 -- b <thinks> & "waits"
        a:27017 -> b:27017  replSetRequestVotes: term 2
        a:27017 -x c:27017  replSetRequestVotes: term 2: the link is cut
        b:27017 <- a:27017  replSetRequestVotes: term 2
        b:27017 -> a:27017  my vote: yes (term 2)
        a:27017 <- b:27017  my vote: yes (term 2)
        a:27017 SECONDARY -> PRIMARY: won the election of term 2
        "#);
    }
}
