//! What a hostile client might think of, one by one.

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use stepdown_driver::wire::Flags;

use crate::outside::{Answer, Outside, assert_sound};

fn bytes_of(outside: &mut Outside, command: &Document, flags: Flags) -> Vec<u8> {
    let mut message = outside.message(RawDocumentBuf::try_from(command).unwrap());
    message.flags = flags;
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

#[test]
fn a_stream_of_hellos_that_never_wait_does_not_stop_the_clock() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    let hello = outside.reply(client, &doc! { "hello": 1, "$db": "admin" });
    let version = hello.get_document("topologyVersion").unwrap().clone();
    for millis in [Bson::Int32(0), Bson::Double(0.3)] {
        let command = doc! {
            "hello": 1, "topologyVersion": version.clone(), "maxAwaitTimeMS": millis, "$db": "admin",
        };
        let stream = outside.open();
        let bytes = bytes_of(&mut outside, &command, Flags::EXHAUST_ALLOWED);
        outside.send(stream, bytes);
        outside.advance(100);
        assert!((1..=110).contains(&outside.take_replies(stream).len()));
        outside.sim.external_close(stream);
    }
    outside.others_are_served();
}

#[test]
fn a_cluster_time_with_the_largest_increment_does_not_stop_the_cluster_clock() {
    let mut outside = Outside::of(3);
    let client = outside.open();
    let ping = outside.reply(client, &doc! { "ping": 1, "$db": "admin" });
    let now = ping.get_timestamp("operationTime").unwrap();
    for increment in [i32::MAX as u32, u32::MAX] {
        let late = Timestamp { time: now.time + 600, increment };
        let reply = outside.reply(
            client,
            &doc! { "insert": "c", "documents": [{}], "$clusterTime": { "clusterTime": late }, "$db": "db" },
        );
        assert_eq!(reply.get_i32("n").ok(), Some(1), "{reply}");
    }
    let far = Timestamp { time: u32::MAX, increment: u32::MAX };
    let reply = outside
        .reply(client, &doc! { "ping": 1, "$clusterTime": { "clusterTime": far }, "$db": "admin" });
    assert_eq!(reply.get_str("codeName").ok(), Some("ClusterTimeFailsRateLimiter"), "{reply}");
    for field in ["afterClusterTime", "atClusterTime"] {
        let level = if field == "atClusterTime" { "snapshot" } else { "majority" };
        let reply = outside.reply(
            client,
            &doc! { "find": "c", "readConcern": { "level": level, field: far }, "$db": "db" },
        );
        assert_eq!(reply.get_i32("code").ok(), Some(72), "{reply}");
    }
    outside.advance(30_000);
    outside.primary_is_untouched();
    outside.others_are_served();
}

#[test]
fn a_client_may_leave_at_every_stage_of_a_request_that_waits() {
    let mut outside = Outside::of(3);
    let calm = outside.open();
    let create = doc! { "create": "tail", "capped": true, "size": 4096, "$db": "db" };
    outside.reply(calm, &create);
    outside.reply(calm, &doc! { "insert": "tail", "documents": [{ "_id": 1 }], "$db": "db" });
    let hello = outside.reply(calm, &doc! { "hello": 1, "$db": "admin" });
    let version = hello.get_document("topologyVersion").unwrap().clone();
    let secondaries = outside.sim.secondaries();
    let waiting = [
        doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 60_000, "$db": "admin" },
        doc! { "insert": "c", "documents": [{}], "writeConcern": { "w": 3 }, "$db": "db" },
        doc! { "find": "c", "readConcern": { "level": "linearizable" }, "$db": "db" },
        doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 30, "$db": "admin" },
    ];
    for secondary in &secondaries {
        outside.sim.pause(&*secondary.name).unwrap();
    }
    for command in &waiting {
        for millis in [0, 1, 50] {
            let client = outside.open();
            let bytes = bytes_of(&mut outside, command, Flags(0));
            outside.send(client, bytes);
            outside.advance(millis);
            outside.sim.external_close(client);
            outside.advance(1);
        }
    }
    outside.others_are_served();
    for secondary in &secondaries {
        outside.sim.resume(&*secondary.name).unwrap();
    }
    outside.advance(60_000);
    outside.others_are_served();
    assert!(outside.sim.primary().is_some());
}

#[test]
fn a_step_down_whose_client_left_leaves_a_writable_primary() {
    let mut outside = Outside::of(3);
    for secondary in outside.sim.secondaries() {
        outside.sim.pause(&*secondary.name).unwrap();
    }
    let calm = outside.open();
    outside.reply(
        calm,
        &doc! {
            "insert": "c", "documents": [{}], "writeConcern": { "w": 1 }, "$db": "db",
        },
    );
    let client = outside.open();
    let command = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 5, "$db": "admin" };
    let bytes = bytes_of(&mut outside, &command, Flags(0));
    outside.send(client, bytes);
    outside.advance(10);
    outside.sim.external_close(client);
    outside.advance(1_000);
    let insert = doc! {
        "insert": "c", "documents": [{}], "writeConcern": { "w": 1 }, "$db": "db",
    };
    let reply = outside.reply(calm, &insert);
    assert_eq!(reply.get_i32("n").ok(), Some(1), "{reply}");
}

