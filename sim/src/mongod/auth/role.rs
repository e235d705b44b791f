//! Roles and the privileges they grant, as the server's own roles have them.

use std::collections::BTreeSet;

use bson::{Bson, Document, doc};

/// The role and the database it is defined in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RoleName {
    pub role: String,
    pub db: String,
}

impl RoleName {
    pub(crate) fn new(role: &str, db: &str) -> Self {
        RoleName { role: role.to_owned(), db: db.to_owned() }
    }

    /// `{role, db}`.
    pub(crate) fn to_document(&self) -> Document {
        doc! { "role": self.role.as_str(), "db": self.db.as_str() }
    }
}

/// What a command acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// The deployment.
    Cluster,
    /// A database as such.
    Database(&'a str),
    /// A collection of a database.
    Collection(&'a str, &'a str),
}

/// What a privilege is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern {
    /// `{cluster: true}`.
    Cluster,
    /// `{anyResource: true}`.
    Anything,
    /// `{db: "", collection: ""}`: no system collections, and neither `local` nor `config`.
    AnyDatabase,
    /// `{db: "x", collection: ""}`: no system collections.
    Database(String),
    /// `{db: "", collection: "x"}`.
    NamedAnywhere(String),
    /// `{db: "x", collection: "y"}`.
    Collection(String, String),
}

/// Actions on what matches a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Privilege {
    pub pattern: Pattern,
    pub actions: BTreeSet<String>,
}

impl Pattern {
    pub(crate) fn matches(&self, resource: Resource<'_>) -> bool {
        let is_system = |collection: &str| collection.starts_with("system.");
        let is_inner = |db: &str| matches!(db, "local" | "config");
        match (self, resource) {
            (Pattern::Anything, _) | (Pattern::Cluster, Resource::Cluster) => true,
            (Pattern::AnyDatabase, Resource::Database(db)) => !is_inner(db),
            (Pattern::AnyDatabase, Resource::Collection(db, collection)) => {
                !is_inner(db) && !is_system(collection)
            }
            (Pattern::Database(own), Resource::Database(db)) => own == db,
            (Pattern::Database(own), Resource::Collection(db, collection)) => {
                own == db && !is_system(collection)
            }
            (Pattern::NamedAnywhere(name), Resource::Collection(_, collection)) => {
                name == collection
            }
            (Pattern::Collection(own, name), Resource::Collection(db, collection)) => {
                own == db && name == collection
            }
            _ => false,
        }
    }

    /// The resource document of a privilege.
    pub(crate) fn to_document(&self) -> Document {
        match self {
            Pattern::Cluster => doc! { "cluster": true },
            Pattern::Anything => doc! { "anyResource": true },
            Pattern::AnyDatabase => doc! { "db": "", "collection": "" },
            Pattern::Database(db) => doc! { "db": db.as_str(), "collection": "" },
            Pattern::NamedAnywhere(name) => doc! { "db": "", "collection": name.as_str() },
            Pattern::Collection(db, name) => {
                doc! { "db": db.as_str(), "collection": name.as_str() }
            }
        }
    }

    /// Reads a resource document; `None` if it is none.
    pub(crate) fn from_document(resource: &Document) -> Option<Pattern> {
        if resource.get_bool("cluster").unwrap_or(false) {
            return Some(Pattern::Cluster);
        }
        if resource.get_bool("anyResource").unwrap_or(false) {
            return Some(Pattern::Anything);
        }
        let (db, collection) = (resource.get_str("db").ok()?, resource.get_str("collection").ok()?);
        Some(match (db, collection) {
            ("", "") => Pattern::AnyDatabase,
            (db, "") => Pattern::Database(db.to_owned()),
            ("", name) => Pattern::NamedAnywhere(name.to_owned()),
            (db, name) => Pattern::Collection(db.to_owned(), name.to_owned()),
        })
    }
}

impl Privilege {
    fn new(pattern: Pattern, actions: &[&[&str]]) -> Self {
        let actions = actions.concat().into_iter().map(str::to_owned).collect();
        Privilege { pattern, actions }
    }

    /// `{resource, actions}`.
    pub(crate) fn to_document(&self) -> Document {
        let actions: Vec<Bson> =
            self.actions.iter().map(|action| Bson::from(action.as_str())).collect();
        doc! { "resource": self.pattern.to_document(), "actions": actions }
    }
}

