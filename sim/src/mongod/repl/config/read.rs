//! Reading a configuration document: every field, its type, its default.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::mongod::error::CommandError;
use crate::mongod::storage::text::shell_document;

use super::{MemberConfig, ReplSetConfig, Settings, invalid};

impl ReplSetConfig {
    /// Reads a configuration document.
    ///
    /// # Errors
    /// 93 InvalidReplicaSetConfig for a document that cannot be read; rules between fields are checked by
    /// [`ReplSetConfig::validate`].
    pub fn from_document(document: &Document) -> Result<ReplSetConfig, CommandError> {
        let mut config = ReplSetConfig {
            set_name: "".into(),
            version: 1,
            term: -1,
            members: Vec::new(),
            majority_journal_default: true,
            settings: Settings::default(),
        };
        for (name, value) in document {
            match name.as_str() {
                "_id" => config.set_name = string("ReplSetConfig._id", value)?.into(),
                "version" => config.version = version(value)?,
                "term" => config.term = integer(name, value)?,
                "protocolVersion" => {
                    in_range(name, integer(name, value)?, 1, 1)?;
                }
                "writeConcernMajorityJournalDefault" => {
                    config.majority_journal_default = boolean(name, value)?;
                }
                "configsvr" => {
                    if boolean(name, value)? {
                        return Err(invalid(
                            "Nodes being used for config servers must be started with the --configsvr flag",
                        ));
                    }
                }
                "members" => {
                    let Bson::Array(members) = value else {
                        return Err(wrong_type("ReplSetConfig.members", value, "array"));
                    };
                    config.members = members
                        .iter()
                        .enumerate()
                        .map(|(index, member)| match member {
                            Bson::Document(member) => checked_member(member),
                            other => {
                                let field = format!("ReplSetConfig.members.{index}");
                                Err(wrong_type(&field, other, "object"))
                            }
                        })
                        .collect::<Result<_, _>>()?;
                    members.iter().filter_map(Bson::as_document).try_for_each(tags_are_texts)?;
                }
                "settings" => {
                    let Bson::Document(settings) = value else {
                        return Err(wrong_type(name, value, "object"));
                    };
                    config.settings = settings_from_document(settings)?;
                }
                _ => return Err(unknown_field("ReplSetConfig", name)),
            }
        }
        if document.contains_key("_id") && config.set_name.is_empty() {
            return Err(invalid("Replica set configuration must have non-empty _id field"));
        }
        if config.set_name.is_empty() {
            return Err(invalid("BSON field 'ReplSetConfig._id' is missing but a required field"));
        }
        if !document.contains_key("members") {
            return Err(invalid(
                "BSON field 'ReplSetConfig.members' is missing but a required field",
            ));
        }
        Ok(config)
    }
}

fn unknown_field(parent: &str, name: &str) -> CommandError {
    invalid(format!("BSON field '{parent}.{name}' is an unknown field."))
}

fn wrong_type(name: &str, value: &Bson, expected: &str) -> CommandError {
    invalid(format!(
        "BSON field '{name}' is the wrong type '{}', expected type '{expected}'",
        crate::mongod::command::type_name(value)
    ))
}

fn string<'a>(name: &str, value: &'a Bson) -> Result<&'a str, CommandError> {
    value.as_str().ok_or_else(|| wrong_type(name, value, "string"))
}

fn boolean(name: &str, value: &Bson) -> Result<bool, CommandError> {
    match value {
        Bson::Boolean(value) => Ok(*value),
        Bson::Int32(value) => Ok(*value != 0),
        Bson::Int64(value) => Ok(*value != 0),
        Bson::Double(value) => Ok(*value != 0.0),
        other => Err(wrong_type(name, other, "bool")),
    }
}

fn member_flag(name: &str, value: &Bson) -> Result<bool, CommandError> {
    boolean(name, value).map_err(|_wrong| {
        invalid(format!(
            "BSON field 'MemberConfig.{name}' is the wrong type '{}', expected types '[bool, long, int, decimal, double']",
            crate::mongod::command::type_name(value)
        ))
    })
}

