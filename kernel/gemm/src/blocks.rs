//! Products of floats with weights of 8 or 4 bits ([`Blocks`]).
//!
//! An element of B is rounded once, when it is multiplied by its scale; then the product is that of [`crate::Gemm`], bit for bit: `fma` over k in
//! ascending order from zero. Few rows of A meet the weights as they are widened, a group of panels at a time, so that each lane of several
//! independent chains is busy; for more rows a panel is widened once into scratch memory, and the packed product reads it there.
//!
//! Quantisation is symmetric and rounds to nearest (ties to even): 8 bits scale the greatest magnitude of a block to 127; 4 bits scale the
//! element of greatest magnitude to -8, as ggml's `Q4_0` does.

use crate::block_weights::{BLOCK, BlockBits, Blocks};
use crate::error::{GemmError, agree, require};
use crate::micro::Tile;
use crate::rhs::panel_width;
use crate::{Epilogue, Gemm, Lhs, PackedRef, Residual};
use millstream_simd::{Level, SimdF32, SimdI32, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

/// Rows of A that meet the weights as they are widened.
const FEW: usize = 2;
/// Panels that few rows pass at once: chains enough to hide the latency of a multiply-add.
const ABREAST: usize = 4;
/// Bytes of widened panels that stay in the second cache beside A.
const NEAR: usize = 192 << 10;
/// Multiply-adds that a grain of few rows aims at: what memory gives in some 20 µs.
const FEW_WORK: usize = 1 << 17;

/// A product of m × k floats by [`Blocks`], cut into grains.
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
        b: &Blocks<'_>,
        tiles: &Tiles<'_, f32>,
        epilogue: &Epilogue<'_>,
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        require("A", self.m.checked_mul(self.k).ok_or(GemmError::Overflow)?, a.len())?;
        agree("rows of B", self.k, b.codes.k)?;
        agree("columns of B", self.n, b.codes.n)?;
        agree("panel width of B", self.width, b.codes.width)?;
        b.check()?;
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

    fn widen_and_run(&self, a: &[f32], b: &Blocks<'_>, mut tile: TileMut<'_, f32>, epilogue: &Epilogue<'_>, scratch: &mut [f32]) -> Result<(), GemmError> {
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

/// The parts of a weight as kernels read them.
#[derive(Clone, Copy)]
struct Parts<'a> {
    bits: BlockBits,
    blocks: usize,
    codes: &'a [u8],
    groups: usize,
    scales: &'a [f32],
    /// Empty without zero points.
    zeros: &'a [i8],
}

impl<'a> Parts<'a> {
    fn of(b: &Blocks<'a>) -> Self {
        let zeros = b.zeros.map_or(&[][..], |zeros| zeros.numbers());
        Parts { bits: b.codes.bits, blocks: b.codes.blocks(), codes: b.codes.bytes.as_ref(), groups: b.scales.groups(), scales: b.scales.numbers(), zeros }
    }

    /// The integers of a block of panel `p`.
    #[inline(always)]
    fn block<S: Tile>(&self, p: usize, block: usize) -> &'a [u8] {
        let bytes = self.bits.bytes_of_block() * S::NR;
        &self.codes[(p * self.blocks + block) * bytes..][..bytes]
    }
}

/// The groups of the upper and the lower half of a block. Rows past the last have no weight, whatever their scale.
#[inline(always)]
fn groups_of(b: &Blocks<'_>, block: usize) -> [usize; 2] {
    let last = b.scales.groups().saturating_sub(1);
    [b.scales.group_of(block * BLOCK).min(last), b.scales.group_of(block * BLOCK + BLOCK / 2).min(last)]
}

/// What turns the integers of one vector of columns into weights.
#[derive(Clone, Copy)]
struct Factors<S: Tile> {
    scale: S::F32,
    zero: S::I32,
}

