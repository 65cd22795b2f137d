//! The stage around a model: what outlives its workers.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use millstream_edge::{Credit, Edge};

use super::{ModelHandler, Prediction, RunInference, sequence::Sequenced, worker::Worker};
use crate::{
    batch::{BatchLimit, BatchOptions, Pace, Pending, ReleaseReason},
    envelope::Envelope,
    metrics::StageMetrics,
    stage::{Entrance, Exit, Orders, Outlet, Stage, StageShared, Start, spawn_worker},
    supervise::AnyEdge,
};

/// A stage that runs a model.
pub(crate) struct InferStage<T, H: ModelHandler>(Arc<Parts<T, H>>);

pub(super) struct Parts<T, H: ModelHandler> {
    pub(super) shared: Arc<StageShared>,
    pub(super) run: RunInference<T, H>,
    /// The options, with what the model asks for.
    pub(super) batch: BatchOptions,
    /// The most bytes of a run.
    pub(super) memory: u64,
    pub(super) inlet: Arc<Edge<Envelope<T>>>,
    pub(super) outlet: Arc<Outgoing<T, H>>,
    /// What a model that remembers knows of sequences. It outlives the workers.
    pub(super) sequences: Option<Box<dyn Sequenced<H>>>,
    slots: Vec<Mutex<Slot<T, H::Input>>>,
}

/// What follows the stage.
pub(super) type Outgoing<T, H> = dyn Entrance<Prediction<T, <H as ModelHandler>::Output>>;

/// An example on its way through the stage.
pub(super) struct Item<T, I> {
    pub(super) envelope: Envelope<T>,
    /// What preprocessing made of it.
    pub(super) made: Option<I>,
    /// Its sequence ends with it.
    pub(super) last: bool,
}

/// Examples that are run together.
pub(super) struct Group<T, I> {
    pub(super) items: Vec<Item<T, I>>,
    /// How many times the group as it is has failed transiently.
    pub(super) attempt: u32,
    /// Part of a batch that panicked: panics are expected, and answered here.
    pub(super) suspect: bool,
    /// When the oldest arrived.
    pub(super) since: Instant,
    pub(super) reason: ReleaseReason,
    /// When it, or a group that it was part of, was run first.
    pub(super) began: Option<Instant>,
}

/// What a worker leaves to its successor.
pub(super) struct Slot<T, I> {
    pub(super) waiting: Vec<Pending<Item<T, I>>>,
    /// The next group is the last.
    pub(super) groups: Vec<Group<T, I>>,
    /// The credits of what waits.
    pub(super) held: Option<Credit>,
    pub(super) limit: BatchLimit,
    pub(super) pace: Pace,
    pub(super) ended: bool,
    pub(super) watermark: Option<i64>,
    pub(super) barrier: Option<u64>,
    /// The states of sequences are those of the checkpoint, if the pipeline has them.
    pub(super) restored: bool,
}

impl<T, H: ModelHandler> InferStage<T, H> {
    pub(crate) fn new(shared: Arc<StageShared>, run: RunInference<T, H>, memory: u64, inlet: Arc<Edge<Envelope<T>>>, outlet: Arc<Outgoing<T, H>>) -> Self {
        let replicas = run.stage.replicas;
        let sequences = run.remembers.as_ref().map(|remembers| (remembers.open)(&shared, replicas));
        // A batch's states must all have room.
        let room = sequences.as_ref().map_or(usize::MAX, |sequences| sequences.most());
        let most = (*run.batch.items.end()).min(run.handler.max_batch().unwrap_or(usize::MAX)).min(room);
        let mut batch = run.batch.clone();
        batch.pad_to = batch.pad_to.max(run.handler.pad_to());
        let slot = || Slot {
            waiting: Vec::new(),
            groups: Vec::new(),
            held: None,
            limit: BatchLimit::new(most),
            pace: Pace::new(&batch, most),
            ended: false,
            watermark: None,
            barrier: None,
            restored: false,
        };
        let slots = (0..replicas).map(|_| Mutex::new(slot())).collect();
        InferStage(Arc::new(Parts { shared, run, batch, memory, inlet, outlet, sequences, slots }))
    }
}

impl<T: Send + 'static, H: ModelHandler> Stage for InferStage<T, H> {
    fn metrics(&self) -> &Arc<StageMetrics> {
        &self.0.shared.metrics
    }

    fn orders(&self) -> Option<(&Orders, &dyn AnyEdge)> {
        Some((&self.0.shared.orders, &*self.0.inlet))
    }

    fn conclude(&self, replica: usize) {
        // What cannot be told was closed, and knows.
        let _ = Outlet::new(Some(&self.0.outlet), &self.0.shared.metrics, replica).finish();
    }

    fn start(&self, start: Start, done: Box<dyn FnOnce(Exit) + Send>) -> io::Result<JoinHandle<()>> {
        let parts = self.0.clone();
        spawn_worker(&parts.shared.name(), start, move || Worker::run(&parts, start), done)
    }
}

impl<T, H: ModelHandler> Parts<T, H> {
    pub(super) fn slot(&self, replica: usize) -> MutexGuard<'_, Slot<T, H::Input>> {
        self.slots[replica].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
