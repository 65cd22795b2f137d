//! Rows picked from a source in any order: what the Gather family shares.

use crate::grains;
use alloc::vec::Vec;
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::{DType, Tensor, TensorView, TensorViewMut, Value, Word, tile::Tiles};

/// Makes output 0, of logical dims `dims`, of `rows` rows of `row` consecutive elements of input `input` (row-major): output
/// row r begins at the source's element `start(r)`. Strings, and outputs of the run's own size, become values.
pub(crate) fn make(cx: &mut EvalCx<'_>, input: usize, dims: &[usize], rows: usize, row: usize, start: impl Fn(usize) -> usize + Sync) -> Result<(), EvalError> {
    if !cx.wants(0) {
        return Ok(());
    }
    let from = cx.tensor(input)?;
    if from.dtype() == DType::String {
        let source = from.as_strings()?;
        let mut out = Vec::new();
        for r in 0..rows {
            out.extend_from_slice(source.get(start(r)..start(r) + row).ok_or(EvalError::Invalid("an element lies outside of its tensor"))?);
        }
        return cx.set_value(0, Value::Tensor(Tensor::from_strings(dims, out)?));
    }
    if cx.output_spec(0).is_some() {
        let to = cx.output_tensor(0)?;
        if to.shape().dims() != dims || !to.layout().is_row_major() {
            return Err(EvalError::Output(0));
        }
        return copy(cx, from, to, rows, row, start);
    }
    let mut out = Tensor::zeros(from.dtype(), dims)?;
    copy(cx, from, out.view_mut()?, rows, row, start)?;
    cx.set_value(0, Value::Tensor(out))
}

fn copy(cx: &EvalCx<'_>, from: TensorView<'_>, to: TensorViewMut<'_>, rows: usize, row: usize, start: impl Fn(usize) -> usize + Sync) -> Result<(), EvalError> {
    match from.dtype().size() {
        1 => copy_words::<u8>(cx, from.words()?, to.into_words()?, rows, row, start),
        2 => copy_words::<u16>(cx, from.words()?, to.into_words()?, rows, row, start),
        4 => copy_words::<u32>(cx, from.words()?, to.into_words()?, rows, row, start),
        _ => copy_words::<u64>(cx, from.words()?, to.into_words()?, rows, row, start),
    }
}

fn copy_words<W: Word>(cx: &EvalCx<'_>, from: &[W], to: &mut [W], rows: usize, row: usize, start: impl Fn(usize) -> usize + Sync) -> Result<(), EvalError> {
    if rows == 0 || row == 0 {
        return Ok(());
    }
    let per_grain = grains::rows(rows, row, 1);
    let tiles = Tiles::rows(to, row, per_grain).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        for (i, to) in tile.as_slice()?.chunks_exact_mut(row).enumerate() {
            let at = start(grain * per_grain + i);
            match to {
                [to] => *to = *from.get(at)?,
                to => to.copy_from_slice(from.get(at..at + to.len())?),
            }
        }
        Some(())
    })
}
