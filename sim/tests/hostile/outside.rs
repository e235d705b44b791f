//! Clients from outside that send whatever bytes they like, and what comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use stepdown::Sim;
use stepdown::world::{ExternalId, ExternalOutput};
use stepdown_driver::wire::{FrameReader, Message};

/// A set and its clients outside.
pub struct Outside {
    pub sim: Sim,
    member: String,
    replies: BTreeMap<ExternalId, (FrameReader, Vec<Message>)>,
    closed: Vec<ExternalId>,
    last_request: i32,
}

/// What came of a request.
#[derive(Debug)]
pub enum Answer {
    Reply(Document),
    Closed,
    /// Nothing in more than a minute.
    Silence,
}

impl Outside {
    /// An elected set of `members`; the clients connect to its primary.
    pub fn of(members: usize) -> Self {
        Outside::with(Sim::builder().members(members))
    }

    /// An elected set of this builder's.
    pub fn with(builder: stepdown::SimBuilder) -> Self {
        let sim = builder.build();
        let member = sim.elect().name.to_string();
        let replies = BTreeMap::new();
        let mut outside = Outside { sim, member, replies, closed: Vec::new(), last_request: 0 };
        let calm = outside.open();
        for id in 0..5 {
            let insert = doc! { "insert": "c", "documents": [{ "_id": id, "a": id }], "$db": "db" };
            outside.ask(calm, &insert);
        }
        outside
    }

    pub fn open(&mut self) -> ExternalId {
        let id = self.sim.open_external(&*self.member, "192.0.2.1:4000").expect("it runs");
        self.replies.insert(id, Default::default());
        id
    }

    pub fn send(&mut self, id: ExternalId, bytes: Vec<u8>) {
        self.sim.external_send(id, bytes);
    }

    /// Lets time pass and takes in what came out meanwhile.
    pub fn advance(&mut self, millis: u64) {
        self.sim.advance(Duration::from_millis(millis));
        for (id, output) in self.sim.take_external_output() {
            let (reader, messages) = self.replies.get_mut(&id).expect("it was opened here");
            match output {
                ExternalOutput::Bytes(bytes) => {
                    reader.feed(&bytes);
                    while let Some(message) = reader.next().expect("a server sends good frames") {
                        messages.push(message);
                    }
                }
                ExternalOutput::Closed => self.closed.push(id),
            }
        }
    }

    pub fn is_closed(&self, id: ExternalId) -> bool {
        self.closed.contains(&id)
    }

    /// The replies that came on a connection so far.
    pub fn take_replies(&mut self, id: ExternalId) -> Vec<Message> {
        self.replies.get_mut(&id).map(|(_, messages)| std::mem::take(messages)).unwrap_or_default()
    }

    pub fn message(&mut self, body: RawDocumentBuf) -> Message {
        self.last_request += 1;
        Message::new(self.last_request, 0, body)
    }

    /// Sends a command and lets up to some minutes pass until it is answered.
    pub fn ask(&mut self, id: ExternalId, command: &Document) -> Answer {
        let body = RawDocumentBuf::try_from(command).expect("encodable");
        let message = self.message(body);
        self.ask_message(id, &message)
    }

    pub fn ask_message(&mut self, id: ExternalId, message: &Message) -> Answer {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send(id, bytes);
        for millis in [1, 1_000, 20_000, 60_000] {
            self.advance(millis);
            let replies = self.take_replies(id);
            if let Some(reply) = replies.into_iter().find(|r| r.response_to == message.request_id) {
                let reply = Document::try_from(reply.body.as_ref()).expect("replies are sound");
                return Answer::Reply(reply);
            }
            if self.is_closed(id) {
                return Answer::Closed;
            }
        }
        Answer::Silence
    }

    /// Asks, and insists on a reply.
    pub fn reply(&mut self, id: ExternalId, command: &Document) -> Document {
        match self.ask(id, command) {
            Answer::Reply(reply) => reply,
            other => panic!("{other:?} to {command}"),
        }
    }

    /// Another client is served as if nothing had happened.
    pub fn others_are_served(&mut self) {
        let other = self.open();
        let reply = self.reply(other, &doc! { "ping": 1, "$db": "admin" });
        assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{reply}");
        self.sim.external_close(other);
    }

    /// The set still has the primary it had.
    pub fn primary_is_untouched(&self) {
        let primary = self.sim.primary().expect("the set has a primary");
        assert_eq!(*primary.name, *self.member);
    }
}

/// Whether a reply is a success, or an error with all that belongs to one.
pub fn assert_sound(reply: &Document, command: &dyn std::fmt::Display) {
    let ok = reply.get_f64("ok").ok();
    if ok == Some(1.0) {
        return;
    }
    let whole = ok == Some(0.0)
        && reply.get_str("errmsg").is_ok()
        && reply.get_i32("code").is_ok()
        && reply.get_str("codeName").is_ok();
    assert!(whole, "{command}: {reply}");
}
