//! Whether what happened is what a test expects ("Evaluating Matches").

use bson::spec::ElementType;
use bson::{Bson, Document};

use super::arguments::integer;

/// Answers what an expectation refers to by name.
pub trait Names {
    /// The value saved under `name`.
    fn value(&self, name: &str) -> Option<Bson>;

    /// The `lsid` of the session `name`.
    fn lsid(&self, name: &str) -> Option<Document>;
}

/// Says what is different, if something is. With `root`, a document that happened may have more
/// fields than the expected one.
///
/// # Errors
/// Where they differ, and how.
pub fn matches(
    expected: &Bson,
    actual: Option<&Bson>,
    root: bool,
    names: &dyn Names,
) -> Result<(), String> {
    Matcher { names }.value(expected, actual, root, "")
}

struct Matcher<'a> {
    names: &'a dyn Names,
}

impl Matcher<'_> {
    fn value(
        &self,
        expected: &Bson,
        actual: Option<&Bson>,
        root: bool,
        at: &str,
    ) -> Result<(), String> {
        if let Some((operator, argument)) = operator(expected) {
            return self.operator(operator, argument, actual, root, at);
        }
        let Some(actual) = actual else {
            return Err(format!("{}: expected {expected}, found nothing", place(at)));
        };
        match (expected, actual) {
            (Bson::Document(expected), Bson::Document(actual)) => {
                self.document(expected, actual, root, at)
            }
            (Bson::Array(expected), Bson::Array(actual)) => {
                if expected.len() != actual.len() {
                    return Err(format!(
                        "{}: expected {} elements, found {}: {}",
                        place(at),
                        expected.len(),
                        actual.len(),
                        Bson::Array(actual.clone())
                    ));
                }
                expected.iter().zip(actual).enumerate().try_for_each(|(index, (one, other))| {
                    // Each document of a result is a root document itself.
                    self.value(one, Some(other), root, &format!("{at}[{index}]"))
                })
            }
            _ if same(expected, actual) => Ok(()),
            _ => Err(format!("{}: expected {expected}, found {actual}", place(at))),
        }
    }

    fn document(
        &self,
        expected: &Document,
        actual: &Document,
        root: bool,
        at: &str,
    ) -> Result<(), String> {
        for (key, value) in expected {
            let below = format!("{at}.{key}");
            self.value(value, actual.get(key), false, &below)?;
        }
        if root {
            return Ok(());
        }
        match actual.keys().find(|key| !expected.contains_key(key)) {
            Some(extra) => Err(format!(
                "{}: {extra} was not expected in {}",
                place(at),
                Bson::Document(actual.clone())
            )),
            None => Ok(()),
        }
    }

    fn operator(
        &self,
        operator: &str,
        argument: &Bson,
        actual: Option<&Bson>,
        root: bool,
        at: &str,
    ) -> Result<(), String> {
        let malformed = || format!("{}: malformed {operator}: {argument}", place(at));
        let there = || actual.ok_or_else(|| format!("{}: found nothing", place(at)));
        match operator {
            "$$exists" => match (argument.as_bool().ok_or_else(malformed)?, actual) {
                (true, Some(_)) | (false, None) => Ok(()),
                (true, None) => Err(format!("{}: found nothing", place(at))),
                (false, Some(found)) => Err(format!("{}: found {found}", place(at))),
            },
            "$$type" => {
                let names = match argument {
                    Bson::String(name) => vec![name.as_str()],
                    Bson::Array(names) => names.iter().filter_map(Bson::as_str).collect(),
                    _ => return Err(malformed()),
                };
                let actual = there()?;
                match names.iter().any(|name| is_type(actual, name)) {
                    true => Ok(()),
                    false => Err(format!("{}: expected {argument}, found {actual}", place(at))),
                }
            }
            "$$unsetOrMatches" => match actual {
                None => Ok(()),
                actual => self.value(argument, actual, root, at),
            },
            "$$matchesEntity" => {
                let name = argument.as_str().ok_or_else(malformed)?;
                let expected =
                    self.names.value(name).ok_or_else(|| format!("no value {name} was saved"))?;
                self.value(&expected, actual, root, at)
            }
            "$$matchesHexBytes" => {
                let expected = argument.as_str().and_then(hex_bytes).ok_or_else(malformed)?;
                let found = match there()? {
                    Bson::String(text) => text.as_bytes().to_vec(),
                    Bson::Binary(binary) => binary.bytes.clone(),
                    other => return Err(format!("{}: {other} is no string", place(at))),
                };
                match found == expected {
                    true => Ok(()),
                    false => Err(format!("{}: expected {argument}, found {found:02x?}", place(at))),
                }
            }
            "$$sessionLsid" => {
                let name = argument.as_str().ok_or_else(malformed)?;
                let lsid = self.names.lsid(name).ok_or_else(|| format!("no session {name}"))?;
                match there()? {
                    Bson::Document(found) if *found == lsid => Ok(()),
                    // Spans have it as text.
                    Bson::String(found) if lsid_text(&lsid).as_ref() == Some(found) => Ok(()),
                    found => Err(format!("{}: {found} is not the lsid of {name}", place(at))),
                }
            }
            "$$lte" => {
                let actual = there()?;
                let (Some(most), Some(found)) = (number(argument), number(actual)) else {
                    return Err(format!("{}: {actual} or {argument} is no number", place(at)));
                };
                match found <= most {
                    true => Ok(()),
                    false => Err(format!("{}: {actual} is more than {argument}", place(at))),
                }
            }
            "$$matchAsDocument" => {
                let text = there()?.as_str().ok_or_else(|| format!("{}: no string", place(at)))?;
                let parsed: serde_json::Value = serde_json::from_str(text)
                    .map_err(|error| format!("{}: {error}: {text}", place(at)))?;
                let document =
                    Bson::try_from(parsed).map_err(|error| format!("{}: {error}", place(at)))?;
                self.value(argument, Some(&document), false, at)
            }
            "$$matchAsRoot" => self.value(argument, actual, true, at),
            other => Err(format!("{}: the operator {other} is not known", place(at))),
        }
    }
}

