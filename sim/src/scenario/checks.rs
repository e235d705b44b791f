//! What must be so: the expectations of a running scenario.

use std::time::Duration;

use super::client::LoadReport;
use super::describe;
use super::format::{Balanced, Check, LoadExpected};
use super::judge::{Disappointment, documents, is_even, same_documents};
use super::run::{Run, Verdict, state_of, states};
use crate::trace::{EventKind, MemberState};
use crate::world::{JoinHandle, Member};

impl Run<'_> {
    pub(crate) fn check(&mut self, check: &Check) -> Verdict {
        let name_or_none = |member: Option<Member>| {
            member.map_or("none".to_string(), |member| member.name.to_string())
        };
        match check {
            Check::Primary(wanted) => {
                let wanted = match wanted {
                    Some(member) => self.resolve(member)?,
                    None => "none".to_string(),
                };
                let seen = name_or_none(self.sim.primary());
                self.compare(format!("the primary is {wanted}"), wanted == seen, || {
                    format!("the primary is {seen}")
                })
            }
            Check::PrimaryIsNot(member) => {
                let unwanted = self.resolve(member)?;
                let seen = name_or_none(self.sim.primary());
                self.compare(format!("the primary is not {unwanted}"), unwanted != seen, || {
                    format!("the primary is {seen}")
                })
            }
            Check::State(member, allowed) => {
                let name = self.resolve(member)?;
                let seen = state_of(&self.sim, &name);
                let words: Vec<&str> = allowed.iter().map(|state| state.name()).collect();
                let expected = format!("{name} is {}", words.join(" or "));
                self.compare(expected, seen.is_some_and(|seen| allowed.contains(&seen)), || {
                    states(&self.sim)
                })
            }
            Check::Down(member) => {
                let name = self.resolve(member)?;
                let down = state_of(&self.sim, &name) == Some(MemberState::Down);
                self.compare(format!("{name} is down"), down, || states(&self.sim))
            }
            Check::ClientPrimary { client, primary } => {
                let wanted = match primary {
                    Some(member) => self.resolve(member)?,
                    None => "none".to_string(),
                };
                let seen = self.client(client).primary().unwrap_or_else(|| "none".to_string());
                let expected = format!("{client} sees {wanted} as the primary");
                self.compare(expected, wanted == seen, || format!("it sees {seen}"))
            }
            Check::ClientMembers { client, count } => {
                let seen = self.client(client).members();
                let expected = format!("{client} sees {count} members");
                self.compare(expected, seen.len() == *count, || {
                    format!("it sees {}", seen.join(", "))
                })
            }
            Check::Holds { member, of, documents: wanted } => {
                let name = self.resolve(member)?;
                let inspector = self.inspector(&name)?.clone();
                let found = self.sim.block_on(inspector.all(of));
                let what =
                    format!("{name} holds {} {}", describe::namespace(of), documents(wanted));
                match found {
                    Ok(found) => {
                        self.compare(what, same_documents(&found, wanted), || documents(&found))
                    }
                    Err(error) => Err(Disappointment { expected: what, seen: error.to_string() }),
                }
            }
        }
    }

    /// Notes what held, or is disappointed.
    fn compare(&self, expected: String, holds: bool, seen: impl FnOnce() -> String) -> Verdict {
        if !holds {
            return Err(Disappointment { expected, seen: seen() });
        }
        self.sim.note(format!("as expected: {expected}"));
        Ok(())
    }

    pub(crate) fn judge_load(
        &self,
        handle: JoinHandle<LoadReport>,
        client: &str,
        expected: &LoadExpected,
        within: Duration,
    ) -> Verdict {
        let finished = self.sim.run_until(within, |_| handle.is_finished());
        finished.map_err(|_| Disappointment {
            expected: format!("the load to finish within {}", describe::duration(within)),
            seen: "it goes on".to_string(),
        })?;
        let report = self.sim.block_on(handle);
        self.sim.record(client, EventKind::Note { text: report.to_string() });
        let failed = report.failures();
        if failed > expected.errors || failed < expected.errors_at_least {
            let wanted = match (expected.errors_at_least, expected.errors) {
                (0, most) => format!("at most {most} errors"),
                (least, u32::MAX) => format!("at least {least} errors"),
                (least, most) => format!("{least} to {most} errors"),
            };
            return Err(Disappointment { expected: wanted, seen: report.to_string() });
        }
        self.judge_shares(&report, expected)
    }

    fn judge_shares(&self, report: &LoadReport, expected: &LoadExpected) -> Verdict {
        let disappointed =
            |expected: String| Err(Disappointment { expected, seen: report.to_string() });
        let members = match &expected.balanced {
            None => Vec::new(),
            Some(Balanced::Secondaries) => {
                self.sim.secondaries().iter().map(|member| member.name.to_string()).collect()
            }
            Some(Balanced::Members(members)) => {
                members.iter().map(|member| self.resolve(member)).collect::<Result<Vec<_>, _>>()?
            }
        };
        if expected.balanced.is_some() {
            let counts: Vec<u32> = members.iter().map(|name| report.share(name)).collect();
            if is_even(&counts) != Some(true) {
                let among = members.join(", ");
                return disappointed(format!("an even share for each of {among}"));
            }
        }
        for (member, least) in &expected.at_least {
            let name = self.resolve(member)?;
            if report.share(&name) < *least {
                return disappointed(format!("at least {least} from {name}"));
            }
        }
        for member in &expected.nothing_from {
            let name = self.resolve(member)?;
            if report.share(&name) > 0 {
                return disappointed(format!("nothing from {name}"));
            }
        }
        Ok(())
    }
}
