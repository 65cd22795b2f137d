//! What a controller wants of its workers: flags that they look at between two chunks or batches.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::error::Fault;

/// Orders to the workers of one stage.
pub(crate) struct Orders {
    recalled: Vec<AtomicBool>,
    condemned: OnceLock<Fault>,
}

impl Orders {
    pub(crate) fn new(replicas: usize) -> Self {
        Orders { recalled: (0..replicas).map(|_| AtomicBool::new(false)).collect(), condemned: OnceLock::new() }
    }

    /// Asks a worker to end as soon as it has nothing in hand. The caller wakes it.
    pub(crate) fn recall(&self, replica: usize) {
        self.set(replica, true);
    }

    /// A worker begins: what was wanted of the one before is done.
    pub(crate) fn begin(&self, replica: usize) {
        self.set(replica, false);
    }

    pub(crate) fn is_recalled(&self, replica: usize) -> bool {
        self.recalled.get(replica).is_some_and(|recalled| recalled.load(Ordering::Acquire))
    }

    /// No user code runs in this stage any more, for this reason: workers that begin from now on send all to the dead letters.
    pub(crate) fn condemn(&self, fault: Fault) {
        // The first reason stays.
        let _ = self.condemned.set(fault);
    }

    pub(crate) fn condemned(&self) -> Option<&Fault> {
        self.condemned.get()
    }

    fn set(&self, replica: usize, to: bool) {
        if let Some(recalled) = self.recalled.get(replica) {
            recalled.store(to, Ordering::Release);
        }
    }
}
