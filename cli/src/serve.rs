//! `stepdown serve`: a simulated set on real ports.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};

use clap::{Args, ValueEnum};
use stepdown::mongod::ServerVersion;
use stepdown::serve::{Narrator, ServeOptions, Server, Speed, TlsOptions};

/// Where the control port is if nobody says: a thousand above the first member, where mongod once
/// had its own HTTP interface.
pub(crate) const CONTROL_ABOVE: u16 = 1_000;
/// Lines of narration that may wait for a slow reader of stderr.
const NARRATION_MAX: usize = 10_000;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArguments {
    /// The set's name, as in mongod --replSet
    #[arg(long, default_value = "foo")]
    replset: String,
    /// How many members
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    members: u8,
    /// The first member's port, the others follow; 0: free ones
    #[arg(long, default_value_t = 27017)]
    port: u16,
    /// The seed of everything random in the set
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How much faster than real time the set lives: 10, 0.5
    #[arg(long, default_value = "1")]
    speed: Speed,
    /// The release the members are
    #[arg(long, value_enum, default_value_t = Version::V8_0)]
    server_version: Version,
    /// Leave the set to be initiated by a client
    #[arg(long)]
    uninitiated: bool,
    /// The control port; 0: a free one [default: 1000 above --port, or a free one with --port 0]
    #[arg(long)]
    control_port: Option<u16>,
    /// Control access: clients may do what their users' roles grant. The first user is made from this
    /// machine, in admin
    #[arg(long)]
    auth: bool,
    /// TLS on the members' ports: the certificate chain, in PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM [default: in the certificate's file]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authorities of clients' certificates, in PEM: clients may authenticate by MONGODB-X509
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Connections open at once, over all members
    #[arg(long, default_value_t = 10_000)]
    max_conns: usize,
    /// Where to listen, control port included; nothing but loopback unless asked
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    #[value(name = "6.0")]
    V6_0,
    #[value(name = "7.0")]
    V7_0,
    #[value(name = "8.0")]
    V8_0,
}

const EXAMPLES: &str = "\
Prints one line on stdout, the connection string, once a writable primary exists (with
--uninitiated: once the ports listen), and tells what happens on stderr. Ctrl-C ends it.

Examples:
  stepdown serve                         mongodb://127.0.0.1:27017,.../?replicaSet=foo
  stepdown serve --speed 10              failing over takes one second instead of ten
  stepdown serve --port 0 --members 5    free ports: for tests
  stepdown serve --uninitiated           then: db.adminCommand({replSetInitiate: {}})

In another terminal:
  stepdown ctl members
  stepdown ctl kill primary";

pub(crate) fn serve(arguments: ServeArguments) -> ExitCode {
    let control_port = arguments.control_port.unwrap_or(match arguments.port {
        0 => 0,
        port => port.checked_add(CONTROL_ABOVE).unwrap_or(0),
    });
    let options = ServeOptions {
        set_name: arguments.replset,
        members: usize::from(arguments.members),
        port: arguments.port,
        control_port,
        bind: arguments.bind,
        seed: arguments.seed,
        speed: arguments.speed,
        server_version: match arguments.server_version {
            Version::V6_0 => ServerVersion::V6_0,
            Version::V7_0 => ServerVersion::V7_0,
            Version::V8_0 => ServerVersion::V8_0,
        },
        uninitiated: arguments.uninitiated,
        auth: arguments.auth,
        tls: arguments.tls_cert.map(|certificate| TlsOptions {
            certificate,
            key: arguments.tls_key,
            authorities: arguments.tls_ca,
        }),
        connections_max: arguments.max_conns,
    };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error),
        };
    // Before anything is printed: whoever reads the line may send the signal at once.
    let stop = {
        let _context = runtime.enter();
        match stop_signal() {
            Ok(stop) => stop,
            Err(error) => return failed(&error),
        }
    };
    let (line, lines) = sync_channel::<String>(NARRATION_MAX);
    std::thread::spawn(move || print_narration(&lines));
    // A reader that cannot keep up misses lines; the set does not wait for it.
    let narrator = Narrator::new(move |text| drop(line.try_send(text.to_string())));
    let server = match Server::start(options, narrator) {
        Ok(server) => server,
        Err(error) => return failed(&error),
    };
    eprintln!("control port: {}", server.control_address());
    let mut stdout = std::io::stdout();
    // Nobody may be reading: the set is served all the same.
    let _ = writeln!(stdout, "{}", server.uri());
    let _ = stdout.flush();
    runtime.block_on(stop);
    server.stop();
    ExitCode::SUCCESS
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("stepdown serve: {error}");
    ExitCode::FAILURE
}

fn print_narration(lines: &Receiver<String>) {
    let mut stderr = std::io::stderr();
    for line in lines {
        if writeln!(stderr, "{line}").is_err() {
            return;
        }
    }
}

/// Completes at SIGINT or SIGTERM; the handlers are in place when this returns.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}
