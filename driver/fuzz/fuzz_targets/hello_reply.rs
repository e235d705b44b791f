//! Whatever a server says of itself, reading it and believing it never panics.
#![no_main]

use bson::RawDocumentBuf;
use bson::oid::ObjectId;
use libfuzzer_sys::fuzz_target;
use stepdown_driver::sdam::{ServerDescription, Topology, TopologyOptions};
use stepdown_driver::{Instant, ServerAddress};

fuzz_target!(|input: &[u8]| {
    let address = ServerAddress::new("a", 27017);
    let mut options = TopologyOptions::default();
    options.seeds.push(address.clone());
    let mut topology = Topology::new(ObjectId::from_bytes([0; 12]), options);
    let mut effects = Vec::new();
    topology.open(&mut effects);
    // As many replies as there are documents in the bytes, one after another.
    let mut rest = input;
    while let Some(length) = rest.first_chunk::<4>() {
        let length = (i32::from_le_bytes(*length).max(5) as usize).min(rest.len());
        let (document, after) = rest.split_at(length);
        rest = after;
        let Ok(reply) = RawDocumentBuf::from_bytes(document.to_vec()) else { continue };
        let hello = ServerDescription::from_hello(address.clone(), Instant::ZERO, &reply);
        topology.on_hello(hello, &mut effects);
    }
});
