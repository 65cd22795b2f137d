//! Bytes of a run: what its values hold now, the most that they held, and the limit.

use millstream_engine::RunError;

/// Counts what a walk over the graph takes. A plan and a run walk alike, so that they count alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ledger {
    live: usize,
    peak: usize,
    scratch: usize,
    limit: usize,
}

impl Ledger {
    /// Nothing taken, at most `limit` bytes to take.
    pub(crate) fn new(limit: usize) -> Ledger {
        Ledger { live: 0, peak: 0, scratch: 0, limit }
    }

    /// A node makes `outputs` bytes that stay, and needs `scratch` more while it runs.
    pub(crate) fn take(&mut self, outputs: usize, scratch: usize) -> Result<(), RunError> {
        let needed = self.live.saturating_add(outputs).saturating_add(scratch);
        if needed > self.limit {
            return Err(RunError::MemoryLimit { needed, limit: self.limit });
        }
        self.peak = self.peak.max(needed);
        self.scratch = self.scratch.max(scratch);
        self.live += outputs;
        Ok(())
    }

    /// A value of `bytes` has no reader left.
    pub(crate) fn give(&mut self, bytes: usize) {
        self.live = self.live.saturating_sub(bytes);
    }

    /// The most bytes at any time.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// The most bytes that one node needed beside its outputs.
    pub(crate) fn scratch(&self) -> usize {
        self.scratch
    }
}
