//! Peer messages as the documents of the real commands: what a client gets that sends one by hand, and
//! what the checking mode sends every message through.

use std::sync::Arc;

use bson::{DateTime, Document, Timestamp, doc};

use super::{
    Heartbeat, HeartbeatReply, MemberPosition, RequestVotes, RequestVotesReply, UpdatePosition,
};
use crate::mongod::error::{CommandError, FAILED_TO_PARSE, TYPE_MISMATCH};
use crate::mongod::optime::{OpTime, Ts};
use crate::mongod::repl::config::ReplSetConfig;
use crate::mongod::repl::hash_of_name;
use crate::trace::MemberState;

fn optime(optime: OpTime) -> Document {
    doc! { "ts": Timestamp::from(optime.ts), "t": optime.term }
}

fn missing(command: &str, field: &str) -> CommandError {
    CommandError::new(
        FAILED_TO_PARSE,
        format!("BSON field '{command}.{field}' is missing but a required field"),
    )
}

/// Reads the fields of one command, with its name for the errors.
struct Fields<'a> {
    command: &'static str,
    document: &'a Document,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, expected: &str) -> CommandError {
        CommandError::new(
            TYPE_MISMATCH,
            format!(
                "BSON field '{}.{field}' is the wrong type, expected type '{expected}'",
                self.command
            ),
        )
    }

    fn integer_or(&self, field: &str, default: i64) -> Result<i64, CommandError> {
        match self.document.get(field) {
            None => Ok(default),
            Some(bson::Bson::Int32(number)) => Ok(i64::from(*number)),
            Some(bson::Bson::Int64(number)) => Ok(*number),
            Some(bson::Bson::Double(number)) => Ok(*number as i64),
            Some(_) => Err(self.wrong(field, "long")),
        }
    }

    fn integer(&self, field: &str) -> Result<i64, CommandError> {
        if !self.document.contains_key(field) {
            return Err(missing(self.command, field));
        }
        self.integer_or(field, 0)
    }

    fn flag(&self, field: &str) -> bool {
        self.document.get_bool(field).unwrap_or(false)
    }

    fn text(&self, field: &str) -> Result<&str, CommandError> {
        match self.document.get(field) {
            None => Err(missing(self.command, field)),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(field, "string")),
        }
    }

    fn optime(&self, field: &str) -> Result<OpTime, CommandError> {
        let given = self.document.get_document(field).map_err(|_| self.wrong(field, "object"))?;
        let ts = given.get_timestamp("ts").map_err(|_| self.wrong(field, "object"))?;
        Ok(OpTime::new(ts.into(), given.get_i64("t").unwrap_or(-1)))
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
        if let Some(from) = &self.from {
            document.insert("from", &**from);
        }
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
        let fields = Fields { command: "replSetHeartbeat", document };
        let from = match document.get("from") {
            None => None,
            Some(_) => Some(Arc::from(fields.text("from")?)),
        };
        Ok(Heartbeat {
            set_name_hash: hash_of_name(fields.text("replSetHeartbeat")?),
            check_empty: fields.flag("checkEmpty"),
            config_version: fields.integer("configVersion")?,
            config_term: fields.integer_or("configTerm", -1)?,
            from_id: fields.integer_or("fromId", -1)? as i32,
            from,
            term: fields.integer_or("term", -1)?,
            primary_id: fields.integer_or("primaryId", -1)? as i32,
        })
    }
}

impl HeartbeatReply {
    /// The reply to `replSetHeartbeat`, without `ok`. `config` is the sender's own configuration, in which
    /// the sync source is named; `written` adds the fields of 8.0.
    pub fn to_document(&self, config: Option<&ReplSetConfig>, written: bool) -> Document {
        let mut document = Document::new();
        if !self.election_time.is_null() {
            // The server sends a timestamp in the guise of a date.
            document.insert("electionTime", DateTime::from_millis(self.election_time.0 as i64));
        }
        document.insert("state", self.state as i32);
        document.insert("v", self.config_version);
        document.insert("configTerm", self.config_term);
        if let Some(config) = config {
            document.insert("set", &*config.set_name);
        }
        let source = usize::try_from(self.sync_source_index).ok();
        if let Some(source) = source.and_then(|index| config?.members.get(index)) {
            document.insert("syncingTo", &*source.host);
        }
        document.insert("term", self.term);
        document.insert("primaryId", self.primary_id);
        document.insert("durableOpTime", optime(self.durable));
        document.insert("durableWallTime", DateTime::from_millis(self.durable_wall_millis));
        document.insert("opTime", optime(self.applied));
        document.insert("wallTime", DateTime::from_millis(self.applied_wall_millis));
        if written {
            document.insert("writtenOpTime", optime(self.applied));
            document.insert("writtenWallTime", DateTime::from_millis(self.applied_wall_millis));
        }
        document.insert("electable", self.electable);
        if self.has_data {
            document.insert("hasData", true);
        }
        if let Some(config) = &self.config {
            document.insert("config", config.to_document(true));
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
        let fields = Fields { command: "replSetHeartbeatResponse", document };
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
                let fields = Fields { command: "$replData", document };
                (fields.optime("lastOpCommitted")?, fields.wall_millis("lastCommittedWall"))
            }
            None => (OpTime::NULL, 0),
        };
        Ok(HeartbeatReply {
            state,
            electable: fields.flag("electable"),
            has_data: fields.flag("hasData"),
            config_version: fields.integer("v")?,
            config_term: fields.integer_or("configTerm", -1)?,
            config: sent,
            term: fields.integer_or("term", -1)?,
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
        let fields = Fields { command: "replSetRequestVotes", document };
        let last_applied = fields.optime("lastAppliedOpTime")?;
        let last_written = match document.contains_key("lastWrittenOpTime") {
            true => fields.optime("lastWrittenOpTime")?,
            false => last_applied,
        };
        Ok(RequestVotes {
            set_name: fields.text("setName")?.into(),
            dry_run: fields.flag("dryRun"),
            term: fields.integer("term")?,
            // A negative index is no member's, as is one beyond the end.
            candidate_index: usize::try_from(fields.integer("candidateIndex")?)
                .unwrap_or(usize::MAX),
            config_version: fields.integer("configVersion")?,
            config_term: fields.integer_or("configTerm", -1)?,
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
        let fields = Fields { command: "replSetRequestVotesResponse", document };
        Ok(RequestVotesReply {
            term: fields.integer("term")?,
            granted: fields.flag("voteGranted"),
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
        let fields = Fields { command: "replSetUpdatePosition", document };
        let optimes =
            document.get_array("optimes").map_err(|_| fields.wrong("optimes", "array"))?;
        let mut positions = Vec::with_capacity(optimes.len().min(50));
        for element in optimes {
            let element = element.as_document().ok_or_else(|| fields.wrong("optimes", "object"))?;
            let fields = Fields { command: "replSetUpdatePosition.optimes", document: element };
            positions.push(MemberPosition {
                member_id: fields.integer("memberId")? as i32,
                config_version: fields.integer("cfgver")?,
                applied: fields.optime("appliedOpTime")?,
                durable: fields.optime("durableOpTime")?,
                applied_wall_millis: fields.wall_millis("appliedWallTime"),
                durable_wall_millis: fields.wall_millis("durableWallTime"),
            });
        }
        let metadata = document.get_document("$replData").ok();
        let term = metadata.and_then(|metadata| metadata.get_i64("term").ok()).unwrap_or(-1);
        Ok(UpdatePosition { term, positions })
    }
}
