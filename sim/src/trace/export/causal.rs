//! Which events can have led to another one (Lamport's "happened before").

use std::collections::BTreeSet;

use crate::trace::{Event, EventKind};

/// The places in `events` of everything that happened before the event at `last`, and its own: what the
/// same end did earlier, what was sent in messages that arrived, and so on backwards. In order.
///
/// # Panics
/// There is no event at `last`.
pub fn causal_past(events: &[Event], last: usize) -> Vec<usize> {
    assert!(last < events.len(), "event {last} of {}", events.len());
    let mut ends = BTreeSet::from([events[last].who.clone()]);
    let mut messages = BTreeSet::new();
    let mut past = Vec::new();
    for at in (0..=last).rev() {
        let event = &events[at];
        if let EventKind::MessageSent { message, .. } = &event.kind
            && messages.remove(message)
        {
            ends.insert(event.who.clone());
        }
        if !ends.contains(&event.who) {
            continue;
        }
        if let EventKind::MessageReceived { message, .. } = &event.kind {
            messages.insert(*message);
        }
        past.push(at);
    }
    past.reverse();
    past
}
