//! Indices as elements: i32 or i64, negative ones counted from the end, checked once before any element moves.

use alloc::vec::Vec;
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::DType;

/// The elements of integer input `i`, in row-major order.
pub(crate) fn integers(cx: &EvalCx<'_>, i: usize) -> Result<Vec<i64>, EvalError> {
    match cx.dtype(i)? {
        DType::I32 => Ok(cx.input::<i32>(i)?.iter().map(i64::from).collect()),
        DType::I64 => Ok(cx.input::<i64>(i)?.to_vec()),
        other => Err(EvalError::DType(other)),
    }
}

/// `index` counted from the front of an axis of `dim` elements; an error if it lies outside.
pub(crate) fn within(index: i64, dim: usize) -> Result<usize, EvalError> {
    let at = if index < 0 { index.saturating_add(dim as i64) } else { index };
    usize::try_from(at).ok().filter(|&a| a < dim).ok_or(EvalError::Element { what: "an index is out of range", value: index })
}

/// The elements of integer input `i`, each as an index of an axis of `dim` elements.
pub(crate) fn indices(cx: &EvalCx<'_>, i: usize, dim: usize) -> Result<Vec<usize>, EvalError> {
    integers(cx, i)?.into_iter().map(|x| within(x, dim)).collect()
}
