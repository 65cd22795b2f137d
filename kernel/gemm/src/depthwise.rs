//! Depthwise convolution, channels-last: every channel has its own filter.
//!
//! ```text
//! out[p, c] = activation(bias[c] + sum over taps t inside of the image of weights[t, c] image[pixel(p, t), c])
//! ```
//! Channels are the vector's lanes. Pixels whose windows don't cross the left or right edge are computed up to eight at a time, so that a weight is
//! loaded once for all of them; the others one by one over the taps that exist. The chain of a pixel is the same either way.

use core::ops::Range;
use core::ptr;

use millstream_simd::{Level, Simd, SimdF32, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require};
use crate::{Activation, Window};

/// Multiply-adds that a grain aims at.
const GRAIN_WORK: usize = 1 << 17;

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

/// The output positions whose taps all lie inside of the image.
fn whole(image: &Window<'_>, axis: usize) -> Range<usize> {
    let (stride, pad, out) = (image.stride[axis].max(1), image.pad[axis], image.out[axis]);
    let reach = image.kernel[axis].saturating_sub(1) * image.dilation[axis];
    let end = (image.size[axis] + pad).checked_sub(reach + 1).map_or(0, |last| last / stride + 1).min(out);
    pad.div_ceil(stride).min(end)..end
}

impl Line<'_> {
    /// Line `line` of the output, whose first pixel is row `row` of the tile.
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize, tile: &mut TileMut<'_, f32>, row: usize) {
        let (height, width) = (self.image.out[0], self.image.out[1]);
        let ys = inside(self.image, 0, line % height);
        let whole = whole(self.image, 1);
        let mut x = 0;
        while x < width {
            let left = if whole.contains(&x) { whole.end - x } else { 0 };
            let xs = if left > 0 { (0, self.image.kernel[1]) } else { inside(self.image, 1, x) };
            let block = Block { line, ys, x, xs, row: row + x };
            let done = match left {
                8.. => self.pixels::<S, 8>(s, block, tile),
                4.. => self.pixels::<S, 4>(s, block, tile),
                2.. => self.pixels::<S, 2>(s, block, tile),
                _ => self.pixels::<S, 1>(s, block, tile),
            };
            if self.activation.clamp().is_none() {
                for p in 0..done {
                    self.activation.run(s, tile.row(row + x + p));
                }
            }
            x += done;
        }
    }

    /// `P` pixels, whose number it returns.
    #[inline(always)]
    fn pixels<S: Simd, const P: usize>(&self, s: S, at: Block, tile: &mut TileMut<'_, f32>) -> usize {
        let image = self.image;
        let channels = image.channels;
        let lanes = S::F32::LANES;
        let (batch, y) = (at.line / image.out[0], at.line % image.out[0]);
        let taps = (at.ys.1 - at.ys.0, at.xs.1 - at.xs.0);
        let mut call = Call {
            input: ptr::null(),
            weights: ptr::null(),
            bias: self.bias.map_or(ptr::null(), <[f32]>::as_ptr),
            out: ptr::null_mut(),
            taps,
            down: image.size[1] * image.pixel_stride * image.dilation[0],
            right: image.pixel_stride * image.dilation[1],
            next: image.pixel_stride * image.stride[1],
            weights_down: image.kernel[1] * channels,
            weights_right: channels,
            out_next: tile.row_stride(),
            clamp: self.activation.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
        };
        if taps.0 > 0 && taps.1 > 0 {
            let iy = y * image.stride[0] + at.ys.0 * image.dilation[0] - image.pad[0];
            let ix = at.x * image.stride[1] + at.xs.0 * image.dilation[1] - image.pad[1];
            let first = ((batch * image.size[0] + iy) * image.size[1] + ix) * image.pixel_stride;
            // From the first tap of the first pixel to the last of the last: everything that is read lies between.
            let reach = (taps.0 - 1) * call.down + (taps.1 - 1) * call.right + (P - 1) * call.next + channels;
            call.input = image.data[first..first + reach].as_ptr();
            let first = (at.ys.0 * image.kernel[1] + at.xs.0) * channels;
            let reach = (taps.0 - 1) * call.weights_down + (taps.1 - 1) * call.weights_right + channels;
            call.weights = self.weights[first..first + reach].as_ptr();
        } else {
            call.taps = (0, 0);
        }
        if at.row + P > tile.rows() || channels > tile.cols() {
            return P;
        }
        // SAFETY: rows at.row .. at.row + P of the tile exist, each of at least `channels` elements.
        call.out = unsafe { tile.as_mut_ptr().add(at.row * tile.row_stride()) };
        for c in (0..channels).step_by(lanes) {
            // SAFETY: the spans of input and weights were sliced above, the bias was checked by `run_grain`, and the tile is ours.
            unsafe {
                if c + lanes <= channels {
                    call.channels::<S, P, true>(s, c, lanes);
                } else {
                    call.channels::<S, P, false>(s, c, channels - c);
                }
            }
        }
        P
    }
}

