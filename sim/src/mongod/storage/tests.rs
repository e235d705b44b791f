//! Stories of the store.

use bson::{RawBsonRef, Uuid, rawdoc};
use proptest::prelude::*;

use super::*;
use crate::mongod::oplog_entry::EntryCache;

const UUID: Uuid = Uuid::from_bytes([1; 16]);

fn optime(second: u32) -> OpTime {
    OpTime::new(Ts::new(second, 1), 1)
}

fn entry(second: u32, kind: OpKind, ns: &str, object: RawDocumentBuf) -> OplogEntry {
    OplogEntry {
        optime: optime(second),
        wall_millis: i64::from(second) * 1000,
        kind,
        ns: ns.into(),
        collection_uuid: None,
        object: Arc::new(object),
        object2: None,
        upsert: false,
        session: None,
        cache: EntryCache::default(),
    }
}

fn create(second: u32, name: &str, uuid: Uuid) -> Arc<OplogEntry> {
    let mut entry = entry(second, OpKind::Command, "db.$cmd", rawdoc! { "create": name });
    entry.collection_uuid = Some(uuid);
    Arc::new(entry)
}

fn insert(second: u32, document: RawDocumentBuf) -> Arc<OplogEntry> {
    Arc::new(entry(second, OpKind::Insert, "db.c", document))
}

fn replace(second: u32, document: RawDocumentBuf) -> Arc<OplogEntry> {
    let id = document.get("_id").unwrap().unwrap();
    let mut object2 = RawDocumentBuf::new();
    object2.append(bson::raw::cstr!("_id"), id);
    let mut entry = entry(second, OpKind::Update, "db.c", document);
    entry.object2 = Some(Arc::new(object2));
    Arc::new(entry)
}

fn delete(second: u32, id: i32) -> Arc<OplogEntry> {
    Arc::new(entry(second, OpKind::Delete, "db.c", rawdoc! { "_id": id }))
}

fn command(second: u32, object: RawDocumentBuf) -> Arc<OplogEntry> {
    Arc::new(entry(second, OpKind::Command, "db.$cmd", object))
}

fn store_with(entries: impl IntoIterator<Item = Arc<OplogEntry>>) -> Storage {
    let mut storage = Storage::default();
    for entry in entries {
        storage.append(entry).unwrap();
    }
    storage
}

/// Everything a reader can see, as text: collections, indexes, documents, each also found by its
/// `_id` and through every index.
fn dump(storage: &Storage, at: ReadAt) -> String {
    let mut out = String::new();
    for view in storage.collections(at) {
        let indexes: Vec<_> = view.indexes().map(|(spec, _)| spec.name.to_string()).collect();
        out += &format!("{} {} [{}]\n", view.namespace(), view.count(), indexes.join(", "));
        for (record, document) in view.scan(None) {
            let id = document.get("_id").unwrap().unwrap();
            assert_eq!(view.find_id(id).map(|(found, _)| found), Some(record));
            out += &format!("  {}\n", text::shell_document(document));
        }
        for (spec, multikey) in view.indexes() {
            use std::ops::Bound::Unbounded;
            let Some(found) = view.scan_index(&spec.name, Unbounded, Unbounded) else { continue };
            assert!(multikey || spec.sparse || found.count() as u64 == view.count());
        }
    }
    out
}

#[test]
fn an_insert_shares_its_document_with_the_entry_and_with_other_members() {
    let entries = [create(1, "c", UUID), insert(2, rawdoc! { "_id": 1 })];
    let (a, b) = (store_with(entries.clone()), store_with(entries.clone()));
    let documents = [&a, &b].map(|storage| {
        let view = storage.collection("db.c", ReadAt::Newest).unwrap();
        view.find_id(RawBsonRef::Int32(1)).unwrap().1.clone()
    });
    assert!(documents.iter().all(|document| Arc::ptr_eq(document, &entries[1].object)));
}

