//! Root-mean-square normalisation: `x / √(mean(x²) + ε) · weight` along the last axis (Zhang and Sennrich, arXiv 1910.07467).

use super::{
    OpError,
    call::{Arg, Call},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use millstream_ops::norm::rms_normalization::RMSNormalization;

const NAME: &str = "millstream rms_norm";

/// Normalises the last axis of `x`.
///
/// `x` is `[.., n]`, of f32, f64, f16 or bf16 (narrow ones are computed wider); `weight` is `[n]` of the same type. The
/// result has `x`'s shape.
///
/// # Errors
/// [`OpError::Shapes`] where types or shapes do not fit, [`OpError::Device`] for tensors on other devices than the CPU and CUDA's.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor, OpError> {
    Ok(Call { name: NAME, op: &RMSNormalization::new(-1, epsilon) }.run(&[Arg::Tensor(x), Arg::Tensor(weight)], 1)?.swap_remove(0))
}

/// [`rms_norm`] as an operator of Candle's: `x.apply_op2_no_bwd(&weight, &RmsNorm { epsilon })`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNorm {
    /// What is added to the mean square.
    pub epsilon: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Call { name: NAME, op: &RMSNormalization::new(-1, self.epsilon) }.run_stored(&[(x, lx), (w, lw)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(Call { name: NAME, op: &RMSNormalization::new(-1, self.epsilon) }.run_stored_on_cuda(&[(x, lx), (w, lw)])?)
    }
}
