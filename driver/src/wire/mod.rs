//! Bytes to messages and back: the MongoDB wire protocol.
//!
//! Both ends use this room: the driver, the simulated mongod and whatever serves one on real
//! sockets. It knows OP_MSG (2013), OP_COMPRESSED (2012) with the compressors that are built in, and the OP_QUERY /
//! OP_REPLY pair that older drivers still use for their first hello. Nothing here does I/O: bytes are
//! fed to a [`FrameReader`] and written to a `Vec<u8>`.

mod compression;
mod crc32c;
mod element;
mod frame;

use bson::{RawDocument, RawDocumentBuf};

pub use self::compression::{compress, is_compressible, is_compressor_built_in};
pub(crate) use self::element::find;
pub use self::frame::FrameReader;

/// The largest message either side may send, header included, in bytes
/// (`maxMessageSizeBytes` of a hello reply).
pub const MAX_MESSAGE_SIZE_BYTES: usize = 48_000_000;

/// Bytes of the header that starts each message.
pub const HEADER_SIZE_BYTES: usize = 16;

/// Opcode of an answer to [`OP_QUERY`].
pub const OP_REPLY: i32 = 1;
/// Opcode of the legacy query, alive only as the first hello of a connection.
pub const OP_QUERY: i32 = 2004;
/// Opcode of a message wrapped by a compressor.
pub const OP_COMPRESSED: i32 = 2012;
/// Opcode of everything else.
pub const OP_MSG: i32 = 2013;

/// The flag bits of an OP_MSG. Bits 0 to 15 must be understood by the receiver, the others need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// A CRC-32C of all bytes before it ends the message.
    pub const CHECKSUM_PRESENT: Flags = Flags(1);
    /// Another message follows without a request; on a request: no answer is wanted.
    pub const MORE_TO_COME: Flags = Flags(1 << 1);
    /// The client is ready to read several answers to this request.
    pub const EXHAUST_ALLOWED: Flags = Flags(1 << 16);

    /// Whether all bits of `other` are set here.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, rhs: Flags) -> Flags {
        Flags(self.0 | rhs.0)
    }
}

/// One request or reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Identifier chosen by the sender.
    pub request_id: i32,
    /// The `request_id` of the request this answers; 0 in a request.
    pub response_to: i32,
    /// Flag bits; none in a legacy message.
    pub flags: Flags,
    /// The command or reply document. Its outer length and terminator are checked; its elements are
    /// checked by whoever reads them.
    pub body: RawDocumentBuf,
    /// Document sequences (kind 1 sections): the field each stands for, and its documents.
    pub sequences: Vec<(String, Vec<RawDocumentBuf>)>,
    /// It came as OP_QUERY on `<db>.$cmd` and must be answered by [`Message::encode_op_reply`], or it
    /// came as OP_REPLY. `body` of such a query is unwrapped from `$query` and carries `$db`.
    pub legacy: bool,
}

impl Message {
    /// A message of one body section without flags.
    pub fn new(request_id: i32, response_to: i32, body: RawDocumentBuf) -> Self {
        Message {
            request_id,
            response_to,
            flags: Flags::NONE,
            body,
            sequences: Vec::new(),
            legacy: false,
        }
    }

    /// Appends this message as OP_MSG; a checksum is added if its flag is set.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.request_id, self.response_to, OP_MSG);
        out.extend_from_slice(&self.flags.0.to_le_bytes());
        out.push(0);
        out.extend_from_slice(self.body.as_bytes());
        for (identifier, documents) in &self.sequences {
            let section = begin_sequence(out, identifier);
            for document in documents {
                out.extend_from_slice(document.as_bytes());
            }
            end_sequence(out, section);
        }
        if self.flags.contains(Flags::CHECKSUM_PRESENT) {
            let length = out.len() - start + 4;
            out[start..start + 4].copy_from_slice(&length_bytes(length));
            let checksum = crc32c::checksum(&out[start..]);
            out.extend_from_slice(&checksum.to_le_bytes());
        } else {
            finish(out, start);
        }
    }

    /// Appends this message's body as an OP_REPLY of one document: the answer to a request that came
    /// with [`Message::legacy`] set.
    pub fn encode_op_reply(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.request_id, self.response_to, OP_REPLY);
        // Response flag AwaitCapable, as servers set it; no cursor; from 0; one document.
        out.extend_from_slice(&8_i32.to_le_bytes());
        out.extend_from_slice(&0_i64.to_le_bytes());
        out.extend_from_slice(&0_i32.to_le_bytes());
        out.extend_from_slice(&1_i32.to_le_bytes());
        out.extend_from_slice(self.body.as_bytes());
        finish(out, start);
    }

    /// Appends this message's body as an OP_QUERY on `<database>.$cmd`: the legacy first hello.
    pub fn encode_op_query(&self, database: &str, out: &mut Vec<u8>) {
        let start = begin(out, self.request_id, self.response_to, OP_QUERY);
        // Flag SecondaryOk: a hello is answered by whoever is asked.
        out.extend_from_slice(&4_i32.to_le_bytes());
        out.extend_from_slice(database.as_bytes());
        out.extend_from_slice(b".$cmd\0");
        out.extend_from_slice(&0_i32.to_le_bytes());
        out.extend_from_slice(&(-1_i32).to_le_bytes());
        out.extend_from_slice(self.body.as_bytes());
        finish(out, start);
    }
}

