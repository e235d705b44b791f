//! Read concern: reading it, the set's default, and which command takes which level.
//!
//! Measured on a 6.0.5 set: every command takes `local` (it is no level at all), a few take the others.

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};

use super::arguments::type_name;
use super::operation::{Operation, ReadConcern, ReadConcernLevel};
use super::request::Request;
use crate::mongod::error::{
    BAD_VALUE, CommandError, FAILED_TO_PARSE, INVALID_OPTIONS, TYPE_MISMATCH,
};
use crate::mongod::optime::Ts;
use crate::mongod::storage::text::shell_document;

/// Commands that take every level.
const EVERY_LEVEL: [&str; 4] = ["find", "aggregate", "distinct", "dbHash"];
/// Commands whose read concern is not theirs: a cursor's was given with its find, an explained command's
/// stands inside it.
const UNCHECKED: [&str; 2] = ["getMore", "explain"];
/// Commands that cannot wait for a cluster time.
const WITHOUT_CLUSTER_TIME: [&str; 5] = ["currentOp", "dbHash", "ping", "serverStatus", "validate"];

impl ReadConcernLevel {
    fn of_name(name: &str) -> Option<ReadConcernLevel> {
        Some(match name {
            "available" => ReadConcernLevel::Available,
            "linearizable" => ReadConcernLevel::Linearizable,
            "local" => ReadConcernLevel::Local,
            "majority" => ReadConcernLevel::Majority,
            "snapshot" => ReadConcernLevel::Snapshot,
            _ => return None,
        })
    }
}

impl ReadConcern {
    /// Reads `readConcern`.
    ///
    /// # Errors
    /// 9 FailedToParse, 14 TypeMismatch, 72 InvalidOptions, 2 BadValue as a server says them.
    pub(crate) fn read(document: &RawDocument) -> Result<ReadConcern, CommandError> {
        let mut concern = ReadConcern::default();
        let mut after_op_time = false;
        for (key, value) in document.iter().flatten() {
            match key.as_str() {
                "level" => {
                    let name = value.as_str().ok_or_else(|| wrong("level", "string", value))?;
                    concern.level = ReadConcernLevel::of_name(name).ok_or_else(|| {
                        CommandError::new(
                            FAILED_TO_PARSE,
                            "readConcern.level must be either 'local', 'majority', 'linearizable', 'available', or 'snapshot'",
                        )
                    })?;
                    concern.level_given = true;
                }
                "afterClusterTime" => concern.after_cluster_time = Some(time(key.as_str(), value)?),
                "atClusterTime" => concern.at_cluster_time = Some(time(key.as_str(), value)?),
                "afterOpTime" => {
                    value.as_document().ok_or_else(|| wrong("afterOpTime", "object", value))?;
                    after_op_time = true;
                }
                "provenance" => check_provenance(value)?,
                "$readPreference" => {}
                other => {
                    return Err(invalid(format!("Unrecognized option in readConcern: {other}")));
                }
            }
        }
        if after_op_time && concern.level == ReadConcernLevel::Linearizable {
            return Err(CommandError::new(
                FAILED_TO_PARSE,
                "afterOpTime not compatible with linearizable read concern",
            ));
        }
        concern.check_times()?;
        Ok(concern)
    }

    fn check_times(&self) -> Result<(), CommandError> {
        if self.at_cluster_time.is_some() && self.level != ReadConcernLevel::Snapshot {
            return Err(invalid(
                "atClusterTime field can be set only if level is equal to snapshot",
            ));
        }
        if self.at_cluster_time.is_some() && self.after_cluster_time.is_some() {
            return Err(invalid(
                "Specifying a timestamp for readConcern snapshot in a causally consistent session is not allowed. See https://docs.mongodb.com/manual/core/read-isolation-consistency-recency/#causal-consistency",
            ));
        }
        let with_after = matches!(
            self.level,
            ReadConcernLevel::Local | ReadConcernLevel::Majority | ReadConcernLevel::Snapshot
        );
        if self.after_cluster_time.is_some() && !with_after {
            return Err(invalid(
                "afterClusterTime field can be set only if level is equal to majority, local, or snapshot",
            ));
        }
        for (name, given) in
            [("afterClusterTime", self.after_cluster_time), ("atClusterTime", self.at_cluster_time)]
        {
            if given.is_some_and(Ts::is_null) {
                return Err(invalid(format!("{name} cannot be a null timestamp")));
            }
        }
        Ok(())
    }

