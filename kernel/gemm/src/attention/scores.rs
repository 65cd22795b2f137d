//! What happens to the scores of queries and keys before they weigh values.

use core::ops::Range;

use millstream_simd::{Simd, SimdF32, math, slice};
use millstream_tensor::Bool;

use crate::error::{GemmError, require, span};
use crate::micro::KC;

/// What happens between the two products of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// The factor of the products of queries and keys.
    pub scale: f32,
    /// The bound `c` of `c · tanh(score / c)`, which the mask does not see; 0 for none.
    pub cap: f32,
    /// Comes after the cap.
    pub mask: Option<Mask<'a>>,
    /// The keys that each query sees.
    pub window: KeyWindow,
    /// What a query gets that sees keys, but at no score above -∞: zeros if true, else NaN, as a softmax has it.
    pub blind_is_zero: bool,
}

/// A matrix with a row for each query and a column for each key that some query sees.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The elements from (0, 0) on.
    pub elements: MaskElements<'a>,
    /// Elements from one query to the next.
    pub row_stride: usize,
    /// Elements from one key to the next.
    pub col_stride: usize,
}

/// What a mask's elements mean.
#[derive(Clone, Copy, Debug)]
pub enum MaskElements<'a> {
    /// Added to the scores.
    Added(&'a [f32]),
    /// True where a query sees a key.
    Visible(&'a [Bool]),
}

impl<'a> Scores<'a> {
    /// Scores with a factor, and nothing else.
    pub fn scaled(scale: f32, keys: usize) -> Self {
        Self { scale, cap: 0.0, mask: None, window: KeyWindow::all(keys), blind_is_zero: false }
    }

    /// The mask where the microkernel can add it, which reads it along keys.
    #[inline(always)]
    pub(super) fn added(&self) -> Option<(&'a [f32], usize)> {
        match self.mask {
            Some(Mask { elements: MaskElements::Added(data), row_stride, col_stride: 1 }) if self.cap == 0.0 => Some((data, row_stride)),
            _ => None,
        }
    }

    /// True if products and an [`added`](Self::added) mask are all that makes the scores.
    #[inline(always)]
    pub(super) fn are_plain(&self) -> bool {
        self.cap == 0.0 && (self.mask.is_none() || self.added().is_some())
    }
}

impl<'a> Mask<'a> {
    /// The mask from a row on.
    pub fn from_row(self, row: usize) -> Option<Mask<'a>> {
        let start = row.checked_mul(self.row_stride)?;
        let elements = match self.elements {
            MaskElements::Added(data) => MaskElements::Added(data.get(start..)?),
            MaskElements::Visible(data) => MaskElements::Visible(data.get(start..)?),
        };
        Some(Mask { elements, ..self })
    }

    pub(super) fn check(&self, rows: usize, keys: usize) -> Result<(), GemmError> {
        let len = match self.elements {
            MaskElements::Added(data) => data.len(),
            MaskElements::Visible(data) => data.len(),
        };
        require("a mask", span(rows, self.row_stride, keys, self.col_stride)?, len)
    }
}

/// The keys that queries see: of query `i` those from `i + first` to `i + last`, both counted, as far as there are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWindow {
    /// Keys that there are for anyone.
    pub keys: usize,
    /// From where on query 0 sees keys; everyone from the first on if `None`.
    pub first: Option<isize>,
    /// The last key that query 0 sees; everyone sees them to the end if `None`.
    pub last: Option<isize>,
}

impl KeyWindow {
    /// All of so many keys.
    pub fn all(keys: usize) -> KeyWindow {
        KeyWindow { keys, first: None, last: None }
    }

    /// The window as it is for the queries from `row` on.
    pub fn from_row(self, row: usize) -> KeyWindow {
        let move_on = |at: Option<isize>| at.map(|at| at.saturating_add_unsigned(row));
        KeyWindow { first: move_on(self.first), last: move_on(self.last), ..self }
    }

    /// The keys that a query sees.
    #[inline(always)]
    pub fn of(&self, row: usize) -> Range<usize> {
        let clamp = |at: isize| usize::try_from(at).unwrap_or(0).min(self.keys);
        let end = self.last.map_or(self.keys, |last| clamp(last.saturating_add_unsigned(row).saturating_add(1)));
        self.first.map_or(0, |first| clamp(first.saturating_add_unsigned(row))).min(end)..end
    }
}

/// Caps and masks the scores of query `row` and the keys from `key` on.
#[inline(always)]
pub(super) fn adjust<S: Simd>(s: S, line: &mut [f32], cap: f32, mask: Option<&Mask<'_>>, row: usize, key: usize) {
    if cap != 0.0 {
        let (cap, inverse) = (S::F32::splat(s, cap), S::F32::splat(s, 1.0 / cap));
        slice::map_in_place(
            s,
            line,
            #[inline(always)]
            |x| cap * math::tanh(s, x * inverse),
        );
    }
    let Some(mask) = mask else { return };
    let start = row * mask.row_stride + key * mask.col_stride;
    match mask.elements {
        MaskElements::Added(data) => line.iter_mut().enumerate().for_each(|(i, x)| *x += data[start + i * mask.col_stride]),
        MaskElements::Visible(data) => line.iter_mut().enumerate().for_each(|(i, x)| {
            if !bool::from(data[start + i * mask.col_stride]) {
                *x = f32::NEG_INFINITY;
            }
        }),
    }
}

/// Blocks of [`KC`] that `n` makes, at least one.
#[inline(always)]
pub(super) fn blocks(n: usize) -> usize {
    n.div_ceil(KC).max(1)
}

/// `exp(x - max)` of `n` elements that lie in blocks of [`KC`], the first at `first` and each `step` after the last; returns the inverse
/// of their sum.
#[inline(always)]
pub(super) fn softmax<S: Simd>(s: S, x: &mut [f32], first: usize, step: usize, n: usize, blind_is_zero: bool) -> f32 {
    let lanes = S::F32::LANES;
    let count = blocks(n);
    let len = |block: usize| KC.min(n - block * KC);
    let mut greatest = f32::NEG_INFINITY;
    for block in 0..count {
        let part = slice::max(s, &x[first + block * step..][..len(block)]);
        // In this order a NaN stays.
        greatest = if part > greatest || part.is_nan() { part } else { greatest };
    }
    if blind_is_zero && greatest == f32::NEG_INFINITY {
        (0..count).for_each(|block| x[first + block * step..][..len(block)].fill(0.0));
        return 1.0;
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
    1.0 / (sums[0] + sums[1]).reduce_add()
}
