//! Values as error messages show them.

use std::fmt::Write;

use super::value::{DocumentRef, ValueRef};

/// `{ a: 1, b: "x" }`.
pub fn document_text(document: DocumentRef<'_>) -> String {
    let fields: Vec<String> =
        document.iter().map(|(name, value)| element_text(name, value)).collect();
    if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
}

/// `a: 1`.
pub fn element_text(name: &str, value: ValueRef<'_>) -> String {
    format!("{name}: {}", value_text(value))
}

/// A value alone.
pub fn value_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::MinKey => "MinKey".into(),
        ValueRef::MaxKey => "MaxKey".into(),
        ValueRef::Undefined => "undefined".into(),
        ValueRef::Null => "null".into(),
        ValueRef::Int32(value) => value.to_string(),
        ValueRef::Int64(value) => value.to_string(),
        ValueRef::Double(value) => double_text(value),
        ValueRef::Decimal128(value) => value.to_string(),
        ValueRef::String(text) | ValueRef::Symbol(text) => format!("\"{text}\""),
        ValueRef::Document(document) => document_text(document),
        ValueRef::Array(array) => {
            let elements: Vec<String> = array.iter().map(value_text).collect();
            if elements.is_empty() { "[]".into() } else { format!("[ {} ]", elements.join(", ")) }
        }
        ValueRef::Binary(subtype, bytes) => {
            let mut hex = String::with_capacity(bytes.len() * 2);
            for byte in bytes {
                let _ = write!(hex, "{byte:02X}");
            }
            format!("BinData({subtype}, {hex})")
        }
        ValueRef::ObjectId(id) => format!("ObjectId('{}')", id.to_hex()),
        ValueRef::Boolean(value) => value.to_string(),
        ValueRef::DateTime(millis) => format!("new Date({millis})"),
        ValueRef::Timestamp(value) => format!("Timestamp({}, {})", value.time, value.increment),
        ValueRef::Regex(pattern, options) => format!("/{pattern}/{options}"),
        ValueRef::DbPointer(_) => "DBRef".into(),
        ValueRef::JavaScript(code) => code.to_owned(),
        ValueRef::JavaScriptWithScope(code, scope) => {
            format!("CodeWScope( {code}, {})", document_text(scope))
        }
    }
}

/// A double with a point, always: `5.0`.
pub fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "nan.0".into();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf.0" } else { "inf.0" }.into();
    }
    let text = if value != 0.0 && !(1e-5..1e15).contains(&value.abs()) {
        format!("{value:e}")
    } else {
        format!("{value}")
    };
    if text.contains(['.', 'e']) { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_document_reads_as_in_the_servers_messages() {
        let document = doc! { "_id": 1, "a": [1.0, "x"], "b": { "c": null }, "d": {} };
        let expected = r#"{ _id: 1, a: [ 1.0, "x" ], b: { c: null }, d: {} }"#;
        assert_eq!(document_text((&document).into()), expected);
    }
}
