//! Making a set of the members: initiate, and wait for the first election.

use std::time::Duration;

use bson::raw::{RawArrayBuf, cstr};
use bson::rawdoc;

use super::core::World;
use super::shell::run_command;
use super::sim::{Member, Sim};
use crate::trace::MemberState;

/// The client that initiates: an operator with a shell.
const OPERATOR: &str = "operator";

/// A set has at most so many voting members.
const VOTERS_MAX: i32 = 7;

/// The first election comes 10 to 11.5 s after the initiate; a split vote or two are granted.
const ELECTION_LIMIT: Duration = Duration::from_secs(120);

impl Sim {
    /// Runs `replSetInitiate` on the first member over a direct connection, with a configuration of
    /// all members; time passes until it is answered. No election has happened by then. Members
    /// beyond the seventh get neither vote nor priority, because a set has at most seven voters.
    ///
    /// # Panics
    /// If the server refuses, with its error; if there is no member.
    pub fn initiate(&self) {
        let (set_name, hosts) = {
            let world = self.world();
            let hosts: Vec<String> = world.nodes.iter().map(|node| node.host.to_string()).collect();
            (world.set_name.to_string(), hosts)
        };
        let mut members = RawArrayBuf::new();
        for (id, host) in (0_i32..).zip(&hosts) {
            let mut member = rawdoc! { "_id": id, "host": host.as_str() };
            if id >= VOTERS_MAX {
                member.append(cstr!("priority"), 0_i32);
                member.append(cstr!("votes"), 0_i32);
            }
            members.push(member);
        }
        let config = rawdoc! { "_id": set_name, "version": 1_i32, "members": members };
        let command = rawdoc! { "replSetInitiate": config, "$db": "admin" };
        let first = hosts.first().unwrap_or_else(|| panic!("a set needs a member"));
        let transport = self.transport(OPERATOR);
        let reply = self.block_on(run_command(&*transport, first, command));
        let complaint = match &reply {
            Ok(reply) if matches!(reply.get_f64("ok"), Ok(1.0)) => return,
            Ok(reply) => match reply.get_str("errmsg") {
                Ok(message) => message.to_owned(),
                Err(_) => format!("{reply:?}"),
            },
            Err(error) => error.to_string(),
        };
        self.world().fail(&format!("replSetInitiate on {first} failed: {complaint}"));
    }

    /// Initiates, then lets time pass until one member accepts writes and all others that run are
    /// SECONDARY or ARBITER. Gives back the primary.
    ///
    /// # Panics
    /// If that does not happen within two minutes of virtual time.
    pub fn elect(&self) -> Member {
        self.initiate();
        if self.run_until_world(ELECTION_LIMIT, World::is_settled).is_err() {
            self.world().fail("no settled set within two minutes of the initiate");
        }
        let world = self.world();
        let primary = world.primary().expect("a settled set has a primary");
        world.member(primary)
    }
}

impl World {
    /// One writable primary, and every other member that runs is SECONDARY or ARBITER.
    fn is_settled(&self) -> bool {
        let mut writable = 0;
        for (_, status) in self.statuses() {
            match status.state {
                MemberState::Primary if status.writable => writable += 1,
                MemberState::Secondary | MemberState::Arbiter => {}
                _ => return false,
            }
        }
        writable == 1
    }
}
