//! Normalisation of rows: the innermost axes of each element of the outer ones. `LayerNormalization` and `RMSNormalization`.
//!
//! A row stays in the cache while it is read three times: for its mean, for the mean of squared distances from it (which, in
//! contrast to a difference of sums, does not cancel), and to be written.

use crate::{grains, numeric::Number};
use alloc::{vec, vec::Vec};
use core::array;
use millstream_graph::{EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_simd::{Level, Simd, SimdF32, dispatch};
use millstream_tensor::{DType, Element, Layout, Order, TensorError, View, tile::Tiles};

/// How rows are normalised.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The first axis of a row, counted from the back if negative.
    pub axis: i64,
    /// What is added to the mean square so that no root is 0.
    pub epsilon: f32,
    /// True if the mean is taken out first.
    pub(crate) centred: bool,
}

impl Rows {
    /// Facts of the output, the means, and the inverse deviations.
    pub(crate) fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        if !x.dtype.is_float() {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        for i in 1..3 {
            if let Some(f) = cx.optional(i).filter(|f| f.dtype != x.dtype) {
                return Err(InferError::DType { input: i, found: f.dtype });
            }
        }
        if scale.rank() > x.rank() {
            return Err(InferError::Rank { input: 1, found: scale.rank(), wanted: "at most that of input 0" });
        }
        let axis = InferCx::axis(self.axis, x.rank())?;
        let mut dims = x.dims.clone();
        dims.iter_mut().skip(axis).for_each(|d| *d = 1.into());
        let statistics = Fact::new(DType::F32, dims);
        let all = [Fact::new(x.dtype, x.dims.clone()), statistics.clone(), statistics];
        Ok(all.into_iter().take(cx.outputs.max(1)).collect())
    }

    /// Any order in which the axes of a row are innermost, in their own order.
    pub(crate) fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let axis = InferCx::axis(self.axis, order.rank()).ok()?;
        if order.axes().enumerate().skip(axis).any(|(i, a)| i != a) {
            return None;
        }
        let row_major = |i: usize| cx.input_shape(i).map(|s| Order::row_major(s.rank()));
        let wanted = inputs.iter().enumerate().map(|(i, o)| o.and_then(|o| if i == 0 { Some(o) } else { row_major(i) }));
        Some(Permutation { inputs: wanted.collect(), outputs: vec![order; cx.outputs.len()] })
    }

    /// Computes the outputs.
    pub(crate) fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(0)?;
        by_dtype!(floats, dtype, T => self.eval_typed::<T>(cx))
    }

    fn eval_typed<T: Number>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = if cx.in_place(0).is_some() { None } else { Some(cx.input::<T>(0)?) };
        let (scale, bias) = (cx.input::<T>(1)?, cx.optional::<T>(2)?);
        let level = cx.level();
        let mut means = if cx.wants(1) { cx.output::<f32>(1)?.into_data() } else { &mut [] };
        let mut inverses = if cx.wants(2) { cx.output::<f32>(2)?.into_data() } else { &mut [] };
        let y = cx.output::<T>(0)?;
        if x.is_some_and(|x| !x.layout().same_memory(y.layout())) {
            return Err(TensorError::Strided.into());
        }
        let layout = *y.layout();
        let rank = layout.shape().rank();
        let axis = InferCx::axis(self.axis, rank)?;
        let n: usize = layout.shape()[axis.min(rank)..].iter().product();
        let (x, y) = (x.map(|x| x.data()), y.into_data());
        let count = y.len().checked_div(n).unwrap_or(0);
        let rows = grains::rows(count, n, 4);
        let (y, means, inverses) = (
            Tiles::rows(y, n, rows).ok_or(EvalError::Output(0))?,
            Tiles::chunks(core::mem::take(&mut means), rows).ok_or(EvalError::Output(1))?,
            Tiles::chunks(core::mem::take(&mut inverses), rows).ok_or(EvalError::Output(2))?,
        );
        let factors = Factors::new(scale, bias, &layout, n)?;
        cx.parallel(y.count(), |grain, _| {
            let mut tile = y.claim(grain)?;
            let y = tile.as_slice()?;
            let tile_rows = y.len() / n.max(1);
            let (mut means, mut inverses) = (means.claim(grain), inverses.claim(grain));
            let mut done = 0;
            while done < tile_rows {
                // Two rows side by side: while one's sums are waited for, the other's are made.
                let take = (tile_rows - done).min(2);
                let (row, y) = (grain * rows + done, &mut y[done * n..(done + take) * n]);
                let x = x.map(|x| &x[row * n..(row + take) * n]);
                let found = factors.rows(self, level, row, n, x, y);
                for (i, (mean, inverse)) in found.into_iter().enumerate().take(take) {
                    if let Some(m) = means.as_mut().and_then(|t| t.as_slice()) {
                        m[done + i] = mean;
                    }
                    if let Some(m) = inverses.as_mut().and_then(|t| t.as_slice()) {
                        m[done + i] = inverse;
                    }
                }
                done += take;
            }
            Some(())
        })
    }
}

