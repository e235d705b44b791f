//! The two stories as the README shows them. They run here, and the README must hold them word for word.

use std::error::Error;
use std::time::Duration;

// README: failing over
use bson::{Document, doc};
use stepdown::Sim;

#[test]
fn the_application_survives_a_failover() -> Result<(), Box<dyn Error>> {
    // Three mongods, each with its own address and its own empty dbpath. Nothing is initiated yet.
    let sim = Sim::builder().seed(7).members(3).build();

    sim.block_on(async {
        // No primary exists: connect directly to one member and initiate the set from there.
        let operator = sim.client("mongodb://a:27017/?directConnection=true").await?;
        operator.database("admin").run_command(doc! { "replSetInitiate": {} }).await?;

        // One living seed is enough; the driver waits for the election and finds the others.
        let client = sim.client("mongodb://b:27017/?replicaSet=foo&retryReads=false").await?;
        let notes = client.database("app").collection::<Document>("notes");
        notes.insert_one(doc! { "_id": 1, "text": "saved" }).await?;
        let first = client.topology().primary().expect("it has just written").address.to_string();
        assert_eq!(first, "a:27017");

        // kill -9. With retries off, the next read raises an error of the AutoReconnect family.
        sim.kill(first.as_str())?;
        let error = notes.find_one(doc! { "_id": 1 }).await.unwrap_err();
        assert!(error.is_auto_reconnect());

        // The others elect; the same client, untouched, goes on.
        let half_a_minute = Duration::from_secs(30);
        let found = client
            .with_reconnect_for(half_a_minute, || async { notes.find_one(doc! { "_id": 1 }).await })
            .await?;
        assert!(found.is_some());
        let second = client.topology().primary().expect("a new primary").address.to_string();
        assert_ne!(second, first);

        // The old primary comes back as a secondary.
        sim.restart(first.as_str())?;
        sim.sleep(Duration::from_secs(5)).await;
        assert_eq!(sim.secondaries().len(), 2);
        println!("{}", sim.timeline());
        Ok(())
    })
}
// README: end

// README: balanced reads
#[test]
fn a_secondary_back_from_maintenance_gets_its_reads_again() -> Result<(), Box<dyn Error>> {
    let sim = Sim::builder().seed(7).members(3).build();
    sim.elect();

    sim.block_on(async {
        let client = sim.client("mongodb://a,b,c/?replicaSet=foo&readPreference=secondary").await?;
        let events = client.database("app").collection::<Document>("events");
        events.insert_one(doc! { "_id": 1 }).await?;

        // Operations takes a secondary down: no read of the application fails.
        let down = sim.secondaries()[0].name.clone();
        sim.shutdown(&*down)?;
        for _ in 0..100 {
            events.find_one(doc! { "_id": 1 }).await?;
            sim.sleep(Duration::from_millis(200)).await;
        }

        // It comes back, and within a heartbeat it has its share again, without a restart.
        sim.restart(&*down)?;
        sim.sleep(Duration::from_secs(10)).await;
        client.reset_stats();
        for _ in 0..400 {
            events.find_one(doc! { "_id": 1 }).await?;
        }
        let shares: Vec<u64> = client.read_balance().into_values().filter(|n| *n > 0).collect();
        assert_eq!(shares.len(), 2);
        assert!(shares.iter().all(|reads| (150..=250).contains(reads)), "{shares:?}");
        Ok(())
    })
}
// README: end

#[test]
fn the_readme_shows_these_very_stories() {
    let readme = include_str!("../../README.md");
    let source = include_str!("readme.rs");
    for part in ["failing over", "balanced reads"] {
        let marker = format!("// README: {part}\n");
        let (_, after) = source.split_once(&marker).expect("the marker");
        let (code, _) = after.split_once("// README: end\n").expect("the end marker");
        assert!(readme.contains(code), "the README does not show the story of {part} as it is run");
    }
}
