//! Candle as second engine of millstream, and millstream's kernels on Candle's tensors.
//!
//! - [`ops`] are our fused operators for any model of Candle's: functions, layers with packed weights, and custom operators.
//! - [`run_candle`] runs any executable of ours on Candle's tensors, without copying them.
//! - [`CandleBackend`] walks a simplified graph node by node. What maps onto Candle's own operations runs there
//!   ([`runs_on_candle`]); everything else runs our kernels over Candle's storage, which is borrowed, not copied.
//! - Element types that Candle lacks (i8, u16, u64, bool, string) stay millstream values.
//!
//! Invariants: which engine runs a node depends on its operator, types and shapes alone, never on elements; a run's values
//! are freed after their last reader; no result depends on the number of threads.
#![forbid(unsafe_code)]

mod backend;
mod body;
mod direct;
mod error;
mod exchange;
mod held;
mod kernel;
mod ledger;
mod memory;
pub mod ops;
mod walk;
mod workers;

pub use backend::CandleBackend;
pub use candle_core;
pub use direct::runs_on_candle;
pub use exchange::{Output, run_candle};
pub use workers::{use_workers, workers};

/// The examples of docs/candle.md, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/candle.md")]
pub struct Guide;