impl<S: Tile> Factors<S> {
    /// Those of a group of panel `p`, columns from `v` on.
    #[inline(always)]
    fn new<const ZEROS: bool>(s: S, parts: &Parts<'_>, p: usize, group: usize, v: usize) -> Self {
        let at = (p * parts.groups + group) * S::NR + v;
        let zero = if ZEROS { S::I32::load_i8(s, &parts.zeros[at..][..S::F32::LANES]) } else { S::I32::splat(s, i32::from(parts.bits.middle())) };
        Factors { scale: S::F32::load(s, &parts.scales[at..]), zero }
    }

    /// The weights of these integers.
    #[inline(always)]
    fn apply(&self, q: S::I32) -> S::F32 {
        (q - self.zero).to_f32() * self.scale
    }
}

/// Writes the rows of a panel as floats.
#[inline(always)]
fn widen<S: Tile>(s: S, b: &Blocks<'_>, p: usize, panel: &mut [f32]) {
    match b.zeros {
        None => widen_panel::<S, false>(s, b, p, panel),
        Some(_) => widen_panel::<S, true>(s, b, p, panel),
    }
}

#[inline(always)]
fn widen_panel<S: Tile, const ZEROS: bool>(s: S, b: &Blocks<'_>, p: usize, panel: &mut [f32]) {
    let (parts, lanes) = (Parts::of(b), S::F32::LANES);
    for (block, rows) in panel.chunks_mut(BLOCK * S::NR).enumerate() {
        let (bytes, groups) = (parts.block::<S>(p, block), groups_of(b, block));
        for v in (0..S::NR).step_by(lanes) {
            for (half, (rows, group)) in rows.chunks_mut(BLOCK / 2 * S::NR).zip(groups).enumerate() {
                let factors = Factors::new::<ZEROS>(s, &parts, p, group, v);
                match (parts.bits, half) {
                    (BlockBits::Eight, _) => {
                        for (row, q) in rows.chunks_exact_mut(S::NR).zip(bytes[half * BLOCK / 2 * S::NR..].chunks_exact(S::NR)) {
                            let q = S::I32::load_i8(s, bytemuck::cast_slice(&q[v..v + lanes]));
                            let w = if ZEROS { factors.apply(q) } else { q.to_f32() * factors.scale };
                            w.store(&mut row[v..]);
                        }
                    }
                    (BlockBits::Four, 0) => {
                        for (row, q) in rows.chunks_exact_mut(S::NR).zip(bytes.chunks_exact(S::NR)) {
                            factors.apply(S::I32::load_u8(s, &q[v..]) & S::I32::splat(s, 15)).store(&mut row[v..]);
                        }
                    }
                    (BlockBits::Four, _) => {
                        for (row, q) in rows.chunks_exact_mut(S::NR).zip(bytes.chunks_exact(S::NR)) {
                            factors.apply(S::I32::load_u8(s, &q[v..]).shr_logical(4)).store(&mut row[v..]);
                        }
                    }
                }
            }
        }
    }
}

