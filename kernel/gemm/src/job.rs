//! The blocked product: how C is cut into grains, and how a grain runs.
//!
//! ```text
//! grain = tile of C, about GRAIN_WORK multiply-adds
//! for rows in the grain, MC at a time:
//!   for k-blocks of at most KC, all but the last leave partial sums in C:
//!     pack the block of A: its columns, if they are used often; its rows, unless they lie well   (L2: MC × KC)
//!     for panels of B:                           (L1: KC × NR)
//!       for tiles of at most MR rows, of equal height:  microkernel
//!     (these two loops the other way round where the block of B is small)
//! ```
//! See Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008. Partial sums continue the same chain of
//! multiply-adds, so blocking leaves no trace in the result.

use core::ptr;

use millstream_simd::{Level, dispatch};
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require};
use crate::micro::{A_STRIDE, Call, Finish, KC, Later, Tile, Transposed, row_tile};
use crate::{Epilogue, Lhs, PackedRef};

/// Multiply-adds that a grain aims at: some 25 µs of one core.
const GRAIN_WORK: usize = 2 << 20;
/// Time, in multiply-adds of a core's peak, for which an element of B comes from the third cache: few rows of A wait for it.
const WEIGHT: usize = 21;
/// Tiles of rows whose A is packed at once; their block is well inside an L2 cache.
const MC_TILES: usize = 8;
/// Panels that a grain has at least (if there are so many), for the packing of A to pay.
const MIN_PANELS: usize = 6;
/// Elements of a block of B that stays near (a fraction of an L2 cache) while all rows pass over it.
const NEAR: usize = 32 << 10;
/// Rows of the tallest tile of any level.
const MC_ROWS: usize = 14;
/// A stride of A whose multiples put its rows into two sets of the first cache at the most.
const CROWDED: usize = 512;
/// Floats to the next boundary of a cache line, at most.
const ALIGN_SLACK: usize = 16;

/// A product of known dims, cut into grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
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

