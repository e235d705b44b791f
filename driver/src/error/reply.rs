//! Errors as they stand in a server's reply.

use bson::Document;
use bson::raw::{RawBsonRef, RawDocument};

use super::{
    CommandError, Error, ErrorKind, IndexedWriteError, Result, WriteConcernError, WriteError,
    WriteFailure,
};
use crate::sdam::TopologyVersion;
use crate::wire::find;

impl Error {
    /// The refusal in a reply with `ok: 0`, with its labels and topologyVersion; `None` if the
    /// command went well. Write errors and write concern errors are not looked at.
    ///
    /// A reply that is not BSON, or has no `ok`, is an `InvalidResponse`.
    pub fn from_command_reply(reply: &RawDocument) -> Option<Error> {
        match is_ok(reply) {
            Ok(true) => None,
            Ok(false) => {
                let name = text(reply, "codeName").unwrap_or_default();
                let message = text(reply, "errmsg").or_else(|| text(reply, "$err"));
                let error = CommandError::new(
                    code(reply).unwrap_or(0),
                    name,
                    message.unwrap_or("the server gave no reason"),
                );
                Some(decorate(Error::new(ErrorKind::Command(error)), reply))
            }
            Err(error) => Some(error),
        }
    }

    /// The `writeConcernError` of a reply as an error, with the reply's labels and topologyVersion.
    pub fn from_write_concern_error(reply: &RawDocument) -> Option<Error> {
        let error = WriteConcernError::from_reply(reply)?;
        Some(decorate(Error::new(ErrorKind::Write(WriteFailure::WriteConcernError(error))), reply))
    }

    /// What a reply says about the state of its server: the refusal of the whole command, else its
    /// write concern error. This is what SDAM looks at; write errors it must never see.
    pub fn from_reply_for_sdam(reply: &RawDocument) -> Option<Error> {
        Error::from_command_reply(reply).or_else(|| Error::from_write_concern_error(reply))
    }
}

impl WriteConcernError {
    /// The `writeConcernError` of `reply`, if there is one.
    pub fn from_reply(reply: &RawDocument) -> Option<Self> {
        let Some(RawBsonRef::Document(error)) = find(reply, "writeConcernError") else {
            return None;
        };
        Some(WriteConcernError {
            code: code(error).unwrap_or(0),
            code_name: text(error, "codeName").unwrap_or_default().to_owned(),
            message: text(error, "errmsg").unwrap_or_default().to_owned(),
            details: document(error, "errInfo"),
        })
    }
}

impl IndexedWriteError {
    /// The `writeErrors` of `reply`, their indexes moved by `offset` (the writes of earlier batches).
    pub fn all_from_reply(reply: &RawDocument, offset: usize) -> Vec<Self> {
        let Some(RawBsonRef::Array(errors)) = find(reply, "writeErrors") else {
            return Vec::new();
        };
        errors
            .into_iter()
            .map_while(|error| match error {
                Ok(RawBsonRef::Document(error)) => Some(error),
                _ => None,
            })
            .map(|error| {
                let index = integer(error, "index").and_then(|i| usize::try_from(i).ok());
                let write_error = WriteError {
                    code: code(error).unwrap_or(0),
                    code_name: text(error, "codeName").map(str::to_owned),
                    message: text(error, "errmsg").unwrap_or_default().to_owned(),
                    details: document(error, "errInfo"),
                    key_value: document(error, "keyValue"),
                };
                IndexedWriteError::new(index.unwrap_or(0).saturating_add(offset), write_error)
            })
            .collect()
    }
}

/// Whether the reply says `ok: 1`, in whichever number type.
fn is_ok(reply: &RawDocument) -> Result<bool> {
    let ok = match find(reply, "ok") {
        Some(ok) => Ok(Some(ok)),
        None => reply.get("ok"),
    };
    match ok {
        Ok(Some(RawBsonRef::Double(ok))) => Ok(ok == 1.0),
        Ok(Some(RawBsonRef::Int32(ok))) => Ok(ok == 1),
        Ok(Some(RawBsonRef::Int64(ok))) => Ok(ok == 1),
        Ok(Some(RawBsonRef::Boolean(ok))) => Ok(ok),
        Ok(_) => Err(Error::invalid_response("the reply has no \"ok\"")),
        Err(error) => Err(Error::invalid_response(format!("the reply is not BSON: {error}"))),
    }
}

/// Adds labels, topologyVersion and the reply itself.
fn decorate(mut error: Error, reply: &RawDocument) -> Error {
    let mut sources = vec![reply];
    if let Ok(Some(RawBsonRef::Document(nested))) = reply.get("writeConcernError") {
        sources.push(nested);
    }
    for source in sources {
        if let Ok(Some(RawBsonRef::Array(labels))) = source.get("errorLabels") {
            for label in labels.into_iter().flatten() {
                if let RawBsonRef::String(label) = label {
                    error.add_label(label);
                }
            }
        }
    }
    error
        .with_topology_version(TopologyVersion::from_reply(reply))
        .with_server_response(reply.to_owned())
}

fn code(document: &RawDocument) -> Option<i32> {
    integer(document, "code").and_then(|code| i32::try_from(code).ok())
}

fn integer(document: &RawDocument, key: &str) -> Option<i64> {
    match document.get(key) {
        Ok(Some(RawBsonRef::Int32(value))) => Some(i64::from(value)),
        Ok(Some(RawBsonRef::Int64(value))) => Some(value),
        // Codes are small whole numbers; some proxies send them as doubles.
        Ok(Some(RawBsonRef::Double(value))) if value.fract() == 0.0 => Some(value as i64),
        _ => None,
    }
}

fn text<'a>(document: &'a RawDocument, key: &str) -> Option<&'a str> {
    match document.get(key) {
        Ok(Some(RawBsonRef::String(value))) => Some(value),
        _ => None,
    }
}

fn document(parent: &RawDocument, key: &str) -> Option<Document> {
    match parent.get(key) {
        Ok(Some(RawBsonRef::Document(value))) => Document::try_from(value).ok(),
        _ => None,
    }
}
