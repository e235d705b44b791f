//! A shell: one command to one member, as a person logged in on that host would send it.

use std::io;
use std::time::Duration;

use bson::{Document, RawDocumentBuf};
use stepdown_driver::transport::{Stream, Transport};
use stepdown_driver::uri::ServerAddress;
use stepdown_driver::wire::{FrameReader, Message};

use super::faults::Target;
use super::sim::Sim;

/// A person waits at most so long for an answer (a quorum check or a step-down takes its time).
const PATIENCE: Duration = Duration::from_secs(60);

impl Sim {
    /// Runs `command` on `member`'s `database` over a direct connection and lets time pass until it is
    /// answered. The reply is the server's, `ok: 0` included; a secondary is read only if the command
    /// says `$readPreference`.
    ///
    /// # Errors
    /// What the network says: nobody of that name, refused, reset, no answer within a minute.
    pub fn command(
        &self,
        member: impl Into<Target>,
        database: &str,
        mut command: Document,
    ) -> io::Result<Document> {
        let host = self
            .member(member)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such member"))?
            .name
            .to_string();
        command.insert("$db", database);
        let command = RawDocumentBuf::try_from(&command).map_err(io::Error::other)?;
        let transport = self.transport("shell");
        let reply = self.block_on(run_command(&*transport, &host, command))?;
        Document::try_from(reply.as_ref()).map_err(io::Error::other)
    }
}

/// For explorations, which know no roles and wait for nothing they need not.
#[cfg(feature = "scenario")]
impl Sim {
    /// Runs a command, its `$db` in it, on the member of that name.
    pub(crate) fn shell_command(
        &self,
        host: &str,
        command: RawDocumentBuf,
    ) -> io::Result<RawDocumentBuf> {
        let transport = self.transport("operator");
        self.block_on(run_command(&*transport, host, command))
    }

    /// The same without waiting for the answer.
    pub(crate) fn spawn_shell_command(&self, host: &str, command: RawDocumentBuf) {
        let (transport, host) = (self.transport("operator"), host.to_owned());
        drop(self.spawn("operator", async move {
            // What came of it shows in the set.
            let _ = run_command(&*transport, &host, command).await;
        }));
    }
}

/// One command on a connection of its own.
pub(super) async fn run_command(
    transport: &dyn Transport,
    host: &str,
    command: RawDocumentBuf,
) -> io::Result<RawDocumentBuf> {
    let address = ServerAddress::parse(host).map_err(io::Error::other)?;
    let by = transport.now() + PATIENCE;
    let mut stream = transport.connect(&address, by).await?;
    stream.set_deadline(Some(by));
    let mut request = Vec::new();
    Message::new(1, 0, command).encode(&mut request);
    let mut written = 0;
    while written < request.len() {
        written += write(&mut *stream, &request[written..]).await?;
    }
    let mut frames = FrameReader::new();
    let mut buffer = [0_u8; 4_096];
    loop {
        if let Some(reply) = frames.next().map_err(io::Error::other)? {
            return Ok(reply.body);
        }
        match read(&mut *stream, &mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => frames.feed(&buffer[..count]),
        }
    }
}

async fn write(stream: &mut dyn Stream, bytes: &[u8]) -> io::Result<usize> {
    std::future::poll_fn(|cx| stream.poll_write(cx, bytes)).await
}

async fn read(stream: &mut dyn Stream, into: &mut [u8]) -> io::Result<usize> {
    std::future::poll_fn(|cx| stream.poll_read(cx, into)).await
}
