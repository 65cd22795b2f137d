//! A clock for profilers.

use millstream_engine::Clock;
use std::time::{Duration, Instant};

/// The machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct StdClock(Instant);

impl Default for StdClock {
    fn default() -> StdClock {
        StdClock(Instant::now())
    }
}

impl Clock for StdClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
