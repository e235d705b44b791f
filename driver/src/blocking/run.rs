//! Running what was built.

use std::future::IntoFuture;

use super::{ChangeStream, Cursor};
use crate::client::{
    CreateIndexesResult, DatabaseSpecification, InsertManyResult, InsertOneResult,
};
use crate::error::Result;
use crate::operation::{
    BulkWriteResult, CollectionBulkWriteResult, DeleteResult, IndexModel, UpdateResult,
};
use crate::transport::threads::block_on;

/// Runs an operation on this thread and waits for it. Every builder of operations has it.
pub trait Run {
    /// What the operation gives.
    type Output;

    /// Runs the operation.
    fn run(self) -> Self::Output;
}

impl<A, T> Run for A
where
    A: IntoFuture<Output = Result<T>>,
    T: IntoBlocking,
{
    type Output = Result<T::Blocking>;

    fn run(self) -> Self::Output {
        block_on(self.into_future()).map(T::into_blocking)
    }
}

/// What an operation gives, and what of it is used without async: cursors are different types there, all
/// else is the same.
pub trait IntoBlocking {
    /// The type without async.
    type Blocking;

    /// The same thing for code without async.
    fn into_blocking(self) -> Self::Blocking;
}

impl<T> IntoBlocking for crate::Cursor<T> {
    type Blocking = Cursor<T>;
    fn into_blocking(self) -> Cursor<T> {
        Cursor::new(self)
    }
}

impl<T> IntoBlocking for crate::client::ChangeStream<T> {
    type Blocking = ChangeStream<T>;
    fn into_blocking(self) -> ChangeStream<T> {
        ChangeStream::new(self)
    }
}

macro_rules! same {
    ($(impl[$($generics:tt)*] $type:ty;)*) => {
        $(
            impl<$($generics)*> IntoBlocking for $type {
                type Blocking = Self;
                fn into_blocking(self) -> Self {
                    self
                }
            }
        )*
    };
}

same! {
    impl[] ();
    impl[] bool;
    impl[] u64;
    impl[] i64;
    impl[] String;
    impl[] bson::Document;
    impl[] bson::RawDocumentBuf;
    impl[T] Option<T>;
    impl[T] Vec<T>;
    impl[] BulkWriteResult;
    impl[] CollectionBulkWriteResult;
    impl[] CreateIndexesResult;
    impl[] DatabaseSpecification;
    impl[] DeleteResult;
    impl[] IndexModel;
    impl[] InsertManyResult;
    impl[] InsertOneResult;
    impl[] UpdateResult;
}
