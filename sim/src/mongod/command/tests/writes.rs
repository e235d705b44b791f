//! Stories of writes; shapes and messages as a mongod 6.0.5 answered the same commands.

use bson::doc;

use super::*;

#[test]
fn an_insert_is_found_again_with_an_id_of_the_servers_making() {
    let mut server = Server::new();
    let reply =
        server.ok("t", doc! { "insert": "c", "documents": [{ "x": 1 }, { "x": 2, "_id": 7 }] });
    assert_eq!(reply, doc! { "n": 2 });
    let found = server.find("c", doc! {});
    assert_eq!(found[1], doc! { "_id": 7, "x": 2 });
    assert!(found[0].get_object_id("_id").is_ok());
    assert_eq!(found[0].keys().collect::<Vec<_>>(), ["_id", "x"]);
}

#[test]
fn a_batch_of_inserts_is_one_entry_since_8_0_and_one_per_document_before() {
    let insert = doc! { "insert": "c", "documents": [{ "_id": 1 }, { "_id": 2 }] };
    let mut new = Server::new();
    new.ok("t", insert.clone());
    assert_eq!(new.oplog("t").len(), 2);
    assert!(
        new.oplog("t")[1]
            .starts_with("{ \"op\": \"c\", \"ns\": \"admin.$cmd\", \"o\": { \"applyOps\": [")
    );
    let mut old = Server::of_version(ServerVersion::V6_0);
    old.ok("t", insert);
    assert_eq!(
        old.oplog("t"),
        [
            r#"{ "op": "c", "ns": "t.$cmd", "o": { "create": "c", "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } } }"#,
            r#"{ "op": "i", "ns": "t.c", "o": { "_id": 1 }, "o2": { "_id": 1 } }"#,
            r#"{ "op": "i", "ns": "t.c", "o": { "_id": 2 }, "o2": { "_id": 2 } }"#,
        ]
    );
}

#[test]
fn an_ordered_batch_stops_at_a_duplicate_key_and_an_unordered_one_goes_on() {
    let mut server = Server::new();
    let documents = |ids: [i32; 3]| ids.map(|id| doc! { "_id": id }).to_vec();
    let reply = server.ok("t", doc! { "insert": "c", "documents": documents([1, 1, 2]) });
    let error = doc! {
        "index": 1, "code": 11000,
        "errmsg": "E11000 duplicate key error collection: t.c index: _id_ dup key: { _id: 1 }",
        "keyPattern": { "_id": 1 }, "keyValue": { "_id": 1 },
    };
    assert_eq!(reply, doc! { "n": 1, "writeErrors": [error] });
    let unordered = doc! { "insert": "c", "documents": documents([3, 1, 4]), "ordered": false };
    let reply = server.ok("t", unordered);
    assert_eq!(
        (reply.get_i32("n").ok(), reply.get_array("writeErrors").unwrap().len()),
        (Some(2), 1)
    );
    assert_eq!(server.ok("t", doc! { "count": "c" }), doc! { "n": 3 });
}

#[test]
fn what_cannot_be_inserted_is_refused_in_the_servers_words() {
    let mut server = Server::new();
    let mut refused = |document: Document| {
        let reply = server.ok("t", doc! { "insert": "c", "documents": [document] });
        let error = reply.get_array("writeErrors").unwrap()[0].as_document().unwrap().clone();
        (error.get_i32("code").unwrap(), error.get_str("errmsg").unwrap().to_owned())
    };
    assert_eq!(
        refused(doc! { "_id": [1] }),
        (53, "The '_id' value cannot be of type array".to_owned())
    );
    assert_eq!(
        refused(doc! { "_id": { "$a": 1 } }),
        (
            52,
            "_id fields may not contain '$'-prefixed fields: $a is not valid for storage."
                .to_owned()
        )
    );
}

