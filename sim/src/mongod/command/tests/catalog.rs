//! Stories of collections, databases and indexes.

use bson::doc;

use super::*;

#[test]
fn collections_are_created_listed_renamed_and_dropped() {
    let mut server = Server::of_version(ServerVersion::V6_0);
    server.ok("t", doc! { "create": "cap", "capped": true, "size": 100, "max": 3 });
    assert_eq!(
        server.error("t", doc! { "create": "cap" }),
        (48, "Collection t.cap already exists.".to_owned())
    );
    let listed = first_batch(&server.ok("t", doc! { "listCollections": 1 }));
    assert_eq!(listed.len(), 1);
    assert_eq!(
        listed[0].get_document("options").ok(),
        Some(&doc! { "capped": true, "size": 256, "max": 3 })
    );
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 1 }] });
    let filtered = doc! { "listCollections": 1, "nameOnly": true, "filter": { "name": "c" } };
    assert_eq!(
        server.ok("t", filtered),
        doc! { "cursor": {
            "id": 0_i64, "ns": "t.$cmd.listCollections",
            "firstBatch": [{ "name": "c", "type": "collection" }],
        } }
    );
    let rename = doc! { "renameCollection": "t.c", "to": "t.cap" };
    assert_eq!(server.error("admin", rename.clone()), (48, "target namespace exists".to_owned()));
    let mut over = rename;
    over.insert("dropTarget", true);
    server.ok("admin", over);
    assert_eq!(server.find("cap", doc! {}), [doc! { "_id": 1 }]);
    assert_eq!(server.ok("t", doc! { "drop": "cap" }), doc! { "nIndexesWas": 1, "ns": "t.cap" });
    assert_eq!(server.error("t", doc! { "drop": "cap" }), (26, "ns not found".to_owned()));
}

#[test]
fn dropping_a_database_drops_its_collections_first() {
    let mut server = Server::new();
    server.ok("t", doc! { "insert": "a", "documents": [{ "_id": 1 }] });
    server.ok("t", doc! { "insert": "b", "documents": [{ "_id": 1 }] });
    let names = |server: &mut Server| -> Vec<String> {
        let reply = server.ok("admin", doc! { "listDatabases": 1, "nameOnly": true });
        let databases = reply.get_array("databases").unwrap();
        let names = databases.iter().map(|database| database.as_document().unwrap());
        names.map(|database| database.get_str("name").unwrap().to_owned()).collect()
    };
    assert!(names(&mut server).contains(&"t".to_owned()));
    assert_eq!(server.ok("t", doc! { "dropDatabase": 1 }), doc! {});
    assert!(!names(&mut server).contains(&"t".to_owned()));
    let oplog = server.oplog("t");
    assert_eq!(
        oplog[oplog.len() - 3..],
        [
            r#"{ "op": "c", "ns": "t.$cmd", "o": { "drop": "a" }, "o2": { "numRecords": 1 } }"#,
            r#"{ "op": "c", "ns": "t.$cmd", "o": { "drop": "b" }, "o2": { "numRecords": 1 } }"#,
            r#"{ "op": "c", "ns": "t.$cmd", "o": { "dropDatabase": 1 } }"#,
        ]
    );
    assert_eq!(server.ok("t", doc! { "dropDatabase": 1 }), doc! {});
}

#[test]
fn indexes_are_created_once_listed_and_dropped() {
    let mut server = Server::new();
    let create = |index: Document| doc! { "createIndexes": "c", "indexes": [index] };
    let x = doc! { "key": { "x": 1 }, "name": "x_1", "unique": true };
    assert_eq!(
        server.ok("t", create(x.clone())),
        doc! {
            "numIndexesBefore": 1, "numIndexesAfter": 2, "createdCollectionAutomatically": true,
            "commitQuorum": "votingMembers",
        }
    );
    assert_eq!(
        server.ok("t", create(x)),
        doc! {
            "numIndexesBefore": 2, "numIndexesAfter": 2, "note": "all indexes already exist",
        }
    );
    assert_eq!(
        server.error("t", create(doc! { "key": { "x": 1 }, "name": "foo", "unique": true })),
        (85, "Index already exists with a different name: x_1".to_owned())
    );
    assert_eq!(server.error("t", create(doc! { "key": { "y": 1 }, "name": "x_1" })).0, 86);
    // An index of the same key that is not unique is another one.
    server.ok("t", create(doc! { "key": { "x": 1 }, "name": "foo", "sparse": false }));
    assert_eq!(
        first_batch(&server.ok("t", doc! { "listIndexes": "c" })),
        [
            doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
            doc! { "v": 2, "key": { "x": 1 }, "name": "x_1", "unique": true },
            doc! { "v": 2, "key": { "x": 1 }, "name": "foo", "sparse": false },
        ]
    );
    let drop = |index: &str| doc! { "dropIndexes": "c", "index": index };
    assert_eq!(
        server.error("t", drop("nope")),
        (27, "index not found with name [nope]".to_owned())
    );
    assert_eq!(server.error("t", drop("_id_")), (72, "cannot drop _id index".to_owned()));
    assert_eq!(server.ok("t", drop("x_1")), doc! { "nIndexesWas": 3 });
    assert_eq!(
        server.error("t", doc! { "listIndexes": "nope" }),
        (26, "ns does not exist: t.nope".to_owned())
    );
}

#[test]
fn a_unique_index_on_duplicates_is_built_in_vain() {
    let mut server = Server::new();
    let documents = vec![doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 1 }];
    server.ok("t", doc! { "insert": "c", "documents": documents });
    let index = doc! { "key": { "a": 1 }, "name": "a_1", "unique": true };
    let reply = server.run("t", doc! { "createIndexes": "c", "indexes": [index] });
    assert_eq!(reply.get_i32("code").ok(), Some(11000));
    assert_eq!(reply.get_document("keyValue").ok(), Some(&doc! { "a": 1 }));
    assert!(reply.get_str("errmsg").unwrap().ends_with(
        ":: caused by :: E11000 duplicate key error collection: t.c index: a_1 dup key: { a: 1 }"
    ));
    assert_eq!(first_batch(&server.ok("t", doc! { "listIndexes": "c" })).len(), 1);
    let phases: Vec<String> = server.oplog("t").iter().rev().take(2).cloned().collect();
    assert!(phases[0].contains("abortIndexBuild") && phases[1].contains("startIndexBuild"));
}

#[test]
fn statistics_count_what_is_there() {
    let mut server = Server::new();
    server.ok("t", doc! { "insert": "c", "documents": [{ "_id": 1 }, { "_id": 2 }] });
    let stats = server.ok("t", doc! { "collStats": "c" });
    assert_eq!((stats.get_i32("count").ok(), stats.get_i32("size").ok()), (Some(2), Some(28)));
    let stats = server.ok("t", doc! { "dbStats": 1 });
    assert_eq!(
        (stats.get_i64("collections").ok(), stats.get_i64("objects").ok()),
        (Some(1), Some(2))
    );
}
