//! What the driver adds to a command: database, session, cluster time, read preference.

use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocument};

use super::Cluster;
use super::cluster::OUTPUT_WIRE_VERSION;
use crate::connection::ServerTraits;
use crate::operation::{BodyWriter, Command, ReadConcernUse, Target};
use crate::options::{ReadPreference, ReadPreferenceMode, SelectionCriteria};
use crate::sdam::{TopologyDescription, TopologyType};
use crate::session::{ClusterTime, SessionFields};
use crate::wire::{self, Flags};

/// The wire version of server 8.2, which knows `rawData`.
const RAW_DATA_WIRE_VERSION: i32 = 27;

/// Everything one attempt adds to its command.
pub(super) struct Envelope<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) command: &'a Command,
    /// The body, which may be that of a repetition.
    pub(super) body: &'a [u8],
    /// What the session adds.
    pub(super) fields: Option<&'a SessionFields>,
    /// The cluster time of the caller's session.
    pub(super) session_time: Option<&'a ClusterTime>,
    /// The number of a retryable write.
    pub(super) txn_number: Option<i64>,
    pub(super) topology: &'a TopologyDescription,
    pub(super) traits: ServerTraits,
    /// `rawData`, if anything was said.
    pub(super) raw_data: Option<bool>,
    /// `maxTimeMS`, if it is not in the body.
    pub(super) max_time: Option<i64>,
}

impl Envelope<'_> {
    /// Writes the whole message; the command's body is copied once.
    pub(super) fn encode(&self, request_id: i32, out: &mut Vec<u8>) {
        let command = self.command;
        let start = wire::begin(out, request_id, 0, wire::OP_MSG);
        let flags = if command.acknowledged { Flags::NONE } else { Flags::MORE_TO_COME };
        out.extend_from_slice(&flags.0.to_le_bytes());
        out.push(0);
        let mut body = BodyWriter::new(out);
        body.elements_of(self.body);
        body.string("$db", &command.database);
        if let Some(fields) = self.fields {
            body.nested("lsid", |lsid| lsid.uuid("id", fields.id));
            if let Some(number) = fields.transaction {
                body.i64("txnNumber", number);
                if fields.first {
                    body.bool("startTransaction", true);
                }
                body.bool("autocommit", false);
            }
        }
        if let Some(number) = self.txn_number {
            body.i64("txnNumber", number);
        }
        if self.traits.replica_set_member_or_mongos() {
            let time = &self.cluster.cluster_time;
            time.with_newer_of(self.session_time, |time| body.document("$clusterTime", time));
        }
        let knows_raw_data = self.traits.max_wire_version >= RAW_DATA_WIRE_VERSION;
        if let Some(raw_data) = self.raw_data.filter(|_| knows_raw_data) {
            body.bool("rawData", raw_data);
        }
        self.add_read_concern(&mut body);
        self.add_read_preference(&mut body);
        self.cluster.add_server_api(&mut body);
        if let Some(time) = self.max_time {
            body.i64("maxTimeMS", time);
        }
        body.finish();
        for (field, documents) in command.sequence.iter().chain(&command.second_sequence) {
            let section = wire::begin_sequence(out, field);
            out.extend_from_slice(documents);
            wire::end_sequence(out, section);
        }
        wire::finish(out, start);
    }

    fn add_read_concern(&self, body: &mut BodyWriter<'_>) {
        let (level, after, at) = match self.fields {
            Some(fields) => {
                (fields.level.as_ref(), fields.after_cluster_time, fields.at_cluster_time)
            }
            None if self.command.concern == ReadConcernUse::Never => return,
            None => (self.command.read_concern.as_ref().map(|concern| &concern.level), None, None),
        };
        if level.is_none() && after.is_none() {
            return;
        }
        body.nested("readConcern", |concern| {
            if let Some(level) = level {
                concern.string("level", level.as_str());
            }
            if let Some(after) = after {
                concern.timestamp("afterClusterTime", after);
            }
            if let Some(at) = at {
                concern.timestamp("atClusterTime", at);
            }
        });
    }

    /// Server selection specification, "Passing read preference to mongos and load balancers" and
    /// "Topology type: Single".
    fn add_read_preference(&self, body: &mut BodyWriter<'_>) {
        let criteria = match &self.command.target {
            Target::Readable(criteria) => criteria,
            Target::Output(criteria) if self.traits.max_wire_version >= OUTPUT_WIRE_VERSION => {
                criteria
            }
            _ => return,
        };
        // A user's function may have picked anybody.
        let anybody = ReadPreference::primary_preferred();
        let preference = match criteria {
            SelectionCriteria::ReadPreference(preference) => preference,
            _ => &anybody,
        };
        let primary = preference.mode() == ReadPreferenceMode::Primary;
        let chosen = match self.topology.topology_type {
            // Whoever was connected to directly is to answer, whatever it is.
            TopologyType::Single if self.traits.replica_set_member && primary => &anybody,
            TopologyType::Single if !self.traits.replica_set_member => return,
            _ if primary => return,
            _ => preference,
        };
        if chosen.options().is_none_or(|options| options.is_default()) {
            let mode = chosen.mode().as_str();
            body.nested("$readPreference", |document| document.string("mode", mode));
        } else if let Ok(bytes) = bson::serialize_to_vec(&chosen.to_document()) {
            body.document("$readPreference", &bytes);
        }
    }
}

/// The command in a request's bytes as listeners see it: document sequences as arrays.
pub(crate) fn as_document(request: &[u8]) -> Document {
    let mut reader = wire::FrameReader::new();
    reader.feed(request);
    let Ok(Some(message)) = reader.next() else { return Document::new() };
    let mut document = to_document(&message.body);
    for (field, documents) in message.sequences {
        let documents = documents.iter().map(|one| Bson::Document(to_document(one))).collect();
        document.insert(field, Bson::Array(documents));
    }
    document
}

/// As much of a document as can be read.
fn to_document(raw: &RawDocument) -> Document {
    raw.iter()
        .map_while(std::result::Result::ok)
        .filter_map(|(key, value): (_, RawBsonRef<'_>)| {
            Some((key.to_string(), Bson::try_from(value).ok()?))
        })
        .collect()
}
