//! Whether an error is the expected one (`expectedError`).

use bson::{Bson, Document, doc};
use stepdown_driver::CollectionBulkWriteResult;
use stepdown_driver::client::InsertManyResult;
use stepdown_driver::error::{Error, ErrorKind, WriteConcernError, WriteError, WriteFailure};

use super::Produced;
use super::results::inserted_many;
use crate::unified::arguments::integer;
use crate::unified::matching::{Names, matches};

/// Compares an error with what was expected of it.
///
/// # Errors
/// The first difference.
pub fn check(
    operation: &str,
    expected: &Document,
    error: &Error,
    names: &dyn Names,
) -> Result<(), String> {
    for (assertion, value) in expected {
        let flag = || value.as_bool().ok_or_else(|| format!("{assertion} is no boolean"));
        match assertion.as_str() {
            "isError" => {}
            "isClientError" => same(assertion, flag()?, is_client_error(error))?,
            "isTimeoutError" => same(assertion, flag()?, is_timeout_error(error))?,
            "errorContains" => {
                let part = value.as_str().unwrap_or_default().to_lowercase();
                if !texts(error).iter().any(|text| text.to_lowercase().contains(&part)) {
                    return Err(format!("errorContains: expected {value}"));
                }
            }
            "errorCode" => {
                let code = integer(value);
                let found = top_level(error).code().map(i64::from);
                if found != code {
                    return Err(format!("errorCode: expected {value}, found {found:?}"));
                }
            }
            "errorCodeName" => {
                let expected = value.as_str().unwrap_or_default();
                let found = code_names(error);
                if !found.iter().any(|name| name.eq_ignore_ascii_case(expected)) {
                    return Err(format!("errorCodeName: expected {expected}, found {found:?}"));
                }
            }
            "errorLabelsContain" | "errorLabelsOmit" => {
                let wanted = assertion == "errorLabelsContain";
                for label in value.as_array().into_iter().flatten().filter_map(Bson::as_str) {
                    if error.contains_label(label) != wanted {
                        return Err(format!("{assertion} {label}: found {:?}", error.labels()));
                    }
                }
            }
            "errorResponse" => {
                let reply = top_level(error).server_response();
                let reply = reply.and_then(|reply| Document::try_from(reply.as_ref()).ok());
                let reply = reply.map(Bson::Document);
                matches(value, reply.as_ref(), true, names)
                    .map_err(|problem| format!("errorResponse: {problem}"))?;
            }
            "writeErrors" => {
                let found: Document = write_errors(error)
                    .into_iter()
                    .map(|(index, error)| (index.to_string(), Bson::Document(error)))
                    .collect();
                let expected = value.as_document().cloned().unwrap_or_default();
                if expected.len() != found.len() {
                    return Err(format!("writeErrors: expected {value}, found {found}"));
                }
                for (index, error) in &expected {
                    matches(error, found.get(index), true, names)
                        .map_err(|problem| format!("writeErrors.{index}: {problem}"))?;
                }
            }
            "writeConcernErrors" => {
                let found = write_concern_errors(error).into_iter().map(Bson::Document).collect();
                matches(value, Some(&Bson::Array(found)), true, names)
                    .map_err(|problem| format!("writeConcernErrors: {problem}"))?;
            }
            "expectResult" => {
                let result = partial_result(operation, error).map(Bson::Document);
                matches(value, result.as_ref(), true, names)
                    .map_err(|problem| format!("expectResult: {problem}"))?;
            }
            other => return Err(format!("the assertion {other} is not known")),
        }
    }
    Ok(())
}

fn same(what: &str, expected: bool, found: bool) -> Result<(), String> {
    match expected == found {
        true => Ok(()),
        false => Err(format!("{what}: expected {expected}, found {found}")),
    }
}

/// Whether it does not come from a server's reply.
fn is_client_error(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(_) | ErrorKind::Write(_) | ErrorKind::InsertMany(_) => false,
        ErrorKind::BulkWrite(bulk) => {
            bulk.write_errors.is_empty()
                && bulk.write_concern_errors.is_empty()
                && error.cause().is_none_or(is_client_error)
        }
        _ => true,
    }
}

/// Whether `timeoutMS` ran out.
fn is_timeout_error(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::Timeout { .. })
        || (matches!(*error.kind, ErrorKind::BulkWrite(_))
            && error.cause().is_some_and(is_timeout_error))
}

/// The error that ended a bulk write, or the error itself.
fn top_level(error: &Error) -> &Error {
    match &*error.kind {
        ErrorKind::BulkWrite(_) => error.cause().unwrap_or(error),
        _ => error,
    }
}

fn texts(error: &Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    texts.extend(error.cause().map(ToString::to_string));
    texts.extend(error.server_message().map(str::to_owned));
    texts
}

fn code_names(error: &Error) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    names.extend(top_level(error).code_name().map(str::to_owned));
    match &*error.kind {
        ErrorKind::InsertMany(many) => {
            names.extend(many.write_errors.iter().filter_map(|error| error.code_name.clone()));
            names.extend(many.write_concern_error.iter().map(|error| error.code_name.clone()));
        }
        ErrorKind::BulkWrite(bulk) => {
            names.extend(bulk.write_errors.values().filter_map(|error| error.code_name.clone()));
            names.extend(bulk.write_concern_errors.iter().map(|error| error.code_name.clone()));
        }
        _ => {}
    }
    names
}

fn write_errors(error: &Error) -> Vec<(usize, Document)> {
    let one = |error: &WriteError| {
        let mut document = doc! { "code": error.code, "message": &error.message };
        if let Some(details) = &error.details {
            document.insert("details", details.clone());
        }
        document
    };
    match &*error.kind {
        ErrorKind::BulkWrite(bulk) => {
            bulk.write_errors.iter().map(|(index, error)| (*index, one(error))).collect()
        }
        ErrorKind::InsertMany(many) => many
            .write_errors
            .iter()
            .map(|error| (error.index, one(&error.clone().into_write_error())))
            .collect(),
        ErrorKind::Write(WriteFailure::WriteError(error)) => vec![(0, one(error))],
        _ => Vec::new(),
    }
}

fn write_concern_errors(error: &Error) -> Vec<Document> {
    let one = |error: &WriteConcernError| {
        let mut document = doc! { "code": error.code, "message": &error.message };
        if let Some(details) = &error.details {
            document.insert("details", details.clone());
        }
        document
    };
    match &*error.kind {
        ErrorKind::BulkWrite(bulk) => bulk.write_concern_errors.iter().map(one).collect(),
        ErrorKind::InsertMany(many) => many.write_concern_error.iter().map(one).collect(),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => vec![one(error)],
        _ => Vec::new(),
    }
}

/// What a bulk write had done before it failed: nothing, if its first command did.
fn partial_result(operation: &str, error: &Error) -> Option<Document> {
    match &*error.kind {
        ErrorKind::BulkWrite(bulk) => bulk.partial_result.clone(),
        ErrorKind::InsertMany(many) => {
            let mut result = InsertManyResult::default();
            result.inserted_ids = many.inserted_ids.clone();
            match inserted_many(&result) {
                Produced::Value(Bson::Document(document)) => Some(document),
                _ => None,
            }
        }
        _ if operation == "bulkWrite" => Some(CollectionBulkWriteResult::default().to_document()),
        _ => None,
    }
}
