//! Commands: how each request is built and its reply read, one file per family.
//!
//! A request is raw bytes from the start: `BodyWriter` puts each field where it belongs, documents
//! of the caller are serialized once, and the executor adds the envelope (`$db`, `lsid`, ...) while
//! it copies the body into the connection's buffer.

mod aggregate;
mod bulk;
mod client_bulk;
mod count;
mod cursor;
mod delete;
mod distinct;
mod find;
mod find_and_modify;
mod index;
mod insert;
mod manage;
mod model;
mod run;
mod search_index;
mod transaction;
mod update;
mod watch;
mod writer;

use std::borrow::Cow;

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, IndexedWriteError, Result, WriteFailure};
use crate::options::{ReadConcern, SelectionCriteria, WriteConcern};
use crate::uri::ServerAddress;

pub use self::aggregate::AggregateOptions;
pub(crate) use self::aggregate::aggregate;
pub use self::bulk::{
    CollectionBulkWriteOptions, CollectionBulkWriteResult, CollectionWriteModel,
    CollectionWriteOptions,
};
pub(crate) use self::bulk::{batches, bulk_command, check_not_empty};
pub(crate) use self::client_bulk::{BatchLimits, ClientBatch, client_bulk_write};
pub use self::count::{CountOptions, EstimatedDocumentCountOptions};
pub(crate) use self::count::{
    count_command, count_from_aggregate, estimated_document_count, read_count, read_estimate,
};
pub(crate) use self::cursor::{CursorReply, get_more, kill_cursors, kill_cursors_of};
pub(crate) use self::delete::delete;
pub use self::delete::{DeleteOptions, DeleteResult};
pub use self::distinct::DistinctOptions;
pub(crate) use self::distinct::{distinct, read_distinct};
pub(crate) use self::find::find;
pub use self::find::{CursorType, FindOptions, Hint, TimeoutMode};
pub use self::find_and_modify::{FindOneAndModifyOptions, ReturnDocument};
pub(crate) use self::find_and_modify::{Modification, find_and_modify, read_value};
pub use self::index::{CreateIndexOptions, IndexModel, IndexOptions};
pub(crate) use self::index::{IndexToCreate, create_indexes, drop_indexes, list_indexes};
pub use self::insert::InsertOptions;
pub(crate) use self::insert::{InsertBatch, insert};
pub use self::manage::{
    CreateCollectionOptions, ListCollectionsOptions, ListDatabasesOptions, ModifyCollectionOptions,
};
pub(crate) use self::manage::{
    create_collection, drop_collection, drop_database, list_collections, list_databases,
    modify_collection, rename_collection,
};
pub use self::model::{
    BulkWriteOptions, BulkWriteResult, DeleteManyModel, DeleteOneModel, InsertOneModel, Namespace,
    ReplaceOneModel, UpdateManyModel, UpdateOneModel, WriteModel,
};
pub(crate) use self::run::run_command;
pub use self::search_index::SearchIndexModel;
pub(crate) use self::search_index::{
    create_search_indexes, drop_search_index, read_search_index_names, update_search_index,
};
pub(crate) use self::transaction::{abort_transaction, commit_transaction};
pub(crate) use self::update::{Change, read_update, update};
pub use self::update::{UpdateModifications, UpdateOptions, UpdateResult};
pub use self::watch::{ChangeStreamOptions, FullDocumentBeforeChangeType, FullDocumentType};
pub(crate) use self::writer::BodyWriter;

/// Which rules of retrying a command falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Any command of the caller: sent again only where an overloaded server refused to begin, if
    /// both `retryReads` and `retryWrites` are on.
    No,
    /// A read that is sent again only where an overloaded server refused to begin.
    OverloadedRead,
    /// A write that is sent again only where an overloaded server refused to begin.
    OverloadedWrite,
    /// A retryable read.
    Read,
    /// A retryable write: sent with a transaction number.
    Write,
    /// The end of a transaction: retryable whatever the client's options say.
    Ending,
}

/// What of a read concern a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadConcernUse {
    /// Nothing.
    Never,
    /// `afterClusterTime` in a causally consistent session; a level too, if there is one.
    Causal,
}

/// What of `maxTimeMS` the executor adds to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxTime {
    /// What is left of `timeoutMS`, if that is set.
    Remaining,
    /// Nothing.
    Never,
    /// This, or what is left of `timeoutMS` if that is less.
    AtMost(std::time::Duration),
}

