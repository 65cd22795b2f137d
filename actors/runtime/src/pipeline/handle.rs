//! A running pipeline, in its owner's hands.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use millstream_edge::Cost;

use super::OnDrop;
use crate::{
    dead_letter::DeadLetters,
    error::{ControlError, PipelineError},
    metrics::{Monitor, Report, Residue, Snapshot, StageMetrics},
    supervise::{Host, Mode, Plumbing, Stopper},
};

/// A running pipeline. What dropping it does is an option of the pipeline.
pub struct Handle {
    host: Host,
    plumbing: Arc<Plumbing>,
    monitor: Monitor,
    dead: Arc<DeadLetters>,
    started: Instant,
    on_drop: OnDrop,
}

/// Ends or changes a pipeline from elsewhere: a signal handler, another thread. Outlives the pipeline harmlessly.
#[derive(Clone)]
pub struct Remote(Stopper, Monitor);

impl Remote {
    /// Has a stage begin afresh: its workers end when they have nothing in hand, and others go on where they stopped, with
    /// instances from the factory. Nothing is lost or reordered. It does not count as a crash.
    ///
    /// # Errors
    /// If there is no such stage.
    pub fn restart(&self, stage: &str) -> Result<(), ControlError> {
        let index = self.1.index_of(stage).ok_or_else(|| ControlError::NoSuchStage(stage.to_owned()))?;
        self.0.renew(index);
        Ok(())
    }

    /// Changes how many replicas a stage has, within the range that it was given. New ones begin to take records when their
    /// instances are made; those that go finish what they have in hand. Nothing is lost, and keys keep their order. Unless
    /// [`Scaling`](crate::Scaling) is by hand, the load may change it again.
    ///
    /// # Errors
    /// If there is no such stage, or its range does not hold so many.
    pub fn scale(&self, stage: &str, replicas: usize) -> Result<(), ControlError> {
        let index = self.1.index_of(stage).ok_or_else(|| ControlError::NoSuchStage(stage.to_owned()))?;
        let (fewest, most) = self.1.bounds_of(index);
        if !(fewest..=most).contains(&replicas) {
            return Err(ControlError::OutOfRange { stage: stage.to_owned(), asked: replicas, fewest, most });
        }
        self.0.scale(index, replicas);
        Ok(())
    }

    /// Stops the sources; what was let in is finished.
    pub fn drain(&self) {
        self.0.stop(Mode::Drain, None);
    }

    /// Stops everything; what is on its way is cancelled.
    pub fn abort(&self) {
        self.0.stop(Mode::Abort, None);
    }

    /// Ends the pipeline in one of these ways; shortly before the deadline, what is left is aborted, and at the deadline
    /// threads that are still in user code are left behind.
    pub fn shutdown(&self, mode: Mode, deadline: Duration) {
        self.0.stop(mode, Some(deadline));
    }
}

impl Handle {
    pub(super) fn new(
        host: Host,
        plumbing: Arc<Plumbing>,
        metrics: Vec<Arc<StageMetrics>>,
        into: Vec<String>,
        dead: Arc<DeadLetters>,
        started: Instant,
        on_drop: OnDrop,
    ) -> Self {
        let monitor = Monitor::new(plumbing.clone(), metrics, into);
        Handle { host, plumbing, monitor, dead, started, on_drop }
    }

    /// Something to end or change the pipeline with from elsewhere.
    pub fn remote(&self) -> Remote {
        Remote(self.host.stopper(), self.monitor.clone())
    }

    /// Has a stage begin afresh; see [`Remote::restart`].
    ///
    /// # Errors
    /// As [`Remote::restart`].
    pub fn restart(&self, stage: &str) -> Result<(), ControlError> {
        self.remote().restart(stage)
    }

    /// Changes how many replicas a stage has; see [`Remote::scale`].
    ///
    /// # Errors
    /// As [`Remote::scale`].
    pub fn scale(&self, stage: &str, replicas: usize) -> Result<(), ControlError> {
        self.remote().scale(stage, replicas)
    }

    /// All counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.monitor.snapshot()
    }

    /// Something to look at the counters with from elsewhere: a page of metrics, a terminal.
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// Whether it has ended: joining will not wait.
    pub fn has_ended(&self) -> bool {
        self.host.has_ended()
    }

    /// Waits for the end of the source, or of a shutdown.
    ///
    /// # Errors
    /// If the pipeline failed; the error carries the report.
    pub fn join(mut self) -> Result<Report, PipelineError> {
        let end = self.host.join();
        if let Some(checkpoints) = &self.plumbing.checkpoints {
            checkpoints.join();
        }
        self.on_drop = OnDrop::Detach;
        self.plumbing.accounts.reaper.stop();
        let snapshot = self.snapshot();
        let credits = self.plumbing.edges.iter().fold(Cost::default(), |sum, edge| sum.plus(edge.outstanding()));
        let report = Report {
            counts: snapshot.counts,
            elapsed: self.started.elapsed(),
            dead_letters: self.dead.kept(),
            residue: Residue {
                credits,
                permits: snapshot.reserved,
                overdraft: snapshot.overdraft_bytes,
                threads: self.plumbing.threads.load(Ordering::Acquire),
            },
            snapshot,
        };
        match end.cause {
            None => Ok(report),
            Some(cause) => Err(PipelineError::Failed { cause, report: Box::new(report) }),
        }
    }

    /// Stops the sources, finishes what was let in, and waits for that.
    ///
    /// # Errors
    /// As [`Handle::join`].
    pub fn drain(self) -> Result<Report, PipelineError> {
        self.remote().drain();
        self.join()
    }

    /// Stops everything and waits for that.
    ///
    /// # Errors
    /// As [`Handle::join`].
    pub fn abort(self) -> Result<Report, PipelineError> {
        self.remote().abort();
        self.join()
    }

    /// Ends by a deadline; see [`Remote::shutdown`].
    ///
    /// # Errors
    /// As [`Handle::join`].
    pub fn shutdown(self, mode: Mode, deadline: Duration) -> Result<Report, PipelineError> {
        self.remote().shutdown(mode, deadline);
        self.join()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Detach => return,
            OnDrop::Abort => self.remote().abort(),
            OnDrop::Drain => self.remote().drain(),
        }
        if let Some(cause) = self.host.join().cause {
            tracing::error!(%cause, "a pipeline that nobody waited for failed");
        }
        self.plumbing.accounts.reaper.stop();
    }
}
