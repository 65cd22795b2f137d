//! Softmax: `exp(x - max) / Σ exp(x - max)` along an axis, in one pass over memory.

use super::{
    OpError,
    call::{Arg, Call},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use millstream_ops::norm::softmax;

const NAME: &str = "millstream softmax";

/// The softmax of `x` along `axis` (counted from the back if negative), of f32, f64, f16 or bf16.
///
/// # Errors
/// [`OpError::Shapes`] for an axis or a type that does not fit, [`OpError::Device`] for tensors on other devices than the CPU and CUDA's.
pub fn softmax(x: &Tensor, axis: i64) -> Result<Tensor, OpError> {
    Ok(Call { name: NAME, op: &softmax::Softmax::along(axis) }.run(&[Arg::Tensor(x)], 1)?.swap_remove(0))
}

/// [`softmax()`] as an operator of Candle's: `x.apply_op1_no_bwd(&Softmax { axis: -1 })`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Softmax {
    /// The axis, counted from the back if negative.
    pub axis: i64,
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Call { name: NAME, op: &softmax::Softmax::along(self.axis) }.run_stored(&[(x, lx)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(Call { name: NAME, op: &softmax::Softmax::along(self.axis) }.run_stored_on_cuda(&[(x, lx)])?)
    }
}
