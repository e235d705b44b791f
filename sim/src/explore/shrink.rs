//! Shrinking: from a plan that fails to the smallest one that fails in the same way.
//!
//! Because every decision of a plan stands for itself, pieces can be left out without moving the rest:
//! first long stretches of steps, then single ones (delta debugging), then members, clients, their
//! peculiarities and the time between steps.

use std::time::Duration;

use super::file::step_count;
use super::plan::{Fault, MemberPlan, Place, Plan, Who};
use super::stage::{Played, play};
use crate::trace::Record;

/// What came of shrinking.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest plan found.
    pub plan: Plan,
    /// How many plans were played on the way.
    pub tried: usize,
}

impl Shrunk {
    /// How many steps its scenario file has.
    pub fn steps(&self) -> usize {
        step_count(&self.plan)
    }
}

/// Cuts down the plan of a run that failed, playing at most `budget` smaller ones.
///
/// # Panics
/// If the run did not fail.
pub fn shrink(played: &Played, original: &Plan, budget: usize) -> Shrunk {
    let finding = played.finding.as_ref().expect("a run that failed");
    let mut shrinker =
        Shrinker { rule: finding.rule.clone(), best: original.clone(), tried: 0, budget };
    // Members instead of roles, and no faults without effect: nothing else may change.
    shrinker.attempt(played.concrete.clone());
    loop {
        let before = size(&shrinker.best);
        shrinker.cut_the_end();
        shrinker.drop_steps();
        shrinker.drop_members();
        shrinker.drop_clients();
        shrinker.plain();
        shrinker.tighten();
        if size(&shrinker.best) >= before || shrinker.is_spent() {
            break;
        }
    }
    Shrunk { plan: shrinker.best, tried: shrinker.tried }
}

fn size(plan: &Plan) -> (usize, usize, usize, Duration) {
    (step_count(plan), plan.members.len(), plan.clients.len(), plan.duration)
}

struct Shrinker {
    rule: String,
    best: Plan,
    tried: usize,
    budget: usize,
}

impl Shrinker {
    fn is_spent(&self) -> bool {
        self.tried >= self.budget
    }

    /// Takes `plan` if it still fails in the same way.
    fn attempt(&mut self, plan: Plan) -> bool {
        if self.is_spent() || plan == self.best {
            return false;
        }
        self.tried += 1;
        let finding = play(&plan, Record::Nothing).finding;
        let fails = finding.is_some_and(|finding| finding.rule == self.rule);
        if fails {
            self.best = plan;
        }
        fails
    }

    /// Ends the run earlier: what comes after the last step that matters goes.
    fn cut_the_end(&mut self) {
        let whole = self.best.duration;
        for eighths in 1..8 {
            let mut plan = self.best.clone();
            plan.duration = whole * eighths / 8;
            let end = plan.duration;
            plan.faults.retain(|fault| fault.at < end);
            plan.operations.retain(|operation| operation.at < end);
            if self.attempt(plan) {
                return;
            }
        }
    }

    /// Delta debugging over all steps: ever smaller stretches are left out.
    fn drop_steps(&mut self) {
        let mut stretch = step_count(&self.best).div_ceil(2);
        while stretch >= 1 && !self.is_spent() {
            let mut from = 0;
            let mut dropped = false;
            while from < step_count(&self.best) && !self.is_spent() {
                let plan = without(&self.best, from, stretch);
                if self.attempt(plan) {
                    dropped = true;
                } else {
                    from += stretch;
                }
            }
            if stretch == 1 && !dropped {
                break;
            }
            stretch = if dropped && stretch == 1 { 1 } else { stretch / 2 };
        }
    }

    fn drop_members(&mut self) {
        let mut member = self.best.members.len();
        while member > 0 && self.best.members.len() > 1 {
            member -= 1;
            if let Some(plan) = without_member(&self.best, member as u8) {
                self.attempt(plan);
            }
        }
    }

    fn drop_clients(&mut self) {
        let mut client = self.best.clients.len();
        while client > 0 {
            client -= 1;
            if let Some(plan) = without_client(&self.best, client as u8) {
                self.attempt(plan);
            }
        }
    }

    /// Default timeouts, members without peculiarities, operations without options.
    fn plain(&mut self) {
        self.attempt(Plan { election_timeout_millis: None, ..self.best.clone() });
        for member in 0..self.best.members.len() {
            let mut plan = self.best.clone();
            plan.members[member] = MemberPlan::PLAIN;
            self.attempt(plan);
        }
        for at in 0..self.best.operations.len() {
            let mut plan = self.best.clone();
            plan.operations[at].session = false;
            self.attempt(plan);
            let mut plan = self.best.clone();
            plan.operations[at].secondary = false;
            self.attempt(plan);
        }
    }

