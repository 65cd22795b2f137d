//! Versions on trial: a share of the batches goes to the new one until it has proved itself, or has not.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::version::{Version, VersionInfo};
use crate::{error::StageError, infer::ModelHandler, panics::guard, stage::Start};

/// How often somebody asks whether the trial is called off.
const LOOK: Duration = Duration::from_millis(20);

/// How a version is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Canary {
    /// The share of batches that it gets. A batch on which it fails is run on the old version, so that no record suffers.
    pub share: f64,
    /// So many batches decide.
    pub batches: u64,
    /// It is rolled back as soon as it has failed on more than this part of those.
    pub max_failures: f64,
    /// It is rolled back if an example takes so many times as long as on the old version.
    pub max_slowdown: f64,
    /// It is rolled back if it has not had its batches within this time.
    pub within: Duration,
}

impl Default for Canary {
    fn default() -> Self {
        Canary { share: 0.1, batches: 100, max_failures: 0.01, max_slowdown: 2.0, within: Duration::from_secs(600) }
    }
}

/// What became of a version on trial.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether it is the current version now.
    pub promoted: bool,
    /// Why.
    pub why: String,
    /// The old version, as it was used meanwhile.
    pub stable: VersionInfo,
    /// The new one.
    pub candidate: VersionInfo,
}

/// A version on trial.
pub(super) struct Trial<H: ModelHandler> {
    pub(super) version: Arc<Version<H>>,
    rules: Canary,
    /// Batches that could have gone to it.
    asked: AtomicU64,
    over: Mutex<bool>,
    ended: Condvar,
}

/// A replica's model of the version on trial.
pub(super) struct Seat<H: ModelHandler> {
    version: Arc<Version<H>>,
    pub(super) model: H::Model,
}

impl<H: ModelHandler> Seat<H> {
    pub(super) fn new(version: &Arc<Version<H>>, start: &Start) -> Result<Self, StageError> {
        Ok(Seat { version: version.clone(), model: version.handler.load(start)? })
    }
}

impl<H: ModelHandler> Trial<H> {
    pub(super) fn new(version: Arc<Version<H>>, rules: Canary) -> Arc<Self> {
        Arc::new(Trial { version, rules, asked: AtomicU64::new(0), over: Mutex::new(false), ended: Condvar::new() })
    }

    /// Whether the next batch is one of its share.
    pub(super) fn wants_next(&self) -> bool {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        let due = |asked: u64| (asked as f64 * self.rules.share.clamp(0.0, 1.0)).floor();
        due(before + 1) > due(before)
    }

    /// Runs a batch on it; `None` if it failed.
    pub(super) fn run(&self, seat: &mut Option<Seat<H>>, start: &Start, batch: &[&H::Input]) -> Option<Vec<H::Output>> {
        let version = &self.version;
        let result = guard(|| {
            if seat.as_ref().is_none_or(|seat| !Arc::ptr_eq(&seat.version, version)) {
                *seat = Some(Seat::new(version, start)?);
            }
            let begun = Instant::now();
            let Some(seat) = seat else { return Err(StageError::permanent("no seat")) };
            Ok((version.handler.run(&mut seat.model, batch)?, begun.elapsed()))
        });
        let outputs = match result {
            Ok(Ok((outputs, took))) if outputs.len() == batch.len() => {
                version.uses.ran(batch.len(), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                Some(outputs)
            }
            Ok(Ok(_)) => {
                tracing::warn!(version = %version.id, "the version on trial gave another number of outputs");
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(version = %version.id, %error, "the version on trial failed on a batch");
                None
            }
            Err(fault) => {
                tracing::warn!(version = %version.id, %fault, "the version on trial panicked");
                *seat = None;
                None
            }
        };
        if outputs.is_none() {
            version.uses.failed();
        }
        let info = version.uses.of(&version.id);
        if info.batches >= self.rules.batches || self.hopeless(&info) {
            *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.ended.notify_all();
        }
        outputs
    }

    /// It has failed more often than it may in all.
    fn hopeless(&self, info: &VersionInfo) -> bool {
        info.failed as f64 > self.rules.max_failures * self.rules.batches as f64
    }

    /// Waits until it has had its batches, or its time, or is called off; whether it was.
    pub(super) fn wait(&self, called_off: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + self.rules.within;
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if called_off() {
                return true;
            }
            over = self.ended.wait_timeout(over, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Whether it may take the old version's place, and why.
    pub(super) fn judge(&self, stable: VersionInfo, called_off: bool) -> Verdict {
        let candidate = self.version.uses.of(&self.version.id);
        let rules = &self.rules;
        let slowdown = if stable.examples == 0 { 1.0 } else { candidate.nanos_per_example() / stable.nanos_per_example().max(1.0) };
        let problem = if self.hopeless(&candidate) {
            Some(format!("it failed on {} of {} batches", candidate.failed, candidate.batches))
        } else if called_off {
            Some(format!("it was called off after {} of {} batches", candidate.batches, rules.batches))
        } else if candidate.batches < rules.batches {
            Some(format!("it had {} of {} batches in {:?}", candidate.batches, rules.batches, rules.within))
        } else if slowdown > rules.max_slowdown {
            Some(format!("an example takes {slowdown:.1} times as long"))
        } else {
            None
        };
        let why = problem.clone().unwrap_or_else(|| format!("{} batches, {} failed, {slowdown:.2} times the time", candidate.batches, candidate.failed));
        Verdict { promoted: problem.is_none(), why, stable, candidate }
    }
}
