//! Served operations per second, and what one costs the processor, next to a real set.
//!
//!     cargo run --release -p stepdown --example load --features serve [-- --seconds 3 --documents 10000]
//!
//! Serves a set of three members with default settings in a process of its own; this process is the
//! client: one socket and one thread for each operation under way, with nothing between them and the
//! wire protocol. Where the environment variable `MONGOD` names a binary, the same load goes to three
//! real mongods as well. The processor time is that of all the set's processes, from `/proc`.

// This is the socket edge: real time, threads and sockets are its trade.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, doc, rawdoc};
use stepdown::serve::{Narrator, ServeOptions, Server};
use stepdown_driver::wire::{FrameReader, Message};

#[path = "measure/mod.rs"]
mod measure;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How many operations are under way at once.
const CONCURRENCY: [usize; 3] = [1, 16, 64];
/// The kinds of operation, as the table names them.
const KINDS: [&str; 5] = ["insert", "find by _id", "find by index", "update", "aggregate"];
/// Documents that `aggregate` groups.
const GROUPED: i32 = 100;

fn main() -> Outcome<()> {
    if std::env::args().any(|argument| argument == "--serve") {
        return serve();
    }
    let seconds = measure::argument("--seconds", 3);
    let documents = measure::argument("--documents", 10_000) as i32;
    let simulated = run(&Set::simulated()?, seconds, documents)?;
    let real = match std::env::var_os("MONGOD") {
        Some(binary) => Some(run(&Set::real(Path::new(&binary))?, seconds, documents)?),
        None => None,
    };
    println!("| operation | at once | served op/s | µs CPU/op | real op/s | µs CPU/op |");
    println!("|---|---|---|---|---|---|");
    for (number, sample) in simulated.iter().enumerate() {
        let beside = real.as_ref().map(|real| real[number].figures()).unwrap_or_default();
        let (kind, width) = (KINDS[sample.kind], sample.width);
        println!("| {kind} | {width} | {} | {beside} |", sample.figures());
    }
    Ok(())
}

/// The child's part: a served set until its standard input ends.
fn serve() -> Outcome<()> {
    let server = Server::start(ServeOptions::default(), Narrator::silent())?;
    println!("{}", server.members()[0]);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// One line of the table.
struct Sample {
    kind: usize,
    width: usize,
    per_second: f64,
    cpu_micros: f64,
}

impl Sample {
    fn figures(&self) -> String {
        format!("{:.0} | {:.1}", self.per_second, self.cpu_micros)
    }
}

/// A set under load: its primary, and the processes it is made of.
struct Set {
    primary: SocketAddr,
    processes: Vec<Child>,
    directory: Option<PathBuf>,
}

impl Drop for Set {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended by itself needs no more.
            let _ = process.kill();
            let _ = process.wait();
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

impl Set {
    fn simulated() -> Outcome<Set> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("no standard output")?;
        BufReader::new(output).read_line(&mut line)?;
        Set::of(line.trim().parse()?, vec![process], None)
    }

    /// Three mongods with default settings on loopback ports.
    fn real(binary: &Path) -> Outcome<Set> {
        let directory = std::env::temp_dir().join(format!("stepdown-load-{}", std::process::id()));
        let (mut processes, mut hosts) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let data = directory.join(address.port().to_string());
            fs::create_dir_all(&data)?;
            let process = Command::new(binary)
                .args(["--replSet", "foo", "--bind_ip", "127.0.0.1", "--nounixsocket"])
                .args(["--wiredTigerCacheSizeGB", "0.25", "--port", &address.port().to_string()])
                .args([Path::new("--dbpath"), &data])
                .stdout(Stdio::null())
                .spawn()?;
            processes.push(process);
            hosts.push(address);
        }
        let mut client = patiently(|| Client::connect(hosts[0]))?;
        let mut members = bson::RawArrayBuf::new();
        for (id, host) in (0_i32..).zip(&hosts) {
            patiently(|| Client::connect(*host))?;
            members.push(rawdoc! { "_id": id, "host": host.to_string() });
        }
        let config = rawdoc! { "_id": "foo", "members": members };
        client.run(rawdoc! { "replSetInitiate": config, "$db": "admin" })?;
        Set::of(hosts[0], processes, Some(directory))
    }

    /// Waits for a primary.
    fn of(member: SocketAddr, processes: Vec<Child>, directory: Option<PathBuf>) -> Outcome<Set> {
        let mut set = Set { primary: member, processes, directory };
        set.primary = patiently(|| {
            let hello = Client::connect(member)?.run(rawdoc! { "hello": 1, "$db": "admin" })?;
            let primary = Client::connect(hello.get_str("primary")?.parse()?)?
                .run(rawdoc! { "hello": 1, "$db": "admin" })?;
            match primary.get_bool("isWritablePrimary")? {
                true => Ok(primary.get_str("me")?.parse()?),
                false => Err("not writable yet".into()),
            }
        })?;
        Ok(set)
    }

    /// Processor time of all its processes, in seconds.
    fn cpu_seconds(&self) -> Outcome<f64> {
        let mut nanos = 0;
        for process in &self.processes {
            for task in fs::read_dir(format!("/proc/{}/task", process.id()))? {
                // A thread may end while it is looked at.
                let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
                let first = text.split_whitespace().next();
                nanos += first.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(nanos as f64 / 1e9)
    }
}

/// Tries until it goes well, for a minute.
fn patiently<T>(mut attempt: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if began.elapsed() > Duration::from_secs(60) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// One socket, one request at a time.
struct Client {
    stream: TcpStream,
    frames: FrameReader,
    bytes: Vec<u8>,
    requests: i32,
}

impl Client {
    fn connect(address: SocketAddr) -> Outcome<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, frames: FrameReader::new(), bytes: Vec::new(), requests: 0 })
    }

    fn run(&mut self, command: RawDocumentBuf) -> Outcome<RawDocumentBuf> {
        self.requests += 1;
        self.bytes.clear();
        Message::new(self.requests, 0, command).encode(&mut self.bytes);
        self.stream.write_all(&self.bytes)?;
        loop {
            if let Some(reply) = self.frames.next()? {
                let failed = reply.body.get("writeErrors")?.is_some();
                return match reply.body.get_f64("ok")? == 1.0 && !failed {
                    true => Ok(reply.body),
                    false => Err(format!("{:?}", reply.body).into()),
                };
            }
            let space = self.frames.space(64 * 1024);
            match self.stream.read(space)? {
                0 => return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()),
                count => self.frames.filled(count),
            }
        }
    }
}

