//! Invariants of a running set.
//!
//! The rules are those that the replication protocol keeps whatever breaks (the TLA+ specifications
//! RaftMongo and MongoReplReconfig state most of them): terms and votes, one leader a term, log
//! matching, leader completeness, the commit point and what is never undone, durability across
//! crashes, configurations, candidates, arbiters, topology versions. A forced reconfiguration, a wiped
//! dbpath and a majority that does not wait for journals give some of them up; so does the watcher.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::oid::ObjectId;

use super::log::Log;
use crate::mongod::optime::OpTime;
use crate::mongod::repl::config::ReplSetConfig;
use crate::mongod::{Landmarks, Observation};
use crate::trace::MemberState;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// What broke it, in words.
    pub what: String,
}

/// What the watcher remembers of one member.
#[derive(Clone, Debug)]
struct Seen {
    process: u32,
    state: MemberState,
    writable: bool,
    term: i64,
    term_led: i64,
    vote: (i64, i64),
    last: OpTime,
    applied: OpTime,
    durable: OpTime,
    commit_point: OpTime,
    /// The newest commit point of all its processes.
    ever_committed: OpTime,
    rbid: i32,
    topology_counter: i64,
    config: (i64, i64),
    installed: Option<Arc<ReplSetConfig>>,
    stands: bool,
    ended_by_itself: bool,
}

impl Seen {
    const NOTHING: Seen = Seen {
        process: 0,
        state: MemberState::Startup,
        writable: false,
        term: -1,
        term_led: -1,
        vote: (-1, -1),
        last: OpTime::NULL,
        applied: OpTime::NULL,
        durable: OpTime::NULL,
        commit_point: OpTime::NULL,
        ever_committed: OpTime::NULL,
        rbid: 0,
        topology_counter: -1,
        config: (-2, -1),
        installed: None,
        stands: false,
        ended_by_itself: false,
    };
}

/// What the watcher has seen the set do, apart from its members' landmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Two members were PRIMARY at once.
    pub two_primaries: bool,
    /// Two members accepted writes at once.
    pub two_writable: bool,
    /// An entry that was applied somewhere was undone.
    pub undone: bool,
    /// A crash lost entries.
    pub lost_in_crash: bool,
}

/// Watches the members of one set.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    members: Vec<Seen>,
    hosts: Vec<Box<str>>,
    /// Who led each term, by member number.
    leaders: BTreeMap<i64, u32>,
    log: Log,
    /// The newest position any member ever had.
    newest: OpTime,
    /// A forced reconfiguration happened: two majorities need not overlap any more.
    forced: bool,
    /// A dbpath was emptied: what a majority had, it may not have any more.
    wiped: bool,
    /// A configuration does not wait for journals.
    unjournaled: bool,
    /// The id of the set, as its first configuration gives it.
    set_id: Option<ObjectId>,
    /// Members of several sets live here: each was initiated on its own, and no rule holds between them.
    several_sets: bool,
    undone: Vec<OpTime>,
    landmarks: Landmarks,
    sightings: Sightings,
}

impl Invariants {
    /// Has seen nothing yet.
    pub fn new() -> Self {
        Invariants::default()
    }

    /// What the members have lived through so far.
    pub fn landmarks(&self) -> Landmarks {
        self.landmarks
    }

    /// What the set was seen doing.
    pub fn sightings(&self) -> Sightings {
        self.sightings
    }

    /// Looks at member number `member` after it did something; `process` tells its processes apart.
    ///
    /// # Errors
    /// The first rule found broken.
    #[inline]
    pub fn observe(
        &mut self,
        member: u32,
        process: u32,
        now: &Observation<'_>,
    ) -> Result<(), Violation> {
        let at = member as usize;
        if let Some(seen) = self.members.get(at)
            && seen.process == process
            && seen.applied == now.applied
            && seen.commit_point == now.commit_point
            && seen.durable == now.durable
            && seen.term == now.term
            && seen.state == now.state
            && seen.writable == now.writable
            && seen.vote == now.vote
            && seen.rbid == now.rbid
            && seen.stands == now.stands
            && seen.topology_counter == now.topology_counter
            && seen.config == now.config_version()
            && seen.last == now.oplog.last_optime()
        {
            return Ok(());
        }
        self.look(at, process, now)
    }

