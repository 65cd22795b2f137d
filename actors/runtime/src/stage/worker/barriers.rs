//! A record stage's part in checkpoints: what its instances say at barriers, and what fresh ones go on from.

use millstream_edge::Control;

use super::{Break, Parts, Worker};
use crate::{
    error::{Cause, Fault},
    panics::guard,
    stage::{Exit, Transform},
};

impl<T: Send, U: Send, S: Transform<T, U>> Parts<T, U, S> {
    /// Lets an instance go on from what its predecessor handed over, or the first one from the checkpoint.
    pub(super) fn restore(&self, step: &mut S, replica: usize) -> Result<(), Exit> {
        let Some(checkpoints) = &self.shared.checkpoints else { return Ok(()) };
        let mut slot = self.slot(replica);
        let handed = slot.handed.take();
        if slot.restored && handed.is_none() {
            return Ok(());
        }
        let snapshot = handed.as_deref().or_else(|| checkpoints.restored(&self.shared.name(), replica));
        let restored = guard(|| step.state().map_or(Ok(()), |state| state.restore(snapshot))).and_then(|done| done.map_err(Fault::from));
        restored.map_err(|fault| Exit::Failed(Cause::StageFailed { stage: self.shared.name(), fault }))?;
        crate::fail_point!("after-restore");
        slot.restored = true;
        Ok(())
    }

    /// Whether what an instance knows is lost with it, and was promised not to be.
    pub(super) fn would_lose(&self, step: &mut S) -> bool {
        self.shared.checkpoints.is_some() && guard(|| step.state().is_some_and(|state| !state.outlives_instances())).unwrap_or(true)
    }
}

impl<T, U, S> Worker<'_, T, U, S>
where
    T: Send,
    U: Send,
    S: Transform<T, U>,
{
    /// Leaves to the next instance what this one knows, where that must not be lost.
    pub(super) fn hand_over(&mut self, step: &mut S, replica: usize) -> Result<(), Break> {
        if self.parts.would_lose(step) {
            let state = self.snapshot(step)?;
            self.parts.slot(replica).handed = state;
        }
        Ok(())
    }

    /// Lets those pass whose turn it is before a sink in total order; whether anybody or anything has.
    pub(super) fn open_door(&mut self, step: &mut S, replica: usize) -> Result<bool, Break> {
        let Some(door) = &mut self.door else { return Ok(false) };
        door.open(&mut self.pending);
        if !self.pending.is_empty() {
            return Ok(true);
        }
        match door.barrier() {
            Some(barrier) => self.barrier(step, replica, barrier).map(|()| true),
            None => Ok(false),
        }
    }

    /// A barrier has come; at a door it waits for those who wait there.
    pub(super) fn barrier_comes(&mut self, step: &mut S, replica: usize, barrier: u64) -> Result<(), Break> {
        match &mut self.door {
            Some(door) => {
                door.hold(barrier);
                Ok(())
            }
            None => self.barrier(step, replica, barrier),
        }
    }

    /// A checkpoint: everything that came before it has been worked on, and nothing behind it.
    pub(super) fn barrier(&mut self, step: &mut S, replica: usize, barrier: u64) -> Result<(), Break> {
        let Some(checkpoints) = &self.parts.shared.checkpoints else { return Ok(()) };
        // The one before is stored, or this one could not have been asked for.
        self.commit(step, replica)?;
        crate::fail_point!("before-snapshot");
        let state = self.snapshot(step)?;
        if self.parts.outlet.is_none() {
            self.parts.slot(replica).prepared = state.clone().map(|state| (barrier, state));
        }
        crate::fail_point!("at-barrier");
        checkpoints.report(&self.parts.shared.name(), replica, barrier, state);
        Ok(self.outlet.control(Control::Barrier(barrier))?)
    }

    /// The stream has ended: what is known now belongs to every checkpoint from here on.
    pub(super) fn last_checkpoint(&mut self, step: &mut S, replica: usize) -> Result<(), Break> {
        let Some(checkpoints) = &self.parts.shared.checkpoints else { return Ok(()) };
        let stopped = |cause: Option<Cause>| cause.map_or(Break::Aborted, Break::Failed);
        // What a sink prepared is committed before it prepares more. (Whoever else takes part in that checkpoint does not
        // wait for this sink.)
        self.tally.flush(&self.parts.shared.accounts);
        let waits = self.parts.slot(replica).prepared.as_ref().map(|(barrier, _)| *barrier);
        if let Some(barrier) = waits {
            checkpoints.wait_for(barrier).map_err(stopped)?;
            self.commit(step, replica)?;
        }
        let state = self.snapshot(step)?;
        crate::fail_point!("at-end");
        checkpoints.finish(&self.parts.shared.name(), replica, state.clone());
        if self.parts.outlet.is_some() {
            return Ok(());
        }
        checkpoints.wait_for_end().map_err(stopped)?;
        self.parts.slot(replica).prepared = state.map(|state| (checkpoints.stored(), state));
        self.commit(step, replica)
    }

    fn snapshot(&self, step: &mut S) -> Result<Option<Vec<u8>>, Break> {
        let snapshot = guard(|| step.state().map(|state| state.snapshot()).transpose());
        snapshot.and_then(|snapshot| snapshot.map_err(Fault::from)).map_err(|fault| self.cannot(fault))
    }

    /// Tells a sink that its checkpoint is stored, once it is. (A sink is woken for that, or because none can be stored.)
    pub(super) fn commit(&self, step: &mut S, replica: usize) -> Result<(), Break> {
        let Some(checkpoints) = self.parts.shared.checkpoints.as_ref().filter(|_| self.parts.outlet.is_none()) else { return Ok(()) };
        if let Some(cause) = checkpoints.failure() {
            return Err(Break::Failed(cause));
        }
        let prepared = self.parts.slot(replica).prepared.take_if(|(barrier, _)| *barrier <= checkpoints.stored());
        let Some((_, prepared)) = prepared else { return Ok(()) };
        crate::fail_point!("before-sink-commit");
        let told = guard(|| step.state().map_or(Ok(()), |state| state.committed(&prepared)));
        crate::fail_point!("after-sink-commit");
        told.and_then(|told| told.map_err(Fault::from)).map_err(|fault| self.cannot(fault))
    }

    pub(super) fn cannot(&self, fault: Fault) -> Break {
        Break::Failed(Cause::StageFailed { stage: self.parts.shared.name(), fault })
    }
}
