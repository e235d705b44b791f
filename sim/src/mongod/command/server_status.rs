//! `serverStatus`: sections of figures, each on unless asked off.

use bson::{Bson, DateTime, Document, RawBsonRef, RawDocumentBuf, doc};
use stepdown_driver::Instant;

use super::operation::{Operation, Outcome};
use super::spec::CommandSpec;
use crate::mongod::Mongod;
use crate::mongod::error::{CommandError, INTERNAL_ERROR};
use crate::mongod::query::value::ValueRef;

pub(crate) const COMMANDS: &[CommandSpec] =
    &[CommandSpec::anywhere(&["serverStatus"], false, server_status)];

/// Connections a server takes.
const CONNECTIONS_MAX: i64 = 838_860;

fn server_status(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    let uptime = now - server.started;
    let mut status = doc! {
        "host": &*server.options.host,
        "version": server.options.version.text(),
        "process": "mongod",
        "pid": 1_i64,
        "uptime": uptime.as_secs_f64().floor(),
        "uptimeMillis": uptime.as_millis() as i64,
        "uptimeEstimate": uptime.as_secs() as i64,
        "localTime": DateTime::from_millis(server.wall_millis(now)),
    };
    for (name, section) in sections(server, now)? {
        let asked = operation.argument(name);
        if asked.is_none_or(|value: RawBsonRef<'_>| ValueRef::from(value).is_truthy()) {
            status.insert(name, section);
        }
    }
    Outcome::document(&status)
}

fn sections(server: &Mongod, now: Instant) -> Result<Vec<(&'static str, Document)>, CommandError> {
    let counters = &server.counters;
    let zero = Document::new;
    let mut sections = Vec::new();
    let mut add = |name, section| sections.push((name, section));
    add(
        "asserts",
        doc! {
            "regular": 0, "warning": 0, "msg": 0,
            "user": counters.user_asserts, "tripwire": 0, "rollovers": 0,
        },
    );
    add("connections", connections(server));
    add("extra_info", doc! { "note": "fields vary by platform" });
    add(
        "flowControl",
        doc! {
            "enabled": false, "targetRateLimit": 1_000_000_000, "timeAcquiringMicros": 0_i64,
            "isLagged": false, "isLaggedCount": 0, "isLaggedTimeMicros": 0_i64,
        },
    );
    let queue = doc! { "total": 0, "readers": 0, "writers": 0 };
    add(
        "globalLock",
        doc! {
            "totalTime": (now - server.started).as_micros() as i64,
            "currentQueue": queue.clone(),
            "activeClients": queue,
        },
    );
    add("locks", zero());
    add(
        "network",
        doc! {
            "bytesIn": counters.bytes_in,
            "bytesOut": counters.bytes_out,
            "physicalBytesIn": counters.bytes_in,
            "physicalBytesOut": counters.bytes_out,
            "numSlowDNSOperations": 0_i64,
            "numSlowSSLOperations": 0_i64,
            "numRequests": counters.requests,
        },
    );
    let latency = |operations: i64| doc! { "latency": 0_i64, "ops": operations };
    add(
        "opLatencies",
        doc! {
            "reads": latency(counters.query + counters.getmore),
            "writes": latency(counters.insert + counters.update + counters.delete),
            "commands": latency(counters.command),
            "transactions": latency(0),
        },
    );
    add(
        "opcounters",
        doc! {
            "insert": counters.insert,
            "query": counters.query,
            "update": counters.update,
            "delete": counters.delete,
            "getmore": counters.getmore,
            "command": counters.command,
        },
    );
    if server.repl.set_name.is_some() {
        let mut repl = bson::rawdoc! { "topologyVersion": server.topology_version() };
        server.append_set(&mut repl, false);
        repl.append(bson::cstr!("rbid"), server.repl.rbid);
        add("repl", decoded(&repl)?);
    }
    add(
        "storageEngine",
        doc! {
            "name": "stepdown",
            "supportsCommittedReads": true,
            "supportsSnapshotReadConcern": true,
            "readOnly": false,
            "persistent": true,
            "backupCursorOpen": false,
        },
    );
    add("transportSecurity", doc! { "1.0": 0_i64, "1.1": 0_i64, "1.2": 0_i64, "1.3": 0_i64 });
    add("mem", doc! { "bits": 64, "supported": false });
    add("metrics", metrics(server));
    Ok(sections)
}

fn connections(server: &Mongod) -> Document {
    let current = server.clients.len() as i64;
    let active = server.parked.len() as i64 + 1;
    let hellos = |exhaust: bool| {
        let waiting = server.parked.iter().filter(|parked| {
            matches!(parked.wait, super::wait::Wait::Hello { .. })
                && (!exhaust || parked.request.answer.exhaust)
        });
        waiting.count() as i64
    };
    doc! {
        "current": current,
        "available": CONNECTIONS_MAX - current,
        "totalCreated": i64::from(server.clients.total_opened()),
        "rejected": 0_i64,
        "active": active.min(current),
        "threaded": current,
        "exhaustIsMaster": 0_i64,
        "exhaustHello": hellos(true),
        "awaitingTopologyChanges": hellos(false),
    }
}

fn metrics(server: &Mongod) -> Document {
    let commands: Document = server
        .counters
        .commands
        .iter()
        .map(|(name, (total, failed))| {
            ((*name).to_owned(), Bson::from(doc! { "failed": *failed, "total": *total }))
        })
        .collect();
    let (open, no_timeout) = server.cursors.open();
    doc! {
        "commands": commands,
        "cursor": {
            "open": { "noTimeout": no_timeout, "pinned": 0_i64, "total": open },
        },
    }
}

fn decoded(raw: &RawDocumentBuf) -> Result<Document, CommandError> {
    Document::try_from(raw.as_ref())
        .map_err(|error| CommandError::new(INTERNAL_ERROR, error.to_string()))
}
