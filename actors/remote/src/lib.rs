//! Models behind HTTP as stages of millstream's pipelines.
//!
//! A [`RemoteModel`] turns a batch into one request and its answer into outputs. What fails for a while is tried again with
//! growing pauses; an endpoint that refuses work is asked less ([`Throttle`]), and never more often than it allows
//! ([`RateLimit`]). All replicas of a stage share one throttle, one limit and one pool of connections.
//!
//! ```no_run
//! use millstream_remote::{RateLimit, RemoteModel};
//! use millstream_runtime::{Pipeline, RunInference, StageError, for_each, from_iter};
//!
//! let lengths = RemoteModel::new(
//!     "lengths",
//!     "http://127.0.0.1:8000/lengths",
//!     |batch: &[&String]| Ok(batch.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()),
//!     |answer, _| String::from_utf8_lossy(answer).lines().map(|n| Ok(n.parse::<usize>()?)).collect::<Result<_, StageError>>(),
//! )
//! .rate_limit(RateLimit::per_second(50.0, 10.0));
//! Pipeline::from(from_iter(["a".to_owned(), "bb".to_owned()])).infer("lengths", RunInference::new(lengths)).sink(for_each(|_| {})).run()?;
//! # Ok::<(), millstream_runtime::PipelineError>(())
//! ```
#![forbid(unsafe_code)]

mod model;
mod pacing;

pub use model::{RemoteError, RemoteModel, Retries};
pub use pacing::{RateLimit, Throttle};
