//! The right operand and its packed form.
//!
//! ```text
//! panel p = columns p NR .. (p + 1) NR      NR: the level's tile width
//! packed[(p k + i) NR + j] = B[i, p NR + j] (zero past column n)
//! ```
//! One form serves every tile of a level, the narrow and the low ones included.

use millstream_simd::{Level, SimdF32, dispatch, slice};
use millstream_tensor::AlignedBytes;

use crate::error::{GemmError, agree, require, span};
use crate::micro::Tile;

/// The right operand of a product, k × n, before packing: element (i, j) at `i / c * tap_stride + i % c * row_stride + j * col_stride` with
/// `c = k / taps`.
///
/// With one tap that is any strided matrix. The taps let a convolution's weights `[out, in, height, width]` be packed as they are.
#[derive(Clone, Copy, Debug)]
pub struct Rhs<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Groups of rows.
    pub taps: usize,
    /// From one group to the next.
    pub tap_stride: usize,
    /// From one row of a group to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub col_stride: usize,
}

impl<'a> Rhs<'a> {
    /// A k × n matrix whose rows are contiguous and `row_stride` apart.
    pub fn row_major(data: &'a [f32], row_stride: usize) -> Self {
        Self::strided(data, row_stride, 1)
    }

    /// The transpose of an n × k matrix whose rows are contiguous and `row_stride` apart.
    pub fn transposed(data: &'a [f32], row_stride: usize) -> Self {
        Self::strided(data, 1, row_stride)
    }

    /// Any strided matrix.
    pub fn strided(data: &'a [f32], row_stride: usize, col_stride: usize) -> Self {
        Self { data, taps: 1, tap_stride: 0, row_stride, col_stride }
    }

    /// The weights `[out, channels, taps]` of a convolution (of one group), for windows whose columns are `[taps, channels]`.
    pub fn convolution(data: &'a [f32], channels: usize, taps: usize) -> Self {
        Self { data, taps, tap_stride: 1, row_stride: taps, col_stride: channels * taps }
    }

    fn check(&self, k: usize, n: usize) -> Result<(), GemmError> {
        let rows = k.checked_div(self.taps).unwrap_or(0);
        agree("rows of B", k, rows * self.taps)?;
        if k == 0 || n == 0 {
            return Ok(());
        }
        let group = span(rows, self.row_stride, n, self.col_stride)?;
        let far = (self.taps - 1).checked_mul(self.tap_stride).ok_or(GemmError::Overflow)?;
        require("B", group.checked_add(far).ok_or(GemmError::Overflow)?, self.data.len())
    }
}

/// Columns of a panel of `level`.
pub(crate) fn panel_width(level: Level) -> usize {
    #[inline(always)]
    fn width<S: Tile>(_: S) -> usize {
        S::NR
    }
    dispatch!(level, s => width(s))
}

/// How many panels `n` columns make, the unit in which packing can be divided among workers.
pub fn panels(level: Level, n: usize) -> usize {
    n.div_ceil(panel_width(level))
}

/// Elements of a packed k × n matrix.
pub fn packed_len(level: Level, k: usize, n: usize) -> usize {
    panels(level, n).saturating_mul(panel_width(level)).saturating_mul(k)
}

/// Packs a k × n matrix into the caller's memory, of which the first [`packed_len`] elements are written.
pub fn pack_into<'d>(level: Level, b: Rhs<'_>, k: usize, n: usize, dst: &'d mut [f32]) -> Result<PackedRef<'d>, GemmError> {
    let len = packed_len(level, k, n);
    require("packed B", len, dst.len())?;
    pack_panels(level, b, k, n, 0, &mut dst[..len])?;
    PackedRef::new(level, k, n, dst)
}

/// Packs the panels from `first` on that `dst` has room for: one worker's share.
pub fn pack_panels(level: Level, b: Rhs<'_>, k: usize, n: usize, first: usize, dst: &mut [f32]) -> Result<(), GemmError> {
    b.check(k, n)?;
    dispatch!(level, s => pack(s, &b, k, n, first, dst));
    Ok(())
}

