//! Products of floats with weights of 8 or 4 bits that share a scale in blocks of 32: `B[i, j] = q[i, j] · scale[i / 32, j]`.
//!
//! ```text
//! panel p = columns p NR .. (p + 1) NR, block b = rows 32 b .. 32 (b + 1), each behind the last; zero past row k and column n
//!   8 bits: q[i][j] as a byte, rows below each other
//!   4 bits: byte [i][j] holds q[i][j] + 8 in its low half and q[i + 16][j] + 8 in its high one
//! scales[(p blocks + b) NR + j]
//! ```
//! An element of B is rounded once, when it is multiplied by its scale; then the product is that of [`crate::Gemm`], bit for bit: `fma` over k in
//! ascending order from zero. Few rows of A meet the weights as they are widened, a group of panels at a time, so that each lane of several
//! independent chains is busy; for more rows a panel is widened once into scratch memory, and the packed product reads it there.
//!
//! Quantisation is symmetric and rounds to nearest (ties to even): 8 bits scale the greatest magnitude of a block to 127; 4 bits scale the
//! element of greatest magnitude to -8, as ggml's `Q4_0` does.

use crate::error::{GemmError, agree, require};
use crate::micro::Tile;
use crate::rhs::panel_width;
use crate::{Epilogue, Gemm, Lhs, PackedRef, Residual};
use millstream_simd::{Level, SimdF32, SimdI32, dispatch};
use millstream_tensor::AlignedBytes;
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

/// Rows that share a scale.
pub const BLOCK: usize = 32;
/// Rows of A that meet the weights as they are widened.
const FEW: usize = 2;
/// Panels that few rows pass at once: chains enough to hide the latency of a multiply-add.
const ABREAST: usize = 4;
/// Bytes of widened panels that stay in the second cache beside A.
const NEAR: usize = 192 << 10;
/// Multiply-adds that a grain of few rows aims at: what memory gives in some 20 µs.
const FEW_WORK: usize = 1 << 17;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockBits {
    /// From -127 to 127.
    Eight,
    /// From -8 to 7.
    Four,
}

impl BlockBits {
    /// Bytes of a block of one column.
    fn bytes(self) -> usize {
        match self {
            BlockBits::Eight => BLOCK,
            BlockBits::Four => BLOCK / 2,
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
            BlockBits::Four => q.clamp(-8.0, 7.0) as i8,
        }
    }
}

/// A k × n matrix of few bits, packed: a weight.
#[derive(Debug)]
pub struct PackedBlocks {
    bits: BlockBits,
    bytes: AlignedBytes,
    scales: AlignedBytes,
    k: usize,
    n: usize,
    width: usize,
}

impl PackedBlocks {
    /// Quantises and packs the transpose of an n × k matrix of dense rows (a linear layer's weight).
    pub fn quantised(level: Level, bits: BlockBits, rows: &[f32], k: usize, n: usize) -> Result<Self, GemmError> {
        require("B", k.checked_mul(n).ok_or(GemmError::Overflow)?, rows.len())?;
        let mut packed = Self::zeroed(level, bits, k, n)?;
        for (j, row) in rows.chunks_exact(k.max(1)).enumerate().take(n) {
            for (b, block) in row.chunks(BLOCK).enumerate() {
                let scale = bits.scale(block.iter().copied());
                packed.set_scale(b, j, scale);
                for (i, &x) in block.iter().enumerate() {
                    packed.set(b * BLOCK + i, j, bits.quantise(x, scale));
                }
            }
        }
        Ok(packed)
    }

    /// Packs weights that are quantised already: n rows of k bytes (for 4 bits from -8 to 7), and n rows of a scale for each block.
    pub fn from_parts(level: Level, bits: BlockBits, values: &[i8], scales: &[f32], k: usize, n: usize) -> Result<Self, GemmError> {
        let blocks = k.div_ceil(BLOCK);
        agree("weights", k.checked_mul(n).ok_or(GemmError::Overflow)?, values.len())?;
        agree("scales", blocks.checked_mul(n).ok_or(GemmError::Overflow)?, scales.len())?;
        let mut packed = Self::zeroed(level, bits, k, n)?;
        for j in 0..n {
            for b in 0..blocks {
                packed.set_scale(b, j, scales[j * blocks + b]);
            }
            for i in 0..k {
                let q = values[j * k + i];
                packed.set(i, j, if bits == BlockBits::Four { q.clamp(-8, 7) } else { q });
            }
        }
        Ok(packed)
    }

