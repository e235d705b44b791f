//! What the server is doing, and what it has done: `currentOp`, `$currentOp`, `killOp`, `top`, and the
//! counters of `serverStatus`.

use std::collections::BTreeMap;

use bson::{Bson, DateTime, Document, RawBsonRef, doc};
use stepdown_driver::Instant;

use super::arguments::{each_field, safe_i64};
use super::operation::{Operation, Outcome};
use super::request::Request;
use super::spec::CommandSpec;
use super::wait::Wait;
use crate::mongod::error::{
    CommandError, FAILED_TO_PARSE, INTERRUPTED, INVALID_NAMESPACE, NO_SUCH_KEY, TYPE_MISMATCH,
};
use crate::mongod::query::Matcher;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::value::ValueRef;
use crate::mongod::{ConnectionId, Mongod};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::anywhere(&["currentOp"], true, current_op),
    CommandSpec::anywhere(&["killOp"], true, kill_op),
    CommandSpec::anywhere(&["lockInfo"], true, lock_info),
    CommandSpec::anywhere(&["top"], true, top),
];

/// Namespaces `top` remembers; operations on further ones are counted in `serverStatus` alone.
const TOP_MAX: usize = 10_000;

/// What a process has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub insert: i64,
    pub query: i64,
    pub update: i64,
    pub delete: i64,
    pub getmore: i64,
    pub command: i64,
    /// Errors that requests were answered with.
    pub user_asserts: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
    pub requests: i64,
    /// How often a command of a name ran, and how often it failed.
    pub commands: BTreeMap<&'static str, (i64, i64)>,
    top: BTreeMap<String, Usage>,
}

/// How often a namespace was used, by kind.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    queries: i64,
    getmore: i64,
    insert: i64,
    update: i64,
    remove: i64,
    commands: i64,
}

impl Counters {
    /// Counts a request that is taken up.
    pub(crate) fn count(&mut self, request: &Request) {
        let name = request.spec.names[0];
        let statements = |field: &str| statements(&request.operation, field);
        self.commands.entry(name).or_default().0 += 1;
        match name {
            "insert" => self.insert += statements("documents"),
            "update" => self.update += statements("updates"),
            "delete" => self.delete += statements("deletes"),
            "find" | "aggregate" => self.query += 1,
            "getMore" => self.getmore += 1,
            _ => self.command += 1,
        }
        let collection = request.operation.body.iter().flatten().next();
        if let Some((_, RawBsonRef::String(collection))) = collection
            && request.spec.gate != super::spec::Gate::Always
        {
            self.use_namespace(name, &request.operation.db, collection);
        }
    }

    /// Counts a request that is answered with an error.
    pub(crate) fn count_failure(&mut self, name: &'static str) {
        self.user_asserts += 1;
        self.commands.entry(name).or_default().1 += 1;
    }

    fn use_namespace(&mut self, name: &str, db: &str, collection: &str) {
        let namespace = format!("{db}.{collection}");
        let full = self.top.len() >= TOP_MAX && !self.top.contains_key(&namespace);
        if full {
            return;
        }
        let usage = self.top.entry(namespace).or_default();
        match name {
            "insert" => usage.insert += 1,
            "update" => usage.update += 1,
            "delete" => usage.remove += 1,
            "find" => usage.queries += 1,
            "getMore" => usage.getmore += 1,
            _ => usage.commands += 1,
        }
    }
}

/// The statements of a write command, wherever they stand.
fn statements(operation: &Operation, field: &str) -> i64 {
    let sequence = operation.sequences.iter().find(|(name, _)| name == field);
    match sequence {
        Some((_, documents)) => documents.len() as i64,
        None => operation
            .body
            .get_array(field)
            .map_or(0, |statements| statements.into_iter().count() as i64),
    }
}

/// What `currentOp` is asked to show.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    /// Connections that do nothing, too.
    pub idle_connections: bool,
    /// Open cursors between two batches, too.
    pub idle_cursors: bool,
}

