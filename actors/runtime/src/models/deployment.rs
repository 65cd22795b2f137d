//! A model in use, and the ways to put another version in its place.
//!
//! ```text
//! swap: reserve the new version's bytes → load → same contract? → a model for each replica → probe → publish
//! publish: the new version is current; each replica's model is exchanged between two of its batches
//! rollback: the version before is put back the same way
//! ```
//!
//! Each step before the last leaves everything as it was. Nobody waits for a swap, unless both versions do not fit into
//! memory and the caller chose [`OnMemory::Gap`].

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use millstream_edge::{Credit, Lockers};

use super::{
    canary::{Canary, Trial, Verdict},
    deployed::{Deployed, Loaded},
    memory::ModelMemory,
    version::{LoadModel, OnMemory, Probe, SwapError, Uses, Version, VersionInfo},
};
use crate::{
    error::{Fault, StageError},
    infer::ModelHandler,
    panics::guard,
    stage::Start,
};

/// How often somebody looks whether an old version is gone, every tenth of a millisecond.
const PATIENCE: u32 = 20_000;

/// A model in use, whose versions can be exchanged while stages run it. Clones are handles to the same.
///
/// ```
/// use millstream_runtime::{Deployment, LoadModel, Pipeline, RunInference, StageError, collect, from_iter, handler};
///
/// let version = |n: u64| LoadModel::new(move || Ok(handler("add", move |batch: &[&u64]| Ok(batch.iter().map(|x| **x + n).collect())).version(n.to_string())));
/// let deployment = Deployment::new(version(1))?;
/// let (sink, sums) = collect();
/// let model = RunInference::new(deployment.handler());
/// let pipeline = Pipeline::from(from_iter(0..3u64)).infer("add", model).map("sum", |p| p.inference).sink(sink);
/// deployment.swap(version(2))?;
/// pipeline.run().expect("nothing fails");
/// assert_eq!(sums.take(), [2, 3, 4]);
/// # Ok::<(), millstream_runtime::SwapError>(())
/// ```
pub struct Deployment<H: ModelHandler>(Arc<Inner<H>>);

impl<H: ModelHandler> Clone for Deployment<H> {
    fn clone(&self) -> Self {
        Deployment(self.0.clone())
    }
}

pub(super) struct Inner<H: ModelHandler> {
    pub(super) lockers: Lockers<Option<Arc<Version<H>>>, Loaded<H>>,
    /// Waited on while there is no version.
    pub(super) gap: Mutex<()>,
    pub(super) published: Condvar,
    pub(super) trial: Mutex<Option<Arc<Trial<H>>>>,
    pub(super) on_trial: AtomicBool,
    /// Held during every change.
    history: Mutex<History<H>>,
    memory: Option<ModelMemory>,
    on_memory: OnMemory,
    keep_previous: bool,
    probe: Option<Probe<H>>,
}

struct History<H> {
    contract: Vec<String>,
    previous: Option<Previous<H>>,
}

/// What a rollback goes back to.
enum Previous<H> {
    Loaded(Arc<Version<H>>),
    Source(LoadModel<H>),
}

/// Options of a deployment.
pub struct DeploymentOptions<H: ModelHandler> {
    memory: Option<ModelMemory>,
    on_memory: OnMemory,
    keep_previous: bool,
    probe: Option<Probe<H>>,
}

impl<H: ModelHandler> Default for DeploymentOptions<H> {
    fn default() -> Self {
        DeploymentOptions { memory: None, on_memory: OnMemory::Fail, keep_previous: true, probe: None }
    }
}

impl<H: ModelHandler> DeploymentOptions<H> {
    /// No limit to memory, the previous version stays loaded, no probe.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the bytes of weights are reserved.
    #[must_use]
    pub fn memory(mut self, memory: &ModelMemory) -> Self {
        self.memory = Some(memory.clone());
        self
    }

    /// What happens where both versions do not fit.
    #[must_use]
    pub fn on_memory(mut self, on_memory: OnMemory) -> Self {
        self.on_memory = on_memory;
        self
    }

    /// Whether the version before stays loaded, so that a rollback is immediate. Otherwise a rollback loads it anew.
    #[must_use]
    pub fn keep_previous(mut self, keep: bool) -> Self {
        self.keep_previous = keep;
        self
    }

    /// Runs these examples on each new version before it is used, and looks at the outputs. It also warms the model up.
    #[must_use]
    pub fn probe(mut self, examples: Vec<H::Input>, check: impl Fn(&[H::Output]) -> Result<(), StageError> + Send + Sync + 'static) -> Self
    where
        H::Input: Sync,
    {
        self.probe = Some(Arc::new(move |handler, model| {
            let batch: Vec<&H::Input> = examples.iter().collect();
            let mut outputs = Vec::new();
            for chunk in batch.chunks(handler.max_batch().unwrap_or(usize::MAX).max(1)) {
                outputs.extend(handler.run(model, chunk)?);
            }
            check(&outputs)
        }));
        self
    }
}

impl<H: ModelHandler> Deployment<H> {
    /// Loads a first version.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn new(model: LoadModel<H>) -> Result<Self, SwapError> {
        Self::with(model, DeploymentOptions::new())
    }

