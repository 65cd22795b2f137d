//! Depthwise convolution of channels-last images: every channel has its own filter.
//!
//! For each output pixel the taps inside of the image are listed (at most [`BATCH`] at a time), then all channels are summed
//! over them in vector registers. Taps are added in ascending order, whatever the grain.

use super::geometry::{Axis, position, visit};
use crate::grains;
use millstream_gemm::Activation;
use millstream_graph::{EvalCx, EvalError};
use millstream_simd::{Level, Simd, SimdF32, dispatch};
use millstream_tensor::tile::Tiles;

/// Taps that are summed in one go.
const BATCH: usize = 64;

/// What a depthwise step reads beside its image.
#[derive(Clone, Copy)]
pub(crate) struct Depthwise<'a> {
    pub(crate) axes: &'a [Axis],
    pub(crate) channels: usize,
    /// `[taps, channels]`
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// As the output.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activation: Activation,
}

/// Runs the step.
pub(crate) fn run(cx: &EvalCx<'_>, step: Depthwise<'_>, x: &[f32], y: &mut [f32]) -> Result<(), EvalError> {
    let (channels, level) = (step.channels, cx.level());
    let pixels_in: usize = step.axes.iter().map(|a| a.input).product();
    let pixels_out: usize = step.axes.iter().map(|a| a.output).product();
    let taps: usize = step.axes.iter().map(|a| a.kernel.min(a.input)).product();
    let rows = y.len().checked_div(channels).unwrap_or(0);
    let tiles = Tiles::rows(y, channels, grains::rows(rows, channels, taps)).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        for row in 0..tile.rows() {
            let (image, pixel) = ((first + row) / pixels_out, (first + row) % pixels_out);
            let y = tile.row(row);
            y.fill(0.0);
            let mut batch = [(0, 0); BATCH];
            let mut n = 0;
            visit(step.axes, &position(step.axes, pixel)[..step.axes.len()], &mut |plane, tap| {
                batch[n] = ((image * pixels_in + plane) * channels, tap * channels);
                n += 1;
                if n == BATCH {
                    sum_taps(level, x, step.weights, &batch, y);
                    n = 0;
                }
            });
            sum_taps(level, x, step.weights, &batch[..n], y);
            let residual = match step.residual {
                Some(r) => Some(r.get((first + row) * channels..)?.get(..channels)?),
                None => None,
            };
            dispatch!(level, s => finish(s, &step, residual, y));
        }
        Some(())
    })
}

fn sum_taps(level: Level, x: &[f32], weights: &[f32], taps: &[(usize, usize)], y: &mut [f32]) {
    dispatch!(level, s => sum_channels(s, x, weights, taps, y));
}

#[inline(always)]
fn sum_channels<S: Simd>(s: S, x: &[f32], weights: &[f32], taps: &[(usize, usize)], y: &mut [f32]) {
    let lanes = S::F32::LANES;
    let channels = y.len();
    let mut c = 0;
    let mut blocks = y.chunks_exact_mut(4 * lanes);
    for y in &mut blocks {
        let mut acc: [S::F32; 4] = core::array::from_fn(|i| S::F32::load(s, &y[i * lanes..]));
        for &(xo, wo) in taps {
            let (x, w) = (&x[xo + c..][..4 * lanes], &weights[wo + c..][..4 * lanes]);
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = S::F32::load(s, &x[i * lanes..]).mul_add(S::F32::load(s, &w[i * lanes..]), *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            acc.store(&mut y[i * lanes..]);
        }
        c += 4 * lanes;
    }
    for y in blocks.into_remainder().chunks_mut(lanes) {
        let mut acc = S::F32::load_partial(s, y);
        for &(xo, wo) in taps {
            let (x, w) = (&x[xo + c..xo + channels], &weights[wo + c..wo + channels]);
            acc = S::F32::load_partial(s, x).mul_add(S::F32::load_partial(s, w), acc);
        }
        acc.store_partial(y);
        c += lanes;
    }
}

#[inline(always)]
fn finish<S: Simd>(s: S, step: &Depthwise<'_>, residual: Option<&[f32]>, y: &mut [f32]) {
    for term in [step.bias, residual].into_iter().flatten() {
        millstream_simd::slice::zip_map_in_place(s, y, term, |a, b| a + b);
    }
    step.activation.run(s, y);
}
