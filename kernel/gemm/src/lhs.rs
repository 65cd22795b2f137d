//! The left operand: where the elements of A lie, and how a block of them is copied to the microkernel's form.
//!
//! A block is copied row by row, without transposition, to rows a constant apart. The copy costs one load and one store for a vector, small
//! against the at least four multiply-adds for each of its elements, and buys freedom in A's layout: strides of a power of two, windows of an
//! image and tables of offsets all run through the same microkernel.

use millstream_simd::{Simd, SimdF32};

use crate::error::{GemmError, agree, require, span};

/// The left operand of a product, m × k.
#[derive(Clone, Copy, Debug)]
pub enum Lhs<'a, T = f32> {
    /// Element (i, k) at `i * row_stride + k * col_stride`.
    Strided {
        /// The elements.
        data: &'a [T],
        /// From one row to the next.
        row_stride: usize,
        /// From one column to the next.
        col_stride: usize,
    },
    /// Row i is the window of output pixel i of a convolution.
    Window(Window<'a, T>),
    /// Row i is made of `taps` runs of `channels` elements; run t starts at `offsets[i * taps + t]`. A run that does not fit in `data`
    /// is zeros, so that `usize::MAX` is padding.
    Gathered {
        /// The elements.
        data: &'a [T],
        /// Where the runs start, row by row.
        offsets: &'a [usize],
        /// Runs of a row.
        taps: usize,
        /// Elements of a run.
        channels: usize,
    },
}

/// The windows of a channels-last image `[batch, height, width, channels]`, as rows `[batch, out_height, out_width]` of columns
/// `[kernel_height, kernel_width, channels]`. Pixels outside of the image are zeros.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a, T = f32> {
    /// The image's elements, from the first channel of the first pixel on.
    pub data: &'a [T],
    /// Images.
    pub batch: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// Channels of a window (a group's share of the image's).
    pub channels: usize,
    /// Elements from a pixel to the next, at least `channels`.
    pub pixel_stride: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Steps from an output pixel to the next.
    pub stride: [usize; 2],
    /// Steps between the taps of a window.
    pub dilation: [usize; 2],
    /// Zeros above and to the left.
    pub pad: [usize; 2],
    /// Height and width of the output.
    pub out: [usize; 2],
}

impl<'a, T: LhsElement> Lhs<'a, T> {
    /// A matrix whose rows are contiguous and `row_stride` apart.
    pub fn row_major(data: &'a [T], row_stride: usize) -> Self {
        Self::Strided { data, row_stride, col_stride: 1 }
    }

    pub(crate) fn check(&self, m: usize, k: usize) -> Result<(), GemmError> {
        match self {
            Self::Strided { data, row_stride, col_stride } => require("A", span(m, *row_stride, k, *col_stride)?, data.len()),
            Self::Window(w) => w.check(m, k),
            Self::Gathered { offsets, taps, channels, .. } => {
                agree("columns of A", k, taps.checked_mul(*channels).ok_or(GemmError::Overflow)?)?;
                require("offsets", m.checked_mul(*taps).ok_or(GemmError::Overflow)?, offsets.len())
            }
        }
    }

    /// Copies rows `first_row..` and columns `k0..k0 + kc` to `dst`, a row each `stride`; the length of `dst` tells how many rows. What
    /// lies outside of an image becomes `pad`.
    #[inline(always)]
    pub(crate) fn copy<S: Simd>(&self, s: S, first_row: usize, k0: usize, kc: usize, dst: &mut [T], stride: usize, pad: T) {
        if kc == 0 {
            return;
        }
        let count = dst.len() / stride;
        let rows = dst.chunks_exact_mut(stride).enumerate().map(|(i, row)| (first_row + i, &mut row[..kc]));
        match *self {
            Self::Strided { data, row_stride, col_stride: 1 } => {
                for (i, row) in rows {
                    T::copy(s, &data[i * row_stride + k0..][..kc], row);
                }
            }
            Self::Strided { data, row_stride, col_stride } => {
                // Blocks of columns, so that lines of a transposed A are used whole while they are in the cache.
                const BLOCK: usize = 16;
                for row0 in (0..count).step_by(BLOCK) {
                    for k in 0..kc {
                        for i in row0..count.min(row0 + BLOCK) {
                            dst[i * stride + k] = data[(first_row + i) * row_stride + (k0 + k) * col_stride];
                        }
                    }
                }
            }
            Self::Window(ref w) => {
                for (i, row) in rows {
                    w.copy_row(s, i, k0, row, pad);
                }
            }
            Self::Gathered { data, offsets, taps, channels } => {
                for (i, row) in rows {
                    let mut done = 0;
                    while done < kc {
                        let (tap, at) = ((k0 + done) / channels, (k0 + done) % channels);
                        let run = &mut row[done..kc.min(done + channels - at)];
                        let start = offsets[i * taps + tap];
                        match start.checked_add(channels).and_then(|end| data.get(start..end)) {
                            Some(from) => T::copy(s, &from[at..at + run.len()], run),
                            None => run.fill(pad),
                        }
                        done += channels - at;
                    }
                }
            }
        }
    }
}

