//! What matches what.

use bson::{Bson, DateTime, Document, Timestamp, doc};
use proptest::prelude::*;

use super::*;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::tests::any_bson;
use crate::mongod::query::value::to_raw;

fn context() -> ParseContext {
    ParseContext::new(DateTime::from_millis(0), Timestamp { time: 1, increment: 1 })
}

fn parse(filter: &Document) -> Result<Matcher, CommandError> {
    Matcher::parse(filter, &context())
}

/// Checks each filter against each document: `expected` names the documents that match, by index.
fn check(documents: &[Document], cases: &[(Document, &[usize])]) {
    for (filter, expected) in cases {
        let matcher = parse(filter).unwrap();
        let matched: Vec<usize> = (0..documents.len())
            .filter(|index| {
                let decoded = matcher.matches(&documents[*index]).unwrap();
                let raw = matcher.matches(&to_raw(&documents[*index])).unwrap();
                assert_eq!(decoded, raw, "{filter} on {}", documents[*index]);
                raw
            })
            .collect();
        assert_eq!(&matched, expected, "{filter}");
    }
}

#[test]
fn comparisons_stay_within_their_type_and_look_into_arrays() {
    let documents =
        [doc! { "a": 5 }, doc! { "a": "5" }, doc! { "a": [1, 9] }, doc! {}, doc! { "a": 5.0 }];
    check(
        &documents,
        &[
            (doc! { "a": 5 }, &[0, 4]),
            (doc! { "a": { "$gt": 4 } }, &[0, 2, 4]),
            (doc! { "a": { "$gt": 4, "$lt": 6 } }, &[0, 2, 4]),
            (doc! { "a": { "$lte": "6" } }, &[1]),
            (doc! { "a": { "$ne": 5 } }, &[1, 2, 3]),
            (doc! { "a": [1, 9] }, &[2]),
            (doc! { "a": { "$in": [9, "5"] } }, &[1, 2]),
            (doc! { "a": { "$nin": [9, "5"] } }, &[0, 3, 4]),
            (doc! { "a": { "$gt": Bson::MinKey } }, &[0, 1, 2, 3, 4]),
        ],
    );
}

#[test]
fn null_matches_what_is_null_or_missing() {
    let documents = [
        doc! {},
        doc! { "a": null },
        doc! { "a": 4 },
        doc! { "a": { "b": null } },
        doc! { "a": [] },
        doc! { "a": [{ "b": 1 }, {}] },
        doc! { "a": [null] },
        doc! { "a": [[]] },
    ];
    check(
        &documents,
        &[
            (doc! { "a": null }, &[0, 1, 6]),
            (doc! { "a": { "$gte": null } }, &[0, 1, 6]),
            (doc! { "a": { "$gt": null } }, &[]),
            (doc! { "a": { "$exists": false } }, &[0]),
            (doc! { "a.b": null }, &[0, 1, 2, 3, 5]),
            (doc! { "a.b": { "$ne": null } }, &[4, 6, 7]),
            (doc! { "a": { "$in": [null] } }, &[0, 1, 6]),
        ],
    );
}

#[test]
fn logical_operators_combine() {
    let documents = [doc! { "a": 1, "b": 1 }, doc! { "a": 1 }, doc! { "b": 1 }, doc! {}];
    check(
        &documents,
        &[
            (doc! { "$and": [{ "a": 1 }, { "b": 1 }] }, &[0]),
            (doc! { "$or": [{ "a": 1 }, { "b": 1 }] }, &[0, 1, 2]),
            (doc! { "$nor": [{ "a": 1 }, { "b": 1 }] }, &[3]),
            (doc! { "a": { "$not": { "$eq": 1 } } }, &[2, 3]),
            (doc! { "$comment": "why", "a": 1, "b": { "$exists": false } }, &[1]),
        ],
    );
}

#[test]
fn array_operators_look_at_the_array() {
    let documents = [
        doc! { "a": [1, 5, 9] },
        doc! { "a": [{ "x": 1, "y": 2 }, { "x": 2, "y": 1 }] },
        doc! { "a": [] },
        doc! { "a": 5 },
    ];
    check(
        &documents,
        &[
            (doc! { "a": { "$size": 0 } }, &[2]),
            (doc! { "a": { "$all": [5, 9] } }, &[0]),
            (doc! { "a": { "$all": [5] } }, &[0, 3]),
            (doc! { "a": { "$all": [] } }, &[]),
            (doc! { "a": { "$elemMatch": { "$gt": 1, "$lt": 6 } } }, &[0]),
            (doc! { "a": { "$elemMatch": { "x": 1, "y": 1 } } }, &[]),
            (doc! { "a": { "$elemMatch": { "x": 1, "y": 2 } } }, &[1]),
            (doc! { "a.x": 1, "a.y": 1 }, &[1]),
            (doc! { "a.1.x": 2 }, &[1]),
            (doc! { "a.1": 5 }, &[0]),
            (
                doc! { "a": { "$all": [{ "$elemMatch": { "x": 1 } }, { "$elemMatch": { "x": 2 } }] } },
                &[1],
            ),
        ],
    );
}

