//! Reading files.

use std::time::Duration;

use bson::{Bson, Document, doc};

use super::{FilesCollectionDocument, GridFsBucket, Limit, not_found};
use crate::client::Cursor;
use crate::client::action::runs;
use crate::error::{Error, ErrorKind, GridFsErrorKind, GridFsFileIdentifier, Result};
use crate::transport::BoxFuture;

/// Opens a file for reading: see [`GridFsBucket::open_download_stream`] and
/// [`GridFsBucket::open_download_stream_by_name`].
#[must_use = "nothing happens until it is awaited"]
pub struct OpenDownloadStream {
    bucket: GridFsBucket,
    identifier: GridFsFileIdentifier,
    revision: i32,
    timeout: Option<Duration>,
}

impl OpenDownloadStream {
    pub(super) fn by_id(bucket: GridFsBucket, id: Bson) -> Self {
        let identifier = GridFsFileIdentifier::Id(id);
        OpenDownloadStream { bucket, identifier, revision: -1, timeout: None }
    }

    pub(super) fn by_name(bucket: GridFsBucket, filename: &str) -> Self {
        let identifier = GridFsFileIdentifier::Filename(filename.to_owned());
        OpenDownloadStream { bucket, identifier, revision: -1, timeout: None }
    }

    /// Which of the files of that name: 0 is the first, 1 the second; -1, the default, the newest, -2
    /// the one before. Without effect on a file opened by its identifier.
    pub fn revision(mut self, revision: i32) -> Self {
        self.revision = revision;
        self
    }

    /// How long the whole life of the stream may take (`timeoutMS`); zero is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// As [`GridFsDownloadStream::read`].
    pub async fn download(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.await?.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn run(self) -> Result<GridFsDownloadStream> {
        let (bucket, limit) = (self.bucket.clone(), Limit::begin(&self.bucket, self.timeout));
        let files = &bucket.inner.files;
        let find = match &self.identifier {
            GridFsFileIdentifier::Id(id) => files.find_one(doc! { "_id": id }),
            GridFsFileIdentifier::Filename(name) => {
                let (direction, skip) = match self.revision {
                    newest @ ..0 => (-1, newest.unsigned_abs() - 1),
                    oldest => (1, oldest.unsigned_abs()),
                };
                let sort = doc! { "uploadDate": direction };
                let find = files.find_one(doc! { "filename": name }).sort(sort);
                if skip > 0 { find.skip(u64::from(skip)) } else { find }
            }
        };
        let Some(found) = find.timeout_if(limit.left(&bucket)).await? else {
            return Err(match self.identifier {
                GridFsFileIdentifier::Filename(filename) if self.revision != -1 => {
                    let revision = self.revision;
                    let kind = GridFsErrorKind::RevisionNotFound { filename, revision };
                    Error::new(ErrorKind::GridFs(kind))
                }
                identifier => not_found(identifier),
            });
        };
        let file = FilesCollectionDocument::read(found)?;
        let chunks = match file.length {
            0 => None,
            _ => {
                let find = bucket.inner.chunks.find(doc! { "files_id": file.id.clone() });
                Some(find.sort(doc! { "n": 1 }).timeout_if(limit.left(&bucket)).await?)
            }
        };
        Ok(GridFsDownloadStream { file, chunks, next: 0, chunk: Vec::new(), read: 0 })
    }
}

runs!(impl[] OpenDownloadStream => GridFsDownloadStream);

/// A file that is being read.
#[derive(Debug)]
pub struct GridFsDownloadStream {
    file: FilesCollectionDocument,
    chunks: Option<Cursor<Document>>,
    next: u64,
    chunk: Vec<u8>,
    read: usize,
}

impl GridFsDownloadStream {
    /// The file.
    pub fn file(&self) -> &FilesCollectionDocument {
        &self.file
    }

    /// Reads some bytes into `into` and says how many; 0 is the end.
    ///
    /// # Errors
    /// `GridFs` if chunks are missing, too many or of a wrong size; what the reads fail with.
    pub async fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        if into.is_empty() || (self.read == self.chunk.len() && !self.fetch().await?) {
            return Ok(0);
        }
        let count = into.len().min(self.chunk.len() - self.read);
        into[..count].copy_from_slice(&self.chunk[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }

    /// Reads the rest of the file.
    ///
    /// # Errors
    /// As [`GridFsDownloadStream::read`].
    pub async fn read_to_end(&mut self, into: &mut Vec<u8>) -> Result<()> {
        loop {
            into.extend_from_slice(&self.chunk[self.read..]);
            self.read = self.chunk.len();
            if !self.fetch().await? {
                return Ok(());
            }
        }
    }

    /// Takes the next chunk. Returns false at the end.
    async fn fetch(&mut self) -> Result<bool> {
        let wrong = |kind| Error::new(ErrorKind::GridFs(kind));
        let count = self.file.chunk_count();
        let Some(chunks) = &mut self.chunks else { return Ok(false) };
        let Some(chunk) = chunks.try_next().await? else {
            if self.next < count {
                return Err(wrong(GridFsErrorKind::MissingChunk { n: self.next }));
            }
            self.chunks = None;
            return Ok(false);
        };
        let n = match chunk.get("n") {
            Some(Bson::Int32(n)) => u64::try_from(*n).ok(),
            Some(Bson::Int64(n)) => u64::try_from(*n).ok(),
            _ => None,
        };
        if self.next >= count {
            return Err(wrong(GridFsErrorKind::WrongNumberOfChunks {
                actual: self.next + 1,
                expected: count,
            }));
        }
        if n != Some(self.next) {
            return Err(wrong(GridFsErrorKind::MissingChunk { n: self.next }));
        }
        let bytes = chunk.get_binary_generic("data").cloned().unwrap_or_default();
        let whole = u64::from(self.file.chunk_size_bytes);
        let expected = match self.next + 1 == count {
            true => self.file.length - whole * self.next,
            false => whole,
        };
        if bytes.len() as u64 != expected {
            return Err(wrong(GridFsErrorKind::WrongSizeChunk {
                n: self.next,
                actual: bytes.len() as u64,
                expected,
            }));
        }
        self.next += 1;
        self.chunk = bytes;
        self.read = 0;
        Ok(true)
    }
}