impl Gemm {
    /// The product of m × k by k × n at `level`.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        dispatch!(level, s => Self::cut(s, m, k, n))
    }

    #[inline(always)]
    fn cut<S: Tile>(s: S, m: usize, k: usize, n: usize) -> Self {
        let panels = n.div_ceil(S::NR).max(1);
        let most_rows = MC_TILES * S::MR;
        let per_panel = |rows: usize| rows.max(WEIGHT).saturating_mul(k.max(1)).saturating_mul(S::NR).max(1);
        let rows = m.div_ceil(m.div_ceil(most_rows).max(1)).max(1);
        let wanted = (GRAIN_WORK / per_panel(rows)).clamp(MIN_PANELS.min(panels), panels);
        let across = panels.div_ceil(wanted);
        let panels_each = panels.div_ceil(across);
        // Grains are tiles of one grid, whose number is bounded: past that they get taller, and run block by block.
        let most_down = (MAX_TILES / panels.div_ceil(panels_each).min(MAX_TILES)).max(1);
        let down = m.div_ceil(rows).min(most_down).max(1);
        let rows = m.div_ceil(down).max(1);
        Self { level: s.level(), m, k, n, rows, cols: panels_each * S::NR, block_rows: rows.min(most_rows) }
    }

    /// Rows, depth and columns.
    pub fn dims(&self) -> (usize, usize, usize) {
        (self.m, self.k, self.n)
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.cols)
    }

    /// Elements of scratch that each running grain needs.
    pub fn scratch_len(&self) -> usize {
        // One tile more: rows that lie anywhere are gathered there before their columns are packed.
        (self.block_rows + MC_ROWS) * A_STRIDE + ALIGN_SLACK
    }

    /// The output cut into this job's grains. Row r of C begins at `r * row_stride`.
    pub fn tiles<'c>(&self, c: &'c mut [f32], row_stride: usize) -> Result<Tiles<'c, f32>, GemmError> {
        let found = c.len();
        let needed = crate::error::span(self.m, row_stride, self.n, 1)?;
        Tiles::new(c, self.m, self.n, row_stride, self.rows, self.cols).ok_or(GemmError::Length { what: "C", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread.
    pub fn run_grain(
        &self,
        grain: usize,
        a: &Lhs<'_>,
        b: PackedRef<'_>,
        tiles: &Tiles<'_, f32>,
        epilogue: &Epilogue<'_>,
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        a.check(self.m, self.k)?;
        epilogue.check(self.m, self.n)?;
        require("scratch", self.scratch_len(), scratch.len())?;
        // Down first: neighbours in time share the panels of B.
        let (down, across) = (self.m.div_ceil(self.rows), self.n.div_ceil(self.cols));
        if tiles.grid() != (down, across) {
            return Err(GemmError::Grain(grain));
        }
        let index = if down == 0 { grain } else { grain % down * across + grain / down };
        let tile = tiles.claim(index).ok_or(GemmError::Grain(grain))?;
        let (row, col) = tile.origin();
        // Tiles of another job with as many grains would stand elsewhere.
        if row % self.rows != 0
            || col % self.cols != 0
            || row + tile.rows() > self.m
            || col + tile.cols() > self.n
            || tile.rows() > self.rows
            || tile.cols() > self.cols
        {
            return Err(GemmError::Grain(grain));
        }
        dispatch!(self.level, s => {
            b.check(self.k, self.n, panel_width(s))?;
            self.run_tile(s, a, b, tile, epilogue, scratch);
            Ok(())
        })
    }

    /// Runs all grains on this thread.
    pub fn run(&self, a: &Lhs<'_>, b: PackedRef<'_>, c: &mut [f32], row_stride: usize, epilogue: &Epilogue<'_>, scratch: &mut [f32]) -> Result<(), GemmError> {
        let tiles = self.tiles(c, row_stride)?;
        agree("grains", self.grains(), tiles.count())?;
        (0..self.grains()).try_for_each(|grain| self.run_grain(grain, a, b, &tiles, epilogue, scratch))
    }

    /// Runs the whole product on this thread into a tile of its dims, whose origin is element (0, 0).
    pub fn run_in(&self, a: &Lhs<'_>, b: PackedRef<'_>, tile: TileMut<'_, f32>, epilogue: &Epilogue<'_>, scratch: &mut [f32]) -> Result<(), GemmError> {
        a.check(self.m, self.k)?;
        epilogue.check(self.m, self.n)?;
        require("scratch", self.scratch_len(), scratch.len())?;
        agree("rows of C", self.m, tile.rows())?;
        agree("columns of C", self.n, tile.cols())?;
        agree("origin of C", 0, tile.origin().0.max(tile.origin().1))?;
        dispatch!(self.level, s => {
            b.check(self.k, self.n, panel_width(s))?;
            self.run_tile(s, a, b, tile, epilogue, scratch);
            Ok(())
        })
    }

    #[inline(always)]
    fn run_tile<S: Tile>(&self, s: S, a: &Lhs<'_>, b: PackedRef<'_>, mut tile: TileMut<'_, f32>, epilogue: &Epilogue<'_>, scratch: &mut [f32]) {
        let aligned = scratch.as_ptr().align_offset(64).min(ALIGN_SLACK);
        let scratch = &mut scratch[aligned..];
        let ((row0, col0), rows, cols) = (tile.origin(), tile.rows(), tile.cols());
        let finish = Finish::new(epilogue);
        let k_blocks = self.k.div_ceil(KC).max(1);
        // Equal blocks, of whole cache lines of A.
        let kc_most = self.k.div_ceil(k_blocks).next_multiple_of(16);
        for block in (0..rows).step_by(self.block_rows) {
            let block_rows = self.block_rows.min(rows - block);
            let row_tiles = block_rows.div_ceil(S::MR);
            let (packed, gathered) = scratch.split_at_mut(block_rows * A_STRIDE);
            let mut k0 = 0;
            loop {
                let kc = kc_most.min(self.k - k0);
                let (first, last) = (k0 == 0, k0 + kc == self.k);
                let columns = Transposed::paying(block_rows, cols).filter(|_| kc > 0);
                // Rows that don't crowd into a few sets of the cache are read in place; rows of no depth need not be there at all.
                let rows = match *a {
                    Lhs::Strided { data, row_stride, col_stride: 1 } if columns.is_none() && kc > 0 && row_stride % CROWDED != 0 => Some((data, row_stride)),
                    _ => None,
                };
                if let Some(columns) = columns {
                    pack_columns(s, columns, a, (row0 + block, block_rows), (k0, kc), packed, gathered);
                } else if rows.is_none() {
                    a.copy(s, row0 + block, k0, kc, packed, A_STRIDE, 0.0);
                }
                // Whichever block is small stays in the L1 cache, or both are near enough and C is written along its rows.
                let panels = cols.div_ceil(S::NR);
                let along_rows = kc * cols <= NEAR;
                let later_step = if along_rows { 0 } else { (S::NR * size_of::<f32>()).div_ceil(row_tiles) };
                for step in 0..row_tiles * panels {
                    let (t, p) = if along_rows { (step / panels, step % panels) } else { (step % row_tiles, step / row_tiles) };
                    let (i, mr) = row_tile::<S>(block_rows, t);
                    let j = p * S::NR;
                    let width = S::NR.min(cols - j);
                    let panel = b.panel(col0 / S::NR + p)[k0 * S::NR..][..kc * S::NR].as_ptr();
                    // The next panel's part for this block of k, of which each tile of rows calls for its share; past the last panel there is
                    // nothing to read, but asking does no harm.
                    let later = panel.wrapping_add(self.k * S::NR).wrapping_byte_add(t * kc * later_step);
                    let call = Call {
                        a: match rows {
                            Some((data, stride)) => data[(row0 + block + i) * stride + k0..][..(mr - 1) * stride + kc].as_ptr(),
                            None => packed[i * A_STRIDE..][..mr * A_STRIDE].as_ptr(),
                        },
                        a_stride: rows.map_or(A_STRIDE, |(_, stride)| stride),
                        runs: 1,
                        run_step: 0,
                        b: panel,
                        kc,
                        // SAFETY: the tile has rows block + i + mr and columns j + width.
                        c: unsafe { tile.as_mut_ptr().add((block + i) * tile.row_stride() + j) },
                        c_stride: tile.row_stride(),
                        cols: width,
                        first,
                        later: Later { start: later, step: later_step },
                        finish: last.then_some(&finish),
                        row: row0 + block + i,
                        col: col0 + j,
                    };
                    let kernels = columns.map_or(S::KERNELS, |columns| columns.kernels);
                    let kernel = kernels[mr - 1][width.div_ceil(S::NR / S::NV) - 1];
                    // SAFETY: A has mr rows of kc <= KC elements, or as many columns of mr, the block of B kc groups of NR; the tile is ours, and its elements here
                    // were written by the first block of k unless this is the first; `run_grain` checked the epilogue against m and n.
                    unsafe { kernel(s, &call) };
                    if last && epilogue.activation.clamp().is_none() {
                        for r in 0..mr {
                            if let Some(row) = tile.row(block + i + r).get_mut(j..j + width) {
                                epilogue.activation.run(s, row);
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
}

/// Packs the columns of each row tile of a block of A to where its rows would lie.
#[inline(always)]
fn pack_columns<S: Tile>(
    s: S,
    columns: Transposed<S>,
    a: &Lhs<'_>,
    (row, rows): (usize, usize),
    (k0, kc): (usize, usize),
    packed: &mut [f32],
    gathered: &mut [f32],
) {
    for t in 0..rows.div_ceil(S::MR) {
        let (i, mr) = row_tile::<S>(rows, t);
        let (src, stride) = match *a {
            Lhs::Strided { data, row_stride, col_stride: 1 } => (&data[(row + i) * row_stride + k0..][..(mr - 1) * row_stride + kc], row_stride),
            _ => {
                let gathered = &mut gathered[..mr * A_STRIDE];
                a.copy(s, row + i, k0, kc, gathered, A_STRIDE, 0.0);
                (&*gathered, A_STRIDE)
            }
        };
        let dst = &mut packed[i * A_STRIDE..][..mr * A_STRIDE];
        // SAFETY: `src` has mr rows of kc, `stride` apart; kc <= KC, so that `dst` has 16 elements more than mr * kc for each of its rows.
        unsafe { (columns.pack)(s, src.as_ptr(), stride, mr, kc, dst.as_mut_ptr()) }
    }
}

#[inline(always)]
fn panel_width<S: Tile>(_: S) -> usize {
    S::NR
}

impl Finish {
    pub(crate) fn new(epilogue: &Epilogue<'_>) -> Self {
        let from = |x: Option<&[f32]>| x.map_or(ptr::null(), <[f32]>::as_ptr);
        let (lo, hi) = epilogue.activation.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let residual = epilogue.residual;
        Self {
            alpha: epilogue.alpha,
            bias_cols: from(epilogue.bias_cols),
            bias_rows: from(epilogue.bias_rows),
            residual: residual.map_or(ptr::null(), |r| r.data.as_ptr()),
            residual_stride: residual.map_or(0, |r| r.row_stride),
            beta: residual.map_or(0.0, |r| r.beta),
            clamp: !matches!((lo, hi), (f32::NEG_INFINITY, f32::INFINITY)),
            lo,
            hi,
        }
    }
}
