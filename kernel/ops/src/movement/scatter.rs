//! What the Scatter family shares: a copy of the data, in which rows are then replaced by updates, or combined with them.
//! Updates are applied in order, so that duplicates have one result.

use super::typed::{Arithmetic, by_number, by_width, order};
use alloc::string::ToString;
use core::cmp::Ordering;
use millstream_graph::{BuildCx, BuildError, EvalCx, EvalError};
use millstream_tensor::{DType, Tensor, TensorView, TensorViewMut, Value};

/// How an update meets the element that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    pub(crate) fn parse(cx: &BuildCx<'_>) -> Result<Reduction, BuildError> {
        Ok(match cx.attributes.string_or("reduction", "none")? {
            "none" => Reduction::None,
            "add" => Reduction::Add,
            "mul" => Reduction::Mul,
            "max" => Reduction::Max,
            "min" => Reduction::Min,
            other => return Err(BuildError::UnsupportedAttribute { name: "reduction", value: other.to_string() }),
        })
    }

    fn apply<T: Arithmetic>(self, old: T, new: T) -> T {
        match self {
            Reduction::None => new,
            Reduction::Add => old.plus(new),
            Reduction::Mul => old.times(new),
            Reduction::Max => {
                if order(&new, &old) == Ordering::Greater {
                    new
                } else {
                    old
                }
            }
            Reduction::Min => {
                if order(&new, &old) == Ordering::Less {
                    new
                } else {
                    old
                }
            }
        }
    }
}

/// Output 0 is a copy of input 0 in which row n of input `updates`, `row` elements long, lands at element `start(n)`.
pub(crate) fn make(
    cx: &mut EvalCx<'_>,
    reduction: Reduction,
    updates: usize,
    rows: usize,
    row: usize,
    start: impl Fn(usize) -> usize,
) -> Result<(), EvalError> {
    if !cx.wants(0) {
        return Ok(());
    }
    let (data, updates) = (cx.tensor(0)?, cx.tensor(updates)?);
    if updates.dtype() != data.dtype() || updates.shape().elements() != rows * row {
        return Err(EvalError::Invalid("the updates do not fit the indices or the data"));
    }
    if data.dtype() == DType::String {
        let mut out = data.as_strings()?.to_vec();
        for n in 0..rows {
            let from = &updates.as_strings()?[n * row..(n + 1) * row];
            out.get_mut(start(n)..start(n) + row).ok_or(EvalError::Output(0))?.clone_from_slice(from);
        }
        return cx.set_value(0, Value::Tensor(Tensor::from_strings(data.shape(), out)?));
    }
    if cx.output_spec(0).is_some() {
        let to = cx.output_tensor(0)?;
        return write(reduction, data, updates, to, rows, row, start);
    }
    let mut out = Tensor::zeros(data.dtype(), data.shape())?;
    write(reduction, data, updates, out.view_mut()?, rows, row, start)?;
    cx.set_value(0, Value::Tensor(out))
}

fn write(
    reduction: Reduction,
    data: TensorView<'_>,
    updates: TensorView<'_>,
    to: TensorViewMut<'_>,
    rows: usize,
    row: usize,
    start: impl Fn(usize) -> usize,
) -> Result<(), EvalError> {
    if to.shape() != data.shape() {
        return Err(EvalError::Output(0));
    }
    if reduction == Reduction::None {
        by_width!(data.dtype(), W => {
            let (to, updates) = (to.into_words::<W>()?, updates.words::<W>()?);
            to.copy_from_slice(data.words::<W>()?);
            for n in 0..rows {
                let at = start(n);
                to.get_mut(at..at + row).ok_or(EvalError::Output(0))?.copy_from_slice(&updates[n * row..(n + 1) * row]);
            }
        });
        return Ok(());
    }
    by_number!(data.dtype(), T => {
        let (to, updates) = (to.typed::<T>()?.into_data(), updates.typed::<T>()?.data());
        to.copy_from_slice(data.typed::<T>()?.data());
        for n in 0..rows {
            let at = start(n);
            let row = to.get_mut(at..at + row).ok_or(EvalError::Output(0))?.iter_mut().zip(&updates[n * row..]);
            row.for_each(|(old, new)| *old = reduction.apply(*old, *new));
        }
    });
    Ok(())
}