/// Where a block of pixels stands.
#[derive(Clone, Copy)]
struct Block {
    /// The line of the output.
    line: usize,
    /// The taps inside of the image.
    ys: (usize, usize),
    xs: (usize, usize),
    /// The first pixel's column of the output.
    x: usize,
    /// Its row of the tile.
    row: usize,
}

/// The pointers and steps, in elements, of a block of pixels.
struct Call {
    input: *const f32,
    weights: *const f32,
    bias: *const f32,
    out: *mut f32,
    taps: (usize, usize),
    down: usize,
    right: usize,
    next: usize,
    weights_down: usize,
    weights_right: usize,
    out_next: usize,
    clamp: (f32, f32),
}

impl Call {
    /// Channels `c .. c + n` of `P` pixels; `FULL` if `n` is a whole vector.
    ///
    /// # Safety
    /// Input, weights and output are valid for these channels at every tap and pixel; so is the bias unless it is null.
    #[inline(always)]
    unsafe fn channels<S: Simd, const P: usize, const FULL: bool>(&self, s: S, c: usize, n: usize) {
        // SAFETY: the caller's promise.
        let start = if self.bias.is_null() { S::F32::splat(s, 0.0) } else { unsafe { load::<S, FULL>(s, self.bias.wrapping_add(c), n) } };
        let mut acc = [start; P];
        for ky in 0..self.taps.0 {
            let mut input = self.input.wrapping_add(ky * self.down + c);
            let mut weights = self.weights.wrapping_add(ky * self.weights_down + c);
            for _ in 0..self.taps.1 {
                // SAFETY: the caller's promise.
                let w = unsafe { load::<S, FULL>(s, weights, n) };
                for (p, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    *acc = unsafe { load::<S, FULL>(s, input.wrapping_add(p * self.next), n) }.mul_add(w, *acc);
                }
                input = input.wrapping_add(self.right);
                weights = weights.wrapping_add(self.weights_right);
            }
        }
        let (lo, hi) = (S::F32::splat(s, self.clamp.0), S::F32::splat(s, self.clamp.1));
        for (p, acc) in acc.into_iter().enumerate() {
            let out = self.out.wrapping_add(p * self.out_next + c);
            let x = hi.min(lo.max(acc));
            // SAFETY: the caller's promise.
            unsafe { if FULL { x.store_ptr(out) } else { x.store_ptr_partial(out, n) } };
        }
    }
}

/// `n` elements, a whole vector if `FULL`.
///
/// # Safety
/// There are as many at `p`.
#[inline(always)]
unsafe fn load<S: Simd, const FULL: bool>(s: S, p: *const f32, n: usize) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe { if FULL { S::F32::load_ptr(s, p) } else { S::F32::load_ptr_partial(s, p, n) } }
}