impl Shown {
    /// Reads the arguments of `$currentOp`.
    ///
    /// # Errors
    /// 14 TypeMismatch, 40415 for an unknown one; 73 away from `admin`.
    pub(crate) fn read(
        operation: &Operation,
        value: RawBsonRef<'_>,
    ) -> Result<Shown, CommandError> {
        let wrong = |message: &str| Err(CommandError::new(TYPE_MISMATCH, message));
        let wrong_flag = |field: &str, value| {
            let kind = super::arguments::type_name(value);
            Err(CommandError::new(
                TYPE_MISMATCH,
                format!(
                    "The '{field}' parameter of the $currentOp stage must be a boolean value, but found: {kind}"
                ),
            ))
        };
        let RawBsonRef::Document(options) = value else {
            return wrong(&format!(
                "$currentOp options must be specified in an object, but found: {}",
                super::arguments::type_name(value)
            ));
        };
        if operation.db != "admin" {
            return Err(CommandError::new(
                INVALID_NAMESPACE,
                "$currentOp must be run against the 'admin' database with {aggregate: 1}",
            ));
        }
        let mut shown = Shown::default();
        each_field("$currentOp", options, |field, value| {
            let flag = value.as_bool();
            match (field, flag) {
                (
                    "allUsers" | "idleConnections" | "idleSessions" | "idleCursors" | "localOps"
                    | "truncateOps" | "backtrace" | "targetAllNodes",
                    None,
                ) => {
                    return wrong_flag(field, value);
                }
                ("idleConnections", Some(flag)) => shown.idle_connections = flag,
                ("idleCursors", Some(flag)) => shown.idle_cursors = flag,
                // Nobody but the server's own users are left out, and one server is all there is.
                (
                    "allUsers" | "idleSessions" | "localOps" | "truncateOps" | "backtrace"
                    | "targetAllNodes",
                    _,
                ) => {}
                _ => {
                    return Err(CommandError::new(
                        FAILED_TO_PARSE,
                        format!("Unrecognized option '{field}' in $currentOp stage."),
                    ));
                }
            }
            Ok(true)
        })?;
        Ok(shown)
    }
}

impl Mongod {
    /// What is going on now, in the order of the connections.
    pub(crate) fn operations(
        &self,
        now: Instant,
        asking: &Operation,
        shown: Shown,
    ) -> Vec<Document> {
        let wall = self.wall_millis(now);
        let mut operations = Vec::new();
        for (connection, client) in self.clients.iter() {
            let working = self.parked.iter().find(|parked| parked.connection() == connection);
            let operation = match working {
                _ if connection == asking.connection => Some(asking),
                Some(parked) => Some(&parked.request.operation),
                None => None,
            };
            if operation.is_none() && !shown.idle_connections {
                continue;
            }
            let mut entry = doc! {
                "type": "op",
                "host": &*self.options.host,
                "desc": format!("conn{}", client.number),
                "connectionId": client.number,
                "client": &*client.remote,
            };
            if let Some(app_name) = &client.app_name {
                entry.insert("appName", app_name.as_str());
            }
            if let Some(metadata) = &client.metadata
                && let Ok(metadata) = Document::try_from(metadata.as_ref())
            {
                entry.insert("clientMetadata", metadata);
            }
            entry.insert("active", operation.is_some());
            entry.insert("currentOpTime", iso(wall));
            match operation {
                Some(operation) => describe(&mut entry, now, operation, working.map(|w| &w.wait)),
                None => describe_nothing(&mut entry),
            }
            operations.push(entry);
        }
        if shown.idle_cursors {
            operations.extend(self.cursors.idle().map(|(id, cursor)| {
                doc! {
                    "type": "idleCursor",
                    "host": &*self.options.host,
                    "ns": cursor.namespace.as_str(),
                    "cursor": {
                        "cursorId": id,
                        "tailable": cursor.tailable,
                        "awaitData": cursor.await_data,
                        "noCursorTimeout": cursor.no_timeout,
                        "lastAccessDate": DateTime::from_millis(
                            wall - (now - cursor.used).as_millis() as i64,
                        ),
                    },
                }
            }));
        }
        operations
    }

    /// The connection whose request in work has this number.
    fn working_on(&self, op_id: i64) -> Option<ConnectionId> {
        self.parked
            .iter()
            .find(|parked| i64::from(parked.request.operation.op_id) == op_id)
            .map(super::wait::Parked::connection)
    }
}

fn iso(millis: i64) -> String {
    let text = DateTime::from_millis(millis).try_to_rfc3339_string().unwrap_or_default();
    let text = text.trim_end_matches('Z');
    let text = if text.contains('.') { text.to_owned() } else { format!("{text}.000") };
    format!("{text}+00:00")
}

fn describe_nothing(entry: &mut Document) {
    entry.extend(doc! { "op": "none", "ns": "", "redacted": false, "command": {} });
}

