//! What expressions evaluate to.

use bson::{Bson, DateTime, Timestamp, bson};

use super::*;
use crate::mongod::query::compare::identical;

fn evaluate(expression: &Bson) -> Result<Value, CommandError> {
    let now = DateTime::from_millis(1_234);
    let mut context = ParseContext::new(now, Timestamp { time: 5, increment: 6 });
    context.variables.push(("given".into(), bson!({ "x": 7 })));
    let root = bson!({
        "_id": 1, "n": 5, "s": "Hello", "a": [3, 1, 2], "docs": [{ "x": 1 }, { "x": 2 }, {}],
        "nil": null, "o": { "k": { "m": 9 } },
        "d": DateTime::from_millis(1_709_210_096_789),
    });
    Expression::parse(expression.into(), &context)?.evaluate(&Scope::new(&root))
}

fn check(cases: Vec<(Bson, Bson)>) {
    for (expression, expected) in cases {
        let found = evaluate(&expression).unwrap().unwrap_or(Bson::Undefined);
        assert!(identical(&found, &expected), "{expression}: {found}, not {expected}");
    }
}

/// What a missing value shows as in these tables.
const MISSING: Bson = Bson::Undefined;

#[test]
fn paths_and_variables_are_read() {
    check(vec![
        (bson!("$n"), bson!(5)),
        (bson!("$o.k.m"), bson!(9)),
        (bson!("$docs.x"), bson!([1, 2])),
        (bson!("$nothing"), MISSING),
        (bson!("$$ROOT.n"), bson!(5)),
        (bson!("$$NOW"), Bson::DateTime(DateTime::from_millis(1_234))),
        (bson!("$$given.x"), bson!(7)),
        (bson!("$$REMOVE"), MISSING),
        (bson!({ "a": "$n", "b": "$nothing" }), bson!({ "a": 5 })),
        (bson!(["$n", "$nothing"]), bson!([5, null])),
        (bson!({ "$literal": "$n" }), bson!("$n")),
        (bson!({ "$let": { "vars": { "v": { "$add": ["$n", 1] } }, "in": "$$v" } }), bson!(6)),
    ]);
}

#[test]
fn numbers_are_computed_in_the_narrowest_type() {
    check(vec![
        (bson!({ "$add": ["$n", 1, 0.5] }), bson!(6.5)),
        (bson!({ "$add": [i32::MAX, 1] }), bson!(2_147_483_648_i64)),
        (
            bson!({ "$add": ["$d", 1_000] }),
            Bson::DateTime(DateTime::from_millis(1_709_210_097_789)),
        ),
        (bson!({ "$subtract": ["$n", 7_i64] }), bson!(-2_i64)),
        (bson!({ "$multiply": ["$n", "$nil"] }), Bson::Null),
        (bson!({ "$divide": ["$n", 2] }), bson!(2.5)),
        (bson!({ "$mod": [-7, 3] }), bson!(-1)),
        (bson!({ "$pow": [2, 10] }), bson!(1024)),
        (bson!({ "$abs": -3 }), bson!(3)),
        (bson!({ "$round": [2.5] }), bson!(2.0)),
        (bson!({ "$round": [1234.567, 2] }), bson!(1234.57)),
        (bson!({ "$round": [1250, -2] }), bson!(1200)),
        (bson!({ "$trunc": [-2.7] }), bson!(-2.0)),
        (bson!({ "$sum": "$a" }), bson!(6)),
        (bson!({ "$avg": ["$n", 6, "x"] }), bson!(5.5)),
        (bson!({ "$max": "$a" }), bson!(3)),
    ]);
}

#[test]
fn values_are_compared_and_chosen() {
    check(vec![
        (bson!({ "$cmp": ["$n", 7] }), bson!(-1)),
        (bson!({ "$eq": ["$n", 5.0] }), bson!(true)),
        (bson!({ "$lt": ["$nothing", null] }), bson!(true)),
        (bson!({ "$and": ["$n", { "$not": ["$nil"] }] }), bson!(true)),
        (bson!({ "$cond": [{ "$gt": ["$n", 3] }, "big", "small"] }), bson!("big")),
        (bson!({ "$ifNull": ["$nil", "$nothing", "d"] }), bson!("d")),
        (
            bson!({ "$switch": { "branches": [{ "case": "$nil", "then": 1 }], "default": 2 } }),
            bson!(2),
        ),
    ]);
}

#[test]
fn arrays_and_sets_are_worked_on() {
    check(vec![
        (bson!({ "$size": "$a" }), bson!(3)),
        (bson!({ "$arrayElemAt": ["$a", -1] }), bson!(2)),
        (bson!({ "$arrayElemAt": ["$a", 9] }), MISSING),
        (bson!({ "$in": [1.0, "$a"] }), bson!(true)),
        (bson!({ "$slice": ["$a", -2] }), bson!([1, 2])),
        (bson!({ "$slice": ["$a", 1, 1] }), bson!([1])),
        (bson!({ "$concatArrays": ["$a", [9]] }), bson!([3, 1, 2, 9])),
        (
            bson!({ "$map": { "input": "$a", "as": "e", "in": { "$add": ["$$e", "$n"] } } }),
            bson!([8, 6, 7]),
        ),
        (bson!({ "$filter": { "input": "$a", "cond": { "$gte": ["$$this", 2] } } }), bson!([3, 2])),
        (
            bson!({ "$reduce": { "input": "$a", "initialValue": 0, "in": { "$add": ["$$value", "$$this"] } } }),
            bson!(6),
        ),
        (bson!({ "$sortArray": { "input": "$a", "sortBy": 1 } }), bson!([1, 2, 3])),
        (bson!({ "$range": [0, 5, 2] }), bson!([0, 2, 4])),
        (bson!({ "$zip": { "inputs": [[1, 2], [3]] } }), bson!([[1, 3]])),
        (bson!({ "$setUnion": ["$a", [3, 4]] }), bson!([1, 2, 3, 4])),
        (bson!({ "$setIsSubset": [[1], "$a"] }), bson!(true)),
        (bson!({ "$first": "$a" }), bson!(3)),
        (bson!({ "$indexOfArray": ["$a", 2] }), bson!(2)),
    ]);
}

