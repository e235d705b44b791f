//! What can happen in a world, as a type.

use std::fmt;
use std::sync::Arc;

use stepdown_driver::Instant;

use crate::mongod::optime::OpTime;

/// Something that happened, when and to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Virtual time.
    pub at: Instant,
    /// The member (`a:27017`), the client's name, or `world`.
    pub who: Arc<str>,
    /// What happened.
    pub kind: EventKind,
}

/// The part of the story an event belongs to; recording and timelines filter by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// What clients ask and what they are told.
    Client,
    /// Elections, terms, states, configurations.
    Election,
    /// What the test or the scenario breaks and mends.
    Fault,
    /// Connections between members, and who believes whom down.
    Network,
    /// Sync sources, commit points, rollback, initial sync.
    Replication,
}

/// A member's state, with the server's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemberState {
    /// No configuration yet.
    Startup = 0,
    /// Leader; writable once its drain is complete.
    Primary = 1,
    /// Following, consistent.
    Secondary = 2,
    /// Not readable: maintenance, too stale, or not yet consistent.
    Recovering = 3,
    /// Initial sync, or the start of replication.
    Startup2 = 5,
    /// Of others only: never heard.
    Unknown = 6,
    /// Votes, holds no data.
    Arbiter = 7,
    /// Of others only: heartbeats fail.
    Down = 8,
    /// Undoing what the others do not have.
    Rollback = 9,
    /// Has a configuration that does not name it.
    Removed = 10,
}