    fn look(&mut self, at: usize, process: u32, now: &Observation<'_>) -> Result<(), Violation> {
        if let Some(id) = now.config.and_then(|config| config.settings.replica_set_id) {
            self.several_sets |= *self.set_id.get_or_insert(id) != id;
        }
        if self.several_sets {
            return Ok(());
        }
        if at >= self.members.len() {
            self.members.resize(at + 1, Seen::NOTHING);
            self.hosts.resize(at + 1, Box::default());
        }
        if self.hosts[at].is_empty() {
            self.hosts[at] = now.host.into();
        }
        self.landmarks = self.landmarks.union(now.landmarks);
        let restarted = self.members[at].process != process;
        if restarted {
            self.restart(at, process, now)?;
        }
        self.terms_and_votes(at, now)?;
        // One input may commit an entry and then install the next configuration.
        let changes = self.members[at].config != now.config_version();
        let before = if changes { self.members[at].installed.clone() } else { None };
        self.configurations(at, now)?;
        self.leaders(at, now)?;
        self.log(at, restarted, now)?;
        self.positions(at, restarted, before.as_deref(), now)?;
        self.topology_version(at, restarted, now)?;
        let seen = &mut self.members[at];
        seen.state = now.state;
        seen.writable = now.writable;
        seen.applied = now.applied;
        seen.durable = now.durable;
        seen.rbid = now.rbid;
        seen.topology_counter = now.topology_counter;
        seen.stands = now.stands;
        self.two_at_once(at);
        Ok(())
    }

    fn restart(&mut self, at: usize, process: u32, now: &Observation<'_>) -> Result<(), Violation> {
        let last = now.oplog.last_optime();
        let seen = &mut self.members[at];
        // A restart may forget the commit point, and a term nobody voted in.
        seen.process = process;
        seen.term = seen.term_led;
        seen.commit_point = OpTime::NULL;
        seen.writable = false;
        seen.state = MemberState::Startup;
        seen.topology_counter = -1;
        if now.vote.0 < seen.vote.0 {
            let (vote, before) = (now.vote.0, seen.vote.0);
            return broken(
                "a vote survives a restart",
                format!("it voted in term {before} and remembers {vote}"),
            );
        }
        if now.config.is_none() && seen.installed.is_some() {
            return broken(
                "a configuration survives a restart",
                format!("it had version {} and now has none", seen.config.0),
            );
        }
        let durable = seen.durable;
        let oldest = now.oplog.oldest().map_or(OpTime::NULL, |entry| entry.optime);
        let is_kept = durable.is_null()
            || now.oplog.contains(durable)
            || durable.ts < oldest.ts
            || now.is_arbiter();
        if !is_kept {
            return broken(
                "what is durable survives a crash",
                format!("it said {durable} was durable and now ends at {last}"),
            );
        }
        // Whoever ends by itself may have done something just before, unseen; whoever is a set alone
        // leads, and writes, as soon as it starts.
        let unseen = seen.ended_by_itself || now.writable;
        if last > seen.last && !seen.last.is_null() && !unseen {
            return broken(
                "a crash leaves a prefix",
                format!("its oplog ended at {} and now at {last}", seen.last),
            );
        }
        Ok(())
    }

