//! Pipelines from TOML files: sources, stages and sinks by name, checked before they run.
//!
//! ```toml
//! memory_budget = "256 MiB"
//!
//! [[source]]
//! kind = "walk"
//! folder = "src"
//!
//! [[stage]]
//! kind = "read"
//! head = "2 KiB"
//!
//! [[sink]]
//! kind = "jsonl"
//! path = "files.jsonl"
//! ```
//!
//! A node takes from the one that stands before it in the text, or from those that its `from` names; an output that several
//! nodes take from is copied to each. What flows are [`Row`]s: named fields that hold JSON, bytes or tensors.
//!
//! - [`PipelineFile::parse`] reads a text and reports everything that is wrong with it, each problem with its place.
//! - [`PipelineFile::describe`] says what the pipeline may hold, [`PipelineFile::plot`] draws it.
//! - [`PipelineFile::spawn`] runs it. Models are opened by the caller's [`Models`]: no engine is known here.
//!
//! A kind of source, stage or sink is one file in `sources`, `stages` or `sinks`, which reads its keys from a table and
//! puts the runtime's own stage behind a flow. The keys that it asks for are the keys that there are.
#![forbid(unsafe_code)]

mod batching;
mod build;
mod condition;
mod copies;
mod description;
mod figure;
mod file;
mod node_options;
mod plot;
mod problem;
mod row;
mod settings;
mod sinks;
mod sources;
mod stages;
mod supervision;
mod table;
mod tensors;
mod units;

pub use build::{Models, Opened, RunError, Running};
pub use description::{Description, ModelPlan, RemotePlan, StagePlan};
pub use file::{FileError, PipelineFile};
pub use plot::Plot;
pub use problem::{Problem, Problems};
pub use row::{Datum, Row};
