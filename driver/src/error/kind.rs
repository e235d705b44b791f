//! The kinds of errors.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bson::{Bson, Document};

/// What happened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed something that cannot be.
    #[error("invalid argument: {message}")]
    InvalidArgument {
        /// What is wrong with it.
        message: String,
    },
    /// Authentication failed.
    #[error("authentication failed: {message}")]
    Authentication {
        /// Why.
        message: String,
    },
    /// A document could not be written as or read from BSON.
    #[error("BSON: {0}")]
    Bson(bson::error::Error),
    /// Some documents of an `insert_many` were refused.
    #[error("insert_many: {0}")]
    InsertMany(InsertManyError),
    /// Some operations of a bulk write were refused.
    #[error("bulk write: {0}")]
    BulkWrite(BulkWriteError),
    /// The server replied `ok: 0`.
    #[error("command failed: {0}")]
    Command(CommandError),
    /// A host name, or the SRV record of a `mongodb+srv://` string, could not be resolved.
    #[error("DNS: {message}")]
    DnsResolve {
        /// What the resolver said.
        message: String,
    },
    /// The network failed.
    #[error("network: {0}")]
    Io(Arc<io::Error>),
    /// The connection pool was cleared while a connection of it was waited for or used.
    #[error("{message}")]
    ConnectionPoolCleared {
        /// Which pool, and why.
        message: String,
    },
    /// The server answered with something that is not a reply to what was asked.
    #[error("invalid response: {message}")]
    InvalidResponse {
        /// What is wrong with it.
        message: String,
    },
    /// No suitable server was found in time.
    #[error("{message}")]
    ServerSelection {
        /// Which server was wanted, and what the driver believes about the set.
        message: String,
    },
    /// A deadline of the client passed.
    #[error("timed out: {message}")]
    Timeout {
        /// What was waited for.
        message: String,
    },
    /// The deployment does not know sessions.
    #[error("this deployment does not support sessions")]
    SessionsNotSupported,
    /// The TLS settings cannot be used.
    #[error("TLS: {message}")]
    InvalidTlsConfig {
        /// What is wrong with them.
        message: String,
    },
    /// A single write was refused, or its write concern was not met.
    #[error("write failed: {0}")]
    Write(WriteFailure),
    /// A transaction was used in a way it cannot be.
    #[error("transaction: {message}")]
    Transaction {
        /// What cannot be.
        message: String,
    },
    /// The server speaks none of the wire versions this driver speaks.
    #[error("{message}")]
    IncompatibleServer {
        /// Which server, and which versions.
        message: String,
    },
    /// A server's word was overtaken by a newer one; stands in its description alone.
    #[error("{message}")]
    StaleServer {
        /// What overtook it.
        message: String,
    },
    /// A change stream's document came without the `_id` that is its resume token.
    #[error("cannot resume a change stream: a document came without its resume token")]
    MissingResumeToken,
    /// A GridFS file is not there or damaged.
    #[error("GridFS: {0}")]
    GridFs(GridFsErrorKind),
    /// The client was closed.
    #[error("the client was closed")]
    Shutdown,
    /// An error of the application, passed through the driver (a transaction's callback).
    #[error("{0}")]
    Custom(Arc<dyn std::error::Error + Send + Sync>),
    /// A mistake of the driver itself.
    #[error("internal error: {message}")]
    Internal {
        /// What should not have been.
        message: String,
    },
}

impl From<io::Error> for ErrorKind {
    fn from(error: io::Error) -> Self {
        ErrorKind::Io(Arc::new(error))
    }
}

impl From<bson::error::Error> for ErrorKind {
    fn from(error: bson::error::Error) -> Self {
        ErrorKind::Bson(error)
    }
}

/// What is wrong with a GridFS file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GridFsErrorKind {
    /// There is no such file.
    #[error("there is no file with {identifier}")]
    FileNotFound {
        /// Which.
        identifier: GridFsFileIdentifier,
    },
    /// There are not so many files of this name.
    #[error("there is no revision {revision} of the file {filename:?}")]
    RevisionNotFound {
        /// The name.
        filename: String,
        /// Which revision.
        revision: i32,
    },
    /// A chunk is missing.
    #[error("chunk {n} is missing")]
    MissingChunk {
        /// Which.
        n: u64,
    },
    /// A chunk has not the bytes it should have.
    #[error("chunk {n} has {actual} bytes, not {expected}")]
    WrongSizeChunk {
        /// Which.
        n: u64,
        /// How many bytes it has.
        actual: u64,
        /// How many it should have.
        expected: u64,
    },
    /// There are more chunks than the file's length asks for.
    #[error("there are at least {actual} chunks, not {expected}")]
    WrongNumberOfChunks {
        /// How many there are at least.
        actual: u64,
        /// How many there should be.
        expected: u64,
    },
    /// The upload was finished or given up.
    #[error("the upload stream was closed or aborted")]
    UploadStreamClosed,
}

/// How a GridFS file was asked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GridFsFileIdentifier {
    /// By its name.
    Filename(String),
    /// By its `_id`.
    Id(Bson),
}

impl fmt::Display for GridFsFileIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GridFsFileIdentifier::Filename(name) => write!(f, "the name {name:?}"),
            GridFsFileIdentifier::Id(id) => write!(f, "the id {id}"),
        }
    }
}

