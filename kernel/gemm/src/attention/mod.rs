//! Attention of one head: `softmax(scale · Q·Kᵀ + mask) · V`, without the matrix of scores.
//!
//! ```text
//! pack Kᵀ and V                                        once a head
//! for tiles of at most MR queries:
//!   S = scale · Q·Kᵀ + mask                            a row for each query, in the first cache; keys that no query sees are left out
//!   S = exp(S - max of its row); sum of each row
//!   O = S · V, its rows divided by their sums
//! ```
//! A mask is added by the microkernel where it can be; a cap on scores, other masks and windows are passes over the rows.
//! A tile's rows of scores are complete before their softmax, so there is nothing to correct afterwards: an element of the output is one
//! chain over the keys in ascending order, and the order of the sums depends on the number of keys and the level only. Scores lie as the
//! microkernel wants its left operand, in blocks of [`KC`] keys, so that they are not copied.

use core::ptr;

use millstream_simd::{Level, SimdF32, dispatch, slice};
use millstream_tensor::tile::TileMut;

mod few;
mod scores;

pub use few::{FewOptions, FewScores};
pub use scores::{KeyWindow, Mask, MaskElements, Scores};

use crate::error::{GemmError, agree, require, span};
use crate::micro::{A_STRIDE, Call, Finish, KC, Later, Tile};
use crate::rhs::panel_width;
use crate::{Lhs, PackedRef, Rhs, pack_into, packed_len};
use scores::{adjust, blocks, softmax};

/// Floats to the next boundary of a cache line, at most.
const ALIGN_SLACK: usize = 16;

/// A strided matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements from (0, 0) on.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl Matrix<'_> {
    fn check(&self, what: &'static str, rows: usize, cols: usize) -> Result<(), GemmError> {
        require(what, span(rows, self.row_stride, cols, self.col_stride)?, self.data.len())
    }
}

/// Attention of one head, of known dims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    level: Level,
    keys: usize,
    depth: usize,
    width: usize,
}

/// Keys and values in the form that [`Attention::run`] reads.
#[derive(Clone, Copy, Debug)]
pub struct PackedHead<'a> {
    keys: PackedRef<'a>,
    values: PackedRef<'a>,
}

impl Attention {
    /// Of `keys` keys of `depth` elements and as many values of `width` elements.
    pub fn new(level: Level, keys: usize, depth: usize, width: usize) -> Self {
        Self { level, keys, depth, width }
    }

    /// Elements that a packed head takes.
    pub fn packed_len(&self) -> usize {
        packed_len(self.level, self.depth, self.keys).saturating_add(packed_len(self.level, self.keys, self.width))
    }

