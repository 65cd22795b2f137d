//! Products of integers with zero points: `Σ (a - a_zero)(b - b_zero)` in i32 that wraps.
//!
//! Plain loops, a row of the result at a time, so that additions run along contiguous memory.

use crate::{grains, numeric::Number};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, InferCx, InferError};
use millstream_tensor::{DType, Layout, MAX_RANK, Shape, View, broadcast, tile::Tiles};

/// Zero points of a matrix: one for all, or one for each row (or column).
pub(crate) fn zero_points(cx: &EvalCx<'_>, input: usize) -> Result<Vec<i32>, EvalError> {
    if !cx.has(input) {
        return Ok(vec![0]);
    }
    match cx.dtype(input)? {
        DType::U8 => Ok(cx.input::<u8>(input)?.iter().map(i32::from).collect()),
        DType::I8 => Ok(cx.input::<i8>(input)?.iter().map(i32::from).collect()),
        other => Err(EvalError::DType(other)),
    }
}

/// Element `i`, or the only one.
pub(crate) fn pick<T: Copy>(values: &[T], i: usize) -> T {
    values[if values.len() == 1 { 0 } else { i }]
}

/// An error unless there is one value, or `n`.
pub(crate) fn check_count<T>(values: &[T], n: usize) -> Result<(), EvalError> {
    if values.len() == 1 || values.len() == n { Ok(()) } else { Err(EvalError::Invalid("scales or zero points do not fit the matrix")) }
}

/// The dims of a product of stacks of matrices.
pub(crate) fn infer_dims(cx: &InferCx<'_>, a: usize, b: usize) -> Result<Vec<Dim>, InferError> {
    let (left, right) = (cx.input(a)?, cx.input(b)?);
    for (input, fact) in [(a, left), (b, right)] {
        if !matches!(fact.dtype, DType::U8 | DType::I8) {
            return Err(InferError::DType { input, found: fact.dtype });
        }
        if fact.rank() == 0 {
            return Err(InferError::Rank { input, found: 0, wanted: "1 or more" });
        }
    }
    let (x, y) = (&left.dims, &right.dims);
    let inner = if y.len() == 1 { &y[0] } else { &y[y.len() - 2] };
    let k = &x[x.len() - 1];
    if let (Some(p), Some(q)) = (k.as_const(), inner.as_const())
        && p != q
    {
        return Err(InferError::Mismatch { what: "inner dims", left: alloc::format!("{p}"), right: alloc::format!("{q}") });
    }
    let mut dims = cx.broadcast(&x[..x.len().saturating_sub(2)], &y[..y.len().saturating_sub(2)])?;
    if x.len() > 1 {
        dims.push(x[x.len() - 2].clone());
    }
    if y.len() > 1 {
        dims.push(y[y.len() - 1].clone());
    }
    Ok(dims)
}

/// The operands of a product of stacks of matrices, with their zero points.
pub(crate) struct Product<'a, A, B> {
    pub(crate) a: View<'a, A>,
    pub(crate) b: View<'a, B>,
    /// One, or one for each row of A.
    pub(crate) a_zero: Vec<i32>,
    /// One, or one for each column of B.
    pub(crate) b_zero: Vec<i32>,
}

impl<A: Number, B: Number> Product<'_, A, B> {
    /// Calls `finish(row of the matrix, sums, output row)` for each row of the result.
    pub(crate) fn run<U: Number>(&self, cx: &EvalCx<'_>, y: &mut [U], finish: &(dyn Fn(usize, &[i32], &mut [U]) + Sync)) -> Result<(), EvalError> {
        // A vector on the left is a row, on the right a column.
        let (ra, rb) = (self.a.shape().rank(), self.b.shape().rank());
        let (k, m) = (self.a.shape()[ra - 1], if ra > 1 { self.a.shape()[ra - 2] } else { 1 });
        let (n, deep) = if rb > 1 { (self.b.shape()[rb - 1], self.b.shape()[rb - 2]) } else { (1, self.b.shape()[0]) };
        if deep != k {
            return Err(EvalError::Invalid("inner dims differ"));
        }
        check_count(&self.a_zero, m)?;
        check_count(&self.b_zero, n)?;
        let stacks = broadcast(&self.a.shape()[..ra.saturating_sub(2)], &self.b.shape()[..rb.saturating_sub(2)])?;
        let (a_starts, b_starts) = (starts(self.a.layout(), ra, stacks)?, starts(self.b.layout(), rb, stacks)?);
        let (a, b) = (self.a.data(), self.b.data());
        let a_step = (if ra > 1 { self.a.layout().strides()[ra - 2] } else { 0 }, self.a.layout().strides()[ra - 1]);
        let b_step = if rb > 1 { (self.b.layout().strides()[rb - 2], self.b.layout().strides()[rb - 1]) } else { (self.b.layout().strides()[0], 0) };
        let rows = grains::rows(y.len().checked_div(n).unwrap_or(0), n, k.max(1));
        let tiles = Tiles::rows(y, n, rows).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            let mut sums = vec![0i32; n];
            for (i, y) in tile.as_slice()?.chunks_exact_mut(n).enumerate() {
                let row = grain * rows + i;
                let (stack, i) = (row / m, row % m);
                let (a0, b0) = (a_starts[stack] + i * a_step.0, b_starts[stack]);
                sums.fill(0);
                for p in 0..k {
                    let v = a[a0 + p * a_step.1].to_i128() as i32 - pick(&self.a_zero, i);
                    if v == 0 {
                        continue;
                    }
                    let at = b0 + p * b_step.0;
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.wrapping_add(v * (b[at + j * b_step.1].to_i128() as i32 - pick(&self.b_zero, j)));
                    }
                }
                finish(i, &sums, y);
            }
            Some(())
        })
    }
}

/// Where each matrix of a stack begins.
fn starts(layout: &Layout, rank: usize, stacks: Shape) -> Result<Vec<usize>, EvalError> {
    let outer = rank.saturating_sub(2);
    let mut strides = [0; MAX_RANK];
    strides[..outer].copy_from_slice(&layout.strides()[..outer]);
    let lead = Layout::strided(Shape::new(&layout.shape()[..outer])?, &strides[..outer])?;
    Ok(lead.broadcast_to(stacks)?.offsets().collect())
}