/// The server's refusal of a whole command (`ok: 0`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CommandError {
    /// The error code; zero if the server gave none.
    pub code: i32,
    /// The name of the code; empty if the server gave none.
    pub code_name: String,
    /// The server's words.
    pub message: String,
}

impl CommandError {
    /// A refusal with this code, name and message.
    pub fn new(code: i32, code_name: impl Into<String>, message: impl Into<String>) -> Self {
        CommandError { code, code_name: code_name.into(), message: message.into() }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", CodeAndName(self.code, &self.code_name), self.message)
    }
}

/// Why one write failed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The write was done, but its write concern was not met.
    WriteConcernError(WriteConcernError),
    /// The write was refused.
    WriteError(WriteError),
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteFailure::WriteConcernError(error) => write!(f, "write concern: {error}"),
            WriteFailure::WriteError(error) => write!(f, "{error}"),
        }
    }
}

/// The write was done, but its write concern was not met (`writeConcernError`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WriteConcernError {
    /// The error code.
    pub code: i32,
    /// The name of the code; empty if the server gave none.
    pub code_name: String,
    /// The server's words.
    pub message: String,
    /// The server's details (`errInfo`).
    pub details: Option<Document>,
}

impl WriteConcernError {
    /// A write concern error with this code, name and message.
    pub fn new(code: i32, code_name: impl Into<String>, message: impl Into<String>) -> Self {
        WriteConcernError {
            code,
            code_name: code_name.into(),
            message: message.into(),
            details: None,
        }
    }
}

impl fmt::Display for WriteConcernError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", CodeAndName(self.code, &self.code_name), self.message)
    }
}

/// A refused write.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WriteError {
    /// The error code.
    pub code: i32,
    /// The name of the code, if the server gave one.
    pub code_name: Option<String>,
    /// The server's words.
    pub message: String,
    /// The server's details (`errInfo`), for one why a document failed validation.
    pub details: Option<Document>,
    /// The values that are in the way of a unique index (`keyValue`).
    pub key_value: Option<Document>,
}

impl WriteError {
    /// A write error with this code and message.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        WriteError {
            code,
            code_name: None,
            message: message.into(),
            details: None,
            key_value: None,
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.code_name.as_deref().unwrap_or("");
        write!(f, "{}: {}", CodeAndName(self.code, name), self.message)
    }
}

/// A refused write of many, and which one it was.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct IndexedWriteError {
    /// Position of the refused write in what the caller passed, from zero.
    pub index: usize,
    /// The error code.
    pub code: i32,
    /// The name of the code, if the server gave one.
    pub code_name: Option<String>,
    /// The server's words.
    pub message: String,
    /// The server's details (`errInfo`).
    pub details: Option<Document>,
    /// The values that are in the way of a unique index (`keyValue`).
    pub key_value: Option<Document>,
}

impl IndexedWriteError {
    /// The write error at `index`.
    pub fn new(index: usize, error: WriteError) -> Self {
        let WriteError { code, code_name, message, details, key_value } = error;
        IndexedWriteError { index, code, code_name, message, details, key_value }
    }

    /// The same error without its index.
    pub fn into_write_error(self) -> WriteError {
        let IndexedWriteError { code, code_name, message, details, key_value, .. } = self;
        WriteError { code, code_name, message, details, key_value }
    }
}

impl fmt::Display for IndexedWriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.code_name.as_deref().unwrap_or("");
        write!(f, "#{} {}: {}", self.index, CodeAndName(self.code, name), self.message)
    }
}

/// Some documents of an `insert_many` were refused, or the write concern was not met.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct InsertManyError {
    /// The refused documents, in the order of their indexes.
    pub write_errors: Vec<IndexedWriteError>,
    /// The write concern error of the last batch that had one.
    pub write_concern_error: Option<WriteConcernError>,
    /// The `_id` of each document that was inserted, by its index.
    pub inserted_ids: BTreeMap<usize, Bson>,
}

impl fmt::Display for InsertManyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} inserted", self.inserted_ids.len())?;
        for error in &self.write_errors {
            write!(f, "; {error}")?;
        }
        if let Some(error) = &self.write_concern_error {
            write!(f, "; write concern: {error}")?;
        }
        Ok(())
    }
}

/// Some operations of a bulk write were refused, or a write concern was not met.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct BulkWriteError {
    /// The refused operations by their index in what the caller passed.
    pub write_errors: BTreeMap<usize, WriteError>,
    /// The write concern error of each batch that had one.
    pub write_concern_errors: Vec<WriteConcernError>,
    /// What was done, as counts and ids named as in the result of a whole success.
    pub partial_result: Option<Document>,
}

impl fmt::Display for BulkWriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused", self.write_errors.len())?;
        for (index, error) in &self.write_errors {
            write!(f, "; #{index} {error}")?;
        }
        for error in &self.write_concern_errors {
            write!(f, "; write concern: {error}")?;
        }
        Ok(())
    }
}

/// A code with its name, as far as they are known.
struct CodeAndName<'a>(i32, &'a str);

impl fmt::Display for CodeAndName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (0, "") => f.write_str("error without a code"),
            (code, "") => write!(f, "code {code}"),
            (code, name) => write!(f, "{name} ({code})"),
        }
    }
}
