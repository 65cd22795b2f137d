//! The integer product `C[i, j] = sum over k of (A[i, k] - a_zero[i]) (B[k, j] - b_zero[j])`, exact modulo 2³².
//!
//! ```text
//! = sum A B - a_zero[i] sum B[:, j] - b_zero[j] sum A[i, :] + k a_zero[i] b_zero[j]
//! ```
//! Only the first term is a product; the sums are taken while packing. A is made unsigned and B signed by adding or subtracting 128, in which form
//! AVX-512 VNNI multiplies four pairs of bytes for each lane; other levels run the same words through portable code.

#[cfg(target_arch = "x86_64")]
use millstream_simd::{Avx2, Avx512Vnni};
use millstream_simd::{Level, Simd, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require, span};
use crate::quantised_rhs::NR;
use crate::{Lhs, LhsElement, QuantisedRef};

/// Rows of the greatest tile.
const MR: usize = 14;
/// Words (four bytes of k each) that one call of a kernel runs.
const KC: usize = 256;
/// Words from a row of packed A to the next.
const A_STRIDE: usize = KC + 16;
/// Rows of A that are packed at once.
const MC: usize = 8 * MR;
/// Multiplications that a grain aims at.
const GRAIN_WORK: usize = 16 << 20;

/// Sums of a tile.
type Sums = [[i32; NR]; MR];
/// Adds the products of `rows` rows of packed A with a panel of B.
type Kernel = fn(rows: usize, a: &[i32], b: &[i32], sums: &mut Sums);

/// What stands for zero in an operand.
#[derive(Clone, Copy, Debug)]
pub enum ZeroPoint<'a> {
    /// One value.
    All(i32),
    /// One for each row of A or each column of B.
    Each(&'a [i32]),
}

impl ZeroPoint<'_> {
    fn at(self, i: usize) -> i32 {
        match self {
            Self::All(x) => x,
            Self::Each(x) => x[i],
        }
    }

    fn check(self, what: &'static str, n: usize) -> Result<(), GemmError> {
        match self {
            Self::All(_) => Ok(()),
            Self::Each(x) => require(what, n, x.len()),
        }
    }
}

/// The zero points of both operands, in the operands' own terms. Pixels outside of an image are zero points.
#[derive(Clone, Copy, Debug)]
pub struct ZeroPoints<'a> {
    /// Of A: one, or one for each row.
    pub a: ZeroPoint<'a>,
    /// Of B: one, or one for each column.
    pub b: ZeroPoint<'a>,
}

impl Default for ZeroPoints<'_> {
    fn default() -> Self {
        Self { a: ZeroPoint::All(0), b: ZeroPoint::All(0) }
    }
}

/// A byte of A.
pub trait QuantisedElement: LhsElement {
    /// What is added to make it unsigned.
    #[doc(hidden)]
    const SHIFT: i32;
    /// The element of this value, the nearest one if there is none.
    #[doc(hidden)]
    fn from_i32(x: i32) -> Self;
    /// The memory of elements as theirs.
    #[doc(hidden)]
    fn cast(words: &mut [i32]) -> &mut [Self];
}

impl QuantisedElement for u8 {
    const SHIFT: i32 = 0;
    fn from_i32(x: i32) -> Self {
        x.clamp(0, 255) as u8
    }
    fn cast(words: &mut [i32]) -> &mut [Self] {
        bytemuck::cast_slice_mut(words)
    }
}

impl QuantisedElement for i8 {
    const SHIFT: i32 = 128;
    fn from_i32(x: i32) -> Self {
        x.clamp(-128, 127) as i8
    }
    fn cast(words: &mut [i32]) -> &mut [Self] {
        bytemuck::cast_slice_mut(words)
    }
}

/// An integer product of known dims, cut into grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantisedGemm {
    level: Level,
    m: usize,
    k: usize,
    n: usize,
    /// Dims of a grain.
    rows: usize,
    cols: usize,
}

