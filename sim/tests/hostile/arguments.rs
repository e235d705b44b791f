//! Every command of the server's table with every argument replaced by what it should not be.

use bson::spec::BinarySubtype;
use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp,
};
use bson::{bson, doc, oid::ObjectId};
use proptest::prelude::*;

use crate::outside::{Answer, Outside, assert_sound};

/// A well-formed request for each command, with the arguments it knows.
fn requests() -> Vec<Document> {
    let member = doc! {
        "_id": 0, "host": "a:27017", "arbiterOnly": false, "buildIndexes": true, "hidden": false,
        "priority": 1.0, "tags": { "dc": "east" }, "secondaryDelaySecs": 0_i64, "votes": 1,
    };
    let config = doc! {
        "_id": "foo", "version": 2, "term": 1_i64, "members": [member],
        "protocolVersion": 1_i64, "writeConcernMajorityJournalDefault": true,
        "settings": {
            "chainingAllowed": true, "heartbeatIntervalMillis": 2000, "heartbeatTimeoutSecs": 10,
            "electionTimeoutMillis": 10000, "catchUpTimeoutMillis": -1,
            "catchUpTakeoverDelayMillis": 30000, "getLastErrorModes": { "m": { "dc": 1 } },
            "getLastErrorDefaults": { "w": 1, "wtimeout": 0 },
        },
    };
    let session = doc! { "id": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] } };
    let generic = doc! {
        "lsid": session.clone(), "$readPreference": { "mode": "secondary" }, "maxTimeMS": 1000,
        "$clusterTime": { "clusterTime": Timestamp { time: 1, increment: 1 } },
        "readConcern": { "level": "local", "afterClusterTime": Timestamp { time: 1, increment: 1 } },
    };
    let mut find = doc! {
        "find": "c", "filter": { "a": 1 }, "projection": { "a": 1 }, "sort": { "a": 1 },
        "hint": "_id_", "skip": 1, "limit": 2, "batchSize": 1, "singleBatch": true,
        "showRecordId": true, "tailable": false, "awaitData": false, "noCursorTimeout": true,
        "allowDiskUse": true, "collation": { "locale": "simple" }, "let": { "x": 1 },
        "min": { "a": 1 }, "returnKey": true, "term": 1_i64, "$db": "db",
    };
    find.extend(generic);
    vec![
        find,
        doc! { "aggregate": "c", "pipeline": [{ "$match": { "a": 1 } }, { "$limit": 2 }],
        "cursor": { "batchSize": 1 }, "explain": false, "allowDiskUse": true, "let": { "x": 1 },
        "hint": "_id_", "collation": { "locale": "simple" },
        "readConcern": { "level": "snapshot", "atClusterTime": Timestamp { time: 1, increment: 1 } },
        "$db": "db" },
        doc! { "count": "c", "query": { "a": 1 }, "skip": 1, "limit": 2, "hint": "_id_", "$db": "db" },
        doc! { "distinct": "c", "key": "a", "query": { "a": 1 }, "$db": "db" },
        doc! { "insert": "c", "documents": [{ "a": 1 }], "ordered": true,
        "bypassDocumentValidation": true, "stmtIds": [1], "txnNumber": 4_i64, "lsid": session.clone(),
        "writeConcern": { "w": 1, "j": true, "wtimeout": 100 }, "$db": "db" },
        doc! { "update": "c", "updates": [{ "q": { "a": 1 }, "u": { "$set": { "b": 1 } }, "multi": false,
        "upsert": false, "arrayFilters": [{ "x": 1 }], "collation": { "locale": "simple" },
        "hint": "_id_", "c": { "y": 1 } }], "ordered": true, "let": { "x": 1 }, "stmtId": 1,
        "writeConcern": { "w": 1 }, "$db": "db" },
        doc! { "delete": "c", "deletes": [{ "q": { "a": 1 }, "limit": 1, "collation": { "locale": "simple" },
        "hint": "_id_" }], "ordered": true, "$db": "db" },
        doc! { "findAndModify": "c", "query": { "a": 1 }, "sort": { "a": 1 }, "fields": { "a": 1 },
        "update": { "$inc": { "a": 1 } }, "remove": false, "new": true, "upsert": true,
        "arrayFilters": [], "collation": { "locale": "simple" }, "let": { "x": 1 }, "hint": "_id_",
        "stmtId": 1, "writeConcern": { "w": "majority" }, "$db": "db" },
        doc! { "getMore": 99_i64, "collection": "c", "batchSize": 1, "maxTimeMS": 100, "term": 1_i64,
        "lastKnownCommittedOpTime": {}, "$db": "db" },
        doc! { "killCursors": "c", "cursors": [99_i64], "$db": "db" },
        doc! { "create": "d", "capped": true, "size": 4096, "max": 10, "validator": { "a": 1 },
        "validationLevel": "strict", "validationAction": "error", "viewOn": "c", "pipeline": [],
        "collation": { "locale": "simple" }, "$db": "db" },
        doc! { "collMod": "c", "validator": { "a": 1 }, "validationLevel": "off", "index": {},
        "changeStreamPreAndPostImages": { "enabled": true }, "$db": "db" },
        doc! { "createIndexes": "c", "indexes": [{ "key": { "z": 1 }, "name": "z_1", "v": 2, "unique": true,
        "sparse": true, "partialFilterExpression": { "a": 1 }, "expireAfterSeconds": 10,
        "collation": { "locale": "simple" } }], "commitQuorum": 1, "$db": "db" },
        doc! { "dropIndexes": "c", "index": "z_1", "$db": "db" },
        doc! { "validate": "c", "full": true, "$db": "db" },
        doc! { "dataSize": "db.c", "keyPattern": {}, "min": {}, "max": {}, "$db": "db" },
        doc! { "convertToCapped": "c", "size": 4096, "$db": "db" },
        doc! { "cloneCollectionAsCapped": "c", "toCollection": "cc", "size": 4096, "$db": "db" },
        doc! { "compact": "c", "force": true, "$db": "db" },
        doc! { "reIndex": "c", "$db": "db" },
        doc! { "explain": { "find": "c", "filter": { "a": 1 }, "sort": { "b": 1 }, "hint": "_id_" },
        "verbosity": "executionStats", "$db": "db" },
        doc! { "listIndexes": "c", "cursor": { "batchSize": 1 }, "$db": "db" },
        doc! { "listCollections": 1, "nameOnly": true, "filter": { "name": "c" }, "cursor": { "batchSize": 1 },
        "authorizedCollections": true, "$db": "db" },
        doc! { "listDatabases": 1, "nameOnly": true, "filter": { "name": "db" }, "$db": "admin" },
        doc! { "renameCollection": "db.c", "to": "db.e", "dropTarget": true, "$db": "admin" },
        doc! { "drop": "c", "$db": "db" },
        doc! { "dropDatabase": 1, "writeConcern": { "w": 1 }, "$db": "db" },
        doc! { "collStats": "c", "scale": 1, "$db": "db" },
        doc! { "dbStats": 1, "scale": 1, "$db": "db" },
        doc! { "hello": 1, "helloOk": true, "maxAwaitTimeMS": 100, "saslSupportedMechs": "db.u",
        "topologyVersion": { "processId": ObjectId::from_bytes([1; 12]), "counter": 3_i64 },
        "client": { "application": { "name": "x" } }, "$db": "admin" },
        doc! { "ping": 1, "$db": "admin" },
        doc! { "buildInfo": 1, "$db": "admin" },
        doc! { "connectionStatus": 1, "showPrivileges": true, "$db": "admin" },
        doc! { "getCmdLineOpts": 1, "$db": "admin" },
        doc! { "getDefaultRWConcern": 1, "inMemory": true, "$db": "admin" },
        doc! { "getLog": "global", "$db": "admin" },
        doc! { "getParameter": "*", "$db": "admin" },
        doc! { "hostInfo": 1, "$db": "admin" },
        doc! { "listCommands": 1, "$db": "admin" },
        doc! { "serverStatus": 1, "repl": 1, "$db": "admin" },
        doc! { "whatsmyuri": 1, "$db": "admin" },
        doc! { "startSession": 1, "$db": "admin" },
        doc! { "refreshSessions": [session.clone()], "$db": "admin" },
        doc! { "endSessions": [session.clone()], "$db": "admin" },
        doc! { "killSessions": [session.clone()], "$db": "admin" },
        doc! { "commitTransaction": 1, "lsid": session.clone(), "txnNumber": 9_i64, "autocommit": false,
        "recoveryToken": { "recoveryShardId": "x" }, "writeConcern": { "w": "majority" },
        "maxTimeMS": 100, "$db": "admin" },
        doc! { "abortTransaction": 1, "lsid": session.clone(), "txnNumber": 9_i64, "autocommit": false,
        "recoveryToken": { "recoveryShardId": "x" }, "writeConcern": { "w": 1 }, "$db": "admin" },
        doc! { "bulkWrite": 1, "ops": [
            { "insert": 0, "document": { "a": 1 } },
            { "update": 0, "filter": { "a": 1 }, "updateMods": { "$set": { "b": 1 } }, "multi": false,
              "upsert": false, "arrayFilters": [{ "x": 1 }], "collation": { "locale": "simple" },
              "hint": "_id_", "constants": { "y": 1 } },
            { "delete": 0, "filter": { "a": 1 }, "multi": false, "hint": "_id_" },
        ], "nsInfo": [{ "ns": "db.c" }], "ordered": true, "errorsOnly": false, "let": { "x": 1 },
        "bypassDocumentValidation": false, "cursor": { "batchSize": 1 }, "stmtId": 0, "$db": "admin" },
        doc! { "currentOp": 1, "$ownOps": true, "$all": true, "$db": "admin" },
        doc! { "dbHash": 1, "collections": ["c"], "$db": "db" },
        doc! { "echo": { "a": 1 }, "$db": "admin" },
        doc! { "features": 1, "oidReset": false, "$db": "admin" },
        doc! { "fsync": 1, "lock": false, "$db": "admin" },
        doc! { "fsyncUnlock": 1, "$db": "admin" },
        doc! { "killOp": 1, "op": 99, "$db": "admin" },
        doc! { "lockInfo": 1, "includeStorageEngineInfo": false, "$db": "admin" },
        doc! { "logRotate": "server", "comment": "x", "$db": "admin" },
        doc! { "profile": 0, "slowms": 100, "sampleRate": 1.0, "filter": { "a": 1 }, "$db": "db" },
        doc! { "setParameter": 1, "logLevel": 0, "$db": "admin" },
        doc! { "sleep": 1, "millis": 10, "lock": "none", "$db": "admin" },
        doc! { "testDeprecation": 1, "apiVersion": "1", "apiStrict": true,
        "apiDeprecationErrors": true, "$db": "admin" },
        doc! { "testDeprecationInVersion2": 1, "$db": "admin" },
        doc! { "testRemoval": 1, "$db": "admin" },
        doc! { "testVersion2": 1, "$db": "admin" },
        doc! { "testVersions1And2": 1, "$db": "admin" },
        doc! { "top": 1, "$db": "admin" },
        doc! { "validateDBMetadata": 1, "apiParameters": { "version": "1", "strict": true },
        "db": "db", "collections": ["c"], "$db": "admin" },
        doc! { "waitForFailPoint": "failCommand", "timesEntered": 0, "maxTimeMS": 100, "$db": "admin" },
        doc! { "createUser": "u", "pwd": "p", "roles": [{ "role": "read", "db": "db" }, "root"],
        "customData": { "a": 1 }, "mechanisms": ["SCRAM-SHA-256"], "authenticationRestrictions": [],
        "digestPassword": true, "writeConcern": { "w": 1 }, "$db": "db" },
        doc! { "updateUser": "u", "pwd": "p", "roles": [], "customData": { "a": 1 }, "$db": "db" },
        doc! { "usersInfo": { "user": "u", "db": "db" }, "showCredentials": true,
        "showPrivileges": true, "filter": { "user": "u" }, "$db": "db" },
        doc! { "grantRolesToUser": "u", "roles": ["read"], "$db": "db" },
        doc! { "revokeRolesFromUser": "u", "roles": ["read"], "$db": "db" },
        doc! { "dropUser": "u", "$db": "db" },
        doc! { "dropAllUsersFromDatabase": 1, "$db": "db" },
        doc! { "createRole": "r", "privileges": [], "roles": ["read"], "$db": "db" },
        doc! { "rolesInfo": "r", "showPrivileges": true, "showBuiltinRoles": true, "$db": "db" },
        doc! { "dropRole": "r", "$db": "db" },
        doc! { "dropAllRolesFromDatabase": 1, "$db": "db" },
        doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": "CN=x", "$db": "$external" },
        doc! { "getnonce": 1, "$db": "admin" },
        doc! { "logout": 1, "$db": "admin" },
        doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256",
        "payload": Binary { subtype: BinarySubtype::Generic, bytes: b"n,,n=u,r=x".to_vec() },
        "autoAuthorize": 1, "options": { "skipEmptyExchange": true }, "$db": "admin" },
        doc! { "saslContinue": 1, "conversationId": 1,
        "payload": Binary { subtype: BinarySubtype::Generic, bytes: b"c=biws".to_vec() },
        "$db": "admin" },
        doc! { "createSearchIndexes": "c", "indexes": [{ "name": "s", "definition": {} }], "$db": "db" },
        doc! { "updateSearchIndex": "c", "name": "s", "definition": {}, "$db": "db" },
        doc! { "listSearchIndexes": "c", "name": "s", "$db": "db" },
        doc! { "dropSearchIndex": "c", "name": "s", "$db": "db" },
        doc! { "killAllSessions": [], "$db": "admin" },
        doc! { "killAllSessionsByPattern": [], "$db": "admin" },
        doc! { "configureFailPoint": "failCommand", "mode": { "times": 1, "skip": 1 },
        "data": { "failCommands": ["no such"], "errorCode": 1, "blockConnection": true,
            "blockTimeMS": 10, "closeConnection": true, "appName": "x", "namespace": "db.c",
            "errorLabels": ["l"], "writeConcernError": { "code": 1 } }, "$db": "admin" },
        doc! { "replSetAbortPrimaryCatchUp": 1, "$db": "admin" },
        doc! { "replSetFreeze": 1, "$db": "admin" },
        doc! { "replSetGetConfig": 1, "commitmentStatus": true, "$db": "admin" },
        doc! { "replSetGetRBID": 1, "$db": "admin" },
        doc! { "replSetGetStatus": 1, "initialSync": 1, "$db": "admin" },
        doc! { "replSetInitiate": config.clone(), "$db": "admin" },
        doc! { "replSetMaintenance": true, "$db": "admin" },
        doc! { "replSetReconfig": config.clone(), "force": true, "maxTimeMS": 100, "$db": "admin" },
        doc! { "replSetReconfig": config, "force": false, "maxTimeMS": 100, "$db": "admin" },
        doc! { "replSetHeartbeat": "foo", "configVersion": 1_i64, "configTerm": 1_i64, "hbv": 1_i64,
        "from": "b:27017", "fromId": 1, "term": 1_i64, "primaryId": 0, "checkEmpty": false, "$db": "admin" },
        doc! { "replSetRequestVotes": 1, "setName": "foo", "dryRun": false, "term": 2_i64,
        "candidateIndex": 0_i64, "configVersion": 1_i64, "configTerm": 1_i64,
        "lastWrittenOpTime": { "ts": Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
        "lastAppliedOpTime": { "ts": Timestamp { time: 1, increment: 1 }, "t": 1_i64 }, "$db": "admin" },
        doc! { "replSetUpdatePosition": 1, "optimes": [{
            "durableOpTime": { "ts": Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
            "durableWallTime": DateTime::from_millis(1),
            "appliedOpTime": { "ts": Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
            "appliedWallTime": DateTime::from_millis(1),
            "writtenOpTime": { "ts": Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
            "writtenWallTime": DateTime::from_millis(1), "memberId": 1, "cfgver": 1_i64 }],
        "$replData": { "term": 1_i64 }, "$db": "admin" },
        doc! { "replSetStepUp": 1, "skipDryRun": true, "$db": "admin" },
        doc! { "replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": false, "$db": "admin" },
        doc! { "shutdown": 1, "force": false, "timeoutSecs": 1, "$db": "admin" },
    ]
}

fn deep() -> Bson {
    (0..150).fold(
        bson!(1),
        |below, level| if level % 2 == 0 { bson!([below]) } else { bson!({ "a": below }) },
    )
}

fn hostile_values() -> Vec<Bson> {
    vec![
        Bson::Null,
        Bson::Undefined,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Boolean(true),
        Bson::Int32(0),
        Bson::Int32(-1),
        Bson::Int32(i32::MAX),
        Bson::Int32(i32::MIN),
        Bson::Int64(i64::MAX),
        Bson::Int64(i64::MIN),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(1e300),
        Bson::Double(0.5),
        Bson::Decimal128(Decimal128::from_bytes([0xff; 16])),
        Bson::String(String::new()),
        Bson::String("a\0b".into()),
        Bson::String("$".into()),
        Bson::String(".".into()),
        Bson::String("$where".into()),
        Bson::String("x".repeat(70_000)),
        bson!({}),
        bson!({ "": 1 }),
        bson!({ "$x": { "$y": 1 } }),
        bson!({ "a.b..c": 1, "$expr": { "$add": ["$a", i64::MAX] } }),
        bson!([]),
        bson!([[]]),
        bson!([1, { "a": "x" }, null]),
        deep(),
        Bson::Timestamp(Timestamp { time: u32::MAX, increment: u32::MAX }),
        Bson::Timestamp(Timestamp { time: 0, increment: 0 }),
        Bson::DateTime(DateTime::MAX),
        Bson::DateTime(DateTime::MIN),
        Bson::ObjectId(ObjectId::from_bytes([0xff; 12])),
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 3] }),
        Bson::RegularExpression(Regex {
            pattern: "(".try_into().unwrap(),
            options: "zz".try_into().unwrap(),
        }),
        Bson::JavaScriptCode("function() {".into()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "x".into(),
            scope: doc! { "a": 1 },
        }),
        Bson::Symbol("s".into()),
    ]
}

