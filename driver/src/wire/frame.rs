//! Cuts a byte stream into messages.

use bson::{RawDocument, RawDocumentBuf};

use super::{
    Flags, HEADER_SIZE_BYTES, MAX_MESSAGE_SIZE_BYTES, Message, OP_COMPRESSED, OP_MSG, OP_QUERY,
    OP_REPLY, WireError, compression, crc32c,
};

/// Document sequences of one message: no command has more than two, and each is compared with all
/// before it.
const MAX_SEQUENCES: usize = 64;

/// A buffer that grew beyond this for one message is given back once it is empty.
const KEPT_CAPACITY_BYTES: usize = 1 << 20;

/// Reassembles messages from bytes in any splits. It never panics, whatever the bytes.
///
/// After an error the stream has no frame boundary left: drop the reader with its connection.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` before this were handed out already.
    start: usize,
    /// Bytes of `buffer` from here on are space that [`FrameReader::space`] made.
    end: usize,
    /// The last message came as OP_COMPRESSED.
    was_compressed: bool,
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        FrameReader::default()
    }

    /// Whether the last message that [`FrameReader::next`] gave came as OP_COMPRESSED: a server answers in
    /// kind.
    pub fn was_compressed(&self) -> bool {
        self.was_compressed
    }

    /// Adds what was read from the peer.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Room for at least `at_least` bytes, to read into without a copy; then call
    /// [`FrameReader::filled`].
    pub fn space(&mut self, at_least: usize) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > KEPT_CAPACITY_BYTES {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() - self.end < at_least && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < at_least {
            let wanted = (self.end + at_least).max(self.buffer.len() * 2);
            self.buffer.resize(wanted, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that the first `count` bytes of the last [`FrameReader::space`] now hold what was read.
    ///
    /// # Panics
    /// If there was not so much space.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "filled more than there was space for");
        self.end += count;
    }

    /// Bytes that wait for the rest of their message.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// How many bytes the message at the front still lacks; 0 if it is whole or its header is not
    /// there yet.
    pub fn missing(&self) -> usize {
        match declared_length(&self.buffer[self.start..self.end]) {
            Ok(Some(length)) => length.saturating_sub(self.buffered()),
            _ => 0,
        }
    }

    /// The next whole message, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// Whatever is wrong with it: see [`WireError`]. A wrong length is noticed as soon as its four
    /// bytes are there.
    // The name is that of the wire room's agreed interface; an iterator would hide the errors.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        let pending = &self.buffer[self.start..self.end];
        let Some(length) = declared_length(pending)? else { return Ok(None) };
        if pending.len() < length {
            return Ok(None);
        }
        let message = parse(&pending[..length])?;
        let opcode = pending.get(12..16);
        self.was_compressed = opcode == Some(OP_COMPRESSED.to_le_bytes().as_slice());
        self.start += length;
        Ok(Some(message))
    }
}

/// The length at the front of `bytes`, header included, if its four bytes are there.
fn declared_length(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(first) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_le_bytes(*first);
    match usize::try_from(length) {
        Ok(size) if (HEADER_SIZE_BYTES..=MAX_MESSAGE_SIZE_BYTES).contains(&size) => Ok(Some(size)),
        _ => Err(WireError::Length { length }),
    }
}

/// Reads one whole message.
fn parse(frame: &[u8]) -> Result<Message, WireError> {
    let mut bytes = Bytes { frame, at: 4, end: frame.len() };
    let request_id = bytes.i32("request id")?;
    let response_to = bytes.i32("response to")?;
    let opcode = bytes.i32("opcode")?;
    if opcode == OP_COMPRESSED {
        // What is inside is no OP_COMPRESSED again.
        return parse(&compression::unwrap(frame)?);
    }
    let message = match opcode {
        OP_MSG => parse_op_msg(&mut bytes)?,
        OP_QUERY => parse_op_query(&mut bytes)?,
        OP_REPLY => parse_op_reply(&mut bytes)?,
        _ => return Err(WireError::Opcode { opcode }),
    };
    Ok(Message { request_id, response_to, ..message })
}

