//! Sessions: the server's memory of who asks, borrowed from a pool; and the cluster time that is
//! passed on from reply to request (driver sessions specification).

mod cluster_time;
mod server_session;
mod slot;

pub(crate) use self::cluster_time::ClusterTime;
pub(crate) use self::server_session::{ServerSession, ServerSessionPool};
pub(crate) use self::slot::{SessionSlot, SharedSession};
