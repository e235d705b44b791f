//! Operations on GridFS buckets.

use bson::{Bson, Document};
use stepdown_driver::gridfs::{GridFsBucket, GridFsDownloadStream};

use super::{Call, Performed, Produced, collection, results};
use crate::unified::Failure;
use crate::unified::arguments::Arguments;
use crate::unified::matching::hex_bytes;

pub async fn perform(mut call: Call<'_>, bucket: &GridFsBucket) -> Performed {
    let name = call.operation.name.as_str();
    match name {
        "download" | "downloadByName" => {
            let mut open = match name {
                "download" => bucket.open_download_stream(call.arguments.required("id")?),
                _ => bucket.open_download_stream_by_name(call.arguments.required_text("filename")?),
            };
            if let Some(revision) = call.arguments.integer("revision")? {
                open = open.revision(i32::try_from(revision).unwrap_or(i32::MAX));
            }
            if let Some(timeout) = call.arguments.millis("timeoutMS")? {
                open = open.timeout(timeout);
            }
            call.finish()?;
            read(open.await?).await
        }
        "upload" | "uploadWithId" => {
            let mut open = bucket.open_upload_stream(call.arguments.required_text("filename")?);
            let source = source(&mut call.arguments)?;
            if let Some(id) = call.arguments.take("id") {
                open = open.id(id);
            }
            if let Some(size) = call.arguments.size("chunkSizeBytes")? {
                open = open.chunk_size_bytes(size);
            }
            if let Some(metadata) = call.arguments.document("metadata")? {
                open = open.metadata(metadata);
            }
            if let Some(kind) = call.arguments.text("contentType")? {
                open = open.content_type(kind);
            }
            // This driver never had the checksum that this switches off.
            call.arguments.boolean("disableMD5")?;
            if let Some(timeout) = call.arguments.millis("timeoutMS")? {
                open = open.timeout(timeout);
            }
            call.finish()?;
            Ok(Produced::Value(open.upload(source).await?))
        }
        "delete" => {
            let id = call.arguments.required("id")?;
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            bucket.delete_within(id, timeout).await?;
            Ok(Produced::Nothing)
        }
        "deleteByName" => {
            let filename = call.arguments.required_text("filename")?;
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            bucket.delete_by_name_within(filename, timeout).await?;
            Ok(Produced::Nothing)
        }
        "rename" => {
            let id = call.arguments.required("id")?;
            let to = call.arguments.required_text("newFilename")?;
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            bucket.rename_within(id, to, timeout).await?;
            Ok(Produced::Nothing)
        }
        "renameByName" => {
            let filename = call.arguments.required_text("filename")?;
            let to = call.arguments.required_text("newFilename")?;
            call.finish()?;
            bucket.rename_by_name(filename, to).await?;
            Ok(Produced::Nothing)
        }
        "drop" => {
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            bucket.drop_within(timeout).await?;
            Ok(Produced::Nothing)
        }
        "find" => {
            let action = bucket.find(call.arguments.filter()?);
            let action = action.with_options(collection::find_options(&mut call.arguments)?);
            results::all(under_terms!(call, action).await?).await
        }
        _ => Err(call.unsupported("bucket")),
    }
}

/// The bytes of `{ $$hexBytes: "12ab" }`.
fn source(arguments: &mut Arguments) -> Result<Vec<u8>, Failure> {
    let source = arguments.required_document("source")?;
    let malformed = || Failure::test(format!("malformed source: {source}"));
    let mut fields: Document = source.clone();
    let bytes = match fields.remove("$$hexBytes") {
        Some(Bson::String(text)) if fields.is_empty() => hex_bytes(&text),
        _ => None,
    };
    bytes.ok_or_else(malformed)
}

/// The whole file, as tests compare it.
async fn read(mut stream: GridFsDownloadStream) -> Performed {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let subtype = bson::spec::BinarySubtype::Generic;
    Ok(Produced::Value(Bson::Binary(bson::Binary { subtype, bytes })))
}
