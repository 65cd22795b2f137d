//! What a stage that remembers counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::add;

/// A stage's counters of sequences.
#[derive(Default)]
pub(crate) struct SequenceCounters {
    held: AtomicU64,
    bytes: AtomicU64,
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What a stage remembers of sequences, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SequenceSnapshot {
    /// Sequences whose states are held.
    pub held: u64,
    /// What the states weigh.
    pub bytes: u64,
    /// Sequences that began.
    pub begun: u64,
    /// Sequences that came to their end.
    pub ended: u64,
    /// Sequences that were idle for too long.
    pub expired: u64,
    /// Sequences that had to make room for others.
    pub evicted: u64,
    /// Records for whose sequences there was no room.
    pub refused: u64,
}

impl SequenceCounters {
    /// A replica held the one, and holds the other now: sequences and bytes.
    pub(crate) fn hold(&self, before: (u64, u64), now: (u64, u64)) {
        for (counter, before, now) in [(&self.held, before.0, now.0), (&self.bytes, before.1, now.1)] {
            add(counter, now.saturating_sub(before));
            counter.fetch_sub(before.saturating_sub(now), Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> SequenceSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SequenceSnapshot {
            held: read(&self.held),
            bytes: read(&self.bytes),
            begun: read(&self.begun),
            ended: read(&self.ended),
            expired: read(&self.expired),
            evicted: read(&self.evicted),
            refused: read(&self.refused),
        }
    }
}
