//! What the transports over real sockets share: the machine's clocks and random numbers.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Instant;

/// The clocks and random numbers of this machine.
pub(super) struct Machine {
    pub(super) epoch: std::time::Instant,
    keys: RandomState,
    draws: AtomicU64,
}

impl Machine {
    /// A machine whose driver's clock starts now.
    pub(super) fn new() -> Self {
        Machine {
            epoch: std::time::Instant::now(),
            keys: RandomState::new(),
            draws: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Instant {
        now(self.epoch)
    }

    pub(super) fn unix_millis(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// The keys come from the operating system and the hash is a keyed pseudo-random function: hashing
    /// a counter gives numbers nobody else can foresee.
    pub(super) fn random(&self) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write_u64(self.draws.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    }
}

/// The present moment on a clock that started at `epoch`.
pub(super) fn now(epoch: std::time::Instant) -> Instant {
    Instant::from_nanos(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Our moment on the machine's clock; far enough away if it is beyond what that can count.
pub(super) fn machine_instant(epoch: std::time::Instant, at: Instant) -> std::time::Instant {
    let far = Duration::from_secs(86_400 * 365 * 30);
    epoch + Duration::from_nanos(at.as_nanos()).min(far)
}

/// The settings of every TCP socket: no delay, and probes that let the operating system notice a peer
/// that vanished: the first after two minutes of silence, then one every ten seconds, nine times.
pub(super) fn set_up(socket: socket2::SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(120));
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(9);
    socket.set_tcp_keepalive(&keepalive)
}