    /// Whether a command takes the read concern of a request.
    ///
    /// # Errors
    /// 72 InvalidOptions.
    pub(crate) fn check_support(name: &str, request: &Request) -> Result<(), CommandError> {
        let operation = &request.operation;
        let concern = operation.read_concern;
        let in_transaction = operation.transaction().is_some();
        if !concern.given || in_transaction {
            return Ok(());
        }
        if concern.after_cluster_time.is_some() && name == "getMore" {
            return Err(without_cluster_time());
        }
        if UNCHECKED.contains(&name) {
            return Ok(());
        }
        let refused = |why: &str| {
            Err(invalid(format!(
                "Command {name} does not support {} :: caused by :: {why}",
                concern.shown()
            )))
        };
        let level = concern.level;
        match name {
            "aggregate"
                if level == ReadConcernLevel::Linearizable && writes_out(operation).is_some() =>
            {
                let stage = writes_out(operation).unwrap_or_default();
                return refused(&format!(
                    "{stage} cannot be used with a 'linearizable' read concern level"
                ));
            }
            "count" if level == ReadConcernLevel::Snapshot => {
                return refused("read concern snapshot not supported");
            }
            "count" => {}
            name if EVERY_LEVEL.contains(&name) => {}
            _ if level != ReadConcernLevel::Local => return refused("read concern not supported"),
            _ => {}
        }
        if concern.after_cluster_time.is_some() && WITHOUT_CLUSTER_TIME.contains(&name) {
            return Err(without_cluster_time());
        }
        Ok(())
    }

    /// Whether the set's default read concern is for a command that names none.
    pub(crate) fn takes_default(name: &str) -> bool {
        name == "count" || EVERY_LEVEL.contains(&name)
    }

    /// As error messages show it.
    fn shown(&self) -> String {
        let mut concern = RawDocumentBuf::new();
        if self.level_given {
            concern.append(cstr!("level"), self.level.as_str());
        }
        if let Some(ts) = self.after_cluster_time {
            concern.append(cstr!("afterClusterTime"), Timestamp::from(ts));
        }
        if let Some(ts) = self.at_cluster_time {
            concern.append(cstr!("atClusterTime"), Timestamp::from(ts));
        }
        concern.append(cstr!("provenance"), "clientSupplied");
        let mut shown = RawDocumentBuf::new();
        shown.append(cstr!("readConcern"), concern);
        shell_document(&shown)
    }
}

/// The stage of a pipeline that writes.
fn writes_out(operation: &Operation) -> Option<&'static str> {
    let pipeline = operation.body.get_array("pipeline").ok()?;
    let last = pipeline.into_iter().flatten().last()?.as_document()?;
    ["$out", "$merge"].into_iter().find(|stage| last.get(stage).ok().flatten().is_some())
}

fn check_provenance(value: RawBsonRef<'_>) -> Result<(), CommandError> {
    let name = value.as_str().ok_or_else(|| wrong("provenance", "string", value))?;
    let known = [
        "clientSupplied",
        "implicitDefault",
        "customDefault",
        "getLastErrorDefaults",
        "internalWriteDefault",
    ];
    if known.contains(&name) {
        return Ok(());
    }
    Err(CommandError::new(
        BAD_VALUE,
        format!(
            "Enumeration value '{name}' for field 'ReadConcernArgs::parse.provenance' is not a valid value."
        ),
    ))
}

fn time(field: &str, value: RawBsonRef<'_>) -> Result<Ts, CommandError> {
    value.as_timestamp().map(Ts::from).ok_or_else(|| wrong(field, "timestamp", value))
}

fn wrong(field: &str, expected: &str, value: RawBsonRef<'_>) -> CommandError {
    CommandError::new(
        TYPE_MISMATCH,
        format!("\"{field}\" had the wrong type. Expected {expected}, found {}", type_name(value)),
    )
}

fn without_cluster_time() -> CommandError {
    invalid("afterClusterTime is not allowed for this command")
}

fn invalid(message: impl Into<String>) -> CommandError {
    CommandError::new(INVALID_OPTIONS, message)
}