    fn zeroed(level: Level, bits: BlockBits, k: usize, n: usize) -> Result<Self, GemmError> {
        let width = panel_width(level);
        let blocks = k.div_ceil(BLOCK).checked_mul(n.div_ceil(width)).and_then(|b| b.checked_mul(width)).ok_or(GemmError::Overflow)?;
        let memory = |each: usize| {
            let len = blocks.checked_mul(each).ok_or(GemmError::Overflow)?;
            AlignedBytes::zeroed(len).map_err(|_| GemmError::OutOfMemory(len))
        };
        Ok(Self { bits, bytes: memory(bits.bytes())?, scales: memory(size_of::<f32>())?, k, n, width })
    }

    /// Where block `b` of column `j` begins, in blocks, and the column in its panel.
    fn place(&self, b: usize, j: usize) -> (usize, usize) {
        ((j / self.width * self.blocks() + b) * self.width, j % self.width)
    }

    fn set_scale(&mut self, b: usize, j: usize, scale: f32) {
        let (at, lane) = self.place(b, j);
        bytemuck::cast_slice_mut::<u8, f32>(self.scales.as_mut())[at + lane] = scale;
    }

    fn set(&mut self, i: usize, j: usize, q: i8) {
        let (at, lane) = self.place(i / BLOCK, j);
        let (i, width) = (i % BLOCK, self.width);
        let block = &mut self.bytes.as_mut()[at * self.bits.bytes()..];
        match self.bits {
            BlockBits::Eight => block[i * width + lane] = q as u8,
            BlockBits::Four => {
                let (byte, shift) = (&mut block[i % 16 * width + lane], i / 16 * 4);
                *byte = *byte & !(15 << shift) | ((q + 8) as u8 & 15) << shift;
            }
        }
    }

    /// The matrix as floats, in n rows of k.
    pub fn widened(&self, rows: &mut [f32]) -> Result<(), GemmError> {
        require("B", self.k * self.n, rows.len())?;
        let scales: &[f32] = bytemuck::cast_slice(self.scales.as_ref());
        for (j, row) in rows.chunks_exact_mut(self.k.max(1)).enumerate().take(self.n) {
            for (i, x) in row.iter_mut().enumerate() {
                let (at, lane) = self.place(i / BLOCK, j);
                let block = &self.bytes.as_ref()[at * self.bits.bytes()..];
                let i = i % BLOCK;
                let q = match self.bits {
                    BlockBits::Eight => block[i * self.width + lane] as i8,
                    BlockBits::Four => (block[i % 16 * self.width + lane] >> (i / 16 * 4) & 15) as i8 - 8,
                };
                *x = f32::from(q) * scales[at + lane];
            }
        }
        Ok(())
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.scales.len()
    }
}

/// A product of m × k floats by a [`PackedBlocks`], cut into grains.
#[derive(Clone, Copy, Debug)]
pub struct BlockGemm {
    level: Level,
    m: usize,
    k: usize,
    n: usize,
    /// Columns of a grain, whole panels.
    cols: usize,
    width: usize,
}

