//! Peer messages as the documents of the real commands: what a client gets that sends one by hand, and
//! what the checking mode sends every message through.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, Timestamp, doc};

use super::{
    Heartbeat, HeartbeatReply, MemberPosition, RequestVotes, RequestVotesReply, UpdatePosition,
};
use crate::mongod::command::type_name;
use crate::mongod::error::{BAD_VALUE, CommandError, FAILED_TO_PARSE, NO_SUCH_KEY, TYPE_MISMATCH};
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::repl::config::ReplSetConfig;
use crate::mongod::repl::hash_of_name;
use crate::trace::MemberState;

fn optime(optime: OpTime) -> Document {
    doc! { "ts": Timestamp::from(optime.ts), "t": optime.term }
}

fn missing(field: &str) -> CommandError {
    CommandError::new(NO_SUCH_KEY, format!("Missing expected field \"{field}\""))
}

/// Reads the fields of one command.
struct Fields<'a> {
    document: &'a Document,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, expected: &str) -> CommandError {
        let found = self.document.get(field).map_or("missing", type_name);
        CommandError::new(
            TYPE_MISMATCH,
            format!("\"{field}\" had the wrong type. Expected {expected}, found {found}"),
        )
    }

    fn integer_or(&self, field: &str, default: i64) -> Result<i64, CommandError> {
        match self.document.get(field) {
            None => Ok(default),
            Some(Bson::Int32(number)) => Ok(i64::from(*number)),
            Some(Bson::Int64(number)) => Ok(*number),
            Some(Bson::Double(number)) if number.fract() == 0.0 => Ok(*number as i64),
            Some(Bson::Double(number)) => Err(CommandError::new(
                BAD_VALUE,
                format!(
                    "Expected field \"{field}\" to have a value exactly representable as a 64-bit integer, but found {field}: {number}"
                ),
            )),
            Some(value) => Err(CommandError::new(
                TYPE_MISMATCH,
                format!(
                    "Expected field \"{field}\" to have numeric type, but found {}",
                    type_name(value)
                ),
            )),
        }
    }

    fn integer(&self, field: &str) -> Result<i64, CommandError> {
        if !self.document.contains_key(field) {
            return Err(missing(field));
        }
        self.integer_or(field, 0)
    }

    /// A boolean, or a number that stands for one.
    fn flag(&self, field: &str) -> Result<bool, CommandError> {
        match self.document.get(field) {
            None => Ok(false),
            Some(Bson::Boolean(given)) => Ok(*given),
            Some(Bson::Int32(given)) => Ok(*given != 0),
            Some(Bson::Int64(given)) => Ok(*given != 0),
            Some(Bson::Double(given)) => Ok(*given != 0.0),
            Some(value) => Err(CommandError::new(
                TYPE_MISMATCH,
                format!(
                    "Expected boolean or number type for field \"{field}\", found {}",
                    type_name(value)
                ),
            )),
        }
    }

    fn text(&self, field: &str) -> Result<&str, CommandError> {
        match self.document.get(field) {
            None => Err(missing(field)),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(field, "string")),
        }
    }

    fn optime(&self, field: &str) -> Result<OpTime, CommandError> {
        let given = match self.document.get(field) {
            None => return Err(missing(field)),
            Some(value) => value.as_document().ok_or_else(|| self.wrong(field, "object"))?,
        };
        let inner = Fields { document: given };
        let ts = match given.get("ts") {
            None => return Err(missing("ts")),
            Some(Bson::Timestamp(ts)) => *ts,
            Some(_) => return Err(inner.wrong("ts", "timestamp")),
        };
        Ok(OpTime::new(ts.into(), inner.integer_or("t", -1)?))
    }

    fn wall_millis(&self, field: &str) -> i64 {
        self.document.get_datetime(field).map_or(0, |date| date.timestamp_millis())
    }
}

impl Heartbeat {
    /// `replSetHeartbeat`, from a member of the set `set_name`.
    pub fn to_document(&self, set_name: &str) -> Document {
        let mut document = doc! { "replSetHeartbeat": set_name };
        if self.check_empty {
            document.insert("checkEmpty", true);
        }
        document.insert("configVersion", self.config_version);
        document.insert("configTerm", self.config_term);
        document.insert("hbv", 1_i64);
        // Left out between members who know each other; the field itself is always there.
        document.insert("from", self.from.as_deref().unwrap_or_default());
        document.insert("fromId", self.from_id);
        document.insert("term", self.term);
        document.insert("primaryId", self.primary_id);
        document
    }

