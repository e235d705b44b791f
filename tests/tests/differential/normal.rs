//! What may differ between two runs of anything, made the same: times, identifiers, counters.
//!
//! The rules are in the corpus's `README.md`.

use bson::spec::BinarySubtype;
use bson::{Bson, Document};
use regex::Regex;

use crate::sequence::Sequence;

/// Numbers that measure time or count what else happened in the process; their type must agree.
const COUNTED: [&str; 8] = [
    "connectionId",
    "uptime",
    "uptimeMillis",
    "pingMs",
    "remainingQuiesceTimeMillis",
    "waitedMS",
    "durationMillis",
    "millisRunning",
];

/// Makes replies comparable.
pub struct Normaliser {
    /// Identifiers, dates and timestamps that the sequence itself sends: they are data.
    sent: Vec<Bson>,
    texts: Vec<(Regex, &'static str)>,
}

impl Normaliser {
    pub fn of(sequence: &Sequence) -> Normaliser {
        let mut sent = Vec::new();
        for step in &sequence.steps {
            use crate::sequence::Action::{Run, Start};
            if let Run(command) | Start(_, command) = &step.action {
                collect(&Bson::Document(command.body.clone()), &mut sent);
            }
        }
        let rule = |pattern: &str, text| (Regex::new(pattern).expect("a good pattern"), text);
        let texts = vec![
            rule(r"Timestamp\([1-9]\d*, \d+\)", "Timestamp(<time>)"),
            rule(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
            rule(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-", "<uuid>"),
            rule(r"ObjectId\('[0-9a-f]{24}'\)", "ObjectId(<id>)"),
            rule(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[-+:Z\d]*", "<date>"),
            rule(r"new Date\(\d+\)", "new Date(<date>)"),
            rule(r"wall clock time, \d+", "wall clock time, <seconds>"),
            rule(r"cursor id \d+", "cursor id <cursor>"),
            rule(r"on cursor \d+", "on cursor <cursor>"),
            rule(r"\b[0-9a-f]{24}\b", "<id>"),
            // Resume tokens: the time they begin with, the collection inside.
            rule(r"\b82[0-9A-F]{16}2B(0[24])", "82<time>2B$1"),
            rule(r"5A1004[0-9A-F]{32}", "5A1004<uuid>"),
        ];
        Normaliser { sent, texts }
    }

    pub fn reply(&self, reply: &Document) -> Document {
        self.document(reply)
    }

    fn document(&self, document: &Document) -> Document {
        document.iter().map(|(key, value)| (key.clone(), self.value(key, value))).collect()
    }

    fn value(&self, key: &str, value: &Bson) -> Bson {
        let is_data = self.sent.contains(value);
        match value {
            Bson::Document(inner) if key == "cursor" => {
                let mut cursor = self.document(inner);
                if matches!(cursor.get("id"), Some(Bson::Int64(id)) if *id != 0) {
                    cursor.insert("id", "<cursor>");
                }
                Bson::Document(cursor)
            }
            Bson::Document(inner) => Bson::Document(self.document(inner)),
            Bson::Array(values) => values.iter().map(|value| self.value(key, value)).collect(),
            Bson::String(text) => Bson::String(self.text(text)),
            _ if is_data => value.clone(),
            Bson::Timestamp(ts) if ts.time > 0 => "<timestamp>".into(),
            Bson::DateTime(date) if date.timestamp_millis() != 0 => "<date>".into(),
            // An election id says its term.
            Bson::ObjectId(id) if !id.to_hex().starts_with("7fffffff") => "<object id>".into(),
            Bson::Binary(binary) if binary.subtype == BinarySubtype::Uuid => "<uuid>".into(),
            Bson::Int32(_) if COUNTED.contains(&key) => "<int>".into(),
            // Ids of real cursors are large; small ones were made up by the sequence.
            Bson::Int64(id) if key.starts_with("cursors") && *id > i64::from(i32::MAX) => {
                "<cursor>".into()
            }
            Bson::Int64(_) if COUNTED.contains(&key) => "<long>".into(),
            Bson::Double(_) if COUNTED.contains(&key) => "<double>".into(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (pattern, replacement) in &self.texts {
            text = pattern.replace_all(&text, *replacement).into_owned();
        }
        text
    }
}

/// Dates, timestamps and identifiers in a value.
fn collect(value: &Bson, found: &mut Vec<Bson>) {
    match value {
        Bson::Document(document) => document.values().for_each(|value| collect(value, found)),
        Bson::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Bson::DateTime(_) | Bson::Timestamp(_) | Bson::ObjectId(_) | Bson::Binary(_) => {
            found.push(value.clone());
        }
        _ => {}
    }
}

/// The value at a dotted path; array indexes are segments too.
pub fn at_path(value: &Bson, path: &str) -> Option<Bson> {
    let mut here = value;
    for segment in path.split('.') {
        here = match here {
            Bson::Document(document) => document.get(segment)?,
            Bson::Array(values) => values.get(segment.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(here.clone())
}
