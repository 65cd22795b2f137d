//! Convolutions side by side, channels-last, for groups of few channels: depthwise ones above all.
//!
//! ```text
//! out[p, o] = activation(bias[o] + sum over taps t inside of the image, and channels c of o's group, of weights[t, c, o] image[pixel(p, t), c])
//! ```
//! As products of matrices, one for each group, such convolutions would fill a small part of a vector. Here output channels are the vector's lanes,
//! those of several groups side by side: see [`lanes`] for how a lane finds its inputs, and [`line`] for the walk over pixels. A chain goes over
//! (tap, channel) in ascending order, beginning with the bias.

mod lanes;
mod line;

use millstream_simd::{Level, dispatch};
use millstream_tensor::tile::{MAX_TILES, Tiles};

use crate::error::{GemmError, agree, require, span};
use crate::{Activation, Window};
use lanes::{Blocks, Broadcast, Own, Permuted, Quads, Spread};
use line::Line;

/// Multiply-adds that a grain aims at.
const GRAIN_WORK: usize = 1 << 17;

/// Groups side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDims {
    /// How many.
    pub groups: usize,
    /// Input channels of each.
    pub channels: usize,
    /// Output channels of each.
    pub out: usize,
}

impl GroupDims {
    /// One filter for each of `channels`.
    pub fn depthwise(channels: usize) -> Self {
        Self { groups: channels, channels: 1, out: 1 }
    }

    /// Input channels of all groups, and output channels of all groups.
    fn total(&self) -> (usize, usize) {
        (self.groups * self.channels, self.groups * self.out)
    }
}

/// A grouped convolution of known dims, cut into grains of whole lines of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    level: Level,
    batch: usize,
    out: [usize; 2],
    dims: GroupDims,
    blocks: Blocks,
    taps: usize,
    /// Lines of the output that a grain computes.
    lines: usize,
}

impl Grouped {
    /// A convolution whose output is `[batch, out height, out width, groups * out]`, with `taps` pixels in a window; `None` if groups of these dims
    /// fill no vector of this level, or if their product exceeds the address space.
    pub fn new(level: Level, batch: usize, out: [usize; 2], dims: GroupDims, taps: usize) -> Option<Self> {
        let blocks = Blocks::new(level, dims)?;
        dims.groups.checked_mul(dims.channels.max(dims.out))?;
        let line = out[1].saturating_mul(dims.groups * dims.out).saturating_mul(dims.channels).saturating_mul(taps).max(1);
        let most = batch.checked_mul(out[0])?;
        most.checked_mul(out[1])?;
        let lines = (GRAIN_WORK / line).max(most.div_ceil(MAX_TILES)).max(1);
        // Equal grains.
        let lines = most.div_ceil(most.div_ceil(lines).max(1)).max(1);
        Some(Self { level, batch, out, dims, blocks, taps, lines })
    }

    /// True if groups of these dims run well in this way on this level.
    pub fn suits(level: Level, dims: GroupDims) -> bool {
        Blocks::new(level, dims).is_some()
    }

    /// Elements of the weights that [`Grouped::pack`] writes.
    pub fn packed_len(&self) -> Result<usize, GemmError> {
        self.blocks.packed_len(self.dims, self.taps).ok_or(GemmError::Overflow)
    }

    /// Writes weights `[groups * out, channels, taps]` in the form that the kernel reads.
    pub fn pack(&self, weights: &[f32], packed: &mut [f32]) -> Result<(), GemmError> {
        let (_, out) = self.dims.total();
        let each = self.dims.channels.checked_mul(self.taps).ok_or(GemmError::Overflow)?;
        require("weights", out.checked_mul(each).ok_or(GemmError::Overflow)?, weights.len())?;
        require("packed weights", self.packed_len()?, packed.len())?;
        packed.fill(0.0);
        let (channel_stride, tap_stride) = self.blocks.strides(self.dims);
        for o in 0..out {
            let at = self.blocks.place(self.dims, self.taps, o);
            for (i, w) in weights[o * each..][..each].iter().enumerate() {
                packed[at + i / self.taps * channel_stride + i % self.taps * tap_stride] = *w;
            }
        }
        Ok(())
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        if self.out[1] == 0 || self.dims.total().1 == 0 { 0 } else { (self.batch * self.out[0]).div_ceil(self.lines) }
    }

    /// The output cut into this job's grains. Pixel p begins at `p * pixel_stride`.
    pub fn tiles<'c>(&self, out: &'c mut [f32], pixel_stride: usize) -> Result<Tiles<'c, f32>, GemmError> {
        let (pixels, channels) = (self.batch * self.out[0] * self.out[1], self.dims.total().1);
        let (found, needed) = (out.len(), span(pixels, pixel_stride, channels, 1)?);
        let (rows, cols) = ((self.lines * self.out[1]).max(1), channels.max(1));
        Tiles::new(out, pixels, channels, pixel_stride, rows, cols).ok_or(GemmError::Length { what: "output", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread. The weights are [`Grouped::pack`]'s.
    pub fn run_grain(
        &self,
        grain: usize,
        image: &Window<'_>,
        weights: &[f32],
        bias: Option<&[f32]>,
        activation: Activation,
        tiles: &Tiles<'_, f32>,
    ) -> Result<(), GemmError> {
        let (channels, out) = self.dims.total();
        agree("batch", self.batch, image.batch)?;
        agree("output height", self.out[0], image.out[0])?;
        agree("output width", self.out[1], image.out[1])?;
        agree("channels", channels, image.channels)?;
        agree("taps", self.taps, image.kernel[0].checked_mul(image.kernel[1]).ok_or(GemmError::Overflow)?)?;
        image.check(self.batch * self.out[0] * self.out[1], self.taps.checked_mul(channels).ok_or(GemmError::Overflow)?)?;
        require("weights", self.packed_len()?, weights.len())?;
        require("bias", out, bias.map_or(out, <[f32]>::len))?;
        if grain >= self.grains() || tiles.count() != self.grains() {
            return Err(GemmError::Grain(grain));
        }
        let mut tile = tiles.claim(grain).ok_or(GemmError::Grain(grain))?;
        let (first, _) = tile.origin();
        if tile.cols() != out || first % self.out[1] != 0 || tile.rows() % self.out[1] != 0 {
            return Err(GemmError::Grain(grain));
        }
        let line = Line { image, weights, bias, activation, dims: self.dims, blocks: self.blocks };
        let first = first / self.out[1];
        // A function for each: one of them all would be too large for its registers.
        match self.blocks.spread {
            Spread::Own => dispatch!(self.level, s => line.run_all(s, &Own, first, &mut tile)),
            Spread::Quads => dispatch!(self.level, s => line.run_all(s, &Quads, first, &mut tile)),
            Spread::Permuted => {
                let table = self.blocks.table(self.dims);
                dispatch!(self.level, s => line.run_all(s, &Permuted(&table[..self.dims.channels]), first, &mut tile));
            }
            Spread::Broadcast => dispatch!(self.level, s => line.run_all(s, &Broadcast(self.dims.channels), first, &mut tile)),
        }
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
