//! Normalisation of rows: the innermost axes of each element of the outer ones. `LayerNormalization` and `RMSNormalization`.
//!
//! A row stays in the cache while it is read three times: for its mean, for the mean of squared distances from it (which, in
//! contrast to a difference of sums, does not cancel), and to be written.

use crate::{grains, numeric::Number};
use alloc::{vec, vec::Vec};
use millstream_graph::{EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch, slice};
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
            let (mut means, mut inverses) = (means.claim(grain), inverses.claim(grain));
            for (i, y) in y.chunks_exact_mut(n).enumerate() {
                let row = grain * rows + i;
                let x = x.map(|x| &x[row * n..(row + 1) * n]);
                let (mean, inverse) = factors.row(self, level, row, x, y);
                if let Some(m) = means.as_mut().and_then(|t| t.as_slice()) {
                    m[i] = mean;
                }
                if let Some(m) = inverses.as_mut().and_then(|t| t.as_slice()) {
                    m[i] = inverse;
                }
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

    /// Normalises one row; returns its mean and its inverse deviation.
    fn row(&self, rows: &Rows, level: millstream_simd::Level, row: usize, x: Option<&[T]>, y: &mut [T]) -> (f32, f32) {
        if let (Factors::Same(scale, bias), DType::F32) = (self, T::DTYPE)
            && let (Some(scale), Some(y)) = (floats(scale), floats_mut(y))
        {
            let (x, bias) = (x.and_then(floats), bias.and_then(floats));
            return dispatch!(level, s => row_f32(s, rows, x, scale, bias, y));
        }
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

#[inline(always)]
fn row_f32<S: Simd>(s: S, rows: &Rows, x: Option<&[f32]>, scale: &[f32], bias: Option<&[f32]>, y: &mut [f32]) -> (f32, f32) {
    let lanes = S::F32::LANES;
    let from = x.unwrap_or(y);
    let n = from.len() as f32;
    let mean = if rows.centred { slice::sum(s, from) / n } else { 0.0 };
    let m = S::F32::splat(s, mean);
    let mut acc = [S::F32::splat(s, 0.0); 4];
    let mut blocks = from.chunks_exact(4 * lanes);
    for b in &mut blocks {
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = S::F32::load(s, &b[i * lanes..]) - m;
            *acc = a.mul_add(a, *acc);
        }
    }
    for c in blocks.remainder().chunks(lanes) {
        // Lanes past the end hold the mean, which is no distance from itself.
        let mut padded = [mean; 16];
        padded[..c.len()].copy_from_slice(c);
        let a = S::F32::load(s, &padded) - m;
        acc[0] = a.mul_add(a, acc[0]);
    }
    let square = ((acc[0] + acc[1]) + (acc[2] + acc[3])).reduce_add() / n;
    let inverse = 1.0 / libm::sqrtf(square + rows.epsilon);
    let factors = (m, S::F32::splat(s, inverse));
    match bias {
        Some(bias) => write::<S, true>(s, factors, x, scale, bias, y),
        None => write::<S, false>(s, factors, x, scale, scale, y),
    }
    (mean, inverse)
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
