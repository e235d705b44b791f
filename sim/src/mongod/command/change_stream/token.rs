//! Resume tokens: `{_data: <hex>}`, whose text sorts as the events do.
//!
//! Drivers take them as they are. The layout is the server's: an order-preserving encoding of cluster
//! time, version, kind, place in the transaction, invalidation, collection and event.

use std::fmt::Write as _;

use bson::spec::BinarySubtype;
use bson::{Bson, Document, Uuid};

use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;

/// The kind of a token that is no event's: everything before its time was seen.
const HIGH_WATER_MARK: i64 = 0;
/// The kind of an event's token.
const EVENT: i64 = 128;

/// What an event's token is made of.
#[derive(Clone, Debug)]
pub(super) struct EventToken<'a> {
    pub ts: Ts,
    /// The place among the operations of one entry.
    pub operation: u64,
    pub invalidate: bool,
    pub collection: Option<Uuid>,
    /// What happened: the document's key, or type and description of a command.
    pub event: Option<&'a Document>,
    /// The version of the layout: 1 before 7.0, 2 since.
    pub version: i64,
}

impl EventToken<'_> {
    /// The text of `_data`.
    pub(super) fn text(&self) -> String {
        let mut bytes = head(self.ts, self.version, EVENT, self.operation, self.invalidate);
        match self.collection {
            Some(uuid) => {
                bytes.extend([0x5a, 16, 4]);
                bytes.extend(uuid.bytes());
            }
            None if self.version >= 2 => bytes.push(0x14),
            None => {}
        }
        if let Some(event) = self.event {
            append(&mut bytes, &Bson::Document(event.clone()));
        }
        bytes.push(0x04);
        hex(&bytes)
    }
}

/// The token of a position between events: just before everything of `ts`.
pub(super) fn high_water_mark(ts: Ts, version: i64) -> String {
    let mut bytes = head(ts, version, HIGH_WATER_MARK, 0, false);
    if version >= 2 {
        bytes.push(0x14);
    }
    bytes.push(0x04);
    hex(&bytes)
}

/// What a token that a client brought back says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub text: String,
    pub ts: Ts,
    pub is_event: bool,
    pub invalidate: bool,
}