impl QuantisedGemm {
    /// The product of m × k by k × n at `level`.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        let panels = n.div_ceil(NR).max(1);
        let rows = m.div_ceil(m.div_ceil(MC).max(1)).max(1);
        let each = (GRAIN_WORK / rows.saturating_mul(k.max(1)).saturating_mul(NR).max(1)).clamp(4.min(panels), panels);
        let each = panels.div_ceil(panels.div_ceil(each));
        let most_down = (MAX_TILES / panels.div_ceil(each).min(MAX_TILES)).max(1);
        let rows = m.div_ceil(m.div_ceil(rows).clamp(1, most_down)).max(1);
        Self { level, m, k, n, rows, cols: each * NR }
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.cols)
    }

    /// Words of scratch that each running grain needs: packed rows of A, and the sum of each.
    pub fn scratch_len(&self) -> usize {
        self.rows.min(MC) * (A_STRIDE + 1)
    }

    /// The output cut into this job's grains. Row r of C begins at `r * row_stride`.
    pub fn tiles<'c>(&self, c: &'c mut [i32], row_stride: usize) -> Result<Tiles<'c, i32>, GemmError> {
        let (found, needed) = (c.len(), span(self.m, row_stride, self.n, 1)?);
        Tiles::new(c, self.m, self.n, row_stride, self.rows, self.cols).ok_or(GemmError::Length { what: "C", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread.
    pub fn run_grain<T: QuantisedElement>(
        &self,
        grain: usize,
        a: &Lhs<'_, T>,
        b: QuantisedRef<'_>,
        zeros: &ZeroPoints<'_>,
        tiles: &Tiles<'_, i32>,
        scratch: &mut [i32],
    ) -> Result<(), GemmError> {
        a.check(self.m, self.k)?;
        agree("rows of B", self.k, b.k)?;
        agree("columns of B", self.n, b.n)?;
        zeros.a.check("zero points of A", self.m)?;
        zeros.b.check("zero points of B", self.n)?;
        require("scratch", self.scratch_len(), scratch.len())?;
        let (down, across) = (self.m.div_ceil(self.rows), self.n.div_ceil(self.cols));
        if tiles.grid() != (down, across) {
            return Err(GemmError::Grain(grain));
        }
        let index = if down == 0 { grain } else { grain % down * across + grain / down };
        let tile = tiles.claim(index).ok_or(GemmError::Grain(grain))?;
        let (row, col) = tile.origin();
        if row % self.rows != 0 || col % self.cols != 0 || row + tile.rows() > self.m || col + tile.cols() > self.n {
            return Err(GemmError::Grain(grain));
        }
        dispatch!(self.level, s => self.run_tile(s, kernel(self.level), a, b, zeros, tile, scratch));
        Ok(())
    }

    /// Runs all grains on this thread.
    pub fn run<T: QuantisedElement>(
        &self,
        a: &Lhs<'_, T>,
        b: QuantisedRef<'_>,
        zeros: &ZeroPoints<'_>,
        c: &mut [i32],
        row_stride: usize,
        scratch: &mut [i32],
    ) -> Result<(), GemmError> {
        let tiles = self.tiles(c, row_stride)?;
        (0..self.grains()).try_for_each(|grain| self.run_grain(grain, a, b, zeros, &tiles, scratch))
    }

    #[inline(always)]
    fn run_tile<S: Simd, T: QuantisedElement>(
        &self,
        s: S,
        kernel: Kernel,
        a: &Lhs<'_, T>,
        b: QuantisedRef<'_>,
        zeros: &ZeroPoints<'_>,
        mut tile: TileMut<'_, i32>,
        scratch: &mut [i32],
    ) {
        let ((row0, col0), rows, cols) = (tile.origin(), tile.rows(), tile.cols());
        for block in (0..rows).step_by(MC) {
            let block_rows = MC.min(rows - block);
            let (packed, rest) = scratch.split_at_mut(block_rows * A_STRIDE);
            let row_sums = &mut rest[..block_rows];
            row_sums.fill(0);
            let mut k0 = 0;
            loop {
                let kc = (4 * KC).min(self.k - k0);
                let words = kc.div_ceil(4);
                let (first, last) = (k0 == 0, k0 + kc == self.k);
                for (i, row) in packed.chunks_exact_mut(A_STRIDE).enumerate() {
                    let pad = T::from_i32(zeros.a.at(row0 + block + i));
                    a.copy(s, row0 + block + i, k0, kc, T::cast(row), 4 * A_STRIDE, pad);
                    let bytes: &mut [u8] = bytemuck::cast_slice_mut(row);
                    bytes[kc..4 * words].fill(0);
                    for byte in &mut bytes[..kc] {
                        *byte ^= T::SHIFT as u8;
                    }
                    row_sums[i] += bytes[..kc].iter().map(|x| i32::from(*x)).sum::<i32>();
                }
                for (p, j) in (0..cols).step_by(NR).enumerate() {
                    let width = NR.min(cols - j);
                    let b_block = &b.panel(col0 / NR + p)[k0 / 4 * NR..][..words * NR];
                    for i in (0..block_rows).step_by(MR) {
                        let mr = MR.min(block_rows - i);
                        let mut sums = [[0; NR]; MR];
                        if !first {
                            for (r, sums) in sums[..mr].iter_mut().enumerate() {
                                sums[..width].copy_from_slice(&tile.row(block + i + r)[j..j + width]);
                            }
                        }
                        kernel(mr, &packed[i * A_STRIDE..(i + mr) * A_STRIDE], b_block, &mut sums);
                        for (r, sums) in sums[..mr].iter().enumerate() {
                            let c = &mut tile.row(block + i + r)[j..j + width];
                            c.copy_from_slice(&sums[..width]);
                            if last {
                                let a_zero = zeros.a.at(row0 + block + i + r).wrapping_add(T::SHIFT);
                                self.correct(c, col0 + j, a_zero, row_sums[i + r], b, zeros.b);
                            }
                        }
                    }
                }
                k0 += kc;
                if last {
                    break;
                }
            }
        }
    }

    /// Adds the terms that the zero points contribute to a row's elements from column `col` on.
    #[inline(always)]
    fn correct(&self, c: &mut [i32], col: usize, a_zero: i32, row_sum: i32, b: QuantisedRef<'_>, b_zeros: ZeroPoint<'_>) {
        // sum A - k a_zero, the factor of b_zero.
        let factor = row_sum.wrapping_sub((self.k as i32).wrapping_mul(a_zero));
        let sums = &b.sums()[col..][..c.len()];
        match b_zeros {
            ZeroPoint::All(zero) => {
                let term = factor.wrapping_mul(zero.wrapping_sub(b.shift));
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = c.wrapping_sub(a_zero.wrapping_mul(*sum)).wrapping_sub(term);
                }
            }
            ZeroPoint::Each(zeros) => {
                for ((c, sum), zero) in c.iter_mut().zip(sums).zip(&zeros[col..]) {
                    *c = c.wrapping_sub(a_zero.wrapping_mul(*sum)).wrapping_sub(factor.wrapping_mul(zero.wrapping_sub(b.shift)));
                }
            }
        }
    }
}

