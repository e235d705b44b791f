//! Operations on collections.

use bson::{Bson, Document, RawDocumentBuf, doc};
use stepdown_driver::client::{Aggregate, ResumeToken, Watch};
use stepdown_driver::options::{
    AggregateOptions, ChangeStreamOptions, CountOptions, CreateIndexOptions, CursorType,
    DeleteOptions, DistinctOptions, EstimatedDocumentCountOptions, FindOneAndModifyOptions,
    FindOptions, IndexOptions, InsertOptions, ReturnDocument, TimeoutMode, UpdateOptions,
};
use stepdown_driver::{Collection, IndexModel, SearchIndexModel};

use super::{Call, Performed, Produced, bulk, results};
use crate::unified::Failure;
use crate::unified::arguments::Arguments;
use crate::unified::entities::{AnyCursor, CursorEntity};

pub async fn perform(mut call: Call<'_>, collection: &Collection<Document>) -> Performed {
    let name = call.operation.name.as_str();
    match name {
        "find" | "createFindCursor" => {
            let action = collection.find(call.arguments.required_document("filter")?);
            let action = action.with_options(find_options(&mut call.arguments)?);
            let action = under_terms!(call, action);
            let cursor = action.await?;
            match name {
                "find" => results::all(cursor).await,
                _ => Ok(Produced::Entity(CursorEntity::entity(AnyCursor::Documents(Box::new(
                    cursor,
                ))))),
            }
        }
        "findOne" => {
            let action = collection.find_one(call.arguments.filter()?);
            let action = action.with_options(find_options(&mut call.arguments)?);
            let action = under_terms!(call, action);
            Ok(results::optional(action.await?))
        }
        "aggregate" => {
            let pipeline = call.arguments.required_documents("pipeline")?;
            let action = collection.aggregate(pipeline);
            aggregate(call, action).await
        }
        "count" => {
            let filter = call.arguments.filter()?;
            let arguments = &mut call.arguments;
            let mut options = CountOptions::default();
            options.collation = arguments.document("collation")?;
            options.hint = arguments.hint()?;
            options.limit = arguments.count("limit")?;
            options.skip = arguments.count("skip")?;
            options.max_time = arguments.millis("maxTimeMS")?;
            options.comment = arguments.take("comment");
            let action = under_terms!(call, collection.count(filter).with_options(options));
            Ok(Produced::Value(results::number(action.await?)))
        }
        "countDocuments" => {
            let filter = call.arguments.filter()?;
            let arguments = &mut call.arguments;
            let mut options = CountOptions::default();
            options.collation = arguments.document("collation")?;
            options.hint = arguments.hint()?;
            options.limit = arguments.count("limit")?;
            options.skip = arguments.count("skip")?;
            options.max_time = arguments.millis("maxTimeMS")?;
            options.comment = arguments.take("comment");
            let action = collection.count_documents(filter).with_options(options);
            let action = under_terms!(call, action);
            Ok(Produced::Value(results::number(action.await?)))
        }
        "estimatedDocumentCount" => {
            let arguments = &mut call.arguments;
            let mut options = EstimatedDocumentCountOptions::default();
            options.max_time = arguments.millis("maxTimeMS")?;
            options.comment = arguments.take("comment");
            let action = collection.estimated_document_count().with_options(options);
            let action = under_terms!(call, action);
            Ok(Produced::Value(results::number(action.await?)))
        }
        "distinct" => {
            let field = call.arguments.required_text("fieldName")?;
            let filter = call.arguments.filter()?;
            let arguments = &mut call.arguments;
            let mut options = DistinctOptions::default();
            options.collation = arguments.document("collation")?;
            options.hint = arguments.hint()?;
            options.max_time = arguments.millis("maxTimeMS")?;
            options.comment = arguments.take("comment");
            let action = collection.distinct(field, filter).with_options(options);
            let action = under_terms!(call, action);
            Ok(Produced::Value(Bson::Array(action.await?)))
        }
        "insertOne" => {
            let document = call.arguments.required_document("document")?;
            let options = insert_options(&mut call.arguments)?;
            let action = collection.insert_one(document).with_options(options);
            let action = under_terms!(call, action);
            Ok(results::inserted(&action.await?))
        }
        "insertMany" => {
            let documents = call.arguments.required_documents("documents")?;
            let options = insert_options(&mut call.arguments)?;
            let action = collection.insert_many(documents).with_options(options);
            let action = under_terms!(call, action);
            Ok(results::inserted_many(&action.await?))
        }
        "updateOne" | "updateMany" | "replaceOne" => {
            let filter = call.arguments.required_document("filter")?;
            let action = match name {
                "updateOne" => collection.update_one(filter, call.arguments.update()?),
                "updateMany" => collection.update_many(filter, call.arguments.update()?),
                _ => {
                    let replacement = call.arguments.required_document("replacement")?;
                    collection.replace_one(filter, replacement)
                }
            };
            let action = action.with_options(update_options(&mut call.arguments)?);
            let action = under_terms!(call, action);
            Ok(results::updated(&action.await?))
        }
        "deleteOne" | "deleteMany" => {
            let filter = call.arguments.required_document("filter")?;
            let arguments = &mut call.arguments;
            let mut options = DeleteOptions::default();
            options.collation = arguments.document("collation")?;
            options.hint = arguments.hint()?;
            options.let_vars = arguments.document("let")?;
            options.comment = arguments.take("comment");
            options.write_concern = arguments.write_concern()?;
            let action = match name {
                "deleteOne" => collection.delete_one(filter),
                _ => collection.delete_many(filter),
            };
            let action = action.with_options(options);
            let action = under_terms!(call, action);
            Ok(results::deleted(&action.await?))
        }
        "findOneAndDelete" | "findOneAndReplace" | "findOneAndUpdate" => {
            let filter = call.arguments.required_document("filter")?;
            let action = match name {
                "findOneAndDelete" => collection.find_one_and_delete(filter),
                "findOneAndReplace" => {
                    let replacement = call.arguments.required_document("replacement")?;
                    collection.find_one_and_replace(filter, replacement)
                }
                _ => collection.find_one_and_update(filter, call.arguments.update()?),
            };
            let action = action.with_options(find_and_modify_options(&mut call.arguments)?);
            let action = under_terms!(call, action);
            Ok(results::optional(action.await?))
        }
        "createIndex" => create_index(call, collection).await,
        "dropIndex" | "dropIndexes" => {
            let mut action = match name {
                "dropIndex" => collection.drop_index(call.arguments.required_text("name")?),
                _ => collection.drop_indexes(),
            };
            if let Some(time) = call.arguments.millis("maxTimeMS")? {
                action = action.max_time(time);
            }
            let action = under_terms!(call, action);
            action.await?;
            Ok(Produced::Nothing)
        }
        "listIndexes" | "listIndexNames" => {
            let mut action = collection.list_indexes();
            if let Some(size) = call.arguments.size("batchSize")? {
                action = action.batch_size(size);
            }
            if let Some(mode) = timeout_mode(&mut call.arguments)? {
                action = action.timeout_mode(mode);
            }
            if let Some(comment) = call.arguments.take("comment") {
                action = action.comment(comment);
            }
            let action = under_terms!(call, action);
            let cursor = action.await?;
            if name == "listIndexes" {
                return results::all(cursor).await;
            }
            let indexes: Vec<Document> = cursor.try_collect().await?;
            let name_of = |index: &Document| index.get_str("name").map(str::to_owned);
            Ok(results::names(indexes.iter().filter_map(|index| name_of(index).ok()).collect()))
        }
        "drop" => {
            let action = collection.drop();
            let action = under_terms!(call, action);
            action.await?;
            Ok(Produced::Nothing)
        }
        "rename" => {
            let to = call.arguments.required_text("to")?;
            let to = format!("{}.{to}", collection.database().name());
            let mut command = doc! { "renameCollection": collection.namespace(), "to": to };
            if let Some(drop_target) = call.arguments.boolean("dropTarget")? {
                command.insert("dropTarget", drop_target);
            }
            let action = collection.client().database("admin").run_command(command);
            let action = under_terms!(call, action);
            action.await?;
            Ok(Produced::Nothing)
        }
        "bulkWrite" => bulk::of_collection(call, collection).await,
        "createSearchIndex" | "createSearchIndexes" => {
            let models = match name {
                "createSearchIndex" => vec![call.arguments.required_document("model")?],
                _ => call.arguments.required_documents("models")?,
            };
            let models = models.into_iter().map(search_index).collect::<Result<Vec<_>, _>>()?;
            let action = under_terms!(call, collection.create_search_indexes(models));
            let mut names = action.await?;
            match name {
                "createSearchIndex" => {
                    Ok(Produced::Value(Bson::String(names.pop().unwrap_or_default())))
                }
                _ => Ok(results::names(names)),
            }
        }
        "updateSearchIndex" => {
            let index = call.arguments.required_text("name")?;
            let definition = call.arguments.required_document("definition")?;
            under_terms!(call, collection.update_search_index(index, definition)).await?;
            Ok(Produced::Nothing)
        }
        "dropSearchIndex" => {
            let index = call.arguments.required_text("name")?;
            under_terms!(call, collection.drop_search_index(index)).await?;
            Ok(Produced::Nothing)
        }
        "listSearchIndexes" => {
            let index = call.arguments.text("name")?;
            let mut nested = call.arguments.document("aggregationOptions")?.unwrap_or_default();
            for (name, value) in std::mem::take(&mut nested) {
                call.arguments.put(name, value);
            }
            let action = collection.list_search_indexes(index.as_deref());
            aggregate(call, action).await
        }
        "createChangeStream" => {
            let pipeline = call.arguments.documents("pipeline")?.unwrap_or_default();
            watch(call, collection.watch().pipeline(pipeline)).await
        }
        _ => Err(call.unsupported("collection")),
    }
}