    /// Shorter waits, rounder times.
    fn tighten(&mut self) {
        for unit_millis in [1_000, 100] {
            let mut plan = self.best.clone();
            let round = |at: Duration| {
                Duration::from_millis(at.as_millis() as u64 / unit_millis * unit_millis)
            };
            plan.faults.iter_mut().for_each(|fault| fault.at = round(fault.at));
            plan.operations.iter_mut().for_each(|operation| operation.at = round(operation.at));
            if self.attempt(plan) {
                break;
            }
        }
        let first_fault = self.best.faults.first().map(|fault| fault.at);
        let first_operation = self.best.operations.first().map(|operation| operation.at);
        if let Some(first) = first_fault.into_iter().chain(first_operation).min() {
            // A new set needs a moment before its first write.
            for early in [first, first / 2] {
                let mut plan = self.best.clone();
                plan.faults.iter_mut().for_each(|fault| fault.at -= early);
                plan.operations.iter_mut().for_each(|operation| operation.at -= early);
                plan.duration -= early.min(plan.duration);
                if self.attempt(plan) {
                    break;
                }
            }
        }
        let last = |plan: &Plan| {
            let fault = plan.faults.last().map(|fault| fault.at);
            let operation = plan.operations.last().map(|operation| operation.at);
            fault.max(operation).unwrap_or_default()
        };
        for spare in [0, 1, 5, 10, 15] {
            let mut plan = self.best.clone();
            let end = last(&plan) + Duration::from_secs(spare) + Duration::from_millis(1);
            if end < plan.duration {
                plan.duration = end;
                if self.attempt(plan) {
                    break;
                }
            }
        }
    }
}

/// `plan` without `count` steps from number `from` on, faults before operations.
fn without(plan: &Plan, from: usize, count: usize) -> Plan {
    let mut number = 0;
    let mut stays = || {
        number += 1;
        !(from..from + count).contains(&(number - 1))
    };
    let mut plan = plan.clone();
    plan.faults.retain(|_| stays());
    plan.operations.retain(|_| stays());
    plan
}

/// `plan` without a member and what happens to it; `None` if it cannot do without.
fn without_member(plan: &Plan, gone: u8) -> Option<Plan> {
    let mut plan = plan.clone();
    plan.members.remove(usize::from(gone));
    let renumbered = |member: u8| (member != gone).then(|| member - u8::from(member > gone));
    let who = |who: &mut Who| match who {
        Who::Member(member) => renumbered(*member).map(|new| *member = new).is_some(),
        _ => true,
    };
    let place = |place: &mut Place| match place {
        Place::Member(member) => who(member),
        Place::Client(_) => true,
    };
    let mut lost = Vec::new();
    plan.faults.retain_mut(|step| {
        let stays = match &mut step.fault {
            Fault::Kill(member) | Fault::Shutdown(member) | Fault::Pause(member) => who(member),
            Fault::Isolate(member) | Fault::Lag(member) | Fault::StepUp(member) => who(member),
            Fault::Partition(members, _) => {
                members.retain_mut(who);
                true
            }
            Fault::Cut(from, to) | Fault::Reset(from, to) | Fault::Delay(from, to, _) => {
                place(from) && place(to)
            }
            Fault::Skew(member, _) | Fault::Remove(member) | Fault::Add(member) => {
                renumbered(*member).map(|new| *member = new).is_some()
            }
            Fault::Restart | Fault::Resume => !lost.contains(&step.episode),
            Fault::Heal | Fault::StepDown(..) => true,
        };
        if !stays {
            lost.push(step.episode);
        }
        stays
    });
    // The first member initiates, so it must be able to lead.
    let first = plan.members.first()?;
    (first.priority > 0 && !first.arbiter && first.votes == 1).then_some(plan)
}

/// `plan` without a client and its operations.
fn without_client(plan: &Plan, gone: u8) -> Option<Plan> {
    let mut plan = plan.clone();
    if plan.clients.len() == 1 && plan.operations.is_empty() {
        plan.clients.clear();
        return Some(plan);
    }
    plan.clients.remove(usize::from(gone));
    let renumber = |client: &mut u8| {
        let stays = *client != gone;
        *client -= u8::from(*client > gone);
        stays
    };
    plan.operations.retain_mut(|operation| renumber(&mut operation.client));
    let place = |place: &mut Place| match place {
        Place::Client(client) => renumber(client),
        Place::Member(_) => true,
    };
    plan.faults.retain_mut(|step| match &mut step.fault {
        Fault::Partition(_, clients) => {
            clients.retain_mut(renumber);
            true
        }
        Fault::Cut(from, to) | Fault::Reset(from, to) | Fault::Delay(from, to, _) => {
            place(from) && place(to)
        }
        _ => true,
    });
    Some(plan)
}
