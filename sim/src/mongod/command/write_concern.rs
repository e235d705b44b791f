//! Write concern: reading it, and when it is satisfied.

use std::collections::{BTreeMap, BTreeSet};

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, cstr, rawdoc};

use super::arguments::{type_name, unknown_field};
use crate::mongod::Mongod;
use crate::mongod::error::{
    CommandError, FAILED_TO_PARSE, PRIMARY_STEPPED_DOWN, TYPE_MISMATCH, UNKNOWN_REPL_WRITE_CONCERN,
    UNSATISFIABLE_WRITE_CONCERN, WRITE_CONCERN_FAILED,
};
use crate::mongod::optime::OpTime;

/// `writeConcern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteConcern {
    pub w: W,
    /// `j`.
    pub journal: Option<bool>,
    /// `wtimeout`; 0: none.
    pub timeout_millis: u64,
    /// `provenance`.
    pub provenance: &'static str,
}

/// `w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum W {
    Majority,
    Members(i32),
    /// A mode of `settings.getLastErrorModes`.
    Mode(String),
}

/// Whether a write concern is satisfied.
pub(crate) enum Satisfied {
    Yes,
    NotYet,
    /// It never will be: the `writeConcernError`.
    Never(CommandError),
}

impl WriteConcern {
    /// Reads `writeConcern`.
    ///
    /// # Errors
    /// 9 FailedToParse for a malformed one.
    pub(crate) fn read(document: &RawDocument) -> Result<WriteConcern, CommandError> {
        let mut concern = WriteConcern {
            w: W::Members(1),
            journal: None,
            timeout_millis: 0,
            provenance: "clientSupplied",
        };
        for element in document.iter().flatten() {
            let (key, value) = element;
            let number = match value {
                RawBsonRef::Int32(number) => Some(i64::from(number)),
                RawBsonRef::Int64(number) => Some(number),
                RawBsonRef::Double(number) => Some(number as i64),
                _ => None,
            };
            match key.as_str() {
                "w" => {
                    concern.w = match (value.as_str(), number) {
                        (Some("majority"), _) => W::Majority,
                        (Some(mode), _) => W::Mode(mode.to_owned()),
                        (None, Some(number)) if (0..=50).contains(&number) => {
                            W::Members(number as i32)
                        }
                        (None, Some(number)) => {
                            return Err(CommandError::new(
                                FAILED_TO_PARSE,
                                format!(
                                    "w has to be a non-negative number and not greater than 50; found: {number}"
                                ),
                            ));
                        }
                        _ => {
                            return Err(CommandError::new(
                                FAILED_TO_PARSE,
                                format!(
                                    "w has to be a number, string, or object; found: {}",
                                    type_name(value)
                                ),
                            ));
                        }
                    };
                }
                "j" | "fsync" => {
                    let given = value.as_bool().or(number.map(|number| number != 0));
                    let Some(given) = given else {
                        return Err(CommandError::new(
                            TYPE_MISMATCH,
                            format!(
                                "BSON field 'WriteConcernOptions.{}' is the wrong type '{}', expected types '[bool, long, int, decimal, double']",
                                key.as_str(),
                                type_name(value)
                            ),
                        ));
                    };
                    if concern.journal == Some(true) && given {
                        return Err(CommandError::new(
                            FAILED_TO_PARSE,
                            "fsync and j options cannot be used together",
                        ));
                    }
                    concern.journal = Some(given);
                }
                "wtimeout" => {
                    concern.timeout_millis =
                        number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
                }
                "provenance" | "getLastError" => {}
                other => {
                    return Err(unknown_field("WriteConcernOptions", other));
                }
            }
        }
        Ok(concern)
    }

    /// As `errInfo.writeConcern` shows it.
    pub(crate) fn to_raw(&self) -> RawDocumentBuf {
        let mut shown = RawDocumentBuf::new();
        match &self.w {
            W::Majority => shown.append(cstr!("w"), "majority"),
            W::Members(members) => shown.append(cstr!("w"), *members),
            W::Mode(mode) => shown.append(cstr!("w"), mode.as_str()),
        }
        if let Some(journal) = self.journal {
            shown.append(cstr!("j"), journal);
        }
        shown.append(cstr!("wtimeout"), i32::try_from(self.timeout_millis).unwrap_or(i32::MAX));
        shown.append(cstr!("provenance"), self.provenance);
        shown
    }