/// Which servers a command may go to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A server that takes writes.
    Writable,
    /// A server these criteria allow.
    Readable(SelectionCriteria),
    /// The same, if all servers run an aggregation that writes wherever they are asked (5.0); else
    /// one that takes writes.
    Output(SelectionCriteria),
    /// This server alone: the one that has the cursor.
    Server(ServerAddress),
}

/// A command ready to be sent, all but its envelope.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// The name, which is the first key of the body.
    pub(crate) name: Cow<'static, str>,
    /// The database.
    pub(crate) database: String,
    /// The body as a whole document.
    pub(crate) body: Vec<u8>,
    /// A document sequence: its field, and its documents one after another.
    pub(crate) sequence: Option<(&'static str, Vec<u8>)>,
    /// A second one.
    pub(crate) second_sequence: Option<(&'static str, Vec<u8>)>,
    /// Which rules of retrying it falls under.
    pub(crate) retry: Retry,
    /// Where it may go.
    pub(crate) target: Target,
    /// Whether a reply will come: not for `w: 0`.
    pub(crate) acknowledged: bool,
    /// The read concern, which the executor adds.
    pub(crate) read_concern: Option<ReadConcern>,
    /// What of a read concern it takes.
    pub(crate) concern: ReadConcernUse,
    /// What of `maxTimeMS` the executor adds.
    pub(crate) max_time: MaxTime,
    /// The body of an attempt that follows one whose outcome is unknown, if it is another.
    pub(crate) repeated_body: Option<Vec<u8>>,
    /// The name of the operation, where that is not the command's.
    pub(crate) operation: Option<&'static str>,
}

impl Command {
    /// A command whose body `fill` writes after the name and its value.
    fn new(
        name: &'static str,
        value: &str,
        database: &str,
        fill: impl FnOnce(&mut BodyWriter<'_>) -> Result<()>,
    ) -> Result<Self> {
        check_name("database", database)?;
        check_name("collection", value)?;
        let mut body = Vec::with_capacity(256);
        let mut writer = BodyWriter::new(&mut body);
        writer.string(name, value);
        fill(&mut writer)?;
        writer.finish();
        Ok(Command::from_body(Cow::Borrowed(name), database, body))
    }

    /// A command about a whole database, `{name: 1, ..}`.
    fn new_on_database(
        name: &'static str,
        database: &str,
        fill: impl FnOnce(&mut BodyWriter<'_>) -> Result<()>,
    ) -> Result<Self> {
        check_name("database", database)?;
        let mut body = Vec::with_capacity(128);
        let mut writer = BodyWriter::new(&mut body);
        writer.i32(name, 1);
        fill(&mut writer)?;
        writer.finish();
        Ok(Command::from_body(Cow::Borrowed(name), database, body))
    }

    fn from_body(name: Cow<'static, str>, database: &str, body: Vec<u8>) -> Self {
        Command {
            name,
            database: database.to_owned(),
            body,
            sequence: None,
            second_sequence: None,
            retry: Retry::No,
            target: Target::Writable,
            acknowledged: true,
            read_concern: None,
            concern: ReadConcernUse::Never,
            max_time: MaxTime::Remaining,
            repeated_body: None,
            operation: None,
        }
    }

    /// The name of the operation it serves.
    pub(crate) fn operation_name(&self) -> &str {
        self.operation.unwrap_or(&self.name)
    }

    /// The collection it is about, if there is one.
    pub(crate) fn collection(&self) -> Option<String> {
        let body = RawDocument::from_bytes(&self.body).ok()?;
        let (_, first) = body.iter().next()?.ok()?;
        match first {
            RawBsonRef::String(name) if self.database != "admin" => Some(name.to_owned()),
            RawBsonRef::Int64(_) if self.name == "getMore" => {
                body.get_str("collection").ok().map(str::to_owned)
            }
            _ => None,
        }
    }

    fn read(mut self, criteria: SelectionCriteria) -> Self {
        self.retry = Retry::Read;
        self.target = Target::Readable(criteria);
        self
    }

    fn with_read_concern(mut self, read_concern: Option<&ReadConcern>) -> Self {
        self.read_concern = read_concern.cloned();
        self.concern = ReadConcernUse::Causal;
        self
    }

    /// A write: retryable if it is acknowledged and touches one document per statement.
    fn write(mut self, write_concern: Option<&WriteConcern>, retryable: bool) -> Self {
        self.acknowledged = write_concern.is_none_or(WriteConcern::is_acknowledged);
        self.retry = match retryable && self.acknowledged {
            true => Retry::Write,
            false => Retry::OverloadedWrite,
        };
        self.concern = ReadConcernUse::Causal;
        self
    }

    /// A change of the catalog: never retried by itself, but causally consistent.
    fn definition(mut self) -> Self {
        self.retry = Retry::OverloadedWrite;
        self.concern = ReadConcernUse::Causal;
        self
    }

    /// The same command under the name of the operation it serves.
    pub(crate) fn named(mut self, operation: &'static str) -> Self {
        self.operation = Some(operation);
        self
    }
}

/// A zero byte in a name would end it early on the wire.
fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::invalid_argument(format!("{name:?} is not a {what} name")));
    }
    Ok(())
}

