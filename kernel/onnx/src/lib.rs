//! Zero-copy ONNX reader: bytes to a millstream graph.
//!
//! [`load`] reads a model out of a [`WeightSource`](millstream_tensor::WeightSource) and makes a
//! [`Graph`](millstream_graph::Graph) of it, with operators that come from a [`Registry`](millstream_graph::Registry).
//! The layers, bottom up: `wire` reads the protobuf format in place, `messages` the ONNX messages, `tensor` turns tensors
//! into weights, `import` builds the graph. [`tensor_from_pb`] and [`tensor_to_pb`] read and write single values.
//!
//! Invariants:
//! - weights stored as raw bytes are ranges of the source, never copied (but for unaligned ones of at most
//!   [`SMALL`] bytes); nothing is allocated for elements that the file does not hold;
//! - everything unsupported is reported at once ([`LoadError::Unsupported`]); a broken file, or one past the
//!   [`Limits`], is an error at the first finding; no input makes the reader panic;
//! - declared shapes are kept as hints and never believed;
//! - locations of external data cannot point out of the model's folder.
//!
//! ```
//! use millstream_graph::Registry;
//! use millstream_onnx::{LoadError, LoadOptions, load};
//! use std::sync::Arc;
//! let truncated: &'static [u8] = &[0x3a, 0x7f];
//! let error = load(Arc::new(truncated), &Registry::new(), &LoadOptions::default()).unwrap_err();
//! assert!(matches!(error, LoadError::Malformed { offset: 2, .. }));
//! ```
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod error;
mod external;
mod import;
mod limits;
mod messages;
mod pb;
mod tensor;
mod wire;
mod write;

pub use error::{ExternalError, LoadError, Problem, Reason};
pub use external::ExternalData;
pub use import::{LoadOptions, Model, Port, load};
pub use limits::Limits;
pub use messages::ValueKind;
pub use pb::tensor_from_pb;
pub use tensor::SMALL;
pub use write::tensor_to_pb;
