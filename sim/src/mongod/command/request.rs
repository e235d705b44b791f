//! A message read as a request: the command, its generic arguments, how to answer.

use std::sync::Arc;
use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Uuid};
use stepdown_driver::Instant;
use stepdown_driver::wire::{Flags, Message};

use super::arguments::type_name;
use super::operation::{Operation, OperationSession, ReadConcern, ReadConcernLevel};
use super::spec::CommandSpec;
use super::stable_api::ApiArguments;
use super::write_concern::WriteConcern;
use crate::mongod::ConnectionId;
use crate::mongod::error::{
    CommandError, FAILED_TO_PARSE, INVALID_NAMESPACE, INVALID_OPTIONS, TYPE_MISMATCH,
};
use crate::mongod::optime::{OpTime, Ts};

/// A request in work.
#[derive(Debug)]
pub(crate) struct Request {
    pub operation: Operation,
    pub spec: &'static CommandSpec,
    /// `writeConcern`, if given.
    pub write_concern: Option<WriteConcern>,
    /// A secondary will do: `$readPreference` other than primary.
    pub secondary_ok: bool,
    /// `$clusterTime.clusterTime`.
    pub cluster_time: Option<Ts>,
    pub answer: Answer,
    /// The connection's last write before this request.
    pub last_op_before: OpTime,
    /// What a fail point adds to the reply.
    pub injected: Injected,
    /// It opens a change stream, or asks one for more.
    pub watches: bool,
    /// It is a statement of its session's transaction, which was looked up.
    pub in_transaction: bool,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub connection: ConnectionId,
    pub response_to: i32,
    /// It came as OP_QUERY.
    pub legacy: bool,
    /// The client does not want an answer (`moreToCome`).
    pub silent: bool,
    /// The client takes a stream of answers.
    pub exhaust: bool,
}

/// What is known of a request before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The connection's last write before this request.
    pub last_op_before: OpTime,
    /// `opid`.
    pub op_id: i32,
    /// `requireApiVersion` is on.
    pub requires_api: bool,
}

/// What a fail point adds to a reply.
#[derive(Clone, Debug, Default)]
pub(crate) struct Injected {
    pub write_concern_error: Option<RawDocumentBuf>,
    pub labels: Option<Vec<String>>,
}

/// The command's name: the first field of the body.
pub(crate) fn command_name(message: &Message) -> Option<&str> {
    let first = message.body.iter_elements().next()?.ok()?;
    Some(first.key().as_str())
}

impl Answer {
    pub(crate) fn to(connection: ConnectionId, message: &Message) -> Answer {
        Answer {
            connection,
            response_to: message.request_id,
            legacy: message.legacy,
            silent: message.flags.contains(Flags::MORE_TO_COME),
            exhaust: message.flags.contains(Flags::EXHAUST_ALLOWED),
        }
    }
}

