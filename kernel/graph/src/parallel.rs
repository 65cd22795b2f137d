//! How a kernel's independent grains are run, without the kernel knowing of threads.

/// Runs independent pieces of work. Implemented by thread pools; [`Serial`] where there are none.
pub trait Parallel: Sync {
    /// How many workers may run grains at the same time, at least 1. Results never depend on it.
    fn workers(&self) -> usize;

    /// Calls `body(grain, worker)` once for every grain in `0..grains` and returns when all calls have returned.
    /// `worker < workers()`, and no two calls at the same time share a worker.
    fn run(&self, grains: usize, body: &(dyn Fn(usize, usize) + Sync));
}

/// Runs all grains one after the other on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, grains: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        for grain in 0..grains {
            body(grain, 0);
        }
    }
}
