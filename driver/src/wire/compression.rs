//! OP_COMPRESSED: a message wrapped by snappy, zlib or zstd (compression specification).
//!
//! Each compressor is behind the feature of its name; the noop compressor is always known. What a
//! build lacks is refused with a [`WireError::Compressor`] that says so.

use super::{HEADER_SIZE_BYTES, MAX_MESSAGE_SIZE_BYTES, OP_COMPRESSED, WireError, begin, finish};
use crate::options::Compressor;

/// Bytes of OP_COMPRESSED between the header and what is compressed: original opcode, original size,
/// compressor.
const PREFIX_SIZE_BYTES: usize = 9;

/// The numbers of the compressors on the wire.
mod id {
    pub(super) const NOOP: u8 = 0;
    pub(super) const SNAPPY: u8 = 1;
    pub(super) const ZLIB: u8 = 2;
    pub(super) const ZSTD: u8 = 3;
}

/// Whether this build of the driver has the compressor: the feature of its name is on.
pub fn is_compressor_built_in(compressor: &Compressor) -> bool {
    match compressor {
        Compressor::Snappy => cfg!(feature = "snappy"),
        Compressor::Zlib { .. } => cfg!(feature = "zlib"),
        Compressor::Zstd { .. } => cfg!(feature = "zstd"),
    }
}

/// Whether a command may be compressed: those that open and authenticate connections, and those that
/// carry secrets, are not.
pub fn is_compressible(command: &str) -> bool {
    ![
        "hello",
        "isMaster",
        "saslStart",
        "saslContinue",
        "getnonce",
        "authenticate",
        "createUser",
        "updateUser",
        "copydbSaslStart",
        "copydbgetnonce",
        "copydb",
    ]
    .iter()
    .any(|never| never.eq_ignore_ascii_case(command))
}

/// Appends `message`, one whole message with its header, to `out` as an OP_COMPRESSED.
///
/// # Errors
/// `Compressor` if this build does not have it, `Malformed` if `message` is not a whole message, or
/// the compressor fails.
pub fn compress(
    message: &[u8],
    compressor: &Compressor,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    if message.len() < HEADER_SIZE_BYTES || message.len() > MAX_MESSAGE_SIZE_BYTES {
        return Err(failed("what is to be compressed is not a message"));
    }
    let number = |at: usize| {
        let bytes = [message[at], message[at + 1], message[at + 2], message[at + 3]];
        i32::from_le_bytes(bytes)
    };
    let payload = &message[HEADER_SIZE_BYTES..];
    let start = begin(out, number(4), number(8), OP_COMPRESSED);
    out.extend_from_slice(&number(12).to_le_bytes());
    let size = i32::try_from(payload.len()).map_err(|_| failed("the message is too long"))?;
    out.extend_from_slice(&size.to_le_bytes());
    let packed = match compressor {
        Compressor::Snappy => pack_snappy(payload, out),
        Compressor::Zlib { level } => pack_zlib(payload, *level, out),
        Compressor::Zstd { level } => pack_zstd(payload, *level, out),
    };
    if packed.is_err() {
        out.truncate(start);
    }
    packed?;
    finish(out, start);
    Ok(())
}

/// Unwraps an OP_COMPRESSED frame: the whole message as it was before, header included.
///
/// Never writes more than the size the frame declares, which is at most [`MAX_MESSAGE_SIZE_BYTES`].
pub(super) fn unwrap(frame: &[u8]) -> Result<Vec<u8>, WireError> {
    let malformed = |what: String, offset: usize| WireError::Malformed {
        what,
        offset: HEADER_SIZE_BYTES + offset,
    };
    let Some((prefix, packed)) = frame[HEADER_SIZE_BYTES..].split_at_checked(PREFIX_SIZE_BYTES)
    else {
        return Err(malformed("the prefix of OP_COMPRESSED is cut off".to_owned(), 0));
    };
    let opcode = i32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]);
    let declared = i32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
    let compressor = prefix[8];
    if opcode == OP_COMPRESSED {
        return Err(malformed("OP_COMPRESSED inside OP_COMPRESSED".to_owned(), 0));
    }
    let size = usize::try_from(declared)
        .ok()
        .filter(|size| *size <= MAX_MESSAGE_SIZE_BYTES - HEADER_SIZE_BYTES)
        .ok_or_else(|| malformed(format!("uncompressed size {declared}"), 4))?;
    let mut whole = Vec::new();
    whole.extend_from_slice(&frame[..HEADER_SIZE_BYTES]);
    match compressor {
        id::NOOP => whole.extend_from_slice(packed),
        id::SNAPPY => unpack_snappy(packed, size, &mut whole)?,
        id::ZLIB => unpack_zlib(packed, size, &mut whole)?,
        id::ZSTD => unpack_zstd(packed, size, &mut whole)?,
        id => return Err(WireError::Compressor { id, name: "unknown" }),
    }
    let found = whole.len() - HEADER_SIZE_BYTES;
    if found != size {
        let what = format!("uncompressed size {size} but {found} bytes follow");
        return Err(malformed(what, PREFIX_SIZE_BYTES));
    }
    whole[12..16].copy_from_slice(&opcode.to_le_bytes());
    finish(&mut whole, 0);
    Ok(whole)
}

