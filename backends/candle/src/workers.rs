//! The threads that our kernels run on under Candle: one pool for the whole process, made when it is first needed.

use millstream_cpu::Pool;
use millstream_engine::Workers;
use std::sync::{Arc, OnceLock};

static SHARED: OnceLock<Arc<dyn Workers>> = OnceLock::new();

/// The workers of all operators: those of [`use_workers`], else a pool of as many threads as Candle uses
/// (`RAYON_NUM_THREADS`, or one a core).
pub fn workers() -> Arc<dyn Workers> {
    SHARED.get_or_init(|| Arc::new(Pool::new(candle_core::utils::get_num_threads()))).clone()
}

/// Runs all operators on these workers from now on, so that a program has one pool.
///
/// # Errors
/// The workers come back if others are in use already: an operator ran before, or this function was called.
pub fn use_workers(workers: Arc<dyn Workers>) -> Result<(), Arc<dyn Workers>> {
    SHARED.set(workers)
}
