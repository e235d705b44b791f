//! The timeline: the story of a run as aligned text, for people and for snapshots.
//!
//! One event a line, three columns, two spaces between them:
//!
//! 1. the virtual time in seconds with six decimals, right-aligned in 12 characters;
//! 2. who: the member (`a:27017`), the client's name, or `world`, padded to the longest name;
//! 3. what happened, and after a colon why.
//!
//! ```text
//!     0.000000  a:27017  mongod starts on an empty dbpath
//!    10.412345  b:27017  asks for votes in term 2: electionTimeout
//!    10.413101  b:27017  SECONDARY -> PRIMARY: won the election of term 2
//! ```

use std::fmt;
use std::fmt::Write as _;

use super::{Event, EventKind};

/// The timeline of `events`.
pub fn timeline<'a>(events: impl IntoIterator<Item = &'a Event, IntoIter: Clone>) -> String {
    let events = events.into_iter();
    let width = events.clone().map(|event| event.who.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Event { at, who, kind } in events {
        let _ = writeln!(text, "{at:>12}  {who:<width$}  {kind}");
    }
    text
}

/// `what: why`, or only `what` where there is no reason to tell.
fn because(f: &mut fmt::Formatter<'_>, why: &str) -> fmt::Result {
    if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
}

fn dry(dry_run: bool) -> &'static str {
    if dry_run { " (dry run)" } else { "" }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl fmt::Display for EventKind {
    /// The third column of the timeline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use EventKind as K;
        match self {
            K::ProcessStarted { with_data: true } => f.write_str("mongod starts on its data"),
            K::ProcessStarted { with_data: false } => {
                f.write_str("mongod starts on an empty dbpath")
            }
            K::ProcessKilled => f.write_str("killed (kill -9)"),
            K::ProcessExited { code, why } => {
                write!(f, "mongod exits with code {code}")?;
                because(f, why)
            }
            K::Fault { what } => f.write_str(what),
            K::StateChanged { from, to, why } => {
                write!(f, "{from} -> {to}")?;
                because(f, why)
            }
            K::ConfigInstalled { version, term, why } => {
                write!(f, "installs config version {version} term {term}")?;
                because(f, why)
            }
            K::TermChanged { term, why } => {
                write!(f, "enters term {term}")?;
                because(f, why)
            }
            K::ElectionRefused { why } => {
                f.write_str("does not stand for election")?;
                because(f, why)
            }
            K::ElectionStarted { dry_run, term, why } => {
                write!(f, "asks for votes in term {term}{}", dry(*dry_run))?;
                because(f, why)
            }
            K::Vote { candidate, term, dry_run, granted, why } => {
                let word = if *granted { "yes" } else { "no" };
                write!(f, "votes {word} to {candidate} in term {term}{}", dry(*dry_run))?;
                because(f, why)
            }
            K::ElectionWon { term, votes } => {
                write!(f, "wins the election of term {term} with {votes} vote{}", plural(*votes))
            }
            K::ElectionLost { term, why } => {
                write!(f, "does not win the election of term {term}")?;
                because(f, why)
            }
            K::CatchUp { what } => write!(f, "catch-up: {what}"),
            K::Writable { term } => write!(f, "accepts writes in term {term}"),
            K::SteppingDown { why } => {
                f.write_str("steps down")?;
                because(f, why)
            }
            K::Takeover { what } => f.write_str(what),
            K::MemberDown { member, why } => {
                write!(f, "sees {member} down")?;
                because(f, why)
            }
            K::MemberUp { member, state } => write!(f, "sees {member} up as {state}"),
            K::MessageSent { to, what, .. } => write!(f, "-> {to}  {what}"),
            K::MessageReceived { from, what, .. } => write!(f, "<- {from}  {what}"),
            K::MessageStopped { to, what, why, .. } => {
                write!(f, "-x {to}  {what}")?;
                because(f, why)
            }
            K::SyncSource { source: Some(source), why } => {
                write!(f, "syncs from {source}")?;
                because(f, why)
            }
            K::SyncSource { source: None, why } => {
                f.write_str("has no sync source")?;
                because(f, why)
            }
            K::CommitPoint { optime } => write!(f, "commit point {optime}"),
            K::OplogWrite { optime, what } => write!(f, "writes {optime} to the oplog: {what}"),
            K::Applied { count, last } => {
                write!(f, "applied {count} oplog entr{}", if *count == 1 { "y" } else { "ies" })?;
                write!(f, " up to {last}")
            }
            K::InitialSync { what } => write!(f, "initial sync: {what}"),
            K::Rollback { what } => write!(f, "rollback: {what}"),
            K::JournalLost { count } => {
                let entries = if *count == 1 { "entry" } else { "entries" };
                write!(f, "lost {count} oplog {entries} not yet journaled")
            }
            K::OperationStarted { what } => write!(f, "begins {what}"),
            K::OperationSucceeded { what, server: Some(server) } => {
                write!(f, "{what}: ok from {server}")
            }
            K::OperationSucceeded { what, server: None } => write!(f, "{what}: ok"),
            K::OperationFailed { what, why } => write!(f, "{what} FAILED: {why}"),
            K::Topology { what } => write!(f, "sees {what}"),
            K::Note { text } => write!(f, "-- {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use stepdown_driver::Instant;

    use super::*;
    use crate::trace::MemberState;

    #[test]
    fn the_timeline_is_aligned_and_says_why() {
        let event = |nanos, who: &str, kind| Event {
            at: Instant::from_nanos(nanos),
            who: who.into(),
            kind,
        };
        let events = [
            event(0, "a:27017", EventKind::ProcessStarted { with_data: false }),
            event(
                10_412_345_678,
                "a:27017",
                EventKind::StateChanged {
                    from: MemberState::Primary,
                    to: MemberState::Secondary,
                    why: "stepped down: can't see a majority of the set".into(),
                },
            ),
            event(123_456_000_000_000, "world", EventKind::Fault { what: "heal".into() }),
            event(
                123_456_000_001_000,
                "b:27017",
                EventKind::Vote {
                    candidate: "c:27017".into(),
                    term: 2,
                    dry_run: true,
                    granted: false,
                    why: "candidate's last written optime 7:1@1 is behind mine 9:1@1".into(),
                },
            ),
        ];
        assert_eq!(
            timeline(&events),
            "    0.000000  a:27017  mongod starts on an empty dbpath
   10.412345  a:27017  PRIMARY -> SECONDARY: stepped down: can't see a majority of the set
123456.000000  world    heal
123456.000001  b:27017  votes no to c:27017 in term 2 (dry run): candidate's last written optime \
             7:1@1 is behind mine 9:1@1
"
        );
    }
}