/// Appends an OP_MSG of one body section without building a [`Message`].
pub fn encode_reply(
    out: &mut Vec<u8>,
    request_id: i32,
    response_to: i32,
    flags: u32,
    body: &RawDocument,
) {
    debug_assert!(flags & Flags::CHECKSUM_PRESENT.0 == 0, "the hot path writes no checksum");
    let start = begin(out, request_id, response_to, OP_MSG);
    out.extend_from_slice(&flags.to_le_bytes());
    out.push(0);
    out.extend_from_slice(body.as_bytes());
    finish(out, start);
}

/// Starts a message whose length is not known yet and returns where it starts.
pub(crate) fn begin(out: &mut Vec<u8>, request_id: i32, response_to: i32, opcode: i32) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&request_id.to_le_bytes());
    out.extend_from_slice(&response_to.to_le_bytes());
    out.extend_from_slice(&opcode.to_le_bytes());
    start
}

/// Fills in the length of the message that starts at `start` and ends here.
pub(crate) fn finish(out: &mut [u8], start: usize) {
    let length = length_bytes(out.len() - start);
    out[start..start + 4].copy_from_slice(&length);
}

/// Starts a kind 1 section and returns where its length stands.
pub(crate) fn begin_sequence(out: &mut Vec<u8>, identifier: &str) -> usize {
    out.push(1);
    let section = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(identifier.as_bytes());
    out.push(0);
    section
}

/// Fills in the length of the kind 1 section whose length stands at `section` and which ends here.
pub(crate) fn end_sequence(out: &mut [u8], section: usize) {
    let length = length_bytes(out.len() - section);
    out[section..section + 4].copy_from_slice(&length);
}

/// A length on the wire. What is too long for it is too long for any peer: whoever sends looks at
/// [`MAX_MESSAGE_SIZE_BYTES`] first.
fn length_bytes(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes()
}

