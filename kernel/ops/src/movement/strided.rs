//! Strided copies: a dense output whose element at (i, j, …) is the source's at `start + i·s₀ + j·s₁ + …`.
//!
//! Transpose, Slice, Expand, Tile, DepthToSpace and more are such copies and differ only in their strides. Axes are given in
//! the output's memory order and merged where they can be, so that what remains is one of: one run of memory, rows of
//! contiguous elements, rows of one repeated element, blocks to transpose (squares in registers), or single elements.

use crate::grains;
use alloc::{string::String, vec::Vec};
use millstream_graph::{EvalCx, EvalError};
use millstream_simd::{Level, dispatch, slice};
use millstream_tensor::{DType, Layout, MAX_RANK, Order, Tensor, TensorView, TensorViewMut, Word, tile::Tiles};

/// The most axes of a copy: two for each axis of a tensor (Tile needs them).
const MAX_AXES: usize = 2 * MAX_RANK;

/// A block of this many source-contiguous elements is transposed at a time: what the first cache holds.
const BLOCK: usize = 64;

/// Where each element of a dense output comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    dims: [usize; MAX_AXES],
    strides: [isize; MAX_AXES],
    rank: usize,
    start: isize,
    empty: bool,
}

impl Walk {
    /// A walk of one element, the source's element `start`.
    pub(crate) fn new(start: isize) -> Walk {
        Walk { dims: [1; MAX_AXES], strides: [0; MAX_AXES], rank: 0, start, empty: false }
    }

    /// Adds an axis inside of those that are there. At most two for each axis of a tensor.
    pub(crate) fn push(&mut self, dim: usize, stride: isize) {
        self.empty |= dim == 0;
        if dim == 1 || self.empty {
            return;
        }
        if self.rank > 0 && self.strides[self.rank - 1] == stride * dim as isize {
            self.dims[self.rank - 1] *= dim;
            self.strides[self.rank - 1] = stride;
            return;
        }
        self.dims[self.rank] = dim;
        self.strides[self.rank] = stride;
        self.rank += 1;
    }

    /// The walk of an output of these logical dims, in memory order `order`, where a step along axis i moves `strides[i]`
    /// elements in the source.
    pub(crate) fn over(dims: &[usize], strides: &[isize], start: isize, order: &Order) -> Walk {
        let mut walk = Walk::new(start);
        for axis in order.axes() {
            walk.push(dims[axis], strides[axis]);
        }
        walk
    }

    fn elements(&self) -> usize {
        if self.empty { 0 } else { self.dims[..self.rank].iter().product() }
    }

    /// The source's offset of output element `n`.
    fn cursor(&self, n: usize, rank: usize) -> Cursor<'_> {
        let mut cursor = Cursor { walk: self, rank, index: [0; MAX_AXES], offset: self.start };
        let mut rest = n;
        for axis in (0..rank).rev() {
            let i = rest % self.dims[axis];
            rest /= self.dims[axis];
            cursor.index[axis] = i;
            cursor.offset += i as isize * self.strides[axis];
        }
        cursor
    }
}

/// A position on the first `rank` axes of a walk.
struct Cursor<'w> {
    walk: &'w Walk,
    rank: usize,
    index: [usize; MAX_AXES],
    offset: isize,
}

impl Cursor<'_> {
    fn step(&mut self) {
        for axis in (0..self.rank).rev() {
            self.index[axis] += 1;
            self.offset += self.walk.strides[axis];
            if self.index[axis] < self.walk.dims[axis] {
                return;
            }
            self.offset -= self.walk.strides[axis] * self.walk.dims[axis] as isize;
            self.index[axis] = 0;
        }
    }
}

/// The strides of a layout, signed.
pub(crate) fn signed(layout: &Layout) -> [isize; MAX_RANK] {
    let mut out = [0; MAX_RANK];
    for (to, &from) in out.iter_mut().zip(layout.strides()) {
        *to = from as isize;
    }
    out
}

