//! What a client that has been used and now idles costs in memory, monitors and connections included.
//!
//! ```console
//! $ cargo run --release -p stepdown-driver --example idle_clients -- "mongodb://127.0.0.1:27017/?replicaSet=foo" 1000
//! ```
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::Duration;

use bson::doc;
use stepdown_driver::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().ok_or("usage: idle_clients URI [COUNT]")?;
    let count: usize = arguments.next().map_or(Ok(1000), |count| count.parse())?;
    // What the first client costs once is not counted: code that is read in, tables of the runtime.
    let first = used(&uri).await?;
    let before = resident_bytes()?;
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(used(&uri).await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = resident_bytes()?.saturating_sub(before) as f64 / count as f64;
    println!("{count} idle clients: {:.1} kB each", each / 1000.0);
    drop(first);
    Ok(())
}

async fn used(uri: &str) -> stepdown_driver::Result<Client> {
    let client = Client::with_uri_str(uri).await?;
    client.database("admin").run_command(doc! { "ping": 1 }).await?;
    Ok(client)
}

/// The memory of this process that is in use, as Linux tells it.
fn resident_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kilobytes * 1024)
}
