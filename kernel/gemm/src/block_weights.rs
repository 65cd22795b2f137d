//! Weights of 8 or 4 bits with scales, and zero points where there are any, each packed on its own: `B[i, j] = (q[i, j] - zero[i / g, j])
//! · scale[i / g, j]`, where `g`, the rows that share a scale, is 16 or a multiple of 32.
//!
//! ```text
//! panel p = columns p NR .. (p + 1) NR, block b = rows 32 b .. 32 (b + 1), each behind the last; zero past row k and column n
//!   8 bits: q[i][j] as a signed byte, rows below each other
//!   4 bits: byte [i][j] holds q[i][j] in its low half and q[i + 16][j] in its high one, both from 0 to 15
//! scales and zero points: [(p groups + i / g) NR + j]
//! ```

use crate::error::{GemmError, agree, require};
use crate::rhs::panel_width;
use millstream_simd::Level;
use millstream_tensor::AlignedBytes;

/// Rows of a block, which is what kernels widen at once.
pub const BLOCK: usize = 32;
/// What is subtracted from 4 bits without a zero point.
pub(crate) const MIDDLE: i8 = 8;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockBits {
    /// From -128 to 127, around 0 without a zero point.
    Eight,
    /// From 0 to 15, around 8 without a zero point.
    Four,
}

impl BlockBits {
    /// Bytes of a block of one column.
    pub fn bytes_of_block(self) -> usize {
        match self {
            BlockBits::Eight => BLOCK,
            BlockBits::Four => BLOCK / 2,
        }
    }

    /// The zero point where none is given.
    pub(crate) fn middle(self) -> i8 {
        match self {
            BlockBits::Eight => 0,
            BlockBits::Four => MIDDLE,
        }
    }

    /// The scale of a block, and what quantises an element of it.
    fn scale(self, block: impl Iterator<Item = f32>) -> f32 {
        let greatest = block.fold(0.0f32, |m, x| if x.abs() > m.abs() { x } else { m });
        match self {
            BlockBits::Eight => greatest.abs() / 127.0,
            BlockBits::Four => greatest / -8.0,
        }
    }

    fn quantise(self, x: f32, scale: f32) -> i8 {
        // To nearest, ties to even: the sum has no bits for a fraction, and the quotient is at most 128.
        const HALVES: f32 = 12_582_912.0;
        let q = if scale == 0.0 { 0.0 } else { (x / scale + HALVES) - HALVES };
        match self {
            BlockBits::Eight => q.clamp(-127.0, 127.0) as i8,
            BlockBits::Four => q.clamp(-8.0, 7.0) as i8 + MIDDLE,
        }
    }
}

/// The integers of a k × n matrix, packed.
#[derive(Debug)]
pub struct BlockCodes {
    pub(crate) bits: BlockBits,
    pub(crate) bytes: AlignedBytes,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) width: usize,
}

impl BlockCodes {
    /// Packs what `code` gives for a row and a column.
    pub fn new(level: Level, bits: BlockBits, k: usize, n: usize, code: impl Fn(usize, usize) -> i8) -> Result<Self, GemmError> {
        let mut packed = Self::zeroed(level, bits, k, n)?;
        for j in 0..n {
            (0..k).for_each(|i| packed.set(i, j, code(i, j)));
        }
        Ok(packed)
    }

    fn zeroed(level: Level, bits: BlockBits, k: usize, n: usize) -> Result<Self, GemmError> {
        let width = panel_width(level);
        let bytes = zeroed(k.div_ceil(BLOCK), n, width, bits.bytes_of_block())?;
        Ok(Self { bits, bytes, k, n, width })
    }

    pub(crate) fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// Where the block of row `i` and column `j` begins in bytes, and the column in its panel.
    fn place(&self, i: usize, j: usize) -> (usize, usize) {
        ((j / self.width * self.blocks() + i / BLOCK) * self.width * self.bits.bytes_of_block(), j % self.width)
    }

    fn set(&mut self, i: usize, j: usize, q: i8) {
        let ((at, lane), width, bits) = (self.place(i, j), self.width, self.bits);
        let (i, block) = (i % BLOCK, &mut self.bytes.as_mut()[at..]);
        match bits {
            BlockBits::Eight => block[i * width + lane] = q as u8,
            BlockBits::Four => {
                let (byte, shift) = (&mut block[i % 16 * width + lane], i / 16 * 4);
                *byte = *byte & !(15 << shift) | (q as u8 & 15) << shift;
            }
        }
    }

