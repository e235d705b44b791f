//! Clients' connections: bytes in, one request at a time, bytes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::RawDocumentBuf;
use stepdown_driver::Instant;
use stepdown_driver::options::Compressor;
use stepdown_driver::wire::{self, FrameReader, Message, encode_reply};

use super::wait::Wait;
use crate::mongod::auth::Identity;
use crate::mongod::optime::OpTime;
use crate::mongod::{ConnectionId, Mongod, Output};

/// Bytes that may wait on one connection while a request is in work: two messages of the largest size.
/// A server would leave them in the socket; here the connection is closed as abusive.
const WAITING_BYTES_MAX: usize = 2 * 48_000_000;

/// Every client connected to this process.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: BTreeMap<ConnectionId, Client>,
    opened: i32,
    request_id: i32,
    operations: i32,
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    reader: FrameReader,
    /// A request is being worked on: the next ones wait.
    busy: bool,
    /// `serve_next` is at work on this connection: its loop takes up what comes free.
    serving: bool,
    pub remote: Arc<str>,
    /// `connectionId`.
    pub number: i32,
    /// The client knows the word "primary".
    pub hello_ok: bool,
    /// It has said hello: who it is it says there or never.
    pub greeted: bool,
    pub app_name: Option<String>,
    /// `client` of its first hello.
    pub metadata: Option<RawDocumentBuf>,
    /// Who it has shown to be.
    pub identity: Identity,
    /// The compressors agreed on at its first hello, the client's favourite first.
    pub compressors: Vec<Compressor>,
    /// The request in work came compressed.
    pub compressed: bool,
    /// The optime of the connection's last write.
    pub last_op: OpTime,
}

impl Clients {
    pub(crate) fn get(&self, connection: ConnectionId) -> Option<&Client> {
        self.connections.get(&connection)
    }

    pub(crate) fn get_mut(&mut self, connection: ConnectionId) -> Option<&mut Client> {
        self.connections.get_mut(&connection)
    }

    /// Every open connection.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Client)> {
        self.connections.iter().map(|(connection, client)| (*connection, client))
    }

    /// A number for an operation that begins.
    pub(crate) fn next_operation(&mut self) -> i32 {
        self.operations = self.operations.wrapping_add(1);
        self.operations
    }

    /// Open connections.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Connections ever opened.
    pub(crate) fn total_opened(&self) -> i32 {
        self.opened
    }
}

impl Mongod {
    pub(crate) fn client_opened(
        &mut self,
        connection: ConnectionId,
        remote: Arc<str>,
        certificate: Option<Arc<str>>,
    ) {
        self.clients.opened += 1;
        let client = Client {
            reader: FrameReader::new(),
            busy: false,
            serving: false,
            remote,
            number: self.clients.opened,
            hello_ok: false,
            greeted: false,
            app_name: None,
            metadata: None,
            identity: Identity::of(certificate),
            compressors: Vec::new(),
            compressed: false,
            last_op: OpTime::NULL,
        };
        let before = self.clients.connections.insert(connection, client);
        assert!(before.is_none(), "connection {connection:?} was opened twice");
    }

    pub(crate) fn client_closed(&mut self, connection: ConnectionId) {
        self.clients.connections.remove(&connection);
        self.unfinished.remove(&connection);
        let parked = self.parked.iter().position(|parked| parked.connection() == connection);
        let Some(parked) = parked.map(|place| self.parked.remove(place)) else { return };
        // Whoever wanted the step-down is gone, and with them the one who would end the attempt. A
        // shutdown goes on with it.
        if matches!(parked.wait, Wait::StepDown { .. }) && !self.repl.shutting_down {
            self.abandon_step_down();
        }
    }

    /// Closes a client's connection from this side.
    pub(crate) fn close_client(&mut self, connection: ConnectionId) {
        if self.clients.connections.contains_key(&connection) {
            self.client_closed(connection);
            self.outputs.push_back(Output::CloseClient { connection });
        }
    }

    /// Entering ROLLBACK or REMOVED closes everybody's connection, and every cursor.
    pub(crate) fn close_all_clients(&mut self) {
        self.cursors.close_all();
        let all: Vec<ConnectionId> = self.clients.connections.keys().copied().collect();
        for connection in all {
            self.close_client(connection);
        }
    }

    pub(crate) fn client_bytes(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(connection) else { return };
        self.counters.bytes_in += bytes.len() as i64;
        client.reader.feed(bytes);
        self.serve_next(now, connection);
        let waiting = self.clients.get(connection).map_or(0, |client| client.reader.buffered());
        if waiting > WAITING_BYTES_MAX {
            self.close_client(connection);
        }
    }

    /// Takes up the next requests of a connection, until one has to wait.
    pub(crate) fn serve_next(&mut self, now: Instant, connection: ConnectionId) {
        let Some(client) = self.clients.get_mut(connection) else { return };
        if std::mem::replace(&mut client.serving, true) {
            return;
        }
        while let Some(client) = self.clients.get_mut(connection) {
            let next = if client.busy { Ok(None) } else { client.reader.next() };
            match next {
                Ok(Some(message)) => {
                    client.busy = true;
                    client.compressed = client.reader.was_compressed();
                    self.serve(now, connection, message);
                }
                Ok(None) => {
                    client.serving = false;
                    return;
                }
                // A server closes a connection whose bytes make no sense.
                Err(_) => self.close_client(connection),
            }
        }
    }

    /// The request in work was answered (or will not be): the connection is free for the next.
    pub(crate) fn client_is_free(&mut self, connection: ConnectionId) {
        if let Some(client) = self.clients.get_mut(connection) {
            client.busy = false;
        }
    }

    /// A reply as the request came: compressed, if that was.
    fn in_kind(&self, connection: ConnectionId, bytes: Vec<u8>) -> Vec<u8> {
        let client = self.clients.get(connection).filter(|client| client.compressed);
        let Some(compressor) = client.and_then(|client| client.compressors.first()) else {
            return bytes;
        };
        let mut packed = Vec::with_capacity(bytes.len());
        match wire::compress(&bytes, compressor, &mut packed) {
            Ok(()) => packed,
            Err(_) => bytes,
        }
    }

    /// Sends a reply; returns its request id, which the next reply of an exhaust stream answers.
    pub(crate) fn send_reply(
        &mut self,
        connection: ConnectionId,
        response_to: i32,
        legacy: bool,
        flags: u32,
        body: &RawDocumentBuf,
    ) -> i32 {
        self.clients.request_id = self.clients.request_id.wrapping_add(1);
        let request_id = self.clients.request_id;
        let mut bytes = Vec::with_capacity(body.as_bytes().len() + 40);
        if legacy {
            Message::new(request_id, response_to, body.clone()).encode_op_reply(&mut bytes);
        } else {
            encode_reply(&mut bytes, request_id, response_to, flags, body);
        }
        let bytes = self.in_kind(connection, bytes);
        self.counters.bytes_out += bytes.len() as i64;
        self.outputs.push_back(Output::ClientBytes { connection, bytes });
        request_id
    }
}
