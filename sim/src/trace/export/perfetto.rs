//! Chrome's trace event format: a track for each end, slices for the states of members, short slices
//! for messages with a flow from the one to the other, instants for the rest.

use std::fmt::Write as _;

use stepdown_driver::Instant;

use super::{everybody, json_string};
use crate::trace::{Event, EventKind};

/// How long a message is shown to be handled, in nanoseconds: a flow needs a slice at each end.
const HANDLED_NANOS: u64 = 20_000;

pub(super) fn write(events: &[&Event]) -> String {
    let (names, places) = everybody(events.iter().copied());
    let end = events.last().map_or(Instant::ZERO, |event| event.at);
    let mut entries: Vec<String> = (1..)
        .zip(&names)
        .map(|(pid, name)| {
            let name = json_string(name);
            format!(
                "{{\"ph\":\"M\",\"pid\":{pid},\"tid\":1,\"name\":\"process_name\",\
                 \"args\":{{\"name\":{name}}}}}"
            )
        })
        .collect();
    let mut states: Vec<Option<(Instant, &'static str)>> = vec![None; names.len()];
    for Event { at, who, kind } in events {
        let place = places[who];
        let pid = place + 1;
        let micros = nanos_as_micros(at.as_nanos());
        let name = json_string(&kind.to_string());
        let category = kind.category().name();
        let common = format!("\"pid\":{pid},\"tid\":1,\"ts\":{micros},\"cat\":\"{category}\"");
        match kind {
            EventKind::StateChanged { to, .. } => {
                let ended = states[place].replace((*at, to.name()));
                entries.extend(ended.map(|(since, state)| slice(pid, since, *at, state)));
                entries.push(format!("{{\"ph\":\"i\",\"s\":\"p\",{common},\"name\":{name}}}"));
            }
            EventKind::ProcessKilled | EventKind::ProcessExited { .. } => {
                let ended = states[place].take();
                entries.extend(ended.map(|(since, state)| slice(pid, since, *at, state)));
                entries.push(format!("{{\"ph\":\"i\",\"s\":\"p\",{common},\"name\":{name}}}"));
            }
            EventKind::MessageSent { message, .. } | EventKind::MessageReceived { message, .. } => {
                let duration = nanos_as_micros(HANDLED_NANOS);
                entries
                    .push(format!("{{\"ph\":\"X\",\"dur\":{duration},{common},\"name\":{name}}}"));
                let flow = match kind {
                    EventKind::MessageSent { .. } => "\"ph\":\"s\"",
                    _ => "\"ph\":\"f\",\"bp\":\"e\"",
                };
                entries.push(format!("{{{flow},\"id\":{message},{common},\"name\":\"message\"}}"));
            }
            _ => entries.push(format!("{{\"ph\":\"i\",\"s\":\"t\",{common},\"name\":{name}}}")),
        }
    }
    for (place, state) in states.into_iter().enumerate() {
        entries.extend(state.map(|(since, state)| slice(place + 1, since, end, state)));
    }
    let mut text = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    let _ = write!(text, "{}", entries.join(",\n"));
    text.push_str("\n]}\n");
    text
}

/// A member was in a state from then to then.
fn slice(pid: usize, since: Instant, until: Instant, state: &str) -> String {
    let (from, duration) = (since.as_nanos(), until.as_nanos() - since.as_nanos());
    format!(
        "{{\"ph\":\"X\",\"pid\":{pid},\"tid\":0,\"ts\":{},\"dur\":{},\"cat\":\"state\",\
         \"name\":\"{state}\"}}",
        nanos_as_micros(from),
        nanos_as_micros(duration)
    )
}

/// Nanoseconds as the format's microseconds, without a float on the way.
fn nanos_as_micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1_000, nanos % 1_000)
}
