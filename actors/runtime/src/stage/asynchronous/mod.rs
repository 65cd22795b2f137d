//! Stages whose user code is a future: many records in hand at once, for code that waits for others.
//!
//! A worker has a [reactor](reactor): a thread on which the futures of its replica run. The worker itself takes records, waits
//! for room behind it, and keeps the order of results; so a full edge does not stop anybody's timers and sockets.

mod lines;
mod options;
mod reactor;
mod worker;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use millstream_edge::Edge;
pub use options::AsyncOptions;
pub(crate) use reactor::Call;

use self::worker::Worker;
use super::{Entrance, Exit, Orders, Outlet, Stage, StageShared, Start, spawn_worker};
use crate::{envelope::Envelope, metrics::StageMetrics, supervise::AnyEdge};

/// An asynchronous stage.
pub(crate) struct AsyncStage<T, U>(Arc<Parts<T, U>>);

struct Parts<T, U> {
    shared: Arc<StageShared>,
    options: AsyncOptions<T, U>,
    /// Makes what a replica calls.
    factory: Arc<dyn Fn() -> Call<T, U> + Send + Sync>,
    inlet: Arc<Edge<Envelope<T>>>,
    outlet: Arc<dyn Entrance<U>>,
    slots: Vec<Mutex<Slot<T>>>,
}

/// What a worker leaves to its successor. It has no futures then.
struct Slot<T> {
    pending: VecDeque<Envelope<T>>,
    ended: bool,
    /// How far event time has come at the inlet, until all of that was passed on.
    watermark: Option<i64>,
    passed_on: i64,
    /// Nobody before this stage knows how far event time has come, and that was not passed on.
    idle: bool,
}

impl<T, U> AsyncStage<T, U> {
    pub(crate) fn new(
        shared: Arc<StageShared>,
        options: AsyncOptions<T, U>,
        factory: Arc<dyn Fn() -> Call<T, U> + Send + Sync>,
        inlet: Arc<Edge<Envelope<T>>>,
        outlet: Arc<dyn Entrance<U>>,
    ) -> Self {
        let slot = || Slot { pending: VecDeque::new(), ended: false, watermark: None, passed_on: i64::MIN, idle: false };
        let slots = (0..options.stage.replicas).map(|_| Mutex::new(slot())).collect();
        AsyncStage(Arc::new(Parts { shared, options, factory, inlet, outlet, slots }))
    }
}

impl<T: Send + 'static, U: Send + 'static> Stage for AsyncStage<T, U> {
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

impl<T, U> Parts<T, U> {
    fn slot(&self, replica: usize) -> MutexGuard<'_, Slot<T>> {
        self.slots[replica].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
