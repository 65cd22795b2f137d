//! How batches are formed: limits, waiting, order, sizes that adapt.

use std::{ops::RangeInclusive, time::Duration};

/// How batches are formed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchOptions {
    /// Fewest and most items. Fewer than the fewest are released only when the oldest has waited for `max_delay`.
    pub items: RangeInclusive<usize>,
    /// Most bytes of payload; an item that is larger alone goes alone.
    pub max_bytes: u64,
    /// Most tokens, counted with padding: items × the longest of them, rounded up to `pad_to`. An item that is longer
    /// alone goes alone.
    pub max_tokens: u64,
    /// The most that padding may add to a batch of items of different lengths, as a part of their own lengths: with 0.1,
    /// what is computed is at most 1.1 times what there is (before `pad_to`).
    pub max_padding: f64,
    /// Lengths are rounded up to a multiple of this, so that a model sees few shapes.
    pub pad_to: u64,
    /// How many items may wait for company of their own kind, where items differ in bucket or length. 0 stands for eight
    /// full batches. Items beyond it stay on the edge.
    pub pool: usize,
    /// The longest that an item waits for company.
    pub max_delay: Duration,
    /// An idle replica takes what there is at once, if that is the fewest items or more. Without this, it waits until
    /// the batch is full or the delay has passed.
    pub idle_dispatch: bool,
    /// A batch holds at most one item of each key; those behind it wait for the next.
    pub one_per_key: bool,
    /// What one level of priority is worth: an item goes ahead of those of one level less that came up to so much earlier.
    /// So whatever waits gains a level in this time, and nothing waits for ever.
    pub aging: Duration,
    /// How large batches are, within `items`.
    pub sizing: Sizing,
    /// For tests: the first batch is not formed before so many items have come.
    pub hold_until: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            items: 1..=32,
            max_bytes: u64::MAX,
            max_tokens: u64::MAX,
            max_padding: 0.1,
            pad_to: 1,
            pool: 0,
            max_delay: Duration::from_millis(5),
            idle_dispatch: true,
            one_per_key: false,
            aging: Duration::from_millis(100),
            sizing: Sizing::Fixed,
            hold_until: 0,
        }
    }
}

impl BatchOptions {
    /// A length as it is after padding.
    pub(crate) fn padded(&self, length: u64) -> u64 {
        length.checked_next_multiple_of(self.pad_to.max(1)).unwrap_or(length)
    }
}

/// How the largest batch is chosen within the range that is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Sizing {
    /// It is the range's end.
    Fixed,
    /// Grows until the fixed cost of a batch is a small part of its time, as Beam's `BatchElements` does.
    Throughput {
        /// The part of a batch's time that its fixed cost may be.
        overhead: f64,
        /// The longest that a batch may take.
        duration: Duration,
    },
    /// The largest with which an item leaves the stage in time: a batch that is being run and the item's own batch, by
    /// the times that were measured, and corrected by the latencies that were seen.
    Latency {
        /// What 99 of 100 items should stay below, from their arrival at the batcher to their result.
        p99: Duration,
    },
}

impl Sizing {
    /// [`Sizing::Throughput`] with Beam's constants: 5 % of fixed cost, at most ten seconds.
    pub const fn throughput() -> Self {
        Sizing::Throughput { overhead: 0.05, duration: Duration::from_secs(10) }
    }

    /// [`Sizing::Latency`].
    pub const fn latency(p99: Duration) -> Self {
        Sizing::Latency { p99 }
    }
}
