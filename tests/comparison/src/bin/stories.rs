//! The official crate against `stepdown serve --speed 10`: everything an application does, then a failover.
//!
//!     cargo run --manifest-path tests/comparison/Cargo.toml --bin stories -- PATH-OF-STEPDOWN
//!
//! Prints a line per step; the first that does not hold ends it with a panic.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::{FullDocumentType, IndexOptions, ReturnDocument, WriteConcern};
use mongodb::{Cursor, IndexModel};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A set served by a process of its own.
struct Served {
    binary: String,
    process: Child,
    uri: String,
    control: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    fn start(binary: &str) -> Outcome<Served> {
        let mut process = Command::new(binary)
            .args(["serve", "--port", "0", "--speed", "10"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut uri = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut uri)?;
        let mut told = BufReader::new(process.stderr.take().ok_or("no narration")?).lines();
        let control = loop {
            let line = told.next().ok_or("no control port is told")??;
            if let Some(address) = line.strip_prefix("control port: ") {
                break address.to_owned();
            }
        };
        // The rest of the narration has to go somewhere.
        std::thread::spawn(move || told.for_each(drop));
        let uri = uri.trim().to_owned();
        Ok(Served { binary: binary.to_owned(), process, uri, control })
    }

    fn ctl(&self, arguments: &[&str]) -> Outcome<()> {
        let done = Command::new(&self.binary)
            .args(["ctl", "--control", &self.control])
            .args(arguments)
            .stdout(Stdio::null())
            .status()?;
        if done.success() { Ok(()) } else { Err(format!("ctl {arguments:?}: {done}").into()) }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let binary = std::env::args().nth(1).ok_or("give the path of stepdown")?;
    let served = Served::start(&binary)?;
    seeds(&served).await?;
    let client = Client::with_uri_str(format!("{}&heartbeatFrequencyMS=1000", served.uri)).await?;
    crud(&client).await?;
    aggregation(&client).await?;
    transactions(&client).await?;
    change_stream(&client).await?;
    failover(&served, &client).await?;
    println!("all stories hold");
    Ok(())
}

async fn seeds(served: &Served) -> Outcome<()> {
    let hosts = served.uri.trim_start_matches("mongodb://").split('/').next().unwrap_or_default();
    let all: BTreeSet<&str> = hosts.split(',').collect();
    for seed in &all {
        let client = Client::with_uri_str(format!("mongodb://{seed}/?replicaSet=foo")).await?;
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
        let found: BTreeSet<&str> =
            hello.get_array("hosts")?.iter().filter_map(|host| host.as_str()).collect();
        assert_eq!(found, all);
    }
    println!("  mongodb crate: found the set from each of {} seeds", all.len());
    Ok(())
}

async fn all(mut cursor: Cursor<Document>) -> Outcome<Vec<Document>> {
    let mut documents = Vec::new();
    while cursor.advance().await? {
        documents.push(cursor.deserialize_current()?);
    }
    Ok(documents)
}

async fn crud(client: &Client) -> Outcome<()> {
    let notes = client.database("rust").collection::<Document>("notes");
    notes.drop().await?;
    let three = (1..=3).map(|id| doc! { "_id": id, "a": id });
    assert_eq!(notes.insert_many(three).await?.inserted_ids.len(), 3);
    let found = all(notes.find(doc! { "a": { "$gt": 1 } }).sort(doc! { "a": -1 }).await?).await?;
    assert_eq!(found, [doc! { "_id": 3, "a": 3 }, doc! { "_id": 2, "a": 2 }]);
    let updated = notes.update_one(doc! { "_id": 1 }, doc! { "$inc": { "a": 5 } }).await?;
    assert_eq!(updated.modified_count, 1);
    let after = notes
        .find_one_and_update(doc! { "_id": 2 }, doc! { "$set": { "b": 1 } })
        .return_document(ReturnDocument::After)
        .await?;
    assert_eq!(after, Some(doc! { "_id": 2, "a": 2, "b": 1 }));
    let replaced = notes.replace_one(doc! { "_id": 9 }, doc! { "a": 9 }).upsert(true).await?;
    assert!(replaced.upserted_id.is_some());
    let unique = IndexOptions::builder().unique(true).build();
    notes.create_index(IndexModel::builder().keys(doc! { "a": 1 }).options(unique).build()).await?;
    assert!(notes.insert_one(doc! { "a": 9 }).await.is_err());
    assert_eq!(notes.delete_one(doc! { "_id": 9 }).await?.deleted_count, 1);
    assert_eq!(notes.count_documents(doc! {}).await?, 3);
    let many = client.database("rust").collection::<Document>("many");
    many.drop().await?;
    many.insert_many((0..1_000).map(|n| doc! { "n": n })).await?;
    assert_eq!(all(many.find(doc! {}).batch_size(99).await?).await?.len(), 1_000);
    println!("  mongodb crate: inserted, found, updated, replaced, deleted, and read by cursor");
    Ok(())
}

async fn aggregation(client: &Client) -> Outcome<()> {
    let sales = client.database("rust").collection::<Document>("sales");
    sales.drop().await?;
    sales
        .insert_many([doc! { "item": "tea", "n": 2 }, doc! { "item": "tea", "n": 3 }, doc! { "item": "ink", "n": 7 }])
        .await?;
    let group = doc! { "$group": { "_id": "$item", "total": { "$sum": "$n" } } };
    let totals = all(sales.aggregate([group, doc! { "$sort": { "total": 1 } }]).await?).await?;
    assert_eq!(totals, [doc! { "_id": "tea", "total": 5 }, doc! { "_id": "ink", "total": 7 }]);
    println!("  mongodb crate: aggregated");
    Ok(())
}

async fn transactions(client: &Client) -> Outcome<()> {
    let accounts = client.database("rust").collection::<Document>("accounts");
    accounts.drop().await?;
    accounts.insert_many([doc! { "_id": "a", "sum": 10 }, doc! { "_id": "b", "sum": 0 }]).await?;
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for (id, change) in [("a", -4), ("b", 4)] {
        let update = doc! { "$inc": { "sum": change } };
        accounts.update_one(doc! { "_id": id }, update).session(&mut session).await?;
    }
    let outside = accounts.find_one(doc! { "_id": "b" }).await?;
    assert_eq!(outside, Some(doc! { "_id": "b", "sum": 0 }));
    session.commit_transaction().await?;
    assert_eq!(accounts.find_one(doc! { "_id": "b" }).await?, Some(doc! { "_id": "b", "sum": 4 }));
    session.start_transaction().await?;
    accounts.delete_many(doc! {}).session(&mut session).await?;
    session.abort_transaction().await?;
    assert_eq!(accounts.count_documents(doc! {}).await?, 2);
    println!("  mongodb crate: committed one transaction and aborted another");
    Ok(())
}

async fn change_stream(client: &Client) -> Outcome<()> {
    let watched = client.database("rust").collection::<Document>("watched");
    watched.drop().await?;
    client.database("rust").create_collection("watched").await?;
    let mut stream = watched.watch().full_document(FullDocumentType::UpdateLookup).await?;
    watched.insert_one(doc! { "_id": 1 }).await?;
    watched.delete_one(doc! { "_id": 1 }).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        if let Some(event) = stream.next_if_any().await? {
            kinds.push(format!("{:?}", event.operation_type));
        }
    }
    assert_eq!(kinds, ["Insert", "Delete"]);
    println!("  mongodb crate: watched a collection");
    Ok(())
}

async fn failover(served: &Served, client: &Client) -> Outcome<()> {
    let admin = client.database("admin");
    let before = admin.run_command(doc! { "hello": 1 }).await?.get_str("primary")?.to_owned();
    served.ctl(&["kill", "primary"])?;
    let notes = client.database("rust").collection::<Document>("notes");
    let mut tries = 0;
    // One retry is built in; what an application does beyond that is its own affair.
    loop {
        let insert = notes.insert_one(doc! { "after": "the failover" });
        match insert.write_concern(WriteConcern::majority()).await {
            Ok(_) => break,
            Err(error) if tries == 100 => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        tries += 1;
    }
    let after = admin.run_command(doc! { "hello": 1 }).await?.get_str("primary")?.to_owned();
    assert_ne!(after, before);
    println!("  mongodb crate: wrote on after its primary was killed");
    Ok(())
}
