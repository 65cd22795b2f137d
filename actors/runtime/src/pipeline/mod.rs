//! Building and running pipelines.
//!
//! A [`Flow`] is a pipeline that still lacks its sink; a [`Pipeline`] is complete and can be run or spawned.

mod assembly;
mod flow;
mod handle;

use std::{sync::Arc, time::Duration};

pub use flow::Flow;
pub use handle::{Handle, Remote};

use self::assembly::{Assembly, StageInfo};
use crate::{dead_letter::DeadLetterSink, error::PipelineError, metrics::Report, outcome::Observer, source::Source, supervise::Supervision};

/// What a dropped handle does with its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDrop {
    /// Aborts it and waits for its threads. The default.
    Abort,
    /// Drains it and waits for the end.
    Drain,
    /// Lets it run on; it ends when its source does.
    Detach,
}

/// What a pipeline is told as a whole.
pub(crate) struct Options {
    pub(crate) memory_budget: Option<u64>,
    pub(crate) edge_records: Option<u32>,
    pub(crate) ordered: bool,
    pub(crate) supervision: Supervision,
    pub(crate) dead_letters: Option<Box<dyn DeadLetterSink>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) on_drop: OnDrop,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            memory_budget: None,
            edge_records: None,
            ordered: true,
            supervision: Supervision::default(),
            dead_letters: None,
            observer: None,
            on_drop: OnDrop::Abort,
        }
    }
}

type Connect = Box<dyn FnOnce(&mut Assembly) + Send>;

/// A pipeline, complete from source to sink.
///
/// ```
/// use millstream_runtime::{Pipeline, collect, from_iter};
///
/// let (sink, squares) = collect();
/// let report = Pipeline::from(from_iter(1..=4)).map("square", |x| x * x).sink(sink).run()?;
/// assert_eq!(squares.take(), [1, 4, 9, 16]);
/// assert_eq!(report.counts.ok, 4);
/// # Ok::<(), millstream_runtime::PipelineError>(())
/// ```
pub struct Pipeline {
    stages: Vec<StageInfo>,
    connect: Connect,
    options: Options,
}

impl Pipeline {
    /// Begins a pipeline with its source.
    pub fn from<T: Send + 'static>(source: impl Source<T> + 'static) -> Flow<T> {
        Flow::from_source(Box::new(source))
    }

    /// The most bytes that records may hold on their way, and models while they run. Sources wait while the budget is
    /// used up. Without models, all of it is for records; with them, half of it, and half for their runs.
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.options.memory_budget = Some(bytes);
        self
    }

    /// How many records each edge holds. By default 1024, and more where a stage's batches ask for it.
    #[must_use]
    pub fn edge_records(mut self, records: u32) -> Self {
        self.options.edge_records = Some(records);
        self
    }

    /// Gives up the order within keys: replicas of a stage then share their work freely.
    #[must_use]
    pub fn unordered(mut self) -> Self {
        self.options.ordered = false;
        self
    }

    /// How crashes are answered.
    #[must_use]
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.options.supervision = supervision;
        self
    }

    /// Where records that fail go. Without it, the report keeps the latest of them.
    #[must_use]
    pub fn dead_letters(mut self, sink: impl DeadLetterSink + 'static) -> Self {
        self.options.dead_letters = Some(Box::new(sink));
        self
    }

    /// Who is told how each record ends.
    #[must_use]
    pub fn observe(mut self, observer: Arc<dyn Observer>) -> Self {
        self.options.observer = Some(observer);
        self
    }

    /// What happens when the handle of a spawned pipeline is dropped.
    #[must_use]
    pub fn on_drop(mut self, on_drop: OnDrop) -> Self {
        self.options.on_drop = on_drop;
        self
    }

    /// Runs to the end of the source.
    ///
    /// # Errors
    /// If the pipeline cannot be built, or fails; the error then carries the report.
    pub fn run(self) -> Result<Report, PipelineError> {
        self.spawn()?.join()
    }

    /// Starts it and returns a handle.
    ///
    /// # Errors
    /// If the pipeline cannot be built or started.
    pub fn spawn(self) -> Result<Handle, PipelineError> {
        assembly::start(self)
    }
}

/// So many milliseconds, for options that take a duration.
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
