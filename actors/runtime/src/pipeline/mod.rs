//! Building and running pipelines.
//!
//! A [`Flow`] is a pipeline that still lacks its sink; a [`Pipeline`] is complete and can be run or spawned. Flows branch
//! and merge; pipelines that share a beginning become one.

mod assembly;
mod asynchronous;
mod branch;
mod compound;
mod flow;
mod graph;
mod handle;
mod join;
mod outline;
mod timed;

use std::{sync::Arc, time::Duration};

pub use flow::Flow;
pub use handle::{Handle, Remote};

pub use compound::{Answers, Ensemble};
pub use join::{Join, Lone};
pub use outline::{Outline, StageOutline};

use self::graph::Node;
use crate::{
    checkpoint::CheckpointOptions,
    dead_letter::DeadLetterSink,
    error::PipelineError,
    metrics::Report,
    outcome::Observer,
    source::Source,
    spans::Tracer,
    supervise::{Scaling, Supervision},
    time::{Clock, SystemClock},
};

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

/// Which order records keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// None: replicas share their work freely.
    None,
    /// That of their coming among the records of one key, along each way through the pipeline. The default.
    PerKey,
    /// All records come to the sinks in the order in which they were let in; what was dropped or failed is passed over.
    /// Children of one record that took the same way keep their order too. Every sink has one replica.
    Total {
        /// How many records may be on their way or wait for one before them.
        window: u32,
    },
}

impl Order {
    /// Total order, with a window of 1024 records.
    pub const TOTAL: Order = Order::Total { window: 1024 };
}

/// What a pipeline is told as a whole.
pub(crate) struct Options {
    pub(crate) memory_budget: Option<u64>,
    pub(crate) edge_records: Option<u32>,
    pub(crate) order: Order,
    pub(crate) supervision: Supervision,
    /// Stages that stand and fall together: a name, theirs, and how crashes are answered.
    pub(crate) groups: Vec<(String, Vec<String>, Supervision)>,
    pub(crate) scaling: Scaling,
    pub(crate) dead_letters: Option<Box<dyn DeadLetterSink>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) tracer: Option<Arc<dyn Tracer>>,
    pub(crate) on_drop: OnDrop,
    pub(crate) commit_every: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) checkpoints: Option<CheckpointOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            memory_budget: None,
            edge_records: None,
            order: Order::PerKey,
            supervision: Supervision::default(),
            groups: Vec::new(),
            scaling: Scaling::default(),
            dead_letters: None,
            observer: None,
            tracer: None,
            on_drop: OnDrop::Abort,
            commit_every: Duration::from_secs(1),
            clock: Arc::new(SystemClock),
            checkpoints: None,
        }
    }
}

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
    sinks: Vec<Arc<Node>>,
    options: Options,
}