impl BlockGemm {
    /// The product of m × k by k × n at `level`.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        let width = panel_width(level);
        let panels = n.div_ceil(width).max(1);
        let panel = k.max(1).saturating_mul(width);
        let wanted = if m <= FEW { (FEW_WORK / panel).max(1).next_multiple_of(ABREAST) } else { (NEAR / 4 / panel).max(1) };
        let each = wanted.max(panels.div_ceil(MAX_TILES)).min(panels);
        Self { level, m, k, n, cols: each * width, width }
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        if self.m == 0 { 0 } else { self.n.div_ceil(self.cols) }
    }

    fn widened_len(&self) -> usize {
        if self.m <= FEW { 0 } else { self.cols.saturating_mul(self.k) }
    }

    /// Elements of scratch that each running grain needs.
    pub fn scratch_len(&self) -> usize {
        if self.m <= FEW { 0 } else { self.widened_len().saturating_add(Gemm::new(self.level, self.m, self.k, self.cols.min(self.n)).scratch_len()) }
    }

    /// The output, m dense rows, cut into this job's grains.
    pub fn tiles<'c>(&self, c: &'c mut [f32]) -> Result<Tiles<'c, f32>, GemmError> {
        let (found, needed) = (c.len(), self.m.checked_mul(self.n).ok_or(GemmError::Overflow)?);
        Tiles::new(c, self.m, self.n, self.n, self.m.max(1), self.cols).ok_or(GemmError::Length { what: "C", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread. `a` are m dense rows.
    pub fn run_grain(
        &self,
        grain: usize,
        a: &[f32],
        b: &PackedBlocks,
        tiles: &Tiles<'_, f32>,
        epilogue: &Epilogue<'_>,
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        require("A", self.m.checked_mul(self.k).ok_or(GemmError::Overflow)?, a.len())?;
        agree("rows of B", self.k, b.k)?;
        agree("columns of B", self.n, b.n)?;
        agree("panel width of B", self.width, b.width)?;
        epilogue.check(self.m, self.n)?;
        require("scratch", self.scratch_len(), scratch.len())?;
        let tile = tiles.claim(grain).ok_or(GemmError::Grain(grain))?;
        let (row, col) = tile.origin();
        if row != 0 || col % self.cols != 0 || tile.rows() != self.m || tile.cols() > self.cols || tile.cols() + col > self.n {
            return Err(GemmError::Grain(grain));
        }
        let epilogue = shifted(epilogue, col);
        if self.m <= FEW {
            dispatch!(self.level, s => few(s, a, b, tile, &epilogue));
            return Ok(());
        }
        self.widen_and_run(a, b, tile, &epilogue, scratch)
    }

    fn widen_and_run(&self, a: &[f32], b: &PackedBlocks, mut tile: TileMut<'_, f32>, epilogue: &Epilogue<'_>, scratch: &mut [f32]) -> Result<(), GemmError> {
        let ((_, col), cols) = (tile.origin(), tile.cols());
        let (wide, scratch) = scratch.split_at_mut(self.widened_len());
        let panels = cols.div_ceil(self.width);
        for (p, panel) in wide.chunks_exact_mut((self.k * self.width).max(1)).take(panels).enumerate() {
            dispatch!(self.level, s => widen(s, b, col / self.width + p, panel));
        }
        let gemm = Gemm::new(self.level, self.m, self.k, cols);
        let packed = PackedRef::new(self.level, self.k, cols, wide)?;
        let whole = tile.part(0, 0, self.m, cols).ok_or(GemmError::Grain(0))?;
        gemm.run_in(&Lhs::row_major(a, self.k), packed, whole, epilogue, scratch)
    }
}

/// The epilogue of the columns from `col` on.
fn shifted<'a>(epilogue: &Epilogue<'a>, col: usize) -> Epilogue<'a> {
    let behind = |x: &'a [f32]| x.get(col..).unwrap_or_default();
    Epilogue { bias_cols: epilogue.bias_cols.map(behind), residual: epilogue.residual.map(|r| Residual { data: behind(r.data), ..r }), ..*epilogue }
}

/// Writes the rows of a panel as floats.
#[inline(always)]
fn widen<S: Tile>(s: S, b: &PackedBlocks, p: usize, panel: &mut [f32]) {
    let lanes = S::F32::LANES;
    let scales: &[f32] = bytemuck::cast_slice(b.scales.as_ref());
    for (block, rows) in panel.chunks_mut(BLOCK * S::NR).enumerate() {
        let at = (p * b.blocks() + block) * S::NR;
        let bytes = &b.bytes.as_ref()[at * b.bits.bytes()..][..b.bits.bytes() * S::NR];
        for v in (0..S::NR).step_by(lanes) {
            let scale = S::F32::load(s, &scales[at + v..]);
            match b.bits {
                BlockBits::Eight => {
                    for (row, q) in rows.chunks_exact_mut(S::NR).zip(bytes.chunks_exact(S::NR)) {
                        let q: &[i8] = bytemuck::cast_slice(&q[v..v + lanes]);
                        (S::I32::load_i8(s, q).to_f32() * scale).store(&mut row[v..]);
                    }
                }
                BlockBits::Four => {
                    let eight = S::I32::splat(s, 8);
                    let low = S::I32::splat(s, 15);
                    for (i, row) in rows.chunks_exact_mut(S::NR).enumerate() {
                        let q = S::I32::load_u8(s, &bytes[i % 16 * S::NR + v..]);
                        let q = if i < 16 { q & low } else { q.shr_logical(4) };
                        ((q - eight).to_f32() * scale).store(&mut row[v..]);
                    }
                }
            }
        }
    }
}

