//! What pipelines make of documents.

use bson::{Bson, DateTime, Timestamp, bson, doc};

use super::*;
use crate::mongod::query::compare::identical;

struct World;

impl PipelineContext for World {
    fn collection(&mut self, name: &str) -> Result<Vec<Document>, CommandError> {
        Ok(match name {
            "stock" => vec![
                doc! { "_id": 1, "sku": "a", "n": 5 },
                doc! { "_id": 2, "sku": "b", "n": 0 },
                doc! { "_id": 3 },
            ],
            _ => Vec::new(),
        })
    }

    fn random_below(&mut self, bound: u64) -> u64 {
        bound - 1
    }
}

fn orders() -> Vec<Document> {
    vec![
        doc! { "_id": 1, "item": "a", "price": 10, "tags": ["x", "y"] },
        doc! { "_id": 2, "item": "b", "price": 20, "tags": [] },
        doc! { "_id": 3, "item": "a", "price": 5.5 },
    ]
}

fn run(stages: Bson) -> Result<Vec<Document>, CommandError> {
    let context = ParseContext::new(DateTime::from_millis(0), Timestamp { time: 1, increment: 1 });
    let Bson::Array(stages) = stages else { panic!("a pipeline is an array") };
    let pipeline = Pipeline::parse(stages.iter().map(ValueRef::from), &context)?;
    pipeline.run(orders(), &mut World)
}

fn check(cases: &[(Bson, Bson)]) {
    for (stages, expected) in cases {
        let found = run(stages.clone()).unwrap().into_iter().map(Bson::Document).collect();
        let found = Bson::Array(found);
        assert!(identical(&found, expected), "{stages}:\n{found}, not\n{expected}");
    }
}

#[test]
fn documents_are_filtered_sorted_and_counted() {
    check(&[
        (
            bson!([{ "$match": { "price": { "$gt": 7 } } }, { "$project": { "_id": 1 } }]),
            bson!([{ "_id": 1 }, { "_id": 2 }]),
        ),
        (
            bson!([{ "$sort": { "price": 1 } }, { "$skip": 1 }, { "$limit": 1 }, { "$unset": ["tags"] }]),
            bson!([{ "_id": 1, "item": "a", "price": 10 }]),
        ),
        (bson!([{ "$count": "n" }]), bson!([{ "n": 3 }])),
        (bson!([{ "$match": { "no": 1 } }, { "$count": "n" }]), bson!([])),
        (
            bson!([{ "$sample": { "size": 1 } }, { "$project": { "_id": 1 } }]),
            bson!([{ "_id": 3 }]),
        ),
    ]);
}

#[test]
fn groups_accumulate() {
    check(&[
        (
            bson!([{ "$group": {
                "_id": "$item", "sum": { "$sum": "$price" }, "avg": { "$avg": "$price" },
                "n": { "$count": {} }, "max": { "$max": "$price" }, "first": { "$first": "$_id" },
                "last": { "$last": "$_id" }, "all": { "$push": "$_id" }, "set": { "$addToSet": "$item" }
            } }]),
            bson!([
                { "_id": "a", "sum": 15.5, "avg": 7.75, "n": 2, "max": 10, "first": 1, "last": 3,
                  "all": [1, 3], "set": ["a"] },
                { "_id": "b", "sum": 20, "avg": 20.0, "n": 1, "max": 20, "first": 2, "last": 2,
                  "all": [2], "set": ["b"] }
            ]),
        ),
        (
            bson!([{ "$sortByCount": "$item" }]),
            bson!([{ "_id": "a", "count": 2 }, { "_id": "b", "count": 1 }]),
        ),
        (
            bson!([{ "$bucket": { "groupBy": "$price", "boundaries": [0, 10, 15], "default": "more" } }]),
            bson!([{ "_id": 0, "count": 1 }, { "_id": 10, "count": 1 }, { "_id": "more", "count": 1 }]),
        ),
    ]);
}

#[test]
fn arrays_unwind_and_facets_run_side_by_side() {
    check(&[
        (
            bson!([{ "$unwind": "$tags" }, { "$project": { "tags": 1 } }]),
            bson!([{ "_id": 1, "tags": "x" }, { "_id": 1, "tags": "y" }]),
        ),
        (
            bson!([
                { "$unwind": { "path": "$tags", "preserveNullAndEmptyArrays": true, "includeArrayIndex": "i" } },
                { "$project": { "tags": 1, "i": 1 } }
            ]),
            bson!([
                { "_id": 1, "tags": "x", "i": 0_i64 }, { "_id": 1, "tags": "y", "i": 1_i64 },
                { "_id": 2, "i": null }, { "_id": 3, "i": null }
            ]),
        ),
        (
            bson!([{ "$facet": { "n": [{ "$count": "c" }], "top": [{ "$limit": 1 }, { "$project": { "_id": 1 } }] } }]),
            bson!([{ "n": [{ "c": 3 }], "top": [{ "_id": 1 }] }]),
        ),
    ]);
}

#[test]
fn other_collections_are_joined() {
    check(&[
        (
            bson!([
                { "$lookup": { "from": "stock", "localField": "item", "foreignField": "sku", "as": "s" } },
                { "$project": { "s.n": 1 } }
            ]),
            bson!([{ "_id": 1, "s": [{ "n": 5 }] }, { "_id": 2, "s": [{ "n": 0 }] }, { "_id": 3, "s": [{ "n": 5 }] }]),
        ),
        (
            bson!([
                { "$limit": 1 },
                { "$lookup": {
                    "from": "stock", "let": { "i": "$item" }, "as": "s",
                    "pipeline": [{ "$match": { "$expr": { "$eq": ["$sku", "$$i"] } } }, { "$project": { "_id": 1 } }]
                } },
                { "$project": { "s": 1 } }
            ]),
            bson!([{ "_id": 1, "s": [{ "_id": 1 }] }]),
        ),
        (
            bson!([{ "$limit": 1 }, { "$unionWith": "stock" }, { "$group": { "_id": null, "n": { "$sum": 1 } } }]),
            bson!([{ "_id": null, "n": 4 }]),
        ),
        (
            bson!([{ "$documents": [{ "a": 1 }] }, { "$replaceWith": { "b": "$a" } }]),
            bson!([{ "b": 1 }]),
        ),
    ]);
}

#[test]
fn wrong_pipelines_get_the_servers_errors() {
    for (stages, code, message) in [
        (bson!([{ "$x": 1 }]), 40324, "Unrecognized pipeline stage name: '$x'"),
        (
            bson!([{ "$match": {}, "$limit": 1 }]),
            40323,
            "A pipeline stage specification object must contain exactly one field.",
        ),
        (bson!([{ "$limit": 0 }]), 15958, "the limit must be positive"),
        (
            bson!([{ "$group": { "n": { "$sum": 1 } } }]),
            15955,
            "a group specification must include an _id",
        ),
        (
            bson!([{ "$group": { "_id": 1, "n": { "$x": 1 } } }]),
            15952,
            "unknown group operator '$x'",
        ),
        (
            bson!([{ "$set": { "a": { "$x": 1 } } }]),
            168,
            "Invalid $set :: caused by :: Unrecognized expression '$x'",
        ),
    ] {
        let refused = run(stages.clone()).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message), "{stages}");
    }
}
