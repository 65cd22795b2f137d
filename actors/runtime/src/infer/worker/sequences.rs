//! What the worker does for a model that remembers: turns, ends, time-outs, checkpoints.
//!
//! A record that does not come to its turn leaves its sequence as it is. If it would have been the last, the sequence still
//! ends: behind what waits of it, or now.

use std::time::Instant;

use super::{Break, Worker, input};
use crate::{
    envelope::{Envelope, Header},
    error::Fault,
    infer::{
        ModelHandler,
        options::Input,
        sequence::Turn,
        stage::{Group, Item},
    },
    panics::guard,
    time::alarm,
};

/// The turns of a batch. (Every record has a key: one without it was not let in.)
pub(super) fn turns<'g, T, I>(how: &Input<T, I>, group: &'g Group<T, I>) -> Vec<Turn<'g, I>> {
    let turn = |item: &'g Item<T, I>| Some(Turn { key: item.envelope.head.key?, input: input(how, item)?, last: item.last });
    group.items.iter().filter_map(turn).collect()
}

impl<T: Send + 'static, H: ModelHandler> Worker<'_, T, H> {
    /// Lets the first worker go on from the checkpoint.
    pub(super) fn restore(&mut self) -> Result<(), Break> {
        let (Some(sequences), Some(checkpoints)) = (&self.parts.sequences, &self.parts.shared.checkpoints) else { return Ok(()) };
        let mut slot = self.parts.slot(self.start.replica);
        if let Some(snapshot) = checkpoints.restored(&self.parts.shared.name(), self.start.replica).filter(|_| !slot.restored) {
            let restored = guard(|| sequences.restore(self.start.replica, snapshot)).and_then(|done| done.map_err(Fault::from));
            restored.map_err(|fault| Break::Failed(self.failed(fault)))?;
        }
        crate::fail_point!("after-restore");
        slot.restored = true;
        Ok(())
    }

    /// A checkpoint: everything that came before it has had its turn, and nothing behind it.
    pub(super) fn checkpoint(&self, barrier: u64) -> Result<(), Break> {
        let Some((checkpoints, state)) = self.snapshot()? else { return Ok(()) };
        crate::fail_point!("at-barrier");
        checkpoints.report(&self.parts.shared.name(), self.start.replica, barrier, Some(state));
        Ok(())
    }

    /// The stream has ended: the states as they are now belong to every checkpoint from here on.
    pub(super) fn last_checkpoint(&self) -> Result<(), Break> {
        let Some((checkpoints, state)) = self.snapshot()? else { return Ok(()) };
        crate::fail_point!("at-end");
        checkpoints.finish(&self.parts.shared.name(), self.start.replica, Some(state));
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<(&crate::checkpoint::Checkpoints, Vec<u8>)>, Break> {
        let (Some(sequences), Some(checkpoints)) = (&self.parts.sequences, &self.parts.shared.checkpoints) else { return Ok(None) };
        crate::fail_point!("before-snapshot");
        let state = guard(|| sequences.snapshot(self.start.replica)).and_then(|state| state.map_err(Fault::from));
        let state = state.map_err(|fault| Break::Failed(self.failed(fault)))?;
        Ok(Some((checkpoints, state)))
    }

    /// Drops the states of sequences that were idle for too long. When there will be another.
    pub(super) fn forget_idle(&self) -> Option<Instant> {
        let sequences = self.parts.sequences.as_ref()?;
        let waits = |key| self.batcher.iter().any(|pending| pending.key == Some(key));
        alarm(&*self.parts.shared.clock, sequences.expire(self.start.replica, &waits))
    }

    /// A record is about to wait for its turn.
    pub(super) fn arrived(&self, head: &Header) {
        if let (Some(sequences), Some(key)) = (&self.parts.sequences, head.key) {
            sequences.arrive(self.start.replica, key, &|| self.batcher.iter().any(|pending| pending.key == Some(key)));
        }
    }

    /// A record that has just come will have no turn.
    pub(super) fn ends_without(&mut self, envelope: &Envelope<T>) {
        let (Some(sequences), Some(key)) = (&self.parts.sequences, envelope.head.key) else { return };
        // Code that cannot say so says no.
        if !guard(|| self.parts.run.is_last(&envelope.payload)).unwrap_or(false) {
            return;
        }
        match self.batcher.iter_mut_back().find(|pending| pending.key == Some(key)) {
            Some(before) => before.item.last = true,
            None => sequences.end(self.start.replica, key),
        }
    }

    /// A record has had its turn, and came to nothing.
    pub(super) fn failed_in_turn(&self, item: &Item<T, H::Input>) {
        if let (true, Some(sequences), Some(key)) = (item.last, &self.parts.sequences, item.envelope.head.key) {
            sequences.end(self.start.replica, key);
        }
    }
}