#[inline(always)]
fn pack<S: Tile>(s: S, b: &Rhs<'_>, k: usize, n: usize, first: usize, dst: &mut [f32]) {
    if k == 0 {
        return;
    }
    let group = k / b.taps;
    for (p, panel) in dst.chunks_exact_mut(k * S::NR).enumerate() {
        let j0 = (first + p) * S::NR;
        let cols = n.saturating_sub(j0).min(S::NR);
        for (tap, panel) in panel.chunks_exact_mut(group * S::NR).enumerate() {
            if cols == 0 {
                panel.fill(0.0);
                continue;
            }
            let src = &b.data[tap * b.tap_stride + j0 * b.col_stride..];
            if b.col_stride == 1 {
                for (i, row) in panel.chunks_exact_mut(S::NR).enumerate() {
                    let from = &src[i * b.row_stride..][..cols];
                    let vectors = row.chunks_exact_mut(S::F32::LANES);
                    if cols == S::NR {
                        from.chunks_exact(S::F32::LANES).zip(vectors).for_each(|(from, to)| S::F32::load(s, from).store(to));
                        continue;
                    }
                    for (v, to) in vectors.enumerate() {
                        S::F32::load_partial(s, from.get(v * S::F32::LANES..).unwrap_or_default()).store(to);
                    }
                }
                continue;
            }
            if b.row_stride == 1 && cols == S::NR {
                slice::transpose(s, src, b.col_stride, panel, S::NR, group, S::NR);
                continue;
            }
            // Blocks of rows, so that the lines that a column's elements go to stay in the cache.
            for (block, rows) in panel.chunks_mut(16 * S::NR).enumerate() {
                if cols < S::NR {
                    rows.fill(0.0);
                }
                let src = &src[block * 16 * b.row_stride..];
                for j in 0..cols {
                    let column = &src[j * b.col_stride..];
                    for (i, row) in rows.chunks_exact_mut(S::NR).enumerate() {
                        row[j] = column[i * b.row_stride];
                    }
                }
            }
        }
    }
}

/// A packed matrix in somebody's memory.
#[derive(Clone, Copy, Debug)]
pub struct PackedRef<'a> {
    data: &'a [f32],
    k: usize,
    n: usize,
    width: usize,
}

impl<'a> PackedRef<'a> {
    /// What [`pack_into`] wrote to the start of `data`.
    pub fn new(level: Level, k: usize, n: usize, data: &'a [f32]) -> Result<Self, GemmError> {
        let len = packed_len(level, k, n);
        require("packed B", len, data.len())?;
        Ok(Self { data: &data[..len], k, n, width: panel_width(level) })
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    pub(crate) fn check(&self, k: usize, n: usize, width: usize) -> Result<(), GemmError> {
        agree("rows of B", k, self.k)?;
        agree("columns of B", n, self.n)?;
        agree("panel width of B", width, self.width)
    }

    /// The elements of panel `p`, k groups of NR.
    #[inline(always)]
    pub(crate) fn panel(&self, p: usize) -> &'a [f32] {
        &self.data[p * self.k * self.width..][..self.k * self.width]
    }
}

/// A packed matrix that owns its memory: a weight.
#[derive(Debug)]
pub struct PackedB {
    bytes: AlignedBytes,
    k: usize,
    n: usize,
    width: usize,
}

impl PackedB {
    /// Packs a k × n matrix.
    pub fn new(level: Level, b: Rhs<'_>, k: usize, n: usize) -> Result<Self, GemmError> {
        let len = packed_len(level, k, n).checked_mul(size_of::<f32>()).ok_or(GemmError::Overflow)?;
        let mut bytes = AlignedBytes::zeroed(len).map_err(|_| GemmError::OutOfMemory(len))?;
        pack_into(level, b, k, n, bytemuck::cast_slice_mut(bytes.as_mut()))?;
        Ok(Self { bytes, k, n, width: panel_width(level) })
    }

    /// The packed matrix.
    pub fn view(&self) -> PackedRef<'_> {
        PackedRef { data: bytemuck::cast_slice(self.bytes.as_ref()), k: self.k, n: self.n, width: self.width }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}
