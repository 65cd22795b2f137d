//! Convolution of an image of a few planes: the first one of a network, whose pixels come as `[batch, channels, height, width]`.
//!
//! ```text
//! for bands of lines of the output:
//!   copy the lines of the image under them, zeros around, to lines [y, channel, x]      (L1, L2)
//!   for lines of the band, panels of B, tiles of pixels:
//!     microkernel: k runs over (ky, channel), then kx; rows of A are `stride` elements apart
//! ```
//! Channels-last, a pixel of three channels would fill a fraction of a vector, and its windows would be copied a few elements at a time. Here a
//! window's element of the next pixel stands next to it, so that the microkernel reads windows where they lie.

use millstream_simd::{Level, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require, span};
use crate::micro::{Call, Finish, Later, Tile};
use crate::{Epilogue, PackedRef, Window};

/// Multiply-adds that a grain aims at.
const GRAIN_WORK: usize = 1 << 19;

/// A convolution of known dims, without dilation, cut into grains of whole lines of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planar {
    level: Level,
    batch: usize,
    out: [usize; 2],
    channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    outputs: usize,
    /// Lines of the output that a grain computes.
    lines: usize,
}

impl Planar {
    /// The convolution of `image`, whose data are planes (its pixel stride means nothing), to an output
    /// `[batch, out height, out width, outputs]`.
    pub fn new(level: Level, image: &Window<'_>, outputs: usize) -> Self {
        let &Window { batch, out, channels, kernel, stride, .. } = image;
        let line = [out[1], channels, kernel[0], kernel[1], outputs].iter().fold(1_usize, |a, &b| a.saturating_mul(b)).max(1);
        let most = batch.saturating_mul(out[0]);
        let lines = (GRAIN_WORK / line).max(most.div_ceil(MAX_TILES)).max(1);
        // Equal grains.
        let lines = most.div_ceil(most.div_ceil(lines).max(1)).max(1);
        Self { level, batch, out, channels, kernel, stride, outputs, lines }
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        if self.out[1] == 0 || self.outputs == 0 { 0 } else { (self.batch * self.out[0]).div_ceil(self.lines) }
    }

    /// Elements of scratch that each running grain needs.
    pub fn scratch_len(&self) -> usize {
        let lines = (self.lines - 1).saturating_mul(self.stride[0]).saturating_add(self.kernel[0]);
        lines.saturating_mul(self.channels).saturating_mul(self.width())
    }

    /// Elements of a line of the image with what is around it.
    fn width(&self) -> usize {
        self.out[1].saturating_sub(1).saturating_mul(self.stride[1]).saturating_add(self.kernel[1])
    }

    /// Rows of B: (ky, channel, kx).
    fn k(&self) -> usize {
        self.kernel[0] * self.channels * self.kernel[1]
    }