impl Pipeline {
    /// Begins a pipeline with its source.
    pub fn from<T: Send + 'static>(source: impl Source<T> + 'static) -> Flow<T> {
        Flow::from_source(Box::new(source))
    }

    /// Both pipelines as one: for flows that branched and end in several sinks, and for several sources. The options are
    /// those of the first.
    ///
    /// ```
    /// use millstream_runtime::{Pipeline, collect, from_iter};
    ///
    /// let ((evens, even), (odds, odd)) = (collect(), collect());
    /// let [left, right] = Pipeline::from(from_iter(0..10)).split("parity", |x| x % 2);
    /// left.sink(evens).and(right.sink(odds)).run()?;
    /// assert_eq!((even.take(), odd.take()), (vec![0, 2, 4, 6, 8], vec![1, 3, 5, 7, 9]));
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn and(mut self, other: Pipeline) -> Self {
        self.sinks.extend(other.sinks);
        self
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

    /// Which order records keep.
    ///
    /// ```
    /// use millstream_runtime::{Order, Pipeline, StageOptions, collect, from_iter};
    ///
    /// let (sink, results) = collect();
    /// Pipeline::from(from_iter(0..100u32))
    ///     .map_with("square", StageOptions::new().replicas(4), |x| x * x)
    ///     .sink(sink)
    ///     .order(Order::TOTAL)
    ///     .run()?;
    /// assert!(results.take().is_sorted());
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.options.order = order;
        self
    }

    /// Gives up the order within keys: replicas of a stage then share their work freely.
    #[must_use]
    pub fn unordered(self) -> Self {
        self.order(Order::None)
    }

    /// How crashes are answered in stages that belong to no [group](Pipeline::group).
    #[must_use]
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.options.supervision = supervision;
        self
    }

    /// Stages that stand and fall together: restarts are counted for all of them, and [`Supervision::strategy`] says who
    /// begins afresh when one crashes. Sources are no part of it: they cannot be made again.
    ///
    /// ```
    /// use millstream_runtime::{Exceeded, Pipeline, Supervision, for_each, from_iter};
    ///
    /// let mut supervision = Supervision::default();
    /// (supervision.restarts, supervision.exceeded) = (0, Exceeded::Quarantine);
    /// let report = Pipeline::from(from_iter(0..10u32))
    ///     .map("fragile", |x| 10 / x)
    ///     .sink(for_each(|_| {}))
    ///     .group("what may fail", ["fragile"], supervision)
    ///     .run()?;
    /// assert_eq!((report.counts.ok, report.counts.dead_lettered), (0, 10));
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn group<'s>(mut self, name: &str, stages: impl IntoIterator<Item = &'s str>, supervision: Supervision) -> Self {
        self.options.groups.push((name.to_owned(), stages.into_iter().map(str::to_owned).collect(), supervision));
        self
    }

    /// When stages that were given a range of replicas ([`crate::Replicas`]) get more of them or lose some.
    #[must_use]
    pub fn scaling(mut self, scaling: Scaling) -> Self {
        self.options.scaling = scaling;
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

    /// Who samples records, and is told of their spans.
    #[must_use]
    pub fn trace(mut self, tracer: Arc<dyn Tracer>) -> Self {
        self.options.tracer = Some(tracer);
        self
    }

    /// The clock that joins, ensembles and idle sources go by.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.options.clock = Arc::new(clock);
        self
    }

    /// How long a source that remembers what is done (see [`crate::Source::committer`]) lets pass between two commits: a
    /// second by default. What was done since the last one is delivered again after a crash.
    #[must_use]
    pub fn commit_every(mut self, time: Duration) -> Self {
        self.options.commit_every = time;
        self
    }

    /// Effectively-once: now and then, the positions of the sources and the state of the stages are stored, and sinks commit
    /// what they have. A process that starts with the same pipeline and a store that holds a checkpoint goes on from there,
    /// and takes back what was written behind it: each record's results are in the sinks once.
    ///
    /// It needs sources with a [`Source::snapshot`], sinks of one replica that [take back](crate::SinkFactory::takes_back)
    /// what they wrote, windows whose aggregates are [`crate::stored`], and stages of a fixed number of replicas; there are no
    /// joins by key, and no quarantine. A join or an ensemble of copies lets go at a checkpoint of those who have no partner by
    /// then: nobody would come any more. A drain leaves windows open for the next process.
    #[must_use]
    pub fn checkpoint(mut self, options: CheckpointOptions) -> Self {
        self.options.checkpoints = Some(options);
        self
    }

    /// What happens when the handle of a spawned pipeline is dropped.
    #[must_use]
    pub fn on_drop(mut self, on_drop: OnDrop) -> Self {
        self.options.on_drop = on_drop;
        self
    }

    /// What it is made of and what it may hold, as far as that is known before it runs.
    ///
    /// # Errors
    /// If the pipeline cannot be built.
    pub fn outline(&self) -> Result<Outline, PipelineError> {
        outline::of(&self.sinks, &self.options)
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
