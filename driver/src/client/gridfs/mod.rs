//! GridFS: files in chunks (GridFS specification).

mod download;
mod upload;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};

pub use self::download::{GridFsDownloadStream, OpenDownloadStream};
pub use self::upload::{GridFsUploadStream, OpenUploadStream};
use super::terms::deadline;
use super::{Collection, CollectionOptions, Cursor, Database};
use crate::error::{Error, ErrorKind, GridFsErrorKind, GridFsFileIdentifier, Result};
use crate::operation::IndexModel;
use crate::options::{ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use crate::time::Instant;

/// How many bytes a chunk has where nothing else is said.
const DEFAULT_CHUNK_SIZE_BYTES: u32 = 255 * 1024;
/// NamespaceNotFound: a collection that is not there has no indexes.
const NAMESPACE_NOT_FOUND: i32 = 26;

/// What can be said about a bucket. `None` means the default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GridFsBucketOptions {
    /// What its two collections' names begin with; default `fs`.
    pub bucket_name: Option<String>,
    /// How many bytes a chunk of a new file has; default 261,120 (255 KiB).
    pub chunk_size_bytes: Option<u32>,
    /// Who must have a write; default: that of the database.
    pub write_concern: Option<WriteConcern>,
    /// Which data reads see; default: that of the database.
    pub read_concern: Option<ReadConcern>,
    /// Which members answer reads; default: that of the database.
    pub selection_criteria: Option<SelectionCriteria>,
    /// How long each operation, or the whole life of a stream, may take; default: that of the database.
    pub timeout: Option<Duration>,
}

/// Files in a database, each stored in chunks. Cheap to clone; made by
/// [`Database::gridfs_bucket`](crate::Database::gridfs_bucket).
#[derive(Clone, Debug)]
pub struct GridFsBucket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    chunk_size_bytes: u32,
    files: Collection<Document>,
    chunks: Collection<Document>,
    /// Whether the indexes were looked after.
    indexed: AtomicBool,
}

/// A file as the files collection describes it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FilesCollectionDocument {
    /// Its identifier.
    pub id: Bson,
    /// How many bytes it has.
    pub length: u64,
    /// How many bytes each of its chunks has but the last.
    pub chunk_size_bytes: u32,
    /// When its upload was finished.
    pub upload_date: DateTime,
    /// Its name.
    pub filename: Option<String>,
    /// What the application said of it.
    pub metadata: Option<Document>,
    /// The whole document.
    pub document: Document,
}

impl FilesCollectionDocument {
    fn read(document: Document) -> Result<Self> {
        let number = |key: &str| match document.get(key) {
            Some(Bson::Int32(number)) => Some(i64::from(*number)),
            Some(Bson::Int64(number)) => Some(*number),
            Some(Bson::Double(number)) if number.fract() == 0.0 => Some(*number as i64),
            _ => None,
        };
        let lacks =
            |key| Error::invalid_response(format!("a GridFS file's document has no valid {key:?}"));
        let length = number("length").and_then(|length| u64::try_from(length).ok());
        let chunk_size = number("chunkSize").and_then(|size| u32::try_from(size).ok());
        Ok(FilesCollectionDocument {
            id: document.get("_id").cloned().ok_or_else(|| lacks("_id"))?,
            length: length.ok_or_else(|| lacks("length"))?,
            chunk_size_bytes: chunk_size
                .filter(|size| *size > 0)
                .ok_or_else(|| lacks("chunkSize"))?,
            upload_date: document.get_datetime("uploadDate").copied().unwrap_or(DateTime::MIN),
            filename: document.get_str("filename").ok().map(str::to_owned),
            metadata: document.get_document("metadata").ok().cloned(),
            document,
        })
    }

    /// How many chunks it has.
    fn chunk_count(&self) -> u64 {
        self.length.div_ceil(u64::from(self.chunk_size_bytes))
    }
}

/// The time limit of one operation of several steps.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<Instant>);

impl Limit {
    fn begin(bucket: &GridFsBucket, timeout: Option<Duration>) -> Self {
        let timeout = timeout.or(bucket.inner.files.options().timeout);
        Limit(timeout.map(|timeout| deadline(bucket.inner.files.client().now(), timeout)))
    }

    /// What is left of it, as an operation's `timeoutMS`.
    fn left(self, bucket: &GridFsBucket) -> Option<Duration> {
        self.0.map(|limit| match limit {
            Instant::NEVER => Duration::ZERO,
            // Zero would be no limit at all.
            limit => (limit - bucket.inner.files.client().now()).max(Duration::from_nanos(1)),
        })
    }
}

