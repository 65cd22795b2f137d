//! Reductions of all kinds.
//!
//! Each output element is made by one grain, in an order that depends on shapes, layouts and the level only:
//! - where the innermost reduced loop is contiguous (or nothing is), its elements are joined in four chains of vectors;
//! - where the innermost kept loop is contiguous, blocks of columns are joined row by row.
//!
//! Types other than f32 go through f64 or i128, one output element after the other.

use super::axes::{Axes, Split, is_shape_type};
use crate::numeric::{Number, Types};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch, math};
use millstream_tensor::{DType, Order, View, ViewMut, tile::Tiles};

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Σ x.
    Sum,
    /// Σ x / n.
    Mean,
    /// The greatest element; NaN if one is.
    Max,
    /// The least element; NaN if one is.
    Min,
    /// Π x.
    Prod,
    /// Σ |x|.
    L1,
    /// √ Σ x².
    L2,
    /// ln Σ x.
    LogSum,
    /// ln Σ eˣ, with the greatest element taken out of the powers.
    LogSumExp,
    /// Σ x².
    SumSquare,
}

impl Kind {
    fn join_dims(self, a: &Dim, b: &Dim) -> Option<Dim> {
        let difference = a.sub(b);
        match self {
            Kind::Sum => Some(a.add(b)),
            Kind::Prod => Some(a.mul(b)),
            Kind::Max if difference.at_least(0) => Some(a.clone()),
            Kind::Max => difference.at_most(0).then(|| b.clone()),
            Kind::Min if difference.at_most(0) => Some(a.clone()),
            Kind::Min => difference.at_least(0).then(|| b.clone()),
            _ => None,
        }
    }

    fn finish(self, total: f64, n: usize) -> f64 {
        match self {
            Kind::Mean => total / n as f64,
            Kind::L2 => libm::sqrt(total),
            Kind::LogSum => libm::log(total),
            _ => total,
        }
    }

    fn types_ok(self, dtype: DType) -> bool {
        Types::Numbers.has(dtype) || (matches!(self, Kind::Max | Kind::Min) && dtype == DType::Bool)
    }
}

/// The dims that are left; a vector of symbolic integers is reduced where that can be expressed.
pub(crate) fn infer(kind: Kind, axes: &Axes, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let x = cx.input(0)?;
    if !kind.types_ok(x.dtype) {
        return Err(InferError::DType { input: 0, found: x.dtype });
    }
    let reduced = axes.reduced_by_facts(cx)?;
    if is_shape_type(x.dtype)
        && let Some(fact) = axes.symbolic(x, &reduced, |a, b| kind.join_dims(a, b))
    {
        return Ok(vec![fact]);
    }
    Ok(vec![Fact::new(x.dtype, axes.dims(&x.dims, &reduced))])
}

/// A reduction reads its input in any order.
pub(crate) fn permute(axes: &Axes, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let order = (*inputs.first()?)?;
    let mut wanted = vec![None; inputs.len()];
    wanted[0] = Some(order);
    Some(Permutation { inputs: wanted, outputs: vec![axes.order(order, cx.outputs.first()?.shape().rank())] })
}

/// Computes the output.
pub(crate) fn eval(kind: Kind, axes: &Axes, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let x = cx.tensor(0)?;
    if !kind.types_ok(x.dtype()) {
        return Err(EvalError::DType(x.dtype()));
    }
    let reduced = axes.reduced_by_inputs(cx, x.shape().rank())?;
    // Without axes everything passes unchanged, and each "sum" has one term.
    let kind = if axes.is_noop(&reduced) { Kind::Sum } else { kind };
    if x.dtype() == DType::F32 {
        let (x, y) = (cx.input::<f32>(0)?, cx.output::<f32>(0)?);
        let split = Split::new(x.layout(), y.layout(), &reduced)?;
        return vectors(kind, cx, x, y, split);
    }
    by_dtype!(all, x.dtype(), T => {
        let (x, y) = (cx.input::<T>(0)?, cx.output::<T>(0)?);
        let split = Split::new(x.layout(), y.layout(), &reduced)?;
        elements(kind, cx, x, y, split)
    })
}

/// Output elements of a grain.
fn chunk(outputs: usize, terms: usize) -> usize {
    let least = (16 * 1024 / terms.max(1)).max(1);
    let n = outputs.div_ceil(crate::grains::MAX_GRAINS).max(least);
    if n > 16 { n.next_multiple_of(16) } else { n }
}

