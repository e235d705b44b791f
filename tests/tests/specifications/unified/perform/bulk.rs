//! Bulk writes.

use bson::{Bson, Document};
use stepdown_driver::options::{CollectionBulkWriteOptions, CollectionWriteOptions};
use stepdown_driver::{Collection, CollectionWriteModel};

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
