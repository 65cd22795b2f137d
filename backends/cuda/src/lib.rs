//! Graphs on NVIDIA's GPUs.
//!
//! The kernels are compiled for sm_80/sm_90, their arithmetic is checked on a CPU shim, and they were not run on a GPU. This
//! crate loads them from PTX and launches them through the driver's library, which is looked for when a device is opened: one
//! binary serves machines with and without a GPU, and says which of the two it is on by a typed error.
//!
//! - [`Gpu`] is a device.
//! - [`Guest`] launches an operator on memory and a stream of somebody else's.
//! - [`CudaBackend`] plans a graph for each combination of input shapes: nodes with a kernel run on the device, where their
//!   values stay, in an arena laid out beforehand; nodes without one run on the host, with copies ([`runs_on_cuda`]). A plan that
//!   runs again is replayed as a recorded graph.
//!
//! Invariants: arguments of every launch are held against what the kernel's PTX says; the host's memory is never lent while a
//! copy is on its way; which side runs a node depends on its operator, types and shapes alone.

mod backend;
mod blas;
mod body;
mod call;
mod error;
mod gpu;
mod guest;
mod host;
mod lane;
mod plan;
mod ptx;
mod run;
mod select;
mod shape;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

pub use backend::CudaBackend;
pub use cudarc;
pub use error::CudaError;
pub use gpu::Gpu;
pub use guest::{Guest, Operand, Output};
pub use select::runs_on_cuda;
