//! A pipeline's counters at one moment.

use std::{sync::atomic::Ordering, time::Duration};

use millstream_edge::{Cost, Limits};

use super::{HistogramSnapshot, SequenceSnapshot, StageMetrics};
use crate::{batch::ReleaseReason, infer::ModelId, outcome::Counts, supervise::StageState};

/// All counters of a pipeline at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// How many records ended how.
    pub counts: Counts,
    /// What the entry budget has given out.
    pub reserved: Cost,
    /// The most bytes that it may give out, if there is a limit: the part of the memory budget that records and shadow copies have.
    pub budget_bytes: Option<u64>,
    /// The most bytes that were ever reserved at once.
    pub peak_reserved_bytes: u64,
    /// Bytes that records hold beyond their reservations, because a stage declared too small an expansion.
    pub overdraft_bytes: u64,
    /// Nanoseconds from a checkpoint's request until it was stored, in a pipeline that has them.
    pub checkpoint_seconds: Option<HistogramSnapshot>,
    /// The stages, from the source to the sink.
    pub stages: Vec<StageSnapshot>,
    /// The edges between them.
    pub edges: Vec<EdgeSnapshot>,
}

/// An edge at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EdgeSnapshot {
    /// The stage that takes from it.
    pub into: String,
    /// What waits on it.
    pub queued: Cost,
    /// What may wait on it.
    pub limits: Limits,
}

/// A stage's counters at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StageSnapshot {
    /// Its name.
    pub name: String,
    /// How many replicas it has at present.
    pub replicas: usize,
    /// Its state.
    pub state: StageState,
    /// Records that it took.
    pub records_in: u64,
    /// Records that it passed on.
    pub records_out: u64,
    /// Records that ended here in good order: filtered out, or stored by a sink.
    pub consumed: u64,
    /// Records that ended here unexecuted: expired or cancelled.
    pub given_up: u64,
    /// Errors of user code.
    pub errors: u64,
    /// Executions that were repeated.
    pub retries: u64,
    /// Panics of user code.
    pub panics: u64,
    /// Runs that passed their time limit: so many threads were left behind, some of which may have come back.
    pub hangs: u64,
    /// Workers that were started again after a crash.
    pub restarts: u64,
    /// Workers that were replaced by fresh ones without having crashed.
    pub recalls: u64,
    /// Records that went to the dead letters.
    pub dead_letters: u64,
    /// Shadow copies that were thrown away because there was no room for them.
    pub shed: u64,
    /// Time in user code, over all replicas.
    pub busy: Duration,
    /// Time spent waiting for credits of the next edge, over all replicas.
    pub credit_wait: Duration,
    /// Nanoseconds per chunk or batch.
    pub seconds: HistogramSnapshot,
    /// Sizes of the batches, for a stage that batches.
    pub batch_size: HistogramSnapshot,
    /// Why batches were released.
    pub releases: Vec<(ReleaseReason, u64)>,
    /// What was in the batches, in what the model counts as length.
    pub tokens: u64,
    /// The same with what batching adds to make lengths equal.
    pub padded_tokens: u64,
    /// What it remembers of sequences.
    pub sequences: SequenceSnapshot,
    /// The model that ran last, for a stage that runs one.
    pub model: Option<ModelId>,
    /// The largest batch that memory and sizing allow at present; 0 for a stage that has run no batch.
    pub batch_limit: u64,
}

impl StageSnapshot {
    pub(crate) fn of(metrics: &StageMetrics) -> Self {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        StageSnapshot {
            name: metrics.name.to_string(),
            replicas: metrics.replicas.load(Ordering::Relaxed),
            state: metrics.state(),
            records_in: read(&metrics.records_in),
            records_out: read(&metrics.records_out),
            consumed: read(&metrics.consumed),
            given_up: read(&metrics.given_up),
            errors: read(&metrics.errors),
            retries: read(&metrics.retries),
            panics: read(&metrics.panics),
            hangs: read(&metrics.hangs),
            restarts: read(&metrics.restarts),
            recalls: read(&metrics.recalls),
            dead_letters: read(&metrics.dead_letters),
            shed: read(&metrics.shed),
            busy: Duration::from_nanos(read(&metrics.busy_nanos)),
            credit_wait: Duration::from_nanos(read(&metrics.credit_wait_nanos)),
            seconds: metrics.seconds.snapshot(),
            batch_size: metrics.batch_size.snapshot(),
            releases: ReleaseReason::ALL.into_iter().map(|r| (r, read(&metrics.releases[r as usize]))).collect(),
            tokens: read(&metrics.tokens),
            padded_tokens: read(&metrics.padded_tokens),
            sequences: metrics.sequences.snapshot(),
            model: metrics.model().map(|model| (*model).clone()),
            batch_limit: read(&metrics.batch_limit),
        }
    }

    /// How many batches were released for this reason.
    pub fn released(&self, reason: ReleaseReason) -> u64 {
        self.releases.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count)
    }
}
