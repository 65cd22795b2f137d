//! millstream's pipelines: supervised stages, dynamic batching, dead letters.
//!
//! A pipeline is a graph of sources, stages and sinks, each with a thread per replica, joined by bounded edges. Records
//! flow through the edges; a control plane of actors starts, watches and restarts the threads, and sees no record.
//!
//! Promises, each held by a test:
//!
//! 1. Every admitted record gets exactly one terminal [`Outcome`]: the worst that any of its copies and children met.
//! 2. Records of one [`Key`] that take the same way leave in the order in which they came, whatever fails in between, and
//!    however [replicas](Replicas) come and go.
//! 3. What records and their copies hold on their way stays within [`Pipeline::memory_budget`], as far as stages declare
//!    how records grow.
//! 4. User code that panics costs one record: its instance is replaced, its neighbours go on, and the record becomes a
//!    [`DeadLetter`]. User code that panics again and again fails the pipeline, once, with the cause, or puts its stage into
//!    quarantine ([`Exceeded`]). What else begins afresh, [`Strategy`] says; nothing is lost or reordered by that.
//! 5. A drain finishes everything that was let in; a shutdown ends by its deadline and says what is left.
//! 6. A pipeline that waits uses no CPU: nothing polls.
//! 7. A source that can begin again ([`Source::committer`]) is told that a record is done only when its outcome is durable.
//! 8. With [`Order::Total`], sinks get records in the order of their coming.
//! 9. With [`Pipeline::checkpoint`], sinks hold each record's results once, however often the process dies.
//!
//! ```
//! use millstream_runtime::{Pipeline, RunInference, StageError, collect, from_iter, handler, ms};
//!
//! let model = handler("double", |batch: &[&u64]| Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect()));
//! let (sink, results) = collect();
//! let report = Pipeline::from(from_iter(0..100u64))
//!     .filter("even", |x| x % 2 == 0)
//!     .infer("double", RunInference::new(model).batch(1..=16).max_delay(ms(5)))
//!     .map("result", |prediction| prediction.inference)
//!     .sink(sink)
//!     .memory_budget(1 << 20)
//!     .run()?;
//! assert_eq!(results.take().len(), 50);
//! assert_eq!(report.counts.ok, 100);
//! # Ok::<(), millstream_runtime::PipelineError>(())
//! ```
#![forbid(unsafe_code)]

mod apart;
mod batch;
mod cancel;
mod checkpoint;
mod dead_letter;
mod deadline;
mod delivery;
mod envelope;
mod error;
mod fail;
mod infer;
mod metrics;
mod models;
mod outcome;
mod panics;
mod pipeline;
mod sequence;
mod signal;
mod sink;
mod source;
mod spans;
mod stage;
mod supervise;
mod ticket;
mod time;

pub use batch::{BatchOptions, ReleaseReason, Sizing};
pub use cancel::CancelToken;
pub use checkpoint::{Checkpoint, CheckpointOptions, CheckpointStore, State};
pub use dead_letter::{DeadLetter, DeadLetterSink};
pub use envelope::{Header, Key, Position, TraceContext};
pub use error::{BoxError, Cause, ControlError, ErrorKind, Fault, PipelineError, StageError};
#[doc(hidden)]
pub use fail::fail_here;
pub use infer::{
    Carried, EngineModel, EngineSequence, FnHandler, FnSequence, IntoHandler, Limited, ModelHandler, ModelId, Postprocess, Prediction, Ragged, RunInference,
    SequenceModel, SequenceOptions, Sequences, StateCodec, Step, WhenFull, Within, handler, handler_with, postprocess, sequence, within,
};
pub use metrics::{EdgeSnapshot, HistogramSnapshot, Monitor, Report, Residue, SequenceSnapshot, Snapshot, StageSnapshot};
pub use millstream_edge::{Cost, Limits};
pub use models::{
    Canary, Deployed, Deployment, DeploymentOptions, Keyed, LoadModel, ModelMemory, OnMemory, PerKey, PerKeyStats, SwapError, Verdict, VersionInfo,
};
pub use outcome::{Counts, Observer, Outcome, Terminal};
pub use pipeline::{Answers, Ensemble, Flow, Handle, Join, Lone, OnDrop, Order, Outline, Pipeline, Remote, StageOutline, ms};
pub use signal::Signal;
pub use sink::{Collect, Collected, ForEach, Sink, SinkFactory, collect, for_each};
pub use source::{ChannelSource, Committer, IterSource, MapSource, Progress, Pulled, Push, PushError, Record, Source, channel, from_iter, map_source};
pub use spans::{Span, SpanKind, Tracer};
pub use stage::{AsyncOptions, Context, Emit, OnError, Out, Replicas, SinkOptions, StageOptions, Start, Transform};
pub use supervise::{Exceeded, Mode, Scaling, StageState, Strategy, Supervision};
pub use time::{Aggregate, Clock, Fold, ManualClock, Stored, Watermarks, Windowed, Windows, fold, stored};