const READ: &[&str] = &[
    "changeStream",
    "collStats",
    "dbHash",
    "dbStats",
    "find",
    "killCursors",
    "listCollections",
    "listIndexes",
    "planCacheRead",
];
const WRITE: &[&str] = &[
    "compactStructuredEncryptionData",
    "convertToCapped",
    "createCollection",
    "createIndex",
    "dropCollection",
    "dropIndex",
    "insert",
    "remove",
    "renameCollectionSameDB",
    "update",
];
const DB_ADMIN: &[&str] = &[
    "bypassDocumentValidation",
    "collMod",
    "collStats",
    "compact",
    "convertToCapped",
    "createCollection",
    "createIndex",
    "dbStats",
    "dropCollection",
    "dropDatabase",
    "dropIndex",
    "enableProfiler",
    "listCollections",
    "listIndexes",
    "planCacheIndexFilter",
    "planCacheRead",
    "planCacheWrite",
    "reIndex",
    "renameCollectionSameDB",
    "storageDetails",
    "validate",
];
const PROFILE_ADMIN: &[&str] = &["convertToCapped", "createCollection", "dropCollection"];
const USER_ADMIN: &[&str] = &[
    "changeCustomData",
    "changePassword",
    "createRole",
    "createUser",
    "dropRole",
    "dropUser",
    "grantRole",
    "revokeRole",
    "setAuthenticationRestriction",
    "viewRole",
    "viewUser",
];
const CLUSTER_MONITOR: &[&str] = &[
    "allCollectionStats",
    "checkFreeMonitoringStatus",
    "connPoolStats",
    "getDefaultRWConcern",
    "getCmdLineOpts",
    "getLog",
    "getParameter",
    "getShardMap",
    "hostInfo",
    "inprog",
    "listDatabases",
    "listSessions",
    "listShards",
    "netstat",
    "operationMetrics",
    "replSetGetConfig",
    "replSetGetStatus",
    "serverStatus",
    "shardedDataDistribution",
    "shardingState",
    "top",
    "useUUID",
];
const STATS: &[&str] =
    &["collStats", "dbStats", "getDatabaseVersion", "getShardVersion", "indexStats"];
const CLUSTER_MANAGER: &[&str] = &[
    "addShard",
    "appendOplogNote",
    "applicationMessage",
    "cleanupOrphaned",
    "flushRouterConfig",
    "getClusterParameter",
    "getDefaultRWConcern",
    "listSessions",
    "listShards",
    "removeShard",
    "replSetConfigure",
    "replSetGetConfig",
    "replSetGetStatus",
    "replSetStateChange",
    "resync",
    "runTenantMigration",
    "setClusterParameter",
    "setDefaultRWConcern",
    "setFeatureCompatibilityVersion",
    "setFreeMonitoring",
];
const SHARDING: &[&str] = &[
    "clearJumboFlag",
    "enableSharding",
    "moveChunk",
    "refineCollectionShardKey",
    "reshardCollection",
    "splitChunk",
    "splitVector",
];
const CHANGE: &[&str] = &["insert", "remove", "update"];
const HOST_MANAGER: &[&str] = &[
    "applicationMessage",
    "auditConfigure",
    "connPoolSync",
    "dropConnections",
    "flushRouterConfig",
    "fsync",
    "invalidateUserCache",
    "killAnyCursor",
    "killAnySession",
    "killop",
    "logRotate",
    "oidReset",
    "replSetResizeOplog",
    "resync",
    "rotateCertificates",
    "setParameter",
    "shutdown",
    "touch",
    "trafficRecord",
    "unlock",
];
const RESTORE: &[&str] = &[
    "bypassDocumentValidation",
    "collMod",
    "convertToCapped",
    "createCollection",
    "createIndex",
    "dropCollection",
    "insert",
];
const FIND: &[&str] = &["find"];

/// The roles that exist in every database.
const OF_DATABASES: &[&str] =
    &["dbAdmin", "dbOwner", "enableSharding", "read", "readWrite", "userAdmin"];
