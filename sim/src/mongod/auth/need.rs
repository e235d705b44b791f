//! What each command needs: actions on resources.

use bson::{RawArray, RawBsonRef, RawDocument};

use super::role::Resource;
use super::user::UserName;
use crate::mongod::command::Operation;

/// A resource that owns its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Cluster,
    Database(String),
    Collection(String, String),
}

impl On {
    pub(crate) fn borrowed(&self) -> Resource<'_> {
        match self {
            On::Cluster => Resource::Cluster,
            On::Database(db) => Resource::Database(db),
            On::Collection(db, name) => Resource::Collection(db, name),
        }
    }
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To be somebody.
    Nothing,
    /// Every one of these.
    All(Vec<(On, &'static str)>),
}

/// The action on the cluster that a command is, where it is just that.
const ON_CLUSTER: &[(&str, &str)] = &[
    ("appendOplogNote", "appendOplogNote"),
    ("fsync", "fsync"),
    ("fsyncUnlock", "unlock"),
    ("getCmdLineOpts", "getCmdLineOpts"),
    ("getDefaultRWConcern", "getDefaultRWConcern"),
    ("getLog", "getLog"),
    ("getParameter", "getParameter"),
    ("hostInfo", "hostInfo"),
    ("killAllSessions", "killAnySession"),
    ("killAllSessionsByPattern", "killAnySession"),
    ("killOp", "killop"),
    ("lockInfo", "serverStatus"),
    ("logRotate", "logRotate"),
    ("replSetAbortPrimaryCatchUp", "replSetStateChange"),
    ("replSetFreeze", "replSetStateChange"),
    ("replSetGetConfig", "replSetGetConfig"),
    ("replSetGetRBID", "replSetGetStatus"),
    ("replSetGetStatus", "replSetGetStatus"),
    ("replSetInitiate", "replSetConfigure"),
    ("replSetMaintenance", "replSetStateChange"),
    ("replSetReconfig", "replSetConfigure"),
    ("replSetResizeOplog", "replSetResizeOplog"),
    ("replSetStepDown", "replSetStateChange"),
    ("replSetStepUp", "replSetStateChange"),
    ("replSetSyncFrom", "replSetStateChange"),
    ("serverStatus", "serverStatus"),
    ("setDefaultRWConcern", "setDefaultRWConcern"),
    ("setFeatureCompatibilityVersion", "setFeatureCompatibilityVersion"),
    ("setParameter", "setParameter"),
    ("shutdown", "shutdown"),
    ("top", "top"),
];

/// The action on the named collection that a command is.
const ON_COLLECTION: &[(&str, &str)] = &[
    ("collMod", "collMod"),
    ("collStats", "collStats"),
    ("compact", "compact"),
    ("convertToCapped", "convertToCapped"),
    ("count", "find"),
    ("create", "createCollection"),
    ("createIndexes", "createIndex"),
    ("distinct", "find"),
    ("drop", "dropCollection"),
    ("dropIndexes", "dropIndex"),
    ("find", "find"),
    ("insert", "insert"),
    ("listIndexes", "listIndexes"),
    ("validate", "validate"),
];

/// The action on its database that a command is.
const ON_DATABASE: &[(&str, &str)] = &[
    ("createRole", "createRole"),
    ("dbHash", "dbHash"),
    ("dbStats", "dbStats"),
    ("dropAllRolesFromDatabase", "dropRole"),
    ("dropAllUsersFromDatabase", "dropUser"),
    ("dropDatabase", "dropDatabase"),
    ("dropRole", "dropRole"),
    ("dropUser", "dropUser"),
    ("profile", "enableProfiler"),
];

/// Commands that every user may run: what they show is the user's own, or is looked at again.
const FOR_USERS: &[&str] = &[
    "abortTransaction",
    "commitTransaction",
    "endSessions",
    "features",
    "getMore",
    "killCursors",
    "killSessions",
    "listDatabases",
    "logout",
    "refreshSessions",
    "sleep",
    "startSession",
    "testDeprecationInVersion2",
    "testRemoval",
    "testVersion2",
    "testVersions1And2",
    "validateDBMetadata",
];

/// What `operation`, a command of this name, needs from a user.
pub(crate) fn needs(name: &str, operation: &Operation, user: &UserName) -> Need {
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(command, _)| *command == name).map(|(_, action)| *action)
    };
    let body = &operation.body;
    if FOR_USERS.contains(&name) {
        return Need::Nothing;
    }
    if let Some(action) = find(ON_CLUSTER) {
        return Need::All(vec![(On::Cluster, action)]);
    }
    if let Some(action) = find(ON_DATABASE) {
        return Need::All(vec![(On::Database(operation.db.clone()), action)]);
    }
    if let Some(action) = find(ON_COLLECTION) {
        return Need::All(vec![(own_collection(operation), action)]);
    }
    let own = || own_collection(operation);
    let mut needed = Vec::new();
    match name {
        "update" => {
            needed.push((own(), "update"));
            if any_upsert(operation) {
                needed.push((own(), "insert"));
            }
        }
        "delete" => needed.push((own(), "remove")),
        "findAndModify" => {
            needed.push((own(), "find"));
            if body.get_bool("remove").unwrap_or(false) {
                needed.push((own(), "remove"));
            } else {
                needed.push((own(), "update"));
                if body.get_bool("upsert").unwrap_or(false) {
                    needed.push((own(), "insert"));
                }
            }
        }
        "bulkWrite" => bulk_write(operation, &mut needed),
        "aggregate" => {
            let pipeline = body.get_array("pipeline").ok();
            aggregate(&operation.db, own(), pipeline, &mut needed);
        }
        "explain" => explain(operation, &mut needed),
        "listCollections" => {
            let own_only = body.get_bool("authorizedCollections").unwrap_or(false)
                && body.get_bool("nameOnly").unwrap_or(false);
            if own_only {
                return Need::Nothing;
            }
            needed.push((On::Database(operation.db.clone()), "listCollections"));
        }
        "renameCollection" => rename(body, &mut needed),
        "currentOp" if body.get_bool("$ownOps").unwrap_or(false) => return Need::Nothing,
        "currentOp" => needed.push((On::Cluster, "inprog")),
        "createUser" => {
            needed.push((On::Database(operation.db.clone()), "createUser"));
            roles(operation, "grantRole", &mut needed);
        }
        "updateUser" => {
            let changes = |field: &str| matches!(body.get(field), Ok(Some(_)));
            let on = || On::Database(operation.db.clone());
            if changes("pwd") {
                needed.push((on(), "changePassword"));
            }
            if changes("customData") {
                needed.push((on(), "changeCustomData"));
            }
            if changes("roles") {
                needed.push((on(), "revokeRole"));
                roles(operation, "grantRole", &mut needed);
            }
        }
        "grantRolesToUser" => roles(operation, "grantRole", &mut needed),
        "revokeRolesFromUser" => roles(operation, "revokeRole", &mut needed),
        "usersInfo" if asks_for_itself(operation, user) => return Need::Nothing,
        "usersInfo" => needed.push((On::Database(operation.db.clone()), "viewUser")),
        "rolesInfo" => needed.push((On::Database(operation.db.clone()), "viewRole")),
        // What members send each other is for members.
        _ => needed.push((On::Cluster, "internal")),
    }
    Need::All(needed)
}