/// One or two rows against the weights of a tile's columns.
#[inline(always)]
fn few<S: Tile>(s: S, a: &[f32], b: &PackedBlocks, mut tile: TileMut<'_, f32>, epilogue: &Epilogue<'_>) {
    let ((_, col), cols) = (tile.origin(), tile.cols());
    let first = col / S::NR;
    let panels = cols.div_ceil(S::NR);
    for r in 0..tile.rows() {
        let x = &a[r * b.k..][..b.k];
        let mut p = 0;
        while p < panels {
            let n = ABREAST.min(panels - p);
            let out = &mut tile.row(r)[p * S::NR..];
            match n {
                ABREAST => abreast::<S, ABREAST>(s, x, b, first + p, out),
                _ => {
                    for i in 0..n {
                        abreast::<S, 1>(s, x, b, first + p + i, &mut out[i * S::NR..]);
                    }
                }
            }
            p += n;
        }
        finish(s, tile.row(r), r, epilogue);
    }
}

/// One row against `P` panels.
#[inline(always)]
fn abreast<S: Tile, const P: usize>(s: S, x: &[f32], b: &PackedBlocks, p: usize, out: &mut [f32]) {
    let lanes = S::F32::LANES;
    let scales: &[f32] = bytemuck::cast_slice(b.scales.as_ref());
    let (blocks, bytes) = (b.blocks(), b.bits.bytes() * S::NR);
    for v in (0..S::NR).step_by(2 * lanes) {
        let halves = if v + lanes < S::NR { 2 } else { 1 };
        let mut sums = [[S::F32::splat(s, 0.0); 2]; P];
        for (block, x) in x.chunks(BLOCK).enumerate() {
            for (panel, sums) in sums.iter_mut().enumerate() {
                let at = ((p + panel) * blocks + block) * S::NR;
                let data = &b.bytes.as_ref()[at * b.bits.bytes()..][..bytes];
                let scale = [S::F32::load(s, &scales[at + v..]), S::F32::load(s, &scales[at + if halves == 2 { v + lanes } else { v }..])];
                match b.bits {
                    BlockBits::Eight => dot_bytes::<S>(s, x, data, v, halves, scale, sums),
                    BlockBits::Four => dot_halves::<S>(s, x, data, v, halves, scale, sums),
                }
            }
        }
        for (panel, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate().take(halves) {
                let from = panel * S::NR + v + h * lanes;
                if from < out.len() {
                    let to = lanes.min(out.len() - from);
                    sum.store_partial(&mut out[from..from + to]);
                }
            }
        }
    }
}

#[inline(always)]
fn dot_bytes<S: Tile>(s: S, x: &[f32], data: &[u8], v: usize, halves: usize, scale: [S::F32; 2], sums: &mut [S::F32; 2]) {
    let lanes = S::F32::LANES;
    for (&x, q) in x.iter().zip(data.chunks_exact(S::NR)) {
        let x = S::F32::splat(s, x);
        for h in 0..halves {
            let q: &[i8] = bytemuck::cast_slice(&q[v + h * lanes..][..lanes]);
            sums[h] = x.mul_add(S::I32::load_i8(s, q).to_f32() * scale[h], sums[h]);
        }
    }
}

#[inline(always)]
fn dot_halves<S: Tile>(s: S, x: &[f32], data: &[u8], v: usize, halves: usize, scale: [S::F32; 2], sums: &mut [S::F32; 2]) {
    let (lanes, eight, low) = (S::F32::LANES, S::I32::splat(s, 8), S::I32::splat(s, 15));
    // A byte holds weight i in its lower half, i + 16 in its upper one: two loops, because a chain's order is that of the weights.
    let (lower, upper) = x.split_at(x.len().min(BLOCK / 2));
    for (&x, q) in lower.iter().zip(data.chunks_exact(S::NR)) {
        let x = S::F32::splat(s, x);
        for h in 0..halves {
            let q = S::I32::load_u8(s, &q[v + h * lanes..][..lanes]) & low;
            sums[h] = x.mul_add((q - eight).to_f32() * scale[h], sums[h]);
        }
    }
    for (&x, q) in upper.iter().zip(data.chunks_exact(S::NR)) {
        let x = S::F32::splat(s, x);
        for h in 0..halves {
            let q = S::I32::load_u8(s, &q[v + h * lanes..][..lanes]).shr_logical(4);
            sums[h] = x.mul_add((q - eight).to_f32() * scale[h], sums[h]);
        }
    }
}

