//! Models that remember: the records of a key are a sequence, and each takes up the state that the one before it left.
//!
//! ```text
//! a record comes   → its key's state has been idle for too long: dropped
//! the batcher      → at most one record of a key in a batch: the next one needs what this one leaves
//! a batch runs     → states found, or begun → the model makes outputs and new states of them → the new states are kept
//! it fails         → the states are as they were: nothing of a failed run is kept
//! a last record    → its key's state is dropped
//! no room          → the states used longest ago go, or the records that would begin sequences
//! ```
//!
//! States belong to a replica's place in the stage, not to its model: a fresh instance after a panic finds them. Keys go
//! through lanes, so a key's records always come to the same replica.
//!
//! - `model` is the extension point; `closure` makes models of closures.
//! - `options` says how many states are held, how large and for how long.
//! - `table` holds a replica's states, without knowing what they are for.
//! - `states` runs batches on them, for the worker.

mod closure;
mod model;
mod options;
#[cfg(test)]
mod properties;
mod states;
mod table;

pub use closure::{FnSequence, sequence};
pub use model::{SequenceModel, StateCodec, Step};
pub(crate) use options::Remembers;
pub use options::{SequenceOptions, WhenFull};
pub use states::Sequences;
pub(crate) use states::{Sequenced, Turn};
