//! Linearizability of one register.
//!
//! The search is that of Wing and Gong with Lowe's memory of configurations: take any operation that
//! no other one must precede, see whether the register could have answered so, go on with the rest;
//! never look twice at the same rest with the same value. Registers are judged one by one, which is
//! sound because linearizability is local.

use std::collections::BTreeSet;

/// What was done to a register and what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// It was read, and held this.
    Read(i64),
    /// It was set to this.
    Write(i64),
    /// It held the first value and was set to the second.
    Swap(i64, i64),
}

/// An operation and the time in which it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// When it was asked for.
    pub from: u64,
    /// When it was answered; [`u64::MAX`] if nobody knows whether it took effect at all.
    pub to: u64,
    /// What.
    pub what: Register,
}

/// More configurations than this are not searched: the history is taken as good. Histories of a minute
/// have a few hundred.
const SEARCHED_MAX: usize = 2_000_000;

/// Whether some order of the operations, each at a moment of its interval, explains every answer of a
/// register that began with `initial`. Operations that nobody saw answered may have happened or not.
pub fn is_linearizable(initial: i64, operations: &[Interval]) -> bool {
    let mut order: Vec<Interval> = operations.to_vec();
    // Those that must happen come first: what may not have happened is tried when nothing else helps.
    order.sort_by_key(|operation| (operation.to, operation.from));
    let words = order.len().div_ceil(64);
    let mut search = Search { order: &order, seen: BTreeSet::new(), done: vec![0; words] };
    search.explain(initial)
}

struct Search<'o> {
    order: &'o [Interval],
    seen: BTreeSet<(Vec<u64>, i64)>,
    done: Vec<u64>,
}

impl Search<'_> {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }

    /// Depth first, without recursion: histories may be long.
    fn explain(&mut self, initial: i64) -> bool {
        // The operations taken so far, and the value before each.
        let mut taken: Vec<(usize, i64)> = Vec::new();
        let mut value = initial;
        let mut next = 0;
        loop {
            if (0..self.order.len()).all(|at| self.order[at].to == u64::MAX || self.is_done(at)) {
                return true;
            }
            // Nothing can come before an operation that was answered before it was asked for.
            let horizon = (0..self.order.len())
                .filter(|at| !self.is_done(*at))
                .map(|at| self.order[at].to)
                .min()
                .unwrap_or(u64::MAX);
            let found = (next..self.order.len()).find_map(|at| {
                let operation = self.order[at];
                if self.is_done(at) || operation.from > horizon {
                    return None;
                }
                Some((at, after(value, operation.what)?))
            });
            match found {
                Some((at, then)) => {
                    self.done[at / 64] |= 1 << (at % 64);
                    if self.seen.insert((self.done.clone(), then)) {
                        if self.seen.len() > SEARCHED_MAX {
                            return true;
                        }
                        taken.push((at, value));
                        value = then;
                        next = 0;
                    } else {
                        self.done[at / 64] &= !(1 << (at % 64));
                        next = at + 1;
                    }
                }
                None => {
                    let Some((at, before)) = taken.pop() else { return false };
                    self.done[at / 64] &= !(1 << (at % 64));
                    value = before;
                    next = at + 1;
                }
            }
        }
    }
}

/// What a register of `value` holds after an operation; `None` if it would not have answered so.
fn after(value: i64, what: Register) -> Option<i64> {
    match what {
        Register::Read(seen) => (seen == value).then_some(value),
        Register::Write(new) => Some(new),
        Register::Swap(old, new) => (old == value).then_some(new),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Register::{Read, Swap, Write};
    use super::*;

    const OPEN: u64 = u64::MAX;

    fn at(from: u64, to: u64, what: Register) -> Interval {
        Interval { from, to, what }
    }

    #[test]
    fn a_read_after_a_write_sees_it() {
        assert!(is_linearizable(0, &[at(0, 1, Write(5)), at(2, 3, Read(5))]));
        assert!(!is_linearizable(0, &[at(0, 1, Write(5)), at(2, 3, Read(0))]));
    }

    #[test]
    fn a_read_beside_a_write_sees_either_but_no_later_read_goes_back() {
        assert!(is_linearizable(0, &[at(0, 9, Write(5)), at(1, 2, Read(0)), at(3, 4, Read(5))]));
        assert!(!is_linearizable(0, &[at(0, 9, Write(5)), at(1, 2, Read(5)), at(3, 4, Read(0))]));
    }

    #[test]
    fn a_write_nobody_saw_answered_may_take_effect_late_or_never() {
        assert!(is_linearizable(0, &[at(0, OPEN, Write(5)), at(8, 9, Read(0))]));
        let late = [at(0, OPEN, Write(5)), at(5, 6, Read(0)), at(8, 9, Read(5))];
        assert!(is_linearizable(0, &late));
        let twice =
            [at(0, OPEN, Write(5)), at(2, 3, Read(5)), at(4, 5, Write(6)), at(8, 9, Read(5))];
        assert!(!is_linearizable(0, &twice));
    }

    #[test]
    fn of_two_swaps_of_one_value_one_succeeds() {
        assert!(!is_linearizable(0, &[at(0, 5, Swap(0, 1)), at(1, 6, Swap(0, 2))]));
        assert!(is_linearizable(0, &[at(0, 5, Swap(0, 1)), at(1, 6, Swap(1, 2))]));
    }

    proptest! {
        /// Any history that a register could have made is accepted, whatever order it is written in.
        #[test]
        fn what_a_register_did_is_accepted(
            steps in prop::collection::vec((0_u64..3, 0_u64..3, 0_i64..4, prop::bool::ANY), 1..24),
            rotate in 0_usize..24,
        ) {
            let mut value = 0;
            let mut history: Vec<Interval> = Vec::new();
            for (number, (early, late, new, reads)) in steps.into_iter().enumerate() {
                let moment = 10 * number as u64 + 100;
                let what = if reads { Read(value) } else { value = new; Write(new) };
                history.push(at(moment - early * 7, moment + late * 7, what));
            }
            let len = history.len();
            history.rotate_left(rotate % len);
            prop_assert!(is_linearizable(0, &history));
        }

        /// The search agrees with trying every order.
        #[test]
        fn it_agrees_with_trying_every_order(
            steps in prop::collection::vec((0_u64..12, 1_u64..8, 0_i64..3, 0_u8..3), 1..6),
        ) {
            let history: Vec<Interval> = steps
                .into_iter()
                .map(|(from, length, value, kind)| {
                    let what = match kind {
                        0 => Read(value),
                        1 => Write(value),
                        _ => Swap(value, (value + 1) % 3),
                    };
                    at(from, from + length, what)
                })
                .collect();
            prop_assert_eq!(is_linearizable(0, &history), by_brute_force(0, &history));
        }
    }

    fn by_brute_force(value: i64, rest: &[Interval]) -> bool {
        rest.is_empty()
            || (0..rest.len()).any(|first| {
                let mut others = rest.to_vec();
                let taken = others.remove(first);
                others.iter().all(|other| other.to >= taken.from)
                    && after(value, taken.what).is_some_and(|then| by_brute_force(then, &others))
            })
    }
}
