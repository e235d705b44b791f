//! Connections that end outside the world: real sockets, when a set is served.
//!
//! Their bytes have no latency. Everything else is as for clients inside; as an end of links all of
//! them together are the client named `external`.

use std::sync::Arc;

use stepdown_driver::Instant;

use super::core::World;
use super::slab::Handle;

/// A connection that ends outside the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalId(pub u64);

/// What leaves the world on such a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalOutput {
    /// Bytes, in order.
    Bytes(Vec<u8>),
    /// The server's end is closed; the id is not used again.
    Closed,
}

/// No process listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection refused")]
pub struct Refused;

/// The name of the end of links that all external connections share.
pub(crate) const EXTERNAL: &str = "external";

impl World {
    /// Opens a connection from outside.
    pub(crate) fn open_external(
        &mut self,
        node: u32,
        remote: Arc<str>,
        certificate: Option<Arc<str>>,
    ) -> Result<ExternalId, Refused> {
        if !self.nodes[node as usize].is_alive() {
            return Err(Refused);
        }
        let client = self.client_end(EXTERNAL);
        self.last_external += 1;
        let id = ExternalId(self.last_external);
        let handle = self.new_connection(client, node, remote, Some(id));
        self.externals.push((id, handle));
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.certificate = certificate;
        }
        self.begin_external(handle);
        Ok(id)
    }

    /// The connection, while the outside has not closed it.
    pub(crate) fn external(&self, id: ExternalId) -> Option<Handle> {
        let at = self.externals.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.externals[at].1)
    }

    /// The outside closes its end.
    pub(crate) fn close_external(&mut self, id: ExternalId) {
        if let Ok(at) = self.externals.binary_search_by_key(&id, |(id, _)| *id) {
            let (_, handle) = self.externals.remove(at);
            self.client_closes(handle);
        }
    }

    /// What left the world since the last call.
    pub(crate) fn take_external_output(&mut self) -> Vec<(ExternalId, ExternalOutput)> {
        let output = std::mem::take(&mut self.external_output);
        for (id, output) in &output {
            if *output == ExternalOutput::Closed {
                self.close_external(*id);
            }
        }
        output
    }

    /// When something happens next.
    pub(crate) fn next_event_at(&self) -> Option<Instant> {
        self.queue.next_at()
    }
}
