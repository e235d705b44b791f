//! hello, isMaster: what drivers see of a member.

use std::time::Duration;

use bson::{DateTime, RawArrayBuf, RawDocumentBuf, cstr, rawdoc};
use stepdown_driver::options::Compressor;
use stepdown_driver::{Instant, wire};

use super::arguments::type_name as raw_type_name;
use super::operation::{Operation, Outcome};
use super::request::Request;
use super::spec::{CommandSpec, Gate};
use super::wait::Wait;
use crate::mongod::error::{CLIENT_METADATA_CANNOT_BE_MUTATED, CommandError, SHUTDOWN_IN_PROGRESS};
use crate::mongod::optime::OpTime;
use crate::mongod::{Mongod, ServerVersion};
use crate::trace::MemberState;

pub(crate) const COMMANDS: &[CommandSpec] = &[CommandSpec {
    names: &["hello", "isMaster", "ismaster"],
    gate: Gate::Always,
    accepts_write_concern: false,
    retryable_write: false,
    admin_only: false,
    run: hello,
}];

/// `maxBsonObjectSize`.
pub(crate) const BSON_OBJECT_SIZE_MAX: i32 = 16 * 1024 * 1024;
/// `maxMessageSizeBytes`.
const MESSAGE_SIZE_MAX: i32 = 48_000_000;
/// `maxWriteBatchSize`.
pub(crate) const WRITE_BATCH_SIZE_MAX: i32 = 100_000;

impl ServerVersion {
    /// `maxWireVersion`.
    pub const fn wire_version(self) -> i32 {
        match self {
            ServerVersion::V6_0 => 17,
            ServerVersion::V7_0 => 21,
            ServerVersion::V8_0 => 25,
        }
    }

    /// The release, as `buildInfo` says it.
    pub const fn text(self) -> &'static str {
        match self {
            ServerVersion::V6_0 => "6.0.5",
            ServerVersion::V7_0 => "7.0.14",
            ServerVersion::V8_0 => "8.0.4",
        }
    }

    /// `featureCompatibilityVersion`.
    pub const fn feature_compatibility(self) -> &'static str {
        match self {
            ServerVersion::V6_0 => "6.0",
            ServerVersion::V7_0 => "7.0",
            ServerVersion::V8_0 => "8.0",
        }
    }
}

