//! Where a run gets its workers from.

use millstream_graph::{Parallel, Serial};

/// A source of workers for runs: a thread pool, or nobody.
pub trait Workers: Send + Sync {
    /// The most workers that [`Workers::enter`] hands to a run; plans reserve scratch memory for so many.
    fn max(&self) -> usize;

    /// Calls `run` once with workers that belong to it until it returns. If they are taken by another run, `run` gets the
    /// calling thread alone: it never waits.
    fn enter(&self, run: &mut dyn FnMut(&dyn Parallel));
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct SerialWorkers;

impl Workers for SerialWorkers {
    fn max(&self) -> usize {
        1
    }

    fn enter(&self, run: &mut dyn FnMut(&dyn Parallel)) {
        run(&Serial);
    }
}
