//! Scales and zero points as tensors stretched along the data: one for all, one for each index of an axis, or one for each
//! block of an axis.

use crate::elementwise::walk::Operand;
use alloc::{format, vec, vec::Vec};
use millstream_graph::{BuildCx, BuildError, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_tensor::{DType, Element, Layout, MAX_RANK, Order, Shape, View};

/// Which data shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granularity {
    /// The axis of the scales, where there are several.
    pub axis: i64,
    /// How many indices of the axis share one; 0 if each has its own.
    pub block: usize,
}

impl Granularity {
    /// Reads `axis` and `block_size`.
    pub(crate) fn build(cx: &BuildCx<'_>) -> Result<Granularity, BuildError> {
        let block = cx.attributes.int_or("block_size", 0)?;
        let block = usize::try_from(block).map_err(|_| BuildError::UnsupportedAttribute { name: "block_size", value: format!("{block}") })?;
        Ok(Granularity { axis: cx.attributes.int_or("axis", 1)?, block })
    }

    /// The data's layout with the axis of blocks split in two, and the scale's layout stretched over it.
    pub(crate) fn stretch(&self, data: &Layout, scale: &Layout) -> Result<(Layout, Layout), EvalError> {
        let (shape, rank) = (*data.shape(), data.shape().rank());
        let mut strides = [0; MAX_RANK];
        if scale.shape().elements() == 1 {
            return Ok((*data, Layout::strided(shape, &strides[..rank])?));
        }
        let axis = InferCx::axis(self.axis, rank)?;
        if self.block == 0 {
            if scale.shape().rank() != 1 || scale.shape()[0] != shape[axis] {
                return Err(EvalError::Invalid("there is not one scale for each index of the axis"));
            }
            strides[axis] = scale.strides()[0];
            return Ok((*data, Layout::strided(shape, &strides[..rank])?));
        }
        let fits = scale.shape().rank() == rank
            && shape[axis].is_multiple_of(self.block)
            && (0..rank).all(|i| scale.shape()[i] == if i == axis { shape[i] / self.block } else { shape[i] });
        if !fits {
            return Err(EvalError::Invalid("there is not one scale for each whole block of the axis"));
        }
        let split = |values: &[usize], outer: usize, inner: usize| -> Vec<usize> {
            let (before, after) = (&values[..axis], &values[axis + 1..]);
            before.iter().copied().chain([outer, inner]).chain(after.iter().copied()).collect()
        };
        let dims = Shape::new(&split(shape.dims(), shape[axis] / self.block, self.block))?;
        let step = data.strides()[axis];
        Ok((Layout::strided(dims, &split(data.strides(), step * self.block, step))?, Layout::strided(dims, &split(scale.strides(), scale.strides()[axis], 0))?))
    }
}

/// The scale (or zero point) of all data as a view of one element.
pub(crate) fn repeated<'a, T: Element>(value: &'a [T], like: &Layout) -> Result<View<'a, T>, EvalError> {
    Ok(View::new(Layout::strided(*like.shape(), &[0; MAX_RANK][..like.shape().rank()])?, value)?)
}

/// Element `i` of an operand that is not in place.
#[inline(always)]
pub(crate) fn at<T: Element>(o: Operand<'_, T>, i: usize) -> T {
    match o {
        Operand::Run(x) => x[i],
        Operand::Splat(x) => x,
        Operand::Same => T::default(),
    }
}

/// An error unless the scale and the zero point (inputs 1 and 2) have types that fit.
pub(crate) fn check(cx: &InferCx<'_>, zero_point: DType) -> Result<(), InferError> {
    let scale = cx.input(1)?;
    if !scale.dtype.is_float() || scale.dtype == DType::F64 {
        return Err(InferError::DType { input: 1, found: scale.dtype });
    }
    match cx.optional(2) {
        Some(f) if f.dtype != zero_point => Err(InferError::DType { input: 2, found: f.dtype }),
        _ => Ok(()),
    }
}

/// The data in any order, scales and zero points row-major.
pub(crate) fn permute(cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let order = (*inputs.first()?)?;
    let row_major = |i: usize| cx.input_shape(i).map(|s| Order::row_major(s.rank()));
    let wanted = inputs.iter().enumerate().map(|(i, o)| o.and_then(|o| if i == 0 { Some(o) } else { row_major(i) }));
    Some(Permutation { inputs: wanted.collect(), outputs: vec![order] })
}

/// The integer types that quantisation makes.
pub(crate) fn is_quantised(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8 | DType::U16 | DType::I16)
}

/// The bounds of an integer type.
pub(crate) fn bounds(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        _ => (0.0, 255.0),
    }
}

/// A fact with the data's dims.
pub(crate) fn like(cx: &InferCx<'_>, dtype: DType) -> Result<Vec<Fact>, InferError> {
    Ok([Fact::new(dtype, cx.input(0)?.dims.clone())].into())
}
