//! Layer normalisation: `(x - mean) / √(variance + ε) · weight + bias` along the last axis (Ba, Kiros and Hinton, arXiv
//! 1607.06450), in one pass over memory. The variance is the biased one.

use super::{
    OpError,
    call::{Arg, Call},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use millstream_ops::norm::layer_normalization::LayerNormalization;

const NAME: &str = "millstream layer_norm";

/// Normalises the last axis of `x`.
///
/// `x` is `[.., n]`, of f32, f64, f16 or bf16 (narrow ones are computed wider); `weight` and `bias` are `[n]` of the same
/// type. The result has `x`'s shape.
///
/// # Errors
/// [`OpError::Shapes`] where types or shapes do not fit, [`OpError::Device`] for tensors on other devices than the CPU and CUDA's.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f32) -> Result<Tensor, OpError> {
    let op = LayerNormalization::new(-1, epsilon);
    Ok(Call { name: NAME, op: &op }.run(&[Arg::Tensor(x), Arg::Tensor(weight), Arg::optional(bias)], 1)?.swap_remove(0))
}

/// [`layer_norm`] as an operator of Candle's: `x.apply_op3_no_bwd(&weight, &bias, &LayerNorm { epsilon })`, or with two inputs
/// without a bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// What is added to the variance.
    pub epsilon: f32,
}

impl CustomOp2 for LayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Call { name: NAME, op: &LayerNormalization::new(-1, self.epsilon) }.run_stored(&[(x, lx), (w, lw)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(Call { name: NAME, op: &LayerNormalization::new(-1, self.epsilon) }.run_stored_on_cuda(&[(x, lx), (w, lw)])?)
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout, b: &CpuStorage, lb: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Call { name: NAME, op: &LayerNormalization::new(-1, self.epsilon) }.run_stored(&[(x, lx), (w, lw), (b, lb)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout, b: &CudaStorage, lb: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(Call { name: NAME, op: &LayerNormalization::new(-1, self.epsilon) }.run_stored_on_cuda(&[(x, lx), (w, lw), (b, lb)])?)
    }
}
