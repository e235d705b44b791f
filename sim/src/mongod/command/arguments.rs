//! Reading a command's arguments strictly, with the server's words for what is wrong.

use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};

use super::Operation;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::number::as_f64;
use crate::mongod::query::value::ValueRef;

/// Arguments that every command takes; the dispatch reads them.
const GENERIC: &[&str] = &[
    "$audit",
    "$client",
    "$clusterTime",
    "$configServerState",
    "$configTime",
    "$db",
    "$oplogQueryData",
    "$queryOptions",
    "$readPreference",
    "$replData",
    "$topologyTime",
    "allowImplicitCollectionCreation",
    "apiDeprecationErrors",
    "apiStrict",
    "apiVersion",
    "autocommit",
    "clientOperationKey",
    "comment",
    "coordinator",
    "databaseVersion",
    "help",
    "lsid",
    "maxTimeMS",
    "maxTimeMSOpOnly",
    "readConcern",
    "shardVersion",
    "startTransaction",
    "txnNumber",
    "txnRetryCounter",
    "writeConcern",
];

/// Gives each argument but the command itself to `read`, which says whether it knows it.
///
/// # Errors
/// What `read` says; 40415 for an argument nobody knows. `name` is the command as error messages call
/// it.
pub(crate) fn each_argument<'a>(
    name: &str,
    body: &'a RawDocument,
    mut read: impl FnMut(&'a str, RawBsonRef<'a>) -> Result<bool, CommandError>,
) -> Result<(), CommandError> {
    for (number, element) in body.iter().enumerate() {
        let (key, value) = element.map_err(malformed)?;
        let key = key.as_str();
        if number > 0 && !GENERIC.contains(&key) && !read(key, value)? {
            return Err(unknown_field(name, key));
        }
    }
    Ok(())
}

/// Gives each field of a document inside a command to `read`, which says whether it knows it.
///
/// # Errors
/// As [`each_argument`].
pub(crate) fn each_field<'a>(
    name: &str,
    document: &'a RawDocument,
    mut read: impl FnMut(&'a str, RawBsonRef<'a>) -> Result<bool, CommandError>,
) -> Result<(), CommandError> {
    for element in document.iter() {
        let (key, value) = element.map_err(malformed)?;
        if !read(key.as_str(), value)? {
            return Err(unknown_field(name, key.as_str()));
        }
    }
    Ok(())
}

/// The command without the arguments that every command takes.
pub(crate) fn own_arguments(body: &RawDocument) -> RawDocumentBuf {
    let mut own = RawDocumentBuf::new();
    for (key, value) in body.iter().map_while(Result::ok) {
        if !GENERIC.contains(&key.as_str()) {
            own.append(key, value);
        }
    }
    own
}

/// The value of the command's own field.
pub(crate) fn first_value(body: &RawDocument) -> Result<RawBsonRef<'_>, CommandError> {
    match body.iter().next() {
        Some(element) => Ok(element.map_err(malformed)?.1),
        None => Err(CommandError::new(error::FAILED_TO_PARSE, "an empty command")),
    }
}

/// `db.collection` of a command whose first field names a collection to read.
///
/// # Errors
/// 2 BadValue: not a string; 73 InvalidNamespace.
pub(crate) fn namespace(operation: &Operation) -> Result<String, CommandError> {
    let value = first_value(&operation.body)?;
    let RawBsonRef::String(collection) = value else {
        return Err(CommandError::new(
            error::BAD_VALUE,
            format!("collection name has invalid type {}", type_name(value)),
        ));
    };
    let namespace = operation.namespace(collection);
    let wrong = |message: String| Err(CommandError::new(error::INVALID_NAMESPACE, message));
    if collection.is_empty() || collection.contains('\0') {
        return wrong(format!("Invalid namespace specified '{namespace}'"));
    }
    if collection.starts_with('.') {
        return wrong(format!("Collection names cannot start with '.': {collection}"));
    }
    if collection.contains('$') && !collection.starts_with("$cmd.") {
        return wrong(format!("Invalid collection name: {collection}"));
    }
    Ok(namespace)
}

