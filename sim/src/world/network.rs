//! The network between the ends of a world: latency, and what is cut, refused or slowed.
//!
//! Ends are members and clients. A link has two directions, each with its own rule. What is sent into
//! a cut direction waits and is delivered after the heal, when TCP would next have retransmitted it:
//! retransmissions come after 200 ms, 600 ms, 1.4 s, ... (a connection attempt: 1 s, 3 s, 7 s, ...),
//! as on Linux. Acknowledgements are not modelled: a direction that is not cut works although the
//! other one is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stepdown_driver::Instant;

use super::queue::Payload;
use crate::random::RandomStream;

/// One end of links: a member or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The member of this index.
    Node(u32),
    /// The client of this index.
    Client(u32),
}

/// What is wrong with one direction of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rule {
    /// Nothing arrives.
    pub(crate) cut: bool,
    /// New connections and requests are refused.
    pub(crate) refuse: bool,
    /// Added to every latency, in nanoseconds.
    pub(crate) delay_nanos: u64,
}

/// A typed message waiting behind a cut.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) sent: Instant,
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) payload: Payload,
}

/// How long a typed message waits behind a cut or in front of a paused process: by then whoever sent
/// it has given it up and closed its connection (`heartbeatTimeoutSecs`, 10 s).
pub(crate) const GIVE_UP: Duration = Duration::from_secs(10);

/// The first retransmission of data.
pub(crate) const DATA_RETRY: Duration = Duration::from_millis(200);
/// The first retransmission of a connection attempt.
pub(crate) const CONNECT_RETRY: Duration = Duration::from_secs(1);

/// The state of all links.
#[derive(Debug)]
pub(crate) struct Network {
    latency_min_nanos: u64,
    latency_span_nanos: u64,
    /// False as long as no fault ever needs looking up: the only thing an undisturbed message pays.
    faulty: bool,
    rules: BTreeMap<(End, End), Rule>,
    isolated: BTreeSet<End>,
    held: Vec<Held>,
}

impl Network {
    /// An undisturbed network whose one-way latencies are uniform in `min..=max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        assert!(min <= max, "the latency range is empty: {min:?} ..= {max:?}");
        let nanos = |duration: Duration| {
            u64::try_from(duration.as_nanos()).expect("a latency below 584 years")
        };
        Network {
            latency_min_nanos: nanos(min),
            latency_span_nanos: nanos(max) - nanos(min) + 1,
            faulty: false,
            rules: BTreeMap::new(),
            isolated: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    /// When something sent now arrives on an undisturbed link.
    #[inline]
    pub(crate) fn plain_arrival(&self, now: Instant, random: &mut RandomStream) -> Instant {
        Instant::from_nanos(
            now.as_nanos()
                .saturating_add(self.latency_min_nanos + random.below(self.latency_span_nanos)),
        )
    }

    /// When something sent now from `from` arrives at `to`, if it is not cut.
    #[inline]
    pub(crate) fn arrival(
        &self,
        now: Instant,
        random: &mut RandomStream,
        from: End,
        to: End,
    ) -> Instant {
        let plain = self.plain_arrival(now, random);
        if !self.faulty {
            return plain;
        }
        plain + Duration::from_nanos(self.rule(from, to).delay_nanos)
    }

    /// Whether nothing gets from `from` to `to`.
    #[inline]
    pub(crate) fn is_cut(&self, from: End, to: End) -> bool {
        self.faulty
            && (self.isolated.contains(&from)
                || self.isolated.contains(&to)
                || self.rule(from, to).cut)
    }

    /// Whether new connections from `from` to `to` are refused.
    #[inline]
    pub(crate) fn is_refused(&self, from: End, to: End) -> bool {
        self.faulty && self.rule(from, to).refuse
    }

    /// Changes the rule for one direction.
    pub(crate) fn change(&mut self, from: End, to: End, change: impl FnOnce(&mut Rule)) {
        change(self.rules.entry((from, to)).or_default());
        self.faulty = true;
    }

    /// Cuts `end` off from everybody, those who come later included.
    pub(crate) fn isolate(&mut self, end: End) {
        self.isolated.insert(end);
        self.faulty = true;
    }

    /// Keeps a message that cannot get through; forgets those nobody waits for any more.
    pub(crate) fn hold(&mut self, held: Held) {
        let now = held.sent;
        self.held.retain(|old| now - old.sent < GIVE_UP);
        self.held.push(held);
    }

    /// Ends every fault and gives back what waited, in the order it was sent.
    pub(crate) fn heal(&mut self) -> Vec<Held> {
        self.rules.clear();
        self.isolated.clear();
        self.faulty = false;
        std::mem::take(&mut self.held)
    }

    fn rule(&self, from: End, to: End) -> Rule {
        self.rules.get(&(from, to)).copied().unwrap_or_default()
    }
}

/// When something first sent at `sent` is sent again, at or after `now`: TCP doubles the wait after
/// each attempt.
pub(crate) fn retransmitted_at(sent: Instant, now: Instant, first: Duration) -> Instant {
    let mut wait = first;
    let mut at = sent + first;
    while at < now {
        wait = (wait * 2).min(Duration::from_secs(120));
        at += wait;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retransmission_comes_at_the_next_doubling_after_the_heal() {
        let at = |heal_millis| {
            retransmitted_at(Instant::ZERO, Instant::from_millis(heal_millis), DATA_RETRY)
                .as_millis()
        };
        assert_eq!([at(10), at(200), at(201), at(1_000), at(5_000)], [200, 200, 600, 1_400, 6_200]);
    }

    #[test]
    fn a_cut_has_a_direction() {
        let mut network = Network::new(Duration::from_micros(250), Duration::from_micros(750));
        let (a, b) = (End::Node(0), End::Node(1));
        network.change(a, b, |rule| rule.cut = true);
        assert!(network.is_cut(a, b));
        assert!(!network.is_cut(b, a));
        network.heal();
        assert!(!network.is_cut(a, b));
    }
}
