//! Activations, one pass over memory each, vectorised: GELU (Hendrycks and Gimpel, arXiv 1606.08415) by the error function, its
//! approximations by a hyperbolic tangent and by a sigmoid, SiLU (arXiv 1702.03118), hard-swish (arXiv 1905.02244), Mish
//! (arXiv 1908.08681) and the classics. Vectors are within a few units in the last place of the definitions in f64.

use super::{
    OpError,
    call::{Arg, Call},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use millstream_graph::Op;
use millstream_ops::elementwise::{
    elu::Elu, gelu::Gelu, hard_sigmoid::HardSigmoid, hard_swish::HardSwish, leaky_relu::LeakyRelu, mish::Mish, relu::Relu, sigmoid::Sigmoid, swish::Swish,
    tanh::Tanh,
};

const NAME: &str = "millstream activation";

/// How GELU is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluKind {
    /// `x / 2 (1 + erf(x / √2))`: Candle's `gelu_erf`.
    Erf,
    /// `x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: Candle's `gelu`.
    Tanh,
    /// `x sigmoid(1.702 x)`, as CLIP has it.
    Quick,
}

/// A function of one element.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x Φ(x)`, or an approximation.
    Gelu(GeluKind),
    /// `x sigmoid(x)`.
    Silu,
    /// `x max(0, min(1, x / 6 + 1 / 2))`.
    HardSwish,
    /// `max(0, min(1, x / 6 + 1 / 2))`.
    HardSigmoid,
    /// `x tanh(ln(1 + exp(x)))`.
    Mish,
    /// `max(0, x)`.
    Relu,
    /// `x < 0 ? slope x : x`.
    LeakyRelu {
        /// The slope of the negative side.
        slope: f32,
    },
    /// `x < 0 ? alpha (exp(x) - 1) : x`.
    Elu {
        /// The factor of the negative side.
        alpha: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

impl Activation {
    fn with<R>(self, run: impl FnOnce(&dyn Op) -> R) -> R {
        match self {
            Activation::Gelu(GeluKind::Erf) => run(&Gelu { tanh: false }),
            Activation::Gelu(GeluKind::Tanh) => run(&Gelu { tanh: true }),
            Activation::Gelu(GeluKind::Quick) => run(&Swish { alpha: 1.702 }),
            Activation::Silu => run(&Swish { alpha: 1.0 }),
            Activation::HardSwish => run(&HardSwish),
            Activation::HardSigmoid => run(&HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }),
            Activation::Mish => run(&Mish),
            Activation::Relu => run(&Relu),
            Activation::LeakyRelu { slope } => run(&LeakyRelu { alpha: slope }),
            Activation::Elu { alpha } => run(&Elu { alpha }),
            Activation::Sigmoid => run(&Sigmoid),
            Activation::Tanh => run(&Tanh),
        }
    }
}

/// Each element of `x` (f32, f64, f16 or bf16, any shape) through an activation.
///
/// # Errors
/// [`OpError::Shapes`] for other element types, [`OpError::Device`] for tensors on other devices than the CPU and CUDA's.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor, OpError> {
    activation.with(|op| Ok(Call { name: NAME, op }.run(&[Arg::Tensor(x)], 1)?.swap_remove(0)))
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.with(|op| Call { name: NAME, op }.run_stored(&[(x, lx)]))?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(self.with(|op| Call { name: NAME, op }.run_stored_on_cuda(&[(x, lx)]))?)
    }
}
