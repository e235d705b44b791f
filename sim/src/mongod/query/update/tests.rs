//! What updates do to documents and what they log.

use bson::{DateTime, Timestamp, bson, doc};
use proptest::prelude::*;

use super::*;
use crate::mongod::query::diff::apply_diff;

fn context() -> ParseContext {
    ParseContext::new(DateTime::from_millis(1_000), Timestamp { time: 9, increment: 1 })
}

fn parse(update: Bson, filters: &[Document]) -> Result<Update, CommandError> {
    let filters: Vec<DocumentRef<'_>> = filters.iter().map(DocumentRef::from).collect();
    Update::parse(&update, &filters, &context())
}

fn apply(update: Bson, document: &Document) -> Result<UpdateOutcome, CommandError> {
    parse(update, &[])?.apply(document, false, Some(1))
}

/// Checks the document after and the difference logged, and that the difference alone leads there.
fn check(before: Document, cases: Vec<(Document, Document, Document)>) {
    for (update, after, logged) in cases {
        let outcome = apply(Bson::Document(update.clone()), &before).unwrap();
        let found = &outcome.document;
        assert!(identical_documents(found, &after), "{update}: {found}, not {after}");
        let diff = match outcome.entry {
            Some(UpdateEntry::Diff(entry)) => entry.get_document("diff").unwrap().clone(),
            None => Document::new(),
            entry => panic!("{update} logged {entry:?}"),
        };
        assert!(identical_documents(&diff, &logged), "{update} logged {diff}, not {logged}");
        assert!(identical_documents(&apply_diff(&before, &diff).unwrap(), &after), "{update}");
    }
}

#[test]
fn fields_are_set_removed_and_renamed() {
    check(
        doc! { "_id": 1, "a": 1, "b": { "c": 2 } },
        vec![
            (
                doc! { "$set": { "a": 5, "b.d": 3, "x.y": 1 } },
                doc! { "_id": 1, "a": 5, "b": { "c": 2, "d": 3 }, "x": { "y": 1 } },
                doc! { "u": { "a": 5 }, "i": { "x": { "y": 1 } }, "sb": { "i": { "d": 3 } } },
            ),
            (
                doc! { "$set": { "z": 1, "y": 2 } },
                doc! { "_id": 1, "a": 1, "b": { "c": 2 }, "y": 2, "z": 1 },
                doc! { "i": { "y": 2, "z": 1 } },
            ),
            (doc! { "$set": { "a": 1 } }, doc! { "_id": 1, "a": 1, "b": { "c": 2 } }, doc! {}),
            (
                doc! { "$unset": { "a": "", "b.c": 1, "n": 1 } },
                doc! { "_id": 1, "b": {} },
                doc! { "d": { "a": false }, "sb": { "d": { "c": false } } },
            ),
            (
                doc! { "$rename": { "a": "b.e" } },
                doc! { "_id": 1, "b": { "c": 2, "e": 1 } },
                doc! { "d": { "a": false }, "sb": { "i": { "e": 1 } } },
            ),
            (
                doc! { "$currentDate": { "a": true } },
                doc! { "_id": 1, "a": DateTime::from_millis(1_000), "b": { "c": 2 } },
                doc! { "u": { "a": DateTime::from_millis(1_000) } },
            ),
            (
                doc! { "$setOnInsert": { "a": 7 } },
                doc! { "_id": 1, "a": 1, "b": { "c": 2 } },
                doc! {},
            ),
        ],
    );
}

#[test]
fn numbers_are_counted_compared_and_masked() {
    check(
        doc! { "_id": 1, "n": 5 },
        vec![
            (
                doc! { "$inc": { "n": 2, "m": 1 } },
                doc! { "_id": 1, "n": 7, "m": 1 },
                doc! { "u": { "n": 7 }, "i": { "m": 1 } },
            ),
            (
                doc! { "$inc": { "n": i32::MAX } },
                doc! { "_id": 1, "n": 2_147_483_652_i64 },
                doc! { "u": { "n": 2_147_483_652_i64 } },
            ),
            (
                doc! { "$inc": { "n": 0.5 } },
                doc! { "_id": 1, "n": 5.5 },
                doc! { "u": { "n": 5.5 } },
            ),
            (
                doc! { "$mul": { "n": 3, "m": 2_i64 } },
                doc! { "_id": 1, "n": 15, "m": 0_i64 },
                doc! { "u": { "n": 15 }, "i": { "m": 0_i64 } },
            ),
            (doc! { "$min": { "n": 9 } }, doc! { "_id": 1, "n": 5 }, doc! {}),
            (doc! { "$max": { "n": 9 } }, doc! { "_id": 1, "n": 9 }, doc! { "u": { "n": 9 } }),
            (
                doc! { "$bit": { "n": { "xor": 3 } } },
                doc! { "_id": 1, "n": 6 },
                doc! { "u": { "n": 6 } },
            ),
        ],
    );
}

