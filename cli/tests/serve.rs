//! `stepdown serve` as a process, and `stepdown ctl` beside it.

#![cfg(unix)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// A set served by a process of its own.
struct Served {
    process: Child,
    stdout: BufReader<ChildStdout>,
    uri: String,
    control: String,
}

impl Served {
    fn start(arguments: &[&str]) -> Served {
        let mut process = Command::new(env!("CARGO_BIN_EXE_stepdown"))
            .args(["serve", "--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdout = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        let mut uri = String::new();
        stdout.read_line(&mut uri).expect("one line comes");
        let mut stderr = BufReader::new(process.stderr.take().expect("stderr is a pipe"));
        let mut control = String::new();
        while !control.starts_with("control port: ") {
            control.clear();
            let read = stderr.read_line(&mut control).expect("stderr is text");
            assert!(read > 0, "no control port was announced");
        }
        // Narration goes on: somebody must read it.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let control = control.trim_start_matches("control port: ").trim().to_string();
        Served { process, stdout, uri: uri.trim().to_string(), control }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_stepdown"))
            .args(["ctl", "--control", &self.control])
            .args(arguments)
            .output()
            .expect("the binary runs")
    }

    /// The line of a verb that succeeds.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("lines are UTF-8").trim_end().to_string()
    }

    fn signal(&mut self, name: &str) -> Option<i32> {
        let sent = Command::new("kill")
            .args(["-s", name, &self.process.id().to_string()])
            .status()
            .expect("kill(1) runs");
        assert!(sent.success());
        self.process.wait().expect("the process ends").code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Ended already, where the test ended it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn serve_prints_one_line_and_ends_cleanly_at_a_signal() {
    for signal in ["INT", "TERM"] {
        let mut served = Served::start(&["--replset", "bar", "--members", "2"]);
        assert!(served.uri.starts_with("mongodb://127.0.0.1:"), "{}", served.uri);
        assert!(served.uri.ends_with("/?replicaSet=bar"), "{}", served.uri);
        assert_eq!(served.uri.matches(',').count(), 1, "{}", served.uri);
        assert_eq!(served.signal(signal), Some(0));
        let mut rest = String::new();
        served.stdout.read_to_string(&mut rest).expect("stdout ends");
        assert_eq!(rest, "");
    }
}

#[test]
fn ctl_breaks_and_mends_by_role() {
    let served = Served::start(&["--speed", "10"]);
    let listed = served.done(&["members"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert_eq!(listed.matches("PRIMARY (writable)").count(), 1, "{listed}");

    let killed = served.done(&["kill", "primary"]);
    let address = killed.strip_suffix(" killed").unwrap_or_else(|| panic!("{killed}"));
    assert!(TcpStream::connect(address).is_err());
    assert!(served.done(&["members"]).contains("not running"));

    let refused = served.ctl(&["kill", address]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!refused.stderr.is_empty());

    assert!(served.done(&["advance", "30"]).starts_with("it is "));
    assert!(served.done(&["members"]).contains("PRIMARY (writable)"));
    assert!(served.done(&["restart", address]).ends_with("restarted"));
    assert!(TcpStream::connect(address).is_ok());
    assert!(served.done(&["pause", "secondary"]).ends_with("paused"));
    assert!(served.done(&["members"]).contains("(paused)"));
    assert_eq!(served.ctl(&["dance"]).status.code(), Some(2));
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let served = Served::start(&[]);
    let port = served.uri.trim_start_matches("mongodb://127.0.0.1:");
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let second = Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .args(["serve", "--port", &port, "--control-port", "0"])
        .output()
        .expect("the binary runs");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
    assert!(second.stdout.is_empty());
}
