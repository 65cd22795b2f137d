//! What a pipeline counts while it runs: plain atomics, touched once per chunk or batch.

mod histogram;
mod monitor;
mod prometheus;
mod report;
mod sequences;
mod snapshot;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use histogram::HistogramSnapshot;
pub(crate) use histogram::Log2Histogram;
pub use monitor::Monitor;
pub use report::{Report, Residue};
pub(crate) use sequences::SequenceCounters;
pub use sequences::SequenceSnapshot;
pub use snapshot::{EdgeSnapshot, Snapshot, StageSnapshot};

use crate::{batch::ReleaseReason, infer::ModelId, supervise::StageState};

/// One stage's counters.
pub(crate) struct StageMetrics {
    pub(crate) name: Arc<str>,
    /// The fewest and the most replicas.
    pub(crate) bounds: (usize, usize),
    /// Those that run, or are about to.
    pub(crate) replicas: AtomicUsize,
    pub(crate) records_in: AtomicU64,
    pub(crate) records_out: AtomicU64,
    pub(crate) consumed: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) hangs: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) recalls: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) busy_nanos: AtomicU64,
    pub(crate) credit_wait_nanos: AtomicU64,
    /// Nanoseconds per chunk or batch.
    pub(crate) seconds: Log2Histogram,
    pub(crate) batch_size: Log2Histogram,
    pub(crate) releases: [AtomicU64; ReleaseReason::ALL.len()],
    /// What was in the batches, in what the model counts, and what it is with padding.
    pub(crate) tokens: AtomicU64,
    pub(crate) padded_tokens: AtomicU64,
    /// The effective maximum of the batch, by memory and by sizing; 0 where there is none.
    pub(crate) batch_limit: AtomicU64,
    pub(crate) sequences: SequenceCounters,
    /// The model that ran last, for a stage that runs one.
    model: Mutex<Option<Arc<ModelId>>>,
    state: AtomicU8,
}

impl StageMetrics {
    pub(crate) fn new(name: Arc<str>, bounds: (usize, usize)) -> Self {
        StageMetrics {
            name,
            bounds,
            replicas: AtomicUsize::new(bounds.0),
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            hangs: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            recalls: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
            credit_wait_nanos: AtomicU64::new(0),
            seconds: Log2Histogram::default(),
            batch_size: Log2Histogram::default(),
            releases: Default::default(),
            tokens: AtomicU64::new(0),
            padded_tokens: AtomicU64::new(0),
            batch_limit: AtomicU64::new(0),
            sequences: SequenceCounters::default(),
            model: Mutex::new(None),
            state: AtomicU8::new(StageState::Created as u8),
        }
    }

    /// A stage that is in quarantine stays there.
    pub(crate) fn set_state(&self, state: StageState) {
        if self.state() == StageState::Quarantined {
            return;
        }
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> StageState {
        StageState::from_code(self.state.load(Ordering::Relaxed))
    }

    pub(crate) fn ran_model(&self, id: &Arc<ModelId>) {
        *self.model.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
    }

    pub(crate) fn model(&self) -> Option<Arc<ModelId>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One chunk or batch was worked on for this long.
    pub(crate) fn worked(&self, busy: Duration) {
        let nanos = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        self.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.seconds.record(nanos);
    }

    /// As [`StageMetrics::worked`], for one of so many records that are worked on at once.
    pub(crate) fn worked_beside(&self, busy: Duration, others: usize) {
        let nanos = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        add(&self.busy_nanos, nanos / others.max(1) as u64);
        self.seconds.record(nanos);
    }

    pub(crate) fn waited(&self, wait: Duration) {
        self.credit_wait_nanos.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn released(&self, reason: ReleaseReason, size: usize, tokens: u64, padded: u64) {
        add(&self.tokens, tokens);
        add(&self.padded_tokens, padded);
        self.releases[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.batch_size.record(size as u64);
    }
}

/// Adds to a counter; none of them orders anything.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    if by > 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
