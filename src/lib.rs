//! millstream: an inference kernel library with an actor runtime.
//!
//! ```no_run
//! use millstream::prelude::*;
//!
//! let model = Model::open("resnet50.onnx")?;
//! let image = Tensor::zeros(DType::F32, &[1, 3, 224, 224])?;
//! let outputs = model.run(&[("x", image)])?;
//! println!("{:?}", outputs.first()?.shape());
//! # Ok::<(), millstream::Error>(())
//! ```
//!
//! - [`Model`] is a loaded model with its memory; [`Session`] loads models with options that they share.
//! - [`kernel`] is the `no_std` half, for those who bring their own files, threads and memory.
//! - `runtime` (feature) holds pipelines of supervised stages, `candle` (feature) the second engine,
//!   `cuda` (feature) a backend for GPUs.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

#[cfg(all(feature = "candle", feature = "onnx"))]
mod candle_model;
#[cfg(all(feature = "candle", feature = "runtime"))]
mod candle_module;
#[cfg(all(feature = "std", feature = "onnx"))]
mod device;
#[cfg(all(feature = "std", feature = "onnx"))]
mod error;
#[cfg(all(feature = "std", feature = "onnx"))]
mod model;
#[cfg(all(feature = "std", feature = "onnx"))]
mod session;
#[cfg(all(feature = "onnx", feature = "runtime"))]
mod stage;

#[cfg(all(feature = "candle", feature = "runtime"))]
pub use candle_module::CandleModule;
#[cfg(all(feature = "std", feature = "onnx"))]
pub use device::{Device, DeviceError};
#[cfg(all(feature = "std", feature = "onnx"))]
pub use error::Error;
pub use millstream_tensor::{DType, Shape, Tensor, TensorError, Value};
#[cfg(all(feature = "std", feature = "onnx"))]
pub use model::{Model, Outputs};
#[cfg(all(feature = "std", feature = "onnx"))]
pub use session::{Session, SessionBuilder};

/// The kernel: graphs, operators, plans and the engine that runs them, all `no_std`.
pub mod kernel {
    pub use millstream_compile as compile;
    pub use millstream_engine as engine;
    pub use millstream_graph as graph;
    #[cfg(feature = "onnx")]
    pub use millstream_onnx as onnx;
    pub use millstream_ops as ops;
    #[cfg(feature = "safetensors")]
    pub use millstream_safetensors as safetensors;
    pub use millstream_tensor as tensor;
}

/// The CPU backend: thread pools and mapped files.
#[cfg(feature = "std")]
pub use millstream_cpu as cpu;

/// Candle as second engine.
#[cfg(feature = "candle")]
pub use millstream_candle as candle;

/// Graphs on GPUs of NVIDIA's: compiled for sm_80/sm_90, arithmetic checked on a CPU shim, not run on a GPU.
#[cfg(feature = "cuda")]
pub use millstream_cuda as cuda;

/// Pipelines of supervised stages.
#[cfg(feature = "runtime")]
pub mod runtime {
    pub use millstream_io as io;
    #[cfg(feature = "pipefile")]
    pub use millstream_pipefile as pipefile;
    #[cfg(feature = "remote")]
    pub use millstream_remote as remote;
    pub use millstream_runtime::*;
    #[cfg(feature = "telemetry")]
    pub use millstream_telemetry as telemetry;
}

/// What most programs need.
pub mod prelude {
    pub use crate::{DType, Tensor, Value};
    #[cfg(all(feature = "std", feature = "onnx"))]
    pub use crate::{Error, Model, Session};
}
