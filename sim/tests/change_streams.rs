//! Change streams: what they show, when, and how they are resumed.

use std::time::Duration;

use bson::{Bson, Document, doc};
use stepdown::Sim;

fn elected(seed: u64) -> Sim {
    let sim = Sim::builder().seed(seed).members(3).build();
    sim.elect();
    sim
}

fn primary(sim: &Sim) -> String {
    sim.primary().expect("a primary").name.to_string()
}

fn run_on(sim: &Sim, member: &str, command: Document) -> Document {
    sim.command(member, "test", command).unwrap()
}

fn run(sim: &Sim, command: Document) -> Document {
    run_on(sim, &primary(sim), command)
}

fn watch(spec: Document) -> Document {
    doc! { "aggregate": "c", "pipeline": [{ "$changeStream": spec }], "cursor": {},
    "$readPreference": { "mode": "secondaryPreferred" } }
}

fn insert(id: i32) -> Document {
    doc! { "insert": "c", "documents": [{ "_id": id }], "writeConcern": { "w": "majority" } }
}

/// A batch: the cursor, its events, where to resume.
struct Batch {
    cursor: i64,
    events: Vec<Document>,
    token: Document,
}

#[track_caller]
fn batch(reply: &Document) -> Batch {
    let cursor = reply.get_document("cursor").unwrap_or_else(|_| panic!("{reply}"));
    let events = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch")).unwrap();
    Batch {
        cursor: cursor.get_i64("id").unwrap(),
        events: events.iter().map(|event| event.as_document().unwrap().clone()).collect(),
        token: cursor.get_document("postBatchResumeToken").unwrap().clone(),
    }
}

fn more(sim: &Sim, member: &str, cursor: i64) -> Batch {
    let next = doc! { "getMore": cursor, "collection": "c", "maxTimeMS": 100 };
    batch(&run_on(sim, member, next))
}

fn ids(batch: &Batch) -> Vec<i32> {
    let key = |event: &Document| event.get_document("documentKey").unwrap().get_i32("_id").unwrap();
    batch.events.iter().map(key).collect()
}

fn kinds(batch: &Batch) -> Vec<&str> {
    batch.events.iter().map(|event| event.get_str("operationType").unwrap()).collect()
}

#[test]
fn an_event_is_shown_once_a_majority_has_it_and_not_before() {
    let sim = elected(1);
    run(&sim, insert(0));
    let node = primary(&sim);
    let stream = batch(&run(&sim, watch(doc! {}))).cursor;
    for secondary in sim.secondaries() {
        sim.pause(&secondary).unwrap();
    }
    run(&sim, doc! { "insert": "c", "documents": [{ "_id": 1 }], "writeConcern": { "w": 1 } });
    assert_eq!(ids(&more(&sim, &node, stream)), [] as [i32; 0], "it may still be rolled back");
    for member in sim.members() {
        if member.paused {
            sim.resume(&*member.name).unwrap();
        }
    }
    sim.advance(Duration::from_secs(5));
    assert_eq!(ids(&more(&sim, &primary(&sim), stream)), [1]);
}

#[test]
fn a_stream_goes_on_after_a_failover_with_its_token_and_misses_and_repeats_nothing() {
    let sim = elected(2);
    run(&sim, insert(0));
    let opened = batch(&run(&sim, watch(doc! {})));
    run(&sim, insert(1));
    let seen = more(&sim, &primary(&sim), opened.cursor);
    assert_eq!(ids(&seen), [1]);
    run(&sim, insert(2));
    let old = primary(&sim);
    sim.kill(&*old).unwrap();
    sim.run_until(Duration::from_secs(60), |sim| {
        sim.primary().is_some_and(|primary| *primary.name != *old)
    })
    .unwrap();
    run(&sim, insert(3));
    let token = seen.events[0].get_document("_id").unwrap().clone();
    let again = batch(&run(&sim, watch(doc! { "resumeAfter": token })));
    assert_eq!(ids(&again), [2, 3]);
    let nothing = batch(&run(&sim, watch(doc! { "resumeAfter": again.token })));
    assert_eq!(ids(&nothing), [] as [i32; 0]);
}

