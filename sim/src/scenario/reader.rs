//! Reads a TOML table key by key: typed, with the place of everything, and nothing left over.

use std::ops::Range;
use std::time::Duration;

use bson::{Bson, Document};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, Position, suggest};

/// A value and where it begins.
pub(crate) type Value<'t> = Spanned<DeValue<'t>>;

/// A table being read. Take what you know with the typed methods, then call [`Table::finish`],
/// which complains about every key that nobody took.
pub(crate) struct Table<'t> {
    entries: Vec<Entry<'t>>,
    span: Range<usize>,
    /// What to call it in a message: `step 3 (kill)`.
    name: String,
    known: Vec<&'static str>,
}

struct Entry<'t> {
    key: &'t str,
    key_span: Range<usize>,
    value: &'t Value<'t>,
    taken: bool,
}

impl<'t> Table<'t> {
    pub(crate) fn new(
        table: &'t DeTable<'t>,
        span: Range<usize>,
        name: impl Into<String>,
    ) -> Table<'t> {
        let mut entries: Vec<Entry<'t>> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().as_ref(),
                key_span: key.span(),
                value,
                taken: false,
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        Table { entries, span, name: name.into(), known: Vec::new() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rename(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    pub(crate) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The keys in the order of the file, with their places.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&'t str, &Range<usize>)> {
        self.entries.iter().map(|entry| (entry.key, &entry.key_span))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether a key has just this text.
    pub(crate) fn string_is(&self, key: &str, text: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.is_some_and(|entry| entry.value.get_ref().as_str() == Some(text))
    }

    pub(crate) fn key_span(&self, key: &str) -> Range<usize> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map_or(self.span.clone(), |entry| entry.key_span.clone())
    }

    /// Takes a value as it is.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'t Value<'t>> {
        self.known.push(key);
        let entry = self.entries.iter_mut().find(|entry| entry.key == key)?;
        entry.taken = true;
        Some(entry.value)
    }

    /// Complains that a key is missing.
    pub(crate) fn missing(
        &self,
        diagnostics: &mut Diagnostics<'_>,
        key: &str,
        hint: impl Into<Option<String>>,
    ) {
        diagnostics.problem(&self.span, format!("{} needs `{key}`", self.name), hint);
    }

    pub(crate) fn string(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
    ) -> Option<(&'t str, Range<usize>)> {
        let value = self.take(key)?;
        let text = as_string(diagnostics, key, value)?;
        Some((text, value.span()))
    }

    pub(crate) fn boolean(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
    ) -> Option<bool> {
        let value = self.take(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            wrong_type(diagnostics, key, value, "true or false", None);
        }
        found
    }

    /// An integer within `range`.
    pub(crate) fn integer(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
        range: Range<i64>,
    ) -> Option<i64> {
        let value = self.take(key)?;
        as_integer(diagnostics, key, value, range)
    }

    /// A duration, as text: `"2s"`, `"250us"`, `"1m 30s"`.
    pub(crate) fn duration(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
    ) -> Option<Duration> {
        let value = self.take(key)?;
        as_duration(diagnostics, key, value)
    }

    /// A BSON document, its fields in the order of the file.
    pub(crate) fn document(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
    ) -> Option<Document> {
        let value = self.take(key)?;
        as_document(diagnostics, key, value)
    }

    /// An array, or a single value standing for an array of one.
    pub(crate) fn list(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
        of: &str,
    ) -> Option<Vec<&'t Value<'t>>> {
        let value = self.take(key)?;
        as_list(diagnostics, key, value, of)
    }

    /// A table within.
    pub(crate) fn table(
        &mut self,
        diagnostics: &mut Diagnostics<'_>,
        key: &'static str,
    ) -> Option<Table<'t>> {
        let value = self.take(key)?;
        match value.get_ref().as_table() {
            Some(table) => {
                let name = format!("`{key}` of {}", self.name);
                Some(Table::new(table, value.span(), name))
            }
            None => {
                wrong_type(diagnostics, key, value, "a table", None);
                None
            }
        }
    }

    /// All entries, for a table whose keys are names.
    pub(crate) fn into_entries(
        self,
    ) -> impl Iterator<Item = (&'t str, Range<usize>, &'t Value<'t>)> {
        self.entries.into_iter().map(|entry| (entry.key, entry.key_span, entry.value))
    }

    /// Complains about every key that nobody asked for.
    pub(crate) fn finish(self, diagnostics: &mut Diagnostics<'_>) {
        for entry in self.entries.iter().filter(|entry| !entry.taken) {
            diagnostics.problem(
                &entry.key_span,
                format!("{} has no key `{}`", self.name, entry.key),
                suggest(entry.key, &self.known),
            );
        }
    }
}

pub(crate) fn as_string<'t>(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &'t Value<'t>,
) -> Option<&'t str> {
    let found = value.get_ref().as_str();
    if found.is_none() {
        wrong_type(diagnostics, key, value, "a string", None);
    }
    found
}

pub(crate) fn as_integer(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &Value<'_>,
    range: Range<i64>,
) -> Option<i64> {
    let Some(found) = number(value) else {
        wrong_type(diagnostics, key, value, "an integer", None);
        return None;
    };
    if !range.contains(&found) {
        diagnostics.problem(
            &value.span(),
            format!("`{key}` is {found}, which is out of range"),
            Some(format!("from {} to {}", range.start, range.end - 1)),
        );
        return None;
    }
    Some(found)
}

