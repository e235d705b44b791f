//! Plans: everything one seed's run does, written out before it begins.
//!
//! Each decision is drawn from a stream of its own, keyed by what it is about (a family of faults and a
//! slot of time, a client and the number of its operation), so that leaving one out moves no other: a
//! plan can be cut down piece by piece, and what is left still happens as it did.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::check::{Asked, Strength};
use crate::random::RandomStream;

/// A family of faults, switched on or off as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// kill -9, and a restart.
    Kill,
    /// SIGTERM, and a restart.
    Shutdown,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// Two groups that do not hear each other.
    Partition,
    /// One member that nobody hears.
    Isolate,
    /// One direction of one link.
    Cut,
    /// A member that the others do not hear, and clients do.
    Lag,
    /// Connections that break.
    Reset,
    /// Links that are slow.
    Delay,
    /// Wall clocks that are wrong.
    Clocks,
    /// `replSetStepDown`.
    StepDown,
    /// `replSetStepUp`, of two members at once.
    StepUp,
    /// `replSetReconfig`: members leave and come back.
    Reconfig,
    /// Arbiters, priorities, hidden, delayed and non-voting members.
    Shape,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 14] = [
        Family::Kill,
        Family::Shutdown,
        Family::Pause,
        Family::Partition,
        Family::Isolate,
        Family::Cut,
        Family::Lag,
        Family::Reset,
        Family::Delay,
        Family::Clocks,
        Family::StepDown,
        Family::StepUp,
        Family::Reconfig,
        Family::Shape,
    ];

    /// As the command line says it.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Kill => "kill",
            Family::Shutdown => "shutdown",
            Family::Pause => "pause",
            Family::Partition => "partition",
            Family::Isolate => "isolate",
            Family::Cut => "cut",
            Family::Lag => "lag",
            Family::Reset => "reset",
            Family::Delay => "delay",
            Family::Clocks => "clocks",
            Family::StepDown => "stepdown",
            Family::StepUp => "stepup",
            Family::Reconfig => "reconfig",
            Family::Shape => "shape",
        }
    }

    /// The family of that name.
    pub fn named(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// Which faults a run draws from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Faults {
    /// About half of the families, another half for each seed.
    Swarm,
    /// These families.
    These(BTreeSet<Family>),
}

impl Faults {
    /// Reads `swarm`, `all`, `none`, or names with commas between them.
    ///
    /// # Errors
    /// The word that is none of these.
    pub fn parse(text: &str) -> Result<Faults, String> {
        match text {
            "swarm" => Ok(Faults::Swarm),
            "all" => Ok(Faults::These(Family::ALL.into())),
            "none" => Ok(Faults::These(BTreeSet::new())),
            list => list
                .split(',')
                .map(|word| Family::named(word.trim()).ok_or_else(|| word.trim().to_owned()))
                .collect::<Result<_, _>>()
                .map(Faults::These),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Faults::Swarm => f.write_str("swarm"),
            Faults::These(families) if families.is_empty() => f.write_str("none"),
            Faults::These(families) => {
                let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

/// Which clients a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// A connection to each member and nothing more: cheap.
    Bare,
    /// This project's driver, with its monitors, pools and sessions.
    Driver,
}

/// Which clients runs are to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientChoice {
    /// The driver in one seed of eight, bare ones in the others.
    #[default]
    Mixed,
    /// The driver in every seed.
    Driver,
    /// None but bare ones.
    Bare,
}

/// What to generate plans of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Members of the set.
    pub members: u8,
    /// How long clients work and things break.
    pub duration: Duration,
    /// Clients; each does about one operation a second.
    pub clients: u8,
    /// What breaks.
    pub faults: Faults,
    /// Which clients.
    pub client_choice: ClientChoice,
}

impl Default for Template {
    fn default() -> Self {
        Template {
            members: 3,
            duration: Duration::from_secs(60),
            clients: 3,
            faults: Faults::Swarm,
            client_choice: ClientChoice::default(),
        }
    }
}

/// What a member is in the configuration that the set is initiated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberPlan {
    /// `arbiterOnly`.
    pub arbiter: bool,
    /// `priority`.
    pub priority: u8,
    /// `hidden`.
    pub hidden: bool,
    /// `secondaryDelaySecs`.
    pub delay_seconds: u8,
    /// `votes`.
    pub votes: u8,
}

