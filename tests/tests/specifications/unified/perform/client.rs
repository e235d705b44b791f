//! Operations on clients.

use std::sync::Arc;

use bson::Bson;
use stepdown_driver::options::DriverInfo;

use super::{Call, Performed, Produced, bulk, collection, results};
use crate::unified::arguments::Arguments;
use crate::unified::entities::ClientEntity;

pub async fn perform(mut call: Call<'_>, entity: &Arc<ClientEntity>) -> Performed {
    let client = &entity.client;
    match call.operation.name.as_str() {
        "close" => {
            call.finish()?;
            client.close().await;
            Ok(Produced::Nothing)
        }
        "listDatabases" => {
            let mut action = client.list_databases();
            if let Some(filter) = call.arguments.document("filter")? {
                action = action.filter(filter);
            }
            let action = under_terms!(call, action);
            let databases = action.await?.into_iter().map(results::database).collect();
            Ok(Produced::Value(Bson::Array(databases)))
        }
        // The driver's names are what other drivers make their objects of.
        "listDatabaseNames" | "listDatabaseObjects" => {
            let mut action = client.list_database_names();
            if let Some(filter) = call.arguments.document("filter")? {
                action = action.filter(filter);
            }
            Ok(results::names(under_terms!(call, action).await?))
        }
        "clientBulkWrite" => bulk::of_client(call, client).await,
        "appendMetadata" => {
            let given = call.arguments.required_document("driverInfoOptions")?;
            call.finish()?;
            let mut given = Arguments::new("driverInfoOptions", given);
            let info = DriverInfo {
                name: given.required_text("name")?,
                version: given.text("version")?,
                platform: given.text("platform")?,
            };
            given.finish()?;
            client.append_metadata(info);
            Ok(Produced::Nothing)
        }
        "createChangeStream" => {
            let pipeline = call.arguments.documents("pipeline")?.unwrap_or_default();
            collection::watch(call, client.watch().pipeline(pipeline)).await
        }
        _ => Err(call.unsupported("client")),
    }
}
