//! Why an operator refused its tensors.

use millstream_gemm::GemmError;
use millstream_graph::{BuildError, EvalError, InferError};
use millstream_tensor::TensorError;

/// Why an operator refused its tensors. Turns into [`candle_core::Error`] by `?`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A tensor on a device that has no kernel of ours, or on another one than those beside it.
    #[error("{op}: input {input} is on {device}, where the operator does not run")]
    Device {
        /// The operator.
        op: &'static str,
        /// The input's position.
        input: usize,
        /// Where the tensor is.
        device: String,
    },
    /// A tensor of an element type that the operator does not take.
    #[error("{op}: input {input} has element type {found}, {wanted} is expected")]
    DType {
        /// The operator.
        op: &'static str,
        /// The input's position.
        input: usize,
        /// Its element type.
        found: &'static str,
        /// What would fit, in words.
        wanted: &'static str,
    },
    /// Shapes or types that do not fit the operator.
    #[error("{op} on {inputs}: {error}")]
    Shapes {
        /// The operator.
        op: &'static str,
        /// Types and shapes of the inputs.
        inputs: String,
        /// What does not fit.
        error: InferError,
    },
    /// Parameters that the operator's definition forbids.
    #[error("{op}: {error}")]
    Parameter {
        /// The operator.
        op: &'static str,
        /// What is wrong.
        error: BuildError,
    },
    /// The kernel refused what it found, or there is no memory.
    #[error("{op} on {inputs}: {error}")]
    Kernel {
        /// The operator.
        op: &'static str,
        /// Types and shapes of the inputs.
        inputs: String,
        /// What is wrong.
        error: EvalError,
    },
    /// Types or shapes that no kernel of a CUDA device takes; the CPU does.
    #[error("{op}: there is no CUDA kernel for {inputs}")]
    NoKernel {
        /// The operator.
        op: &'static str,
        /// Types and shapes of the inputs.
        inputs: String,
    },
    /// What a CUDA device or its driver says.
    #[cfg(feature = "cuda")]
    #[error("{op}: {error}")]
    Cuda {
        /// The operator.
        op: &'static str,
        /// What is wrong.
        error: millstream_cuda::CudaError,
    },
    /// A product whose operands do not fit.
    #[error("{op}: {error}")]
    Product {
        /// The operator.
        op: &'static str,
        /// What is wrong.
        error: GemmError,
    },
    /// Dims that do not fit the operator.
    #[error("{op}: {what}: {found:?}")]
    Dims {
        /// The operator.
        op: &'static str,
        /// What is expected.
        what: &'static str,
        /// The dims.
        found: Vec<usize>,
    },
    /// A shape or a memory that cannot be.
    #[error("{op}: {error}")]
    Tensor {
        /// The operator.
        op: &'static str,
        /// What is wrong.
        error: TensorError,
    },
    /// Candle's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<OpError> for candle_core::Error {
    fn from(e: OpError) -> candle_core::Error {
        match e {
            OpError::Candle(e) => e,
            e => candle_core::Error::wrap(e),
        }
    }
}
