//! The two founding stories, told to any deployment: a simulated set in virtual time, or real mongods
//! over TCP. The functions below are the same for both; they see a [`Deployment`] and a [`Client`].

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bson::{Document, doc};
use stepdown_driver::Client;
use stepdown_driver::error::Result;
use stepdown_driver::options::ReadPreference;

/// A future of a deployment.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Three mongods that somebody can connect to, kill and start again.
pub trait Deployment {
    /// The set's name.
    fn set_name(&self) -> String;
    /// `host:port` of each member.
    fn hosts(&self) -> Vec<String>;
    /// A client of a connection string.
    fn client<'a>(&'a self, uri: String) -> Doing<'a, Result<Client>>;
    /// kill -9.
    fn kill<'a>(&'a self, host: &'a str) -> Doing<'a, ()>;
    /// SIGTERM, to the end of the process.
    fn shut_down<'a>(&'a self, host: &'a str) -> Doing<'a, ()>;
    /// Starts a member that is down, on its data.
    fn restart<'a>(&'a self, host: &'a str) -> Doing<'a, ()>;
}

/// Polls `condition` until it holds.
///
/// # Panics
/// If it does not within `limit` on the client's clock.
async fn until<F>(client: &Client, limit: Duration, what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = client.now() + limit;
    while !condition().await {
        assert!(client.now() < deadline, "not within {limit:?}: {what}");
        client.sleep(Duration::from_millis(50)).await;
    }
}

async fn direct(deployment: &dyn Deployment, host: &str) -> Client {
    deployment
        .client(format!("mongodb://{host}/?directConnection=true"))
        .await
        .expect("a direct connection string is good")
}

/// Initiates the set from its first member and waits for the first primary.
///
/// The election timeout is the set's default: ten seconds of the deployment's own time.
pub async fn initiate(deployment: &dyn Deployment) {
    let hosts = deployment.hosts();
    let operator = direct(deployment, &hosts[0]).await;
    let admin = operator.database("admin");

    // Nothing is initiated: reads and writes are refused as a real member refuses them.
    let refused = operator
        .database("story")
        .collection::<Document>("notes")
        .insert_one(doc! { "_id": 0 })
        .await
        .expect_err("a write before initiation");
    assert_eq!(refused.code(), Some(10107), "{refused}");
    let status = admin
        .run_command(doc! { "replSetGetStatus": 1 })
        .await
        .expect_err("a status before initiation");
    assert_eq!(status.code(), Some(94), "{status}");

    let members: Vec<Document> =
        (0_i32..).zip(&hosts).map(|(id, host)| doc! { "_id": id, "host": host }).collect();
    admin
        .run_command(
            doc! { "replSetInitiate": { "_id": deployment.set_name(), "members": members } },
        )
        .await
        .expect("initiation");
    until(&operator, Duration::from_secs(60), "a first primary", || async {
        admin
            .run_command(doc! { "hello": 1 })
            .await
            .is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    })
    .await;
    operator.close().await;
}

/// Connect by seeds, save, kill the primary, meet AutoReconnect, go on with the same client; the old
/// primary comes back as a secondary.
pub async fn failing_over(deployment: &dyn Deployment) {
    let hosts = deployment.hosts();
    let set_name = deployment.set_name();

    // One living seed is enough: the others are discovered.
    let client = deployment
        .client(format!("mongodb://{}/?replicaSet={set_name}&w=majority", hosts[1]))
        .await
        .expect("a connection string with one seed");
    let notes = client.database("story").collection::<Document>("notes");
    notes.insert_one(doc! { "_id": 1, "text": "saved" }).await.expect("a write to the primary");
    let read = notes.find_one(doc! { "_id": 1 }).await.expect("a read").expect("the document");
    assert_eq!(read.get_str("text").expect("the text"), "saved");
    let topology = client.topology();
    assert_eq!(topology.servers.len(), 3, "members not named are discovered");
    let first = topology.primary().expect("a primary").address.to_string();
    assert!(hosts.contains(&first), "{first}");

    // Another client that leaves every decision to the application.
    let careful = deployment
        .client(format!(
            "mongodb://{}/?replicaSet={set_name}&retryReads=false&retryWrites=false&serverSelectionTimeoutMS=1000",
            hosts.join(",")
        ))
        .await
        .expect("a connection string with three seeds");
    let careful_notes = careful.database("story").collection::<Document>("notes");
    careful_notes.find_one(doc! { "_id": 1 }).await.expect("a read before the kill");

    deployment.kill(&first).await;

    // With retries off the next operation says so, and further attempts fail until the others elect.
    let mut failures = 0;
    let deadline = careful.now() + Duration::from_secs(60);
    let found = loop {
        match careful_notes.find_one(doc! { "_id": 1 }).await {
            Ok(found) => break found,
            Err(error) => {
                assert!(error.is_auto_reconnect(), "of the AutoReconnect family: {error}");
                failures += 1;
            }
        }
        assert!(careful.now() < deadline, "no new primary within a minute");
        careful.sleep(Duration::from_millis(500)).await;
    };
    assert!(failures > 0, "the kill was noticed");
    assert!(found.is_some(), "the majority kept the document");

    // With retries on, the client of before has seen nothing but a wait.
    notes.insert_one(doc! { "_id": 2, "text": "after" }).await.expect("a write after failover");
    let second = client.topology().primary().expect("a new primary").address.to_string();
    assert_ne!(first, second);

    // The old primary rejoins as a secondary and catches up.
    deployment.restart(&first).await;
    let returned = direct(deployment, &first).await;
    let notes_there = returned.database("story").collection::<Document>("notes");
    until(&returned, Duration::from_secs(60), "the old primary caught up", || async {
        matches!(notes_there.find_one(doc! { "_id": 2 }).await, Ok(Some(_)))
    })
    .await;
    let hello = returned.database("admin").run_command(doc! { "hello": 1 }).await.expect("hello");
    assert!(hello.get_bool("secondary").expect("the field"), "{hello}");
    for client in [client, careful, returned] {
        client.close().await;
    }
}

