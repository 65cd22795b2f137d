//! Where the heads of an attention lie, and how they are cut into grains.
//!
//! All leading axes are a stack of heads, which broadcast as in a product of stacks. A grain is a head, or several where there are
//! many, or some of a head's queries where there are few heads and many queries; it packs the keys and values that it meets into its
//! worker's memory. Several heads in a row may share keys and values; where queries are few, all of these are a grain, which reads
//! keys and values as they lie. The cut depends on shapes and strides alone.

use crate::carve::{carve, carved};
use millstream_gemm::{Attention, FewOptions, FewScores, KeyWindow, Mask, MaskElements, Matrix, Scores};
use millstream_graph::{EvalCx, EvalError, Scratch};
use millstream_simd::Level;
use millstream_tensor::{
    Layout, MAX_RANK, Shape, broadcast,
    tile::{TileMut, Tiles},
};
use smallvec::SmallVec;

/// Heads from which on a grain is never less than one.
const MANY: usize = 8;
/// Queries of a grain at the least: packing keys and values costs as much as a few dozen queries.
const MIN_QUERIES: usize = 128;
/// Grains at the most.
const MOST_GRAINS: usize = 512;
/// Queries of a head up to which keys and values are not packed.
const FEW_QUERIES: usize = 4;
/// The same of all heads that share keys and values.
const FEW_ROWS: usize = 32;

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
    /// The same of keys and values.
    shared: SmallVec<[usize; MAX_RANK]>,
    /// Heads in a row that share keys and values.
    group: usize,
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

/// Where the operands of an attention lie: queries `[.., L, depth]`, keys `[.., S, depth]`, values `[.., S, width]` and the output
/// `[.., L, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layouts {
    pub(crate) q: Layout,
    pub(crate) k: Layout,
    pub(crate) v: Layout,
    pub(crate) y: Layout,
    /// A mask, and for how many keys it counts: it broadcasts to `[.., L, keys]`.
    pub(crate) mask: Option<(Layout, usize)>,
    /// Heads in a row that share keys and values, of which there are so many times fewer.
    pub(crate) group: usize,
}

/// The operands' elements.
pub(crate) struct Operands<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) mask: Option<MaskElements<'a>>,
}

/// What happens to scores.
pub(crate) struct Rules<W> {
    pub(crate) scale: f32,
    pub(crate) cap: f32,
    pub(crate) blind_is_zero: bool,
    /// The keys that the queries of a head see.
    pub(crate) window: W,
}

/// Grains that read keys and values as they lie: all heads that share them, each.
struct Groups {
    /// Rows and columns of a grain's tile.
    tile: [usize; 2],
    /// Heads down and side by side of a tile.
    heads: [usize; 2],
}

impl Heads {
    /// The heads for operands that lie so.
    pub(crate) fn new(layouts: &Layouts) -> Result<Heads, EvalError> {
        let wrong = EvalError::Invalid("the operands of an attention do not fit each other");
        let Layouts { q, k, v, y, mask, group } = layouts;
        let rank = y.shape().rank();
        if rank < 2 || [q, k, v].iter().any(|l| l.shape().rank() != rank) || mask.as_ref().is_some_and(|(m, _)| m.shape().rank() > rank) {
            return Err(wrong);
        }
        let (stack, [queries, width]) = (&y.shape()[..rank - 2], [y.shape()[rank - 2], y.shape()[rank - 1]]);
        let depth = q.shape()[rank - 1];
        let mut shared: SmallVec<[usize; MAX_RANK]> = stack.into();
        if *group != 1 {
            match shared.last_mut() {
                Some(heads) if *group > 0 && heads.is_multiple_of(*group) => *heads /= group,
                _ => return Err(wrong),
            }
        }
        // One key is as many as a mask or the values want.
        let mut keys = *broadcast(&[k.shape()[rank - 2]], &[v.shape()[rank - 2]])?.dims().first().unwrap_or(&1);
        if keys == 1
            && let Some((_, many)) = mask
        {
            keys = *many;
        }
        if k.shape()[rank - 1] != depth || v.shape()[rank - 1] != width || mask.as_ref().is_some_and(|(_, seen)| *seen > keys) {
            return Err(wrong);
        }
        let stretch = |l: &Layout, stack: &[usize], rows: usize, cols: usize| -> Result<Side, EvalError> {
            let mut dims: SmallVec<[usize; MAX_RANK]> = stack.into();
            dims.extend([rows, cols]);
            Ok(Side::new(&l.broadcast_to(Shape::new(&dims)?)?, rank - 2))
        };
        let mask = match mask {
            Some((m, seen)) => Some(stretch(m, stack, queries, *seen)?).filter(|_| queries > 0 && *seen > 0),
            None => None,
        };
        Ok(Heads {
            queries,
            keys,
            depth,
            width,
            group: *group,
            q: stretch(q, stack, queries, depth)?,
            k: stretch(k, &shared, keys, depth)?,
            v: stretch(v, &shared, keys, width)?,
            y: stretch(y, stack, queries, width)?,
            mask,
            batch: stack.into(),
            shared,
        })
    }

