//! Depthwise convolution, channels-last: every channel has its own filter.
//!
//! ```text
//! out[p, c] = activation(bias[c] + sum over taps t inside of the image of weights[t, c] image[pixel(p, t), c])
//! ```
//! Channels are the vector's lanes. Pixels whose windows don't cross the left or right edge are computed [`PIXELS`] at a time, so that a weight is
//! loaded once for all of them; the others one by one over the taps that exist. The chain of a pixel is the same either way.

use millstream_simd::{Level, Simd, SimdF32, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require};
use crate::{Activation, Window};

/// Output pixels that share a load of the weights.
const PIXELS: usize = 8;
/// Multiply-adds that a grain aims at.
const GRAIN_WORK: usize = 1 << 20;

/// A depthwise convolution of known dims, cut into grains of whole lines of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    level: Level,
    batch: usize,
    out: [usize; 2],
    channels: usize,
    /// Lines of the output that a grain computes.
    lines: usize,
}

impl Depthwise {
    /// A convolution whose output is `[batch, out height, out width, channels]`, with `taps` weights for each channel.
    pub fn new(level: Level, batch: usize, out: [usize; 2], channels: usize, taps: usize) -> Self {
        let line = out[1].saturating_mul(channels).saturating_mul(taps).max(1);
        let most = batch.saturating_mul(out[0]);
        let lines = (GRAIN_WORK / line).max(most.div_ceil(MAX_TILES)).max(1);
        // Equal grains.
        let lines = most.div_ceil(most.div_ceil(lines).max(1)).max(1);
        Self { level, batch, out, channels, lines }
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        if self.out[1] == 0 || self.channels == 0 { 0 } else { (self.batch * self.out[0]).div_ceil(self.lines) }
    }

    /// The output cut into this job's grains. Pixel p begins at `p * pixel_stride`.
    pub fn tiles<'c>(&self, out: &'c mut [f32], pixel_stride: usize) -> Result<Tiles<'c, f32>, GemmError> {
        let pixels = self.batch * self.out[0] * self.out[1];
        let (found, needed) = (out.len(), crate::error::span(pixels, pixel_stride, self.channels, 1)?);
        let (rows, cols) = ((self.lines * self.out[1]).max(1), self.channels.max(1));
        Tiles::new(out, pixels, self.channels, pixel_stride, rows, cols).ok_or(GemmError::Length { what: "output", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread. The weights are `[taps, channels]`.
    pub fn run_grain(
        &self,
        grain: usize,
        image: &Window<'_>,
        weights: &[f32],
        bias: Option<&[f32]>,
        activation: Activation,
        tiles: &Tiles<'_, f32>,
    ) -> Result<(), GemmError> {
        agree("batch", self.batch, image.batch)?;
        agree("output height", self.out[0], image.out[0])?;
        agree("output width", self.out[1], image.out[1])?;
        agree("channels", self.channels, image.channels)?;
        let taps = image.kernel[0].checked_mul(image.kernel[1]).ok_or(GemmError::Overflow)?;
        let k = taps.checked_mul(self.channels).ok_or(GemmError::Overflow)?;
        image.check(self.batch * self.out[0] * self.out[1], k)?;
        require("weights", k, weights.len())?;
        require("bias", self.channels, bias.map_or(self.channels, <[f32]>::len))?;
        if grain >= self.grains() || tiles.count() != self.grains() {
            return Err(GemmError::Grain(grain));
        }
        let mut tile = tiles.claim(grain).ok_or(GemmError::Grain(grain))?;
        let (first, _) = tile.origin();
        if tile.cols() != self.channels || first % self.out[1] != 0 || tile.rows() % self.out[1] != 0 {
            return Err(GemmError::Grain(grain));
        }
        dispatch!(self.level, s => {
            let line = Line { image, weights, bias, activation };
            for row in (0..tile.rows()).step_by(self.out[1]) {
                line.run(s, (first + row) / self.out[1], &mut tile, row);
            }
        });
        Ok(())
    }

    /// Runs all grains on this thread.
    pub fn run(
        &self,
        image: &Window<'_>,
        weights: &[f32],
        bias: Option<&[f32]>,
        activation: Activation,
        out: &mut [f32],
        pixel_stride: usize,
    ) -> Result<(), GemmError> {
        let tiles = self.tiles(out, pixel_stride)?;
        (0..self.grains()).try_for_each(|grain| self.run_grain(grain, image, weights, bias, activation, &tiles))
    }
}

/// What a line of the output is computed from. The lengths were checked.
struct Line<'a> {
    image: &'a Window<'a>,
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    activation: Activation,
}