fn integer(name: &str, value: &Bson) -> Result<i64, CommandError> {
    match value {
        Bson::Int32(value) => Ok(i64::from(*value)),
        Bson::Int64(value) => Ok(*value),
        Bson::Double(value) if value.is_finite() => Ok(*value as i64),
        other => Err(invalid(format!(
            "Expected a number, got value of type {} for field {name}",
            crate::mongod::command::type_name(other)
        ))),
    }
}

/// A number that the document shows as an int: a larger one would not come back the same.
fn int(name: &str, value: &Bson) -> Result<i64, CommandError> {
    let number = integer(name, value)?;
    match i32::try_from(number) {
        Ok(_) => Ok(number),
        Err(_) => Err(invalid(format!("BSON field '{name}' value {number} is out of range"))),
    }
}

/// `version`.
fn version(value: &Bson) -> Result<i64, CommandError> {
    let version = integer("version", value)?;
    if version > i64::from(i32::MAX) {
        return Err(invalid(format!(
            "BSON field 'version' value must be < 2147483648, actual value '{version}'"
        )));
    }
    above_zero("version", version)
}

fn above_zero(name: &str, value: i64) -> Result<i64, CommandError> {
    if value > 0 {
        return Ok(value);
    }
    Err(invalid(format!("BSON field '{name}' value must be > 0, actual value '{value}'")))
}

fn at_least(name: &str, value: i64, min: i64) -> Result<i64, CommandError> {
    if value >= min {
        return Ok(value);
    }
    Err(invalid(format!("BSON field '{name}' value must be >= {min}, actual value '{value}'")))
}

fn in_range(name: &str, value: i64, min: i64, max: i64) -> Result<i64, CommandError> {
    if value <= max {
        return at_least(name, value, min);
    }
    Err(invalid(format!("BSON field '{name}' value must be <= {max}, actual value '{value}'")))
}

fn millis(name: &str, value: &Bson) -> Result<Duration, CommandError> {
    let millis = above_zero(name, int(name, value)?)?;
    Ok(Duration::from_millis(millis as u64))
}

fn tags_are_texts(member: &Document) -> Result<(), CommandError> {
    let tags = member.get_document("tags").into_iter().flatten();
    for (tag, value) in tags {
        if !matches!(value, Bson::String(_)) {
            return Err(invalid(format!(
                "tags.{tag} field has non-string value of type {}",
                crate::mongod::command::type_name(value)
            )));
        }
    }
    Ok(())
}

/// Reads one member and checks it by itself; what is wrong is said with the whole member (measured).
fn checked_member(document: &Document) -> Result<MemberConfig, CommandError> {
    let member = member_from_document(document).and_then(|member| {
        member.validate()?;
        Ok(member)
    });
    member.map_err(|error| {
        let shown = bson::RawDocumentBuf::try_from(document)
            .map_or_else(|_| String::new(), |raw| shell_document(&raw));
        invalid(format!("member: {shown} :: caused by :: {}", error.message))
    })
}