fn elements<T: Number>(kind: Kind, cx: &EvalCx<'_>, x: View<'_, T>, y: ViewMut<'_, T>, split: Split) -> Result<(), EvalError> {
    let y = y.into_data();
    let chunk = chunk(y.len(), split.reduced.count());
    let tiles = Tiles::chunks(y, chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        for (i, y) in tile.as_slice()?.iter_mut().enumerate() {
            let part = &x.data()[split.kept.offset(grain * chunk + i).min(x.data().len())..];
            *y = if T::DTYPE.is_float() { T::from_f64(real(kind, part, &split)) } else { T::from_i128(int(kind, part, &split)) };
        }
        Some(())
    })
}

fn real<T: Number>(kind: Kind, x: &[T], split: &Split) -> f64 {
    let fold = |start: f64, f: &dyn Fn(f64, f64) -> f64| {
        let mut total = start;
        split.reduced.each(|o| total = f(total, Number::to_f64(x[o])));
        total
    };
    let greatest = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    let total = match kind {
        Kind::Sum | Kind::Mean | Kind::LogSum => fold(0.0, &|a, x| a + x),
        Kind::Max => fold(f64::NEG_INFINITY, &greatest),
        Kind::Min => fold(f64::INFINITY, &|a, x| if a.is_nan() || a < x { a } else { x }),
        Kind::Prod => fold(1.0, &|a, x| a * x),
        Kind::L1 => fold(0.0, &|a, x| a + x.abs()),
        Kind::L2 | Kind::SumSquare => fold(0.0, &|a, x| a + x * x),
        Kind::LogSumExp => {
            let shift = finite(fold(f64::NEG_INFINITY, &greatest));
            return shift + libm::log(fold(0.0, &|a, x| a + libm::exp(x - shift)));
        }
    };
    kind.finish(total, split.reduced.count())
}

/// The greatest element, or 0 where powers need no shift (inf - inf is NaN).
fn finite(shift: f64) -> f64 {
    if shift.is_infinite() { 0.0 } else { shift }
}

fn int<T: Number>(kind: Kind, x: &[T], split: &Split) -> i128 {
    let (lowest, highest) = (T::from_f64(f64::NEG_INFINITY).to_i128(), T::from_f64(f64::INFINITY).to_i128());
    let (mut total, mut n) = (
        match kind {
            Kind::Max => lowest,
            Kind::Min => highest,
            Kind::Prod => 1,
            _ => 0,
        },
        0i128,
    );
    if kind == Kind::Max && T::DTYPE == DType::Bool {
        total = 0;
    }
    split.reduced.each(|o| {
        let v = x[o].to_i128();
        n += 1;
        total = match kind {
            Kind::Max => total.max(v),
            Kind::Min => total.min(v),
            Kind::Prod => total.wrapping_mul(v),
            Kind::L1 => total + v.abs(),
            Kind::L2 | Kind::SumSquare => total.wrapping_add(v * v),
            _ => total + v,
        };
    });
    match kind {
        Kind::Mean => total.checked_div(n).unwrap_or(0),
        Kind::L2 | Kind::LogSum => kind.finish(total as f64, 1) as i128,
        Kind::LogSumExp => real(kind, x, split) as i128,
        _ => total,
    }
}

/// How terms are made of elements and joined, on vectors.
trait Fold<S: Simd>: Copy {
    /// An element whose term changes nothing.
    const PAD: f32;
    fn term(self, s: S, x: S::F32) -> S::F32;
    fn join(self, s: S, a: S::F32, b: S::F32) -> S::F32;
    /// What no terms join to.
    fn empty(self, s: S) -> S::F32;
}