impl MemberPlan {
    /// A member with every field at its default.
    pub const PLAIN: MemberPlan =
        MemberPlan { arbiter: false, priority: 1, hidden: false, delay_seconds: 0, votes: 1 };
}

/// Whom a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The member of this number.
    Member(u8),
    /// Whoever accepts writes when it happens.
    Primary,
    /// The first secondary when it happens.
    Secondary,
}

/// The end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A member.
    Member(Who),
    /// The client of this number.
    Client(u8),
}

/// Something that breaks, or is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9.
    Kill(Who),
    /// SIGTERM.
    Shutdown(Who),
    /// Whoever an earlier fault of the same episode took down is started again.
    Restart,
    /// SIGSTOP.
    Pause(Who),
    /// SIGCONT, for whom the episode paused.
    Resume,
    /// These members and clients on one side, everybody else on the other.
    Partition(Vec<Who>, Vec<u8>),
    /// Nobody hears it.
    Isolate(Who),
    /// Nothing gets from it to any other member.
    Lag(Who),
    /// Nothing gets from the first to the second.
    Cut(Place, Place),
    /// The connections between the two break.
    Reset(Place, Place),
    /// Both directions take so many milliseconds longer.
    Delay(Place, Place, u32),
    /// The network is mended.
    Heal,
    /// A member's wall clock is so many milliseconds off.
    Skew(u8, i32),
    /// `replSetStepDown` with this period in seconds; by force, or after waiting for a secondary.
    StepDown(u8, bool),
    /// `replSetStepUp`.
    StepUp(Who),
    /// `replSetReconfig`: a member leaves the configuration.
    Remove(u8),
    /// `replSetReconfig`: a member comes (back) into the configuration.
    Add(u8),
}

/// A fault at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAt {
    /// When, since the set had its first primary.
    pub at: Duration,
    /// What belongs together: a kill and its restart.
    pub episode: u32,
    /// What.
    pub fault: Fault,
}

/// An operation at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationAt {
    /// When, since the set had its first primary; later if the one before is not done by then.
    pub at: Duration,
    /// Which client.
    pub client: u8,
    /// Whether it is part of the client's session.
    pub session: bool,
    /// What.
    pub asked: Asked,
    /// With which concern.
    pub strength: Strength,
    /// Whether a read prefers secondaries.
    pub secondary: bool,
    /// `maxStalenessSeconds` of a read.
    pub max_staleness: Option<Duration>,
}

/// Everything a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The seed of the world.
    pub seed: u64,
    /// The set.
    pub members: Vec<MemberPlan>,
    /// `electionTimeoutMillis`, with heartbeats every second, where it is not the default.
    pub election_timeout_millis: Option<u32>,
    /// The clients.
    pub clients: Vec<ClientKind>,
    /// How long it goes on before everything is mended.
    pub duration: Duration,
    /// What breaks, by time.
    pub faults: Vec<FaultAt>,
    /// What clients ask, by time.
    pub operations: Vec<OperationAt>,
}

/// The purposes of streams. Numbers, so that a stream costs no hashing of its name; never used twice.
mod stream {
    pub(super) const SWARM: u64 = 1;
    pub(super) const CLIENTS: u64 = 2;
    pub(super) const SHAPE: u64 = 3;
    pub(super) const OPERATION: u64 = 4;
    pub(super) const TIMEOUT: u64 = 5;
    /// And one for each family from here on.
    pub(super) const FAULT: u64 = 100;
}

/// Runs that last longer see longer faults, too.
const LONG: Duration = Duration::from_secs(150);

/// Time is cut into slots, each of which may see the beginning of one episode of each family.
const SLOT: Duration = Duration::from_secs(4);

