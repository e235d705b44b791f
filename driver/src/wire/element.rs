//! Finding an element of a document quickly.

use bson::raw::RawBsonRef;
use bson::{RawDocument, Timestamp};

/// The value of `key`, or `None` if it is not there or the document is damaged before it.
///
/// The crate's own look-up validates every key and value it passes, which costs more than everything
/// else that is done with a small reply; here what is passed is only measured, and what is returned is
/// validated as far as its type asks.
pub(crate) fn find<'a>(document: &'a RawDocument, key: &str) -> Option<RawBsonRef<'a>> {
    let (kind, value) = locate(document.as_bytes(), key.as_bytes())?;
    match kind {
        0x01 => Some(RawBsonRef::Double(f64::from_le_bytes(*value.first_chunk()?))),
        0x03 => RawDocument::from_bytes(value).ok().map(RawBsonRef::Document),
        0x08 if value == [0] || value == [1] => Some(RawBsonRef::Boolean(value == [1])),
        0x0a => Some(RawBsonRef::Null),
        0x10 => Some(RawBsonRef::Int32(i32::from_le_bytes(*value.first_chunk()?))),
        0x11 => Some(RawBsonRef::Timestamp(Timestamp {
            increment: u32::from_le_bytes(*value.first_chunk()?),
            time: u32::from_le_bytes(*value.last_chunk()?),
        })),
        0x12 => Some(RawBsonRef::Int64(i64::from_le_bytes(*value.first_chunk()?))),
        // The other types are rarer, and the crate knows their rules.
        _ => document.get(key).ok().flatten(),
    }
}

/// The type of the element `key`, and the bytes of its value.
fn locate<'a>(document: &'a [u8], key: &[u8]) -> Option<(u8, &'a [u8])> {
    let mut rest = document.get(4..)?;
    loop {
        let (&kind, after) = rest.split_first()?;
        if kind == 0 {
            return None;
        }
        let name_length = after.iter().position(|byte| *byte == 0)?;
        let value = &after[name_length + 1..];
        let length = value_length(kind, value)?;
        let (value, next) = value.split_at_checked(length)?;
        if &after[..name_length] == key {
            return Some((kind, value));
        }
        rest = next;
    }
}

/// How many bytes the value of type `kind` at the front of `bytes` takes.
fn value_length(kind: u8, bytes: &[u8]) -> Option<usize> {
    let declared = || {
        let length = i32::from_le_bytes(*bytes.first_chunk::<4>()?);
        usize::try_from(length).ok()
    };
    let string_end = |from: usize| {
        let tail = bytes.get(from..)?;
        Some(from + tail.iter().position(|byte| *byte == 0)? + 1)
    };
    match kind {
        0x06 | 0x0a | 0x7f | 0xff => Some(0),
        0x08 => Some(1),
        0x10 => Some(4),
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x07 => Some(12),
        0x13 => Some(16),
        0x03 | 0x04 | 0x0f => declared().filter(|length| *length >= 5),
        0x02 | 0x0d | 0x0e => declared()?.checked_add(4),
        0x05 => declared()?.checked_add(5),
        0x0c => declared()?.checked_add(16),
        0x0b => string_end(string_end(0)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, RawDocumentBuf, doc};
    use proptest::prelude::*;

    fn of_every_type() -> RawDocumentBuf {
        let document = doc! {
            "double": 1.5, "string": "text", "document": { "a": 1 }, "array": [1, "two"],
            "binary": Bson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3],
            }),
            "undefined": Bson::Undefined, "id": bson::oid::ObjectId::from_bytes([7; 12]),
            "true": true, "false": false, "date": bson::DateTime::from_millis(5),
            "null": Bson::Null, "i32": -3, "i64": 1_i64 << 40,
            "regex": Bson::RegularExpression(bson::Regex {
                pattern: "a+".try_into().unwrap(), options: "i".try_into().unwrap(),
            }),
            "code": Bson::JavaScriptCode("f()".into()),
            "scoped": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "f()".into(), scope: doc! { "x": 1 },
            }),
            "symbol": Bson::Symbol("s".into()), "time": Timestamp { time: 9, increment: 2 },
            "decimal": Bson::Decimal128("1.5".parse().unwrap()), "min": Bson::MinKey,
            "max": Bson::MaxKey, "": "empty key", "last": 1,
        };
        RawDocumentBuf::try_from(&document).unwrap()
    }

    #[test]
    fn what_is_found_is_what_the_crate_finds() {
        let document = of_every_type();
        for element in document.iter() {
            let (key, _) = element.unwrap();
            assert_eq!(find(&document, key.as_str()), document.get(key).unwrap(), "{key}");
        }
        assert_eq!(find(&document, "absent"), None);
        assert_eq!(find(&document, "las"), None);
    }

    proptest! {
        #[test]
        fn damaged_documents_never_panic(at in 4_usize..500, to in any::<u8>()) {
            let mut bytes = of_every_type().into_bytes();
            let last = bytes.len() - 1;
            bytes[4.max(at % last)] = to;
            if let Ok(document) = RawDocumentBuf::from_bytes(bytes) {
                for key in ["double", "last", "decimal", "regex", "absent", ""] {
                    let found = find(&document, key);
                    if let Ok(Some(expected)) = document.get(key) {
                        // NaN is not equal to itself.
                        prop_assert_eq!(format!("{:?}", found), format!("{:?}", Some(expected)));
                    }
                }
            }
        }
    }
}
