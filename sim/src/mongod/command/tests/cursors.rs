//! Stories of reads and cursors.

use bson::{Timestamp, doc};

use super::*;

fn filled(count: i32) -> Server {
    let mut server = Server::new();
    let documents: Vec<_> = (0..count).map(|id| doc! { "_id": id, "x": id % 3 }).collect();
    server.ok("t", doc! { "insert": "c", "documents": documents });
    server
}

fn ids(documents: &[Document]) -> Vec<i32> {
    documents.iter().map(|document| document.get_i32("_id").unwrap()).collect()
}

#[test]
fn a_find_gives_101_documents_and_a_cursor_for_the_rest() {
    let mut server = filled(250);
    let reply = server.ok("t", doc! { "find": "c" });
    assert_eq!(first_batch(&reply).len(), 101);
    let id = cursor_id(&reply);
    assert!(id > 0);
    let reply = server.ok("t", doc! { "getMore": id, "collection": "c", "batchSize": 100 });
    assert_eq!((first_batch(&reply).len(), cursor_id(&reply)), (100, id));
    let reply = server.ok("t", doc! { "getMore": id, "collection": "c" });
    assert_eq!((first_batch(&reply).len(), cursor_id(&reply)), (49, 0));
    let gone = server.error("t", doc! { "getMore": id, "collection": "c" });
    assert_eq!(gone, (43, format!("cursor id {id} not found")));
}

#[test]
fn a_full_batch_leaves_the_cursor_open_unless_a_limit_is_reached() {
    let mut server = filled(5);
    let reply = server.ok("t", doc! { "find": "c", "batchSize": 5 });
    assert!(cursor_id(&reply) > 0);
    let reply = server.ok("t", doc! { "find": "c", "batchSize": 5, "limit": 5 });
    assert_eq!(cursor_id(&reply), 0);
    let reply = server.ok("t", doc! { "find": "c", "batchSize": 2, "singleBatch": true });
    assert_eq!((first_batch(&reply).len(), cursor_id(&reply)), (2, 0));
    let reply = server.ok("t", doc! { "find": "nope" });
    let expected = doc! { "cursor": { "id": 0_i64, "ns": "t.nope", "firstBatch": [] } };
    assert_eq!(reply, expected);
}

#[test]
fn sort_skip_limit_and_projection_do_what_they_say() {
    let mut server = filled(9);
    let reply = server.ok(
        "t",
        doc! {
            "find": "c", "filter": { "x": { "$gte": 1 } }, "sort": { "x": -1, "_id": 1 },
            "skip": 1, "limit": 3, "projection": { "_id": 1 },
        },
    );
    assert_eq!(first_batch(&reply), [doc! { "_id": 5 }, doc! { "_id": 8 }, doc! { "_id": 1 }]);
    let reply = server.ok("t", doc! { "find": "c", "sort": { "$natural": -1 }, "limit": 2 });
    assert_eq!(ids(&first_batch(&reply)), [8, 7]);
    let reply = server.ok("t", doc! { "find": "c", "filter": { "_id": { "$in": [7, 3, 99] } } });
    assert_eq!(ids(&first_batch(&reply)), [3, 7]);
}

#[test]
fn an_index_finds_what_a_scan_finds() {
    let mut server = filled(30);
    let wanted = server.find("c", doc! { "x": 2, "_id": { "$lt": 20 } });
    let index = doc! { "key": { "x": 1 }, "name": "x_1" };
    server.ok("t", doc! { "createIndexes": "c", "indexes": [index] });
    assert_eq!(server.find("c", doc! { "x": 2, "_id": { "$lt": 20 } }), wanted);
    assert_eq!(server.find("c", doc! { "x": null }), [] as [Document; 0]);
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 100, "x": [2, 7] }] });
    assert_eq!(server.find("c", doc! { "x": 7 }).len(), 1);
    assert_eq!(server.find("c", doc! { "x": [2, 7] }).len(), 1);
}

#[test]
fn counts_and_distinct_values() {
    let mut server = filled(10);
    assert_eq!(server.ok("t", doc! { "count": "c" }), doc! { "n": 10 });
    let count = doc! { "count": "c", "query": { "x": 0 }, "skip": 1, "limit": -2 };
    assert_eq!(server.ok("t", count), doc! { "n": 2 });
    assert_eq!(server.ok("t", doc! { "distinct": "c", "key": "x" }), doc! { "values": [0, 1, 2] });
    let refused = server.error("t", doc! { "count": "c", "skip": -1 });
    assert_eq!(
        refused,
        (51024, "BSON field 'skip' value must be >= 0, actual value '-1'".to_owned())
    );
}

#[test]
fn a_cursor_belongs_to_its_collection_and_can_be_killed() {
    let mut server = filled(5);
    let id = cursor_id(&server.ok("t", doc! { "find": "c", "batchSize": 2 }));
    let (code, message) = server.error("t", doc! { "getMore": id, "collection": "d" });
    assert_eq!(code, 13);
    assert_eq!(
        message,
        "Requested getMore on namespace 't.d', but cursor belongs to a different namespace t.c"
    );
    let reply = server.ok("t", doc! { "killCursors": "c", "cursors": [id, 1_i64] });
    assert_eq!(
        reply,
        doc! {
            "cursorsKilled": [id], "cursorsNotFound": [1_i64], "cursorsAlive": [],
            "cursorsUnknown": [],
        }
    );
}

