//! What clients asked, what they were answered, and whether a replica set may answer so.
//!
//! The workload is small on purpose, so that every answer can be judged: a log of documents whose ids
//! are used once, counters, and registers. The promises are those of the manual ("Causal Consistency",
//! "Read Isolation, Consistency, and Recency", "Retryable Writes"): what a majority acknowledged is
//! there in the end, a majority read is never undone, a session reads its writes and never goes back,
//! linearizable reads see everything acknowledged before, a retried write is executed once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use stepdown_driver::Instant;

use super::linearizable::{Interval, Register, is_linearizable};

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Insert a document of this id, which no other operation inserts.
    Append {
        /// The id.
        id: i64,
    },
    /// Is the document of this id there?
    Look {
        /// The id.
        id: i64,
    },
    /// Count up a counter by one, as a retryable write.
    Add {
        /// Which counter.
        counter: u8,
    },
    /// Count up a counter by one, by an update of many documents, which is not retryable.
    AddMany {
        /// Which counter.
        counter: u8,
    },
    /// Set a register, with majority.
    Put {
        /// Which register.
        register: u8,
        /// To what; no other operation sets it to that.
        value: i64,
    },
    /// Set a register, with majority, if it holds a value.
    Swap {
        /// Which register.
        register: u8,
        /// What it must hold.
        from: i64,
        /// What it holds then; no other operation sets it to that.
        to: i64,
    },
    /// Read a register.
    Get {
        /// Which register.
        register: u8,
    },
}

/// The concern of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// w: 1, or read concern local.
    Weak,
    /// w: "majority", or read concern majority.
    Majority,
    /// Read concern linearizable.
    Linearizable,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write was acknowledged.
    Done,
    /// A look found the document, or did not.
    Found(bool),
    /// A register holds this.
    Value(i64),
    /// A swap found another value.
    Unmatched,
    /// An error, by its code; 0 for what is no server's error. A write may have happened, or may yet.
    Failed(i32),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which client.
    pub client: u8,
    /// Whether it was part of the client's causally consistent session.
    pub session: bool,
    /// What.
    pub asked: Asked,
    /// With which concern.
    pub strength: Strength,
    /// The bound on staleness it was given, if any.
    pub max_staleness: Option<Duration>,
    /// When it was asked for.
    pub from: Instant,
    /// When it was answered.
    pub to: Instant,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { client, asked, strength, from, to, outcome, .. } = self;
        write!(f, "{from}..{to} client {client}: {asked:?} ({strength:?}")?;
        if self.session {
            f.write_str(", in its session")?;
        }
        write!(f, ") -> {outcome:?}")
    }
}

/// What is there once everything is calm again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Final {
    /// The ids in the log.
    pub log: BTreeSet<i64>,
    /// The counters.
    pub counters: BTreeMap<u8, i64>,
    /// The registers.
    pub registers: BTreeMap<u8, i64>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which promise.
    pub rule: &'static str,
    /// What happened instead.
    pub what: String,
}

/// Errors that no fault of a network or a process explains, by their code.
const UNEXPLAINED: [i32; 9] = [2, 9, 14, 72, 117, 217, 225, 251, 40_415];

/// Beyond the bound on staleness: a heartbeat of the driver (10 s), a no-op (10 s), and the time that
/// members take to notice.
const STALENESS_SLACK: Duration = Duration::from_secs(35);

/// The operations of all clients, in the order they ended.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: Vec<Record>,
}

impl History {
    /// Nothing yet.
    pub fn new() -> Self {
        History::default()
    }

