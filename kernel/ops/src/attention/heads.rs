//! Where the heads of an attention lie, and how they are cut into grains.
//!
//! All leading axes are a stack of heads, which broadcast as in a product of stacks. A grain is a head, or several where there are
//! many, or some of a head's queries where there are few heads and many queries; it packs the keys and values that it meets into its
//! worker's memory. The cut depends on shapes alone.

use crate::carve::{carve, carved};
use millstream_gemm::{Attention, Matrix, Residual};
use millstream_graph::{EvalCx, EvalError, Scratch};
use millstream_simd::Level;
use millstream_tensor::{Layout, MAX_RANK, Shape, broadcast, tile::Tiles};
use smallvec::SmallVec;

/// Heads from which on a grain is never less than one.
const MANY: usize = 8;
/// Queries of a grain at the least: packing keys and values costs as much as a few dozen queries.
const MIN_QUERIES: usize = 128;
/// Grains at the most.
const MOST_GRAINS: usize = 512;

/// Strides of one operand.
#[derive(Debug, Clone, Copy)]
struct Side {
    batch: [usize; MAX_RANK],
    row: usize,
    col: usize,
}

impl Side {
    fn new(layout: &Layout, depth: usize) -> Side {
        let mut batch = [0; MAX_RANK];
        batch[..depth].copy_from_slice(&layout.strides()[..depth]);
        Side { batch, row: layout.strides()[depth], col: layout.strides()[depth + 1] }
    }

    fn start(&self, dims: &[usize], mut index: usize) -> usize {
        let mut start = 0;
        for (&d, &stride) in dims.iter().zip(&self.batch).rev() {
            start += index % d.max(1) * stride;
            index /= d.max(1);
        }
        start
    }

    fn matrix<'a>(&self, data: &'a [f32], dims: &[usize], index: usize) -> Matrix<'a> {
        Matrix { data: data.get(self.start(dims, index)..).unwrap_or_default(), row_stride: self.row, col_stride: self.col }
    }
}

/// The heads of one step.
#[derive(Debug, Clone)]
pub(crate) struct Heads {
    batch: SmallVec<[usize; MAX_RANK]>,
    queries: usize,
    keys: usize,
    depth: usize,
    width: usize,
    q: Side,
    k: Side,
    v: Side,
    y: Side,
    mask: Option<Side>,
}

/// The operands' elements.
pub(crate) struct Operands<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) mask: Option<&'a [f32]>,
}

impl Heads {
    /// The heads for operands that lie so: queries `[.., L, depth]`, keys `[.., S, depth]`, values `[.., S, width]`, a mask that
    /// broadcasts to `[.., L, S]`, and the output `[.., L, width]`.
    pub(crate) fn new(q: &Layout, k: &Layout, v: &Layout, mask: Option<&Layout>, y: &Layout) -> Result<Heads, EvalError> {
        let wrong = EvalError::Invalid("the operands of an attention do not fit each other");
        let rank = y.shape().rank();
        if rank < 2 || [q, k, v].iter().any(|l| l.shape().rank() != rank) || mask.is_some_and(|m| m.shape().rank() > rank) {
            return Err(wrong);
        }
        let (stack, [queries, width]) = (&y.shape()[..rank - 2], [y.shape()[rank - 2], y.shape()[rank - 1]]);
        let depth = q.shape()[rank - 1];
        let last = |l: &Layout| l.shape().last().copied().unwrap_or(1);
        // One key is as many as a mask or the values want.
        let mut keys = *broadcast(&[k.shape()[rank - 2]], &[v.shape()[rank - 2]])?.dims().first().unwrap_or(&1);
        if let Some(mask) = mask {
            keys = *broadcast(&[keys], &[last(mask)])?.dims().first().unwrap_or(&1);
        }
        if k.shape()[rank - 1] != depth || v.shape()[rank - 1] != width {
            return Err(wrong);
        }
        let stretch = |l: &Layout, rows: usize, cols: usize| -> Result<Side, EvalError> {
            let mut dims: SmallVec<[usize; MAX_RANK]> = stack.into();
            dims.extend([rows, cols]);
            Ok(Side::new(&l.broadcast_to(Shape::new(&dims)?)?, rank - 2))
        };
        let mask = match mask {
            Some(m) => Some(stretch(m, queries, keys)?).filter(|_| queries > 0 && keys > 0),
            None => None,
        };
        Ok(Heads {
            queries,
            keys,
            depth,
            width,
            q: stretch(q, queries, depth)?,
            k: stretch(k, keys, depth)?,
            v: stretch(v, keys, width)?,
            y: stretch(y, queries, width)?,
            mask,
            batch: stack.into(),
        })
    }

    fn count(&self) -> usize {
        self.batch.iter().product()
    }