    /// The output cut into this job's grains. Pixel p begins at `p * pixel_stride`.
    pub fn tiles<'c>(&self, out: &'c mut [f32], pixel_stride: usize) -> Result<Tiles<'c, f32>, GemmError> {
        let pixels = self.batch * self.out[0] * self.out[1];
        let (found, needed) = (out.len(), span(pixels, pixel_stride, self.outputs, 1)?);
        let (rows, cols) = ((self.lines * self.out[1]).max(1), self.outputs.max(1));
        Tiles::new(out, pixels, self.outputs, pixel_stride, rows, cols).ok_or(GemmError::Length { what: "output", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread. The rows of `weights` are `[ky, channel, kx]`.
    pub fn run_grain(
        &self,
        grain: usize,
        image: &Window<'_>,
        weights: PackedRef<'_>,
        epilogue: &Epilogue<'_>,
        tiles: &Tiles<'_, f32>,
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        agree("batch", self.batch, image.batch)?;
        agree("channels", self.channels, image.channels)?;
        for axis in 0..2 {
            agree("output", self.out[axis], image.out[axis])?;
            agree("kernel", self.kernel[axis], image.kernel[axis])?;
            agree("stride", self.stride[axis], image.stride[axis])?;
            agree("dilation", 1, image.dilation[axis])?;
        }
        let pixels = self.batch * self.out[0] * self.out[1];
        // A channels-last image of these dims has as many elements.
        Window { pixel_stride: image.channels, ..*image }.check(pixels, self.k())?;
        epilogue.check(pixels, self.outputs)?;
        require("scratch", self.scratch_len(), scratch.len())?;
        if grain >= self.grains() || tiles.count() != self.grains() {
            return Err(GemmError::Grain(grain));
        }
        let mut tile = tiles.claim(grain).ok_or(GemmError::Grain(grain))?;
        let (first, _) = tile.origin();
        if tile.cols() != self.outputs || first % self.out[1] != 0 || tile.rows() % self.out[1] != 0 || tile.rows() > self.lines * self.out[1] {
            return Err(GemmError::Grain(grain));
        }
        dispatch!(self.level, s => {
            weights.check(self.k(), self.outputs, panel_width(s))?;
            self.run_lines(s, image, weights, epilogue, &mut tile, scratch);
            Ok(())
        })
    }

    #[inline(always)]
    fn run_lines<S: Tile>(&self, s: S, image: &Window<'_>, weights: PackedRef<'_>, epilogue: &Epilogue<'_>, tile: &mut TileMut<'_, f32>, scratch: &mut [f32]) {
        let finish = Finish::new(epilogue);
        let (first, lines) = (tile.origin().0 / self.out[1], tile.rows() / self.out[1]);
        let mut done = 0;
        while done < lines {
            // Lines of one image.
            let (batch, y) = ((first + done) / self.out[0], (first + done) % self.out[0]);
            let band = (lines - done).min(self.out[0] - y);
            self.copy_band(image, batch, y * self.stride[0], (band - 1) * self.stride[0] + self.kernel[0], scratch);
            for line in 0..band {
                self.run_line(s, &scratch[line * self.stride[0] * self.channels * self.width()..], weights, &finish, (done + line) * self.out[1], tile);
            }
            done += band;
        }
        if epilogue.activation.clamp().is_none() {
            match tile.as_slice() {
                Some(all) => epilogue.activation.run(s, all),
                None => (0..tile.rows()).for_each(|row| epilogue.activation.run(s, tile.row(row))),
            }
        }
    }

    /// Copies `count` lines of image `batch` from line `y` of the padded image on.
    fn copy_band(&self, image: &Window<'_>, batch: usize, y: usize, count: usize, lines: &mut [f32]) {
        let [height, width] = image.size;
        let padded = self.width();
        // What of a line is before the image, and what ends with it.
        let left = image.pad[1].min(padded);
        let right = (image.pad[1] + width).min(padded).max(left);
        for (i, line) in lines[..count * self.channels * padded].chunks_exact_mut(padded.max(1)).enumerate() {
            let (iy, c) = ((y + i / self.channels).wrapping_sub(image.pad[0]), i % self.channels);
            if iy >= height {
                line.fill(0.0);
                continue;
            }
            line[..left].fill(0.0);
            line[left..right].copy_from_slice(&image.data[((batch * self.channels + c) * height + iy) * width..][..right - left]);
            line[right..].fill(0.0);
        }
    }

    /// The line of the output whose windows begin at `lines`, to rows `row ..` of the tile.
    #[inline(always)]
    fn run_line<S: Tile>(&self, s: S, lines: &[f32], weights: PackedRef<'_>, finish: &Finish, row: usize, tile: &mut TileMut<'_, f32>) {
        let (pixels, stride, run_step) = (self.out[1], self.stride[1], self.width());
        let runs = self.kernel[0] * self.channels;
        let lines = &lines[..runs * run_step];
        let row_tiles = pixels.div_ceil(S::MR);
        let (base, taller) = (pixels / row_tiles, pixels % row_tiles);
        for p in 0..self.outputs.div_ceil(S::NR) {
            let j = p * S::NR;
            let width = S::NR.min(self.outputs - j);
            let panel = weights.panel(p);
            for t in 0..row_tiles {
                let (i, mr) = (t * base + t.min(taller), base + usize::from(t < taller));
                if row + i + mr > tile.rows() {
                    return;
                }
                let call = Call {
                    a: lines.as_ptr().wrapping_add(i * stride),
                    a_stride: stride,
                    runs,
                    run_step,
                    b: panel.as_ptr(),
                    kc: self.kernel[1],
                    // SAFETY: the tile has rows row + i + mr and columns j + width.
                    c: unsafe { tile.as_mut_ptr().add((row + i) * tile.row_stride() + j) },
                    c_stride: tile.row_stride(),
                    cols: width,
                    first: true,
                    later: Later { start: panel.as_ptr(), step: 0 },
                    finish: Some(finish),
                    row: tile.origin().0 + row + i,
                    col: j,
                };
                let kernel = S::KERNELS[mr - 1][width.div_ceil(S::NR / S::NV) - 1];
                // SAFETY: pixel i + mr <= out width reads at most element (runs - 1) * run_step + (i + mr - 1) * stride + kernel width - 1, which
                // is below runs * run_step by the definition of `width`; the panel has runs * kc groups of NR; the tile is ours; `run_grain`
                // checked the epilogue against all pixels and outputs.
                unsafe { kernel(s, &call) };
            }
        }
    }
}

#[inline(always)]
fn panel_width<S: Tile>(_: S) -> usize {
    S::NR
}
