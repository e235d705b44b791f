//! The driver without async, on threads, against a set served on real sockets.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use bson::{Document, doc};
use stepdown::serve::{Narrator, ServeOptions, Server};
use stepdown_driver::blocking::{Client, Run};

fn served() -> Server {
    Server::start(ServeOptions::default(), Narrator::silent()).expect("free ports can be served")
}

/// The threads of this process that work for the driver.
fn driver_threads() -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("stepdown: "))
        .count()
}

#[test]
fn code_without_async_uses_a_set_and_leaves_no_thread_behind() {
    let server = served();
    let client = Client::with_uri_str(server.uri()).unwrap();
    let notes = client.database("app").collection::<Document>("notes");
    let inserted = notes.insert_one(doc! { "_id": 1, "text": "first" }).run().unwrap();
    assert_eq!(inserted.inserted_id, bson::Bson::Int32(1));
    notes.insert_many((2..=300).map(|n| doc! { "_id": n })).run().unwrap();
    let found = notes.find_one(doc! { "_id": 1 }).run().unwrap();
    assert_eq!(found, Some(doc! { "_id": 1, "text": "first" }));

    // A cursor is an iterator.
    let cursor = notes.find(doc! { "_id": { "$gt": 100 } }).sort(doc! { "_id": 1 }).batch_size(30);
    let ids: Vec<i32> =
        cursor.run().unwrap().map(|note| note.unwrap().get_i32("_id").unwrap()).collect();
    assert_eq!(ids, (101..=300).collect::<Vec<_>>());
    // One that is dropped halfway is closed in the background.
    let mut half = notes.find(doc! {}).batch_size(2).run().unwrap();
    assert!(half.advance().unwrap());
    drop(half);

    let session = client.start_session().unwrap();
    notes
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "seen": true } })
        .session(&session)
        .run()
        .unwrap();
    assert_eq!(notes.count_documents(doc! { "seen": true }).session(&session).run().unwrap(), 1);
    let names = client.database("app").list_collection_names().run().unwrap();
    assert_eq!(names, ["notes"]);
    let pong = client.database("admin").run_command(doc! { "ping": 1 }).run().unwrap();
    assert_eq!(pong.get_f64("ok").unwrap(), 1.0);
    assert!(client.topology().primary().is_some());
    drop(session);

    // Many threads share one client.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let notes = notes.clone();
            scope.spawn(move || {
                for n in 0..20 {
                    let id = 1000 + thread * 100 + n;
                    notes.insert_one(doc! { "_id": id }).run().unwrap();
                    assert!(notes.find_one(doc! { "_id": id }).run().unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(notes.count_documents(doc! { "_id": { "$gte": 1000 } }).run().unwrap(), 160);

    client.close();
    let error = notes.find_one(doc! {}).run().unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    let began = Instant::now();
    while driver_threads() > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "{} threads", driver_threads());
        std::thread::sleep(Duration::from_millis(20));
    }
}
