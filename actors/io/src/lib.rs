//! Sources and sinks of millstream's pipelines: files, lines, JSON lines. Beside them, what else pipelines need of the
//! outside: [`watch_model`] swaps a model when its file changes, [`serve_metrics`] answers scrapers of metrics.
//!
//! Sources walk and read lazily; a file that cannot be read goes to the dead letters with its path, and the stream goes
//! on. Sinks are flushed when a pipeline drains.
//!
//! ```no_run
//! use millstream_io::{files, jsonl, read};
//! use millstream_runtime::Pipeline;
//!
//! let report = Pipeline::from(files("logs/**/*.txt"))
//!     .try_map("read", read)
//!     .map("length", |file| (file.path, file.bytes.len()))
//!     .sink(jsonl("lengths.jsonl"))
//!     .run()?;
//! println!("{report}");
//! # Ok::<(), millstream_runtime::PipelineError>(())
//! ```
#![forbid(unsafe_code)]

mod checkpoints;
mod error;
mod files;
mod http;
mod jsonl;
mod letters;
mod lines;
mod offsets;
mod tail;
mod watch;

pub use checkpoints::CheckpointFolder;
pub use error::IoError;
pub use files::{FileBytes, FileSource, files, read, read_head, walk};
pub use http::{MetricsPage, serve_metrics};
pub use jsonl::{JsonLines, JsonLinesWriter, jsonl};
pub use letters::{LetterFile, letters};
pub use lines::{Line, LineSource, lines, lines_of, stdin_lines};
pub use offsets::OffsetFile;
pub use watch::{Watch, WatchOptions, Watched, newest, watch_model};