impl GridFsBucket {
    pub(super) fn new(database: &Database, options: GridFsBucketOptions) -> Self {
        let name = options.bucket_name.unwrap_or_else(|| "fs".to_owned());
        let collection = |suffix: &str| {
            let options = CollectionOptions {
                selection_criteria: options.selection_criteria.clone(),
                read_concern: options.read_concern.clone(),
                write_concern: options.write_concern.clone(),
                timeout: options.timeout,
            };
            database.collection_with_options(&format!("{name}.{suffix}"), options)
        };
        let (files, chunks) = (collection("files"), collection("chunks"));
        let chunk_size_bytes = options.chunk_size_bytes.unwrap_or(DEFAULT_CHUNK_SIZE_BYTES).max(1);
        let indexed = AtomicBool::new(false);
        GridFsBucket { inner: Arc::new(Inner { name, chunk_size_bytes, files, chunks, indexed }) }
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Opens a new file for writing.
    pub fn open_upload_stream(&self, filename: impl AsRef<str>) -> OpenUploadStream {
        OpenUploadStream::new(self.clone(), filename.as_ref())
    }

    /// Stores `bytes` as a new file and gives its identifier back.
    ///
    /// # Errors
    /// What the writes fail with.
    pub async fn upload(&self, filename: impl AsRef<str>, bytes: impl AsRef<[u8]>) -> Result<Bson> {
        self.open_upload_stream(filename).upload(bytes).await
    }

    /// Opens the file with the identifier `id` for reading.
    pub fn open_download_stream(&self, id: Bson) -> OpenDownloadStream {
        OpenDownloadStream::by_id(self.clone(), id)
    }

    /// Opens a file of this name for reading: the newest, unless a revision is asked for.
    pub fn open_download_stream_by_name(&self, filename: impl AsRef<str>) -> OpenDownloadStream {
        OpenDownloadStream::by_name(self.clone(), filename.as_ref())
    }

    /// Finds files: the documents of the files collection that match `filter`. What
    /// [`Find`](super::Find) can be told it can be told here.
    pub fn find(&self, filter: Document) -> super::Find<Document> {
        self.inner.files.find(filter)
    }

    /// Finds one file.
    ///
    /// # Errors
    /// What the read fails with, and `InvalidResponse` if it is not a file's document.
    pub async fn find_one(&self, filter: Document) -> Result<Option<FilesCollectionDocument>> {
        let found = self.inner.files.find_one(filter).await?;
        found.map(FilesCollectionDocument::read).transpose()
    }

    /// Deletes the file with the identifier `id` and its chunks.
    ///
    /// # Errors
    /// `GridFs` if there is no such file; what the deletions fail with.
    pub async fn delete(&self, id: Bson) -> Result<()> {
        self.delete_within(id, None).await
    }

    /// As [`GridFsBucket::delete`], within `timeout`.
    ///
    /// # Errors
    /// As [`GridFsBucket::delete`].
    pub async fn delete_within(&self, id: Bson, timeout: Option<Duration>) -> Result<()> {
        let limit = Limit::begin(self, timeout);
        let (files, chunks) = (&self.inner.files, &self.inner.chunks);
        let delete = files.delete_one(doc! { "_id": &id }).timeout_if(limit.left(self));
        let deleted = delete.await?.deleted_count;
        // Without a file the chunks are orphans: they go as well.
        chunks.delete_many(doc! { "files_id": &id }).timeout_if(limit.left(self)).await?;
        if deleted == 0 { Err(not_found(GridFsFileIdentifier::Id(id))) } else { Ok(()) }
    }

    /// Deletes all files of this name and their chunks.
    ///
    /// # Errors
    /// `GridFs` if there is no such file; what the deletions fail with.
    pub async fn delete_by_name(&self, filename: impl AsRef<str>) -> Result<()> {
        self.delete_by_name_within(filename, None).await
    }

    /// As [`GridFsBucket::delete_by_name`], within `timeout`.
    ///
    /// # Errors
    /// As [`GridFsBucket::delete_by_name`].
    pub async fn delete_by_name_within(
        &self,
        filename: impl AsRef<str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let limit = Limit::begin(self, timeout);
        let (files, chunks) = (&self.inner.files, &self.inner.chunks);
        let filename = filename.as_ref();
        let find = files.find(doc! { "filename": filename }).projection(doc! { "_id": 1 });
        let mut found = find.timeout_if(limit.left(self)).await?;
        let mut ids = Vec::new();
        while let Some(mut file) = found.try_next().await? {
            ids.extend(file.remove("_id"));
        }
        if ids.is_empty() {
            return Err(not_found(GridFsFileIdentifier::Filename(filename.to_owned())));
        }
        let all = doc! { "_id": { "$in": ids.clone() } };
        files.delete_many(all).timeout_if(limit.left(self)).await?;
        let all = doc! { "files_id": { "$in": ids } };
        chunks.delete_many(all).timeout_if(limit.left(self)).await?;
        Ok(())
    }

    /// Gives the file with the identifier `id` another name.
    ///
    /// # Errors
    /// `GridFs` if there is no such file; what the update fails with.
    pub async fn rename(&self, id: Bson, new_filename: impl AsRef<str>) -> Result<()> {
        self.rename_within(id, new_filename, None).await
    }

    /// As [`GridFsBucket::rename`], within `timeout`.
    ///
    /// # Errors
    /// As [`GridFsBucket::rename`].
    pub async fn rename_within(
        &self,
        id: Bson,
        new_filename: impl AsRef<str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let limit = Limit::begin(self, timeout);
        let change = doc! { "$set": { "filename": new_filename.as_ref() } };
        let update = self.inner.files.update_one(doc! { "_id": &id }, change);
        match update.timeout_if(limit.left(self)).await?.matched_count {
            0 => Err(not_found(GridFsFileIdentifier::Id(id))),
            _ => Ok(()),
        }
    }

    /// Gives all files of this name another one.
    ///
    /// # Errors
    /// `GridFs` if there is no such file; what the update fails with.
    pub async fn rename_by_name(
        &self,
        filename: impl AsRef<str>,
        new_filename: impl AsRef<str>,
    ) -> Result<()> {
        let filename = filename.as_ref();
        let change = doc! { "$set": { "filename": new_filename.as_ref() } };
        let update = self.inner.files.update_many(doc! { "filename": filename }, change);
        match update.await?.matched_count {
            0 => Err(not_found(GridFsFileIdentifier::Filename(filename.to_owned()))),
            _ => Ok(()),
        }
    }

    /// Drops both collections with all files.
    ///
    /// # Errors
    /// What the drops fail with.
    pub async fn drop(&self) -> Result<()> {
        self.drop_within(None).await
    }

    /// As [`GridFsBucket::drop`], within `timeout`.
    ///
    /// # Errors
    /// As [`GridFsBucket::drop`].
    pub async fn drop_within(&self, timeout: Option<Duration>) -> Result<()> {
        let limit = Limit::begin(self, timeout);
        self.inner.files.drop().timeout_if(limit.left(self)).await?;
        self.inner.chunks.drop().timeout_if(limit.left(self)).await
    }

    /// Before the first write through this bucket: makes sure that an empty bucket has its indexes.
    async fn ensure_indexes(&self, limit: Limit) -> Result<()> {
        if self.inner.indexed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (files, chunks) = (&self.inner.files, &self.inner.chunks);
        let find = files.find_one(doc! {}).projection(doc! { "_id": 1 });
        let find = find.selection_criteria(ReadPreference::primary());
        if find.timeout_if(limit.left(self)).await?.is_none() {
            let keys = doc! { "filename": 1, "uploadDate": 1 };
            self.ensure_index(files, IndexModel::new(keys), limit).await?;
            let keys = doc! { "files_id": 1, "n": 1 };
            self.ensure_index(chunks, IndexModel::new(keys).unique(), limit).await?;
        }
        self.inner.indexed.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn ensure_index(
        &self,
        collection: &Collection<Document>,
        index: IndexModel,
        limit: Limit,
    ) -> Result<()> {
        let exists = |mut listed: Cursor<Document>| {
            let keys = index.keys.clone();
            async move {
                while let Some(known) = listed.try_next().await? {
                    if known.get_document("key").is_ok_and(|known| same_keys(known, &keys)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        };
        if listed(collection.list_indexes().timeout_if(limit.left(self)).await, exists).await? {
            return Ok(());
        }
        collection.create_index(index).timeout_if(limit.left(self)).await?;
        Ok(())
    }
}

/// Whether an index is among those listed; a collection that is not there has none.
async fn listed<F>(
    cursor: Result<Cursor<Document>>,
    exists: impl FnOnce(Cursor<Document>) -> F,
) -> Result<bool>
where
    F: Future<Output = Result<bool>>,
{
    match cursor {
        Ok(cursor) => exists(cursor).await,
        Err(error) if error.code() == Some(NAMESPACE_NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether two indexes have the same keys, numbers compared by value.
fn same_keys(one: &Document, other: &Document) -> bool {
    let same = |one: &Bson, other: &Bson| {
        let number = |value: &Bson| match value {
            Bson::Int32(number) => Some(f64::from(*number)),
            Bson::Int64(number) => Some(*number as f64),
            Bson::Double(number) => Some(*number),
            _ => None,
        };
        match (number(one), number(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        }
    };
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| one.0 == other.0 && same(one.1, other.1))
}

fn not_found(identifier: GridFsFileIdentifier) -> Error {
    Error::new(ErrorKind::GridFs(GridFsErrorKind::FileNotFound { identifier }))
}
