//! The integer product `C[i, j] = finish(sum over k of (A[i, k] - a_zero[i]) (B[k, j] - b_zero[j]))`, exact modulo 2³².
//!
//! ```text
//! sum = sum A B - a_zero[i] sum B[:, j] - b_zero[j] sum A[i, :] + k a_zero[i] b_zero[j]
//! ```
//! Only the first term is a product; sums of columns are taken while packing, sums of rows only where B has zero points. A is made unsigned and B
//! signed by adding or subtracting 128. k runs whole in a tile of registers, whose sums a [`Finish`] turns into elements of C.

use core::mem::size_of;

use millstream_simd::{Level, Simd, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require, span};
use crate::quantised_micro::{Call, GROUP, Kernel, MR, Sums};
use crate::quantised_rhs::NR;
use crate::{Lhs, LhsElement, QuantisedRef};

/// Rows of A that a grain has at most.
const GRAIN_ROWS: usize = 112;
/// Bytes of packed A that stay in the second cache beside a panel of B.
const BLOCK: usize = 192 << 10;
/// Multiplications that a grain aims at.
const GRAIN_WORK: usize = 4 << 20;
/// Rows that are a multiple of these bytes apart crowd into one set of the first cache.
const CROWDED: usize = 4096;

/// How exact sums become elements of C.
pub trait Finish: Sync {
    /// An element of C.
    type Output: Copy + Send;

    /// Writes a block of C, whose first element is at `(row, col)`: an element for each sum.
    fn run<S: Simd>(&self, s: S, at: (usize, usize), sums: &[[i32; NR]], out: &mut Block<'_, '_, Self::Output>);
}

/// A block of a tile of C, as wide as a panel of B or narrower.
#[derive(Debug)]
pub struct Block<'b, 't, U> {
    tile: &'b mut TileMut<'t, U>,
    row: usize,
    col: usize,
    cols: usize,
}

impl<U> Block<'_, '_, U> {
    /// How many columns there are.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The elements of a row of the block.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [U] {
        &mut self.tile.row(self.row + i)[self.col..self.col + self.cols]
    }
}

/// C is the sums themselves.
#[derive(Clone, Copy, Debug)]
pub struct Exact;

impl Finish for Exact {
    type Output = i32;

