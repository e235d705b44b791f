//! Bulk writes, GridFS and other helpers over a scripted outside.

use bson::{Bson, Document, doc};

use super::{client, refusal, set};
use crate::error::{ErrorKind, GridFsErrorKind};
use crate::options::{
    DeleteOneModel, InsertOneModel, Namespace, ReadPreference, UpdateOneModel, WriteConcern,
    WriteModel,
};
use crate::testing::{Answer, Call};

fn insert(id: i32) -> WriteModel {
    InsertOneModel::new(Namespace::new("d", "c"), doc! { "_id": id }).into()
}

fn bulk_reply(results: Vec<Document>, id: i64, more: Document) -> Document {
    let cursor = doc! { "firstBatch": results, "id": id, "ns": "admin.$cmd.bulkWrite" };
    let mut reply = doc! { "cursor": cursor, "ok": 1.0 };
    reply.extend(more);
    reply
}

#[test]
fn the_results_of_a_bulk_write_are_read_to_their_end() {
    let outside = set(|call| match call.name() {
        "bulkWrite" => Some(Answer::Reply(bulk_reply(
            vec![doc! { "ok": 1, "idx": 0, "n": 1 }],
            9,
            doc! { "nErrors": 0, "nInserted": 1, "nMatched": 2, "nModified": 1, "nDeleted": 1 },
        ))),
        "getMore" => {
            Some(Answer::Reply(doc! { "cursor": { "id": 0_i64, "ns": "admin.$cmd.bulkWrite",
            "nextBatch": [
                { "ok": 1, "idx": 1, "n": 1, "nModified": 0, "upserted": { "_id": 5 } },
                { "ok": 1, "idx": 2, "n": 1 },
            ] }, "ok": 1.0 }))
        }
        _ => None,
    });
    let client = client(&outside, "");
    let result = outside.block_on(async {
        let other = Namespace::new("d", "other");
        let update = UpdateOneModel::new(other, doc! {}, doc! { "$set": { "x": 1 } }).upsert(true);
        let delete = DeleteOneModel::new(Namespace::new("d", "c"), doc! {});
        let models = vec![insert(1), update.into(), delete.into()];
        client.bulk_write(models).verbose_results(true).await.unwrap()
    });
    assert_eq!(result.insert_results[&0].inserted_id, Bson::Int32(1));
    assert_eq!(result.update_results[&1].upserted_id, Some(Bson::Int32(5)));
    assert_eq!((result.delete_results[&2].deleted_count, result.matched_count), (1, 2));
    let calls = outside.commands();
    let command = &calls[0].command;
    assert_eq!(
        command["nsInfo"],
        Bson::Array(vec![doc! { "ns": "d.c" }.into(), doc! { "ns": "d.other" }.into()])
    );
    assert_eq!(
        command.get_array("ops").unwrap()[2],
        doc! { "delete": 0, "filter": {}, "multi": false }.into()
    );
    assert_eq!(command["errorsOnly"], false.into());
    assert!(command.contains_key("txnNumber"));
    assert_eq!(calls[1].command["lsid"], command["lsid"]);
}

#[test]
fn what_was_done_before_the_first_refusal_is_told() {
    let outside = set(|call| {
        let refused = doc! { "ok": 0, "idx": 1, "code": 11000, "errmsg": "dup" };
        let results = vec![doc! { "ok": 1, "idx": 0, "n": 1 }, refused];
        let counts = doc! { "nErrors": 1, "nInserted": 1 };
        (call.name() == "bulkWrite").then(|| Answer::Reply(bulk_reply(results, 0, counts)))
    });
    let client = client(&outside, "");
    let error = outside.block_on(async {
        client
            .bulk_write([insert(1), insert(1), insert(2)])
            .verbose_results(true)
            .await
            .unwrap_err()
    });
    assert!(error.is_duplicate_key());
    let ErrorKind::BulkWrite(bulk) = &*error.kind else { panic!("{error}") };
    assert_eq!(bulk.write_errors.keys().copied().collect::<Vec<_>>(), [1]);
    let done = bulk.partial_result.as_ref().unwrap();
    assert_eq!(done.get_i64("insertedCount").unwrap(), 1);
    assert_eq!(done["insertResults"], doc! { "0": { "insertedId": 1 } }.into());
}

#[test]
fn an_unacknowledged_bulk_write_is_neither_ordered_nor_verbose() {
    let outside = set(|_| None);
    let client = client(&outside, "&w=0");
    outside.block_on(async {
        assert!(client.bulk_write([insert(1)]).await.is_err());
        let write = client.bulk_write([insert(1)]).ordered(false);
        assert!(write.verbose_results(true).await.is_err());
        assert!(!client.bulk_write([insert(1)]).ordered(false).await.unwrap().acknowledged);
    });
}

