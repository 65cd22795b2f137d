//! Dynamic batching: which records go into the next batch, and when.
//!
//! A batcher is plain data: it is given records and the time, and says what to do. A replica asks its batcher
//! whenever it is idle, so what arrives while it is busy forms the next batch by itself.

mod batcher;
mod limit;

use std::{ops::RangeInclusive, time::Duration};

pub(crate) use batcher::{Batcher, Decision, Pending};
pub(crate) use limit::BatchLimit;

/// Why a batch was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReleaseReason {
    /// It held as many items as a batch may.
    Full,
    /// It held as many bytes as a batch may.
    Bytes,
    /// The replica was idle.
    Idle,
    /// Its oldest item had waited long enough.
    Delay,
    /// An item's deadline left just enough time to run.
    Slack,
    /// The stream has ended.
    Drain,
}

impl ReleaseReason {
    /// All reasons.
    pub const ALL: [ReleaseReason; 6] =
        [ReleaseReason::Full, ReleaseReason::Bytes, ReleaseReason::Idle, ReleaseReason::Delay, ReleaseReason::Slack, ReleaseReason::Drain];

    /// The word that metrics use.
    pub fn name(self) -> &'static str {
        match self {
            ReleaseReason::Full => "full",
            ReleaseReason::Bytes => "bytes",
            ReleaseReason::Idle => "idle",
            ReleaseReason::Delay => "delay",
            ReleaseReason::Slack => "slack",
            ReleaseReason::Drain => "drain",
        }
    }
}

/// How batches are formed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOptions {
    /// Fewest and most items. Fewer than the fewest are released only when the oldest has waited for `max_delay`.
    pub items: RangeInclusive<usize>,
    /// Most bytes of payload; an item that is larger alone goes alone.
    pub max_bytes: u64,
    /// The longest that an item waits for company.
    pub max_delay: Duration,
    /// An idle replica takes what there is at once, if that is the fewest items or more. Without this, it waits until
    /// the batch is full or the delay has passed.
    pub idle_dispatch: bool,
    /// For tests: the first batch is not formed before so many items have come.
    pub hold_until: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions { items: 1..=32, max_bytes: u64::MAX, max_delay: Duration::from_millis(5), idle_dispatch: true, hold_until: 0 }
    }
}