macro_rules! folds {
    ($($name:ident $(($field:ty))?, $pad:expr, $empty:expr, |$s:ident, $me:ident, $x:ident| $term:expr, |$a:ident, $b:ident| $join:expr;)*) => { $(
        #[derive(Clone, Copy)]
        struct $name$(($field))?;
        impl<S: Simd> Fold<S> for $name {
            const PAD: f32 = $pad;
            #[inline(always)]
            fn term(self, $s: S, $x: S::F32) -> S::F32 {
                let $me = self;
                $term
            }
            #[inline(always)]
            fn join(self, _s: S, $a: S::F32, $b: S::F32) -> S::F32 {
                $join
            }
            #[inline(always)]
            fn empty(self, s: S) -> S::F32 {
                S::F32::splat(s, $empty)
            }
        }
    )* };
}
// `max` and `min` give their second operand where one is NaN: a NaN that was there before is put back.
folds! {
    Sum, 0.0, 0.0, |_s, _me, x| x, |a, b| a + b;
    Prod, 1.0, 1.0, |_s, _me, x| x, |a, b| a * b;
    Max, f32::NEG_INFINITY, f32::NEG_INFINITY, |_s, _me, x| x, |a, b| S::F32::select(a.is_nan(), a, a.max(b));
    Min, f32::INFINITY, f32::INFINITY, |_s, _me, x| x, |a, b| S::F32::select(a.is_nan(), a, a.min(b));
    Abs, 0.0, 0.0, |_s, _me, x| x.abs(), |a, b| a + b;
    Square, 0.0, 0.0, |_s, _me, x| x * x, |a, b| a + b;
    Powers(f32), f32::NEG_INFINITY, 0.0, |s, me, x| math::exp(s, x - S::F32::splat(s, me.0)), |a, b| a + b;
}

fn vectors(kind: Kind, cx: &EvalCx<'_>, x: View<'_, f32>, y: ViewMut<'_, f32>, split: Split) -> Result<(), EvalError> {
    let y = y.into_data();
    let level = cx.level();
    let terms = split.reduced.count();
    let chunk = chunk(y.len(), terms);
    let tiles = Tiles::chunks(y, chunk).ok_or(EvalError::Output(0))?;
    let columns = split.kept.inner().1 == 1 && split.kept.inner().0 > 1 && split.reduced.inner().1 != 1;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let y = tile.as_slice()?;
        let (x, start) = (x.data(), grain * chunk);
        if terms == 0 {
            y.fill(real(kind, x, &split) as f32);
        } else if columns && kind != Kind::LogSumExp {
            dispatch!(level, s => match kind {
                Kind::Sum | Kind::Mean | Kind::LogSum => by_columns(s, Sum, x, y, start, &split),
                Kind::Prod => by_columns(s, Prod, x, y, start, &split),
                Kind::Max => by_columns(s, Max, x, y, start, &split),
                Kind::Min => by_columns(s, Min, x, y, start, &split),
                Kind::L1 => by_columns(s, Abs, x, y, start, &split),
                Kind::L2 | Kind::SumSquare | Kind::LogSumExp => by_columns(s, Square, x, y, start, &split),
            });
            y.iter_mut().for_each(|y| *y = finish(kind, *y, terms));
        } else {
            dispatch!(level, s => for (i, y) in y.iter_mut().enumerate() {
                let at = &x[split.kept.offset(start + i)..];
                let total = match kind {
                    Kind::Sum | Kind::Mean | Kind::LogSum => one(s, Sum, at, &split),
                    Kind::Prod => one(s, Prod, at, &split),
                    Kind::Max => one(s, Max, at, &split),
                    Kind::Min => one(s, Min, at, &split),
                    Kind::L1 => one(s, Abs, at, &split),
                    Kind::L2 | Kind::SumSquare => one(s, Square, at, &split),
                    Kind::LogSumExp => {
                        let greatest = one(s, Max, at, &split);
                        let shift = if greatest.is_infinite() { 0.0 } else { greatest };
                        shift + libm::logf(one(s, Powers(shift), at, &split))
                    }
                };
                *y = finish(kind, total, terms);
            });
        }
        Some(())
    })
}

fn finish(kind: Kind, total: f32, n: usize) -> f32 {
    match kind {
        Kind::Mean => total / n as f32,
        Kind::L2 => libm::sqrtf(total),
        Kind::LogSum => libm::logf(total),
        _ => total,
    }
}

