//! Bulk writes.

use bson::{Bson, Document, doc};
use stepdown_driver::client::InsertOneResult;
use stepdown_driver::operation::{
    BulkWriteResult, DeleteManyModel, DeleteOneModel, InsertOneModel, Namespace, ReplaceOneModel,
    UpdateManyModel, UpdateOneModel, WriteModel,
};
use stepdown_driver::options::{
    BulkWriteOptions, CollectionBulkWriteOptions, CollectionWriteOptions,
};
use stepdown_driver::{Client, Collection, CollectionWriteModel};

use super::results::number;
use super::{Call, Performed, Produced};
use crate::unified::Failure;
use crate::unified::arguments::Arguments;

/// `bulkWrite` on a collection.
pub async fn of_collection(mut call: Call<'_>, collection: &Collection<Document>) -> Performed {
    let requests = call.arguments.required_documents("requests")?;
    let models = requests.iter().map(model).collect::<Result<Vec<_>, Failure>>()?;
    let arguments = &mut call.arguments;
    let mut options = CollectionBulkWriteOptions::default();
    options.ordered = arguments.boolean("ordered")?;
    options.bypass_document_validation = arguments.boolean("bypassDocumentValidation")?;
    options.let_vars = arguments.document("let")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    let action = under_terms!(call, collection.bulk_write(models).with_options(options));
    Ok(Produced::Value(Bson::Document(action.await?.to_document())))
}

/// `clientBulkWrite`.
pub async fn of_client(mut call: Call<'_>, client: &Client) -> Performed {
    let models = call.arguments.required_documents("models")?;
    let models = models.iter().map(client_model).collect::<Result<Vec<_>, Failure>>()?;
    let arguments = &mut call.arguments;
    let mut options = BulkWriteOptions::default();
    options.ordered = arguments.boolean("ordered")?;
    options.bypass_document_validation = arguments.boolean("bypassDocumentValidation")?;
    options.let_vars = arguments.document("let")?;
    options.verbose_results = arguments.boolean("verboseResults")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    let action = under_terms!(call, client.bulk_write(models).with_options(options));
    Ok(Produced::Value(Bson::Document(client_result(&action.await?))))
}

/// What a bulk write did, by the names of the specification.
fn client_result(result: &BulkWriteResult) -> Document {
    if !result.acknowledged {
        return doc! { "acknowledged": false };
    }
    let mut document = doc! {
        "acknowledged": true,
        "insertedCount": number(result.inserted_count),
        "upsertedCount": number(result.upserted_count),
        "matchedCount": number(result.matched_count),
        "modifiedCount": number(result.modified_count),
        "deletedCount": number(result.deleted_count),
    };
    if result.has_verbose_results {
        let inserts = result.insert_results.iter();
        let inserts = inserts.map(|(index, result)| (index.to_string(), inserted_document(result)));
        document.insert("insertResults", inserts.collect::<Document>());
        let updates = result.update_results.iter();
        let updates = updates.map(|(index, result)| {
            let mut one = doc! {
                "matchedCount": number(result.matched_count),
                "modifiedCount": number(result.modified_count),
            };
            one.extend(result.upserted_id.clone().map(|id| ("upsertedId".to_owned(), id)));
            (index.to_string(), Bson::Document(one))
        });
        document.insert("updateResults", updates.collect::<Document>());
        let deletes = result.delete_results.iter();
        let deletes = deletes.map(|(index, result)| {
            let one = doc! { "deletedCount": number(result.deleted_count) };
            (index.to_string(), Bson::Document(one))
        });
        document.insert("deleteResults", deletes.collect::<Document>());
    }
    document
}

fn inserted_document(result: &InsertOneResult) -> Bson {
    Bson::Document(doc! { "insertedId": result.inserted_id.clone() })
}