/// The fastest kernel of this machine that `level` allows.
fn kernel(level: Level) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    match level {
        Level::Avx512(_) if Avx512Vnni::detect().is_some() => return vnni::kernel,
        Level::Avx512(_) | Level::Avx2(_) => {
            return |rows, a, b, sums| {
                if let Some(s) = Avx2::detect() {
                    s.vectorize(
                        #[inline(always)]
                        || portable(rows, a, b, sums),
                    );
                }
            };
        }
        _ => {}
    }
    portable
}

#[inline(always)]
fn portable(rows: usize, a: &[i32], b: &[i32], sums: &mut Sums) {
    for (row, sums) in a.chunks_exact(A_STRIDE).zip(sums).take(rows) {
        for (a, b) in row.iter().zip(b.chunks_exact(NR)) {
            let a = a.to_ne_bytes().map(i32::from);
            for (sum, b) in sums.iter_mut().zip(b) {
                let b = b.to_ne_bytes().map(|x| i32::from(x as i8));
                *sum = sum.wrapping_add(a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]);
            }
        }
    }
}

/// Four products and their sum for each lane and instruction.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use millstream_simd::types::Avx512I32 as I32;
    use millstream_simd::{Avx512, Avx512Vnni, SimdI32};

    use super::{A_STRIDE, MR, NR, Sums, portable};

    const LANES: usize = <I32 as SimdI32<Avx512>>::LANES;
    const NV: usize = NR / LANES;

    pub(super) fn kernel(rows: usize, a: &[i32], b: &[i32], sums: &mut Sums) {
        let Some(s) = Avx512Vnni::detect() else { return portable(rows, a, b, sums) };
        macro_rules! tiles {
            ($($mr:literal)*) => {
                match rows {
                    $($mr => s.vectorize(#[inline(always)] || body::<$mr>(s, a, b, sums)),)*
                    _ => {}
                }
            };
        }
        tiles!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    #[inline(always)]
    fn body<const ROWS: usize>(s: Avx512Vnni, a: &[i32], b: &[i32], sums: &mut Sums) {
        const { assert!(ROWS <= MR) };
        let base = s.base();
        let mut acc = [[I32::splat(base, 0); NV]; ROWS];
        for r in 0..ROWS {
            for v in 0..NV {
                acc[r][v] = I32::load(base, &sums[r][v * LANES..]);
            }
        }
        let rows: [&[i32; A_STRIDE]; ROWS] = core::array::from_fn(|r| a[r * A_STRIDE..][..A_STRIDE].try_into().expect("A_STRIDE words"));
        for (k, b) in b.chunks_exact(NR).take(A_STRIDE).enumerate() {
            let b: [I32; NV] = core::array::from_fn(|v| I32::load(base, &b[v * LANES..]));
            for r in 0..ROWS {
                let a = I32::splat(base, rows[r][k]);
                for v in 0..NV {
                    acc[r][v] = s.dot_u8_i8(acc[r][v], a, b[v]);
                }
            }
        }
        for r in 0..ROWS {
            for v in 0..NV {
                acc[r][v].store(&mut sums[r][v * LANES..]);
            }
        }
    }
}
