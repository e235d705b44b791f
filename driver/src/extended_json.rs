//! Relaxed Extended JSON, as log messages and spans show documents.

use std::fmt::Write as _;

use bson::{Bson, Document};

/// `document` as relaxed Extended JSON, without spaces.
pub(crate) fn relaxed(document: &Document) -> String {
    let mut out = String::new();
    write_document(&mut out, document);
    out
}

fn write_document(out: &mut String, document: &Document) {
    out.push('{');
    for (index, (key, value)) in document.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(out, key);
        out.push(':');
        write_value(out, value);
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &Bson) {
    match value {
        Bson::Double(number) if number.is_finite() => {
            // `{:?}` keeps the fraction that tells it from an integer, and is read back the same.
            let _ = write!(out, "{number:?}");
        }
        Bson::Double(number) => {
            let name = match number {
                number if number.is_nan() => "NaN",
                number if *number > 0.0 => "Infinity",
                _ => "-Infinity",
            };
            tagged(out, "$numberDouble", name);
        }
        Bson::String(text) => write_string(out, text),
        Bson::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, value);
            }
            out.push(']');
        }
        Bson::Document(document) => write_document(out, document),
        Bson::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        Bson::Null => out.push_str("null"),
        Bson::RegularExpression(regex) => {
            out.push_str("{\"$regularExpression\":{\"pattern\":");
            write_string(out, regex.pattern.as_str());
            out.push_str(",\"options\":");
            write_string(out, regex.options.as_str());
            out.push_str("}}");
        }
        Bson::JavaScriptCode(code) => tagged(out, "$code", code),
        Bson::JavaScriptCodeWithScope(code) => {
            out.push_str("{\"$code\":");
            write_string(out, &code.code);
            out.push_str(",\"$scope\":");
            write_document(out, &code.scope);
            out.push('}');
        }
        Bson::Int32(number) => {
            let _ = write!(out, "{number}");
        }
        Bson::Int64(number) => {
            let _ = write!(out, "{number}");
        }
        Bson::Timestamp(time) => {
            let (t, i) = (time.time, time.increment);
            let _ = write!(out, "{{\"$timestamp\":{{\"t\":{t},\"i\":{i}}}}}");
        }
        Bson::Binary(binary) => {
            out.push_str("{\"$binary\":{\"base64\":\"");
            write_base64(out, &binary.bytes);
            let _ = write!(out, "\",\"subType\":\"{:02x}\"}}}}", u8::from(binary.subtype));
        }
        Bson::ObjectId(id) => tagged(out, "$oid", &id.to_hex()),
        Bson::DateTime(time) => {
            // Relaxed form for the years 1970 to 9999 alone.
            let text = (0..=253_402_300_799_999)
                .contains(&time.timestamp_millis())
                .then(|| time.try_to_rfc3339_string().ok())
                .flatten();
            match text {
                Some(text) => tagged(out, "$date", &text),
                None => {
                    let millis = time.timestamp_millis();
                    let _ = write!(out, "{{\"$date\":{{\"$numberLong\":\"{millis}\"}}}}");
                }
            }
        }
        Bson::Symbol(symbol) => tagged(out, "$symbol", symbol),
        Bson::Decimal128(number) => tagged(out, "$numberDecimal", &number.to_string()),
        Bson::Undefined => out.push_str("{\"$undefined\":true}"),
        Bson::MaxKey => out.push_str("{\"$maxKey\":1}"),
        Bson::MinKey => out.push_str("{\"$minKey\":1}"),
        // Deprecated, and its parts are private: its own rendering is all there is.
        Bson::DbPointer(pointer) => tagged(out, "$dbPointer", &format!("{pointer:?}")),
    }
}

fn tagged(out: &mut String, tag: &str, text: &str) {
    out.push('{');
    write_string(out, tag);
    out.push(':');
    write_string(out, text);
    out.push('}');
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn write_base64(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
            out.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::spec::BinarySubtype;
    use bson::{Binary, DateTime, Timestamp, doc};

    #[test]
    fn every_type_is_told_in_its_relaxed_form() {
        let binary = Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3, 4] };
        let document = doc! {
            "a": [1, 2_i64, 1.0, f64::NAN], "s": "q\"\\\n\u{1}", "b": binary, "n": null,
            "t": Timestamp { time: 4, increment: 2 }, "d": DateTime::from_millis(0),
            "e": DateTime::from_millis(-1),
        };
        assert_eq!(
            relaxed(&document),
            "{\"a\":[1,2,1.0,{\"$numberDouble\":\"NaN\"}],\"s\":\"q\\\"\\\\\\n\\u0001\",\
             \"b\":{\"$binary\":{\"base64\":\"AQIDBA==\",\"subType\":\"00\"}},\"n\":null,\
             \"t\":{\"$timestamp\":{\"t\":4,\"i\":2}},\"d\":{\"$date\":\"1970-01-01T00:00:00Z\"},\
             \"e\":{\"$date\":{\"$numberLong\":\"-1\"}}}"
        );
    }
}