fn failed(what: impl std::fmt::Display) -> WireError {
    WireError::Malformed { what: what.to_string(), offset: HEADER_SIZE_BYTES + PREFIX_SIZE_BYTES }
}

#[cfg(feature = "snappy")]
fn pack_snappy(payload: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    out.push(id::SNAPPY);
    let start = out.len();
    out.resize(start + snap::raw::max_compress_len(payload.len()), 0);
    let written = snap::raw::Encoder::new().compress(payload, &mut out[start..]).map_err(failed)?;
    out.truncate(start + written);
    Ok(())
}

#[cfg(feature = "snappy")]
fn unpack_snappy(packed: &[u8], size: usize, whole: &mut Vec<u8>) -> Result<(), WireError> {
    let within = snap::raw::decompress_len(packed).map_err(failed)?;
    if within != size {
        return Err(failed(format!("snappy holds {within} bytes, not {size}")));
    }
    let start = whole.len();
    whole.resize(start + size, 0);
    let written =
        snap::raw::Decoder::new().decompress(packed, &mut whole[start..]).map_err(failed)?;
    whole.truncate(start + written);
    Ok(())
}

#[cfg(not(feature = "snappy"))]
fn pack_snappy(_: &[u8], _: &mut Vec<u8>) -> Result<(), WireError> {
    Err(WireError::Compressor { id: id::SNAPPY, name: "snappy" })
}

#[cfg(not(feature = "snappy"))]
fn unpack_snappy(_: &[u8], _: usize, _: &mut Vec<u8>) -> Result<(), WireError> {
    Err(WireError::Compressor { id: id::SNAPPY, name: "snappy" })
}

#[cfg(feature = "zlib")]
fn pack_zlib(payload: &[u8], level: Option<i32>, out: &mut Vec<u8>) -> Result<(), WireError> {
    use std::io::Write;
    out.push(id::ZLIB);
    let level = match level.and_then(|level| u32::try_from(level).ok()) {
        Some(level) => flate2::Compression::new(level.min(9)),
        None => flate2::Compression::default(),
    };
    let mut encoder = flate2::write::ZlibEncoder::new(out, level);
    encoder.write_all(payload).map_err(failed)?;
    encoder.finish().map_err(failed)?;
    Ok(())
}

#[cfg(feature = "zlib")]
fn unpack_zlib(packed: &[u8], size: usize, whole: &mut Vec<u8>) -> Result<(), WireError> {
    use std::io::Read;
    // One byte more than declared shows that there is more.
    let most = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1);
    flate2::read::ZlibDecoder::new(packed).take(most).read_to_end(whole).map_err(failed)?;
    Ok(())
}

#[cfg(not(feature = "zlib"))]
fn pack_zlib(_: &[u8], _: Option<i32>, _: &mut Vec<u8>) -> Result<(), WireError> {
    Err(WireError::Compressor { id: id::ZLIB, name: "zlib" })
}

#[cfg(not(feature = "zlib"))]
fn unpack_zlib(_: &[u8], _: usize, _: &mut Vec<u8>) -> Result<(), WireError> {
    Err(WireError::Compressor { id: id::ZLIB, name: "zlib" })
}