fn first_text(operation: &Operation) -> Option<&str> {
    operation.body.iter().next()?.ok()?.1.as_str()
}

fn own_collection(operation: &Operation) -> On {
    match first_text(operation) {
        Some(collection) => On::Collection(operation.db.clone(), collection.to_owned()),
        None => On::Database(operation.db.clone()),
    }
}

fn namespace(text: &str) -> On {
    match text.split_once('.') {
        Some((db, collection)) => On::Collection(db.to_owned(), collection.to_owned()),
        None => On::Database(text.to_owned()),
    }
}

fn any_upsert(operation: &Operation) -> bool {
    let upserts = |document: &RawDocument| document.get_bool("upsert").unwrap_or(false);
    let inline = operation.body.get_array("updates").is_ok_and(|updates| {
        updates.into_iter().flatten().filter_map(|update| update.as_document()).any(upserts)
    });
    inline
        || operation
            .sequences
            .iter()
            .filter(|(field, _)| field == "updates")
            .any(|(_, updates)| updates.iter().any(|update| upserts(update)))
}

fn documents<'a>(operation: &'a Operation, field: &str) -> Vec<&'a RawDocument> {
    let sequence = operation.sequences.iter().find(|(name, _)| name == field);
    match sequence {
        Some((_, documents)) => documents.iter().map(|document| &**document).collect(),
        None => operation.body.get_array(field).map_or_else(
            |_| Vec::new(),
            |array| array.into_iter().flatten().filter_map(|each| each.as_document()).collect(),
        ),
    }
}

