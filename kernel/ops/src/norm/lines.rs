//! Passes over lines of elements along one axis, wherever that axis lies in memory: what softmax and its kin share.
//!
//! Memory is seen as `outer × n × inner`, with the line along `n`. Lines are contiguous where `inner` is 1; otherwise blocks
//! of neighbouring lines are worked on together, one vector of lines at a time.

use crate::{grains, numeric::Number};
use alloc::{vec, vec::Vec};
use millstream_graph::{BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch, math, slice};
use millstream_tensor::{DType, Element, Layout, Order, TensorError, tile::Tiles};

/// The axis of a softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// The axis, counted from the back if negative.
    pub axis: i64,
    /// True before opset 13: this axis and all after it make one line.
    pub flatten: bool,
}

impl Axis {
    /// Reads the attribute `axis`.
    pub(crate) fn build(cx: &BuildCx<'_>) -> Result<Axis, BuildError> {
        let flatten = cx.version < 13;
        Ok(Axis { axis: cx.attributes.int_or("axis", if flatten { 1 } else { -1 })?, flatten })
    }

    /// Type and dims pass through.
    pub(crate) fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if !x.dtype.is_float() {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        self.check(x.rank())?;
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn check(&self, rank: usize) -> Result<usize, InferError> {
        // Flattened, an axis just past the last makes lines of one element.
        if self.flatten && self.axis == rank as i64 { Ok(rank) } else { InferCx::axis(self.axis, rank) }
    }

    /// Any order will do, unless several axes make one line: they must follow each other in memory.
    pub(crate) fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let rank = cx.input_shape(0)?.rank();
        let one_axis = !self.flatten || self.check(rank).ok()? + 1 == rank;
        (one_axis || order.is_row_major()).then(|| Permutation { inputs: vec![Some(order)], outputs: vec![order] })
    }

    /// The extents of memory around the line.
    fn split(&self, layout: &Layout) -> Result<Lines, EvalError> {
        let shape = layout.shape();
        let axis = self.check(shape.rank())?;
        if self.flatten && layout.is_row_major() {
            let n = shape[axis..].iter().product();
            return Ok(Lines { outer: shape[..axis].iter().product(), n, inner: 1 });
        }
        let order = layout.order().ok_or(TensorError::Strided)?;
        let mut lines = Lines { outer: 1, n: 1, inner: 1 };
        let mut seen = false;
        for a in order.axes() {
            match (a == axis, seen) {
                (true, _) => (lines.n, seen) = (shape[a], true),
                (false, false) => lines.outer *= shape[a],
                (false, true) => lines.inner *= shape[a],
            }
        }
        Ok(lines)
    }
}

/// Memory around lines.
#[derive(Debug, Clone, Copy)]
struct Lines {
    outer: usize,
    n: usize,
    inner: usize,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// eˣ / Σ eˣ.
    Softmax,
    /// x - ln Σ eˣ.
    LogSoftmax,
    /// 1 for the first greatest element, 0 for others.
    Hardmax,
}

/// Runs every line of input 0.
pub(crate) fn eval(line: Line, axis: Axis, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    if dtype == DType::F32 && line != Line::Hardmax {
        return vectors(line, axis, cx);
    }
    by_dtype!(floats, dtype, T => elements::<T>(line, axis, cx))
}

/// The lines, input 0's memory (`None` if in place), and output 0's.
type Parts<'a, T> = (Lines, Option<&'a [T]>, &'a mut [T]);

fn parts<'a, T: Element>(axis: Axis, cx: &mut EvalCx<'a>) -> Result<Parts<'a, T>, EvalError> {
    let x = if cx.in_place(0).is_some() { None } else { Some(cx.input::<T>(0)?) };
    let y = cx.output::<T>(0)?;
    if x.is_some_and(|x| !x.layout().same_memory(y.layout())) {
        return Err(TensorError::Strided.into());
    }
    let lines = axis.split(y.layout())?;
    Ok((lines, x.map(|x| x.data()), y.into_data()))
}

fn vectors(line: Line, axis: Axis, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let (lines, x, y) = parts::<f32>(axis, cx)?;
    let level = cx.level();
    if lines.inner == 1 {
        let rows = grains::rows(lines.outer, lines.n, 8);
        let tiles = Tiles::rows(y, lines.n, rows).ok_or(EvalError::Output(0))?;
        return cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            let y = tile.as_slice()?;
            let x = x.map(|x| &x[grain * rows * lines.n..]);
            dispatch!(level, s => for (i, y) in y.chunks_exact_mut(lines.n).enumerate() {
                row(s, line, x.map(|x| &x[i * lines.n..(i + 1) * lines.n]), y);
            });
            Some(())
        });
    }
    blocks(lines, x, y, cx, &|y, n, inner| dispatch!(level, s => columns(s, line, y, n, inner)))
}

fn elements<T: Number>(line: Line, axis: Axis, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let (lines, x, y) = parts::<T>(axis, cx)?;
    blocks(lines, x, y, cx, &|y, n, inner| {
        let mut values = vec![0.0; n];
        for c in 0..inner {
            values.iter_mut().enumerate().for_each(|(i, v)| *v = Number::to_f64(y[i * inner + c]));
            slow(line, &mut values);
            values.iter().enumerate().for_each(|(i, &v)| y[i * inner + c] = T::from_f64(v));
        }
    })
}