#[test]
fn a_tailable_cursor_waits_for_what_comes() {
    let mut server = Server::new();
    server.ok("t", doc! { "create": "cap", "capped": true, "size": 4096, "max": 3 });
    for id in 0..5 {
        server.ok("t", doc! { "insert": "cap", "documents": [{ "_id": id }] });
    }
    let reply = server.ok("t", doc! { "find": "cap", "tailable": true, "awaitData": true });
    assert_eq!(ids(&first_batch(&reply)), [2, 3, 4]);
    let id = cursor_id(&reply);
    let before = server.now;
    let more = doc! { "getMore": id, "collection": "cap", "maxTimeMS": 50 };
    let reply = server.ok("t", more.clone());
    assert_eq!((first_batch(&reply).len(), cursor_id(&reply)), (0, id));
    assert_eq!(server.now.as_millis() - before.as_millis(), 50);
    server.ok("t", doc! { "insert": "cap", "documents": [{ "_id": 9 }] });
    assert_eq!(ids(&first_batch(&server.ok("t", more))), [9]);
    let refused = server.error("t", doc! { "find": "cap", "awaitData": true });
    assert_eq!(refused, (9, "Cannot set 'awaitData' without also setting 'tailable'".to_owned()));
}

#[test]
fn the_oplog_is_a_collection_one_can_read() {
    let mut server = filled(2);
    let reply = server.ok(
        "local",
        doc! {
            "find": "oplog.rs", "filter": { "ts": { "$gte": Timestamp { time: 0, increment: 0 } } },
            "limit": 1,
        },
    );
    let first = &first_batch(&reply)[0];
    assert_eq!(first.get_document("o").ok(), Some(&doc! { "msg": "initiating set" }));
    let reply =
        server.ok("local", doc! { "count": "oplog.rs", "query": { "op": "c", "ns": "t.$cmd" } });
    assert_eq!(reply, doc! { "n": 1 });
    let reply = server.ok("local", doc! { "find": "system.replset" });
    assert_eq!(first_batch(&reply)[0].get_str("_id").ok(), Some("foo"));
}

#[test]
fn a_majority_read_sees_only_what_is_committed() {
    let mut server = filled(1);
    let read = |level: &str| doc! { "find": "c", "readConcern": { "level": level } };
    assert_eq!(first_batch(&server.ok("t", read("majority"))).len(), 1);
    let unwaited = doc! { "insert": "c", "documents": [{ "_id": 50 }], "writeConcern": { "w": 1, "j": false } };
    server.ok("t", unwaited);
    assert_eq!(first_batch(&server.ok("t", read("local"))).len(), 2);
    assert_eq!(first_batch(&server.ok("t", read("majority"))).len(), 1);
    let snapshot = server.ok("t", read("snapshot"));
    assert!(snapshot.get_document("cursor").unwrap().get_timestamp("atClusterTime").is_ok());
    assert_eq!(first_batch(&snapshot).len(), 1);
}

#[test]
fn pipelines_run_over_collections_and_over_documents_of_their_own() {
    let mut server = filled(9);
    let pipeline = vec![
        doc! { "$match": { "_id": { "$gte": 3 } } },
        doc! { "$group": { "_id": "$x", "n": { "$sum": 1 } } },
        doc! { "$sort": { "_id": 1 } },
    ];
    let reply = server.ok("t", doc! { "aggregate": "c", "pipeline": pipeline, "cursor": {} });
    assert_eq!(first_batch(&reply), [0, 1, 2].map(|x| doc! { "_id": x, "n": 2 }));
    let documents = vec![doc! { "$documents": [{ "a": 1 }] }];
    let reply = server.ok("t", doc! { "aggregate": 1, "pipeline": documents, "cursor": {} });
    let cursor = doc! { "firstBatch": [{ "a": 1 }], "id": 0_i64, "ns": "t.$cmd.aggregate" };
    assert_eq!(reply, doc! { "cursor": cursor });
    let cases = [
        (
            doc! { "aggregate": "c", "pipeline": [] },
            9,
            "The 'cursor' option is required, except for aggregate with the explain argument",
        ),
        (
            doc! { "aggregate": 1, "pipeline": [{ "$match": {} }], "cursor": {} },
            73,
            "{aggregate: 1} is not valid for '$match'; a collection is required.",
        ),
        (
            doc! { "aggregate": "c", "pipeline": 1, "cursor": {} },
            14,
            "'pipeline' option must be specified as an array",
        ),
        (
            doc! { "aggregate": "c", "pipeline": [{ "$foo": 1 }], "cursor": {} },
            40324,
            "Unrecognized pipeline stage name: '$foo'",
        ),
    ];
    for (command, code, message) in cases {
        assert_eq!(server.error("t", command), (code, message.to_owned()));
    }
    let stats = vec![doc! { "$collStats": { "count": {} } }];
    let reply = server.ok("t", doc! { "aggregate": "c", "pipeline": stats, "cursor": {} });
    assert_eq!(first_batch(&reply)[0].get_i32("count").ok(), Some(9));
}
