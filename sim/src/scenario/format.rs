//! What a scenario file says, as types. `docs/scenarios.md` describes the same for people.

use std::time::Duration;

use bson::{Bson, Document};

use super::diagnostic::Position;
use crate::mongod::ServerVersion;
use crate::trace::MemberState;

/// The set before the first step.
#[derive(Clone, Debug)]
pub(crate) struct SetSettings {
    pub(crate) name: String,
    pub(crate) members: Vec<String>,
    pub(crate) server_version: ServerVersion,
    pub(crate) latency: Option<(Duration, Duration)>,
    /// `settings` of the configurations this file writes out.
    pub(crate) election_timeout: Option<Duration>,
    pub(crate) heartbeat_interval: Option<Duration>,
    /// Whether the story begins with an initiated set that has its primary.
    pub(crate) elected: bool,
    /// `--oplogSize`, in bytes.
    pub(crate) oplog_size_bytes: Option<usize>,
}

/// One step: what to do, and where the file says so.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) at: Position,
    /// The line of the story that goes before it.
    pub(crate) note: Option<String>,
    pub(crate) action: Action,
    /// The name under which the member of this step is remembered.
    pub(crate) remember: Option<String>,
    /// How long it may take in virtual time, and must.
    pub(crate) took: Option<Took>,
}

/// Bounds of the virtual time a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Took {
    pub(crate) at_least: Duration,
    pub(crate) at_most: Option<Duration>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Nothing but its note.
    Note,
    /// Starts one more mongod, empty.
    Start {
        member: String,
    },
    Initiate {
        on: MemberRef,
        configuration: Configuration,
        expected: Expected,
    },
    Reconfigure {
        change: Reconfiguration,
        expected: Expected,
    },
    WaitFor {
        what: Wait,
        within: Duration,
    },
    Connect {
        client: String,
        uri: String,
    },
    Operation(Box<Operation>),
    /// Waits for an operation in the background and judges it.
    FinishOperation {
        operation: String,
        expected: Expected,
        within: Duration,
    },
    StartSession {
        session: String,
        client: String,
        causal: Option<bool>,
        snapshot: bool,
    },
    StartTransaction {
        session: String,
        read: ReadSpec,
        write_concern: Option<WriteConcernSpec>,
    },
    CommitTransaction {
        session: String,
        retry_for: Option<Duration>,
        expected: Expected,
    },
    AbortTransaction {
        session: String,
        expected: Expected,
    },
    EndSession {
        session: String,
    },
    Watch(Box<Watch>),
    Next {
        stream: String,
        expected: NextExpected,
        within: Duration,
    },
    Close {
        stream: String,
    },
    Load(Box<Load>),
    /// Waits for a load in the background and judges it.
    Finish {
        load: String,
        expected: LoadExpected,
        within: Duration,
    },
    Fault(Fault),
    Advance(Duration),
    Expect(Vec<Check>),
}

/// A member, by role or by name; a role is looked up when the step runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberRef {
    Primary,
    /// The first secondary in the order of the file.
    Secondary,
    Named(String),
    /// What an earlier step called it with `as`.
    Remembered(String),
}

/// What replSetInitiate is given.
#[derive(Clone, Debug)]
pub(crate) enum Configuration {
    /// Nothing: the members given at start become the set.
    None,
    /// These members, with the `settings` of the file.
    Members(Vec<String>),
    Document(Document),
}

/// A change of the set's members.
#[derive(Clone, Debug)]
pub(crate) enum Reconfiguration {
    Add(String),
    Remove(MemberRef),
}

/// What to wait for.
#[derive(Clone, Debug)]
pub(crate) enum Wait {
    /// A primary that accepts writes.
    Primary,
    /// That, and every other living member SECONDARY or ARBITER.
    Settled,
    /// That, and every living member has applied what the primary has.
    CaughtUp,
    /// A member in a state; as a client sees it, if one is named.
    State { member: MemberRef, state: MemberState, seen_by: Option<String> },
    /// A client knows a primary.
    PrimarySeenBy { client: String },
}

/// A change stream to open.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) client: String,
    pub(crate) stream: String,
    pub(crate) watched: Watched,
    pub(crate) pipeline: Vec<Document>,
    pub(crate) full_document: Option<String>,
    pub(crate) read: ReadSpec,
    pub(crate) expected: Expected,
}

/// What a change stream tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    Collection(Namespace),
    Database(String),
    Deployment,
}

/// What must come of asking a change stream for its next event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NextExpected {
    Event,
    Includes(Document),
    Nothing,
    Error(Expected),
}