    fn terms_and_votes(&mut self, at: usize, now: &Observation<'_>) -> Result<(), Violation> {
        let seen = &mut self.members[at];
        if now.term < seen.term {
            return broken(
                "terms only grow",
                format!("its term went back from {} to {}", seen.term, now.term),
            );
        }
        seen.term = now.term;
        if now.vote.0 < seen.vote.0 {
            return broken(
                "terms of votes only grow",
                format!("it votes in term {} after term {}", now.vote.0, seen.vote.0),
            );
        }
        if now.vote.0 == seen.vote.0 && now.vote.1 != seen.vote.1 && seen.vote.1 >= 0 {
            return broken(
                "one vote a term",
                format!(
                    "it votes for member {} in term {}, having voted for member {}",
                    now.vote.1, now.vote.0, seen.vote.1
                ),
            );
        }
        seen.vote = now.vote;
        if now.stands && !seen.stands {
            let may = now.config.zip(now.self_index).is_some_and(|(config, index)| {
                config.members[index].is_electable() && now.state == MemberState::Secondary
            });
            if !may {
                return broken(
                    "candidates are electable secondaries",
                    format!("it stands as {}", now.state),
                );
            }
        }
        Ok(())
    }

    fn configurations(&mut self, at: usize, now: &Observation<'_>) -> Result<(), Violation> {
        let Some(config) = now.config else { return Ok(()) };
        let version = (config.version, config.term);
        if version == self.members[at].config {
            return Ok(());
        }
        self.unjournaled |= !config.majority_journal_default;
        let before = self.members[at].installed.replace(config.clone());
        self.members[at].config = version;
        let Some(before) = before else {
            self.forced |= config.term == -1;
            return Ok(());
        };
        if config.term == -1 || before.term == -1 {
            self.forced = true;
        }
        if !config.is_newer_than(before.version, before.term) {
            return broken(
                "configurations only get newer",
                format!(
                    "it had {{version: {}, term: {}}} and installs {{version: {}, term: {}}}",
                    before.version, before.term, config.version, config.term
                ),
            );
        }
        let changes_it = now.writable && config.term == before.term && !self.forced;
        if changes_it {
            // It is the primary that changed it: the members it changed it for must have the one before.
            let voters = before.members.iter().filter(|member| member.is_voter());
            let having = voters.filter(|member| {
                self.seen(&member.host)
                    .is_some_and(|seen| !before.is_newer_than(seen.config.0, seen.config.1))
            });
            let (having, needed) = (having.count(), before.majority_vote_count());
            if having < needed {
                return broken(
                    "a configuration is committed before the next",
                    format!(
                        "it replaces version {}, which {having} of {needed} voters needed have",
                        before.version
                    ),
                );
            }
            let differing = differing_voters(&before, config);
            if differing > 1 {
                return broken(
                    "one voter at a time",
                    format!("its new configuration differs from the last in {differing} voters"),
                );
            }
        }
        Ok(())
    }

    fn leaders(&mut self, at: usize, now: &Observation<'_>) -> Result<(), Violation> {
        if now.state == MemberState::Primary {
            self.members[at].term_led = now.term;
            if self.members[at].state != MemberState::Primary || self.members[at].term != now.term {
                let leader = *self.leaders.entry(now.term).or_insert(at as u32);
                if leader != at as u32 && !self.forced && !self.wiped {
                    return broken(
                        "one leader a term",
                        format!("it leads term {}, as member {leader} did", now.term),
                    );
                }
            }
        }
        if now.writable && !self.members[at].writable {
            let committed = self.log.committed();
            // One that took its time may find that a later term has committed meanwhile.
            let has_it = committed.term >= now.term
                || committed.is_null()
                || now.oplog.contains(committed)
                || now.oplog.oldest().is_some_and(|oldest| committed.ts < oldest.optime.ts);
            if !has_it && !self.relaxed() {
                return broken(
                    "leader completeness",
                    format!(
                        "it accepts writes in term {} without the committed {committed}",
                        now.term
                    ),
                );
            }
        }
        Ok(())
    }

