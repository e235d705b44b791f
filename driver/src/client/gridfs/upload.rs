//! Writing files.

use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, doc};

use super::{GridFsBucket, Limit};
use crate::client::action::runs;
use crate::error::{Error, ErrorKind, GridFsErrorKind, Result};
use crate::transport::BoxFuture;

/// Opens a new file for writing: see [`GridFsBucket::open_upload_stream`].
#[must_use = "nothing happens until it is awaited"]
pub struct OpenUploadStream {
    bucket: GridFsBucket,
    filename: String,
    id: Option<Bson>,
    chunk_size_bytes: Option<u32>,
    metadata: Option<Document>,
    content_type: Option<String>,
    aliases: Option<Vec<String>>,
    timeout: Option<Duration>,
}

impl OpenUploadStream {
    pub(super) fn new(bucket: GridFsBucket, filename: &str) -> Self {
        OpenUploadStream {
            bucket,
            filename: filename.to_owned(),
            id: None,
            chunk_size_bytes: None,
            metadata: None,
            content_type: None,
            aliases: None,
            timeout: None,
        }
    }

    /// The file's identifier; default: a new ObjectId.
    pub fn id(mut self, id: impl Into<Bson>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// How many bytes a chunk has; default: what the bucket says.
    pub fn chunk_size_bytes(mut self, bytes: u32) -> Self {
        self.chunk_size_bytes = Some(bytes);
        self
    }

    /// What the application says of the file.
    pub fn metadata(mut self, metadata: Document) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// The deprecated field `contentType`: the metadata is a better place.
    pub fn content_type(mut self, kind: impl Into<String>) -> Self {
        self.content_type = Some(kind.into());
        self
    }

    /// The deprecated field `aliases`: the metadata is a better place.
    pub fn aliases(mut self, aliases: impl IntoIterator<Item = String>) -> Self {
        self.aliases = Some(aliases.into_iter().collect());
        self
    }

    /// How long the whole life of the stream may take (`timeoutMS`); zero is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Stores `bytes` as the file and gives its identifier back. What was stored of it is deleted if
    /// that fails.
    ///
    /// # Errors
    /// What the writes fail with.
    pub async fn upload(self, bytes: impl AsRef<[u8]>) -> Result<Bson> {
        let mut stream = self.await?;
        let id = stream.id().clone();
        if let Err(error) = stream.write(bytes.as_ref()).await {
            let _ = stream.abort().await;
            return Err(error);
        }
        stream.close().await?;
        Ok(id)
    }

    async fn run(self) -> Result<GridFsUploadStream> {
        let limit = Limit::begin(&self.bucket, self.timeout);
        self.bucket.ensure_indexes(limit).await?;
        let client = self.bucket.inner.files.client();
        let id = self.id.unwrap_or_else(|| Bson::ObjectId(client.new_object_id()));
        let mut file = doc! { "_id": id.clone() };
        let chunk_size = self.chunk_size_bytes.unwrap_or(self.bucket.inner.chunk_size_bytes).max(1);
        file.insert("length", 0_i64);
        file.insert("chunkSize", Bson::Int32(i32::try_from(chunk_size).unwrap_or(i32::MAX)));
        file.insert("uploadDate", DateTime::from_millis(0));
        file.insert("filename", self.filename);
        if let Some(metadata) = self.metadata {
            file.insert("metadata", metadata);
        }
        if let Some(kind) = self.content_type {
            file.insert("contentType", kind);
        }
        if let Some(aliases) = self.aliases {
            file.insert("aliases", aliases);
        }
        Ok(GridFsUploadStream {
            bucket: self.bucket,
            id,
            file,
            chunk_size: usize::try_from(chunk_size).unwrap_or(usize::MAX),
            buffer: Vec::new(),
            next: 0,
            length: 0,
            limit,
            open: true,
        })
    }
}

runs!(impl[] OpenUploadStream => GridFsUploadStream);

/// A file that is being written. It does not exist until [`GridFsUploadStream::close`]; dropped before,
/// its chunks stay behind as orphans.
#[derive(Debug)]
pub struct GridFsUploadStream {
    bucket: GridFsBucket,
    id: Bson,
    file: Document,
    chunk_size: usize,
    buffer: Vec<u8>,
    next: i32,
    length: i64,
    limit: Limit,
    open: bool,
}

impl GridFsUploadStream {
    /// The file's identifier.
    pub fn id(&self) -> &Bson {
        &self.id
    }

    /// Adds `bytes` to the file.
    ///
    /// # Errors
    /// `GridFs` once it was closed or aborted; what the writes fail with.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check_open()?;
        while !bytes.is_empty() {
            let part = bytes.len().min(self.chunk_size - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.buffer.len() == self.chunk_size {
                self.write_chunk().await?;
            }
        }
        Ok(())
    }

    /// Finishes the file: from now on it exists.
    ///
    /// # Errors
    /// As [`GridFsUploadStream::write`].
    pub async fn close(&mut self) -> Result<()> {
        self.check_open()?;
        if !self.buffer.is_empty() {
            self.write_chunk().await?;
        }
        self.open = false;
        self.file.insert("length", self.length);
        let client = self.bucket.inner.files.client();
        let now = DateTime::from_millis(client.cluster().transport().unix_millis());
        self.file.insert("uploadDate", now);
        let insert = self.bucket.inner.files.insert_one(&self.file);
        insert.timeout_if(self.limit.left(&self.bucket)).await?;
        Ok(())
    }

    /// Gives the file up: deletes its chunks.
    ///
    /// # Errors
    /// `GridFs` once it was closed or aborted; what the deletion fails with.
    pub async fn abort(&mut self) -> Result<()> {
        self.check_open()?;
        self.open = false;
        let chunks = doc! { "files_id": self.id.clone() };
        let delete = self.bucket.inner.chunks.delete_many(chunks);
        delete.timeout_if(self.limit.left(&self.bucket)).await?;
        Ok(())
    }

    async fn write_chunk(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.buffer);
        let count = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let client = self.bucket.inner.files.client();
        let chunk = doc! {
            "_id": client.new_object_id(),
            "files_id": self.id.clone(),
            "n": self.next,
            "data": Binary { subtype: BinarySubtype::Generic, bytes },
        };
        let insert = self.bucket.inner.chunks.insert_one(chunk);
        insert.timeout_if(self.limit.left(&self.bucket)).await?;
        self.next += 1;
        self.length += count;
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        if self.open {
            return Ok(());
        }
        Err(Error::new(ErrorKind::GridFs(GridFsErrorKind::UploadStreamClosed)))
    }
}
