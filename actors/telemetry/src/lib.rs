//! Spans of millstream's pipelines for OpenTelemetry.
//!
//! An [`Otlp`] says where spans go and how many; what it starts is a [`Tracer`](millstream_runtime::Tracer), which hands the
//! spans of sampled records to a thread of its own, and that thread to a collector: OTLP, as protobuf over HTTP.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use millstream_runtime::{Pipeline, for_each, from_iter};
//! use millstream_telemetry::Otlp;
//!
//! let tracer = Otlp::new("http://localhost:4318").service("sentiment").sample(0.01).start()?;
//! Pipeline::from(from_iter(0..1000)).map("plus", |x| x + 1).sink(for_each(|_| {})).trace(tracer.clone()).run()?;
//! let spans = tracer.shutdown(Duration::from_secs(5));
//! assert_eq!(spans.dropped, 0, "the collector kept up");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - Nothing that goes wrong with the export reaches a record: the queue is bounded, what finds it full is dropped, and what
//!   is dropped is counted ([`ExportCounts`]).
//! - A batch's links to its records' spans, and theirs to it, are span links.
//! - [`Traceparent`] is the W3C header by which a record's sender names its span and says whether to follow the record.
//!
//! The messages are written by hand: they are few, a span is written once, where it ends, and the queue holds bytes. The
//! tests read them with OpenTelemetry's own definitions.
#![forbid(unsafe_code)]

mod client;
mod encode;
mod sender;
mod traceparent;
mod tracer;
mod wire;

pub use traceparent::{Traceparent, TraceparentError};
pub use tracer::{ExportCounts, Otlp, OtlpTracer, TelemetryError};
