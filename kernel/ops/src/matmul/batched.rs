//! Products of stacks of matrices: where the matrices lie, and how their grains are cut.
//!
//! | stack | grains |
//! |---|---|
//! | one matrix, or many that share one right operand and follow each other as rows | tiles of the product |
//! | many small ones | a matrix (or several) each; each worker packs the right operands it meets |
//! | few large ones | one product after the other, each in tiles |
//!
//! The choice depends on shapes alone, and an element's chain of multiply-adds on none of it.

use super::product;
use crate::carve::{carve, carved};
use alloc::vec::Vec;
use millstream_gemm::{Epilogue, Gemm, GemmError, Lhs, PackedB, PackedRef, Residual, Rhs, pack_into, pack_panels, packed_len, panels};
use millstream_graph::{EvalCx, EvalError, Packed, Scratch};
use millstream_simd::Level;
use millstream_tensor::{Layout, MAX_RANK, Shape, TensorError, broadcast, tile::Tiles};
use smallvec::SmallVec;

/// From so many matrices on, a grain is a matrix, whatever its size.
const MANY: usize = 8;
/// Multiply-adds of a whole stack below which a grain is a matrix.
const LITTLE: usize = 4 << 20;
/// Grains of a stack at the most.
const MOST_GRAINS: usize = 512;

/// Strides of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    batch: [usize; MAX_RANK],
    row: usize,
    col: usize,
}

/// A stack of products `y = a · b`.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// The stack's dims.
    batch: SmallVec<[usize; MAX_RANK]>,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    a: Side,
    b: Side,
    y: Side,
    /// Strides of the stack within packed right operands.
    packed: [usize; MAX_RANK],
}

/// A layout of rank 2 or more: vectors become a row (left operands) or a column (right operands).
fn matrix(layout: &Layout, is_left: bool) -> Option<Layout> {
    if layout.shape().rank() >= 2 {
        return Some(*layout);
    }
    let (&[d], &[s]) = (layout.shape().dims(), layout.strides()) else { return None };
    let (dims, strides) = if is_left { ([1, d], [0, s]) } else { ([d, 1], [s, 0]) };
    Layout::strided(Shape::new(&dims).ok()?, &strides).ok()
}

/// The output's layout with the axes that a vector operand leaves out.
fn with_vector_axes(y: &Layout, a_rank: usize, b_rank: usize) -> Option<Layout> {
    let mut dims: SmallVec<[usize; MAX_RANK + 2]> = y.shape()[..].into();
    let mut strides: SmallVec<[usize; MAX_RANK + 2]> = y.strides().into();
    if b_rank == 1 {
        dims.push(1);
        strides.push(1);
    }
    if a_rank == 1 {
        dims.insert(dims.len().checked_sub(1)?, 1);
        strides.insert(strides.len() - 1, 0);
    }
    Layout::strided(Shape::new(&dims).ok()?, &strides).ok()
}

/// The product's shape; an error if the operands do not fit. Both have at least one axis.
pub(crate) fn product_shape(a: &Shape, b: &Shape) -> Result<Shape, TensorError> {
    let fail = || TensorError::Broadcast(a.dims().into(), b.dims().into());
    let (a_rank, b_rank) = (a.rank(), b.rank());
    let k = *a.last().ok_or_else(fail)?;
    if k != *b.get(b_rank.saturating_sub(2)).ok_or_else(fail)? {
        return Err(fail());
    }
    let stack = broadcast(&a[..a_rank.saturating_sub(2)], &b[..b_rank.saturating_sub(2)])?;
    let mut dims: SmallVec<[usize; MAX_RANK + 2]> = stack[..].into();
    if a_rank > 1 {
        dims.push(a[a_rank - 2]);
    }
    if b_rank > 1 {
        dims.push(b[b_rank - 1]);
    }
    Shape::new(&dims)
}