/// One client operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) client: String,
    pub(crate) session: Option<String>,
    /// Goes on under this name while the next steps happen.
    pub(crate) background: Option<String>,
    pub(crate) kind: OperationKind,
    /// Wait out AutoReconnect errors for so long.
    pub(crate) retry_for: Option<Duration>,
    pub(crate) expected: Expected,
}

/// A namespace, `database.collection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) database: String,
    pub(crate) collection: String,
}

#[derive(Clone, Debug)]
pub(crate) enum OperationKind {
    Insert {
        into: Namespace,
        documents: Vec<Document>,
        write_concern: Option<WriteConcernSpec>,
    },
    Find {
        from: Namespace,
        filter: Document,
        sort: Option<Document>,
        limit: Option<i64>,
        read: ReadSpec,
    },
    Update {
        of: Namespace,
        filter: Document,
        change: Document,
        many: bool,
        upsert: bool,
        write_concern: Option<WriteConcernSpec>,
    },
    Delete {
        from: Namespace,
        filter: Document,
        many: bool,
        write_concern: Option<WriteConcernSpec>,
    },
    Count {
        of: Namespace,
        filter: Document,
        read: ReadSpec,
    },
    Command {
        database: String,
        command: Document,
        read: ReadSpec,
    },
    Aggregate {
        of: Namespace,
        pipeline: Vec<Document>,
        read: ReadSpec,
        write_concern: Option<WriteConcernSpec>,
    },
    Distinct {
        of: Namespace,
        field: String,
        filter: Document,
        read: ReadSpec,
    },
    Replace {
        of: Namespace,
        filter: Document,
        document: Document,
        upsert: bool,
        write_concern: Option<WriteConcernSpec>,
    },
    FindAndModify {
        of: Namespace,
        filter: Document,
        modification: Modification,
        sort: Option<Document>,
        upsert: bool,
        /// Whether the document is given back as it is afterwards.
        new: bool,
        write_concern: Option<WriteConcernSpec>,
    },
}

/// What findAndModify does to the document it finds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Modification {
    Change(Document),
    Replace(Document),
    Remove,
}

/// `write_concern = "majority"`, `2`, or `{ w = .., wtimeout = "1s", j = true }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteConcernSpec {
    pub(crate) w: Option<Acknowledgement>,
    pub(crate) journal: Option<bool>,
    pub(crate) wtimeout: Option<Duration>,
}

/// How many members must have a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    Majority,
    Members(u32),
    Tagged(String),
}

/// Where and at which level to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadSpec {
    pub(crate) mode: Option<ReadMode>,
    pub(crate) concern: Option<String>,
}

/// The five read preferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadMode {
    Primary,
    PrimaryPreferred,
    Secondary,
    SecondaryPreferred,
    Nearest,
}

/// How an operation must end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expected {
    Ok,
    Error(Family),
    /// An error with this code.
    Code(i32),
    /// An error with this label.
    Label(String),
    /// Success, with exactly these documents in this order.
    Documents(Vec<Document>),
    /// Success, and this many documents inserted, found, matched, deleted or counted.
    Number(i64),
    /// Success, and the (first) document holds at least these fields.
    Includes(Document),
}

/// A family of errors, by the names PyMongo's users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Any,
    AutoReconnect,
    NotPrimary,
    ServerSelectionTimeout,
    DuplicateKey,
    WriteConcern,
}

impl Family {
    pub(crate) const NAMES: [(&'static str, Family); 6] = [
        ("error", Family::Any),
        ("AutoReconnect", Family::AutoReconnect),
        ("NotPrimary", Family::NotPrimary),
        ("ServerSelectionTimeout", Family::ServerSelectionTimeout),
        ("DuplicateKey", Family::DuplicateKey),
        ("WriteConcernError", Family::WriteConcern),
    ];

    pub(crate) fn name(self) -> &'static str {
        let found = Family::NAMES.iter().find(|(_, family)| *family == self);
        found.expect("every family has a name").0
    }
}

/// Many operations of one kind, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) client: String,
    pub(crate) kind: LoadKind,
    pub(crate) count: u32,
    /// The pause after each.
    pub(crate) every: Duration,
    /// Goes on under this name while the next steps happen.
    pub(crate) background: Option<String>,
    pub(crate) expected: LoadExpected,
    /// Wait out AutoReconnect errors of each operation for so long.
    pub(crate) retry_for: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) enum LoadKind {
    /// find_one on a collection.
    Reads { from: Namespace, read: ReadSpec },
    /// insert_one of numbered documents.
    Writes { into: Namespace, write_concern: Option<WriteConcernSpec> },
}

