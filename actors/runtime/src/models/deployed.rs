//! A deployment's models as a handler: each batch runs on one version, and a replica takes over a new one between two.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use millstream_edge::Locker;

use super::{
    canary::{Seat, Trial},
    deployment::Inner,
    version::Version,
};
use crate::{
    error::StageError,
    infer::{ModelHandler, ModelId},
    stage::Start,
};

/// How long a batch waits for a version while there is none: during a swap that unloads the old one first.
const GAP: Duration = Duration::from_secs(60);

/// The handler of a [`Deployment`](super::Deployment). Clones share it: one model for several stages.
pub struct Deployed<H: ModelHandler>(pub(super) Arc<Inner<H>>);

impl<H: ModelHandler> Clone for Deployed<H> {
    fn clone(&self) -> Self {
        Deployed(self.0.clone())
    }
}

/// A version's model of one replica.
pub(super) struct Loaded<H: ModelHandler> {
    pub(super) version: Arc<Version<H>>,
    pub(super) model: H::Model,
    /// The model of a version on trial.
    pub(super) seat: Option<Seat<H>>,
}

/// A replica's place in a deployment.
pub struct Replica<H: ModelHandler> {
    inner: Arc<Inner<H>>,
    locker: Locker<Loaded<H>>,
    start: Start,
    /// The version that ran last.
    last: Arc<ModelId>,
}

impl<H: ModelHandler> Drop for Replica<H> {
    fn drop(&mut self) {
        drop(self.inner.lockers.leave(&self.locker));
    }
}

impl<H: ModelHandler> Inner<H> {
    /// The current version; waits for it if there is none.
    pub(super) fn version(&self) -> Result<Arc<Version<H>>, StageError> {
        if let Some(version) = self.lockers.current() {
            return Ok(version);
        }
        let deadline = Instant::now() + GAP;
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(version) = self.lockers.current() {
                return Ok(version);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StageError::transient("there is no version of the model at the moment"));
            }
            gap = self.published.wait_timeout(gap, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn trial(&self) -> Option<Arc<Trial<H>>> {
        if !self.on_trial.load(Ordering::Acquire) {
            return None;
        }
        self.trial.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<H: ModelHandler> Replica<H> {
    /// Lets the closure work with this replica's model, of whatever version is current when it begins.
    fn with<R>(&mut self, work: impl FnOnce(&mut Loaded<H>, &mut Arc<ModelId>) -> Result<R, StageError>) -> Result<R, StageError> {
        loop {
            let mut place = self.locker.open();
            if let Some(loaded) = &mut *place {
                return work(loaded, &mut self.last);
            }
            // Taken away without another in its place: it is made here, now.
            match self.inner.lockers.current() {
                Some(version) => {
                    let model = version.handler.load(&self.start)?;
                    *place = Some(Loaded { version, model, seat: None });
                }
                None => {
                    drop(place);
                    self.inner.version()?;
                }
            }
        }
    }
}

impl<H: ModelHandler> ModelHandler for Deployed<H> {
    type Input = H::Input;
    type Output = H::Output;
    type Model = Replica<H>;

    fn id(&self) -> ModelId {
        self.0.version().map_or_else(|_| ModelId::new("none", "0"), |version| (*version.id).clone())
    }

    fn load(&self, start: &Start) -> Result<Replica<H>, StageError> {
        let mut last = None;
        let locker = self.0.lockers.enrol(|version| {
            let version = match version {
                Some(version) => version.clone(),
                None => self.0.version()?,
            };
            last = Some(version.id.clone());
            let model = version.handler.load(start)?;
            Ok::<_, StageError>(Loaded { version, model, seat: None })
        })?;
        let last = last.unwrap_or_else(|| Arc::new(self.id()));
        Ok(Replica { inner: self.0.clone(), locker, start: *start, last })
    }

    fn bucket(&self, input: &H::Input) -> u64 {
        self.0.version().map_or(0, |version| version.handler.bucket(input))
    }

    fn bytes(&self, input: &H::Input) -> u64 {
        self.0.version().map_or(0, |version| version.handler.bytes(input))
    }

    fn length(&self, input: &H::Input) -> u64 {
        self.0.version().map_or(1, |version| version.handler.length(input))
    }

    fn pad_to(&self) -> u64 {
        self.0.version().map_or(1, |version| version.handler.pad_to())
    }

    fn max_batch(&self) -> Option<usize> {
        self.0.version().ok()?.handler.max_batch()
    }

    fn model_bytes(&self) -> u64 {
        self.0.version().map_or(0, |version| version.handler.model_bytes())
    }

    fn contract(&self) -> Vec<String> {
        self.0.version().map_or_else(|_| Vec::new(), |version| version.handler.contract())
    }

    fn plan_bytes(&self, replica: &mut Replica<H>, batch: &[&H::Input]) -> Option<u64> {
        replica.with(|loaded, _| Ok(loaded.version.handler.plan_bytes(&mut loaded.model, batch))).ok()?
    }

    fn version(&self, replica: &Replica<H>) -> Option<Arc<ModelId>> {
        Some(replica.last.clone())
    }

    fn run(&self, replica: &mut Replica<H>, batch: &[&H::Input]) -> Result<Vec<H::Output>, StageError> {
        let start = replica.start;
        replica.with(|loaded, last| {
            // Looked at while the locker is open: a trial that is over leaves no seat behind.
            if let Some(trial) = self.0.trial().filter(|trial| trial.wants_next())
                && let Some(outputs) = trial.run(&mut loaded.seat, &start, batch)
            {
                *last = trial.version.id.clone();
                return Ok(outputs);
            }
            *last = loaded.version.id.clone();
            let begun = Instant::now();
            let result = loaded.version.handler.run(&mut loaded.model, batch);
            match &result {
                Ok(_) => loaded.version.uses.ran(batch.len(), u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)),
                Err(_) => loaded.version.uses.failed(),
            }
            result
        })
    }
}
