//! A world on real TCP ports: any MongoDB client can talk to the simulated set.
//!
//! One thread, the engine, owns the world and lets virtual time pass at the pace of real time times
//! the speed asked for. Sockets are tokio tasks that talk to it by a channel. A killed member's port
//! refuses connections; a paused or partitioned one accepts and never answers. Nothing but loopback
//! is bound unless [`ServeOptions::bind`] says otherwise.

// This is the socket edge: real time, threads and sockets are its trade.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;

mod control;
mod engine;
mod pace;
mod sockets;
mod tls;

pub use pace::{NoSpeed, Speed};

use crate::mongod::ServerVersion;
use engine::{Engine, Input, Setup, Started};
use sockets::Lobby;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The set's name (`--replSet`).
    pub set_name: String,
    /// How many members, 1 to 50.
    pub members: usize,
    /// The first member's port, the others follow; 0: free ones.
    pub port: u16,
    /// The control port; 0: a free one.
    pub control_port: u16,
    /// Where to listen. An unspecified address (`0.0.0.0`) listens everywhere, with the members
    /// still named `127.0.0.1:port`.
    pub bind: IpAddr,
    /// The seed of the world.
    pub seed: u64,
    /// How fast virtual time runs.
    pub speed: Speed,
    /// The release the members pretend to be.
    pub server_version: ServerVersion,
    /// Whether to leave the set to be initiated by a client.
    pub uninitiated: bool,
    /// Whether access is controlled (`--auth`). Until there is a user, somebody on this machine may make
    /// one, in `admin`.
    pub auth: bool,
    /// TLS on the members' ports; none unless given. The control port has none.
    pub tls: Option<TlsOptions>,
    /// Connections open at once, over all members (`--maxConns`); further ones are closed.
    pub connections_max: usize,
}

/// The members' certificate, and whose certificates of clients are believed.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The certificate chain, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM; in the certificate's file unless given.
    pub key: Option<PathBuf>,
    /// Authorities of clients' certificates, in PEM. A client that shows a certificate needs one of
    /// theirs; it may show none.
    pub authorities: Option<PathBuf>,
}

impl Default for ServeOptions {
    /// Three members of `foo` on free ports of 127.0.0.1, initiated, in real time.
    fn default() -> Self {
        ServeOptions {
            set_name: "foo".to_string(),
            members: 3,
            port: 0,
            control_port: 0,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            seed: 1,
            speed: Speed::REAL_TIME,
            server_version: ServerVersion::default(),
            uninitiated: false,
            auth: false,
            tls: None,
            connections_max: 10_000,
        }
    }
}

/// Why a set could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A set has 1 to 50 members.
    #[error("a set has 1 to 50 members, not {0}")]
    Members(usize),
    /// The ports of all members must exist.
    #[error("{members} ports from {port} on go beyond 65535")]
    Ports {
        /// The first port.
        port: u16,
        /// How many.
        members: usize,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{path}: {problem}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something else the system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where the story goes, line by line.
pub struct Narrator(Box<dyn FnMut(&str) + Send>);

impl Narrator {
    /// Hands each line of the timeline to `tell`, on the engine's thread: it must not block.
    pub fn new(tell: impl FnMut(&str) + Send + 'static) -> Self {
        Narrator(Box::new(tell))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Narrator::new(|_| {})
    }

    pub(crate) fn tell(&mut self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for Narrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Narrator")
    }
}

/// A set being served. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    uri: String,
    members: Vec<SocketAddr>,
    control: SocketAddr,
    input: Sender<Input>,
    engine: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a set; returns when a writable primary exists, or, uninitiated, when the ports listen.
    ///
    /// # Errors
    /// A port is taken; the options make no set.
    pub fn start(options: ServeOptions, narrator: Narrator) -> Result<Server, ServeError> {
        if !(1..=50).contains(&options.members) {
            return Err(ServeError::Members(options.members));
        }
        let listeners = bind_members(&options)?;
        let control = listen(SocketAddr::new(options.bind, options.control_port))?;
        let control_address = control.local_addr()?;
        control.set_nonblocking(true)?;

        let named_ip = match options.bind.is_unspecified() {
            true => IpAddr::V4(Ipv4Addr::LOCALHOST),
            false => options.bind,
        };
        let mut addresses = Vec::new();
        let mut members = Vec::new();
        for listener in listeners {
            let address = SocketAddr::new(named_ip, listener.local_addr()?.port());
            addresses.push(address);
            members.push((address.to_string(), listener));
        }
        let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let uri = format!("mongodb://{}/?replicaSet={}", hosts.join(","), options.set_name);

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("stepdown-sockets")
            .enable_all()
            .build()?;
        let (input, inputs) = channel();
        let (started, start) = sync_channel(1);
        let acceptor = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let lobby = Lobby::new(input.clone(), options.connections_max, acceptor);
        let control_input = input.clone();
        let engine =
            std::thread::Builder::new().name("stepdown-engine".to_string()).spawn(move || {
                let setup = Setup { options, members, runtime, lobby, narrator };
                run(setup, control, control_input, &inputs, &started);
            })?;
        match start.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                // The engine's thread panicked: so do we, with its words.
                match engine.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => unreachable!("the engine ended without a word"),
                }
            }
        }
        Ok(Server {
            uri,
            members: addresses,
            control: control_address,
            input,
            engine: Some(engine),
        })
    }

    /// The connection string: every member, and the set's name.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The members' addresses.
    pub fn members(&self) -> &[SocketAddr] {
        &self.members
    }

    /// The control port's address.
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Closes every socket and ends the world.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An engine that is gone already has nothing to stop.
        let _ = self.input.send(Input::Stop);
        if let Some(engine) = self.engine.take() {
            let _ = engine.join();
        }
    }
}

/// The engine's thread.
fn run(
    setup: Setup,
    control: TcpListener,
    input: Sender<Input>,
    inputs: &std::sync::mpsc::Receiver<Input>,
    started: &Started,
) {
    let runtime = setup.runtime.handle().clone();
    let engine = match Engine::start(setup) {
        Ok(engine) => engine,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let serve_control = async move {
        let listener = match tokio::net::TcpListener::from_std(control) {
            Ok(listener) => listener,
            Err(_) => unreachable!("the runtime takes a socket that is not blocking"),
        };
        // Ends with the runtime.
        let _ = axum::serve(listener, control::router(input)).await;
    };
    runtime.spawn(serve_control);
    if started.send(Ok(())).is_ok() {
        engine.run(inputs);
    }
}

fn bind_members(options: &ServeOptions) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    for index in 0..options.members {
        let port = match options.port {
            0 => 0,
            first => u16::try_from(usize::from(first) + index)
                .map_err(|_| ServeError::Ports { port: first, members: options.members })?,
        };
        listeners.push(listen(SocketAddr::new(options.bind, port))?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).map_err(|source| ServeError::Listen { address, source })
}