/// How a load must have gone.
#[derive(Clone, Debug)]
pub(crate) struct LoadExpected {
    pub(crate) at: Position,
    /// At most so many operations failed.
    pub(crate) errors: u32,
    /// At least so many operations failed.
    pub(crate) errors_at_least: u32,
    /// The members that must have shared the reads evenly, by a chi-square test.
    pub(crate) balanced: Option<Balanced>,
    /// The least each of these must have got.
    pub(crate) at_least: Vec<(MemberRef, u32)>,
    /// Who must have got nothing.
    pub(crate) nothing_from: Vec<MemberRef>,
}

/// Between whom reads must be even.
#[derive(Clone, Debug)]
pub(crate) enum Balanced {
    /// Those who are SECONDARY when the load ends.
    Secondaries,
    Members(Vec<MemberRef>),
}

/// What breaks and mends.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Kill(MemberRef),
    Shutdown(MemberRef),
    Restart(MemberRef),
    RestartEmpty(MemberRef),
    Pause(MemberRef),
    Resume(MemberRef),
    Isolate(MemberRef),
    Partition(Vec<EndRef>, Vec<EndRef>),
    Cut(EndRef, EndRef),
    Refuse(EndRef, EndRef),
    Reset(EndRef, EndRef),
    Delay(EndRef, EndRef, Duration),
    /// A wall clock, so many milliseconds ahead of true time (behind, if negative).
    Skew(MemberRef, i64),
    /// A wall clock that gains so many parts per million (loses, if negative).
    Drift(MemberRef, i64),
    Heal,
}

/// An end of a link: a member or a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndRef {
    Member(MemberRef),
    /// All members in state SECONDARY: in the groups of a partition.
    Secondaries,
    Client(String),
}

/// One thing that must be so now.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Primary(Option<MemberRef>),
    PrimaryIsNot(MemberRef),
    State(MemberRef, Vec<MemberState>),
    Down(MemberRef),
    /// The primary a client knows.
    ClientPrimary {
        client: String,
        primary: Option<MemberRef>,
    },
    /// How many members a client knows.
    ClientMembers {
        client: String,
        count: usize,
    },
    /// The documents on one member, read directly, in the order of their `_id`.
    Holds {
        member: MemberRef,
        of: Namespace,
        documents: Vec<Document>,
    },
}

/// Whether two values mean the same: numbers by value whatever their width, documents whatever the
/// order of their fields.
pub(crate) fn same_value(left: &Bson, right: &Bson) -> bool {
    match (left, right) {
        (Bson::Document(left), Bson::Document(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, left)| right.get(key).is_some_and(|right| same_value(left, right)))
        }
        (Bson::Array(left), Bson::Array(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same_value(left, right))
        }
        _ => match (integer(left), integer(right)) {
            (Some(left), Some(right)) => left == right,
            _ => left == right,
        },
    }
}

/// Whether `actual` has every field of `wanted`, with the same value; documents within likewise
/// need no more than what is wanted of them.
pub(crate) fn includes(actual: &Document, wanted: &Document) -> bool {
    wanted.iter().all(|(key, wanted)| match (actual.get(key), wanted) {
        (Some(Bson::Document(actual)), Bson::Document(wanted)) => includes(actual, wanted),
        (Some(actual), wanted) => same_value(actual, wanted),
        (None, _) => false,
    })
}

/// Whether a document is the wanted one; an `_id` that is not asked for is not looked at.
pub(crate) fn same_document(actual: &Document, wanted: &Document) -> bool {
    let skip_id = !wanted.contains_key("_id") && actual.contains_key("_id");
    actual.len() == wanted.len() + usize::from(skip_id)
        && wanted
            .iter()
            .all(|(key, wanted)| actual.get(key).is_some_and(|actual| same_value(actual, wanted)))
}

/// The value of an integer, or of a double that is one.
fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => {
            let text = number.to_string();
            text.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn numbers_compare_by_value_and_documents_without_order() {
        let left = doc! { "a": 1, "b": [2_i64, { "c": 1.0 }] };
        let right = doc! { "b": [2, { "c": 1 }], "a": 1_i64 };
        assert!(same_value(&left.clone().into(), &right.into()));
        assert!(!same_value(&left.into(), &doc! { "a": 1 }.into()));
    }

    #[test]
    fn an_id_is_compared_only_when_it_is_asked_for() {
        let stored = doc! { "_id": 7, "text": "x" };
        assert!(same_document(&stored, &doc! { "text": "x" }));
        assert!(same_document(&stored, &doc! { "_id": 7, "text": "x" }));
        assert!(!same_document(&stored, &doc! { "_id": 8, "text": "x" }));
        assert!(!same_document(&stored, &doc! {}));
    }
}