    fn log(&mut self, at: usize, restarted: bool, now: &Observation<'_>) -> Result<(), Violation> {
        let last = now.oplog.last_optime();
        if now.is_arbiter() {
            if !last.is_null() {
                return broken("an arbiter has no data", format!("its oplog ends at {last}"));
            }
            return Ok(());
        }
        let before = self.members[at].last;
        if last == before {
            return Ok(());
        }
        let mut undone = std::mem::take(&mut self.undone);
        let followed = self.log.follow(now.oplog, before, &mut undone);
        self.undone = undone;
        self.members[at].last = last;
        followed.or_else(|what| broken("log matching", what))?;
        self.newest = self.newest.max(last);
        if self.undone.is_empty() {
            return Ok(());
        }
        if restarted {
            self.sightings.lost_in_crash = true;
            return Ok(());
        }
        self.sightings.undone = true;
        if now.rbid <= self.members[at].rbid {
            return broken(
                "a rollback raises the rollback id",
                format!("it undid {} entries and kept rbid {}", self.undone.len(), now.rbid),
            );
        }
        let committed = self.undone.iter().find(|undone| self.log.is_committed(**undone));
        if let (Some(committed), false) = (committed, self.relaxed()) {
            return broken(
                "what is committed is never rolled back",
                format!("it undid the committed entry {committed} and now ends at {last}"),
            );
        }
        Ok(())
    }

    fn positions(
        &mut self,
        at: usize,
        restarted: bool,
        before: Option<&ReplSetConfig>,
        now: &Observation<'_>,
    ) -> Result<(), Violation> {
        let seen = &mut self.members[at];
        // An arbiter, a removed one too, repeats what it hears as its own.
        let has_data = !now.oplog.is_empty();
        if has_data && !now.is_arbiter() {
            let last = now.oplog.last_optime();
            if now.applied != last {
                return broken(
                    "what is applied is in the oplog",
                    format!("it says it applied {} and its oplog ends at {last}", now.applied),
                );
            }
            if now.durable > now.applied {
                return broken(
                    "durable is at most applied",
                    format!("it says {} is durable and {} applied", now.durable, now.applied),
                );
            }
            if now.storage.durable() < now.durable {
                return broken(
                    "durable is journaled",
                    format!(
                        "it says {} is durable, journaled is {}",
                        now.durable,
                        now.storage.durable()
                    ),
                );
            }
            // What is stable stays so across restarts; the commit point is learned anew.
            let committed = seen.ever_committed.ts.max(now.commit_point.ts);
            if now.storage.stable() > committed && !committed.is_null() && !restarted {
                return broken(
                    "stable is at most committed",
                    format!("stable is {}, committed {committed}", now.storage.stable()),
                );
            }
            if now.commit_point > now.applied {
                return broken(
                    "committed is at most applied",
                    format!("it holds {} committed and applied {}", now.commit_point, now.applied),
                );
            }
        }
        if now.commit_point == seen.commit_point {
            return Ok(());
        }
        if now.commit_point < seen.commit_point {
            return broken(
                "the commit point only moves forward",
                format!("it went back from {} to {}", seen.commit_point, now.commit_point),
            );
        }
        seen.commit_point = now.commit_point;
        seen.ever_committed = seen.ever_committed.max(now.commit_point);
        if now.commit_point > self.newest && has_data && !now.is_arbiter() {
            return broken(
                "what is committed was written",
                format!(
                    "it holds {} committed, the newest entry is {}",
                    now.commit_point, self.newest
                ),
            );
        }
        // A watcher that came late does not know when a leader committed what it holds committed.
        let leads = now.writable && seen.writable;
        let advanced = now.commit_point > self.log.committed();
        if advanced && leads && now.commit_point.term != now.term {
            return broken(
                "a leader commits entries of its own term",
                format!("it leads term {} and commits {}", now.term, now.commit_point),
            );
        }
        if self.relaxed() || !has_data {
            return Ok(());
        }
        if advanced && leads {
            let held = before.is_some_and(|before| self.majority_has(before, now).is_ok());
            if let (Some(config), false) = (now.config, held) {
                self.majority_has(config, now)?;
            }
        }
        if now.is_arbiter() {
            // It only repeats what it hears, which may be ahead of what was seen.
            return Ok(());
        }
        self.log.commit(now.commit_point).or_else(|what| broken("commits are on one branch", what))
    }

