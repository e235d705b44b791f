//! Steps of sessions, their transactions, and change streams: how a file says them.

use std::time::Duration;

use super::diagnostic::{Diagnostics, suggest};
use super::expectations::parse_expected;
use super::format::{Action, Expected, NextExpected, Watch, Watched};
use super::parse::{Names, parse_namespace, parse_read, parse_write_concern};
use super::reader::{Table, as_document, as_list};

/// How long `next` waits for an event if the step does not say.
const NEXT_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn parse_start_session(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    let (session, span) = step.string(diagnostics, "start_session")?;
    let client = names.client(diagnostics, step);
    let causal = step.boolean(diagnostics, "causal");
    let snapshot = step.boolean(diagnostics, "snapshot").unwrap_or(false);
    if snapshot && causal == Some(true) {
        let message = "a session is either causally consistent or reads a snapshot";
        diagnostics.problem(&step.key_span("causal"), message, None);
        return None;
    }
    if session.is_empty() || names.sessions.iter().any(|(name, _)| name == session) {
        let message = match session.is_empty() {
            true => "a session needs a name".to_string(),
            false => format!("a session named `{session}` is open already"),
        };
        diagnostics.problem(&span, message, None);
        return None;
    }
    let client = client?;
    names.sessions.push((session.to_string(), client.clone()));
    Some(Action::StartSession { session: session.to_string(), client, causal, snapshot })
}

pub(crate) fn parse_session_step(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
    verb: &'static str,
) -> Option<Action> {
    let (text, span) = step.string(diagnostics, verb)?;
    let session = names.known_session(diagnostics, text, &span);
    Some(match verb {
        "start_transaction" => {
            let read = parse_read(diagnostics, step);
            let write_concern = parse_write_concern(diagnostics, step);
            Action::StartTransaction { session: session?, read, write_concern }
        }
        "commit_transaction" => {
            let retry_for = step.duration(diagnostics, "retry_for");
            let expected = parse_expected(diagnostics, step);
            Action::CommitTransaction { session: session?, retry_for, expected: expected? }
        }
        "abort_transaction" => {
            let expected = parse_expected(diagnostics, step);
            Action::AbortTransaction { session: session?, expected: expected? }
        }
        _ => {
            let session = session?;
            names.sessions.retain(|(name, _)| *name != session);
            Action::EndSession { session }
        }
    })
}

pub(crate) fn parse_watch(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    const LOOKUPS: [&str; 3] = ["updateLookup", "whenAvailable", "required"];
    let (text, span) = step.string(diagnostics, "watch")?;
    let watched = match text {
        "*" => Some(Watched::Deployment),
        text if text.contains('.') => {
            parse_namespace(diagnostics, text, &span).map(Watched::Collection)
        }
        "" => {
            let hint = "\"shop.orders\", \"shop\" for a database, \"*\" for everything".to_string();
            diagnostics.problem(&span, "watch what?", Some(hint));
            None
        }
        text => Some(Watched::Database(text.to_string())),
    };
    let client = names.client(diagnostics, step);
    if !step.has("stream") {
        let hint = "a name for `next` to ask: stream = \"orders\"".to_string();
        step.missing(diagnostics, "stream", Some(hint));
    }
    let stream = step.string(diagnostics, "stream");
    let mut pipeline = Vec::new();
    if let Some(value) = step.take("pipeline") {
        for item in as_list(diagnostics, "pipeline", value, "stages")? {
            pipeline.push(as_document(diagnostics, "pipeline", item)?);
        }
    }
    let full_document = step.string(diagnostics, "full_document");
    if let Some((text, span)) = &full_document
        && !LOOKUPS.contains(text)
    {
        let hint = suggest(text, &LOOKUPS);
        diagnostics.problem(span, format!("no full_document \"{text}\""), hint);
    }
    let read = parse_read(diagnostics, step);
    let expected = parse_expected(diagnostics, step);
    let (stream, span) = stream?;
    if names.streams.iter().any(|name| name == stream) {
        diagnostics.problem(&span, format!("a stream named `{stream}` is open already"), None);
        return None;
    }
    names.streams.push(stream.to_string());
    Some(Action::Watch(Box::new(Watch {
        client: client?,
        stream: stream.to_string(),
        watched: watched?,
        pipeline,
        full_document: full_document.map(|(text, _)| text.to_string()),
        read,
        expected: expected?,
    })))
}

pub(crate) fn parse_next(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    let (text, span) = step.string(diagnostics, "next")?;
    let stream = names.known_stream(diagnostics, text, &span);
    let within = step.duration(diagnostics, "within").unwrap_or(NEXT_WITHIN);
    let nothing = step.string_is("expect", "nothing");
    let expected = match nothing {
        true => {
            step.take("expect");
            NextExpected::Nothing
        }
        false => match parse_expected(diagnostics, step)? {
            Expected::Ok => NextExpected::Event,
            Expected::Includes(wanted) => NextExpected::Includes(wanted),
            Expected::Error(family) => NextExpected::Error(Expected::Error(family)),
            Expected::Code(code) => NextExpected::Error(Expected::Code(code)),
            Expected::Label(label) => NextExpected::Error(Expected::Label(label)),
            Expected::Number(_) | Expected::Documents(_) => {
                let hint =
                    "{ includes = { operationType = \"insert\" } }, \"nothing\", or an error";
                let span = step.key_span("expect");
                diagnostics.problem(&span, "`next` gives one event", Some(hint.to_string()));
                return None;
            }
        },
    };
    Some(Action::Next { stream: stream?, expected, within })
}

pub(crate) fn parse_close(
    diagnostics: &mut Diagnostics<'_>,
    names: &mut Names,
    step: &mut Table<'_>,
) -> Option<Action> {
    let (text, span) = step.string(diagnostics, "close")?;
    let stream = names.known_stream(diagnostics, text, &span)?;
    names.streams.retain(|name| *name != stream);
    Some(Action::Close { stream })
}
