//! Rotary position embedding (Su et al., arXiv 2104.09864): pairs of elements of each head turned by angles that grow with the
//! position: `(a cos - b sin, a sin + b cos)`.

use super::{
    OpError,
    build::Build,
    call::{Arg, Call},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Shape as CandleShape, Tensor};
use millstream_graph::Op;
use millstream_ops::attention::rotary_embedding::DEF;
use millstream_tensor::Shape;

const NAME: &str = "millstream rotary";

/// Which elements make a pair: halves of the head by default (Candle's `rope`), or neighbours (`rope_i`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RotaryEmbedding {
    /// True if pairs are neighbours.
    pub interleaved: bool,
}

impl RotaryEmbedding {
    /// Turns `x`, `[batch, heads, rows, depth]`, by cosines and sines `[rows, pairs]` or `[batch, rows, pairs]`, all of f32, f16 or
    /// bf16. With fewer than `depth / 2` pairs, the elements behind the first `2 · pairs` stay.
    ///
    /// # Errors
    /// [`OpError::Shapes`], [`OpError::Kernel`] and [`OpError::Dims`] where types or shapes do not fit, [`OpError::Device`] for
    /// tensors on other devices than the CPU and CUDA's.
    pub fn run(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, OpError> {
        let (batch, rows) = match x.dims() {
            [b, _, rows, _] => (*b, *rows),
            other => return Err(OpError::Dims { op: NAME, what: "four axes are expected", found: other.to_vec() }),
        };
        let op = self.op(cos.dims())?;
        let call = Call { name: NAME, op: &*op };
        let made = match (cos.dims(), sin.dims()) {
            // One table for all: each element of the batch has the same positions.
            ([r, _], [..]) if batch != 1 || *r != rows => {
                let ids: Vec<i64> = (0..batch).flat_map(|_| 0..rows as i64).collect();
                let ids = millstream_tensor::Tensor::from_slice(&[batch, rows], &ids).map_err(|error| OpError::Tensor { op: NAME, error })?;
                call.run(&[Arg::Tensor(x), Arg::Tensor(cos), Arg::Tensor(sin), Arg::Own(&ids)], 1)?
            }
            ([r, pairs], [..]) => {
                let shape = Shape::new(&[1, *r, *pairs]).map_err(|error| OpError::Tensor { op: NAME, error })?;
                call.run(&[Arg::Tensor(x), Arg::Reshaped(cos, shape), Arg::Reshaped(sin, shape)], 1)?
            }
            _ => call.run(&[Arg::Tensor(x), Arg::Tensor(cos), Arg::Tensor(sin)], 1)?,
        };
        made.into_iter().next().ok_or(OpError::Dims { op: NAME, what: "a result is expected", found: vec![] })
    }

    fn op(&self, angles: &[usize]) -> Result<Box<dyn Op>, OpError> {
        let pairs = angles.last().copied().unwrap_or(0);
        Build::default().int("interleaved", usize::from(self.interleaved)).int("rotary_embedding_dim", pairs.saturating_mul(2)).make(NAME, &DEF)
    }
}

/// `x.apply_op3_no_bwd(&cos, &sin, &rotary)` with angles `[batch, rows, pairs]`.
impl CustomOp3 for RotaryEmbedding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        cos: &CpuStorage,
        lcos: &Layout,
        sin: &CpuStorage,
        lsin: &Layout,
    ) -> candle_core::Result<(CpuStorage, CandleShape)> {
        let op = self.op(lcos.dims())?;
        Ok(Call { name: NAME, op: &*op }.run_stored(&[(x, lx), (cos, lcos), (sin, lsin)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        cos: &CudaStorage,
        lcos: &Layout,
        sin: &CudaStorage,
        lsin: &Layout,
    ) -> candle_core::Result<(CudaStorage, CandleShape)> {
        Ok(Call { name: NAME, op: &*self.op(lcos.dims())? }.run_stored_on_cuda(&[(x, lx), (cos, lcos), (sin, lsin)])?)
    }
}