/// Scale and bias of each element of a row.
enum Factors<'a, T> {
    /// The same for all rows.
    Same(&'a [T], Option<&'a [T]>),
    /// Stretched to the whole tensor; the offsets of a row's first element and of the others from it.
    Stretched { scale: (&'a [T], Layout), bias: Option<(&'a [T], Layout)>, order: Order, n: usize },
}

impl<'a, T: Number> Factors<'a, T> {
    fn new(scale: View<'a, T>, bias: Option<View<'a, T>>, layout: &Layout, n: usize) -> Result<Factors<'a, T>, EvalError> {
        let same = |v: &View<'a, T>| {
            let ends_alike = v.shape().iter().rev().zip(layout.shape().iter().rev()).all(|(&a, &b)| a == b || a == 1);
            v.as_slice().filter(|s| s.len() == n && ends_alike)
        };
        match (same(&scale), bias.as_ref().map(&same)) {
            (Some(s), None) => Ok(Factors::Same(s, None)),
            (Some(s), Some(Some(b))) => Ok(Factors::Same(s, Some(b))),
            _ => {
                let stretch = |v: View<'a, T>| v.layout().broadcast_to(*layout.shape()).map(|l| (v.data(), l));
                Ok(Factors::Stretched { scale: stretch(scale)?, bias: bias.map(stretch).transpose()?, order: layout.order().ok_or(TensorError::Strided)?, n })
            }
        }
    }

    /// Normalises one or two rows of `n`; returns each one's mean and inverse deviation.
    fn rows(&self, rows: &Rows, level: Level, row: usize, n: usize, x: Option<&[T]>, y: &mut [T]) -> [(f32, f32); 2] {
        if let (Factors::Same(scale, bias), DType::F32) = (self, T::DTYPE)
            && let (Some(scale), Some(y)) = (floats(scale), floats_mut(y))
        {
            let (x, bias) = (x.and_then(floats), bias.and_then(floats));
            return if y.len() == 2 * n {
                dispatch!(level, s => rows_f32::<_, 2>(s, rows, n, x, scale, bias, y))
            } else {
                let [one] = dispatch!(level, s => rows_f32::<_, 1>(s, rows, n, x, scale, bias, y));
                [one; 2]
            };
        }
        let mut found = [(0.0, 0.0); 2];
        for (i, (y, found)) in y.chunks_exact_mut(n).zip(&mut found).enumerate() {
            *found = self.row(rows, row + i, x.map(|x| &x[i * n..(i + 1) * n]), y);
        }
        found
    }

    /// Normalises one row as f64; returns its mean and its inverse deviation.
    fn row(&self, rows: &Rows, row: usize, x: Option<&[T]>, y: &mut [T]) -> (f32, f32) {
        let at = |y: &[T], i: usize| Number::to_f64(x.map_or_else(|| y[i], |x| x[i]));
        let n = y.len() as f64;
        let mean = if rows.centred { (0..y.len()).map(|i| at(y, i)).sum::<f64>() / n } else { 0.0 };
        let square = (0..y.len()).map(|i| (at(y, i) - mean) * (at(y, i) - mean)).sum::<f64>() / n;
        let inverse = 1.0 / libm::sqrt(square + f64::from(rows.epsilon));
        for i in 0..y.len() {
            let (scale, bias) = self.at(row, i);
            y[i] = T::from_f64((at(y, i) - mean) * inverse * scale + bias);
        }
        (mean as f32, inverse as f32)
    }

    fn at(&self, row: usize, i: usize) -> (f64, f64) {
        match self {
            Factors::Same(scale, bias) => (Number::to_f64(scale[i]), bias.map_or(0.0, |b| Number::to_f64(b[i]))),
            Factors::Stretched { scale, bias, order, n } => {
                let of = |(data, layout): &(&[T], Layout)| {
                    let (mut rest, mut offset) = (row * n + i, 0);
                    for axis in order.axes().rev() {
                        offset += rest % layout.shape()[axis] * layout.strides()[axis];
                        rest /= layout.shape()[axis];
                    }
                    Number::to_f64(data[offset])
                };
                (of(scale), bias.as_ref().map_or(0.0, of))
            }
        }
    }
}

/// The elements as f32, if that is their type.
fn floats<T: Element>(x: &[T]) -> Option<&[f32]> {
    bytemuck::try_cast_slice(x).ok().filter(|_| T::DTYPE == DType::F32)
}