#[test]
fn a_reconfiguration_whose_client_left_does_not_block_the_next() {
    let mut outside = Outside::of(3);
    let calm = outside.open();
    let shown = outside.reply(calm, &doc! { "replSetGetConfig": 1, "$db": "admin" });
    let mut config = shown.get_document("config").unwrap().clone();
    for version in [2, 3] {
        config.insert("version", version);
        let client = outside.open();
        let command = doc! { "replSetReconfig": config.clone(), "$db": "admin" };
        let bytes = bytes_of(&mut outside, &command, Flags(0));
        outside.send(client, bytes);
        outside.advance(0);
        outside.sim.external_close(client);
    }
    outside.advance(20_000);
    config.insert("version", 9);
    let reply = outside.reply(calm, &doc! { "replSetReconfig": config, "$db": "admin" });
    assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{reply}");
}

#[test]
fn cursors_are_their_owners() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    let found = outside.reply(client, &doc! { "find": "c", "batchSize": 1, "$db": "db" });
    let id = found.get_document("cursor").unwrap().get_i64("id").unwrap();
    let lsid = bson::Binary::from_uuid(bson::Uuid::from_bytes([9; 16]));
    for foreign in [
        doc! { "getMore": id, "collection": "other", "$db": "db" },
        doc! { "getMore": id, "collection": "c", "$db": "admin" },
        doc! { "getMore": id, "collection": "c", "lsid": { "id": lsid }, "$db": "db" },
        doc! { "getMore": id ^ 1, "collection": "c", "$db": "db" },
        doc! { "getMore": 0_i64, "collection": "c", "$db": "db" },
        doc! { "getMore": i64::MIN, "collection": "c", "$db": "db" },
    ] {
        let other = outside.open();
        let reply = outside.reply(other, &foreign);
        assert_eq!(reply.get_f64("ok").ok(), Some(0.0), "{foreign}: {reply}");
    }
    let killed = doc! { "killCursors": "other", "cursors": [id], "$db": "db" };
    outside.reply(client, &killed);
    let more = outside.reply(client, &doc! { "getMore": id, "collection": "c", "$db": "db" });
    assert_eq!(more.get_f64("ok").ok(), Some(1.0), "{more}");
}

#[test]
fn clients_who_wake_each_other_in_turn_are_all_answered() {
    const EACH: usize = 6_000;
    let mut outside = Outside::of(1);
    let calm = outside.open();
    let mut pair = Vec::new();
    for (own, other) in [("x", "y"), ("y", "x")] {
        let create = doc! { "create": own, "capped": true, "size": 1_000_000, "$db": "db" };
        outside.reply(calm, &create);
        pair.push((own, other, outside.open()));
    }
    for (own, _, _) in &pair {
        outside.reply(calm, &doc! { "insert": *own, "documents": [{}], "$db": "db" });
    }
    for (own, other, client) in &pair {
        let find = doc! { "find": *own, "tailable": true, "awaitData": true, "$db": "db" };
        let found = outside.reply(*client, &find);
        let id = found.get_document("cursor").unwrap().get_i64("id").unwrap();
        let mut bytes = Vec::new();
        for _ in 0..EACH {
            let more =
                rawdoc! { "getMore": id, "collection": *own, "maxTimeMS": 1_000_000, "$db": "db" };
            outside.message(more).encode(&mut bytes);
            let insert = rawdoc! {
                "insert": *other, "documents": [{}], "writeConcern": { "w": 1, "j": false }, "$db": "db",
            };
            outside.message(insert).encode(&mut bytes);
        }
        outside.send(*client, bytes);
    }
    outside.advance(1);
    outside.reply(calm, &doc! { "insert": "x", "documents": [{}], "$db": "db" });
    outside.advance(10_000);
    assert!(outside.take_replies(pair[0].2).len() >= EACH);
    outside.others_are_served();
}

#[test]
fn the_largest_numbers_of_the_replication_commands_are_just_long_times() {
    for (field, value) in [
        ("replSetFreeze", Bson::Int64(i64::MAX)),
        ("replSetFreeze", Bson::Double(f64::INFINITY)),
        ("replSetStepDown", Bson::Int64(i64::MAX)),
        ("replSetStepDown", Bson::Double(1e300)),
    ] {
        let mut outside = Outside::of(3);
        let client = outside.open();
        let mut command = Document::new();
        command.insert(field, value);
        command.insert("$db", "admin");
        let reply = outside.reply(client, &command);
        assert_sound(&reply, &command);
        outside.others_are_served();
        outside.advance(60_000);
        assert!(outside.sim.primary().is_some(), "{command}: the others elect one");
    }
}

