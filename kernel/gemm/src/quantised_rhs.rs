//! The packed right operand of integer products.
//!
//! ```text
//! word[(p * ceil(k / 4) + i) * 32 + j] = the bytes B[4 i .. 4 i + 4, 32 p + j], zero past k and n
//! after the panels: what a kernel may read past the last of them; at the end: sum over i of B[i, j] for each column
//! ```
//! Bytes are signed: an unsigned B is stored less 128, which its zero point makes up for. One form for all levels.

use millstream_tensor::AlignedBytes;

use crate::error::{GemmError, require, span};

/// Columns of a panel of the right operand.
pub const NR: usize = 32;

/// i32 words that a packed k × n matrix takes.
pub fn quantised_packed_len(k: usize, n: usize) -> usize {
    let columns = n.div_ceil(NR).saturating_mul(NR);
    let groups = k.div_ceil(4);
    columns.saturating_mul(groups).saturating_add(slack(groups)).saturating_add(columns)
}

/// Groups that a kernel reads at a time, at most.
const GROUPS: usize = 16;

/// Words from the end of `groups` groups to the next multiple of [`GROUPS`].
fn slack(groups: usize) -> usize {
    (groups.div_ceil(GROUPS) * GROUPS - groups) * NR
}

/// A packed matrix in somebody's memory.
#[derive(Clone, Copy, Debug)]
pub struct QuantisedRef<'a> {
    words: &'a [i32],
    pub(crate) k: usize,
    pub(crate) n: usize,
    /// What was subtracted from the elements when they were stored.
    pub(crate) shift: i32,
}

impl<'a> QuantisedRef<'a> {
    /// Packs a k × n matrix of u8 with element (i, j) at `i * row_stride + j * col_stride`.
    pub fn pack_u8(data: &[u8], row_stride: usize, col_stride: usize, k: usize, n: usize, dst: &'a mut [i32]) -> Result<Self, GemmError> {
        require("B", span(k, row_stride, n, col_stride)?, data.len())?;
        Self::pack(k, n, 128, dst, |i, j| (data[i * row_stride + j * col_stride] ^ 0x80) as i8)
    }

    /// Packs a k × n matrix of i8 with element (i, j) at `i * row_stride + j * col_stride`.
    pub fn pack_i8(data: &[i8], row_stride: usize, col_stride: usize, k: usize, n: usize, dst: &'a mut [i32]) -> Result<Self, GemmError> {
        require("B", span(k, row_stride, n, col_stride)?, data.len())?;
        Self::pack(k, n, 0, dst, |i, j| data[i * row_stride + j * col_stride])
    }

    fn pack(k: usize, n: usize, shift: i32, dst: &'a mut [i32], at: impl Fn(usize, usize) -> i8) -> Result<Self, GemmError> {
        let len = quantised_packed_len(k, n);
        require("packed B", len, dst.len())?;
        let words = &mut dst[..len];
        let columns = n.div_ceil(NR) * NR;
        let (panels, sums) = words.split_at_mut(len - columns);
        sums.fill(0);
        panels.fill(0);
        let depth = k.div_ceil(4);
        let panels = &mut panels[..columns * depth];
        for (p, (panel, sums)) in panels.chunks_exact_mut((depth * NR).max(1)).zip(sums.chunks_exact_mut(NR)).enumerate() {
            for j in 0..NR.min(n - p * NR) {
                let mut sum = 0;
                for (i, group) in panel.chunks_exact_mut(NR).enumerate() {
                    let bytes: [u8; 4] = core::array::from_fn(|q| if 4 * i + q < k { at(4 * i + q, p * NR + j) as u8 } else { 0 });
                    sum += bytes.iter().map(|&x| i32::from(x as i8)).sum::<i32>();
                    group[j] = i32::from_ne_bytes(bytes);
                }
                sums[j] = sum;
            }
        }
        Ok(Self { words, k, n, shift })
    }

    /// The words of panel `p`, `ceil(k / 4)` groups of [`NR`], and others up to the next multiple of [`GROUPS`] groups.
    pub(crate) fn panel(&self, p: usize) -> &'a [i32] {
        let groups = self.k.div_ceil(4);
        &self.words[p * groups * NR..][..groups * NR + slack(groups)]
    }

    /// The sum of each column, padded to whole panels.
    #[inline]
    pub(crate) fn sums(&self) -> &'a [i32] {
        &self.words[self.words.len() - self.n.div_ceil(NR) * NR..]
    }
}

/// A packed matrix that owns its memory: a weight.
#[derive(Debug)]
pub struct PackedQuantised {
    bytes: AlignedBytes,
    k: usize,
    n: usize,
    shift: i32,
}

impl PackedQuantised {
    /// Packs a k × n matrix of u8 with element (i, j) at `i * row_stride + j * col_stride`.
    pub fn from_u8(data: &[u8], row_stride: usize, col_stride: usize, k: usize, n: usize) -> Result<Self, GemmError> {
        let mut bytes = Self::memory(k, n)?;
        let shift = QuantisedRef::pack_u8(data, row_stride, col_stride, k, n, bytemuck::cast_slice_mut(bytes.as_mut()))?.shift;
        Ok(Self { bytes, k, n, shift })
    }

    /// Packs a k × n matrix of i8 with element (i, j) at `i * row_stride + j * col_stride`.
    pub fn from_i8(data: &[i8], row_stride: usize, col_stride: usize, k: usize, n: usize) -> Result<Self, GemmError> {
        let mut bytes = Self::memory(k, n)?;
        let shift = QuantisedRef::pack_i8(data, row_stride, col_stride, k, n, bytemuck::cast_slice_mut(bytes.as_mut()))?.shift;
        Ok(Self { bytes, k, n, shift })
    }

    fn memory(k: usize, n: usize) -> Result<AlignedBytes, GemmError> {
        let len = quantised_packed_len(k, n).checked_mul(size_of::<i32>()).ok_or(GemmError::Overflow)?;
        AlignedBytes::zeroed(len).map_err(|_| GemmError::OutOfMemory(len))
    }

    /// The packed matrix.
    pub fn view(&self) -> QuantisedRef<'_> {
        QuantisedRef { words: bytemuck::cast_slice(self.bytes.as_ref()), k: self.k, n: self.n, shift: self.shift }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}
