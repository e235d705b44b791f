//! Change streams (change streams specification).

mod event;
mod resume;

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bson::{Document, doc};
use futures_core::Stream;
use serde::de::DeserializeOwned;

pub use self::event::{
    ChangeNamespace, ChangeStreamEvent, OperationType, ResumeToken, TruncatedArray,
    UpdateDescription,
};
use self::resume::{Resumption, is_resumable};
use super::Client;
use super::cursor::{CursorSettings, RawCursor, Step};
use super::terms::{Terms, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Scope, execute};
use crate::operation::{AggregateOptions, aggregate, from_raw};
use crate::options::ChangeStreamOptions;
use crate::session::{SessionSlot, SharedSession};
use crate::time::Instant;
use crate::transport::BoxFuture;

/// What happens in a collection, a database or the whole deployment, as it happens: see
/// [`Collection::watch`](crate::Collection::watch).
///
/// It resumes by itself after a failover, a lost connection or a lost cursor, once per error. To keep
/// every resume token, call [`ChangeStream::next_if_any`] and then [`ChangeStream::resume_token`],
/// event or not. A call that runs into `timeoutMS` leaves the stream as it is: the next one resumes
/// it. If that happens before any event came, the server has not the time to get there: watch again
/// with a higher timeout.
pub struct ChangeStream<T> {
    engine: Option<Box<Engine>>,
    stepping: Option<BoxFuture<'static, (Box<Engine>, Result<Step>)>>,
    of: PhantomData<fn() -> T>,
}

/// What is watched.
#[derive(Clone, Debug)]
pub(super) enum Watched {
    /// One collection.
    Collection(String, String),
    /// All collections of a database.
    Database(String),
    /// All databases.
    Deployment,
}

struct Engine {
    client: Client,
    watched: Watched,
    pipeline: Vec<Document>,
    options: ChangeStreamOptions,
    session: Option<Arc<SharedSession>>,
    terms: Terms,
    resumption: Resumption,
    cursor: RawCursor,
    /// When the running call must be done.
    limit: Option<Instant>,
    must_resume: bool,
    closed: bool,
}

impl<T> ChangeStream<T> {
    pub(super) async fn open(
        client: Client,
        watched: Watched,
        pipeline: Vec<Document>,
        options: ChangeStreamOptions,
        terms: Terms,
    ) -> Result<Self> {
        if let (Some(wait), Some(timeout)) = (options.max_await_time, terms.timeout)
            && !timeout.is_zero()
            && wait >= timeout
        {
            let message = "max_await_time must be less than the timeout";
            return Err(Error::invalid_argument(message));
        }
        let mut resumption = Resumption::new(&options);
        let stage = stage(&watched, &options)?;
        let slot = SessionSlot::from_option(terms.session.clone());
        let cursor =
            aggregate_from(&client, &watched, stage, &pipeline, &options, slot, &terms).await?;
        let token = cursor.batch().post_batch_resume_token.as_ref();
        let empty = !cursor.batch().has_more();
        resumption.opened(cursor.batch().reply(), empty, token.is_some());
        if empty {
            resumption.empty_batch(token);
        }
        let session = terms.session.clone();
        let engine = Engine {
            client,
            watched,
            pipeline,
            options,
            session,
            terms,
            resumption,
            cursor,
            limit: None,
            must_resume: false,
            closed: false,
        };
        Ok(ChangeStream { engine: Some(Box::new(engine)), stepping: None, of: PhantomData })
    }

    /// The next event, waited for as long as it takes; `None` at the end of the stream, after
    /// `invalidate`.
    ///
    /// # Errors
    /// What asking for more fails with, if the stream cannot be resumed; `Timeout`, after which the next
    /// call resumes it; `MissingResumeToken` if the pipeline removed an event's `_id`; `Bson` if an
    /// event is not a `T`.
    pub async fn next(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        match poll_fn(|cx| self.poll_step(cx, false)).await? {
            Step::Document => self.current().map(Some),
            Step::Nothing | Step::End => Ok(None),
        }
    }