/// Reads from the secondaries, evenly; one goes down for maintenance and gets its share back without
/// a restart of the application.
pub async fn balanced_reads(deployment: &dyn Deployment) {
    const READS: u32 = 400;
    // Over TCP on a busy machine one member's round trips may be far longer than another's, and would
    // put it outside the latency window: that window is wide open here.
    let client = deployment
        .client(format!(
            "mongodb://{}/?replicaSet={}&readPreference=secondary&heartbeatFrequencyMS=1000&localThresholdMS=10000",
            deployment.hosts().join(","),
            deployment.set_name()
        ))
        .await
        .expect("a connection string");
    let events = client.database("story").collection::<Document>("events");
    events.insert_one(doc! { "_id": 1 }).await.expect("a write to the primary");
    until(&client, Duration::from_secs(30), "both secondaries are seen", || async {
        client.topology().secondaries().count() == 2
    })
    .await;

    let shares = read_shares(&client, READS).await;
    assert_even(&shares, READS);

    // Maintenance: reads go on without an error seen by the application.
    let down = client.topology().secondaries().next().expect("a secondary").address.to_string();
    deployment.kill(&down).await;
    let shares = read_shares(&client, READS).await;
    let elsewhere: u64 = shares.iter().filter(|(host, _)| **host != down).map(|(_, n)| n).sum();
    assert_eq!(elsewhere, u64::from(READS), "{shares:?}");

    // It comes back: within a heartbeat of being a secondary again it gets its share.
    deployment.restart(&down).await;
    until(&client, Duration::from_secs(60), "the secondary is seen again", || async {
        client.topology().secondaries().count() == 2
    })
    .await;
    let shares = read_shares(&client, READS).await;
    assert_even(&shares, READS);
    client.close().await;
}

/// Reads `count` times and says who answered, by the client's own count.
async fn read_shares(client: &Client, count: u32) -> BTreeMap<String, u64> {
    let events = client.database("story").collection::<Document>("events");
    client.reset_stats();
    for _ in 0..count {
        events
            .find_one(doc! { "_id": 1 })
            .selection_criteria(ReadPreference::secondary())
            .await
            .expect("a read that the application sees no error of");
    }
    client.read_balance().into_iter().map(|(host, n)| (host.to_string(), n)).collect()
}

/// A chi-square test over two equal shares, at the 0.1 % level (10.83 with one degree of freedom): it
/// fails a fair client once in a thousand runs, and each run here is of one seed.
fn assert_even(shares: &BTreeMap<String, u64>, reads: u32) {
    let counts: Vec<u64> = shares.values().copied().filter(|count| *count > 0).collect();
    assert_eq!(counts.len(), 2, "two members are read from: {shares:?}");
    assert_eq!(counts.iter().sum::<u64>(), u64::from(reads), "{shares:?}");
    // chi^2 = (a - b)^2 / (a + b) for two classes of equal probability.
    let difference = counts[0].abs_diff(counts[1]);
    assert!(difference * difference * 100 < 1_083 * u64::from(reads), "uneven: {shares:?}");
}
