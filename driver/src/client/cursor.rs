//! Cursors.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bson::{Bson, RawDocument};
use futures_core::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Client;
use super::terms::{Terms, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Reply, Scope, execute};
use crate::operation::{
    Command, CursorReply, MaxTime, TimeoutMode, from_raw, get_more, kill_cursors, kill_cursors_of,
};
use crate::session::SessionSlot;
use crate::time::Instant;
use crate::transport::BoxFuture;
use crate::uri::ServerAddress;

/// The documents a command found, batch by batch.
///
/// Walk through it with [`Cursor::try_next`], or with [`Cursor::advance`] and [`Cursor::current`],
/// which copy nothing; or use it as a `Stream`. Dropped before its end, it is closed on the server.
pub struct Cursor<T> {
    core: RawCursor,
    of: PhantomData<fn() -> T>,
}

/// What further batches are asked with.
#[derive(Clone, Debug, Default)]
pub(super) struct CursorSettings {
    pub(super) batch_size: Option<u32>,
    pub(super) max_await_time: Option<Duration>,
    pub(super) comment: Option<Bson>,
    /// Whether the cursor outlives the end of what it found.
    pub(super) tailable: bool,
    /// Whether the server waits a while for what comes.
    pub(super) awaits: bool,
    /// What `timeoutMS` applies to.
    pub(super) timeout_mode: Option<TimeoutMode>,
}

/// What a step of a cursor came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It stands on a document.
    Document,
    /// The server had nothing at present.
    Nothing,
    /// There is nothing more.
    End,
}

/// A cursor whose documents have no type yet.
pub(super) struct RawCursor {
    client: Client,
    server: ServerAddress,
    settings: CursorSettings,
    batch: CursorReply,
    /// Where the session is: here, in the running request, or given back.
    slot: Option<SessionSlot>,
    fetching: Option<BoxFuture<'static, (SessionSlot, Result<Reply>)>>,
    /// The `timeoutMS` it was opened with.
    timeout: Option<Duration>,
    /// When the running step, or the whole cursor, must be done.
    limit: Option<Instant>,
    per_step: bool,
    /// Whether the running step asked the server already.
    asked: bool,
}

impl<T> Cursor<T> {
    /// Runs the command that opens a cursor.
    pub(super) async fn open(
        client: &Client,
        command: Command,
        terms: Terms,
        settings: CursorSettings,
    ) -> Result<Self> {
        let core = RawCursor::open(client, command, terms, settings).await?;
        Ok(Cursor { core, of: PhantomData })
    }

    /// Moves on to the next document, asking the server for more if need be. Returns false at the end.
    ///
    /// # Errors
    /// What asking for more fails with; the cursor is at its end then, unless time ran out.
    pub async fn advance(&mut self) -> Result<bool> {
        Ok(self.core.step(false).await? == Step::Document)
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

    /// The next document if there is one now: the server is asked once at most. `None` does not mean
    /// that a tailable cursor is at its end (see [`Cursor::is_alive`]).
    ///
    /// # Errors
    /// As [`Cursor::try_next`].
    pub async fn next_if_any(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        match self.core.step(true).await? {
            Step::Document => from_raw(self.core.batch.current()?).map(Some),
            Step::Nothing | Step::End => Ok(None),
        }
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
        self.core.is_open()
    }

    /// Whether further documents may come.
    pub fn is_alive(&self) -> bool {
        self.core.is_open() || self.core.batch.has_more()
    }

    /// The server that has the cursor.
    pub fn server(&self) -> &ServerAddress {
        &self.core.server
    }

    /// Closes the cursor on the server and waits for its answer, which is not looked at. A
    /// `timeoutMS` counts anew.
    ///
    /// # Errors
    /// None: the server closes idle cursors by itself.
    pub async fn close(&mut self) -> Result<()> {
        let timeout = self.core.timeout;
        self.core.close(timeout).await;
        Ok(())
    }

    /// As [`Cursor::close`], within `timeout` (zero is no limit).
    ///
    /// # Errors
    /// As [`Cursor::close`].
    pub async fn close_within(&mut self, timeout: Duration) -> Result<()> {
        self.core.close(Some(timeout)).await;
        Ok(())
    }
}

impl RawCursor {
    /// Runs the command that opens a cursor.
    pub(super) async fn open(
        client: &Client,
        mut command: Command,
        terms: Terms,
        settings: CursorSettings,
    ) -> Result<Self> {
        let per_step = check_timeouts(&terms, &settings)?;
        if per_step && terms.limit.is_some() && !settings.awaits {
            command.max_time = MaxTime::Never;
        }
        let mut slot = client.slot(&command, &terms)?;
        let cluster = client.cluster();
        let scope = Scope::of(cluster, &command, terms.session.as_ref(), terms.limit)
            .with_raw_data(terms.raw_data);
        let result = execute(cluster, &command, &mut slot, &scope).await;
        let reply = scope.outcome(cluster.now(), result)?;
        let timeout = terms.timeout;
        let mut cursor =
            RawCursor::from_reply(client, &command.name, reply, slot, settings, timeout)?;
        cursor.limit = if per_step { None } else { terms.limit };
        cursor.per_step = per_step;
        Ok(cursor)
    }

    /// The cursor a reply tells of.
    pub(super) fn from_reply(
        client: &Client,
        command: &str,
        reply: Reply,
        slot: SessionSlot,
        settings: CursorSettings,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let batch = CursorReply::new(command, reply.body)?;
        let slot = (batch.id != 0).then_some(slot);
        Ok(RawCursor {
            client: client.clone(),
            server: reply.server,
            settings,
            batch,
            slot,
            fetching: None,
            timeout,
            limit: None,
            per_step: true,
            asked: false,
        })
    }