#[test]
fn arrays_grow_shrink_and_are_set_by_place() {
    check(
        doc! { "_id": 1, "a": [3, 1, 2] },
        vec![
            (
                doc! { "$push": { "a": 4 } },
                doc! { "_id": 1, "a": [3, 1, 2, 4] },
                doc! { "sa": { "a": true, "u3": 4 } },
            ),
            (
                doc! { "$push": { "b": 4 } },
                doc! { "_id": 1, "a": [3, 1, 2], "b": [4] },
                doc! { "i": { "b": [4] } },
            ),
            (
                doc! { "$push": { "a": { "$each": [9, 0], "$sort": 1, "$slice": -3 } } },
                doc! { "_id": 1, "a": [2, 3, 9] },
                doc! { "u": { "a": [2, 3, 9] } },
            ),
            (
                doc! { "$push": { "a": { "$each": [9], "$position": 1 } } },
                doc! { "_id": 1, "a": [3, 9, 1, 2] },
                doc! { "u": { "a": [3, 9, 1, 2] } },
            ),
            (
                doc! { "$addToSet": { "a": { "$each": [1.0, 7] } } },
                doc! { "_id": 1, "a": [3, 1, 2, 7] },
                doc! { "sa": { "a": true, "u3": 7 } },
            ),
            (doc! { "$addToSet": { "a": 3 } }, doc! { "_id": 1, "a": [3, 1, 2] }, doc! {}),
            (
                doc! { "$pop": { "a": -1 } },
                doc! { "_id": 1, "a": [1, 2] },
                doc! { "u": { "a": [1, 2] } },
            ),
            (
                doc! { "$pull": { "a": { "$gte": 2 } } },
                doc! { "_id": 1, "a": [1] },
                doc! { "u": { "a": [1] } },
            ),
            (
                doc! { "$pullAll": { "a": [3, 2] } },
                doc! { "_id": 1, "a": [1] },
                doc! { "u": { "a": [1] } },
            ),
            (
                doc! { "$set": { "a.1": 8 } },
                doc! { "_id": 1, "a": [3, 8, 2] },
                doc! { "sa": { "a": true, "u1": 8 } },
            ),
            (
                doc! { "$set": { "a.4": 8 } },
                doc! { "_id": 1, "a": [3, 1, 2, null, 8] },
                doc! { "sa": { "a": true, "u4": 8 } },
            ),
            (
                doc! { "$set": { "a.$": 8 } },
                doc! { "_id": 1, "a": [3, 8, 2] },
                doc! { "sa": { "a": true, "u1": 8 } },
            ),
            (
                doc! { "$inc": { "a.$[]": 1 } },
                doc! { "_id": 1, "a": [4, 2, 3] },
                doc! { "sa": { "a": true, "u0": 4, "u1": 2, "u2": 3 } },
            ),
            (
                doc! { "$unset": { "a.0": 1 } },
                doc! { "_id": 1, "a": [null, 1, 2] },
                doc! { "sa": { "a": true, "u0": null } },
            ),
        ],
    );
}

#[test]
fn pull_takes_documents_by_filter() {
    check(
        doc! { "_id": 1, "a": [{ "x": 1, "y": 1 }, { "x": 2 }, 1] },
        vec![(
            doc! { "$pull": { "a": { "x": 1 } } },
            doc! { "_id": 1, "a": [{ "x": 2 }, 1] },
            doc! { "u": { "a": [{ "x": 2 }, 1] } },
        )],
    );
}

#[test]
fn array_filters_choose_elements() {
    let update =
        parse(bson!({ "$set": { "g.$[low].ok": false } }), &[doc! { "low.n": { "$lt": 5 } }]);
    let document = doc! { "_id": 1, "g": [{ "n": 3 }, { "n": 8 }] };
    let outcome = update.unwrap().apply(&document, false, None).unwrap();
    assert_eq!(outcome.document, doc! { "_id": 1, "g": [{ "n": 3, "ok": false }, { "n": 8 }] });
    let diff = doc! { "sg": { "a": true, "s0": { "i": { "ok": false } } } };
    assert_eq!(outcome.entry, Some(UpdateEntry::Diff(versioned(diff))));
}

#[test]
fn a_replacement_keeps_the_id_and_puts_it_first() {
    let before = doc! { "_id": 1, "a": 1 };
    let outcome = apply(bson!({ "b": 2 }), &before).unwrap();
    assert!(identical_documents(&outcome.document, &doc! { "_id": 1, "b": 2 }));
    assert_eq!(outcome.entry, Some(UpdateEntry::Replacement));
    assert!(!apply(bson!({ "a": 1 }), &before).unwrap().changed);
    let refused = apply(bson!({ "_id": 2 }), &before).unwrap_err();
    let message = "After applying the update, the (immutable) field '_id' was found to have been \
                   altered to _id: 2";
    assert_eq!((refused.code, refused.message.as_str()), (66, message));
}