#[test]
fn a_diff_is_worked_out_once_for_all_members_that_hold_the_same_document() {
    let mut update =
        entry(3, OpKind::Update, "db.c", rawdoc! { "$v": 2, "diff": { "u": { "x": 2 } } });
    update.object2 = Some(Arc::new(rawdoc! { "_id": 1 }));
    let entries = [create(1, "c", UUID), insert(2, rawdoc! { "_id": 1, "x": 1 }), Arc::new(update)];
    let (a, b) = (store_with(entries.clone()), store_with(entries));
    let [first, second] = [&a, &b].map(|storage| {
        let view = storage.collection("db.c", ReadAt::Newest).unwrap();
        view.find_id(RawBsonRef::Int32(1)).unwrap().1.clone()
    });
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(*first, rawdoc! { "_id": 1, "x": 2 });
}

#[test]
fn a_read_at_an_older_timestamp_sees_the_older_versions_names_and_indexes() {
    let storage = store_with([
        create(1, "c", UUID),
        insert(2, rawdoc! { "_id": 1, "x": 1 }),
        replace(3, rawdoc! { "_id": 1, "x": 2 }),
        command(4, rawdoc! { "createIndexes": "c", "v": 2, "key": { "x": 1 }, "name": "x_1" }),
        command(5, rawdoc! { "renameCollection": "db.c", "to": "db.d" }),
        command(6, rawdoc! { "drop": "d" }),
    ]);
    let seen: Vec<String> =
        (0..=6).map(|second| dump(&storage, ReadAt::Timestamp(Ts::new(second, 1)))).collect();
    assert_eq!(
        seen,
        [
            "",
            "db.c 0 [_id_]\n",
            "db.c 1 [_id_]\n  { _id: 1, x: 1 }\n",
            "db.c 1 [_id_]\n  { _id: 1, x: 2 }\n",
            "db.c 1 [_id_, x_1]\n  { _id: 1, x: 2 }\n",
            "db.d 1 [_id_, x_1]\n  { _id: 1, x: 2 }\n",
            "",
        ]
    );
}

#[test]
fn a_crash_loses_exactly_the_tail_that_was_not_journaled() {
    let mut storage = store_with([create(1, "c", UUID), insert(2, rawdoc! { "_id": 1 })]);
    storage.flush_journal();
    let before = dump(&storage, ReadAt::Newest);
    storage.append(insert(3, rawdoc! { "_id": 2 })).unwrap();
    storage.append(command(4, rawdoc! { "drop": "c" })).unwrap();
    assert!(storage.is_dirty());
    let (files, lost) = storage.crash();
    let storage = Storage::open(files);
    assert_eq!((lost, storage.oplog().last_optime()), (2, optime(2)));
    assert_eq!(dump(&storage, ReadAt::Newest), before);
}

#[test]
fn a_clean_shutdown_loses_nothing() {
    let storage = store_with([create(1, "c", UUID), insert(2, rawdoc! { "_id": 1 })]);
    let storage = Storage::open(storage.close());
    assert_eq!(storage.durable(), optime(2));
    assert_eq!(storage.oplog().len(), 2);
}

#[test]
fn a_rollback_hands_over_what_it_undid() {
    let mut storage = store_with([
        create(1, "c", UUID),
        insert(2, rawdoc! { "_id": 1, "x": 1 }),
        replace(3, rawdoc! { "_id": 1, "x": 2 }),
        insert(4, rawdoc! { "_id": 2 }),
        delete(5, 2),
    ]);
    storage.flush_journal();
    let rolled_back = storage.rollback_to(optime(2));
    assert_eq!(rolled_back.entries.len(), 3);
    let [file] = rolled_back.files.as_slice() else { panic!("one collection was touched") };
    let documents: Vec<_> =
        file.documents.iter().map(|document| text::shell_document(document)).collect();
    assert_eq!((&*file.namespace, documents), ("db.c", vec!["{ _id: 1, x: 2 }".to_owned()]));
    assert_eq!(dump(&storage, ReadAt::Newest), "db.c 1 [_id_]\n  { _id: 1, x: 1 }\n");
    assert_eq!(storage.durable(), optime(2));
}

