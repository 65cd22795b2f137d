//! Stages: user code with an edge on either side and a thread per replica.
//!
//! A stage is built from a factory. Its queue belongs to the edge and its half-done work to a slot that outlives the
//! worker, so a worker that panics takes nothing with it but the record that it panicked on.

mod asynchronous;
mod branch;
mod condemned;
mod gather;
mod options;
mod orders;
mod outlet;
mod source_worker;
mod transform;
mod within;
mod worker;

use std::{io, sync::Arc, thread::JoinHandle};

pub use asynchronous::AsyncOptions;
pub(crate) use asynchronous::{AsyncStage, Call};
pub use branch::Out;
pub(crate) use branch::{CopyFn, CopyKind, RouteFn, Scatter, Siding, SortFn, Switch};
pub(crate) use condemned::Condemned;
pub(crate) use gather::{GatherStage, Group, GroupBy, Lonely, Picked, Rule};
pub use options::{OnError, Replicas, SinkOptions, StageOptions};
pub(crate) use orders::Orders;
pub(crate) use outlet::{EdgeEntrance, Entrance, Outlet, Outward};
pub(crate) use source_worker::{Admission, SourceStage};
pub use transform::{Emit, Transform};
pub(crate) use transform::{FilterFn, FlatMapFn, KeyByFn, MapFn, SinkStep, TryMapFn};
pub(crate) use within::WithinFn;
pub(crate) use worker::RecordStage;

use crate::{
    checkpoint::Checkpoints,
    dead_letter::{DeadLetters, Failure},
    envelope::{Header, TraceContext},
    error::{Cause, Fault, StageError},
    infer::ModelId,
    metrics::{StageMetrics, add},
    outcome::Outcome,
    signal::Signal,
    spans::StageSpans,
    supervise::AnyEdge,
    ticket::{Accounts, Tally, Ticket},
    time::Clock,
};

/// What a factory is told about the instance that it makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// Which replica it is for, from 0.
    pub replica: usize,
    /// How often this replica has been made before.
    pub incarnation: u32,
}

/// What user code may know about the record that it works on.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The record's header.
    pub header: &'a Header,
    /// Set when the pipeline is being aborted: long work should look at it.
    pub abort: &'a Signal,
    /// The record's span in the stage, if it is sampled.
    pub(crate) span: Option<TraceContext>,
}

/// Makes a stage's user code.
pub(crate) type Factory<S> = Arc<dyn Fn(&Start) -> Result<S, StageError> + Send + Sync>;

/// What every worker of a stage shares with its controller.
pub(crate) struct StageShared {
    pub(crate) metrics: Arc<StageMetrics>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) dead: Arc<DeadLetters>,
    pub(crate) abort: Signal,
    pub(crate) on_error: OnError,
    pub(crate) model: Option<Arc<ModelId>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// In a pipeline that has checkpoints.
    pub(crate) checkpoints: Option<Arc<Checkpoints>>,
    /// Set when the pipeline drains.
    pub(crate) stop: Signal,
    /// In a pipeline that is traced.
    pub(crate) spans: Option<StageSpans>,
    /// What the controller wants of the workers.
    pub(crate) orders: Orders,
}

impl StageShared {
    pub(crate) fn name(&self) -> Arc<str> {
        self.metrics.name.clone()
    }

    /// Stores a dead letter and ends the record.
    pub(crate) fn bury(
        &self,
        head: &Header,
        ticket: Ticket,
        fault: Fault,
        payload: Option<Vec<u8>>,
        locator: Option<String>,
        tally: &mut Tally,
    ) -> Result<(), Cause> {
        crate::fail_point!("before-letter");
        let failure = Failure { stage: self.name(), model: self.model.clone(), fault, payload, locator };
        self.bury_as(head, ticket, failure, tally)
    }

    /// As [`StageShared::bury`], where the caller knows more.
    pub(crate) fn bury_as(&self, head: &Header, ticket: Ticket, failure: Failure, tally: &mut Tally) -> Result<(), Cause> {
        self.dead.put(head, failure).map_err(|error| Cause::DeadLettersFailed { stage: self.name(), message: error.to_string() })?;
        crate::fail_point!("after-letter");
        add(&self.metrics.dead_letters, 1);
        ticket.settle(Outcome::DeadLettered, tally);
        Ok(())
    }
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The stream ended and was passed on.
    Finished,
    /// The pipeline is being aborted.
    Aborted,
    /// User code panicked, or could not be started: a fresh instance may go on.
    Crashed(Fault),
    /// It was asked to end, and left nothing half-done: a fresh instance goes on.
    Recalled,
    /// It gave its share of the work away, as it was asked to.
    Retired,
    /// Nothing can go on.
    Failed(Cause),
}

/// A stage without its types, as its controller sees it.
pub(crate) trait Stage: Send {
    fn metrics(&self) -> &Arc<StageMetrics>;

    /// What its workers look for at the end of what they have in hand, and the edge that wakes them for it. None where
    /// they cannot be replaced.
    fn orders(&self) -> Option<(&Orders, &dyn AnyEdge)> {
        None
    }

    /// Says to what follows that nothing will come from a replica that does not run.
    fn conclude(&self, replica: usize) {
        let _ = replica;
    }

    /// Starts a worker; `done` is called at the end of its thread.
    fn start(&self, start: Start, done: Box<dyn FnOnce(Exit) + Send>) -> io::Result<JoinHandle<()>>;
}

/// Starts a named worker thread.
pub(crate) fn spawn_worker(
    name: &str,
    start: Start,
    run: impl FnOnce() -> Exit + Send + 'static,
    done: Box<dyn FnOnce(Exit) + Send>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("{name}#{}", start.replica)).spawn(move || {
        // User code is guarded closer to its calls; this keeps a panicking destructor from losing the report.
        let exit = crate::panics::guard(run).unwrap_or_else(Exit::Crashed);
        done(exit);
    })
}
