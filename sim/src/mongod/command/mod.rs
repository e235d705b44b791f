//! The commands: one file per family, each with a table of [`spec::CommandSpec`]s.

use bson::Bson;

mod aggregate;
mod aggregate_output;
mod arguments;
mod catalog;
mod change_stream;
pub(crate) mod client;
mod coll_mod;
mod context;
mod create;
pub(crate) mod cursor;
mod diagnostic;
mod dispatch;
mod explain;
pub(crate) mod fail_point;
mod find_and_modify;
mod hello;
mod indexes;
mod maintenance;
mod member;
pub mod operation;
pub(crate) mod operations;
pub(crate) mod parameters;
mod plan;
mod read;
mod replication;
pub(crate) mod request;
pub(crate) mod sasl;
mod scan;
mod search_index;
mod server_status;
mod session;
pub(crate) mod spec;
pub(crate) mod stable_api;
mod statistics;
mod testing;
mod transaction;
pub(crate) mod upkeep;
mod users;
pub(crate) mod views;
pub(crate) mod wait;
mod write;
pub(crate) mod write_concern;

pub(crate) use create::OPTION_ORDER;
pub(crate) use operation::{Operation, OplogDraft, Outcome, ReadAt};
use spec::CommandSpec;
pub(crate) use write::UnfinishedBatch;

/// Every family's table.
const FAMILIES: &[&[CommandSpec]] = &[
    aggregate::COMMANDS,
    catalog::COMMANDS,
    cursor::COMMANDS,
    diagnostic::COMMANDS,
    explain::COMMANDS,
    fail_point::COMMANDS,
    find_and_modify::COMMANDS,
    hello::COMMANDS,
    member::COMMANDS,
    operations::COMMANDS,
    parameters::COMMANDS,
    indexes::COMMANDS,
    maintenance::COMMANDS,
    read::COMMANDS,
    replication::COMMANDS,
    sasl::COMMANDS,
    server_status::COMMANDS,
    search_index::COMMANDS,
    session::COMMANDS,
    statistics::COMMANDS,
    testing::COMMANDS,
    transaction::COMMANDS,
    upkeep::COMMANDS,
    users::COMMANDS,
    write::COMMANDS,
];

/// The command of a name, if there is one.
pub(crate) fn find_command(name: &str) -> Option<&'static CommandSpec> {
    FAMILIES.iter().flat_map(|family| family.iter()).find(|spec| spec.names.contains(&name))
}

/// Every command, for `listCommands`.
pub(crate) fn commands() -> impl Iterator<Item = &'static CommandSpec> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// The server's name of a value's type, as its error messages say it.
pub(crate) fn type_name(value: &Bson) -> &'static str {
    match value {
        Bson::Array(_) => "array",
        Bson::Binary(_) => "binData",
        Bson::Boolean(_) => "bool",
        Bson::DateTime(_) => "date",
        Bson::DbPointer(_) => "dbPointer",
        Bson::Decimal128(_) => "decimal",
        Bson::Document(_) => "object",
        Bson::Double(_) => "double",
        Bson::Int32(_) => "int",
        Bson::Int64(_) => "long",
        Bson::JavaScriptCode(_) => "javascript",
        Bson::JavaScriptCodeWithScope(_) => "javascriptWithScope",
        Bson::MaxKey => "maxKey",
        Bson::MinKey => "minKey",
        Bson::Null => "null",
        Bson::ObjectId(_) => "objectId",
        Bson::RegularExpression(_) => "regex",
        Bson::String(_) => "string",
        Bson::Symbol(_) => "symbol",
        Bson::Timestamp(_) => "timestamp",
        Bson::Undefined => "undefined",
    }
}

#[cfg(test)]
mod tests;