fn floats_mut<T: Element>(x: &mut [T]) -> Option<&mut [f32]> {
    bytemuck::try_cast_slice_mut(x).ok().filter(|_| T::DTYPE == DType::F32)
}

/// `R` rows of `n` side by side. Each one's chains are the same for any `R`.
#[inline(always)]
fn rows_f32<S: Simd, const R: usize>(s: S, rows: &Rows, n: usize, x: Option<&[f32]>, scale: &[f32], bias: Option<&[f32]>, y: &mut [f32]) -> [(f32, f32); R] {
    let from = x.unwrap_or(y);
    let lines: [&[f32]; R] = array::from_fn(|r| &from[r * n..(r + 1) * n]);
    let count = n as f32;
    let means = if rows.centred { sums(s, lines, [0.0; R], |sum, _, x| sum + x).map(|sum| sum / count) } else { [0.0; R] };
    let squares = sums(s, lines, means, |sum, mean, x| {
        let distance = x - mean;
        distance.mul_add(distance, sum)
    });
    let inverses = squares.map(|square| 1.0 / libm::sqrtf(square / count + rows.epsilon));
    for (r, y) in y.chunks_exact_mut(n).enumerate().take(R) {
        let factors = (S::F32::splat(s, means[r]), S::F32::splat(s, inverses[r]));
        let x = x.map(|x| &x[r * n..(r + 1) * n]);
        match bias {
            Some(bias) => write::<S, true>(s, factors, x, scale, bias, y),
            None => write::<S, false>(s, factors, x, scale, scale, y),
        }
    }
    array::from_fn(|r| (means[r], inverses[r]))
}

/// For each line its elements added by `f(sum, its mean, element)`, to which the mean itself adds nothing, in four chains of vectors.
#[inline(always)]
fn sums<S: Simd, const R: usize>(s: S, lines: [&[f32]; R], means: [f32; R], f: impl Fn(S::F32, S::F32, S::F32) -> S::F32) -> [f32; R] {
    let lanes = S::F32::LANES;
    let splat = means.map(|mean| S::F32::splat(s, mean));
    let mut sums = [[S::F32::splat(s, 0.0); 4]; R];
    let mut blocks = lines.map(|line| line.chunks_exact(4 * lanes));
    for _ in 0..lines.first().map_or(0, |line| line.len() / (4 * lanes)) {
        for r in 0..R {
            let Some(block) = blocks[r].next() else { break };
            for (i, sum) in sums[r].iter_mut().enumerate() {
                *sum = f(*sum, splat[r], S::F32::load(s, &block[i * lanes..]));
            }
        }
    }
    array::from_fn(|r| {
        for rest in blocks[r].remainder().chunks(lanes) {
            // Lanes past the end hold the mean.
            let mut padded = [means[r]; 16];
            padded[..rest.len()].copy_from_slice(rest);
            sums[r][0] = f(sums[r][0], splat[r], S::F32::load(s, &padded));
        }
        let [a, b, c, d] = sums[r];
        ((a + b) + (c + d)).reduce_add()
    })
}

/// `(x - mean) * inverse * scale + bias`, in place if there is no `x`, and without `bias` unless `BIAS`.
#[inline(always)]
fn write<S: Simd, const BIAS: bool>(s: S, factors: (S::F32, S::F32), x: Option<&[f32]>, scale: &[f32], bias: &[f32], y: &mut [f32]) {
    let lanes = S::F32::LANES;
    let (whole, tail) = y.split_at_mut(y.len() / lanes * lanes);
    let at = whole.len();
    let pairs = scale.chunks_exact(lanes).zip(bias.chunks_exact(lanes));
    let scaled = whole.chunks_exact_mut(lanes).zip(pairs);
    match x {
        Some(x) => scaled.zip(x.chunks_exact(lanes)).for_each(
            #[inline(always)]
            |((y, (scale, bias)), x)| element::<S, BIAS>(factors, S::F32::load(s, x), S::F32::load(s, scale), S::F32::load(s, bias)).store(y),
        ),
        None => scaled.for_each(
            #[inline(always)]
            |(y, (scale, bias))| element::<S, BIAS>(factors, S::F32::load(s, y), S::F32::load(s, scale), S::F32::load(s, bias)).store(y),
        ),
    }
    if !tail.is_empty() {
        let part = |of: &[f32]| S::F32::load_partial(s, &of[at..]);
        let x = x.map_or_else(|| S::F32::load_partial(s, tail), part);
        element::<S, BIAS>(factors, x, part(scale), part(bias)).store_partial(tail);
    }
}

#[inline(always)]
fn element<S: Simd, const BIAS: bool>((mean, inverse): (S::F32, S::F32), x: S::F32, scale: S::F32, bias: S::F32) -> S::F32 {
    let a = (x - mean) * inverse;
    if BIAS { a.mul_add(scale, bias) } else { a * scale }
}
