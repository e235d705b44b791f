//! The seam: everything a driver needs of the outside world, in two object-safe traits.
//!
//! Two implementations ship: over TCP on tokio (`tcp`, behind the feature of that name) and into a
//! simulated world (crate `stepdown`). A third party can write another.

#[cfg(any(feature = "blocking", feature = "tcp"))]
mod machine;
#[cfg(any(feature = "blocking", feature = "tcp"))]
mod race;
#[cfg(feature = "tcp")]
pub mod tcp;
#[cfg(feature = "blocking")]
pub mod threads;
#[cfg(feature = "tls")]
pub mod tls;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::time::Instant;
use crate::uri::ServerAddress;

/// A boxed future, as the object-safe [`Transport`] hands them out.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The whole outside world of a driver.
pub trait Transport: Send + Sync + 'static {
    /// The present moment, for every timeout and deadline.
    fn now(&self) -> Instant;

    /// Wall-clock time in milliseconds since the Unix epoch: ObjectIds and session ages.
    fn unix_millis(&self) -> i64;

    /// Random bits: jitter, the choice between two servers, UUIDs. Seeded in a simulated world.
    fn random(&self) -> u64;

    /// Runs `task` beside the caller. `name` says what it is in a deadlock report.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);

    /// Completes at `at`, at once if that is past.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;

    /// Opens a byte stream to `to`.
    ///
    /// # Errors
    /// `TimedOut` if it is not open at `by`; otherwise what the network says (refused, reset, no
    /// such host).
    fn connect<'a>(
        &'a self,
        to: &'a ServerAddress,
        by: Instant,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;

    /// Looks up the SRV and TXT records behind a `mongodb+srv://` name; `name` is the full SRV name
    /// (`_mongodb._tcp.example.com`).
    ///
    /// # Errors
    /// `Unsupported` where the transport has no resolver; otherwise what the resolver says.
    fn resolve_srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<SrvRecords>>;
}

/// What DNS says about a `mongodb+srv://` name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SrvRecords {
    /// Host and port of each SRV record.
    pub hosts: Vec<(String, u16)>,
    /// Each TXT record, its character strings joined.
    pub texts: Vec<String>,
}

/// A byte stream, readiness style: bytes land in the caller's own buffer.
pub trait Stream: Send {
    /// Writes some of `bytes`.
    ///
    /// # Errors
    /// `TimedOut` once the deadline has passed; otherwise what the network says.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Reads some bytes; `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `TimedOut` once the deadline has passed; otherwise what the network says.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Moves the one deadline of this stream; `None` removes it. Cheap: called per operation.
    fn set_deadline(&mut self, at: Option<Instant>);

    /// Whether bytes or the end of the stream are waiting although nothing was asked: such a stream
    /// must not be used for the next request.
    fn is_dirty(&mut self) -> bool;
}
