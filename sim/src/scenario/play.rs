//! Sessions, transactions and change streams of a running scenario.

use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use stepdown_driver::client::{ChangeStream, ClientSession};
use stepdown_driver::error::Error;

use super::describe;
use super::format::{Expected, NextExpected, Operation, ReadSpec, Watch, WriteConcernSpec};
use super::judge::{Answer, Disappointment, describe_error, judge};
use super::run::{Run, Verdict};
use crate::trace::EventKind;
use crate::world::JoinHandle;

/// A session under its name in the story.
pub(crate) struct OpenSession {
    pub(crate) client: String,
    pub(crate) session: Arc<ClientSession>,
}

/// An operation in the background.
pub(crate) struct Pending {
    pub(crate) handle: JoinHandle<Result<Answer, Error>>,
    pub(crate) operation: Operation,
}

impl Run<'_> {
    pub(crate) fn start_session(
        &mut self,
        name: &str,
        client: &str,
        causal: Option<bool>,
        snapshot: bool,
    ) -> Verdict {
        let outcome = self.sim.block_on(self.client(client).start_session(causal, snapshot));
        let session = outcome.map_err(|error| Disappointment {
            expected: format!("a session of {client}"),
            seen: describe_error(&error),
        })?;
        let open = OpenSession { client: client.to_string(), session: Arc::new(session) };
        self.sessions.insert(name.to_string(), open);
        Ok(())
    }

    pub(crate) fn start_transaction(
        &self,
        name: &str,
        read: &ReadSpec,
        write_concern: Option<&WriteConcernSpec>,
    ) -> Verdict {
        let OpenSession { client, session } = &self.sessions[name];
        let outcome = self
            .sim
            .block_on(self.client(client).start_transaction(session, read, write_concern))
            .map(|()| Answer::default());
        self.told(client, &format!("start a transaction in {name}"), &outcome);
        judge(&Expected::Ok, &outcome)
    }

    pub(crate) fn commit_transaction(
        &self,
        name: &str,
        retry_for: Option<Duration>,
        expected: &Expected,
    ) -> Verdict {
        let OpenSession { client, session } = &self.sessions[name];
        let committed = self.client(client).commit(session, retry_for);
        let outcome = self.sim.block_on(committed).map(|()| Answer::default());
        self.told(client, &format!("commit the transaction of {name}"), &outcome);
        judge(expected, &outcome)
    }

    pub(crate) fn abort_transaction(&self, name: &str, expected: &Expected) -> Verdict {
        let OpenSession { client, session } = &self.sessions[name];
        let outcome = self.sim.block_on(session.abort_transaction()).map(|()| Answer::default());
        self.told(client, &format!("abort the transaction of {name}"), &outcome);
        judge(expected, &outcome)
    }

    pub(crate) fn end_session(&mut self, name: &str) -> Verdict {
        if let Some(OpenSession { session, .. }) = self.sessions.remove(name) {
            self.sim.block_on(session.end());
        }
        Ok(())
    }

    pub(crate) fn watch(&mut self, watch: &Watch) -> Verdict {
        let opened = self.sim.block_on(self.client(&watch.client).watch(watch));
        let (outcome, stream) = match opened {
            Ok(stream) => (Ok(Answer::default()), Some(stream)),
            Err(error) => (Err(error), None),
        };
        self.told(&watch.client, &describe::watch(watch), &outcome);
        if let Some(stream) = stream {
            self.streams.insert(watch.stream.clone(), (watch.client.clone(), stream));
        }
        judge(&watch.expected, &outcome)
    }

    pub(crate) fn next(
        &mut self,
        name: &str,
        expected: &NextExpected,
        within: Duration,
    ) -> Verdict {
        let limit = describe::duration(within);
        let Some((client, stream)) = self.streams.get_mut(name) else {
            return Err(Disappointment {
                expected: format!("a change stream {name}"),
                seen: "it could not be opened".to_string(),
            });
        };
        let client = client.clone();
        let until = self.sim.now() + within;
        let sim = self.sim.clone();
        let outcome = self.sim.block_on(async move {
            loop {
                match stream.next_if_any().await {
                    Ok(None) if sim.now() < until && stream.is_alive() => {}
                    outcome => return outcome,
                }
            }
        });
        let what = match &outcome {
            Ok(Some(event)) => format!("{name} tells {}", without_tokens(event)),
            Ok(None) => format!("{name} has nothing to tell"),
            Err(error) => format!("{name} FAILED: {}", describe_error(error)),
        };
        self.sim.record(&client, EventKind::Note { text: what });
        let (wanted, holds) = match (expected, &outcome) {
            (NextExpected::Event, outcome) => {
                (format!("an event within {limit}"), matches!(outcome, Ok(Some(_))))
            }
            (NextExpected::Nothing, outcome) => {
                (format!("nothing for {limit}"), matches!(outcome, Ok(None)))
            }
            (NextExpected::Includes(wanted), outcome) => (
                format!("an event that includes {wanted} within {limit}"),
                matches!(outcome, Ok(Some(event)) if super::format::includes(event, wanted)),
            ),
            (NextExpected::Error(expected), Err(error)) => {
                return judge(expected, &Err(error.clone()));
            }
            (NextExpected::Error(_), _) => ("an error".to_string(), false),
        };
        if holds {
            return Ok(());
        }
        let seen = match outcome {
            Ok(Some(event)) => without_tokens(&event).to_string(),
            Ok(None) => "nothing".to_string(),
            Err(error) => describe_error(&error),
        };
        Err(Disappointment { expected: wanted, seen })
    }

    pub(crate) fn close_stream(&mut self, name: &str) -> Verdict {
        if let Some((_, mut stream)) = self.streams.remove(name) {
            // A stream that cannot be closed has ended: nobody minds.
            let _ = self.sim.block_on(async move { stream.close().await });
        }
        Ok(())
    }

    /// Starts an operation that goes on while the next steps happen.
    pub(crate) fn start_operation(&mut self, name: &str, operation: &Operation) -> Verdict {
        let client = self.client(&operation.client).clone();
        let session = operation.session.as_ref().map(|name| self.sessions[name].session.clone());
        let (kind, retry_for) = (operation.kind.clone(), operation.retry_for);
        self.sim.note(format!("{} in the background, as {name}", describe::operation(operation)));
        let handle = self
            .sim
            .spawn(name, async move { client.perform(&kind, retry_for, session.as_deref()).await });
        self.pending.insert(name.to_string(), Pending { handle, operation: operation.clone() });
        Ok(())
    }

    pub(crate) fn finish_operation(
        &mut self,
        name: &str,
        expected: &Expected,
        within: Duration,
    ) -> Verdict {
        let Some(Pending { handle, operation }) = self.pending.remove(name) else {
            unreachable!("the parser knows what runs, and `{name}` does not");
        };
        let finished = self.sim.run_until(within, |_| handle.is_finished());
        finished.map_err(|_| Disappointment {
            expected: format!("{name} to finish within {}", describe::duration(within)),
            seen: "it goes on".to_string(),
        })?;
        let outcome = self.sim.block_on(handle);
        self.told(&operation.client, &describe::operation(&operation), &outcome);
        judge(expected, &outcome)
    }

    fn told(&self, client: &str, what: &str, outcome: &Result<Answer, Error>) {
        let server = self.client(client).last_server();
        self.record(client, what, outcome, server.as_deref());
    }
}

/// What the stream of a change stream is called in the run.
pub(crate) type OpenStream = (String, ChangeStream<Document>);

/// An event without its resume token and times, which are long and tell a reader nothing.
fn without_tokens(event: &Document) -> Document {
    let mut event = event.clone();
    for field in ["_id", "clusterTime", "wallTime", "collectionUUID"] {
        event.remove(field);
    }
    event
}