/// An aggregation over a collection or a database.
pub async fn aggregate(mut call: Call<'_>, action: Aggregate<Document>) -> Performed {
    let arguments = &mut call.arguments;
    let mut options = AggregateOptions::default();
    options.allow_disk_use = arguments.boolean("allowDiskUse")?;
    options.batch_size = arguments.size("batchSize")?;
    options.bypass_document_validation = arguments.boolean("bypassDocumentValidation")?;
    options.collation = arguments.document("collation")?;
    options.hint = arguments.hint()?;
    options.max_time = arguments.millis("maxTimeMS")?;
    options.max_await_time = arguments.millis("maxAwaitTimeMS")?;
    options.let_vars = arguments.document("let")?;
    options.comment = arguments.take("comment");
    options.timeout_mode = timeout_mode(arguments)?;
    options.write_concern = arguments.write_concern()?;
    options.read_concern = arguments.read_concern()?;
    let action = action.with_options(options);
    let action = under_terms!(call, action);
    results::all(action.await?).await
}

/// A change stream of a collection, a database or the deployment.
pub async fn watch(mut call: Call<'_>, action: Watch<Document>) -> Performed {
    let arguments = &mut call.arguments;
    let mut options = ChangeStreamOptions::default();
    options.full_document = arguments.text("fullDocument")?.map(|name| name.as_str().into());
    options.full_document_before_change =
        arguments.text("fullDocumentBeforeChange")?.map(|name| name.as_str().into());
    options.resume_after = resume_token(arguments.document("resumeAfter")?)?;
    options.start_after = resume_token(arguments.document("startAfter")?)?;
    options.start_at_operation_time = match arguments.take("startAtOperationTime") {
        Some(Bson::Timestamp(time)) => Some(time),
        None => None,
        Some(other) => {
            return Err(Failure::test(format!("startAtOperationTime cannot be {other}")));
        }
    };
    options.show_expanded_events = arguments.boolean("showExpandedEvents")?;
    options.max_await_time = arguments.millis("maxAwaitTimeMS")?;
    options.batch_size = arguments.size("batchSize")?;
    options.collation = arguments.document("collation")?;
    options.comment = arguments.take("comment");
    let action = under_terms!(call, action.with_options(options));
    let stream = action.await?.with_type::<Document>();
    Ok(Produced::Entity(CursorEntity::entity(AnyCursor::Changes(Box::new(stream)))))
}

