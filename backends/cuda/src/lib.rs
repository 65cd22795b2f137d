//! Graphs on NVIDIA's GPUs.
//!
//! The kernels are compiled for sm_80/sm_90, their arithmetic is checked on a CPU shim, and they were not run on a GPU. This
//! crate loads them from PTX and launches them through the driver's library, which is looked for when a device is opened: one
//! binary serves machines with and without a GPU, and says which of the two it is on by a typed error.
//!
//! - [`Gpu`] is a device.
//!
//! Invariants: arguments of every launch are held against what the kernel's PTX says; the host's memory is never lent while a
//! copy is on its way.

mod error;
mod gpu;
mod lane;
mod ptx;
mod shape;

pub use error::CudaError;
pub use gpu::Gpu;
