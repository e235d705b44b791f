//! What projections keep.

use bson::{DateTime, Timestamp, doc};

use super::*;
use crate::mongod::query::compare::identical_documents;

fn context() -> ParseContext {
    ParseContext::new(DateTime::from_millis(0), Timestamp { time: 1, increment: 1 })
}

fn find(spec: Document) -> Result<Projection, CommandError> {
    Projection::parse(&spec, ProjectionSyntax::Find, &context())
}

fn check(document: Document, cases: &[(Document, Document)]) {
    for (spec, expected) in cases {
        let projected = find(spec.clone()).unwrap().apply(&document, None).unwrap();
        assert!(identical_documents(&projected, expected), "{spec}: {projected}, not {expected}");
    }
}

#[test]
fn inclusion_keeps_the_named_fields_in_the_documents_order() {
    check(
        doc! { "_id": 1, "a": 1, "b": { "c": 2, "d": 3 }, "e": [{ "c": 4, "f": 5 }, 6] },
        &[
            (
                doc! {},
                doc! { "_id": 1, "a": 1, "b": { "c": 2, "d": 3 }, "e": [{ "c": 4, "f": 5 }, 6] },
            ),
            (doc! { "b": 1, "a": true }, doc! { "_id": 1, "a": 1, "b": { "c": 2, "d": 3 } }),
            (doc! { "b.c": 1, "_id": 0 }, doc! { "b": { "c": 2 } }),
            (doc! { "b": { "d": 1 } }, doc! { "_id": 1, "b": { "d": 3 } }),
            (doc! { "e.c": 1, "a.x": 1 }, doc! { "_id": 1, "e": [{ "c": 4 }] }),
            (doc! { "_id": 1 }, doc! { "_id": 1 }),
        ],
    );
}

#[test]
fn exclusion_drops_the_named_fields() {
    check(
        doc! { "_id": 1, "a": 1, "e": [{ "c": 4, "f": 5 }, 6] },
        &[
            (doc! { "a": 0 }, doc! { "_id": 1, "e": [{ "c": 4, "f": 5 }, 6] }),
            (doc! { "e.c": 0, "_id": 0 }, doc! { "a": 1, "e": [{ "f": 5 }, 6] }),
            (doc! { "_id": 0 }, doc! { "a": 1, "e": [{ "c": 4, "f": 5 }, 6] }),
        ],
    );
}

#[test]
fn arrays_are_sliced_and_searched() {
    check(
        doc! { "_id": 1, "a": [1, 2, 3, 4], "b": 2 },
        &[
            (doc! { "a": { "$slice": 2 } }, doc! { "_id": 1, "a": [1, 2], "b": 2 }),
            (doc! { "a": { "$slice": -1 }, "b": 0 }, doc! { "_id": 1, "a": [4] }),
            (doc! { "a": { "$slice": [1, 2] } }, doc! { "_id": 1, "a": [2, 3], "b": 2 }),
            (doc! { "a": { "$slice": [-3, 1] } }, doc! { "_id": 1, "a": [2], "b": 2 }),
            (doc! { "a": { "$elemMatch": { "$gt": 2 } } }, doc! { "_id": 1, "a": [3] }),
        ],
    );
    check(
        doc! { "_id": 1, "a": [{ "x": 1 }, { "x": 2, "y": 3 }] },
        &[
            (
                doc! { "a": { "$elemMatch": { "x": 2 } } },
                doc! { "_id": 1, "a": [{ "x": 2, "y": 3 }] },
            ),
            (doc! { "a": { "$elemMatch": { "x": 9 } } }, doc! { "_id": 1 }),
        ],
    );
}

#[test]
fn expressions_come_after_the_included_fields() {
    check(
        doc! { "_id": 1, "a": 2, "b": 3 },
        &[
            (doc! { "a": { "$add": ["$a", "$b"] }, "b": 1 }, doc! { "_id": 1, "b": 3, "a": 5 }),
            (doc! { "x.y": "$b", "_id": 0 }, doc! { "x": { "y": 3 } }),
            (doc! { "a": "$nothing" }, doc! { "_id": 1 }),
        ],
    );
}

#[test]
fn the_positional_operator_keeps_the_matched_element() {
    let projection = find(doc! { "a.$": 1 }).unwrap();
    assert!(projection.needs_position());
    let document = doc! { "_id": 1, "a": [5, 6], "b": 1 };
    let at = |array_index| projection.apply(&document, Some(MatchDetails { array_index }));
    assert_eq!(at(Some(1)).unwrap(), doc! { "_id": 1, "a": [6] });
    assert_eq!(at(None).unwrap_err().code, 51246);
}

#[test]
fn mixtures_and_collisions_are_refused() {
    for (spec, code, message) in [
        (doc! { "a": 1, "b": 0 }, 31254, "Cannot do exclusion on field b in inclusion projection"),
        (doc! { "a": 0, "b": 1 }, 31253, "Cannot do inclusion on field b in exclusion projection"),
        (doc! { "a": 1, "a.b": 1 }, 31249, "Path collision at a.b remaining portion b"),
        (doc! { "a.b": 1, "a": 1 }, 31250, "Path collision at a"),
        (doc! { "a": { "$foo": 1 } }, 31325, "Unknown expression $foo"),
    ] {
        let refused = find(spec.clone()).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message), "{spec}");
    }
}