#[test]
fn a_pipeline_logs_the_shorter_of_difference_and_document() {
    let before = doc! { "_id": 1, "a": 1, "text": "a long text that need not be logged again" };
    let outcome = apply(bson!([{ "$set": { "b": "$a" } }, { "$unset": "a" }]), &before).unwrap();
    let diff = doc! { "d": { "a": false }, "i": { "b": 1 } };
    assert_eq!(outcome.entry, Some(UpdateEntry::Diff(versioned(diff))));
    let outcome = apply(bson!([{ "$replaceWith": { "b": 1 } }]), &before).unwrap();
    assert_eq!(outcome.document, doc! { "_id": 1, "b": 1 });
    let refused = apply(bson!([{ "$match": {} }]), &before).unwrap_err();
    assert_eq!(refused.message, "$match is not allowed to be used within an update");
}

#[test]
fn an_upsert_starts_from_the_filters_equalities() {
    let filter = |filter: Document| Matcher::parse(&filter, &context()).unwrap();
    let upsert = |update: Bson, matcher: &Matcher| {
        parse(update, &[]).unwrap().upsert_document(matcher, || Bson::Int32(99))
    };
    let matcher = filter(doc! { "k.x": 1, "n": { "$gt": 5 } });
    let made = upsert(bson!({ "$set": { "v": 2 }, "$setOnInsert": { "w": 3 } }), &matcher).unwrap();
    assert!(
        identical_documents(&made, &doc! { "_id": 99, "k": { "x": 1 }, "v": 2, "w": 3 }),
        "{made}"
    );
    let matcher = filter(doc! { "_id": 7, "k": 1 });
    assert_eq!(upsert(bson!({ "v": 2 }), &matcher).unwrap(), doc! { "_id": 7, "v": 2 });
    let refused = upsert(bson!({ "$set": { "_id": 8 } }), &matcher).unwrap_err();
    assert_eq!(refused.code, error::IMMUTABLE_FIELD);
}

#[test]
fn wrong_updates_get_the_servers_errors() {
    let document = doc! { "_id": 1, "a": 5, "s": "x", "l": i64::MAX };
    for (update, code, message) in [
        (
            bson!({ "$foo": { "a": 1 } }),
            9,
            "Unknown modifier: $foo. Expected a valid update modifier or pipeline-style update \
             specified as an array",
        ),
        (
            bson!({ "$set": { "a": 1 }, "$inc": { "a.b": 1 } }),
            40,
            "Updating the path 'a.b' would create a conflict at 'a'",
        ),
        (
            bson!({ "$inc": { "a": "x" } }),
            14,
            "Cannot increment with non-numeric argument: {a: \"x\"}",
        ),
        (
            bson!({ "$inc": { "s": 1 } }),
            14,
            "Cannot apply $inc to a value of non-numeric type. {_id: 1} has the field 's' of \
             non-numeric type string",
        ),
        (
            bson!({ "$inc": { "l": 1 } }),
            2,
            "Failed to apply $inc operations to current value ((NumberLong)9223372036854775807) for \
             document {_id: 1}",
        ),
        (bson!({ "$set": { "a.b": 1 } }), 28, "Cannot create field 'b' in element {a: 5}"),
        (
            bson!({ "$push": { "a": 1 } }),
            2,
            "The field 'a' must be an array but is of type int in document {_id: 1}",
        ),
        (
            bson!({ "$set": { "_id": 2 } }),
            66,
            "Performing an update on the path '_id' would modify the immutable field '_id'",
        ),
        (
            bson!({ "$set": { "a.$[x]": 1 } }),
            2,
            "No array filter found for identifier 'x' in path 'a.$[x]'",
        ),
        (bson!([{ "$nope": 1 }]), 40324, "Unrecognized pipeline stage name: '$nope'"),
    ] {
        let refused = apply(update.clone(), &document).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message), "{update}");
    }
}

proptest! {
    #[test]
    fn what_operators_log_leads_to_what_they_did(
        a in prop::collection::vec(-2..3_i32, 0..4),
        n in any::<i32>(),
        value in -2..3_i32,
        place in 0..6_usize,
        which in 0..8_usize,
    ) {
        let before = doc! { "_id": 1, "a": a, "n": n, "d": { "x": value } };
        let update = [
            doc! { "$push": { "a": value } },
            doc! { "$pull": { "a": value }, "$inc": { "n": value } },
            doc! { "$addToSet": { "a": value } },
            doc! { "$set": { format!("a.{place}"): value } },
            doc! { "$unset": { format!("a.{place}"): 1, "d.x": 1 } },
            doc! { "$set": { "d.y": value, "d.x": value, "e.f.g": value } },
            doc! { "$rename": { "n": "d.n" }, "$pop": { "a": 1 } },
            doc! { "$mul": { "n": value }, "$min": { "d.x": 0 }, "$push": { "a": { "$each": [1, 2], "$slice": 3 } } },
        ][which].clone();
        let outcome = apply(Bson::Document(update), &before).unwrap();
        prop_assert_eq!(outcome.changed, outcome.entry.is_some());
        if let Some(UpdateEntry::Diff(entry)) = &outcome.entry {
            let applied = apply_diff(&before, entry.get_document("diff").unwrap()).unwrap();
            prop_assert!(identical_documents(&applied, &outcome.document));
        }
    }
}
