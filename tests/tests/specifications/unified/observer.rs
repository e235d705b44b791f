//! What a client told about its work while a test ran.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::{Bson, Document, doc};
use stepdown_driver::event::{CmapEvent, CommandEvent, EventHandler, SdamEvent};
use stepdown_driver::logging::LogMessage;
use stepdown_driver::options::ClientOptions;

use super::matching::{Names, matches};

/// Commands whose events tests see only if they ask for them: they carry secrets.
const SENSITIVE: [&str; 9] = [
    "authenticate",
    "saslstart",
    "saslcontinue",
    "getnonce",
    "createuser",
    "updateuser",
    "copydbgetnonce",
    "copydbsaslstart",
    "copydb",
];

/// An event of a client.
#[derive(Clone, Debug)]
pub enum Event {
    /// About a command.
    Command(CommandEvent),
    /// About a pool.
    Cmap(CmapEvent),
    /// About the topology.
    Sdam(SdamEvent),
}

/// The families an expectation can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Commands.
    Command,
    /// Pools and connections.
    Cmap,
    /// The topology.
    Sdam,
}

/// What is recorded of a client.
#[derive(Debug, Default)]
pub struct Observer {
    /// The types a test asked for.
    observed: Vec<String>,
    ignored_commands: Vec<String>,
    sensitive: bool,
    events: Mutex<Recording>,
    checked_out: AtomicI64,
    connections_ready: AtomicI64,
}

#[derive(Debug, Default)]
struct Recording {
    events: Vec<Event>,
    messages: Vec<LogMessage>,
    stopped: bool,
}

