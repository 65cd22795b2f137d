//! A line of the output, from pixel to pixel.
//!
//! Pixels whose windows don't cross the left or right edge are computed up to eight at a time, so that a weight is loaded once for all of them; the
//! others one by one over the taps that exist. The chain of a pixel is the same either way.

use core::ops::Range;
use core::ptr;

use millstream_simd::{Simd, SimdF32};
use millstream_tensor::tile::TileMut;

use super::GroupDims;
use super::lanes::{Block, Blocks, Lanes, Spread, load};
use crate::{Activation, Window};

/// What a line of the output is computed from. The lengths were checked.
pub(super) struct Line<'a> {
    pub(super) image: &'a Window<'a>,
    pub(super) weights: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Activation,
    pub(super) dims: GroupDims,
    pub(super) blocks: Blocks,
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

/// Taps that are summed in one loop.
const TAPS: usize = 64;

/// Taps inside of the image, of a row of windows: how far each lies from the first, in the image, and where its weights begin in a block's.
struct Taps {
    offsets: [(usize, usize); TAPS],
    /// Rows and columns of the window whose taps these are.
    of: [(usize, usize); 2],
}

impl Line<'_> {
    /// The lines of a tile, whose first is line `first` of the output.
    #[inline(always)]
    pub(super) fn run_all<S: Simd, L: Lanes>(&self, s: S, lanes: &L, first: usize, tile: &mut TileMut<'_, f32>) {
        let mut taps = Taps { offsets: [(0, 0); TAPS], of: [(0, 0); 2] };
        for (i, row) in (0..tile.rows()).step_by(self.image.out[1]).enumerate() {
            self.run(s, lanes, &mut taps, first + i, tile, row);
        }
    }

    /// Line `line` of the output, whose first pixel is row `row` of the tile.
    #[inline(always)]
    fn run<S: Simd, L: Lanes>(&self, s: S, lanes: &L, taps: &mut Taps, line: usize, tile: &mut TileMut<'_, f32>, row: usize) {
        let (height, width) = (self.image.out[0], self.image.out[1]);
        let ys = inside(self.image, 0, line % height);
        let whole = whole(self.image, 1);
        let mut x = 0;
        while x < width {
            let left = if whole.contains(&x) { whole.end - x } else { 0 };
            let xs = if left > 0 { (0, self.image.kernel[1]) } else { inside(self.image, 1, x) };
            let at = At { line, ys, x, xs, row: row + x };
            let done = match left {
                8.. => self.pixels::<S, L, 8>(s, lanes, taps, at, tile),
                4.. => self.pixels::<S, L, 4>(s, lanes, taps, at, tile),
                2.. => self.pixels::<S, L, 2>(s, lanes, taps, at, tile),
                _ => self.pixels::<S, L, 1>(s, lanes, taps, at, tile),
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
    fn pixels<S: Simd, L: Lanes, const P: usize>(&self, s: S, lanes: &L, taps: &mut Taps, at: At, tile: &mut TileMut<'_, f32>) -> usize {
        let image = self.image;
        if at.row + P > tile.rows() || self.dims.groups * self.dims.out > tile.cols() {
            return P;
        }
        let count = (at.ys.1 - at.ys.0) * (at.xs.1 - at.xs.0);
        let next = image.pixel_stride * image.stride[1];
        let input = if count == 0 { ptr::null() } else { self.image_from(&at, (P - 1) * next) };
        let (lo, hi) = self.activation.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let mut call = Call::<P> {
            inputs: core::array::from_fn(|p| input.wrapping_add(p * next)),
            weights: self.weights.as_ptr(),
            bias: self.bias.map_or(ptr::null(), <[f32]>::as_ptr),
            // SAFETY: rows at.row .. at.row + P of the tile exist, each of all output channels.
            out: unsafe { tile.as_mut_ptr().add(at.row * tile.row_stride()) },
            out_next: tile.row_stride(),
            first: true,
            clamp: (f32::NEG_INFINITY, f32::INFINITY),
        };
        for done in (0..count.max(1)).step_by(TAPS) {
            let n = TAPS.min(count - done);
            if count > TAPS || taps.of != [at.ys, at.xs] {
                self.list(taps, &at, done, n);
            }
            call.first = done == 0;
            if done + n == count {
                call.clamp = (lo, hi);
            }
            // SAFETY: the image's span was sliced, the packed weights, of all blocks and taps, and the bias were checked by `run_grain`, and the
            // tile is ours.
            unsafe { self.blocks(s, lanes, &call, &taps.offsets[..n]) };
        }
        P
    }

    /// The image from the first tap of the first pixel on, where `pixels` is how far the last pixel lies from the first, and a tap is inside.
    #[inline(always)]
    fn image_from(&self, at: &At, pixels: usize) -> *const f32 {
        let image = self.image;
        let iy = at.line % image.out[0] * image.stride[0] + at.ys.0 * image.dilation[0] - image.pad[0];
        let ix = at.x * image.stride[1] + at.xs.0 * image.dilation[1] - image.pad[1];
        let first = ((at.line / image.out[0] * image.size[0] + iy) * image.size[1] + ix) * image.pixel_stride;
        let (down, right) = self.steps();
        // To the last tap of the last pixel: everything that is read lies between.
        let reach = (at.ys.1 - at.ys.0 - 1) * down + (at.xs.1 - at.xs.0 - 1) * right + pixels + image.channels;
        image.data[first..first + reach].as_ptr()
    }

    /// Elements of the image from a tap to the one below, and to the one to its right.
    #[inline(always)]
    fn steps(&self) -> (usize, usize) {
        let image = self.image;
        (image.size[1] * image.pixel_stride * image.dilation[0], image.pixel_stride * image.dilation[1])
    }

    /// Lists `n` of the taps from number `done` on.
    fn list(&self, taps: &mut Taps, at: &At, done: usize, n: usize) {
        let ((down, right), (_, tap_stride)) = (self.steps(), self.blocks.strides(self.dims));
        let width = (at.xs.1 - at.xs.0).max(1);
        for (i, offset) in taps.offsets.iter_mut().enumerate().take(n) {
            let (ky, kx) = ((done + i) / width, (done + i) % width);
            *offset = (ky * down + kx * right, ((at.ys.0 + ky) * self.image.kernel[1] + at.xs.0 + kx) * tap_stride);
        }
        taps.of = [at.ys, at.xs];
    }

    /// All blocks of channels.
    ///
    /// # Safety
    /// As for [`Call::block`].
    #[inline(always)]
    unsafe fn blocks<S: Simd, L: Lanes, const P: usize>(&self, s: S, lanes: &L, call: &Call<P>, taps: &[(usize, usize)]) {
        let (width, all) = (S::F32::LANES, self.image.kernel[0] * self.image.kernel[1]);
        for i in 0..self.blocks.count(self.dims) {
            let block = self.blocks.get(L::SPREAD, self.dims, all, i);
            let full = block.n_out == width && (block.n_in == width || L::SPREAD == Spread::Broadcast);
            // SAFETY: the caller's promise.
            unsafe { if full { call.block::<S, L, true>(s, lanes, block, taps) } else { call.block::<S, L, false>(s, lanes, block, taps) } };
        }
    }
}

/// Where pixels stand.
#[derive(Clone, Copy)]
struct At {
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

/// The pointers and steps, in elements, of `P` pixels and some taps.
struct Call<const P: usize> {
    /// Each pixel's first tap.
    inputs: [*const f32; P],
    weights: *const f32,
    bias: *const f32,
    out: *mut f32,
    out_next: usize,
    /// No tap was summed before.
    first: bool,
    clamp: (f32, f32),
}

impl<const P: usize> Call<P> {
    /// A block of channels; `FULL` if what it loads and stores are whole vectors.
    ///
    /// # Safety
    /// Input, weights and output are valid for these channels at every tap and pixel; so is the bias unless it is null.
    #[inline(always)]
    unsafe fn block<S: Simd, L: Lanes, const FULL: bool>(&self, s: S, lanes: &L, block: Block, taps: &[(usize, usize)]) {
        let (c, n) = (block.first_out, block.n_out);
        let mut sums = [S::F32::splat(s, 0.0); P];
        // SAFETY: the caller's promise.
        unsafe {
            if !self.first {
                sums = core::array::from_fn(|p| load::<S, FULL>(s, self.out.wrapping_add(p * self.out_next + c), n));
            } else if !self.bias.is_null() {
                sums = [load::<S, FULL>(s, self.bias.wrapping_add(c), n); P];
            }
        }
        let weights = self.weights.wrapping_add(block.weights);
        for &(at, tap) in taps {
            // SAFETY: the caller's promise.
            unsafe { lanes.tap::<S, P, FULL>(s, &self.inputs, at + block.first_in, block.n_in, weights.wrapping_add(tap), &mut sums) };
        }
        let (lo, hi) = (S::F32::splat(s, self.clamp.0), S::F32::splat(s, self.clamp.1));
        for (p, sum) in sums.into_iter().enumerate() {
            let out = self.out.wrapping_add(p * self.out_next + c);
            let x = hi.min(lo.max(sum));
            // SAFETY: the caller's promise.
            unsafe { if FULL { x.store_ptr(out) } else { x.store_ptr_partial(out, n) } };
        }
    }
}