#[test]
fn a_second_document_with_a_unique_key_is_refused_in_the_servers_words() {
    let mut storage = store_with([
        create(1, "c", UUID),
        command(
            2,
            rawdoc! { "createIndexes": "c", "v": 2, "key": { "x": 1, "y": -1 }, "name": "x_1_y_-1",
            "unique": true },
        ),
        insert(3, rawdoc! { "_id": 1, "x": "a", "y": 2.5 }),
    ]);
    let before = dump(&storage, ReadAt::Newest);
    let by_id = storage.append(insert(4, rawdoc! { "_id": 1 })).unwrap_err();
    assert_eq!(
        by_id.message,
        "E11000 duplicate key error collection: db.c index: _id_ dup key: { _id: 1 }"
    );
    let refused =
        storage.append(insert(4, rawdoc! { "_id": 2, "x": ["b", "a"], "y": 2.5 })).unwrap_err();
    assert_eq!(
        refused.message,
        "E11000 duplicate key error collection: db.c index: x_1_y_-1 dup key: { x: \"a\", y: 2.5 }"
    );
    assert_eq!(
        *refused.extra.unwrap(),
        rawdoc! { "keyPattern": { "x": 1, "y": -1 }, "keyValue": { "x": "a", "y": 2.5 } }
    );
    assert_eq!(dump(&storage, ReadAt::Newest), before);
    // The key is free again once its document is gone, though an old version still has it.
    storage.append(delete(4, 1)).unwrap();
    storage.append(insert(5, rawdoc! { "_id": 2, "x": "a", "y": 2.5 })).unwrap();
}

#[test]
fn a_batch_that_fails_in_its_middle_changes_nothing() {
    let mut storage = store_with([create(1, "c", UUID), insert(2, rawdoc! { "_id": 1 })]);
    let before = dump(&storage, ReadAt::Newest);
    let operations = |ids: [i32; 3]| {
        let mut list = bson::RawArrayBuf::new();
        for id in ids {
            list.push(rawdoc! { "op": "i", "ns": "db.c", "o": { "_id": id } });
        }
        let mut object = RawDocumentBuf::new();
        object.append(bson::raw::cstr!("applyOps"), list);
        let mut batch = entry(3, OpKind::Command, "admin.$cmd", object);
        batch.object2 = None;
        Arc::new(batch)
    };
    assert_eq!(storage.append(operations([5, 6, 1])).unwrap_err().code, 11000);
    assert_eq!(dump(&storage, ReadAt::Newest), before);
    assert_eq!(storage.oplog().len(), 2);
    storage.append(operations([5, 6, 7])).unwrap();
    assert_eq!(storage.collection("db.c", ReadAt::Newest).unwrap().count(), 4);
}

#[test]
fn versions_and_tombstones_go_once_nobody_can_read_them() {
    let mut storage = store_with([create(1, "c", UUID)]);
    for round in 0..1000 {
        let second = 2 + round * 3;
        storage.append(insert(second, rawdoc! { "_id": 1, "x": round as i32 })).unwrap();
        storage.append(replace(second + 1, rawdoc! { "_id": 1, "x": -1 })).unwrap();
        storage.append(delete(second + 2, 1)).unwrap();
        storage.flush_journal();
        storage.set_oldest(Ts::new(second + 2, 1));
    }
    let (id, collection) = {
        let id = storage.catalog.by_name("db.c").unwrap();
        (id, storage.catalog.get(id))
    };
    use std::ops::Bound::Unbounded;
    assert_eq!(collection.records(Unbounded, Unbounded).count(), 0, "{id:?}");
    assert_eq!(collection.indexes[0].range(Unbounded, Unbounded).count(), 0);
    assert_eq!(storage.catalog.mark(), 0);
}