#[test]
fn malformed_writes_are_refused_in_the_servers_words() {
    let mut server = Server::new();
    let cases = [
        (doc! { "insert": 1, "documents": [] }, 2, "collection name has invalid type int"),
        (
            doc! { "insert": "c", "documents": [] },
            16,
            "Write batch sizes must be between 1 and 100000. Got 0 operations.",
        ),
        (
            doc! { "insert": "c" },
            40414,
            "BSON field 'insert.documents' is missing but a required field",
        ),
        (
            doc! { "insert": "c", "documents": [{}], "foo": 1 },
            40415,
            "BSON field 'insert.foo' is an unknown field.",
        ),
        (
            doc! { "insert": "c", "documents": [{}], "ordered": "x" },
            14,
            "BSON field 'insert.ordered' is the wrong type 'string', expected type 'bool'",
        ),
        (doc! { "insert": "", "documents": [{}] }, 73, "Invalid namespace specified 't.'"),
        (doc! { "insert": "a$b", "documents": [{}] }, 73, "Invalid collection name: a$b"),
        (
            doc! { "insert": ".a", "documents": [{}] },
            73,
            "Collection names cannot start with '.': .a",
        ),
        (
            doc! { "insert": "system.foo", "documents": [{}] },
            73,
            "Invalid system namespace: t.system.foo",
        ),
        (
            doc! { "update": "c", "updates": [{ "q": {} }] },
            40414,
            "BSON field 'update.updates.u' is missing but a required field",
        ),
        (
            doc! { "update": "c", "updates": [{ "q": 1, "u": {} }] },
            14,
            "BSON field 'update.updates.q' is the wrong type 'int', expected type 'object'",
        ),
        (
            doc! { "update": "c", "updates": [{ "q": {}, "u": 5 }] },
            9,
            "Update argument must be either an object or an array",
        ),
        (
            doc! { "delete": "c", "deletes": [{ "q": {} }] },
            40414,
            "BSON field 'delete.deletes.limit' is missing but a required field",
        ),
        (
            doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 2 }] },
            9,
            "The limit field in delete objects must be 0 or 1. Got 2",
        ),
        (doc! { "findAndModify": "c" }, 9, "Either an update or remove=true must be specified"),
    ];
    for (command, code, message) in cases {
        assert_eq!(server.error("t", command), (code, message.to_owned()));
    }
}

#[test]
fn updates_report_matches_changes_and_upserts() {
    let mut server = Server::new();
    server
        .ok("t", doc! { "insert": "c", "documents": [{ "_id": 1, "x": 1 }, { "_id": 2, "x": 1 }] });
    let set = doc! { "$set": { "x": 2 } };
    let update = doc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": set.clone() }] };
    assert_eq!(server.ok("t", update.clone()), doc! { "n": 1, "nModified": 1 });
    let entries = server.oplog("t").len();
    assert_eq!(server.ok("t", update), doc! { "n": 1, "nModified": 0 });
    assert_eq!(server.oplog("t").len(), entries, "an update that changes nothing writes nothing");
    let upsert = doc! { "update": "c", "updates": [
        { "q": { "_id": 99 }, "u": set.clone(), "upsert": true },
        { "q": {}, "u": { "$inc": { "n": 1 } }, "multi": true },
    ] };
    let reply = server.ok("t", upsert);
    assert_eq!(reply, doc! { "n": 4, "upserted": [{ "index": 0, "_id": 99 }], "nModified": 3 });
    let last = server.oplog("t").pop().unwrap();
    assert_eq!(
        last,
        r#"{ "op": "u", "ns": "t.c", "o": { "$v": 2, "diff": { "i": { "n": 1 } } }, "o2": { "_id": 99 } }"#
    );
    let nowhere = doc! { "update": "nope", "updates": [{ "q": {}, "u": set }] };
    assert_eq!(server.ok("t", nowhere), doc! { "n": 0, "nModified": 0 });
}

#[test]
fn a_replacement_with_multi_and_a_changed_id_are_write_errors() {
    let mut server = Server::new();
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 1 }] });
    let mut refused = |update: Document| {
        let reply = server.ok("t", doc! { "update": "c", "updates": [update] });
        assert_eq!((reply.get_i32("n").ok(), reply.get_i32("nModified").ok()), (Some(0), Some(0)));
        let error = reply.get_array("writeErrors").unwrap()[0].as_document().unwrap().clone();
        (error.get_i32("code").unwrap(), error.get_str("errmsg").unwrap().to_owned())
    };
    assert_eq!(
        refused(doc! { "q": {}, "u": { "x": 1 }, "multi": true }),
        (9, "multi update is not supported for replacement-style update".to_owned())
    );
    assert_eq!(
        refused(doc! { "q": { "_id": 1 }, "u": { "$set": { "_id": 2 } } }),
        (
            66,
            "Performing an update on the path '_id' would modify the immutable field '_id'"
                .to_owned()
        )
    );
}

