//! Positions in the oplog.

use std::fmt;

use bson::{Bson, RawDocument, RawDocumentBuf, Timestamp, rawdoc};

/// A BSON timestamp as one comparable number: seconds in the high half, increment in the low half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ts(pub u64);

impl Ts {
    /// Before everything.
    pub const NULL: Ts = Ts(0);
    /// After everything.
    pub const MAX: Ts = Ts(u64::MAX);

    /// The timestamp of `seconds` since the Unix epoch and `increment`.
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Ts(((seconds as u64) << 32) | increment as u64)
    }

    /// Seconds since the Unix epoch.
    pub const fn seconds(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The place within the second.
    pub const fn increment(self) -> u32 {
        self.0 as u32
    }

    /// Whether this is the null timestamp.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl From<Ts> for Timestamp {
    fn from(ts: Ts) -> Timestamp {
        Timestamp { time: ts.seconds(), increment: ts.increment() }
    }
}

impl From<Timestamp> for Ts {
    fn from(ts: Timestamp) -> Ts {
        Ts::new(ts.time, ts.increment)
    }
}

impl From<Ts> for Bson {
    fn from(ts: Ts) -> Bson {
        Bson::Timestamp(ts.into())
    }
}

impl fmt::Display for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seconds(), self.increment())
    }
}

/// A position in the replicated log: `{ts, t}`. Ordered by term first, as the server compares
/// freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpTime {
    /// The election term; -1 for entries and positions before the first election.
    pub term: i64,
    /// The timestamp.
    pub ts: Ts,
}

impl OpTime {
    /// No position: `{ts: Timestamp(0, 0), t: -1}`.
    pub const NULL: OpTime = OpTime { term: -1, ts: Ts::NULL };

    /// The position `ts` in `term`.
    pub const fn new(ts: Ts, term: i64) -> Self {
        OpTime { term, ts }
    }

    /// Whether this is the null position.
    pub const fn is_null(self) -> bool {
        self.ts.is_null()
    }

    /// `{ts: Timestamp, t: Long}`, as replies carry it.
    pub fn to_raw(self) -> RawDocumentBuf {
        rawdoc! { "ts": Timestamp::from(self.ts), "t": self.term }
    }

    /// Reads `{ts, t}`; a missing `t` is term -1.
    pub fn from_raw(document: &RawDocument) -> Option<OpTime> {
        let ts = document.get_timestamp("ts").ok()?;
        let term = document.get_i64("t").unwrap_or(-1);
        Some(OpTime::new(ts.into(), term))
    }
}

impl Default for OpTime {
    fn default() -> Self {
        OpTime::NULL
    }
}

impl fmt::Display for OpTime {
    /// `seconds:increment@term`, seconds since the Unix epoch.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.ts, self.term)
    }
}
