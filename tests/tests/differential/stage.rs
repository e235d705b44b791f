//! Where a sequence is played: a world, or real mongods.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document};
use stepdown::Sim;
use stepdown::mongod::ServerVersion;
use stepdown_driver::transport::Transport;
use stepdown_driver::transport::tcp::TcpTransport;
use stepdown_tests::real::RealSet;
use tokio::runtime::Runtime;

use crate::sequence::name_of;

/// Mongods that run; nothing is initiated.
pub struct Stage {
    pub transport: Arc<dyn Transport>,
    kind: Kind,
    hosts: Vec<String>,
}

enum Kind {
    Simulated(Sim),
    Real { runtime: Runtime, set: RealSet },
}

impl Stage {
    pub fn simulated(members: usize) -> Stage {
        let sim = Sim::builder()
            .members(members)
            .seed_list(false)
            .server_version(ServerVersion::V6_0)
            .build();
        Stage {
            transport: sim.transport("shell"),
            kind: Kind::Simulated(sim),
            hosts: (0..members).map(name_of).collect(),
        }
    }

    pub fn real(binary: &Path, members: usize) -> io::Result<Stage> {
        let set = RealSet::start(binary, "foo", members)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Stage {
            transport: Arc::new(TcpTransport::new()),
            hosts: set.hosts(),
            kind: Kind::Real { runtime, set },
        })
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.kind {
            Kind::Simulated(sim) => sim.block_on(future),
            Kind::Real { runtime, .. } => runtime.block_on(future),
        }
    }

    pub fn sleep(&self, duration: Duration) {
        let at = self.transport.now() + duration;
        self.block_on(async { self.transport.sleep_until(at).await });
    }

    pub fn host(&self, member: usize) -> &str {
        &self.hosts[member]
    }

    pub fn kill(&mut self, member: usize) -> Result<(), String> {
        match &mut self.kind {
            Kind::Simulated(sim) => sim.kill(name_of(member)).map_err(|error| error.to_string()),
            Kind::Real { set, .. } => set.kill(member).map_err(|error| error.to_string()),
        }
    }

    pub fn terminate(&mut self, member: usize) -> Result<(), String> {
        match &mut self.kind {
            Kind::Simulated(sim) => {
                sim.shutdown(name_of(member)).map_err(|error| error.to_string())?;
                sim.run_until(Duration::from_secs(60), |sim| {
                    sim.member(name_of(member)).is_some_and(|member| !member.alive)
                })
                .map(|_at| ())
                .map_err(|error| error.to_string())
            }
            Kind::Real { set, .. } => set.terminate(member).map_err(|error| error.to_string()),
        }
    }

    pub fn restart(&mut self, member: usize) -> Result<(), String> {
        match &mut self.kind {
            Kind::Simulated(sim) => sim.restart(name_of(member)).map_err(|error| error.to_string()),
            Kind::Real { set, .. } => set.restart(member).map_err(|error| error.to_string()),
        }
    }

    pub fn restart_empty(&mut self, member: usize) -> Result<(), String> {
        match &mut self.kind {
            Kind::Simulated(sim) => {
                sim.restart_empty(name_of(member)).map_err(|error| error.to_string())
            }
            Kind::Real { set, .. } => set.restart_empty(member).map_err(|error| error.to_string()),
        }
    }

    pub fn pause(&mut self, member: usize) -> Result<(), String> {
        match &mut self.kind {
            Kind::Simulated(sim) => sim.pause(name_of(member)).map_err(|error| error.to_string()),
            Kind::Real { set, .. } => set.signal(member, "STOP").map_err(|error| error.to_string()),
        }
    }

    pub fn resume(&mut self, member: usize) -> Result<(), String> {
        match &mut self.kind {
            Kind::Simulated(sim) => sim.resume(name_of(member)).map_err(|error| error.to_string()),
            Kind::Real { set, .. } => set.signal(member, "CONT").map_err(|error| error.to_string()),
        }
    }

    /// A command with the members' names replaced by their addresses.
    pub fn addressed(&self, command: &Document) -> Document {
        self.renamed(command, |text| {
            let mut text = text.to_owned();
            for (member, host) in self.hosts.iter().enumerate() {
                text = text.replace(&name_of(member), host);
            }
            text
        })
    }

    /// A reply with the members' addresses replaced by their names.
    pub fn named(&self, reply: &Document) -> Document {
        self.renamed(reply, |text| {
            let mut text = text.to_owned();
            for (member, host) in self.hosts.iter().enumerate() {
                text = text.replace(host, &name_of(member));
            }
            text
        })
    }

    fn renamed(&self, document: &Document, rename: impl Fn(&str) -> String + Copy) -> Document {
        fn value_of(value: &Bson, rename: impl Fn(&str) -> String + Copy) -> Bson {
            match value {
                Bson::String(text) => Bson::String(rename(text)),
                Bson::Array(values) => values.iter().map(|it| value_of(it, rename)).collect(),
                Bson::Document(document) => document
                    .iter()
                    .map(|(key, it)| (key.clone(), value_of(it, rename)))
                    .collect::<Document>()
                    .into(),
                other => other.clone(),
            }
        }
        document.iter().map(|(key, it)| (key.clone(), value_of(it, rename))).collect()
    }
}