    /// Somebody says for the first time that a position is committed: a majority must have it.
    fn majority_has(&self, config: &ReplSetConfig, now: &Observation<'_>) -> Result<(), Violation> {
        let point = now.commit_point;
        if point.term < 0 || !config.majority_journal_default {
            return Ok(());
        }
        let mut having = 0;
        for its in config.members.iter().filter(|its| its.is_voter() && !its.arbiter_only) {
            let durable = match self.seen(&its.host) {
                _ if *its.host == *now.host => now.durable,
                Some(seen) => seen.durable,
                None => OpTime::NULL,
            };
            having += usize::from(durable >= point);
        }
        let needed = config.write_majority_count();
        if having < needed {
            return broken(
                "a majority has what is committed",
                format!("it commits {point}, durable on {having} of {needed} voters needed"),
            );
        }
        Ok(())
    }

    fn topology_version(
        &mut self,
        at: usize,
        restarted: bool,
        now: &Observation<'_>,
    ) -> Result<(), Violation> {
        let seen = &self.members[at];
        if now.topology_counter < seen.topology_counter {
            return broken(
                "topologyVersion only grows",
                format!("it went from {} to {}", seen.topology_counter, now.topology_counter),
            );
        }
        let changed = now.state != seen.state || now.writable != seen.writable;
        if changed && !restarted && now.topology_counter == seen.topology_counter {
            return broken(
                "topologyVersion grows with what hello shows",
                format!("it is {} now, and the counter still {}", now.state, now.topology_counter),
            );
        }
        Ok(())
    }

    fn two_at_once(&mut self, at: usize) {
        let me = &self.members[at];
        if me.state != MemberState::Primary {
            return;
        }
        let writable = me.writable;
        let mut others = self.members.iter().enumerate().filter(|(other, seen)| {
            *other != at && seen.state == MemberState::Primary && seen.process % 2 == 1
        });
        if let Some((_, other)) = others.next() {
            self.sightings.two_primaries = true;
            self.sightings.two_writable |= writable && other.writable;
        }
    }

    /// The member at `host`.
    fn seen(&self, host: &str) -> Option<&Seen> {
        let at = self.hosts.iter().position(|known| **known == *host)?;
        self.members.get(at)
    }

    /// Whether what was committed may be lost all the same.
    fn relaxed(&self) -> bool {
        self.forced || self.wiped || self.unjournaled
    }

    /// Member number `member` starts again with an emptied dbpath: it may forget everything.
    pub fn forget(&mut self, member: u32) {
        if let Some(seen) = self.members.get_mut(member as usize) {
            *seen = Seen::NOTHING;
            self.wiped = true;
        }
    }

    /// The process of member number `member` has ended: by itself, or killed.
    pub fn ended(&mut self, member: u32, by_itself: bool) {
        if let Some(seen) = self.members.get_mut(member as usize) {
            seen.ended_by_itself = by_itself;
            seen.state = MemberState::Down;
            seen.writable = false;
            seen.stands = false;
        }
    }
}

/// In how many voters two configurations differ.
fn differing_voters(one: &ReplSetConfig, other: &ReplSetConfig) -> usize {
    let voters = |config: &ReplSetConfig| {
        let ids = config.members.iter().filter(|member| member.is_voter()).map(|member| member.id);
        ids.collect::<Vec<_>>()
    };
    let (one, other) = (voters(one), voters(other));
    one.iter().filter(|id| !other.contains(id)).count()
        + other.iter().filter(|id| !one.contains(id)).count()
}