/// Makes output `output`, of logical dims `dims`, from input `input` by the walk that `plan` gives for the input's layout and
/// the output's memory order. Strings, and outputs of the run's own size, become values.
pub(crate) fn make(cx: &mut EvalCx<'_>, input: usize, output: usize, dims: &[usize], plan: impl FnOnce(&Layout, &Order) -> Walk) -> Result<(), EvalError> {
    if !cx.wants(output) {
        return Ok(());
    }
    let from = cx.tensor(input)?;
    if cx.output_spec(output).is_some() {
        let to = cx.output_tensor(output)?;
        let order = to.layout().order().filter(|_| to.shape().dims() == dims).ok_or(EvalError::Output(output))?;
        return copy(cx, &plan(from.layout(), &order), from, to);
    }
    let walk = plan(from.layout(), &Order::row_major(dims.len()));
    let tensor = if from.dtype() == DType::String {
        Tensor::from_strings(dims, pick_strings(&walk, from.as_strings()?)?)?
    } else {
        let mut tensor = Tensor::zeros(from.dtype(), dims)?;
        copy(cx, &walk, from, tensor.view_mut()?)?;
        tensor
    };
    cx.set_value(output, tensor.into())
}

/// The strings of a walk, in the output's order.
fn pick_strings(walk: &Walk, from: &[String]) -> Result<Vec<String>, EvalError> {
    let mut cursor = walk.cursor(0, walk.rank);
    (0..walk.elements())
        .map(|_| {
            let s = usize::try_from(cursor.offset).ok().and_then(|o| from.get(o)).cloned();
            cursor.step();
            s.ok_or(EvalError::Invalid("an element lies outside of its tensor"))
        })
        .collect()
}

/// Copies a walk over `from` to the dense memory of `to`.
pub(crate) fn copy(cx: &EvalCx<'_>, walk: &Walk, from: TensorView<'_>, to: TensorViewMut<'_>) -> Result<(), EvalError> {
    match from.dtype().size() {
        1 => copy_words::<u8>(cx, walk, from.words()?, to.into_words()?),
        2 => copy_words::<u16>(cx, walk, from.words()?, to.into_words()?),
        4 => copy_words::<u32>(cx, walk, from.words()?, to.into_words()?),
        8 => copy_words::<u64>(cx, walk, from.words()?, to.into_words()?),
        _ => Err(EvalError::DType(from.dtype())),
    }
}

/// Copies a walk over `from` to the first elements of `to`.
pub(crate) fn copy_words<W: Word>(cx: &EvalCx<'_>, walk: &Walk, from: &[W], to: &mut [W]) -> Result<(), EvalError> {
    let n = walk.elements();
    if n == 0 {
        return Ok(());
    }
    let to = to.get_mut(..n).ok_or(EvalError::Invalid("an output is smaller than its elements"))?;
    match walk.rank {
        0 | 1 => copy_line(cx, walk, from, to),
        r => match (0..r - 1).rev().find(|&a| walk.strides[a] == 1) {
            Some(unit) if walk.strides[r - 1] != 1 => copy_transposed(cx, walk, unit, from, to),
            _ => copy_rows(cx, walk, from, to),
        },
    }
}

fn copy_line<W: Word>(cx: &EvalCx<'_>, walk: &Walk, from: &[W], to: &mut [W]) -> Result<(), EvalError> {
    let chunk = grains::chunk(to.len(), 1);
    let stride = if walk.rank == 0 { 1 } else { walk.strides[0] };
    let tiles = Tiles::chunks(to, chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        copy_row(from, walk.start + (grain * chunk) as isize * stride, stride, tile.as_slice()?)
    })
}

fn copy_rows<W: Word>(cx: &EvalCx<'_>, walk: &Walk, from: &[W], to: &mut [W]) -> Result<(), EvalError> {
    let outer = walk.rank - 1;
    let (row, stride) = (walk.dims[outer], walk.strides[outer]);
    let per_grain = grains::rows(to.len() / row, row, 1);
    let tiles = Tiles::rows(to, row, per_grain).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let mut cursor = walk.cursor(grain * per_grain, outer);
        for to in tile.as_slice()?.chunks_exact_mut(row) {
            copy_row(from, cursor.offset, stride, to)?;
            cursor.step();
        }
        Some(())
    })
}

#[inline]
fn copy_row<W: Word>(from: &[W], start: isize, stride: isize, to: &mut [W]) -> Option<()> {
    let first = usize::try_from(start).ok()?;
    match stride {
        1 => to.copy_from_slice(from.get(first..first + to.len())?),
        0 => to.fill(*from.get(first)?),
        s if s > 0 => {
            let from = from.get(first..).filter(|f| f.len() > (to.len() - 1) * s as usize)?;
            to.iter_mut().zip(from.iter().step_by(s as usize)).for_each(|(t, f)| *t = *f);
        }
        s => {
            let back = s.unsigned_abs();
            let from = from.get(first.checked_sub((to.len() - 1) * back)?..=first)?;
            to.iter_mut().zip(from.iter().rev().step_by(back)).for_each(|(t, f)| *t = *f);
        }
    }
    Some(())
}