    /// The next event if there is one now: the server is asked once at most.
    ///
    /// # Errors
    /// As [`ChangeStream::next`].
    pub async fn next_if_any(&mut self) -> Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        match poll_fn(|cx| self.poll_step(cx, true)).await? {
            Step::Document => self.current().map(Some),
            Step::Nothing | Step::End => Ok(None),
        }
    }

    /// Where the stream would be resumed now: after the last event given out, or after what the server
    /// has looked through.
    pub fn resume_token(&self) -> Option<ResumeToken> {
        let engine = self.engine.as_ref()?;
        engine.resumption.token().cloned().map(ResumeToken::new)
    }

    /// Whether further events may come.
    pub fn is_alive(&self) -> bool {
        self.engine.as_ref().is_none_or(|engine| {
            !engine.closed
                && (engine.must_resume
                    || engine.cursor.is_open()
                    || engine.cursor.batch().has_more())
        })
    }

    /// The same stream, whose events are read as `U`: needed where the pipeline changes their shape.
    pub fn with_type<U>(self) -> ChangeStream<U> {
        ChangeStream { engine: self.engine, stepping: self.stepping, of: PhantomData }
    }

    /// Closes the stream on the server.
    ///
    /// # Errors
    /// None: the server closes idle cursors by itself.
    pub async fn close(&mut self) -> Result<()> {
        if let Some(stepping) = self.stepping.take() {
            // What it holds is closed when it is dropped.
            drop(stepping);
        }
        if let Some(engine) = &mut self.engine {
            let timeout = engine.terms.timeout;
            engine.closed = true;
            engine.cursor.close(timeout).await;
        }
        Ok(())
    }

    fn current(&self) -> Result<T>
    where
        T: DeserializeOwned,
    {
        let engine = self.engine.as_ref().expect("no step is under way");
        from_raw(engine.cursor.batch().current()?)
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, once: bool) -> Poll<Result<Step>> {
        loop {
            if let Some(engine) = &mut self.engine {
                if engine.closed {
                    return Poll::Ready(Ok(Step::End));
                }
                if engine.limit.is_none() {
                    let now = engine.client.now();
                    engine.limit = engine.terms.timeout.map(|timeout| deadline(now, timeout));
                }
            }
            if self.stepping.is_none() {
                let Some(mut engine) = self.engine.take() else {
                    // A step was dropped with its engine by `close`.
                    return Poll::Ready(Ok(Step::End));
                };
                self.stepping = Some(Box::pin(async move {
                    let step = engine.step().await;
                    (engine, step)
                }));
            }
            let stepping = self.stepping.as_mut().expect("a step is under way");
            let (mut engine, step) = ready!(stepping.as_mut().poll(cx));
            self.stepping = None;
            let again = matches!(step, Ok(Step::Nothing)) && !once;
            if !again {
                engine.limit = None;
            }
            self.engine = Some(engine);
            if !again {
                return Poll::Ready(step);
            }
        }
    }
}

impl Engine {
    /// One step: a document, or at most one question to the server, with a resumption if need be.
    async fn step(&mut self) -> Result<Step> {
        if self.must_resume {
            self.resume().await?;
        }
        self.cursor.limit_step(self.limit);
        let asked = !self.cursor.batch().has_more();
        match self.cursor.step(true).await {
            Ok(step) => self.note(step, asked),
            Err(error) if is_timeout(&error) && self.limit.is_some() => {
                self.must_resume = true;
                Err(error)
            }
            Err(error) if is_resumable(&error) => {
                self.resume().await?;
                if !self.cursor.batch().has_more() {
                    return Ok(Step::Nothing);
                }
                let step = self.cursor.step(true).await?;
                self.note(step, false)
            }
            Err(error) => {
                self.closed = true;
                Err(error)
            }
        }
    }

    fn note(&mut self, step: Step, asked: bool) -> Result<Step> {
        let batch = self.cursor.batch();
        let token = batch.post_batch_resume_token.as_ref();
        match step {
            Step::Document => {
                let noted = self.resumption.document(batch.current()?, !batch.has_more(), token);
                self.closed |= noted.is_err();
                noted?;
            }
            Step::Nothing | Step::End if asked => self.resumption.empty_batch(token),
            Step::Nothing | Step::End => {}
        }
        Ok(step)
    }

