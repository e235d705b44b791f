//! The stable API: `apiVersion`, `apiStrict`, `apiDeprecationErrors`.

use bson::{RawBsonRef, RawDocument};

use super::arguments::wrong_type;
use super::spec::CommandSpec;
use crate::mongod::error::{
    API_DEPRECATION_ERROR, API_STRICT_ERROR, API_VERSION_ERROR, CommandError,
};

/// Commands of API version 1.
const VERSION_1: &[&str] = &[
    "abortTransaction",
    "aggregate",
    "authenticate",
    "bulkWrite",
    "collMod",
    "commitTransaction",
    "count",
    "create",
    "createIndexes",
    "delete",
    "drop",
    "dropDatabase",
    "dropIndexes",
    "endSessions",
    "explain",
    "find",
    "findAndModify",
    "getMore",
    "hello",
    "insert",
    "killCursors",
    "listCollections",
    "listDatabases",
    "listIndexes",
    "ping",
    "refreshSessions",
    "saslContinue",
    "saslStart",
    "testDeprecation",
    "testDeprecationInVersion2",
    "testRemoval",
    "testVersions1And2",
    "update",
];

/// Arguments of those commands that are not part of it: the command, the argument, and the type its
/// error message names.
const NOT_STRICT: &[(&str, &str, &str)] = &[
    ("find", "awaitData", "FindCommandRequest"),
    ("find", "max", "FindCommandRequest"),
    ("find", "min", "FindCommandRequest"),
    ("find", "noCursorTimeout", "FindCommandRequest"),
    ("find", "oplogReplay", "FindCommandRequest"),
    ("find", "returnKey", "FindCommandRequest"),
    ("find", "showRecordId", "FindCommandRequest"),
    ("find", "tailable", "FindCommandRequest"),
    ("create", "autoIndexId", "create"),
    ("create", "capped", "create"),
    ("create", "indexOptionDefaults", "create"),
    ("create", "max", "create"),
    ("create", "size", "create"),
    ("create", "storageEngine", "create"),
    ("create", "temp", "create"),
];

/// Stages that are not part of it.
const STAGES_NOT_STRICT: &[&str] = &[
    "$currentOp",
    "$indexStats",
    "$listLocalSessions",
    "$listSessions",
    "$planCacheStats",
    "$search",
];

/// Collects the parameters while the generic arguments are read.
#[derive(Debug, Default)]
pub(crate) struct ApiArguments<'a> {
    version: Option<&'a str>,
    strict: Option<bool>,
    deprecation_errors: Option<bool>,
}

impl<'a> ApiArguments<'a> {
    /// Takes one of the three arguments.
    ///
    /// # Errors
    /// 14 TypeMismatch.
    pub(crate) fn take(&mut self, field: &str, value: RawBsonRef<'a>) -> Result<(), CommandError> {
        let full = || format!("APIParametersFromClient.{field}");
        let flag = || value.as_bool().ok_or_else(|| wrong_type(&full(), value, "'bool'"));
        match field {
            "apiVersion" => {
                let text = value.as_str().ok_or_else(|| wrong_type(&full(), value, "'string'"))?;
                self.version = Some(text);
            }
            "apiStrict" => self.strict = Some(flag()?),
            "apiDeprecationErrors" => self.deprecation_errors = Some(flag()?),
            other => unreachable!("{other} is no argument of the stable API"),
        }
        Ok(())
    }

    /// Whether the command may run under what they say.
    ///
    /// # Errors
    /// 322 APIVersionError, 323 APIStrictError, 324 APIDeprecationError; 4886600 where a flag stands
    /// without a version; 498870 where `requireApiVersion` is on and none is declared.
    pub(crate) fn check(
        &self,
        spec: &CommandSpec,
        body: &RawDocument,
        required: bool,
    ) -> Result<(), CommandError> {
        let name = spec.names[0];
        let Some(version) = self.version else {
            if self.strict.is_some() || self.deprecation_errors.is_some() {
                return Err(CommandError::new(
                    4_886_600,
                    "Provided apiStrict and/or apiDeprecationErrors without passing apiVersion",
                ));
            }
            // Measured: getMore, and what goes on in a transaction, inherits what was declared before.
            if required && !matches!(name, "getMore" | "hello") {
                return Err(CommandError::new(
                    498_870,
                    "The apiVersion parameter is required, please configure your MongoClient's API version",
                ));
            }
            return Ok(());
        };
        if version != "1" {
            return Err(CommandError::new(
                API_VERSION_ERROR,
                format!("Cannot accept API version {version}"),
            ));
        }
        let strict = self.strict.unwrap_or(false);
        let deprecation_errors = self.deprecation_errors.unwrap_or(false);
        if strict {
            check_strict(name, body)?;
        }
        if deprecation_errors && name == "testDeprecation" {
            return Err(CommandError::new(
                API_DEPRECATION_ERROR,
                format!(
                    "Provided apiDeprecationErrors:true, but the command {name} is deprecated in API Version {version}"
                ),
            ));
        }
        Ok(())
    }
}

