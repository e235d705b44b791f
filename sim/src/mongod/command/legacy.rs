//! Arguments of commands that are older than the server's strict argument parser: other words for what
//! is wrong, and unknown fields pass.

use bson::{RawBsonRef, RawDocument};

use super::arguments::type_name;
use crate::mongod::error::{BAD_VALUE, CommandError, NO_SUCH_KEY, TYPE_MISMATCH};
use crate::mongod::optime::Ts;

/// A field that must be there.
///
/// # Errors
/// 4 NoSuchKey.
pub(crate) fn required<'a>(
    document: &'a RawDocument,
    field: &str,
) -> Result<RawBsonRef<'a>, CommandError> {
    document.get(field).ok().flatten().ok_or_else(|| missing(field))
}

/// 4 NoSuchKey.
pub(crate) fn missing(field: &str) -> CommandError {
    CommandError::new(NO_SUCH_KEY, format!("Missing expected field \"{field}\""))
}

/// 14 TypeMismatch.
pub(crate) fn wrong(field: &str, expected: &str, value: RawBsonRef<'_>) -> CommandError {
    CommandError::new(
        TYPE_MISMATCH,
        format!("\"{field}\" had the wrong type. Expected {expected}, found {}", type_name(value)),
    )
}

/// A document that must be there.
///
/// # Errors
/// 4 NoSuchKey, 14 TypeMismatch.
pub(crate) fn object<'a>(
    document: &'a RawDocument,
    field: &str,
) -> Result<&'a RawDocument, CommandError> {
    let value = required(document, field)?;
    value.as_document().ok_or_else(|| wrong(field, "object", value))
}

/// A timestamp that must be there.
///
/// # Errors
/// 4 NoSuchKey, 14 TypeMismatch.
pub(crate) fn timestamp(document: &RawDocument, field: &str) -> Result<Ts, CommandError> {
    let value = required(document, field)?;
    value.as_timestamp().map(Ts::from).ok_or_else(|| wrong(field, "timestamp", value))
}

/// A whole number of any kind, if it is there.
///
/// # Errors
/// 14 TypeMismatch; 2 BadValue for a fraction.
pub(crate) fn integer(document: &RawDocument, field: &str) -> Result<Option<i64>, CommandError> {
    match document.get(field).ok().flatten() {
        None => Ok(None),
        Some(RawBsonRef::Int32(number)) => Ok(Some(i64::from(number))),
        Some(RawBsonRef::Int64(number)) => Ok(Some(number)),
        Some(RawBsonRef::Double(number)) if number.fract() == 0.0 => Ok(Some(number as i64)),
        Some(value @ RawBsonRef::Decimal128(_)) => {
            Ok(crate::mongod::query::number::as_f64(value.into()).map(|number| number as i64))
        }
        Some(RawBsonRef::Double(number)) => Err(CommandError::new(
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

/// A boolean that may be a number; false if it is not there.
///
/// # Errors
/// 14 TypeMismatch.
pub(crate) fn boolean(document: &RawDocument, field: &str) -> Result<bool, CommandError> {
    match document.get(field).ok().flatten() {
        None => Ok(false),
        Some(RawBsonRef::Boolean(given)) => Ok(given),
        Some(RawBsonRef::Int32(given)) => Ok(given != 0),
        Some(RawBsonRef::Int64(given)) => Ok(given != 0),
        Some(RawBsonRef::Double(given)) => Ok(given != 0.0),
        Some(value) => Err(CommandError::new(
            TYPE_MISMATCH,
            format!(
                "Expected boolean or number type for field \"{field}\", found {}",
                type_name(value)
            ),
        )),
    }
}
