//! Values as the server writes them into its messages.

use std::fmt::Write;

use bson::{RawBsonRef, RawDocument};

/// A document as error messages show it: `{ _id: 1, name: "x" }`.
pub(crate) fn shell_document(document: &RawDocument) -> String {
    let mut out = String::new();
    write_document(&mut out, document);
    out
}

fn write_document(out: &mut String, document: &RawDocument) {
    out.push('{');
    for (number, (key, value)) in document.iter().map_while(Result::ok).enumerate() {
        let _ = write!(out, "{}{key}: ", if number == 0 { " " } else { ", " });
        write_value(out, value);
    }
    out.push_str(if out.ends_with('{') { "}" } else { " }" });
}

fn write_value(out: &mut String, value: RawBsonRef<'_>) {
    let _ = match value {
        RawBsonRef::Double(number) => {
            if number.is_nan() {
                write!(out, "nan.0")
            } else if number.fract() == 0.0 && number.abs() < 1e15 {
                write!(out, "{number:.1}")
            } else {
                write!(out, "{number}")
            }
        }
        RawBsonRef::String(text) => write!(out, "\"{text}\""),
        RawBsonRef::Document(inner) => {
            write_document(out, inner);
            Ok(())
        }
        RawBsonRef::Array(array) => {
            out.push('[');
            for (number, element) in array.into_iter().map_while(Result::ok).enumerate() {
                out.push_str(if number == 0 { " " } else { ", " });
                write_value(out, element);
            }
            out.push_str(if out.ends_with('[') { "]" } else { " ]" });
            Ok(())
        }
        RawBsonRef::Binary(binary) => match <[u8; 16]>::try_from(binary.bytes) {
            Ok(bytes) if u8::from(binary.subtype) == 4 => {
                write!(out, "UUID(\"{}\")", bson::Uuid::from_bytes(bytes))
            }
            _ => {
                let _ = write!(out, "BinData({}, ", u8::from(binary.subtype));
                for byte in binary.bytes {
                    let _ = write!(out, "{byte:02X}");
                }
                write!(out, ")")
            }
        },
        RawBsonRef::Undefined => write!(out, "undefined"),
        RawBsonRef::ObjectId(id) => write!(out, "ObjectId('{id}')"),
        RawBsonRef::Boolean(flag) => write!(out, "{flag}"),
        RawBsonRef::DateTime(date) => write!(out, "new Date({})", date.timestamp_millis()),
        RawBsonRef::Null => write!(out, "null"),
        RawBsonRef::RegularExpression(regex) => {
            write!(out, "/{}/{}", regex.pattern.as_str(), regex.options.as_str())
        }
        RawBsonRef::DbPointer(_) => write!(out, "DBRef"),
        RawBsonRef::JavaScriptCode(code) | RawBsonRef::Symbol(code) => write!(out, "{code}"),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            let _ = write!(out, "CodeWScope( {}, ", code.code);
            write_document(out, code.scope);
            write!(out, ")")
        }
        RawBsonRef::Int32(number) => write!(out, "{number}"),
        RawBsonRef::Timestamp(ts) => write!(out, "Timestamp({}, {})", ts.time, ts.increment),
        RawBsonRef::Int64(number) => write!(out, "{number}"),
        RawBsonRef::Decimal128(number) => write!(out, "{number}"),
        RawBsonRef::MinKey => write!(out, "MinKey"),
        RawBsonRef::MaxKey => write!(out, "MaxKey"),
    };
}