/// What follows the product, for one row.
#[inline(always)]
fn finish<S: Tile>(s: S, row: &mut [f32], r: usize, epilogue: &Epilogue<'_>) {
    let lanes = S::F32::LANES;
    let alpha = S::F32::splat(s, epilogue.alpha);
    let below = epilogue.bias_rows.map(|b| S::F32::splat(s, b[r]));
    for (i, chunk) in row.chunks_mut(lanes).enumerate() {
        let at = i * lanes..i * lanes + chunk.len();
        let mut y = S::F32::load_partial(s, chunk);
        if epilogue.alpha != 1.0 {
            y = y * alpha;
        }
        if let Some(bias) = epilogue.bias_cols {
            y = y + S::F32::load_partial(s, &bias[at.clone()]);
        }
        if let Some(bias) = below {
            y = y + bias;
        }
        if let Some(residual) = epilogue.residual {
            let x = S::F32::load_partial(s, &residual.data[r * residual.row_stride..][at.clone()]);
            y = if residual.beta == 1.0 { y + x } else { x.mul_add(S::F32::splat(s, residual.beta), y) };
        }
        y.store_partial(chunk);
    }
    epilogue.activation.run(s, row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use std::{vec, vec::Vec};

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn run(level: Level, a: &[f32], b: &PackedBlocks, m: usize, epilogue: &Epilogue<'_>) -> Vec<f32> {
        let (k, n) = b.dims();
        let job = BlockGemm::new(level, m, k, n);
        let mut c = vec![f32::NAN; m * n];
        let mut scratch = vec![f32::NAN; job.scratch_len()];
        let tiles = job.tiles(&mut c).unwrap();
        assert_eq!(tiles.count(), job.grains());
        (0..job.grains()).for_each(|g| job.run_grain(g, a, b, &tiles, epilogue, &mut scratch).unwrap());
        c
    }

    /// The product of the widened weights in f64.
    fn reference(a: &[f32], w: &[f32], (m, k, n): (usize, usize, usize), bias: &[f32]) -> Vec<f64> {
        let cell = |c: usize| (0..k).map(|p| f64::from(a[c / n * k + p]) * f64::from(w[c % n * k + p])).sum::<f64>() + f64::from(bias[c % n]);
        (0..m * n).map(cell).collect()
    }

    #[test]
    fn products_with_few_bits_are_those_of_the_widened_weights() {
        for level in Level::available() {
            for bits in [BlockBits::Eight, BlockBits::Four] {
                for (m, k, n) in [(1, 32, 16), (1, 100, 77), (2, 64, 200), (3, 33, 40), (17, 96, 65), (5, 1, 3), (40, 300, 130), (0, 5, 5), (1, 0, 4)] {
                    let (a, w, bias) = (random(m * k, 1), random(n * k, 2), random(n, 3));
                    let b = PackedBlocks::quantised(level, bits, &w, k, n).unwrap();
                    let mut wide = vec![0.0; n * k];
                    b.widened(&mut wide).unwrap();
                    let found = run(level, &a, &b, m, &Epilogue::bias(&bias, Activation::Relu));
                    for (i, (x, y)) in found.iter().zip(reference(&a, &wide, (m, k, n), &bias)).enumerate() {
                        assert!(
                            (f64::from(*x) - y.max(0.0)).abs() <= 2e-6 * (1.0 + k as f64),
                            "{} {bits:?} {m} {k} {n}: element {i} is {x}, expected {y}",
                            level.name()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn quantised_weights_are_near_what_they_stand_for() {
        for (bits, steps) in [(BlockBits::Eight, 127.0), (BlockBits::Four, 8.0)] {
            let (k, n) = (70, 9);
            let w = random(k * n, 5);
            let b = PackedBlocks::quantised(Level::detect(), bits, &w, k, n).unwrap();
            let mut wide = vec![0.0; n * k];
            b.widened(&mut wide).unwrap();
            for (row, found) in w.chunks(k).zip(wide.chunks(k)) {
                for (block, found) in row.chunks(BLOCK).zip(found.chunks(BLOCK)) {
                    let greatest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    // Half a step; of 4 bits the far end of the other sign is cut off, a whole step.
                    let most = greatest / steps * if bits == BlockBits::Four { 1.001 } else { 0.501 };
                    block.iter().zip(found).for_each(|(x, y)| assert!((x - y).abs() <= most, "{x} became {y}"));
                }
            }
        }
    }

    #[test]
    fn a_row_of_a_product_with_few_bits_does_not_depend_on_its_neighbours() {
        let level = Level::detect();
        let (k, n) = (130, 90);
        let (a, w) = (random(9 * k, 1), random(n * k, 2));
        for bits in [BlockBits::Eight, BlockBits::Four] {
            let b = PackedBlocks::quantised(level, bits, &w, k, n).unwrap();
            let all = run(level, &a, &b, 9, &Epilogue::default());
            for r in 0..9 {
                assert_eq!(run(level, &a[r * k..][..k], &b, 1, &Epilogue::default()), all[r * n..][..n], "{bits:?}, row {r}");
            }
        }
    }
}