impl Stack {
    /// The stack for operands and output that lie so; an error if they do not fit each other.
    pub(crate) fn new(a: &Layout, b: &Layout, y: &Layout) -> Result<Stack, EvalError> {
        let wrong = || EvalError::Invalid("the operands of a product do not fit its output");
        if product_shape(a.shape(), b.shape())? != *y.shape() {
            return Err(wrong());
        }
        let y = with_vector_axes(y, a.shape().rank(), b.shape().rank()).ok_or_else(wrong)?;
        let (a, b) = (matrix(a, true).ok_or_else(wrong)?, matrix(b, false).ok_or_else(wrong)?);
        let rank = y.shape().rank();
        let depth = rank - 2;
        let batch: SmallVec<[usize; MAX_RANK]> = y.shape()[..depth].into();
        let side = |l: &Layout| {
            let mut batch = [0; MAX_RANK];
            let own = l.shape().rank() - 2;
            for i in 0..own.min(depth) {
                let (from, to) = (own - 1 - i, depth - 1 - i);
                batch[to] = if l.shape()[from] == 1 { 0 } else { l.strides()[from] };
            }
            Side { batch, row: l.strides()[own], col: l.strides()[own + 1] }
        };
        let packs = {
            let own = b.shape().rank() - 2;
            let stack = Layout::row_major(Shape::new(&b.shape()[..own])?);
            let mut strides = [0; MAX_RANK];
            for i in 0..own.min(depth) {
                let (from, to) = (own - 1 - i, depth - 1 - i);
                strides[to] = if b.shape()[from] == 1 { 0 } else { stack.strides()[from] };
            }
            strides
        };
        let (m, n) = (y.shape()[rank - 2], y.shape()[rank - 1]);
        let mut stack = Stack { batch, m, k: *a.shape().last().ok_or_else(wrong)?, n, a: side(&a), b: side(&b), y: side(&y), packed: packs };
        if n == 1 {
            stack.y.col = 1;
        }
        if m == 1 {
            stack.y.row = stack.y.row.max(n);
        }
        stack.merge_rows();
        Ok(stack)
    }

    /// Makes the innermost axes of the stack more rows, as far as they share the right operand and continue the rows.
    fn merge_rows(&mut self) {
        while let Some((&d, i)) = self.batch.last().zip(self.batch.len().checked_sub(1)) {
            let continues = |s: &Side| self.m == 1 || s.batch[i] == s.row * self.m;
            if d != 1 && (self.b.batch[i] != 0 || !continues(&self.a) || !continues(&self.y)) {
                return;
            }
            if d != 1 && self.m == 1 {
                self.a.row = self.a.batch[i];
                self.y.row = self.y.batch[i];
            }
            if d != 1 {
                self.m *= d;
            }
            self.batch.pop();
        }
    }

    /// How many products there are.
    fn count(&self) -> usize {
        self.batch.iter().product()
    }

    fn start(&self, strides: &[usize; MAX_RANK], mut index: usize) -> usize {
        let mut start = 0;
        for (i, &d) in self.batch.iter().enumerate().rev() {
            start += index % d.max(1) * strides[i];
            index /= d.max(1);
        }
        start
    }

    /// The output as a grid of whole products: (rows of products, products side by side, elements from row to row). `None` if
    /// they do not lie so.
    fn grid(&self) -> Option<(usize, usize, usize)> {
        let (outer, side_by_side) = match self.batch.split_last() {
            Some((&d, outer)) if d > 1 && self.y.batch[outer.len()] == self.n && self.y.row >= d * self.n && self.m > 0 => (outer, d),
            _ => (&self.batch[..], 1),
        };
        let mut step = self.m * self.y.row;
        for (i, &d) in outer.iter().enumerate().rev() {
            if d != 1 && self.y.batch[i] != step {
                return None;
            }
            step *= d;
        }
        Some((outer.iter().product(), side_by_side, self.y.row))
    }

    /// True if a grain is one matrix or several.
    fn grains_are_matrices(&self) -> bool {
        let count = self.count();
        let work = count.saturating_mul(self.m).saturating_mul(self.n).saturating_mul(self.k);
        count > 1 && (count >= MANY || work < LITTLE) && self.grid().is_some()
    }

