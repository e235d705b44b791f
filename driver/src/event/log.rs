//! A recorder of events, for tests and for teaching.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{CmapEvent, CommandEvent, EventHandler, SdamEvent};
use crate::options::ClientOptions;
use crate::uri::ServerAddress;

/// An event of any family.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// About a command.
    Command(CommandEvent),
    /// About a connection pool.
    Cmap(CmapEvent),
    /// About the topology.
    Sdam(SdamEvent),
}

impl Event {
    /// The name the unified test format uses.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Command(event) => event.name(),
            Event::Cmap(event) => event.name(),
            Event::Sdam(event) => event.name(),
        }
    }

    /// The server this is about; `None` for events about the whole topology.
    pub fn address(&self) -> Option<&ServerAddress> {
        match self {
            Event::Command(event) => Some(&event.connection().address),
            Event::Cmap(event) => Some(event.address()),
            Event::Sdam(event) => event.address(),
        }
    }
}

/// Records the events of a client in the one order in which they happened.
///
/// Cheap to clone; all clones are the same log. It keeps the newest [`EventLog::capacity`] events and
/// counts those it had to drop.
#[derive(Clone, Debug)]
pub struct EventLog {
    inner: Arc<Mutex<Inner>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog::with_capacity(100_000)
    }
}

impl EventLog {
    /// An empty log of 100 000 events.
    pub fn new() -> Self {
        EventLog::default()
    }

    /// An empty log that keeps the newest `capacity` events.
    pub fn with_capacity(capacity: usize) -> Self {
        EventLog { inner: Arc::default(), capacity: capacity.max(1) }
    }

    /// How many events it keeps.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes a client with these options record all its events here. Handlers that were set before
    /// are replaced.
    pub fn attach(&self, options: &mut ClientOptions) {
        options.command_event_handler = Some(self.handler(Event::Command));
        options.cmap_event_handler = Some(self.handler(Event::Cmap));
        options.sdam_event_handler = Some(self.handler(Event::Sdam));
    }

    /// Records one event.
    pub fn record(&self, event: Event) {
        let mut inner = self.lock();
        if inner.events.len() == self.capacity {
            inner.events.pop_front();
            inner.dropped += 1;
        }
        inner.events.push_back(event);
    }

    /// All events, the oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.iter().cloned().collect()
    }

    /// The command events, the oldest first.
    pub fn commands(&self) -> Vec<CommandEvent> {
        self.select(|event| match event {
            Event::Command(event) => Some(event.clone()),
            _ => None,
        })
    }

    /// The connection pool events, the oldest first.
    pub fn cmap(&self) -> Vec<CmapEvent> {
        self.select(|event| match event {
            Event::Cmap(event) => Some(event.clone()),
            _ => None,
        })
    }

    /// The topology events, the oldest first.
    pub fn sdam(&self) -> Vec<SdamEvent> {
        self.select(|event| match event {
            Event::Sdam(event) => Some(event.clone()),
            _ => None,
        })
    }

    /// The names of the commands that were sent, the oldest first.
    pub fn started_commands(&self) -> Vec<String> {
        self.select(|event| match event {
            Event::Command(CommandEvent::Started(event)) => Some(event.command_name.clone()),
            _ => None,
        })
    }

    /// How many events with this name (`poolClearedEvent`) were recorded and kept.
    pub fn count(&self, name: &str) -> usize {
        self.lock().events.iter().filter(|event| event.name() == name).count()
    }

    /// How many events were dropped because the log was full.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.lock() = Inner::default();
    }

    /// One line per event: its name and what it is about.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for event in &self.lock().events {
            text.push_str(event.name());
            if let Some(address) = event.address() {
                let _ = write!(text, " {address}");
            }
            match event {
                Event::Command(event) => {
                    let _ = write!(text, " {}", event.command_name());
                }
                Event::Sdam(SdamEvent::ServerDescriptionChanged(event)) => {
                    let (old, new) = (&event.previous_description, &event.new_description);
                    let _ = write!(text, " {} -> {}", old.server_type, new.server_type);
                }
                Event::Sdam(SdamEvent::TopologyDescriptionChanged(event)) => {
                    let (old, new) = (&event.previous_description, &event.new_description);
                    let _ = write!(text, " {} -> {}", old.topology_type, new.topology_type);
                }
                _ => {}
            }
            text.push('\n');
        }
        text
    }

    fn handler<T: 'static>(&self, wrap: fn(T) -> Event) -> EventHandler<T> {
        let log = self.clone();
        EventHandler::callback(move |event| log.record(wrap(event)))
    }

    fn select<T>(&self, pick: impl FnMut(&Event) -> Option<T>) -> Vec<T> {
        self.lock().events.iter().filter_map(pick).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;

    use super::*;
    use crate::event::TopologyOpeningEvent;

    #[test]
    fn a_full_log_drops_the_oldest_and_says_so() {
        let log = EventLog::with_capacity(2);
        let mut options = ClientOptions::default();
        log.attach(&mut options);
        let topology_id = ObjectId::from_bytes([0; 12]);
        for _ in 0..3 {
            let event = SdamEvent::TopologyOpening(TopologyOpeningEvent { topology_id });
            options.sdam_event_handler.as_ref().unwrap().handle(event);
        }
        assert_eq!((log.count("topologyOpeningEvent"), log.dropped()), (2, 1));
        assert_eq!(log.render(), "topologyOpeningEvent\ntopologyOpeningEvent\n");
    }
}