/// The operator and its argument, if `value` is one.
fn operator(value: &Bson) -> Option<(&str, &Bson)> {
    let document = value.as_document().filter(|document| document.len() == 1)?;
    let (key, argument) = document.iter().next()?;
    key.starts_with("$$").then_some((key.as_str(), argument))
}

fn lsid_text(lsid: &Document) -> Option<String> {
    match lsid.get("id")? {
        Bson::Binary(binary) => Some(binary.to_uuid().ok()?.to_string()),
        _ => None,
    }
}

fn place(at: &str) -> &str {
    if at.is_empty() { "the result" } else { at.trim_start_matches('.') }
}

/// Whether two values that are neither both documents nor both arrays are equal; numbers are by
/// their value.
fn same(expected: &Bson, actual: &Bson) -> bool {
    match (number(expected), number(actual)) {
        (Some(expected), Some(actual)) => expected == actual,
        _ => expected == actual,
    }
}

/// A number to compare with others of whatever type.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Number(f64, i64);

fn number(value: &Bson) -> Option<Number> {
    match value {
        // The second part tells large integers apart that a double cannot.
        Bson::Int32(_) | Bson::Int64(_) => integer(value).map(|whole| Number(whole as f64, whole)),
        Bson::Double(double) if double.fract() == 0.0 => Some(Number(*double, *double as i64)),
        Bson::Double(double) => Some(Number(*double, 0)),
        _ => None,
    }
}

/// The bytes of an even number of hexadecimal digits.
pub fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// Whether `value` is of the type the query operator `$type` knows by `name`.
fn is_type(value: &Bson, name: &str) -> bool {
    let found = value.element_type();
    let wanted = match name {
        "double" => ElementType::Double,
        "string" => ElementType::String,
        "object" => ElementType::EmbeddedDocument,
        "array" => ElementType::Array,
        "binData" => ElementType::Binary,
        "undefined" => ElementType::Undefined,
        "objectId" => ElementType::ObjectId,
        "bool" => ElementType::Boolean,
        "date" => ElementType::DateTime,
        "null" => ElementType::Null,
        "regex" => ElementType::RegularExpression,
        "dbPointer" => ElementType::DbPointer,
        "javascript" => ElementType::JavaScriptCode,
        "symbol" => ElementType::Symbol,
        "javascriptWithScope" => ElementType::JavaScriptCodeWithScope,
        "int" => ElementType::Int32,
        "timestamp" => ElementType::Timestamp,
        "long" => ElementType::Int64,
        "decimal" => ElementType::Decimal128,
        "minKey" => ElementType::MinKey,
        "maxKey" => ElementType::MaxKey,
        "number" => {
            return matches!(
                found,
                ElementType::Double
                    | ElementType::Int32
                    | ElementType::Int64
                    | ElementType::Decimal128
            );
        }
        _ => return false,
    };
    found == wanted
}
