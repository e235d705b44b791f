//! Whether the spans a client made are those a test expects (`expectTracingMessages`).

use bson::{Bson, Document};
use stepdown_driver::telemetry::{AttributeValue, RecordedSpan};

use super::documents;
use super::matching::{Names, matches};

/// Compares spans with what was expected of them: in the expected order, with others between them if
/// `ignore_extra`.
///
/// # Errors
/// The first span that is missing, with all that were made.
pub fn check(
    expected: &[Document],
    found: &[RecordedSpan],
    ignore_extra: bool,
    names: &dyn Names,
) -> Result<(), String> {
    let mut rest = found.iter();
    for expected in expected {
        let mut problem = "there is no other span".to_owned();
        loop {
            let Some(span) = rest.next() else {
                return Err(format!("span {expected}: {problem}; made were\n{}", render(found, 1)));
            };
            match check_one(expected, span, ignore_extra, names) {
                Ok(()) => break,
                Err(what) if ignore_extra => problem = format!("{}: {what}", span.name),
                Err(what) => {
                    return Err(format!("{}: {what}; made were\n{}", span.name, render(found, 1)));
                }
            }
        }
    }
    match rest.next() {
        Some(extra) if !ignore_extra => {
            Err(format!("{} was not expected; made were\n{}", extra.name, render(found, 1)))
        }
        _ => Ok(()),
    }
}

fn check_one(
    expected: &Document,
    found: &RecordedSpan,
    ignore_extra: bool,
    names: &dyn Names,
) -> Result<(), String> {
    let name = expected.get_str("name").unwrap_or_default();
    if name != found.name {
        return Err(format!("expected {name}"));
    }
    if !found.ended {
        return Err("it has not ended".to_owned());
    }
    let attributes: Document = found
        .attributes
        .iter()
        .map(|(key, value)| {
            let value = match value {
                AttributeValue::String(text) => Bson::String(text.clone()),
                AttributeValue::Int(number) => Bson::Int64(*number),
                other => Bson::String(format!("{other:?}")),
            };
            ((*key).to_owned(), value)
        })
        .collect();
    let wanted = expected.get("attributes").cloned().unwrap_or(Bson::Document(Document::new()));
    matches(&wanted, Some(&Bson::Document(attributes)), true, names)?;
    check(&documents(expected, "nested"), &found.nested, ignore_extra, names)
}

fn render(spans: &[RecordedSpan], depth: usize) -> String {
    let mut text = String::new();
    for span in spans {
        text.push_str(&format!("{}{} {:?}\n", "    ".repeat(depth), span.name, span.attributes));
        text.push_str(&render(&span.nested, depth + 1));
    }
    text
}
