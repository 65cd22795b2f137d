//! A convolution's weights in the one form that its kernels read.

use alloc::vec::Vec;
use millstream_gemm::{GemmError, PackedB, Rhs};
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
}

/// Packed weights.
#[derive(Debug)]
pub(crate) enum PackedWeights {
    /// For each group a matrix of `[taps, channels]` rows and `out` columns.
    Groups(Vec<PackedB>),
    /// `[taps, channels]`.
    Depthwise(AlignedBytes),
}

impl PackedWeights {
    pub(crate) fn new(level: Level, weights: &[f32], dims: WeightDims) -> Result<PackedWeights, TensorError> {
        if dims.is_depthwise() {
            let mut bytes = AlignedBytes::zeroed(size_of_val(weights))?;
            depthwise(weights, dims, bytemuck::cast_slice_mut(bytes.as_mut()));
            return Ok(PackedWeights::Depthwise(bytes));
        }
        let short = || TensorError::Length { needed: dims.group * dims.group_len(), found: weights.len() };
        let pack = |g| {
            let matrix = dims.matrix(weights, g).ok_or_else(short)?;
            PackedB::new(level, matrix, dims.k(), dims.out).map_err(|e| match e {
                GemmError::OutOfMemory(n) => TensorError::OutOfMemory(n),
                _ => short(),
            })
        };
        Ok(PackedWeights::Groups((0..dims.group).map(pack).collect::<Result<_, _>>()?))
    }
}

impl Packed for PackedWeights {
    fn bytes_len(&self) -> usize {
        match self {
            PackedWeights::Groups(groups) => groups.iter().map(PackedB::bytes).sum(),
            PackedWeights::Depthwise(bytes) => bytes.len(),
        }
    }
}

/// Writes weights `[channels, taps]` as `[taps, channels]`.
pub(crate) fn depthwise(weights: &[f32], dims: WeightDims, packed: &mut [f32]) {
    for (tap, row) in packed.chunks_exact_mut(dims.group.max(1)).enumerate() {
        for (w, filter) in row.iter_mut().zip(weights.chunks_exact(dims.taps.max(1))) {
            *w = filter[tap];
        }
    }
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