#[test]
fn deletes_take_one_or_all() {
    let mut server = Server::new();
    let documents: Vec<_> = (0..5).map(|id| doc! { "_id": id, "x": id % 2 }).collect();
    server.ok("t", doc! { "insert": "c", "documents": documents });
    let deletes = doc! { "delete": "c", "deletes": [
        { "q": { "x": 1 }, "limit": 1 }, { "q": { "x": 0 }, "limit": 0 },
    ] };
    assert_eq!(server.ok("t", deletes), doc! { "n": 4 });
    assert_eq!(server.find("c", doc! {}), [doc! { "_id": 3, "x": 1 }]);
    let last = server.oplog("t").pop().unwrap();
    assert_eq!(last, r#"{ "op": "d", "ns": "t.c", "o": { "_id": 4 } }"#);
}

#[test]
fn a_retried_insert_is_not_run_again_but_answers_the_same() {
    for version in [ServerVersion::V6_0, ServerVersion::V8_0] {
        let mut server = Server::of_version(version);
        let insert = doc! { "insert": "c", "documents": [{ "_id": 10 }, { "_id": 11 }] };
        let insert = retryable(insert, 1);
        assert_eq!(server.ok("t", insert.clone()), doc! { "n": 2 });
        let entries = server.mongod.storage().oplog().len();
        let reply = server.ok("t", insert);
        assert_eq!(reply, doc! { "n": 2, "retriedStmtIds": [0, 1] });
        assert_eq!(server.mongod.storage().oplog().len(), entries);
        let longer =
            doc! { "insert": "c", "documents": [{ "_id": 10 }, { "_id": 11 }, { "_id": 12 }] };
        let reply = server.ok("t", retryable(longer, 1));
        assert_eq!(reply, doc! { "n": 3, "retriedStmtIds": [0, 1] });
    }
}

#[test]
fn a_retried_update_rebuilds_its_result_from_the_oplog() {
    let mut server = Server::new();
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 10 }] });
    let set = doc! { "$set": { "x": 1 } };
    let update = doc! { "update": "c", "updates": [
        { "q": { "_id": 10 }, "u": set.clone() },
        { "q": { "_id": 77 }, "u": set.clone(), "upsert": true },
        { "q": { "_id": 10 }, "u": set.clone() },
    ] };
    let update = retryable(update, 2);
    let upserted = doc! { "index": 1, "_id": 77 };
    assert_eq!(
        server.ok("t", update.clone()),
        doc! { "n": 3, "upserted": [upserted.clone()], "nModified": 1 }
    );
    assert_eq!(
        server.ok("t", update),
        doc! { "n": 3, "retriedStmtIds": [0, 1], "upserted": [upserted], "nModified": 1 }
    );
    let (code, message) =
        server.error("t", retryable(doc! { "insert": "c", "documents": [{ "_id": 1 }] }, 1));
    assert_eq!(code, 225);
    assert!(
        message.ends_with(
            "because a newer retryable write with txnNumber 2 has already started on this session."
        ),
        "{message}"
    );
    let multi = doc! { "update": "c", "updates": [{ "q": {}, "u": set, "multi": true }] };
    let reply = server.ok("t", retryable(multi, 3));
    let error = doc! {
        "index": 0, "code": 72,
        "errmsg": "Cannot use (or request) retryable writes with multi=true",
    };
    assert_eq!(reply, doc! { "n": 0, "writeErrors": [error], "nModified": 0 });
}

