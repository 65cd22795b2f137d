//! A line of the output, from pixel to pixel.
//!
//! Pixels whose windows don't cross the left or right edge are computed up to eight at a time, so that a weight is loaded once for all of them; the
//! others one by one over the taps that exist. The chain of a pixel is the same either way.

use core::ops::Range;
use core::ptr;

use millstream_simd::{Simd, SimdF32};
use millstream_tensor::tile::TileMut;

use super::GroupDims;
use super::lanes::{Block, Blocks, Broadcast, Lanes, Own, Permuted, Quads, Spread, load};
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

impl Line<'_> {
    /// The lines of a tile, whose first is line `first` of the output.
    #[inline(always)]
    pub(super) fn run_all<S: Simd>(&self, s: S, first: usize, tile: &mut TileMut<'_, f32>) {
        match self.blocks.spread {
            Spread::Own => self.lines(s, &Own, first, tile),
            Spread::Quads => self.lines(s, &Quads, first, tile),
            Spread::Permuted => self.lines(s, &Permuted(&self.blocks.table(self.dims)[..self.dims.channels]), first, tile),
            Spread::Broadcast => self.lines(s, &Broadcast(self.dims.channels), first, tile),
        }
    }

    #[inline(always)]
    fn lines<S: Simd>(&self, s: S, lanes: &impl Lanes, first: usize, tile: &mut TileMut<'_, f32>) {
        for (i, row) in (0..tile.rows()).step_by(self.image.out[1]).enumerate() {
            self.run(s, lanes, first + i, tile, row);
        }
    }

    /// Line `line` of the output, whose first pixel is row `row` of the tile.
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, lanes: &impl Lanes, line: usize, tile: &mut TileMut<'_, f32>, row: usize) {
        let (height, width) = (self.image.out[0], self.image.out[1]);
        let ys = inside(self.image, 0, line % height);
        let whole = whole(self.image, 1);
        let mut x = 0;
        while x < width {
            let left = if whole.contains(&x) { whole.end - x } else { 0 };
            let xs = if left > 0 { (0, self.image.kernel[1]) } else { inside(self.image, 1, x) };
            let at = At { line, ys, x, xs, row: row + x };
            let done = match left {
                8.. => self.pixels::<S, 8>(s, lanes, at, tile),
                4.. => self.pixels::<S, 4>(s, lanes, at, tile),
                2.. => self.pixels::<S, 2>(s, lanes, at, tile),
                _ => self.pixels::<S, 1>(s, lanes, at, tile),
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
    fn pixels<S: Simd, const P: usize>(&self, s: S, lanes: &impl Lanes, at: At, tile: &mut TileMut<'_, f32>) -> usize {
        let image = self.image;
        let (batch, y) = (at.line / image.out[0], at.line % image.out[0]);
        let (_, tap_stride) = self.blocks.strides(self.dims);
        let mut call = Call {
            input: ptr::null(),
            weights: ptr::null(),
            bias: self.bias.map_or(ptr::null(), <[f32]>::as_ptr),
            out: ptr::null_mut(),
            taps: (at.ys.1 - at.ys.0, at.xs.1 - at.xs.0),
            down: image.size[1] * image.pixel_stride * image.dilation[0],
            right: image.pixel_stride * image.dilation[1],
            next: image.pixel_stride * image.stride[1],
            weights_down: image.kernel[1] * tap_stride,
            weights_right: tap_stride,
            out_next: tile.row_stride(),
            clamp: self.activation.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
        };
        let mut first_tap = 0;
        if call.taps.0 > 0 && call.taps.1 > 0 {
            let iy = y * image.stride[0] + at.ys.0 * image.dilation[0] - image.pad[0];
            let ix = at.x * image.stride[1] + at.xs.0 * image.dilation[1] - image.pad[1];
            let first = ((batch * image.size[0] + iy) * image.size[1] + ix) * image.pixel_stride;
            // From the first tap of the first pixel to the last of the last: everything that is read lies between.
            let reach = (call.taps.0 - 1) * call.down + (call.taps.1 - 1) * call.right + (P - 1) * call.next + image.channels;
            call.input = image.data[first..first + reach].as_ptr();
            first_tap = (at.ys.0 * image.kernel[1] + at.xs.0) * tap_stride;
        } else {
            call.taps = (0, 0);
        }
        let (width, taps) = (S::F32::LANES, image.kernel[0] * image.kernel[1]);
        if at.row + P > tile.rows() || self.dims.groups * self.dims.out > tile.cols() {
            return P;
        }
        // SAFETY: rows at.row .. at.row + P of the tile exist, each of all output channels.
        call.out = unsafe { tile.as_mut_ptr().add(at.row * tile.row_stride()) };
        for i in 0..self.blocks.count(self.dims) {
            let block = self.blocks.get(self.dims, taps, i);
            call.weights = self.weights.as_ptr().wrapping_add(block.weights + first_tap);
            // SAFETY: the image's span was sliced above, the packed weights, of all blocks and taps, and the bias were checked by `run_grain`, and
            // the tile is ours.
            unsafe {
                if block.n_in == width && block.n_out == width || self.blocks.spread == Spread::Broadcast && block.n_out == width {
                    call.block::<S, P, true>(s, lanes, block);
                } else {
                    call.block::<S, P, false>(s, lanes, block);
                }
            }
        }
        P
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

/// The pointers and steps, in elements, of a block of pixels.
struct Call {
    input: *const f32,
    /// Of the block of channels, at the first tap.
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
    /// A block of channels of `P` pixels; `FULL` if what it loads and stores are whole vectors.
    ///
    /// # Safety
    /// Input, weights and output are valid for these channels at every tap and pixel; so is the bias unless it is null.
    #[inline(always)]
    unsafe fn block<S: Simd, const P: usize, const FULL: bool>(&self, s: S, lanes: &impl Lanes, block: Block) {
        let (c, n) = (block.first_out, block.n_out);
        // SAFETY: the caller's promise.
        let start = if self.bias.is_null() { S::F32::splat(s, 0.0) } else { unsafe { load::<S, FULL>(s, self.bias.wrapping_add(c), n) } };
        let mut sums = [start; P];
        for ky in 0..self.taps.0 {
            let mut input = self.input.wrapping_add(ky * self.down + block.first_in);
            let mut weights = self.weights.wrapping_add(ky * self.weights_down);
            for _ in 0..self.taps.1 {
                // SAFETY: the caller's promise.
                unsafe { lanes.tap::<S, P, FULL>(s, input, self.next, block.n_in, weights, &mut sums) };
                input = input.wrapping_add(self.right);
                weights = weights.wrapping_add(self.weights_right);
            }
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
