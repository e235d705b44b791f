//! Cursor replies, `getMore` and `killCursors`.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Bson, RawDocument, RawDocumentBuf};

use super::{BodyWriter, Command, MaxTime, Retry, Target, integer, lacks, optional_value};
use crate::error::{Error, Result};
use crate::uri::ServerAddress;
use crate::wire::find;

/// A reply that carries a batch, which is read in place.
#[derive(Clone, Debug)]
pub(crate) struct CursorReply {
    /// The cursor's identifier; 0 once there is nothing more.
    pub(crate) id: i64,
    /// `database.collection`, as the server calls it.
    pub(crate) namespace: String,
    /// Where a change stream may be resumed once the batch was read.
    pub(crate) post_batch_resume_token: Option<RawDocumentBuf>,
    reply: RawDocumentBuf,
    /// Where the rest of the batch stands in the reply.
    rest: Range<usize>,
    /// Where the current document stands in the reply.
    current: Range<usize>,
}

impl CursorReply {
    /// Reads the reply to a command that opens or continues a cursor.
    ///
    /// # Errors
    /// `InvalidResponse` if it is not one.
    pub(crate) fn new(command: &str, reply: RawDocumentBuf) -> Result<Self> {
        let Some(RawBsonRef::Document(cursor)) = find(&reply, "cursor") else {
            return Err(lacks(command, "cursor"));
        };
        let id = integer(cursor, "id").ok_or_else(|| lacks(command, "cursor.id"))?;
        let Some(RawBsonRef::String(namespace)) = find(cursor, "ns") else {
            return Err(lacks(command, "cursor.ns"));
        };
        let namespace = namespace.to_owned();
        let batch = find(cursor, "firstBatch").or_else(|| find(cursor, "nextBatch"));
        let Some(RawBsonRef::Array(batch)) = batch else { return Err(lacks(command, "batch")) };
        let post_batch_resume_token = match find(cursor, "postBatchResumeToken") {
            Some(RawBsonRef::Document(token)) => Some(token.to_owned()),
            _ => None,
        };
        // The array is a part of the reply: find out which.
        let start = batch.as_bytes().as_ptr() as usize - reply.as_bytes().as_ptr() as usize;
        let end = start + batch.as_bytes().len();
        let rest = start + 4..end - 1;
        Ok(CursorReply { id, namespace, post_batch_resume_token, rest, current: 0..0, reply })
    }

    /// Whether documents of the batch are left.
    pub(crate) fn has_more(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The reply it was read from.
    pub(crate) fn reply(&self) -> &RawDocument {
        &self.reply
    }

    /// Moves on to the next document of the batch. Returns whether there is one.
    ///
    /// # Errors
    /// `InvalidResponse` if the batch is damaged.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        let damaged = || Error::invalid_response("a cursor's batch is damaged");
        let bytes = &self.reply.as_bytes()[self.rest.clone()];
        if bytes.is_empty() {
            self.current = 0..0;
            return Ok(false);
        }
        // Type 3 (document), the index as a key, the document.
        let key = bytes.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
        let body = bytes.get(key + 1..).ok_or_else(damaged)?;
        let length = body.first_chunk::<4>().ok_or_else(damaged)?;
        let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| damaged())?;
        if bytes[0] != 0x03 || length < 5 || length > body.len() {
            return Err(damaged());
        }
        let start = self.rest.start + key + 1;
        self.current = start..start + length;
        self.rest.start += key + 1 + length;
        Ok(true)
    }

    /// The document [`CursorReply::advance`] moved to.
    ///
    /// # Errors
    /// `InvalidResponse` if it is damaged or there is none.
    pub(crate) fn current(&self) -> Result<&RawDocument> {
        if self.current.is_empty() {
            return Err(Error::invalid_argument("the cursor stands on no document"));
        }
        RawDocument::from_bytes(&self.reply.as_bytes()[self.current.clone()])
            .map_err(|error| Error::invalid_response(format!("a document of the batch: {error}")))
    }
}

/// The next batch of the cursor `id`, from the server that has it.
pub(crate) fn get_more(
    namespace: &str,
    id: i64,
    server: ServerAddress,
    batch_size: Option<u32>,
    await_time: Option<Duration>,
    comment: Option<&Bson>,
) -> Result<Command> {
    let (database, collection) = split(namespace)?;
    let mut bytes = Vec::with_capacity(128);
    let mut body = BodyWriter::new(&mut bytes);
    body.i64("getMore", id);
    body.string("collection", collection);
    if let Some(size) = batch_size.filter(|size| *size > 0) {
        body.i64("batchSize", i64::from(size));
    }
    optional_value(&mut body, "comment", comment)?;
    body.finish();
    let mut command = Command::from_body(Cow::Borrowed("getMore"), database, bytes);
    command.target = Target::Server(server);
    command.retry = Retry::OverloadedRead;
    command.max_time = await_time.map_or(MaxTime::Never, MaxTime::AtMost);
    Ok(command)
}

/// Tells the server that nobody will ask for more of the cursor `id`.
pub(crate) fn kill_cursors(namespace: &str, id: i64, server: ServerAddress) -> Result<Command> {
    let (database, collection) = split(namespace)?;
    let mut command = Command::new("killCursors", collection, database, |body| {
        body.array("cursors", |cursors| cursors.i64("0", id));
        Ok(())
    })?;
    command.target = Target::Server(server);
    command.retry = Retry::OverloadedRead;
    Ok(command)
}

/// Tells the server that nobody will ask again for what `get_more` asked for.
pub(crate) fn kill_cursors_of(get_more: &Command) -> Result<Command> {
    let body = RawDocument::from_bytes(&get_more.body)
        .map_err(|error| Error::invalid_argument(error.to_string()))?;
    let (id, collection) = (body.get_i64("getMore")?, body.get_str("collection")?);
    let mut command = Command::new("killCursors", collection, &get_more.database, |body| {
        body.array("cursors", |cursors| cursors.i64("0", id));
        Ok(())
    })?;
    command.target = get_more.target.clone();
    command.retry = Retry::OverloadedRead;
    Ok(command)
}

fn split(namespace: &str) -> Result<(&str, &str)> {
    namespace
        .split_once('.')
        .ok_or_else(|| Error::invalid_response(format!("{namespace:?} is not a namespace")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn a_batch_is_walked_through_in_place() {
        let reply = rawdoc! {
            "cursor": { "firstBatch": [{ "_id": 1 }, { "_id": 2 }], "id": 7_i64, "ns": "d.c" },
            "ok": 1.0,
        };
        let mut batch = CursorReply::new("find", reply).unwrap();
        assert_eq!((batch.id, batch.namespace.as_str()), (7, "d.c"));
        assert!(batch.current().is_err());
        for id in 1..=2 {
            assert!(batch.advance().unwrap());
            assert_eq!(batch.current().unwrap().get_i32("_id").unwrap(), id);
        }
        assert!(!batch.advance().unwrap());
        assert!(batch.current().is_err());
    }

    #[test]
    fn what_is_not_a_document_in_a_batch_is_an_error() {
        let reply = rawdoc! { "cursor": { "nextBatch": [1], "id": 0_i64, "ns": "d.c" }, "ok": 1.0 };
        assert!(CursorReply::new("getMore", reply).unwrap().advance().is_err());
    }
}