#[test]
fn the_oplog_stays_within_its_cap_but_keeps_what_is_not_stable() {
    let mut storage = Storage::default();
    storage.set_oplog_size(20_000);
    for second in 1..=1000 {
        let noop = entry(second, OpKind::Noop, "", rawdoc! { "msg": "periodic noop" });
        storage.append(Arc::new(noop)).unwrap();
    }
    assert_eq!(storage.oplog().len(), 1000);
    storage.flush_journal();
    storage.set_stable(Ts::new(990, 1));
    let noop = entry(1001, OpKind::Noop, "", rawdoc! { "msg": "periodic noop" });
    storage.append(Arc::new(noop)).unwrap();
    assert!(storage.oplog().size_bytes() <= 20_000);
    assert!(storage.oplog().contains(optime(990)) && !storage.oplog().contains(optime(2)));
    assert_eq!(storage.oplog().optimes_at_or_before(Ts::MAX, 2), [optime(1001), optime(1000)]);
}

#[test]
fn a_copy_of_the_data_is_the_same_data() {
    let source = store_with([
        create(1, "c", UUID),
        command(2, rawdoc! { "createIndexes": "c", "v": 2, "key": { "x": 1 }, "name": "x_1" }),
        insert(3, rawdoc! { "_id": 1, "x": [1, 2] }),
        insert(4, rawdoc! { "_id": 2 }),
    ]);
    let last = source.oplog().entry_at(Ts::new(3, 1)).unwrap().clone();
    let mut copy = Storage::default();
    copy.install(source.snapshot(last.optime.ts), last);
    assert_eq!(dump(&copy, ReadAt::Newest), dump(&source, ReadAt::Timestamp(Ts::new(3, 1))));
    assert_eq!((copy.durable(), copy.oldest()), (optime(3), Ts::new(3, 1)));
    copy.append(source.oplog().last().unwrap().clone()).unwrap();
    assert_eq!(dump(&copy, ReadAt::Newest), dump(&source, ReadAt::Newest));
}

#[test]
fn a_capped_collection_names_its_oldest_documents_to_be_deleted() {
    let mut capped = entry(
        1,
        OpKind::Command,
        "db.$cmd",
        rawdoc! { "create": "c", "capped": true, "size": 4096, "max": 3 },
    );
    capped.collection_uuid = Some(UUID);
    let mut storage = store_with([Arc::new(capped)]);
    for second in 2..=6 {
        storage.append(insert(second, rawdoc! { "_id": second as i32 })).unwrap();
    }
    let over_cap = storage.collection("db.c", ReadAt::Newest).unwrap().over_cap();
    assert_eq!(
        over_cap.iter().map(|old| (**old).clone()).collect::<Vec<_>>(),
        [rawdoc! { "_id": 2 }, rawdoc! { "_id": 3 },]
    );
}

#[test]
fn an_oplog_entry_reads_as_the_server_stores_it() {
    let first = OplogEntry {
        optime: OpTime::new(Ts::new(5, 1), -1),
        ..entry(5, OpKind::Noop, "", rawdoc! { "msg": "initiating set" })
    };
    let shown = text::shell_document(&first.to_document());
    assert_eq!(
        shown,
        "{ op: \"n\", ns: \"\", o: { msg: \"initiating set\" }, ts: Timestamp(5, 1), v: 2, \
         wall: new Date(5000) }"
    );
    let mut write = entry(6, OpKind::Insert, "db.c", rawdoc! { "_id": 1 });
    write.collection_uuid = Some(UUID);
    write.object2 = Some(Arc::new(rawdoc! { "_id": 1 }));
    write.session = Some(Box::new(crate::mongod::oplog_entry::OpSession {
        lsid: UUID,
        txn_number: 4,
        statement_ids: vec![0],
        previous: OpTime::NULL,
        retry_image: None,
    }));
    let fields: Vec<String> =
        write.to_document().iter().map(|element| element.unwrap().0.to_string()).collect();
    assert_eq!(fields.join(" "), "lsid txnNumber op ns ui o o2 stmtId ts t v wall prevOpTime");
}

