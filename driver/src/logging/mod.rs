//! What the driver says of its work in words: structured log messages (logging specification, and the
//! sections on logging of command monitoring, CMAP, SDAM and server selection).
//!
//! Most messages are made of the events of the same name; only server selection has messages and no
//! events. Without [`ClientOptions::logging`](crate::options::ClientOptions::logging) nothing is built.

mod adapter;
#[cfg(feature = "tracing")]
mod tracing;

use std::fmt;

use bson::Document;

pub(crate) use self::adapter::{attach, selection};
use crate::event::EventHandler;

/// How long a document may be in a message where nothing is said, in characters.
pub const DEFAULT_MAX_DOCUMENT_LENGTH: usize = 1000;

/// A part of the driver that has something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogComponent {
    /// Commands and their replies.
    Command,
    /// The topology and its monitors.
    Topology,
    /// Which server gets an operation.
    ServerSelection,
    /// Pools and their connections.
    Connection,
}

impl LogComponent {
    /// The name the specification gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogComponent::Command => "command",
            LogComponent::Topology => "topology",
            LogComponent::ServerSelection => "serverSelection",
            LogComponent::Connection => "connection",
        }
    }
}

/// How grave a message is, by the Syslog protocol; the gravest is the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Nothing works.
    Emergency,
    /// Somebody has to act at once.
    Alert,
    /// A part does not work.
    Critical,
    /// Something failed.
    Error,
    /// Something may fail before long.
    Warning,
    /// Something unusual, but fine.
    Notice,
    /// What is good to know.
    Info,
    /// What helps to find mistakes.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name the specification gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Emergency => "emergency",
            LogLevel::Alert => "alert",
            LogLevel::Critical => "critical",
            LogLevel::Error => "error",
            LogLevel::Warning => "warning",
            LogLevel::Notice => "notice",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    /// The level of that name, in any case; `warn` and `err` are known too.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "emergency" => LogLevel::Emergency,
            "alert" => LogLevel::Alert,
            "critical" => LogLevel::Critical,
            "error" | "err" => LogLevel::Error,
            "warning" | "warn" => LogLevel::Warning,
            "notice" => LogLevel::Notice,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => return None,
        })
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogMessage {
    /// Who says it.
    pub component: LogComponent,
    /// How grave it is.
    pub level: LogLevel,
    /// What it says: `message`, and the fields the specification gives it. Documents are relaxed
    /// Extended JSON in strings.
    pub fields: Document,
}

impl fmt::Display for LogMessage {
    /// The message, then its other fields as `name=value`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fields.get_str("message").unwrap_or_default())?;
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "message") {
            match value.as_str() {
                Some(text) => write!(f, " {name}={text}")?,
                None => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}

/// What is said, and to whom.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogOptions {
    /// Who hears it.
    pub handler: EventHandler<LogMessage>,
    /// The least grave level that is told of each component; `None` tells nothing of it.
    pub command: Option<LogLevel>,
    /// As for [`LogOptions::command`].
    pub topology: Option<LogLevel>,
    /// As for [`LogOptions::command`].
    pub server_selection: Option<LogLevel>,
    /// As for [`LogOptions::command`].
    pub connection: Option<LogLevel>,
    /// How many characters of a document are shown; what is cut off is marked by `...`.
    pub max_document_length: usize,
}

impl LogOptions {
    /// Everything of all components, down to `level`, goes to `handler`.
    pub fn new(level: LogLevel, handler: EventHandler<LogMessage>) -> Self {
        LogOptions {
            handler,
            command: Some(level),
            topology: Some(level),
            server_selection: Some(level),
            connection: Some(level),
            max_document_length: DEFAULT_MAX_DOCUMENT_LENGTH,
        }
    }

