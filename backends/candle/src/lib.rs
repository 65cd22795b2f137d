//! Candle as second engine of millstream, and millstream's kernels on Candle's tensors.
//!
//! - [`CandleBackend`] walks a simplified graph node by node. What maps onto Candle's own operations runs there
//!   ([`runs_on_candle`]); everything else runs our kernels over Candle's storage, which is borrowed, not copied.
//! - Element types that Candle lacks (i8, u16, u64, bool, string) stay millstream values.
//!
//! Invariants: which engine runs a node depends on its operator, types and shapes alone, never on elements; a run's values
//! are freed after their last reader.
#![forbid(unsafe_code)]

mod backend;
mod body;
mod direct;
mod error;
mod held;
mod kernel;
mod ledger;
mod walk;

pub use backend::CandleBackend;
pub use direct::runs_on_candle;
