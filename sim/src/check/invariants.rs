//! Invariants of a running set, watched through [`MemberStatus`] alone.
//!
//! From the rules every real set keeps: a member's term never decreases while its process lives, and a
//! restart never brings it below a term it led (a member votes for itself, and votes are on disk; a
//! term only heard of is not); at most one member ever accepts writes in one term; a member's commit
//! point is monotonic while its process lives and not beyond what any member has written; nothing is
//! durable that was not applied (in this model members write and apply as one).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mongod::MemberStatus;
use crate::mongod::optime::OpTime;
use crate::trace::MemberState;

/// A rule that was broken, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

/// What the watcher remembers of one member.
#[derive(Clone, Debug)]
struct Seen {
    process: u32,
    term: i64,
    term_led: i64,
    commit_point: OpTime,
}

impl Seen {
    const NOTHING: Seen = Seen { process: 0, term: -1, term_led: -1, commit_point: OpTime::NULL };
}

/// Watches the members of one set.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    members: Vec<Seen>,
    /// Who accepted writes in each term.
    primaries: BTreeMap<i64, Arc<str>>,
    /// The newest position any member ever had.
    newest: OpTime,
}

impl Invariants {
    /// Has seen nothing yet.
    pub fn new() -> Self {
        Invariants::default()
    }

    /// Looks at member number `member` after it did something; `process` tells its processes apart.
    ///
    /// # Errors
    /// The first rule found broken.
    pub fn observe(
        &mut self,
        member: u32,
        process: u32,
        status: &MemberStatus,
    ) -> Result<(), Violation> {
        let at = member as usize;
        if at >= self.members.len() {
            self.members.resize(at + 1, Seen::NOTHING);
        }
        let seen = &mut self.members[at];
        if seen.process != process {
            seen.process = process;
            // A restart may forget the commit point, and a term nobody voted in.
            seen.term = seen.term_led;
            seen.commit_point = OpTime::NULL;
        }
        self.newest = self.newest.max(status.applied);

        if status.term < seen.term {
            return broken(format!("its term went back from {} to {}", seen.term, status.term));
        }
        seen.term = status.term;
        if status.commit_point < seen.commit_point {
            return broken(format!(
                "its commit point went back from {} to {}",
                seen.commit_point, status.commit_point
            ));
        }
        seen.commit_point = status.commit_point;
        if status.commit_point > self.newest {
            return broken(format!(
                "its commit point {} is beyond everything written, {}",
                status.commit_point, self.newest
            ));
        }
        if status.durable > status.applied {
            return broken(format!(
                "it says {} is durable but only {} is applied",
                status.durable, status.applied
            ));
        }
        if status.state == MemberState::Primary {
            seen.term_led = status.term;
        }
        if status.writable {
            let first = self.primaries.entry(status.term).or_insert_with(|| status.host.clone());
            if *first != status.host {
                return broken(format!(
                    "it accepts writes in term {}, as {first} did before",
                    status.term
                ));
            }
        }
        Ok(())
    }

    /// Member number `member` starts again with an emptied dbpath: it may forget everything.
    pub fn forget(&mut self, member: u32) {
        if let Some(seen) = self.members.get_mut(member as usize) {
            *seen = Seen::NOTHING;
        }
    }
}

fn broken(rule: String) -> Result<(), Violation> {
    Err(Violation(rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongod::optime::Ts;

    fn status(host: &str, term: i64, writable: bool, seconds: u32) -> MemberStatus {
        let optime = OpTime::new(Ts::new(seconds, 1), term);
        MemberStatus {
            host: host.into(),
            state: if writable { MemberState::Primary } else { MemberState::Secondary },
            writable,
            term,
            applied: optime,
            durable: optime,
            commit_point: optime,
            config: (1, 1),
            sync_source: None,
        }
    }

    #[test]
    fn two_writable_primaries_are_fine_in_two_terms_but_not_in_one() {
        let mut watcher = Invariants::new();
        assert_eq!(watcher.observe(0, 1, &status("a", 1, true, 5)), Ok(()));
        assert_eq!(watcher.observe(1, 1, &status("b", 2, true, 6)), Ok(()));
        let violation = watcher.observe(2, 1, &status("c", 2, true, 7)).unwrap_err();
        assert_eq!(violation.to_string(), "it accepts writes in term 2, as b did before");
    }

    #[test]
    fn a_restart_may_forget_the_commit_point_but_not_a_term_led() {
        let mut watcher = Invariants::new();
        assert_eq!(watcher.observe(0, 1, &status("a", 3, true, 8)), Ok(()));
        assert_eq!(watcher.observe(0, 1, &status("a", 4, false, 9)), Ok(()));
        assert_eq!(watcher.observe(0, 3, &status("a", 3, false, 5)), Ok(()));
        assert!(watcher.observe(0, 3, &status("a", 3, false, 4)).is_err());
        assert!(watcher.observe(0, 5, &status("a", 2, false, 9)).is_err());
    }
}