    #[inline(always)]
    fn run<S: Simd>(&self, _: S, _: (usize, usize), sums: &[[i32; NR]], out: &mut Block<'_, '_, i32>) {
        for (i, sums) in sums.iter().enumerate() {
            let row = out.row(i);
            row.copy_from_slice(&sums[..row.len()]);
        }
    }
}

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

    /// True if all are `x`.
    fn is(self, x: i32) -> bool {
        match self {
            Self::All(zero) => zero == x,
            Self::Each(zeros) => zeros.iter().all(|zero| *zero == x),
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
    /// Rows of A that are packed at once.
    block_rows: usize,
}

impl QuantisedGemm {
    /// The product of m × k by k × n at `level`.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        let kernel = Kernel::of(level);
        let panels = n.div_ceil(NR).max(1);
        let rows = m.div_ceil(m.div_ceil(GRAIN_ROWS).max(1)).max(1);
        let each = (GRAIN_WORK / rows.saturating_mul(k.max(1)).saturating_mul(NR).max(1)).clamp(4.min(panels), panels);
        let each = panels.div_ceil(panels.div_ceil(each));
        let most_down = (MAX_TILES / panels.div_ceil(each).min(MAX_TILES)).max(1);
        let rows = m.div_ceil(m.div_ceil(rows).clamp(1, most_down)).max(1).next_multiple_of(kernel.rows);
        let block_rows = (BLOCK / kernel.stride(k)).clamp(kernel.rows, rows.max(kernel.rows));
        Self { level, m, k, n, rows, cols: each * NR, block_rows: block_rows / kernel.rows * kernel.rows }
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.cols)
    }

    /// Words of scratch that each running grain needs: packed rows of A, and the sum of each; what a kernel makes of a panel of B.
    pub fn scratch_len(&self) -> usize {
        let kernel = Kernel::of(self.level);
        self.made_len(kernel) + self.block_rows * (kernel.stride(self.k) / size_of::<i32>() + 1)
    }

    /// What of it the kernel's making takes.
    fn made_len(&self, kernel: Kernel) -> usize {
        kernel.make.filter(|make| self.m >= make.rows).map_or(0, |make| (make.len)(self.k.div_ceil(GROUP)))
    }

    /// The output cut into this job's grains. Row r of C begins at `r * row_stride`.
    pub fn tiles<'c, U>(&self, c: &'c mut [U], row_stride: usize) -> Result<Tiles<'c, U>, GemmError> {
        let (found, needed) = (c.len(), span(self.m, row_stride, self.n, 1)?);
        Tiles::new(c, self.m, self.n, row_stride, self.rows, self.cols).ok_or(GemmError::Length { what: "C", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread.
    pub fn run_grain<T: QuantisedElement, F: Finish>(
        &self,
        grain: usize,
        a: &Lhs<'_, T>,
        b: QuantisedRef<'_>,
        zeros: &ZeroPoints<'_>,
        finish: &F,
        tiles: &Tiles<'_, F::Output>,
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
        dispatch!(self.level, s => self.run_tile(s, a, b, zeros, finish, tile, scratch));
        Ok(())
    }

    /// Runs all grains on this thread.
    pub fn run<T: QuantisedElement, F: Finish>(
        &self,
        a: &Lhs<'_, T>,
        b: QuantisedRef<'_>,
        zeros: &ZeroPoints<'_>,
        finish: &F,
        (c, row_stride): (&mut [F::Output], usize),
        scratch: &mut [i32],
    ) -> Result<(), GemmError> {
        let tiles = self.tiles(c, row_stride)?;
        (0..self.grains()).try_for_each(|grain| self.run_grain(grain, a, b, zeros, finish, &tiles, scratch))
    }

    #[inline(always)]
    fn run_tile<S: Simd, T: QuantisedElement, F: Finish>(
        &self,
        s: S,
        a: &Lhs<'_, T>,
        b: QuantisedRef<'_>,
        zeros: &ZeroPoints<'_>,
        finish: &F,
        mut tile: TileMut<'_, F::Output>,
        scratch: &mut [i32],
    ) {
        let ((row0, col0), rows, cols) = (tile.origin(), tile.rows(), tile.cols());
        let (kernel, words) = (Kernel::of(self.level), self.k.div_ceil(GROUP));
        let b_has_zeros = !zeros.b.is(b.shift);
        let packed_stride = kernel.stride(self.k);
        let _ready = kernel.begin();
        let mut sums = Sums([[0; NR]; MR]);
        let (making, scratch) = scratch.split_at_mut(self.made_len(kernel));
        for block in (0..rows).step_by(self.block_rows) {
            let block_rows = self.block_rows.min(rows - block);
            // A kernel reads whole tiles: the rows past the last are whatever is there.
            let tall_rows = block_rows.next_multiple_of(kernel.height);
            // Rows of unsigned bytes that come in whole steps of k are read where they are.
            let in_place = match *a {
                Lhs::Strided { data, row_stride, col_stride: 1 }
                    if T::SHIFT == 0
                        && self.k > 0
                        && self.k.is_multiple_of(kernel.depth)
                        && row_stride % CROWDED != 0
                        && (row0 + block + tall_rows - 1) * row_stride + self.k <= data.len() =>
                {
                    Some((bytemuck::cast_slice::<T, u8>(data), row_stride))
                }
                _ => None,
            };
            let (packed, rest) = scratch.split_at_mut(tall_rows * packed_stride / size_of::<i32>());
            let row_sums = &mut rest[..block_rows];
            for i in 0..block_rows {
                let row = row0 + block + i;
                let sum = match in_place {
                    Some((data, stride)) if b_has_zeros => sum_of(&data[row * stride..][..self.k]),
                    Some(_) => 0,
                    None => {
                        let words = &mut packed[i * packed_stride / size_of::<i32>()..][..packed_stride / size_of::<i32>()];
                        let bytes = self.pack_row(s, a, row, T::from_i32(zeros.a.at(row)), kernel, words);
                        if b_has_zeros { sum_of(bytes) } else { 0 }
                    }
                };
                row_sums[i] = sum;
            }
            let (a_bytes, stride, first) = match in_place {
                Some((data, stride)) => (data, stride, (row0 + block) * stride),
                None => (bytemuck::cast_slice::<i32, u8>(packed), packed_stride, 0),
            };
            // Heights differ by one step at most.
            let row_tiles = block_rows.div_ceil(kernel.rows);
            let (base, taller) = (tall_rows / kernel.height / row_tiles, tall_rows / kernel.height % row_tiles);
            for (p, j) in (0..cols).step_by(NR).enumerate() {
                let (width, panel) = (NR.min(cols - j), &b.panel(col0 / NR + p)[..kernel.padded(self.k) / GROUP * NR]);
                let made = kernel.make.filter(|make| block_rows >= make.rows).map(|make| (make.run)(panel, words, making));
                // Each tile of rows calls for its share of the next panel; past the last one there is nothing to read, but asking does no harm.
                let later_step = (NR * size_of::<i32>()).div_ceil(row_tiles);
                for t in 0..row_tiles {
                    let (i, tall) = ((t * base + t.min(taller)) * kernel.height, (base + usize::from(t < taller)) * kernel.height);
                    let mr = tall.min(block_rows - i);
                    let a = &a_bytes[first + i * stride..][..(tall - 1) * stride + kernel.padded(self.k)];
                    let later = panel.as_ptr().wrapping_add(words * NR).wrapping_byte_add(t * words * later_step);
                    let call = Call {
                        rows: mr,
                        a: a.as_ptr(),
                        stride,
                        b: panel.as_ptr(),
                        made,
                        words,
                        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
                        column_sums: b.sums()[col0 + j..][..NR].as_ptr(),
                        later,
                        later_step,
                    };
                    // SAFETY: A has `tall` <= kernel.rows rows, and B groups of NR words, up to the end of the kernel's last step of k; A is zero
                    // past k where it is packed, and ends there with a step where it is read in place; `_ready` lives; there are NR sums.
                    unsafe { (kernel.run)(&call, &mut sums) };
                    let sums = &mut sums.0[..mr];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let a_zero = zeros.a.at(row0 + block + i + r).wrapping_add(T::SHIFT);
                        if a_zero != 0 {
                            let columns = &b.sums()[col0 + j..][..NR];
                            sums.iter_mut().zip(columns).for_each(|(c, sum)| *c = c.wrapping_sub(a_zero.wrapping_mul(*sum)));
                        }
                        if b_has_zeros {
                            let factor = row_sums[i + r].wrapping_sub((self.k as i32).wrapping_mul(a_zero));
                            subtract(&mut sums[..width], factor, zeros.b, col0 + j, b.shift);
                        }
                    }
                    let mut out = Block { tile: &mut tile, row: block + i, col: j, cols: width };
                    finish.run(s, (row0 + block + i, col0 + j), sums, &mut out);
                }
            }
        }
    }

    /// Packs a row of A as unsigned bytes, zero to the end of the kernel's last step.
    #[inline(always)]
    fn pack_row<'w, S: Simd, T: QuantisedElement>(&self, s: S, a: &Lhs<'_, T>, row: usize, pad: T, kernel: Kernel, words: &'w mut [i32]) -> &'w [u8] {
        let padded = kernel.padded(self.k);
        a.copy(s, row, 0, self.k, &mut T::cast(words)[..self.k], self.k.max(1), pad);
        let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(words)[..padded];
        bytes[self.k..].fill(0);
        if T::SHIFT != 0 {
            bytes[..self.k].iter_mut().for_each(|byte| *byte ^= T::SHIFT as u8);
        }
        &bytes[..self.k]
    }
}

#[inline(always)]
fn sum_of(bytes: &[u8]) -> i32 {
    bytes.iter().map(|x| i32::from(*x)).sum()
}

/// Subtracts `factor` times the zero point of each column from `col` on.
#[inline(always)]
fn subtract(sums: &mut [i32], factor: i32, zeros: ZeroPoint<'_>, col: usize, shift: i32) {
    match zeros {
        ZeroPoint::All(zero) => {
            let term = factor.wrapping_mul(zero.wrapping_sub(shift));
            sums.iter_mut().for_each(|c| *c = c.wrapping_sub(term));
        }
        ZeroPoint::Each(zeros) => {
            for (c, zero) in sums.iter_mut().zip(&zeros[col..]) {
                *c = c.wrapping_sub(factor.wrapping_mul(zero.wrapping_sub(shift)));
            }
        }
    }
}
