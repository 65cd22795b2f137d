//! Where event time begins: records get their times, and watermarks are made of them.

use std::time::Duration;

use super::micros;
use crate::{
    checkpoint::State,
    error::StageError,
    stage::{Context, Emit, Transform},
};

/// How far event time has come, judged by the times that were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watermarks {
    pub(crate) behind: Duration,
    pub(crate) idle_after: Option<Duration>,
}

impl Watermarks {
    /// No record comes later than so long after a record with a later time; one that does is late.
    pub fn bounded(disorder: Duration) -> Self {
        Watermarks { behind: disorder, idle_after: None }
    }

    /// After so long without a record, nobody waits for this flow's event time until the next record comes.
    #[must_use]
    pub fn idle_after(mut self, time: Duration) -> Self {
        self.idle_after = Some(time);
        self
    }
}

/// Gives records their times.
pub(crate) struct AssignFn<F> {
    time: F,
    behind: i64,
    latest: i64,
}

impl<F> AssignFn<F> {
    pub(crate) fn new(time: F, watermarks: Watermarks) -> Self {
        AssignFn { time, behind: micros(watermarks.behind), latest: i64::MIN }
    }
}

impl<T, E: Into<StageError>, F: FnMut(&T) -> Result<i64, E> + Send> Transform<T, T> for AssignFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<T>) -> Result<(), StageError> {
        let time = (self.time)(&record).map_err(Into::into)?;
        out.set_event_time(time);
        self.latest = self.latest.max(time);
        out.set_watermark(Some(self.latest.saturating_sub(self.behind)));
        out.push(record);
        Ok(())
    }

    fn watermark(&mut self, _time: i64, out: &mut Emit<T>) -> Result<(), StageError> {
        // What was said of event time before it was assigned here is void.
        out.set_watermark(None);
        Ok(())
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }
}

impl<F> State for AssignFn<F> {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        Ok(self.latest.to_le_bytes().to_vec())
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        if let Some(snapshot) = snapshot {
            self.latest = snapshot.try_into().map(i64::from_le_bytes).map_err(StageError::fatal)?;
        }
        Ok(())
    }

    /// A fresh instance learns how far event time has come from the next record.
    fn outlives_instances(&self) -> bool {
        true
    }
}
