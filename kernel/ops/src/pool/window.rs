//! Pools over sliding windows: the pass over memory that all of them share.
//!
//! Channels-last f32: for each output pixel the offsets of its taps are listed (at most [`BATCH`] at a time), then all
//! channels are folded over them in vector registers. Otherwise one output element at a time, row-major.
//! Taps are folded in ascending order, so results do not depend on grains or layouts.

use crate::{
    conv::geometry::{Axes, Axis, position, visit},
    grains,
    matmul::number::Number,
};
use millstream_graph::{EvalCx, EvalError, Permutation, StepCx};
use millstream_simd::{Level, Simd, SimdF32, dispatch};
use millstream_tensor::{DType, Element, Layout, Order, View, ViewMut, tile::Tiles};

/// Taps that are folded in one go.
const BATCH: usize = 64;

/// How a window's elements become one.
pub(crate) trait Fold<S>: Copy + Sync {
    /// The result of no elements, before [`Fold::finish`].
    fn start(self) -> S;
    /// Takes one more element in.
    fn step(self, sum: S, x: S) -> S;
    /// The result of a window of which `count` elements count.
    fn finish(self, sum: S, count: usize) -> S;
}

/// A fold with a vector form of `step`, which must round as the scalar one does.
pub(crate) trait VectorFold: Fold<f32> {
    /// Takes one more element in, in every lane.
    fn step_vector<S: Simd>(self, s: S, sum: S::F32, x: S::F32) -> S::F32;
}

/// What a pool's window is: its axes, and whether pads count as elements.
pub(crate) struct Pool {
    pub(crate) axes: Axes,
    pub(crate) count_pads: bool,
}

impl Pool {
    fn count(&self, at: &[usize]) -> usize {
        let taps = |(axis, &o): (&Axis, &usize)| if self.count_pads { axis.padded_taps(o) } else { axis.taps(o).len() };
        self.axes.iter().zip(at).map(taps).product()
    }

    /// Elements that a window reads at the most.
    fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel.min(a.input)).product()
    }
}

/// Channels-last and row-major memory are both fine for f32, row-major alone for other types.
pub(crate) fn permute(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let spec = cx.inputs.first()?.as_ref()?;
    if !matches!(spec.dtype, DType::F32 | DType::U8 | DType::I8) || cx.outputs.len() != 1 || spec.shape().rank() < 3 {
        return None;
    }
    let order = inputs.first().copied()?.filter(Order::is_row_major).unwrap_or(Order::channels_last(spec.shape().rank()));
    Some(Permutation { inputs: [Some(order)].into(), outputs: [order].into() })
}

/// True if the layout is dense and channels-last.
pub(crate) fn is_channels_last(layout: &Layout) -> bool {
    layout.same_memory(&Layout::dense(*layout.shape(), Order::channels_last(layout.shape().rank())))
}

/// Folds f32, in either layout.
pub(crate) fn run_f32<F: VectorFold>(cx: &mut EvalCx<'_>, pool: &Pool, fold: F) -> Result<(), EvalError> {
    let (x, y) = (cx.input::<f32>(0)?, cx.output::<f32>(0)?);
    if !is_channels_last(x.layout()) || !is_channels_last(y.layout()) {
        return row_major(cx, pool, x, y, fold);
    }
    let level = cx.level();
    let finish = |y: &mut [f32], count| y.iter_mut().for_each(|y| *y = fold.finish(*y, count));
    channels_last(cx, pool, x, y, fold.start(), &|x, offsets, y| fold_taps(level, fold, x, offsets, y), &finish)
}

/// Folds elements of any type, row-major.
pub(crate) fn run<T: Number, F: Fold<T::Sum>>(cx: &mut EvalCx<'_>, pool: &Pool, fold: F) -> Result<(), EvalError> {
    let (x, y) = (cx.input::<T>(0)?, cx.output::<T>(0)?);
    row_major(cx, pool, x, y, fold)
}

/// The greatest byte of each window.
pub(crate) fn run_greatest<T: Element + Ord>(cx: &mut EvalCx<'_>, pool: &Pool, least: T) -> Result<(), EvalError> {
    let (x, y) = (cx.input::<T>(0)?, cx.output::<T>(0)?);
    let level = cx.level();
    channels_last(cx, pool, x, y, least, &|x, offsets, y| dispatch!(level, _s => greatest(x, offsets, y)), &|_, _| ())
}