    /// Elements from one row of a product to the next.
    pub(crate) fn row_stride(&self) -> usize {
        self.y.row
    }

    fn gemm(&self, level: Level) -> Gemm {
        Gemm::new(level, self.m, self.k, self.n)
    }

    /// The memory that a run needs; `packed` if the right operands are packed already.
    pub(crate) fn scratch(&self, level: Level, packed: bool) -> Scratch {
        let packing = if packed { 0 } else { carved::<f32>(packed_len(level, self.k, self.n)) };
        let grain = product::grain_scratch(&self.gemm(level));
        if self.grains_are_matrices() { Scratch { shared: 0, per_worker: grain + packing } } else { Scratch { shared: packing, per_worker: grain } }
    }

    /// The name of the way the stack runs.
    pub(crate) fn name(&self) -> &'static str {
        match self.count() {
            1 => "gemm",
            _ if self.grains_are_matrices() => "gemm-per-matrix",
            _ => "gemm-sequence",
        }
    }

    /// Multiply-adds, times two.
    pub(crate) fn flops(&self) -> f64 {
        2.0 * self.count() as f64 * self.m as f64 * self.n as f64 * self.k as f64
    }

    /// Runs the stack. `epilogue`'s residual lies as the output does ([`Stack::row_stride`]) where there is
    /// more than one product.
    pub(crate) fn run(&self, cx: &EvalCx<'_>, scratch: &mut [u8], a: &[f32], b: Right<'_>, y: &mut [f32], epilogue: &Epilogue<'_>) -> Result<(), EvalError> {
        if self.m == 0 || self.n == 0 || self.count() == 0 {
            return Ok(());
        }
        if self.y.col != 1 {
            return Err(EvalError::Output(0));
        }
        if self.grains_are_matrices() { self.matrices(cx, a, b, y, epilogue) } else { self.sequence(cx, scratch, a, b, y, epilogue) }
    }

    fn epilogue<'e>(&self, epilogue: &Epilogue<'e>, index: usize) -> Epilogue<'e> {
        let start = self.start(&self.y.batch, index);
        let residual = epilogue.residual.map(|r| Residual { data: r.data.get(start..).unwrap_or_default(), ..r });
        Epilogue { residual, ..*epilogue }
    }

    fn left<'a>(&self, a: &'a [f32], index: usize) -> Lhs<'a> {
        let data = a.get(self.start(&self.a.batch, index)..).unwrap_or_default();
        Lhs::Strided { data, row_stride: self.a.row, col_stride: self.a.col }
    }

    fn right<'b>(&self, b: &'b [f32], index: usize) -> Rhs<'b> {
        Rhs::strided(b.get(self.start(&self.b.batch, index)..).unwrap_or_default(), self.b.row, self.b.col)
    }

    fn sequence(&self, cx: &EvalCx<'_>, mut scratch: &mut [u8], a: &[f32], b: Right<'_>, y: &mut [f32], epilogue: &Epilogue<'_>) -> Result<(), EvalError> {
        let (gemm, level) = (self.gemm(cx.level()), cx.level());
        let len = if matches!(b, Right::Packed(_)) { 0 } else { packed_len(level, self.k, self.n) };
        let memory = carve::<f32>(&mut scratch, len).ok_or(EvalError::Invalid("a product's scratch memory is too short"))?;
        let mut in_memory = None;
        for index in 0..self.count() {
            let right: PackedRef<'_> = match b {
                Right::Packed(packed) => packed.0.get(self.start(&self.packed, index)).ok_or(EvalError::MissingInput(1))?.view(),
                Right::Plain(b) => {
                    let start = self.start(&self.b.batch, index);
                    if in_memory != Some(start) {
                        self.pack(cx, &self.right(b, index), memory)?;
                        in_memory = Some(start);
                    }
                    PackedRef::new(level, self.k, self.n, memory).map_err(product::refused)?
                }
            };
            let y = y.get_mut(self.start(&self.y.batch, index)..).unwrap_or_default();
            product::run(cx, &gemm, &self.left(a, index), right, y, self.y.row, &self.epilogue(epilogue, index))?;
        }
        Ok(())
    }

    /// Packs one right operand, its panels shared out among the workers.
    fn pack(&self, cx: &EvalCx<'_>, b: &Rhs<'_>, memory: &mut [f32]) -> Result<(), EvalError> {
        let (level, count) = (cx.level(), panels(cx.level(), self.n));
        let panel = memory.len().checked_div(count).unwrap_or(0);
        if panel == 0 {
            return Ok(());
        }
        let each = crate::grains::rows(count, panel, 1);
        let tiles = Tiles::rows(memory, panel, each).ok_or(EvalError::MissingInput(1))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            pack_panels(level, *b, self.k, self.n, grain * each, tile.as_slice()?).ok()
        })
    }

    fn matrices(&self, cx: &EvalCx<'_>, a: &[f32], b: Right<'_>, y: &mut [f32], epilogue: &Epilogue<'_>) -> Result<(), EvalError> {
        let (gemm, level) = (self.gemm(cx.level()), cx.level());
        let (outer, side, row) = self.grid().ok_or(EvalError::Output(0))?;
        let across_each = side.div_ceil(MOST_GRAINS);
        let across = side.div_ceil(across_each);
        let down_each = outer.div_ceil((MOST_GRAINS / across).max(1)).max(1);
        let tiles = Tiles::new(y, outer * self.m, side * self.n, row, down_each * self.m, across_each * self.n).ok_or(EvalError::Output(0))?;
        let len = if matches!(b, Right::Packed(_)) { 0 } else { packed_len(level, self.k, self.n) };
        cx.parallel(tiles.count(), |grain, mut scratch| {
            let work = carve::<f32>(&mut scratch, gemm.scratch_len())?;
            let memory = carve::<f32>(&mut scratch, len)?;
            let mut tile = tiles.claim(grain)?;
            let (row0, col0) = tile.origin();
            for i in 0..tile.rows() / self.m {
                for j in 0..tile.cols() / self.n {
                    let index = (row0 / self.m + i) * side + col0 / self.n + j;
                    let right = match b {
                        Right::Packed(packed) => packed.0.get(self.start(&self.packed, index))?.view(),
                        Right::Plain(b) => pack_into(level, self.right(b, index), self.k, self.n, memory).ok()?,
                    };
                    let part = tile.part(i * self.m, j * self.n, self.m, self.n)?;
                    gemm.run_in(&self.left(a, index), right, part, &self.epilogue(epilogue, index), work).ok()?;
                }
            }
            Some(())
        })
    }
}