fn run(set: &Set, seconds: u64, documents: i32) -> Outcome<Vec<Sample>> {
    let mut client = Client::connect(set.primary)?;
    let index = rawdoc! { "key": { "a": 1 }, "name": "a_1" };
    client.run(rawdoc! { "createIndexes": "load", "indexes": [index], "$db": "load" })?;
    for first in (0..documents).step_by(1_000) {
        let mut batch = bson::RawArrayBuf::new();
        for id in first..(first + 1_000).min(documents) {
            batch.push(rawdoc! { "_id": id, "a": id, "n": 0, "text": "x".repeat(200) });
        }
        client.run(rawdoc! { "insert": "load", "documents": batch, "$db": "load" })?;
    }
    let mut samples = Vec::new();
    let inserted = AtomicU64::new(u64::from(documents.unsigned_abs()));
    for kind in 0..KINDS.len() {
        for width in CONCURRENCY {
            let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
            let (mut per_second, mut cpu_micros) = (0.0, 0.0);
            std::thread::scope(|scope| -> Outcome<()> {
                let workers: Vec<_> = (0..width)
                    .map(|worker| {
                        let (stop, done, inserted) = (&stop, &done, &inserted);
                        scope.spawn(move || -> Outcome<()> {
                            let mut client = Client::connect(set.primary)?;
                            let mut turn = worker as i32 * 7_919;
                            while !stop.load(Ordering::Relaxed) {
                                turn = turn.wrapping_add(1);
                                let id = turn.rem_euclid(documents);
                                client.run(command(kind, id, inserted))?;
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(())
                        })
                    })
                    .collect();
                // The first moments open connections.
                std::thread::sleep(Duration::from_millis(200));
                let (cpu, before, began) =
                    (set.cpu_seconds()?, done.load(Ordering::Relaxed), Instant::now());
                std::thread::sleep(Duration::from_secs(seconds));
                let operations = (done.load(Ordering::Relaxed) - before) as f64;
                per_second = operations / began.elapsed().as_secs_f64();
                cpu_micros = (set.cpu_seconds()? - cpu) * 1e6 / operations.max(1.0);
                stop.store(true, Ordering::Relaxed);
                for worker in workers {
                    worker.join().map_err(|_| "a client panicked")??;
                }
                Ok(())
            })?;
            samples.push(Sample { kind, width, per_second, cpu_micros });
        }
    }
    Ok(samples)
}

fn command(kind: usize, id: i32, inserted: &AtomicU64) -> RawDocumentBuf {
    match kind {
        0 => {
            let id = inserted.fetch_add(1, Ordering::Relaxed) as i64;
            let document = rawdoc! { "_id": id, "a": id, "n": 0, "text": "x".repeat(200) };
            rawdoc! { "insert": "load", "documents": [document], "$db": "load" }
        }
        1 => rawdoc! { "find": "load", "filter": { "_id": id }, "limit": 1, "$db": "load" },
        2 => rawdoc! { "find": "load", "filter": { "a": id }, "limit": 1, "$db": "load" },
        3 => {
            let update = rawdoc! { "q": { "_id": id }, "u": { "$inc": { "n": 1 } } };
            rawdoc! { "update": "load", "updates": [update], "$db": "load" }
        }
        _ => {
            let low = id.min(i32::MAX - GROUPED);
            let range = doc! { "$match": { "a": { "$gte": low, "$lt": low + GROUPED } } };
            let group = doc! { "$group": { "_id": null, "sum": { "$sum": "$n" } } };
            let pipeline = bson::Bson::Array(vec![range.into(), group.into()]);
            let command =
                doc! { "aggregate": "load", "pipeline": pipeline, "cursor": {}, "$db": "load" };
            RawDocumentBuf::try_from(&command).expect("a document without odd names")
        }
    }
}
