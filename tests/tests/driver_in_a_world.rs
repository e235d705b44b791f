//! The driver in a world: the two founding stories, in virtual time.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use stepdown::Sim;
use stepdown_driver::event::EventLog;
use stepdown_driver::options::{ClientOptions, ReadPreference, WriteConcern};
use stepdown_driver::sdam::ServerType;
use stepdown_driver::{Client, IndexModel};

fn world(seed: u64) -> Sim {
    Sim::builder().seed(seed).members(3).build()
}

fn client(sim: &Sim, uri: &str) -> Client {
    Client::with_transport(uri, sim.transport("app")).unwrap()
}

#[test]
fn a_set_initiated_through_the_driver_fails_over() {
    let sim = world(1);
    let hosts: Vec<String> = sim.members().iter().map(|member| member.to_string()).collect();
    let story = async {
        let direct = client(&sim, &format!("mongodb://{}/?directConnection=true", hosts[0]));
        let members: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(id, host)| doc! { "_id": id as i32, "host": host })
            .collect();
        let config = doc! { "_id": "foo", "version": 1, "members": members };
        direct.database("admin").run_command(doc! { "replSetInitiate": config }).await.unwrap();
        direct.close().await;

        let mut options =
            ClientOptions::parse_str(format!("mongodb://{}/?replicaSet=foo", hosts[1])).unwrap();
        let log = EventLog::new();
        log.attach(&mut options);
        let client = Client::with_transport(options, sim.transport("app")).unwrap();
        let notes = client.database("d").collection::<Document>("notes");
        let majority = notes.with_write_concern(WriteConcern::majority());
        majority.insert_one(doc! { "_id": 1 }).await.unwrap();
        assert_eq!(notes.find_one(doc! {}).await.unwrap(), Some(doc! { "_id": 1 }));
        let primary = client.topology().primary().unwrap().address.clone();
        sim.kill(primary.to_string().as_str()).unwrap();
        let began = client.now();
        majority.insert_one(doc! { "_id": 2 }).await.unwrap();
        println!("failed over in {:?}", client.now() - began);
        let next = client.topology().primary().unwrap().address.clone();
        assert_ne!(primary, next);
        sim.restart(primary.to_string().as_str()).unwrap();
        client
            .wait_for_topology(Duration::from_secs(60), |t| {
                t.server(&primary).is_some_and(|server| server.is_secondary())
            })
            .await
            .unwrap();
        println!("{} after {:?}", client.topology(), client.now() - began);
        client.close().await;
    };
    sim.block_on(story);
}

#[test]
fn with_retries_off_the_application_sees_the_failover() {
    let sim = world(2);
    sim.elect();
    let story = async {
        let seeds = sim.members().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let client = client(
            &sim,
            &format!("mongodb://{seeds}/?replicaSet=foo&retryWrites=false&retryReads=false"),
        );
        let notes = client.database("d").collection::<Document>("notes");
        notes.insert_one(doc! { "_id": 1 }).await.unwrap();
        let primary = client.topology().primary().unwrap().address.clone();
        sim.kill(primary.to_string().as_str()).unwrap();
        let error = notes.insert_one(doc! { "_id": 2 }).await.unwrap_err();
        println!("{error}");
        assert!(error.is_auto_reconnect());
        let result = client
            .with_reconnect_for(Duration::from_secs(30), || async {
                notes.insert_one(doc! { "_id": 3 }).await
            })
            .await;
        result.unwrap();
    };
    sim.block_on(story);
}

#[test]
fn reads_are_balanced_and_a_secondary_comes_back() {
    let sim = world(3);
    sim.elect();
    let story = async {
        let seeds = sim.members().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let client =
            client(&sim, &format!("mongodb://{seeds}/?replicaSet=foo&readPreference=secondary"));
        let notes = client.database("d").collection::<Document>("notes");
        notes
            .with_write_concern(WriteConcern::nodes(3))
            .insert_one(doc! { "_id": 1 })
            .await
            .unwrap();
        client
            .wait_for_topology(Duration::from_secs(5), |t| t.secondaries().count() == 2)
            .await
            .unwrap();
        client.reset_stats();
        for _ in 0..400 {
            notes.find_one(doc! {}).await.unwrap().unwrap();
        }
        println!("{:?}", client.read_balance());
        let away = client.topology().secondaries().next().unwrap().address.clone();
        assert!((150..=250).contains(&client.read_balance()[&away]));
        sim.shutdown(away.to_string().as_str()).unwrap();
        for _ in 0..400 {
            notes.find_one(doc! {}).await.unwrap().unwrap();
        }
        // It refuses new work at first, and ends when its quiesce period is over.
        client.sleep(Duration::from_secs(20)).await;
        sim.restart(away.to_string().as_str()).unwrap();
        client.sleep(Duration::from_secs(12)).await;
        assert_eq!(client.topology().server(&away).unwrap().server_type, ServerType::RsSecondary);
        client.reset_stats();
        for _ in 0..400 {
            notes.find_one(doc! {}).await.unwrap().unwrap();
        }
        println!("{:?}", client.read_balance());
        assert!((150..=250).contains(&client.read_balance()[&away]));
    };
    sim.block_on(story);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let run = |seed| {
        let sim = world(seed);
        sim.elect();
        sim.block_on(async {
            let hosts = sim.members().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let client = client(&sim, &format!("mongodb://{hosts}/?replicaSet=foo"));
            let things = client.database("d").collection::<Document>("things");
            things.create_index(IndexModel::new(doc! { "n": 1 }).unique()).await.unwrap();
            things.insert_many((0..50).map(|n| doc! { "n": n })).await.unwrap();
            assert!(things.insert_one(doc! { "n": 7 }).await.unwrap_err().is_duplicate_key());
            let mut cursor = things.find(doc! { "n": { "$gte": 10 } }).batch_size(7).await.unwrap();
            let mut count = 0;
            while cursor.advance().await.unwrap() {
                count += 1;
            }
            assert_eq!(count, 40);
            assert_eq!(things.count_documents(doc! {}).await.unwrap(), 50);
            let raw = client.database("d").collection::<RawDocumentBuf>("raw");
            raw.insert_one(rawdoc! { "_id": 1 }).await.unwrap();
            let primary = client.topology().primary().unwrap().address.to_string();
            sim.kill(primary.as_str()).unwrap();
            let secondary = things.with_selection_criteria(ReadPreference::secondary_preferred());
            secondary.find_one(doc! {}).await.unwrap().unwrap();
            things.update_one(doc! { "n": 1 }, doc! { "$set": { "x": 1 } }).await.unwrap();
            let _ = client.close().await;
        });
        sim.json_lines()
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
}