    /// What the environment asks for, `variable` being asked for each of `MONGODB_LOG_COMMAND`,
    /// `MONGODB_LOG_TOPOLOGY`, `MONGODB_LOG_SERVER_SELECTION`, `MONGODB_LOG_CONNECTION`,
    /// `MONGODB_LOG_ALL` and `MONGODB_LOG_MAX_DOCUMENT_LENGTH` (`unlimited`, or a number). `None` if it
    /// asks for nothing.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
        handler: EventHandler<LogMessage>,
    ) -> Option<Self> {
        let all = variable("MONGODB_LOG_ALL").and_then(|name| LogLevel::named(&name));
        let level = |name: &str| {
            let own = variable(name).and_then(|name| LogLevel::named(&name));
            // The graver of the two counts: `all` may only add.
            own.max(all)
        };
        let options = LogOptions {
            handler,
            command: level("MONGODB_LOG_COMMAND"),
            topology: level("MONGODB_LOG_TOPOLOGY"),
            server_selection: level("MONGODB_LOG_SERVER_SELECTION"),
            connection: level("MONGODB_LOG_CONNECTION"),
            max_document_length: match variable("MONGODB_LOG_MAX_DOCUMENT_LENGTH").as_deref() {
                Some("unlimited") => usize::MAX,
                Some(number) => number.parse().unwrap_or(DEFAULT_MAX_DOCUMENT_LENGTH),
                None => DEFAULT_MAX_DOCUMENT_LENGTH,
            },
        };
        let anything = [options.command, options.topology]
            .iter()
            .chain(&[options.server_selection, options.connection])
            .any(Option::is_some);
        anything.then_some(options)
    }

    /// Whether a message of `component` at `level` is told.
    pub fn tells(&self, component: LogComponent, level: LogLevel) -> bool {
        let least = match component {
            LogComponent::Command => self.command,
            LogComponent::Topology => self.topology,
            LogComponent::ServerSelection => self.server_selection,
            LogComponent::Connection => self.connection,
        };
        least.is_some_and(|least| level <= least)
    }

    /// A document as messages show it.
    fn show(&self, document: &Document) -> String {
        self.cut(crate::extended_json::relaxed(document))
    }

    /// Cuts a text down to what is shown of one, between characters.
    fn cut(&self, mut text: String) -> String {
        if let Some((end, _)) = text.char_indices().nth(self.max_document_length) {
            text.truncate(end);
            text.push_str("...");
        }
        text
    }

    fn tell(&self, component: LogComponent, level: LogLevel, fields: impl FnOnce() -> Document) {
        if self.tells(component, level) {
            self.handler.handle(LogMessage { component, level, fields: fields() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn options(length: usize) -> LogOptions {
        let mut options = LogOptions::new(LogLevel::Debug, EventHandler::callback(|_| {}));
        options.max_document_length = length;
        options
    }

    #[test]
    fn documents_are_cut_between_characters() {
        let text = options(1000).show(&doc! { "x": "y".repeat(2000) });
        assert_eq!(text.chars().count(), 1003);
        assert!(text.ends_with("y..."));
        assert_eq!(options(7).show(&doc! { "x": "äöü" }), "{\"x\":\"ä...");
        assert_eq!(options(9).show(&doc! { "x": 1 }), "{\"x\":1}");
    }

    #[test]
    fn the_environment_raises_levels() {
        let environment = |name: &str| match name {
            "MONGODB_LOG_ALL" => Some("info".to_owned()),
            "MONGODB_LOG_COMMAND" => Some("debug".to_owned()),
            "MONGODB_LOG_MAX_DOCUMENT_LENGTH" => Some("unlimited".to_owned()),
            _ => None,
        };
        let handler = EventHandler::callback(|_| {});
        let options = LogOptions::from_variables(environment, handler.clone()).unwrap();
        assert!(options.tells(LogComponent::Command, LogLevel::Debug));
        assert!(!options.tells(LogComponent::Topology, LogLevel::Debug));
        assert!(options.tells(LogComponent::Topology, LogLevel::Info));
        assert_eq!(options.max_document_length, usize::MAX);
        assert!(LogOptions::from_variables(|_| None, handler).is_none());
    }
}
