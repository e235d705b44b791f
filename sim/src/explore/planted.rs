//! Proof that the checkers check: each planted bug is found within so many seeds, and its finding
//! shrinks to a short scenario.

use std::time::Duration;

use stepdown_driver::planted::{self as driver_switch, DriverBug};

use super::plan::{ClientChoice, Family, Faults, Plan, Template};
use super::shrink::{Shrunk, shrink};
use super::stage::{Played, play};
use crate::mongod::planted::{self as server_switch, ServerBug};
use crate::trace::Record;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// In the simulated server.
    Server(ServerBug),
    /// In the driver.
    Driver(DriverBug),
}

/// What a search for a planted bug came to.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The seed that failed first.
    pub seed: u64,
    /// The rule that was broken.
    pub rule: String,
    /// What shrinking made of it.
    pub shrunk: Shrunk,
}

impl Bug {
    /// Every bug.
    pub fn all() -> impl Iterator<Item = Bug> {
        let server = ServerBug::ALL.into_iter().map(Bug::Server);
        server.chain(DriverBug::ALL.into_iter().map(Bug::Driver))
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Bug::Server(bug) => format!("server: {bug:?}"),
            Bug::Driver(bug) => format!("driver: {bug:?}"),
        }
    }

    /// What is searched for it.
    pub fn template(self) -> Template {
        let plain = Template { client_choice: ClientChoice::Bare, ..Template::default() };
        match self {
            Bug::Server(ServerBug::CountsArbiters | ServerBug::CountsNonVoters) => {
                Template { members: 5, ..plain }
            }
            Bug::Server(_) => plain,
            Bug::Driver(DriverBug::IgnoresStaleness) => Template {
                duration: Duration::from_secs(300),
                faults: Faults::These([Family::Lag].into()),
                client_choice: ClientChoice::Driver,
                ..plain
            },
            Bug::Driver(_) => Template { client_choice: ClientChoice::Driver, ..plain },
        }
    }

    /// Runs `run` with this bug planted in this thread's servers and drivers.
    pub fn planted<T>(self, run: impl FnOnce() -> T) -> T {
        /// Pulls it out again, also when `run` panics.
        struct Pulled;
        impl Drop for Pulled {
            fn drop(&mut self) {
                server_switch::plant(None);
                driver_switch::plant(None);
            }
        }
        let _pulled = Pulled;
        match self {
            Bug::Server(bug) => server_switch::plant(Some(bug)),
            Bug::Driver(bug) => driver_switch::plant(Some(bug)),
        }
        run()
    }

    /// The first of `seeds` that finds it.
    pub fn find(self, seeds: std::ops::Range<u64>) -> Option<(Plan, Played)> {
        let template = self.template();
        self.planted(|| {
            seeds.map(|seed| Plan::generate(seed, &template)).find_map(|plan| {
                let played = play(&plan, Record::Nothing);
                played.finding.is_some().then_some((plan, played))
            })
        })
    }

    /// Finds it within `seeds` and shrinks what was found, playing at most `budget` plans for it; tries
    /// later findings while the shortest has more than `steps` steps.
    pub fn prove(self, seeds: std::ops::Range<u64>, steps: usize, budget: usize) -> Option<Proof> {
        let mut first = None;
        let mut from = seeds.start;
        for _ in 0..4 {
            let Some((plan, played)) = self.find(from..seeds.end) else { break };
            from = plan.seed + 1;
            let rule = played.finding.as_ref().map(|finding| finding.rule.clone());
            let shrunk = self.planted(|| shrink(&played, &plan, budget));
            let proof = first.get_or_insert_with(|| Proof {
                seed: plan.seed,
                rule: rule.unwrap_or_default(),
                shrunk: shrunk.clone(),
            });
            if shrunk.steps() < proof.shrunk.steps() {
                proof.shrunk = shrunk;
            }
            if proof.shrunk.steps() <= steps {
                break;
            }
        }
        first
    }
}