/// The compiler makes vectors of this: a byte has no other operations.
#[inline(always)]
fn greatest<T: Copy + Ord>(x: &[T], offsets: &[usize], y: &mut [T]) {
    for &o in offsets {
        for (y, &x) in y.iter_mut().zip(&x[o..]) {
            *y = x.max(*y);
        }
    }
}

/// Channels-last: all channels of a window at once. `fold(x, offsets, y)` folds the pixels that begin at `offsets` into `y`, and
/// `finish(y, count)` is called with the count of a window's elements.
fn channels_last<T: Element>(
    cx: &EvalCx<'_>,
    pool: &Pool,
    x: View<'_, T>,
    y: ViewMut<'_, T>,
    start: T,
    fold: &(dyn Fn(&[T], &[usize], &mut [T]) + Sync),
    finish: &(dyn Fn(&mut [T], usize) + Sync),
) -> Result<(), EvalError> {
    let channels = x.shape()[1];
    let pixels_in: usize = pool.axes.iter().map(|a| a.input).product();
    let pixels_out: usize = pool.axes.iter().map(|a| a.output).product();
    let x = x.data();
    let rows = y.shape()[0] * pixels_out;
    let tiles = Tiles::rows(y.into_data(), channels, grains::rows(rows, channels, pool.taps())).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for row in 0..tile.rows() {
            let (image, pixel) = ((first + row) / pixels_out, (first + row) % pixels_out);
            let at = position(&pool.axes, pixel);
            let at = &at[..pool.axes.len()];
            let y = tile.row(row);
            y.fill(start);
            let mut offsets = [0; BATCH];
            let mut n = 0;
            visit(&pool.axes, at, &mut |plane, _| {
                offsets[n] = (image * pixels_in + plane) * channels;
                n += 1;
                if n == BATCH {
                    fold(x, &offsets, y);
                    n = 0;
                }
            });
            fold(x, &offsets[..n], y);
            finish(y, pool.count(at));
        }
        Some(())
    })
}

fn fold_taps<F: VectorFold>(level: Level, fold: F, x: &[f32], offsets: &[usize], y: &mut [f32]) {
    dispatch!(level, s => fold_channels(s, fold, x, offsets, y));
}

#[inline(always)]
fn fold_channels<S: Simd, F: VectorFold>(s: S, fold: F, x: &[f32], offsets: &[usize], y: &mut [f32]) {
    let lanes = S::F32::LANES;
    let channels = y.len();
    let mut c = 0;
    let mut blocks = y.chunks_exact_mut(2 * lanes);
    for y in &mut blocks {
        let (low, high) = y.split_at_mut(lanes);
        let (mut a, mut b) = (S::F32::load(s, low), S::F32::load(s, high));
        for &o in offsets {
            let x = &x[o + c..][..2 * lanes];
            a = fold.step_vector(s, a, S::F32::load(s, x));
            b = fold.step_vector(s, b, S::F32::load(s, &x[lanes..]));
        }
        a.store(low);
        b.store(high);
        c += 2 * lanes;
    }
    for y in blocks.into_remainder().chunks_mut(lanes) {
        let mut a = S::F32::load_partial(s, y);
        for &o in offsets {
            a = fold.step_vector(s, a, S::F32::load_partial(s, &x[o + c..o + channels]));
        }
        a.store_partial(y);
        c += lanes;
    }
}

fn row_major<T: Number, F: Fold<T::Sum>>(cx: &EvalCx<'_>, pool: &Pool, x: View<'_, T>, y: ViewMut<'_, T>, fold: F) -> Result<(), EvalError> {
    let pixels_in: usize = pool.axes.iter().map(|a| a.input).product();
    let pixels_out: usize = pool.axes.iter().map(|a| a.output).product();
    let x = x.as_slice().ok_or(EvalError::Invalid("a pool's input is neither row-major nor channels-last"))?;
    if !y.layout().is_row_major() {
        return Err(EvalError::Output(0));
    }
    let planes = y.shape()[0] * y.shape()[1];
    let tiles = Tiles::rows(y.into_data(), pixels_out, grains::rows(planes, pixels_out, pool.taps())).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for row in 0..tile.rows() {
            let x = &x[(first + row) * pixels_in..][..pixels_in];
            for (pixel, y) in tile.row(row).iter_mut().enumerate() {
                let at = position(&pool.axes, pixel);
                let at = &at[..pool.axes.len()];
                let mut sum = fold.start();
                visit(&pool.axes, at, &mut |plane, _| sum = fold.step(sum, x[plane].wide()));
                *y = T::narrow(fold.finish(sum, pool.count(at)));
            }
        }
        Some(())
    })
}
