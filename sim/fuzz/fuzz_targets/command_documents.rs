//! Good messages around command documents of which only the outermost frame is sound: each is answered,
//! or its connection closed, and nothing panics.
#![no_main]

use std::time::Duration;

use bson::RawDocumentBuf;
use libfuzzer_sys::fuzz_target;
use stepdown::Sim;
use stepdown_driver::wire::Message;

/// Commands that read the most of what they are given.
const COMMANDS: [&str; 16] = [
    "aggregate", "bulkWrite", "collMod", "count", "create", "createIndexes", "createUser", "delete",
    "distinct", "find", "findAndModify", "getMore", "hello", "insert", "replSetReconfig", "update",
];

/// `{<name>: "c", $db: "db", ...}` with elements of the input behind.
fn command(name: &str, rest: &[u8]) -> Option<RawDocumentBuf> {
    let mut inner = vec![0x02];
    inner.extend_from_slice(name.as_bytes());
    inner.extend_from_slice(b"\0\x02\0\0\0c\0");
    inner.extend_from_slice(b"\x02$db\0\x03\0\0\0db\0");
    inner.extend_from_slice(rest);
    let mut bytes = i32::try_from(inner.len() + 5).ok()?.to_le_bytes().to_vec();
    bytes.extend_from_slice(&inner);
    bytes.push(0);
    RawDocumentBuf::from_bytes(bytes).ok()
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let Some(body) = command(COMMANDS[usize::from(first % 16)], rest) else { return };
    let sim = Sim::builder().members(1).build();
    let member = sim.elect().name.to_string();
    let client = sim.open_external(&*member, "192.0.2.1:4000").expect("it runs");
    let mut bytes = Vec::new();
    Message::new(1, 0, body).encode(&mut bytes);
    sim.external_send(client, bytes);
    // Long enough for whatever it may wait for by default.
    sim.advance(Duration::from_secs(20));
    sim.take_external_output();
});
