//! Cursors and change streams.

use std::ops::Deref;

use bson::RawDocument;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::transport::threads::block_on;

/// The documents a command found: see [`crate::Cursor`]. An iterator, whose items are results.
#[derive(Debug)]
pub struct Cursor<T> {
    inner: crate::Cursor<T>,
}

impl<T> Cursor<T> {
    pub(super) fn new(inner: crate::Cursor<T>) -> Self {
        Cursor { inner }
    }

    /// Moves on to the next document, asking the server for more if need be. Returns false at the end.
    ///
    /// # Errors
    /// What asking for more fails with; the cursor is at its end then.
    pub fn advance(&mut self) -> Result<bool> {
        block_on(self.inner.advance())
    }

    /// The document the cursor stands on, in the buffer it was received in.
    ///
    /// # Panics
    /// Before the first [`Cursor::advance`] and after one that returned false.
    pub fn current(&self) -> &RawDocument {
        self.inner.current()
    }

    /// The document the cursor stands on, deserialized; it may borrow from the cursor.
    ///
    /// # Errors
    /// `Bson` if it is not a `T`, `InvalidArgument` if the cursor stands on none.
    pub fn deserialize_current<'a>(&'a self) -> Result<T>
    where
        T: Deserialize<'a>,
    {
        self.inner.deserialize_current()
    }

    /// The next document, or `None` at the end.
    ///
    /// # Errors
    /// What asking for more fails with, and `Bson` if a document is not a `T`.
    pub fn try_next(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        block_on(self.inner.try_next())
    }

    /// The same cursor, whose documents are deserialized as `U`.
    pub fn with_type<U>(self) -> Cursor<U> {
        Cursor { inner: self.inner.with_type() }
    }
}

impl<T> Deref for Cursor<T> {
    type Target = crate::Cursor<T>;
    fn deref(&self) -> &crate::Cursor<T> {
        &self.inner
    }
}

impl<T: DeserializeOwned> Iterator for Cursor<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        self.try_next().transpose()
    }
}

/// The changes of a collection, a database or a deployment: see [`crate::client::ChangeStream`]. An
/// iterator that waits for the next change, and ends when the stream does.
#[derive(Debug)]
pub struct ChangeStream<T> {
    inner: crate::client::ChangeStream<T>,
}

impl<T> ChangeStream<T> {
    pub(super) fn new(inner: crate::client::ChangeStream<T>) -> Self {
        ChangeStream { inner }
    }

    /// The next change, waited for as long as it takes; `None` once the stream has ended.
    ///
    /// # Errors
    /// As [`crate::client::ChangeStream::next`].
    pub fn try_next(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        block_on(self.inner.next())
    }

    /// The next change, if there is one after one question at most.
    ///
    /// # Errors
    /// As [`crate::client::ChangeStream::next_if_any`].
    pub fn next_if_any(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        block_on(self.inner.next_if_any())
    }

    /// The same stream, whose changes are deserialized as `U`.
    pub fn with_type<U>(self) -> ChangeStream<U> {
        ChangeStream { inner: self.inner.with_type() }
    }
}

impl<T> Deref for ChangeStream<T> {
    type Target = crate::client::ChangeStream<T>;
    fn deref(&self) -> &crate::client::ChangeStream<T> {
        &self.inner
    }
}

impl<T: DeserializeOwned> Iterator for ChangeStream<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        self.try_next().transpose()
    }
}