    /// The integer of a row and a column.
    pub fn code(&self, i: usize, j: usize) -> i8 {
        let (at, lane) = self.place(i, j);
        let (i, block) = (i % BLOCK, &self.bytes.as_ref()[at..]);
        match self.bits {
            BlockBits::Eight => block[i * self.width + lane] as i8,
            BlockBits::Four => (block[i % 16 * self.width + lane] >> (i / 16 * 4) & 15) as i8,
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// One number for each group of rows of each column, packed: `T` is f32 for scales, i8 for zero points.
#[derive(Debug)]
pub struct BlockGroups<T> {
    bytes: AlignedBytes,
    /// Rows that share a number.
    group: usize,
    groups: usize,
    k: usize,
    n: usize,
    width: usize,
    kind: core::marker::PhantomData<T>,
}

/// Scales.
pub type BlockScales = BlockGroups<f32>;
/// Zero points.
pub type BlockZeros = BlockGroups<i8>;

impl<T: bytemuck::Pod> BlockGroups<T> {
    /// Packs what `number` gives for a group and a column. `group` is 16, a multiple of 32, or no less than k.
    pub fn new(level: Level, group: usize, k: usize, n: usize, number: impl Fn(usize, usize) -> T) -> Result<Self, GemmError> {
        if group != BLOCK / 2 && group < k && !group.is_multiple_of(BLOCK) || group == 0 {
            return Err(GemmError::Group(group));
        }
        // A group that is cut off by k is one for all rows.
        let group = if group >= k { k.next_multiple_of(BLOCK).max(BLOCK) } else { group };
        let (width, groups) = (panel_width(level), k.div_ceil(group));
        let mut packed = Self { bytes: zeroed(groups, n, width, size_of::<T>())?, group, groups, k, n, width, kind: core::marker::PhantomData };
        for j in 0..n {
            for g in 0..groups {
                packed.set(g, j, number(g, j));
            }
        }
        Ok(packed)
    }

    fn set(&mut self, g: usize, j: usize, number: T) {
        let at = (j / self.width * self.groups + g) * self.width + j % self.width;
        bytemuck::cast_slice_mut::<u8, T>(self.bytes.as_mut())[at] = number;
    }

    /// The number of row `i` and column `j`.
    pub fn at(&self, i: usize, j: usize) -> T {
        self.numbers()[(j / self.width * self.groups + i / self.group) * self.width + j % self.width]
    }

    /// All numbers, panel by panel, group by group.
    pub(crate) fn numbers(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes.as_ref())
    }

    /// How many groups a panel has.
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// The group of row `i`.
    pub(crate) fn group_of(&self, i: usize) -> usize {
        i / self.group
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn check(&self, what: &'static str, codes: &BlockCodes) -> Result<(), GemmError> {
        agree(what, codes.k, self.k)?;
        agree(what, codes.n, self.n)?;
        agree(what, codes.width, self.width)
    }
}

fn zeroed(rows: usize, n: usize, width: usize, each: usize) -> Result<AlignedBytes, GemmError> {
    let len = rows.checked_mul(n.div_ceil(width)).and_then(|b| b.checked_mul(width)).and_then(|b| b.checked_mul(each)).ok_or(GemmError::Overflow)?;
    AlignedBytes::zeroed(len).map_err(|_| GemmError::OutOfMemory(len))
}

/// A matrix of few bits: its parts, which were packed for the same dims and level.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// The integers.
    pub codes: &'a BlockCodes,
    /// Their scales.
    pub scales: &'a BlockScales,
    /// Their zero points; 0 for 8 bits and 8 for 4 bits if there are none.
    pub zeros: Option<&'a BlockZeros>,
}

impl Blocks<'_> {
    /// An error unless the parts belong together.
    pub(crate) fn check(&self) -> Result<(), GemmError> {
        self.scales.check("scales", self.codes)?;
        self.zeros.map_or(Ok(()), |zeros| zeros.check("zero points", self.codes))
    }

    /// The element of row `i` and column `j`, as it is multiplied.
    pub fn widened(&self, i: usize, j: usize) -> f32 {
        let zero = self.zeros.map_or(self.codes.bits.middle(), |zeros| zeros.at(i, j));
        f32::from(i16::from(self.codes.code(i, j)) - i16::from(zero)) * self.scales.at(i, j)
    }
}

/// A k × n matrix of few bits, quantised and packed: a weight.
#[derive(Debug)]
pub struct PackedBlocks {
    codes: BlockCodes,
    scales: BlockScales,
}

impl PackedBlocks {
    /// Quantises and packs the transpose of an n × k matrix of dense rows (a linear layer's weight), with a scale for 32 rows.
    pub fn quantised(level: Level, bits: BlockBits, rows: &[f32], k: usize, n: usize) -> Result<Self, GemmError> {
        require("B", k.checked_mul(n).ok_or(GemmError::Overflow)?, rows.len())?;
        let mut codes = BlockCodes::zeroed(level, bits, k, n)?;
        let mut scales = BlockScales::new(level, BLOCK, k, n, |_, _| 0.0)?;
        for (j, row) in rows.chunks_exact(k.max(1)).enumerate().take(n) {
            for (b, block) in row.chunks(BLOCK).enumerate() {
                let scale = bits.scale(block.iter().copied());
                scales.set(b, j, scale);
                for (i, &x) in block.iter().enumerate() {
                    codes.set(b * BLOCK + i, j, bits.quantise(x, scale));
                }
            }
        }
        Ok(Self { codes, scales })
    }

    /// The parts.
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { codes: &self.codes, scales: &self.scales, zeros: None }
    }

    /// The matrix as floats, in n rows of k.
    pub fn widened(&self, rows: &mut [f32]) -> Result<(), GemmError> {
        require("B", self.codes.k * self.codes.n, rows.len())?;
        for (j, row) in rows.chunks_exact_mut(self.codes.k.max(1)).enumerate().take(self.codes.n) {
            row.iter_mut().enumerate().for_each(|(i, x)| *x = self.blocks().widened(i, j));
        }
        Ok(())
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.codes.k, self.codes.n)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes()
    }
}