    /// Sets when the running step must be done, whatever it was opened with.
    pub(super) fn limit_step(&mut self, limit: Option<Instant>) {
        self.limit = limit;
    }

    /// The batch it stands in.
    pub(super) fn batch(&self) -> &CursorReply {
        &self.batch
    }

    /// Whether the server has it.
    pub(super) fn is_open(&self) -> bool {
        self.batch.id != 0
    }

    /// Moves on to the next document. With `once`, the server is asked once at most.
    pub(super) async fn step(&mut self, once: bool) -> Result<Step> {
        poll_fn(|cx| self.poll_step(cx, once)).await
    }

    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>, once: bool) -> Poll<Result<Step>> {
        let step = ready!(self.poll_inner(cx, once));
        self.asked = false;
        if self.per_step {
            self.limit = None;
        }
        Poll::Ready(step)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>, once: bool) -> Poll<Result<Step>> {
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
                        self.slot = Some(slot);
                        if !survives(&error) {
                            // A server that answered has closed the cursor; one that was lost cannot
                            // be told to.
                            self.batch.id = 0;
                        }
                        return Poll::Ready(Err(error));
                    }
                }
            }
            return Poll::Ready(match self.batch.advance() {
                Ok(true) => Ok(Step::Document),
                Ok(false) if self.batch.id == 0 => Ok(Step::End),
                Ok(false) if self.asked && once => Ok(Step::Nothing),
                Ok(false) => {
                    self.asked = true;
                    self.fetch()?;
                    continue;
                }
                Err(error) => Err(error),
            });
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
        if self.per_step && self.limit.is_none() {
            self.limit = self.timeout.map(|timeout| deadline(cluster.now(), timeout));
        }
        let limit = self.limit;
        let mut slot = self.slot.take().unwrap_or_else(|| SessionSlot::from_option(None));
        self.fetching = Some(Box::pin(async move {
            let scope = Scope::of(&cluster, &command, slot.explicit(), limit);
            let result = execute(&cluster, &command, &mut slot, &scope).await;
            if result.as_ref().is_err_and(Error::is_refused_by_overload)
                && let Ok(kill) = kill_cursors_of(&command)
            {
                // The server refused to begin, so it has the cursor still; nobody will ask again.
                let scope = Scope::quiet(&cluster, limit);
                let _ = execute(&cluster, &kill, &mut slot, &scope).await;
            }
            let result = scope.outcome(cluster.now(), result);
            (slot, result)
        }));
        Ok(())
    }

    /// Closes it on the server, if the server has it, within `timeout`.
    pub(super) async fn close(&mut self, timeout: Option<Duration>) {
        let _ = self.abandon(timeout).await;
    }

    /// Closes it on the server, if the server has it, and gives its session to whatever follows it.
    pub(super) async fn abandon(&mut self, timeout: Option<Duration>) -> Option<SessionSlot> {
        let Some((command, mut slot)) = self.take_kill() else { return self.slot.take() };
        let cluster = self.client.cluster().clone();
        let limit = timeout.map(|timeout| deadline(cluster.now(), timeout));
        let scope = Scope::quiet(&cluster, limit);
        // Whatever goes wrong with this is of no interest.
        let _ = execute(&cluster, &command, &mut slot, &scope).await;
        Some(slot)
    }

    /// What closes it on the server. It is closed from now on.
    fn take_kill(&mut self) -> Option<(Command, SessionSlot)> {
        let id = std::mem::take(&mut self.batch.id);
        if id == 0 {
            return None;
        }
        self.fetching = None;
        let command = kill_cursors(&self.batch.namespace, id, self.server.clone()).ok()?;
        let slot = self.slot.take().unwrap_or_else(|| SessionSlot::from_option(None));
        Some((command, slot))
    }
}

/// CSOT, "Cursors": what cannot be said together, and whether the time limit is per step.
fn check_timeouts(terms: &Terms, settings: &CursorSettings) -> Result<bool> {
    let refuse = |message: &str| Err(Error::invalid_argument(message));
    if let Some(mode) = settings.timeout_mode {
        if terms.timeout.is_none() {
            return refuse("timeout_mode needs a timeout");
        }
        if settings.tailable && mode == TimeoutMode::CursorLifetime {
            return refuse("a tailable cursor cannot have a timeout for its lifetime");
        }
    }
    if let (Some(wait), Some(timeout)) = (settings.max_await_time, terms.timeout)
        && !timeout.is_zero()
        && wait >= timeout
    {
        return refuse("max_await_time must be less than the timeout");
    }
    Ok(settings.tailable || settings.timeout_mode == Some(TimeoutMode::Iteration))
}

/// Whether the server has the cursor still: it did not answer in time.
fn survives(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::Timeout { .. })
}

impl Drop for RawCursor {
    fn drop(&mut self) {
        let Some((command, mut slot)) = self.take_kill() else { return };
        // The cluster alone, so that a client that is being dropped is not kept by this.
        let cluster = self.client.cluster().clone();
        let limit = self.timeout.map(|timeout| deadline(cluster.now(), timeout));
        let task = {
            let cluster = cluster.clone();
            async move {
                // Nobody waits for it; the server closes idle cursors by itself.
                let scope = Scope::quiet(&cluster, limit);
                let _ = execute(&cluster, &command, &mut slot, &scope).await;
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
        match ready!(self.core.poll_step(cx, false)) {
            Ok(Step::Document) => Poll::Ready(Some(self.core.batch.current().and_then(from_raw))),
            Ok(Step::Nothing | Step::End) => Poll::Ready(None),
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