/// The roles that only `admin` has.
const OF_ADMIN: &[&str] = &[
    "backup",
    "clusterAdmin",
    "clusterManager",
    "clusterMonitor",
    "dbAdminAnyDatabase",
    "hostManager",
    "readAnyDatabase",
    "readWriteAnyDatabase",
    "restore",
    "root",
    "userAdminAnyDatabase",
];

/// The server's own roles in a database.
pub(crate) fn built_in_roles(db: &str) -> Vec<RoleName> {
    let of_admin = if db == "admin" { OF_ADMIN } else { &[] };
    OF_DATABASES.iter().chain(of_admin).map(|role| RoleName::new(role, db)).collect()
}

/// What one of the server's own roles grants; `None` if it is none.
pub(crate) fn built_in(name: &RoleName) -> Option<Vec<Privilege>> {
    let RoleName { role, db } = name;
    let known = OF_DATABASES.contains(&role.as_str())
        || (db == "admin" && OF_ADMIN.contains(&role.as_str()));
    if !known {
        return None;
    }
    let mut granted = Vec::new();
    grant(role, db, &mut granted);
    Some(merged(granted))
}

fn grant(role: &str, db: &str, to: &mut Vec<Privilege>) {
    let own = || Pattern::Database(db.to_owned());
    let inner = |name: &str| Pattern::Collection(db.to_owned(), name.to_owned());
    let anywhere = |name: &str| Pattern::NamedAnywhere(name.to_owned());
    let collection = |db: &str, name: &str| Pattern::Collection(db.to_owned(), name.to_owned());
    let database = |db: &str| Pattern::Database(db.to_owned());
    let mut add = |pattern, actions: &[&[&str]]| to.push(Privilege::new(pattern, actions));
    match role {
        "read" => {
            add(own(), &[READ]);
            add(inner("system.js"), &[READ]);
        }
        "readWrite" => {
            add(own(), &[READ, WRITE]);
            add(inner("system.js"), &[READ, WRITE]);
        }
        "dbAdmin" => {
            add(own(), &[DB_ADMIN]);
            add(inner("system.profile"), &[READ, PROFILE_ADMIN]);
        }
        "userAdmin" => add(own(), &[USER_ADMIN]),
        "dbOwner" => {
            for role in ["readWrite", "dbAdmin", "userAdmin"] {
                grant(role, db, to);
            }
        }
        "enableSharding" => add(
            Pattern::AnyDatabase,
            &[&["enableSharding", "refineCollectionShardKey", "reshardCollection"]],
        ),
        "readAnyDatabase" => {
            add(Pattern::AnyDatabase, &[READ]);
            add(Pattern::Cluster, &[&["listDatabases"]]);
            add(anywhere("system.js"), &[READ]);
        }
        "readWriteAnyDatabase" => {
            add(Pattern::AnyDatabase, &[READ, WRITE]);
            add(Pattern::Cluster, &[&["listDatabases"]]);
            add(anywhere("system.js"), &[READ, WRITE]);
        }
        "dbAdminAnyDatabase" => {
            add(Pattern::Cluster, &[&["listDatabases", "applyOps"]]);
            add(Pattern::AnyDatabase, &[DB_ADMIN]);
            add(anywhere("system.profile"), &[READ, PROFILE_ADMIN]);
        }
        "userAdminAnyDatabase" => {
            add(Pattern::AnyDatabase, &[USER_ADMIN, &["listCachedAndActiveUsers"]]);
            add(database("local"), &[USER_ADMIN]);
            add(database("config"), &[USER_ADMIN]);
            add(
                Pattern::Cluster,
                &[&["authSchemaUpgrade", "invalidateUserCache", "listDatabases", "viewUser"]],
            );
            add(anywhere("system.users"), &[READ]);
            for name in ["system.users", "system.roles"] {
                add(collection("admin", name), &[READ, &["createIndex", "dropIndex"]]);
            }
            add(collection("admin", "system.version"), &[READ]);
        }
        "clusterMonitor" => {
            add(Pattern::Cluster, &[CLUSTER_MONITOR]);
            add(Pattern::AnyDatabase, &[STATS]);
            for db in ["config", "local"] {
                add(database(db), &[READ, STATS]);
                add(collection(db, "system.js"), &[READ]);
            }
            add(collection("local", "system.replset"), &[FIND]);
            add(anywhere("system.profile"), &[FIND]);
        }
        "clusterManager" => {
            add(Pattern::Cluster, &[CLUSTER_MANAGER]);
            add(Pattern::AnyDatabase, &[SHARDING]);
            add(database("config"), &[READ, SHARDING, CHANGE]);
            add(database("local"), &[SHARDING, CHANGE]);
            add(collection("local", "system.replset"), &[READ]);
            add(collection("config", "system.js"), &[READ]);
        }
        "hostManager" => {
            add(Pattern::Cluster, &[HOST_MANAGER]);
            add(Pattern::AnyDatabase, &[&["killCursors"]]);
        }
        "clusterAdmin" => {
            add(Pattern::AnyDatabase, &[&["dropDatabase"]]);
            for role in ["clusterMonitor", "clusterManager", "hostManager"] {
                grant(role, db, to);
            }
        }
        "backup" => {
            add(
                Pattern::Cluster,
                &[&["appendOplogNote", "getParameter", "listDatabases", "serverStatus"]],
            );
            add(Pattern::Anything, &[&["collStats", "listCollections", "listIndexes"]]);
            add(Pattern::AnyDatabase, &[FIND]);
            for db in ["config", "local"] {
                add(database(db), &[FIND]);
            }
            for name in ["system.js", "system.users", "system.profile"] {
                add(anywhere(name), &[FIND]);
            }
            for name in ["system.roles", "system.version"] {
                add(collection("admin", name), &[FIND]);
            }
        }
        "restore" => {
            add(Pattern::AnyDatabase, &[RESTORE, USER_ADMIN]);
            add(Pattern::Anything, &[&["listCollections"]]);
            for db in ["config", "local"] {
                add(database(db), &[RESTORE]);
            }
            add(anywhere("system.js"), &[RESTORE]);
            add(anywhere("system.users"), &[RESTORE, FIND, CHANGE]);
            add(collection("admin", "system.version"), &[RESTORE, FIND]);
            add(Pattern::Cluster, &[&["forceUUID", "getParameter", "useUUID", "applyOps"]]);
        }
        "root" => {
            add(Pattern::Anything, &[&["collStats", "listCollections", "listIndexes", "validate"]]);
            for role in [
                "readWriteAnyDatabase",
                "dbAdminAnyDatabase",
                "userAdminAnyDatabase",
                "clusterAdmin",
                "backup",
                "restore",
            ] {
                grant(role, db, to);
            }
        }
        other => unreachable!("{other} was looked up"),
    }
}