/// A server that keeps what is inserted, by collection, and finds all of it.
fn store() -> impl Fn(&Call) -> Option<Answer> + Send + Sync {
    let kept = std::sync::Mutex::new(std::collections::BTreeMap::<String, Vec<Bson>>::new());
    move |call| {
        let name = call.command.get_str(call.name()).unwrap_or_default().to_owned();
        let mut kept = kept.lock().unwrap();
        match call.name() {
            "insert" => {
                let documents = call.command.get_array("documents").unwrap().clone();
                kept.entry(name).or_default().extend(documents);
                None
            }
            "find" => {
                let found = kept.get(&name).cloned().unwrap_or_default();
                let cursor = doc! { "firstBatch": found, "id": 0_i64, "ns": "d.c" };
                Some(Answer::Reply(doc! { "cursor": cursor, "ok": 1.0 }))
            }
            "listIndexes" => Some(refusal(26, &[])),
            _ => None,
        }
    }
}

#[test]
fn a_file_is_cut_into_chunks_and_put_together_again() {
    let outside = set(store());
    let client = client(&outside, "");
    outside.block_on(async {
        let bucket = client.database("d").gridfs_bucket(None);
        let upload = bucket.open_upload_stream("name").chunk_size_bytes(4).id(7);
        assert_eq!(upload.upload(b"0123456789").await.unwrap(), Bson::Int32(7));
        let mut stream = bucket.open_download_stream(Bson::Int32(7)).await.unwrap();
        assert_eq!((stream.file().length, stream.file().chunk_size_bytes), (10, 4));
        let mut some = [0; 3];
        assert_eq!(stream.read(&mut some).await.unwrap(), 3);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&some, rest.as_slice()), (b"012", b"3456789".as_slice()));
        let mut closed = bucket.open_upload_stream("other").await.unwrap();
        closed.abort().await.unwrap();
        let error = closed.write(b"x").await.unwrap_err();
        let ErrorKind::GridFs(GridFsErrorKind::UploadStreamClosed) = *error.kind else {
            panic!("{error}")
        };
    });
    let names: Vec<_> = outside.commands().iter().map(|call| call.name().to_owned()).collect();
    let indexes = ["find", "listIndexes", "createIndexes", "listIndexes", "createIndexes"];
    assert_eq!(names[..5], indexes);
    assert_eq!(outside.calls("insert").len(), 4, "three chunks and the file");
    let index = outside.calls("createIndexes")[1].command.get_array("indexes").unwrap()[0].clone();
    assert_eq!(index.as_document().unwrap()["unique"], true.into());
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_its_own() {
    let outside = set(|call| match call.name() {
        "find" => {
            let cursor = doc! { "firstBatch": [], "id": 0_i64, "ns": "d.c" };
            Some(Answer::Reply(doc! { "cursor": cursor, "ok": 1.0 }))
        }
        "delete" | "update" => Some(Answer::Reply(doc! { "n": 0, "nModified": 0, "ok": 1.0 })),
        _ => None,
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let bucket = client.database("d").gridfs_bucket(None);
        let errors = [
            bucket.open_download_stream(Bson::Int32(1)).download().await.unwrap_err(),
            bucket.open_download_stream_by_name("n").revision(1).download().await.unwrap_err(),
            bucket.delete(Bson::Int32(1)).await.unwrap_err(),
            bucket.rename(Bson::Int32(1), "other").await.unwrap_err(),
            bucket.delete_by_name("n").await.unwrap_err(),
            bucket.rename_by_name("n", "other").await.unwrap_err(),
        ];
        assert!(errors.iter().all(|error| matches!(*error.kind, ErrorKind::GridFs(_))));
    });
    assert_eq!(outside.calls("find")[1].command["sort"], doc! { "uploadDate": 1 }.into());
}

#[test]
fn a_pipeline_that_writes_goes_where_the_read_preference_says() {
    let outside = set(|call| {
        let cursor = doc! { "firstBatch": [], "id": 0_i64, "ns": "d.c" };
        (call.name() == "aggregate").then(|| Answer::Reply(doc! { "cursor": cursor, "ok": 1.0 }))
    });
    let client = client(&outside, "");
    outside.block_on(async {
        let notes = client.database("d").collection::<Document>("c");
        let notes = notes.with_write_concern(WriteConcern::nodes(1));
        let aggregate = notes.aggregate([doc! { "$out": "x" }]);
        aggregate.selection_criteria(ReadPreference::secondary()).await.unwrap();
    });
    let call = &outside.calls("aggregate")[0];
    assert_ne!(call.address, "a:27017");
    assert_eq!(call.command["writeConcern"], doc! { "w": 1 }.into());
    assert_eq!(call.command["$readPreference"], doc! { "mode": "secondary" }.into());
}
