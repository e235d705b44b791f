//! Cursors.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bson::{Bson, RawDocument};
use futures_core::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Client;
use crate::error::Result;
use crate::executor::{Reply, execute};
use crate::operation::{Command, CursorReply, from_raw, get_more, kill_cursors};
use crate::session::{SessionSlot, SharedSession};
use crate::transport::BoxFuture;
use crate::uri::ServerAddress;

/// The documents a command found, batch by batch.
///
/// Walk through it with [`Cursor::try_next`], or with [`Cursor::advance`] and [`Cursor::current`],
/// which copy nothing; or use it as a `Stream`. Dropped before its end, it is closed on the server.
pub struct Cursor<T> {
    core: Core,
    of: PhantomData<fn() -> T>,
}

/// What further batches are asked with.
#[derive(Clone, Debug, Default)]
pub(super) struct CursorSettings {
    pub(super) batch_size: Option<u32>,
    pub(super) max_await_time: Option<Duration>,
    pub(super) comment: Option<Bson>,
}

struct Core {
    client: Client,
    server: ServerAddress,
    settings: CursorSettings,
    batch: CursorReply,
    /// Where the session is: here, in the running request, or given back.
    slot: Option<SessionSlot>,
    fetching: Option<BoxFuture<'static, (SessionSlot, Result<Reply>)>>,
}

impl<T> Cursor<T> {
    /// Runs the command that opens a cursor.
    pub(super) async fn open(
        client: &Client,
        command: &Command,
        session: Option<Arc<SharedSession>>,
        settings: CursorSettings,
    ) -> Result<Self> {
        let mut slot = client.slot(command, session)?;
        let reply = execute(client.cluster(), command, &mut slot).await?;
        let batch = CursorReply::new(&command.name, reply.body)?;
        let slot = (batch.id != 0).then_some(slot);
        let core = Core {
            client: client.clone(),
            server: reply.server,
            settings,
            batch,
            slot,
            fetching: None,
        };
        Ok(Cursor { core, of: PhantomData })
    }

    /// Moves on to the next document, asking the server for more if need be. Returns false at the end.
    ///
    /// # Errors
    /// What asking for more fails with; the cursor is at its end then.
    pub async fn advance(&mut self) -> Result<bool> {
        poll_fn(|cx| self.core.poll_advance(cx)).await
    }

    /// The document the cursor stands on, in the buffer it was received in.
    ///
    /// # Panics
    /// Before the first [`Cursor::advance`] and after one that returned false.
    pub fn current(&self) -> &RawDocument {
        self.core.batch.current().expect("the cursor stands on a document")
    }

    /// The document the cursor stands on, deserialized; it may borrow from the cursor.
    ///
    /// # Errors
    /// `Bson` if it is not a `T`, `InvalidArgument` if the cursor stands on none.
    pub fn deserialize_current<'a>(&'a self) -> Result<T>
    where
        T: Deserialize<'a>,
    {
        Ok(bson::deserialize_from_slice(self.core.batch.current()?.as_bytes())?)
    }

    /// The next document, or `None` at the end.
    ///
    /// # Errors
    /// What asking for more fails with, and `Bson` if a document is not a `T`.
    pub async fn try_next(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        if !self.advance().await? {
            return Ok(None);
        }
        from_raw(self.core.batch.current()?).map(Some)
    }

    /// All documents that are left.
    ///
    /// # Errors
    /// As [`Cursor::try_next`].
    pub async fn try_collect<C: Default + Extend<T>>(mut self) -> Result<C>
    where
        T: DeserializeOwned,
    {
        let mut all = C::default();
        while let Some(document) = self.try_next().await? {
            all.extend(Some(document));
        }
        Ok(all)
    }

    /// The same cursor, whose documents are deserialized as `U`.
    pub fn with_type<U>(self) -> Cursor<U> {
        Cursor { core: self.core, of: PhantomData }
    }

    /// Whether the server has more batches, as far as is known.
    pub fn has_more_batches(&self) -> bool {
        self.core.batch.id != 0
    }

    /// The server that has the cursor.
    pub fn server(&self) -> &ServerAddress {
        &self.core.server
    }
}

impl Core {
    fn poll_advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        loop {
            if let Some(fetching) = &mut self.fetching {
                let (slot, result) = ready!(fetching.as_mut().poll(cx));
                self.fetching = None;
                let next = result.and_then(|reply| CursorReply::new("getMore", reply.body));
                match next {
                    Ok(batch) => {
                        self.slot = (batch.id != 0).then_some(slot);
                        self.batch = batch;
                    }
                    Err(error) => {
                        // A server that answered has closed the cursor; one that was lost cannot be
                        // told to.
                        self.batch.id = 0;
                        return Poll::Ready(Err(error));
                    }
                }
            }
            match self.batch.advance() {
                Ok(false) if self.batch.id != 0 => self.fetch()?,
                other => return Poll::Ready(other),
            }
        }
    }

    fn fetch(&mut self) -> Result<()> {
        let command = get_more(
            &self.batch.namespace,
            self.batch.id,
            self.server.clone(),
            self.settings.batch_size,
            self.settings.max_await_time,
            self.settings.comment.as_ref(),
        )?;
        let cluster = self.client.cluster().clone();
        let mut slot = self.slot.take().unwrap_or_else(|| SessionSlot::from_option(None));
        self.fetching = Some(Box::pin(async move {
            let result = execute(&cluster, &command, &mut slot).await;
            (slot, result)
        }));
        Ok(())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.batch.id == 0 {
            return;
        }
        let kill = kill_cursors(&self.batch.namespace, self.batch.id, self.server.clone());
        let Ok(command) = kill else { return };
        self.fetching = None;
        let mut slot = self.slot.take().unwrap_or_else(|| SessionSlot::from_option(None));
        // The cluster alone, so that a client that is being dropped is not kept by this.
        let cluster = self.client.cluster().clone();
        let task = {
            let cluster = cluster.clone();
            async move {
                // Nobody waits for it; the server closes idle cursors by itself.
                let _ = execute(&cluster, &command, &mut slot).await;
            }
        };
        if !cluster.is_closed() {
            cluster.transport().spawn("close a cursor", Box::pin(task));
        }
    }
}

impl<T: DeserializeOwned> Stream for Cursor<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        match ready!(self.core.poll_advance(cx)) {
            Ok(true) => Poll::Ready(Some(self.core.batch.current().and_then(from_raw))),
            Ok(false) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl<T> std::fmt::Debug for Cursor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("id", &self.core.batch.id)
            .field("namespace", &self.core.batch.namespace)
            .field("server", &self.core.server)
            .finish()
    }
}