/// One privilege for each pattern.
pub(crate) fn merged(granted: Vec<Privilege>) -> Vec<Privilege> {
    let mut out: Vec<Privilege> = Vec::new();
    for privilege in granted {
        match out.iter_mut().find(|known| known.pattern == privilege.pattern) {
            Some(known) => known.actions.extend(privilege.actions),
            None => out.push(privilege),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(role: &str, db: &str, action: &str, on: Resource<'_>) -> bool {
        built_in(&RoleName::new(role, db))
            .unwrap()
            .iter()
            .any(|granted| granted.pattern.matches(on) && granted.actions.contains(action))
    }

    #[test]
    fn a_reader_of_one_database_reads_that_one() {
        assert!(may("read", "app", "find", Resource::Collection("app", "x")));
        assert!(!may("read", "app", "find", Resource::Collection("other", "x")));
        assert!(!may("read", "app", "insert", Resource::Collection("app", "x")));
        assert!(!may("read", "app", "find", Resource::Collection("app", "system.users")));
    }

    #[test]
    fn any_database_does_not_mean_local_or_config() {
        let find = |db| may("readAnyDatabase", "admin", "find", Resource::Collection(db, "x"));
        assert!(find("app") && find("admin"));
        assert!(!find("local") && !find("config"));
    }

    #[test]
    fn roles_of_all_databases_exist_in_admin_alone() {
        assert_eq!(built_in(&RoleName::new("readAnyDatabase", "app")), None);
        assert!(built_in(&RoleName::new("root", "admin")).is_some());
        assert!(may("root", "admin", "shutdown", Resource::Cluster));
        assert!(may("root", "admin", "insert", Resource::Collection("app", "x")));
    }
}
