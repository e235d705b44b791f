//! Operations on databases.

use bson::{Bson, Document};
use stepdown_driver::Database;
use stepdown_driver::options::CreateCollectionOptions;

use super::{Call, Performed, Produced, collection, results};
use crate::unified::Failure;
use crate::unified::entities::{AnyCursor, CursorEntity, Entity};

pub async fn perform(mut call: Call<'_>, database: &Database) -> Performed {
    match call.operation.name.as_str() {
        "aggregate" => {
            let pipeline = call.arguments.required_documents("pipeline")?;
            let action = database.aggregate(pipeline);
            collection::aggregate(call, action).await
        }
        "runCommand" => {
            let command = command(&mut call)?;
            let mut action = database.run_command(command);
            if let Some(preference) = call.arguments.read_preference()? {
                action = action.selection_criteria(preference);
            }
            let action = under_terms!(call, action);
            Ok(Produced::Value(Bson::Document(action.await?)))
        }
        "runCursorCommand" | "createCommandCursor" => {
            let command = command(&mut call)?;
            let mut action = database.run_cursor_command(command);
            let arguments = &mut call.arguments;
            if let Some(preference) = arguments.read_preference()? {
                action = action.selection_criteria(preference);
            }
            if let Some(size) = arguments.size("batchSize")? {
                action = action.batch_size(size);
            }
            if let Some(time) = arguments.millis("maxTimeMS")? {
                action = action.max_time(time);
            }
            if let Some(comment) = arguments.take("comment") {
                action = action.comment(comment);
            }
            if let Some(kind) = collection::cursor_type(arguments)? {
                action = action.cursor_type(kind);
            }
            if let Some(mode) = collection::timeout_mode(arguments)? {
                action = action.timeout_mode(mode);
            }
            let cursor = under_terms!(call, action).await?;
            match call.operation.name.as_str() {
                "runCursorCommand" => results::all(cursor).await,
                _ => Ok(Produced::Entity(CursorEntity::entity(AnyCursor::Documents(Box::new(
                    cursor,
                ))))),
            }
        }
        "createCollection" => create(call, database).await,
        "dropCollection" => {
            let name = call.arguments.required_text("collection")?;
            let action = database.collection::<Document>(&name).drop();
            let action = under_terms!(call, action);
            action.await?;
            Ok(Produced::Nothing)
        }
        "modifyCollection" => {
            let name = call.arguments.required_text("collection")?;
            let mut command = bson::doc! { "collMod": name };
            command.extend(call.arguments.rest());
            Ok(Produced::Value(Bson::Document(database.run_command(command).await?)))
        }
        "listCollections" => {
            let mut action = database.list_collections();
            if let Some(filter) = call.arguments.document("filter")? {
                action = action.filter(filter);
            }
            if let Some(size) = call.arguments.size("batchSize")? {
                action = action.batch_size(size);
            }
            if let Some(mode) = collection::timeout_mode(&mut call.arguments)? {
                action = action.timeout_mode(mode);
            }
            if let Some(comment) = call.arguments.take("comment") {
                action = action.comment(comment);
            }
            let action = under_terms!(call, action);
            results::all(action.await?).await
        }
        "listCollectionNames" | "listCollectionObjects" => {
            let mut action = database.list_collection_names();
            if let Some(filter) = call.arguments.document("filter")? {
                action = action.filter(filter);
            }
            let action = under_terms!(call, action);
            Ok(results::names(action.await?))
        }
        "drop" => {
            let action = database.drop();
            let action = under_terms!(call, action);
            action.await?;
            Ok(Produced::Nothing)
        }
        "createChangeStream" => {
            let pipeline = call.arguments.documents("pipeline")?.unwrap_or_default();
            collection::watch(call, database.watch().pipeline(pipeline)).await
        }
        _ => Err(call.unsupported("database")),
    }
}

/// The command, whose name comes first whatever order the file has.
pub fn command(call: &mut Call<'_>) -> Result<Document, Failure> {
    let mut command = call.arguments.required_document("command")?;
    let name = call.arguments.required_text("commandName")?;
    let Some(first) = command.remove(&name) else {
        return Err(Failure::test(format!("the command has no {name}")));
    };
    let mut ordered = Document::new();
    ordered.insert(name, first);
    ordered.extend(command);
    Ok(ordered)
}

async fn create(mut call: Call<'_>, database: &Database) -> Performed {
    let name = call.arguments.required_text("collection")?;
    let mut options = CreateCollectionOptions::default();
    let arguments = &mut call.arguments;
    options.capped = arguments.boolean("capped")?;
    options.size = arguments.count("size")?;
    options.max = arguments.count("max")?;
    options.validator = arguments.document("validator")?;
    options.collation = arguments.document("collation")?;
    options.comment = arguments.take("comment");
    options.write_concern = arguments.write_concern()?;
    let mut other = Document::new();
    for name in [
        "viewOn",
        "pipeline",
        "changeStreamPreAndPostImages",
        "expireAfterSeconds",
        "timeseries",
        "clusteredIndex",
        "storageEngine",
        "validationLevel",
        "validationAction",
        "indexOptionDefaults",
        "encryptedFields",
    ] {
        if let Some(value) = arguments.take(name) {
            other.insert(name, value);
        }
    }
    options.other = Some(other);
    let action = database.create_collection(&name).with_options(options);
    under_terms!(call, action).await?;
    // Other drivers give back a collection, which a test may save.
    Ok(Produced::Entity(Entity::Collection(database.collection(&name))))
}
