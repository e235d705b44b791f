//! The record of messages: who sent what to whom, and when it arrived. Kept only at
//! [`Record::Messages`](crate::trace::Record::Messages); otherwise one look at an `Option` per message.

use std::collections::BTreeMap;
use std::sync::Arc;

use stepdown_driver::Instant;
use stepdown_driver::wire::{FrameReader, Message};

use super::connection::{DownSegment, UpSegment};
use super::core::World;
use super::network::End;
use super::queue::Payload;
use crate::mongod::Input;
use crate::mongod::peer::{PeerFailure, PeerReply, PeerRequest};
use crate::trace::EventKind;

/// What is on its way.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    last: u64,
    /// By the place of the payload in the queue.
    in_flight: BTreeMap<u32, Flight>,
}

#[derive(Debug)]
struct Flight {
    message: u64,
    from: Arc<str>,
    to: Arc<str>,
    what: Said,
}

/// What a message says, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    what: String,
    /// Whether a set says it all day long: heartbeats, positions, waits for new entries, hellos.
    routine: bool,
}

impl World {
    /// Puts a message into the queue.
    #[inline]
    pub(crate) fn push_message(&mut self, at: Instant, from: End, to: End, payload: Payload) {
        if self.messages.is_some() {
            let said = describe(&payload);
            let slot = self.queue.push(at, payload);
            self.note_sent(from, to, slot, said);
        } else {
            self.queue.push(at, payload);
        }
    }

    #[cold]
    fn note_sent(&mut self, from: End, to: End, slot: u32, said: Option<Said>) {
        let Some(what) = said else { return };
        let (from, to) = (self.name_of(from), self.name_of(to));
        let Some(messages) = &mut self.messages else { return };
        messages.last += 1;
        let message = messages.last;
        let kind = EventKind::MessageSent {
            message,
            to: to.clone(),
            what: what.what.clone(),
            routine: what.routine,
        };
        let flight = Flight { message, from: from.clone(), to, what };
        let before = messages.in_flight.insert(slot, flight);
        assert!(before.is_none(), "two messages in one place of the queue");
        self.recorder.record(self.now, &from, kind);
    }

    /// What lay in this place of the queue has arrived.
    #[cold]
    pub(crate) fn note_received(&mut self, slot: u32) {
        let Some(messages) = &mut self.messages else { return };
        let Some(Flight { message, from, to, what }) = messages.in_flight.remove(&slot) else {
            return;
        };
        let Said { what, routine } = what;
        let kind = EventKind::MessageReceived { message, from, what, routine };
        self.recorder.record(self.now, &to, kind);
    }

    /// The network does not let this message through (now).
    #[inline]
    pub(crate) fn note_stopped(&mut self, from: End, to: End, payload: &Payload, why: &str) {
        if self.messages.is_some() {
            self.record_stopped(from, to, describe(payload), why);
        }
    }

    /// The same for what a client's connection carries up.
    #[inline]
    pub(crate) fn note_stopped_up(&mut self, from: End, to: End, segment: &UpSegment) {
        if self.messages.is_some() {
            self.record_stopped(from, to, describe_up(segment), CUT);
        }
    }

    /// The same for what a client's connection carries down.
    #[inline]
    pub(crate) fn note_stopped_down(&mut self, from: End, to: End, segment: &DownSegment) {
        if self.messages.is_some() {
            self.record_stopped(from, to, describe_down(segment), CUT);
        }
    }

    #[cold]
    fn record_stopped(&mut self, from: End, to: End, said: Option<Said>, why: &str) {
        let Some(Said { what, routine }) = said else { return };
        let (from, to) = (self.name_of(from), self.name_of(to));
        let kind = EventKind::MessageStopped { to, what, routine, why: why.into() };
        self.recorder.record(self.now, &from, kind);
    }

    fn name_of(&self, end: End) -> Arc<str> {
        match end {
            End::Node(node) => self.nodes[node as usize].host.clone(),
            End::Client(client) => self.clients[client as usize].name.clone(),
        }
    }
}

/// Why a cut link stops a message.
pub(crate) const CUT: &str = "the link is cut: it waits for the heal";

fn said(what: impl Into<String>) -> Option<Said> {
    Some(Said { what: what.into(), routine: false })
}

fn routine(what: impl Into<String>) -> Option<Said> {
    Some(Said { what: what.into(), routine: true })
}