/// Every place in a value but the value itself.
fn places(value: &Bson, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut visit = |key: String, inner: &Bson| {
        at.push(key);
        found.push(at.clone());
        places(inner, at, found);
        at.pop();
    };
    match value {
        Bson::Document(document) => {
            document.iter().for_each(|(key, inner)| visit(key.clone(), inner))
        }
        Bson::Array(array) => {
            array.iter().enumerate().for_each(|(index, inner)| visit(index.to_string(), inner));
        }
        _ => {}
    }
}

/// The command with the value at a place replaced, or taken away.
fn changed(value: &Bson, place: &[String], with: Option<&Bson>) -> Option<Bson> {
    let Some((first, rest)) = place.split_first() else { return with.cloned() };
    match value {
        Bson::Document(document) => {
            let fields = document.iter().filter_map(|(key, inner)| {
                let inner = if key == first { changed(inner, rest, with)? } else { inner.clone() };
                Some((key.clone(), inner))
            });
            Some(Bson::Document(fields.collect()))
        }
        Bson::Array(array) => {
            let elements = array.iter().enumerate().filter_map(|(index, inner)| {
                if index.to_string() == *first {
                    changed(inner, rest, with)
                } else {
                    Some(inner.clone())
                }
            });
            Some(Bson::Array(elements.collect()))
        }
        other => Some(other.clone()),
    }
}

