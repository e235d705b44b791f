//! Real mongod processes, for tests that compare the simulation with them.
//!
//! The binary is named by the environment variable `MONGOD`; see `.ci/run` for where it comes from.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A few mongods on loopback ports, all started with one set name; nothing is initiated. Dropping it kills
/// them and removes their data.
#[derive(Debug)]
pub struct RealSet {
    binary: PathBuf,
    set_name: String,
    directory: PathBuf,
    members: Vec<RealMember>,
}

#[derive(Debug)]
struct RealMember {
    port: u16,
    process: Option<Child>,
}

/// The binary that `MONGOD` names, if it does.
pub fn mongod() -> Option<PathBuf> {
    std::env::var_os("MONGOD").filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl RealSet {
    /// Starts `count` mongods on free ports.
    ///
    /// # Errors
    /// What starting a process says; that a mongod does not listen within 30 s.
    pub fn start(binary: &Path, set_name: &str, count: usize) -> io::Result<RealSet> {
        let unique = format!("stepdown-{}-{}", std::process::id(), free_port()?);
        let directory = std::env::temp_dir().join(unique);
        let mut set = RealSet {
            binary: binary.to_owned(),
            set_name: set_name.to_owned(),
            directory,
            members: Vec::new(),
        };
        for _ in 0..count {
            set.members.push(RealMember { port: free_port()?, process: None });
            set.restart(set.members.len() - 1)?;
        }
        Ok(set)
    }

    /// `127.0.0.1:port` of each member.
    pub fn hosts(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect()
    }

    /// Which member lives at `host`.
    pub fn index_of(&self, host: &str) -> Option<usize> {
        self.hosts().iter().position(|known| known == host)
    }

    /// kill -9.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn kill(&mut self, index: usize) -> io::Result<()> {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end: a clean shutdown takes up to 15 s.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn terminate(&mut self, index: usize) -> io::Result<()> {
        if let Some(mut process) = self.members[index].process.take() {
            Command::new("kill").args(["-TERM", &process.id().to_string()]).status()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts a member that is down, on an empty dbpath.
    ///
    /// # Errors
    /// What the operating system says; that it does not listen within 30 s.
    pub fn restart_empty(&mut self, index: usize) -> io::Result<()> {
        let dbpath = self.directory.join(self.members[index].port.to_string());
        std::fs::remove_dir_all(dbpath)?;
        self.restart(index)
    }

    /// Sends a signal (`STOP`, `CONT`, ...).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn signal(&mut self, index: usize, name: &str) -> io::Result<()> {
        if let Some(process) = &self.members[index].process {
            Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status()?;
        }
        Ok(())
    }

    /// Starts a member that is down, on its data.
    ///
    /// # Errors
    /// What starting a process says; that it does not listen within 30 s.
    pub fn restart(&mut self, index: usize) -> io::Result<()> {
        let port = self.members[index].port;
        let dbpath = self.directory.join(port.to_string());
        std::fs::create_dir_all(&dbpath)?;
        let log = dbpath.join("mongod.log");
        let process = Command::new(&self.binary)
            .args(["--replSet", &self.set_name, "--bind_ip", "127.0.0.1", "--nounixsocket"])
            .args(["--port", &port.to_string(), "--wiredTigerCacheSizeGB", "0.25"])
            .arg("--dbpath")
            .arg(&dbpath)
            .arg("--logpath")
            .arg(&log)
            .args(["--logappend", "--setParameter", "enableTestCommands=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.members[index].process = Some(process);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > Duration::from_secs(30) {
                return Err(io::Error::other(format!(
                    "mongod does not listen on port {port}: see {}",
                    log.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for RealSet {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            let _ended = self.kill(index);
        }
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
