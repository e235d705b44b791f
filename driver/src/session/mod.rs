//! Sessions: the server's memory of who asks, borrowed from a pool; transactions; and the cluster time
//! that is passed on from reply to request (driver sessions and transactions specifications).

mod cluster_time;
mod server_session;
mod shared;
mod slot;
mod transaction;

pub(crate) use self::cluster_time::ClusterTime;
pub(crate) use self::server_session::{ServerSession, ServerSessionPool};
pub(crate) use self::shared::{SessionFields, SharedOptions, SharedSession};
pub(crate) use self::slot::SessionSlot;
pub(crate) use self::transaction::Commit;
pub use self::transaction::{TransactionOptions, TransactionState};