/// `f(part, n, inner)` for each `n × inner` part of the output, which holds the input's elements.
fn blocks<T: Element>(lines: Lines, x: Option<&[T]>, y: &mut [T], cx: &EvalCx<'_>, f: &(dyn Fn(&mut [T], usize, usize) + Sync)) -> Result<(), EvalError> {
    let part = lines.n * lines.inner;
    let rows = grains::rows(lines.outer, part, 8);
    let tiles = Tiles::rows(y, part, rows).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let y = tile.as_slice()?;
        if let Some(x) = x {
            y.copy_from_slice(&x[grain * rows * part..][..y.len()]);
        }
        y.chunks_exact_mut(part.max(1)).for_each(|y| f(y, lines.n, lines.inner));
        Some(())
    })
}

/// A contiguous line, from `x` or (where that is `None`) in place.
#[inline(always)]
fn row<S: Simd>(s: S, line: Line, x: Option<&[f32]>, y: &mut [f32]) {
    let splat = |x| S::F32::splat(s, x);
    let greatest = splat(slice::max(s, x.unwrap_or(y)));
    let mut sum = splat(0.0);
    if line == Line::LogSoftmax {
        let from = x.unwrap_or(y);
        let mut chunks = from.chunks_exact(S::F32::LANES);
        for c in &mut chunks {
            sum = sum + math::exp(s, S::F32::load(s, c) - greatest);
        }
        let mut padded = [f32::NEG_INFINITY; 16];
        padded[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        sum = sum + math::exp(s, S::F32::load(s, &padded) - greatest);
        let log = splat(libm::logf(sum.reduce_add()));
        let f = |x: S::F32| x - greatest - log;
        return match x {
            Some(x) => slice::map(s, x, y, f),
            None => slice::map_in_place(s, y, f),
        };
    }
    // Two vectors at a time, for two chains of sums.
    let lanes = S::F32::LANES;
    let (mut at, mut other) = (0, splat(0.0));
    while at + 2 * lanes <= y.len() {
        let from = x.unwrap_or(y);
        let a = math::exp(s, S::F32::load(s, &from[at..]) - greatest);
        let b = math::exp(s, S::F32::load(s, &from[at + lanes..]) - greatest);
        a.store(&mut y[at..]);
        b.store(&mut y[at + lanes..]);
        sum = sum + a;
        other = other + b;
        at += 2 * lanes;
    }
    while at < y.len() {
        let n = lanes.min(y.len() - at);
        let mut padded = [f32::NEG_INFINITY; 16];
        padded[..n].copy_from_slice(&x.unwrap_or(y)[at..at + n]);
        let a = math::exp(s, S::F32::load(s, &padded) - greatest);
        a.store_partial(&mut y[at..at + n]);
        sum = sum + a;
        at += n;
    }
    let scale = splat(1.0) / splat((sum + other).reduce_add());
    slice::map_in_place(
        s,
        y,
        #[inline(always)]
        |y| y * scale,
    );
}

/// Lines side by side: element `i` of line `c` is `y[i * inner + c]`. In place.
#[inline(always)]
fn columns<S: Simd>(s: S, line: Line, y: &mut [f32], n: usize, inner: usize) {
    let splat = |x| S::F32::splat(s, x);
    for c in (0..inner).step_by(S::F32::LANES) {
        let width = S::F32::LANES.min(inner - c);
        let at = |i: usize| i * inner + c..i * inner + c + width;
        let mut greatest = splat(f32::NEG_INFINITY);
        for i in 0..n {
            greatest = greatest.max(S::F32::load_partial(s, &y[at(i)]));
        }
        let mut sum = splat(0.0);
        for i in 0..n {
            let e = math::exp(s, S::F32::load_partial(s, &y[at(i)]) - greatest);
            sum = sum + e;
            if line == Line::Softmax {
                e.store_partial(&mut y[at(i)]);
            }
        }
        let (scale, log) = (splat(1.0) / sum, math::ln(s, sum));
        for i in 0..n {
            let v = S::F32::load_partial(s, &y[at(i)]);
            let v = if line == Line::Softmax { v * scale } else { v - greatest - log };
            v.store_partial(&mut y[at(i)]);
        }
    }
}

/// A line of any type, in place.
fn slow(line: Line, x: &mut [f64]) {
    let greatest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match line {
        Line::Softmax => {
            x.iter_mut().for_each(|x| *x = libm::exp(*x - greatest));
            let sum: f64 = x.iter().sum();
            x.iter_mut().for_each(|x| *x /= sum);
        }
        Line::LogSoftmax => {
            let log = libm::log(x.iter().map(|x| libm::exp(x - greatest)).sum());
            x.iter_mut().for_each(|x| *x -= greatest + log);
        }
        Line::Hardmax => {
            let first = x.iter().position(|&v| v == greatest);
            x.iter_mut().enumerate().for_each(|(i, x)| *x = f64::from(u8::from(Some(i) == first)));
        }
    }
}
