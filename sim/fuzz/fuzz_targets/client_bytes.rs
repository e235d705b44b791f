//! Whatever bytes a client sends, in whatever pieces: no panic, and the next client is served.
#![no_main]

use std::time::Duration;

use bson::rawdoc;
use libfuzzer_sys::fuzz_target;
use stepdown::Sim;
use stepdown::world::ExternalOutput;
use stepdown_driver::wire::{FrameReader, Message};

fuzz_target!(|input: &[u8]| {
    let sim = Sim::builder().members(1).build();
    let member = sim.elect().name.to_string();
    let hostile = sim.open_external(&*member, "192.0.2.1:4000").expect("it runs");
    // A byte tells how many of the next ones come in one piece.
    let mut rest = input;
    while let Some((length, after)) = rest.split_first() {
        let (piece, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        sim.external_send(hostile, piece.to_vec());
        sim.advance(Duration::from_millis(1));
    }
    sim.take_external_output();

    let calm = sim.open_external(&*member, "192.0.2.1:4001").expect("it still runs");
    let mut bytes = Vec::new();
    Message::new(1, 0, rawdoc! { "ping": 1, "$db": "admin" }).encode(&mut bytes);
    sim.external_send(calm, bytes);
    sim.advance(Duration::from_millis(1));
    let mut frames = FrameReader::new();
    for (id, output) in sim.take_external_output() {
        if let (true, ExternalOutput::Bytes(bytes)) = (id == calm, output) {
            frames.feed(&bytes);
        }
    }
    let reply = frames.next().expect("a server sends good frames").expect("it is answered");
    assert_eq!(reply.body.get_f64("ok").ok(), Some(1.0));
});
