//! Whatever a compressed message holds, reading it never panics and never grows beyond what it declares;
//! and what is compressed here comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stepdown_driver::options::Compressor;
use stepdown_driver::wire::{FrameReader, HEADER_SIZE_BYTES, OP_COMPRESSED, OP_MSG, compress};

fuzz_target!(|input: &[u8]| {
    let Some((head, packed)) = input.split_at_checked(5) else { return };
    // A frame whose compressor, declared size and content are the fuzzer's.
    let mut frame = Vec::new();
    let length = HEADER_SIZE_BYTES + 9 + packed.len();
    for number in [length as i32, 1, 0, OP_COMPRESSED, OP_MSG] {
        frame.extend_from_slice(&number.to_le_bytes());
    }
    let declared = u32::from_le_bytes([head[0], head[1], head[2], 0]);
    frame.extend_from_slice(&declared.to_le_bytes());
    frame.push(head[4] % 5);
    frame.extend_from_slice(packed);
    let mut reader = FrameReader::new();
    reader.feed(&frame);
    let _ = reader.next();

    // A whole message of the fuzzer's bytes survives the round trip.
    let mut plain = Vec::new();
    for number in [(HEADER_SIZE_BYTES + packed.len()) as i32, 1, 0, OP_MSG] {
        plain.extend_from_slice(&number.to_le_bytes());
    }
    plain.extend_from_slice(packed);
    let read = |bytes: &[u8]| {
        let mut reader = FrameReader::new();
        reader.feed(bytes);
        reader.next().ok().flatten()
    };
    for compressor in
        [Compressor::Snappy, Compressor::Zlib { level: None }, Compressor::Zstd { level: None }]
    {
        let mut bytes = Vec::new();
        compress(&plain, &compressor, &mut bytes).expect("it is built in");
        assert_eq!(read(&bytes), read(&plain));
    }
});
