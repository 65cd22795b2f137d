//! 3 × 3 convolution by Winograd's F(4 × 4, 3 × 3): when it pays, and its run over a batch.
//!
//! A quarter of the multiplications for four times the weights: it pays while the weights are few against the pixels that share
//! them. The choice is a function of the weights' dims and one image's, never of the batch, so that an image's result doesn't
//! depend on its company.

use crate::{
    carve::{carve, carved},
    matmul::product,
};
use millstream_gemm::{Activation, PackedWinograd, Residual, Window, Winograd};
use millstream_graph::{EvalCx, EvalError};
use millstream_simd::Level;

/// Channels below which vectors and tiles stay too empty.
const FEW: usize = 16;
/// Filters above which transformed weights are too much memory, unless an image is known to be large.
const MANY_FILTERS: usize = 1 << 17;
/// Filters above which they always are.
const TOO_MANY_FILTERS: usize = 1 << 18;
/// Tiles of a large image.
const MANY_TILES: usize = 32;
/// Tiles from which on an image is cut by itself.
const TILES_ALONE: usize = 48;
/// Pixels of a tile's edge.
const STEP: usize = 4;

/// Time, in multiply-adds of a core's peak, for which a float of weights comes from the third cache.
const WEIGHT: usize = 21;
/// The same, for the transformation of a tile's channel.
const TRANSFORM: usize = 220;

/// True if the algorithm is faster than the product of windows by a good margin.
pub(crate) fn pays(channels: usize, outputs: usize, output: Option<&[usize]>) -> bool {
    let filters = channels.saturating_mul(outputs);
    if channels < FEW || outputs < FEW || filters > TOO_MANY_FILTERS {
        return false;
    }
    let Some(&[height, width]) = output else { return filters <= MANY_FILTERS };
    let tiles = height.div_ceil(STEP).saturating_mul(width.div_ceil(STEP));
    if tiles == 0 || filters > MANY_FILTERS && tiles < MANY_TILES {
        return false;
    }
    // Per filter; what a core computes and what it waits for overlap.
    let direct = height.saturating_mul(width).saturating_mul(9).max(9 * WEIGHT);
    let transforms = TRANSFORM.saturating_mul(tiles) / outputs + TRANSFORM.saturating_mul(tiles) / channels;
    let winograd = tiles.saturating_mul(36).max(36 * WEIGHT).saturating_add(transforms);
    winograd.saturating_add(winograd / 4) < direct
}

/// A convolution of known dims: one job for the whole batch, or one for each image.
pub(crate) struct Plan {
    job: Winograd,
    /// Images of a job.
    images: usize,
}

impl Plan {
    pub(crate) fn new(level: Level, image: &Window<'_>, outputs: usize) -> Plan {
        let tiles: usize = image.out.iter().map(|n| n.div_ceil(STEP)).product();
        let images = if tiles >= TILES_ALONE { image.batch.min(1) } else { image.batch };
        Plan { job: Winograd::new(level, images, image.out, image.channels, outputs), images }
    }

    /// Bytes of scratch that a grain needs.
    pub(crate) fn grain_scratch(&self) -> usize {
        carved::<f32>(self.job.scratch_len())
    }

    pub(crate) fn run(
        &self,
        cx: &EvalCx<'_>,
        image: Window<'_>,
        weights: &PackedWinograd,
        bias: Option<&[f32]>,
        residual: Option<&[f32]>,
        activation: Activation,
        y: &mut [f32],
    ) -> Result<(), EvalError> {
        let short = EvalError::Invalid("an image does not have its layout's length");
        let outputs = weights.outputs();
        let input = self.images * image.size[0] * image.size[1] * image.pixel_stride;
        let output = self.images * image.out[0] * image.out[1] * outputs;
        if output == 0 {
            return Ok(());
        }
        for (i, y) in y.chunks_exact_mut(output).enumerate() {
            let Some(data) = image.data.get(i * input..(i + 1) * input) else { return Err(short) };
            let image = Window { data, batch: self.images, ..image };
            let residual = residual.map(|r| Residual { data: r.get(i * output..).unwrap_or_default(), row_stride: outputs, beta: 1.0 });
            let tiles = self.job.tiles(y, outputs).map_err(product::refused)?;
            cx.parallel(tiles.count(), |grain, mut scratch| {
                let scratch = carve(&mut scratch, self.job.scratch_len())?;
                self.job.run_grain(grain, &image, weights, bias, residual, activation, &tiles, scratch).ok()
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::pays;

    #[test]
    fn the_choice_follows_weights_and_pixels() {
        assert!(pays(64, 64, Some(&[56, 56])));
        assert!(pays(128, 128, Some(&[28, 28])));
        assert!(pays(256, 256, Some(&[14, 14])));
        assert!(!pays(512, 512, Some(&[7, 7])), "more weights than pixels pay for");
        assert!(pays(512, 512, Some(&[28, 28])));
        assert!(pays(96, 24, None) && pays(256, 256, None));
        assert!(!pays(512, 512, None));
        assert!(!pays(3, 64, None) && !pays(64, 3, None), "empty vectors");
        assert!(!pays(64, 64, Some(&[0, 4])) && !pays(64, 64, Some(&[2, 2])));
    }
}