    /// Keys of a head.
    pub(crate) fn keys(&self) -> usize {
        self.keys
    }

    /// Queries of a head.
    pub(crate) fn queries(&self) -> usize {
        self.queries
    }

    /// True if keys and values are read as they lie.
    pub(crate) fn are_few(&self) -> bool {
        self.groups().is_some()
    }

    /// The products of one query of a head with all its keys.
    pub(crate) fn products(&self, operands: &Operands<'_>, head: usize, query: usize, to: &mut [f32]) -> Option<()> {
        let (q, [k, _]) = (self.q.matrix(operands.q, &self.batch, head), self.shared(operands, head));
        for (j, to) in to.iter_mut().enumerate() {
            *to = 0.0;
            for c in 0..self.depth {
                *to += q.data.get(query * q.row_stride + c * q.col_stride)? * k.data.get(j * k.row_stride + c * k.col_stride)?;
            }
        }
        Some(())
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
        let rows = self.group.saturating_mul(self.queries);
        let lens = match self.groups() {
            Some(_) => [rows.saturating_mul(self.depth), rows.saturating_mul(self.width), one.few_scratch_len(rows)],
            None => [one.packed_len(), one.scratch_len(), 0],
        };
        Scratch { shared: 0, per_worker: lens.map(carved::<f32>).into_iter().fold(0, usize::saturating_add) }
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

    /// How queries are cut if they are few. `None` if they are not, or if keys or values do not lie in rows.
    fn groups(&self) -> Option<Groups> {
        let rows = self.group.saturating_mul(self.queries);
        let few = self.queries <= FEW_QUERIES && rows <= FEW_ROWS && self.count() / self.group <= MOST_GRAINS;
        let (down, side, _) = self.grid()?;
        let heads = if side == 1 { [self.group, 1] } else { [1, self.group] };
        if !few || self.k.col != 1 || self.v.col != 1 || !down.is_multiple_of(heads[0]) || !side.is_multiple_of(heads[1]) {
            return None;
        }
        Some(Groups { tile: [heads[0] * self.queries, heads[1] * self.width], heads })
    }

    /// The keys and values of a head.
    fn shared<'a>(&self, operands: &Operands<'a>, head: usize) -> [Matrix<'a>; 2] {
        let index = head / self.group;
        [self.k.matrix(operands.k, &self.shared, index), self.v.matrix(operands.v, &self.shared, index)]
    }