pub(crate) fn as_duration(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &Value<'_>,
) -> Option<Duration> {
    let hint =
        || Some("durations are written \"250us\", \"10ms\", \"2s\", \"1.5s\", \"1m 30s\"".into());
    let Some(text) = value.get_ref().as_str() else {
        wrong_type(diagnostics, key, value, "a duration", hint());
        return None;
    };
    let found = parse_duration(text);
    if found.is_none() {
        diagnostics.problem(&value.span(), format!("`{key}`: \"{text}\" is no duration"), hint());
    }
    found
}

pub(crate) fn as_list<'t>(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &'t Value<'t>,
    of: &str,
) -> Option<Vec<&'t Value<'t>>> {
    match value.get_ref() {
        DeValue::Array(array) => Some(array.iter().collect()),
        DeValue::String(_) => Some(vec![value]),
        _ => {
            wrong_type(diagnostics, key, value, &format!("a list of {of}"), None);
            None
        }
    }
}

pub(crate) fn as_document(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &Value<'_>,
) -> Option<Document> {
    match bson(diagnostics, value)? {
        Bson::Document(document) => Some(document),
        _ => {
            let hint = format!("write it as an inline table: {key} = {{ _id = 1, name = \"x\" }}");
            wrong_type(diagnostics, key, value, "a document", Some(hint));
            None
        }
    }
}

/// Complains about a value of the wrong type.
pub(crate) fn wrong_type(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &Value<'_>,
    wanted: &str,
    hint: Option<String>,
) {
    let found = match value.get_ref().type_str() {
        found @ ("integer" | "array") => format!("an {found}"),
        found => format!("a {found}"),
    };
    diagnostics.problem(&value.span(), format!("`{key}` must be {wanted}, not {found}"), hint);
}

/// A TOML value as BSON: an integer that fits becomes an int32, a date-time with an offset a date.
pub(crate) fn bson(diagnostics: &mut Diagnostics<'_>, value: &Value<'_>) -> Option<Bson> {
    Some(match value.get_ref() {
        DeValue::String(text) => Bson::String(text.to_string()),
        DeValue::Boolean(boolean) => Bson::Boolean(*boolean),
        DeValue::Integer(_) => match number(value) {
            Some(number) => i32::try_from(number).map_or(Bson::Int64(number), Bson::Int32),
            None => {
                diagnostics.problem(&value.span(), "this integer does not fit 64 bits", None);
                return None;
            }
        },
        DeValue::Float(float) => match float.as_str().replace('_', "").parse() {
            Ok(double) => Bson::Double(double),
            Err(_) => {
                diagnostics.problem(&value.span(), "this is no double", None);
                return None;
            }
        },
        DeValue::Datetime(datetime) => {
            match bson::DateTime::parse_rfc3339_str(datetime.to_string()) {
                Ok(datetime) => Bson::DateTime(datetime),
                Err(_) => {
                    diagnostics.problem(
                        &value.span(),
                        "a date needs its time and offset",
                        Some("for example 2026-01-31T12:00:00Z".to_string()),
                    );
                    return None;
                }
            }
        }
        DeValue::Array(array) => {
            let mut items = Vec::with_capacity(array.len());
            for item in array.iter() {
                items.push(bson(diagnostics, item)?);
            }
            Bson::Array(items)
        }
        DeValue::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| key.span().start);
            let mut document = Document::new();
            for (key, value) in entries {
                document.insert(key.get_ref().to_string(), bson(diagnostics, value)?);
            }
            Bson::Document(document)
        }
    })
}

fn number(value: &Value<'_>) -> Option<i64> {
    let integer = value.get_ref().as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Numbers with units, added up: `1m 30s`, `1.5s`, `250us`. No floating point on the way.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut nanos: u64 = 0;
    let mut parts = 0;
    for part in text.split_whitespace() {
        let unit_at = part.find(|c: char| c.is_ascii_alphabetic())?;
        let (amount, unit) = part.split_at(unit_at);
        let nanos_per_unit: u64 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        if amount.contains('.') && fraction.is_empty() {
            return None;
        }
        nanos = nanos.checked_add(whole.parse::<u64>().ok()?.checked_mul(nanos_per_unit)?)?;
        let mut place = nanos_per_unit;
        for digit in fraction.bytes() {
            place /= 10;
            nanos = nanos.checked_add(u64::from(digit - b'0') * place)?;
        }
        parts += 1;
    }
    (parts > 0).then_some(Duration::from_nanos(nanos))
}

/// The place a value begins at.
pub(crate) fn position_of(diagnostics: &Diagnostics<'_>, value: &Value<'_>) -> Position {
    diagnostics.position(value.span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse_duration("250us"), Some(Duration::from_micros(250)));
        assert_eq!(parse_duration("1m 30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("0.25ms"), Some(Duration::from_micros(250)));
        for wrong in
            ["", "2", "s", "2 s", "-2s", "1.s", "2 weeks", "99999999999999999999s", "1..5s"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn documents_keep_the_order_of_their_fields() {
        let text = "command = { replSetStepDown = 60, force = true, at = 2026-01-31T12:00:00Z, big = 3_000_000_000 }";
        let table = DeTable::parse(text).unwrap();
        let mut diagnostics = Diagnostics::new(text);
        let mut table = Table::new(table.get_ref(), 0..text.len(), "the file");
        let document = table.document(&mut diagnostics, "command").unwrap();
        let names: Vec<&str> = document.keys().map(String::as_str).collect();
        assert_eq!(names, ["replSetStepDown", "force", "at", "big"]);
        assert_eq!(document.get("replSetStepDown"), Some(&Bson::Int32(60)));
        assert_eq!(document.get("big"), Some(&Bson::Int64(3_000_000_000)));
    }
}