impl Plan {
    /// The plan of a seed.
    pub fn generate(seed: u64, template: &Template) -> Plan {
        let families = families(seed, &template.faults);
        let mut plan = Plan {
            seed,
            members: shape(seed, template.members, families.contains(&Family::Shape)),
            election_timeout_millis: RandomStream::keyed(seed, stream::TIMEOUT, 0, 0)
                .chance(1, 2)
                .then_some(3_000),
            clients: vec![client_kind(seed, template.client_choice); usize::from(template.clients)],
            duration: template.duration,
            faults: Vec::new(),
            operations: Vec::new(),
        };
        for client in 0..template.clients {
            // Whether a read is too stale can be told only where nothing else keeps clients from knowing.
            plan.add_operations(client, families == BTreeSet::from([Family::Lag]));
        }
        plan.operations.sort_by_key(|operation| (operation.at, operation.client));
        let slots = (template.duration.as_nanos() / SLOT.as_nanos()) as u64;
        for family in families {
            for slot in 0..slots {
                plan.add_episode(family, slot);
            }
        }
        // By family where the time is the same: nothing depends on the order they were drawn in.
        plan.faults.sort_by_key(|fault| (fault.at, fault.episode));
        plan
    }

    fn add_operations(&mut self, client: u8, with_bounds: bool) {
        let count = self.duration.as_secs();
        let keys = u64::from(client) << 32;
        for index in 0..count {
            let mut random =
                RandomStream::keyed(self.seed, stream::OPERATION, u64::from(client), index);
            let at = Duration::from_secs(index) + Duration::from_micros(random.below(1_000_000));
            let own = |index: u64| (keys | index) as i64 + 1;
            let register = random.below(2) as u8;
            let value = own(index);
            let clients = self.clients.len() as u64;
            // An id that somebody may have appended lately.
            let recent = |random: &mut RandomStream, whose: u64| {
                let back = random.below(4).min(index);
                ((whose << 32 | (index - back)) + 1) as i64
            };
            let (asked, strength, session) = match random.below(20) {
                0..=5 => (Asked::Append { id: value }, Strength::Majority, random.chance(1, 2)),
                6 => (Asked::Append { id: value }, Strength::Weak, false),
                7 | 8 => {
                    let id = recent(&mut random, u64::from(client));
                    (Asked::Look { id }, Strength::Majority, true)
                }
                9 | 10 => {
                    let whose = random.below(clients);
                    let id = recent(&mut random, whose);
                    (Asked::Look { id }, Strength::Majority, random.chance(1, 2))
                }
                11 => {
                    let whose = random.below(clients);
                    let id = recent(&mut random, whose);
                    (Asked::Look { id }, Strength::Linearizable, false)
                }
                12 => {
                    let whose = random.below(clients);
                    let id = recent(&mut random, whose);
                    (Asked::Look { id }, Strength::Weak, false)
                }
                13 => (Asked::Add { counter: 0 }, Strength::Majority, random.chance(1, 2)),
                14 => (Asked::Add { counter: 0 }, Strength::Weak, false),
                15 => (Asked::AddMany { counter: 0 }, Strength::Majority, false),
                16 | 17 => (Asked::Put { register, value }, Strength::Majority, false),
                18 => {
                    let back = 1 + random.below(3);
                    let whose = random.below(clients);
                    let from = ((whose << 32 | index.saturating_sub(back)) + 1) as i64;
                    (Asked::Swap { register, from, to: value }, Strength::Majority, false)
                }
                _ => (Asked::Get { register }, Strength::Linearizable, false),
            };
            let is_plain_read =
                matches!(asked, Asked::Look { .. }) && strength != Strength::Linearizable;
            let secondary = is_plain_read && random.chance(3, 4);
            // The smallest bound there is; it says something only in runs that last longer.
            let bounded =
                with_bounds && secondary && self.duration > LONG && !session && index > 150;
            let (asked, max_staleness) = match asked {
                Asked::Look { .. } if bounded => {
                    let old = index.saturating_sub(126 + random.below(20));
                    let whose = random.below(clients);
                    let id = ((whose << 32 | old) + 1) as i64;
                    (Asked::Look { id }, Some(Duration::from_secs(90)))
                }
                asked => (asked, None),
            };
            self.operations.push(OperationAt {
                at,
                client,
                session,
                asked,
                strength,
                secondary,
                max_staleness,
            });
        }
    }

