//! Products as loops, for element types without a packed product. Operands may be strided.

use super::{batched::product_shape, number::Number};
use crate::grains;
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::{Layout, Shape, View, tile::Tiles};

/// `y = a · b` into row-major memory.
pub(crate) fn run<T: Number>(cx: &EvalCx<'_>, a: View<'_, T>, b: View<'_, T>, y: &mut [T]) -> Result<(), EvalError> {
    let shape = product_shape(a.shape(), b.shape())?;
    if shape.elements() != y.len() {
        return Err(EvalError::Output(0));
    }
    let (a_rank, b_rank) = (a.shape().rank(), b.shape().rank());
    let k = a.shape()[a_rank - 1];
    let (a_step, b_step) = (a.layout().strides()[a_rank - 1], b.layout().strides()[b_rank.saturating_sub(2)]);
    // Both operands stretched over the output's axes, the summed one left out.
    let mut a_axes = a.layout().without(a_rank - 1);
    if b_rank > 1 {
        a_axes = with_axis(&a_axes, a_axes.shape().rank())?;
    }
    let mut b_axes = b.layout().without(b_rank.saturating_sub(2));
    if a_rank > 1 && b_rank > 1 {
        b_axes = with_axis(&b_axes, b_axes.shape().rank() - 1)?;
    }
    let (a_axes, b_axes) = (a_axes.broadcast_to(shape)?, b_axes.broadcast_to(shape)?);
    let (a, b) = (a.data(), b.data());
    let chunk = grains::chunk(y.len(), k);
    let tiles = Tiles::chunks(y, chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        for (i, y) in tile.as_slice()?.iter_mut().enumerate() {
            let (a0, b0) = offsets(&shape, &a_axes, &b_axes, grain * chunk + i);
            let mut sum = T::Sum::default();
            for j in 0..k {
                sum = T::mul_add(a[a0 + j * a_step].wide(), b[b0 + j * b_step].wide(), sum);
            }
            *y = T::narrow(sum);
        }
        Some(())
    })
}

/// The layout with an axis of extent 1 before axis `at`.
fn with_axis(layout: &Layout, at: usize) -> Result<Layout, EvalError> {
    let (mut dims, mut strides) = (layout.shape().to_vec(), layout.strides().to_vec());
    dims.insert(at, 1);
    strides.insert(at, 0);
    Ok(Layout::strided(Shape::new(&dims)?, &strides)?)
}

fn offsets(shape: &Shape, a: &Layout, b: &Layout, mut index: usize) -> (usize, usize) {
    let (mut at, mut bt) = (0, 0);
    for axis in (0..shape.rank()).rev() {
        let i = index % shape[axis];
        index /= shape[axis];
        at += i * a.strides()[axis];
        bt += i * b.strides()[axis];
    }
    (at, bt)
}
