//! How new a piece of news about a server is.

use bson::oid::ObjectId;
use bson::raw::{RawBsonRef, RawDocument};
use bson::{Document, doc};

/// `topologyVersion`: which life of which server process some news is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopologyVersion {
    /// The server process; a restarted server has a new one.
    pub process_id: ObjectId,
    /// Goes up with every change of the server's state.
    pub counter: i64,
}

impl TopologyVersion {
    /// The `topologyVersion` of a reply, be it a hello or an error.
    pub fn from_reply(reply: &RawDocument) -> Option<Self> {
        let Ok(Some(RawBsonRef::Document(version))) = reply.get("topologyVersion") else {
            return None;
        };
        let Ok(Some(RawBsonRef::ObjectId(process_id))) = version.get("processId") else {
            return None;
        };
        let counter = match version.get("counter") {
            Ok(Some(RawBsonRef::Int64(counter))) => counter,
            Ok(Some(RawBsonRef::Int32(counter))) => i64::from(counter),
            _ => return None,
        };
        Some(TopologyVersion { process_id, counter })
    }

    /// Whether news of version `self` is older than news of version `other`. Versions of different
    /// processes, and missing ones, cannot be compared: then it is not.
    pub fn is_older_than(self, other: TopologyVersion) -> bool {
        self.process_id == other.process_id && self.counter < other.counter
    }

    /// Whether an error of version `self` tells nothing that a description of version `known` did
    /// not know: the same process, and not a later state.
    pub fn is_not_newer_than(self, known: TopologyVersion) -> bool {
        self.process_id == known.process_id && self.counter <= known.counter
    }

    /// As an awaitable hello carries it.
    pub fn to_document(self) -> Document {
        doc! { "processId": self.process_id, "counter": self.counter }
    }
}