fn resume_token(token: Option<Document>) -> Result<Option<ResumeToken>, Failure> {
    let Some(token) = token else { return Ok(None) };
    let raw = RawDocumentBuf::try_from(&token).map_err(|e| Failure::test(e.to_string()))?;
    Ok(Some(ResumeToken::new(raw)))
}

/// What a find can be told.
pub fn find_options(arguments: &mut Arguments) -> Result<FindOptions, Failure> {
    let mut options = FindOptions::default();
    options.sort = arguments.document("sort")?;
    options.projection = arguments.document("projection")?;
    options.hint = arguments.hint()?;
    options.skip = arguments.count("skip")?;
    options.limit = arguments.integer("limit")?;
    options.batch_size = arguments.size("batchSize")?;
    options.max_time = arguments.millis("maxTimeMS")?;
    options.max_await_time = arguments.millis("maxAwaitTimeMS")?;
    options.comment = arguments.take("comment");
    options.collation = arguments.document("collation")?;
    options.min = arguments.document("min")?;
    options.max = arguments.document("max")?;
    options.return_key = arguments.boolean("returnKey")?;
    options.show_record_id = arguments.boolean("showRecordId")?;
    options.no_cursor_timeout = arguments.boolean("noCursorTimeout")?;
    options.allow_disk_use = arguments.boolean("allowDiskUse")?;
    options.allow_partial_results = arguments.boolean("allowPartialResults")?;
    options.let_vars = arguments.document("let")?;
    options.cursor_type = cursor_type(arguments)?;
    options.timeout_mode = timeout_mode(arguments)?;
    options.read_concern = arguments.read_concern()?;
    if let Some(preference) = arguments.read_preference()? {
        options.selection_criteria = Some(preference.into());
    }
    Ok(options)
}