/// What may take the primary away, close the connection, or wait for what does not come.
fn is_drastic(name: &str) -> bool {
    matches!(
        name,
        "replSetHeartbeat"
            | "replSetRequestVotes"
            | "replSetUpdatePosition"
            | "shutdown"
            | "replSetStepDown"
            | "configureFailPoint"
            | "replSetReconfig"
            | "replSetFreeze"
            | "sleep"
    )
}

#[test]
fn every_command_of_the_table_is_among_the_requests() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    let reply = outside.reply(client, &doc! { "listCommands": 1, "$db": "admin" });
    let requests = requests();
    let known: Vec<&str> = requests.iter().map(|r| r.keys().next().unwrap().as_str()).collect();
    let missing: Vec<&String> = reply
        .get_document("commands")
        .unwrap()
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "add requests for {missing:?}");
}

#[test]
fn every_argument_may_be_anything_and_every_request_is_answered() {
    let values = hostile_values();
    let mut outside = Outside::of(1);
    let mut client = outside.open();
    for request in requests() {
        let name = request.keys().next().unwrap().clone();
        let whole = Bson::Document(request);
        let mut all = Vec::new();
        places(&whole, &mut Vec::new(), &mut all);
        for place in all {
            for with in values.iter().map(Some).chain([None]) {
                let command = changed(&whole, &place, with);
                let Some(Bson::Document(command)) = command else { unreachable!("a document") };
                let shown = format!("{name} with {place:?} = {with:?}");
                match outside.ask(client, &command) {
                    Answer::Reply(reply) => assert_sound(&reply, &shown),
                    _ if matches!(&*name, "shutdown" | "sleep") => {}
                    other => panic!("{other:?} to {shown}"),
                }
                let fresh = if is_drastic(&name) {
                    let one = outside.sim.members().remove(0);
                    !one.alive
                        || outside.sim.primary().is_none()
                        || outside.is_closed(client)
                        || matches!(&*name, "shutdown" | "configureFailPoint" | "sleep")
                } else {
                    assert!(outside.sim.primary().is_some(), "{shown} took the primary away");
                    false
                };
                if fresh {
                    outside = Outside::of(1);
                    client = outside.open();
                }
            }
        }
        if !is_drastic(&name) {
            outside.others_are_served();
        }
        outside = Outside::of(1);
        client = outside.open();
    }
}