#[test]
fn element_and_evaluation_operators() {
    let documents = [
        doc! { "a": "Apple" },
        doc! { "a": 54 },
        doc! { "a": [1.5] },
        doc! { "a": Bson::Decimal128("7".parse().unwrap()) },
    ];
    check(
        &documents,
        &[
            (doc! { "a": { "$regex": "^ap", "$options": "i" } }, &[0]),
            (doc! { "a": { "$not": { "$regex": "^A" } } }, &[1, 2, 3]),
            (doc! { "a": { "$type": "string" } }, &[0]),
            (doc! { "a": { "$type": ["array", 19] } }, &[2, 3]),
            (doc! { "a": { "$type": "number" } }, &[1, 2, 3]),
            (doc! { "a": { "$mod": [4, 2] } }, &[1]),
            (doc! { "a": { "$mod": [4, 3] } }, &[3]),
            (doc! { "a": { "$bitsAllSet": [1, 2] } }, &[1, 3]),
            (doc! { "a": { "$bitsAllClear": 1 } }, &[1]),
            (doc! { "a": { "$bitsAnySet": 8 } }, &[]),
        ],
    );
}

#[test]
fn nan_matches_only_itself() {
    let documents = [doc! { "a": f64::NAN }, doc! { "a": 1 }];
    check(
        &documents,
        &[
            (doc! { "a": f64::NAN }, &[0]),
            (doc! { "a": { "$lt": 5 } }, &[1]),
            (doc! { "a": { "$gte": f64::NAN } }, &[0]),
        ],
    );
}

#[test]
fn an_expression_compares_fields_with_each_other() {
    let documents = [doc! { "a": 5, "b": 3 }, doc! { "a": 1, "b": 3 }];
    check(&documents, &[(doc! { "$expr": { "$gt": ["$a", "$b"] } }, &[0])]);
}

#[test]
fn a_collation_ignores_case() {
    let context = ParseContext { collation: secondary(), ..context() };
    let matcher = Matcher::parse(&doc! { "a": { "$in": ["APPLE"] } }, &context).unwrap();
    assert!(matcher.matches(&doc! { "a": "apple" }).unwrap());
}

#[test]
fn malformed_filters_get_the_servers_errors() {
    for (filter, code, message) in [
        (doc! { "a": { "$foo": 1 } }, 2, "unknown operator: $foo"),
        (
            doc! { "$foo": 1 },
            2,
            "unknown top level operator: $foo. If you have a field name that starts with a '$' \
             symbol, consider using $getField or $setField.",
        ),
        (doc! { "a": { "$in": 1 } }, 2, "$in needs an array"),
        (doc! { "$or": [] }, 2, "$and/$or/$nor must be a nonempty array"),
        (doc! { "a": { "$gt": 1, "b": 2 } }, 2, "unknown operator: b"),
        (doc! { "a": { "$mod": [0, 1] } }, 2, "divisor cannot be 0"),
        (doc! { "a": { "$not": 1 } }, 2, "$not needs a regex or a document"),
        (
            doc! { "a": { "$regex": "a", "$options": "z" } },
            51108,
            "invalid flag in regex options: z",
        ),
    ] {
        let refused = parse(&filter).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message), "{filter}");
    }
}

#[test]
fn the_position_is_that_of_the_element_that_matched() {
    let position = |filter: Document, document: Document| {
        parse(&filter).unwrap().match_details(&document).unwrap().unwrap().array_index
    };
    assert_eq!(position(doc! { "a": 5 }, doc! { "a": [1, 5] }), Some(1));
    assert_eq!(position(doc! { "a.b": 5 }, doc! { "a": [{}, {}, { "b": [5] }] }), Some(2));
    let elem_match = doc! { "a": { "$elemMatch": { "b": 1, "c": 2 } } };
    assert_eq!(position(elem_match, doc! { "a": [{ "b": 1 }, { "b": 1, "c": 2 }] }), Some(1));
    assert_eq!(position(doc! { "a": 5 }, doc! { "a": 5 }), None);
}

#[test]
fn equalities_are_found_where_every_match_must_have_them() {
    let matcher = parse(&doc! {
        "_id": 1, "$and": [{ "b": { "$eq": 2 } }, { "c": { "$gt": 1 } }], "$or": [{ "d": 4 }],
        "e": { "$in": [9, 7, 9] },
    });
    let matcher = matcher.unwrap();
    assert_eq!(matcher.conditions_on("_id"), [Condition::Equal(Bson::Int32(1))]);
    assert_eq!(matcher.conditions_on("c"), [Condition::From(Bson::Int32(1), false)]);
    let points = vec![Bson::Int32(7), Bson::Int32(9)];
    assert_eq!(matcher.conditions_on("e"), [Condition::In(points)]);
    assert_eq!(matcher.only_equality("_id"), None);
    let only = parse(&doc! { "_id": 1 }).unwrap();
    assert_eq!(only.only_equality("_id"), Some(Bson::Int32(1)));
    let paths: Vec<String> =
        matcher.equalities().unwrap().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["_id", "b", "d"]);
    let twice = parse(&doc! { "$and": [{ "a": 1 }, { "a": 2 }] }).unwrap();
    assert_eq!(twice.equalities().unwrap_err().code, 54);
}

proptest! {
    #[test]
    fn a_value_matches_itself_and_its_negation_the_rest(a in any_bson(), b in any_bson()) {
        let document = doc! { "v": b };
        let both = |filter: &Document| parse(filter).unwrap().matches(&document).unwrap();
        let equal = both(&doc! { "v": { "$eq": a.clone() } });
        prop_assert_eq!(equal, !both(&doc! { "v": { "$ne": a } }));
        let itself = document.get("v").cloned().unwrap_or(Bson::Null);
        let eq_itself = doc! { "v": { "$eq": itself } };
        prop_assert!(both(&eq_itself));
    }
}

fn secondary() -> Collation {
    let spec = doc! { "locale": "en", "strength": 2 };
    Collation::parse((&spec).into()).unwrap()
}