#[test]
fn strings_are_cut_and_joined() {
    check(vec![
        (bson!({ "$concat": ["$s", "!", "x"] }), bson!("Hello!x")),
        (bson!({ "$toUpper": "$s" }), bson!("HELLO")),
        (bson!({ "$substrCP": ["$s", 1, 3] }), bson!("ell")),
        (bson!({ "$split": ["a-b", "-"] }), bson!(["a", "b"])),
        (bson!({ "$strLenCP": "é" }), bson!(1)),
        (bson!({ "$indexOfCP": ["$s", "l"] }), bson!(2)),
        (bson!({ "$trim": { "input": "  x " } }), bson!("x")),
        (
            bson!({ "$replaceAll": { "input": "$s", "find": "l", "replacement": "L" } }),
            bson!("HeLLo"),
        ),
        (bson!({ "$regexMatch": { "input": "$s", "regex": "^h", "options": "i" } }), bson!(true)),
        (
            bson!({ "$regexFind": { "input": "$s", "regex": "l(l)" } }),
            bson!({ "match": "ll", "idx": 2, "captures": ["l"] }),
        ),
    ]);
}

#[test]
fn documents_are_merged_and_taken_apart() {
    check(vec![
        (bson!({ "$mergeObjects": ["$o", { "z": 1 }] }), bson!({ "k": { "m": 9 }, "z": 1 })),
        (bson!({ "$objectToArray": { "q": 1 } }), bson!([{ "k": "q", "v": 1 }])),
        (bson!({ "$arrayToObject": [[["q", 1]]] }), bson!({ "q": 1 })),
        (bson!({ "$getField": "n" }), bson!(5)),
        (
            bson!({ "$setField": { "field": "z", "input": "$o.k", "value": 2 } }),
            bson!({ "m": 9, "z": 2 }),
        ),
    ]);
}

#[test]
fn types_convert() {
    check(vec![
        (bson!({ "$type": "$nothing" }), bson!("missing")),
        (bson!({ "$toInt": "12" }), bson!(12)),
        (bson!({ "$toLong": 3.9 }), bson!(3_i64)),
        (bson!({ "$toString": 1.5 }), bson!("1.5")),
        (bson!({ "$toBool": 0 }), bson!(false)),
        (bson!({ "$convert": { "input": "x", "to": "int", "onError": -1 } }), bson!(-1)),
        (bson!({ "$isNumber": "$n" }), bson!(true)),
    ]);
}

#[test]
fn dates_are_taken_apart_in_utc() {
    check(vec![
        (bson!({ "$year": "$d" }), bson!(2024)),
        (bson!({ "$dayOfYear": "$d" }), bson!(60)),
        (bson!({ "$dayOfWeek": "$d" }), bson!(5)),
        (bson!({ "$hour": { "date": "$d", "timezone": "+02:00" } }), bson!(14)),
        (bson!({ "$toString": "$d" }), bson!("2024-02-29T12:34:56.789Z")),
        (
            bson!({ "$toDate": "2024-02-29T12:34:56.789Z" }),
            Bson::DateTime(DateTime::from_millis(1_709_210_096_789)),
        ),
        (
            bson!({ "$dateToString": { "date": { "$dateAdd": { "startDate": "$d", "unit": "year", "amount": 1 } }, "format": "%Y-%m-%d" } }),
            bson!("2025-02-28"),
        ),
        (
            bson!({ "$dateToString": { "date": { "$dateTrunc": { "date": "$d", "unit": "month" } } } }),
            bson!("2024-02-01T00:00:00.000Z"),
        ),
        (
            bson!({ "$dateToString": { "date": { "$dateTrunc": { "date": "$d", "unit": "week" } }, "format": "%Y-%m-%d" } }),
            bson!("2024-02-25"),
        ),
        (
            bson!({ "$dateDiff": { "startDate": "$d", "endDate": { "$toDate": "2024-03-01" }, "unit": "day" } }),
            bson!(1_i64),
        ),
    ]);
}

#[test]
fn wrong_expressions_get_the_servers_errors() {
    for (expression, code, message) in [
        (bson!({ "$nope": 1 }), 168, "Unrecognized expression '$nope'"),
        (bson!("$$nope"), 17276, "Use of undefined variable: nope"),
        (bson!({ "$add": ["$s"] }), 16554, "$add only supports numeric or date types, not string"),
        (
            bson!({ "$arrayToObject": [[["a\0b", 1]]] }),
            4_940_400,
            "Key field cannot contain an embedded null byte",
        ),
        (bson!({ "$divide": [1, 0] }), 2, "can't $divide by zero"),
        (
            bson!({ "$eq": [1] }),
            16020,
            "Expression $eq takes exactly 2 arguments. 1 were passed in.",
        ),
        (
            bson!({ "$size": "$n" }),
            17124,
            "The argument to $size must be an array, but was of type: int",
        ),
    ] {
        let refused = evaluate(&expression).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message), "{expression}");
    }
}
