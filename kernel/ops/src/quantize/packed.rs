//! Weights of integer products in the form that [`QuantisedGemm`] reads; running such a product; and its sums scaled to bytes.
//!
//! A sum is scaled as `round(f32(sum + bias) * scale) + zero`, saturated, rounding ties to even, in f32: the order of operations
//! that other runtimes have, so that a quantised model gives the same bytes.

use super::linear::bounds;
use crate::carve::{carve, carved};
use alloc::{vec, vec::Vec};
use core::ops::Range;
use millstream_gemm::{Block, Finish, Lhs, PackedQuantised, QUANTISED_PANEL, QuantisedElement, QuantisedGemm, QuantisedRef, ZeroPoints};
use millstream_graph::{EvalCx, EvalError, Packed};
use millstream_simd::{Simd, SimdF32, SimdI32};
use millstream_tensor::{DType, TensorError, TensorView};

/// Right operands, packed: a matrix, or a matrix for each group of a convolution.
#[derive(Debug)]
pub(crate) struct PackedBytes(pub(crate) Vec<PackedQuantised>);

impl Packed for PackedBytes {
    fn bytes_len(&self) -> usize {
        self.0.iter().map(PackedQuantised::bytes).sum()
    }
}

impl PackedBytes {
    /// A constant matrix; `None` for stacks, vectors, and types other than bytes.
    pub(crate) fn matrix(weight: TensorView<'_>) -> Result<Option<PackedBytes>, TensorError> {
        let (&[k, n], &[row, col]) = (weight.shape().dims(), weight.layout().strides()) else { return Ok(None) };
        let packed = match weight.dtype() {
            DType::U8 => PackedQuantised::from_u8(weight.typed::<u8>()?.data(), row, col, k, n),
            DType::I8 => PackedQuantised::from_i8(weight.typed::<i8>()?.data(), row, col, k, n),
            _ => return Ok(None),
        };
        Ok(Some(PackedBytes(vec![packed.map_err(|_| TensorError::OutOfMemory(k.saturating_mul(n)))?])))
    }

    /// Constant filters `[out, channels, ..taps]` in `groups`, as a matrix of `[taps, channels]` rows for each group; `None` where
    /// the convolution does not run as a product.
    pub(crate) fn filters(weight: TensorView<'_>, groups: usize) -> Result<Option<PackedBytes>, TensorError> {
        let shape = *weight.shape();
        if !matches!(shape.rank(), 3 | 4) || groups == 0 || !shape[0].is_multiple_of(groups) || !matches!(weight.dtype(), DType::U8 | DType::I8) {
            return Ok(None);
        }
        let bytes = weight.bytes()?;
        let (out, channels) = (shape[0] / groups, shape[1]);
        let taps: usize = shape[2..].iter().product();
        let k = channels * taps;
        let mut ordered = vec![0u8; out * k];
        let mut all = Vec::with_capacity(groups);
        for group in 0..groups {
            let from = &bytes[group * out * k..][..out * k];
            for (to, from) in ordered.chunks_exact_mut(k.max(1)).zip(from.chunks_exact(k.max(1))) {
                for (t, to) in to.chunks_exact_mut(channels.max(1)).enumerate() {
                    to.iter_mut().zip(from[t..].iter().step_by(taps)).for_each(|(to, &from)| *to = from);
                }
            }
            let packed = match weight.dtype() {
                DType::U8 => PackedQuantised::from_u8(&ordered, 1, k, k, out),
                _ => PackedQuantised::from_i8(bytemuck::cast_slice(&ordered), 1, k, k, out),
            };
            all.push(packed.map_err(|_| TensorError::OutOfMemory(ordered.len()))?);
        }
        Ok(Some(PackedBytes(all)))
    }
}

/// Bytes of scratch that a grain needs.
pub(crate) fn grain_scratch(gemm: &QuantisedGemm) -> usize {
    carved::<i32>(gemm.scratch_len())
}

/// Runs all grains of a product into `c`, whose rows begin `row_stride` apart.
pub(crate) fn run<T: QuantisedElement + Sync, F: Finish>(
    cx: &EvalCx<'_>,
    gemm: &QuantisedGemm,
    a: &Lhs<'_, T>,
    b: QuantisedRef<'_>,
    zeros: &ZeroPoints<'_>,
    finish: &F,
    (c, row_stride): (&mut [F::Output], usize),
) -> Result<(), EvalError> {
    let tiles = gemm.tiles(c, row_stride).map_err(|_| EvalError::Invalid("the dims of a product do not fit its operands"))?;
    cx.parallel(tiles.count(), |grain, mut scratch| {
        let scratch = carve(&mut scratch, gemm.scratch_len())?;
        gemm.run_grain(grain, a, b, zeros, finish, &tiles, scratch).ok()
    })
}

/// How the sums of each column become bytes. An i8 is written as the byte that it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rescale<'a> {
    /// Added first.
    pub(crate) bias: &'a [i32],
    /// What the sum is multiplied with.
    pub(crate) scale: &'a [f32],
    /// The zero point of the result.
    pub(crate) zero: i32,
    /// Type of the result: u8 or i8.
    pub(crate) to: DType,
}

impl<'a> Rescale<'a> {
    /// The same for some of the columns.
    pub(crate) fn columns(&self, range: Range<usize>) -> Rescale<'a> {
        Rescale { bias: &self.bias[range.clone()], scale: &self.scale[range], ..*self }
    }

    /// Scales a sum of column `o`.
    pub(crate) fn one(&self, o: usize, sum: i32) -> u8 {
        let (low, high) = bounds(self.to);
        let scaled = libm::rintf(sum.wrapping_add(self.bias[o]) as f32 * self.scale[o]);
        (f64::from(scaled) + f64::from(self.zero)).clamp(low, high) as i32 as u8
    }
}

impl Finish for Rescale<'_> {
    type Output = u8;

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, (_, col): (usize, usize), sums: &[[i32; QUANTISED_PANEL]], out: &mut Block<'_, '_, u8>) {
        let lanes = S::F32::LANES;
        let ((low, high), zero) = (bounds(self.to), self.zero as f32);
        let (low, high, zero) = (S::F32::splat(s, low as f32 - zero), S::F32::splat(s, high as f32 - zero), S::F32::splat(s, zero));
        for at in (0..out.cols()).step_by(lanes) {
            let n = lanes.min(out.cols() - at);
            let bias = S::I32::load_partial(s, &self.bias[col + at..col + at + n]);
            let scale = S::F32::load_partial(s, &self.scale[col + at..col + at + n]);
            for (i, sums) in sums.iter().enumerate() {
                let scaled = (S::I32::load(s, &sums[at..]) + bias).to_f32() * scale;
                let bytes = (high.min(low.max(scaled)).round_ties_even() + zero).to_i32();
                let row = &mut out.row(i)[at..];
                if n == lanes {
                    bytes.store_u8(row);
                } else {
                    let mut last = [0; 16];
                    bytes.store_u8(&mut last);
                    row.copy_from_slice(&last[..n]);
                }
            }
        }
    }
}
