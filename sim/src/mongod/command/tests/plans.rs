//! Stories of indexes, views and what pipelines write.

use bson::doc;

use super::*;

fn server() -> Server {
    let mut server = Server::new();
    let documents: Vec<Document> = (0..50).map(|id| doc! { "_id": id, "a": id % 10 }).collect();
    server.ok("t", doc! { "insert": "c", "documents": documents });
    server
        .ok("t", doc! { "createIndexes": "c", "indexes": [{ "key": { "a": 1 }, "name": "a_1" }] });
    server
}

fn explained(server: &mut Server, find: Document) -> Document {
    server.ok("t", doc! { "explain": find, "verbosity": "executionStats" })
}

#[test]
fn a_query_with_an_index_does_not_scan() {
    let mut server = server();
    let found = explained(&mut server, doc! { "find": "c", "filter": { "a": { "$gte": 8 } } });
    let stats = found.get_document("executionStats").unwrap();
    assert_eq!(stats.get_i32("totalDocsExamined").unwrap(), 10);
    let plan = found.get_document("queryPlanner").unwrap().get_document("winningPlan").unwrap();
    let scan = plan.get_document("inputStage").unwrap();
    assert_eq!(scan.get_str("stage").unwrap(), "IXSCAN");
    let bounds = scan.get_document("indexBounds").unwrap();
    assert_eq!(bounds, &doc! { "a": ["[8, inf.0]"] });
}

#[test]
fn an_index_gives_a_sort_its_order_and_a_limit_its_end() {
    let mut server = server();
    let find = doc! { "find": "c", "sort": { "a": -1 }, "limit": 3 };
    let found = explained(&mut server, find.clone());
    let stats = found.get_document("executionStats").unwrap();
    assert_eq!(stats.get_i32("totalDocsExamined").unwrap(), 3);
    let ids: Vec<i32> = first_batch(&server.ok("t", find))
        .iter()
        .map(|document| document.get_i32("_id").unwrap())
        .collect();
    assert_eq!(ids, [49, 39, 29]);
}

#[test]
fn a_view_is_read_like_a_collection_and_not_written_to() {
    let mut server = server();
    let pipeline = vec![doc! { "$match": { "a": 3 } }];
    server.ok("t", doc! { "create": "v", "viewOn": "c", "pipeline": pipeline });
    assert_eq!(server.find("v", doc! { "_id": { "$lt": 20 } }).len(), 2);
    let refused = server.ok("t", doc! { "insert": "v", "documents": [{}] });
    let error = refused.get_array("writeErrors").unwrap()[0].as_document().unwrap().clone();
    assert_eq!(error.get_i32("code").unwrap(), 166);
}

#[test]
fn a_pipeline_replaces_one_collection_and_merges_into_another() {
    let mut server = server();
    let group = doc! { "$group": { "_id": "$a", "n": { "$sum": 1 } } };
    let out = doc! { "aggregate": "c", "pipeline": [group.clone(), { "$out": "o" }], "cursor": {} };
    assert!(first_batch(&server.ok("t", out)).is_empty());
    assert_eq!(server.find("o", doc! { "_id": 4 }), [doc! { "_id": 4, "n": 5 }]);
    let merge = doc! { "$merge": { "into": "o", "whenMatched": [{ "$set": { "twice": true } }] } };
    server.ok("t", doc! { "aggregate": "c", "pipeline": [group, merge], "cursor": {} });
    assert_eq!(server.find("o", doc! { "_id": 4 }), [doc! { "_id": 4, "n": 5, "twice": true }]);
}
