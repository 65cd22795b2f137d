//! The clock that joins and idle sources go by, so that a test can be the clock.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock. Deadlines of records, delays of batches and pauses between restarts do not go by it, but by the machine's.
pub trait Clock: Send + Sync {
    /// What time it is.
    fn now(&self) -> Instant;

    /// Whether time passes by itself. If not, whoever waits is woken by what [`Clock::watch`] was given.
    fn ticks(&self) -> bool {
        true
    }

    /// Something to be called whenever time has passed, for a clock that does not tick.
    fn watch(&self, passed: Box<dyn Fn() + Send + Sync>) {
        let _ = passed;
    }
}

/// The machine's clock.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Until when to wait for an edge, by this clock: a clock that stands is no reason to wake up.
pub(crate) fn alarm(clock: &dyn Clock, at: Option<Instant>) -> Option<Instant> {
    at.filter(|_| clock.ticks())
}

/// A clock that stands until it is told otherwise. Clones are one clock.
#[derive(Clone)]
pub struct ManualClock(Arc<Inner>);

struct Inner {
    start: Instant,
    passed_nanos: AtomicU64,
    watchers: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl ManualClock {
    /// A clock that stands at some time.
    pub fn new() -> Self {
        ManualClock(Arc::new(Inner { start: Instant::now(), passed_nanos: AtomicU64::new(0), watchers: Mutex::default() }))
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.0.passed_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::AcqRel);
        for passed in self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            passed();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.start + Duration::from_nanos(self.0.passed_nanos.load(Ordering::Acquire))
    }

    fn ticks(&self) -> bool {
        false
    }

    fn watch(&self, passed: Box<dyn Fn() + Send + Sync>) {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(passed);
    }
}