/// `unit` is an outer axis along which the source is contiguous.
fn copy_transposed<W: Word>(cx: &EvalCx<'_>, walk: &Walk, unit: usize, from: &[W], to: &mut [W]) -> Result<(), EvalError> {
    let (rank, last) = (walk.rank, walk.rank - 1);
    let block: usize = walk.dims[unit + 1..rank].iter().product();
    let (units, columns, stride) = (walk.dims[unit], walk.dims[last], walk.strides[last]);
    let rows = to.len() / block;
    let per_grain = grains::rows(rows, block, 1).next_multiple_of(16);
    let mut inner = Walk::new(0);
    for axis in unit + 1..last {
        inner.push(walk.dims[axis], walk.strides[axis]);
    }
    let level = cx.level();
    let tiles = Tiles::rows(to, block, per_grain).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let to = tile.as_slice()?;
        let (first, end) = (grain * per_grain, grain * per_grain + to.len() / block);
        let mut row = first;
        while row < end {
            let (prefix, k) = (row / units, row % units);
            let count = (units - k).min(end - row);
            let start = walk.cursor(prefix, unit).offset + k as isize;
            let mut cursor = inner.cursor(0, inner.rank);
            for part in 0..inner.elements() {
                let to = to.get_mut((row - first) * block + part * columns..)?;
                transpose(level, from, start + cursor.offset, stride, to, block, count, columns)?;
                cursor.step();
            }
            row += count;
        }
        Some(())
    })
}

/// `to[i·to_stride + j] = from[start + i + j·stride]` for i < rows, j < columns.
fn transpose<W: Word>(level: Level, from: &[W], start: isize, stride: isize, to: &mut [W], to_stride: usize, rows: usize, columns: usize) -> Option<()> {
    if let (Ok(start), Ok(from_stride @ 1..), Some(from), Some(to)) = (usize::try_from(start), usize::try_from(stride), as_floats(from), as_floats_mut(to))
        && (1..=from_stride).contains(&rows)
        && (1..=to_stride).contains(&columns)
    {
        let (from, reach) = (from.get(start..)?, |rows: usize, stride: usize, last: usize| (rows - 1) * stride + last);
        let (from, to) = (from.get(..reach(columns, from_stride, rows))?, to.get_mut(..reach(rows, to_stride, columns))?);
        dispatch!(level, s => slice::transpose(s, from, from_stride, to, to_stride, rows, columns));
        return Some(());
    }
    dispatch!(level, s => {
        let _ = s;
        transpose_blocks(from, start, stride, to, to_stride, rows, columns)
    })
}

/// Words of four bytes as the f32 that vectors move.
fn as_floats<W: Word>(words: &[W]) -> Option<&[f32]> {
    if size_of::<W>() == size_of::<f32>() { bytemuck::try_cast_slice(words).ok() } else { None }
}

fn as_floats_mut<W: Word>(words: &mut [W]) -> Option<&mut [f32]> {
    if size_of::<W>() == size_of::<f32>() { bytemuck::try_cast_slice_mut(words).ok() } else { None }
}

#[inline(always)]
fn transpose_blocks<W: Word>(from: &[W], start: isize, stride: isize, to: &mut [W], to_stride: usize, rows: usize, columns: usize) -> Option<()> {
    let at = |i: usize, j: usize| usize::try_from(start + i as isize + j as isize * stride).ok();
    for i0 in (0..rows).step_by(BLOCK) {
        let i1 = (i0 + BLOCK).min(rows);
        for j0 in (0..columns).step_by(8) {
            let width = (columns - j0).min(8);
            let mut i = i0;
            if width == 8 {
                while i + 8 <= i1 {
                    let mut square = [[W::default(); 8]; 8];
                    for (j, line) in square.iter_mut().enumerate() {
                        *line = *from.get(at(i, j0 + j)?..)?.first_chunk()?;
                    }
                    for k in 0..8 {
                        let to: &mut [W; 8] = to.get_mut((i + k) * to_stride + j0..)?.first_chunk_mut()?;
                        for (to, line) in to.iter_mut().zip(&square) {
                            *to = line[k];
                        }
                    }
                    i += 8;
                }
            }
            for i in i..i1 {
                let to = to.get_mut(i * to_stride + j0..)?.get_mut(..width)?;
                for (j, to) in to.iter_mut().enumerate() {
                    *to = *from.get(at(i, j0 + j)?)?;
                }
            }
        }
    }
    Some(())
}
