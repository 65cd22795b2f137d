//! Traces: what a stage did with a record, and when.
//!
//! ```text
//! (who sent the record) ── source ──┬─ stage "decode"
//!                                   ├─ stage "embed" ◀─ links ─▶ batch "embed" (a trace of its own)
//!                                   └─ sink
//! ```
//!
//! A record that is sampled has one span for each stage that it comes through, all of them children of the source's. A
//! batch belongs to many traces: its span begins one of its own, and has links to the spans of its records, as theirs have
//! to it.
//!
//! Records that meet in a join or an ensemble have a span each, with links to each other's; what they become goes on in the
//! trace of the first. What a window makes of records begins a trace of its own if one of them is sampled, with links to the
//! spans of those that are, the first [`LINKS`] of them; those of a window that a checkpoint held are forgotten. What a stage
//! in quarantine does with records has no spans.
//!
//! Without a tracer, a stage looks for it once for each chunk and batch, and for an open span once for each result.

mod stage;

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime},
};

pub(crate) use self::stage::{Open, Ran, StageSpans};
use crate::{batch::ReleaseReason, envelope::TraceContext, infer::ModelId, outcome::Outcome};

/// Samples records, and is told of their spans, on whatever thread that happens. Must be quick and must not panic.
pub trait Tracer: Send + Sync {
    /// Whether a record that comes without a [`TraceContext`] is followed, under a number that was drawn for it. One that
    /// comes with one is followed as that says.
    fn samples(&self, trace: u128) -> bool;

    /// A span has ended.
    fn ended(&self, span: &Span<'_>);
}

/// The most links that a span of a record of many has.
pub(crate) const LINKS: usize = 128;

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanKind {
    /// A record is let in, or begins in a window. The parent of the record's other spans.
    Admission,
    /// A record is in a stage: first it waits, then it is worked on.
    Record,
    /// A batch is run.
    Batch,
}

/// A span that has ended.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Span<'a> {
    /// What it is about.
    pub kind: SpanKind,
    /// What it is: its trace, its number.
    pub context: TraceContext,
    /// The number of the span that it is part of.
    pub parent: Option<u64>,
    /// What it has to do with besides: the records of a batch, the last batch of a record, what a record was joined with, what
    /// it was made of.
    pub links: &'a [TraceContext],
    /// The stage's name.
    pub stage: &'a str,
    /// Which of the stage's replicas.
    pub replica: usize,
    /// When it began: the record left the stage before, or came and waited for room to be let in.
    pub queued: SystemTime,
    /// When its wait was over, and it was first worked on.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// The record's number; not for a batch.
    pub record: Option<u64>,
    /// How many records the batch had.
    pub batch: Option<usize>,
    /// Why the batch was released.
    pub reason: Option<ReleaseReason>,
    /// The model that ran.
    pub model: Option<&'a ModelId>,
    /// How it ended in this stage. None for a batch that failed: what became of its records is in their spans.
    pub outcome: Option<Outcome>,
    /// What went wrong.
    pub error: Option<&'a dyn fmt::Display>,
}

/// The trace that a record carries.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) context: TraceContext,
    /// When the last stage was done with it.
    since: Instant,
    /// When it came into the stage where it waits for others.
    came: Option<Instant>,
    /// Its next span's number, before the stage is mixed in: copies go to different stages.
    next: u64,
}

impl Traced {
    /// Of a record that nobody here follows.
    pub(crate) fn foreign(context: TraceContext, since: Instant) -> Self {
        Traced { context, since, came: None, next: 0 }
    }
}

/// Draws numbers for traces and spans: unlikely to meet those of another process.
pub(crate) struct Numbers {
    seed: u64,
    next: AtomicU64,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        Numbers { seed: RandomState::new().build_hasher().finish(), next: AtomicU64::new(0) }
    }

    /// A span's number, never 0.
    fn span(&self) -> u64 {
        mix(self.seed.wrapping_add(self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A trace's number, never 0.
    fn trace(&self) -> u128 {
        u128::from(self.span()) << 64 | u128::from(self.span())
    }
}

/// SplitMix64's last steps: one number for another, each bit a coin's toss. Never 0.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (number ^ (number >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_are_not_drawn_twice_and_not_null() {
        let numbers = Numbers::new();
        let drawn: HashSet<_> = (0..10_000).map(|_| numbers.span()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(!drawn.contains(&0) && mix(0) == 1);
        assert_ne!(numbers.trace(), numbers.trace());
    }
}
