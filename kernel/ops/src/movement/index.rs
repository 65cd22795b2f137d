//! Indices as elements: i32 or i64, negative ones counted from the end, checked once before any element moves.

use alloc::vec::Vec;
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::{DType, TensorError};

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

/// An integer input whose elements are indices of one axis, read as it lies.
pub(crate) enum Indices<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl<'a> Indices<'a> {
    /// Integer input `i`, each element an index of an axis of `dim` elements; an error if one lies outside.
    pub(crate) fn new(cx: &EvalCx<'a>, i: usize, dim: usize) -> Result<Indices<'a>, EvalError> {
        let indices = match cx.dtype(i)? {
            DType::I32 => Indices::I32(cx.input::<i32>(i)?.as_slice().ok_or(TensorError::Strided)?),
            DType::I64 => Indices::I64(cx.input::<i64>(i)?.as_slice().ok_or(TensorError::Strided)?),
            other => return Err(EvalError::DType(other)),
        };
        match indices {
            Indices::I32(all) => all.iter().try_for_each(|&x| within(x.into(), dim).map(drop))?,
            Indices::I64(all) => all.iter().try_for_each(|&x| within(x, dim).map(drop))?,
        }
        Ok(indices)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Indices::I32(all) => all.len(),
            Indices::I64(all) => all.len(),
        }
    }

    /// One of them, counted from the front of its axis of `dim` elements.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize, dim: usize) -> usize {
        let index = match self {
            Indices::I32(all) => i64::from(all[i]),
            Indices::I64(all) => all[i],
        };
        // Checked to be within the axis.
        (if index < 0 { index + dim as i64 } else { index }) as usize
    }
}

/// The elements of integer input `i`, each as an index of an axis of `dim` elements.
pub(crate) fn indices(cx: &EvalCx<'_>, i: usize, dim: usize) -> Result<Vec<usize>, EvalError> {
    integers(cx, i)?.into_iter().map(|x| within(x, dim)).collect()
}