fn client_model(request: &Document) -> Result<WriteModel, Failure> {
    let Some((kind, Bson::Document(of))) = request.iter().next() else {
        return Err(Failure::test(format!("{request} is no write")));
    };
    let mut arguments = Arguments::new(kind, of.clone());
    let namespace = arguments.required_text("namespace")?;
    let namespace: Namespace = namespace.parse().map_err(Failure::Driver)?;
    let collation = arguments.document("collation")?;
    let hint = arguments.hint()?;
    let model = match kind.as_str() {
        "insertOne" => {
            InsertOneModel::new(namespace, arguments.required_document("document")?).into()
        }
        "updateOne" => {
            let filter = arguments.required_document("filter")?;
            let mut model = UpdateOneModel::new(namespace, filter, arguments.update()?);
            model.array_filters = arguments.documents("arrayFilters")?;
            model.upsert = arguments.boolean("upsert")?;
            model.sort = arguments.document("sort")?;
            (model.collation, model.hint) = (collation, hint);
            model.into()
        }
        "updateMany" => {
            let filter = arguments.required_document("filter")?;
            let mut model = UpdateManyModel::new(namespace, filter, arguments.update()?);
            model.array_filters = arguments.documents("arrayFilters")?;
            model.upsert = arguments.boolean("upsert")?;
            (model.collation, model.hint) = (collation, hint);
            model.into()
        }
        "replaceOne" => {
            let filter = arguments.required_document("filter")?;
            let replacement = arguments.required_document("replacement")?;
            let mut model = ReplaceOneModel::new(namespace, filter, replacement);
            model.upsert = arguments.boolean("upsert")?;
            model.sort = arguments.document("sort")?;
            (model.collation, model.hint) = (collation, hint);
            model.into()
        }
        "deleteOne" => {
            let filter = arguments.required_document("filter")?;
            let mut model = DeleteOneModel::new(namespace, filter);
            (model.collation, model.hint) = (collation, hint);
            model.into()
        }
        "deleteMany" => {
            let filter = arguments.required_document("filter")?;
            let mut model = DeleteManyModel::new(namespace, filter);
            (model.collation, model.hint) = (collation, hint);
            model.into()
        }
        other => return Err(Failure::test(format!("{other} is no write"))),
    };
    arguments.finish()?;
    Ok(model)
}

fn model(request: &Document) -> Result<CollectionWriteModel, Failure> {
    let Some((kind, Bson::Document(of))) = request.iter().next() else {
        return Err(Failure::test(format!("{request} is no write")));
    };
    let mut arguments = Arguments::new(kind, of.clone());
    let model = match kind.as_str() {
        "insertOne" => CollectionWriteModel::InsertOne(arguments.required_document("document")?),
        "updateOne" | "updateMany" => {
            let filter = arguments.required_document("filter")?;
            let update = arguments.update()?;
            let options = options(&mut arguments)?;
            match kind.as_str() {
                "updateOne" => CollectionWriteModel::UpdateOne(filter, update, options),
                _ => CollectionWriteModel::UpdateMany(filter, update, options),
            }
        }
        "replaceOne" => {
            let filter = arguments.required_document("filter")?;
            let replacement = arguments.required_document("replacement")?;
            CollectionWriteModel::ReplaceOne(filter, replacement, options(&mut arguments)?)
        }
        "deleteOne" | "deleteMany" => {
            let filter = arguments.required_document("filter")?;
            let options = options(&mut arguments)?;
            match kind.as_str() {
                "deleteOne" => CollectionWriteModel::DeleteOne(filter, options),
                _ => CollectionWriteModel::DeleteMany(filter, options),
            }
        }
        other => return Err(Failure::test(format!("{other} is no write"))),
    };
    arguments.finish()?;
    Ok(model)
}

fn options(arguments: &mut Arguments) -> Result<CollectionWriteOptions, Failure> {
    let mut options = CollectionWriteOptions::default();
    options.array_filters = arguments.documents("arrayFilters")?;
    options.upsert = arguments.boolean("upsert")?;
    options.sort = arguments.document("sort")?;
    options.collation = arguments.document("collation")?;
    options.hint = arguments.hint()?;
    Ok(options)
}