fn describe(payload: &Payload) -> Option<Said> {
    match payload {
        Payload::Input { input: Input::PeerRequest { request, .. }, .. } => {
            describe_request(request)
        }
        Payload::Input { input: Input::PeerReply { outcome: Ok(reply), .. }, .. } => {
            describe_reply(reply)
        }
        Payload::Input { input: Input::PeerReply { outcome: Err(failure), .. }, .. } => {
            said(match failure {
                PeerFailure::Refused => "connection refused",
                PeerFailure::Reset => "connection reset",
                PeerFailure::UnknownHost => "unknown host",
            })
        }
        Payload::Input { input: Input::PeerReset { .. }, .. } => said("connection reset"),
        Payload::Up(_, segment) => describe_up(segment),
        Payload::Down(_, segment) => describe_down(segment),
        Payload::Input { .. } | Payload::Vacant | Payload::Deadline(_) | Payload::Timer { .. } => {
            None
        }
    }
}

fn describe_request(request: &PeerRequest) -> Option<Said> {
    match request {
        PeerRequest::Heartbeat(heartbeat) => routine(format!(
            "replSetHeartbeat: term {}, config {}:{}",
            heartbeat.term, heartbeat.config_version, heartbeat.config_term
        )),
        PeerRequest::RequestVotes(votes) => said(format!(
            "replSetRequestVotes: term {}{}, my last written optime {}",
            votes.term,
            if votes.dry_run { " (dry run)" } else { "" },
            votes.last_written
        )),
        PeerRequest::FetchOplog(fetch) => {
            routine(format!("fetch local.oplog.rs after {}", fetch.last))
        }
        PeerRequest::UpdatePosition(_) => routine("replSetUpdatePosition"),
        PeerRequest::CloneData => said("clone the data"),
        PeerRequest::StepUp => said("replSetStepUp"),
        PeerRequest::OplogTail { before, .. } => said(format!("read the oplog back from {before}")),
    }
}

fn describe_reply(reply: &PeerReply) -> Option<Said> {
    match reply {
        PeerReply::Heartbeat(reply) => routine(format!(
            "reply: {}, term {}, config {}:{}, optime {}",
            reply.state, reply.term, reply.config_version, reply.config_term, reply.applied
        )),
        PeerReply::RequestVotes(reply) if reply.granted => {
            said(format!("my vote: yes (term {})", reply.term))
        }
        PeerReply::RequestVotes(reply) => {
            said(format!("my vote: no (term {}): {}", reply.term, reply.reason))
        }
        PeerReply::FetchOplog(reply) => {
            let what = format!(
                "{} oplog entries, commit point {}",
                reply.entries.len(),
                reply.commit_point
            );
            match reply.entries.is_empty() {
                true => routine(what),
                false => said(what),
            }
        }
        PeerReply::Done => routine("done"),
        PeerReply::CloneData(data) => said(format!("the data as of {}", data.at)),
        PeerReply::OplogTail(optimes) => said(format!("{} optimes", optimes.len())),
        PeerReply::Error(error) => said(format!("error {} {}", error.code, error.name())),
    }
}

fn describe_up(segment: &UpSegment) -> Option<Said> {
    match segment {
        UpSegment::Open => said("connect"),
        UpSegment::Bytes(bytes) => describe_bytes(bytes, describe_command),
        UpSegment::Close => said("close"),
    }
}

fn describe_down(segment: &DownSegment) -> Option<Said> {
    match segment {
        DownSegment::Accepted => said("accepted"),
        DownSegment::Refused => said("refused"),
        DownSegment::Bytes(bytes) => describe_bytes(bytes, describe_answer),
        DownSegment::Eof => said("closed"),
        DownSegment::Reset => said("connection reset"),
    }
}

fn describe_bytes(bytes: &[u8], describe: fn(&Message) -> Option<Said>) -> Option<Said> {
    let mut reader = FrameReader::new();
    reader.feed(bytes);
    match reader.next() {
        Ok(Some(message)) => describe(&message).or_else(|| said(format!("{} bytes", bytes.len()))),
        _ => said(format!("{} bytes", bytes.len())),
    }
}

fn describe_command(message: &Message) -> Option<Said> {
    let (name, value) = message.body.iter().next()?.ok()?;
    let name = name.as_str();
    let database = message.body.get_str("$db").unwrap_or_default();
    Some(match (name, value.as_str()) {
        ("hello" | "isMaster" | "ismaster", _) => Said { what: name.to_string(), routine: true },
        (_, Some(collection)) => {
            Said { what: format!("{name} {database}.{collection}"), routine: false }
        }
        (_, None) => Said { what: format!("{name} on {database}"), routine: false },
    })
}

fn describe_answer(message: &Message) -> Option<Said> {
    let body = &message.body;
    if body.get("maxWireVersion").ok()?.is_some() {
        return routine("reply to hello");
    }
    if let Ok(code) = body.get_i32("code") {
        return said(format!("error {code} {}", body.get_str("codeName").unwrap_or_default()));
    }
    match body.get("writeErrors").ok()?.is_some() || body.get("writeConcernError").ok()?.is_some() {
        true => said("ok, with write errors"),
        false => said("ok"),
    }
}