fn member_from_document(document: &Document) -> Result<MemberConfig, CommandError> {
    let mut member = MemberConfig::new(-1, "".into());
    let mut priority = None;
    for (name, value) in document {
        match name.as_str() {
            "_id" => {
                let id = integer(name, value).map_err(|_wrong| {
                    let element = doc! { "_id": value.clone() };
                    let shown = bson::RawDocumentBuf::try_from(&element)
                        .map_or_else(|_| String::new(), |raw| shell_document(&raw));
                    let shown = shown.trim_start_matches("{ ").trim_end_matches(" }");
                    invalid(format!("Element for MemberId was not a number: {shown}"))
                })?;
                if id < 0 {
                    return Err(invalid(format!(
                        "_id field value of {id} can't be a negative number"
                    )));
                }
                member.id = i32::try_from(id)
                    .map_err(|_| invalid(format!("_id field value of {id} is out of range.")))?;
            }
            "host" => {
                member.host = host_with_port(string("MemberConfig.host", value)?).into();
            }
            "arbiterOnly" => member.arbiter_only = member_flag(name, value)?,
            "newlyAdded" => member.newly_added = boolean(name, value)?,
            "buildIndexes" => member.build_indexes = member_flag(name, value)?,
            "hidden" => member.hidden = member_flag(name, value)?,
            "priority" => {
                let number = match value {
                    Bson::Double(value) => *value,
                    other => integer(name, other).map_err(|_wrong| {
                        invalid(format!(
                            "BSON field 'MemberConfig.priority' is the wrong type '{}', expected types '[long, int, decimal, double']",
                            crate::mongod::command::type_name(other)
                        ))
                    })? as f64,
                };
                if number.is_nan() || number < 0.0 {
                    return Err(invalid(format!(
                        "BSON field 'priority' value must be >= 0, actual value '{number}'"
                    )));
                }
                if number > 1000.0 {
                    return Err(invalid(format!(
                        "BSON field 'priority' value must be <= 1000, actual value '{number}'"
                    )));
                }
                priority = Some((number * 1e6).round() as i64);
            }
            "tags" => {
                let Bson::Document(tags) = value else {
                    return Err(wrong_type("MemberConfig.tags", value, "object"));
                };
                for (tag, value) in tags {
                    // What is no string is told once all members are read.
                    if let Bson::String(value) = value {
                        member.tags.insert(tag.clone(), value.clone());
                    }
                }
            }
            "secondaryDelaySecs" => {
                let seconds = at_least(name, integer(name, value)?, 0)?;
                member.delay = Duration::from_secs(seconds as u64);
            }
            "votes" => member.votes = in_range(name, integer(name, value)?, 0, 1)? as i32,
            _ => return Err(unknown_field("MemberConfig", name)),
        }
    }
    for required in ["_id", "host"] {
        if !document.contains_key(required) {
            return Err(invalid(format!(
                "BSON field 'MemberConfig.{required}' is missing but a required field"
            )));
        }
    }
    member.priority_micros = priority.unwrap_or(if member.arbiter_only { 0 } else { 1_000_000 });
    Ok(member)
}

fn host_with_port(host: &str) -> String {
    if host.contains(':') { host.to_owned() } else { format!("{host}:27017") }
}

fn settings_from_document(document: &Document) -> Result<Settings, CommandError> {
    let mut settings = Settings::default();
    for (name, value) in document {
        match name.as_str() {
            "chainingAllowed" => settings.chaining_allowed = boolean(name, value)?,
            "heartbeatIntervalMillis" => settings.heartbeat_interval = millis(name, value)?,
            "heartbeatTimeoutSecs" => {
                let seconds = above_zero(name, int(name, value)?)?;
                settings.heartbeat_timeout = Duration::from_secs(seconds as u64);
            }
            "electionTimeoutMillis" => settings.election_timeout = millis(name, value)?,
            "catchUpTimeoutMillis" => {
                settings.catch_up_timeout_millis = at_least(name, int(name, value)?, -1)?;
            }
            "catchUpTakeoverDelayMillis" => {
                settings.catch_up_takeover_delay_millis = at_least(name, int(name, value)?, -1)?;
            }
            "getLastErrorModes" => {
                let Bson::Document(modes) = value else {
                    return Err(wrong_type(name, value, "object"));
                };
                for (mode, tags) in modes {
                    let Bson::Document(tags) = tags else {
                        return Err(wrong_type(mode, tags, "object"));
                    };
                    let mut wanted = BTreeMap::new();
                    for (tag, count) in tags {
                        let count = int(tag, count)?;
                        if count <= 0 {
                            return Err(invalid(format!(
                                "Value of getLastErrorModes.{mode}.{tag} must be positive, but found {count}"
                            )));
                        }
                        wanted.insert(tag.clone(), count as i32);
                    }
                    settings.modes.insert(mode.clone(), wanted);
                }
            }
            "getLastErrorDefaults" => {
                if value.as_document().is_some_and(|given| given.get("w") == Some(&Bson::Int32(0)))
                {
                    return Err(invalid(
                        "Default write concern mode must wait for at least 1 member",
                    ));
                }
                let default = doc! { "w": 1, "wtimeout": 0 };
                if value.as_document().is_none_or(|given| *given != default) {
                    return Err(CommandError::new(
                        5_624_102,
                        "Fields other than 'w: 1' and 'wtimeout: 0' in getLastErrorDefaults are no longer supported",
                    ));
                }
            }
            "replicaSetId" => {
                settings.replica_set_id =
                    Some(value.as_object_id().ok_or_else(|| wrong_type(name, value, "objectId"))?);
            }
            // Measured: what settings do not know they ignore.
            _ => {}
        }
    }
    Ok(settings)
}