/// Adds `writeConcern`, if anything was said.
fn write_concern(writer: &mut BodyWriter<'_>, concern: Option<&WriteConcern>) -> Result<()> {
    if let Some(concern) = concern.filter(|concern| !concern.is_empty()) {
        concern.validate()?;
        writer.document("writeConcern", &bson::serialize_to_vec(&concern.to_document())?);
    }
    Ok(())
}

/// Adds a document of the caller.
fn document(writer: &mut BodyWriter<'_>, key: &str, value: &impl Serialize) -> Result<()> {
    Ok(writer.serialized(key, value)?)
}

/// Adds a document of the caller, if there is one.
fn optional(writer: &mut BodyWriter<'_>, key: &str, value: Option<&impl Serialize>) -> Result<()> {
    value.map_or(Ok(()), |value| document(writer, key, value))
}

/// Adds a value of the caller, if there is one.
fn optional_value(
    writer: &mut BodyWriter<'_>,
    key: &str,
    value: Option<&bson::Bson>,
) -> Result<()> {
    if let Some(value) = value {
        writer.value(key, value)?;
    }
    Ok(())
}

/// Adds a time limit on the server, in whole milliseconds.
fn max_time(writer: &mut BodyWriter<'_>, time: Option<std::time::Duration>) {
    if let Some(time) = time {
        writer.i64("maxTimeMS", millis(time));
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// An integer of whatever type.
pub(crate) fn integer(reply: &RawDocument, key: &str) -> Option<i64> {
    match crate::wire::find(reply, key) {
        Some(RawBsonRef::Int32(value)) => Some(i64::from(value)),
        Some(RawBsonRef::Int64(value)) => Some(value),
        Some(RawBsonRef::Double(value)) => Some(value as i64),
        _ => None,
    }
}

/// A count that cannot be negative; zero if it is not there.
pub(crate) fn count(reply: &RawDocument, key: &str) -> u64 {
    integer(reply, key).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// The first write error of a single write, or its write concern error.
pub(crate) fn check_single_write(reply: &RawDocument) -> Result<()> {
    if let Some(error) = IndexedWriteError::all_from_reply(reply, 0).into_iter().next() {
        let failure = WriteFailure::WriteError(error.into_write_error());
        return Err(Error::new(ErrorKind::Write(failure)).with_server_response(reply.to_owned()));
    }
    check_write_concern(reply)
}

/// The write concern error of a reply.
pub(crate) fn check_write_concern(reply: &RawDocument) -> Result<()> {
    if crate::planted::is(crate::planted::DriverBug::IgnoresWriteConcernError) {
        return Ok(());
    }
    Error::from_write_concern_error(reply).map_or(Ok(()), Err)
}

/// Deserializes a document as the caller's type.
pub(crate) fn from_raw<T: DeserializeOwned>(document: &RawDocument) -> Result<T> {
    Ok(bson::deserialize_from_slice(document.as_bytes())?)
}

/// The reply lacks what it must have.
fn lacks(command: &str, what: &str) -> Error {
    Error::invalid_response(format!("the reply to {command} has no {what}"))
}

/// An empty document, for unacknowledged writes.
pub(crate) fn no_reply() -> RawDocumentBuf {
    bson::rawdoc! { "ok": 1 }
}
