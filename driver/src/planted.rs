//! Planted bugs: named switches that make the driver wrong, so that tests can show that what is wrong
//! is found. Compiled in only with the feature `planted-bugs`; without it every switch is a constant.

/// A way in which the driver can be made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverBug {
    /// The primary of an earlier election is taken for the primary.
    IgnoresElectionId,
    /// A pool is never cleared.
    KeepsFailedPool,
    /// An update of many documents is tried again.
    RetriesUpdateMany,
    /// A write is tried again under a new transaction number.
    RetriesUnderNewNumber,
    /// Two writes of a session have one transaction number.
    ReusesTransactionNumber,
    /// A write concern error is taken for success.
    IgnoresWriteConcernError,
    /// Reads of a causally consistent session do not say what they must see.
    ForgetsOperationTime,
    /// `maxStalenessSeconds` excludes nobody.
    IgnoresStaleness,
    /// A network error is taken for the success of a write.
    AssumesSuccess,
}

impl DriverBug {
    /// All of them.
    pub const ALL: [DriverBug; 9] = [
        DriverBug::IgnoresElectionId,
        DriverBug::KeepsFailedPool,
        DriverBug::RetriesUpdateMany,
        DriverBug::RetriesUnderNewNumber,
        DriverBug::ReusesTransactionNumber,
        DriverBug::IgnoresWriteConcernError,
        DriverBug::ForgetsOperationTime,
        DriverBug::IgnoresStaleness,
        DriverBug::AssumesSuccess,
    ];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::DriverBug;

    std::thread_local! {
        static PLANTED: Cell<Option<DriverBug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the drivers of this thread, or none.
    pub fn plant(bug: Option<DriverBug>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted.
    pub(crate) fn is(bug: DriverBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    /// Whether this bug is planted: none is.
    #[inline(always)]
    pub(crate) const fn is(_: super::DriverBug) -> bool {
        false
    }
}

pub(crate) use switch::is;
#[cfg(feature = "planted-bugs")]
pub use switch::plant;