fn broken(rule: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation { rule, what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Sim;

    /// A set that was elected and wrote; what the watcher sees of its members is changed by each test.
    fn sim() -> Sim {
        let sim = Sim::builder().seed(1).members(3).check_invariants(false).build();
        sim.elect();
        sim
    }

    fn watch(sim: &Sim, watcher: &mut Invariants) -> Result<(), Violation> {
        let world = sim.world();
        for (number, node) in (0..).zip(&world.nodes) {
            if let Some(process) = &node.process {
                watcher.observe(number, node.epoch, &process.observe())?;
            }
        }
        Ok(())
    }

    /// What the watcher says of member 0 after `change`.
    fn after(sim: &Sim, change: impl FnOnce(&mut Observation<'_>)) -> Option<&'static str> {
        let mut watcher = Invariants::new();
        watch(sim, &mut watcher).expect("an undisturbed set keeps the rules");
        let world = sim.world();
        let mut seen = world.nodes[0].process.as_ref().unwrap().observe();
        change(&mut seen);
        watcher.observe(0, world.nodes[0].epoch, &seen).err().map(|violation| violation.rule)
    }

    #[test]
    fn terms_and_votes_only_grow() {
        let sim = sim();
        assert_eq!(after(&sim, |seen| seen.term += 1), None);
        assert_eq!(after(&sim, |seen| seen.term -= 1), Some("terms only grow"));
        assert_eq!(after(&sim, |seen| seen.vote.0 -= 1), Some("terms of votes only grow"));
        assert_eq!(after(&sim, |seen| seen.vote.1 += 1), Some("one vote a term"));
    }

    #[test]
    fn positions_keep_their_order() {
        let sim = sim();
        let later = |seen: &Observation<'_>| {
            OpTime::new(crate::mongod::optime::Ts(seen.applied.ts.0 + 9), seen.applied.term)
        };
        assert_eq!(
            after(&sim, |seen| seen.applied = later(seen)),
            Some("what is applied is in the oplog")
        );
        assert_eq!(
            after(&sim, |seen| seen.durable = later(seen)),
            Some("durable is at most applied")
        );
        assert_eq!(
            after(&sim, |seen| seen.commit_point = later(seen)),
            Some("committed is at most applied")
        );
        assert_eq!(
            after(&sim, |seen| seen.commit_point = OpTime::NULL),
            Some("the commit point only moves forward")
        );
    }

    #[test]
    fn two_members_lead_in_two_terms_but_not_in_one() {
        let sim = sim();
        let primary = sim.primary().unwrap().name;
        let mut watcher = Invariants::new();
        watch(&sim, &mut watcher).unwrap();
        let world = sim.world();
        let (number, node) =
            (0..).zip(&world.nodes).find(|(_, node)| node.host != primary).unwrap();
        let mut seen = node.process.as_ref().unwrap().observe();
        (seen.state, seen.topology_counter) = (MemberState::Primary, seen.topology_counter + 1);
        let violation = watcher.clone().observe(number, node.epoch, &seen).unwrap_err();
        assert_eq!(violation.rule, "one leader a term");
        seen.term += 1;
        assert_eq!(watcher.observe(number, node.epoch, &seen), Ok(()));
        assert!(watcher.sightings().two_primaries);
    }

    #[test]
    fn a_restart_may_forget_the_commit_point_but_not_a_vote_nor_what_was_durable() {
        let sim = sim();
        let mut watcher = Invariants::new();
        watch(&sim, &mut watcher).unwrap();
        let world = sim.world();
        let node = &world.nodes[0];
        let mut seen = node.process.as_ref().unwrap().observe();
        let restarted = node.epoch + 2;
        seen.commit_point = OpTime::NULL;
        assert_eq!(watcher.clone().observe(0, restarted, &seen), Ok(()));
        let empty = crate::mongod::storage::Oplog::default();
        let lost = Observation { oplog: &empty, ..seen };
        let violation = watcher.clone().observe(0, restarted, &lost).unwrap_err();
        assert_eq!(violation.rule, "what is durable survives a crash");
        seen.vote.0 -= 1;
        let violation = watcher.observe(0, restarted, &seen).unwrap_err();
        assert_eq!(violation.rule, "a vote survives a restart");
    }

    #[test]
    fn topology_versions_grow_with_what_hello_shows() {
        let sim = sim();
        assert_eq!(
            after(&sim, |seen| seen.state = MemberState::Recovering),
            Some("topologyVersion grows with what hello shows")
        );
        assert_eq!(
            after(&sim, |seen| seen.topology_counter -= 1),
            Some("topologyVersion only grows")
        );
    }
}