impl Observer {
    /// An observer for the client entity `client`.
    pub fn new(client: &Document) -> Arc<Self> {
        let names = |key: &str| -> Vec<String> {
            let names = client.get_array(key).into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        Arc::new(Observer {
            observed: names("observeEvents"),
            ignored_commands: names("ignoreCommandMonitoringEvents"),
            sensitive: client.get_bool("observeSensitiveCommands").unwrap_or(false),
            ..Observer::default()
        })
    }

    /// Listens to the client that is made of `options`.
    pub fn attach(self: &Arc<Self>, options: &mut ClientOptions) {
        let observer = self.clone();
        options.command_event_handler = Some(EventHandler::callback(move |event| {
            observer.record(Event::Command(event));
        }));
        let observer = self.clone();
        options.cmap_event_handler = Some(EventHandler::callback(move |event: CmapEvent| {
            match event {
                CmapEvent::ConnectionCheckedOut(_) => observer.checked_out.fetch_add(1, ORDER),
                CmapEvent::ConnectionCheckedIn(_) => observer.checked_out.fetch_sub(1, ORDER),
                CmapEvent::ConnectionReady(_) => observer.connections_ready.fetch_add(1, ORDER),
                _ => 0,
            };
            observer.record(Event::Cmap(event));
        }));
        let observer = self.clone();
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            observer.record(Event::Sdam(event));
        }));
    }

    /// How many connections are checked out.
    pub fn checked_out(&self) -> i64 {
        self.checked_out.load(ORDER)
    }

    /// Forgets what was recorded so far.
    pub fn clear(&self) {
        let mut recording = self.lock();
        recording.events.clear();
        recording.messages.clear();
    }

    /// Records nothing from now on.
    pub fn stop(&self) {
        self.lock().stopped = true;
    }

    /// The observed events of a family, the oldest first.
    pub fn events(&self, family: Family) -> Vec<Event> {
        let events = self.lock();
        events.events.iter().filter(|event| event.family() == family).cloned().collect()
    }

    /// Takes a log message.
    pub fn log(&self, message: LogMessage) {
        // The runner's own fail points are not what tests look at.
        let own = message.fields.get_str("commandName").is_ok_and(|it| it == "configureFailPoint");
        let ignored = message
            .fields
            .get_str("commandName")
            .is_ok_and(|name| self.ignored_commands.iter().any(|ignored| ignored == name));
        let mut recording = self.lock();
        if !recording.stopped && !own && !ignored {
            recording.messages.push(message);
        }
    }

    /// The log messages so far.
    pub fn messages(&self) -> Vec<LogMessage> {
        self.lock().messages.clone()
    }

    /// How many observed events match `expected` (`{ poolClearedEvent: {} }`).
    pub fn count(&self, expected: &Document, names: &dyn Names) -> usize {
        let events = self.lock().events.clone();
        events.iter().filter(|event| event.check(expected, names).is_ok()).count()
    }

    fn record(&self, event: Event) {
        if !self.observed.iter().any(|name| name == event.name()) || self.is_ignored(&event) {
            return;
        }
        let mut recording = self.lock();
        if !recording.stopped {
            recording.events.push(event);
        }
    }

    fn is_ignored(&self, event: &Event) -> bool {
        let Event::Command(event) = event else { return false };
        let name = event.command_name();
        if name == "configureFailPoint" || self.ignored_commands.iter().any(|it| it == name) {
            return true;
        }
        let lower = name.to_ascii_lowercase();
        // A hello is sensitive if it authenticates: then nothing is shown of it.
        let redacted = match event {
            CommandEvent::Started(event) => event.command.is_empty(),
            CommandEvent::Succeeded(event) => event.reply.as_bytes().len() <= 5,
            _ => false,
        };
        let hello = matches!(lower.as_str(), "hello" | "ismaster");
        let sensitive = SENSITIVE.contains(&lower.as_str()) || (hello && redacted);
        sensitive && !self.sensitive
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ORDER: Ordering = Ordering::SeqCst;

impl Event {
    /// The name the test format uses.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Command(event) => event.name(),
            Event::Cmap(event) => event.name(),
            Event::Sdam(event) => event.name(),
        }
    }

    /// The family it belongs to.
    pub fn family(&self) -> Family {
        match self {
            Event::Command(_) => Family::Command,
            Event::Cmap(_) => Family::Cmap,
            Event::Sdam(_) => Family::Sdam,
        }
    }

    /// Whether it is the expected one (`{ commandStartedEvent: { ... } }`).
    ///
    /// # Errors
    /// What is different.
    pub fn check(&self, expected: &Document, names: &dyn Names) -> Result<(), String> {
        let Some((name, Bson::Document(fields))) = expected.iter().next() else {
            return Err("the expectation is malformed".to_owned());
        };
        if name != self.name() {
            return Err(format!("expected a {name}, found a {self}"));
        }
        let found = self.fields();
        for (field, value) in fields {
            let problem = match field.as_str() {
                "hasServiceId" => presence(value, self.has_service_id()),
                "hasServerConnectionId" => presence(value, self.has_server_connection_id()),
                "command" | "reply" => matches(value, found.get(field), true, names),
                "previousDescription" | "newDescription" => {
                    matches(value, found.get(field), true, names)
                }
                _ => matches(value, found.get(field), false, names),
            };
            problem.map_err(|problem| format!("{self}: {field}: {problem}"))?;
        }
        Ok(())
    }

    /// What tests can look at.
    fn fields(&self) -> Document {
        match self {
            Event::Command(CommandEvent::Started(event)) => doc! {
                "command": Bson::Document((*event.command).clone()),
                "commandName": &event.command_name,
                "databaseName": &event.db,
            },
            Event::Command(CommandEvent::Succeeded(event)) => doc! {
                "reply": Document::try_from(event.reply.as_ref()).unwrap_or_default(),
                "commandName": &event.command_name,
                "databaseName": &event.db,
            },
            Event::Command(CommandEvent::Failed(event)) => doc! {
                "commandName": &event.command_name,
                "databaseName": &event.db,
            },
            Event::Cmap(CmapEvent::PoolCleared(event)) => {
                doc! { "interruptInUseConnections": event.interrupt_in_use_connections }
            }
            Event::Cmap(CmapEvent::ConnectionClosed(event)) => {
                doc! { "reason": event.reason.as_str() }
            }
            Event::Cmap(CmapEvent::ConnectionCheckoutFailed(event)) => {
                doc! { "reason": event.reason.as_str() }
            }
            Event::Sdam(SdamEvent::ServerDescriptionChanged(event)) => doc! {
                "previousDescription": { "type": event.previous_description.server_type.as_str() },
                "newDescription": { "type": event.new_description.server_type.as_str() },
            },
            Event::Sdam(SdamEvent::TopologyDescriptionChanged(event)) => doc! {
                "previousDescription":
                    { "type": event.previous_description.topology_type.as_str() },
                "newDescription": { "type": event.new_description.topology_type.as_str() },
            },
            Event::Sdam(SdamEvent::ServerHeartbeatStarted(event)) => {
                doc! { "awaited": event.awaited }
            }
            Event::Sdam(SdamEvent::ServerHeartbeatSucceeded(event)) => {
                doc! { "awaited": event.awaited }
            }
            Event::Sdam(SdamEvent::ServerHeartbeatFailed(event)) => {
                doc! { "awaited": event.awaited }
            }
            _ => Document::new(),
        }
    }

    fn has_service_id(&self) -> bool {
        match self {
            Event::Command(CommandEvent::Started(event)) => event.service_id.is_some(),
            Event::Command(CommandEvent::Succeeded(event)) => event.service_id.is_some(),
            Event::Command(CommandEvent::Failed(event)) => event.service_id.is_some(),
            Event::Cmap(CmapEvent::PoolCleared(event)) => event.service_id.is_some(),
            _ => false,
        }
    }

    fn has_server_connection_id(&self) -> bool {
        match self {
            Event::Command(event) => event.connection().server_id.is_some_and(|id| id > 0),
            _ => false,
        }
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Event::Command(CommandEvent::Started(event)) => write!(f, " {}", event.command),
            Event::Command(CommandEvent::Failed(event)) => {
                write!(f, " {} ({})", event.command_name, event.failure)
            }
            Event::Command(event) => write!(f, " {}", event.command_name()),
            Event::Cmap(event) => write!(f, " {}", event.address()),
            Event::Sdam(SdamEvent::ServerDescriptionChanged(event)) => {
                let (old, new) = (&event.previous_description, &event.new_description);
                write!(f, " {} {} -> {}", event.address, old.server_type, new.server_type)
            }
            Event::Sdam(SdamEvent::TopologyDescriptionChanged(event)) => {
                let (old, new) = (&event.previous_description, &event.new_description);
                write!(f, " {} -> {}", old.topology_type, new.topology_type)
            }
            Event::Sdam(event) => match event.address() {
                Some(address) => write!(f, " {address}"),
                None => Ok(()),
            },
        }
    }
}

fn presence(expected: &Bson, found: bool) -> Result<(), String> {
    match expected.as_bool() {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(format!("expected {expected}, found {found}")),
        None => Err("not a boolean".to_owned()),
    }
}

/// Compares what a client told with what was expected of it.
///
/// # Errors
/// The first difference, with everything that was told.
pub fn check_events(
    expected: &[Document],
    found: &[Event],
    ignore_extra: bool,
    names: &dyn Names,
) -> Result<(), String> {
    let told = || {
        let lines: Vec<String> = found.iter().map(|event| format!("    {event}")).collect();
        if lines.is_empty() { "    nothing".to_owned() } else { lines.join("\n") }
    };
    for (index, expected) in expected.iter().enumerate() {
        let Some(event) = found.get(index) else {
            return Err(format!("event {index}: expected {expected}; it told\n{}", told()));
        };
        event
            .check(expected, names)
            .map_err(|problem| format!("event {index}: {problem}; it told\n{}", told()))?;
    }
    if found.len() > expected.len() && !ignore_extra {
        return Err(format!(
            "expected {} events, found {}; it told\n{}",
            expected.len(),
            found.len(),
            told()
        ));
    }
    Ok(())
}
