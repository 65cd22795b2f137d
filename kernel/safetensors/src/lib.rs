//! Weights by name out of safetensors files.
//!
//! [`Weights::open`] reads a file's header and keeps its tensors as ranges of their source: nothing is copied. [`bind`]
//! puts them into a graph by name, [`to_bytes`] writes a file.
//!
//! Invariants: every weight lies inside of the source (checked when the file is opened); a broken file is an error, never
//! a panic; everything that is not supported is reported at once.
//!
//! ```
//! use millstream_safetensors::{Weights, to_bytes};
//! use millstream_tensor::Tensor;
//! use std::sync::Arc;
//! let bias = Tensor::from_slice(&[2], &[1.0f32, 2.0])?;
//! let file = to_bytes([("bias", bias.view())], [("format", "pt")])?;
//! let weights = Weights::open(Arc::new(file))?;
//! assert_eq!(weights.names().collect::<Vec<_>>(), ["bias"]);
//! assert_eq!(weights.find("bias").unwrap().to_tensor()?, bias);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod bind;
mod dtype;
mod error;
mod read;
mod write;

pub use bind::{Bound, bind};
pub use error::{BindError, Mismatch, OpenError, Problem, Reason, WriteError};
pub use read::{Limits, Weights};
pub use write::to_bytes;