/// Checks that a user may create this collection, or write into it.
///
/// # Errors
/// 73 InvalidNamespace.
pub(crate) fn check_writable(namespace: &str) -> Result<(), CommandError> {
    let wrong = |message: String| Err(CommandError::new(error::INVALID_NAMESPACE, message));
    let Some((db, collection)) = namespace.split_once('.').filter(|(_, name)| !name.is_empty())
    else {
        return wrong(format!("Invalid namespace specified '{namespace}'"));
    };
    if collection.contains('$') {
        return wrong(format!("Invalid collection name: {collection}"));
    }
    if collection.starts_with('.') {
        return wrong(format!("Collection names cannot start with '.': {collection}"));
    }
    if namespace.len() > 255 {
        return wrong(format!(
            "Fully qualified namespace is too long. Namespace: {namespace} Max: 255"
        ));
    }
    let system = collection.starts_with("system.");
    if system && !matches!(db, "admin" | "config" | "local") && collection != "system.js" {
        return wrong(format!("Invalid system namespace: {namespace}"));
    }
    if db == "local" {
        return Err(CommandError::new(
            error::COMMAND_NOT_SUPPORTED,
            format!(
                "This simulated server does not write to unreplicated collections: {namespace}"
            ),
        ));
    }
    Ok(())
}

/// A strict boolean.
pub(crate) fn boolean(field: &str, value: RawBsonRef<'_>) -> Result<bool, CommandError> {
    value.as_bool().ok_or_else(|| wrong_type(field, value, "'bool'"))
}

/// A boolean that may be given as a number.
pub(crate) fn safe_boolean(field: &str, value: RawBsonRef<'_>) -> Result<bool, CommandError> {
    match value {
        RawBsonRef::Boolean(flag) => Ok(flag),
        RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Double(_)
        | RawBsonRef::Decimal128(_) => Ok(ValueRef::from(value).is_truthy()),
        _ => Err(wrong_types(field, value, "[bool, long, int, decimal, double']")),
    }
}

/// A number of any kind, cut down to an integer.
pub(crate) fn safe_i64(field: &str, value: RawBsonRef<'_>) -> Result<i64, CommandError> {
    match value {
        RawBsonRef::Int32(number) => Ok(i64::from(number)),
        RawBsonRef::Int64(number) => Ok(number),
        // The cast saturates, as the server's does.
        RawBsonRef::Double(_) | RawBsonRef::Decimal128(_) => {
            Ok(as_f64(value.into()).unwrap_or(0.0) as i64)
        }
        _ => Err(wrong_types(field, value, "[long, int, decimal, double']")),
    }
}

/// A number that may not be negative; `field` is the bare name, `command` the command's.
pub(crate) fn non_negative(
    command: &str,
    field: &str,
    value: RawBsonRef<'_>,
) -> Result<u64, CommandError> {
    let number = safe_i64(&format!("{command}.{field}"), value)?;
    u64::try_from(number).map_err(|_| {
        CommandError::new(
            51_024,
            format!("BSON field '{field}' value must be >= 0, actual value '{number}'"),
        )
    })
}

/// A document.
pub(crate) fn document<'a>(
    field: &str,
    value: RawBsonRef<'a>,
) -> Result<&'a RawDocument, CommandError> {
    value.as_document().ok_or_else(|| wrong_type(field, value, "'object'"))
}

/// An array.
pub(crate) fn array<'a>(field: &str, value: RawBsonRef<'a>) -> Result<&'a RawArray, CommandError> {
    value.as_array().ok_or_else(|| wrong_type(field, value, "'array'"))
}

/// A string.
pub(crate) fn string<'a>(field: &str, value: RawBsonRef<'a>) -> Result<&'a str, CommandError> {
    value.as_str().ok_or_else(|| wrong_type(field, value, "'string'"))
}

/// 14 TypeMismatch.
pub(crate) fn wrong_type(field: &str, value: RawBsonRef<'_>, expected: &str) -> CommandError {
    CommandError::new(
        error::TYPE_MISMATCH,
        format!(
            "BSON field '{field}' is the wrong type '{}', expected type {expected}",
            type_name(value)
        ),
    )
}

/// 14 TypeMismatch, of several types.
pub(crate) fn wrong_types(field: &str, value: RawBsonRef<'_>, expected: &str) -> CommandError {
    CommandError::new(
        error::TYPE_MISMATCH,
        format!(
            "BSON field '{field}' is the wrong type '{}', expected types '{expected}",
            type_name(value)
        ),
    )
}

/// 40414.
pub(crate) fn missing_field(field: &str) -> CommandError {
    CommandError::new(40_414, format!("BSON field '{field}' is missing but a required field"))
}

/// 40415.
pub(crate) fn unknown_field(command: &str, field: &str) -> CommandError {
    CommandError::new(40_415, format!("BSON field '{command}.{field}' is an unknown field."))
}

/// The server's name of a value's type.
pub(crate) fn type_name(value: RawBsonRef<'_>) -> &'static str {
    ValueRef::from(value).type_name()
}

/// 22 InvalidBSON.
pub(crate) fn malformed(error: bson::error::Error) -> CommandError {
    CommandError::new(error::INVALID_BSON, error.to_string())
}
