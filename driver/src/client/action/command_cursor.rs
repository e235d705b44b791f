//! Commands that open cursors.

use std::future::IntoFuture;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf};

use super::{runs, session};
use crate::client::cursor::{Cursor, CursorSettings};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Database};
use crate::error::Result;
use crate::operation::{self, CursorType, TimeoutMode};
use crate::options::SelectionCriteria;
use crate::transport::BoxFuture;

/// Runs any command that opens a cursor: see [`Database::run_cursor_command`].
#[must_use = "nothing happens until it is awaited"]
pub struct RunCursorCommand {
    database: Database,
    body: Result<RawDocumentBuf>,
    selection_criteria: Option<SelectionCriteria>,
    settings: CursorSettings,
    terms: Terms,
}

session!(impl[] RunCursorCommand);

impl RunCursorCommand {
    pub(in crate::client) fn new(database: Database, body: Result<RawDocumentBuf>) -> Self {
        RunCursorCommand {
            database,
            body,
            selection_criteria: None,
            settings: CursorSettings::default(),
            terms: Terms::default(),
        }
    }

    /// Which members may run it; default: the primary.
    pub fn selection_criteria(mut self, criteria: impl Into<SelectionCriteria>) -> Self {
        self.selection_criteria = Some(criteria.into());
        self
    }

    /// How many documents each `getMore` asks for.
    pub fn batch_size(mut self, size: u32) -> Self {
        self.settings.batch_size = Some(size);
        self
    }

    /// `maxTimeMS` of each `getMore`: how long the server waits for what comes.
    pub fn max_time(mut self, time: Duration) -> Self {
        self.settings.max_await_time = Some(time);
        self
    }

    /// The remark of each `getMore`.
    pub fn comment(mut self, comment: impl Into<Bson>) -> Self {
        self.settings.comment = Some(comment.into());
        self
    }

    /// What kind of cursor the command opens; default: one that ends.
    pub fn cursor_type(mut self, kind: CursorType) -> Self {
        self.settings.tailable = kind != CursorType::NonTailable;
        self.settings.awaits = kind == CursorType::TailableAwait;
        self
    }

    /// What `timeoutMS` applies to.
    pub fn timeout_mode(mut self, mode: TimeoutMode) -> Self {
        self.settings.timeout_mode = Some(mode);
        self
    }

    async fn run(mut self) -> Result<Cursor<Document>> {
        let client = self.database.client();
        self.terms.begin(client, self.database.options().timeout)?;
        let body = self.body?;
        let mut criteria = self.selection_criteria;
        if criteria.is_none()
            && let Some(session) = self.terms.session.as_ref().filter(|s| s.in_transaction())
        {
            criteria = session.transaction_criteria();
        }
        let command = operation::run_command(self.database.name(), &body, criteria)?;
        Cursor::open(client, command, self.terms, self.settings).await
    }
}

runs!(impl[] RunCursorCommand => Cursor<Document>);
