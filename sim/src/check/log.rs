//! What is known of the set's logs together: every entry, what went before it, whether it is committed.
//!
//! Members share their entries, so comparing logs entry by entry costs a look-up for each entry a
//! member appends. That an entry always follows the same entry, on every member, is log matching by
//! induction.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mongod::oplog_entry::OplogEntry;
use crate::mongod::optime::OpTime;
use crate::mongod::storage::Oplog;

/// So many entries are remembered; older ones are not compared any more.
const REMEMBERED: usize = 20_000;

#[derive(Clone, Debug)]
struct Known {
    /// What it follows; `None` where an initial sync began with it.
    previous: Option<OpTime>,
    entry: Arc<OplogEntry>,
    committed: bool,
}

/// The logs of all members, as one tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    entries: BTreeMap<OpTime, Known>,
    /// The newest position known to be committed.
    committed: OpTime,
    /// Positions at or before this one are forgotten.
    forgotten: OpTime,
}

impl Log {
    /// The newest position known to be committed.
    pub(super) fn committed(&self) -> OpTime {
        self.committed
    }

    /// A member's log has grown after `last`, or begins anew if `last` is not in it. Gives back what
    /// was taken off: the positions that a rollback, or a crash, undid, newest first.
    ///
    /// # Errors
    /// The log contradicts another's.
    pub(super) fn follow(
        &mut self,
        oplog: &Oplog,
        last: OpTime,
        undone: &mut Vec<OpTime>,
    ) -> Result<(), String> {
        undone.clear();
        let mut previous = last;
        let oldest = oplog.oldest().map_or(OpTime::NULL, |entry| entry.optime);
        while !previous.is_null() && !oplog.contains(previous) {
            if previous.ts < oldest.ts {
                // An initial sync: nothing of the old log is left.
                undone.clear();
                previous = OpTime::NULL;
                break;
            }
            undone.push(previous);
            previous = match self.entries.get(&previous) {
                Some(known) => known.previous.unwrap_or(OpTime::NULL),
                None => OpTime::NULL,
            };
        }
        let known_start = !previous.is_null() || oldest.term == -1;
        let mut before = (!previous.is_null()).then_some(previous);
        let mut first = !known_start;
        for entry in oplog.iter_after(previous.ts) {
            self.link(before, entry, first)?;
            before = Some(entry.optime);
            first = false;
        }
        Ok(())
    }

    fn link(
        &mut self,
        previous: Option<OpTime>,
        entry: &Arc<OplogEntry>,
        first: bool,
    ) -> Result<(), String> {
        let optime = entry.optime;
        if let Some(previous) = previous
            && (previous.ts >= optime.ts || previous.term > optime.term)
        {
            return Err(format!("entry {optime} follows {previous} in its oplog"));
        }
        if optime <= self.forgotten {
            return Ok(());
        }
        match self.entries.get_mut(&optime) {
            None => {
                let known = Known { previous, entry: entry.clone(), committed: false };
                self.entries.insert(optime, known);
                if self.entries.len() > REMEMBERED
                    && let Some((oldest, _)) = self.entries.pop_first()
                {
                    self.forgotten = oldest;
                }
            }
            Some(known) => {
                if !Arc::ptr_eq(&known.entry, entry) && *known.entry != **entry {
                    return Err(format!("its entry {optime} differs from another member's"));
                }
                match (known.previous, previous) {
                    _ if first => {}
                    (None, Some(_)) => known.previous = previous,
                    (Some(theirs), Some(mine)) if theirs != mine => {
                        return Err(format!(
                            "entry {optime} follows {mine} in its oplog and {theirs} in another's"
                        ));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// `point` is held to be committed.
    ///
    /// # Errors
    /// It is not on the branch of what was committed before.
    pub(super) fn commit(&mut self, point: OpTime) -> Result<(), String> {
        if point == self.committed || point <= self.forgotten || point.is_null() {
            return Ok(());
        }
        if point < self.committed {
            return match self.entries.get(&point) {
                Some(known) if !known.committed => Err(format!(
                    "it holds {point} committed, which is not on the branch of the committed {}",
                    self.committed
                )),
                _ => Ok(()),
            };
        }
        let goal = self.committed;
        let mut at = point;
        loop {
            let Some(known) = self.entries.get_mut(&at) else {
                if at > self.forgotten && at != goal && !goal.is_null() {
                    return Err(format!("it holds {point} committed, which nobody has written"));
                }
                break;
            };
            known.committed = true;
            match known.previous {
                _ if at == goal => break,
                Some(previous) if previous >= goal => at = previous,
                Some(previous) if !goal.is_null() && goal > self.forgotten => {
                    return Err(format!(
                        "it holds {point} committed, on a branch that left the committed {goal} at {previous}"
                    ));
                }
                _ => break,
            }
        }
        self.committed = point;
        Ok(())
    }

    /// Whether this entry is known to be committed.
    pub(super) fn is_committed(&self, optime: OpTime) -> bool {
        self.entries.get(&optime).is_some_and(|known| known.committed)
    }
}