    fn add_episode(&mut self, family: Family, slot: u64) {
        let purpose = stream::FAULT + family as u64;
        let mut random = RandomStream::keyed(self.seed, purpose, 0, slot);
        if !random.chance(1, 5) {
            return;
        }
        let within = random.below(SLOT.as_micros() as u64);
        let begin = SLOT * slot as u32 + Duration::from_micros(within);
        let length = match family {
            // Two candidates of one term: the second stands before it hears of the first.
            Family::StepUp => Duration::from_micros(random.between(0, 1_500)),
            _ => Duration::from_millis(match random.below(8) {
                0..=2 => random.between(200, 3_000),
                3..=6 => random.between(4_000, 18_000),
                _ => random.between(18_000, 40_000),
            }),
        };
        let length = if self.duration > LONG { length * 6 } else { length };
        let members = self.members.len() as u64;
        let someone = |random: &mut RandomStream| match random.below(5) {
            0 | 1 => Who::Primary,
            2 => Who::Secondary,
            _ => Who::Member(random.below(members) as u8),
        };
        let clients = self.clients.len() as u64;
        let place = |random: &mut RandomStream| {
            if clients > 0 && random.chance(1, 3) {
                Place::Client(random.below(clients) as u8)
            } else {
                Place::Member(someone(random))
            }
        };
        let (first, last) = match family {
            Family::Kill => (Fault::Kill(someone(&mut random)), Some(Fault::Restart)),
            Family::Shutdown => (Fault::Shutdown(someone(&mut random)), Some(Fault::Restart)),
            Family::Pause => (Fault::Pause(someone(&mut random)), Some(Fault::Resume)),
            Family::Partition => {
                let pick = |random: &mut RandomStream, count: u64| -> Vec<u8> {
                    (0..count).filter(|_| random.chance(1, 2)).map(|it| it as u8).collect()
                };
                let side = match random.below(4) {
                    // The primary of a minority is where writes are undone later.
                    0 | 1 => vec![Who::Primary],
                    2 => vec![Who::Primary, Who::Secondary],
                    _ => pick(&mut random, members).into_iter().map(Who::Member).collect(),
                };
                (Fault::Partition(side, pick(&mut random, clients)), Some(Fault::Heal))
            }
            Family::Isolate => (Fault::Isolate(someone(&mut random)), Some(Fault::Heal)),
            Family::Lag => (Fault::Lag(someone(&mut random)), Some(Fault::Heal)),
            Family::Cut => {
                let from = place(&mut random);
                (Fault::Cut(from, Place::Member(someone(&mut random))), Some(Fault::Heal))
            }
            Family::Reset => {
                let from = place(&mut random);
                (Fault::Reset(from, Place::Member(someone(&mut random))), None)
            }
            Family::Delay => {
                let from = place(&mut random);
                let to = Place::Member(someone(&mut random));
                let millis = random.between(5, 2_000) as u32;
                (Fault::Delay(from, to, millis), Some(Fault::Heal))
            }
            Family::Clocks => {
                let member = random.below(members) as u8;
                let millis = random.between(0, 120_000) as i32 - 60_000;
                (Fault::Skew(member, millis), Some(Fault::Skew(member, 0)))
            }
            Family::StepDown => {
                let seconds = random.between(2, 20) as u8;
                (Fault::StepDown(seconds, random.chance(1, 3)), None)
            }
            Family::StepUp => {
                let one = random.below(members) as u8;
                let other = random.below(members) as u8;
                let second = Fault::StepUp(Who::Member(other));
                (Fault::StepUp(Who::Member(one)), Some(second))
            }
            Family::Reconfig => {
                let member = random.below(members) as u8;
                (Fault::Remove(member), Some(Fault::Add(member)))
            }
            Family::Shape => return,
        };
        let episode = (family as u32) << 16 | slot as u32;
        self.faults.push(FaultAt { at: begin, episode, fault: first });
        if let Some(fault) = last.filter(|_| begin + length < self.duration) {
            self.faults.push(FaultAt { at: begin + length, episode, fault });
        }
    }
}