/// All terms of one output element.
#[inline(always)]
fn one<S: Simd, F: Fold<S>>(s: S, f: F, x: &[f32], split: &Split) -> f32 {
    const GATHER: usize = 256;
    let (n, stride) = split.reduced.inner();
    let mut acc = [f.empty(s); 4];
    if stride == 1 {
        split.reduced.outer(
            #[inline(always)]
            |o| run(s, f, &mut acc, &x[o..o + n]),
        );
    } else {
        let mut buffer = [0.0; GATHER];
        split.reduced.outer(
            #[inline(always)]
            |o| {
                for at in (0..n).step_by(GATHER) {
                    let part = &mut buffer[..GATHER.min(n - at)];
                    part.iter_mut().enumerate().for_each(|(i, b)| *b = x[o + (at + i) * stride]);
                    run(s, f, &mut acc, part);
                }
            },
        );
    }
    let both = f.join(s, f.join(s, acc[0], acc[1]), f.join(s, acc[2], acc[3]));
    // Lanes are joined pairwise, upper half to lower half; no level has more than 16.
    let mut lanes = [0.0; 16];
    both.store(&mut lanes);
    let mut width = S::F32::LANES;
    while width > 1 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        let joined = f.join(s, S::F32::load_partial(s, low), S::F32::load_partial(s, &high[..width]));
        joined.store_partial(low);
    }
    lanes[0]
}

/// A contiguous run's terms, in four chains.
#[inline(always)]
fn run<S: Simd, F: Fold<S>>(s: S, f: F, acc: &mut [S::F32; 4], x: &[f32]) {
    let lanes = S::F32::LANES;
    let mut blocks = x.chunks_exact(4 * lanes);
    for b in &mut blocks {
        for (i, a) in acc.iter_mut().enumerate() {
            *a = f.join(s, *a, f.term(s, S::F32::load(s, &b[i * lanes..])));
        }
    }
    let mut rest = blocks.remainder().chunks_exact(lanes);
    for c in &mut rest {
        acc[0] = f.join(s, acc[0], f.term(s, S::F32::load(s, c)));
    }
    let tail = rest.remainder();
    if !tail.is_empty() {
        let mut padded = [F::PAD; 16];
        padded[..tail.len()].copy_from_slice(tail);
        acc[1] = f.join(s, acc[1], f.term(s, S::F32::load(s, &padded)));
    }
}

/// Output elements `start..` whose inputs lie next to each other, in blocks of columns.
#[inline(always)]
fn by_columns<S: Simd, F: Fold<S>>(s: S, f: F, x: &[f32], y: &mut [f32], start: usize, split: &Split) {
    let lanes = S::F32::LANES;
    let (width, _) = split.kept.inner();
    let mut done = 0;
    while done < y.len() {
        let col = (start + done) % width;
        let len = (width - col).min(y.len() - done);
        let (x, y) = (&x[split.kept.offset(start + done)..], &mut y[done..done + len]);
        let mut at = 0;
        while at + 4 * lanes <= len {
            let mut acc = [f.empty(s); 4];
            split.reduced.each(
                #[inline(always)]
                |o| {
                    let row = &x[o + at..o + at + 4 * lanes];
                    for (i, a) in acc.iter_mut().enumerate() {
                        *a = f.join(s, *a, f.term(s, S::F32::load(s, &row[i * lanes..])));
                    }
                },
            );
            acc.iter().enumerate().for_each(|(i, a)| a.store(&mut y[at + i * lanes..]));
            at += 4 * lanes;
        }
        while at < len {
            let n = lanes.min(len - at);
            let mut acc = f.empty(s);
            split.reduced.each(
                #[inline(always)]
                |o| acc = f.join(s, acc, f.term(s, S::F32::load_partial(s, &x[o + at..o + at + n]))),
            );
            acc.store_partial(&mut y[at..at + n]);
            at += n;
        }
        done += len;
    }
}

/// Makes a type around [`Axes`] an operator of a [`Kind`].
macro_rules! reduce_op {
    ($t:ty, $kind:expr) => {
        impl millstream_graph::Op for $t {
            fn infer(&self, cx: &millstream_graph::InferCx<'_>) -> Result<alloc::vec::Vec<millstream_graph::Fact>, millstream_graph::InferError> {
                crate::reduce::kernel::infer($kind, &self.axes, cx)
            }

            fn eval(&self, cx: &mut millstream_graph::EvalCx<'_>) -> Result<(), millstream_graph::EvalError> {
                crate::reduce::kernel::eval($kind, &self.axes, cx)
            }

            fn permute(&self, cx: &millstream_graph::StepCx<'_>, inputs: &[Option<millstream_tensor::Order>]) -> Option<millstream_graph::Permutation> {
                crate::reduce::kernel::permute(&self.axes, cx, inputs)
            }

            fn kernel(&self, _cx: &millstream_graph::StepCx<'_>) -> alloc::string::String {
                "reduce".into()
            }
        }
    };
}
pub(crate) use reduce_op;
