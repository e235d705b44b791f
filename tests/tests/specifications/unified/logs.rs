//! Whether what a client said is what a test expects (`expectLogMessages`).

use bson::{Bson, Document};
use stepdown_driver::logging::LogMessage;

use super::documents;
use super::matching::{Names, matches};

/// Compares messages with what was expected of them.
///
/// # Errors
/// The first difference, with everything that was said.
pub fn check(expected: &Document, found: &[LogMessage], names: &dyn Names) -> Result<(), String> {
    let ignored = documents(expected, "ignoreMessages");
    let found: Vec<&LogMessage> = found
        .iter()
        .filter(|message| !ignored.iter().any(|one| check_one(one, message, names).is_ok()))
        .collect();
    let said = || {
        let lines: Vec<String> = found.iter().map(|message| format!("    {message}")).collect();
        if lines.is_empty() { "    nothing".to_owned() } else { lines.join("\n") }
    };
    let messages = documents(expected, "messages");
    for (index, expected) in messages.iter().enumerate() {
        let Some(message) = found.get(index) else {
            return Err(format!("message {index}: expected {expected}; it said\n{}", said()));
        };
        check_one(expected, message, names)
            .map_err(|problem| format!("message {index}: {problem}; it said\n{}", said()))?;
    }
    let ignore_extra = expected.get_bool("ignoreExtraMessages").unwrap_or(false);
    if found.len() > messages.len() && !ignore_extra {
        return Err(format!(
            "expected {} messages, found {}; it said\n{}",
            messages.len(),
            found.len(),
            said()
        ));
    }
    Ok(())
}

fn check_one(expected: &Document, found: &LogMessage, names: &dyn Names) -> Result<(), String> {
    let parts = [("level", found.level.as_str()), ("component", found.component.as_str())];
    for (part, found) in parts {
        let expected = expected.get_str(part).unwrap_or_default();
        if expected != found {
            return Err(format!("{part}: expected {expected}, found {found}"));
        }
    }
    let data = expected.get("data").cloned().unwrap_or(Bson::Document(Document::new()));
    matches(&data, Some(&Bson::Document(found.fields.clone())), true, names)?;
    if let Ok(redacted) = expected.get_bool("failureIsRedacted") {
        let Ok(failure) = found.fields.get_str("failure") else {
            return Err("it tells of no failure".to_owned());
        };
        // Of a redacted failure its code and the code's name are left, and no words of the server.
        let words = failure.rsplit_once("): ").map_or(failure, |(_, words)| words);
        let found = !failure.starts_with('{') && words.split(" (server").next() == Some("");
        if found != redacted {
            return Err(format!("failureIsRedacted: expected {redacted}, found {failure}"));
        }
    }
    Ok(())
}
