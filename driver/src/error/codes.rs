//! The server's error codes that decide what a driver does.

/// What a server says about a change of its own state (SDAM specification, "Error handling").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateChange {
    /// NotWritablePrimary 10107, NotPrimaryNoSecondaryOk 13435, LegacyNotPrimary 10058.
    NotWritablePrimary,
    /// InterruptedDueToReplStateChange 11602, NotPrimaryOrSecondary 13436, PrimarySteppedDown 189.
    NodeIsRecovering,
    /// InterruptedAtShutdown 11600, ShutdownInProgress 91.
    ShuttingDown,
}

/// The state change that `code` tells of; where there is no code (zero), the one `message` tells of.
pub(super) fn state_change(code: i32, message: &str) -> Option<StateChange> {
    match code {
        10107 | 13435 | 10058 => Some(StateChange::NotWritablePrimary),
        11602 | 13436 | 189 => Some(StateChange::NodeIsRecovering),
        11600 | 91 => Some(StateChange::ShuttingDown),
        // "not master or secondary" is said by a recovering node, so it is looked for first.
        0 => {
            let message = message.to_ascii_lowercase();
            if message.contains("node is recovering") || message.contains("not master or secondary")
            {
                Some(StateChange::NodeIsRecovering)
            } else if message.contains("not master") {
                Some(StateChange::NotWritablePrimary)
            } else {
                None
            }
        }
        _ => None,
    }
}

/// The codes after which a read may be sent again (retryable reads specification).
pub(super) fn is_retryable_read(code: i32) -> bool {
    matches!(code, 262 | 11600 | 11602 | 10107 | 13435 | 13436 | 189 | 134 | 91 | 7 | 6 | 89 | 9001)
}

/// DuplicateKey, and the codes older servers used for it.
pub(super) fn is_duplicate_key(code: i32) -> bool {
    matches!(code, 11000 | 11001 | 12582)
}

/// MaxTimeMSExpired, ExceededTimeLimit, and WriteConcernTimeout (once called WriteConcernFailed).
pub(super) fn is_timeout(code: i32) -> bool {
    matches!(code, 50 | 262 | 64)
}