#[test]
fn a_forced_configuration_with_the_last_version_is_refused() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    let shown = outside.reply(client, &doc! { "replSetGetConfig": 1, "$db": "admin" });
    let mut config = shown.get_document("config").unwrap().clone();
    for version in [Bson::Int64(i64::MAX), Bson::Int32(i32::MAX), Bson::Int64(i64::MIN)] {
        config.insert("version", version);
        let command = doc! { "replSetReconfig": config.clone(), "force": true, "$db": "admin" };
        let reply = outside.reply(client, &command);
        assert_sound(&reply, &command);
    }
    outside.others_are_served();
}

#[test]
fn a_hundred_thousand_documents_in_one_batch_and_sixteen_megabytes_in_one_document_are_taken() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    let mut message = outside.message(rawdoc! { "insert": "many", "$db": "db" });
    let documents = (0..100_000).map(|id| rawdoc! { "_id": id }).collect();
    message.sequences.push(("documents".into(), documents));
    let Answer::Reply(reply) = outside.ask_message(client, &message) else { panic!("no reply") };
    assert_eq!(reply.get_i32("n").ok(), Some(100_000));
    let large = "x".repeat(15 << 20);
    let reply = outside.reply(
        client,
        &doc! { "insert": "large", "documents": [{ "_id": 1, "x": large }], "$db": "db" },
    );
    assert_eq!(reply.get_i32("n").ok(), Some(1));
    let found = outside.reply(client, &doc! { "find": "large", "$db": "db" });
    assert_eq!(found.get_f64("ok").ok(), Some(1.0));
    outside.others_are_served();
}

#[test]
fn keys_that_expressions_make_hold_no_nul() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    for expression in [
        doc! { "$arrayToObject": [[["a\0b", 1]]] },
        doc! { "$arrayToObject": [[{ "k": "a\0b", "v": 1 }]] },
        doc! { "$setField": { "field": "a\0b", "input": "$$ROOT", "value": 1 } },
        doc! { "$getField": "a\0b" },
        doc! { "$literal": "a\0b" },
        doc! { "$regexMatch": { "input": "x", "regex": "a\0b" } },
        doc! { "$dateToString": { "date": "$$NOW", "format": "%Y\0" } },
    ] {
        for stage in [
            doc! { "$project": { "x": expression.clone() } },
            doc! { "$replaceWith": expression.clone() },
            doc! { "$group": { "_id": expression.clone() } },
        ] {
            let command = doc! {
                "aggregate": "c", "pipeline": [stage], "cursor": {}, "$db": "db",
            };
            let reply = outside.reply(client, &command);
            assert_sound(&reply, &command);
        }
    }
    outside.others_are_served();
}

#[test]
fn forged_positions_and_terms_commit_nothing_and_stop_no_election() {
    // A primary that is lied to about its followers commits what no majority has: no invariants.
    let mut outside = Outside::with(stepdown::Sim::builder().members(3).check_invariants(false));
    let client = outside.open();
    let far = doc! { "ts": Timestamp { time: u32::MAX, increment: u32::MAX }, "t": i64::MAX };
    let date = bson::DateTime::from_millis(i64::MAX);
    let position = |member: i32| {
        doc! {
            "durableOpTime": far.clone(), "durableWallTime": date, "appliedOpTime": far.clone(),
            "appliedWallTime": date, "writtenOpTime": far.clone(), "writtenWallTime": date,
            "memberId": member, "cfgver": 1_i64,
        }
    };
    let update = doc! {
        "replSetUpdatePosition": 1, "optimes": [position(0), position(1), position(2), position(9)],
        "$replData": { "term": 1_i64 }, "$db": "admin",
    };
    assert_sound(&outside.reply(client, &update), &update);
    let insert = doc! { "insert": "c", "documents": [{}], "$db": "db" };
    assert_eq!(outside.reply(client, &insert).get_i32("n").ok(), Some(1));
    for term in [i64::MAX, i64::MAX - 1, 1 << 40, i64::MIN, 5] {
        let optime = doc! { "ts": Timestamp { time: 1, increment: 1 }, "t": term };
        let votes = doc! {
            "replSetRequestVotes": 1, "setName": "foo", "dryRun": false, "term": term,
            "candidateIndex": 1_i64, "configVersion": 1_i64, "configTerm": 1_i64,
            "lastWrittenOpTime": optime.clone(), "lastAppliedOpTime": optime, "$db": "admin",
        };
        assert_sound(&outside.reply(client, &votes), &votes);
        for from in ["a:27017", "nowhere:1", ""] {
            let heartbeat = doc! {
                "replSetHeartbeat": "foo", "configVersion": i64::MAX, "configTerm": i64::MAX,
                "hbv": 1_i64, "from": from, "fromId": 1, "term": term, "primaryId": 1, "$db": "admin",
            };
            assert_sound(&outside.reply(client, &heartbeat), &heartbeat);
        }
        outside.advance(60_000);
        assert!(outside.sim.primary().is_some());
    }
}
