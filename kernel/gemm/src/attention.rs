//! Attention of one head: `softmax(scale · Q·Kᵀ + mask) · V`, without the matrix of scores.
//!
//! ```text
//! pack Kᵀ and V                                        once a head
//! for tiles of at most MR queries:
//!   S = scale · Q·Kᵀ + mask                            a row for each query, in the first cache
//!   S = exp(S - max of its row); sum of each row
//!   O = S · V, its rows divided by their sums
//! ```
//! A tile's rows of scores are complete before their softmax, so there is nothing to correct afterwards: an element of the output is one
//! chain over the keys in ascending order, and the order of the sums depends on the number of keys and the level only. Scores lie as the
//! microkernel wants its left operand, in blocks of [`KC`] keys, so that they are not copied.

use core::ptr;

use millstream_simd::{Level, Simd, SimdF32, dispatch, math, slice};
use millstream_tensor::tile::TileMut;

use crate::error::{GemmError, agree, require, span};
use crate::micro::{A_STRIDE, Call, Finish, KC, Later, Tile};
use crate::rhs::panel_width;
use crate::{Lhs, PackedRef, Residual, Rhs, pack_into, packed_len};

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

    /// The rows of `out` for as many queries (rows × depth). `mask`, of the scores' dims, is added to them.
    pub fn run(
        &self,
        queries: Matrix<'_>,
        head: PackedHead<'_>,
        scale: f32,
        mask: Option<Residual<'_>>,
        out: TileMut<'_, f32>,
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        let rows = out.rows();
        queries.check("queries", rows, self.depth)?;
        if let Some(mask) = &mask {
            require("a mask", span(rows, mask.row_stride, self.keys, 1)?, mask.data.len())?;
        }
        agree("columns of the output", self.width, out.cols())?;
        require("scratch", self.scratch_len(), scratch.len())?;
        let width = panel_width(self.level);
        head.keys.check(self.depth, self.keys, width)?;
        head.values.check(self.keys, self.width, width)?;
        dispatch!(self.level, s => self.run_tiles(s, queries, head, scale, mask, out, scratch));
        Ok(())
    }

    #[inline(always)]
    fn run_tiles<S: Tile>(
        &self,
        s: S,
        queries: Matrix<'_>,
        head: PackedHead<'_>,
        scale: f32,
        mask: Option<Residual<'_>>,
        mut out: TileMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        if self.keys == 0 {
            // Nothing to weigh.
            (0..out.rows()).for_each(|r| out.row(r).fill(0.0));
            return;
        }
        let aligned = scratch.as_ptr().align_offset(64).min(ALIGN_SLACK);
        let (left, scores) = scratch[aligned..].split_at_mut(blocks(self.depth) * S::MR * A_STRIDE);
        let finish = Finish {
            alpha: scale,
            bias_cols: ptr::null(),
            bias_rows: ptr::null(),
            residual: mask.map_or(ptr::null(), |m| m.data.as_ptr()),
            residual_stride: mask.map_or(0, |m| m.row_stride),
            beta: mask.map_or(0.0, |m| m.beta),
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
            for (block, left) in left.chunks_exact_mut(S::MR * A_STRIDE).enumerate() {
                let k0 = block * KC;
                lhs.copy(s, row, k0, KC.min(self.depth - k0), &mut left[..mr * A_STRIDE], A_STRIDE, 0.0);
            }
            for p in 0..self.keys.div_ceil(S::NR) {
                let key = p * S::NR;
                let target = Target { data: &mut scores[key / KC * S::MR * A_STRIDE + key % KC..], stride: A_STRIDE, cols: S::NR.min(self.keys - key) };
                product(s, left, head.keys.panel(p), self.depth, mr, target, Some(&finish), row, key);
            }
            let mut factors = [0.0; 16];
            for (r, factor) in factors[..mr].iter_mut().enumerate() {
                *factor = 1.0 / softmax(s, scores, r * A_STRIDE, S::MR * A_STRIDE, self.keys);
            }
            for p in 0..self.width.div_ceil(S::NR) {
                let col = p * S::NR;
                let cols = S::NR.min(self.width - col);
                let stride = out.row_stride();
                let Some(mut part) = out.part(row, col, mr, cols) else { return };
                // SAFETY: the part's rows are `stride` apart, so its span ends with its last element.
                let data = unsafe { core::slice::from_raw_parts_mut(part.as_mut_ptr(), (mr - 1) * stride + cols) };
                product(s, scores, head.values.panel(p), self.keys, mr, Target { data, stride, cols }, None, 0, 0);
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

/// Blocks of [`KC`] that `k` makes, at least one.
#[inline(always)]
fn blocks(k: usize) -> usize {
    k.div_ceil(KC).max(1)
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

/// `exp(x - max)` of `n` elements that lie in blocks of [`KC`], the first at `first` and each `step` after the last; returns their sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, x: &mut [f32], first: usize, step: usize, n: usize) -> f32 {
    let lanes = S::F32::LANES;
    let count = blocks(n);
    let len = |block: usize| KC.min(n - block * KC);
    let mut greatest = f32::NEG_INFINITY;
    for block in 0..count {
        let part = slice::max(s, &x[first + block * step..][..len(block)]);
        // In this order a NaN stays.
        greatest = if part > greatest || part.is_nan() { part } else { greatest };
    }
    let greatest = S::F32::splat(s, greatest);
    let mut sums = [S::F32::splat(s, 0.0); 2];
    for block in 0..count {
        let x = &mut x[first + block * step..][..len(block)];
        let mut pairs = x.chunks_exact_mut(2 * lanes);
        for pair in &mut pairs {
            let (a, b) = pair.split_at_mut(lanes);
            let (p, q) = (math::exp(s, S::F32::load(s, a) - greatest), math::exp(s, S::F32::load(s, b) - greatest));
            p.store(a);
            q.store(b);
            sums = [sums[0] + p, sums[1] + q];
        }
        for rest in pairs.into_remainder().chunks_mut(lanes) {
            let p = math::exp(s, S::F32::load_partial(s, rest) - greatest);
            p.store_partial(rest);
            // Lanes past the end count nothing.
            sums[0] = sums[0] + S::F32::load_partial(s, rest);
        }
    }
    (sums[0] + sums[1]).reduce_add()
}
