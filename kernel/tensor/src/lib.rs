//! Element types, shapes, strided views, owned tensors and the memory they live in.
//!
//! The folder is the map: [`DType`] and [`Element`] say what an element is, [`Shape`] and [`Layout`] how elements are
//! arranged, [`TensorView`] and [`TensorViewMut`] borrow memory, [`Tensor`] owns it, [`Value`] is anything that flows
//! along a graph's edge, [`WeightSource`] is where constants come from, and [`arena`] and [`tile`] hand out disjoint
//! mutable parts of memory behind a safe interface.
//!
//! Invariants:
//! - a view's data covers every element that its layout can address (checked when the view is made);
//! - owned memory is aligned to [`ALIGN`] bytes;
//! - shapes have at most [`MAX_RANK`] axes and their element count fits in `usize`.
//!
//! ```
//! use millstream_tensor::Tensor;
//! let t = Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! assert_eq!(t.view().typed::<f32>()?.at(&[1, 0]), Some(4.0));
//! # Ok::<(), millstream_tensor::TensorError>(())
//! ```
#![no_std]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arena;
mod buffer;
mod dtype;
mod error;
mod large;
mod layout;
mod scratch;
mod shape;
mod tensor;
pub mod tile;
mod value;
mod view;
mod weight;

pub use buffer::{ALIGN, AlignedBytes, align_up};
pub use dtype::{Bool, DType, Element};
pub use error::TensorError;
pub use half::{bf16, f16};
pub use large::{Prepare, prepare_large_memory};
pub use layout::{Layout, Order};
pub use scratch::{ScratchGuard, WorkerScratch};
pub use shape::{MAX_RANK, Shape, broadcast};
pub use tensor::Tensor;
pub use value::Value;
pub use view::{Data, DataMut, TensorView, TensorViewMut, View, ViewMut, Word};
pub use weight::{Weight, WeightSource};
