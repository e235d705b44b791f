//! A log with vector clocks: two lines an event, as ShiViz reads it with its default expression
//! `(?<host>\S*) (?<clock>{.*})\n(?<event>.*)`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{everybody, json_string};
use crate::trace::{Event, EventKind};

pub(super) fn write(events: &[&Event]) -> String {
    let (names, places) = everybody(events.iter().copied());
    let mut clocks = vec![vec![0_u64; names.len()]; names.len()];
    let mut sent: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut text = String::new();
    for Event { at, who, kind } in events {
        let place = places[who];
        if let EventKind::MessageReceived { message, .. } = kind
            && let Some(sender) = sent.remove(message)
        {
            for (mine, theirs) in clocks[place].iter_mut().zip(sender) {
                *mine = (*mine).max(theirs);
            }
        }
        clocks[place][place] += 1;
        if let EventKind::MessageSent { message, .. } = kind {
            sent.insert(*message, clocks[place].clone());
        }
        let clock: Vec<String> = (names.iter().zip(&clocks[place]))
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{}:{count}", json_string(&host(name))))
            .collect();
        let what = kind.to_string().replace('\n', " ");
        let _ = writeln!(text, "{} {{{}}}\n{at} {what}", host(who), clock.join(", "));
    }
    text
}

/// A host has no spaces there.
fn host(name: &str) -> String {
    name.replace(char::is_whitespace, "_")
}