fn parse_op_msg(bytes: &mut Bytes<'_>) -> Result<Message, WireError> {
    let flags = Flags(bytes.u32("flag bits")?);
    let known = Flags::CHECKSUM_PRESENT | Flags::MORE_TO_COME;
    let unknown = flags.0 & 0xffff & !known.0;
    if unknown != 0 {
        return Err(WireError::RequiredFlags { bits: unknown });
    }
    if flags.contains(Flags::CHECKSUM_PRESENT) {
        if bytes.left() < 4 {
            return Err(bytes.malformed("no room for the checksum"));
        }
        bytes.end -= 4;
        let tail = [0, 1, 2, 3].map(|index| bytes.frame[bytes.end + index]);
        let found = u32::from_le_bytes(tail);
        let computed = crc32c::checksum(&bytes.frame[..bytes.end]);
        if found != computed {
            return Err(WireError::Checksum { found, computed });
        }
    }
    let mut body = None;
    let mut sequences: Vec<(String, Vec<RawDocumentBuf>)> = Vec::new();
    while bytes.left() > 0 {
        let section_at = bytes.at;
        match bytes.u8("section kind")? {
            0 if body.is_some() => {
                return Err(malformed("second body section", section_at));
            }
            0 => body = Some(bytes.document()?.to_owned()),
            1 => {
                let sequence = parse_sequence(bytes)?;
                if sequences.len() >= MAX_SEQUENCES {
                    return Err(malformed("too many document sequences", section_at));
                }
                if sequences.iter().any(|(name, _)| *name == sequence.0) {
                    let what = format!("second document sequence named {:?}", sequence.0);
                    return Err(malformed(what, section_at));
                }
                sequences.push(sequence);
            }
            kind => return Err(malformed(format!("unknown section kind {kind}"), section_at)),
        }
    }
    let body = body.ok_or_else(|| bytes.malformed("no body section"))?;
    Ok(Message { flags, sequences, ..Message::new(0, 0, body) })
}

fn parse_sequence(bytes: &mut Bytes<'_>) -> Result<(String, Vec<RawDocumentBuf>), WireError> {
    let start = bytes.at;
    let size = bytes.i32("document sequence size")?;
    let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
    let Some(end) = end.filter(|end| (bytes.at..=bytes.end).contains(end)) else {
        let left = bytes.end - start;
        let what = format!("document sequence of {size} bytes but only {left} are left");
        return Err(malformed(what, start));
    };
    let mut section = Bytes { frame: bytes.frame, at: bytes.at, end };
    let identifier = section.cstring("document sequence identifier")?.to_owned();
    let mut documents = Vec::new();
    while section.left() > 0 {
        documents.push(section.document()?.to_owned());
    }
    bytes.at = end;
    Ok((identifier, documents))
}

fn parse_op_query(bytes: &mut Bytes<'_>) -> Result<Message, WireError> {
    bytes.i32("query flags")?;
    let name_at = bytes.at;
    let name = bytes.cstring("full collection name")?;
    let Some(database) = name.strip_suffix(".$cmd") else {
        return Err(malformed(format!("OP_QUERY on {name:?}, which is not a $cmd"), name_at));
    };
    bytes.i32("number to skip")?;
    bytes.i32("number to return")?;
    let query_at = bytes.at;
    let query = bytes.document()?;
    if bytes.left() > 0 {
        bytes.document()?;
    }
    if bytes.left() > 0 {
        return Err(bytes.malformed("bytes after the query"));
    }
    let body = unwrap_query(query, database)
        .map_err(|error| malformed(format!("query document: {error}"), query_at))?;
    Ok(Message { legacy: true, ..Message::new(0, 0, body) })
}

/// The command inside a legacy query, with `$db` and `$readPreference` where OP_MSG has them.
fn unwrap_query(query: &RawDocument, database: &str) -> bson::error::Result<RawDocumentBuf> {
    let mut read_preference = None;
    let mut command = query;
    for wrapper in ["$query", "query"] {
        let first = query.iter().next().transpose()?;
        if first.is_some_and(|(key, _)| key.as_str() == wrapper) {
            command = query.get_document(wrapper)?;
            read_preference = query.get("$readPreference")?;
        }
    }
    let mut body = RawDocumentBuf::new();
    let mut has_database = false;
    for element in command.iter() {
        let (key, value) = element?;
        has_database |= key == "$db";
        body.append(key, value);
    }
    if !has_database {
        body.append(bson::raw::cstr!("$db"), database);
    }
    if let Some(read_preference) = read_preference {
        body.append(bson::raw::cstr!("$readPreference"), read_preference);
    }
    Ok(body)
}

fn parse_op_reply(bytes: &mut Bytes<'_>) -> Result<Message, WireError> {
    bytes.i32("response flags")?;
    bytes.take(8, "cursor id")?;
    bytes.i32("starting from")?;
    let count = bytes.i32("number returned")?;
    if count != 1 {
        return Err(bytes.malformed(format!("OP_REPLY of {count} documents, not 1")));
    }
    let body = bytes.document()?.to_owned();
    if bytes.left() > 0 {
        return Err(bytes.malformed("bytes after the reply"));
    }
    Ok(Message { legacy: true, ..Message::new(0, 0, body) })
}

