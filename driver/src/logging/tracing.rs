//! Messages by the crate `tracing`.

use super::{LogComponent, LogLevel, LogMessage, LogOptions};
use crate::event::EventHandler;

impl LogOptions {
    /// Everything down to `level` goes to the subscriber of the crate `tracing`, under the targets
    /// `mongodb::command`, `mongodb::topology`, `mongodb::server_selection` and `mongodb::connection`,
    /// as one field `message`. Levels that `tracing` does not have become the next graver one it has.
    pub fn tracing(level: LogLevel) -> Self {
        LogOptions::new(level, EventHandler::callback(|message: LogMessage| emit(&message)))
    }
}

/// A target and a level must be known where an event is written down.
macro_rules! at {
    ($target:literal, $message:ident) => {
        match $message.level {
            LogLevel::Emergency | LogLevel::Alert | LogLevel::Critical | LogLevel::Error => {
                tracing::error!(target: $target, "{}", $message);
            }
            LogLevel::Warning => tracing::warn!(target: $target, "{}", $message),
            LogLevel::Notice | LogLevel::Info => tracing::info!(target: $target, "{}", $message),
            LogLevel::Debug => tracing::debug!(target: $target, "{}", $message),
            LogLevel::Trace => tracing::trace!(target: $target, "{}", $message),
        }
    };
}

fn emit(message: &LogMessage) {
    match message.component {
        LogComponent::Command => at!("mongodb::command", message),
        LogComponent::Topology => at!("mongodb::topology", message),
        LogComponent::ServerSelection => at!("mongodb::server_selection", message),
        LogComponent::Connection => at!("mongodb::connection", message),
    }
}
