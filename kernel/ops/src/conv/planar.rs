//! Convolution of a picture of few planes, read as it comes: the first step of most networks.

use super::weights::WeightDims;
use crate::{
    carve::{carve, carved},
    matmul::product,
};
use millstream_gemm::{Epilogue, PackedRef, Planar, Window};
use millstream_graph::{EvalCx, EvalError};

/// An image of at most so many channels is read plane by plane: other steps gain nothing from reordering it.
pub(crate) const FEW_CHANNELS: usize = 4;

/// Bytes of scratch that a grain needs.
pub(crate) fn grain_scratch(job: &Planar) -> usize {
    carved::<f32>(job.scratch_len())
}

/// Runs `job` on the planes of `image`.
pub(crate) fn run(cx: &EvalCx<'_>, job: &Planar, image: &Window<'_>, weights: PackedRef<'_>, epilogue: &Epilogue<'_>, y: &mut [f32]) -> Result<(), EvalError> {
    let tiles = job.tiles(y, weights.n()).map_err(product::refused)?;
    cx.parallel(job.grains(), |grain, mut scratch| {
        let scratch = carve(&mut scratch, job.scratch_len())?;
        job.run_grain(grain, image, weights, epilogue, &tiles, scratch).ok()
    })
}

/// Writes weights `[out, channels, ky, kx]` as `[out, ky, channels, kx]`, for filters of lines of `width` taps.
pub(crate) fn by_line(weights: &[f32], dims: WeightDims, width: usize, ordered: &mut [f32]) {
    let (k, plane) = (dims.k().max(1), dims.taps.max(1));
    for (from, to) in weights.chunks_exact(k).zip(ordered.chunks_exact_mut(k)) {
        for (i, run) in to.chunks_exact_mut(width.max(1)).enumerate() {
            let (ky, c) = (i / dims.channels, i % dims.channels);
            run.copy_from_slice(&from[c * plane + ky * width..][..width]);
        }
    }
}
