//! A connection that sends one command at a time and takes whole documents as replies.

use std::io;
use std::time::Duration;

use bson::{Document, RawDocumentBuf};
use stepdown_driver::transport::{Stream, Transport};
use stepdown_driver::uri::ServerAddress;
use stepdown_driver::wire::{FrameReader, Message};

/// A reply that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Connection {
    stream: Box<dyn Stream>,
    frames: FrameReader,
    requests: i32,
}

impl Connection {
    pub async fn open(transport: &dyn Transport, host: &str) -> io::Result<Connection> {
        let address = ServerAddress::parse(host).map_err(io::Error::other)?;
        let stream = transport.connect(&address, transport.now() + PATIENCE).await?;
        Ok(Connection { stream, frames: FrameReader::new(), requests: 0 })
    }

    pub async fn send(&mut self, transport: &dyn Transport, command: &Document) -> io::Result<()> {
        self.stream.set_deadline(Some(transport.now() + PATIENCE));
        self.requests += 1;
        let body = RawDocumentBuf::try_from(command).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        Message::new(self.requests, 0, body).encode(&mut bytes);
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            written += std::future::poll_fn(|cx| self.stream.poll_write(cx, rest)).await?;
        }
        Ok(())
    }

    pub async fn receive(&mut self) -> io::Result<Document> {
        let mut buffer = [0_u8; 16_384];
        loop {
            if let Some(reply) = self.frames.next().map_err(io::Error::other)? {
                return Document::try_from(reply.body.as_ref()).map_err(io::Error::other);
            }
            match std::future::poll_fn(|cx| self.stream.poll_read(cx, &mut buffer)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.frames.feed(&buffer[..count]),
            }
        }
    }
}