fn describe(entry: &mut Document, now: Instant, operation: &Operation, wait: Option<&Wait>) {
    let running = now - operation.started;
    let name = operation.name.as_str();
    let collection = operation.body.iter().flatten().next();
    let namespace = match collection {
        Some((_, RawBsonRef::String(collection))) => operation.namespace(collection),
        _ if name == "getMore" => operation
            .argument("collection")
            .and_then(|collection| collection.as_str())
            .map_or_else(String::new, |collection| operation.namespace(collection)),
        _ => operation.namespace("$cmd"),
    };
    let kind = match name {
        "find" => "query",
        "getMore" => "getmore",
        "insert" => "insert",
        "update" => "update",
        "delete" => "remove",
        _ => "command",
    };
    let mut command = Document::new();
    for (key, value) in operation.body.iter().flatten() {
        if let Ok(value) = Bson::try_from(value) {
            command.insert(key.as_str(), value);
        }
    }
    if let Some(session) = &operation.session {
        entry.insert("lsid", doc! { "id": bson::Binary::from_uuid(session.lsid) });
    }
    entry.insert("threaded", true);
    entry.insert("opid", operation.op_id);
    entry.insert("secs_running", running.as_secs() as i64);
    entry.insert("microsecs_running", running.as_micros() as i64);
    entry.extend(doc! { "op": kind, "ns": namespace, "redacted": false, "command": command });
    entry.insert("numYields", 0);
    entry.insert("locks", Document::new());
    entry.insert("waitingForLock", matches!(wait, Some(Wait::Unlocked)));
    entry.insert("lockStats", Document::new());
    entry.insert("waitingForFlowControl", false);
    entry.insert("flowControlStats", Document::new());
}

fn current_op(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let flag = |name: &str| {
        operation.argument(name).is_some_and(|value| ValueRef::from(value).is_truthy())
    };
    let shown = Shown { idle_connections: flag("$all"), idle_cursors: flag("$all") };
    // What is neither generic nor a switch is a filter on what is shown.
    let mut filter = Document::new();
    let own = super::arguments::own_arguments(&operation.body);
    for (name, value) in own.iter().flatten().skip(1) {
        if !matches!(name.as_str(), "$all" | "$ownOps" | "$truncateOps")
            && let Ok(value) = Bson::try_from(value)
        {
            filter.insert(name.as_str(), value);
        }
    }
    let mut operations = server.operations(now, operation, shown);
    if !filter.is_empty() {
        let context = ParseContext::new(
            DateTime::from_millis(server.wall_millis(now)),
            server.repl.cluster_time.into(),
        );
        let matcher = Matcher::parse(&filter, &context)?;
        let mut kept = Vec::new();
        for entry in operations {
            if matcher.matches(&entry)? {
                kept.push(entry);
            }
        }
        operations = kept;
    }
    let operations: Vec<Bson> = operations.into_iter().map(Bson::Document).collect();
    let mut reply = doc! { "inprog": operations };
    if server.fsync_locks > 0 {
        reply.insert("fsyncLock", true);
        reply.insert("info", "use db.fsyncUnlock() to terminate the fsync write/snapshot lock");
    }
    Outcome::document(&reply)
}

fn kill_op(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let Some(op) = operation.argument("op") else {
        return Err(CommandError::new(NO_SUCH_KEY, "Missing expected field \"op\""));
    };
    if !ValueRef::from(op).is_number() {
        return Err(CommandError::new(
            TYPE_MISMATCH,
            format!(
                "Expected field \"op\" to have numeric type, but found {}",
                super::arguments::type_name(op)
            ),
        ));
    }
    let op_id = safe_i64("killOp.op", op)?;
    if let Some(connection) = server.working_on(op_id) {
        let error = CommandError::new(INTERRUPTED, "operation was interrupted");
        server.interrupt(now, connection, error);
    }
    Outcome::document(&doc! { "info": "attempting to kill op" })
}

/// Nobody ever waits for a lock: one request is worked on at a time.
fn lock_info(_: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    Outcome::document(&doc! { "lockInfo": [] })
}

fn top(server: &mut Mongod, _: Instant, _: &Operation) -> Result<Outcome, CommandError> {
    let mut totals = doc! { "note": "all times in microseconds" };
    // A request takes no time.
    let entry = |count: i64| doc! { "time": 0_i64, "count": count };
    for (namespace, usage) in &server.counters.top {
        let Usage { queries, getmore, insert, update, remove, commands } = *usage;
        let reads = queries + getmore;
        let writes = insert + update + remove;
        totals.insert(
            namespace,
            doc! {
                "total": entry(reads + writes + commands),
                "readLock": entry(reads),
                "writeLock": entry(writes),
                "queries": entry(queries),
                "getmore": entry(getmore),
                "insert": entry(insert),
                "update": entry(update),
                "remove": entry(remove),
                "commands": entry(commands),
            },
        );
    }
    Outcome::document(&doc! { "totals": totals })
}