fn malformed(what: impl Into<String>, offset: usize) -> WireError {
    WireError::Malformed { what: what.into(), offset }
}

/// A cursor over one frame that never reads beyond `end`.
struct Bytes<'a> {
    frame: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Bytes<'a> {
    fn left(&self) -> usize {
        self.end - self.at
    }

    fn malformed(&self, what: impl Into<String>) -> WireError {
        malformed(what, self.at)
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], WireError> {
        if self.left() < count {
            return Err(self.malformed(format!("{what} is cut off")));
        }
        let taken = &self.frame[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn u8(&mut self, what: &str) -> Result<u8, WireError> {
        Ok(self.take(1, what)?[0])
    }

    fn u32(&mut self, what: &str) -> Result<u32, WireError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn i32(&mut self, what: &str) -> Result<i32, WireError> {
        Ok(self.u32(what)?.cast_signed())
    }

    fn cstring(&mut self, what: &str) -> Result<&'a str, WireError> {
        let rest = &self.frame[self.at..self.end];
        let Some(length) = rest.iter().position(|byte| *byte == 0) else {
            return Err(self.malformed(format!("{what} is not terminated")));
        };
        let text = std::str::from_utf8(&rest[..length])
            .map_err(|_| self.malformed(format!("{what} is not UTF-8")))?;
        self.at += length + 1;
        Ok(text)
    }

    fn document(&mut self) -> Result<&'a RawDocument, WireError> {
        let start = self.at;
        let length = self.i32("document length")?;
        self.at = start;
        let left = self.left();
        let Some(size) = usize::try_from(length).ok().filter(|size| (5..=left).contains(size))
        else {
            let what = format!("document of {length} bytes but only {left} are left");
            return Err(malformed(what, start));
        };
        let bytes = self.take(size, "document")?;
        RawDocument::from_bytes(bytes)
            .map_err(|error| malformed(format!("document: {error}"), start))
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode_reply;
    use super::*;
    use bson::rawdoc;
    use proptest::prelude::*;

    fn some_messages() -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 0..5 {
            let mut message = Message::new(index, 0, rawdoc! { "insert": "c", "n": index });
            if index % 2 == 0 {
                message.flags = Flags::CHECKSUM_PRESENT;
                let documents = (0..index).map(|id| rawdoc! { "_id": id }).collect();
                message.sequences.push(("documents".into(), documents));
            }
            message.encode(&mut bytes);
        }
        Message::new(5, 0, rawdoc! { "isMaster": 1 }).encode_op_query("admin", &mut bytes);
        bytes
    }

    fn read_all(reader: &mut FrameReader) -> Vec<Message> {
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn any_split_of_the_stream_gives_the_same_messages(
            cuts in proptest::collection::vec(0_usize..400, 0..20)
        ) {
            let bytes = some_messages();
            let mut whole = FrameReader::new();
            whole.feed(&bytes);
            let expected = read_all(&mut whole);
            prop_assert_eq!(expected.len(), 6);

            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut reader = FrameReader::new();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                reader.feed(&bytes[pair[0]..pair[1]]);
                found.extend(read_all(&mut reader));
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(reader.buffered(), 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::new();
            reader.feed(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }

        #[test]
        fn arbitrary_bytes_in_a_good_frame_never_panic(
            opcode in prop_oneof![Just(OP_MSG), Just(OP_QUERY), Just(OP_REPLY), Just(OP_COMPRESSED)],
            payload in proptest::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..200),
        ) {
            let mut bytes = Vec::new();
            let start = super::super::begin(&mut bytes, 1, 2, opcode);
            bytes.extend_from_slice(&payload);
            super::super::finish(&mut bytes, start);
            let mut reader = FrameReader::new();
            reader.feed(&bytes);
            let _ = reader.next();
        }

        #[test]
        fn one_changed_byte_never_panics(at in 0_usize..400, to in any::<u8>()) {
            let mut bytes = some_messages();
            let at = at % bytes.len();
            bytes[at] = to;
            let mut reader = FrameReader::new();
            reader.feed(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }

    #[test]
    fn what_is_missing_is_known_from_the_header_on() {
        let mut bytes = Vec::new();
        encode_reply(&mut bytes, 1, 0, 0, &rawdoc! { "ok": 1 });
        let mut reader = FrameReader::new();
        reader.feed(&bytes[..3]);
        assert_eq!(reader.missing(), 0);
        reader.feed(&bytes[3..10]);
        assert_eq!(reader.missing(), bytes.len() - 10);
        reader.feed(&bytes[10..]);
        assert_eq!(reader.missing(), 0);
        assert!(reader.next().unwrap().is_some());
    }
}