impl Request {
    /// Reads the generic arguments.
    ///
    /// # Errors
    /// What a server says of a malformed one; unknown arguments are the command's to refuse.
    pub(crate) fn read(
        now: Instant,
        answer: Answer,
        message: Message,
        name: String,
        spec: &'static CommandSpec,
        origin: Origin,
    ) -> Result<Request, CommandError> {
        let Origin { last_op_before, op_id, requires_api } = origin;
        let mut db = None;
        let mut lsid = None;
        let mut txn_number = None;
        let mut autocommit = None;
        let mut start_transaction = None;
        let mut max_time = None;
        let mut read_concern = ReadConcern::default();
        let mut write_concern = None;
        let mut secondary_ok = false;
        let mut cluster_time = None;
        let mut api = ApiArguments::default();
        for element in message.body.iter() {
            let (key, value) = element.map_err(|error| {
                CommandError::new(crate::mongod::error::INVALID_BSON, error.to_string())
            })?;
            match key.as_str() {
                "$db" => {
                    db = Some(value.as_str().ok_or_else(|| wrong("$db", "string"))?.to_owned())
                }
                "lsid" => lsid = Some(read_lsid(value)?),
                "txnNumber" => {
                    let number =
                        value.as_i64().ok_or_else(|| wrong_session("txnNumber", value, "long"))?;
                    if number < 0 {
                        return Err(CommandError::new(
                            INVALID_OPTIONS,
                            "Transaction number cannot be negative",
                        ));
                    }
                    txn_number = Some(number);
                }
                "autocommit" | "startTransaction" => {
                    let given = value
                        .as_bool()
                        .ok_or_else(|| wrong_session(key.as_str(), value, "bool"))?;
                    let place = match key.as_str() {
                        "autocommit" => &mut autocommit,
                        _ => &mut start_transaction,
                    };
                    *place = Some(given);
                }
                "maxTimeMS" => max_time = read_max_time(value)?,
                "readConcern" => {
                    let document = value.as_document().ok_or_else(|| {
                        CommandError::new(FAILED_TO_PARSE, "readConcern field should be an object")
                    })?;
                    read_concern = read_read_concern(document)?;
                }
                "writeConcern" => {
                    let document = value.as_document().ok_or_else(|| {
                        CommandError::new(
                            TYPE_MISMATCH,
                            format!(
                                "\"writeConcern\" had the wrong type. Expected object, found {}",
                                type_name(value)
                            ),
                        )
                    })?;
                    write_concern = Some(WriteConcern::read(document)?);
                }
                "$readPreference" => {
                    let document = value.as_document().ok_or_else(|| {
                        CommandError::new(
                            TYPE_MISMATCH,
                            format!(
                                "$readPreference has incorrect type: expected object but got {}",
                                type_name(value)
                            ),
                        )
                    })?;
                    secondary_ok = allows_secondaries(document)?;
                }
                "apiVersion" | "apiStrict" | "apiDeprecationErrors" => {
                    api.take(key.as_str(), value)?;
                }
                "$clusterTime" => {
                    cluster_time = value
                        .as_document()
                        .and_then(|document| document.get_timestamp("clusterTime").ok())
                        .map(Ts::from);
                }
                _ => {}
            }
        }
        let Some(db) = db else {
            return Err(CommandError::new(40_571, "OP_MSG requests require a $db argument"));
        };
        if db.is_empty()
            || db.len() > 63
            || db.contains(['/', '\\', ' ', '"', '$', '\0', '.']) && db != "$external"
        {
            return Err(CommandError::new(
                INVALID_NAMESPACE,
                format!("Invalid database name: '{db}'"),
            ));
        }
        if spec.admin_only && db != "admin" {
            return Err(CommandError::new(
                crate::mongod::error::UNAUTHORIZED,
                format!("{name} may only be run against the admin database."),
            ));
        }
        check_transaction_fields(txn_number, autocommit, start_transaction)?;
        let in_transaction = autocommit == Some(false);
        api.check(spec, &message.body, requires_api)?;
        if write_concern.is_some() && !spec.accepts_write_concern && !in_transaction {
            return Err(CommandError::new(
                INVALID_OPTIONS,
                "Command does not support writeConcern",
            ));
        }
        let session = match lsid {
            Some(lsid) => {
                let start_transaction = start_transaction == Some(true);
                Some(OperationSession { lsid, txn_number, in_transaction, start_transaction })
            }
            None if txn_number.is_some() => {
                return Err(CommandError::new(
                    INVALID_OPTIONS,
                    "Transaction number requires a session ID to also be specified",
                ));
            }
            None => None,
        };
        if txn_number.is_some() && !spec.retryable_write && !in_transaction {
            return Err(CommandError::new(
                crate::mongod::error::NOT_A_RETRYABLE_WRITE_COMMAND,
                format!(
                    "txnNumber may only be provided for multi-document transactions and retryable write commands. autocommit:false was not provided, and {name} is not a retryable write command."
                ),
            ));
        }
        let operation = Operation {
            connection: answer.connection,
            name,
            db,
            body: Arc::new(message.body),
            sequences: Arc::new(message.sequences),
            session,
            op_id,
            max_time,
            read_concern,
            write_concern: write_concern.clone(),
            started: now,
            waited: false,
        };
        let mut request = Request {
            operation,
            spec,
            write_concern,
            secondary_ok,
            cluster_time,
            answer,
            last_op_before,
            injected: Injected::default(),
            watches: false,
            in_transaction: false,
        };
        request.watches = super::change_stream::is_opened_by(&request.operation);
        super::transaction::check_statement(&request)?;
        Ok(request)
    }

    /// When `maxTimeMS` is over.
    pub(crate) fn max_time_at(&self) -> Instant {
        self.operation.max_time.map_or(Instant::NEVER, |limit| self.operation.started + limit)
    }
}

fn wrong(field: &str, expected: &str) -> CommandError {
    CommandError::new(
        TYPE_MISMATCH,
        format!("BSON field '{field}' is the wrong type, expected type '{expected}'"),
    )
}

fn wrong_session(field: &str, value: RawBsonRef<'_>, expected: &str) -> CommandError {
    CommandError::new(
        TYPE_MISMATCH,
        format!(
            "BSON field 'OperationSessionInfo.{field}' is the wrong type '{}', expected type '{expected}'",
            type_name(value)
        ),
    )
}

/// What the fields of a transaction demand of each other.
///
/// # Errors
/// 72 InvalidOptions.
fn check_transaction_fields(
    txn_number: Option<i64>,
    autocommit: Option<bool>,
    start_transaction: Option<bool>,
) -> Result<(), CommandError> {
    let message = match (txn_number, autocommit, start_transaction) {
        (None, Some(_), _) => {
            "'autocommit' field requires a transaction number to also be specified"
        }
        (_, None, Some(_)) => {
            "'startTransaction' field requires 'autocommit' field to also be specified"
        }
        (_, Some(true), _) => "Specifying autocommit=true is not allowed.",
        (_, _, Some(false)) => "Specifying startTransaction=false is not allowed.",
        _ => return Ok(()),
    };
    Err(CommandError::new(INVALID_OPTIONS, message))
}