fn bulk_write(operation: &Operation, needed: &mut Vec<(On, &'static str)>) {
    let namespaces: Vec<On> = documents(operation, "nsInfo")
        .into_iter()
        .filter_map(|info| info.get_str("ns").ok().map(namespace))
        .collect();
    for statement in documents(operation, "ops") {
        let Some(Ok((kind, RawBsonRef::Int32(index)))) = statement.iter().next() else { continue };
        let Some(on) = usize::try_from(index).ok().and_then(|index| namespaces.get(index)) else {
            continue;
        };
        match kind.as_str() {
            "insert" => needed.push((on.clone(), "insert")),
            "delete" => needed.push((on.clone(), "remove")),
            "update" => {
                needed.push((on.clone(), "update"));
                if statement.get_bool("upsert").unwrap_or(false) {
                    needed.push((on.clone(), "insert"));
                }
            }
            _ => {}
        }
    }
    needed.dedup();
}

/// Pipelines inside stages count as well; how deep they nest is bounded by how deep documents may.
fn aggregate(db: &str, own: On, pipeline: Option<&RawArray>, needed: &mut Vec<(On, &'static str)>) {
    let stages: Vec<(&str, RawBsonRef<'_>)> = pipeline
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|stage| stage.as_document()?.iter().next()?.ok())
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    match stages.first() {
        Some(("$currentOp", options)) => {
            let all = options
                .as_document()
                .is_some_and(|options| options.get_bool("allUsers").unwrap_or(false));
            if all {
                needed.push((On::Cluster, "inprog"));
            }
        }
        Some(("$collStats", _)) => needed.push((own.clone(), "collStats")),
        Some(("$indexStats", _)) => needed.push((own.clone(), "indexStats")),
        Some(("$listLocalSessions" | "$listSessions", _)) => {
            needed.push((On::Cluster, "listSessions"));
        }
        Some(("$changeStream", _)) => {
            needed.push((own.clone(), "find"));
            needed.push((own.clone(), "changeStream"));
        }
        Some(("$documents", _)) => {}
        _ => needed.push((own.clone(), "find")),
    }
    for (name, value) in stages {
        let collection = |name: &str| On::Collection(db.to_owned(), name.to_owned());
        let target = |value: RawBsonRef<'_>| match value {
            RawBsonRef::String(name) => Some(collection(name)),
            RawBsonRef::Document(target) => {
                let name = target.get_str("coll").ok()?;
                let db = target.get_str("db").unwrap_or(db);
                Some(On::Collection(db.to_owned(), name.to_owned()))
            }
            _ => None,
        };
        match name {
            "$out" => {
                if let Some(on) = target(value) {
                    needed.push((on.clone(), "insert"));
                    needed.push((on, "remove"));
                }
            }
            "$merge" => {
                let into = match value {
                    RawBsonRef::Document(merge) => merge.get("into").ok().flatten(),
                    other => Some(other),
                };
                if let Some(on) = into.and_then(target) {
                    needed.push((on.clone(), "insert"));
                    needed.push((on, "update"));
                }
            }
            "$lookup" | "$graphLookup" => {
                let from = value.as_document().and_then(|lookup| lookup.get("from").ok().flatten());
                if let Some(on) = from.and_then(target) {
                    let pipeline =
                        value.as_document().and_then(|lookup| lookup.get_array("pipeline").ok());
                    aggregate(db, on, pipeline, needed);
                }
            }
            "$unionWith" => {
                let (with, pipeline) = match value {
                    RawBsonRef::Document(union) => {
                        (union.get("coll").ok().flatten(), union.get_array("pipeline").ok())
                    }
                    other => (Some(other), None),
                };
                if let Some(on) = with.and_then(target) {
                    aggregate(db, on, pipeline, needed);
                }
            }
            "$facet" => {
                for (_, pipeline) in value.as_document().into_iter().flatten().flatten() {
                    aggregate(db, own.clone(), pipeline.as_array(), needed);
                }
            }
            _ => {}
        }
    }
}

fn explain(operation: &Operation, needed: &mut Vec<(On, &'static str)>) {
    let Ok(inner) = operation.body.get_document("explain") else { return };
    let Some(Ok((name, value))) = inner.iter().next() else { return };
    let on = match value {
        RawBsonRef::String(collection) => {
            On::Collection(operation.db.clone(), collection.to_owned())
        }
        _ => On::Database(operation.db.clone()),
    };
    match name.as_str() {
        "aggregate" => {
            aggregate(&operation.db, on, inner.get_array("pipeline").ok(), needed);
        }
        "update" => needed.push((on, "update")),
        "delete" => needed.push((on, "remove")),
        "findAndModify" | "findandmodify" => needed.push((on, "update")),
        _ => needed.push((on, "find")),
    }
}

fn rename(body: &RawDocument, needed: &mut Vec<(On, &'static str)>) {
    let from = body.get_str("renameCollection").map(namespace);
    let to = body.get_str("to").map(namespace);
    let (Ok(from), Ok(to)) = (from, to) else { return };
    let db = |on: &On| match on {
        On::Collection(db, _) | On::Database(db) => db.clone(),
        On::Cluster => String::new(),
    };
    if db(&from) == db(&to) {
        needed.push((On::Database(db(&from)), "renameCollectionSameDB"));
    } else {
        needed.push((from.clone(), "find"));
        needed.push((from, "dropCollection"));
        needed.push((to.clone(), "insert"));
        needed.push((to, "createIndex"));
    }
}

/// An action on the database of each role that is named.
fn roles(operation: &Operation, action: &'static str, needed: &mut Vec<(On, &'static str)>) {
    let Ok(roles) = operation.body.get_array("roles") else { return };
    for role in roles.into_iter().flatten() {
        let db = match role {
            RawBsonRef::Document(role) => role.get_str("db").unwrap_or(&operation.db),
            _ => &operation.db,
        };
        needed.push((On::Database(db.to_owned()), action));
    }
}

fn asks_for_itself(operation: &Operation, user: &UserName) -> bool {
    match operation.body.iter().flatten().next() {
        Some((_, RawBsonRef::String(name))) => name == user.user && operation.db == user.db,
        Some((_, RawBsonRef::Document(asked))) => {
            asked.get_str("user").ok() == Some(user.user.as_str())
                && asked.get_str("db").ok() == Some(user.db.as_str())
        }
        _ => false,
    }
}
