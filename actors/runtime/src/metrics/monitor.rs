//! Looking at a pipeline from elsewhere.

use std::sync::Arc;

use super::{EdgeSnapshot, Snapshot, StageMetrics, StageSnapshot};
use crate::supervise::Plumbing;

/// Takes snapshots of a pipeline, from any thread, and after its end too. Keeps its counters in memory, nothing else.
#[derive(Clone)]
pub struct Monitor {
    plumbing: Arc<Plumbing>,
    stages: Arc<[Arc<StageMetrics>]>,
    /// The stage behind each edge.
    into: Arc<[String]>,
}

impl Monitor {
    pub(crate) fn new(plumbing: Arc<Plumbing>, stages: Vec<Arc<StageMetrics>>, into: Vec<String>) -> Self {
        Monitor { plumbing, stages: stages.into(), into: into.into() }
    }

    /// The number of a stage.
    pub(crate) fn index_of(&self, stage: &str) -> Option<usize> {
        self.stages.iter().position(|metrics| *metrics.name == *stage)
    }

    /// The fewest and the most replicas of a stage.
    pub(crate) fn bounds_of(&self, index: usize) -> (usize, usize) {
        self.stages[index].bounds
    }

    /// All counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let accounts = &self.plumbing.accounts;
        let edges = self.plumbing.edges.iter().zip(self.into.iter()).map(|(edge, into)| EdgeSnapshot {
            into: into.clone(),
            queued: edge.outstanding(),
            limits: edge.limits(),
        });
        Snapshot {
            counts: accounts.counters.read(),
            reserved: accounts.reserved(),
            budget_bytes: accounts.budget(),
            peak_reserved_bytes: accounts.peak_bytes(),
            overdraft_bytes: accounts.overdraft(),
            checkpoint_seconds: self.plumbing.checkpoints.as_ref().map(|checkpoints| checkpoints.seconds.snapshot()),
            stages: self.stages.iter().map(|metrics| StageSnapshot::of(metrics)).collect(),
            edges: edges.collect(),
        }
    }
}
