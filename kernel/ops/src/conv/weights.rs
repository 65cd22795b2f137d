//! A convolution's weights in the one form that its kernels read.

use super::planar;
use alloc::vec::Vec;
use millstream_gemm::{GemmError, GroupDims, Grouped, PackedB, PackedWinograd, Rhs};
use millstream_graph::Packed;
use millstream_simd::Level;
use millstream_tensor::{AlignedBytes, TensorError};

/// The dims of weights `[out, channels, taps]` that stand for `group` convolutions side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightDims {
    pub(crate) group: usize,
    /// Output channels of a group.
    pub(crate) out: usize,
    /// Input channels of a group.
    pub(crate) channels: usize,
    pub(crate) taps: usize,
}

impl WeightDims {
    /// The dims of weights of shape `[out, channels, ..kernel]`; `None` if they do not divide into groups.
    pub(crate) fn new(shape: &[usize], group: usize) -> Option<WeightDims> {
        let (&[out, channels], kernel) = shape.split_first_chunk()?;
        (group > 0 && out % group == 0).then(|| WeightDims { group, out: out / group, channels, taps: kernel.iter().product() })
    }

    /// One filter for each channel.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.group > 1 && self.out == 1 && self.channels == 1
    }

    /// The dims without the taps.
    pub(crate) fn dims(&self) -> GroupDims {
        GroupDims { groups: self.group, channels: self.channels, out: self.out }
    }

    /// Rows of a group's matrix.
    pub(crate) fn k(&self) -> usize {
        self.taps * self.channels
    }

    /// Elements of a group's weights.
    pub(crate) fn group_len(&self) -> usize {
        self.k() * self.out
    }

    /// A group's weights as the right operand of a product.
    pub(crate) fn matrix<'w>(&self, weights: &'w [f32], group: usize) -> Option<Rhs<'w>> {
        let start = group * self.group_len();
        Some(Rhs::convolution(weights.get(start..start + self.group_len())?, self.channels, self.taps))
    }

    /// Why packing failed: no memory, or weights that are too short.
    fn refused(&self, weights: &[f32], error: &GemmError) -> TensorError {
        match error {
            GemmError::OutOfMemory(n) => TensorError::OutOfMemory(*n),
            _ => TensorError::Length { needed: self.group * self.group_len(), found: weights.len() },
        }
    }
}

/// Packed weights.
#[derive(Debug)]
pub(crate) enum PackedWeights {
    /// For each group a matrix of `[taps, channels]` rows and `out` columns.
    Groups(Vec<PackedB>),
    /// The weights of all groups, by [`Grouped::pack`]; depthwise ones are `[taps, channels]`.
    Grouped(AlignedBytes),
    /// 3 × 3 filters, transformed.
    Winograd(PackedWinograd),
    /// A matrix of `[ky, channels, kx]` rows and `out` columns.
    Planar(PackedB),
}

impl PackedWeights {
    pub(crate) fn new(level: Level, weights: &[f32], dims: WeightDims) -> Result<PackedWeights, TensorError> {
        let pack = |g| {
            let matrix = dims.matrix(weights, g).ok_or(GemmError::Overflow).map_err(|e| dims.refused(weights, &e))?;
            PackedB::new(level, matrix, dims.k(), dims.out).map_err(|e| dims.refused(weights, &e))
        };
        Ok(PackedWeights::Groups((0..dims.group).map(pack).collect::<Result<_, _>>()?))
    }

    /// The form for groups of few channels.
    pub(crate) fn grouped(level: Level, weights: &[f32], dims: WeightDims) -> Result<PackedWeights, TensorError> {
        let refused = |e| dims.refused(weights, &e);
        let len = job(level, dims).and_then(|job| job.packed_len()).map_err(refused)?;
        let mut bytes = AlignedBytes::zeroed(len.saturating_mul(size_of::<f32>()))?;
        grouped(level, weights, dims, bytemuck::cast_slice_mut(bytes.as_mut())).map_err(refused)?;
        Ok(PackedWeights::Grouped(bytes))
    }