#[test]
fn duplicate_keys_are_answered() {
    let mut outside = Outside::of(1);
    let client = outside.open();
    for request in requests() {
        let name = request.keys().next().unwrap().clone();
        if is_drastic(&name) {
            continue;
        }
        let once = bson::RawDocumentBuf::try_from(&request).unwrap();
        let mut twice = once.clone();
        for (key, value) in once.iter().flatten() {
            twice.append(key, value);
        }
        let message = outside.message(twice);
        match outside.ask_message(client, &message) {
            Answer::Reply(reply) => assert_sound(&reply, &name),
            other => panic!("{other:?} to {name}, twice"),
        }
    }
    outside.others_are_served();
    outside.primary_is_untouched();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn several_arguments_at_once_may_be_anything(
        which in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec(
            (any::<proptest::sample::Index>(), any::<proptest::sample::Index>()), 1..4),
    ) {
        let requests = requests();
        let values = hostile_values();
        let request = which.get(&requests);
        let name = request.keys().next().unwrap().clone();
        let mut command = Bson::Document(request.clone());
        for (place, value) in changes {
            let mut all = Vec::new();
            places(&command, &mut Vec::new(), &mut all);
            if let Some(Bson::Document(next)) = changed(&command, &all[place.index(all.len())], Some(value.get(&values))) {
                command = Bson::Document(next);
            }
        }
        let Bson::Document(command) = command else { unreachable!("a document") };
        let mut outside = Outside::of(1);
        let client = outside.open();
        match outside.ask(client, &command) {
            Answer::Reply(reply) => assert_sound(&reply, &command),
            _ if matches!(&*name, "shutdown" | "sleep") => return Ok(()),
            other => panic!("{other:?} to {command}"),
        }
        if !is_drastic(&name) {
            outside.others_are_served();
            outside.primary_is_untouched();
        }
    }
}