/// What is wrong with the bytes a peer sent. The connection they came over cannot be used further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length in the header is below 16 or above [`MAX_MESSAGE_SIZE_BYTES`].
    #[error("message length {length} is outside 16..={MAX_MESSAGE_SIZE_BYTES}")]
    Length {
        /// What the header says.
        length: i32,
    },
    /// An opcode that no longer exists or never did.
    #[error("unknown opcode {opcode}")]
    Opcode {
        /// What the header says.
        opcode: i32,
    },
    /// One of the flag bits 0 to 15 is set and not known.
    #[error("unknown required flag bits {bits:#06x} in OP_MSG")]
    RequiredFlags {
        /// The bits that are not known.
        bits: u32,
    },
    /// The checksum that ends the message is not that of its bytes.
    #[error("checksum of OP_MSG is {found:#010x} but its bytes have {computed:#010x}")]
    Checksum {
        /// What the message says.
        found: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// A compressor nobody knows, or one this build was made without.
    #[error("OP_COMPRESSED uses compressor {id} ({name}), which is not built in")]
    Compressor {
        /// Its number on the wire.
        id: u8,
        /// Its name as far as known.
        name: &'static str,
    },
    /// Anything else that does not fit.
    #[error("{what} at byte {offset} of the message")]
    Malformed {
        /// What does not fit.
        what: String,
        /// Where, counted from the first byte of the header.
        offset: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn read_one(bytes: &[u8]) -> Result<Option<Message>, WireError> {
        let mut reader = FrameReader::new();
        reader.feed(bytes);
        reader.next()
    }

    #[test]
    fn a_message_with_document_sequences_comes_back_as_it_was() {
        let mut message = Message::new(7, 3, rawdoc! { "insert": "c", "$db": "d" });
        message.sequences.push(("documents".into(), vec![rawdoc! { "_id": 1 }, rawdoc! {}]));
        message.flags = Flags::EXHAUST_ALLOWED;
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(read_one(&bytes), Ok(Some(message)));
    }

    #[test]
    fn a_checksum_is_written_and_verified() {
        let mut message = Message::new(7, 3, rawdoc! { "ping": 1 });
        message.flags = Flags::CHECKSUM_PRESENT;
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(read_one(&bytes), Ok(Some(message)));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(matches!(read_one(&bytes), Err(WireError::Checksum { .. })));
    }

    #[test]
    fn encode_reply_equals_encoding_a_message() {
        let message = Message::new(9, 8, rawdoc! { "ok": 1.0 });
        let (mut slow, mut fast) = (Vec::new(), Vec::new());
        message.encode(&mut slow);
        encode_reply(&mut fast, 9, 8, 0, &message.body);
        assert_eq!(slow, fast);
    }

    #[test]
    fn a_legacy_hello_is_unwrapped_and_gets_its_database() {
        let query = Message::new(1, 0, rawdoc! { "$query": { "isMaster": 1 } });
        let mut bytes = Vec::new();
        query.encode_op_query("admin", &mut bytes);
        let read = read_one(&bytes).unwrap().unwrap();
        assert!(read.legacy);
        assert_eq!(read.body, rawdoc! { "isMaster": 1, "$db": "admin" });

        let reply = Message { legacy: true, ..Message::new(2, 1, rawdoc! { "ok": 1.0 }) };
        bytes.clear();
        reply.encode_op_reply(&mut bytes);
        assert_eq!(read_one(&bytes), Ok(Some(reply)));
    }

    #[test]
    fn the_noop_compressor_is_unwrapped_and_others_are_refused() {
        let mut plain = Vec::new();
        encode_reply(&mut plain, 9, 8, 0, &rawdoc! { "ok": 1.0 });
        let wrap = |compressor: u8| {
            let mut out = Vec::new();
            let start = begin(&mut out, 9, 8, OP_COMPRESSED);
            out.extend_from_slice(&OP_MSG.to_le_bytes());
            out.extend_from_slice(&((plain.len() - 16) as i32).to_le_bytes());
            out.push(compressor);
            out.extend_from_slice(&plain[16..]);
            finish(&mut out, start);
            out
        };
        assert_eq!(read_one(&wrap(0)), read_one(&plain));
        assert_eq!(
            read_one(&wrap(9)).unwrap_err().to_string(),
            "OP_COMPRESSED uses compressor 9 (unknown), which is not built in"
        );
    }

    #[test]
    fn errors_say_what_and_where() {
        let text = |bytes: &[u8]| read_one(bytes).unwrap_err().to_string();
        let mut good = Vec::new();
        encode_reply(&mut good, 1, 0, 0, &rawdoc! { "ok": 1 });

        let mut bytes = good.clone();
        bytes[..4].copy_from_slice(&15_i32.to_le_bytes());
        assert_eq!(text(&bytes), "message length 15 is outside 16..=48000000");

        let mut bytes = good.clone();
        bytes[12..16].copy_from_slice(&2002_i32.to_le_bytes());
        assert_eq!(text(&bytes), "unknown opcode 2002");

        let mut bytes = good.clone();
        bytes[16] = 4;
        assert_eq!(text(&bytes), "unknown required flag bits 0x0004 in OP_MSG");

        let mut bytes = good.clone();
        bytes[20] = 9;
        assert_eq!(text(&bytes), "unknown section kind 9 at byte 20 of the message");

        let mut bytes = good.clone();
        bytes[21] = 200;
        assert_eq!(
            text(&bytes),
            "document of 200 bytes but only 13 are left at byte 21 of the message"
        );

        let mut bytes = good.clone();
        bytes.push(0);
        bytes.extend_from_slice(rawdoc! {}.as_bytes());
        finish(&mut bytes, 0);
        assert_eq!(text(&bytes), "second body section at byte 34 of the message");
    }
}