impl MemberState {
    /// The server's word for it (`stateStr`).
    pub const fn name(self) -> &'static str {
        match self {
            MemberState::Startup => "STARTUP",
            MemberState::Primary => "PRIMARY",
            MemberState::Secondary => "SECONDARY",
            MemberState::Recovering => "RECOVERING",
            MemberState::Startup2 => "STARTUP2",
            MemberState::Unknown => "UNKNOWN",
            MemberState::Arbiter => "ARBITER",
            MemberState::Down => "(not reachable/healthy)",
            MemberState::Rollback => "ROLLBACK",
            MemberState::Removed => "REMOVED",
        }
    }

    /// The state of the server's number.
    pub const fn from_number(number: i32) -> Option<MemberState> {
        Some(match number {
            0 => MemberState::Startup,
            1 => MemberState::Primary,
            2 => MemberState::Secondary,
            3 => MemberState::Recovering,
            5 => MemberState::Startup2,
            6 => MemberState::Unknown,
            7 => MemberState::Arbiter,
            8 => MemberState::Down,
            9 => MemberState::Rollback,
            10 => MemberState::Removed,
            _ => return None,
        })
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happened. Each decision carries its reason in words.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    // ---- processes and faults (said by the world)
    /// A mongod process started; `with_data` tells whether its dbpath held anything.
    ProcessStarted {
        /// Whether the dbpath held data.
        with_data: bool,
    },
    /// A mongod process was killed (kill -9).
    ProcessKilled,
    /// A mongod process ended by itself.
    ProcessExited {
        /// Its exit code.
        code: i32,
        /// Why.
        why: String,
    },
    /// A fault began or ended: `pause`, `partition a | b, c`, `heal`, ...
    Fault {
        /// The verb and its objects.
        what: String,
    },

    // ---- elections and configuration
    /// The member's own state changed.
    StateChanged {
        /// The state left.
        from: MemberState,
        /// The state entered.
        to: MemberState,
        /// Why.
        why: String,
    },
    /// A configuration was installed.
    ConfigInstalled {
        /// Its version.
        version: i64,
        /// Its term.
        term: i64,
        /// How it came here.
        why: String,
    },
    /// The member's term rose.
    TermChanged {
        /// The new term.
        term: i64,
        /// Who told.
        why: String,
    },
    /// A timer fired but the member does not stand.
    ElectionRefused {
        /// Which pre-check failed.
        why: String,
    },
    /// The member asks for votes.
    ElectionStarted {
        /// Dry run or the real one.
        dry_run: bool,
        /// The term of the election.
        term: i64,
        /// `electionTimeout`, `priorityTakeover`, ...
        why: String,
    },
    /// The member answered a candidate.
    Vote {
        /// The candidate.
        candidate: Arc<str>,
        /// The term voted in.
        term: i64,
        /// Dry run or the real one.
        dry_run: bool,
        /// Yes or no.
        granted: bool,
        /// The reason of a no.
        why: String,
    },
    /// The member won.
    ElectionWon {
        /// The term won.
        term: i64,
        /// Votes received, its own included.
        votes: usize,
    },
    /// The member lost, or gave up.
    ElectionLost {
        /// The term.
        term: i64,
        /// Why.
        why: String,
    },
    /// Catch-up ended (or was not needed).
    CatchUp {
        /// What happened.
        what: String,
    },
    /// The primary accepts writes from now on.
    Writable {
        /// Its term.
        term: i64,
    },
    /// The primary gives up its role.
    SteppingDown {
        /// Why.
        why: String,
    },
    /// A takeover or handoff was scheduled or cancelled.
    Takeover {
        /// What.
        what: String,
    },

    // ---- network
    /// The member holds another one to be down.
    MemberDown {
        /// The other one.
        member: Arc<str>,
        /// Why.
        why: String,
    },
    /// The member sees another one alive (again).
    MemberUp {
        /// The other one.
        member: Arc<str>,
        /// The state it reports.
        state: MemberState,
    },

    /// A message left; only recorded at [`Record::Messages`](super::Record::Messages).
    MessageSent {
        /// Its number: [`EventKind::MessageReceived`] has the same.
        message: u64,
        /// Whom it is for.
        to: Arc<str>,
        /// What it says.
        what: String,
        /// Whether a set says it all day long: heartbeats, positions, hellos.
        routine: bool,
    },
    /// A message arrived; only recorded at [`Record::Messages`](super::Record::Messages).
    MessageReceived {
        /// Its number.
        message: u64,
        /// Who sent it.
        from: Arc<str>,
        /// What it says.
        what: String,
        /// Whether a set says it all day long.
        routine: bool,
    },
    /// A message did not get through; only recorded at
    /// [`Record::Messages`](super::Record::Messages). After a heal it may be sent again.
    MessageStopped {
        /// Whom it is for.
        to: Arc<str>,
        /// What it says.
        what: String,
        /// Whether a set says it all day long.
        routine: bool,
        /// What is wrong with the link.
        why: String,
    },

    // ---- replication
    /// A sync source was chosen.
    SyncSource {
        /// The source; `None`: none found.
        source: Option<Arc<str>>,
        /// Why.
        why: String,
    },
    /// The commit point moved (recorded on a primary).
    CommitPoint {
        /// Where to.
        optime: OpTime,
    },
    /// An entry was written to the oplog (recorded on a primary).
    OplogWrite {
        /// Its position.
        optime: OpTime,
        /// What it does: `i db.coll`, `n new primary`, ...
        what: String,
    },
    /// Entries fetched from the sync source were applied.
    Applied {
        /// How many.
        count: usize,
        /// The last one.
        last: OpTime,
    },
    /// Initial sync: a phase began or ended.
    InitialSync {
        /// Which.
        what: String,
    },
    /// Rollback: a phase began or ended.
    Rollback {
        /// Which, with the common point and how many entries are undone.
        what: String,
    },
    /// A crash lost entries that were not journaled.
    JournalLost {
        /// How many entries.
        count: usize,
    },

    // ---- clients
    /// A client operation began.
    OperationStarted {
        /// The command and its essentials.
        what: String,
    },
    /// A client operation was answered.
    OperationSucceeded {
        /// The command and its essentials.
        what: String,
        /// Who answered.
        server: Option<Arc<str>>,
    },
    /// A client operation failed.
    OperationFailed {
        /// The command and its essentials.
        what: String,
        /// The error.
        why: String,
    },
    /// A client's view of the set changed.
    Topology {
        /// The new view.
        what: String,
    },
    /// A line of the story itself: a step of a scenario, a note of a test.
    Note {
        /// The text.
        text: String,
    },
}

impl EventKind {
    /// The part of the story it belongs to.
    pub const fn category(&self) -> Category {
        use EventKind as K;
        match self {
            K::ProcessStarted { .. }
            | K::ProcessKilled
            | K::ProcessExited { .. }
            | K::Fault { .. } => Category::Fault,
            K::StateChanged { .. }
            | K::ConfigInstalled { .. }
            | K::TermChanged { .. }
            | K::ElectionRefused { .. }
            | K::ElectionStarted { .. }
            | K::Vote { .. }
            | K::ElectionWon { .. }
            | K::ElectionLost { .. }
            | K::CatchUp { .. }
            | K::Writable { .. }
            | K::SteppingDown { .. }
            | K::Takeover { .. } => Category::Election,
            K::MemberDown { .. }
            | K::MemberUp { .. }
            | K::MessageSent { .. }
            | K::MessageReceived { .. }
            | K::MessageStopped { .. } => Category::Network,
            K::SyncSource { .. }
            | K::CommitPoint { .. }
            | K::OplogWrite { .. }
            | K::Applied { .. }
            | K::InitialSync { .. }
            | K::Rollback { .. }
            | K::JournalLost { .. } => Category::Replication,
            K::OperationStarted { .. }
            | K::OperationSucceeded { .. }
            | K::OperationFailed { .. }
            | K::Topology { .. }
            | K::Note { .. } => Category::Client,
        }
    }
}