    /// Reads `replSetHeartbeat`.
    ///
    /// # Errors
    /// 9 FailedToParse, 14 TypeMismatch for a malformed one.
    pub fn from_document(document: &Document) -> Result<Heartbeat, CommandError> {
        let fields = Fields { document };
        let check_empty = fields.flag("checkEmpty")?;
        let config_version = fields.integer("configVersion")?;
        let config_term = fields.integer_or("configTerm", -1)?;
        let version = fields.integer_or("hbv", 1)?;
        if version != 1 {
            return Err(CommandError::new(
                40_666,
                format!("Found invalid value for field hbv: {version}"),
            ));
        }
        let from_id = fields.integer_or("fromId", -1)? as i32;
        let from = fields.text("from")?;
        if !from.starts_with('[') && from.matches(':').count() > 1 {
            return Err(CommandError::new(
                FAILED_TO_PARSE,
                format!(
                    "More than one ':' detected. If this is an ipv6 address, it needs to be surrounded by '[' and ']'; {from}"
                ),
            ));
        }
        let primary_id = fields.integer_or("primaryId", -1)? as i32;
        let term = fields.integer("term")?;
        Ok(Heartbeat {
            set_name_hash: hash_of_name(fields.text("replSetHeartbeat")?),
            check_empty,
            config_version,
            config_term,
            from_id,
            from: (!from.is_empty()).then(|| from.into()),
            term,
            primary_id,
        })
    }
}

impl HeartbeatReply {
    /// The reply to `replSetHeartbeat`, without `ok`, from a member of the set `set_name`. `config` is the
    /// sender's own configuration, in which the sync source is named; `written` adds the fields of 8.0.
    pub fn to_document(
        &self,
        set_name: &str,
        config: Option<&ReplSetConfig>,
        written: bool,
    ) -> Document {
        let mut document = Document::new();
        if !self.election_time.is_null() {
            // The server sends a timestamp in the guise of a date.
            document.insert("electionTime", DateTime::from_millis(self.election_time.0 as i64));
        }
        if let Some(config) = &self.config {
            document.insert("config", config.to_document(true));
        }
        document.insert("state", self.state as i32);
        document.insert("v", self.config_version as i32);
        document.insert("configTerm", self.config_term as i32);
        document.insert("set", set_name);
        let source = usize::try_from(self.sync_source_index).ok();
        if let Some(source) = source.and_then(|index| config?.members.get(index)) {
            document.insert("syncingTo", &*source.host);
        }
        // Who has no configuration knows of no elections.
        let configured = self.config_version != -2;
        if configured {
            document.insert("term", self.term);
            document.insert("primaryId", i64::from(self.primary_id));
        }
        document.insert("durableOpTime", optime(self.durable));
        document.insert("durableWallTime", DateTime::from_millis(self.durable_wall_millis));
        document.insert("opTime", optime(self.applied));
        document.insert("wallTime", DateTime::from_millis(self.applied_wall_millis));
        if written {
            document.insert("writtenOpTime", optime(self.applied));
            document.insert("writtenWallTime", DateTime::from_millis(self.applied_wall_millis));
        }
        if configured {
            document.insert("electable", self.electable);
        }
        if self.has_data {
            document.insert("hasData", true);
        }
        document.insert(
            "$replData",
            doc! {
                "lastOpCommitted": optime(self.commit_point),
                "lastCommittedWall": DateTime::from_millis(self.commit_wall_millis),
            },
        );
        document
    }

    /// Reads a reply to `replSetHeartbeat`.
    ///
    /// # Errors
    /// 9 FailedToParse, 14 TypeMismatch for a malformed one; 93 for a configuration that is none.
    pub fn from_document(
        document: &Document,
        config: Option<&ReplSetConfig>,
    ) -> Result<HeartbeatReply, CommandError> {
        let fields = Fields { document };
        let state = MemberState::from_number(fields.integer("state")? as i32)
            .ok_or_else(|| fields.wrong("state", "int"))?;
        let source = document.get_str("syncingTo").ok();
        let sync_source_index =
            source.and_then(|host| config?.index_of_host(host)).map_or(-1, |index| index as i32);
        let sent = match document.get_document("config") {
            Ok(config) => Some(Arc::new(ReplSetConfig::from_document(config)?)),
            Err(_) => None,
        };
        let metadata = document.get_document("$replData").ok();
        let (commit_point, commit_wall_millis) = match metadata {
            Some(document) => {
                let fields = Fields { document };
                (fields.optime("lastOpCommitted")?, fields.wall_millis("lastCommittedWall"))
            }
            None => (OpTime::NULL, 0),
        };
        Ok(HeartbeatReply {
            state,
            electable: fields.flag("electable")?,
            has_data: fields.flag("hasData")?,
            config_version: fields.integer("v")?,
            config_term: fields.integer_or("configTerm", -1)?,
            config: sent,
            term: fields.integer_or("term", 0)?,
            primary_id: fields.integer_or("primaryId", -1)? as i32,
            sync_source_index,
            election_time: Ts(fields.wall_millis("electionTime") as u64),
            applied: fields.optime("opTime")?,
            durable: fields.optime("durableOpTime")?,
            applied_wall_millis: fields.wall_millis("wallTime"),
            durable_wall_millis: fields.wall_millis("durableWallTime"),
            commit_point,
            commit_wall_millis,
        })
    }
}