fn hello(
    server: &mut Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Outcome, CommandError> {
    note_client(server, operation)?;
    if let Some(wait) = awaited(server, now, operation)? {
        return Ok(Outcome::Park(wait));
    }
    if let Some(until) = server.repl.quiesce_until {
        let remaining = (until - now).as_millis() as i64;
        return Err(CommandError::new(
            SHUTDOWN_IN_PROGRESS,
            "The server is in quiesce mode and will shut down",
        )
        .with_extra(rawdoc! {
            "remainingQuiesceTimeMillis": remaining,
            "topologyVersion": server.topology_version(),
        }));
    }
    let legacy = operation.name != "hello";
    let mut reply = RawDocumentBuf::new();
    if operation.body.get_bool("helloOk").unwrap_or(false) {
        reply.append(cstr!("helloOk"), true);
    }
    reply.append(cstr!("topologyVersion"), server.topology_version());
    server.append_set(&mut reply, legacy);
    reply.append(cstr!("maxBsonObjectSize"), BSON_OBJECT_SIZE_MAX);
    reply.append(cstr!("maxMessageSizeBytes"), MESSAGE_SIZE_MAX);
    reply.append(cstr!("maxWriteBatchSize"), WRITE_BATCH_SIZE_MAX);
    reply.append(cstr!("localTime"), DateTime::from_millis(server.wall_millis(now)));
    reply.append(cstr!("logicalSessionTimeoutMinutes"), 30);
    let number = server.clients.get(operation.connection).map_or(0, |client| client.number);
    reply.append(cstr!("connectionId"), number);
    reply.append(cstr!("minWireVersion"), 0);
    reply.append(cstr!("maxWireVersion"), server.options.version.wire_version());
    reply.append(cstr!("readOnly"), false);
    if let Some(compression) = agree_on_compression(server, operation) {
        reply.append(cstr!("compression"), compression);
    }
    if let Ok(user) = operation.body.get_str("saslSupportedMechs")
        && let Some(mechanisms) = server.supported_mechanisms(user)
    {
        reply.append(cstr!("saslSupportedMechs"), mechanisms);
    }
    if !operation.waited
        && let Some(answer) = server.speculate(operation.connection, &operation.body)
    {
        reply.append(cstr!("speculativeAuthenticate"), answer);
    }
    Ok(Outcome::Reply(reply))
}

/// A handshake tells who the client is.
///
/// # Errors
/// 186: it is told once.
fn note_client(server: &mut Mongod, operation: &Operation) -> Result<(), CommandError> {
    let tells = operation.body.get_document("client").is_ok();
    if tells
        && !operation.waited
        && let Some(client) = server.clients.get_mut(operation.connection)
    {
        if client.greeted {
            return Err(CommandError::new(
                CLIENT_METADATA_CANNOT_BE_MUTATED,
                "The client metadata document may only be sent in the first hello",
            ));
        }
        client.greeted = true;
    }
    if let Ok(metadata) = operation.body.get_document("client")
        && let Some(client) = server.clients.get_mut(operation.connection)
    {
        client.metadata = Some(metadata.to_owned());
    }
    // Measured: the new name alone says nothing.
    let hello_ok = operation.body.get_bool("helloOk").unwrap_or(false);
    if let Some(client) = server.clients.get_mut(operation.connection) {
        client.hello_ok |= hello_ok;
        client.greeted = true;
    }
    Ok(())
}

/// The compressors that both ends have, in the client's order; agreed on once.
fn agree_on_compression(server: &mut Mongod, operation: &Operation) -> Option<RawArrayBuf> {
    let client = server.clients.get_mut(operation.connection)?;
    if let Ok(wanted) = operation.body.get_array("compression") {
        let known = |name: &str| match name {
            "snappy" => Some(Compressor::Snappy),
            "zlib" => Some(Compressor::Zlib { level: None }),
            "zstd" => Some(Compressor::Zstd { level: None }),
            _ => None,
        };
        client.compressors = wanted
            .into_iter()
            .flatten()
            .filter_map(|name| known(name.as_str()?))
            .filter(wire::is_compressor_built_in)
            .collect();
    }
    if client.compressors.is_empty() {
        return None;
    }
    let mut names = RawArrayBuf::new();
    for compressor in &client.compressors {
        names.push(compressor.name());
    }
    Some(names)
}

/// Whether this hello waits for a change.
fn awaited(
    server: &Mongod,
    now: Instant,
    operation: &Operation,
) -> Result<Option<Wait>, CommandError> {
    let version = operation.body.get_document("topologyVersion").ok();
    let await_millis = match operation.argument("maxAwaitTimeMS") {
        None => None,
        Some(value) => Some(match value {
            bson::RawBsonRef::Int32(millis) => i64::from(millis),
            bson::RawBsonRef::Int64(millis) => millis,
            bson::RawBsonRef::Double(millis) => millis as i64,
            _ => {
                return Err(CommandError::new(
                    crate::mongod::error::TYPE_MISMATCH,
                    format!(
                        "BSON field 'hello.maxAwaitTimeMS' is the wrong type '{}', expected types '[long, int, decimal, double']",
                        raw_type_name(value)
                    ),
                ));
            }
        }),
    };
    let (version, await_millis) = match (version, await_millis) {
        (None, None) => return Ok(None),
        (Some(version), Some(millis)) => (version, millis),
        (Some(_), None) => {
            return Err(CommandError::new(
                31_368,
                "A request with a 'topologyVersion' must include 'maxAwaitTimeMS'",
            ));
        }
        (None, Some(_)) => {
            return Err(CommandError::new(
                31_368,
                "A request with 'maxAwaitTimeMS' must include a 'topologyVersion'",
            ));
        }
    };
    if await_millis < 0 {
        return Err(CommandError::new(
            51_024,
            format!(
                "BSON field 'maxAwaitTimeMS' value must be >= 0, actual value '{await_millis}'"
            ),
        ));
    }
    let counter = version.get_i64("counter").map_err(|_absent| {
        CommandError::new(
            40_414,
            "BSON field 'hello.topologyVersion.counter' is missing but a required field",
        )
    })?;
    if counter < 0 {
        return Err(CommandError::new(31_372, "topologyVersion must have a non-negative counter"));
    }
    let same_process =
        version.get_object_id("processId").is_ok_and(|id| id == server.repl.process_id);
    if same_process && counter > server.repl.topology_counter {
        return Err(CommandError::new(
            31_382,
            format!(
                "Received a topology version with counter: {counter} which is greater than the server topology version counter: {}",
                server.repl.topology_counter
            ),
        ));
    }
    let waits = same_process && counter == server.repl.topology_counter && !operation.waited;
    let until = now + Duration::from_millis(await_millis as u64);
    Ok(waits.then_some(Wait::Hello { counter, until }))
}

impl Mongod {
    /// `topologyVersion`.
    pub(crate) fn topology_version(&self) -> RawDocumentBuf {
        rawdoc! {
            "processId": self.repl.process_id,
            "counter": self.repl.topology_counter,
        }
    }

    /// Who speaks, as a handshake tells it: fail points ask before the command runs.
    pub(crate) fn note_app_name(&mut self, operation: &Operation) {
        let name = operation
            .body
            .get_document("client")
            .and_then(|client| client.get_document("application"))
            .and_then(|application| application.get_str("name"));
        if matches!(&*operation.name, "hello" | "isMaster" | "ismaster")
            && let Ok(name) = name
            && let Some(client) = self.clients.get_mut(operation.connection)
        {
            client.app_name = Some(name.to_owned());
        }
    }

    /// A stream of hellos goes on: the next answer comes when something changes, unless a fail point
    /// has something in mind for it, as if it had been asked for again.
    pub(crate) fn go_on_exhausting(
        &mut self,
        now: Instant,
        mut request: Box<Request>,
        replied_with: i32,
    ) {
        request.answer.response_to = replied_with;
        let Some(request) = self.pass_fail_points(now, request) else { return };
        let await_millis = match request.operation.argument("maxAwaitTimeMS") {
            Some(bson::RawBsonRef::Int32(millis)) => i64::from(millis),
            Some(bson::RawBsonRef::Int64(millis)) => millis,
            Some(bson::RawBsonRef::Double(millis)) => millis as i64,
            _ => 10_000,
        };
        // A stream without a wait would never let the moment pass.
        let until = now + Duration::from_millis(await_millis.max(1) as u64);
        let counter = self.repl.topology_counter;
        self.park(request, Wait::Hello { counter, until });
    }

    /// The part of hello that speaks of the set; `serverStatus.repl` shows it too.
    pub(crate) fn append_set(&self, reply: &mut RawDocumentBuf, legacy: bool) {
        let repl = &self.repl;
        let writable_field = if legacy { cstr!("ismaster") } else { cstr!("isWritablePrimary") };
        if repl.set_name.is_none() {
            // A standalone.
            reply.append(writable_field, true);
            return;
        }
        let (Some(config), Some(own)) = (&repl.config, repl.own()) else {
            reply.append(writable_field, false);
            reply.append(cstr!("secondary"), false);
            reply.append(cstr!("info"), "Does not have a valid replica set config");
            reply.append(cstr!("isreplicaset"), true);
            return;
        };
        let (mut hosts, mut passives, mut arbiters) =
            (RawArrayBuf::new(), RawArrayBuf::new(), RawArrayBuf::new());
        let (mut any_passive, mut any_arbiter) = (false, false);
        for member in
            config.members.iter().filter(|member| !member.hidden && member.delay.is_zero())
        {
            if member.arbiter_only {
                arbiters.push(&*member.host);
                any_arbiter = true;
            } else if member.priority_micros > 0 {
                hosts.push(&*member.host);
            } else {
                passives.push(&*member.host);
                any_passive = true;
            }
        }
        reply.append(cstr!("hosts"), hosts);
        if any_passive {
            reply.append(cstr!("passives"), passives);
        }
        if any_arbiter {
            reply.append(cstr!("arbiters"), arbiters);
        }
        reply.append(cstr!("setName"), &*config.set_name);
        reply.append(cstr!("setVersion"), config.version as i32);
        let state = repl.state();
        let writable = repl.is_writable();
        let secondary = state == MemberState::Secondary || (repl.leader.is_some() && !writable);
        reply.append(writable_field, writable);
        reply.append(cstr!("secondary"), secondary);
        if let Some(primary) = repl.primary {
            reply.append(cstr!("primary"), &*config.members[primary].host);
        }
        if own.arbiter_only {
            reply.append(cstr!("arbiterOnly"), true);
        } else if own.priority_micros == 0 {
            reply.append(cstr!("passive"), true);
        }
        if own.hidden {
            reply.append(cstr!("hidden"), true);
        }
        if !own.build_indexes {
            reply.append(cstr!("buildIndexes"), false);
        }
        if !own.delay.is_zero() {
            let field = if legacy { cstr!("slaveDelay") } else { cstr!("secondaryDelaySecs") };
            reply.append(field, own.delay.as_secs() as i32);
        }
        if !own.tags.is_empty() {
            let mut tags = RawDocumentBuf::new();
            for (tag, value) in &own.tags {
                // A tag with a NUL cannot have come in as BSON.
                if let Ok(tag) = <&bson::raw::CStr>::try_from(tag.as_str()) {
                    tags.append(tag, value.as_str());
                }
            }
            reply.append(cstr!("tags"), tags);
        }
        reply.append(cstr!("me"), &*own.host);
        if let Some(election_id) = repl.current_election_id() {
            reply.append(cstr!("electionId"), election_id);
        }
        let date = |optime: OpTime| DateTime::from_millis(i64::from(optime.ts.seconds()) * 1_000);
        reply.append(
            cstr!("lastWrite"),
            rawdoc! {
                "opTime": repl.applied.optime.to_raw(),
                "lastWriteDate": date(repl.applied.optime),
                "majorityOpTime": repl.commit.optime.to_raw(),
                "majorityWriteDate": date(repl.commit.optime),
            },
        );
    }
}
