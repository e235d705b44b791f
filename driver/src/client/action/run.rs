//! Any command (run-command specification: it is not looked into).

use std::future::IntoFuture;
use std::marker::PhantomData;

use bson::RawDocumentBuf;
use serde::de::DeserializeOwned;

use super::{runs, session};
use crate::client::terms::Terms;
use crate::client::{ClientSession, Database};
use crate::error::Result;
use crate::operation::{self, Command};
use crate::options::SelectionCriteria;
use crate::transport::BoxFuture;

/// Runs any command: see [`Database::run_command`]. The reply is read as `T`.
#[must_use = "nothing happens until it is awaited"]
pub struct RunCommand<T> {
    database: Database,
    body: Result<RawDocumentBuf>,
    selection_criteria: Option<SelectionCriteria>,
    terms: Terms,
    of: PhantomData<fn() -> T>,
}

session!(impl[T] RunCommand<T>);

impl<T> RunCommand<T> {
    pub(in crate::client) fn new(database: Database, body: Result<RawDocumentBuf>) -> Self {
        let terms = Terms::default();
        RunCommand { database, body, selection_criteria: None, terms, of: PhantomData }
    }

    /// Which members may run it; default: the primary.
    pub fn selection_criteria(mut self, criteria: impl Into<SelectionCriteria>) -> Self {
        self.selection_criteria = Some(criteria.into());
        self
    }

    async fn run(mut self) -> Result<T>
    where
        T: DeserializeOwned,
    {
        let command = command(&self.database, self.body, self.selection_criteria, &mut self.terms)?;
        let reply = self.database.client().run(&command, &self.terms).await?;
        operation::from_raw(&reply.body)
    }
}

fn command(
    database: &Database,
    body: Result<RawDocumentBuf>,
    criteria: Option<SelectionCriteria>,
    terms: &mut Terms,
) -> Result<Command> {
    let body = body?;
    terms.begin(database.client(), database.options().timeout)?;
    let transaction = terms.session.as_ref().filter(|session| session.in_transaction());
    let criteria =
        criteria.or_else(|| transaction.and_then(|session| session.transaction_criteria()));
    operation::run_command(database.name(), &body, criteria)
}

runs!(impl[T: DeserializeOwned + 'static] RunCommand<T> => T);