/// A change that a random history makes.
#[derive(Clone, Debug)]
enum Step {
    Put(i32, i32),
    Array(i32, i32),
    Delete(i32),
    Drop,
    Rename,
    Index(bool),
    Flush,
    Oldest,
    Rollback(prop::sample::Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6, 0..4).prop_map(|(id, x)| Step::Put(id, x)),
        3 => (0..6, 0..4).prop_map(|(id, x)| Step::Array(id, x)),
        4 => (0..6).prop_map(Step::Delete),
        1 => Just(Step::Drop),
        1 => Just(Step::Rename),
        2 => any::<bool>().prop_map(Step::Index),
        2 => Just(Step::Flush),
        2 => Just(Step::Oldest),
        2 => any::<prop::sample::Index>().prop_map(Step::Rollback),
    ]
}

proptest! {
    /// The model keeps the text of the whole store at every timestamp; whatever happened since, a
    /// rollback gives it back, and so does a read at the timestamp.
    #[test]
    fn rollbacks_and_old_reads_restore_the_exact_old_state(
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let mut storage = store_with([create(1, "c", UUID)]);
        let mut second = 1;
        let mut uuids = 2;
        let mut history: Vec<(OpTime, String)> = vec![(optime(1), dump(&storage, ReadAt::Newest))];
        for step in steps {
            second += 1;
            let view = storage.collection("db.c", ReadAt::Newest);
            let has = |id: i32| view.is_some_and(|view| view.find_id(RawBsonRef::Int32(id)).is_some());
            let put = |id: i32, document: RawDocumentBuf| {
                if has(id) { replace(second, document) } else { insert(second, document) }
            };
            let entry = match step {
                Step::Put(id, x) => put(id, rawdoc! { "_id": id, "x": x }),
                Step::Array(id, x) => put(id, rawdoc! { "_id": id, "x": [x, x + 1] }),
                Step::Delete(id) => delete(second, id),
                Step::Drop => command(second, rawdoc! { "drop": "c" }),
                Step::Rename if view.is_some() => {
                    command(second, rawdoc! { "renameCollection": "db.c", "to": "db.d", "dropTarget": true })
                }
                Step::Rename => {
                    uuids += 1;
                    create(second, "c", Uuid::from_bytes([uuids; 16]))
                }
                Step::Index(true) => command(
                    second,
                    rawdoc! { "createIndexes": "c", "v": 2, "key": { "x": 1 }, "name": "x_1" },
                ),
                Step::Index(false) => command(second, rawdoc! { "dropIndexes": "c", "index": "x_1" }),
                Step::Flush => {
                    storage.flush_journal();
                    continue;
                }
                Step::Oldest => {
                    let middle = history[history.len() / 2].0.ts;
                    storage.set_oldest(middle);
                    continue;
                }
                Step::Rollback(index) => {
                    let possible: Vec<usize> = (0..history.len())
                        .filter(|at| history[*at].0.ts >= storage.oldest())
                        .collect();
                    let at = possible[index.index(possible.len())];
                    storage.rollback_to(history[at].0);
                    history.truncate(at + 1);
                    prop_assert_eq!(&dump(&storage, ReadAt::Newest), &history[at].1);
                    continue;
                }
            };
            let optime = entry.optime;
            let before = dump(&storage, ReadAt::Newest);
            match storage.append(entry) {
                Ok(()) => history.push((optime, dump(&storage, ReadAt::Newest))),
                Err(_) => prop_assert_eq!(dump(&storage, ReadAt::Newest), before),
            }
            for (optime, expected) in &history {
                if optime.ts >= storage.oldest() {
                    prop_assert_eq!(&dump(&storage, ReadAt::Timestamp(optime.ts)), expected);
                }
            }
        }
        let durable = storage.durable();
        let expected = history.iter().rev().find(|(optime, _)| *optime == durable);
        let expected = expected.map_or("", |(_, text)| text).to_owned();
        let storage = Storage::open(storage.crash().0);
        prop_assert_eq!(dump(&storage, ReadAt::Newest), expected);
    }
}