    /// Opens the stream again where it stood, in the same session.
    async fn resume(&mut self) -> Result<()> {
        self.must_resume = true;
        let slot = match self.cursor.abandon(self.terms.timeout).await {
            Some(slot) => slot,
            None => SessionSlot::from_option(self.session.clone()),
        };
        let mut stage = stage(&self.watched, &self.options)?;
        self.resumption.write(&mut stage)?;
        let terms = Terms { limit: self.limit, ..self.terms.clone() };
        let opened = aggregate_from(
            &self.client,
            &self.watched,
            stage,
            &self.pipeline,
            &self.options,
            slot,
            &terms,
        )
        .await;
        match opened {
            Ok(cursor) => self.cursor = cursor,
            Err(error) => {
                // Only a call that ran out of time is made again.
                self.closed = !(is_timeout(&error) && self.limit.is_some());
                return Err(error);
            }
        }
        self.must_resume = false;
        if !self.cursor.batch().has_more() {
            let token = self.cursor.batch().post_batch_resume_token.clone();
            self.resumption.empty_batch(token.as_ref());
        }
        Ok(())
    }
}

fn is_timeout(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::Timeout { .. })
}

/// The first stage of the pipeline.
fn stage(watched: &Watched, options: &ChangeStreamOptions) -> Result<Document> {
    let mut stage = Document::new();
    if let Some(mode) = &options.full_document {
        stage.insert("fullDocument", mode.as_str());
    }
    if let Some(mode) = &options.full_document_before_change {
        stage.insert("fullDocumentBeforeChange", mode.as_str());
    }
    let token =
        |token: &ResumeToken| -> Result<Document> { Ok(Document::try_from(token.as_raw())?) };
    if let Some(after) = &options.resume_after {
        stage.insert("resumeAfter", token(after)?);
    }
    if let Some(after) = &options.start_after {
        stage.insert("startAfter", token(after)?);
    }
    if let Some(time) = options.start_at_operation_time {
        stage.insert("startAtOperationTime", time);
    }
    if matches!(watched, Watched::Deployment) {
        stage.insert("allChangesForCluster", true);
    }
    if let Some(expanded) = options.show_expanded_events {
        stage.insert("showExpandedEvents", expanded);
    }
    Ok(stage)
}

/// Runs the `aggregate` that opens the stream's cursor.
async fn aggregate_from(
    client: &Client,
    watched: &Watched,
    stage: Document,
    pipeline: &[Document],
    options: &ChangeStreamOptions,
    mut slot: SessionSlot,
    terms: &Terms,
) -> Result<RawCursor> {
    let (database, collection) = match watched {
        Watched::Collection(database, collection) => (database.as_str(), Some(collection.as_str())),
        Watched::Database(database) => (database.as_str(), None),
        Watched::Deployment => ("admin", None),
    };
    let mut whole = vec![doc! { "$changeStream": stage }];
    whole.extend_from_slice(pipeline);
    let aggregation = AggregateOptions {
        selection_criteria: options.selection_criteria.clone(),
        read_concern: options.read_concern.clone(),
        batch_size: options.batch_size,
        collation: options.collation.clone(),
        comment: options.comment.clone(),
        ..AggregateOptions::default()
    };
    let command = aggregate(database, collection, &whole, &aggregation)?;
    let cluster = client.cluster();
    let scope = Scope::of(cluster, &command, slot.explicit(), terms.limit);
    let result = execute(cluster, &command, &mut slot, &scope).await;
    let reply = scope.outcome(cluster.now(), result)?;
    let settings = CursorSettings {
        batch_size: options.batch_size,
        max_await_time: options.max_await_time,
        comment: options.comment.clone(),
        tailable: true,
        awaits: true,
        timeout_mode: None,
    };
    RawCursor::from_reply(client, "aggregate", reply, slot, settings, terms.timeout)
}

impl<T: DeserializeOwned> Stream for ChangeStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        match ready!(self.poll_step(cx, false)) {
            Ok(Step::Document) => Poll::Ready(Some(self.current())),
            Ok(Step::Nothing | Step::End) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl<T> std::fmt::Debug for ChangeStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let watched = self.engine.as_ref().map(|engine| &engine.watched);
        f.debug_struct("ChangeStream").field("watched", &watched).finish_non_exhaustive()
    }
}