#[cfg(feature = "zstd")]
fn pack_zstd(payload: &[u8], level: Option<i32>, out: &mut Vec<u8>) -> Result<(), WireError> {
    out.push(id::ZSTD);
    let packed = zstd::bulk::compress(payload, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL));
    out.extend_from_slice(&packed.map_err(failed)?);
    Ok(())
}

#[cfg(feature = "zstd")]
fn unpack_zstd(packed: &[u8], size: usize, whole: &mut Vec<u8>) -> Result<(), WireError> {
    use std::io::Read;
    let most = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1);
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?;
    decoder.take(most).read_to_end(whole).map_err(failed)?;
    Ok(())
}

#[cfg(not(feature = "zstd"))]
fn pack_zstd(_: &[u8], _: Option<i32>, _: &mut Vec<u8>) -> Result<(), WireError> {
    Err(WireError::Compressor { id: id::ZSTD, name: "zstd" })
}

#[cfg(not(feature = "zstd"))]
fn unpack_zstd(_: &[u8], _: usize, _: &mut Vec<u8>) -> Result<(), WireError> {
    Err(WireError::Compressor { id: id::ZSTD, name: "zstd" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameReader, Message};
    use bson::rawdoc;
    use proptest::prelude::*;

    fn all() -> [Compressor; 3] {
        [Compressor::Snappy, Compressor::Zlib { level: Some(6) }, Compressor::Zstd { level: None }]
    }

    fn message(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        Message::new(9, 8, rawdoc! { "text": text, "ok": 1.0 }).encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_compressed_message_comes_back_as_it_was() {
        let plain = message(&"again and ".repeat(300));
        for compressor in all().iter().filter(|one| is_compressor_built_in(one)) {
            let mut packed = Vec::new();
            compress(&plain, compressor, &mut packed).unwrap();
            assert!(packed.len() < plain.len() / 4, "{compressor:?}: {}", packed.len());
            let mut reader = FrameReader::new();
            reader.feed(&packed);
            let found = reader.next().unwrap().unwrap();
            assert_eq!((found.request_id, found.response_to), (9, 8));
            let mut again = Vec::new();
            found.encode(&mut again);
            assert_eq!(again, plain);
        }
    }

    #[test]
    fn what_a_build_lacks_is_refused_by_name() {
        for compressor in all().iter().filter(|one| !is_compressor_built_in(one)) {
            let error = compress(&message("x"), compressor, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(compressor.name()), "{error}");
        }
    }

    #[test]
    fn a_message_larger_than_it_says_is_refused() {
        let plain = message(&"x".repeat(10_000));
        for compressor in all().iter().filter(|one| is_compressor_built_in(one)) {
            let mut packed = Vec::new();
            compress(&plain, compressor, &mut packed).unwrap();
            packed[20..24].copy_from_slice(&100_i32.to_le_bytes());
            let mut reader = FrameReader::new();
            reader.feed(&packed);
            assert!(reader.next().is_err(), "{compressor:?}");
        }
    }

    #[test]
    fn secrets_and_greetings_are_never_compressed() {
        assert!(!is_compressible("ismaster") && !is_compressible("saslStart"));
        assert!(is_compressible("insert") && is_compressible("ping"));
    }

    proptest! {
        #[test]
        fn arbitrary_compressed_bytes_never_panic(
            compressor in 0_u8..5,
            size in -2_i32..4000,
            packed in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = Vec::new();
            let start = begin(&mut bytes, 1, 2, OP_COMPRESSED);
            bytes.extend_from_slice(&crate::wire::OP_MSG.to_le_bytes());
            bytes.extend_from_slice(&size.to_le_bytes());
            bytes.push(compressor);
            bytes.extend_from_slice(&packed);
            finish(&mut bytes, start);
            let mut reader = FrameReader::new();
            reader.feed(&bytes);
            let _ = reader.next();
        }

        #[test]
        fn one_changed_byte_of_a_compressed_message_never_panics(
            which in 0_usize..3, at in 16_usize..400, to in any::<u8>(),
        ) {
            let compressor = &all()[which];
            let mut bytes = Vec::new();
            if compress(&message("and so on, and so on, and so on"), compressor, &mut bytes).is_ok() {
                let at = at % bytes.len();
                if at >= 16 { bytes[at] = to; }
                let mut reader = FrameReader::new();
                reader.feed(&bytes);
                let _ = reader.next();
            }
        }
    }
}