/// The right operands.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// As their strides say.
    Plain(&'a [f32]),
    /// Packed, in row-major order of their stack.
    Packed(&'a PackedMatrices),
}

/// Right operands in the form that products read, in row-major order of their stack.
#[derive(Debug)]
pub(crate) struct PackedMatrices(Vec<PackedB>);

impl PackedMatrices {
    /// Packs the matrices of a view with this layout.
    pub(crate) fn new(level: Level, data: &[f32], layout: &Layout) -> Result<PackedMatrices, TensorError> {
        let fail = || TensorError::Length { needed: layout.span(), found: data.len() };
        let layout = matrix(layout, false).ok_or_else(fail)?;
        let (own, shape) = (layout.shape().rank() - 2, *layout.shape());
        let (k, n) = (shape[own], shape[own + 1]);
        let stack = Layout::strided(Shape::new(&shape[..own])?, &layout.strides()[..own])?;
        let pack = |start: usize| {
            let b = Rhs::strided(data.get(start..).unwrap_or_default(), layout.strides()[own], layout.strides()[own + 1]);
            PackedB::new(level, b, k, n).map_err(|e| match e {
                GemmError::OutOfMemory(bytes) => TensorError::OutOfMemory(bytes),
                _ => fail(),
            })
        };
        Ok(PackedMatrices(stack.offsets().map(pack).collect::<Result<_, _>>()?))
    }
}

impl Packed for PackedMatrices {
    fn bytes_len(&self) -> usize {
        self.0.iter().map(PackedB::bytes).sum()
    }
}
