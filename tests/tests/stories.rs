//! The founding stories, unchanged, in a world and against real mongods.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real mongods live in real time"
)]

use std::cell::RefCell;
use std::time::Duration;

use stepdown::Sim;
use stepdown_driver::Client;
use stepdown_driver::error::Result;
use stepdown_tests::real::{RealSet, mongod};
use stepdown_tests::stories::{Deployment, Doing, balanced_reads, failing_over, initiate};

struct Simulated(Sim);

impl Deployment for Simulated {
    fn set_name(&self) -> String {
        self.0.set_name().to_string()
    }

    fn hosts(&self) -> Vec<String> {
        self.0.members().iter().map(|member| member.name.to_string()).collect()
    }

    fn client<'a>(&'a self, uri: String) -> Doing<'a, Result<Client>> {
        Box::pin(async move { self.0.client(&uri).await })
    }

    fn kill<'a>(&'a self, host: &'a str) -> Doing<'a, ()> {
        Box::pin(async move { self.0.kill(host).expect("a member of the set") })
    }

    fn shut_down<'a>(&'a self, host: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            self.0.shutdown(host).expect("a member of the set");
            while self.0.member(host).is_some_and(|member| member.alive) {
                self.0.sleep(Duration::from_millis(100)).await;
            }
        })
    }

    fn restart<'a>(&'a self, host: &'a str) -> Doing<'a, ()> {
        Box::pin(async move { self.0.restart(host).expect("a member of the set") })
    }
}

struct Real(RefCell<RealSet>);

impl Real {
    fn index_of(&self, host: &str) -> usize {
        self.0.borrow().index_of(host).expect("a member of the set")
    }
}

impl Deployment for Real {
    fn set_name(&self) -> String {
        "foo".into()
    }

    fn hosts(&self) -> Vec<String> {
        self.0.borrow().hosts()
    }

    fn client<'a>(&'a self, uri: String) -> Doing<'a, Result<Client>> {
        Box::pin(async move { Client::with_uri_str(&uri).await })
    }

    fn kill<'a>(&'a self, host: &'a str) -> Doing<'a, ()> {
        let index = self.index_of(host);
        Box::pin(async move { self.0.borrow_mut().kill(index).expect("kill -9") })
    }

    fn shut_down<'a>(&'a self, host: &'a str) -> Doing<'a, ()> {
        let index = self.index_of(host);
        Box::pin(async move { self.0.borrow_mut().terminate(index).expect("SIGTERM") })
    }

    fn restart<'a>(&'a self, host: &'a str) -> Doing<'a, ()> {
        let index = self.index_of(host);
        Box::pin(async move { self.0.borrow_mut().restart(index).expect("a restart") })
    }
}

async fn both_stories(deployment: &dyn Deployment) {
    initiate(deployment).await;
    failing_over(deployment).await;
    balanced_reads(deployment).await;
}

#[test]
fn both_stories_hold_in_a_world() {
    for seed in 1..=10 {
        let sim = Sim::builder().seed(seed).members(3).build();
        let deployment = Simulated(sim.clone());
        sim.block_on(both_stories(&deployment));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stories_hold_against_real_mongods() {
    let Some(binary) = mongod() else {
        println!("skipped: MONGOD names no mongod binary (see .ci/run)");
        return;
    };
    let set = RealSet::start(&binary, "foo", 3).expect("three mongods");
    both_stories(&Real(RefCell::new(set))).await;
}
