//! What the worker passes on beside records: barriers, event time; and in quarantine nothing else.

use millstream_edge::Control;

use super::{Break, Worker};
use crate::{
    error::Fault,
    infer::{ModelHandler, stage::Parts},
    stage::{Condemned, Exit, Start},
};

impl<T: Send + 'static, H: ModelHandler> Worker<'_, T, H> {
    /// Passes a barrier on, once nothing waits that came before it.
    pub(super) fn pass_barrier_on(&mut self) -> Result<(), Break> {
        if self.batcher.len() == 0
            && self.groups.is_empty()
            && let Some(barrier) = self.barrier.take()
        {
            self.checkpoint(barrier)?;
            self.outlet.control(Control::Barrier(barrier)).map_err(|_| Break::Aborted)?;
        }
        Ok(())
    }

    /// Passes a watermark on, as far as nobody who is earlier waits here, and idleness when nobody waits here.
    pub(super) fn pass_time_on(&mut self) -> Result<(), Break> {
        if self.idle && self.batcher.len() == 0 && self.groups.is_empty() {
            (self.idle, self.passed_on) = (false, i64::MIN);
            self.outlet.control(Control::Idle).map_err(|_| Break::Aborted)?;
        }
        let Some(watermark) = self.watermark else { return Ok(()) };
        let in_groups = self.groups.iter().flat_map(|group| &group.items);
        let waiting = self.batcher.iter().map(|pending| &pending.item).chain(in_groups);
        let earliest = waiting.filter_map(|item| item.envelope.head.event_time).min().unwrap_or(i64::MAX);
        if earliest >= watermark {
            self.watermark = None;
        }
        let time = earliest.min(watermark);
        if time > self.passed_on {
            self.passed_on = time;
            self.outlet.control(Control::Watermark(time)).map_err(|_| Break::Aborted)?;
        }
        Ok(())
    }

    /// Works on in quarantine.
    pub(super) fn condemned(parts: &Parts<T, H>, start: Start, fault: &Fault) -> Exit {
        let (left, ended) = {
            let mut slot = parts.slot(start.replica);
            slot.held = None;
            let in_groups: Vec<_> = std::mem::take(&mut slot.groups).into_iter().rev().flat_map(|group| group.items).collect();
            let waiting = std::mem::take(&mut slot.waiting).into_iter().map(|pending| pending.item);
            (in_groups.into_iter().chain(waiting).map(|item| item.envelope).collect(), slot.ended)
        };
        let encode = parts.run.letter.as_deref();
        Condemned { shared: &parts.shared, inlet: &parts.inlet, outlet: Some(&parts.outlet), fault, encode }.run(start.replica, left, ended)
    }
}
