//! Random bytes, broken frames, good frames around random documents.

use bson::{RawDocumentBuf, doc, rawdoc};
use proptest::prelude::*;
use stepdown_driver::wire::Message;

use crate::outside::{Answer, Outside, assert_sound};

/// A document of which only the frame is sound.
fn framed(inner: &[u8]) -> RawDocumentBuf {
    let mut bytes = i32::try_from(inner.len() + 5).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(inner);
    bytes.push(0);
    RawDocumentBuf::from_bytes(bytes).expect("its length and end are right")
}

fn frame(length: i32, opcode: i32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [length, 7, 0, opcode] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A command with elements of random bytes behind its name.
fn command_of(name: &str, rest: &[u8]) -> RawDocumentBuf {
    let mut inner = vec![0x10];
    inner.extend_from_slice(name.as_bytes());
    inner.extend_from_slice(&[0, 1, 0, 0, 0]);
    inner.extend_from_slice(b"\x02$db\0\x06\0\0\0admin\0");
    inner.extend_from_slice(rest);
    framed(&inner)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_disturb_nobody(
        segments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..5),
    ) {
        let mut outside = Outside::of(1);
        let hostile = outside.open();
        for segment in segments {
            outside.send(hostile, segment);
            outside.advance(1);
        }
        outside.others_are_served();
        outside.primary_is_untouched();
    }

    #[test]
    fn a_good_frame_around_random_bytes_disturbs_nobody(
        opcode in prop_oneof![Just(2013), Just(2004), Just(2012), Just(1), any::<i32>()],
        payload in proptest::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..200),
    ) {
        let mut outside = Outside::of(1);
        let hostile = outside.open();
        let length = i32::try_from(payload.len() + 16).unwrap();
        outside.send(hostile, frame(length, opcode, &payload));
        outside.advance(1);
        outside.others_are_served();
        outside.primary_is_untouched();
    }

    #[test]
    fn random_elements_in_a_good_command_are_answered(
        name in prop_oneof![
            Just("ping"), Just("find"), Just("insert"), Just("hello"), Just("aggregate"),
            Just("replSetReconfig"), Just("replSetInitiate"), Just("update"), Just("no such command"),
        ],
        rest in proptest::collection::vec(prop_oneof![0_u8..20, any::<u8>()], 0..100),
    ) {
        let mut outside = Outside::of(1);
        let hostile = outside.open();
        let message = outside.message(command_of(name, &rest));
        match outside.ask_message(hostile, &message) {
            Answer::Reply(reply) => assert_sound(&reply, &name),
            other => panic!("{other:?} to {name} with {rest:?}"),
        }
        outside.others_are_served();
        outside.primary_is_untouched();
    }

    #[test]
    fn one_changed_byte_of_a_good_command_disturbs_nobody(at in 0_usize..500, to in any::<u8>()) {
        let mut outside = Outside::of(1);
        let hostile = outside.open();
        let mut message = outside.message(rawdoc! {
            "insert": "c", "ordered": true, "$db": "db", "writeConcern": { "w": 1 },
        });
        message.sequences.push(("documents".into(), vec![rawdoc! { "_id": "x", "a": [1, { "b": 2 }] }]));
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let at = at % bytes.len();
        bytes[at] = to;
        outside.send(hostile, bytes);
        outside.advance(100);
        outside.others_are_served();
        outside.primary_is_untouched();
    }
}

#[test]
fn a_length_no_message_may_have_closes_the_connection_at_once() {
    let mut outside = Outside::of(1);
    for length in [i32::MIN, -1, 0, 15, 48_000_001, i32::MAX] {
        let hostile = outside.open();
        outside.send(hostile, frame(length, 2013, &[]));
        outside.advance(1);
        assert!(outside.is_closed(hostile), "{length}");
    }
    outside.others_are_served();
}

#[test]
fn what_came_before_a_malformed_frame_is_answered_before_the_connection_closes() {
    let mut outside = Outside::of(1);
    let hostile = outside.open();
    let mut bytes = Vec::new();
    outside.message(rawdoc! { "ping": 1, "$db": "admin" }).encode(&mut bytes);
    bytes.extend_from_slice(&frame(20, 9_999, &[0; 4]));
    outside.send(hostile, bytes);
    outside.advance(1);
    assert_eq!(outside.take_replies(hostile).len(), 1);
    assert!(outside.is_closed(hostile));
}

