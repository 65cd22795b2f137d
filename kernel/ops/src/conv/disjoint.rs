//! Transposed convolution whose windows stand side by side (the stride is the kernel): every output pixel is one tap of one
//! input pixel.
//!
//! ```text
//! for lines of the image:  parts[x, (ky, kx, out)] = activation(image[x, ..] · weights + bias)      (in the cache)
//!                          y[stride · line + ky] = parts[.., ky]
//! ```

use super::conv_transpose::SpreadAxis;
use crate::{
    carve::{carve, carved},
    matmul::product,
};
use millstream_gemm::{Activation, Epilogue, Gemm, Lhs, PackedRef};
use millstream_graph::{EvalCx, EvalError};
use millstream_simd::{Level, Simd, SimdF32, dispatch};
use millstream_tensor::tile::Tiles;

/// Multiply-adds that a grain aims at.
const GRAIN_WORK: usize = 1 << 20;
/// At most this many grains.
const MAX_GRAINS: usize = 256;

/// A convolution of known dims.
pub(crate) struct Disjoint {
    level: Level,
    /// Lines of all images, and pixels of one.
    lines: usize,
    width: usize,
    channels: usize,
    /// Taps of a column of the kernel, and elements that a line of the kernel makes.
    down: usize,
    across: usize,
}

impl Disjoint {
    /// One or two axes of a single group; `None` if windows overlap or anything is cut off.
    pub(crate) fn new(level: Level, axes: &[SpreadAxis], images: usize, channels: usize, out: usize) -> Option<Disjoint> {
        let apart = |a: &SpreadAxis| a.kernel == a.stride && a.dilation == 1 && a.pad == 0 && a.output == a.input * a.stride;
        let (lines, down, last) = match axes {
            [x] => (images, 1, x),
            [y, x] => (images * y.input, y.kernel, x),
            _ => return None,
        };
        axes.iter().all(apart).then_some(Disjoint { level, lines, width: last.input, channels, down, across: last.kernel * out })
    }

    fn columns(&self) -> usize {
        self.down * self.across
    }

    fn gemm(&self) -> Gemm {
        Gemm::new(self.level, self.width, self.channels, self.columns())
    }

    /// Elements of the bias, once for each tap.
    pub(crate) fn bias_len(&self) -> usize {
        self.columns()
    }

    /// Bytes of scratch that a grain needs.
    pub(crate) fn grain_scratch(&self) -> usize {
        product::grain_scratch(&self.gemm()).saturating_add(carved::<f32>(self.width * self.columns()))
    }

    /// Runs the step; `bias` has [`Disjoint::bias_len`] elements.
    pub(crate) fn run(&self, cx: &EvalCx<'_>, x: &[f32], weights: PackedRef<'_>, bias: &[f32], activation: Activation, y: &mut [f32]) -> Result<(), EvalError> {
        let (gemm, columns) = (self.gemm(), self.columns());
        let work = (self.width * self.channels * columns).max(1);
        let rows = (GRAIN_WORK / work).max(self.lines.div_ceil(MAX_GRAINS)).max(1);
        let tiles = Tiles::rows(y, self.width * columns, rows).ok_or(EvalError::Output(0))?;
        let epilogue = Epilogue::bias(bias, activation);
        cx.parallel(tiles.count(), |grain, mut scratch| {
            let mut tile = tiles.claim(grain)?;
            let packing = carve::<f32>(&mut scratch, gemm.scratch_len())?;
            let parts = carve::<f32>(&mut scratch, self.width * columns)?;
            for i in 0..tile.rows() {
                let line = self.width * self.channels;
                let a = Lhs::row_major(x.get((tile.origin().0 + i) * line..)?, self.channels);
                let whole = Tiles::new(parts, self.width, columns, columns, self.width, columns)?;
                gemm.run_in(&a, weights, whole.claim(0)?, &epilogue, packing).ok()?;
                for (ky, y) in tile.row(i).chunks_exact_mut(self.width * self.across).enumerate() {
                    let parts = &parts[ky * self.across..];
                    match self.across {
                        1 => short::<1>(parts, columns, y),
                        2 => short::<2>(parts, columns, y),
                        4 => short::<4>(parts, columns, y),
                        _ => dispatch!(self.level, s => long(s, parts, columns, self.across, y)),
                    }
                }
            }
            Some(())
        })
    }
}

/// Copies the first `N` elements of rows `stride` apart.
fn short<const N: usize>(rows: &[f32], stride: usize, y: &mut [f32]) {
    for (row, y) in rows.chunks(stride).zip(y.as_chunks_mut::<N>().0) {
        if let Some(row) = row.first_chunk() {
            *y = *row;
        }
    }
}

/// Copies the first `n` elements of rows `stride` apart.
#[inline(always)]
fn long<S: Simd>(s: S, rows: &[f32], stride: usize, n: usize, y: &mut [f32]) {
    for (row, y) in rows.chunks(stride).zip(y.chunks_exact_mut(n)) {
        for (from, to) in row[..n].chunks(S::F32::LANES).zip(y.chunks_mut(S::F32::LANES)) {
            S::F32::load_partial(s, from).store_partial(to);
        }
    }
}