    /// As [`Deployment::new`], with options.
    ///
    /// # Errors
    /// As [`Deployment::new`], and if it does not fit or fails its probe.
    pub fn with(model: LoadModel<H>, options: DeploymentOptions<H>) -> Result<Self, SwapError> {
        let DeploymentOptions { memory, on_memory, keep_previous, probe } = options;
        let inner = Inner {
            lockers: Lockers::new(None),
            gap: Mutex::new(()),
            published: Condvar::new(),
            trial: Mutex::new(None),
            on_trial: AtomicBool::new(false),
            history: Mutex::new(History { contract: Vec::new(), previous: None }),
            memory,
            on_memory,
            keep_previous,
            probe,
        };
        let version = inner.load(&model)?;
        inner.prepare(&version, 1)?;
        inner.history().contract = version.handler.contract();
        inner.publish(Some(version), &mut Vec::new());
        Ok(Deployment(Arc::new(inner)))
    }

    /// What [`RunInference::new`](crate::RunInference::new) takes; several stages may have it.
    pub fn handler(&self) -> Deployed<H> {
        Deployed(self.0.clone())
    }

    /// The version in use, and what came of its use; `None` while there is none.
    pub fn current(&self) -> Option<VersionInfo> {
        self.0.lockers.current().map(|version| version.uses.of(&version.id))
    }

    /// Puts a version in the place of the current one. It returns when every replica has taken it over.
    ///
    /// # Errors
    /// If it does not fit, cannot be loaded, takes or gives something else, or fails its probe. The old one then stays; see
    /// [`SwapError::Gone`] for the exception.
    pub fn swap(&self, model: LoadModel<H>) -> Result<(), SwapError> {
        let mut history = self.0.history();
        let version = match self.0.load(&model) {
            Err(SwapError::Memory { needed, .. }) if self.0.may_unload_for(needed) => return self.0.swap_with_gap(&model, &mut history),
            loaded => loaded?,
        };
        self.0.accept(&version, &history)?;
        self.0.replace(version, &mut history)
    }

    /// Goes back to the version before.
    ///
    /// # Errors
    /// If there is none, or as [`Deployment::swap`] if it is no longer loaded.
    pub fn rollback(&self) -> Result<(), SwapError> {
        let previous = self.0.history().previous.take().ok_or(SwapError::NoPrevious)?;
        let back = match &previous {
            Previous::Loaded(version) => self.0.replace(version.clone(), &mut self.0.history()),
            Previous::Source(source) => self.swap(source.clone()),
        };
        if back.is_err() {
            self.0.history().previous.get_or_insert(previous);
        }
        back
    }

    /// Tries a version on a share of the batches, and puts it in place if it proves itself. Waits for the verdict.
    ///
    /// # Errors
    /// As [`Deployment::swap`], before the trial begins.
    pub fn canary(&self, model: LoadModel<H>, rules: Canary) -> Result<Verdict, SwapError> {
        self.canary_until(model, rules, || false)
    }

    /// As [`Deployment::canary`]; the trial ends without a change as soon as the closure, which is asked every now and then,
    /// says that it is called off.
    ///
    /// # Errors
    /// As [`Deployment::canary`].
    pub fn canary_until(&self, model: LoadModel<H>, rules: Canary, called_off: impl Fn() -> bool) -> Result<Verdict, SwapError> {
        let inner = &self.0;
        let mut history = inner.history();
        let version = inner.load(&model)?;
        inner.accept(&version, &history)?;
        let before = self.current();
        let trial = Trial::new(version.clone(), rules);
        *inner.trial.lock().unwrap_or_else(PoisonError::into_inner) = Some(trial.clone());
        inner.on_trial.store(true, Ordering::Release);
        let called_off = trial.wait(called_off);
        inner.on_trial.store(false, Ordering::Release);
        inner.trial.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stable = self.current().zip(before).map_or_else(|| Uses::default().of(&version.id), |(now, before)| now.since(&before));
        let verdict = trial.judge(stable, called_off);
        if verdict.promoted {
            tracing::info!(version = %version.id, why = verdict.why, "a version has proved itself");
            inner.replace(version, &mut history)?;
        } else {
            match called_off {
                true => tracing::info!(version = %version.id, why = verdict.why, "a trial was called off"),
                false => tracing::warn!(version = %version.id, why = verdict.why, "a version on trial was rolled back"),
            }
            inner.lockers.visit(|loaded| loaded.map(|loaded| Loaded { seat: None, ..loaded }));
            drop(trial);
            let_go(version);
        }
        Ok(verdict)
    }
}

