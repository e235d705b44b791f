//! One builder per operation: options are set by methods, `.await` runs it.
//!
//! A builder owns all it needs: documents are serialized when it is made, so that it borrows nothing.

mod bulk;
mod client_bulk;
mod command_cursor;
mod index;
mod list;
mod manage;
mod read;
mod run;
mod search_index;
mod watch;
mod write;

pub use self::bulk::CollectionBulkWrite;
pub use self::client_bulk::BulkWrite;
pub use self::command_cursor::RunCursorCommand;
pub use self::index::{CreateIndexes, ListIndexNames, ListIndexes};
pub use self::list::{ListCollectionNames, ListCollections, ListDatabaseNames, ListDatabases};
pub use self::manage::{CreateCollection, Drop, DropDatabase, ModifyCollection, Rename};
pub use self::read::{Aggregate, Count, CountByCommand, Distinct, EstimatedCount, Find, FindOne};
pub use self::run::RunCommand;
pub use self::search_index::ManageSearchIndexes;
pub use self::watch::Watch;
pub use self::write::{Delete, FindOneAndModify, InsertMany, InsertOne, Update};

/// Writes a setter per option, one for all options at once, and one for the session.
macro_rules! builder {
    (
        impl[$($generics:tt)*] $action:ty, $options:ty,
        { $($name:ident : $type:ty),* $(,)? },
        into { $($into_name:ident : $into_type:ty),* $(,)? }
    ) => {
        impl<$($generics)*> $action {
            $(
                #[doc = concat!("Sets [`", stringify!($options), "::", stringify!($name), "`](crate::operation::", stringify!($options), ").")]
                pub fn $name(mut self, value: $type) -> Self {
                    self.options.$name = Some(value);
                    self
                }
            )*
            $(
                #[doc = concat!("Sets [`", stringify!($options), "::", stringify!($into_name), "`](crate::operation::", stringify!($options), ").")]
                pub fn $into_name(mut self, value: impl Into<$into_type>) -> Self {
                    self.options.$into_name = Some(value.into());
                    self
                }
            )*

            /// Replaces all options.
            pub fn with_options(mut self, options: impl Into<Option<$options>>) -> Self {
                self.options = options.into().unwrap_or_default();
                self
            }
        }
        crate::client::action::session!(impl[$($generics)*] $action);
    };
}

/// Writes the setters for the terms: the session and the timeout.
macro_rules! session {
    (impl[$($generics:tt)*] $action:ty) => {
        impl<$($generics)*> $action {
            /// Runs it in `session`.
            pub fn session(mut self, session: &ClientSession) -> Self {
                self.terms.session = Some(session.shared());
                self
            }

            /// Gives the whole operation, with all its attempts and batches, this long (`timeoutMS`
            /// of the client side operations timeout specification); zero is no limit.
            pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
                self.terms.timeout = Some(timeout);
                self
            }

            /// The same, if there is a timeout.
            #[allow(dead_code, reason = "not every action is a step of a longer operation")]
            pub(in crate::client) fn timeout_if(
                mut self,
                timeout: Option<std::time::Duration>,
            ) -> Self {
                self.terms.timeout = timeout.or(self.terms.timeout);
                self
            }

            /// Reads and writes documents as the server stores them, which matters for time series
            /// (`rawData`, server 8.2; older servers are not told).
            pub fn raw_data(mut self, raw: bool) -> Self {
                self.terms.raw_data = Some(raw);
                self
            }
        }
    };
}

/// Makes an action a future.
macro_rules! runs {
    (impl[$($generics:tt)*] $action:ty => $output:ty $(, where $($bounds:tt)*)?) => {
        impl<$($generics)*> IntoFuture for $action $(where $($bounds)*)? {
            type Output = Result<$output>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }
    };
}

pub(in crate::client) use runs;
use {builder, session};