/// One or two rows against the weights of a tile's columns.
#[inline(always)]
fn few<S: Tile>(s: S, a: &[f32], b: &Blocks<'_>, mut tile: TileMut<'_, f32>, epilogue: &Epilogue<'_>) {
    let ((_, col), cols) = (tile.origin(), tile.cols());
    let first = col / S::NR;
    let panels = cols.div_ceil(S::NR);
    for r in 0..tile.rows() {
        let x = &a[r * b.codes.k..][..b.codes.k];
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
fn abreast<S: Tile, const P: usize>(s: S, x: &[f32], b: &Blocks<'_>, p: usize, out: &mut [f32]) {
    match (b.codes.bits, b.zeros) {
        (BlockBits::Eight, None) => sums::<S, P, false, false>(s, x, b, p, out),
        (BlockBits::Eight, Some(_)) => sums::<S, P, false, true>(s, x, b, p, out),
        (BlockBits::Four, None) => sums::<S, P, true, false>(s, x, b, p, out),
        (BlockBits::Four, Some(_)) => sums::<S, P, true, true>(s, x, b, p, out),
    }
}

#[inline(always)]
fn sums<S: Tile, const P: usize, const FOUR: bool, const ZEROS: bool>(s: S, x: &[f32], b: &Blocks<'_>, p: usize, out: &mut [f32]) {
    let (lanes, parts) = (S::F32::LANES, Parts::of(b));
    for v in (0..S::NR).step_by(2 * lanes) {
        let vectors = if v + lanes < S::NR { 2 } else { 1 };
        let mut sums = [[S::F32::splat(s, 0.0); 2]; P];
        for (block, x) in x.chunks(BLOCK).enumerate() {
            let groups = groups_of(b, block);
            for (panel, sums) in sums.iter_mut().enumerate() {
                let data = parts.block::<S>(p + panel, block);
                // A byte holds weight i in its lower half, i + 16 in its upper one: two loops, because a chain's order is that of the weights.
                let (lower, upper) = x.split_at(x.len().min(BLOCK / 2));
                let factors = both::<S, ZEROS>(s, &parts, p + panel, groups[0], v, vectors);
                match FOUR {
                    true => dot_nibbles::<S, false>(s, lower, data, v, vectors, &factors, sums),
                    false => dot_bytes::<S, ZEROS>(s, lower, data, v, vectors, &factors, sums),
                }
                let factors = both::<S, ZEROS>(s, &parts, p + panel, groups[1], v, vectors);
                match FOUR {
                    true => dot_nibbles::<S, true>(s, upper, data, v, vectors, &factors, sums),
                    false => dot_bytes::<S, ZEROS>(s, upper, &data[BLOCK / 2 * S::NR..], v, vectors, &factors, sums),
                }
            }
        }
        for (panel, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate().take(vectors) {
                let from = panel * S::NR + v + h * lanes;
                if from < out.len() {
                    let to = lanes.min(out.len() - from);
                    sum.store_partial(&mut out[from..from + to]);
                }
            }
        }
    }
}

/// The factors of one or two vectors of columns.
#[inline(always)]
fn both<S: Tile, const ZEROS: bool>(s: S, parts: &Parts<'_>, p: usize, group: usize, v: usize, vectors: usize) -> [Factors<S>; 2] {
    let next = if vectors == 2 { v + S::F32::LANES } else { v };
    [Factors::new::<ZEROS>(s, parts, p, group, v), Factors::new::<ZEROS>(s, parts, p, group, next)]
}

#[inline(always)]
fn dot_bytes<S: Tile, const ZEROS: bool>(s: S, x: &[f32], data: &[u8], v: usize, vectors: usize, factors: &[Factors<S>; 2], sums: &mut [S::F32; 2]) {
    let lanes = S::F32::LANES;
    for (&x, q) in x.iter().zip(data.chunks_exact(S::NR)) {
        let x = S::F32::splat(s, x);
        for h in 0..vectors {
            let q = S::I32::load_i8(s, bytemuck::cast_slice(&q[v + h * lanes..][..lanes]));
            let w = if ZEROS { factors[h].apply(q) } else { q.to_f32() * factors[h].scale };
            sums[h] = x.mul_add(w, sums[h]);
        }
    }
}

#[inline(always)]
fn dot_nibbles<S: Tile, const UPPER: bool>(s: S, x: &[f32], data: &[u8], v: usize, vectors: usize, factors: &[Factors<S>; 2], sums: &mut [S::F32; 2]) {
    let (lanes, low) = (S::F32::LANES, S::I32::splat(s, 15));
    for (&x, q) in x.iter().zip(data.chunks_exact(S::NR)) {
        let x = S::F32::splat(s, x);
        for h in 0..vectors {
            let q = S::I32::load_u8(s, &q[v + h * lanes..][..lanes]);
            let q = if UPPER { q.shr_logical(4) } else { q & low };
            sums[h] = x.mul_add(factors[h].apply(q), sums[h]);
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
    use crate::block_weights::{BlockCodes, BlockScales, BlockZeros, PackedBlocks};
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

    fn run(level: Level, a: &[f32], b: &Blocks<'_>, m: usize, epilogue: &Epilogue<'_>) -> Vec<f32> {
        let (k, n) = (b.codes.k, b.codes.n);
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
                    let found = run(level, &a, &b.blocks(), m, &Epilogue::bias(&bias, Activation::Relu));
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
            let all = run(level, &a, &b.blocks(), 9, &Epilogue::default());
            for r in 0..9 {
                assert_eq!(run(level, &a[r * k..][..k], &b.blocks(), 1, &Epilogue::default()), all[r * n..][..n], "{bits:?}, row {r}");
            }
        }
    }

    /// Groups of any size, with zero points and without, against the definition in f64.
    #[test]
    fn groups_and_zero_points_are_those_of_the_definition() {
        for level in Level::available() {
            for (bits, low, high) in [(BlockBits::Eight, -128, 127), (BlockBits::Four, 0, 15)] {
                for (group, k) in [(16, 100), (16, 48), (16, 33), (32, 70), (64, 200), (128, 130), (500, 90), (16, 7)] {
                    for (m, n, zeroed) in [(1, 45, true), (2, 70, false), (7, 50, true)] {
                        let integer = |seed: usize, i: usize, j: usize| (low + (i * 31 + j * 17 + seed) as i32 % (high - low + 1)) as i8;
                        let codes = BlockCodes::new(level, bits, k, n, |i, j| integer(1, i, j)).unwrap();
                        let scales = BlockScales::new(level, group, k, n, |g, j| 0.01 * (1 + (g * 7 + j) % 13) as f32).unwrap();
                        let zeros = BlockZeros::new(level, group, k, n, |g, j| integer(5, g, j)).unwrap();
                        let b = Blocks { codes: &codes, scales: &scales, zeros: zeroed.then_some(&zeros) };
                        let a = random(m * k, 3);
                        let found = run(level, &a, &b, m, &Epilogue::default());
                        for (at, x) in found.iter().enumerate() {
                            let (r, j) = (at / n, at % n);
                            let zero = |i: usize| if zeroed { i32::from(integer(5, i / group, j)) } else { i32::from(bits.middle()) };
                            let weight = |i: usize| f64::from(i32::from(integer(1, i, j)) - zero(i)) * f64::from(0.01 * (1 + (i / group * 7 + j) % 13) as f32);
                            let y: f64 = (0..k).map(|i| f64::from(a[r * k + i]) * weight(i)).sum();
                            assert!(
                                (f64::from(*x) - y).abs() <= 1e-4 * (1.0 + y.abs()),
                                "{} {bits:?} {group} {m} {k} {n} {zeroed}: {at} is {x}, not {y}",
                                level.name()
                            );
                        }
                    }
                }
            }
        }
        assert_eq!(BlockScales::new(Level::detect(), 8, 64, 3, |_, _| 1.0).err(), Some(GemmError::Group(8)));
        assert_eq!(BlockScales::new(Level::detect(), 48, 96, 3, |_, _| 1.0).err(), Some(GemmError::Group(48)));
    }

    #[test]
    fn parts_of_other_matrices_are_refused() {
        let level = Level::detect();
        let codes = BlockCodes::new(level, BlockBits::Four, 64, 9, |_, _| 0).unwrap();
        let scales = |k, n| BlockScales::new(level, 32, k, n, |_, _| 1.0).unwrap();
        let zeros = BlockZeros::new(level, 32, 64, 8, |_, _| 0).unwrap();
        assert!(Blocks { codes: &codes, scales: &scales(64, 9), zeros: None }.check().is_ok());
        assert!(Blocks { codes: &codes, scales: &scales(96, 9), zeros: None }.check().is_err());
        assert!(Blocks { codes: &codes, scales: &scales(64, 9), zeros: Some(&zeros) }.check().is_err());
    }
}