impl<H: ModelHandler> Inner<H> {
    fn history(&self) -> MutexGuard<'_, History<H>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bytes: u64) -> Result<Option<Credit>, SwapError> {
        let Some(memory) = &self.memory else { return Ok(None) };
        memory.reserve(bytes).map(Some).ok_or_else(|| SwapError::Memory { needed: bytes, free: memory.free() })
    }

    fn load(&self, source: &LoadModel<H>) -> Result<Arc<Version<H>>, SwapError> {
        let early = source.bytes.map(|bytes| self.reserve(bytes)).transpose()?;
        let handler = guarded(|| (source.load)()).map_err(SwapError::Load)?;
        let memory = match early {
            Some(memory) => memory,
            None => self.reserve(handler.model_bytes())?,
        };
        Ok(Arc::new(Version { id: Arc::new(handler.id()), handler, source: source.clone(), uses: Uses::default(), _memory: memory }))
    }

    /// Checks that the version can be used.
    fn accept(&self, version: &Arc<Version<H>>, history: &History<H>) -> Result<(), SwapError> {
        let contract = version.handler.contract();
        if contract != history.contract {
            let message = format!("it is {}, in the place of {}", contract.join(", "), history.contract.join(", "));
            return Err(SwapError::Incompatible(StageError::permanent(message).into()));
        }
        Ok(())
    }

    /// Makes models of the version and probes one.
    fn prepare(&self, version: &Arc<Version<H>>, models: usize) -> Result<Vec<H::Model>, SwapError> {
        let make = |replica| guarded(|| version.handler.load(&Start { replica, incarnation: 0 })).map_err(SwapError::Load);
        let mut ready = (0..models.max(1)).map(make).collect::<Result<Vec<_>, _>>()?;
        if let (Some(probe), Some(model)) = (&self.probe, ready.first_mut()) {
            guarded(|| probe(&version.handler, model)).map_err(SwapError::Probe)?;
        }
        Ok(ready)
    }

    /// Puts a version that was accepted in place, and keeps what was there.
    fn replace(&self, version: Arc<Version<H>>, history: &mut History<H>) -> Result<(), SwapError> {
        let mut ready = self.prepare(&version, self.lockers.users())?;
        let id = version.id.clone();
        let old = self.publish(Some(version), &mut ready);
        tracing::info!(version = %id, before = old.as_ref().map(|old| old.id.to_string()), "a model was swapped");
        let gone = match (old, self.keep_previous) {
            (Some(old), true) => history.previous.replace(Previous::Loaded(old)),
            (Some(old), false) => {
                history.previous = Some(Previous::Source(old.source.clone()));
                Some(Previous::Loaded(old))
            }
            (None, _) => None,
        };
        if let Some(Previous::Loaded(gone)) = gone {
            let_go(gone);
        }
        Ok(())
    }

    /// Whether the current version may be unloaded to make room for this much.
    fn may_unload_for(&self, bytes: u64) -> bool {
        self.on_memory == OnMemory::Gap && self.memory.as_ref().is_some_and(|memory| bytes <= memory.limit())
    }

    /// Makes the version current, with these models for the replicas.
    fn publish(&self, version: Option<Arc<Version<H>>>, ready: &mut Vec<H::Model>) -> Option<Arc<Version<H>>> {
        let mut stale = Vec::new();
        let old = self.lockers.publish(version.clone(), |loaded| {
            stale.extend(loaded);
            let version = version.clone()?;
            Some(Loaded { model: ready.pop()?, version, seat: None })
        });
        // Dropped while no replica waits.
        drop(stale);
        drop(self.gap.lock().unwrap_or_else(PoisonError::into_inner));
        self.published.notify_all();
        old
    }

    /// Unloads the current version before the new one is loaded; loads it again if that fails.
    fn swap_with_gap(&self, model: &LoadModel<H>, history: &mut History<H>) -> Result<(), SwapError> {
        if let Some(Previous::Loaded(previous)) = history.previous.take() {
            let_go(previous);
        }
        let old = self.publish(None, &mut Vec::new()).map(|old| {
            let source = old.source.clone();
            let_go(old);
            source
        });
        let put = |source: &LoadModel<H>, history: &History<H>| {
            let version = self.load(source)?;
            self.accept(&version, history)?;
            let mut ready = self.prepare(&version, self.lockers.users())?;
            self.publish(Some(version), &mut ready);
            Ok(())
        };
        let Err(error) = put(model, history) else {
            history.previous = old.map(Previous::Source);
            return Ok(());
        };
        match old.map(|old| put(&old, history)) {
            Some(Ok(())) => Err(error),
            Some(Err(worse)) => Err(SwapError::Gone(StageError::permanent(worse).into())),
            None => Err(error),
        }
    }
}

/// Drops a version that nobody runs any more. Who was just asking it something lets go of it soon.
fn let_go<H>(version: Arc<Version<H>>) {
    let users = Arc::downgrade(&version);
    drop(version);
    for _ in 0..PATIENCE {
        if users.strong_count() == 0 {
            return;
        }
        thread::sleep(Duration::from_micros(100));
    }
    tracing::warn!("an old version of a model is still in use");
}

/// Runs user code; errors and panics are faults.
fn guarded<R>(run: impl FnOnce() -> Result<R, StageError>) -> Result<R, Fault> {
    guard(run)?.map_err(Fault::from)
}