/// The families of a seed.
fn families(seed: u64, faults: &Faults) -> BTreeSet<Family> {
    match faults {
        Faults::These(families) => families.clone(),
        Faults::Swarm => Family::ALL
            .into_iter()
            .filter(|family| {
                RandomStream::keyed(seed, stream::SWARM, *family as u64, 0).chance(1, 2)
            })
            .collect(),
    }
}

fn client_kind(seed: u64, choice: ClientChoice) -> ClientKind {
    match choice {
        ClientChoice::Driver => ClientKind::Driver,
        ClientChoice::Bare => ClientKind::Bare,
        ClientChoice::Mixed => {
            let driver = RandomStream::keyed(seed, stream::CLIENTS, 0, 0).chance(1, 8);
            if driver { ClientKind::Driver } else { ClientKind::Bare }
        }
    }
}

/// What the members are. The first two of a set can always lead it.
fn shape(seed: u64, count: u8, varied: bool) -> Vec<MemberPlan> {
    let mut arbiters = 0;
    let member = |number: u8| {
        if !varied {
            return MemberPlan::PLAIN;
        }
        let mut random = RandomStream::keyed(seed, stream::SHAPE, u64::from(number), 0);
        let plain = MemberPlan::PLAIN;
        match random.below(12) {
            0..=2 => MemberPlan { priority: random.between(2, 4) as u8, ..plain },
            3 | 4 if number >= 2 && arbiters == 0 => {
                arbiters += 1;
                MemberPlan { arbiter: true, priority: 0, ..plain }
            }
            5 if number >= 2 => MemberPlan { priority: 0, ..plain },
            6 if number >= 2 => MemberPlan { priority: 0, hidden: true, ..plain },
            7 if number >= 3 => {
                // Others may sync from it for a while: more than a second, and writes would time out.
                let delay_seconds = 1;
                // Without a vote: a majority that must wait for it would be late by design.
                MemberPlan { priority: 0, hidden: true, delay_seconds, votes: 0, ..plain }
            }
            8 if number >= 2 => MemberPlan { priority: 0, votes: 0, ..plain },
            _ => plain,
        }
    };
    (0..count).map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_plan_begins_as_the_shorter_one_does() {
        let template = Template::default();
        let longer = Template { duration: Duration::from_secs(120), ..template.clone() };
        for seed in 0..50 {
            let (short, long) = (Plan::generate(seed, &template), Plan::generate(seed, &longer));
            let early = |plan: &Plan| -> Vec<OperationAt> {
                let early = |operation: &&OperationAt| operation.at < template.duration;
                plan.operations.iter().filter(early).copied().collect()
            };
            assert_eq!(early(&short), early(&long), "seed {seed}");
            assert!(short.faults.iter().all(|fault| long.faults.contains(fault)), "seed {seed}");
        }
    }

    #[test]
    fn swarm_switches_about_half_of_the_families_off() {
        let counts: Vec<usize> =
            (0..200).map(|seed| families(seed, &Faults::Swarm).len()).collect();
        let sum: usize = counts.iter().sum();
        assert!((1_000..1_400).contains(&sum), "{sum} of 2400");
        assert!(counts.iter().any(|count| *count <= 3) && counts.iter().any(|count| *count >= 9));
    }

    #[test]
    fn a_list_of_faults_is_read_as_it_is_written() {
        let list = Faults::parse("kill, pause").unwrap();
        assert_eq!(list.to_string(), "kill,pause");
        assert_eq!(Faults::parse("swarm"), Ok(Faults::Swarm));
        assert_eq!(Faults::parse("kill,fire"), Err("fire".to_owned()));
    }
}
