//! Stories of `bulkWrite`.

use bson::doc;

use super::*;

#[test]
fn one_command_inserts_updates_and_deletes_in_several_collections() {
    let mut server = Server::new();
    let reply = server.ok(
        "admin",
        doc! {
            "bulkWrite": 1,
            "ops": [
                { "insert": 0, "document": { "_id": 1, "x": 1 } },
                { "insert": 1, "document": { "_id": 1 } },
                { "update": 0, "filter": { "_id": 1 }, "updateMods": { "$inc": { "x": 1 } } },
                { "update": 1, "filter": { "_id": 2 }, "updateMods": { "$set": { "y": 1 } },
                  "upsert": true },
                { "delete": 1, "filter": {}, "multi": true },
            ],
            "nsInfo": [{ "ns": "t.c" }, { "ns": "u.d" }],
        },
    );
    let results = vec![
        doc! { "ok": 1.0, "idx": 0, "n": 1 },
        doc! { "ok": 1.0, "idx": 1, "n": 1 },
        doc! { "ok": 1.0, "idx": 2, "n": 1, "nModified": 1 },
        doc! { "ok": 1.0, "idx": 3, "n": 1, "nModified": 0, "upserted": { "_id": 2 } },
        doc! { "ok": 1.0, "idx": 4, "n": 2 },
    ];
    let expected = doc! {
        "cursor": { "firstBatch": results, "id": 0_i64, "ns": "admin.$cmd.bulkWrite" },
        "nErrors": 0, "nInserted": 2, "nMatched": 1, "nModified": 1, "nUpserted": 1, "nDeleted": 2,
    };
    assert_eq!(reply, expected);
    assert_eq!(server.find("c", doc! {}), [doc! { "_id": 1, "x": 2 }]);
}

#[test]
fn errors_only_shows_what_failed_and_an_unordered_bulk_goes_on_behind_it() {
    let mut server = Server::new();
    let bulk = |ordered: bool| {
        doc! {
            "bulkWrite": 1, "ordered": ordered, "errorsOnly": true,
            "ops": [
                { "insert": 0, "document": { "_id": 1 } },
                { "insert": 0, "document": { "_id": 1 } },
                { "insert": 0, "document": { "_id": 2 } },
            ],
            "nsInfo": [{ "ns": "t.c" }],
        }
    };
    let reply = server.ok("admin", bulk(true));
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    assert_eq!(batch.len(), 1);
    let failed = batch[0].as_document().unwrap();
    assert_eq!((number(failed, "idx"), number(failed, "code")), (1, 11000));
    assert_eq!(failed.get_document("keyValue").unwrap(), &doc! { "_id": 1 });
    assert_eq!((number(&reply, "nErrors"), number(&reply, "nInserted")), (1, 1));
    let reply = server.ok("admin", bulk(false));
    assert_eq!((number(&reply, "nErrors"), number(&reply, "nInserted")), (2, 1));
}

#[test]
fn the_results_of_a_bulk_come_in_batches() {
    let mut server = Server::new();
    let ops: Vec<Document> =
        (0..3).map(|id| doc! { "insert": 0, "document": { "_id": id } }).collect();
    let reply = server.ok(
        "admin",
        doc! { "bulkWrite": 1, "ops": ops, "nsInfo": [{ "ns": "t.c" }], "cursor": { "batchSize": 2 } },
    );
    let cursor = reply.get_document("cursor").unwrap();
    assert_eq!(cursor.get_array("firstBatch").unwrap().len(), 2);
    let id = cursor.get_i64("id").unwrap();
    let more = server.ok("admin", doc! { "getMore": id, "collection": "$cmd.bulkWrite" });
    let rest = more.get_document("cursor").unwrap().get_array("nextBatch").unwrap();
    assert_eq!(rest, &vec![bson::bson!({ "ok": 1.0, "idx": 2, "n": 1 })]);
}

#[test]
fn a_bulk_that_names_no_such_namespace_is_refused_and_older_servers_have_no_bulk() {
    let bulk = doc! {
        "bulkWrite": 1, "ops": [{ "insert": 1, "document": {} }], "nsInfo": [{ "ns": "t.c" }],
    };
    let refused = Server::new().error("admin", bulk.clone());
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (2, "BulkWrite ops entry 0 has an invalid nsInfo index 1.")
    );
    let unknown = Server::of_version(ServerVersion::V7_0).error("admin", bulk);
    assert_eq!((unknown.0, unknown.1.as_str()), (59, "no such command: 'bulkWrite'"));
}

fn number(document: &Document, field: &str) -> i32 {
    document.get_i32(field).unwrap()
}
