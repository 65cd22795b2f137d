//! Interpolation along one axis of dense memory, seen as outer × axis × inner: for each outer row and output position, a sum
//! of weighted input rows of `inner` elements.

use super::coordinate::{ResizeAxis, Sampling};
use crate::{grains, matmul::number::Number};
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::tile::Tiles;

/// Fills the tables of one axis: `width` pairs for each output position.
pub(crate) fn fill(axis: &ResizeAxis, sampling: &Sampling, width: usize, places: &mut [u32], weights: &mut [f32]) -> Result<(), EvalError> {
    for (o, (p, w)) in places.chunks_exact_mut(width).zip(weights.chunks_exact_mut(width)).enumerate().take(axis.output) {
        axis.fill(sampling, o, p, w)?;
    }
    Ok(())
}

/// The tables of one axis.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) width: usize,
    pub(crate) places: &'a [u32],
    pub(crate) weights: &'a [f32],
}

/// Moves whole elements: the nearest input row for each output row.
pub(crate) fn nearest<T: Copy + Send + Sync>(cx: &EvalCx<'_>, table: Table<'_>, inner: usize, x: &[T], y: &mut [T]) -> Result<(), EvalError> {
    let rows = y.len().checked_div(inner).unwrap_or(0);
    let each = grains::rows(rows, inner, 1);
    let tiles = Tiles::rows(y, inner, each).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        if inner == 1 {
            for (i, y) in tile.as_slice()?.iter_mut().enumerate() {
                let (outer, o) = ((first + i) / table.output, (first + i) % table.output);
                *y = x[outer * table.input + table.places[o] as usize];
            }
            return Some(());
        }
        for i in 0..tile.rows() {
            let (outer, o) = ((first + i) / table.output, (first + i) % table.output);
            tile.row(i).copy_from_slice(&x[(outer * table.input + table.places[o] as usize) * inner..][..inner]);
        }
        Some(())
    })
}

/// Sums weighted rows; f32 sums (f64 for f64 are not needed: weights are f32).
pub(crate) fn weighted<X: Number, Y: Number<Sum = X::Sum>>(cx: &EvalCx<'_>, table: Table<'_>, inner: usize, x: &[X], y: &mut [Y]) -> Result<(), EvalError>
where
    X::Sum: From<f32>,
{
    let rows = y.len().checked_div(inner).unwrap_or(0);
    let tiles = Tiles::rows(y, inner, grains::rows(rows, inner, table.width)).ok_or(EvalError::Output(0))?;
    let level = cx.level();
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for i in 0..tile.rows() {
            let (outer, o) = ((first + i) / table.output, (first + i) % table.output);
            let (places, weights) = (&table.places[o * table.width..][..table.width], &table.weights[o * table.width..][..table.width]);
            let x = &x[outer * table.input * inner..][..table.input * inner];
            let y = tile.row(i);
            millstream_simd::dispatch!(level, s => {
                let _ = s;
                for (c, y) in y.iter_mut().enumerate() {
                    let mut sum = X::Sum::default();
                    for (&p, &w) in places.iter().zip(weights) {
                        sum = X::mul_add(x[p as usize * inner + c].wide(), w.into(), sum);
                    }
                    *y = Y::narrow(sum);
                }
            });
        }
        Some(())
    })
}