impl<T: LhsElement> Window<'_, T> {
    pub(crate) fn check(&self, m: usize, k: usize) -> Result<(), GemmError> {
        let product = |x: &[usize]| x.iter().try_fold(1_usize, |a, b| a.checked_mul(*b)).ok_or(GemmError::Overflow);
        agree("rows of A", m, product(&[self.batch, self.out[0], self.out[1]])?)?;
        agree("columns of A", k, product(&[self.kernel[0], self.kernel[1], self.channels])?)?;
        let pixels = product(&[self.batch, self.size[0], self.size[1]])?;
        require("pixel_stride", self.channels, self.pixel_stride)?;
        // Positions are computed with wrapping arithmetic on usize; these bounds keep them far from the other end.
        for axis in 0..2 {
            let far = product(&[self.out[axis], self.stride[axis]])?;
            let reach = product(&[self.kernel[axis], self.dilation[axis]])?;
            if [far, reach, self.pad[axis], self.size[axis]].iter().any(|x| *x > usize::MAX / 8) {
                return Err(GemmError::Overflow);
            }
        }
        require("A", span(pixels, self.pixel_stride, self.channels, 1)?, self.data.len())
    }

    /// Columns `k0..` of row `i`.
    #[inline(always)]
    fn copy_row<S: Simd>(&self, s: S, i: usize, k0: usize, row: &mut [T], pad: T) {
        let [height, width] = self.size;
        let (image, pixel) = (i / (self.out[0] * self.out[1]), i % (self.out[0] * self.out[1]));
        let y0 = (pixel / self.out[1] * self.stride[0]).wrapping_sub(self.pad[0]);
        let x0 = (pixel % self.out[1] * self.stride[1]).wrapping_sub(self.pad[1]);
        let line = self.kernel[1] * self.channels;
        let mut done = 0;
        while done < row.len() {
            // One line of the kernel at a time.
            let (ky, at) = ((k0 + done) / line, (k0 + done) % line);
            let run = (line - at).min(row.len() - done);
            let to = &mut row[done..done + run];
            done += run;
            let y = y0.wrapping_add(ky * self.dilation[0]);
            if y >= height {
                to.fill(pad);
                continue;
            }
            let from = &self.data[(image * height + y) * width * self.pixel_stride..];
            if self.dilation[1] == 1 && self.pixel_stride == self.channels {
                // Neighbouring taps are neighbours in memory: one copy between the padding on either side.
                let (before, after) = if x0 > usize::MAX / 2 { (x0.wrapping_neg(), 0) } else { (0, x0) };
                let left = before.min(self.kernel[1]);
                let right = (width + before).saturating_sub(after);
                let right = right.min(self.kernel[1]).max(left);
                let (a, b) = ((left * self.channels).clamp(at, at + run), (right * self.channels).clamp(at, at + run));
                to[..a - at].fill(pad);
                if b > a {
                    let start = x0.wrapping_mul(self.channels).wrapping_add(a);
                    T::copy(s, &from[start..start + (b - a)], &mut to[a - at..b - at]);
                }
                to[b - at..].fill(pad);
                continue;
            }
            let mut e = at;
            while e < at + run {
                let (kx, c) = (e / self.channels, e % self.channels);
                let n = (self.channels - c).min(at + run - e);
                let to = &mut to[e - at..e - at + n];
                let x = x0.wrapping_add(kx * self.dilation[1]);
                if x < width {
                    T::copy(s, &from[x * self.pixel_stride + c..][..n], to);
                } else {
                    to.fill(pad);
                }
                e += n;
            }
        }
    }
}

/// What a left operand is made of: f32 for [`crate::Gemm`], u8 and i8 for [`crate::QuantisedGemm`].
pub trait LhsElement: bytemuck::NoUninit + sealed::Sealed {
    /// `dst = src`, of equal length.
    #[doc(hidden)]
    fn copy<S: Simd>(s: S, src: &[Self], dst: &mut [Self]);
}

mod sealed {
    /// Closes the set of element types.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
    impl Sealed for i8 {}
}

impl LhsElement for f32 {
    /// Copies by vectors: the runs are often too short for a call of memcpy to pay.
    #[inline(always)]
    fn copy<S: Simd>(s: S, src: &[f32], dst: &mut [f32]) {
        let mut from = src.chunks_exact(S::F32::LANES);
        let mut to = dst.chunks_exact_mut(S::F32::LANES);
        for (x, y) in (&mut from).zip(&mut to) {
            S::F32::load(s, x).store(y);
        }
        S::F32::load_partial(s, from.remainder()).store_partial(to.into_remainder());
    }
}

impl LhsElement for u8 {
    #[inline(always)]
    fn copy<S: Simd>(_: S, src: &[u8], dst: &mut [u8]) {
        dst.copy_from_slice(src);
    }
}

impl LhsElement for i8 {
    #[inline(always)]
    fn copy<S: Simd>(_: S, src: &[i8], dst: &mut [i8]) {
        dst.copy_from_slice(src);
    }
}