    /// The `writeConcernError` of a wait that took longer than `wtimeout`.
    pub(crate) fn timed_out(&self) -> CommandError {
        CommandError::new(WRITE_CONCERN_FAILED, "waiting for replication timed out")
            .with_extra(rawdoc! { "errInfo": { "wtimeout": true, "writeConcern": self.to_raw() } })
    }

    /// The `writeConcernError` of a wait that a step-down ended.
    pub(crate) fn stepped_down(&self) -> CommandError {
        CommandError::new(
            PRIMARY_STEPPED_DOWN,
            "Primary stepped down while waiting for replication",
        )
        .with_extra(rawdoc! { "errInfo": { "writeConcern": self.to_raw() } })
    }

    /// The `writeConcernError` of a wait that `error` ended.
    pub(crate) fn interrupted(&self, error: CommandError) -> CommandError {
        error.with_extra(rawdoc! { "errInfo": { "writeConcern": self.to_raw() } })
    }

    fn never(&self, code: i32, message: String) -> Satisfied {
        Satisfied::Never(
            CommandError::new(code, message)
                .with_extra(rawdoc! { "errInfo": { "writeConcern": self.to_raw() } }),
        )
    }
}

impl Mongod {
    /// The write concern of a command that names none: the implicit default of the set.
    pub(crate) fn default_write_concern(&self) -> WriteConcern {
        let majority =
            self.repl.config.as_ref().is_none_or(|config| config.implicit_default_is_majority());
        WriteConcern {
            w: if majority { W::Majority } else { W::Members(1) },
            journal: None,
            timeout_millis: 0,
            provenance: "implicitDefault",
        }
    }

    /// Whether the write at `optime` satisfies `concern`.
    pub(crate) fn satisfied(&self, optime: OpTime, concern: &WriteConcern) -> Satisfied {
        let Some(config) = &self.repl.config else { return Satisfied::Yes };
        let journaled = concern.journal == Some(true);
        let yes = match &concern.w {
            W::Members(members) if *members > config.data_bearing_members() as i32 => {
                return concern.never(
                    UNSATISFIABLE_WRITE_CONCERN,
                    "Not enough data-bearing nodes".to_owned(),
                );
            }
            W::Members(0 | 1) => !journaled || self.repl.durable.optime >= optime,
            W::Members(members) => self.members_at(optime, journaled) >= *members as usize,
            W::Majority
                if crate::mongod::planted::is(
                    crate::mongod::planted::ServerBug::AcknowledgesEarly,
                ) =>
            {
                true
            }
            W::Majority => self.repl.commit.optime >= optime,
            W::Mode(mode) => {
                let Some(tags) = config.settings.modes.get(mode) else {
                    return concern.never(
                        UNKNOWN_REPL_WRITE_CONCERN,
                        format!("No write concern mode named '{mode}' found in replica set configuration"),
                    );
                };
                return self.satisfied_by_tags(optime, journaled, tags);
            }
        };
        if yes { Satisfied::Yes } else { Satisfied::NotYet }
    }

    fn satisfied_by_tags(
        &self,
        optime: OpTime,
        journaled: bool,
        tags: &BTreeMap<String, i32>,
    ) -> Satisfied {
        let config = self.repl.config.as_ref().expect("the caller has it");
        let enough = tags.iter().all(|(tag, wanted)| {
            let distinct: BTreeSet<&String> = config
                .members
                .iter()
                .enumerate()
                .filter(|(index, _)| self.member_is_at(*index, optime, journaled))
                .filter_map(|(_, member)| member.tags.get(tag))
                .collect();
            distinct.len() as i32 >= *wanted
        });
        if enough { Satisfied::Yes } else { Satisfied::NotYet }
    }
}