    /// The mask of a head.
    pub(super) fn mask<'a>(&self, operands: &Operands<'a>, head: usize) -> Option<Mask<'a>> {
        let (side, elements) = (self.mask?, operands.mask?);
        let all = Mask { elements, row_stride: 1, col_stride: side.col };
        Some(Mask { row_stride: side.row, ..all.from_row(side.start(&self.batch, head))? })
    }

    /// Runs all heads into `y`.
    pub(crate) fn run<W: Fn(usize) -> KeyWindow + Sync>(
        &self,
        cx: &EvalCx<'_>,
        operands: &Operands<'_>,
        rules: &Rules<W>,
        y: &mut [f32],
    ) -> Result<(), EvalError> {
        if self.count() == 0 || self.queries == 0 || self.width == 0 {
            return Ok(());
        }
        match self.groups() {
            Some(groups) => self.run_groups(cx, &groups, operands, rules, y),
            None => self.run_heads(cx, operands, rules, y),
        }
    }

    fn run_heads<W: Fn(usize) -> KeyWindow + Sync>(&self, cx: &EvalCx<'_>, operands: &Operands<'_>, rules: &Rules<W>, y: &mut [f32]) -> Result<(), EvalError> {
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
            let mut tile = tiles.claim(grain)?;
            let (row0, col0) = tile.origin();
            let rows = tile.rows().min(self.queries);
            for i in 0..tile.rows() / rows {
                for j in 0..tile.cols() / self.width {
                    let index = (row0 / self.queries + i) * side + col0 / self.width + j;
                    let first = row0 % self.queries;
                    let [k, v] = self.shared(operands, index);
                    let head = one.pack(k, v, memory).ok()?;
                    let q = self.q.matrix(operands.q, &self.batch, index);
                    let q = Matrix { data: q.data.get(first * self.q.row..)?, ..q };
                    let mask = match self.mask(operands, index) {
                        Some(mask) => Some(mask.from_row(first)?),
                        None => None,
                    };
                    let Rules { scale, cap, blind_is_zero, ref window } = *rules;
                    let scores = Scores { scale, cap, mask, window: window(index).from_row(first), blind_is_zero };
                    one.run(q, head, scores, tile.part(i * rows, j * self.width, rows, self.width)?, work).ok()?;
                }
            }
            Some(())
        })
    }

    fn run_groups<W: Fn(usize) -> KeyWindow + Sync>(
        &self,
        cx: &EvalCx<'_>,
        groups: &Groups,
        operands: &Operands<'_>,
        rules: &Rules<W>,
        y: &mut [f32],
    ) -> Result<(), EvalError> {
        let (down, side, row_stride) = self.grid().ok_or(EvalError::Output(0))?;
        let one = self.attention(cx.level());
        let [tile_rows, tile_cols] = groups.tile;
        let tiles = Tiles::new(y, down * self.queries, side * self.width, row_stride, tile_rows, tile_cols).ok_or(EvalError::Output(0))?;
        let (rows, options) = (self.group * self.queries, FewOptions { scale: rules.scale, cap: rules.cap, blind_is_zero: rules.blind_is_zero });
        cx.parallel(tiles.count(), |grain, mut scratch| {
            let queries = carve::<f32>(&mut scratch, rows * self.depth)?;
            let out = carve::<f32>(&mut scratch, rows * self.width)?;
            let work = carve::<f32>(&mut scratch, one.few_scratch_len(rows))?;
            let mut tile: TileMut<'_, f32> = tiles.claim(grain)?;
            let (row0, col0) = tile.origin();
            let first = row0 / self.queries * side + col0 / self.width;
            for row in 0..rows {
                let q = self.q.matrix(operands.q, &self.batch, first + row / self.queries);
                let start = row % self.queries * q.row_stride;
                for (c, to) in queries[row * self.depth..][..self.depth].iter_mut().enumerate() {
                    *to = *q.data.get(start + c * q.col_stride)?;
                }
            }
            let scores = |row: usize| {
                let (head, query) = (first + row / self.queries, row % self.queries);
                FewScores { mask: self.mask(operands, head).and_then(|mask| mask.from_row(query)), keys: (rules.window)(head).of(query) }
            };
            one.run_few(queries, self.shared(operands, first), options, scores, out, work).ok()?;
            for row in 0..rows {
                let (head, query) = (row / self.queries, row % self.queries);
                let (i, j) = (head / groups.heads[1], head % groups.heads[1]);
                tile.row(i * self.queries + query)[j * self.width..][..self.width].copy_from_slice(&out[row * self.width..][..self.width]);
            }
            Some(())
        })
    }
}