    /// The form for Winograd's algorithm, of one group's 3 × 3 filters.
    pub(crate) fn winograd(level: Level, weights: &[f32], dims: WeightDims) -> Result<PackedWeights, TensorError> {
        Ok(PackedWeights::Winograd(PackedWinograd::new(level, weights, dims.channels, dims.out).map_err(|e| dims.refused(weights, &e))?))
    }

    /// The form for images of few planes, of one group's filters of lines of `width` taps.
    pub(crate) fn planar(level: Level, weights: &[f32], dims: WeightDims, width: usize) -> Result<PackedWeights, TensorError> {
        let mut ordered = AlignedBytes::zeroed(size_of_val(weights))?;
        let ordered: &mut [f32] = bytemuck::cast_slice_mut(ordered.as_mut());
        planar::by_line(weights, dims, width, ordered);
        let packed = PackedB::new(level, Rhs::transposed(ordered, dims.k()), dims.k(), dims.out);
        Ok(PackedWeights::Planar(packed.map_err(|e| dims.refused(weights, &e))?))
    }
}

impl Packed for PackedWeights {
    fn bytes_len(&self) -> usize {
        match self {
            PackedWeights::Groups(groups) => groups.iter().map(PackedB::bytes).sum(),
            PackedWeights::Grouped(bytes) => bytes.len(),
            PackedWeights::Winograd(packed) => packed.bytes(),
            PackedWeights::Planar(packed) => packed.bytes(),
        }
    }
}

/// The job for an image of one pixel, whose weights are those for any image.
fn job(level: Level, dims: WeightDims) -> Result<Grouped, GemmError> {
    Grouped::new(level, 1, [1, 1], dims.dims(), dims.taps).ok_or(GemmError::Overflow)
}

/// Writes weights `[group * out, channels, taps]` in the form of groups of few channels.
pub(crate) fn grouped(level: Level, weights: &[f32], dims: WeightDims, packed: &mut [f32]) -> Result<(), GemmError> {
    job(level, dims)?.pack(weights, packed)
}

/// The weights of a transposed convolution: for each group a matrix of `channels` rows and `[taps, out]` columns.
#[derive(Debug)]
pub(crate) struct PackedTransposed(pub(crate) Vec<PackedB>);

impl PackedTransposed {
    /// Packs weights of shape `[channels of all groups, out, ..kernel]`.
    pub(crate) fn new(level: Level, weights: &[f32], shape: &[usize], group: usize) -> Result<PackedTransposed, TensorError> {
        let (channels, out, taps) = (shape[0] / group, shape[1], shape[2..].iter().product::<usize>());
        let len = channels * out * taps;
        let mut ordered = AlignedBytes::zeroed(len * size_of::<f32>())?;
        let pack = |g: usize| {
            let ordered: &mut [f32] = bytemuck::cast_slice_mut(ordered.as_mut());
            by_tap(weights.get(g * len..).unwrap_or_default(), taps, out, ordered);
            PackedB::new(level, Rhs::row_major(ordered, out * taps), channels, out * taps).map_err(|e| match e {
                GemmError::OutOfMemory(n) => TensorError::OutOfMemory(n),
                _ => TensorError::Length { needed: group * len, found: weights.len() },
            })
        };
        Ok(PackedTransposed((0..group).map(pack).collect::<Result<_, _>>()?))
    }
}

impl Packed for PackedTransposed {
    fn bytes_len(&self) -> usize {
        self.0.iter().map(PackedB::bytes).sum()
    }
}

/// Writes weights `[channels, out, taps]` as `[channels, taps, out]`, as many as `ordered` holds.
pub(crate) fn by_tap(weights: &[f32], taps: usize, out: usize, ordered: &mut [f32]) {
    let each = (taps * out).max(1);
    for (from, to) in weights.chunks_exact(each).zip(ordered.chunks_exact_mut(each)) {
        for (tap, row) in to.chunks_exact_mut(out.max(1)).enumerate() {
            for (o, to) in row.iter_mut().enumerate() {
                *to = from[o * taps + tap];
            }
        }
    }
}