    /// An operation has ended.
    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// The operations, in the order they ended.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Every promise that was not kept, the first of each kind. `end` is what was there in the end;
    /// `None` leaves out the rules that need to know it.
    pub fn judge(&self, end: Option<&Final>) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        self.errors(&mut complaints);
        self.sessions(&mut complaints);
        self.linearizable_looks(&mut complaints);
        self.staleness(&mut complaints);
        if let Some(end) = end {
            self.lost(end, &mut complaints);
            self.counters(end, &mut complaints);
        }
        self.registers(end, &mut complaints);
        complaints
    }

    fn complain(complaints: &mut Vec<Complaint>, rule: &'static str, what: String) {
        if complaints.iter().all(|complaint| complaint.rule != rule) {
            complaints.push(Complaint { rule, what });
        }
    }

    fn errors(&self, complaints: &mut Vec<Complaint>) {
        for record in &self.records {
            let Outcome::Failed(code) = record.outcome else { continue };
            if code == 11_000 && matches!(record.asked, Asked::Append { .. }) {
                let what = format!("{record}: nobody else inserts this id");
                Self::complain(complaints, "a write is executed once", what);
            } else if UNEXPLAINED.contains(&code) {
                let what = format!("{record}: no fault explains this error");
                Self::complain(complaints, "errors have a cause", what);
            }
        }
    }

    /// Read your writes, and monotonic reads, in causally consistent sessions with majorities.
    fn sessions(&self, complaints: &mut Vec<Complaint>) {
        let mut wrote: BTreeSet<(u8, i64)> = BTreeSet::new();
        let mut saw: BTreeSet<(u8, i64)> = BTreeSet::new();
        let strong =
            self.records.iter().filter(|it| it.session && it.strength >= Strength::Majority);
        // One session is used by one client, one operation after the other.
        for record in strong {
            match (record.asked, &record.outcome) {
                (Asked::Append { id }, Outcome::Done) => {
                    wrote.insert((record.client, id));
                }
                (Asked::Look { id }, Outcome::Found(true)) => {
                    saw.insert((record.client, id));
                }
                (Asked::Look { id }, Outcome::Found(false)) => {
                    if wrote.contains(&(record.client, id)) {
                        let what = format!("{record}: the session had written it");
                        Self::complain(complaints, "a session reads its writes", what);
                    } else if saw.contains(&(record.client, id)) {
                        let what = format!("{record}: the session had seen it");
                        Self::complain(complaints, "a session's reads never go back", what);
                    }
                }
                _ => {}
            }
        }
    }

    /// A linearizable read sees whatever a majority acknowledged, or a majority read showed, before it.
    fn linearizable_looks(&self, complaints: &mut Vec<Complaint>) {
        let mut known: BTreeMap<i64, Instant> = BTreeMap::new();
        for record in &self.records {
            let shown = match (record.asked, &record.outcome) {
                (Asked::Append { id }, Outcome::Done) => id,
                (Asked::Look { id }, Outcome::Found(true)) => id,
                _ => continue,
            };
            if record.strength >= Strength::Majority {
                known.entry(shown).or_insert(record.to);
            }
        }
        for record in &self.records {
            if let (Asked::Look { id }, Outcome::Found(false), Strength::Linearizable) =
                (record.asked, &record.outcome, record.strength)
                && known.get(&id).is_some_and(|since| *since < record.from)
            {
                let what = format!("{record}: it was there since {} s", known[&id]);
                Self::complain(complaints, "a linearizable read sees what is acknowledged", what);
            }
        }
    }

    fn staleness(&self, complaints: &mut Vec<Complaint>) {
        for record in &self.records {
            let (Some(bound), Asked::Look { id }, Outcome::Found(false)) =
                (record.max_staleness, record.asked, &record.outcome)
            else {
                continue;
            };
            let written = self.records.iter().find(|it| {
                it.asked == Asked::Append { id }
                    && it.outcome == Outcome::Done
                    && it.strength == Strength::Majority
            });
            if let Some(written) = written
                && record.from - written.to > bound + STALENESS_SLACK
                && record.from > written.to
            {
                let what = format!("{record}: it was written at {} s", written.to);
                Self::complain(complaints, "a read is no staler than it asked for", what);
            }
        }
    }

    fn lost(&self, end: &Final, complaints: &mut Vec<Complaint>) {
        for record in self.records.iter().filter(|it| it.strength >= Strength::Majority) {
            match (record.asked, &record.outcome) {
                (Asked::Append { id }, Outcome::Done) if !end.log.contains(&id) => {
                    let what = format!("{record}: it is gone in the end");
                    Self::complain(complaints, "what a majority acknowledged stays", what);
                }
                (Asked::Look { id }, Outcome::Found(true)) if !end.log.contains(&id) => {
                    let what = format!("{record}: it is gone in the end");
                    Self::complain(complaints, "a majority read is never undone", what);
                }
                _ => {}
            }
        }
    }

    fn counters(&self, end: &Final, complaints: &mut Vec<Complaint>) {
        let mut bounds: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
        for record in &self.records {
            let (Asked::Add { counter } | Asked::AddMany { counter }) = record.asked else {
                continue;
            };
            let (least, most) = bounds.entry(counter).or_default();
            *most += 1;
            if record.outcome == Outcome::Done && record.strength == Strength::Majority {
                *least += 1;
            }
        }
        for (counter, (least, most)) in bounds {
            let count = end.counters.get(&counter).copied().unwrap_or(0);
            if count > most {
                let what = format!(
                    "counter {counter} was counted up {most} times at most, and is {count}"
                );
                Self::complain(complaints, "a write is executed once", what);
            } else if count < least {
                let what = format!(
                    "counter {counter}: {least} times a majority acknowledged one more, and it is {count}"
                );
                Self::complain(complaints, "what a majority acknowledged stays", what);
            }
        }
    }

    fn registers(&self, end: Option<&Final>, complaints: &mut Vec<Complaint>) {
        let mut histories: BTreeMap<u8, Vec<Interval>> = BTreeMap::new();
        let mut last = 0;
        for record in &self.records {
            let (from, to) = (record.from.as_nanos(), record.to.as_nanos());
            last = last.max(to);
            let (register, what, to) = match (record.asked, &record.outcome) {
                (Asked::Put { register, value }, Outcome::Done) => {
                    (register, Register::Write(value), to)
                }
                (Asked::Put { register, value }, _) => (register, Register::Write(value), u64::MAX),
                (Asked::Swap { register, from, to: new }, Outcome::Done) => {
                    (register, Register::Swap(from, new), to)
                }
                (Asked::Swap { register, from, to: new }, Outcome::Failed(_)) => {
                    (register, Register::Swap(from, new), u64::MAX)
                }
                (Asked::Get { register }, Outcome::Value(value))
                    if record.strength == Strength::Linearizable =>
                {
                    (register, Register::Read(*value), to)
                }
                _ => continue,
            };
            histories.entry(register).or_default().push(Interval { from, to, what });
        }
        for (register, mut history) in histories {
            if let Some(end) = end {
                let value = end.registers.get(&register).copied().unwrap_or(0);
                let what = Register::Read(value);
                history.push(Interval { from: last + 1, to: last + 2, what });
            }
            if !is_linearizable(0, &history) {
                let mut what = format!("no order of its operations explains register {register}:");
                history.sort_by_key(|interval| interval.from);
                for Interval { from, to, what: operation } in history {
                    let to = if to == u64::MAX {
                        "?".into()
                    } else {
                        Instant::from_nanos(to).to_string()
                    };
                    what.push_str(&format!(
                        "\n    {}..{to} {operation:?}",
                        Instant::from_nanos(from)
                    ));
                }
                Self::complain(complaints, "registers are linearizable", what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seconds: u64, asked: Asked, strength: Strength, outcome: Outcome) -> Record {
        Record {
            client: 0,
            session: true,
            asked,
            strength,
            max_staleness: None,
            from: Instant::from_millis(seconds * 1_000),
            to: Instant::from_millis(seconds * 1_000 + 10),
            outcome,
        }
    }

    fn rules(records: Vec<Record>, end: &Final) -> Vec<&'static str> {
        History { records }.judge(Some(end)).iter().map(|complaint| complaint.rule).collect()
    }

    const APPEND: Asked = Asked::Append { id: 1 };
    const LOOK: Asked = Asked::Look { id: 1 };
    use Strength::{Linearizable, Majority, Weak};

    #[test]
    fn an_acknowledged_write_may_vanish_unless_a_majority_acknowledged_it() {
        let end = Final::default();
        assert!(rules(vec![record(1, APPEND, Weak, Outcome::Done)], &end).is_empty());
        assert_eq!(
            rules(vec![record(1, APPEND, Majority, Outcome::Done)], &end),
            ["what a majority acknowledged stays"]
        );
        assert!(rules(vec![record(1, APPEND, Majority, Outcome::Failed(64))], &end).is_empty());
    }

    #[test]
    fn a_majority_read_of_what_is_gone_in_the_end_is_dirty() {
        let read = record(1, LOOK, Majority, Outcome::Found(true));
        assert_eq!(rules(vec![read], &Final::default()), ["a majority read is never undone"]);
    }

    #[test]
    fn a_session_reads_its_writes_and_never_goes_back() {
        let end = Final { log: [1].into(), ..Final::default() };
        let wrote = record(1, APPEND, Majority, Outcome::Done);
        let missed = record(2, LOOK, Majority, Outcome::Found(false));
        assert_eq!(
            rules(vec![wrote.clone(), missed.clone()], &end),
            ["a session reads its writes"]
        );
        let saw = record(1, LOOK, Majority, Outcome::Found(true));
        assert_eq!(rules(vec![saw, missed.clone()], &end), ["a session's reads never go back"]);
        // Another client's session may be behind.
        let elsewhere = Record { client: 1, ..missed };
        assert!(rules(vec![wrote.clone(), elsewhere.clone()], &end).is_empty());
        let linearizable = Record { strength: Linearizable, ..elsewhere };
        assert_eq!(
            rules(vec![wrote, linearizable], &end),
            ["a linearizable read sees what is acknowledged"]
        );
    }

    #[test]
    fn a_counter_ends_between_what_was_acknowledged_and_what_was_asked_for() {
        let add = |outcome| record(1, Asked::Add { counter: 0 }, Majority, outcome);
        let judged = |count| {
            let end = Final { counters: [(0, count)].into(), ..Final::default() };
            rules(vec![add(Outcome::Done), add(Outcome::Failed(0))], &end)
        };
        assert_eq!(judged(0), ["what a majority acknowledged stays"]);
        assert!(judged(1).is_empty() && judged(2).is_empty());
        assert_eq!(judged(3), ["a write is executed once"]);
    }

    #[test]
    fn a_retry_that_meets_its_own_first_attempt_was_executed_twice() {
        let end = Final { log: [1].into(), ..Final::default() };
        let failed = record(1, APPEND, Majority, Outcome::Failed(11_000));
        assert_eq!(rules(vec![failed], &end), ["a write is executed once"]);
    }
}