    /// Packs keys (keys × depth) and values (keys × width) into `dst`, of at least [`Attention::packed_len`] elements.
    pub fn pack<'d>(&self, keys: Matrix<'_>, values: Matrix<'_>, dst: &'d mut [f32]) -> Result<PackedHead<'d>, GemmError> {
        require("a packed head", self.packed_len(), dst.len())?;
        let (k, v) = dst.split_at_mut(packed_len(self.level, self.depth, self.keys));
        let transposed = Rhs::strided(keys.data, keys.col_stride, keys.row_stride);
        let values = Rhs::strided(values.data, values.row_stride, values.col_stride);
        Ok(PackedHead { keys: pack_into(self.level, transposed, self.depth, self.keys, k)?, values: pack_into(self.level, values, self.keys, self.width, v)? })
    }

    /// Elements of scratch that a run needs.
    pub fn scratch_len(&self) -> usize {
        dispatch!(self.level, s => scratch_len(s, self.keys, self.depth))
    }

    /// The rows of `out` for as many queries (rows × depth). A query that sees no key gets zeros.
    pub fn run(&self, queries: Matrix<'_>, head: PackedHead<'_>, scores: Scores<'_>, out: TileMut<'_, f32>, scratch: &mut [f32]) -> Result<(), GemmError> {
        let rows = out.rows();
        queries.check("queries", rows, self.depth)?;
        agree("keys that are seen", scores.window.keys.min(self.keys), scores.window.keys)?;
        if let Some(mask) = &scores.mask {
            mask.check(rows, scores.window.keys)?;
        }
        agree("columns of the output", self.width, out.cols())?;
        require("scratch", self.scratch_len(), scratch.len())?;
        let width = panel_width(self.level);
        head.keys.check(self.depth, self.keys, width)?;
        head.values.check(self.keys, self.width, width)?;
        dispatch!(self.level, s => self.run_tiles(s, queries, head, scores, out, scratch));
        Ok(())
    }

    #[inline(always)]
    fn run_tiles<S: Tile>(&self, s: S, queries: Matrix<'_>, head: PackedHead<'_>, scores: Scores<'_>, mut out: TileMut<'_, f32>, scratch: &mut [f32]) {
        let aligned = scratch.as_ptr().align_offset(64).min(ALIGN_SLACK);
        let (left, weights) = scratch[aligned..].split_at_mut(blocks(self.depth) * S::MR * A_STRIDE);
        let (mask, mask_stride) = scores.added().map_or((ptr::null(), 0), |(data, stride)| (data.as_ptr(), stride));
        let finish = Finish {
            alpha: scores.scale,
            bias_cols: ptr::null(),
            bias_rows: ptr::null(),
            residual: mask,
            residual_stride: mask_stride,
            beta: if mask.is_null() { 0.0 } else { 1.0 },
            clamp: false,
            lo: 0.0,
            hi: 0.0,
        };
        let lhs = Lhs::Strided { data: queries.data, row_stride: queries.row_stride, col_stride: queries.col_stride };
        let rows = out.rows();
        let tiles = rows.div_ceil(S::MR).max(1);
        // Heights differ by one at most.
        let (base, taller) = (rows / tiles, rows % tiles);
        for t in 0..tiles {
            let (row, mr) = (t * base + t.min(taller), base + usize::from(t < taller));
            if mr == 0 {
                return;
            }
            // Windows only move on from query to query.
            let seen = scores.window.of(row).start..scores.window.of(row + mr - 1).end;
            if seen.is_empty() {
                (row..row + mr).for_each(|r| out.row(r).fill(0.0));
                continue;
            }
            // Blocks before it are not computed.
            let from = seen.start / KC * KC;
            for (block, left) in left.chunks_exact_mut(S::MR * A_STRIDE).enumerate() {
                let k0 = block * KC;
                lhs.copy(s, row, k0, KC.min(self.depth - k0), &mut left[..mr * A_STRIDE], A_STRIDE, 0.0);
            }
            for p in from / S::NR..seen.end.div_ceil(S::NR) {
                let key = p * S::NR;
                let at = (key - from) / KC * S::MR * A_STRIDE + key % KC;
                let target = Target { data: &mut weights[at..], stride: A_STRIDE, cols: S::NR.min(seen.end - key) };
                product(s, left, head.keys.panel(p), self.depth, mr, target, Some(&finish), row, key);
            }
            let mut factors = [0.0; 16];
            for (r, factor) in factors[..mr].iter_mut().enumerate() {
                let (line, step, own) = (r * A_STRIDE, S::MR * A_STRIDE, scores.window.of(row + r));
                for block in (from..seen.end).step_by(KC) {
                    let keys = block..seen.end.min(block + KC);
                    let line = &mut weights[line + (block - from) / KC * step..][..keys.len()];
                    if !scores.are_plain() {
                        adjust(s, line, scores.cap, scores.mask.as_ref(), row + r, block);
                    }
                    line[..own.start.clamp(keys.start, keys.end) - block].fill(f32::NEG_INFINITY);
                    line[own.end.clamp(keys.start, keys.end) - block..].fill(f32::NEG_INFINITY);
                }
                *factor = softmax(s, weights, line, step, seen.end - from, scores.blind_is_zero || own.is_empty());
            }
            for p in 0..self.width.div_ceil(S::NR) {
                let col = p * S::NR;
                let cols = S::NR.min(self.width - col);
                let stride = out.row_stride();
                let Some(mut part) = out.part(row, col, mr, cols) else { return };
                // SAFETY: the part's rows are `stride` apart, so its span ends with its last element.
                let data = unsafe { core::slice::from_raw_parts_mut(part.as_mut_ptr(), (mr - 1) * stride + cols) };
                product(s, weights, &head.values.panel(p)[from * S::NR..], seen.end - from, mr, Target { data, stride, cols }, None, 0, 0);
            }
            for (r, &factor) in factors[..mr].iter().enumerate() {
                let factor = S::F32::splat(s, factor);
                slice::map_in_place(
                    s,
                    out.row(row + r),
                    #[inline(always)]
                    |x| x * factor,
                );
            }
        }
    }
}

/// Where a tile of a product goes.
struct Target<'c> {
    data: &'c mut [f32],
    stride: usize,
    cols: usize,
}

#[inline(always)]
fn scratch_len<S: Tile>(_: S, keys: usize, depth: usize) -> usize {
    blocks(keys).saturating_add(blocks(depth)).saturating_mul(S::MR * A_STRIDE).saturating_add(ALIGN_SLACK)
}

/// One tile of `mr` rows and one panel of columns. The left operand lies in blocks of [`KC`] columns, each of MR rows.
#[inline(always)]
fn product<S: Tile>(s: S, left: &[f32], panel: &[f32], k: usize, mr: usize, target: Target<'_>, finish: Option<&Finish>, row: usize, col: usize) {
    assert!(mr <= S::MR && target.cols <= S::NR && target.cols > 0);
    let to = &mut target.data[..(mr - 1) * target.stride + target.cols];
    let kernel = S::KERNELS[mr - 1][target.cols.div_ceil(S::NR / S::NV) - 1];
    let mut k0 = 0;
    loop {
        let kc = KC.min(k - k0);
        let b = panel[k0 * S::NR..][..kc * S::NR].as_ptr();
        let call = Call {
            a: left[k0 / KC * S::MR * A_STRIDE..][..mr * A_STRIDE].as_ptr(),
            a_stride: A_STRIDE,
            runs: 1,
            run_step: 0,
            b,
            kc,
            c: to.as_mut_ptr(),
            c_stride: target.stride,
            cols: target.cols,
            first: k0 == 0,
            later: Later { start: b, step: 0 },
            finish: finish.filter(|_| k0 + kc == k),
            row,
            col,
        };
        // SAFETY: A has mr rows of kc <= KC elements and B kc groups of NR, both sliced above; so is C, which the first block of k
        // initialises; `run` checked the mask, the only pointer of `finish`, against all rows and columns.
        unsafe { kernel(s, &call) };
        k0 += kc;
        if k0 == k {
            return;
        }
    }
}
