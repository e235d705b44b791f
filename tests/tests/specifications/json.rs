//! Small helpers to look into test files.

use bson::{Document, RawDocumentBuf};
use serde_json::Value;

/// The string at `key`.
pub fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// The array at `key`, empty if there is none.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An extended JSON object as a BSON document.
pub fn document(value: &Value) -> Result<Document, String> {
    let Value::Object(map) = value else { return Err(format!("not a document: {value}")) };
    Document::try_from(map.clone()).map_err(|error| format!("{error}: {value}"))
}

/// An extended JSON object as raw BSON.
pub fn raw(value: &Value) -> Result<RawDocumentBuf, String> {
    RawDocumentBuf::try_from(&document(value)?).map_err(|error| error.to_string())
}

/// A whole number, plain or as `$numberLong`.
pub fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| text(value, "$numberLong")?.parse().ok())
}

/// Says what is different, if something is.
pub fn same(what: &str, expected: &Value, found: &Value) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected}, found {found}"))
    }
}