    fn attention(&self, level: Level) -> Attention {
        Attention::new(level, self.keys, self.depth, self.width)
    }

    /// The memory that a run needs.
    pub(crate) fn scratch(&self, level: Level) -> Scratch {
        let one = self.attention(level);
        let lens = [one.packed_len(), one.scratch_len(), self.written_mask()];
        Scratch { shared: 0, per_worker: lens.map(carved::<f32>).into_iter().fold(0, usize::saturating_add) }
    }

    /// Elements of a mask that must be written out, because it is the same for all keys.
    fn written_mask(&self) -> usize {
        let one_for_all = self.mask.is_some_and(|m| m.col != 1 && self.keys > 1);
        if one_for_all { self.queries.saturating_mul(self.keys) } else { 0 }
    }

    /// Multiply-adds, times two.
    pub(crate) fn flops(&self) -> f64 {
        2.0 * self.count() as f64 * self.queries as f64 * self.keys as f64 * (self.depth + self.width) as f64
    }

    /// The output as a grid of heads: (heads down, heads side by side, elements from row to row). `None` if they do not lie so.
    fn grid(&self) -> Option<(usize, usize, usize)> {
        let (outer, side_by_side) = match self.batch.split_last() {
            Some((&d, outer)) if d > 1 && self.y.batch[outer.len()] == self.width && self.y.row >= d * self.width => (outer, d),
            _ => (&self.batch[..], 1),
        };
        let mut step = self.queries * self.y.row;
        for (i, &d) in outer.iter().enumerate().rev() {
            if d != 1 && self.y.batch[i] != step {
                return None;
            }
            step *= d;
        }
        Some((outer.iter().product(), side_by_side, self.y.row))
    }

    /// Queries of a grain.
    fn queries_each(&self, heads_down: usize) -> usize {
        // A grid's tiles may not reach from one head into the next.
        if self.count() >= MANY || heads_down > 1 {
            return self.queries;
        }
        self.queries.div_ceil(self.queries.div_ceil(MIN_QUERIES).clamp(1, MANY)).max(1)
    }

    /// Runs all heads into `y`.
    pub(crate) fn run(&self, cx: &EvalCx<'_>, operands: &Operands<'_>, scale: f32, y: &mut [f32]) -> Result<(), EvalError> {
        if self.count() == 0 || self.queries == 0 || self.width == 0 {
            return Ok(());
        }
        if self.y.col != 1 && self.width > 1 {
            return Err(EvalError::Output(0));
        }
        let (down, side, row_stride) = self.grid().ok_or(EvalError::Output(0))?;
        let one = self.attention(cx.level());
        let across_each = side.div_ceil(MOST_GRAINS);
        let across = side.div_ceil(across_each);
        let down_each = down.div_ceil((MOST_GRAINS / across).max(1)).max(1);
        let queries = self.queries_each(down);
        let tile_rows = if queries < self.queries { queries } else { down_each * self.queries };
        let tiles = Tiles::new(y, down * self.queries, side * self.width, row_stride, tile_rows, across_each * self.width).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, mut scratch| {
            let memory = carve::<f32>(&mut scratch, one.packed_len())?;
            let work = carve::<f32>(&mut scratch, one.scratch_len())?;
            let written = carve::<f32>(&mut scratch, self.written_mask())?;
            let mut tile = tiles.claim(grain)?;
            let (row0, col0) = tile.origin();
            let rows = tile.rows().min(self.queries);
            for i in 0..tile.rows() / rows {
                for j in 0..tile.cols() / self.width {
                    let index = (row0 / self.queries + i) * side + col0 / self.width + j;
                    let first = row0 % self.queries;
                    let (k, v) = (self.k.matrix(operands.k, &self.batch, index), self.v.matrix(operands.v, &self.batch, index));
                    let head = one.pack(k, v, memory).ok()?;
                    let q = self.q.matrix(operands.q, &self.batch, index);
                    let q = Matrix { data: q.data.get(first * self.q.row..)?, ..q };
                    let mask = match (self.mask, operands.mask) {
                        (Some(side), Some(data)) => {
                            let data = data.get(side.start(&self.batch, index) + first * side.row..)?;
                            if written.is_empty() {
                                Some(Residual { data, row_stride: side.row, beta: 1.0 })
                            } else {
                                for (r, to) in written.chunks_exact_mut(self.keys).take(rows).enumerate() {
                                    to.iter_mut().enumerate().for_each(|(c, to)| *to = data[r * side.row + c * side.col]);
                                }
                                Some(Residual { data: written, row_stride: self.keys, beta: 1.0 })
                            }
                        }
                        _ => None,
                    };
                    let part = tile.part(i * rows, j * self.width, rows, self.width)?;
                    one.run(q, head, scale, mask, part, work).ok()?;
                }
            }
            Some(())
        })
    }
}
