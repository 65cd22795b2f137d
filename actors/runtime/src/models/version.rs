//! Versions of a model: what is loaded, what it takes, and what came of its use.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_edge::Credit;

use crate::{
    error::{Fault, StageError},
    infer::{ModelHandler, ModelId},
};

/// Loads a version of a model.
pub struct LoadModel<H> {
    /// What its weights take, where that is known before it is loaded.
    pub(super) bytes: Option<u64>,
    pub(super) load: Arc<dyn Fn() -> Result<H, StageError> + Send + Sync>,
}

impl<H> Clone for LoadModel<H> {
    fn clone(&self) -> Self {
        LoadModel { bytes: self.bytes, load: self.load.clone() }
    }
}

impl<H> LoadModel<H> {
    /// Calls the closure when the model is needed; it may be called again, to roll back.
    pub fn new(load: impl Fn() -> Result<H, StageError> + Send + Sync + 'static) -> Self {
        LoadModel { bytes: None, load: Arc::new(load) }
    }

    /// Says what the weights take, so that it can be reserved before they are loaded. Without this it is reserved when the
    /// model is loaded and says so itself.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }
}

/// A loaded version.
pub(super) struct Version<H> {
    pub(super) id: Arc<ModelId>,
    pub(super) handler: H,
    pub(super) source: LoadModel<H>,
    pub(super) uses: Uses,
    /// Held for its drop.
    pub(super) _memory: Option<Credit>,
}

/// Two versions are the same only if they are one.
impl<H> PartialEq for Version<H> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// What came of a version's use.
#[derive(Default)]
pub(super) struct Uses {
    batches: AtomicU64,
    examples: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

impl Uses {
    pub(super) fn ran(&self, examples: usize, nanos: u64) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.examples.fetch_add(examples as u64, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, id: &ModelId) -> VersionInfo {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        VersionInfo { id: id.clone(), batches: read(&self.batches), examples: read(&self.examples), failed: read(&self.failed), nanos: read(&self.nanos) }
    }
}

/// A version and what came of its use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// Which one.
    pub id: ModelId,
    /// Batches that it was given.
    pub batches: u64,
    /// Examples that it gave outputs for.
    pub examples: u64,
    /// Batches on which it failed.
    pub failed: u64,
    /// Time of the batches that went well, in nanoseconds.
    pub nanos: u64,
}

impl VersionInfo {
    /// The part of its batches that failed.
    pub fn failure_rate(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.failed as f64 / self.batches as f64 }
    }

    /// What came of its use after an earlier look.
    pub(super) fn since(&self, before: &VersionInfo) -> VersionInfo {
        VersionInfo {
            id: self.id.clone(),
            batches: self.batches.saturating_sub(before.batches),
            examples: self.examples.saturating_sub(before.examples),
            failed: self.failed.saturating_sub(before.failed),
            nanos: self.nanos.saturating_sub(before.nanos),
        }
    }

    /// Nanoseconds per example.
    pub fn nanos_per_example(&self) -> f64 {
        if self.examples == 0 { 0.0 } else { self.nanos as f64 / self.examples as f64 }
    }
}

/// Why a version was not put in place. What was there before is still there, unless it says otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SwapError {
    /// There is no room for both.
    Memory {
        /// What the new one takes.
        needed: u64,
        /// What was free.
        free: u64,
    },
    /// It could not be loaded.
    Load(Fault),
    /// It does not take the same inputs, or give the same outputs.
    Incompatible(Fault),
    /// The examples that it was tried on failed, or came out wrong.
    Probe(Fault),
    /// There is nothing to go back to.
    NoPrevious,
    /// The new one did not fit beside the old one, and then could not be loaded; nor could the old one again. There is no
    /// model now: batches fail until another is put in place.
    Gone(Fault),
}

impl fmt::Display for SwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwapError::Memory { needed, free } => write!(f, "the new model takes {needed} bytes, {free} are free beside the old one"),
            SwapError::Load(fault) => write!(f, "the new model cannot be loaded: {fault}"),
            SwapError::Incompatible(fault) => write!(f, "the new model does not fit in the old one's place: {fault}"),
            SwapError::Probe(fault) => write!(f, "the new model failed its probe: {fault}"),
            SwapError::NoPrevious => f.write_str("there is no earlier version"),
            SwapError::Gone(fault) => write!(f, "neither the new model nor the old one can be loaded: {fault}"),
        }
    }
}

impl std::error::Error for SwapError {}

/// What a swap does where the new version does not fit into memory beside the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMemory {
    /// It fails. The default.
    #[default]
    Fail,
    /// The old version is unloaded first: batches wait meanwhile.
    Gap,
}

/// A check of a version before it is used: runs it on examples.
pub(super) type Probe<H> = Arc<dyn Fn(&H, &mut <H as ModelHandler>::Model) -> Result<(), StageError> + Send + Sync>;
