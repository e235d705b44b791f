//! Whatever the bytes and however they are split, the reader never panics, and a message it takes is
//! encoded into bytes that read as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stepdown_driver::wire::{FrameReader, Message};

fuzz_target!(|input: &[u8]| {
    let Some((&split, bytes)) = input.split_first() else { return };
    let split = usize::from(split).min(bytes.len());
    let mut reader = FrameReader::new();
    reader.feed(&bytes[..split]);
    let mut messages = Vec::new();
    while let Ok(Some(message)) = reader.next() {
        messages.push(message);
    }
    reader.feed(&bytes[split..]);
    while let Ok(Some(message)) = reader.next() {
        messages.push(message);
    }
    for message in messages {
        let again = Message { legacy: false, ..message };
        let mut encoded = Vec::new();
        again.encode(&mut encoded);
        let mut reader = FrameReader::new();
        reader.feed(&encoded);
        assert_eq!(reader.next(), Ok(Some(again)));
    }
});
