//! Pools over whole planes: every channel of every image becomes one element.
//!
//! Channels-last f32: blocks of [`BLOCK`] pixels are folded in ascending order, and the blocks' results in ascending order, a
//! vector of channels at a time. Row-major: the same blocks, element by element. The order is a function of the plane alone.

use super::window::{Fold, VectorFold, is_channels_last};
use crate::{grains, matmul::number::Number};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch};
use millstream_tensor::{DType, Order, tile::Tiles};

/// Pixels of a block: short sums keep rounding errors small.
const BLOCK: usize = 64;
/// Channels that a grain folds at least.
const MIN_CHANNELS: usize = 64;

/// A fold whose results can be folded again.
pub(crate) trait GlobalFold<S>: Fold<S> {
    /// Joins the results of two blocks.
    fn join(self, a: S, b: S) -> S;
}

/// The facts of a global pool.
pub(crate) fn infer(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let x = cx.input(0)?;
    if !x.dtype.is_float() {
        return Err(InferError::DType { input: 0, found: x.dtype });
    }
    if x.rank() < 2 {
        return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "batch and channels are expected" });
    }
    let dims = x.dims.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Dim::from(1) }).collect();
    Ok(vec![Fact::new(x.dtype, dims)])
}

/// Channels-last and row-major memory are both fine for f32; the output, one pixel an image, is both.
pub(crate) fn permute(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let spec = cx.inputs.first()?.as_ref()?;
    let rank = spec.shape().rank();
    if spec.dtype != DType::F32 || rank < 3 {
        return None;
    }
    let order = inputs.first().copied()?.filter(Order::is_row_major).unwrap_or(Order::channels_last(rank));
    Some(Permutation { inputs: [Some(order)].into(), outputs: [order].into() })
}

/// Folds f32 in either layout.
pub(crate) fn run_f32<F: VectorFold + GlobalFold<f32>>(cx: &mut EvalCx<'_>, fold: F) -> Result<(), EvalError> {
    let x = cx.input::<f32>(0)?;
    if !is_channels_last(x.layout()) || x.shape().rank() < 3 {
        return run::<f32, F>(cx, fold);
    }
    let (channels, pixels, level) = (x.shape()[1], x.shape()[2..].iter().product::<usize>(), cx.level());
    let images = x.shape()[0];
    let y = cx.output::<f32>(0)?.into_data();
    let each = grains::chunk(channels, pixels).max(MIN_CHANNELS).max(channels.div_ceil((grains::MAX_GRAINS / images.max(1)).max(1)));
    let down = images.div_ceil(grains::MAX_GRAINS).max(1);
    let tiles = Tiles::new(y, images, channels, channels, down, each).ok_or(EvalError::Output(0))?;
    let x = x.data();
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let (image, channel) = tile.origin();
        for i in 0..tile.rows() {
            let from = &x[(image + i) * pixels * channels..][..pixels * channels];
            dispatch!(level, s => columns(s, fold, from, channels, channel, pixels, tile.row(i)));
        }
        Some(())
    })
}

/// Folds the columns from `first` on of a matrix of pixels × channels.
#[inline(always)]
fn columns<S: Simd, F: VectorFold + GlobalFold<f32>>(s: S, fold: F, x: &[f32], channels: usize, first: usize, pixels: usize, y: &mut [f32]) {
    let lanes = S::F32::LANES;
    let mut c = first;
    for y in y.chunks_mut(4 * lanes) {
        // A block's sums and the whole's, in memory that holds four of the widest vectors.
        let mut whole = [fold.start(); 64];
        for block in (0..pixels).step_by(BLOCK) {
            let end = pixels.min(block + BLOCK);
            let mut sums = [S::F32::splat(s, fold.start()); 4];
            if y.len() == 4 * lanes {
                for p in block..end {
                    let x = &x[p * channels + c..][..4 * lanes];
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = fold.step_vector(s, *sum, S::F32::load(s, &x[i * lanes..]));
                    }
                }
            } else {
                for p in block..end {
                    let x = &x[p * channels + c..][..y.len()];
                    for (sum, x) in sums.iter_mut().zip(x.chunks(lanes)) {
                        *sum = fold.step_vector(s, *sum, S::F32::load_partial(s, x));
                    }
                }
            }
            let mut part = [0.0; 64];
            for (i, sum) in sums.iter().enumerate() {
                sum.store(&mut part[i * lanes..]);
            }
            for (w, p) in whole.iter_mut().zip(part).take(y.len()) {
                *w = fold.join(*w, p);
            }
        }
        for (y, w) in y.iter_mut().zip(whole) {
            *y = fold.finish(w, pixels);
        }
        c += y.len();
    }
}

/// Folds elements of any type, row-major.
pub(crate) fn run<T: Number, F: GlobalFold<T::Sum>>(cx: &mut EvalCx<'_>, fold: F) -> Result<(), EvalError> {
    let x = cx.input::<T>(0)?;
    let pixels: usize = x.shape()[2..].iter().product();
    let x = x.as_slice().ok_or(EvalError::Invalid("a pool's input is neither row-major nor channels-last"))?;
    let y = cx.output::<T>(0)?.into_data();
    let each = grains::chunk(y.len(), pixels.max(1));
    let tiles = Tiles::chunks(y, each).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        for (i, y) in tile.as_slice()?.iter_mut().enumerate() {
            let plane = &x[(grain * each + i) * pixels..][..pixels];
            let block = |block: &[T]| block.iter().fold(fold.start(), |sum, v| fold.step(sum, v.wide()));
            let whole = plane.chunks(BLOCK).fold(fold.start(), |sum, b| fold.join(sum, block(b)));
            *y = T::narrow(fold.finish(whole, pixels));
        }
        Some(())
    })
}
