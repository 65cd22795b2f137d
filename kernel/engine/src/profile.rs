//! Timing of steps, for those who ask.

use core::time::Duration;
use millstream_graph::Cost;

/// A monotonic clock; std code supplies one.
pub trait Clock: Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
}

/// One executed step.
#[derive(Debug, Clone, Copy)]
pub struct StepRecord<'a> {
    /// The step's position in its plan.
    pub index: usize,
    /// The node's path.
    pub path: &'a str,
    /// Its operator.
    pub op: &'a str,
    /// The kernel that ran.
    pub kernel: &'a str,
    /// What it costs at the least.
    pub cost: Cost,
    /// How long it took.
    pub time: Duration,
}

/// Sees every step of a run.
pub trait Profiler {
    /// The clock to time steps with.
    fn clock(&self) -> &dyn Clock;

    /// Called after each step.
    fn step(&mut self, record: StepRecord<'_>);
}