impl RequestVotes {
    /// `replSetRequestVotes`; `written` adds the field of 8.0.
    pub fn to_document(&self, written: bool) -> Document {
        let mut document = doc! {
            "replSetRequestVotes": 1,
            "setName": &*self.set_name,
            "dryRun": self.dry_run,
            "term": self.term,
            "candidateIndex": self.candidate_index as i64,
            "configVersion": self.config_version,
            "configTerm": self.config_term,
        };
        if written {
            document.insert("lastWrittenOpTime", optime(self.last_written));
        }
        document.insert("lastAppliedOpTime", optime(self.last_applied));
        document
    }

    /// Reads `replSetRequestVotes`; before 8.0 there is one optime.
    ///
    /// # Errors
    /// 9 FailedToParse, 14 TypeMismatch for a malformed one.
    pub fn from_document(document: &Document) -> Result<RequestVotes, CommandError> {
        let fields = Fields { document };
        let term = fields.integer("term")?;
        let candidate_index = fields.integer("candidateIndex")?;
        let config_version = fields.integer("configVersion")?;
        let config_term = fields.integer_or("configTerm", -1)?;
        let dry_run = match document.get("dryRun") {
            None => return Err(missing("dryRun")),
            Some(Bson::Boolean(given)) => *given,
            Some(_) => return Err(fields.wrong("dryRun", "bool")),
        };
        let set_name = fields.text("setName")?.into();
        let last_applied = fields.optime("lastAppliedOpTime")?;
        let last_written = match document.contains_key("lastWrittenOpTime") {
            true => fields.optime("lastWrittenOpTime")?,
            false => last_applied,
        };
        Ok(RequestVotes {
            set_name,
            dry_run,
            term,
            // A negative index is no member's, as is one beyond the end.
            candidate_index: candidate_index as usize,
            config_version,
            config_term,
            last_written,
            last_applied,
        })
    }
}

impl RequestVotesReply {
    /// The reply to `replSetRequestVotes`, without `ok`.
    pub fn to_document(&self) -> Document {
        doc! { "term": self.term, "voteGranted": self.granted, "reason": &self.reason }
    }

    /// Reads a reply to `replSetRequestVotes`.
    ///
    /// # Errors
    /// 9 FailedToParse, 14 TypeMismatch for a malformed one.
    pub fn from_document(document: &Document) -> Result<RequestVotesReply, CommandError> {
        let fields = Fields { document };
        Ok(RequestVotesReply {
            term: fields.integer("term")?,
            granted: fields.flag("voteGranted")?,
            reason: fields.text("reason")?.to_owned(),
        })
    }
}

impl UpdatePosition {
    /// `replSetUpdatePosition`; `written` adds the fields of 8.0.
    pub fn to_document(&self, written: bool) -> Document {
        let positions = self.positions.iter().map(|position| {
            let applied_wall = DateTime::from_millis(position.applied_wall_millis);
            let mut document = doc! {
                "durableOpTime": optime(position.durable),
                "durableWallTime": DateTime::from_millis(position.durable_wall_millis),
                "appliedOpTime": optime(position.applied),
                "appliedWallTime": applied_wall,
            };
            if written {
                document.insert("writtenOpTime", optime(position.applied));
                document.insert("writtenWallTime", applied_wall);
            }
            document.insert("memberId", i64::from(position.member_id));
            document.insert("cfgver", position.config_version);
            document
        });
        doc! {
            "replSetUpdatePosition": 1,
            "optimes": positions.collect::<Vec<_>>(),
            "$replData": { "term": self.term },
        }
    }

    /// Reads `replSetUpdatePosition`.
    ///
    /// # Errors
    /// 9 FailedToParse, 14 TypeMismatch for a malformed one.
    pub fn from_document(document: &Document) -> Result<UpdatePosition, CommandError> {
        let fields = Fields { document };
        let optimes = match document.get("optimes") {
            None => return Err(missing("optimes")),
            Some(value) => value.as_array().ok_or_else(|| fields.wrong("optimes", "array"))?,
        };
        let mut positions = Vec::with_capacity(optimes.len().min(50));
        for (number, element) in optimes.iter().enumerate() {
            let element = element.as_document().ok_or_else(|| {
                CommandError::new(
                    10_065,
                    format!("invalid parameter: expected an object ({number})"),
                )
            })?;
            let fields = Fields { document: element };
            let applied = fields.optime("appliedOpTime")?;
            let durable = fields.optime("durableOpTime")?;
            positions.push(MemberPosition {
                member_id: fields.integer("memberId")? as i32,
                config_version: fields.integer("cfgver")?,
                applied,
                durable,
                applied_wall_millis: fields.wall_millis("appliedWallTime"),
                durable_wall_millis: fields.wall_millis("durableWallTime"),
            });
        }
        let metadata = document.get_document("$replData").ok();
        let term = metadata.and_then(|metadata| metadata.get_i64("term").ok()).unwrap_or(-1);
        Ok(UpdatePosition { term, positions })
    }
}