/// The taps of one axis that lie inside of the image, for output position `at`.
fn inside(image: &Window<'_>, axis: usize, at: usize) -> (usize, usize) {
    let (start, dilation, pad, size) = (at * image.stride[axis], image.dilation[axis].max(1), image.pad[axis], image.size[axis]);
    let first = pad.saturating_sub(start).div_ceil(dilation);
    let end = (size + pad).saturating_sub(start).div_ceil(dilation);
    (first.min(image.kernel[axis]), end.min(image.kernel[axis]).max(first.min(image.kernel[axis])))
}

impl Line<'_> {
    /// Line `line` of the output, whose first pixel is row `row` of the tile.
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize, tile: &mut TileMut<'_, f32>, row: usize) {
        let (height, width) = (self.image.out[0], self.image.out[1]);
        let ys = inside(self.image, 0, line % height);
        let all = (0, self.image.kernel[1]);
        let mut x = 0;
        while x < width {
            let xs = inside(self.image, 1, x);
            // Taps enter and leave the image in order, so if the outer pixels of a block have all of theirs, so have those between.
            let whole = x + PIXELS <= width && xs == all && inside(self.image, 1, x + PIXELS - 1) == all;
            let done = if whole {
                self.pixels::<S, PIXELS>(s, line, ys, x, xs, tile, row + x);
                PIXELS
            } else {
                self.pixels::<S, 1>(s, line, ys, x, xs, tile, row + x);
                1
            };
            if self.activation.clamp().is_none() {
                for p in 0..done {
                    self.activation.run(s, tile.row(row + x + p));
                }
            }
            x += done;
        }
    }

    /// `P` pixels from output column `x` on, over taps `ys` × `xs`, which lie inside of the image for all of them.
    #[inline(always)]
    fn pixels<S: Simd, const P: usize>(&self, s: S, line: usize, ys: (usize, usize), x: usize, xs: (usize, usize), tile: &mut TileMut<'_, f32>, row: usize) {
        let image = self.image;
        let (channels, stride) = (image.channels, image.pixel_stride);
        let [height, width] = image.size;
        let (batch, y) = (line / image.out[0], line % image.out[0]);
        let (lo, hi) = self.activation.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (S::F32::splat(s, lo), S::F32::splat(s, hi));
        let next = image.stride[1] * stride;
        for c in (0..channels).step_by(S::F32::LANES) {
            let n = S::F32::LANES.min(channels - c);
            let start = self.bias.map_or(S::F32::splat(s, 0.0), |b| S::F32::load_partial(s, &b[c..c + n]));
            let mut acc = [start; P];
            for ky in ys.0..ys.1 {
                let iy = y * image.stride[0] + ky * image.dilation[0] - image.pad[0];
                let from = (batch * height + iy) * width;
                for kx in xs.0..xs.1 {
                    let ix = x * image.stride[1] + kx * image.dilation[1] - image.pad[1];
                    let weight = &self.weights[(ky * image.kernel[1] + kx) * channels + c..][..n];
                    // The span of the block's pixels, checked once for all of them.
                    let pixels = &image.data[(from + ix) * stride + c..][..(P - 1) * next + n];
                    if n == S::F32::LANES {
                        let w = S::F32::load(s, weight);
                        for (p, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: p <= P - 1, so that n = LANES elements follow inside of `pixels`.
                            let v = unsafe { S::F32::load_ptr(s, pixels.as_ptr().add(p * next)) };
                            *acc = v.mul_add(w, *acc);
                        }
                    } else {
                        let w = S::F32::load_partial(s, weight);
                        for (p, acc) in acc.iter_mut().enumerate() {
                            *acc = S::F32::load_partial(s, &pixels[p * next..][..n]).mul_add(w, *acc);
                        }
                    }
                }
            }
            for (p, acc) in acc.into_iter().enumerate() {
                hi.min(lo.max(acc)).store_partial(&mut tile.row(row + p)[c..c + n]);
            }
        }
    }
}
