//! What a run is given: values that it may keep, or views of memory that somebody else owns.

use crate::RunError;
use alloc::{format, vec::Vec};
use millstream_tensor::{Tensor, TensorError, TensorView, TensorViewMut, Value};

/// The inputs of a run, in the signature's order.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// Values.
    Values(&'a [Value]),
    /// Dense row-major tensors that lie in the caller's memory.
    Views(&'a [TensorView<'a>]),
}

impl<'a> Given<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Given::Values(v) => v.len(),
            Given::Views(v) => v.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Input `i` as a tensor.
    ///
    /// # Errors
    /// If it is no tensor, or there are not so many.
    pub fn tensor(&self, i: usize) -> Result<TensorView<'a>, TensorError> {
        match self {
            Given::Values(v) => Ok(v.get(i).ok_or(missing(i, v.len()))?.as_tensor()?.view()),
            Given::Views(v) => v.get(i).copied().ok_or(missing(i, v.len())),
        }
    }

    /// Input `i` as a value.
    ///
    /// # Errors
    /// If it is a view, or there are not so many.
    pub fn value(&self, i: usize) -> Result<&'a Value, TensorError> {
        match self {
            Given::Values(v) => v.get(i).ok_or(missing(i, v.len())),
            Given::Views(_) => Err(TensorError::Kind { wanted: "a value", found: "a view" }),
        }
    }

    /// Input `i` as a value of its own: shared if it is one, else copied.
    ///
    /// # Errors
    /// If there are not so many, or there is no memory.
    pub fn to_value(&self, i: usize) -> Result<Value, TensorError> {
        match self {
            Given::Values(_) => self.value(i).cloned(),
            Given::Views(_) => Ok(Value::Tensor(Tensor::from_view(self.tensor(i)?)?)),
        }
    }

    /// All inputs as values.
    ///
    /// # Errors
    /// As [`Given::to_value`].
    pub fn to_values(&self) -> Result<Vec<Value>, TensorError> {
        (0..self.len()).map(|i| self.to_value(i)).collect()
    }
}

fn missing(needed: usize, found: usize) -> TensorError {
    TensorError::Length { needed: needed + 1, found }
}

/// Gives output `index` to the caller: as it is, or written into the caller's buffer, if there is one.
///
/// # Errors
/// The buffer is of another type or shape.
pub fn hand_over(index: usize, value: Value, buffer: Option<&mut TensorViewMut<'_>>) -> Result<Option<Value>, RunError> {
    let Some(buffer) = buffer else { return Ok(Some(value)) };
    let t = value.as_tensor()?;
    if buffer.dtype() != t.dtype() || buffer.shape() != t.shape() || !buffer.layout().is_row_major() {
        let text = |dtype, shape| format!("{dtype}[{shape}]");
        return Err(RunError::OutputBuffer { index, wanted: text(t.dtype(), t.shape()), found: text(buffer.dtype(), buffer.shape()) });
    }
    buffer.bytes_mut()?.copy_from_slice(t.view().bytes()?);
    Ok(None)
}