#[test]
fn a_secondary_gives_the_same_events_with_the_same_tokens() {
    let sim = elected(3);
    let start = run(&sim, insert(0)).get_timestamp("operationTime").unwrap();
    run(&sim, insert(1));
    run(
        &sim,
        doc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "a": 1 } } }],
        "writeConcern": { "w": 3 } },
    );
    sim.advance(Duration::from_secs(1));
    let from = watch(doc! { "startAtOperationTime": start });
    let first = batch(&run(&sim, from.clone()));
    assert_eq!(kinds(&first), ["insert", "insert", "update"]);
    for secondary in sim.secondaries() {
        let other = batch(&run_on(&sim, &secondary.name, from.clone()));
        assert_eq!(other.events, first.events, "{}", secondary.name);
    }
}

#[test]
fn dropping_the_collection_ends_its_stream_and_start_after_goes_on_with_the_next() {
    let sim = elected(4);
    run(&sim, insert(0));
    let stream = batch(&run(&sim, watch(doc! {}))).cursor;
    run(&sim, doc! { "drop": "c", "writeConcern": { "w": "majority" } });
    let end = more(&sim, &primary(&sim), stream);
    assert_eq!(kinds(&end), ["drop", "invalidate"]);
    assert_eq!(end.cursor, 0);
    run(&sim, insert(1));
    let token = end.events[1].get_document("_id").unwrap().clone();
    let refused = run(&sim, watch(doc! { "resumeAfter": token.clone() }));
    assert_eq!(refused.get_i32("code").ok(), Some(260), "{refused}");
    assert_eq!(ids(&batch(&run(&sim, watch(doc! { "startAfter": token })))), [1]);
}

#[test]
fn pre_and_post_images_are_there_where_the_collection_keeps_them() {
    let sim = elected(5);
    run(&sim, doc! { "create": "c", "changeStreamPreAndPostImages": { "enabled": true } });
    let spec = doc! { "fullDocument": "required", "fullDocumentBeforeChange": "required" };
    let stream = batch(&run(&sim, watch(spec))).cursor;
    run(&sim, insert(1));
    let set = |value: i32| {
        let update = doc! { "q": { "_id": 1 }, "u": { "$set": { "a": value } } };
        doc! { "update": "c", "updates": [update], "writeConcern": { "w": "majority" } }
    };
    run(&sim, set(1));
    run(&sim, set(2));
    let seen = more(&sim, &primary(&sim), stream);
    let last = seen.events.last().unwrap();
    assert_eq!(last.get_document("fullDocument").unwrap(), &doc! { "_id": 1, "a": 2 });
    assert_eq!(last.get_document("fullDocumentBeforeChange").unwrap(), &doc! { "_id": 1, "a": 1 });
}

#[test]
fn an_image_that_nobody_kept_fails_a_stream_that_requires_it() {
    let sim = elected(6);
    run(&sim, insert(1));
    let stream = batch(&run(&sim, watch(doc! { "fullDocumentBeforeChange": "required" }))).cursor;
    run(&sim, doc! { "delete": "c", "deletes": [{ "q": { "_id": 1 }, "limit": 1 }] });
    sim.advance(Duration::from_secs(1));
    let next = doc! { "getMore": stream, "collection": "c" };
    let failed = run(&sim, next);
    assert_eq!(failed.get_i32("code").ok(), Some(47), "{failed}");
}

#[test]
fn a_token_from_before_everything_begins_with_the_first_event_of_a_young_set() {
    let sim = elected(8);
    run(&sim, insert(0));
    let ancient = "8200000001000000012B0229296E04";
    let young = batch(&run(&sim, watch(doc! { "resumeAfter": { "_data": ancient } })));
    assert_eq!(kinds(&young)[0], "insert");
}

#[test]
fn what_a_pipeline_does_to_the_token_is_fatal_for_the_stream() {
    let sim = elected(9);
    let start = run(&sim, insert(0)).get_timestamp("operationTime").unwrap();
    let pipeline = vec![
        Bson::from(doc! { "$changeStream": { "startAtOperationTime": start } }),
        Bson::from(doc! { "$project": { "_id": 0 } }),
    ];
    let failed = run(&sim, doc! { "aggregate": "c", "pipeline": pipeline, "cursor": {} });
    assert_eq!(failed.get_i32("code").ok(), Some(280), "{failed}");
    assert!(format!("{failed}").contains("NonResumableChangeStreamError"), "{failed}");
}