#[test]
fn half_a_frame_keeps_nobody_waiting_but_its_sender() {
    let mut outside = Outside::of(1);
    let hostile = outside.open();
    outside.send(hostile, frame(1_000, 2013, &[0; 100]));
    outside.advance(3_600_000);
    assert!(!outside.is_closed(hostile));
    outside.others_are_served();
}

#[test]
fn documents_nested_too_deep_are_refused_wherever_they_stand() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    // Written as bytes: encoding it by recursion would not survive.
    let mut deep = vec![];
    for _ in 0..100_000 {
        let mut next = i32::try_from(deep.len() + 8).unwrap().to_le_bytes().to_vec();
        next.extend_from_slice(b"\x03a\0");
        if deep.is_empty() {
            next = vec![5, 0, 0, 0];
        } else {
            next.extend_from_slice(&deep);
        }
        next.push(0);
        deep = next;
        if deep.len() > 20_000 {
            break;
        }
    }
    let deep = RawDocumentBuf::from_bytes(deep).unwrap();
    for name in ["find", "aggregate", "replSetReconfig", "hello", "ping", "insert"] {
        let mut body = rawdoc! { "$db": "admin" };
        body = {
            let mut command = RawDocumentBuf::new();
            command.append(<&bson::raw::CStr>::try_from(name).unwrap(), "c");
            command.append(bson::raw::cstr!("filter"), &*deep);
            for (key, value) in body.iter().flatten() {
                command.append(key, value);
            }
            command
        };
        let message = outside.message(body);
        let Answer::Reply(reply) = outside.ask_message(client, &message) else { panic!("{name}") };
        assert_eq!(reply.get_i32("code").ok(), Some(15), "{name}: {reply}");
    }
    let mut message = outside.message(rawdoc! { "insert": "c", "$db": "db" });
    message.sequences.push(("documents".into(), vec![deep]));
    let Answer::Reply(reply) = outside.ask_message(client, &message) else { panic!("no reply") };
    assert_eq!(reply.get_i32("code").ok(), Some(15), "{reply}");
    outside.others_are_served();
}

#[test]
fn sequences_under_unexpected_names_are_answered() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    for name in ["", "$db", "insert", "documents", "updates", "lsid", "pipeline"] {
        for command in ["insert", "find", "ping", "aggregate", "hello", "update"] {
            let mut body = RawDocumentBuf::new();
            body.append(<&bson::raw::CStr>::try_from(command).unwrap(), "c");
            body.append(bson::raw::cstr!("$db"), "db");
            let mut message: Message = outside.message(body);
            let documents = vec![rawdoc! {}, rawdoc! { "_id": { "$x": 1 } }];
            message.sequences.push((name.into(), documents));
            match outside.ask_message(client, &message) {
                Answer::Reply(reply) => assert_sound(&reply, &name),
                other => panic!("{other:?} to {command} with a sequence {name:?}"),
            }
        }
    }
    outside.others_are_served();
}

#[test]
fn ten_thousand_pings_in_one_segment_are_all_answered_in_order() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    let mut bytes = Vec::new();
    let first = outside.message(rawdoc! { "ping": 1, "$db": "admin" });
    first.encode(&mut bytes);
    for _ in 1..10_000 {
        outside.message(rawdoc! { "ping": 1, "$db": "admin" }).encode(&mut bytes);
    }
    outside.send(client, bytes);
    outside.advance(1);
    let answered: Vec<i32> =
        outside.take_replies(client).iter().map(|reply| reply.response_to).collect();
    let expected: Vec<i32> = (first.request_id..).take(10_000).collect();
    assert_eq!(answered, expected);
    let reply = outside.reply(client, &doc! { "ping": 1, "$db": "admin" });
    assert_eq!(reply.get_f64("ok").ok(), Some(1.0));
}

#[test]
fn a_message_of_a_million_document_sequences_closes_its_connection_and_stalls_nobody() {
    let mut outside = Outside::of(1);
    let hostile = outside.open();
    let mut payload = vec![0; 4];
    payload.push(0);
    payload.extend_from_slice(rawdoc! { "insert": "c", "$db": "db" }.as_bytes());
    for number in 0..1_000_000 {
        let name = format!("{number:x}\0");
        payload.push(1);
        payload.extend_from_slice(&i32::try_from(name.len() + 4).unwrap().to_le_bytes());
        payload.extend_from_slice(name.as_bytes());
    }
    let length = i32::try_from(payload.len() + 16).unwrap();
    outside.send(hostile, frame(length, 2013, &payload));
    outside.advance(1);
    assert!(outside.is_closed(hostile));
    outside.others_are_served();
}
