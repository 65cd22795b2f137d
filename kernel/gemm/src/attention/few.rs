//! Attention of few queries: those of one step of a decoder, of all heads that share keys and values.
//!
//! Keys and values are read once, as they lie; nothing is packed, since each of them meets only these queries:
//! ```text
//! for each key:               its product with each query             the key's vectors are loaded once for four queries
//! for each query:             the softmax of its scores
//! for blocks of keys:
//!   for columns of values:    sums of weighted values in registers    a block of values stays in the first cache
//! ```
//! An element is one chain over the keys in ascending order.

use core::ops::Range;

use millstream_simd::{Simd, SimdF32, dispatch, slice};

use super::scores::{Mask, adjust, softmax};
use super::{Attention, Matrix};
use crate::error::{GemmError, agree, require};
use crate::micro::KC;

/// Queries that share a pass over keys or values.
const TOGETHER: usize = 4;
/// Vectors of a value that are summed in registers.
const VECTORS: usize = 4;
/// Keys whose values are met by all queries before the next ones.
const BLOCK: usize = 64;

/// What scores one query has before its softmax.
#[derive(Clone, Debug)]
pub struct FewScores<'a> {
    /// Its mask's row, as row 0.
    pub mask: Option<Mask<'a>>,
    /// The keys that it sees.
    pub keys: Range<usize>,
}

/// What is the same for all queries.
#[derive(Clone, Copy, Debug)]
pub struct FewOptions {
    /// The factor of the products of queries and keys.
    pub scale: f32,
    /// The bound `c` of `c · tanh(score / c)`; 0 for none.
    pub cap: f32,
    /// Zeros for a query whose scores are all -∞, instead of NaN.
    pub blind_is_zero: bool,
}

impl Attention {
    /// Elements of scratch that [`run_few`](Self::run_few) needs for so many queries.
    pub fn few_scratch_len(&self, queries: usize) -> usize {
        queries.saturating_mul(self.keys)
    }

