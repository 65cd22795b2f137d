//! Scaled dot-product attention: `softmax(scale · Q·Kᵀ + mask) · V` (Vaswani et al., arXiv 1706.03762), with heads that share keys
//! and values (grouped queries, arXiv 2305.13245), a cache of earlier keys and values, causal and sliding windows, and capped
//! scores. The matrix of scores is never stored (after Dao et al., arXiv 2205.14135).

use super::{
    OpError,
    build::Build,
    call::{Arg, Call},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape as CandleShape, Tensor};
use millstream_graph::Op;
use millstream_ops::attention::scaled_dot_product::DEF;
use millstream_tensor::Shape;

const NAME: &str = "millstream attention";

/// An attention's parameters: the default is full attention with the scale `1 / √depth`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Attention {
    /// The factor of the scores; `1 / √depth` if it is not given.
    pub scale: Option<f32>,
    /// True if a query sees keys up to its own position only: key `j` is seen by query `i` if `j <= i + past keys`.
    pub causal: bool,
    /// How many keys before its position a query sees, if that is limited.
    pub left_window: Option<usize>,
    /// If not 0, scores are `cap · tanh(score / cap)`.
    pub cap: f32,
}

/// Which keys queries see, beside what [`Attention`] says.
#[derive(Debug, Clone, Copy)]
pub enum AttentionMask<'a> {
    /// Of u8, 1 where a key is seen; broadcasts to `[batch, heads, queries, keys]`.
    Visible(&'a Tensor),
    /// Of the queries' type, added to the scores (before the softmax); broadcasts likewise.
    Added(&'a Tensor),
}

impl Attention {
    /// The attention of queries `[batch, heads, queries, depth]` to keys `[batch, kv_heads, keys, depth]`, which weigh values
    /// `[batch, kv_heads, keys, width]`: `[batch, heads, queries, width]`. All are of f32, f16 or bf16; `heads` is a multiple of
    /// `kv_heads`. A query that sees no key gets zeros.
    ///
    /// Operands that are `[batch, rows, heads, depth]` transposed are read as they lie, and so lies the result then.
    ///
    /// # Errors
    /// [`OpError::Shapes`] and [`OpError::Kernel`] where types or shapes do not fit, [`OpError::Device`] for tensors on other
    /// devices than the CPU and CUDA's.
    pub fn run(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<AttentionMask<'_>>) -> Result<Tensor, OpError> {
        let mask = masked(mask)?;
        let Some([q_rows, k_rows, v_rows]) = side_by_side([q, k, v])? else {
            let op = self.op(None)?;
            return Ok(Call { name: NAME, op: &*op }.run(&[Arg::Tensor(q), Arg::Tensor(k), Arg::Tensor(v), mask], 1)?.swap_remove(0));
        };
        let (batch, heads, queries, _) = q.dims4()?;
        let (_, kv_heads, _, width) = v.dims4()?;
        let op = self.op(Some([heads, kv_heads]))?;
        let flat = |t: &Tensor| -> Result<Shape, OpError> {
            let (b, l, h, d) = t.dims4()?;
            Shape::new(&[b, l, h * d]).map_err(|error| OpError::Tensor { op: NAME, error })
        };
        let args = [Arg::Reshaped(&q_rows, flat(&q_rows)?), Arg::Reshaped(&k_rows, flat(&k_rows)?), Arg::Reshaped(&v_rows, flat(&v_rows)?), mask];
        let y = Call { name: NAME, op: &*op }.run(&args, 1)?.swap_remove(0);
        Ok(y.reshape((batch, queries, heads, width))?.transpose(1, 2)?)
    }

    /// [`Attention::run`] where keys and values come behind those of earlier calls (`[batch, kv_heads, past, ..]`, `None` in the
    /// first call): the result, and the keys and values for the next call.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn run_cached(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        past: Option<(&Tensor, &Tensor)>,
        mask: Option<AttentionMask<'_>>,
    ) -> Result<(Tensor, Tensor, Tensor), OpError> {
        let mask = masked(mask)?;
        let op = self.op(None)?;
        let Some((past_k, past_v)) = past else {
            return Ok((Call { name: NAME, op: &*op }.run(&[Arg::Tensor(q), Arg::Tensor(k), Arg::Tensor(v), mask], 1)?.swap_remove(0), k.clone(), v.clone()));
        };
        let args = [Arg::Tensor(q), Arg::Tensor(k), Arg::Tensor(v), mask, Arg::Tensor(past_k), Arg::Tensor(past_v)];
        let mut made = Call { name: NAME, op: &*op }.run(&args, 3)?.into_iter();
        match (made.next(), made.next(), made.next()) {
            (Some(y), Some(k), Some(v)) => Ok((y, k, v)),
            _ => Err(OpError::Dims { op: NAME, what: "three results are expected", found: vec![] }),
        }
    }

    fn op(&self, heads: Option<[usize; 2]>) -> Result<Box<dyn Op>, OpError> {
        let mut build = Build::default().int("is_causal", usize::from(self.causal)).float("softcap", self.cap);
        if let Some(scale) = self.scale {
            build = build.float("scale", scale);
        }
        if let Some(left) = self.left_window {
            build = build.int("left_window_size", left);
        }
        if let Some([q, kv]) = heads {
            build = build.int("q_num_heads", q).int("kv_num_heads", kv);
        }
        build.make(NAME, &DEF)
    }
}

/// `[batch, rows, heads, depth]` of operands that are that transposed, if all are.
fn side_by_side(operands: [&Tensor; 3]) -> Result<Option<[Tensor; 3]>, OpError> {
    let transposed = |t: &&Tensor| t.rank() == 4 && !t.is_contiguous() && t.transpose(1, 2).is_ok_and(|t| t.is_contiguous());
    if !operands.iter().all(transposed) {
        return Ok(None);
    }
    let [q, k, v] = operands;
    Ok(Some([q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?]))
}

/// A mask as an argument of the kernel.
fn masked(mask: Option<AttentionMask<'_>>) -> Result<Arg<'_>, OpError> {
    Ok(match mask {
        None => Arg::Absent,
        Some(AttentionMask::Added(t)) => Arg::Tensor(t),
        Some(AttentionMask::Visible(t)) if t.dtype() == DType::U8 => Arg::Truth(t),
        Some(AttentionMask::Visible(t)) => return Err(OpError::DType { op: NAME, input: 3, found: t.dtype().as_str(), wanted: "u8" }),
    })
}

/// `q.apply_op3_no_bwd(&k, &v, &attention)`: [`Attention::run`] without a mask.
impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, q: &CpuStorage, lq: &Layout, k: &CpuStorage, lk: &Layout, v: &CpuStorage, lv: &Layout) -> candle_core::Result<(CpuStorage, CandleShape)> {
        let op = self.op(None)?;
        Ok(Call { name: NAME, op: &*op }.run_stored(&[(q, lq), (k, lk), (v, lv)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        lq: &Layout,
        k: &CudaStorage,
        lk: &Layout,
        v: &CudaStorage,
        lv: &Layout,
    ) -> candle_core::Result<(CudaStorage, CandleShape)> {
        Ok(Call { name: NAME, op: &*self.op(None)? }.run_stored_on_cuda(&[(q, lq), (k, lk), (v, lv)])?)
    }
}
