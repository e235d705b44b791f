//! Prints what the driver believes about a deployment whenever that changes, for a minute.
//!
//! `cargo run -p stepdown-driver --example topology -- mongodb://localhost:27017/?replicaSet=foo`
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::Duration;

use stepdown_driver::{Client, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let uri = std::env::args().nth(1).unwrap_or_else(|| "mongodb://localhost:27017/".to_owned());
    let client = Client::with_uri_str(&uri).await?;
    let end = client.now() + Duration::from_secs(60);
    let mut seen = client.topology();
    println!("{seen}");
    while client.now() < end {
        let left = end - client.now();
        let Ok(next) = client.wait_for_topology(left, |topology| *topology != *seen).await else {
            break;
        };
        println!("{next}");
        seen = next;
    }
    client.close().await;
    Ok(())
}