    /// Rows of `out` (queries × width) for as many `queries` (queries × depth), both dense. The rows of keys and of values must be dense.
    pub fn run_few<'m>(
        &self,
        queries: &[f32],
        [keys, values]: [Matrix<'_>; 2],
        options: FewOptions,
        scores: impl Fn(usize) -> FewScores<'m>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        let rows = out.len().checked_div(self.width).unwrap_or(0);
        agree("elements of the output", rows * self.width, out.len())?;
        agree("elements of the queries", rows * self.depth, queries.len())?;
        agree("elements from one column of keys to the next", 1, keys.col_stride)?;
        agree("elements from one column of values to the next", 1, values.col_stride)?;
        keys.check("keys", self.keys, self.depth)?;
        values.check("values", self.keys, self.width)?;
        require("scratch", self.few_scratch_len(rows), scratch.len())?;
        let mut seen = self.keys..0;
        for row in 0..rows {
            let FewScores { mask, keys } = scores(row);
            agree("a last key", keys.end.min(self.keys), keys.end)?;
            mask.map_or(Ok(()), |mask| mask.check(1, keys.end))?;
            if !keys.is_empty() {
                seen = seen.start.min(keys.start)..seen.end.max(keys.end);
            }
        }
        out.fill(0.0);
        if !seen.is_empty() {
            dispatch!(self.level, s => self.few(s, queries, [keys, values], options, &scores, seen, out, scratch));
        }
        Ok(())
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the frame of one dispatch")]
    fn few<'m, S: Simd>(
        &self,
        s: S,
        queries: &[f32],
        [keys, values]: [Matrix<'_>; 2],
        options: FewOptions,
        scores: &impl Fn(usize) -> FewScores<'m>,
        seen: Range<usize>,
        out: &mut [f32],
        weights: &mut [f32],
    ) {
        let (depth, width, stride) = (self.depth, self.width, self.keys);
        let rows = out.len() / width;
        for j in seen.clone() {
            let key = if depth == 0 { &[] } else { &keys.data[j * keys.row_stride..][..depth] };
            let mut row = 0;
            while row < rows {
                let together = TOGETHER.min(rows - row);
                let q = &queries[row * depth..][..together * depth];
                let to = &mut weights[row * stride + j..];
                match together {
                    1 => dots::<S, 1>(s, q, key, options.scale, to, stride),
                    2 => dots::<S, 2>(s, q, key, options.scale, to, stride),
                    3 => dots::<S, 3>(s, q, key, options.scale, to, stride),
                    _ => dots::<S, TOGETHER>(s, q, key, options.scale, to, stride),
                }
                row += together;
            }
        }
        for row in 0..rows {
            let FewScores { mask, keys: range } = scores(row);
            let line = &mut weights[row * stride..][..stride];
            line[seen.start..range.start.clamp(seen.start, seen.end)].fill(0.0);
            line[range.end.clamp(seen.start, seen.end)..seen.end].fill(0.0);
            if range.is_empty() {
                line[seen.clone()].fill(0.0);
                continue;
            }
            adjust(s, &mut line[range.clone()], options.cap, mask.as_ref(), 0, range.start);
            let factor = softmax(s, line, range.start, KC, range.len(), options.blind_is_zero);
            let factor = S::F32::splat(s, factor);
            slice::map_in_place(
                s,
                &mut line[range],
                #[inline(always)]
                |x| x * factor,
            );
        }
        let mut first = seen.start;
        while first < seen.end {
            let block = first..(first + BLOCK).min(seen.end);
            let mut row = 0;
            while row < rows {
                let together = TOGETHER.min(rows - row);
                let (weights, to) = (&weights[row * stride..][..together * stride], &mut out[row * width..][..together * width]);
                match together {
                    1 => weigh::<S, 1>(s, weights, stride, values, block.clone(), to, width),
                    2 => weigh::<S, 2>(s, weights, stride, values, block.clone(), to, width),
                    3 => weigh::<S, 3>(s, weights, stride, values, block.clone(), to, width),
                    _ => weigh::<S, TOGETHER>(s, weights, stride, values, block.clone(), to, width),
                }
                row += together;
            }
            first = block.end;
        }
    }
}

/// `scale · query · key` of `R` queries that lie behind each other; the results lie `stride` apart.
#[inline(always)]
fn dots<S: Simd, const R: usize>(s: S, queries: &[f32], key: &[f32], scale: f32, to: &mut [f32], stride: usize) {
    let (depth, lanes) = (key.len(), S::F32::LANES);
    let mut sums = [S::F32::splat(s, 0.0); R];
    let mut at = 0;
    while at + lanes <= depth {
        let k = S::F32::load(s, &key[at..]);
        for r in 0..R {
            sums[r] = S::F32::load(s, &queries[r * depth + at..]).mul_add(k, sums[r]);
        }
        at += lanes;
    }
    if at < depth {
        let k = S::F32::load_partial(s, &key[at..]);
        for r in 0..R {
            sums[r] = S::F32::load_partial(s, &queries[r * depth + at..(r + 1) * depth]).mul_add(k, sums[r]);
        }
    }
    for r in 0..R {
        to[r * stride] = scale * sums[r].reduce_add();
    }
}

/// Adds the weighted values of a block of keys to `R` rows of `out`.
#[inline(always)]
fn weigh<S: Simd, const R: usize>(s: S, weights: &[f32], stride: usize, values: Matrix<'_>, block: Range<usize>, out: &mut [f32], width: usize) {
    let lanes = S::F32::LANES;
    let mut col = 0;
    while col + VECTORS * lanes <= width {
        let mut sums = [[S::F32::splat(s, 0.0); VECTORS]; R];
        for r in 0..R {
            for v in 0..VECTORS {
                sums[r][v] = S::F32::load(s, &out[r * width + col + v * lanes..]);
            }
        }
        for j in block.clone() {
            let value = &values.data[j * values.row_stride + col..][..VECTORS * lanes];
            let mut x = [S::F32::splat(s, 0.0); VECTORS];
            for v in 0..VECTORS {
                x[v] = S::F32::load(s, &value[v * lanes..]);
            }
            for r in 0..R {
                let weight = S::F32::splat(s, weights[r * stride + j]);
                for v in 0..VECTORS {
                    sums[r][v] = weight.mul_add(x[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..VECTORS {
                sums[r][v].store(&mut out[r * width + col + v * lanes..]);
            }
        }
        col += VECTORS * lanes;
    }
    while col < width {
        let cols = lanes.min(width - col);
        let mut sums = [S::F32::splat(s, 0.0); R];
        for r in 0..R {
            sums[r] = S::F32::load_partial(s, &out[r * width + col..][..cols]);
        }
        for j in block.clone() {
            let x = S::F32::load_partial(s, &values.data[j * values.row_stride + col..][..cols]);
            for r in 0..R {
                sums[r] = S::F32::splat(s, weights[r * stride + j]).mul_add(x, sums[r]);
            }
        }
        for r in 0..R {
            sums[r].store_partial(&mut out[r * width + col..][..cols]);
        }
        col += cols;
    }
}