/// `cursorType`.
pub fn cursor_type(arguments: &mut Arguments) -> Result<Option<CursorType>, Failure> {
    let Some(name) = arguments.text("cursorType")? else { return Ok(None) };
    match name.as_str() {
        "nonTailable" => Ok(Some(CursorType::NonTailable)),
        "tailable" => Ok(Some(CursorType::Tailable)),
        "tailableAwait" => Ok(Some(CursorType::TailableAwait)),
        other => Err(Failure::test(format!("the cursor type {other} is not known"))),
    }
}

fn search_index(model: Document) -> Result<SearchIndexModel, Failure> {
    let mut arguments = Arguments::new("SearchIndexModel", model);
    let mut model = SearchIndexModel::new(arguments.required_document("definition")?);
    model.name = arguments.text("name")?;
    model.index_type = arguments.text("type")?;
    arguments.finish()?;
    Ok(model)
}

/// `timeoutMode`.
pub fn timeout_mode(arguments: &mut Arguments) -> Result<Option<TimeoutMode>, Failure> {
    let Some(name) = arguments.text("timeoutMode")? else { return Ok(None) };
    match name.as_str() {
        "iteration" => Ok(Some(TimeoutMode::Iteration)),
        "cursorLifetime" => Ok(Some(TimeoutMode::CursorLifetime)),
        other => Err(Failure::test(format!("the timeout mode {other} is not known"))),
    }
}

fn insert_options(arguments: &mut Arguments) -> Result<InsertOptions, Failure> {
    let mut options = InsertOptions::default();
    options.bypass_document_validation = arguments.boolean("bypassDocumentValidation")?;
    options.ordered = arguments.boolean("ordered")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    Ok(options)
}

fn update_options(arguments: &mut Arguments) -> Result<UpdateOptions, Failure> {
    let mut options = UpdateOptions::default();
    options.array_filters = arguments.documents("arrayFilters")?;
    options.bypass_document_validation = arguments.boolean("bypassDocumentValidation")?;
    options.upsert = arguments.boolean("upsert")?;
    options.sort = arguments.document("sort")?;
    options.collation = arguments.document("collation")?;
    options.hint = arguments.hint()?;
    options.let_vars = arguments.document("let")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    Ok(options)
}

fn find_and_modify_options(arguments: &mut Arguments) -> Result<FindOneAndModifyOptions, Failure> {
    let mut options = FindOneAndModifyOptions::default();
    options.array_filters = arguments.documents("arrayFilters")?;
    options.bypass_document_validation = arguments.boolean("bypassDocumentValidation")?;
    options.upsert = arguments.boolean("upsert")?;
    options.sort = arguments.document("sort")?;
    options.projection = arguments.document("projection")?;
    options.collation = arguments.document("collation")?;
    options.hint = arguments.hint()?;
    options.max_time = arguments.millis("maxTimeMS")?;
    options.let_vars = arguments.document("let")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    if let Some(state) = arguments.text("returnDocument")? {
        options.return_document = Some(match state.to_ascii_lowercase().as_str() {
            "before" => ReturnDocument::Before,
            "after" => ReturnDocument::After,
            other => return Err(Failure::test(format!("returnDocument cannot be {other}"))),
        });
    }
    Ok(options)
}

async fn create_index(mut call: Call<'_>, collection: &Collection<Document>) -> Performed {
    let keys = call.arguments.required_document("keys")?;
    let arguments = &mut call.arguments;
    let mut index = IndexOptions::default();
    index.name = arguments.text("name")?;
    index.unique = arguments.boolean("unique")?;
    index.sparse = arguments.boolean("sparse")?;
    index.hidden = arguments.boolean("hidden")?;
    index.expire_after = arguments.count("expireAfterSeconds")?.map(std::time::Duration::from_secs);
    index.partial_filter_expression = arguments.document("partialFilterExpression")?;
    index.collation = arguments.document("collation")?;
    let mut options = CreateIndexOptions::default();
    options.max_time = arguments.millis("maxTimeMS")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    let model = IndexModel::new(keys).with_options(index);
    let action = collection.create_index(model).with_options(options);
    let action = under_terms!(call, action);
    let mut created = action.await?.index_names;
    Ok(created.pop().map_or(Produced::Nothing, |name| Produced::Value(Bson::String(name))))
}
