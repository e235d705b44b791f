// The operations, included once for each driver: `driver` is the crate in question.

use std::sync::Arc;

use bson::{Document, RawDocumentBuf, doc};
use driver::{Client, Collection, Database};

use super::{Account, BoxFuture, Result, Workload, small_document};

pub struct Bench {
    database: Database,
    inserted: Collection<Document>,
    accounts: Collection<Account>,
    raw: Collection<RawDocumentBuf>,
    many: Collection<RawDocumentBuf>,
    small: Document,
}

impl Bench {
    pub async fn new(uri: &str) -> Result<Arc<dyn Workload>> {
        let client = Client::with_uri_str(uri).await?;
        let database = client.database(THIS);
        for name in ["inserted", "accounts", "many"] {
            database.collection::<Document>(name).drop().await?;
        }
        let accounts = database.collection::<Account>("accounts");
        accounts.insert_many((0..10).map(Account::new).collect::<Vec<_>>()).await?;
        let many: Collection<RawDocumentBuf> = database.collection("many");
        let documents = (0..1000).map(|n| {
            let mut document = small_document();
            document.insert("_id", n);
            document
        });
        let documents: Vec<_> = documents.collect();
        database.collection::<Document>("many").insert_many(documents).await?;
        Ok(Arc::new(Bench {
            inserted: database.collection("inserted"),
            raw: database.collection("accounts"),
            accounts,
            many,
            database,
            small: small_document(),
        }))
    }
}

impl Workload for Bench {
    fn run(self: Arc<Self>, operation: &'static str, times: u64) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            for _ in 0..times {
                match operation {
                    "ping" => {
                        self.database.run_command(doc! { "ping": 1 }).await?;
                    }
                    "insert" => {
                        self.inserted.insert_one(&self.small).await?;
                    }
                    "find_one" => {
                        self.accounts.find_one(doc! { "_id": 7_i64 }).await?.expect("it is there");
                    }
                    "find_one raw" => {
                        self.raw.find_one(doc! { "_id": 7_i64 }).await?.expect("it is there");
                    }
                    "cursor 1000" => {
                        let mut cursor = self.many.find(doc! {}).batch_size(100).await?;
                        let mut bytes = 0;
                        while cursor.advance().await? {
                            bytes += cursor.current().as_bytes().len();
                        }
                        assert!(bytes > 100_000);
                    }
                    "cursor typed" => {
                        let mut cursor =
                            self.database.collection::<Document>("many").find(doc! {}).batch_size(100).await?;
                        let mut count = 0;
                        while cursor.advance().await? {
                            count += usize::from(cursor.deserialize_current()?.len() > 1);
                        }
                        assert_eq!(count, 1000);
                    }
                    other => panic!("no operation {other}"),
                }
            }
            Ok(())
        })
    }
}