fn read_lsid(value: RawBsonRef<'_>) -> Result<Uuid, CommandError> {
    let binary = value
        .as_document()
        .and_then(|document| document.get_binary("id").ok())
        .ok_or_else(|| {
            let id = value.as_document().and_then(|lsid| lsid.get("id").ok().flatten());
            match id {
                Some(id) => wrong_session("lsid.id", id, "binData"),
                None => wrong("lsid.id", "binData"),
            }
        })?;
    let bytes: Option<[u8; 16]> = binary.bytes.try_into().ok();
    match bytes {
        Some(bytes) if binary.subtype == BinarySubtype::Uuid => Ok(Uuid::from_bytes(bytes)),
        _ => Err(CommandError::new(
            crate::mongod::error::INVALID_UUID,
            "uuid must be a 16-byte binary field with UUID (4) subtype",
        )),
    }
}

fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(value) => Some(i64::from(value)),
        RawBsonRef::Int64(value) => Some(value),
        RawBsonRef::Double(value) if value.fract() == 0.0 => Some(value as i64),
        _ => None,
    }
}

/// Whether `$readPreference` names more than primaries.
fn allows_secondaries(preference: &RawDocument) -> Result<bool, CommandError> {
    match preference.get_str("mode") {
        Ok("primary") => Ok(false),
        Ok("primaryPreferred" | "secondary" | "secondaryPreferred" | "nearest") => Ok(true),
        Ok(other) => Err(CommandError::new(
            crate::mongod::error::BAD_VALUE,
            format!(
                "Could not parse $readPreference mode '{other}'. Only the modes 'primary', 'primaryPreferred', 'secondary', 'secondaryPreferred', and 'nearest' are supported. :: caused by :: Enumeration value '{other}' for field 'mode' is not a valid value."
            ),
        )),
        Err(_absent) => Ok(false),
    }
}

fn read_max_time(value: RawBsonRef<'_>) -> Result<Option<Duration>, CommandError> {
    let millis = integer(value).ok_or_else(|| {
        CommandError::new(crate::mongod::error::BAD_VALUE, "maxTimeMS must be a number")
    })?;
    if !(0..=i64::from(i32::MAX)).contains(&millis) {
        return Err(CommandError::new(
            crate::mongod::error::BAD_VALUE,
            format!("{millis} value for maxTimeMS is out of range"),
        ));
    }
    Ok((millis > 0).then(|| Duration::from_millis(millis as u64)))
}

fn wrong_time(field: &str, value: RawBsonRef<'_>) -> CommandError {
    CommandError::new(
        TYPE_MISMATCH,
        format!("\"{field}\" had the wrong type. Expected timestamp, found {}", type_name(value)),
    )
}

fn read_read_concern(document: &RawDocument) -> Result<ReadConcern, CommandError> {
    let mut concern = ReadConcern::default();
    for element in document.iter().flatten() {
        let (key, value) = element;
        match key.as_str() {
            "level" => {
                concern.level = match value.as_str() {
                    Some("available") => ReadConcernLevel::Available,
                    Some("linearizable") => ReadConcernLevel::Linearizable,
                    Some("local") => ReadConcernLevel::Local,
                    Some("majority") => ReadConcernLevel::Majority,
                    Some("snapshot") => ReadConcernLevel::Snapshot,
                    Some(_) => {
                        return Err(CommandError::new(
                            FAILED_TO_PARSE,
                            "readConcern.level must be either 'local', 'majority', 'linearizable', 'available', or 'snapshot'",
                        ));
                    }
                    None => return Err(wrong("readConcern.level", "string")),
                };
            }
            "afterClusterTime" => {
                let ts =
                    value.as_timestamp().ok_or_else(|| wrong_time("afterClusterTime", value))?;
                concern.after_cluster_time = Some(ts.into());
            }
            "atClusterTime" => {
                let ts = value.as_timestamp().ok_or_else(|| wrong_time("atClusterTime", value))?;
                concern.at_cluster_time = Some(ts.into());
            }
            "afterOpTime" | "provenance" | "$readPreference" => {}
            other => {
                return Err(CommandError::new(
                    INVALID_OPTIONS,
                    format!("Unrecognized option in readConcern: {other}"),
                ));
            }
        }
    }
    if concern.at_cluster_time.is_some() && concern.level != ReadConcernLevel::Snapshot {
        return Err(CommandError::new(
            INVALID_OPTIONS,
            "atClusterTime field can be set only if level is equal to snapshot",
        ));
    }
    if concern.at_cluster_time.is_some() && concern.after_cluster_time.is_some() {
        return Err(CommandError::new(
            INVALID_OPTIONS,
            "Specifying a timestamp for readConcern snapshot in a causally consistent session is not allowed. See https://docs.mongodb.com/manual/core/read-isolation-consistency-recency/#causal-consistency",
        ));
    }
    let with_after = matches!(
        concern.level,
        ReadConcernLevel::Local | ReadConcernLevel::Majority | ReadConcernLevel::Snapshot
    );
    if concern.after_cluster_time.is_some() && !with_after {
        return Err(CommandError::new(
            INVALID_OPTIONS,
            "afterClusterTime field can be set only if level is equal to majority, local, or snapshot",
        ));
    }
    Ok(concern)
}