#[test]
fn find_and_modify_answers_with_the_document_before_or_after() {
    let mut server = Server::new();
    let query = doc! { "_id": 1 };
    let modify = |update: Document| {
        doc! {
            "findAndModify": "c", "query": query.clone(), "update": { "$set": update },
        }
    };
    let mut upsert = modify(doc! { "x": 1 });
    upsert.insert("upsert", true);
    assert_eq!(
        server.ok("t", upsert),
        doc! {
            "lastErrorObject": { "n": 1, "updatedExisting": false, "upserted": 1 },
            "value": bson::Bson::Null,
        }
    );
    let mut new = modify(doc! { "x": 2 });
    new.insert("new", true);
    let existing = doc! { "n": 1, "updatedExisting": true };
    assert_eq!(
        server.ok("t", new),
        doc! { "lastErrorObject": existing.clone(), "value": { "_id": 1, "x": 2 } }
    );
    let retried = retryable(modify(doc! { "x": 3 }), 5);
    let mut expected = doc! { "lastErrorObject": existing, "value": { "_id": 1, "x": 2 } };
    assert_eq!(server.ok("t", retried.clone()), expected);
    expected.insert("retriedStmtId", 0);
    assert_eq!(server.ok("t", retried), expected);
    let remove = retryable(doc! { "findAndModify": "c", "query": query, "remove": true }, 6);
    let mut expected = doc! { "lastErrorObject": { "n": 1 }, "value": { "_id": 1, "x": 3 } };
    assert_eq!(server.ok("t", remove.clone()), expected);
    expected.insert("retriedStmtId", 0);
    assert_eq!(server.ok("t", remove), expected);
    assert_eq!(server.find("c", doc! {}), [] as [Document; 0]);
}

#[test]
fn find_and_modify_takes_the_first_in_sort_order_and_projects() {
    let mut server = Server::new();
    let documents: Vec<_> = (0..3).map(|id| doc! { "_id": id, "x": -id }).collect();
    server.ok("t", doc! { "insert": "c", "documents": documents });
    let reply = server.ok(
        "t",
        doc! {
            "findAndModify": "c", "sort": { "x": 1 }, "update": { "$inc": { "x": 10 } },
            "fields": { "x": 1, "_id": 0 }, "new": true,
        },
    );
    assert_eq!(reply.get_document("value").ok(), Some(&doc! { "x": 8 }));
    let (code, message) = server.error(
        "t",
        doc! {
            "findAndModify": "c", "query": { "_id": 1 }, "update": { "$set": { "_id": 5 } },
        },
    );
    assert_eq!(code, 66);
    assert!(message.starts_with("Plan executor error during findAndModify :: caused by :: "));
}

#[test]
fn a_validator_refuses_documents_unless_it_is_bypassed() {
    let mut server = Server::new();
    server.ok("t", doc! { "create": "c", "validator": { "x": { "$gte": 0 } } });
    let insert = doc! { "insert": "c", "documents": [{ "_id": 1, "x": -1 }] };
    let error = doc! {
        "index": 0, "code": 121, "errmsg": "Document failed validation",
        "errInfo": { "failingDocumentId": 1, "details": {
            "operatorName": "$gte", "specifiedAs": { "x": { "$gte": 0 } },
            "reason": "comparison failed", "consideredValue": -1,
        } },
    };
    assert_eq!(server.ok("t", insert.clone()), doc! { "n": 0, "writeErrors": [error] });
    let mut bypassing = insert;
    bypassing.insert("bypassDocumentValidation", true);
    assert_eq!(server.ok("t", bypassing), doc! { "n": 1 });
    let update = |x: i32| {
        doc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "x": x } } }] }
    };
    assert_eq!(server.ok("t", update(-2)).get_i32("n").ok(), Some(0));
    assert_eq!(server.ok("t", update(2)), doc! { "n": 1, "nModified": 1 });
}

#[test]
fn a_retry_survives_a_restart_and_is_refused_once_its_entry_is_gone() {
    let mut server = Server::new();
    let insert = |id: i32, txn_number: i64| {
        retryable(doc! { "insert": "c", "documents": [{ "_id": id }] }, txn_number)
    };
    server.ok("t", insert(1, 1));
    server.restart();
    assert_eq!(server.ok("t", insert(1, 1)), doc! { "n": 1, "retriedStmtIds": [0] });
    server.mongod.storage.set_oplog_size(0);
    server.ok("t", doc! { "insert": "d", "documents": [{ "_id": 1 }] });
    for _ in 0..20 {
        server.pass_time();
    }
    server.ok("t", doc! { "insert": "d", "documents": [{ "_id": 2 }] });
    assert_eq!(server.error("t", insert(1, 1)).0, 217);
    server.restart();
    assert_eq!(server.error("t", insert(1, 1)).0, 217);
    assert_eq!(server.ok("t", insert(2, 2)), doc! { "n": 1 });
}
