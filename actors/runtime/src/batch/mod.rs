//! Dynamic batching: which records go into the next batch, and when.
//!
//! A batcher is plain data: it is given records and the time, and says what to do. A replica asks its batcher
//! whenever it is idle, so what arrives while it is busy forms the next batch by itself.
//!
//! - `queue` keeps what waits in the order of service: by arrival, ahead of it by priority, never out of a key's order.
//! - `bins` sorts what waits into batches that could be run: one bucket each, within the limits, with little padding.
//! - `batcher` decides which of them goes, when, and why.
//! - `cost` learns how long a batch takes; `estimator` and `pace` choose the size by it; `limit` is what memory allows.

mod batcher;
mod bins;
mod cost;
mod estimator;
mod limit;
mod options;
mod pace;
#[cfg(test)]
mod properties;
mod queue;

pub(crate) use batcher::{Batcher, Decision};
pub(crate) use limit::BatchLimit;
pub use options::{BatchOptions, Sizing};
pub(crate) use pace::Pace;
pub(crate) use queue::Pending;

/// Why a batch was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReleaseReason {
    /// It held as many items as a batch may.
    Full,
    /// It held as many bytes as a batch may.
    Bytes,
    /// It held as many tokens as a batch may.
    Tokens,
    /// So many items that differ waited that no more could come in, and no batch of them was full: the largest went.
    Pool,
    /// The replica was idle.
    Idle,
    /// Its oldest item had waited long enough.
    Delay,
    /// An item's deadline left just enough time to run.
    Slack,
    /// The stream has ended.
    Drain,
    /// A checkpoint's barrier came behind it.
    Barrier,
}

impl ReleaseReason {
    /// All reasons.
    pub const ALL: [ReleaseReason; 9] = [
        ReleaseReason::Full,
        ReleaseReason::Bytes,
        ReleaseReason::Tokens,
        ReleaseReason::Pool,
        ReleaseReason::Idle,
        ReleaseReason::Delay,
        ReleaseReason::Slack,
        ReleaseReason::Drain,
        ReleaseReason::Barrier,
    ];

    /// The word that metrics use.
    pub fn name(self) -> &'static str {
        match self {
            ReleaseReason::Full => "full",
            ReleaseReason::Bytes => "bytes",
            ReleaseReason::Tokens => "tokens",
            ReleaseReason::Pool => "pool",
            ReleaseReason::Idle => "idle",
            ReleaseReason::Delay => "delay",
            ReleaseReason::Slack => "slack",
            ReleaseReason::Drain => "drain",
            ReleaseReason::Barrier => "barrier",
        }
    }
}
