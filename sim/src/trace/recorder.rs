//! Keeps the events of a run.

use std::collections::VecDeque;
use std::sync::Arc;

use stepdown_driver::Instant;

use super::{Event, EventKind, timeline};

/// How much of a run is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// Nothing: for exploration and measurement.
    Nothing,
    /// What a reader wants to know: everything but the steady flow of writes, commit points, applied
    /// batches and client operations that begin.
    #[default]
    Story,
    /// Everything that is decided and done.
    Everything,
    /// That, and each message between the ends of the world: for drawings of who knew what when.
    Messages,
}

impl Record {
    /// Whether events of this kind are kept.
    pub const fn keeps(self, kind: &EventKind) -> bool {
        match self {
            Record::Nothing => false,
            Record::Story => !matches!(
                kind,
                EventKind::CommitPoint { .. }
                    | EventKind::OplogWrite { .. }
                    | EventKind::Applied { .. }
                    | EventKind::OperationStarted { .. }
                    | EventKind::MessageSent { .. }
                    | EventKind::MessageReceived { .. }
                    | EventKind::MessageStopped { .. }
            ),
            Record::Everything => !matches!(
                kind,
                EventKind::MessageSent { .. }
                    | EventKind::MessageReceived { .. }
                    | EventKind::MessageStopped { .. }
            ),
            Record::Messages => true,
        }
    }
}

/// The events of a run, in order; the oldest are forgotten beyond a cap.
#[derive(Debug)]
pub struct Recorder {
    level: Record,
    cap: usize,
    events: VecDeque<Event>,
    forgotten: usize,
}

impl Recorder {
    /// Keeps what `level` says, at most the last `cap` events.
    pub fn new(level: Record, cap: usize) -> Self {
        Recorder { level, cap, events: VecDeque::new(), forgotten: 0 }
    }

    /// Whether nothing is kept.
    pub fn is_off(&self) -> bool {
        self.level == Record::Nothing
    }

    /// Whether the messages between the ends of the world are kept.
    pub fn keeps_messages(&self) -> bool {
        self.level == Record::Messages
    }

    /// Keeps `event`, if the level says so.
    pub fn push(&mut self, event: Event) {
        if !self.level.keeps(&event.kind) {
            return;
        }
        if self.events.len() >= self.cap {
            self.events.pop_front();
            self.forgotten += 1;
        }
        self.events.push_back(event);
    }

    /// Keeps what happened to `who` at `at`.
    pub fn record(&mut self, at: Instant, who: &Arc<str>, kind: EventKind) {
        if self.level.keeps(&kind) {
            self.push(Event { at, who: who.clone(), kind });
        }
    }

    /// The events kept, oldest first.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &Event> + Clone {
        self.events.iter()
    }

    /// How many events were forgotten because of the cap.
    pub fn forgotten(&self) -> usize {
        self.forgotten
    }

    /// The last `count` events as text, for a panic.
    pub(crate) fn last_words(&self, count: usize) -> String {
        if self.is_off() {
            return "  (recording is off: run the seed again with Record::Story)".into();
        }
        let skip = self.events.len().saturating_sub(count);
        let mut text = String::from("  last events:\n");
        for line in timeline(self.events.iter().skip(skip)).lines() {
            text.push_str("    ");
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_recorder_forgets_the_oldest_and_counts_them() {
        let mut recorder = Recorder::new(Record::Story, 2);
        for text in ["one", "two", "three"] {
            recorder.record(Instant::ZERO, &"t".into(), EventKind::Note { text: text.into() });
        }
        let kept: Vec<String> = recorder.events().map(|event| event.kind.to_string()).collect();
        assert_eq!((kept.join(" "), recorder.forgotten()), ("-- two -- three".into(), 1));
    }
}