/// Reads `_data`.
///
/// # Errors
/// 9 FailedToParse: not hexadecimal; 50811, 6189505: not a token.
pub(super) fn parse(text: &str) -> Result<Parsed, CommandError> {
    let bytes = unhex(text).ok_or_else(|| {
        CommandError::new(error::FAILED_TO_PARSE, "resume token string was not a valid hex string")
    })?;
    let mut reader = Reader { bytes: &bytes };
    reader.token().map(|(ts, kind, invalidate)| Parsed {
        text: text.to_uppercase(),
        ts,
        is_event: kind == EVENT,
        invalidate,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn token(&mut self) -> Result<(Ts, i64, bool), CommandError> {
        let bad = || CommandError::new(50_811, "Invalid resume token");
        if self.byte() != Some(0x82) || self.bytes.len() < 8 {
            return Err(bad());
        }
        let (ts, rest) = self.bytes.split_at(8);
        let ts = Ts(u64::from_be_bytes(ts.try_into().expect("eight bytes")));
        self.bytes = rest;
        let _version = self.number().ok_or_else(bad)?;
        let kind = self.number().ok_or_else(bad)?;
        let _operation = self.number().ok_or_else(bad)?;
        let invalidate = match self.byte() {
            Some(0x6e) => false,
            Some(0x6f) => true,
            _ => return Err(bad()),
        };
        if kind == HIGH_WATER_MARK && !matches!(self.bytes, [0x04] | [0x14, 0x04]) {
            return Err(CommandError::new(6_189_505, "Invalid high water mark token"));
        }
        if self.bytes.last() != Some(&0x04) || !matches!(kind, HIGH_WATER_MARK | EVENT) {
            return Err(bad());
        }
        Ok((ts, kind, invalidate))
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<i64> {
        let kind = self.byte()?;
        if kind == 0x29 {
            return Some(0);
        }
        let length = usize::from(kind.checked_sub(0x2a)?);
        if length == 0 || length > 8 || self.bytes.len() < length {
            return None;
        }
        let (bytes, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        let value = bytes.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        i64::try_from(value >> 1).ok()
    }
}

fn head(ts: Ts, version: i64, kind: i64, operation: u64, invalidate: bool) -> Vec<u8> {
    let mut bytes = vec![0x82];
    bytes.extend(ts.0.to_be_bytes());
    append_integer(&mut bytes, version);
    append_integer(&mut bytes, kind);
    append_integer(&mut bytes, i64::try_from(operation).unwrap_or(i64::MAX));
    bytes.push(if invalidate { 0x6f } else { 0x6e });
    bytes
}

/// A whole number: its length in the first byte, so that longer ones sort behind; the last bit tells
/// whether a fraction follows.
fn append_integer(out: &mut Vec<u8>, number: i64) {
    if number == 0 {
        out.push(0x29);
        return;
    }
    let magnitude = u128::from(number.unsigned_abs()) << 1;
    let bytes = magnitude.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let bytes = &bytes[first..];
    if number > 0 {
        out.push(0x2a + bytes.len() as u8);
        out.extend(bytes);
    } else {
        out.push(0x28 - bytes.len() as u8);
        out.extend(bytes.iter().map(|byte| !byte));
    }
}

fn append_double(out: &mut Vec<u8>, number: f64) {
    if number.fract() == 0.0 && number.abs() < 9.0e15 {
        append_integer(out, number as i64);
        return;
    }
    let magnitude = number.abs();
    if !(1.0..9.0e15).contains(&magnitude) {
        // Nearer to zero, or farther from it, than whole numbers are: by all bits.
        let far = magnitude > 1.0;
        out.push(match number < 0.0 {
            true if far => 0x1f,
            true => 0x28,
            false if far => 0x33,
            false => 0x2a,
        });
        let bits = number.to_bits();
        let ordered = if number < 0.0 { !bits } else { bits };
        out.extend(ordered.to_be_bytes());
        return;
    }
    // The whole part, whose last bit tells that a fraction follows, up to eight bytes in all.
    let whole = (magnitude.trunc() as u64) << 1 | 1;
    let bytes = whole.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let mut encoded = bytes[first..].to_vec();
    let length = encoded.len();
    let mut fraction = magnitude.fract();
    for _ in length..8 {
        fraction *= 256.0;
        encoded.push(fraction.trunc() as u8);
        fraction = fraction.fract();
    }
    if number > 0.0 {
        out.push(0x2a + length as u8);
        out.extend(encoded);
    } else {
        out.push(0x28 - length as u8);
        out.extend(encoded.iter().map(|byte| !byte));
    }
}

fn append_text(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.push(0);
}

/// What all values of a kind begin with, and stand under in documents.
fn kind_of(value: &Bson) -> u8 {
    match value {
        Bson::MinKey => 0x0a,
        Bson::Undefined => 0x0f,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => 0x1e,
        Bson::String(_) | Bson::Symbol(_) => 0x3c,
        Bson::Document(_) => 0x46,
        Bson::Array(_) => 0x50,
        Bson::Binary(_) => 0x5a,
        Bson::ObjectId(_) => 0x64,
        Bson::Boolean(_) => 0x6e,
        Bson::DateTime(_) => 0x78,
        Bson::Timestamp(_) => 0x82,
        Bson::RegularExpression(_) => 0x8c,
        Bson::MaxKey => 0xf0,
        _ => 0x14,
    }
}

fn append(out: &mut Vec<u8>, value: &Bson) {
    match value {
        Bson::Int32(number) => return append_integer(out, i64::from(*number)),
        Bson::Int64(number) => return append_integer(out, *number),
        Bson::Double(number) => return append_double(out, *number),
        Bson::Boolean(flag) => return out.push(if *flag { 0x6f } else { 0x6e }),
        _ => out.push(kind_of(value)),
    }
    match value {
        Bson::String(text) | Bson::Symbol(text) => append_text(out, text),
        Bson::Document(document) => {
            for (name, value) in document {
                out.push(kind_of(value));
                append_text(out, name);
                append(out, value);
            }
            out.push(0);
        }
        Bson::Array(values) => {
            values.iter().for_each(|value| append(out, value));
            out.push(0);
        }
        Bson::Binary(binary) => {
            match u8::try_from(binary.bytes.len()) {
                Ok(length) if length < 0xff => out.push(length),
                _ => {
                    out.push(0xff);
                    out.extend((binary.bytes.len() as u32).to_be_bytes());
                }
            }
            out.push(match binary.subtype {
                BinarySubtype::Uuid => 4,
                other => other.into(),
            });
            out.extend(&binary.bytes);
        }
        Bson::ObjectId(id) => out.extend(id.bytes()),
        Bson::DateTime(date) => {
            out.extend(((date.timestamp_millis() as u64) ^ (1 << 63)).to_be_bytes());
        }
        Bson::Timestamp(ts) => out.extend(Ts::from(*ts).0.to_be_bytes()),
        Bson::RegularExpression(regex) => {
            append_text(out, regex.pattern.as_str());
            append_text(out, regex.options.as_str());
        }
        Bson::Decimal128(number) => out.extend(number.bytes()),
        _ => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    const UUID: Uuid = Uuid::from_bytes([0x62; 16]);

    fn event(ts: Ts, operation: u64, invalidate: bool, event: Option<&Document>) -> String {
        EventToken { ts, operation, invalidate, collection: Some(UUID), event, version: 1 }.text()
    }

    #[test]
    fn tokens_have_the_layout_that_a_server_was_seen_to_give_them() {
        let ts = Ts::new(0x6b02_fb6f, 3);
        assert_eq!(high_water_mark(ts, 1), "826B02FB6F000000032B0229296E04");
        let key = doc! { "_id": 1 };
        let uuid = "62".repeat(16);
        let expected = format!("826B02FB6F000000032B022C0100296E5A1004{uuid}461E5F6964002B020004");
        assert_eq!(event(ts, 0, false, Some(&key)), expected);
        let dropped = format!("826B02FB6F000000032B022C0100296F5A1004{uuid}04");
        assert_eq!(event(ts, 0, true, None), dropped);
        let created = doc! { "operationType": "create", "capped": true, "size": 1024 };
        assert!(event(ts, 1, false, Some(&created)).ends_with(
            "463C6F7065726174696F6E54797065003C63726561746500\
             6E636170706564006F1E73697A65002C08000004"
        ));
    }

    #[test]
    fn tokens_sort_as_their_events_do_and_are_read_back() {
        let (early, late) = (Ts::new(5, 1), Ts::new(5, 2));
        let mut tokens = vec![high_water_mark(early, 1)];
        for operation in [0, 1, 127, 128, 300] {
            tokens.push(event(early, operation, false, Some(&doc! { "_id": "x" })));
        }
        tokens.push(event(early, 300, true, None));
        tokens.push(high_water_mark(late, 1));
        assert!(tokens.is_sorted(), "{tokens:?}");
        let parsed = parse(&tokens[6]).unwrap();
        assert_eq!((parsed.ts, parsed.is_event, parsed.invalidate), (early, true, true));
        assert!(!parse(&tokens[7]).unwrap().is_event);
        assert_eq!(parse("zz").unwrap_err().code, 9);
        for end in 0..tokens[3].len() {
            let _ = parse(&tokens[3][..end]);
        }
        assert_eq!(parse("82").unwrap_err().code, 50_811);
    }
}