/// The API versions a command is in, as `listCommands` shows them.
pub(crate) fn api_versions(name: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    if VERSION_1.contains(&name) {
        versions.push("1");
    }
    if matches!(name, "testDeprecationInVersion2" | "testVersion2" | "testVersions1And2") {
        versions.push("2");
    }
    versions
}

/// The API versions a command is deprecated in.
pub(crate) fn deprecated_api_versions(name: &str) -> Vec<&'static str> {
    match name {
        "testDeprecation" => vec!["1"],
        "testDeprecationInVersion2" => vec!["2"],
        _ => Vec::new(),
    }
}

fn strict_error(message: String) -> CommandError {
    CommandError::new(API_STRICT_ERROR, message)
}

fn check_strict(name: &str, body: &RawDocument) -> Result<(), CommandError> {
    if !VERSION_1.contains(&name) {
        return Err(strict_error(format!(
            "Provided apiStrict:true, but the command {name} is not in API Version 1. Information on supported commands and migrations in API Version 1 can be found at https://dochub.mongodb.org/core/manual-versioned-api"
        )));
    }
    for (field, _) in body.iter().flatten() {
        let refused = NOT_STRICT
            .iter()
            .find(|(command, argument, _)| *command == name && *argument == field.as_str());
        if let Some((_, argument, kind)) = refused {
            return Err(strict_error(format!(
                "BSON field '{kind}.{argument}' is not allowed with apiStrict:true."
            )));
        }
    }
    match name {
        "aggregate" => check_stages(body),
        "createIndexes" => check_indexes(body),
        _ => Ok(()),
    }
}

fn check_stages(body: &RawDocument) -> Result<(), CommandError> {
    let Ok(pipeline) = body.get_array("pipeline") else { return Ok(()) };
    let stages = pipeline.into_iter().flatten().filter_map(|stage| stage.as_document());
    for (name, value) in stages.filter_map(|stage| stage.iter().next()?.ok()) {
        if STAGES_NOT_STRICT.contains(&name.as_str()) {
            return Err(strict_error(format!(
                "{name} is not allowed with 'apiStrict: true' in API Version 1"
            )));
        }
        let options = value.as_document().filter(|_| name.as_str() == "$collStats");
        let only_count =
            options.is_none_or(|options| options.iter().flatten().all(|(key, _)| key == "count"));
        if !only_count {
            return Err(strict_error(
                "only the 'count' option to $collStats is supported in API Version 1".to_owned(),
            ));
        }
    }
    Ok(())
}

fn check_indexes(body: &RawDocument) -> Result<(), CommandError> {
    let Ok(indexes) = body.get_array("indexes") else { return Ok(()) };
    for index in indexes.into_iter().flatten().filter_map(|index| index.as_document()) {
        let Ok(key) = index.get_document("key") else { continue };
        let text = key.iter().flatten().any(|(_, kind)| kind.as_str() == Some("text"));
        if text {
            let shown = crate::mongod::storage::text::shell_document(index);
            return Err(strict_error(format!(
                "Error in specification {shown} :: caused by :: text indexes cannot be created with apiStrict: true"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;

    fn check(body: &RawDocumentBuf) -> Result<(), i32> {
        let mut arguments = ApiArguments::default();
        let name = body.iter().next().unwrap().unwrap().0.as_str().to_owned();
        for (field, value) in body.iter().flatten() {
            if field.as_str().starts_with("api") {
                arguments.take(field.as_str(), value).map_err(|error| error.code)?;
            }
        }
        let spec = super::super::find_command(&name).unwrap();
        arguments.check(spec, body, false).map_err(|error| error.code)
    }

    #[test]
    fn a_declared_version_is_the_first_or_refused() {
        let ping = |version: &str| rawdoc! { "ping": 1, "apiVersion": version };
        assert_eq!(check(&ping("1")), Ok(()));
        assert_eq!(check(&ping("2")), Err(322));
        assert_eq!(check(&rawdoc! { "ping": 1, "apiStrict": true }), Err(4_886_600));
        assert_eq!(check(&rawdoc! { "ping": 1, "apiVersion": 1 }), Err(14));
    }

    #[test]
    fn strictness_refuses_what_is_not_in_the_version() {
        let refused = [
            rawdoc! { "distinct": "x", "key": "a", "apiVersion": "1", "apiStrict": true },
            rawdoc! { "find": "x", "tailable": true, "apiVersion": "1", "apiStrict": true },
            rawdoc! { "testVersion2": 1, "apiVersion": "1", "apiStrict": true },
            rawdoc! {
                "aggregate": "x", "pipeline": [{ "$indexStats": {} }], "cursor": {},
                "apiVersion": "1", "apiStrict": true,
            },
        ];
        for body in refused {
            assert_eq!(check(&body), Err(323), "{body:?}");
        }
        assert!(check(&rawdoc! { "find": "x", "apiVersion": "1", "apiStrict": true }).is_ok());
    }

    #[test]
    fn deprecation_is_an_error_where_the_client_wants_it_so() {
        let body = |errors: bool| {
            rawdoc! { "testDeprecation": 1, "apiVersion": "1", "apiDeprecationErrors": errors }
        };
        assert!(check(&body(false)).is_ok());
        assert_eq!(check(&body(true)), Err(324));
    }
}
