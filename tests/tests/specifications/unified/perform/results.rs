//! What operations give back, as the documents tests look at.

use bson::{Bson, Document, doc};
use stepdown_driver::client::{DatabaseSpecification, InsertManyResult, InsertOneResult};
use stepdown_driver::{Cursor, DeleteResult, UpdateResult};

use super::Performed;
use super::Produced;

/// A number.
pub fn number(number: u64) -> Bson {
    Bson::Int64(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A document, or null.
pub fn optional(document: Option<Document>) -> Produced {
    Produced::Value(document.map_or(Bson::Null, Bson::Document))
}

/// Names.
pub fn names(names: Vec<String>) -> Produced {
    Produced::Value(Bson::Array(names.into_iter().map(Bson::String).collect()))
}

/// All documents of a cursor.
pub async fn all(mut cursor: Cursor<Document>) -> Performed {
    let mut documents = Vec::new();
    let failed = loop {
        match cursor.try_next().await {
            Ok(Some(document)) => documents.push(document),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    // Dropped it would be closed later, when nobody looks any more.
    let _closed = cursor.close().await;
    match failed {
        None => Ok(Produced::Value(Bson::from(documents))),
        Some(error) => Err(error.into()),
    }
}

/// What an insert did.
pub fn inserted(result: &InsertOneResult) -> Produced {
    Produced::Value(Bson::Document(doc! { "insertedId": result.inserted_id.clone() }))
}

/// What an insert of many did.
pub fn inserted_many(result: &InsertManyResult) -> Produced {
    let ids: Document =
        result.inserted_ids.iter().map(|(index, id)| (index.to_string(), id.clone())).collect();
    let count = number(result.inserted_ids.len() as u64);
    Produced::Value(Bson::Document(doc! {
        "insertedCount": count,
        "insertedIds": ids,
        "deletedCount": 0,
        "matchedCount": 0,
        "modifiedCount": 0,
        "upsertedCount": 0,
        "upsertedIds": {},
    }))
}

/// What an update did.
pub fn updated(result: &UpdateResult) -> Produced {
    let mut document = doc! {
        "matchedCount": number(result.matched_count),
        "modifiedCount": number(result.modified_count),
        "upsertedCount": i64::from(result.upserted_id.is_some()),
    };
    if let Some(id) = &result.upserted_id {
        document.insert("upsertedId", id.clone());
    }
    Produced::Value(Bson::Document(document))
}

/// What a deletion did.
pub fn deleted(result: &DeleteResult) -> Produced {
    Produced::Value(Bson::Document(doc! { "deletedCount": number(result.deleted_count) }))
}

/// A database.
pub fn database(database: DatabaseSpecification) -> Bson {
    Bson::Document(doc! {
        "name": database.name,
        "sizeOnDisk": number(database.size_on_disk),
        "empty": database.empty,
    })
}
