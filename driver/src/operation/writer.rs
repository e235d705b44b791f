//! Puts BSON elements straight into a byte buffer.

use bson::oid::ObjectId;

/// Writes one document at the end of a buffer, element by element, without an intermediate value.
pub(crate) struct BodyWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> BodyWriter<'a> {
    /// Starts a document.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        BodyWriter { out, start }
    }

    /// Ends the document.
    pub(crate) fn finish(self) {
        self.out.push(0);
        let length = i32::try_from(self.out.len() - self.start).unwrap_or(i32::MAX);
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// The elements of a whole document, copied as they are.
    pub(crate) fn elements_of(&mut self, document: &[u8]) {
        self.out.extend_from_slice(&document[4..document.len() - 1]);
    }

    /// A string.
    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.key(0x02, key);
        let length = i32::try_from(value.len() + 1).unwrap_or(i32::MAX);
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(0);
    }

    /// A document, given as its bytes.
    pub(crate) fn document(&mut self, key: &str, bytes: &[u8]) {
        self.key(0x03, key);
        self.out.extend_from_slice(bytes);
    }

    /// A document of the caller's, serialized in place.
    pub(crate) fn serialized(
        &mut self,
        key: &str,
        value: &impl serde::Serialize,
    ) -> bson::error::Result<()> {
        self.key(0x03, key);
        bson::serialize_to_buffer(value, self.out)
    }

    /// A document written by `fill`.
    pub(crate) fn nested(&mut self, key: &str, fill: impl FnOnce(&mut BodyWriter<'_>)) {
        self.container(0x03, key, fill);
    }

    /// An array whose elements `fill` writes, their keys included.
    pub(crate) fn array(&mut self, key: &str, fill: impl FnOnce(&mut BodyWriter<'_>)) {
        self.container(0x04, key, fill);
    }

    /// An ObjectId.
    pub(crate) fn object_id(&mut self, key: &str, value: ObjectId) {
        self.key(0x07, key);
        self.out.extend_from_slice(&value.bytes());
    }

    /// A boolean.
    pub(crate) fn bool(&mut self, key: &str, value: bool) {
        self.key(0x08, key);
        self.out.push(u8::from(value));
    }

    /// A 32-bit integer.
    pub(crate) fn i32(&mut self, key: &str, value: i32) {
        self.key(0x10, key);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A timestamp.
    pub(crate) fn timestamp(&mut self, key: &str, value: bson::Timestamp) {
        self.key(0x11, key);
        self.out.extend_from_slice(&value.increment.to_le_bytes());
        self.out.extend_from_slice(&value.time.to_le_bytes());
    }

    /// A 64-bit integer.
    pub(crate) fn i64(&mut self, key: &str, value: i64) {
        self.key(0x12, key);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A UUID (binary of subtype 4).
    pub(crate) fn uuid(&mut self, key: &str, value: [u8; 16]) {
        self.key(0x05, key);
        self.out.extend_from_slice(&16_i32.to_le_bytes());
        self.out.push(4);
        self.out.extend_from_slice(&value);
    }

    /// Any value.
    pub(crate) fn value(&mut self, key: &str, value: &bson::Bson) -> bson::error::Result<()> {
        let mut one = bson::Document::new();
        one.insert("", value.clone());
        let bytes = bson::serialize_to_vec(&one)?;
        // The element: type byte, empty key, value.
        self.key(bytes[4], key);
        self.out.extend_from_slice(&bytes[6..bytes.len() - 1]);
        Ok(())
    }

    fn container(&mut self, kind: u8, key: &str, fill: impl FnOnce(&mut BodyWriter<'_>)) {
        self.key(kind, key);
        let mut inner = BodyWriter::new(self.out);
        fill(&mut inner);
        inner.finish();
    }

    /// The element's head. A zero byte cannot be part of a key: what follows it is left out, as
    /// the keys written here are ours or were checked before.
    fn key(&mut self, kind: u8, key: &str) {
        debug_assert!(!key.contains('\0'), "a key cannot contain a zero byte");
        self.out.push(kind);
        let whole = key.as_bytes();
        let end = whole.iter().position(|byte| *byte == 0).unwrap_or(whole.len());
        self.out.extend_from_slice(&whole[..end]);
        self.out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, RawDocumentBuf, Timestamp, doc};

    #[test]
    fn what_is_written_reads_as_the_document_it_stands_for() {
        let mut out = vec![9];
        let mut writer = BodyWriter::new(&mut out);
        writer.string("find", "c");
        writer.nested("filter", |filter| filter.i32("x", -1));
        writer.array("a", |array| array.i64("0", 1 << 40));
        writer.bool("b", true);
        writer.timestamp("t", Timestamp { time: 7, increment: 1 });
        writer.value("v", &Bson::String("any".into())).unwrap();
        writer.uuid("u", [3; 16]);
        writer.finish();
        let found = RawDocumentBuf::from_bytes(out.split_off(1)).unwrap();
        let expected = doc! {
            "find": "c", "filter": { "x": -1 }, "a": [1_i64 << 40], "b": true,
            "t": Timestamp { time: 7, increment: 1 }, "v": "any",
            "u": bson::Uuid::from_bytes([3; 16]),
        };
        assert_eq!(bson::Document::try_from(found).unwrap(), expected);
    }
}
